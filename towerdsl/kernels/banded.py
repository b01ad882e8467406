"""Each query sees keys at bounded distances: `low <= i - j <= high` along an axis.

Blocks of queries meet the few keys that any of them can see. Softmax of a dot product along one axis goes block by
block, its scores stay in the cache; any other attention is the same average inside all blocks at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.size import Size, product
from towerdsl.kernels.base import Facts
from towerdsl.kernels.tiling import Untileable, every_cut, tiled
from towerdsl.passes.locality import Band

if TYPE_CHECKING:
    from towerdsl.emit.blocks import BlocksWriter

#: Queries of a block along one axis, and along each of several.
QUERIES = {1: 64, 2: 8, 3: 4}
#: The number of keys of a block is a multiple of this: matrix products like that.
EVEN = 16


class Banded:
    name = "banded"
    how = "blocks of queries, each with the keys within reach"
    shares_key_heads = False

    def refuse(self, average: Average, facts: Facts) -> str | None:
        if not _bounded(average, facts):
            return "no distance i - j is bounded on both sides"
        try:
            tiled(average, _cuts(average, facts))
        except Untileable as reason:
            return str(reason)
        return None

    def write(self, average: Average, facts: Facts, writer: BlocksWriter) -> str:
        cuts = _cuts(average, facts)
        if len(cuts) == 1 and average.is_softmax_of_values and not isinstance(facts.score, str):
            return writer.attended(facts.score, cuts[0])
        return writer.in_blocks(cuts)

    def pairs(self, average: Average, facts: Facts) -> Size:
        cuts = _cuts(average, facts)
        return product([c.count * c.length("i") * c.length("j") for c in cuts])

    def peak(self, average: Average, facts: Facts) -> Size:
        cuts = _cuts(average, facts)
        return product([c.length("i") * c.length("j") for c in cuts]) * (2 if len(cuts) == 1 else 4)


def _bounded(average: Average, facts: Facts) -> list[Band]:
    """The bands with numbers for both bounds, along axes that query and key share."""
    return [
        b
        for b in facts.locality.bands
        if b.low is not None
        and b.high is not None
        and b.low.integer is not None
        and b.high.integer is not None
        and b.query in average.positions
        and b.key in average.over
        and b.query.size == b.key.size
    ]


def _cuts(average: Average, facts: Facts) -> tuple[n.Cut, ...]:
    bands = _bounded(average, facts)
    size = Size.of(QUERIES[min(len(bands), 3)])
    return every_cut(average, [n.Cut(b.query, b.key, size, *_reach(b)) for b in bands])


def _reach(band: Band) -> tuple[int, int]:
    """How far the keys of a block go before its first query and behind its last."""
    assert band.low is not None and band.high is not None
    low, high = band.low.integer, band.high.integer
    assert low is not None and high is not None
    return -(-high // EVEN) * EVEN, -(low // EVEN) * EVEN
