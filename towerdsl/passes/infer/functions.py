"""The functions that the language itself knows: elementwise ones, products, ranges, reductions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from towerdsl.diagnostics import did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.lang import tree as t
from towerdsl.lang.foreign import OPTIONS
from towerdsl.ops import ELEMENTWISE
from towerdsl.ops.checks import NO_AXES
from towerdsl.passes import static as st
from towerdsl.passes.dtypes import cast
from towerdsl.passes.infer.axis_names import axes_of
from towerdsl.passes.infer.mistakes import keyword_span
from towerdsl.passes.infer.scope import Fault, Result, Scope
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.infer.values import decided, dot, pointwise, to_value
from towerdsl.passes.static import Static

REDUCTIONS = ("sum", "mean", "amax", "amin")


def check_arguments(e: t.Call, least: int, most: int, written: str) -> None:
    """Raise Fault where a function is not given as many arguments as it takes, or an option that it has not."""
    assert isinstance(e.func, t.Name)
    known = ("axis",) if e.func.id in REDUCTIONS else ()
    for name, value in e.kwargs if e.func.id not in ELEMENTWISE else ():
        if name not in known:
            message = f"`{e.func.id}` has no option `{name}`"
            help = OPTIONS.get(name, f"write `{written}`")
            raise Fault("arguments", message, keyword_span(name, value), (), help)
    if not least <= len(e.args) <= most:
        number = str(least) if least == most else f"{least} or {most}"
        message = f"`{e.func.id}` takes {number} argument{'s' if most != 1 else ''}, not {len(e.args)}"
        several = f"; several axes are a list, `{e.func.id}(x, [h, w])`" if known and len(e.args) > most else ""
        raise Fault("arguments", message, e.span, (), f"write `{written}`{several}")


def elementwise(typer: Typer, e: t.Call, scope: Scope, outer: bool = False) -> Result:
    """A call of an elementwise function. Raises Fault, Unknown."""
    assert isinstance(e.func, t.Name)
    entry = ELEMENTWISE[e.func.id]
    names = [name for name, _ in entry.options]
    operands = "x" if entry.arity == 1 else ", ".join("abc"[: entry.arity])
    written = f"{entry.name}({', '.join([operands, *names])})"
    if entry.name in ("min", "max") and (len(e.args) == 1 or any(name == "axis" for name, _ in e.kwargs)):
        message = f"`{entry.name}` compares two values at each place"
        raise Fault("arguments", message, e.span, (), f"along an axis write `a{entry.name}(x, n)`")
    check_arguments(e, entry.arity, entry.arity + len(names), written)
    given = dict(zip(names, e.args[entry.arity :], strict=False))
    for name, value in e.kwargs:
        if name not in names or name in given:
            help = OPTIONS.get(name) or did_you_mean(name, names, f"write `{written}`")
            message = f"`{entry.name}` has no option `{name}`"
            raise Fault("arguments", message, keyword_span(name, value), (), help)
        given[name] = value
    options = []
    for name, default in entry.options:
        if name in given:
            options.append(to_value(typer.static(given[name], scope, f"`{name}`"), given[name].span))
        elif default is ...:
            raise Fault("arguments", f"`{entry.name}` needs `{name}`", e.span, (), f"write `{written}`")
        else:
            options.append(to_value(default, e.span))
    raw = [typer.any(a, scope) for a in e.args[: entry.arity]]
    if entry.name == "where" and isinstance(raw[0], bool):
        return raw[1] if raw[0] else raw[2]
    static = [a for a in raw if not isinstance(a, (n.Value, n.Relation))]
    if len(static) == len(raw):
        known = _static_call(entry.name, static, options, e)
        if known is not None:
            return known
    values = [to_value(a, x.span) for a, x in zip(raw, e.args, strict=False)]
    if entry.name in ("min", "max") and all(v.type.dtype == "bool" for v in values):
        op = "and" if entry.name == "min" else "or"
        return pointwise(op, values, e.span, scope, outer=outer)
    return pointwise(entry.name, values, e.span, scope, tuple(options), outer)


def _static_call(name: str, args: list[Static], options: list[n.Value], e: t.Call) -> Static | None:
    entry = ELEMENTWISE[name]
    if any(isinstance(a, Size) for a in args):
        if name in ("min", "max"):
            return decided(lambda: st.binary(name, args[0], args[1]), e.span)
        return None
    if entry.static is None or not all(isinstance(o, n.Const) for o in options):
        return None
    try:
        found = entry.static(*args, *(o.value for o in options if isinstance(o, n.Const)))
    except (ValueError, OverflowError, ZeroDivisionError, TypeError):
        shown = ", ".join(st.show(a) for a in args)
        raise Fault("size", f"{name}({shown}) is not a number", e.span) from None
    return decided(lambda: st.normal(found), e.span)


def _dot(typer: Typer, e: t.Call, scope: Scope) -> Result:
    check_arguments(e, 2, 2, "dot(q, k)")
    left, right = typer.all(e.args, scope)
    return dot(left, right, e.span, scope)


def _range(typer: Typer, e: t.Call, scope: Scope) -> Result:
    check_arguments(e, 1, 1, "range(n)")
    size = typer.size(e.args[0], scope, "the length of `range`")
    name = e.args[0].id if isinstance(e.args[0], t.Name) else None
    axis = typer.known_axis(name, scope)
    if axis is None or axis.size != size:
        axis = Axis(name, size, origin=f"{e.args[0].span.text}, {typer.line(e.span)}")
    return n.Range(TensorType("int", (axis,)), e.span)


def _len(typer: Typer, e: t.Call, scope: Scope) -> Result:
    check_arguments(e, 1, 1, "len(depths)")
    if not isinstance(e.args[0], t.List):
        help = "an axis is its length: write its name"
        raise Fault("type", "`len` takes a list of the sizes", e.args[0].span, (), help)
    return len(e.args[0].items)


def _fill(typer: Typer, e: t.Call, scope: Scope, value: float) -> Result:
    assert isinstance(e.func, t.Name)
    check_arguments(e, 1, 1, f"{e.func.id}([b, n])")
    items = e.args[0].items if isinstance(e.args[0], t.List) else (e.args[0],)
    names = [x.id if isinstance(x, t.Name) else None for x in items]
    axes = [typer.known_axis(name, scope) for name in names]
    made = (a or Axis(name, typer.size(x, scope, "an axis")) for a, name, x in zip(axes, names, items, strict=True))
    return n.Fill(TensorType("float", tuple(made)), e.span, value)


def _reduce(typer: Typer, e: t.Call, scope: Scope) -> Result:
    assert isinstance(e.func, t.Name)
    name = e.func.id
    axis_expr = dict(e.kwargs).get("axis")
    check_arguments(e, 1, 2 if axis_expr is None else 1, f"{name}(x, axis)")
    arg = typer.tensor(e.args[0], scope)
    where = axis_expr if axis_expr is not None else e.args[1] if len(e.args) > 1 else None
    if not arg.axes:
        raise Fault("rank", f"`{name}` needs a tensor with axes", e.args[0].span, (), NO_AXES)
    over = (arg.axes[-1],) if where is None else axes_of(typer, where, arg, scope, f"`{name}`")
    dtype = arg.type.dtype
    if name == "mean" and dtype in ("int", "bool"):
        dtype, arg = "wide", cast(arg, "wide")
    elif dtype == "bool":
        dtype = "int" if name == "sum" else "bool"
    return n.Reduce(TensorType(dtype, arg.type.without(over)), e.span, name, arg, over)


FUNCTIONS: dict[str, Callable[[Typer, t.Call, Scope], Result]] = {
    "dot": _dot,
    "range": _range,
    "zeros": partial(_fill, value=0.0),
    "ones": partial(_fill, value=1.0),
    "len": _len,
    **dict.fromkeys(REDUCTIONS, _reduce),
}
