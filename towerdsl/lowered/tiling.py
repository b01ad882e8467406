"""An attention in blocks --> the same average of fewer pairs: axes are cut, and only pairs inside a block are left.

    y[i] = sum over j of w[i, j] * v[j]   -->   y[t, i'] = sum over j' of w[t, i', j'] * v[t, j']

The blocks t are one more batch axis, so that every technique for dense attentions works on them. A value of one side is
computed as before and then cut; what depends on both sides is computed inside the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from towerdsl.ir import nodes as n
from towerdsl.ir.placed import Blocks, Cut, Inside, Place
from towerdsl.ir.size import Size, SizeLimitError, product
from towerdsl.ir.types import Axis, TensorType
from towerdsl.lowered.rewriting import COMPUTED, Rewriting, read_whole
from towerdsl.passes.bounds import is_finite
from towerdsl.passes.intervals import Order
from towerdsl.passes.linear import Reader, axes_of
from towerdsl.passes.locality import conjuncts, joined
from towerdsl.passes.score import Term, sides


class Untileable(Exception):
    """Why an attention cannot be computed in blocks."""


def tiled(average: n.Average, cuts: Sequence[Cut], at_sources: bool = False) -> n.Average:
    """The average inside blocks. With `at_sources`, `q`, `k`, `v` come in blocks already. Raises Untileable."""
    tiling = Tiling(average, tuple(cuts), at_sources)
    inside = tiling.inside()
    visible = tiling.value(average.visible) if average.visible is not None else None
    if inside is not None:
        visible = inside if visible is None else tiling.both(visible, inside)
    layout = (*average.batch, tiling.block, tiling.places["i"].on(""), *average.features)
    return replace(
        average,
        query=tiling.source(average.query, "i"),
        key=tiling.source(average.key, "j"),
        value=tiling.source(average.value, "j") or average.value,
        batch=(*average.batch, tiling.block),
        positions=(tiling.places["i"],),
        over=(tiling.places["j"],),
        score=tiling.value(average.score),
        visible=visible,
        message=tiling.value(average.message),
        layout=layout if at_sources else average.layout,
    )


class Tiling(Rewriting):
    """Rewrites the values of one attention: those of one side are cut, pairs are computed inside the blocks."""

    def __init__(self, average: n.Average, cuts: tuple[Cut, ...], at_sources: bool) -> None:
        self.average, self.cuts, self.at_sources = average, cuts, at_sources
        self.block = Axis("block", product([c.count for c in cuts]))
        self.places = {side: Axis("place", product([c.length(side) for c in cuts]), side) for side in "ij"}
        self.of_side = {
            "i": {c.query: c for c in cuts if c.query is not None},
            "j": {c.key: c for c in cuts if c.key is not None},
        }
        self.placing = True
        self.done: dict[tuple[int, bool], tuple[n.Value, n.Value]] = {}

    # --- sources ----------------------------------------------------------------------------------------------

    def source(self, value: n.Value | None, side: str) -> n.Value | None:
        """A source in blocks; what a layer does with each position alone it does inside the blocks."""
        if value is None or not self.at_sources:
            return value
        if isinstance(value, n.Apply) and inside_blocks(value):
            inner = self.source(value.args[0], side)
            assert inner is not None
            kind = value.type.with_axes((*inner.axes[:-1], value.axes[-1]))
            return replace(value, type=kind, args=(inner,), result=replace(value.result, type=kind))
        axes = [a.on("") for a in self.of_side[side]]
        cut = self._cut(value, axes, side, self.places[side].on(""))
        name = value.name if isinstance(value, n.Local) else "source"
        how = tuple((c.length(side), c.shift, c.wraps) for c in self.cuts)
        return n.Shared(cut.type, value.span, cut, f"{name}_blocks", hash((value, how)))

    # --- values -----------------------------------------------------------------------------------------------

    def value(self, value: n.Value) -> n.Value:
        """A score, condition or message inside the blocks; each value once."""
        known = id(value), self.placing
        if known not in self.done:
            self.done[known] = (value, super().value(value))
        return self.done[known][1]

    def term(self, term: Term) -> Term:
        """What is added to a score, inside the blocks."""
        return replace(term, value=self.value(term.value))

    def _computed(self, value: n.Value) -> n.Value:
        """As it is; where places would not do, from positions: places may lie further apart than any positions."""
        found = super()._computed(value)
        if self.placing and not is_finite(found) and any(isinstance(x, Place) for x in found.walk()):
            self.placing = False
            found = self._computed(value)
            self.placing = True
        return found

    @property
    def key(self) -> Hashable:
        return self.cuts, self.at_sources, self.placing

    def instead(self, value: n.Value) -> n.Value | None:
        if self.at_sources and isinstance(value, n.Local) and value.name in ("q", "k", "v"):
            return replace(value, type=self._type(value.type, before=self.average.heads))
        present = {a for side in "ij" for a in self.of_side[side]} & set(value.axes)
        vectors = self._vectors(value)
        if not present and not vectors:
            return value
        placed = self._placed(value) if self.placing else None
        if placed is not None:
            return placed
        side = {a.side for a in present}
        if len(side) == 1 and not vectors:
            return self._cut(value, [a for a in self.of_side[min(side)] if a in present], min(side))
        if not isinstance(value, COMPUTED):
            raise Untileable(read_whole(value))
        return None

    def _vectors(self, value: n.Value) -> bool:
        """Whether a value is made of `q`, `k` or `v` that are in blocks already."""
        return self.at_sources and any(isinstance(v, n.Local) and v.name in ("q", "k", "v") for v in value.walk())

    def type(self, old: TensorType, operands: Sequence[n.Value]) -> TensorType:
        return self._type(old, in_blocks=any(self.block in x.axes for x in operands))

    def _type(self, old: TensorType, before: Axis | None = None, in_blocks: bool = True) -> TensorType:
        """A type whose positions are places, of blocks or of what all blocks have in common. The axis of blocks stands
        in front of them, or of the axis `before` if there is one."""
        found: list[Axis] = []
        for a in old.axes:
            side = next((s for s in "ij" if a in self.of_side[s]), None)
            new = a if side is None else self.places[side]
            if new not in found:
                found.append(new)
        if in_blocks:
            found.insert(next(k for k, a in enumerate(found) if a == before or a in self.places.values()), self.block)
        return old.with_axes(found)

    def _cut(self, value: n.Value, axes: Sequence[Axis], side: str, place: Axis | None = None) -> Blocks:
        first = min(value.axes.index(a) for a in axes)
        before = [a for a in value.axes[:first] if a not in axes]
        after = [a for a in value.axes[first:] if a not in axes]
        kind = value.type.with_axes((*before, self.block, place or self.places[side], *after))
        return Blocks(kind, value.span, value, self.cuts, side)

    def _placed(self, value: n.Value) -> n.Value | None:
        """The value with each position counted from the first query of its block, where that changes nothing: positions
        count only as distances. None where they do not."""
        compared = isinstance(value, n.Pointwise) and value.op in ("<", "<=", ">", ">=", "==", "!=")
        ends = value.operands if compared else (value,)
        if any(x.type.dtype not in ("int", "wide") for x in ends):
            return None
        rule, reader = _Placing(self), Reader(Order(frozenset()))
        try:
            # of places no range is known, so that the form holds wherever a block begins
            forms = [form for x in ends if (form := reader.linear(rule.value(x))) is not None]
        except SizeLimitError:
            return None
        if len(forms) < len(ends):
            return None
        form = forms[0] - forms[1] if compared else forms[0]
        total: dict[Cut, Size] = {}
        for atom, factor in form.terms:
            if isinstance(atom, Place):
                total[atom.cut] = total.get(atom.cut, Size.of(0)) + factor
            elif axes_of(atom):
                return None
        return rule.value(value) if all(cut.whole or not factor.terms for cut, factor in total.items()) else None

    # --- padding ----------------------------------------------------------------------------------------------

    def inside(self) -> n.Value | None:
        """Which keys of a block are none, but padding; None where there is no padding."""
        if not any(padded(cut) for cut in self.of_side["j"].values()):
            return None
        kind = TensorType("bool", (self.block, self.places["j"]))
        return Inside(kind, self.average.span, self.cuts, "j")

    def both(self, a: n.Value, b: n.Value) -> n.Value:
        """`a and b`."""
        order = (*self.average.batch, *filter(None, [self.average.heads]), self.block, *self.places.values())
        axes = tuple(x for x in order if x in a.axes or x in b.axes)
        return n.Pointwise(TensorType("bool", axes), self.average.span, "and", (a, b))


def padded(cut: Cut) -> bool:
    """Whether blocks have places that are no positions."""
    axis = cut.query or cut.key
    assert axis is not None
    full = axis.size.opaque("%", cut.size).integer == 0 and (cut.wraps or cut.shift == 0)
    return not cut.whole and bool(cut.before or cut.after or not full)


def inside_blocks(value: n.Apply) -> bool:
    """Whether an operation of a source works along the last axis, at each position by itself: so it does in blocks."""
    last = len(value.args[0].axes) - 1
    if not value.op.weights or len(value.args) != 1 or value.result.moves is None:
        return False
    alone = {m.dim for m in value.result.moves if m.to == m.dim and m.reach is None and not m.flipped}
    return alone == set(range(last)) and sides(value.args[0]) == set()


class _Placing(Rewriting):
    """Positions counted from the first query of their block."""

    def __init__(self, tiling: Tiling) -> None:
        self.tiling = tiling

    @property
    def key(self) -> Hashable:
        return self.tiling.cuts, "placed"

    def instead(self, value: n.Value) -> n.Value | None:
        if isinstance(value, n.Position):
            axis = value.axes[0]
            cut = self.tiling.of_side.get(axis.side, {}).get(axis)
            if cut is None:
                return value
            kind = value.type.with_axes((self.tiling.places[axis.side],))
            return Place(kind, value.span, self.tiling.cuts, cut)
        return None if isinstance(value, n.Pointwise | n.Shared | n.Cast) else value

    def type(self, old: TensorType, operands: Sequence[n.Value]) -> TensorType:
        return self.tiling.type(old, ())


def whole(query: Axis | None, key: Axis | None) -> Cut:
    """An axis that is not cut."""
    axis = query or key
    assert axis is not None
    return Cut(query, key, axis.size, whole=True)


def every_cut(average: n.Average, cuts: Sequence[Cut]) -> tuple[Cut, ...]:
    """Cuts of all axes of an attention's positions, in their order: those that are given, the others whole."""
    found: list[Cut] = []
    for i in average.positions:
        j = next((j for j in average.over if j.name is not None and j.name == i.name and j.size == i.size), None)
        given = next((c for c in cuts if c.query == i), None)
        found.append(given or whole(i, j))
    met = {c.key for c in found}
    return (*found, *(whole(None, j) for j in average.over if j not in met))


