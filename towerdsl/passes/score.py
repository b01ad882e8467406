"""The score, split into what depends on i alone, on j alone, and on both.

`split` reads it as one dot product and a bias, `scale * dot(left, right) + bias`; `separate` as a sum of products of
something of i and something of j, with nothing of both left over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from towerdsl.ir import nodes as n
from towerdsl.ir.placed import AtPairs
from towerdsl.ir.types import Axis, TensorType
from towerdsl.passes.dtypes import converted, promote


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
    inner = _uncast(value)
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
    if isinstance(inner, n.Rename) and isinstance(_uncast(inner.arg), n.Dot):
        return [Term(factor, scalar, _uncast(inner.arg))]
    return [Term(factor, scalar, inner if isinstance(inner, n.Dot) else n.plain(value))]


def _uncast(value: n.Value) -> n.Value:
    """The value itself, whether or not it is computed once for several uses; what has a dot product, in any dtype."""
    value = n.plain(value)
    while isinstance(value, n.Cast) and value.type.dtype != "int" and any(isinstance(x, n.Dot) for x in value.walk()):
        value = n.plain(value.arg)
    return value


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
        return "the score is not written as a dot product of a vector of i and a vector of j"
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


# --- numbers in front of a dot product ---------------------------------------------------------------------------


def scaled_first(value: n.Value) -> n.Value:
    """The same value, in which a number that makes a dot product smaller goes to one of its factors.

    A half precision has no large numbers: dot(q, k) may be none that it has where dot(q / 8, k) is one.
    """
    if not isinstance(value, n.Pointwise) or value.type.scalar:
        return value
    args = tuple(map(scaled_first, value.args))
    if value.op in ("*", "/"):
        first, number = args if args[1].type.scalar else args[::-1]
        if number.type.scalar and (value.op == "*" or number is args[1]) and _lessens(value.op, number):
            found = _through(first, value.op, number)
            if found is not None:
                return found
    return replace(value, args=args)


def _lessens(op: str, number: n.Value) -> bool:
    """Whether a factor or divisor makes numbers smaller; one that sizes make is taken to."""
    if not isinstance(number, n.Const) or not number.value:
        return not isinstance(number, n.Const)
    return abs(number.value) < 1 if op == "*" else abs(number.value) > 1


def _through(value: n.Value, op: str, number: n.Value) -> n.Value | None:
    """`value op number` with the number inside its dot products; None where it has none."""
    match value:
        case n.Dot():
            left, right = value.left, value.right
            if len(left.axes) > len(right.axes):
                return replace(value, right=_scaled(right, op, number))
            return replace(value, left=_scaled(left, op, number))
        case n.Rename() | n.Cast():
            inner = _through(value.arg, op, number)
            return None if inner is None else replace(value, arg=inner)
        case n.Pointwise(op="neg" | "+" | "-") if not value.type.scalar:
            parts = [_through(x, op, number) for x in value.args]
            if all(x is None for x in parts):
                return None
            scaled = (x or _scaled(y, op, number) for x, y in zip(parts, value.args, strict=True))
            return replace(value, args=tuple(scaled))
        case n.Reduce(op="sum", arg=n.Pointwise(op="*", args=(first, second)) as product):
            if any(x.type.scalar or x.type.dtype != "float" for x in (first, second)):
                return None
            return replace(value, arg=replace(product, args=(_scaled(first, op, number), second)))
    return None


def _scaled(value: n.Value, op: str, number: n.Value) -> n.Value:
    if isinstance(value, AtPairs):
        return replace(value, arg=_scaled(value.arg, op, number))
    dtype = "wide" if value.type.dtype in ("int", "bool") else value.type.dtype
    return n.Pointwise(replace(value.type, dtype=dtype), value.span, op, (value, number))


# --- sums of products ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Product:
    """`factor * number * left[i] * right[j]`, a dot product over the last axis of both where `dot`; None stands for 1.

    `number` depends on neither position: a Python number, or a tensor without them (`tau[head]`).
    """

    factor: float = 1.0
    number: n.Value | None = None
    left: n.Value | None = None
    right: n.Value | None = None
    dot: bool = False


#: More products than these are no faster than pairs.
MOST = 64


class _Together(Exception):
    """A part of the score in which i and j cannot be told apart, in words."""


def separate(score: n.Value) -> tuple[Product, ...] | str:
    """The score as a sum of products of something of i and something of j, or the reason why it is none."""
    try:
        return tuple(_products(score))
    except _Together as found:
        return str(found)


def _products(value: n.Value) -> list[Product]:
    value = n.plain(value)
    if isinstance(value, n.Const):
        return [Product(float(value.value))]
    on = sides(value)
    if len(on) < 2:
        return [Product(left=value) if "i" in on else Product(right=value) if on else Product(number=value)]
    if isinstance(value, n.Rename) and set(value.axes) == set(value.arg.axes):
        return _products(value.arg)
    if isinstance(value, n.Cast):  # both factors are cast to the model's dtype
        return _products(value.arg)
    if isinstance(value, n.Pointwise):
        if value.op == "neg":
            return [_negative(x) for x in _products(value.args[0])]
        if value.op in ("+", "-"):
            left, right = map(_products, value.args)
            return left + ([_negative(x) for x in right] if value.op == "-" else right)
        if value.op == "*":
            left, right = map(_products, value.args)
            if len(left) * len(right) > MOST:
                raise _Together(f"{_words(value)} is a sum of more than {MOST} products")
            return [_multiplied(a, b) for a in left for b in right]
        if value.op == "/":
            return [_multiplied(a, b) for a in _products(value.args[0]) for b in [_inverse(value.args[1])]]
    if isinstance(value, n.Dot):
        axis = value.left.axes[-1]
        right = [_along(axis, value.right.axes[-1], x) for x in _products(value.right)]
        return [_summed(_multiplied(a, b), axis) for a in _products(value.left) for b in right]
    if isinstance(value, n.Reduce) and value.op == "sum" and len(value.over) == 1 and not value.over[0].side:
        return [_summed(x, value.over[0]) for x in _products(value.arg)]
    raise _Together(f"{_words(value)} does not split into a factor of i and a factor of j")


def _words(value: n.Value) -> str:
    text = " ".join(value.span.text.split()) if value.span is not None else ""
    return f"`{text}`" if 0 < len(text) <= 60 else "a part of the score"


def _negative(x: Product) -> Product:
    return replace(x, factor=-x.factor)


def _multiplied(a: Product, b: Product) -> Product:
    if a.dot and b.dot:
        raise _Together("two dot products are multiplied with each other")
    number, left, right = (_joined(x, y, "*") for x, y in ((a.number, b.number), (a.left, b.left), (a.right, b.right)))
    vectors = (a if a.dot else b).right if a.dot or b.dot else None
    if vectors is not None:
        left, right = (_ending(x, vectors.axes[-1]) for x in (left, right))
    return Product(a.factor * b.factor, number, left, right, a.dot or b.dot)


def _ending(value: n.Value | None, axis: Axis) -> n.Value | None:
    """A value that is joined, its axes in an order that ends with this one."""
    if value is None or value.axes[-1] == axis:
        return value
    return replace(value, type=value.type.with_axes((*(a for a in value.axes if a != axis), axis)))


def _inverse(value: n.Value) -> Product:
    """1 / value. The value is a product itself: a sum of several has no inverse that is one."""
    found = _products(value)
    if len(found) > 1 or found[0].dot or found[0].factor == 0:
        raise _Together(f"it is divided by {_words(value)}, a function of i and j together")
    one = found[0]
    parts = [x for x in (one.number, one.left, one.right) if x is not None]
    if any(x.type.dtype == "bool" for x in parts):
        raise _Together(f"it is divided by {_words(value)}, a condition")
    number, left, right = (
        None if x is None else _joined(n.Const(TensorType("int", (), True), x.span, 1), x, "/")
        for x in (one.number, one.left, one.right)
    )
    return Product(1 / one.factor, number, left, right)


def _joined(a: n.Value | None, b: n.Value | None, op: str) -> n.Value | None:
    """`a op b` elementwise, axes matched by name; a feature axis that only one of them has stays the last."""
    if a is None or b is None:
        return a if b is None else b
    ends = [x.axes[-1] for x, y in ((a, b), (b, a)) if x.axes and x.axes[-1] not in y.axes]
    last = [x for x in ends if not x.side]
    axes = list(dict.fromkeys((*max(a.axes, b.axes, key=len), *a.axes, *b.axes)))
    ordered = [x for x in axes if x not in last] + last
    scalar = a.type.scalar and b.type.scalar
    dtype = promote((a, b))
    if dtype in ("bool", "int"):
        dtype = "wide" if op == "/" else "int"
    return n.Pointwise(TensorType(dtype, tuple(ordered), scalar), a.span, op, tuple(converted(op, (a, b), dtype)))


def _along(axis: Axis, own: Axis, x: Product) -> Product:
    """The product with its axis `own` called `axis`."""

    def renamed(value: n.Value | None) -> n.Value | None:
        if value is None or own == axis or own not in value.axes:
            return value
        axes = tuple(axis if a == own else a for a in value.axes)
        return n.Rename(replace(value.type, axes=axes), value.span, value)

    return replace(x, number=renamed(x.number), left=renamed(x.left), right=renamed(x.right))


def _summed(x: Product, axis: Axis) -> Product:
    """The sum of a product over an axis: a dot product where both sides have it."""
    if x.number is not None and axis in x.number.axes:  # a vector of neither side goes to one that has the axis
        if x.right is not None and axis in x.right.axes and (x.left is None or axis not in x.left.axes):
            x = replace(x, number=None, right=_joined(x.number, x.right, "*"))
        else:
            x = replace(x, number=None, left=_joined(x.number, x.left, "*"))
    having = [v for v in (x.left, x.right) if v is not None and axis in v.axes]
    if len(having) == 2:
        if x.dot or any(v.axes[-1] != axis for v in having):
            raise _Together("a product of i and j is summed over more than one axis")
        return replace(x, dot=True)
    if x.dot or not having:
        raise _Together("a dot product is summed over a further axis")
    value = n.Reduce(
        having[0].type.with_axes(having[0].type.without([axis])), having[0].span, "sum", having[0], (axis,)
    )
    return replace(x, left=value) if having[0] is x.left else replace(x, right=value)
