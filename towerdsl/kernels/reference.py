"""The oracle: dense, in the formula's own terms.

score -> weights (normalizer) -> dropout -> weighted sum of the messages. It can compute every attention.
"""

from __future__ import annotations

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.kernels.base import Facts, Kernel
from towerdsl.lowered import build


class Reference(Kernel):
    name = "reference"
    how = "dense, in the formula's own terms"

    def refuse(self, average: Average, facts: Facts) -> str | None:
        return None

    def lower(self, average: Average, facts: Facts) -> n.Value:
        return build.summed(average)
