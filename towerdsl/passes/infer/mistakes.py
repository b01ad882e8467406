"""What is said of axes and arguments that are not what they are taken for: the place, the cause, what to write."""

from __future__ import annotations

from collections.abc import Container, Sequence

from towerdsl.diagnostics import Span, did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, RelationType, TensorType, Type, shown
from towerdsl.lang import tree as t
from towerdsl.passes.infer import axes as combining
from towerdsl.passes.infer.scope import AttentionScope, Fault, Scope, SharedModule


def missing_axis(name: str, axes: Sequence[Axis], scope: Scope, sizes: Container[str], otherwise: str) -> str:
    """Help for a name that none of the axes has: a parameter hides it, it is misspelled, or only the block uses it."""
    signature = scope.signature
    near = did_you_mean(name, [a.name for a in axes if a.name])
    if any(a.name is None and a.size.integer == 1 for a in axes):
        otherwise += "; leave out axes of length 1: what lacks an axis is broadcast along it"
    if signature is None:
        return near or otherwise
    known = scope.names.get(name)
    number = known.type.scalar if isinstance(known, n.Value) else isinstance(known, int | float | Size)
    if number and name in {p.name for p in signature.parameters}:
        help = f"`{name}` is a parameter here, a number: name the axes where the block begins, as in "
        if any(a.name is None for a in axes):
            return help + f"`{_signature(signature, axes, axes, scope)}`"
        return f"`{name}` is a parameter here, a number, and no axis: `rearrange` what the block is given instead"
    if near or not any(p.axes is None and _has(scope.names.get(p.name), axes) for p in signature.parameters):
        return near or otherwise
    free = [a for a in axes[:-1] if a.name is not None and a.name not in sizes]
    callers = free[1:] if len(free) > 1 and free[0] == axes[0] else free
    if len(callers) == 1:
        own = [Axis(name, a.size) if a == callers[0] else a for a in axes]
        begin = _signature(signature, axes, own, scope)
        return f"{otherwise}; to call {callers[0].name} `{name}` in this block, begin it `{begin}`"
    begin = _signature(signature, axes, axes, scope)
    return f"{otherwise}; a block names them for itself where it begins, as in `{begin}`"


def by_name(e: t.Expr, axes: Sequence[Axis]) -> str:
    """Help for the number of an axis, as torch counts them, or for another expression."""
    number = e.operand if isinstance(e, t.Unary) else e
    at = int(number.value) * (-1 if isinstance(e, t.Unary) else 1) if isinstance(number, t.Number) else len(axes)
    if -len(axes) <= at < len(axes) and axes[at].name:
        return f"axes go by name: write `{axes[at].name}`"
    names = ", ".join(map(str, axes))
    return f"it has axes {names}" if names else "it has no axes"


def _has(value: object, axes: Sequence[Axis]) -> bool:
    return isinstance(value, n.Value) and value.axes == tuple(axes)


def _signature(signature: t.Signature, axes: Sequence[Axis], names: Sequence[Axis], scope: Scope) -> str:
    """A block's first line, with the names of the axes of the parameters that have these."""
    parts = []
    for p in signature.parameters:
        default = f" = {p.default.span.text}" if p.default is not None else ""
        whole = p.axes is None and _has(scope.names.get(p.name), axes)
        parts.append(f"{p.name}[{', '.join(a.name or str(a.size) for a in names)}]" if whole else f"{p.name}{default}")
    return f"{signature.name}({', '.join(parts)})"


def wrong_axis(
    axis: Axis, value: n.Value, base: n.Value, indexed: Sequence[Axis], item: t.Expr, scope: AttentionScope
) -> Fault:
    """An axis is read by positions of another one."""
    found = value.axes[0]
    note = combining.describe("tensor", base)
    other = "i" if found.side == "j" else "j"
    sides = scope.positions if other == "i" else scope.over
    swapped = any(a.size == axis.size for a in sides) and bool(found.side and axis.name)
    if axis.name is not None and axis.name == found.name:
        message = f"axis {axis.name} has another length here than the axis {axis.name} that `{item.span.text}` counts"
        help = "one of them was joined, cut or pooled: do the same to the other"
        if swapped:
            help = f"did you mean `{other}`? Otherwise {help}"
        return Fault("axis-mismatch", message, item.span, (note,), help)
    of = f"of axis {found.name}" if found.name else "of an axis without a name"
    help = f"if both are one axis, give it one name in the types of the inputs, {found.name or axis}"
    if swapped:
        help = f"did you mean `{other}`?"
    elif any(a.size == found.size for a in indexed):
        help = f"indices stand in the order of the axes, {shown(indexed)}"
    return Fault("axis-mismatch", f"axis {axis} is indexed by a position {of}", item.span, (note,), help)


