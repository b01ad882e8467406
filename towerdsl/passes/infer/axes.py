"""How tensors combine: by axis name, as the language's reference says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from towerdsl.diagnostics import Span
from towerdsl.ir.nodes import Local, Rename, Value
from towerdsl.ir.types import Axis, TensorType, apart
from towerdsl.passes.infer.scope import AttentionScope, Fault


def describe(what: str, value: Value) -> str:
    """A note for a message: what a tensor's axes are, and where its last size comes from."""
    last = value.axes[-1] if value.axes else None
    length = last.size.integer if last is not None else None
    origin = f"   {length} comes from {last.origin}" if last is not None and last.origin and length is not None else ""
    return f"{what}: [{', '.join(a.detailed for a in value.axes)}]{origin}"


def matched(a: Sequence[Axis], b: Sequence[Axis], scope: AttentionScope | None, outer: bool = False) -> dict[int, int]:
    """Which axis of `b` (position) is which axis of `a`: by name, unnamed ones by place and size, and the last ones
    by size where their names differ. The last ones of an outer operation, and those of two tensors of one axis each,
    are one only by name."""
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for n, axis in enumerate(b):
        own = axis.name is None and not _is_feature(axis, scope)  # a position, or a batch axis, without a name
        m = next((m for m, o in enumerate(a) if m not in taken and (axis.same(o) or (own and axis == o))), None)
        if m is not None:
            pairs[n] = m
            taken.add(m)
    for n, axis in enumerate(b if not outer else ()):
        found = [m for m, other in enumerate(a) if m not in taken and _also(axis, other)]
        if n not in pairs and len(found) == 1:
            pairs[n] = found[0]
            taken.add(found[0])
    for back in range(1 + outer, min(len(a), len(b)) + 1):
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


def combine(
    left: Value, right: Value, span: Span, what: str, scope: AttentionScope | None, outer: bool = False
) -> tuple[Value, Value]:
    """The operands with their common axes named alike. Raises Fault where one has two lengths."""
    check_twice(left, right, span, what)
    a, b = left.axes, right.axes
    pairs = matched(a, b, scope, outer)
    for n, m in pairs.items():
        if a[m].size != b[n].size:
            notes = (describe("left", left), describe("right", right))
            message = f"{what}: axis {b[n]} has two lengths, {a[m].size} and {b[n].size}"
            raise Fault("axis-mismatch", message, span, notes, "give the axes different names, or make them equal")
    # what has more axes says how they are called
    names_a = {m: _better(a[m], b[n]) if len(a) >= len(b) else _better(b[n], a[m]) for n, m in pairs.items()}
    new_a = _with(names_a, a, ())
    new_b = _with({n: new_a[m] for n, m in pairs.items()}, b, new_a)
    return renamed(left, new_a), renamed(right, new_b)


def _with(names: Mapping[int, Axis], axes: Sequence[Axis], others: Sequence[Axis]) -> tuple[Axis, ...]:
    """The axes, those in some places by other names; the rest are none of these and none of `others`."""
    rest = iter(apart([a for n, a in enumerate(axes) if n not in names], (*names.values(), *others)))
    return tuple(names[n] if n in names else next(rest) for n in range(len(axes)))


def check_twice(left: Value, right: Value, span: Span, what: str, but: int = 0) -> None:
    """No name of an axis stands twice on one side and once on the other: it does not say which is meant. The last `but`
    axes are not combined. Raises Fault."""

    def count(value: Value, axis: Axis) -> int:
        return sum(a.same(axis) for a in value.axes[: len(value.axes) - but])

    for axis in left.axes[: len(left.axes) - but]:
        if count(right, axis) and count(left, axis) != count(right, axis):
            notes = (describe("left", left), describe("right", right))
            few, more = sorted((left, right), key=lambda value: count(value, axis))
            message = f"{what}: axis {axis} stands twice in {_text(more)}, and {_text(few)} does not say which it is"
            raise Fault("axis-mismatch", message, span, notes, naming_apart(more, axis))


