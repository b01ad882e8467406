"""The score, split into what depends on i alone, on j alone, and on both: `scale * dot(left, right) + bias`."""

from __future__ import annotations

from dataclasses import dataclass

from towerdsl.ir import nodes as n
from towerdsl.ir.types import TensorType


@dataclass(frozen=True)
class Term:
    """`factor * scalar * value`: a constant, a number known at run time (or None), and the rest."""

    factor: float
    scalar: n.Value | None
    value: n.Value


@dataclass(frozen=True)
class DotScore:
    """factor * scalar * dot(left[i], right[j]) + the sum of biases."""

    left: n.Value
    right: n.Value
    factor: float
    scalar: n.Value | None
    biases: tuple[Term, ...]


def sides(value: n.Value) -> set[str]:
    """Which of the positions "i" and "j" a value depends on."""
    return {a.side for a in value.axes if a.side}


def terms(value: n.Value, factor: float = 1.0, scalar: n.Value | None = None) -> list[Term]:
    """The value as a sum."""
    inner = n.plain(value)
    if isinstance(inner, n.Pointwise) and not inner.type.scalar:
        if inner.op == "neg":
            return terms(inner.args[0], -factor, scalar)
        if inner.op in ("+", "-"):
            sign = -1.0 if inner.op == "-" else 1.0
            return terms(inner.args[0], factor, scalar) + terms(inner.args[1], sign * factor, scalar)
        if inner.op in ("*", "/"):
            left, right = inner.args
            if inner.op == "*" and left.type.scalar:
                left, right = right, left
            if right.type.scalar and isinstance(right, n.Const):
                number = float(right.value)
                if inner.op == "*" or number:
                    return terms(left, factor * number if inner.op == "*" else factor / number, scalar)
            elif right.type.scalar:
                return terms(left, factor, _times(scalar, right, inner.op))
    if isinstance(inner, n.Rename) and isinstance(n.plain(inner.arg), n.Dot):
        return [Term(factor, scalar, n.plain(inner.arg))]
    return [Term(factor, scalar, inner)]


def _times(scalar: n.Value | None, number: n.Value, op: str) -> n.Value:
    first = scalar if scalar is not None else n.Const(number.type, number.span, 1)
    if scalar is None and op == "*":
        return number
    kind = TensorType("wide" if op == "/" else number.type.dtype, (), True)
    return n.Pointwise(kind, number.span, op, (first, number))


def split(score: n.Value) -> DotScore | str:
    """The score as one product of a vector of i and a vector of j, or the reason why it is not."""
    parts = terms(score)
    products = [p for p in parts if isinstance(p.value, n.Dot) and _sided(p.value)]
    if not products:
        return "the score is not a dot product of a vector of i and a vector of j"
    if len(products) > 1:
        return "the score has more than one dot product"
    one = products[0]
    dot = one.value
    assert isinstance(dot, n.Dot)
    left, right = (dot.left, dot.right) if "j" in sides(dot.right) else (dot.right, dot.left)
    return DotScore(left, right, one.factor, one.scalar, tuple(p for p in parts if p is not one))


def _sided(dot: n.Dot) -> bool:
    """One operand depends on j and not on i, the other not on j."""
    a, b = sides(dot.left), sides(dot.right)
    return ("j" in a) != ("j" in b) and not (a == {"i", "j"} or b == {"i", "j"})
