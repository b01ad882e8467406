"""Calls of operations: their arguments, and what their rule gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from towerdsl.diagnostics import Span, did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.ir.operation import Op, OpCall, OpError, OpResult, SizeArg
from towerdsl.ir.size import Size
from towerdsl.ir.types import TensorType
from towerdsl.lang import tree as t
from towerdsl.lang.foreign import OPTIONS
from towerdsl.ops import OPS
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes import static as st
from towerdsl.passes.dtypes import cast
from towerdsl.passes.infer.axis_names import axes_of, axis_of
from towerdsl.passes.infer.mistakes import keyword_span
from towerdsl.passes.infer.scope import Fault, Scope, Unknown
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.resolve import INITIALIZERS


@dataclass
class Arguments:
    """The arguments of a call by name; where they stand in the spec, and how they are written."""

    tensors: dict[str, Any] = field(default_factory=dict)  # a tuple of values for a variadic one
    statics: dict[str, Any] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def values(self, op: Op) -> tuple[n.Value, ...]:
        """The tensors in the order of the operation."""
        found: list[n.Value] = []
        for name in op.tensors:
            value = self.tensors[name.removesuffix("...")]
            found += value if isinstance(value, tuple) else [value]
        return tuple(found)


def operation(typer: Typer, e: t.Call, scope: Scope, outer: bool = False) -> n.Value:
    """A call of an operation, with a module of its own where it has weights. Raises Fault, Unknown."""
    assert isinstance(e.func, t.Name)
    op = OPS.get(e.func.id)
    if op is None:
        raise _no_operation(e.func, scope) or _unknown(typer, e.func)
    name = next((v for k, v in e.kwargs if k == "name"), None)
    given = arguments(typer, op, e, scope)
    result = apply_rule(typer, op, e, scope, given, outer)
    reference = None
    if result.module is not None:
        attribute = scope.builder.name(op.name, name)
        reference = n.ModuleRef(*scope.builder.place(attribute, n.ModuleSlot(op=op, result=result)))
    elif name is not None:
        message = f"`{op.name}` has no weights, so it has no name"
        raise Fault("arguments", message, name.span, (), "remove `name=`")
    return n.Apply(result.type, e.span, op, result, given.values(op), reference)


def arguments(typer: Typer, op: Op, e: t.Call, scope: Scope) -> Arguments:
    """The arguments of a call. Raises Fault, Unknown."""
    found = Arguments()
    positional = _tensors(typer, op, e, scope, found)
    _statics(typer, op, e, positional, scope, found)
    return found


def static_arguments(typer: Typer, op: Op, e: t.Call, scope: Scope) -> Arguments:
    """The arguments of a call without its tensors. Raises Fault, Unknown."""
    found = Arguments()
    _statics(typer, op, e, e.args, scope, found)
    return found


def _written(op: Op) -> str:
    return f"write `{op.signature.replace('=none', '')}`"


def _tensors(typer: Typer, op: Op, e: t.Call, scope: Scope, found: Arguments) -> Sequence[t.Expr]:
    """Bind the tensors of a call; returns the arguments behind them. Raises Fault, Unknown."""
    positional = list(e.args)
    exprs: list[t.Expr] = []
    for name in op.tensors:
        if name.endswith("..."):
            for expr in positional:
                if isinstance(expr, t.List):
                    brackets = f"{_written(op)}, the tensors without brackets"
                    raise Fault("type", f"`{op.name}` takes no list of tensors", expr.span, (), brackets)
            exprs += positional
            positional = []
        elif positional:
            exprs.append(positional.pop(0))
        else:
            raise Fault("arguments", f"`{op.name}` needs a tensor `{name}`", e.span, (), _written(op))
    values = [cast(v, "float") if v.type.dtype == "wide" else v for v in typer.all(exprs, scope)]
    for position, (value, expr) in enumerate(zip(values, exprs, strict=True)):
        name = op.tensors[min(position, len(op.tensors) - 1)]
        key = name.removesuffix("...")
        if name.endswith("..."):
            found.tensors[key] = (*found.tensors.get(key, ()), value)
            part = f"{key}{len(found.tensors[key]) - 1}"
            found.spans[part], found.texts[part] = expr.span, expr.span.text
        else:
            found.tensors[key] = value
        found.spans.setdefault(key, expr.span)
        found.texts.setdefault(key, expr.span.text)
    if any(name.removesuffix("...") not in found.tensors for name in op.tensors):
        raise Fault("arguments", f"`{op.name}` needs tensors", e.span, (), _written(op))
    return positional


def _statics(typer: Typer, op: Op, e: t.Call, positional: Sequence[t.Expr], scope: Scope, found: Arguments) -> None:
    """Bind what a call has behind its tensors, and by name. Raises Fault, Unknown."""
    parameters = {p.name: p for p in op.statics}
    given: dict[str, t.Expr] = dict(zip(parameters, positional, strict=False))
    if len(positional) > len(op.statics):
        extra = positional[len(op.statics)]
        message = f"`{op.name}` has {len(e.args) - len(positional) + len(op.statics)} arguments at most"
        raise Fault("arguments", message, extra.span, (), _written(op))
    for name, expr in e.kwargs:
        if name == "name":
            continue
        if name in given:
            message = f"`{name}` is given in order and by name"
            raise Fault("arguments", message, keyword_span(name, expr), (), _written(op))
        if name not in parameters and not op.extra_statics:
            help = OPTIONS.get(name) or did_you_mean(name, [*parameters, "name"], _written(op))
            message = f"`{op.name}` has no option `{name}`"
            raise Fault("arguments", message, keyword_span(name, expr), (), help)
        given[name] = expr
    values = found.values(op) if found.tensors else ()
    for p in op.statics:
        if p.name not in given:
            if p.default is ...:
                raise Fault("arguments", f"`{op.name}` needs `{p.name}`", e.span, (), _written(op))
            found.statics[p.name] = p.default
            continue
        expr = given[p.name]
        found.spans[p.name], found.texts[p.name] = expr.span, expr.span.text
        found.statics[p.name] = _static_argument(typer, p.kind, expr, scope, values, op.name, p.name)
    for name, expr in given.items():
        if name not in parameters:
            found.statics[name] = _static_argument(typer, "int", expr, scope, values, op.name, name)


def _static_argument(
    typer: Typer, kind: str, e: t.Expr, scope: Scope, values: Sequence[n.Value], function: str, name: str
) -> Any:
    what = f"`{name}` of `{function}`"
    if kind in ("axis", "axes"):
        # of several tensors (concat), the first that has the axis
        wanted = e.id if isinstance(e, t.Name) else None
        one = next((v for v in values if any(a.called(wanted) for a in v.axes)), values[0])
        return axis_of(typer, e, one, scope, what) if kind == "axis" else axes_of(typer, e, one, scope, what)
    if kind == "sizes":
        items = e.items if isinstance(e, t.List) else (e,)
        return tuple(_static_argument(typer, "size", x, scope, values, function, name) for x in items)
    if kind == "ints" and isinstance(e, t.List):
        return tuple(typer.integer(x, scope, what) for x in e.items)
    if kind == "floats":
        items = e.items if isinstance(e, t.List) else (e,)
        return tuple(_static_argument(typer, "float", x, scope, values, function, name) for x in items)
    value = typer.static(e, scope, what)
    if kind == "size":
        size = st.as_size(value)
        if size is None and isinstance(value, float):
            message = f"{what} is a whole number, not {st.show(value)}"
            raise Fault("size", message, e.span, (), "use `//` to round down")
        if size is None:
            raise Fault("size", f"{what} is a size, not {st.show(value)}", e.span)
        return SizeArg(size, e.id if isinstance(e, t.Name) else None)
    if kind in ("int", "ints"):
        return typer.integer(e, scope, what)
    if kind == "text":
        if not isinstance(value, str):
            raise Fault("type", f"{what} is a text in quotes", e.span)
        return value
    if kind == "bool":
        if not isinstance(value, bool):
            raise Fault("type", f"{what} is true or false, not {st.show(value)}", e.span)
        return value
    if isinstance(value, (bool, str, Size)):
        raise Fault("type", f"{what} is a number, not {st.show(value)}", e.span)
    return float(value)


def apply_rule(typer: Typer, op: Op, e: t.Call, scope: Scope, given: Arguments, outer: bool = False) -> OpResult:
    """What the rule of an operation gives for these arguments. Raises Fault."""
    types = {k: tuple(x.type for x in v) if isinstance(v, tuple) else v.type for k, v in given.tensors.items()}
    try:
        sizes, named = typer.lengths(scope)
        result = op.rule(OpCall(op, types, given.statics, given.texts, sizes, named, outer))
    except OpError as error:
        span = given.spans.get(error.argument or "", e.span)
        raise Fault(error.code, error.message, span, error.notes, error.help) from None
    line = typer.line(e.span)
    axes = tuple(a if a.origin else replace(a, origin=f"{e.span.text}, {line}") for a in result.type.axes)
    kind = TensorType(result.type.dtype, axes)
    return replace(result, type=kind)


def _unknown(typer: Typer, func: t.Name) -> Fault | Unknown:
    """The mistake that nothing has a name that is called, where `resolve` has not said so."""
    if typer.errors:
        return Unknown()
    return Fault("unknown-name", f"there is no function or block `{func.id}`", func.span)


def _no_operation(func: t.Name, scope: Scope) -> Fault | None:
    """The mistake that something known is called that is no operation."""
    name = func.id
    if name in scope.names:
        message, help = f"`{name}` is a value here, it cannot be called", f"to multiply, write `{name} * (...)`"
    elif name in INITIALIZERS:
        message = f"`{name}` says how a learned tensor starts, it is no operation"
        help = f"write it in `params:`, as in `table: float[d] = {name}`"
    elif any(name == known.partition("(")[0] for known in NORMALIZERS):
        message, help = f"`{name}` is a normalizer, it is no operation", f"write `normalize: {name}` in an attention"
    else:
        return None
    return Fault("not-a-function", message, func.span, (), help)
