"""`a if condition else b`, decided when compiling: of what is not taken, the names are checked and nothing is typed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from towerdsl.budget import spend
from towerdsl.diagnostics import Span
from towerdsl.ir import nodes as n
from towerdsl.lang import tree as t
from towerdsl.passes import static as st
from towerdsl.passes.infer.names import check_names, is_static
from towerdsl.passes.infer.scope import Fault, Scope
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.resolve import walk
from towerdsl.passes.static import Static


def taken(typer: Typer, e: t.Expr, scope: Scope) -> t.Expr:
    """The expression without the choices that sizes decide. Raises Fault, Unknown."""
    if not any(isinstance(x, t.Cond) for x in walk(e)):
        return e
    return _without(typer, e, scope)


def alternative(typer: Typer, e: t.Expr, scope: Scope, what: str, values: bool = False) -> t.Expr:
    """The alternative that sizes choose, of names that are no `values`, or of lists. Raises Fault, Unknown."""
    while isinstance(e, t.Cond):
        holds = _holds(typer, e.test, scope, what)
        if values:
            check_names(typer, e.otherwise if holds else e.then, scope)
        e = e.then if holds else e.otherwise
    return e


def chosen_type(typer: Typer, decl: t.AnyType, scope: Scope, known: bool = True) -> t.TypeDecl:
    """The type that sizes choose; its axes are `known` elsewhere, or new here. Raises Fault, Unknown."""
    while isinstance(decl, t.TypeChoice):
        holds = _holds(typer, decl.test, scope, "a type")
        for d in t.branches(decl.otherwise if holds else decl.then) if known else ():
            for a in d.axes:
                check_names(typer, a.size if a.size is not None else t.Name(a.span, a.name or ""), scope)
        decl = decl.then if holds else decl.otherwise
    return decl


def _holds(typer: Typer, test: t.Expr, scope: Scope, what: str) -> bool:
    expanded = typer.expand(test, scope)
    return truth(typer.static(expanded, scope, f"what chooses {what}"), test.span)


def truth(value: Static, span: Span) -> bool:
    """A decided condition. Raises Fault."""
    if isinstance(value, bool | int):
        return bool(value)
    help = "compare it, as in `kind == 'rotary'`" if isinstance(value, str) else "compare it, as in `l % 2 == 0`"
    raise Fault("not-boolean", f"the condition is a truth value, not {st.show(value)}", span, (), help)


def _without(typer: Typer, e: t.Expr, scope: Scope) -> t.Expr:
    spend(5)
    changes: dict[str, Any] = {}
    if isinstance(e, t.Cond):
        test = changes["test"] = _without(typer, e.test, scope)
        if is_static(typer, test, scope):
            value = typer.any(test, scope)
            if not isinstance(value, n.Value | n.Relation):
                holds = truth(value, e.test.span)
                check_names(typer, e.otherwise if holds else e.then, scope)
                return _without(typer, e.then if holds else e.otherwise, scope)
    for name in e.__dataclass_fields__:
        if name not in changes:
            changes[name] = _inside(typer, getattr(e, name), scope)
    changes = {name: new for name, new in changes.items() if new is not getattr(e, name)}
    return replace(e, **changes) if changes else e


def _inside(typer: Typer, value: Any, scope: Scope) -> Any:
    if isinstance(value, t.Expr):
        return _without(typer, value, scope)
    if isinstance(value, tuple):
        new = tuple(_inside(typer, v, scope) for v in value)
        return new if any(a is not b for a, b in zip(new, value, strict=True)) else value
    return value
