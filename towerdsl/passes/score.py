"""The score, split into what depends on i alone, on j alone, and on both: `scale * dot(left, right) + bias`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from towerdsl.ir import nodes as n


@dataclass(frozen=True)
class DotScore:
    """scale * dot(left[i], right[j]) + sum of biases; each bias with its factor."""

    left: n.Value
    right: n.Value
    scale: float
    biases: tuple[tuple[float, n.Value], ...]


def sides(value: n.Value) -> set[str]:
    """Which of the positions "i" and "j" a value depends on."""
    return {a.side for a in value.axes if a.side}


def terms(value: n.Value, factor: float = 1.0) -> list[tuple[float, n.Value]]:
    """The value as a sum: each term with its constant factor."""
    if isinstance(value, n.Pointwise):
        if value.op == "neg":
            return terms(value.args[0], -factor)
        if value.op in ("+", "-"):
            sign = -1.0 if value.op == "-" else 1.0
            return terms(value.args[0], factor) + terms(value.args[1], sign * factor)
        if value.op in ("*", "/"):
            left, right = value.args
            if _constant(right):
                number = float(right.value)  # type: ignore[attr-defined]
                if value.op == "*":
                    return terms(left, factor * number)
                if number:
                    return terms(left, factor / number)
            elif value.op == "*" and _constant(left):
                return terms(right, factor * float(left.value))  # type: ignore[attr-defined]
    if isinstance(value, n.Rename):
        inner = terms(value.arg, factor)
        if len(inner) == 1 and inner[0][1] is value.arg:
            return [(factor, value)]
    return [(factor, value)]


def _constant(value: n.Value) -> bool:
    return isinstance(value, n.Const) and not isinstance(value.value, bool)


def split(score: n.Value) -> DotScore | str:
    """The score as one product of a vector of i and a vector of j, or the reason why it is not."""
    parts = terms(score)
    products = [(f, v) for f, v in parts if isinstance(v, n.Dot) and _sided(v)]
    if not products:
        return "the score is not a dot product of a vector of i and a vector of j"
    if len(products) > 1:
        return "the score has more than one dot product"
    factor, dot = products[0]
    assert isinstance(dot, n.Dot)
    left, right = (dot.left, dot.right) if "i" in sides(dot.left) or "j" in sides(dot.right) else (dot.right, dot.left)
    rest = tuple((f, v) for f, v in parts if v is not dot)
    return DotScore(left, right, factor, rest)


def _sided(dot: n.Dot) -> bool:
    """One operand depends on j and not on i, the other not on j."""
    a, b = sides(dot.left), sides(dot.right)
    return ("j" in a) != ("j" in b) and not (a == {"i", "j"} or b == {"i", "j"})


def uses(values: Sequence[n.Value], name: str) -> bool:
    """Whether a local of that name stands in any of the values."""
    return any(isinstance(v, n.Local) and v.name == name for root in values for v in root.walk())
