"""How tensors combine: by axis name, as the language's reference says."""

from __future__ import annotations

from collections.abc import Sequence

from towerdsl.diagnostics import Span
from towerdsl.ir.nodes import Rename, Value
from towerdsl.ir.types import Axis, TensorType
from towerdsl.passes.infer.scope import AttentionScope, Fault


def describe(what: str, value: Value) -> str:
    """A note for a message: what a tensor's axes are, and where its last size comes from."""
    last = value.axes[-1] if value.axes else None
    length = last.size.integer if last is not None else None
    origin = f"   {length} comes from {last.origin}" if last is not None and last.origin and length is not None else ""
    return f"{what}: [{', '.join(a.detailed for a in value.axes)}]{origin}"


def matched(a: Sequence[Axis], b: Sequence[Axis], scope: AttentionScope | None) -> dict[int, int]:
    """Which axis of `b` (position) is which axis of `a`: by name, unnamed ones by place and size, and the last ones
    by size where their names differ. Two tensors of one axis each are an outer product unless the names agree."""
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for n, axis in enumerate(b):
        for m, other in enumerate(a):
            if m not in taken and axis.same(other):
                pairs[n] = m
                taken.add(m)
                break
    for back in range(1, min(len(a), len(b)) + 1):
        n, m = len(b) - back, len(a) - back
        if n in pairs or m in taken or a[m].side != b[n].side or a[m].size != b[n].size:
            continue
        if not (_is_feature(a[m], scope) and _is_feature(b[n], scope)):
            continue
        nameless = (a[m].name is None) + (b[n].name is None)
        if nameless < 2 and len(a) == len(b) == 1:
            continue
        if nameless or (back == 1 and a[m].size.integer is not None):
            pairs[n] = m
            taken.add(m)
    return pairs


def combine(left: Value, right: Value, span: Span, what: str, scope: AttentionScope | None) -> tuple[Value, Value]:
    """The operands with their common axes named alike. Raises Fault where they do not fit."""
    a, b = left.axes, right.axes
    pairs = matched(a, b, scope)
    notes = (describe("left", left), describe("right", right))
    for n, m in pairs.items():
        if a[m].size != b[n].size:
            message = f"{what}: axis {b[n]} has two lengths, {a[m].size} and {b[n].size}"
            raise Fault("axis-mismatch", message, span, notes, "give the axes different names, or make them equal")
    unmatched_left = a and len(a) - 1 not in pairs.values()
    unmatched_right = b and len(b) - 1 not in pairs
    if pairs and unmatched_left and unmatched_right and _is_feature(a[-1], scope) and _is_feature(b[-1], scope):
        message = f"{what}: the last axes differ, {a[-1].shown} and {b[-1].shown}"
        help = f"make both sizes equal, for instance `linear(..., {a[-1].name or a[-1].size})`"
        raise Fault("axis-mismatch", message, span, notes, help)
    names_a = {m: _better(a[m], b[n]) for n, m in pairs.items()}
    new_a = tuple(names_a.get(m, axis) for m, axis in enumerate(a))
    new_b = tuple(new_a[pairs[n]] if n in pairs else axis for n, axis in enumerate(b))
    return renamed(left, new_a), renamed(right, new_b)


def _is_feature(axis: Axis, scope: AttentionScope | None) -> bool:
    return scope is None or scope.rank(axis) == 4


def _better(a: Axis, b: Axis) -> Axis:
    return a if a.name is not None else b


def renamed(value: Value, axes: tuple[Axis, ...]) -> Value:
    """The value with other axis names; itself where they are the same."""
    if value.axes == axes:
        return value
    return Rename(TensorType(value.type.dtype, axes), value.span, value)


def unnamed(value: Value) -> Value:
    """The value whose axes were given other names."""
    while isinstance(value, Rename):
        value = value.arg
    return value


def union(values: Sequence[Value], scope: AttentionScope | None) -> tuple[Axis, ...]:
    """The axes of a result, in the order of the operand that has them all, or the left one's first."""
    every: list[Axis] = []
    for v in values:
        every += [a for a in v.axes if a not in every]
    if scope is not None:
        return tuple(sorted(every, key=lambda a: _order(a, scope)))
    for v in values:
        if len(v.axes) == len(every):
            return v.axes
    return tuple(every)


def _order(axis: Axis, scope: AttentionScope) -> tuple[int, int]:
    rank = scope.rank(axis)
    fixed = {0: scope.batch, 2: scope.positions, 3: scope.over}.get(rank, ())
    return rank, fixed.index(axis) if axis in fixed else 0


def together(values: Sequence[Value], span: Span, what: str, scope: AttentionScope | None) -> list[Value]:
    """All operands with their common axes named alike. Raises Fault where they do not fit."""
    result = list(values)
    for n in range(1, len(result)):
        for m in range(n):
            if result[m].axes and result[n].axes:
                result[m], result[n] = combine(result[m], result[n], span, what, scope)
    return result