@dataclass
class _Restricting(Rewriting):
    """A part of one axis: of values of its side, and of those that are read from a tensor."""

    axis: Axis
    short: Axis
    part: Callable[[n.Value, TensorType], n.Value]
    other: Callable[[n.Value], n.Value]

    @property
    def key(self) -> Hashable:
        return self.short

    def instead(self, value: n.Value) -> n.Value | None:
        if self.axis not in value.axes:
            return self.other(value)
        pairs = sides(value) == {"i", "j"}
        return None if pairs and isinstance(value, COMPUTED) else self.part(value, self.type(value.type, ()))

    def type(self, old: TensorType, operands: Sequence[n.Value]) -> TensorType:
        return old.with_axes(self.short if a == self.axis else a for a in old.axes)


def restricted(
    average: n.Average,
    axis: Axis,
    short: Axis,
    part: Callable[[n.Value, TensorType], n.Value],
    other: Callable[[n.Value], n.Value] = lambda x: x,
) -> n.Average:
    """The average over a part of an axis, called `short`.

    `part` takes it of a value of that axis' side, or of one that is read from a tensor; pairs are computed from the
    parts of their sides. `other` is what becomes of values that do not have the axis.
    """
    value = _Restricting(axis, short, part, other).value

    def axes(old: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(short if a == axis else a for a in old)

    return replace(
        average,
        positions=axes(average.positions),
        over=axes(average.over),
        score=value(average.score),
        visible=joined(
            [value(x) for x in conjuncts(average.visible)] if average.visible is not None else [],
            [a for x in (*average.batch, average.heads, *average.positions, *average.over) if x for a in axes((x,))],
        ),
        message=value(average.message),
    )
