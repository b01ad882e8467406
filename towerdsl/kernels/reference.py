"""The oracle: dense, in the formula's own terms.

score -> weights (normalizer) -> dropout -> weighted sum of the messages. It can compute every attention.
"""

from __future__ import annotations

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.size import Size, product
from towerdsl.kernels.base import Facts, Kernel, all_pairs
from towerdsl.lowered import build

#: How many tensors of all pairs are alive at once, where everything is visible and under a condition: the score, the
#: weights and what the normalizer makes in between, as torch's profiler counts them.
ALIVE = {
    "softmax": (2, 4),
    "sum": (3, 4),
    "count": (2, 4),
    "sigmoid": (2, 3),
    "none": (2, 2),
    "sparsemax": (6, 7),
    "hard": (5, 5),
    "hard(straight_through)": (5, 5),
    "hard(gumbel)": (6, 6),
    "hard(score_function)": (5, 5),
}


class Reference(Kernel):
    name = "reference"
    how = "dense, in the formula's own terms"

    def refuse(self, average: Average, facts: Facts) -> str | None:
        return None

    def lower(self, average: Average, facts: Facts) -> n.Value:
        return build.summed(average)

    def pairs(self, average: Average, facts: Facts) -> Size:
        return all_pairs(average)

    def peak(self, average: Average, facts: Facts) -> Size:
        alive = ALIVE.get(average.normalize, max(ALIVE.values()))
        return product([a.size for a in build.weights(average).axes]) * alive[average.visible is not None]
