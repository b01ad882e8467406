"""Values made of values, which are combined by axis name: elementwise functions, sums, conditions, products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from towerdsl.diagnostics import Span
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.ops.checks import NO_AXES
from towerdsl.passes.dtypes import ARITHMETIC, cast, converted, meets_wide, promote, result_dtype, uncast, wide_angle
from towerdsl.passes.infer import axes as combining
from towerdsl.passes.infer.scope import Fault, Result, Scope
from towerdsl.passes.static import StaticError

S = TypeVar("S")


def decided(compute: Callable[[], S], span: Span) -> S:
    """What is computed when compiling. Raises Fault."""
    try:
        return compute()
    except StaticError as error:
        raise Fault("size", str(error), span) from None


def to_value(result: Result, span: Span) -> n.Value:
    """A result as a node: what is known when compiling becomes a constant. Raises Fault."""
    if isinstance(result, n.Value):
        return result
    if isinstance(result, n.Relation):
        help = f"read it with positions: `{result.name}[j, i]`"
        raise Fault("type", f"`{result.name}` is a relation, not a tensor", span, (), help)
    if isinstance(result, str):
        raise Fault("type", "text has no place here", span)
    if isinstance(result, Size):
        return n.SizeOf(TensorType("int", (), True), span, result)
    dtype = "bool" if isinstance(result, bool) else "int" if isinstance(result, int) else "float"
    return n.Const(TensorType(dtype, (), True), span, result)


def pointwise(
    op: str,
    args: Sequence[n.Value],
    span: Span,
    scope: Scope,
    options: tuple[n.Value, ...] = (),
    outer: bool = False,
) -> n.Value:
    """An elementwise function of values that are combined by axis name. Raises Fault."""
    what = f"`{op}`" if op in ARITHMETIC or not op.isidentifier() else f"`{op}(...)`"
    values = combining.together(args, span, what, scope.attention, outer)
    if op == "where" and values[0].type.dtype != "bool":
        message = f"the condition of `where` is a truth value, this is {values[0].type}"
        raise Fault("not-boolean", message, values[0].span or span, (), "compare it, as in `x > 0`")
    dtype = result_dtype(op, values)
    axes = combining.union(values, scope.attention)
    scalar = all(v.type.scalar for v in values)
    values = [wide_angle(v) if op in ("sin", "cos") else uncast(v) for v in values]
    inside = "wide" if dtype == "float" and meets_wide(values) else dtype
    found = n.Pointwise(TensorType(inside, axes, scalar), span, op, (*converted(op, values, inside), *options))
    return cast(found, dtype)


def added(op: str, values: list[n.Value], span: Span, scope: Scope, outer: bool = False) -> n.Value:
    """`i - j + win - 1` --> `i - j + 6`: whole numbers at the end of a sum are added up."""
    left, right = values
    if isinstance(left, n.Pointwise) and left.op in ("+", "-") and _whole(right) and _whole(left.args[1]):
        first, second = left.args[1], right
        assert isinstance(first, n.Const) and isinstance(second, n.Const)
        total = (first.value if left.op == "+" else -first.value) + (second.value if op == "+" else -second.value)
        right = to_value(abs(total), span)
        left, op = left.args[0], "+" if total >= 0 else "-"
    return pointwise(op, [left, right], span, scope, outer=outer)


def _whole(value: n.Value) -> bool:
    return isinstance(value, n.Const) and isinstance(value.value, int) and not isinstance(value.value, bool)


def joined(op: str, parts: Sequence[Result], span: Span, scope: Scope, outer: bool = False) -> Result:
    """`and` or `or` of parts; static ones are decided."""
    kept: list[n.Value] = []
    for part in parts:
        if isinstance(part, bool):
            if part == (op == "or"):
                return part
            continue
        value = to_value(part, span)
        if value.type.dtype != "bool":
            shown = "a number" if value.type.scalar else str(value.type)
            message = f"`{op}` joins truth values, this is {shown}"
            raise Fault("not-boolean", message, value.span or span, (), "compare it, as in `x > 0`")
        kept.append(value)
    if not kept:
        return op == "and"
    result = kept[0]
    for value in kept[1:]:
        result = pointwise(op, [result, value], span, scope, outer=outer)
    return result


def dot(left: n.Value, right: n.Value, span: Span, scope: Scope) -> n.Value:
    """Contract the last axes. Raises Fault where their lengths differ."""
    for value in (left, right):
        if not value.axes:
            raise Fault("rank", "`dot` takes tensors with a feature axis", value.span or span, (), NO_AXES)
    a, b = left.axes[-1], right.axes[-1]
    if a.size != b.size:
        names = (_label(left, "left"), _label(right, "right"))
        notes = tuple(combining.describe(x, v) for x, v in zip(names, (left, right), strict=True))
        help = _dot_help(a, b)
        message = f"{_written(left, right)} needs the same feature size on both sides"
        raise Fault("axis-mismatch", message, span, notes, help)
    combining.check_twice(left, right, span, "`dot`", but=1)
    others_a, others_b = left.axes[:-1], right.axes[:-1]
    for y in others_b:
        x = next((x for x in others_a if x.same(y)), None)
        if x is not None and x.size != y.size:
            notes = (combining.describe("left", left), combining.describe("right", right))
            message = f"`dot`: axis {y} has two lengths, {x.size} and {y.size}"
            raise Fault("axis-mismatch", message, span, notes)
    axes = [*others_a, *(y for y in others_b if y not in others_a)]
    if scope.attention is not None:
        key = scope.attention
        axes.sort(key=lambda axis: combining.order(axis, key))
    dtype = promote([left, right])
    dtype = "wide" if dtype in ("int", "bool") or left == right else dtype
    inside = "wide" if meets_wide([left, right]) else dtype
    left, right = cast(left, inside), cast(right, inside)
    return cast(n.Dot(TensorType(inside, tuple(axes)), span, left, right), dtype)


def _label(value: n.Value, otherwise: str) -> str:
    return value.name if isinstance(value, n.Local) else otherwise


def _written(left: n.Value, right: n.Value) -> str:
    return f"dot({_label(left, '...')}, {_label(right, '...')})"


def _dot_help(a: Axis, b: Axis) -> str:
    return f"make both sides {a.size} or both {b.size}, for instance with `linear`"
