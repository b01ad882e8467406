"""Dtypes of results: bool < int < wide < float.

What is computed from positions is "wide" (at least float32); where it meets the model's tensors it takes their dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from towerdsl.diagnostics import Span
from towerdsl.ir import nodes as n
from towerdsl.ir.types import TensorType
from towerdsl.ops import ELEMENTWISE
from towerdsl.passes.infer.scope import Fault

ARITHMETIC = {"+", "-", "*", "/", "//", "%", "**"}


def result_dtype(op: str, args: Sequence[n.Value], span: Span) -> str:
    """The dtype of an elementwise function. Raises Fault."""
    dtypes = [v.type.dtype for v in args]
    if op in ("==", "!=", "<", "<=", ">", ">=", "and", "or", "not"):
        return "bool"
    if op in ARITHMETIC or op == "neg":
        highest = promote(args)
        if highest == "bool":
            highest = "int"
        if op == "/" and highest == "int":
            return "wide"
        return highest if op != "**" or highest != "int" or _whole_power(args) else "wide"
    rule = ELEMENTWISE[op].dtype
    if rule == "bool":
        return "bool"
    if rule == "int":
        return "int"
    if rule == "where":
        if dtypes[0] != "bool":
            message = f"the condition of `where` is a truth value, this is {args[0].type}"
            raise Fault("not-boolean", message, args[0].span or span, (), "compare it, as in `x > 0`")
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
    if value.type.dtype == dtype or value.type.scalar:
        return value
    return n.Cast(replace(value.type, dtype=dtype), value.span, value)


def converted(op: str, values: Sequence[n.Value], dtype: str) -> list[n.Value]:
    """Positions enter floating point as "wide", and what was computed from them meets tensors in the model's dtype."""
    if op == "float":  # it converts by itself
        return list(values)
    # truth values count as 0 and 1
    if op in ("-", "neg") or (dtype == "int" and op not in ("where", "int") and promote(values) == "bool"):
        values = [_counted(v) for v in values]
    elif op in ARITHMETIC or op in ("<", "<=", ">", ">="):
        values = [_counted(v) if v.type.scalar else v for v in values]
    comparison = op in ("==", "!=", "<", "<=", ">", ">=") and promote(values) == "float"
    if dtype == "float" or comparison:
        return [cast(v, "float") if v.type.dtype == "wide" else v for v in values]
    if dtype == "wide" and not any(v.type.dtype == "wide" and not v.type.scalar for v in values):
        condition = 1 if op == "where" else 0
        found = [cast(v, "wide") if v.type.dtype in ("int", "bool") else v for v in values[condition:]]
        return [*values[:condition], *found]
    return list(values)


def _counted(value: n.Value) -> n.Value:
    """A truth value as 0 or 1."""
    if value.type.dtype != "bool" or isinstance(value, n.Const):
        return value
    if value.type.scalar:
        return n.Pointwise(TensorType("int", (), True), value.span, "int", (value,))
    return cast(value, "int")


def _whole_power(args: Sequence[n.Value]) -> bool:
    power = args[1]
    return isinstance(power, n.Const) and isinstance(power.value, int) and power.value >= 0
