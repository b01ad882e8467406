"""Whole numbers that are computed from positions, as linear forms: `2 * i - 2 * j + 3`.

The terms of a form are positions, numbers read from data, and what is not linear in them: `floor(x / w)`, `x % s`,
the larger of two, one of two by a condition. A number has one form, however it is written, as far as the rules go:
`(i + 5) // 4` is `(i + 1) // 4 + 1`, `i // 2 // 3` is `i // 6`, `-abs(x)` is `-max(x, -x)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from towerdsl.budget import spend
from towerdsl.ir import nodes as n
from towerdsl.ir.printer import show_value
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis
from towerdsl.passes.intervals import Interval, Order, TooComplex

ZERO, ONE = Size.of(0), Size.of(1)
#: the largest denominator of a number that is none of the whole ones
FINEST = 2**20
#: the longest text of what stands in a form: of the larger of two, each side has all that both are made of
LONGEST = 1_000


@dataclass(frozen=True)
class Linear:
    """The sum of factor * atom, plus a constant; atoms in one order, those of the query's position first."""

    terms: tuple[tuple[Atom, Size], ...] = ()
    constant: Size = ZERO

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.terms, self.constant))

    @cached_property
    def text(self) -> str:
        return " + ".join([*(f"{c} * {text(a)}" for a, c in self.terms), str(self.constant)])

    @property
    def axes(self) -> set[Axis]:
        return {axis for a, _ in self.terms for axis in axes_of(a)}

    @property
    def whole(self) -> bool:
        """Whether it is a whole number for sure: `n / 2` may be none."""
        inner = (f for a, _ in self.terms if isinstance(a, (Larger, Choice)) for f in a.forms)
        return self.constant.is_whole and all(f.whole for f in inner)

    def __add__(self, other: Linear) -> Linear:
        factors = dict(self.terms)
        for atom, factor in other.terms:
            factors[atom] = factors.get(atom, ZERO) + factor
        return Linear(_in_order(factors.items()), self.constant + other.constant)

    def __neg__(self) -> Linear:
        return self.times(Size.of(-1))

    def __sub__(self, other: Linear) -> Linear:
        return self + -other

    def times(self, factor: Size) -> Linear:
        return Linear(_in_order((a, c * factor) for a, c in self.terms), self.constant * factor)

    def plus(self, number: Size | int) -> Linear:
        return replace(self, constant=self.constant + number)

    def atoms(self) -> Iterator[Atom]:
        """All atoms, outer ones first."""
        for atom, _ in self.terms:
            yield atom
            if not isinstance(atom, n.Value):
                for form in atom.forms:
                    yield from form.atoms()


@dataclass(frozen=True)
class Floor:
    """floor(form / by)"""

    form: Linear
    by: Size

    @property
    def forms(self) -> tuple[Linear, ...]:
        return (self.form,)


@dataclass(frozen=True)
class Modulo:
    """form % by, from 0 to by - 1"""

    form: Linear
    by: Size

    @property
    def forms(self) -> tuple[Linear, ...]:
        return (self.form,)


@dataclass(frozen=True)
class Larger:
    """max(a, b)"""

    forms: tuple[Linear, Linear]


@dataclass(frozen=True)
class Choice:
    """The first where a condition holds, otherwise the second."""

    condition: n.Value
    forms: tuple[Linear, Linear]


Atom = n.Value | Floor | Modulo | Larger | Choice


