"""torch's scaled_dot_product_attention: softmax of a scaled dot product plus a bias, with a mask.

It gives zeros for a query that sees no key, with zero gradients (torch 2.5 and later).
"""

from __future__ import annotations

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.size import Size, product
from towerdsl.kernels.base import FUSED, PASSES, Facts, Kernel, Speed, all_pairs
from towerdsl.lowered import build


class Sdpa(Kernel):
    name = "sdpa"
    how = "torch's scaled_dot_product_attention"
    speed = FUSED

    def speed_of(self, average: Average, facts: Facts) -> Speed:
        """Keys and values of different sizes are none of torch's fast cases."""
        assert not isinstance(facts.score, str)
        same = facts.score.left.axes[-1].size == average.message.axes[-1].size
        return FUSED if same else PASSES

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

    def pairs(self, average: Average, facts: Facts) -> Size:
        return all_pairs(average)

    def peak(self, average: Average, facts: Facts) -> Size:
        """Blocks of the scores are made and dropped; a mask or bias is held whole."""
        assert not isinstance(facts.score, str)
        masks = [t.value for t in facts.score.biases]
        if average.visible is not None and not facts.locality.causal(average):
            masks.append(average.visible)
        axes = {a for v in masks for a in v.axes}
        return product(tuple(a.size for a in axes)) if masks else Size.of(0)
