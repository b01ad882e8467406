"""Attention --> what it reads along each axis, and how many pairs it averages.

An axis that both query and key have is read as the condition says: bands of the locality analysis, residues
(`(i - j) % s == 0`), unions, positions that see and are seen by all. What data hides (`keep[j]`) counts as visible;
a condition of pairs that depends on data is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from towerdsl.ir import nodes as n
from towerdsl.ir.reach import ALL, EVERYTHING, STILL, ZERO, Comb, Reach, band, unknown
from towerdsl.ir.size import Atom, Size, product
from towerdsl.ir.types import Axis
from towerdsl.passes.locality import Classes, End, Locality, Residue, Union
from towerdsl.passes.score import sides

_STILL = (STILL,)


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
    comb = _comb(i, j, locality)
    readings = {id(r.value): r for r in locality.readings}
    strides: list[int] = []
    others: list[tuple[Reach, Size]] = []
    for value in locality.rest:
        if not _about(value, i, j):
            continue
        reading = readings.get(id(value))
        if (reason := _mixed(value, i, j)) is not None:
            others.append((_unknown(reason), whole))
        elif isinstance(reading, Residue) and reading.rest == ZERO and reading.step.integer is not None:
            strides.append(reading.step.integer)
        elif isinstance(reading, Classes):  # itself among them
            others.append((_unknown("windows side by side", True), i.size * reading.width))
        elif isinstance(reading, Union):
            own = locality.without(*(r for r in locality.readings if r is not reading))
            others.append(_union(own.alternatives(), i, j))
            comb = EVERYTHING  # each of the alternatives is in the band
        else:
            others.append((_unknown("a condition of another kind"), whole))
    reach = Reach((comb,))
    if strides:
        reach = _strided(comb, strides)
    pairs = _counted(reach, i, j)
    for other, count in others:
        narrow = reach == ALL and len(others) == 1
        still = reach.still and other.still
        reach = other if narrow else _unknown("several conditions meet", still)
        pairs = count if pairs == whole else pairs
    return reach, pairs


def _comb(i: Axis, j: Axis, locality: Locality) -> Comb:
    return next((Comb(b.low, b.high) for b in locality.bands if b.query == i and b.key == j), EVERYTHING)


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


def _mixed(part: n.Value, i: Axis, j: Axis) -> str | None:
    """What a condition is about beside the positions along one axis."""
    if any(isinstance(v, n.Member) for v in part.walk()):
        return "the pairs of a relation"
    if _reads_data(part):
        return "a condition that depends on the input"
    if any(a.side and a not in (i, j) for a in part.axes):
        return "a condition over several axes"
    return "a condition that differs between heads" if any(not a.side for a in part.axes) else None


def _union(options: Sequence[Locality], i: Axis, j: Axis) -> tuple[Reach, Size]:
    """Alternatives of which one has to hold. Positions that see everything and are seen by everything are hubs."""
    reach, pairs = Reach(), Size.of(0)
    hubs: set[tuple[str, bool]] = set()
    for option in options:
        about = [v for v in option.rest if _about(v, i, j)]
        if len(about) == len(option.ends) == 1 and _comb(i, j, option) == EVERYTHING:
            (end,) = option.ends
            number, first = _number(end)
            if number is not None:
                hubs.add((end.axis.side, first and number.constant is not None))
                pairs = pairs + number * (j.size if end.axis.side == "i" else i.size)
                continue
        found, count = _along(i, j, option)
        reach, pairs = reach.union(found) if reach.combs or reach.unknown else found, pairs + count
    if hubs and not reach.unknown:
        both = hubs == {("i", True), ("j", True)}
        reach = Reach(reach.combs, hubs=both, more=not both)
    return reach, pairs


def _number(end: End) -> tuple[Size | None, bool]:
    """How many positions there are up to an end, or from one on, and whether they are the first."""
    if end.low is None:
        return (None, False) if end.high is None else (end.high + 1, True)
    return (end.axis.size - end.low, False) if end.high is None else (None, False)


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
