"""Each query sees keys at bounded distances: `low <= i - j <= high` along an axis.

Blocks of queries meet the few keys that any of them can see. Softmax of a dot product along one axis goes block by
block, its scores stay in the cache; any other attention is the same average inside all blocks at once.
"""

from __future__ import annotations

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.placed import Cut
from towerdsl.ir.size import Size
from towerdsl.kernels import sizes
from towerdsl.kernels.base import BLOCKS, Facts, Kernel, lengths_differ, no_common_axis
from towerdsl.kernels.dense import dense
from towerdsl.lowered import build
from towerdsl.lowered import nodes as low
from towerdsl.lowered.tiling import Untileable, every_cut, tiled
from towerdsl.passes.locality import Band, Locality


class Banded(Kernel):
    name = "banded"
    how = "blocks of queries, each with the keys within reach"
    speed = BLOCKS

    def refuse(self, average: Average, facts: Facts) -> str | None:
        if not bounded(average, facts.locality):
            return unbounded(average, facts.locality)
        try:
            facts.lowered(self, average)
        except Untileable as reason:
            return str(reason)
        return None

    def lower(self, average: Average, facts: Facts) -> n.Value:
        bands = bounded(average, facts.locality)
        cuts = every_cut(average, [cut_of(b, len(bands)) for b in bands])
        if len(cuts) == 1 and average.is_softmax_of_values and not isinstance(facts.score, str):
            return build.attended(average, facts.score, cuts[0])
        return low.InBlocks(low.result_type(average, lead=True), average.span, cuts, False, dense(tiled(average, cuts)))


def bounded(average: Average, locality: Locality) -> list[Band]:
    """The bands with numbers for both bounds, along axes that query and key share."""
    return [b for b in locality.hull() if _too_wide(b, average) is None]


def unbounded(average: Average, locality: Locality) -> str:
    """Why no band is `bounded`."""
    reasons = [reason for b in locality.hull() if (reason := _too_wide(b, average)) is not None]
    if reasons:
        return reasons[0]
    if not locality.everything and (reason := no_common_axis(average)) is not None:
        return reason
    known = "" if not locality.unknown else "known to be "
    return f"no distance i - j is {known}bounded on both sides by numbers"


def _too_wide(band: Band, average: Average) -> str | None:
    """Why blocks of queries do not meet few keys by this band, if they do not."""
    if band.query not in average.positions or band.key not in average.over:
        return f"{band} is about other positions than those of the query and the key"
    if band.query.size != band.key.size:
        return lengths_differ(band)
    if band.low is None or band.high is None:
        return f"{band} bounds no distance on both sides"
    if band.low.integer is None or band.high.integer is None:
        return f"{band} depends on a length that is known at run time"
    if max(abs(band.low.integer), abs(band.high.integer)) >= 2**31:
        return f"{band} is wider than any tensor"
    return None


def cut_of(band: Band, count: int = 1) -> Cut:
    """Blocks along the axis of a band, where `count` axes have one."""
    return Cut(band.query, band.key, Size.of(sizes.QUERIES[min(count, 3)]), *_reach(band))


def _reach(band: Band) -> tuple[int, int]:
    """How far the keys of a block go before its first query and behind its last."""
    assert band.low is not None and band.high is not None
    low, high = band.low.integer, band.high.integer
    assert low is not None and high is not None
    return -(-high // sizes.EVEN) * sizes.EVEN, -(low // sizes.EVEN) * sizes.EVEN