def naming_apart(value: Value, axis: Axis) -> str:
    """Help: axes of one name need names of their own."""
    names = {a.name for a in value.axes}
    other = next(x for x in (f"{axis.name}{k}" for k in range(2, len(names) + 3)) if x not in names)
    last = max(k for k, a in enumerate(value.axes) if a.name == axis.name)
    new = [other if k == last else str(a) for k, a in enumerate(value.axes)]
    own = value.name if isinstance(value, Local) else None
    return f"name them apart in a statement before: `{own or 'x'}[{', '.join(new)}] = {own or '...'}`"


def _is_feature(axis: Axis, scope: AttentionScope | None) -> bool:
    return scope is None or scope.rank(axis) == 4


def _also(a: Axis, b: Axis) -> bool:
    """Whether a second name of one is a name of the other."""
    return a.side == b.side and a.size == b.size and (a.called(b.also) or b.called(a.also))


def _better(a: Axis, b: Axis) -> Axis:
    return a if a.name is not None else b


def renamed(value: Value, axes: tuple[Axis, ...]) -> Value:
    """The value with other axis names; itself where they are the same."""
    if value.axes == axes:
        return value
    if set(value.axes) == set(axes):  # each is another one now, none is moved
        value = renamed(value, apart(value.axes, value.axes))
    return Rename(TensorType(value.type.dtype, axes), value.span, value)


def unnamed(value: Value) -> Value:
    """The value whose axes were given other names."""
    while isinstance(value, Rename):
        value = value.arg
    return value


def union(values: Sequence[Value], scope: AttentionScope | None) -> tuple[Axis, ...]:
    """The axes of a result: those of the operand that has them all. Where none has, those of the left one, and each
    axis of another one before the axis that it stands before there."""
    every: list[Axis] = []
    for v in values:
        after = len(every)
        for axis in reversed(v.axes):
            if axis in every:
                after = every.index(axis)
            else:
                every.insert(after, axis)
    if scope is not None:
        return tuple(sorted(every, key=lambda a: order(a, scope)))
    for v in values:
        if len(v.axes) == len(every):
            return v.axes
    return tuple(every)


def order(axis: Axis, scope: AttentionScope) -> tuple[int, int]:
    """The place of an axis among those of an attention."""
    rank = scope.rank(axis)
    fixed = {0: scope.batch, 2: scope.positions, 3: scope.over}.get(rank, ())
    return rank, fixed.index(axis) if axis in fixed else 0


def together(
    values: Sequence[Value], span: Span, what: str, scope: AttentionScope | None, outer: bool = False
) -> list[Value]:
    """All operands with their common axes named alike: one has the features of all, or the operation is `outer`.
    Raises Fault where they do not fit."""
    result = list(values)
    for n in range(1, len(result)):
        for m in range(n):
            if result[m].axes and result[n].axes:
                result[m], result[n] = combine(result[m], result[n], span, what, scope, outer)
    if outer:
        _check_outer(result, span, what)
    else:
        _check_alike(result, span, what, scope)
    return result


def _check_alike(values: Sequence[Value], span: Span, what: str, scope: AttentionScope | None) -> None:
    """One value has all features: no two of them have an axis each that the other lacks. Raises Fault."""
    features = [[a for a in v.axes if _is_feature(a, scope)] for v in values]
    every = {a for axes in features for a in axes}
    if any(every == set(axes) for axes in features):
        return
    for n, right in enumerate(values):
        for m, left in enumerate(values[:n]):
            own = [a for a in features[m] if a not in features[n]], [a for a in features[n] if a not in features[m]]
            if own[0] and own[1]:
                raise _apart(left, right, own, span, what)


