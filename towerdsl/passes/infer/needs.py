"""What a definition or a block needs of its arguments: conditions on numbers, read where it is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from towerdsl.diagnostics import Span, did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.lang import tree as t
from towerdsl.passes.infer.names import is_static, unknown
from towerdsl.passes.infer.scope import POISON, Binding, Fault, Scope, Unknown
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.lists import put_in
from towerdsl.passes.resolve import walk
from towerdsl.passes.static import Static, show

#: How far from a number that does not fit others are tried, for the help.
NEAR = 64


def check_needs(
    typer: Typer, called: t.Definition | t.Block, args: Mapping[str, t.Expr], span: Span, scope: Scope
) -> None:
    """Raise Fault at `span` where the arguments do not meet a condition; what is known at run time only may meet it.

    A definition's arguments are expressions of this scope, a block's parameters are names in it.
    """
    if isinstance(called, t.Definition):
        numbers: dict[str, Binding] = {name: _number(typer, e, scope) for name, e in args.items()}
        scope = scope.child(**{p.name: POISON for p in called.signature.parameters} | numbers)
        lists = {name: e.items for name, e in args.items() if isinstance(e, t.List)}
        called = replace(called, needs=put_in(called.needs, lists, typer.errors)) if lists else called
    for condition in called.needs:
        if _holds(typer, called, condition, scope) is False:
            raise _unmet(typer, called, condition, args, span, scope)


def _number(typer: Typer, e: t.Expr, scope: Scope) -> Binding:
    """An argument, where it is known when compiling."""
    return typer.any(e, scope) if is_static(typer, e, scope) else POISON


def _holds(typer: Typer, called: t.Definition | t.Block, condition: t.Expr, scope: Scope) -> bool | None:
    """Whether a condition is met, None where that is not known. Raises Fault where it is none."""
    expanded = typer.expand(condition, scope)
    if not is_static(typer, expanded, scope):
        if names := unknown(typer, expanded, scope):
            name, known = names[0], [p.name for p in called.signature.parameters]
            also = f"; `{called.signature.name}` has {', '.join(f'`{x}`' for x in known)}" if known else ""
            help = did_you_mean(name.id, {*known, *typer.sizes}, f"`needs` is about parameters and sizes{also}")
            raise Fault("unknown-name", f"there is no `{name.id}` here", name.span, (), help)
        return None
    try:
        found = typer.any(expanded, scope)
    except Unknown:
        return None
    if isinstance(found, n.Value | n.Relation):
        return None
    if not isinstance(found, bool):
        message = f"`needs` takes a condition, this is {show(found)}"
        raise Fault("not-boolean", message, condition.span, (), "compare it, as in `size % 2 == 0`")
    return found


def _unmet(
    typer: Typer,
    called: t.Definition | t.Block,
    condition: t.Expr,
    args: Mapping[str, t.Expr],
    span: Span,
    scope: Scope,
) -> Fault:
    signature = called.signature
    numbers = {name: _value(typer, name, scope) for name in _names(condition)}
    known = {name: value for name, value in numbers.items() if value is not None}
    values = " and ".join(f"`{name}` is {show(value)}" for name, value in known.items())
    message = f"`{signature.name}` needs `{' '.join(condition.span.text.split())}`{f', {values}' if values else ''}"
    notes = [f"`{signature.span.text}` is defined at {signature.span}"]
    for name, value in known.items():
        fitting = _fitting(typer, called, name, value, scope)
        if fitting:
            arg = args.get(name)
            label = arg.id if isinstance(arg, t.Name) and arg.id in typer.sizes else name
            return Fault("needs", message, span, notes, f"with {' or '.join(map(show, fitting))} for `{label}` it fits")
    return Fault("needs", message, span, notes, "call it with other numbers")


def _names(condition: t.Expr) -> Iterable[str]:
    return dict.fromkeys(e.id for e in walk(condition) if isinstance(e, t.Name))


def _value(typer: Typer, name: str, scope: Scope) -> Static | None:
    """The number or word that a name is."""
    e = scope.names.get(name, typer.sizes.get(name))
    if e is None and name in scope.axes:
        e = scope.axes[name].size.integer
    return e if isinstance(e, int | float | str) else None


def _fitting(typer: Typer, called: t.Definition | t.Block, name: str, value: Static, scope: Scope) -> list[Static]:
    """The nearest numbers below and above, more than 0, with which all conditions are met."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []

    def fits(number: float) -> bool:
        inner = scope.child(**{name: number})
        return number > 0 and all(_holds(typer, called, e, inner) is not False for e in called.needs)

    nearest = (next((x for k in range(1, NEAR) if fits(x := value + sign * k)), None) for sign in (-1, 1))
    return [x for x in nearest if x is not None]