def text(atom: Atom) -> str:
    """An atom as text: equal where the atoms are."""
    if isinstance(atom, n.Value):
        return show_value(n.plain(atom))
    spend(3)
    own = [str(atom.by)] if isinstance(atom, (Floor, Modulo)) else []
    own += [show_value(atom.condition)] if isinstance(atom, Choice) else []
    found = f"{type(atom).__name__}({', '.join([*(f.text for f in atom.forms), *own])})"
    spend(len(found) // 4)  # all that it is made of is looked at again wherever it stands
    if len(found) > LONGEST:
        raise TooComplex
    return found


def axes_of(atom: Atom) -> set[Axis]:
    """The axes along which an atom varies."""
    if isinstance(atom, n.Value):
        return set(atom.axes)
    found = set(atom.condition.axes) if isinstance(atom, Choice) else set()
    return found.union(*(f.axes for f in atom.forms))


def sides_of(axes: Iterable[Axis]) -> str:
    """ "i", "j", "ij" or "": the positions that something varies with."""
    return "".join(sorted({a.side for a in axes}))


def _in_order(terms: Iterable[tuple[Atom, Size]]) -> tuple[tuple[Atom, Size], ...]:
    places = {"i": 0, "ij": 1, "j": 2}
    kept = [(a, c) for a, c in terms if c.terms]
    return tuple(sorted(kept, key=lambda t: (places.get(sides_of(axes_of(t[0])), 3), text(t[0]))))


def single(atom: Atom) -> Linear:
    """An atom and nothing else."""
    return Linear(((atom, ONE),))


@dataclass(frozen=True)
class Reader:
    """Values --> linear forms, by what is known of lengths."""

    order: Order

    def linear(self, value: n.Value) -> Linear | None:
        """The form of a number, or None for one that has none."""
        inner = n.plain(value)
        match inner:
            case n.Const():
                number = inner.value
                if isinstance(number, bool) or not abs(number) < 2**53 or Fraction(number).denominator > FINEST:
                    return None  # 0.1 is not what is written
                return Linear(constant=Size.of(Fraction(number)))
            case n.SizeOf():
                return Linear(constant=inner.size)
            case n.Cast() if inner.type.dtype == "wide" and inner.arg.type.dtype == "int":
                return self.linear(inner.arg)
            case n.Pointwise():
                found = self._pointwise(inner)
                if found is not None:
                    return found
        return single(value) if inner.type.dtype == "int" else None

    def _pointwise(self, value: n.Pointwise) -> Linear | None:
        if value.op == "floor":
            return self._rounded(n.plain(value.args[0]))
        if value.type.dtype not in ("int", "wide"):  # the model's own floats may be too coarse for positions
            return None
        if value.op == "where":
            yes, no = (self.linear(a) for a in value.args[1:])
            return single(Choice(value.args[0], (yes, no))) if yes is not None and no is not None else None
        known = [self.linear(a) for a in value.args]
        args = [x for x in known if x is not None]
        if len(args) < len(known):
            return None
        match value.op, args:
            case "neg", [a]:
                return -a
            case "+", [a, b]:
                return a + b
            case "-", [a, b]:
                return a - b
            case "*", [a, b]:
                a, b = (b, a) if a.terms else (a, b)
                return b.times(a.constant) if not a.terms and a.constant.is_whole else None
            case "//", [a, b]:
                return None if b.terms else self.floor(a, b.constant)
            case "%", [a, b]:
                return None if b.terms else self.modulo(a, b.constant)
            case "abs", [a]:
                return self.larger(a, -a)
            case "max", [a, b]:
                return self.larger(a, b)
            case "min", [a, b]:
                return -self.larger(-a, -b)
            case "relu", [a]:
                return self.larger(a, Linear())
            case "clip", [a, low, high]:
                return -self.larger(-self.larger(a, low), -high)
            case (("floor" | "round" | "int"), [a]) if a.whole:
                return a
        return None

    def _rounded(self, value: n.Value) -> Linear | None:
        """`floor(i / 4)` and `floor` of what is whole."""
        if not (isinstance(value, n.Pointwise) and value.op == "/"):
            found = self.linear(value)
            return found if found is not None and found.whole else None
        above, below = (self.linear(a) for a in value.args)
        if value.type.dtype != "wide" or above is None or below is None or below.terms:
            return None
        return self.floor(above, below.constant)

    # --- what is not linear -----------------------------------------------------------------------------------

    def larger(self, a: Linear, b: Linear) -> Linear:
        """max(a, b)"""
        low, high = self.range(a - b)
        if low is not None and self.order.at_most(ZERO, low):
            return a
        if high is not None and self.order.at_most(high, ZERO):
            return b
        first, second = sorted((a, b), key=lambda x: x.text)
        return single(Larger((first, second)))

    def floor(self, form: Linear, by: Size) -> Linear | None:
        """floor(form / by); None where the sign of `by` is not known."""
        sign = self.sign(by) if form.whole and by.is_whole else 0
        return self.floor_of(form.times(Size.of(sign)), by * sign) if sign else None

    def floor_of(self, form: Linear, by: Size) -> Linear:
        """floor(form / by) with by > 0, in its one form."""
        outside, form = self._divided(form, by)
        if not form.terms:
            return outside.plus(form.constant.opaque("//", by))
        if self._inside(form, by):
            return outside
        smaller = _reduced(form, by)
        if smaller != (form, by):
            return outside + self.floor_of(*smaller)
        for atom, factor in form.terms:
            if isinstance(atom, Larger) and (sign := self.sign(factor)):
                # floor(max(a, b) / by) == max(floor(a / by), floor(b / by)), as it is monotone
                a, b = (self.floor_of(replaced(self, form, {atom: x}), by).times(Size.of(sign)) for x in atom.forms)
                return outside + self.larger(a, b).times(Size.of(sign))
        atom, factor = form.terms[0]
        if isinstance(atom, Floor) and len(form.terms) == 1 and factor == ONE:
            return outside + self.floor_of(atom.form.plus(form.constant * atom.by), atom.by * by)
        if negative(factor):  # floor(-x / by) == -floor((x + by - 1) / by)
            return outside - self.floor_of((-form).plus(by - 1), by)
        return outside + single(Floor(form, by))

    def modulo(self, form: Linear, by: Size) -> Linear | None:
        """form % by; None where the sign of `by` is not known."""
        sign = self.sign(by) if form.whole and by.is_whole else 0
        return self.modulo_of(form.times(Size.of(sign)), by * sign).times(Size.of(sign)) if sign else None

    def modulo_of(self, form: Linear, by: Size) -> Linear:
        """form % by with by > 0, in its one form."""
        form = self._divided(form, by)[1]
        for atom, factor in form.terms:  # x % 12 % 4 == x % 4
            if isinstance(atom, Modulo) and quotient(atom.by, by) is not None:
                return self.modulo_of(form + (atom.form - single(atom)).times(factor), by)
        if not form.terms:
            return Linear(constant=form.constant.opaque("%", by))
        if self._inside(form, by):
            return form
        smaller, part = _reduced(form, by)
        if part != by:  # (2 x + 1) % 4 == 2 * (x % 2) + 1
            unit = by / part
            return self.modulo_of(smaller, part).times(unit).plus(form.constant - smaller.constant * unit)
        form = _centered(form, by)
        return form if self._inside(form, by) else single(Modulo(form, by))

    def _inside(self, form: Linear, by: Size) -> bool:
        """Whether 0 <= form < by for sure."""
        low, high = self.range(form)
        return low is not None and high is not None and self.order.at_most(ZERO, low) and self.order.below(high, by)

    def _divided(self, form: Linear, by: Size) -> tuple[Linear, Linear]:
        """The form as by * found + rest, multiples of `by` in the first."""
        found = Linear()
        for atom, factor in form.terms:
            ratio = quotient(factor, by)
            if ratio is not None:
                found = found + single(atom).times(ratio)
        number, divisor = form.constant.integer, by.integer
        ratio = Size.of(number // divisor) if number is not None and divisor else quotient(form.constant, by)
        found = found.plus(ratio or ZERO)
        return found, form - found.times(by)

    # --- what values there are --------------------------------------------------------------------------------

    def sign(self, size: Size) -> int:
        """1 or -1, or 0 where it is not known."""
        return 1 if self.order.below(ZERO, size) else -1 if self.order.below(size, ZERO) else 0

    def range(self, form: Linear) -> Interval:
        """The least and the largest value that a form can have; None where there is none that is easy to see."""
        spend(5)
        low: Size | None = form.constant
        high: Size | None = form.constant
        for atom, factor in form.terms:
            ends: Interval = self._range(atom)
            sign = self.sign(factor)
            if sign < 0:
                ends = ends[1], ends[0]
            low = None if low is None or ends[0] is None or not sign else low + ends[0] * factor
            high = None if high is None or ends[1] is None or not sign else high + ends[1] * factor
        return low, high

    def _range(self, atom: Atom) -> Interval:
        if isinstance(atom, n.Position):
            return ZERO, atom.axes[0].size - 1
        if isinstance(atom, Floor):
            low, high = (None if x is None else x.opaque("//", atom.by) for x in self.range(atom.form))
            return low, high
        if isinstance(atom, Modulo):
            return ZERO, atom.by - 1
        if isinstance(atom, (Larger, Choice)):
            lows, highs = zip(*map(self.range, atom.forms), strict=True)
            if isinstance(atom, Larger) and None in lows:
                lows = tuple(x for x in lows if x is not None)
            low = self.order.hull(tuple((x, None) for x in lows))[0] if lows else None
            high = self.order.hull(tuple((None, x) for x in highs))[1]
            return low, high
        return None, None


def replaced(reader: Reader, form: Linear, atoms: dict[Atom, Linear]) -> Linear:
    """A form with some of its atoms replaced, also inside of others."""
    total = Linear(constant=form.constant)
    for atom, factor in form.terms:
        total = total + _replaced(reader, atom, atoms).times(factor)
    return total


def _replaced(reader: Reader, atom: Atom, atoms: dict[Atom, Linear]) -> Linear:
    if atom in atoms:
        return atoms[atom]
    if isinstance(atom, n.Value):
        return single(atom)
    forms = [replaced(reader, f, atoms) for f in atom.forms]
    if tuple(forms) == atom.forms:
        return single(atom)
    match atom:
        case Floor():
            return reader.floor_of(forms[0], atom.by)
        case Modulo():
            return reader.modulo_of(forms[0], atom.by)
        case Larger():
            return reader.larger(forms[0], forms[1])
    return single(Choice(atom.condition, (forms[0], forms[1])))


# --- arithmetic of factors -------------------------------------------------------------------------------------


def negative(size: Size) -> bool:
    """Whether the first coefficient is below 0: of a size and its negative this is one."""
    return bool(size.terms) and size.terms[0][1] < 0


def quotient(size: Size, by: Size) -> Size | None:
    """size / by where that is a polynomial with whole coefficients."""
    try:
        found = size / by
    except ValueError:
        return None
    return found if found.is_whole else None


def common(form: Linear) -> Size:
    """What all factors of a form have in common: the one size that they are multiples of, or the largest number."""
    unit = form.terms[0][1]
    ratios = [quotient(f, unit) for _, f in form.terms]
    if unit.integer is None and all(r is not None and r.integer is not None for r in ratios):
        return unit
    return Size.of(math.gcd(*(int(c) for _, f in form.terms for _, c in f.terms)))


def divided(form: Linear, by: Size, rounded: Callable[[Size], Size]) -> Linear:
    """form / by, where `by` divides all factors; the constant is rounded."""
    return Linear(tuple((a, f / by) for a, f in form.terms), rounded(form.constant))


def _reduced(form: Linear, by: Size) -> tuple[Linear, Size]:
    """Numbers that a form and `by` have in common, divided out: floor((2 x + 1) / 4) == floor(x / 2)."""
    number = by.integer
    factors = [f.integer for _, f in form.terms]
    known = [x for x in factors if x is not None]
    if number is None or len(known) < len(factors):
        return form, by
    unit = math.gcd(number, *known)
    if unit == 1 or (form.constant.integer is None and quotient(form.constant, Size.of(unit)) is None):
        return form, by
    return divided(form, Size.of(unit), lambda c: c.opaque("//", unit)), Size.of(number // unit)


def _centered(form: Linear, by: Size) -> Linear:
    """A form whose factors are the least that are equal to its own modulo `by`; of i and j one with each sign."""
    number = by.integer
    terms = []
    for atom, factor in form.terms:
        own = factor.integer
        if number is not None and own is not None:
            own %= number
            if 2 * own > number or (2 * own == number and sides_of(axes_of(atom)) == "j"):
                own -= number
            factor = Size.of(own)
        terms.append((atom, factor))
    return Linear(_in_order(terms), form.constant)