def _check_outer(values: Sequence[Value], span: Span, what: str) -> None:
    """In an outer operation, each of two sides has an axis of its own. Raises Fault."""
    for n, right in enumerate(values):
        for left in values[:n]:
            a, b = left.axes, right.axes
            if not a or not b or ({*a} - {*b} and {*b} - {*a}):
                continue
            few, more = (left, right) if {*a} <= {*b} else (right, left)
            notes = (describe("left", left), describe("right", right))
            message = f"{what} is not outer here: each axis of {_text(few)} is one of {_text(more)} too"
            help = "leave `outer` out"
            if a[-1] == b[-1]:
                apart = replace(b[-1], name=f"{b[-1].name}2" if b[-1].name else "e")
                help = f"give the last axis of one another name before, {_naming(right, (*b[:-1], apart))}; or {help}"
            raise Fault("axis-mismatch", message, span, notes, help)


def _apart(left: Value, right: Value, own: tuple[list[Axis], list[Axis]], span: Span, what: str) -> Fault:
    """The mistake that each side has axes of its own."""
    notes = (describe("left", left), describe("right", right))
    operation = what.strip("`")
    outer = f"outer({operation})" if operation[-1] in ")]" else f"outer({_text(left)} {operation} {_text(right)})"
    a, b = left.axes[-1], right.axes[-1]
    single = next(
        (v for v, axes in zip((left, right), own, strict=True) if all(x.size.integer == 1 for x in axes)), None
    )
    if single is not None:
        message = f"{what}: an axis of length 1 is not repeated along another one"
        return Fault("axis-mismatch", message, span, notes, f"leave it out: {_without_ones(single)}")
    common = {*left.axes} & {*right.axes}
    if common and a in own[0] and b in own[1] and _differ(a, b):
        message = f"{what}: the last axes differ, {a.shown} and {b.shown}"
        help = f"make both sizes equal, for instance `linear(..., {a.name or a.size})`"
        help += f"; a product of all pairs is `{outer}`" if operation == "*" else ""
        return Fault("axis-mismatch", message, span, notes, help)
    listed = " and ".join(", ".join(map(str, axes)) for axes in own)
    message = f"{what}: each side has an axis that the other lacks, {listed}"
    help = f"for all pairs of their positions write `{outer}`"
    pairs = [(x, y) for x in own[0] for y in own[1] if common and not _differ(x, y)]

    def unlike(pair: tuple[Axis, Axis]) -> tuple[bool, bool]:
        """Whether two axes are not as long, and not in the same place before the last one."""
        return pair[0].size != pair[1].size, left.axes[::-1].index(pair[0]) != right.axes[::-1].index(pair[1])

    for x, y in sorted(pairs, key=unlike)[:1]:
        way = "declare it under one name"
        if x.size == y.size:
            value, old, new = (right, y, x) if x.name is not None else (left, x, y)
            way = f"name it so before, {_naming(value, [new if axis == old else axis for axis in value.axes])}"
        help = f"if {x} and {y} are one axis, {way}; {help}"
    return Fault("axis-mismatch", message, span, notes, help)


def _without_ones(value: Value) -> str:
    """What leaves out the axes of length 1 of a value."""
    names = [None if a.size.integer == 1 else a.name or f"x{k}" for k, a in enumerate(value.axes)]
    rest = " ".join(name for name in names if name is not None)
    return f'`rearrange({_text(value)}, "{" ".join(name or "1" for name in names)} -> {rest}")`'


def _differ(a: Axis, b: Axis) -> bool:
    """Whether two lengths are known, and are not the same."""
    return a.size.integer is not None and b.size.integer is not None and a.size != b.size


def _naming(value: Value, axes: Iterable[Axis]) -> str:
    """A statement that gives a value these axes."""
    name = value.name if isinstance(value, Local) else "z"
    return f"`{name}[{', '.join(map(str, axes))}] = {_text(value)}`"


def _text(value: Value) -> str:
    """A short operand as it is written, if it needs no parentheses."""
    text, depth = value.span.text if value.span is not None else "", 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if depth < 0 or (depth == 0 and not (character.isalnum() or character in "_.)]")):
            return "..."
    return text if 0 < len(text) <= 30 else "..."
