"""Sets of whole numbers as unions of intervals, whose bounds may be lengths that are known only at run time.

What cannot be told of two bounds leaves a set as it is: more intervals than needed, never other numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from itertools import product

from towerdsl.ir.size import Atom, Size, SizeLimitError

#: (low, high), both included; None is unbounded
Interval = tuple[Size | None, Size | None]
Intervals = tuple[Interval, ...]

EVERY: Intervals = ((None, None),)
NONE: Intervals = ()
ZERO = Size.of(0)
ONLY_ZERO: Intervals = ((ZERO, ZERO),)
#: the most intervals of a set, and the longest text of a bound
MOST, LONGEST = 16, 48


class TooComplex(SizeLimitError):
    """The algebra has grown past what it is worth."""


def floored(size: Size, by: int = 1) -> Size:
    """The largest whole number up to `size / by`, by > 0: `(3 * n - 1) / 6` --> `(n - 1) // 2`."""
    if not all(atom.is_whole for monomial, _ in size.terms for atom, _ in monomial):
        return size.opaque("//", by)
    scale = math.lcm(*(c.denominator for _, c in size.terms))
    size, by = size * scale, by * scale
    common = math.gcd(by, *(int(c) for m, c in size.terms if m))
    constant = sum(c for m, c in size.terms if not m)
    lengths = (size - Size.of(constant)) / common
    by = by // common
    outside, inside = divmod(constant // common, by)
    if lengths.terms and lengths.terms[0][1] < 0:  # floor(-x / by) == -floor((x + by - 1) / by)
        return -floored(-lengths - inside + by - 1, by) + outside
    return (lengths + inside).opaque("//", by) + outside


def _apart(size: Size) -> tuple[Atom | None, Size]:
    """A smaller or larger of two or a quotient, and what is added to it: `min(n, 4) + 1`."""
    for monomial, coefficient in size.terms:
        if len(monomial) == 1 and monomial[0][0].op in ("min", "max", "//") and monomial[0][1] == coefficient == 1:
            return monomial[0][0], size - Size(((monomial, coefficient),))
    return None, size


@dataclass(frozen=True)
class Order:
    """What is known of sizes: the free lengths of these names are at least 1."""

    lengths: frozenset[str]

    def least(self, size: Size) -> Fraction | None:
        """A number that the size is never below, or None."""
        total = Fraction(0)
        for monomial, coefficient in size.terms:
            bounds = [self._atom(atom, coefficient > 0) for atom, power in monomial for _ in range(power)]
            number = Fraction(1)
            for bound in bounds:
                if bound is None or (len(bounds) > 1 and bound < 0) or (coefficient < 0 and len(bounds) > 1):
                    return None
                number *= bound
            total += coefficient * number
        return total

    def most(self, size: Size) -> Fraction | None:
        """A number that the size is never above, or None."""
        found = self.least(-size)
        return None if found is None else -found

    def _atom(self, atom: Atom, low: bool) -> Fraction | None:
        if atom.op == "free":
            return Fraction(1) if low and atom.name in self.lengths else None
        ends = [self.least(x) if low else self.most(x) for x in atom.args]
        known = [x for x in ends if x is not None]
        if atom.op in ("min", "max"):
            if (atom.op == "max") == low:
                return (max if low else min)(known) if known else None
            return (min if low else max)(known) if len(known) == 2 else None
        by = self.least(atom.args[1])
        if by is None or by < 1:
            return None
        number = atom.args[1].constant
        if atom.op == "%":
            if low or number is None:
                return Fraction(0) if low else None
            return number - 1 if all(x.is_whole for x in atom.args) else number
        if ends[0] is None:
            return None
        return Fraction(ends[0] // number) if number is not None else Fraction(0) if low and ends[0] >= 0 else None

    def at_most(self, a: Size, b: Size) -> bool:
        """Whether a <= b for sure."""
        room = self.least(b - a)
        if room is not None and room >= 0:
            return True
        (above, more), (below, rest) = _apart(b), _apart(a)
        if above is not None and below is not None and above.op == below.op == "//":
            (x, by), (y, other) = below.args, above.args  # x // 2 <= y // 2 where x <= y
            return by == other and by.constant is not None and self.at_most(x + rest * by, y + more * by)
        if above is not None and above.op != "//":  # a <= max(x, y) where a is at most one of both
            found = [self.at_most(a, x + more) for x in above.args]
            if any(found) if above.op == "max" else all(found):
                return True
        if below is not None and below.op != "//":
            found = [self.at_most(x + rest, b) for x in below.args]
            return any(found) if below.op == "min" else all(found)
        return False

    def below(self, a: Size, b: Size) -> bool:
        """Whether a < b for sure; both are whole."""
        return self.at_most(a + 1, b)

    # --- single bounds ----------------------------------------------------------------------------------------

    def _picked(self, a: Size | None, b: Size | None, op: str) -> Size | None:
        """`min` or `max` of two bounds that are there."""
        if a is None or b is None:
            return b if a is None else a
        if self.at_most(a, b):
            return a if op == "min" else b
        if self.at_most(b, a):
            return b if op == "min" else a
        a, b = sorted((a, b), key=str)
        found = a.opaque(op, b)
        if len(str(found)) > LONGEST:
            raise TooComplex
        return found

    def _empty(self, x: Interval) -> bool:
        return x[0] is not None and x[1] is not None and self.below(x[1], x[0])

    def _reaches(self, x: Interval, y: Interval) -> bool:
        """Whether x begins at the latest right behind the end of y."""
        return x[0] is None or y[1] is None or self.at_most(x[0], y[1] + 1)

    def _contains(self, x: Interval, y: Interval) -> bool:
        """Whether all numbers of y, if it has any, are in x."""
        low = x[0] is None or (y[0] is not None and self.at_most(x[0], y[0]))
        return low and (x[1] is None or (y[1] is not None and self.at_most(y[1], x[1])))

    # --- sets -------------------------------------------------------------------------------------------------

    def union(self, *sets: Intervals) -> Intervals:
        found: list[Interval] = []
        for x in (x for s in sets for x in s if not self._empty(x)):
            found = self._added(found, x)
        if len(found) > MOST:
            raise TooComplex
        return tuple(sorted(found, key=self._place))

    def _added(self, found: list[Interval], x: Interval) -> list[Interval]:
        if any(self._contains(y, x) for y in found):  # one that may be empty reaches nothing
            return found
        found = [y for y in found if not self._contains(x, y)]
        for y in found:
            if not (self._reaches(x, y) and self._reaches(y, x)):
                continue
            low = None if x[0] is None or y[0] is None else self._picked(x[0], y[0], "min")
            high = None if x[1] is None or y[1] is None else self._picked(x[1], y[1], "max")
            if low in (x[0], y[0]) and high in (x[1], y[1]):
                return self._added([z for z in found if z != y], (low, high))
        return [*found, x]

    def _place(self, x: Interval) -> tuple[bool, bool, Fraction, str]:
        """Where an interval stands in the order of writing: by numbers as far as there are, then by text."""
        end = x[0] if x[0] is not None else x[1]
        number = end.constant if end is not None else None
        return x[0] is not None, x[1] is None, number if number is not None else Fraction(0), f"{x[0]} {x[1]}"

    def intersection(self, a: Intervals, b: Intervals) -> Intervals:
        found = [(self._picked(x[0], y[0], "max"), self._picked(x[1], y[1], "min")) for x, y in product(a, b)]
        return self.union(tuple(found))

    def complement(self, a: Intervals) -> Intervals:
        found = EVERY
        for low, high in a:
            outside: list[Interval] = [] if low is None else [(None, low - 1)]
            outside += [] if high is None else [(high + 1, None)]
            found = self.intersection(found, tuple(outside))
        return found

    def within(self, a: Intervals, inside: Intervals) -> Intervals:
        """A set with the same numbers as `a` among those `inside`, with as few bounds as there can be.

        `0 <= x <= 3` where x is at least 0 --> `x <= 3`.
        """
        if inside == EVERY:
            return a
        both = self.intersection(a, inside)
        known = {bound for x in (*a, *inside) for bound in x}
        if any(bound not in known for x in both for bound in x):
            return a
        if not both or both == inside:
            return both and EVERY
        # what lies in gaps says nothing; one that has no numbers at some lengths is no room to grow into
        gaps = [x for x in self.complement(inside) if x[0] is None or x[1] is None or self.at_most(x[0], x[1])]
        before: dict[Size | None, Size | None] = {gap[1] + 1: gap[0] for gap in gaps if gap[1] is not None}
        behind: dict[Size | None, Size | None] = {gap[0] - 1: gap[1] for gap in gaps if gap[0] is not None}
        wide = ((before.get(x[0], x[0]), behind.get(x[1], x[1])) for x in both)
        found = self.union(tuple(wide))
        return found if len(found) <= len(a) else a

    def hull(self, a: Intervals) -> Interval:
        """The least and the largest number of a set, as far as they can be told; it has one."""
        return self._outer((x[0] for x in a), "min"), self._outer((x[1] for x in a), "max")

    def _outer(self, bounds: Iterable[Size | None], op: str) -> Size | None:
        found = list(bounds)
        known = [x for x in found if x is not None]
        return reduce(lambda a, b: self._picked(a, b, op) or a, known) if found and len(known) == len(found) else None
