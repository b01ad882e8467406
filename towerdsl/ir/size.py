"""Sizes: polynomials over free lengths, such as `n * d + 1` or `h // 4`, known up to what is bound at run time.

A `Size` is kept in one normal form, so that two sizes are equal exactly when their normal forms are
(`2 * n - n == n`). What is not a polynomial (`n // 2`, `n % 3`, `max(n, 4)`) is an opaque atom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, reduce

from towerdsl.budget import TooMuch, spend


@dataclass(frozen=True)
class Atom:
    """A free length (`op` is "free"), or an opaque operation on sizes."""

    op: str
    name: str = ""
    args: tuple[Size, ...] = ()

    def __str__(self) -> str:
        return self.text

    def __hash__(self) -> int:
        return hash(self.text)

    @cached_property
    def text(self) -> str:
        return self.render(lambda name: name)

    def render(self, free: Callable[[str], str]) -> str:
        """Text with free lengths written by `free`; a quotient or remainder binds like a product."""
        if self.op == "free":
            return free(self.name)
        a, b = (x.render(free) for x in self.args)
        if self.op in ("min", "max"):
            return f"{self.op}({a}, {b})"
        return f"{f'({a})' if self.args[0].is_sum else a} {self.op} {b if self.args[1].is_atom else f'({b})'}"

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole number for sure: `max(n / 2, 1)` may be none."""
        return self.op in ("free", "//") or all(x.is_whole for x in self.args)

    @property
    def key(self) -> tuple[str, str]:
        return (self.text, self.op)


class SizeLimitError(TooMuch):
    """A size has grown past what any real model needs."""


MAX_TERMS = 64
MAX_DEGREE = 16
MAX_COEFFICIENT = 2**63

Monomial = tuple[tuple[Atom, int], ...]
OPAQUE: dict[str, Callable[[int, int], int]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
}


