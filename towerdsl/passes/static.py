"""Arithmetic of static values: numbers, truth values and sizes, known when compiling up to free lengths."""

from __future__ import annotations

import math
from fractions import Fraction

from towerdsl.ir.size import Size, whole

Static = int | float | bool | Size | str
#: What a size can be set to from outside.
Setting = Static | list[Static] | tuple[Static, ...]
LIMIT = 2**63


class StaticError(Exception):
    """The mistake in a static computation, as a message."""


def normal(value: Static) -> Static:
    """A size without free lengths is a number; a number has a bounded magnitude. Raises StaticError."""
    if isinstance(value, Size):
        c = value.constant
        if c is not None:
            value = int(c) if c.denominator == 1 else float(c)
    if isinstance(value, int | float) and (abs(value) >= LIMIT if isinstance(value, int) else not math.isfinite(value)):
        raise StaticError("the number is too large")
    return value


def binary(op: str, a: Static, b: Static) -> Static | None:
    """The value of `a op b`, or None where it is only known at run time. Raises StaticError."""
    if isinstance(a, str) or isinstance(b, str):
        raise StaticError(f"text cannot be combined with `{op}`")
    if isinstance(a, Size) or isinstance(b, Size):
        result = _sizes(op, a, b)
        return None if result is None else normal(result)
    try:
        if op == "**":
            if abs(b) > 1000 or (isinstance(a, int) and isinstance(b, int) and abs(a) > 2**32 and b > 1):
                raise StaticError("the number is too large")
            power = a**b
            if isinstance(power, complex):
                raise StaticError(f"{a} ** {b} is not a real number")
            return normal(power)
        value: Static
        match op:
            case "+":
                value = a + b
            case "-":
                value = a - b
            case "*":
                value = a * b
            case "/":
                value = a / b
            case "//":
                value = a // b
            case "%":
                value = a % b
            case _:
                raise AssertionError(op)
        return normal(value)
    except ZeroDivisionError:
        raise StaticError("division by zero") from None
    except OverflowError:
        raise StaticError("the number is too large") from None


def _sizes(op: str, a: int | float | Size, b: int | float | Size) -> Static | None:
    if not isinstance(a, Size) and whole(a) is None or not isinstance(b, Size) and whole(b) is None:
        return None
    x = a if isinstance(a, Size) else Size.of(whole(a) or 0)
    y = b if isinstance(b, Size) else Size.of(whole(b) or 0)
    try:
        match op:
            case "+":
                return x + y
            case "-":
                return x - y
            case "*":
                return x * y
            case "/":
                return x / y
            case "//" | "%" | "min" | "max":
                return x.opaque(op, y)
            case "**":
                power = y.integer
                if power is None or not 0 <= power <= 8:
                    return None
                result = Size.of(1)
                for _ in range(power):
                    result = result * x
                return result
    except ValueError:
        return None
    except ZeroDivisionError:
        raise StaticError("division by zero") from None
    raise AssertionError(op)


def compare(op: str, a: Static, b: Static) -> bool | None:
    """Whether `a op b` holds, or None where it depends on a free length. A free length is at least 1."""
    if isinstance(a, str) or isinstance(b, str):
        if op in ("==", "!="):
            return (a == b) == (op == "==")
        raise StaticError(f"text cannot be compared with `{op}`")
    if isinstance(a, Size) or isinstance(b, Size):
        if isinstance(a, float) or isinstance(b, float):
            return None
        difference = Size.of(a) - Size.of(b)
        low = least(difference)
        high = None if (most := least(-difference)) is None else -most
        if low is not None and low == high:
            return compare(op, int(low) if low.denominator == 1 else float(low), 0)
        if low is not None and low > 0:
            return {"<": False, "<=": False, ">": True, ">=": True, "==": False, "!=": True}[op]
        if high is not None and high < 0:
            return {"<": True, "<=": True, ">": False, ">=": False, "==": False, "!=": True}[op]
        if low == 0 and op in ("<", ">="):
            return op == ">="
        if high == 0 and op in (">", "<="):
            return op == "<="
        return None
    return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}[op]


def least(size: Size) -> Fraction | None:
    """The least value of a size whose free lengths are at least 1, or None if it has none that is easy to see."""
    total = Fraction(0)
    for monomial, coefficient in size.terms:
        if any(atom.op != "free" for atom, _ in monomial) or (monomial and coefficient < 0):
            return None
        total += coefficient
    return total


def negate(a: Static) -> Static:
    """`-a`. Raises StaticError for text."""
    if isinstance(a, str):
        raise StaticError("text cannot be negated")
    return -a


def as_size(value: Static) -> Size | None:
    """A static value as a length, or None if it is not a whole number."""
    if isinstance(value, Size):
        return value
    if isinstance(value, (bool, str)):
        return None
    nearest = whole(value) if math.isfinite(value) else None
    return None if nearest is None else Size.of(nearest)


def show(value: Static) -> str:
    """A static value as the language writes it."""
    if isinstance(value, str):
        return f"'{value}'"
    return str(value).lower() if isinstance(value, bool) else str(value)
