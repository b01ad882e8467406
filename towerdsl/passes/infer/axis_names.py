"""The axes of a value that a spec names."""

from __future__ import annotations

from towerdsl.diagnostics import Span
from towerdsl.ir import nodes as n
from towerdsl.ir.types import Axis, named
from towerdsl.lang import tree as t
from towerdsl.passes.infer import axes as combining
from towerdsl.passes.infer.mistakes import by_name, missing_axis
from towerdsl.passes.infer.scope import Fault, Scope
from towerdsl.passes.infer.tables import Tables


def axis_of(tables: Tables, e: t.Expr, value: n.Value, scope: Scope, what: str) -> Axis:
    """The axis of `value` that `e` names. Raises Fault."""
    if not isinstance(e, t.Name):
        if isinstance(e, t.Attribute) and isinstance(e.base, t.Name) and e.base.id in ("i", "j"):
            for axis in value.axes:
                if axis.side == e.base.id and axis.name == e.name:
                    return axis
        raise Fault("axis", f"{what} takes the name of an axis", e.span, (), by_name(e, value.axes))
    wanted = scope.axes.get(e.id)
    found = named(value.axes, e.id) or next((a for a in value.axes if a.name is not None and a == wanted), None)
    if found is not None:
        _check_single(found, value, e.span)
        return found
    help = missing_axis(e.id, value.axes, scope, tables.sizes, f"it has {_shown_names(value)}")
    raise Fault("axis", f"{what}: there is no axis `{e.id}` here", e.span, (combining.describe("tensor", value),), help)


def _check_single(axis: Axis, value: n.Value, span: Span) -> None:
    """Raise Fault where an axis that is meant by its name is one of several of that name."""
    alike = [a for a in value.axes if a.name == axis.name]
    if len(alike) < 2 or axis.name is None:
        return
    message = f"`{axis.name}` is the name of {len(alike)} axes here"
    sides = list(dict.fromkeys(map(str, alike)))
    help = f"write `{'` or `'.join(sides)}`" if len(sides) > 1 else combining.naming_apart(value, axis)
    raise Fault("axis", message, span, (combining.describe("tensor", value),), help)


def axes_of(tables: Tables, e: t.Expr, value: n.Value, scope: Scope, what: str) -> tuple[Axis, ...]:
    """The axes of `value` that `e` names: one, or a list. Raises Fault."""
    items = e.items if isinstance(e, t.List) else (e,)
    return tuple(axis_of(tables, x, value, scope, what) for x in items)


def _shown_names(value: n.Value) -> str:
    """The axes of a value in words, for help lines."""
    names = [str(a) for a in value.axes]
    return f"axes {', '.join(names)}" if names else "no axes"
