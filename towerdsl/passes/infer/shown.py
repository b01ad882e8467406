"""What a reader is shown of an expression: no branches that are not taken, and no definitions that it may not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from towerdsl.budget import spend
from towerdsl.lang import tree as t
from towerdsl.ops import OPS
from towerdsl.passes.infer.names import is_static
from towerdsl.passes.infer.scope import Scope
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.resolve import walk


def reading(typer: Typer, e: t.Expr, scope: Scope) -> t.Expr:
    """The expression without what sizes decide, and with those definitions put in that a reader may not know.

    A definition stays where putting it in would write a call twice, which runs once.
    """
    open_ = typer.open_definitions
    names = {*open_, *(name for name, op in OPS.items() if op.idle is not None)}
    if not any(isinstance(x, t.Cond | t.Logic) or (isinstance(x, t.Name) and x.id in names) for x in walk(e)):
        return e
    put_in = typer.expanded(e, scope, open_)
    once = [x.arg for x in _taken(typer, put_in, scope, set()) if isinstance(x, t.Once)]
    repeated = any(isinstance(x, t.Call) for arg in once for x in walk(arg))
    return _read(typer, e if repeated else put_in, scope)


def _taken(typer: Typer, e: t.Expr, scope: Scope, met: set[int]) -> Iterator[t.Expr]:
    """An expression and all below it, without branches that are not taken; what is computed once is met once."""
    spend(2)
    if isinstance(e, t.Once) and e.key in met:
        return
    yield e
    if isinstance(e, t.Once):
        met.add(e.key)
    inside = [*e.children(), *(v for _, v in e.kwargs)] if isinstance(e, t.Call) else list(e.children())
    if isinstance(e, t.Cond) and (test := _decided(typer, e.test, scope)) is not None:
        inside = [e.then if test else e.otherwise]
    for x in inside:
        yield from _taken(typer, x, scope, met)


def _read(typer: Typer, e: t.Expr, scope: Scope) -> t.Expr:
    spend(5)
    if isinstance(e, t.Once):
        return _read(typer, e.arg, scope)
    if isinstance(e, t.Needs):
        return _read(typer, e.formula, scope)
    if isinstance(e, t.Cond) and (test := _decided(typer, e.test, scope)) is not None:
        return _read(typer, e.then if test else e.otherwise, scope)
    if isinstance(e, t.Logic):
        return _joined(typer, e, scope)
    if isinstance(e, t.Call) and _is_idle(typer, e, scope):
        return _read(typer, e.args[0], scope)
    changes: dict[str, Any] = {}
    for name in e.__dataclass_fields__:
        old = getattr(e, name)
        if isinstance(old, t.Expr | tuple):
            changes[name] = _each(old, lambda x: _read(typer, x, scope))
    return replace(e, **changes)


def _joined(typer: Typer, e: t.Logic, scope: Scope) -> t.Expr:
    """`and` or `or` of what is not decided."""
    ends = e.op == "or"  # the truth value that decides all
    left: list[t.Expr] = []
    for operand in e.operands:
        known = _decided(typer, operand, scope)
        inner = _read(typer, operand, scope) if known is None else t.Bool(operand.span, known)
        if isinstance(inner, t.Bool):
            if inner.value == ends:
                return inner
        elif inner not in left:
            left += inner.operands if isinstance(inner, t.Logic) and inner.op == e.op else [inner]
    if not left:
        return t.Bool(e.span, not ends)
    return left[0] if len(left) == 1 else replace(e, operands=tuple(left))


def _is_idle(typer: Typer, e: t.Call, scope: Scope) -> bool:
    """Whether it is an operation that does nothing with these arguments: `dropout(x, 0)`."""
    op = OPS.get(e.func.id) if isinstance(e.func, t.Name) and e.func.id not in scope.names else None
    if op is None or op.idle is None:
        return False
    given = dict(zip([*op.tensors, *(p.name for p in op.statics)], e.args, strict=False)) | dict(e.kwargs)
    if op.idle not in given:
        return False
    number = typer.expand(given[op.idle], scope)
    return is_static(typer, number, scope) and typer.any(number, scope) == 0


def _decided(typer: Typer, test: t.Expr, scope: Scope) -> bool | None:
    if isinstance(test, t.Bool):
        return test.value
    test = typer.expanded(test, scope)
    if any(isinstance(x, t.Cond) for x in walk(test)) or not is_static(typer, test, scope):
        return None
    value = typer.any(test, scope)
    return value if isinstance(value, bool) else None


def _each(value: Any, change: Callable[[t.Expr], t.Expr]) -> Any:
    """An expression changed, or each expression in a tuple."""
    if isinstance(value, t.Expr):
        return change(value)
    return tuple(_each(x, change) for x in value) if isinstance(value, tuple) else value
