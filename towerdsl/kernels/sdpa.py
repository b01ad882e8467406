"""torch's scaled_dot_product_attention: softmax of a scaled dot product plus a bias, with a mask.

It gives zeros for a query that sees no key, with zero gradients (torch 2.5 and later).
"""

from __future__ import annotations

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.kernels.base import FUSED, PASSES, Facts, Kernel, Speed
from towerdsl.lowered import build
from towerdsl.lowered import nodes as low


class Sdpa(Kernel):
    name = "sdpa"
    how = "torch's scaled_dot_product_attention"
    speed = FUSED

    def speed_of(self, average: Average, facts: Facts) -> Speed:
        body = facts.lowered(self, average).body
        assert isinstance(body, low.Fused)
        return FUSED if body.fast else PASSES

    def refuse(self, average: Average, facts: Facts) -> str | None:
        if average.normalize != "softmax":
            return f"it computes softmax, the normalizer is {average.normalize}"
        if not (isinstance(average.message, n.Local) and average.message.name == "v"):
            return "it averages the value as it is, the message is another"
        if isinstance(facts.score, str):
            return facts.score
        if facts.score.factor == 0:  # NaN on a CPU, where it is causal besides
            return "the dot product is multiplied by 0"
        if facts.locality.never:
            return "no key is visible"
        return None

    def lower(self, average: Average, facts: Facts) -> n.Value:
        assert not isinstance(facts.score, str)
        return build.fused(average, facts.score)
