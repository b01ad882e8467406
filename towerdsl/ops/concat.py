"""`concat`: tensors are joined along one axis, and broadcast along what they lack."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import NoReturn

from towerdsl.ir.operation import Move, OpCall, OpResult
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType, shown
from towerdsl.ops.base import op, reordered


@dataclass(eq=False)
class _Slot:
    """An axis of the result, and the dim of each part that it is made of."""

    axis: Axis
    dims: dict[int, int] = field(default_factory=dict)


_WIDTH = ("bool", "int", "float")


@op("concat", tensors="parts...", statics="axis:axis")
def concat(call: OpCall) -> OpResult:
    """Put tensors one after another along an axis; axes that a part lacks are broadcast."""
    parts: tuple[TensorType, ...] = call.tensors["parts"]
    axis: Axis = call.statics["axis"]
    for n, part in enumerate(parts):
        text = call.text(f"parts{n}")
        if part.scalar:
            call.fail(
                "not-tensor",
                f"`concat` needs tensors; `{text}` is a number",
                help="a tensor of one number is `zeros([n]) + 3`",
                argument=f"parts{n}",
            )
        if sum(a.same(axis) for a in part.axes) > 1:
            call.fail(
                "axis-mismatch",
                f"`{text}` {shown(part.axes)} has the axis {axis} twice",
                help=f"name its axes first: `y[...] = {text}`",
                argument=f"parts{n}",
            )
    slots = _slots(call, parts, axis)
    joined = next(slot for slot in slots if slot.axis.same(axis))
    for slot in slots:
        made_of = [parts[n].axes[dim] for n, dim in sorted(slot.dims.items())]
        other = next((a for a in made_of if a.size != made_of[0].size), None)
        if slot is not joined and other is not None:
            _disagree(call, parts, axis, made_of[0], other)
    if not call.outer:
        _check_alike(call, parts, slots, joined)
    lengths = [parts[n].axes[joined.dims[n]].size if n in joined.dims else Size.of(1) for n in range(len(parts))]
    starts = list(itertools.accumulate(lengths, initial=Size(())))
    joined.axis = Axis(axis.name, starts.pop(), axis.side)

    attrs: list[tuple[str, Size]] = []
    codes = [_aligned(n, slots, joined, attrs) for n in range(len(parts))]
    dim = -1 if joined is slots[-1] else slots.index(joined)
    return OpResult(
        TensorType(max((part.dtype for part in parts), key=_WIDTH.index), tuple(slot.axis for slot in slots)),
        f"torch.cat([{', '.join(codes)}], dim={dim})" if len(parts) > 1 else codes[0],
        attrs=tuple(attrs),
        moves=tuple(
            Move(at, slots.index(slot), None, n, starts[n] if slot is joined else Size(()))
            for slot in slots
            for n, at in slot.dims.items()
        ),
    )


def _check_alike(call: OpCall, parts: tuple[TensorType, ...], slots: list[_Slot], joined: _Slot) -> None:
    """One part has all axes but the one that is joined: no two have an axis each that the other lacks."""
    others = [slot for slot in slots if slot is not joined]
    if any(all(n in slot.dims for slot in others) for n in range(len(parts))):
        return
    for m, n in itertools.combinations(range(len(parts)), 2):
        own = [[slot.axis for slot in slots if a in slot.dims and b not in slot.dims] for a, b in ((m, n), (n, m))]
        if own[0] and own[1]:
            break
    lacking = [(k, own_of) for k, own_of in ((m, own[0]), (n, own[1])) if k not in joined.dims and len(own_of) == 1]
    every = "`outer(concat(...))` repeats each along what it lacks"
    help = f"give both the same axes but for {joined.axis}; {every}"
    if ones := next((x for x in own if x and all(a.name is None and a.size.integer == 1 for a in x)), None):
        count = "the axis" if len(ones) == 1 else f"the {len(ones)} axes"
        help = f"leave out {count} of length 1: what lacks an axis is broadcast along it"
    for k, (at,) in lacking:
        name = call.text(f"parts{k}")
        axes = ", ".join(str(joined.axis if a == at else a) for a in parts[k].axes)
        first = f"`first[{axes}] = {name}`"
        help = f"if {at} is joined to {joined.axis}, name it so before, {first}, and join `first`; {every}"
    call.fail(
        "axis-mismatch",
        f"`concat`: each part has an axis that the other lacks, {' and '.join(', '.join(map(str, x)) for x in own)}",
        *(f"`{call.text(f'parts{k}')}` is {parts[k]}" for k in (m, n)),
        help=help,
        argument=f"parts{n}",
    )


def _disagree(call: OpCall, parts: tuple[TensorType, ...], axis: Axis, a: Axis, b: Axis) -> NoReturn:
    first_last = parts[0].axes[-1:]
    call.fail(
        "axis-mismatch",
        f"concatenated along {axis} the others have to agree: {_with_length(a)}, {_with_length(b)}",
        *(f"`{call.text(f'parts{n}')}` is {part}" for n, part in enumerate(parts)),
        help=f"to put them one after another along the last axis, write `axis={first_last[0].name}`"
        if first_last and first_last[0].name not in (None, axis.name) and first_last[0] in (a, b)
        else "bring them to the same axes first, with `linear`, `mean` or `rearrange`",
    )


def _with_length(axis: Axis) -> str:
    return str(axis.size) if axis.name in (None, str(axis.size)) else f"{axis} {axis.size}"


def _slots(call: OpCall, parts: tuple[TensorType, ...], axis: Axis) -> list[_Slot]:
    """The axes of the result: those of the part with the most axes, and those of the others put in between."""
    having = [n for n, part in enumerate(parts) if any(a.same(axis) for a in part.axes)]
    if not having:
        call.fail(
            "unknown-axis",
            f"`{axis}` is not an axis of any part",
            *(f"`{call.text(f'parts{n}')}` is {part}" for n, part in enumerate(parts)),
            help="name an axis that one of them has; the others count as length 1",
            argument="axis",
        )
    first = max(having, key=lambda n: len(parts[n].axes))
    slots = [_Slot(a, {first: dim}) for dim, a in enumerate(parts[first].axes)]
    for n, part in enumerate(parts):
        if n != first and part.axes:
            found = _matched(call, parts, axis, n, slots)
            for dim in reversed(range(len(part.axes))):
                if dim not in found:
                    found[dim] = _Slot(part.axes[dim])
                    slots.insert(slots.index(found[dim + 1]), found[dim])
                slot = found[dim]
                slot.dims[n] = dim
                if slot.axis.name is None:
                    slot.axis = part.axes[dim]
    return slots


def _matched(call: OpCall, parts: tuple[TensorType, ...], axis: Axis, n: int, slots: list[_Slot]) -> dict[int, _Slot]:
    """Which dims of a part are axes that the result has already; the last one always is."""
    axes = parts[n].axes
    found: dict[int, _Slot] = {}

    def match(dim: int, slot: _Slot | None) -> None:
        if slot is not None and slot not in found.values():
            found[dim] = slot

    for dim, a in enumerate(axes):  # by name
        match(dim, next((s for s in slots if s.axis.same(a) and s not in found.values()), None))
    last = len(axes) - 1
    for dim, a in enumerate(axes):  # by place from the end and length, where there is no name; last axes always
        place = len(slots) - len(axes) + dim
        if dim in found or place < 0 or a.size != slots[place].axis.size:
            continue
        if a.name is None or slots[place].axis.name is None or dim == last:
            match(dim, slots[place])
    if last not in found and slots[-1].axis.same(axis) and slots[-1] not in found.values():
        found[last] = slots[-1]
    missing = [dim for dim in range(len(axes)) if dim not in found]
    open_slots = [slot for slot in slots if slot not in found.values()]
    if len(missing) == 1 and len(open_slots) == 1 and open_slots[0].axis.same(axis):
        found[missing[0]] = open_slots[0]  # an axis in the place of the one that is joined
    if last not in found:
        _disagree(call, parts, axis, slots[-1].axis, axes[last])
    return found


def _aligned(n: int, slots: list[_Slot], joined: _Slot, attrs: list[tuple[str, Size]]) -> str:
    """The code of one part with all axes of the result, in their order."""
    order = [slot.dims[n] for slot in slots if n in slot.dims]
    code = f"{{parts{n}}}{reordered(order)}"
    broadcast = any(n not in slot.dims and slot is not joined for slot in slots)
    # expand makes axes in front by itself
    front = next((k for k, slot in enumerate(slots) if n in slot.dims), len(slots)) if broadcast else 0
    for k, slot in enumerate(slots[front:]):
        if n not in slot.dims:
            code += f".unsqueeze({-1 if front + k == len(slots) - 1 else k})"
    if not broadcast:
        return code
    sizes = []
    for slot in slots:
        if n in slot.dims:
            sizes.append("-1")
        elif slot is joined:
            sizes.append("1")
        else:
            attrs.append((f"size{len(attrs)}", slot.axis.size))
            sizes.append(f"{{{attrs[-1][0]}}}")
    return f"{code}.expand({', '.join(sizes)})"
