"""Convolutions, pools and resizing: operations on the axes behind the channels, `x[b, c, ...]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from towerdsl.ir.operation import Move, OpCall, OpResult, SizeArg
from towerdsl.ir.reach import Reach, band, unknown
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import Axis, TensorType, shown
from towerdsl.ops.base import FUNCTIONAL, kept, mixed, op, staying
from towerdsl.ops.checks import (
    TO_CHANNELS,
    check_groups,
    in_range,
    in_words,
    known_length,
    size_argument,
    tensor_argument,
)


def _spatial(call: OpCall, x: TensorType) -> int:
    """The number of axes after the channels."""
    count = len(x.axes) - 2
    if count not in (1, 2, 3):
        call.fail(
            "axis-count",
            f"{call.op.name} needs x[b, c, ...] with one to three axes after the channels",
            f"got {call.text('x')} {shown(x.axes)}",
            help="`rearrange` splits, merges and reorders axes",
            argument="x",
        )
    return count


def _sliding(kernel: int, stride: int, padding: int, dilation: int = 1) -> Reach:
    """What a position of the result reads: `kernel` positions, from `padding` before its own place."""
    if stride > 1:
        return unknown("a stride of more than one", features=False)
    return band(padding - dilation * (kernel - 1), padding, dilation if kernel > 1 else 1)


def _ints(call: OpCall, name: str, count: int, low: int, default: Sequence[int] | None = None) -> tuple[int, ...]:
    """One number for each of `count` axes."""
    if call.statics[name] is None and default is not None:
        return tuple(default)
    value = in_range(call, name, low)
    if not isinstance(value, tuple):
        return (value,) * count
    if len(value) != count:
        call.fail(
            "axis-count",
            f"`{name}` has {in_words(len(value))} numbers for {in_words(count)} axes after the channels",
            f"got {call.text('x')} {shown(call.x.axes)}",
            help=f"one number for all, or a list of {in_words(count)}",
            argument=name,
        )
    return value


def _short(values: tuple[int, ...]) -> int | tuple[int, ...]:
    """One number where all are the same, as torch takes it."""
    return values[0] if len(set(values)) == 1 else values


def _slid(
    call: OpCall,
    axis: Axis,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int = 1,
) -> Axis:
    """The axis after a window slid along it."""
    constant = axis.size - sum((Size((t,)) for t in axis.size.terms if t[0]), Size(()))
    steps, rest = divmod((constant.integer or 0) + 2 * padding - dilation * (kernel - 1) - 1, stride)
    length = (axis.size - constant + rest).opaque("//", stride) + (steps + 1)
    if length == axis.size:
        return axis
    if length.integer is not None and length.integer < 1:
        reach = dilation * (kernel - 1) + 1
        call.fail(
            "value-range",
            f"the kernel does not fit: it spans {reach}, axis {axis.shown} has {axis.size + 2 * padding}"
            + (" with its padding" if padding else ""),
            f"got {call.text('x')} {shown(call.x.axes)}",
            help="use a smaller kernel, or more padding",
            argument="kernel",
        )
    return Axis(axis.name, length, axis.side)


@op(
    "conv",
    statics="channels:size kernel:ints stride:ints=1 padding:ints=0 groups:int=1 dilation:ints=1 bias:bool=true",
    weights=True,
)
def conv(call: OpCall) -> OpResult:
    """Convolve the axes after the channels, `x[b, c, ...]`: one, two or three of them."""
    x = tensor_argument(call, "float")
    n = _spatial(call, x)
    given = known_length(call, x.axes[1], "a number of channels (the second axis)", TO_CHANNELS)
    out, axis = size_argument(call, "channels")
    kernel, stride = _ints(call, "kernel", n, 1), _ints(call, "stride", n, 1)
    padding, dilation = _ints(call, "padding", n, 0), _ints(call, "dilation", n, 1)
    groups, bias = in_range(call, "groups", 1), call.statics["bias"]
    check_groups(call, "groups", groups, given)
    check_groups(call, "groups", groups, out, "output channels")
    slid = [_slid(call, *each) for each in zip(x.axes[2:], kernel, stride, padding, dilation, strict=True)]
    type_ = TensorType("float", (x.axes[0], kept(x.axes[1], axis), *slid))
    options = [("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1), ("groups", (groups,), 1)]
    named = [(name, _short(v)) for name, v, default in options if _short(v) != default]
    weight = tuple(Size.of(s) for s in (out, given // groups, *kernel))
    return OpResult(
        type_,
        "{self}({x})",
        f"nn.Conv{n}d({{in}}, {{out}}, {{kernel}}{''.join(f', {k}={{{k}}}' for k, _ in named)}"
        f"{'' if bias else ', bias=False'})",
        attrs=(("in", Size.of(given)), ("out", Size.of(out)), ("kernel", _short(kernel)), *named),
        parameters=tuple([("weight", weight)] + [("bias", (Size.of(out),))] * bias),
        macs=product(type_.shape) * product(weight[1:]),
        moves=staying(
            x,
            mixed(x, 1),
            *(
                Move(dim, dim, _sliding(*each))
                for dim, each in enumerate(zip(kernel, stride, padding, dilation, strict=True), 2)
            ),
        ),
    )


def _pool(call: OpCall, kind: str) -> OpResult:
    x = tensor_argument(call, "float")
    n = _spatial(call, x)
    kernel = _ints(call, "kernel", n, 1)
    stride, padding = _ints(call, "stride", n, 1, default=kernel), _ints(call, "padding", n, 0)
    for k, p in zip(kernel, padding, strict=True):
        if p > k // 2:
            call.fail(
                "value-range",
                f"the padding of {call.op.name} is at most half the kernel, got {p} for a kernel of {k}",
                help=f"use a padding of at most {k // 2}",
                argument="padding",
            )
    if not any(padding) and {*kernel, *stride} == {1}:
        return OpResult(x, "{x}", moves=staying(x))
    slid = [_slid(call, *each) for each in zip(x.axes[2:], kernel, stride, padding, strict=True)]
    named: list[tuple[str, Any]] = [("stride", _short(stride))] if stride != kernel else []
    named += [("padding", _short(padding))] if any(padding) else []
    return OpResult(
        TensorType("float", (*x.axes[:2], *slid)),
        f"F.{kind}_pool{n}d({{x}}, {{kernel}}{''.join(f', {k}={{{k}}}' for k, _ in named)})",
        attrs=(("kernel", _short(kernel)), *named),
        moves=staying(
            x,
            *(Move(dim, dim, _sliding(*each)) for dim, each in enumerate(zip(kernel, stride, padding, strict=True), 2)),
        ),
    )


@op("max_pool", statics="kernel:ints stride:ints=none padding:ints=0", imports=FUNCTIONAL)
def max_pool(call: OpCall) -> OpResult:
    """The largest value in each window of the axes after the channels, `x[b, c, ...]`."""
    return _pool(call, "max")


@op("avg_pool", statics="kernel:ints stride:ints=none padding:ints=0", imports=FUNCTIONAL)
def avg_pool(call: OpCall) -> OpResult:
    """The mean of each window of the axes after the channels, `x[b, c, ...]`."""
    return _pool(call, "avg")


_MODES = {"nearest": (1, 2, 3), "linear": (1,), "bilinear": (2,), "bicubic": (2,), "trilinear": (3,)}


@op("resize", statics="sizes:sizes mode:text corners:bool=false", imports=FUNCTIONAL)
def resize(call: OpCall) -> OpResult:
    """Give the last axes other lengths, and interpolate the entries; `corners` lays the outermost on each other."""
    x = tensor_argument(call)
    sizes: tuple[SizeArg, ...] = call.statics["sizes"]
    mode, many = call.statics["mode"], len(sizes)
    fitting = [name for name, counts in _MODES.items() if many in counts]
    if mode not in fitting:
        call.fail(
            "value-range",
            f'"{mode}" is not a way to resize {in_words(many)} {"axis" if many == 1 else "axes"}',
            help=f"use one of {', '.join(fitting)}" if fitting else "resize at most three axes",
            argument="mode",
        )
    if x.dtype != "float" and (x.dtype, mode) != ("bool", "nearest"):
        call.fail(
            "dtype-mismatch",
            f"`resize` interpolates float; `{call.text('x')}` is {x.dtype}",
            help='a condition is resized by "nearest"' if x.dtype == "bool" else f"write `float({call.text('x')})`",
            argument="x",
        )
    lead = len(x.axes) - many
    if not 0 <= lead <= 2:
        call.fail(
            "axis-count",
            f"`resize` needs {in_words(many)} axes to resize and at most two before them",
            f"got {call.text('x')} {shown(x.axes)}",
            help="`rearrange` merges and reorders axes",
            argument="x",
        )
    put, took = (("", ""), ("[None]", "[0]"), ("[None, None]", "[0, 0]"))[2 - lead]
    if x.dtype == "bool":
        put, took = f"{put}.float()", f"{took}.bool()"
    if call.statics["corners"] and mode == "nearest":
        call.fail("value-range", '"nearest" aligns no corners', help="leave out `corners`", argument="corners")
    names = [f"size{k}" for k in range(many)]
    how = "" if mode == "nearest" else f', mode="{mode}"'
    how += ", align_corners=True" if call.statics["corners"] else ""
    written = [s.name for s in sizes]
    new = [
        kept(a, Axis(s.name if s.name and written.count(s.name) == 1 else a.name, s.size))
        for s, a in zip(sizes, x.axes[lead:], strict=True)
    ]
    return OpResult(
        TensorType(x.dtype, (*x.axes[:lead], *new)),
        f"F.interpolate({{x}}{put}, ({', '.join(f'{{{n}}}' for n in names)}{',' * (many == 1)}){how}){took}",
        attrs=tuple((n, s.size) for n, s in zip(names, sizes, strict=True)),
        moves=staying(x, *(Move(lead + k, None, unknown("the axis is resized")) for k in range(many))),
    )
