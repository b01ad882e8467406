"""The oracle: dense, in the formula's own terms.

score -> weights (normalizer) -> dropout -> weighted sum of the messages. It can compute every attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from towerdsl.ir.nodes import Average
from towerdsl.ir.size import Size, product
from towerdsl.kernels.base import Facts

if TYPE_CHECKING:
    from towerdsl.emit.average import AverageWriter


class Reference:
    name = "reference"
    how = "dense, in the formula's own terms"
    shares_key_heads = False

    def refuse(self, average: Average, facts: Facts) -> str | None:
        return None

    def write(self, average: Average, facts: Facts, writer: AverageWriter) -> str:
        weights, axes = writer.weights()
        return writer.weighted_sum(weights, axes)

    def peak(self, average: Average, facts: Facts) -> Size:
        heads = average.heads.size if average.heads else Size.of(1)
        pairs = product(tuple(a.size for a in (*average.batch, *average.positions, *average.over)))
        return heads * pairs * 2  # scores and weights
