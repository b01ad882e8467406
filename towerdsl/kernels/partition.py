"""Queries see the keys of their own class: windows side by side, rows or columns of a grid.

Each class is a block, and an entry of the batch: what is dense inside it is computed as any dense attention.
"""

from __future__ import annotations

from dataclasses import replace

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.placed import Cut
from towerdsl.ir.size import Size, product
from towerdsl.kernels.base import FUSED, Facts, Kernel, lengths_differ, no_common_axis
from towerdsl.kernels.dense import dense
from towerdsl.lowered import nodes as low
from towerdsl.lowered.tiling import Untileable, every_cut, padded, tiled
from towerdsl.passes.locality import Band, Classes, Locality

ZERO = Size.of(0)


class Partition(Kernel):
    name = "partition"
    how = "each class of positions by itself, as one entry of the batch"
    speed = FUSED

    def refuse(self, average: Average, facts: Facts) -> str | None:
        cuts = _cuts(average, facts)
        if all(c.whole for c in cuts):
            return _unclassed(average, facts.locality)
        if product([c.length("j") for c in cuts]) == Size.of(1):
            return "each query sees its own position alone"
        try:
            facts.lowered(self, average)
        except Untileable as reason:
            return str(reason)
        return None

    def lower(self, average: Average, facts: Facts) -> n.Value:
        cuts = _cuts(average, facts)
        inner = dense(_inside(average, facts, cuts), whole=True)
        full = facts.locality.has_empty_rows() is False and not any(map(padded, cuts))
        body = replace(inner, full=full)
        return low.InBlocks(low.result_type(average, lead=True), average.span, cuts, True, body)


def _cuts(average: Average, facts: Facts) -> tuple[Cut, ...]:
    """One cut for each axis along which the condition makes classes."""
    found: dict[object, Cut] = {}
    for b in facts.locality.bands:
        if b.low == b.high == ZERO and b.query.size == b.key.size:
            found.setdefault(b.query, Cut(b.query, b.key, Size.of(1)))
    for c in facts.locality.classes:
        width, shift = c.width.integer, c.shift.integer
        if width is None or shift is None or c.query.size != c.key.size:
            continue  # `_unclassed` says so
        full = c.query.size.opaque("%", c.width).integer == 0
        found.setdefault(c.query, Cut(c.query, c.key, c.width, shift=shift % width, wraps=full))
    return every_cut(average, list(found.values()))


def _unclassed(average: Average, locality: Locality) -> str:
    """Why there is no class that is a cut."""
    classes: list[Band | Classes] = [*(b for b in locality.bands if b.low == b.high == ZERO), *locality.classes]
    if (longer := next((c for c in classes if c.query.size != c.key.size), None)) is not None:
        return lengths_differ(longer)
    if not locality.everything and (reason := no_common_axis(average)) is not None:
        return reason
    if classes or any(_placed(s.left) and _placed(s.right) for s in locality.same):
        return "how wide the classes of positions are is known at run time"
    if any(r.rest == ZERO for r in locality.residues):
        return "the positions of a class do not stand side by side: it is a residue"
    if locality.same or locality.related:
        return "data decides which positions see each other"
    if locality.unknown:
        return "no classes that see only themselves are known"
    return "positions do not fall into classes that see only themselves"


def _placed(value: n.Value) -> bool:
    """Whether a value is computed from positions and lengths, and from no data."""
    return not any(isinstance(x, (n.Local, n.Weight, n.Gather, n.Member, n.Apply)) for x in value.walk())


def _inside(average: Average, facts: Facts, cuts: tuple[Cut, ...]) -> Average:
    """The average of one class, with one more batch axis. Raises Untileable."""
    made = {(c.query, c.key): c for c in cuts}
    exact = [c for c in facts.locality.classes if (x := made.get((c.query, c.key))) and _exact(x, c)]
    same = [
        b
        for b in facts.locality.bands
        if b.low == b.high == ZERO and (x := made.get((b.query, b.key))) and x.size == Size.of(1)
    ]
    left = facts.locality.without(*exact, *same).condition
    return tiled(replace(average, visible=left), cuts, at_sources=True)


def _exact(cut: Cut, classes: Classes) -> bool:
    """Whether the blocks of a cut are these classes, none of them put together from two."""
    width, shift = classes.width.integer, classes.shift.integer
    if width is None or shift is None or cut.size != classes.width or cut.shift != shift % width:
        return False
    return not (cut.wraps and cut.shift)
