"""Indices that are certain to leave the axis that they read.

An index is computed at single positions, with lengths that are free set to a few numbers. It is a mistake where it is
outside whatever those lengths are, or where it has one range for all long ones, and that is not inside. What data
decides is never certain; but a mask of one side, such as padding, may hide nothing. An entry that a mask hides, or a
choice leaves out, is not read.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from towerdsl.budget import spend
from towerdsl.ir import nodes as n
from towerdsl.ir.rewrite import change_values
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.ops import ELEMENTWISE
from towerdsl.passes.infer import axes as combining
from towerdsl.passes.infer.scope import Fault

Number = int | float | bool
Lengths = Mapping[str, int]
At = Mapping[Axis, int]
#: A condition, what it has to be for an entry to be read, and whether an entry counts as read where data decides it.
Guard = tuple[n.Value, bool, bool]

#: How many positions an index is computed at.
MOST = 400
SHORT, LONG = (1, 2, 3, 5, 8, 20, 100, 1_000), (10_000, 70_000)

_OPERATORS: dict[str, Callable[..., Number]] = {
    "neg": operator.neg,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "not": operator.not_,
}
_COMPARISONS: dict[str, Callable[[Number, Number], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class _Read:
    """One index of a value, and the axis that it reads."""

    value: n.Value
    index: n.Value
    axis: Axis
    guards: tuple[Guard, ...]


@dataclass(frozen=True)
class _Outside:
    """An index that is outside: where, and with which lengths."""

    number: int
    at: At
    lengths: Lengths


def wrong_reads(steps: Iterable[n.Step], results: Iterable[n.Value | n.Relation]) -> Iterator[Fault]:
    """A mistake for each index of statements and results that is certain to leave its axis."""
    roots = [*_roots(steps), *((r, ()) for r in results if isinstance(r, n.Value))]
    reads = (r for value, guards in roots for r in _reads(value, guards))
    for read in {(id(r.index), *(id(g[0]) for g in r.guards)): r for r in reads}.values():
        found = _certain(read)
        if found is not None:
            yield _fault(read, *found)


def _roots(steps: Iterable[n.Step]) -> Iterator[tuple[n.Value, tuple[Guard, ...]]]:
    for step in steps:
        match step:
            case n.Set():
                yield step.value, ()
            case n.Evaluate():
                a = step.average
                seen = tuple((x, True, not _of_pairs(x)) for x in _conjuncts(a.visible))
                yield from ((x, ()) for x in (a.query, a.key, a.value, a.visible) if x is not None)
                yield from ((x, seen) for x in (a.score, a.message))
            case n.Loop():
                for body in {id(body): body for body in step.bodies}.values():
                    yield from _roots(body)
            case n.Scan():
                index = n.Position(TensorType("int", (Axis(step.index, step.axis.size),)), None)
                at = partial(_position, step.index, index)
                yield from _roots(change_values(step.body, at))


def _position(name: str, index: n.Value, value: n.Value) -> n.Value:
    """The index of a loop as a position along it."""
    return replace(index, span=value.span) if isinstance(value, n.Local) and value.name == name else value


def _reads(value: n.Value, guards: tuple[Guard, ...]) -> Iterator[_Read]:
    """Every index below a value, with what has to hold where it is read."""
    if isinstance(value, n.Gather):
        axes = value.table.axes[value.lead :]
        yield from (_Read(value, x, axis, guards) for x, axis in zip(value.indices, axes, strict=False))
    if isinstance(value, n.Apply) and value.op.name == "embed":
        count = dict(value.result.parameters)["weight"][0]
        yield _Read(value, value.args[0], Axis(None, count), guards)
    if isinstance(value, n.Rename):
        guards = tuple((_renamed(c, value), truth, open_) for c, truth, open_ in guards)
    for k, operand in enumerate(value.operands):
        own = guards
        if isinstance(value, n.Pointwise) and value.op == "where" and k:
            own = (*guards, (value.args[0], k == 1, False))
        if isinstance(value, n.Pointwise) and value.op in ("and", "or"):
            others = (x for x in value.args if x is not operand)
            own = (*guards, *((x, value.op == "and", not _of_pairs(x)) for x in others))
        yield from _reads(operand, own)


def _conjuncts(condition: n.Value | None) -> Iterator[n.Value]:
    """The conditions that all have to hold."""
    if isinstance(condition, n.Pointwise) and condition.op == "and":
        yield from (x for arg in condition.args for x in _conjuncts(arg))
    elif condition is not None:
        yield condition


def _of_pairs(condition: n.Value) -> bool:
    """Whether it is about both positions. Data of one side hides what is padding: anything may be visible there."""
    return {"i", "j"} <= {a.side for a in condition.axes}


def _renamed(condition: n.Value, outer: n.Rename) -> n.Value:
    """A condition in the names that axes have inside of `outer`."""
    names = dict(zip(outer.axes, outer.arg.axes, strict=True))
    return n.Rename(condition.type.with_axes(names.get(a, a) for a in condition.axes), condition.span, condition)


# --- certainty -------------------------------------------------------------------------------------------------


def _certain(read: _Read) -> tuple[_Outside, tuple[int, int] | None] | None:
    """A position where an index is outside, if it is certain to be; and its least and largest number, if any."""
    positions = _positions(read.index)
    for condition, *_ in read.guards:
        positions |= _positions(condition)
    names = sorted(
        set().union(*(_names(x) for x in (read.index, *(c for c, *_ in read.guards))), read.axis.size.free_names)
    )
    if not names:
        return _found(read, positions, {})
    short, long = [dict.fromkeys(names, x) for x in SHORT], [dict.fromkeys(names, x) for x in LONG]
    ends = [_found(read, positions, lengths) for lengths in long]
    if ends[1] is None:
        return None
    whole = ends[1][1] if ends[0] is not None and ends[0][1] == ends[1][1] else None
    if whole is None:  # the longer, the larger: outside for all lengths, or not certain
        mixed = [{x: 2 + abs(k - m) for m, x in enumerate(names)} for k in range(len(names))]
        if any(_found(read, positions, lengths) is None for lengths in (long[0], *short, *mixed)):
            return None
    first = next(x for x in (*(_found(read, positions, lengths) for lengths in short), ends[1]) if x is not None)
    return first[0], whole


def _found(read: _Read, positions: set[Axis], lengths: Lengths) -> tuple[_Outside, tuple[int, int]] | None:
    """Where an index is outside with these lengths, and its range."""
    size = _size(read.axis.size, lengths)
    spans = {axis: _size(axis.size, lengths) for axis in positions}
    if size is None or None in spans.values():
        return None
    each = max(2, int(MOST ** (1 / max(1, len(spans)))))
    outside: _Outside | None = None
    numbers: list[int] = []
    for places in itertools.product(*(_places(length or 0, each) for length in spans.values())):
        at = dict(zip(spans, places, strict=True))
        if not all(_lets(guard, at, lengths) for guard in read.guards):
            continue
        number = _at(read.index, at, lengths)
        if number is None:
            continue
        numbers.append(int(number))
        if outside is None and not 0 <= number < size:
            outside = _Outside(int(number), at, lengths)
    return None if outside is None else (outside, (min(numbers), max(numbers)))


def _lets(guard: Guard, at: At, lengths: Lengths) -> bool:
    """Whether an entry is read, as far as one condition says."""
    condition, truth, open_ = guard
    found = _at(condition, at, lengths)
    return open_ if found is None else bool(found) == truth


def _places(length: int, most: int) -> Iterable[int]:
    """Positions of an axis: all, or the first, the last and some between."""
    if length <= most:
        return range(length)
    third = max(1, most // 3)
    between = range(third, length - third, max(1, (length - 2 * third) // third))
    return sorted({*range(third), *between, *range(length - third, length)})


def _positions(value: n.Value) -> set[Axis]:
    """The axes whose positions a value is computed from."""
    if isinstance(value, n.Position | n.Range):
        return {value.axes[0]}
    if isinstance(value, n.Rename):
        names = dict(zip(value.arg.axes, value.axes, strict=True))
        return {names.get(a, a) for a in _positions(value.arg)}
    return set().union(*(_positions(x) for x in value.operands))


def _names(value: n.Value) -> set[str]:
    """The free lengths that a value is computed from."""
    sizes = [x.size for x in value.walk() if isinstance(x, n.SizeOf)]
    sizes += [a.size for x in value.walk() if isinstance(x, n.Position | n.Range) for a in x.axes]
    return set().union(*(size.free_names for size in sizes))


def _size(size: Size, lengths: Lengths) -> int | None:
    return size.substitute({name: Size.of(number) for name, number in lengths.items()}).integer


# --- a value at one place --------------------------------------------------------------------------------------


def _at(value: n.Value, at: At, lengths: Lengths) -> Number | None:
    """What a value is at these positions; None where data decides, or rounding may."""
    spend()
    match value:
        case n.Const() | n.Fill():
            return value.value
        case n.SizeOf():
            return _size(value.size, lengths)
        case n.Position() | n.Range():
            return at.get(value.axes[0])
        case n.Shared() | n.Cast():
            return _at(value.arg, at, lengths)
        case n.Rename():
            inner = {a: at[b] for a, b in zip(value.arg.axes, value.axes, strict=True) if b in at}
            return _at(value.arg, {**at, **inner}, lengths)
        case n.Pointwise():
            return _pointwise(value, at, lengths)
    return None


def _pointwise(value: n.Pointwise, at: At, lengths: Lengths) -> Number | None:
    op = value.op
    if op == "where":
        condition = _at(value.args[0], at, lengths)
        return None if condition is None else _at(value.args[1 if condition else 2], at, lengths)
    args = [_at(x, at, lengths) for x in value.args]
    if op in ("and", "or"):
        ends = op == "or"  # the truth value that decides all
        return ends if any(x is not None and bool(x) == ends for x in args) else None if None in args else not ends
    known = [x for x in args if x is not None]
    if len(known) < len(args):
        return None
    if op in _COMPARISONS:
        a, b = known
        close = a != b and isinstance(a - b, float) and math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6)
        return None if close else _COMPARISONS[op](a, b)
    if op in ("int", "floor", "round") and isinstance(known[0], float):
        edge = known[0] + (0.5 if op == "round" else 0)  # where it jumps, a float may fall on either side
        if not math.isfinite(edge) or abs(edge - round(edge)) <= 1e-5 * max(1.0, abs(edge)):
            return None
    function = _OPERATORS.get(op) or ELEMENTWISE[op].static
    try:
        found = function(*known) if function is not None else None
    except (ArithmeticError, ValueError, TypeError):
        return None
    return found if isinstance(found, int) or (isinstance(found, float) and math.isfinite(found)) else None


# --- what is said ----------------------------------------------------------------------------------------------


def _fault(read: _Read, outside: _Outside, span: tuple[int, int] | None) -> Fault:
    where = read.index.span or read.value.span
    assert where is not None
    text = " ".join(where.text.split())
    number, size = outside.number, read.axis.size
    last = size - 1
    places = [f"{_written(axis, outside.at)} = {k}" for axis, k in sorted(outside.at.items(), key=lambda x: str(x[0]))]
    given = [f"{name} = {length}" for name, length in sorted(outside.lengths.items())]
    at, of = f" at {', '.join(places)}" if places else "", f", with {', '.join(given)}" if given else ""
    what, thing = f"a table of {size}", "table"
    if isinstance(read.value, n.Gather):
        what, thing = f"axis {read.axis.detailed}", "axis"
    notes = [f"it is {number}{at}{of}; the {thing} has positions 0 to {last}"]
    if isinstance(read.value, n.Gather):
        notes.append(combining.describe("tensor", combining.unnamed(read.value.table)))
    definitions = where.definitions
    if isinstance(read.index, n.Const):
        help = f"write {last} for the last one" if number < 0 else f"write {last} at most"
    elif definitions:
        help = f"give `{definitions[0][0]}` other numbers"
    else:
        help = f"write `clip({text}, 0, {last})` where the nearest entry is meant"
    if span is not None and span[0] >= 0 and size.integer is not None:
        help = f"make the {thing} {span[1] + 1} long, or {help}"
    return Fault("index", f"the index `{text}` leaves {what}", where, notes, help)


def _written(axis: Axis, at: At) -> str:
    """The position along an axis, as a spec writes it."""
    alone = axis.side and sum(a.side == axis.side for a in at) == 1
    return axis.side if alone else str(axis)
