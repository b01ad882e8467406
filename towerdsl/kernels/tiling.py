"""An attention in blocks --> the same average of fewer pairs: axes are cut, and only pairs inside a block are left.

    y[i] = sum over j of w[i, j] * v[j]   -->   y[t, i'] = sum over j' of w[t, i', j'] * v[t, j']

The blocks t are one more batch axis, so that every technique for dense attentions works on them. A value of one side is
computed as before and then cut; what depends on both sides is computed inside the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from towerdsl.ir import nodes as n
from towerdsl.ir.size import product
from towerdsl.ir.types import Axis, TensorType
from towerdsl.passes.locality import conjuncts, joined
from towerdsl.passes.score import sides


class Untileable(Exception):
    """Why an attention cannot be computed in blocks."""


def tiled(average: n.Average, cuts: Sequence[n.Cut], at_sources: bool = False) -> n.Average:
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


class Tiling:
    """Rewrites the values of one attention."""

    def __init__(self, average: n.Average, cuts: tuple[n.Cut, ...], at_sources: bool) -> None:
        self.average, self.cuts, self.at_sources = average, cuts, at_sources
        self.block = Axis("block", product([c.count for c in cuts]))
        self.places = {side: Axis("place", product([c.length(side) for c in cuts]), side) for side in "ij"}
        self.of_side = {
            "i": {c.query: c for c in cuts if c.query is not None},
            "j": {c.key: c for c in cuts if c.key is not None},
        }
        self.done: dict[int, tuple[n.Value, n.Value]] = {}

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
        """A score, condition or message inside the blocks."""
        if id(value) not in self.done:
            self.done[id(value)] = (value, self._value(value))
        return self.done[id(value)][1]

    def _value(self, value: n.Value) -> n.Value:
        if self.at_sources and isinstance(value, n.Local) and value.name in ("q", "k", "v"):
            return replace(value, type=self._type(value.type, (self.block,)))
        present = {a for side in "ij" for a in self.of_side[side]} & set(value.axes)
        if not present and not self._vectors(value):
            return value
        if self._same_in_all_blocks(value):
            return self._placed(value)
        side = {a.side for a in present}
        if len(side) == 1 and not self._vectors(value):
            return self._cut(value, [a for a in self.of_side[min(side)] if a in present], min(side))
        return self._inside(value)

    def _vectors(self, value: n.Value) -> bool:
        """Whether a value is made of `q`, `k` or `v` that are in blocks already."""
        return self.at_sources and any(isinstance(v, n.Local) and v.name in ("q", "k", "v") for v in value.walk())

    def _inside(self, value: n.Value) -> n.Value:
        """A value of pairs, from its operands inside the blocks."""
        match value:
            case n.Pointwise():
                args = tuple(map(self.value, value.args))
                return replace(value, type=self._type(value.type, *(a.axes for a in args)), args=args)
            case n.Dot():
                left, right = self.value(value.left), self.value(value.right)
                return replace(value, type=self._type(value.type, left.axes, right.axes), left=left, right=right)
            case n.Reduce() | n.Cast():
                arg = self.value(value.arg)
                return replace(value, type=self._type(value.type, arg.axes), arg=arg)
            case n.Shared():
                arg = self.value(value.arg)
                key = hash((value.key, self.cuts, self.at_sources))
                return replace(value, type=self._type(value.type, arg.axes), arg=arg, key=key)
            case n.Gather():
                table, indices = self.value(value.table), tuple(map(self.value, value.indices))
                lead = len(table.axes) - (len(value.table.axes) - value.lead)
                kind = self._type(value.type, table.axes, *(x.axes for x in indices))
                return replace(value, type=kind, table=table, lead=lead, indices=indices)
        if isinstance(value, n.Member):
            raise Untileable("the pairs of a relation are no blocks")
        raise Untileable("pairs of positions are read from a tensor")

    def _type(self, old: TensorType, *present: Sequence[Axis]) -> TensorType:
        """A type whose positions are places, of blocks if any of what it is made of is."""
        found: list[Axis] = []
        for a in old.axes:
            side = next((s for s in "ij" if a in self.of_side[s]), None)
            new = a if side is None else self.places[side]
            if new not in found:
                found.append(new)
        if any(self.block in axes for axes in present):  # it stands behind the batch, in front of heads
            heads = next(k for k, a in enumerate(found) if a == self.average.heads or a in self.places.values())
            found.insert(heads, self.block)
        return old.with_axes(found)

    def _cut(self, value: n.Value, axes: Sequence[Axis], side: str, place: Axis | None = None) -> n.Blocks:
        first = min(value.axes.index(a) for a in axes)
        before = [a for a in value.axes[:first] if a not in axes]
        after = [a for a in value.axes[first:] if a not in axes]
        kind = value.type.with_axes((*before, self.block, place or self.places[side], *after))
        return n.Blocks(kind, value.span, value, self.cuts, side)

    # --- what blocks have in common ---------------------------------------------------------------------------

    def _same_in_all_blocks(self, value: n.Value) -> bool:
        """Whether positions count only as distances, so that where a block begins does not matter."""
        if not isinstance(value, n.Pointwise):
            found = _factors(value)
        elif value.op in ("<", "<=", ">", ">=", "==", "!="):
            left, right = _factors(value.args[0]), _factors(value.args[1])
            found = None if left is None or right is None else _sum(left, right, -1)
        else:
            found = _factors(value)
        if found is None:
            return False
        for cut in self.cuts:
            i = found.pop(cut.query, 0) if cut.query is not None else 0
            j = found.pop(cut.key, 0) if cut.key is not None else 0
            if i + j and not cut.whole:
                return False
        return not found

    def _placed(self, value: n.Value) -> n.Value:
        """The same with each position counted from the first query of its block."""
        match value:
            case n.Position():
                axis = value.axes[0]
                cut = self.of_side[axis.side][axis]
                return n.Place(value.type.with_axes((self.places[axis.side],)), value.span, self.cuts, cut)
            case n.Pointwise():
                args = tuple(map(self._placed, value.args))
                return replace(value, type=self._type(value.type), args=args)
            case n.Shared():
                arg = self._placed(value.arg)
                return replace(value, type=arg.type, arg=arg, key=hash((value.key, self.cuts, "placed")))
        return value

    # --- padding ----------------------------------------------------------------------------------------------

    def inside(self) -> n.Value | None:
        """Which keys of a block are none, but padding; None where there is no padding."""
        axes = tuple(a for a, cut in self.of_side["j"].items() if padded(cut))
        if not axes:
            return None
        return self._cut(n.Fill(TensorType("bool", axes), self.average.span, 1.0), axes, "j")

    def both(self, a: n.Value, b: n.Value) -> n.Value:
        """`a and b`."""
        order = (*self.average.batch, *filter(None, [self.average.heads]), self.block, *self.places.values())
        axes = tuple(x for x in order if x in a.axes or x in b.axes)
        return n.Pointwise(TensorType("bool", axes), self.average.span, "and", (a, b))


def padded(cut: n.Cut) -> bool:
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


Factors = dict[Axis, int]


def _factors(value: n.Value) -> Factors | None:
    """The factor of each position in a linear combination of positions and numbers; None if it is none."""
    value = n.plain(value)
    if isinstance(value, n.Position) and value.axes[0].side in ("i", "j"):
        return {value.axes[0]: 1}
    if value.type.scalar:
        return {} if value.type.dtype == "int" else None
    if not isinstance(value, n.Pointwise):
        return None
    if value.op == "neg":
        inner = _factors(value.args[0])
        return None if inner is None else _sum({}, inner, -1)
    if value.op not in ("+", "-", "*"):
        return None
    a, b = value.args
    if value.op == "*":
        a, b = (b, a) if isinstance(b, n.Const) else (a, b)
        inner, number = _factors(b), a.value if isinstance(a, n.Const) else None
        return _sum({}, inner, number) if inner is not None and isinstance(number, int) else None
    left, right = _factors(a), _factors(b)
    return None if left is None or right is None else _sum(left, right, -1 if value.op == "-" else 1)


def _sum(a: Factors, b: Factors, factor: int) -> Factors:
    found = {x: a.get(x, 0) + factor * b.get(x, 0) for x in (*a, *(x for x in b if x not in a))}
    return {x: number for x, number in found.items() if number}


def whole(query: Axis | None, key: Axis | None) -> n.Cut:
    """An axis that is not cut."""
    axis = query or key
    assert axis is not None
    return n.Cut(query, key, axis.size, whole=True)


def every_cut(average: n.Average, cuts: Sequence[n.Cut]) -> tuple[n.Cut, ...]:
    """Cuts of all axes of an attention's positions, in their order: those that are given, the others whole."""
    found: list[n.Cut] = []
    for i in average.positions:
        j = next((j for j in average.over if j.name is not None and j.name == i.name and j.size == i.size), None)
        given = next((c for c in cuts if c.query == i), None)
        found.append(given or whole(i, j))
    met = {c.key for c in found}
    return (*found, *(whole(None, j) for j in average.over if j not in met))


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
    opposite = "j" if axis.side == "i" else "i"

    def value(x: n.Value) -> n.Value:
        if axis not in x.axes:
            return other(x)
        kind = x.type.with_axes(short if a == axis else a for a in x.axes)
        if opposite in sides(x):
            match x:
                case n.Pointwise():
                    return replace(x, type=kind, args=tuple(map(value, x.args)))
                case n.Dot():
                    return replace(x, type=kind, left=value(x.left), right=value(x.right))
                case n.Reduce() | n.Cast():
                    return replace(x, type=kind, arg=value(x.arg))
                case n.Shared():
                    return replace(x, type=kind, arg=value(x.arg), key=hash((x.key, short)))
                case n.Gather():
                    return replace(x, type=kind, table=value(x.table), indices=tuple(map(value, x.indices)))
        return part(x, kind)

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