@dataclass(frozen=True)
class Size:
    """A polynomial: pairs of a monomial and its coefficient, in a fixed order."""

    terms: tuple[tuple[Monomial, Fraction], ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.terms)

    # --- building ---------------------------------------------------------------------------------------------

    @staticmethod
    def of(value: int | Fraction | Size) -> Size:
        if isinstance(value, Size):
            return value
        return Size((((), Fraction(value)),)) if value else Size(())

    @staticmethod
    def free(name: str) -> Size:
        """The length of an axis that is bound at run time."""
        return Size(((((Atom("free", name), 1),), Fraction(1)),))

    @staticmethod
    def _from(terms: Mapping[Monomial, Fraction]) -> Size:
        spend(4 + 2 * len(terms))
        kept = [(m, c) for m, c in terms.items() if c]
        if len(kept) > MAX_TERMS or any(
            abs(c.numerator) > MAX_COEFFICIENT or c.denominator > MAX_COEFFICIENT or sum(p for _, p in m) > MAX_DEGREE
            for m, c in kept
        ):
            raise SizeLimitError("the size is too complicated")
        return Size(tuple(sorted(kept, key=lambda t: (-sum(p for _, p in t[0]), [(a.key, p) for a, p in t[0]]))))

    def __add__(self, other: int | Fraction | Size) -> Size:
        terms = dict(self.terms)
        for m, c in Size.of(other).terms:
            terms[m] = terms.get(m, Fraction(0)) + c
        return Size._from(terms)

    def __neg__(self) -> Size:
        return Size(tuple((m, -c) for m, c in self.terms))

    def __sub__(self, other: int | Fraction | Size) -> Size:
        return self + -Size.of(other)

    def __mul__(self, other: int | Fraction | Size) -> Size:
        terms: dict[Monomial, Fraction] = {}
        if len(self.terms) * len(Size.of(other).terms) > MAX_TERMS**2:
            raise SizeLimitError("the size is too complicated")
        spend(4 * len(self.terms) * len(Size.of(other).terms))
        for m1, c1 in self.terms:
            for m2, c2 in Size.of(other).terms:
                powers: dict[Atom, int] = dict(m1)
                for atom, p in m2:
                    powers[atom] = powers.get(atom, 0) + p
                m = tuple(sorted(powers.items(), key=lambda x: x[0].key))
                terms[m] = terms.get(m, Fraction(0)) + c1 * c2
        return Size._from(terms)

    def __truediv__(self, other: int | Fraction | Size) -> Size:
        """Exact division by a number, or by a size that divides every term. Raises ValueError otherwise."""
        other = Size.of(other)
        if len(other.terms) != 1:
            raise ValueError(f"{self} / {other} is not a polynomial")
        (monomial, coefficient) = other.terms[0]
        terms: dict[Monomial, Fraction] = {}
        for m, c in self.terms:
            powers = dict(m)
            for atom, p in monomial:
                powers[atom] = powers.get(atom, 0) - p
                if powers[atom] < 0:
                    raise ValueError(f"{self} / {other} is not a polynomial")
            key = tuple(sorted(((a, p) for a, p in powers.items() if p), key=lambda x: x[0].key))
            terms[key] = terms.get(key, Fraction(0)) + c / coefficient
        return Size._from(terms)

    def opaque(self, op: str, other: int | Size) -> Size:
        """`self // other`, `self % other`, `min` or `max`; computed where both are numbers or it divides exactly."""
        other = Size.of(other)
        a, b = self.constant, other.constant
        if a is not None and b is not None:
            if op in ("//", "%") and b == 0:
                raise ZeroDivisionError
            return Size.of(Fraction(OPAQUE[op](a, b)))  # type: ignore[arg-type]
        if op in ("//", "%") and b:
            divisible = [(m, c) for m, c in self.terms if c % b == 0 and all(x.is_whole for x, _ in m)]
            rest = Size(tuple(t for t in self.terms if t not in divisible))
            whole = Size(tuple((m, c / b) for m, c in divisible))
            if rest.constant is not None:  # (4 n + 3) // 4 == n + 3 // 4
                return whole + rest.opaque("//", other) if op == "//" else rest.opaque("%", other)
        if op in ("min", "max") and self == other:
            return self
        atom = Atom(op, "", (self, other))
        if len(str(atom)) > 1000:
            raise SizeLimitError("the size is too complicated")
        return Size(((((atom, 1),), Fraction(1)),))

    # --- reading ----------------------------------------------------------------------------------------------

    @property
    def constant(self) -> Fraction | None:
        """The number that this is, or None if it has a free length."""
        if not self.terms:
            return Fraction(0)
        return self.terms[0][1] if len(self.terms) == 1 and not self.terms[0][0] else None

    @property
    def integer(self) -> int | None:
        """The integer that this is, or None."""
        c = self.constant
        return int(c) if c is not None and c.denominator == 1 else None

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole number whatever its lengths are, as far as its coefficients show."""
        return all(c.denominator == 1 and all(a.is_whole for a, _ in m) for m, c in self.terms)

    @property
    def is_free(self) -> bool:
        """Whether this is a free length and nothing else."""
        return len(self.free_names) == 1 and self == Size.free(next(iter(self.free_names)))

    @property
    def is_sum(self) -> bool:
        return len(self.terms) > 1

    @property
    def is_atom(self) -> bool:
        """Whether its text is one number or name, or a call."""
        if self.integer is not None:
            return True
        if len(self.terms) != 1 or len(self.terms[0][0]) != 1:
            return False
        (((atom, power),), coefficient) = self.terms[0]
        return power == coefficient == 1 and atom.op not in ("//", "%")

    @property
    def free_names(self) -> set[str]:
        return set(self._names())

    def _names(self) -> Iterator[str]:
        for m, _ in self.terms:
            for atom, _ in m:
                if atom.op == "free":
                    yield atom.name
                for arg in atom.args:
                    yield from arg._names()

    def substitute(self, values: Mapping[str, Size]) -> Size:
        """This size with free lengths replaced."""

        def atom_value(atom: Atom) -> Size:
            if atom.op == "free":
                return values.get(atom.name, Size.free(atom.name))
            a, b = (x.substitute(values) for x in atom.args)
            return a.opaque(atom.op, b)

        total = Size(())
        for m, c in self.terms:
            product = reduce(lambda x, y: x * y, (atom_value(a) for a, p in m for _ in range(p)), Size.of(c))
            total = total + product
        return total

    def render(self, free: Callable[[str], str]) -> str:
        """Text of the polynomial, with free lengths written by `free`; also valid Python."""
        text = ""
        for m, c in self.terms:
            factors = [] if m and abs(c.numerator) == 1 else [str(abs(c.numerator))]
            for a, p in m:
                factor = a.render(free)
                # -x // y is (-x) // y, and x * y // z is (x * y) // z
                if a.op in ("//", "%") and (len(m) > 1 or p > 1 or abs(c) != 1 or (c < 0 and not text)):
                    factor = f"({factor})"
                factors.append(factor if p == 1 else f"{factor} ** {p}")
            part = " * ".join(factors) + (f" / {c.denominator}" if c.denominator != 1 else "")
            sign = "-" if c < 0 else "+" if text else ""
            text += f" {sign} {part}" if text else sign + part
        return text or "0"

    def __str__(self) -> str:
        return self.render(lambda name: name)


def product(sizes: Iterator[Size] | list[Size] | tuple[Size, ...]) -> Size:
    """The product of sizes; 1 if there are none."""
    return reduce(lambda a, b: a * b, sizes, Size.of(1))


def whole(value: float) -> int | None:
    """The integer that a number is, up to rounding of its last digits, or None."""
    nearest = round(value) if math.isfinite(value) else 0
    return nearest if math.isfinite(value) and abs(value - nearest) <= 1e-9 * max(1.0, abs(value)) else None
