"""Without softmax the products can be taken in the other order: (q kᵀ) v = q (kᵀ v), which is linear in the lengths.

The score is a sum of products of something of i and something of j (`separate`), and what is visible is said of i alone
and of j alone, or is causal.
"""

from __future__ import annotations

from dataclasses import replace

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.size import Size
from towerdsl.ir.types import TensorType
from towerdsl.kernels.base import Facts, Kernel, Speed, lengths_differ, not_one_axis
from towerdsl.lowered import nodes as low
from towerdsl.passes.locality import Locality
from towerdsl.passes.score import separate, sides

#: Normalizers whose weights are linear in the score, up to a factor for each query.
LINEAR = ("none", "count", "sum")
#: Normalizers that give keys with equal scores equal weights, which sum to 1.
EVEN = ("softmax", "sparsemax")
#: Queries in one block where only earlier keys are visible.
BLOCK = 64


class Factored(Kernel):
    name = "factored"
    how = "sums over the keys first, then each query's part of them: (q kᵀ) v = q (kᵀ v)"
    speed = Speed(call=120_000, multiply_add=0.015, pair=0.05)

    def refuse(self, average: Average, facts: Facts) -> str | None:
        if facts.locality.never:
            return "no key is visible"
        if average.normalize not in (*LINEAR, *EVEN):
            return f"{average.normalize} of a product is no product"
        if average.normalize in EVEN and any(a.side == "j" for a in average.score.axes):
            return f"{average.normalize} is a product only of a score that does not depend on j"
        if average.dropout:
            return "dropout drops the weights of single pairs"
        if "i" in sides(average.message):
            return "the message depends on i"
        if not set(average.over) <= set(average.message.axes):
            return "the message is not one of each key"
        for part in facts.locality.rest:
            if len(sides(part)) == 2:
                return "a condition of i and j together hides single pairs"
        if facts.locality.bands and not causal(average, facts.locality):
            return _uncausal(average, facts.locality)
        found = separate(even(average).score)
        return found if isinstance(found, str) else None

    def lower(self, average: Average, facts: Facts) -> n.Value:
        kind = low.result_type(average, average.score, average.message, *facts.locality.rest)
        products = separate(even(average).score)
        assert not isinstance(products, str)
        return low.Factored(kind, average.span, even(average), products, causal(average, facts.locality), BLOCK)


def even(average: Average) -> Average:
    """Where the score does not depend on j, softmax gives each visible key the same weight: the `count` of 1."""
    if average.normalize not in EVEN:
        return average
    one = n.Const(TensorType("int", (), True), average.score.span, 1)
    return replace(average, score=one, normalize="count", options=())


def _uncausal(average: Average, locality: Locality) -> str:
    """Why the bands are not what `causal` asks for."""
    for band in locality.bands:
        if band.high is not None or band.low != Size.of(0):
            return f"{band} hides single pairs, and is not causal"
    if not_one_axis(average) is not None:
        return f"{locality.bands[0]} is causal along one of several axes"
    return f"{locality.bands[0]} is causal, and {lengths_differ(locality.bands[0])}"


def causal(average: Average, locality: Locality) -> bool:
    """Whether what is visible of both sides together is `j <= i` and nothing else."""
    return Locality(locality.bands).causal(average)
