"""Dtypes of results: bool < int < wide < float.

What halves do not hold is "wide" (at least float32): what is computed from positions, and powers, which are larger or
smaller than any half where the numbers themselves are not. Where it meets the model's tensors it takes their dtype;
what is made of powers meets them wide, and the result is cast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from towerdsl.ir import nodes as n
from towerdsl.ir.types import TensorType
from towerdsl.ops import ELEMENTWISE

ARITHMETIC = {"+", "-", "*", "/", "//", "%", "**"}


def result_dtype(op: str, args: Sequence[n.Value]) -> str:
    """The dtype of an elementwise function; the first operand of `where` is a truth value."""
    if op in ("==", "!=", "<", "<=", ">", ">=", "and", "or", "not"):
        return "bool"
    if op in ARITHMETIC or op == "neg":
        highest = promote(args)
        if highest == "bool":
            highest = "int"
        if op == "/" and highest == "int":
            return "wide"
        if highest == "float" and not args[0].type.scalar and _is_power(op, args):
            return "wide"
        if highest == "float" and _apart(args):
            return "wide"
        return highest if op != "**" or highest != "int" or _whole_power(args) else "wide"
    rule = ELEMENTWISE[op].dtype
    if rule == "bool":
        return "bool"
    if rule == "int":
        return "int"
    if rule == "where":
        found = promote(args[1:])
        numbers = all(v.type.scalar for v in args[1:]) and not args[0].type.scalar
        return "wide" if numbers and found == "float" else found
    highest = promote(args)
    if rule == "float" and highest in ("int", "bool"):
        return "wide"
    return "int" if highest == "bool" else highest


def promote(args: Sequence[n.Value]) -> str:
    """The dtype of a combination: bool < int < wide < float; a number counts only among numbers."""
    order = ["bool", "int", "wide", "float"]
    tensors = [order.index(v.type.dtype) for v in args if not v.type.scalar]
    scalars = [order.index(v.type.dtype) for v in args if v.type.scalar]
    if not tensors:
        return order[max(scalars, default=1)]
    highest = max(tensors)
    if highest < 2 and max(scalars, default=0) >= 2:
        return "wide"
    return order[max(highest, min(max(scalars, default=0), 1))]


def cast(value: n.Value, dtype: str) -> n.Value:
    """The value in another dtype, see `Cast`."""
    if isinstance(value, n.Cast) and value.arg.type.dtype == dtype == "wide":
        return value.arg
    if value.type.dtype == dtype or value.type.scalar:
        return value
    return n.Cast(replace(value.type, dtype=dtype), value.span, value)


def as_before(value: n.Value, kind: Any) -> n.Value:
    """The value, as float or as wide as what stood there before: what loops carry and modules share keeps its type."""
    types = {value.type.dtype, kind.dtype} if isinstance(kind, TensorType) else set()
    return cast(value, kind.dtype) if types == {"wide", "float"} else value


def converted(op: str, values: Sequence[n.Value], dtype: str) -> list[n.Value]:
    """The operands of a result of this dtype: positions enter floating point as "wide", and meet the model's tensors in
    their dtype; positions and tensors are compared as wide numbers."""
    if op == "float":  # it converts by itself
        return list(values)
    # truth values count as 0 and 1
    if op in ("-", "neg") or (dtype == "int" and op not in ("where", "int") and promote(values) == "bool"):
        values = [_counted(v) for v in values]
    elif op in ARITHMETIC or op in ("<", "<=", ">", ">="):
        values = [_counted(v) if v.type.scalar else v for v in values]
    if op in COMPARISONS and promote(values) == "float":
        return [cast(v, "wide") if v.type.dtype == "int" else v for v in values]
    condition = 1 if op == "where" else 0
    if dtype == "float":
        return [cast(v, "float") if v.type.dtype == "wide" else v for v in values]
    narrow = ("int", "bool") if not _has_wide(values[condition:]) else ()
    if dtype == "wide":
        found = [cast(v, "wide") if v.type.dtype in (*narrow, "float") else v for v in values[condition:]]
        return [*values[:condition], *found]
    return list(values)


def _counted(value: n.Value) -> n.Value:
    """A truth value as 0 or 1."""
    if value.type.dtype != "bool" or isinstance(value, n.Const):
        return value
    if value.type.scalar:
        return n.Pointwise(TensorType("int", (), True), value.span, "int", (value,))
    return cast(value, "int")


COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")


def _has_wide(values: Sequence[n.Value]) -> bool:
    return any(v.type.dtype == "wide" and not v.type.scalar for v in values)


def meets_wide(values: Sequence[n.Value]) -> bool:
    """Whether tensors meet what is made of powers, so that the result is computed wide and then cast."""
    return any(v.type.dtype == "wide" and not v.type.scalar and _of_tensors(v) for v in values)


def uncast(value: n.Value) -> n.Value:
    """A result that was only cast to be the model's is computed on with as it was."""
    if isinstance(value, n.Cast) and value.type.dtype == "float" and _of_tensors(value.arg):
        return value.arg
    return value


def _of_tensors(value: n.Value) -> bool:
    """Whether a wide value may be larger than a half, or smaller, and not as positions are."""
    value = n.plain(value)
    if isinstance(value, n.Pointwise) and value.op in ("sin", "cos", "tanh", "sigmoid", "erf", "sign"):
        return False
    if not value.operands:
        return value.type.dtype in ("wide", "float") and not value.type.scalar and not isinstance(value, n.Fill)
    return any(map(_of_tensors, value.operands))


def wide_angle(value: n.Value) -> n.Value:
    """What a sine is taken of, computed in wide numbers: it tells apart angles that halves do not."""
    inner = n.plain(value)
    computed = isinstance(inner, n.Pointwise) and inner.op in ("+", "-", "*", "/", "neg") and inner.axes
    if value.type.dtype != "float" or value.type.scalar or not computed:
        return value
    assert isinstance(inner, n.Pointwise)
    args = tuple(cast(wide_angle(x), "wide") for x in inner.args)
    return replace(inner, type=replace(inner.type, dtype="wide"), args=args)


def _is_power(op: str, args: Sequence[n.Value]) -> bool:
    """A power of a tensor that may be much larger or smaller than its numbers; x * x is one too."""
    if op == "**":
        power = args[1]
        return not (isinstance(power, n.Const) and 0 <= power.value <= 1)
    return op == "*" and args[0] == args[1]


def _apart(args: Sequence[n.Value]) -> bool:
    """Whether positions meet tensors that lack some of the axes, such as frequencies: no features yet."""
    tensors = [v for v in args if not v.type.scalar]
    axes = {a for v in tensors for a in v.axes}
    positions = any(v.type.dtype in ("int", "wide") for v in tensors)
    return positions and not any(axes <= {*v.axes} for v in tensors if v.type.dtype == "float")


def _whole_power(args: Sequence[n.Value]) -> bool:
    power = args[1]
    return isinstance(power, n.Const) and isinstance(power.value, int) and power.value >= 0