def no_axis_to_average(axis: Axis, field: str, value: n.Value, features: Sequence[Axis]) -> tuple[str, str]:
    """The message and the help where a source lacks an axis that is averaged."""
    own = next((a for a in features if a.same(axis)), None)
    if own is None:
        return f"the {field} has no axis `{axis}` to average over", "key and value share the averaged axes"
    names = [a.name or f"x{k}" for k, a in enumerate(value.axes)]
    one = f'rearrange(..., "{" ".join(names)} -> {" ".join(names)} 1")'
    message = f"the {field}'s axis {axis}, its last one, holds its features: nothing is left to average over"
    return message, f"where each position has one number, write `{one}`; `features:` names other axes"


def not_a_vector(value: n.Value, features: Sequence[Axis], scope: AttentionScope, e: t.Expr) -> Fault:
    """A message that is no vector for each key."""
    kind = str(value.type)
    if len(features) > 1:
        message = f"the message has {len(features)} axes of features, {' and '.join(map(str, features))}"
        return Fault("axis", message, e.span, (kind,), "sum over one of them, or make them one with `rearrange`")
    if features:
        message = f"the features of the message, {features[0]}, are not its last axis"
        return Fault("axis", message, e.span, (kind,), "`rearrange` reorders axes")
    help = "it is a vector for each j (and i), such as `v`, or `v + table[i - j]`"
    lost = [a for a in value.axes if a in scope.batch and a.name is not None]
    notes = [
        kind,
        *([f"batch axes, which key or value have beside their features: {', '.join(map(str, lost))}"] if lost else []),
    ]
    if known := [a for a in lost if a.size.integer is not None]:
        help = f"give its features an axis of their own, or say `features: {known[0]}` where {known[0]} is meant"
    return Fault("axis", "the message has no axis of features", e.span, notes, help)


def no_tensors(name: str, given: Sequence[t.Expr], scope: Scope) -> None:
    """An entry of `modules:` is given what is static only. Raises Fault."""
    for e in given:
        value = scope.names.get(e.id) if isinstance(e, t.Name) else None
        if isinstance(value, n.Value):
            rest = ", ".join(x.span.text for x in given if x is not e)
            help = f"write `{name}({rest})`, and give it the tensor where it is called"
            raise Fault(
                "not-static",
                "a module is declared without its tensors",
                e.span,
                (f"`{e.span.text}` is {value.type}",),
                help,
            )


def used_otherwise(module: SharedModule, now: Sequence[tuple[str, Type]], span: Span) -> Fault:
    """The mistake that a shared block is called with other arguments than its first call."""
    assert module.block is not None
    notes = [
        f"{when}: {', '.join(f'{name} {kind}' for name, kind in types)}"
        for when, types in (("before", module.block.parameters), ("now", now))
    ]
    message = f"`{module.name}` is used with arguments of other types than before"
    help = "one module serves one kind of arguments: the same number of axes, and the same sizes where they are known"
    if [_ranks(kind) for _, kind in now] == [_ranks(kind) for _, kind in module.block.parameters]:
        help = "one module serves known lengths that are the same: leave them free, without a size, or use two modules"
    if [_lengths(kind) for _, kind in now] == [_lengths(kind) for _, kind in module.block.parameters]:
        named = [f"{x}[{', '.join(map(str, k.axes))}]" if isinstance(k, TensorType) and k.axes else x for x, k in now]
        help = f"name the axes of the block's parameters: `{module.block.name}({', '.join(named)})`"
    return Fault("shared-module", message, span, notes, help)


def _ranks(kind: Type) -> tuple[int, int | None]:
    """How many axes there are, and how long the last one is."""
    lengths = _lengths(kind)
    return len(lengths), lengths[-1] if lengths else None


def _lengths(kind: Type) -> list[int | None]:
    """The lengths of the axes, those that are known."""
    axes = (kind.source, kind.target) if isinstance(kind, RelationType) else kind.axes
    return [a.size.integer for a in axes]


def keyword_span(name: str, value: t.Expr) -> Span:
    """Where the name of an argument stands, before its value."""
    source = value.span.source
    at = source.text.rfind(name, 0, value.span.start)
    return Span(source, at, at + len(name)) if at >= 0 else value.span


def plural(number: int, noun: str) -> str:
    """`1 argument`, `2 arguments`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
