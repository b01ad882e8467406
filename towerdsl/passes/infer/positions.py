"""`i`, `j` and their parts, in an attention."""

from __future__ import annotations

from towerdsl.diagnostics import Span, did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.ir.types import Axis, TensorType
from towerdsl.lang import tree as t
from towerdsl.passes import static as st
from towerdsl.passes.infer.scope import AttentionScope, Fault, Scope
from towerdsl.passes.infer.values import pointwise, to_value


def position_along(axis: Axis, span: Span) -> n.Value:
    """The positions along one axis."""
    return n.Position(TensorType("int", (axis,)), span)


def side(name: str, span: Span, scope: Scope) -> tuple[Axis, ...]:
    """The axes that `i` or `j` counts. Raises Fault."""
    assert scope.attention is not None
    found = scope.attention.positions if name == "i" else scope.attention.over
    if not found:
        message = "the query has no position here, so there is no `i`"
        raise Fault("no-position", message, span, (), "`i` needs a query with an axis that the key has not")
    return found


def flat_position(name: str, span: Span, scope: Scope) -> n.Value:
    """`i` over several axes is the row-major index, where `j` is over the same ones. Raises Fault."""
    parts = side(name, span, scope)
    assert scope.attention is not None
    _check_flat(name, span, scope.attention)
    value = position_along(parts[0], span)
    for axis in parts[1:]:
        length = to_value(st.normal(axis.size), span)
        value = pointwise("*", [value, length], span, scope)
        value = pointwise("+", [value, position_along(axis, span)], span, scope)
    return value


def position_part(base: t.Name, e: t.Attribute, scope: Scope) -> n.Value:
    """`i.h`: the position along one axis of a side, or of the batch. Raises Fault."""
    attention = scope.attention
    assert attention is not None
    axis = attention.aliases.get(e.name)
    name = axis.name if axis is not None else e.name
    parts = attention.positions if base.id == "i" else attention.over
    for part in (*parts, *attention.batch):
        if part.name == name:
            return position_along(part, e.span)
    known = [a.name for a in parts if a.name]
    help = did_you_mean(e.name, known, f"`{base.id}` has {', '.join(f'`{base.id}.{x}`' for x in known) or 'no parts'}")
    raise Fault("unknown-name", f"`{base.id}` has no axis `{e.name}`", e.span, (), help)


def _check_flat(name: str, span: Span, attention: AttentionScope) -> None:
    """Several axes are counted as one only where the other side has the same ones, or none. Raises Fault."""
    own, other = attention.positions, attention.over
    if name == "j":
        own, other = other, own
    if len(own) == 1 or not other or [(a.name, a.size) for a in own] == [(a.name, a.size) for a in other]:
        return
    sides = ("i", attention.positions), ("j", attention.over)
    notes = [f"`{x}`: [{', '.join(a.detailed for a in axes)}]" for x, axes in sides]
    message = f"a bare `{name}` counts several axes as one, and the other side has not the same ones"
    names = [a.name for a in own if a.name is not None]
    shared = next((x for x in names if any(x == a.name for a in other)), None)
    help = f"write its parts: {', '.join(f'`{name}.{x}`' for x in names)}"
    if shared is not None:
        help = f"both have {shared}: write `i.{shared}` and `j.{shared}` for `i` and `j`"
    raise Fault("axis-mismatch", message, span, notes, help)
