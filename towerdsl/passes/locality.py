"""What each query sees, read symbolically from the condition over i and j: bands, and whatever is left.

A band bounds the distance of positions along one axis, `low <= i - j <= high`. It is found from the algebra of a
condition, so `abs(i - j) < 4 and j <= i`, `0 <= i - j < 4` and the library's names for them are one band.
No pair of positions is ever evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType


@dataclass(frozen=True)
class Band:
    """`low <= i - j <= high` along the query's and the key's position of one axis; None is unbounded."""

    query: Axis
    key: Axis
    low: Size | None
    high: Size | None

    def __str__(self) -> str:
        name = f".{self.query.name}" if self.query.name else ""
        low = "" if self.low is None else f"{self.low} <= "
        high = "" if self.high is None else f" <= {self.high}"
        return f"{low}i{name} - j{name}{high}"


@dataclass(frozen=True)
class Classes:
    """`(i + shift) // width == (j + shift) // width` along one axis: windows, blocks; width 1 is `i == j`."""

    query: Axis
    key: Axis
    width: Size
    shift: Size
    value: n.Value = field(compare=False, repr=False)


@dataclass(frozen=True)
class Residue:
    """`(i - j) % step == rest` along one axis."""

    query: Axis
    key: Axis
    step: Size
    rest: Size
    value: n.Value = field(compare=False, repr=False)


@dataclass(frozen=True)
class End:
    """`low <= p <= high` for the position p of one side: the first or last few queries or keys; None is unbounded."""

    axis: Axis
    low: Size | None
    high: Size | None
    value: n.Value = field(compare=False, repr=False)


@dataclass(frozen=True)
class Same:
    """`left(i) == right(j)`, where both come from data: documents, segments."""

    left: n.Value
    right: n.Value
    value: n.Value = field(compare=False, repr=False)


@dataclass(frozen=True)
class Related:
    """The pair of a key and a query is in a relation; `forward` where the key is its source: `edges[j, i]`."""

    relation: str
    query: Axis
    key: Axis
    forward: bool
    value: n.Value = field(compare=False, repr=False)


@dataclass(frozen=True)
class Sided:
    """A condition of queries alone or of keys alone that depends on data: `keep[j]`."""

    side: str
    value: n.Value = field(compare=False, repr=False)


@dataclass(frozen=True)
class Union:
    """At least one of the parts holds."""

    parts: tuple[Locality, ...]
    value: n.Value = field(compare=False, repr=False)


@dataclass(frozen=True)
class Locality:
    """A conjunction: all bands hold, and all of `rest`. `never` is true where nothing can be seen.

    The tuples after `never` are readings of entries of `rest`: each keeps, as `value`, the entry that it is read from.
    What is in none of them is unknown: it may be anything.
    """

    bands: tuple[Band, ...] = ()
    rest: tuple[n.Value, ...] = ()
    never: bool = False
    classes: tuple[Classes, ...] = ()
    residues: tuple[Residue, ...] = ()
    ends: tuple[End, ...] = ()
    same: tuple[Same, ...] = ()
    related: tuple[Related, ...] = ()
    sided: tuple[Sided, ...] = ()
    unions: tuple[Union, ...] = ()

    @property
    def everything(self) -> bool:
        return not (self.bands or self.rest or self.never)

    def causal(self, average: n.Average) -> bool:
        """Whether this is exactly `j <= i` along the only axis of the query's and the key's positions."""
        if len(self.bands) != 1 or self.rest or self.never or len(average.positions) + len(average.over) > 2:
            return False
        band = self.bands[0]
        return band.high is None and band.low == Size.of(0) and band.query.size == band.key.size


def analyze(visible: n.Value | None) -> Locality:
    """The locality of a condition (None: everything is visible)."""
    if visible is None:
        return Locality()
    bands: dict[tuple[Axis, Axis], Band] = {}
    rest: list[n.Value] = []
    for part in conjuncts(visible):
        if isinstance(part, n.Const):
            if not part.value:
                return Locality(never=True)
            continue
        band = _band(part)
        if band is None:
            part = _ordered(part)
            if part not in rest:
                rest.append(part)
            continue
        key = (band.query, band.key)
        bands[key] = _meet(bands[key], band) if key in bands else band
    if any(_empty(band) for band in bands.values()):
        return Locality(never=True)
    return Locality(tuple(sorted(bands.values(), key=str)), tuple(rest))


def _empty(band: Band) -> bool:
    room = (band.high - band.low).constant if band.low is not None and band.high is not None else None
    return room is not None and room < 0


def _ordered(part: n.Value) -> n.Value:
    """`f(j) == f(i)` --> `f(i) == f(j)`."""
    if isinstance(part, n.Pointwise) and part.op in ("==", "!="):
        left, right = ({a.side for a in x.axes if a.side} for x in part.args)
        if left == {"j"} and right == {"i"}:
            return replace(part, args=(part.args[1], part.args[0]))
    return part


def simplify(visible: n.Value | None) -> n.Value | None:
    """The same condition in one form for all ways to write it: bands first, each once, then the rest."""
    if visible is None:
        return None
    found = analyze(visible)
    if found.never:
        return n.Const(TensorType("bool", (), True), visible.span, False)
    parts = [x for band in found.bands for x in written(band, visible)] + list(found.rest)
    return joined(parts, visible)


def joined(parts: Sequence[n.Value], visible: n.Value) -> n.Value | None:
    """All of some parts of a condition; None where there are none."""
    if not parts:
        return None
    result = parts[0]
    for part in parts[1:]:
        axes = tuple(a for a in visible.axes if a in result.axes or a in part.axes)
        result = n.Pointwise(TensorType("bool", axes), visible.span, "and", (result, part))
    return result


def conjuncts(value: n.Value) -> list[n.Value]:
    """The parts that must all hold."""
    if isinstance(value, n.Pointwise) and value.op == "not":
        value = _negated(value.args[0]) or value
    if isinstance(value, n.Pointwise) and value.op == "and":
        return [part for arg in value.args for part in conjuncts(arg)]
    if isinstance(value, n.Pointwise) and value.op == "==":
        left, right = (_raster(x) for x in value.args)
        if len(left) > 1 and [(p.axes[0].name, p.axes[0].size) for p in left] == [
            (p.axes[0].name, p.axes[0].size) for p in right
        ]:
            pairs = zip(left, right, strict=True)
            return [replace(value, type=TensorType("bool", (*a.axes, *b.axes)), args=(a, b)) for a, b in pairs]
    return [value]


def _raster(value: n.Value) -> tuple[n.Position, ...]:
    """The positions that a row-major index is made of, `i.h * w + i.w`; empty for anything else."""
    value = n.plain(value)
    if isinstance(value, n.Position):
        return (value,)
    if not (isinstance(value, n.Pointwise) and value.op == "+" and isinstance(value.args[1], n.Position)):
        return ()
    rows, last = n.plain(value.args[0]), value.args[1]
    if not (isinstance(rows, n.Pointwise) and rows.op == "*" and _number(last.axes[0].size, last) == rows.args[1]):
        return ()
    outer = _raster(rows.args[0])
    return (*outer, last) if outer and outer[-1].axes[0].side == last.axes[0].side else ()


_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


def _negated(value: n.Value) -> n.Value | None:
    """The opposite of a condition with `not` moved inside (De Morgan), or None where it cannot move."""
    if not isinstance(value, n.Pointwise):
        return None
    if value.op == "not":
        return value.args[0]
    if value.op in _OPPOSITE:
        return replace(value, op=_OPPOSITE[value.op])
    if value.op in ("and", "or"):
        parts = tuple(_negated(a) or n.Pointwise(a.type, a.span, "not", (a,)) for a in value.args)
        return replace(value, op="or" if value.op == "and" else "and", args=parts)
    return None


# --- comparisons as bands --------------------------------------------------------------------------------------

_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "=="}


@dataclass(frozen=True)
class _Linear:
    """i_factor * i + j_factor * j + constant, for one query axis and one key axis."""

    i: Axis | None
    j: Axis | None
    i_factor: int
    j_factor: int
    constant: Size


def _linear(value: n.Value) -> _Linear | None:
    value = n.plain(value)
    if isinstance(value, n.Const) and isinstance(value.value, int) and not isinstance(value.value, bool):
        return _Linear(None, None, 0, 0, Size.of(value.value))
    if isinstance(value, n.SizeOf):
        return _Linear(None, None, 0, 0, value.size)
    if isinstance(value, n.Position) and value.axes[0].side in ("i", "j"):
        axis = value.axes[0]
        is_i = axis.side == "i"
        return _Linear(axis if is_i else None, None if is_i else axis, int(is_i), int(not is_i), Size.of(0))
    if not isinstance(value, n.Pointwise):
        return None
    if value.op == "neg":
        x = _linear(value.args[0])
        return _scaled(x, -1) if x else None
    if value.op in ("+", "-"):
        a, b = _linear(value.args[0]), _linear(value.args[1])
        if a is None or b is None:
            return None
        return _added(a, _scaled(b, -1) if value.op == "-" else b)
    if value.op == "*":
        a, b = _linear(value.args[0]), _linear(value.args[1])
        if a is None or b is None:
            return None
        if a.i is not None or a.j is not None:
            a, b = b, a
        factor = a.constant.integer
        return _scaled(b, factor) if factor is not None and a.i is None and a.j is None else None
    return None


def _scaled(x: _Linear, factor: int) -> _Linear:
    return _Linear(x.i, x.j, x.i_factor * factor, x.j_factor * factor, x.constant * factor)


def _added(a: _Linear, b: _Linear) -> _Linear | None:
    if (a.i and b.i and a.i != b.i) or (a.j and b.j and a.j != b.j):
        return None
    i, j = a.i_factor + b.i_factor, a.j_factor + b.j_factor
    return _Linear((a.i or b.i) if i else None, (a.j or b.j) if j else None, i, j, a.constant + b.constant)


def _band(value: n.Value) -> Band | None:
    """A comparison as a band, or None if it is not one."""
    if not isinstance(value, n.Pointwise) or value.op not in _FLIPPED:
        return None
    left, right = value.args
    op = value.op
    for a, b, o in ((left, right, op), (right, left, _FLIPPED[op])):
        if isinstance(a, n.Pointwise) and a.op == "abs" and o in ("<", "<="):
            inner, bound = _difference(a.args[0]), _linear(b)
            if inner is not None and bound is not None and bound.i is None and bound.j is None:
                axes, offset = inner
                reach = bound.constant - (1 if o == "<" else 0)
                return Band(*axes, -reach - offset, reach - offset)
    a_, b_ = _linear(left), _linear(right)
    if a_ is None or b_ is None:
        return None
    together = _added(a_, _scaled(b_, -1))
    found = _as_difference(together) if together is not None else None
    if found is None:
        return None
    axes, offset, flipped = found
    op = _FLIPPED[op] if flipped else op
    # i - j + offset  op  0
    bound_ = -offset
    match op:
        case "<":
            return Band(*axes, None, bound_ - 1)
        case "<=":
            return Band(*axes, None, bound_)
        case ">":
            return Band(*axes, bound_ + 1, None)
        case ">=":
            return Band(*axes, bound_, None)
    return Band(*axes, bound_, bound_)


def _difference(value: n.Value) -> tuple[tuple[Axis, Axis], Size] | None:
    """(i, j) and c of `i - j + c` or of its negative (for use inside `abs`)."""
    x = _linear(value)
    found = _as_difference(x) if x is not None else None
    return (found[0], found[1]) if found else None


def _as_difference(x: _Linear) -> tuple[tuple[Axis, Axis], Size, bool] | None:
    if x.i is None or x.j is None or x.i.name != x.j.name or x.i_factor != -x.j_factor or abs(x.i_factor) != 1:
        return None
    if x.i_factor < 0:
        return (x.i, x.j), -x.constant, True
    return (x.i, x.j), x.constant, False


def _tighter(a: Size | None, b: Size | None, op: str) -> Size | None:
    if a is None or b is None:
        return a or b if a is None or b is not None else a
    difference = (a - b).constant
    if difference is not None:
        larger = a if difference >= 0 else b
        smaller = b if difference >= 0 else a
        return larger if op == "max" else smaller
    return a.opaque(op, b)


def _meet(a: Band, b: Band) -> Band:
    low = b.low if a.low is None else a.low if b.low is None else _tighter(a.low, b.low, "max")
    high = b.high if a.high is None else a.high if b.high is None else _tighter(a.high, b.high, "min")
    return replace(a, low=low, high=high)


def written(band: Band, at: n.Value) -> list[n.Value]:
    """The band as conditions: `abs(i - j) < w` where it is symmetric, otherwise a comparison for each bound."""
    pair = TensorType("int", (band.query, band.key))
    condition = TensorType("bool", (band.query, band.key))
    i = n.Position(TensorType("int", (band.query,)), at.span)
    j = n.Position(TensorType("int", (band.key,)), at.span)
    difference = n.Pointwise(pair, at.span, "-", (i, j))

    def compared(op: str, left: n.Value, bound: Size) -> n.Value:
        return n.Pointwise(condition, at.span, op, (left, _number(bound, at)))

    if band.low is not None and band.high is not None and band.low == -band.high and band.high.integer != 0:
        return [compared("<", n.Pointwise(pair, at.span, "abs", (difference,)), band.high + 1)]
    parts: list[n.Value] = []
    if band.low is not None and band.low == band.high and band.low == Size.of(0):
        return [n.Pointwise(condition, at.span, "==", (i, j))]
    if band.low is not None:
        parts.append(
            n.Pointwise(condition, at.span, "<=", (j, i))
            if band.low == Size.of(0)
            else compared(">=", difference, band.low)
        )
    if band.high is not None:
        parts.append(
            n.Pointwise(condition, at.span, "<=", (i, j))
            if band.high == Size.of(0)
            else compared("<", difference, band.high + 1)
        )
    return parts


def _number(size: Size, at: n.Value) -> n.Value:
    number = size.integer
    kind = TensorType("int", (), True)
    return n.Const(kind, at.span, number) if number is not None else n.SizeOf(kind, at.span, size)
