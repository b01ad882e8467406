"""Attention --> what it reads along each axis, and how many pairs it averages.

An axis that both query and key have is read as the condition says: bands of the locality analysis, residues
(`(i - j) % s == 0`), unions, positions that see and are seen by all. What data hides (`keep[j]`) counts as visible;
a condition of pairs that depends on data is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from towerdsl.ir import nodes as n
from towerdsl.ir.reach import ALL, Comb, Reach, band, unknown
from towerdsl.ir.size import Atom, Size, product
from towerdsl.ir.types import Axis
from towerdsl.passes.locality import Band, Locality, analyze
from towerdsl.passes.score import sides

ONE = Size.of(1)
_STILL = (Comb(Size.of(0), Size.of(0)),)


@dataclass(frozen=True)
class Seen:
    """Along one axis that query and key have: the reach, and at most how many pairs there are."""

    query: Axis
    key: Axis
    reach: Reach
    pairs: Size


def _unknown(reason: str, still: bool = False) -> Reach:
    return unknown(reason, _STILL if still else (), features=False)


def seen(average: n.Average, locality: Locality) -> tuple[Seen, ...]:
    """What an attention reads along each axis that its query and key share."""
    paired = [(i, j) for i in average.positions for j in average.over if i.name == j.name]
    found = (Seen(i, j, *_along(i, j, locality)) for i, j in paired)
    # keys of another length, such as a memory and the sequence, are related by the condition alone
    return tuple(s for s in found if s.query.size == s.key.size or s.reach != ALL)


def visible_pairs(average: n.Average, locality: Locality) -> Size:
    """At most how many pairs of one query position and one key position are visible."""
    if locality.never:
        return Size.of(0)
    known = seen(average, locality)
    count = product([s.pairs for s in known])
    alone = [a for a in average.positions if all(a != s.query for s in known)]
    alone += [a for a in average.over if all(a != s.key for s in known)]
    return count * product([a.size for a in alone])


def _along(i: Axis, j: Axis, locality: Locality) -> tuple[Reach, Size]:
    """The reach and the number of pairs along one axis, from the parts of a condition that are about it."""
    if locality.never:
        return Reach(), Size.of(0)
    whole = i.size * j.size
    comb = next((Comb(b.low, b.high) for b in locality.bands if b.query == i and b.key == j), Comb(None, None))
    found = [_part(part, i, j) for part in locality.rest if _about(part, i, j)]
    strides = [x for x in found if isinstance(x, int)]
    others = [x for x in found if not isinstance(x, int)]
    reach = Reach((comb,)) if comb.low is not None or comb.high is not None else ALL
    if strides:
        reach = _strided(comb, strides)
    pairs = _counted(reach, i, j)
    for other, count in others:
        narrow = reach == ALL and len(others) == 1
        still = reach.still and other.still
        reach = other if narrow else _unknown("several conditions meet", still)
        pairs = count if pairs == whole else pairs
    return reach, pairs


def _strided(comb: Comb, strides: list[int]) -> Reach:
    """Multiples of a number, inside a band."""
    step = strides[0]
    if len(set(strides)) > 1:
        return _unknown("several strides meet", comb.still)
    if comb.low is None and comb.high is None:
        return Reach((Comb(None, None, step),))
    ends = [None if x is None else x.integer for x in (comb.low, comb.high)]
    if (comb.low is not None and ends[0] is None) or (comb.high is not None and ends[1] is None):
        return _unknown("a distance is known only at run time", comb.still)
    low = None if ends[0] is None else -(-ends[0] // step) * step
    high = None if ends[1] is None else ends[1] // step * step
    return band(low, high, step)


def _about(part: n.Value, i: Axis, j: Axis) -> bool:
    """Whether a condition is about this axis, beyond what data hides of the queries or of the keys."""
    if i not in part.axes and j not in part.axes:
        return False
    return not (_reads_data(part) and len(sides(part)) < 2)


def _reads_data(part: n.Value) -> bool:
    return any(isinstance(v, (n.Local, n.Weight, n.Gather, n.Member, n.Apply)) for v in part.walk())


def _part(part: n.Value, i: Axis, j: Axis) -> int | tuple[Reach, Size]:
    """A stride; or the reach of a condition and its pairs."""
    whole = i.size * j.size
    if any(isinstance(v, n.Member) for v in part.walk()):
        return _unknown("the pairs of a relation"), whole
    if _reads_data(part):
        return _unknown("a condition that depends on the input"), whole
    if any(a.side and a not in (i, j) for a in part.axes):
        return _unknown("a condition over several axes"), whole
    if any(not a.side for a in part.axes):
        return _unknown("a condition that differs between heads"), whole
    if (step := _stride(part, i, j)) is not None:
        return step
    if (width := _classes(part)) is not None:
        return _unknown("windows side by side", True), i.size * width
    if isinstance(part, n.Pointwise) and part.op == "or":
        return _union(_disjuncts(part), i, j)
    return _unknown("a condition of another kind"), whole


def _disjuncts(value: n.Value) -> list[n.Value]:
    value = n.plain(value)
    if isinstance(value, n.Pointwise) and value.op == "or":
        return [part for arg in value.args for part in _disjuncts(arg)]
    return [value]


def _union(parts: list[n.Value], i: Axis, j: Axis) -> tuple[Reach, Size]:
    """Parts of which one has to hold. Positions that see everything and are seen by everything are hubs."""
    reach, pairs = Reach(), Size.of(0)
    ends: dict[str, Size] = {}
    for part in parts:
        if (end := _first(part)) is not None:
            side, number = end
            ends[side] = number
            pairs = pairs + number * (j.size if side == "i" else i.size)
            continue
        found, count = _along(i, j, analyze(part))
        reach, pairs = reach.union(found) if reach.combs or reach.unknown else found, pairs + count
    if ends and not reach.unknown:
        hubs = len(ends) == 2 and all(number.constant is not None for number in ends.values())
        reach = Reach(reach.combs, hubs=hubs, more=not hubs)
    return reach, pairs


def _first(part: n.Value) -> tuple[str, Size] | None:
    """The side and g of `i < g`, `j < g`: the first g positions."""
    found = analyze(part)
    if found.bands or len(found.rest) != 1:
        return None
    part = found.rest[0]
    if not isinstance(part, n.Pointwise) or part.op not in ("<", "<=", ">", ">=", "=="):
        return None
    left, right = (n.plain(x) for x in part.args)
    op = part.op
    if isinstance(right, n.Position):
        left, right, op = right, left, {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(op, op)
    number = _number(right)
    if not isinstance(left, n.Position) or number is None or left.axes[0].side not in ("i", "j"):
        return None
    count = {"<": number, "<=": number + 1}.get(op)
    if op == "==" and number == Size.of(0):
        count = ONE
    return None if count is None or (count.constant is not None and count.constant < 1) else (left.axes[0].side, count)


def _number(value: n.Value) -> Size | None:
    value = n.plain(value)
    if isinstance(value, n.SizeOf):
        return value.size
    if isinstance(value, n.Const) and isinstance(value.value, int) and not isinstance(value.value, bool):
        return Size.of(value.value)
    return None


def _stride(part: n.Value, i: Axis, j: Axis) -> int | None:
    """s of `(i - j) % s == 0`."""
    if not (isinstance(part, n.Pointwise) and part.op == "=="):
        return None
    left, right = (n.plain(x) for x in part.args)
    if _number(right) is None:
        left, right = right, left
    if _number(right) != Size.of(0) or not (isinstance(left, n.Pointwise) and left.op == "%"):
        return None
    step = _number(left.args[1])
    equal = analyze(n.Pointwise(part.type, part.span, "==", (left.args[0], right)))
    zero = (Band(i, j, Size.of(0), Size.of(0)),)
    return step.integer if step is not None and equal.bands == zero and step.integer and step.integer > 0 else None


def _classes(part: n.Value) -> Size | None:
    """w of `(i + s) // w == (j + s) // w`: at most so many j are in the class of an i, itself among them."""
    if not (isinstance(part, n.Pointwise) and part.op == "=="):
        return None
    sources = [n.plain(x) for x in part.args]
    if not all(isinstance(x, n.Pointwise) and x.op == "//" for x in sources):
        return None
    a, b = (x for x in sources if isinstance(x, n.Pointwise))
    same = analyze(n.Pointwise(part.type, part.span, "==", (a.args[0], b.args[0]))).bands
    width, other = _number(a.args[1]), _number(b.args[1])
    if width is None or width != other or len(same) != 1 or same[0].low != Size.of(0) or same[0].high != Size.of(0):
        return None
    return width


def _counted(reach: Reach, i: Axis, j: Axis) -> Size:
    """At most how many pairs there are: for each i as many as there are differences, never more than all."""
    if reach.unknown:
        return i.size * j.size
    (comb,) = reach.combs
    if comb.low is None or comb.high is None:
        if comb.step == 1 or comb.low is not None or comb.high is not None:
            return i.size * j.size
        return i.size * ((j.size - 1).opaque("//", comb.step) + 1)
    room = comb.high - comb.low
    width = room.opaque("//", comb.step) + 1
    return i.size * width.opaque("min", j.size)


def on_long_axes(size: Size) -> Size:
    """A size where every axis is long: `min(15, n)` is 15."""

    def factor(atom: Atom) -> Size:
        numbers = [x for x in atom.args if x.constant is not None] if atom.op == "min" else []
        return numbers[0] if numbers else Size(((((atom, 1),), Fraction(1)),))

    total = Size.of(0)
    for monomial, coefficient in size.terms:
        total = total + product([factor(atom) for atom, power in monomial for _ in range(power)]) * Size.of(coefficient)
    return total
