"""Operations with weights, normalizers, pooling, and operations along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from towerdsl.ir.operation import Inference, Move, OpCall, OpResult, SizeArg
from towerdsl.ir.reach import DENSE, IN_TURN, Comb, Reach, band, unknown
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import Axis, TensorType, shown
from towerdsl.ops.base import kept, new_axis, op, staying

_F = ("import torch.nn.functional as F",)
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def in_words(number: int) -> str:
    """A small number as a word, for messages."""
    return _WORDS[number] if number < len(_WORDS) else str(number)


# --- checks ----------------------------------------------------------------------------------------------------


def tensor_argument(call: OpCall, dtype: str | None = None, name: str = "x") -> TensorType:
    """A tensor argument, which must not be a Python number and must be of `dtype`, where that matters."""
    x: TensorType = call.tensors[name]
    if x.scalar:
        call.fail(
            "not-tensor",
            f"`{call.op.name}` needs a tensor; `{call.text(name)}` is a number",
            help="arithmetic and the elementwise functions work on numbers; this operation works on tensors",
            argument=name,
        )
    if dtype is not None and x.dtype != dtype:
        convert = f"write `{dtype}({call.text(name)})`" if dtype == "float" or x.dtype == "bool" else None
        call.fail(
            "dtype-mismatch",
            f"`{call.op.name}` reads {dtype}; `{call.text(name)}` is {x.dtype}",
            f"got {x}",
            help=convert or f"pass the ids themselves: an input of type `{dtype}[{', '.join(map(str, x.axes))}]`",
            argument=name,
        )
    return x


#: What helps where a tensor was meant.
NO_AXES = "a single number has no axes: name them where it is declared, as in `float[n, d]`"


def last_axis(call: OpCall, x: TensorType) -> Axis:
    """The last axis of a tensor argument. Raises OpError if it has none."""
    if not x.axes:
        call.fail(
            "axis-count",
            f"{call.op.name} works along the last axis; `{call.text('x')}` has no axes",
            help=NO_AXES,
            argument="x",
        )
    return x.axes[-1]


def known_length(call: OpCall, axis: Axis, what: str, help: str | None = None) -> int:
    """The length of an axis that weights are made for."""
    length = axis.size.integer
    if length is None:
        call.fail(
            "free-size",
            f"{call.op.name} needs {what} that is known when compiling; axis {axis} has a free length",
            f"got {call.x}",
            help=help or f"give the axis a size: a name from `sizes` in place of `{axis}` in the type of the input",
            argument="x",
        )
    return length


_ROLES = {"size": "size", "count": "count", "channels": "number of channels"}


def size_argument(call: OpCall, name: str) -> tuple[int, Axis]:
    """A size that is part of a module's weights, and the axis that it makes."""
    given = call.statics[name]
    if not isinstance(given, SizeArg):
        given = SizeArg(Size.of(given), None)
    op_name, text, role = call.op.name, call.text(name), _ROLES.get(name, name)
    constant = given.size.constant
    if constant is None:
        call.fail(
            "not-static",
            f"the length of `{given.name or given.size}` is known only at run time; "
            f"the {role} of {_a(op_name)} is part of its weights",
            f"{op_name} needs a number that is known when compiling",
            help=f"put a number in `sizes` and use its name, as in `sizes: {{{given.name or name}: 64}}`",
            argument=name,
        )
    if constant.denominator != 1:
        written = text if text != name else "this"
        call.fail(
            "not-integer",
            f"the {role} of `{op_name}` is a whole number; {written} is {float(constant):.4g}",
            help="use `//` to round down",
            argument=name,
        )
    if constant < 1:
        written = text if text not in (name, str(constant)) else "this"
        call.fail(
            "size-positive",
            f"a size is at least 1; {written} is {constant}",
            f"it is the {role} of `{op_name}`",
            help="check how it is computed",
            argument=name,
        )
    return int(constant), new_axis(given)


def in_range(
    call: OpCall, name: str, low: float | None = None, high: float | None = None, *, open_low: bool = False
) -> Any:
    """A number, or each of a tuple of numbers, that has to be in a range."""
    value = call.statics[name]
    for v in value if isinstance(value, tuple) else (value,):
        if (low is not None and (v < low or (open_low and v == low))) or (high is not None and v > high):
            if low is not None and high is not None:
                rule = f"between {low:g} and {high:g}"
            elif open_low:
                rule = f"above {low:g}"
            else:
                rule = f"at least {low:g}" if low is not None else f"at most {high:g}"
            call.fail(
                "value-range",
                f"`{name}` of {call.op.name} is {rule}, got {v:g}",
                help=f"use a number {rule}",
                argument=name,
            )
    return value


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" or noun == "lstm" else f"a {noun}"


def dim_code(x: TensorType, position: int) -> int:
    """How code calls a dim: the last one is -1."""
    return -1 if position == len(x.axes) - 1 else position


# --- linear layers and tables ----------------------------------------------------------------------------------


def _features(x: TensorType, dim: int = -1) -> Move:
    """A matrix along an axis: each number of the result may read all of it."""
    return Move(dim % len(x.axes), None, DENSE)


@op("linear", statics="size:size bias:bool=true", weights=True)
def linear(call: OpCall) -> OpResult:
    """Multiply the last axis by a matrix, and add a bias."""
    x = tensor_argument(call, "float")
    features = known_length(call, last_axis(call, x), "a feature size")
    out, axis = size_argument(call, "size")
    bias = call.statics["bias"]
    parameters = [("weight", (Size.of(out), Size.of(features)))] + [("bias", (Size.of(out),))] * bias
    sizes = f"({{in}}, {{out}}{'' if bias else ', bias=False'})"
    return OpResult(
        TensorType("float", (*x.axes[:-1], axis)),
        "{self}({x})",
        f"nn.Linear{sizes}",
        attrs=(("in", Size.of(features)), ("out", Size.of(out))),
        parameters=tuple(parameters),
        macs=product(x.shape) * out,
        moves=staying(x, _features(x)),
        inference=Inference(f"PackedLinear{sizes}", absorbs=True, helpers=("PackedLinear",), joint="together"),
    )


@op("embed", tensors="ids", statics="count:size size:size std:float=1", weights=True)
def embed(call: OpCall) -> OpResult:
    """A table of `count` vectors, read by ids, or at one position that is a number.

    It starts as normal numbers with a standard deviation of `std`: a table that also writes words starts small.
    """
    number = call.tensors["ids"].scalar and call.tensors["ids"].dtype == "int"
    ids = call.tensors["ids"] if number else tensor_argument(call, "int", "ids")
    count, _ = size_argument(call, "count")
    size, axis = size_argument(call, "size")
    std = float(in_range(call, "std", 0))
    start = ".apply(lambda table: nn.init.normal_(table.weight, std={std}))" if std != 1 else ""
    return OpResult(
        TensorType("float", (*ids.axes, axis)),
        "{self}.weight[{ids}]" if number else "{self}({ids})",
        f"nn.Embedding({{count}}, {{size}}){start}",
        attrs=(("count", Size.of(count)), ("size", Size.of(size)), ("std", std)),
        parameters=(("weight", (Size.of(count), Size.of(size))),),
        moves=staying(ids),
    )


# --- normalizers -----------------------------------------------------------------------------------------------


def _eps(call: OpCall, default: float | None = 1e-5) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """The template and the attribute for `eps`, where it is not torch's default."""
    eps = float(in_range(call, "eps", 0, open_low=True))
    if eps >= 1:
        call.fail(
            "value-range",
            f"`eps` of {call.op.name} is a small number, got {eps:g}",
            help=f"the size is read from {call.text('x')}: write `{call.op.name}({call.text('x')})`"
            if call.op.name != "groupnorm"
            else "use a number such as 1e-5",
            argument="eps",
        )
    return (", eps={eps}", (("eps", eps),)) if eps != default else ("", ())


@op("layernorm", statics="eps:float=1e-5 bias:bool=true", weights=True)
def layernorm(call: OpCall) -> OpResult:
    """Mean 0 and variance 1 along the last axis, then scale and shift."""
    x = tensor_argument(call, "float")
    features = Size.of(known_length(call, last_axis(call, x), "a feature size"))
    eps, attrs = _eps(call)
    bias = call.statics["bias"]
    return OpResult(
        x,
        "{self}({x})",
        f"nn.LayerNorm({{in}}{eps}{'' if bias else ', bias=False'})",
        attrs=(("in", features), *attrs),
        parameters=tuple([("weight", (features,))] + [("bias", (features,))] * bias),
        moves=staying(x, Move(len(x.axes) - 1, len(x.axes) - 1, DENSE)),
    )


@op("rmsnorm", statics="eps:float=1e-6", weights=True)
def rmsnorm(call: OpCall) -> OpResult:
    """Mean square 1 along the last axis, then scale."""
    x = tensor_argument(call, "float")
    features = Size.of(known_length(call, last_axis(call, x), "a feature size"))
    eps, attrs = _eps(call, None)
    return OpResult(
        x,
        "{self}({x})",
        f"nn.RMSNorm({{in}}{eps})",
        attrs=(("in", features), *attrs),
        parameters=(("weight", (features,)),),
        moves=staying(x, Move(len(x.axes) - 1, len(x.axes) - 1, DENSE)),
    )


_TO_CHANNELS = 'give it a size in `sizes:`, or bring the channels to the second place: `rearrange(x, "b n d -> b d n")`'


def _channels(call: OpCall, x: TensorType, low: int, high: int | None, form: str) -> int:
    """The length of axis 1, in a tensor with `low` to `high` axes."""
    if len(x.axes) < low or (high is not None and len(x.axes) > high):
        call.fail(
            "axis-count",
            f"{call.op.name} needs {form}",
            f"got {call.text('x')} {shown(x.axes)}",
            help="`rearrange` splits, merges and reorders axes",
            argument="x",
        )
    return known_length(call, x.axes[1], "a number of channels (the second axis)", _TO_CHANNELS)


@op("batchnorm", statics="eps:float=1e-5 momentum:float=0.1 frozen:bool=false scale:float=1", imports=_F, weights=True)
def batchnorm(call: OpCall) -> OpResult:
    """Mean 0 and variance 1 of each channel (axis 1) over everything else, then scale and shift.

    `frozen` takes mean and variance from the checkpoint, also while training, and trains nothing.
    `scale` is what the learned scale is at first: with 0, a residual branch starts as nothing.
    """
    x = tensor_argument(call, "float")
    form = "x[b, c] or x[b, c, ...] with at most three axes after the channels"
    channels = Size.of(_channels(call, x, 2, 5, form))
    eps, attrs = _eps(call)
    momentum = float(in_range(call, "momentum", 0, 1))
    frozen, scale = call.statics["frozen"], float(call.statics["scale"])
    start = ".apply(lambda norm: nn.init.constant_(norm.weight, {scale}))" if scale != 1 else ""
    after = ".requires_grad_(False)" if frozen else ""
    more = ", momentum={momentum}" if momentum != 0.1 and not frozen else ""
    held = ("running_mean", "running_var", "weight", "bias")
    module = f"nn.BatchNorm{max(1, len(x.axes) - 2)}d({{in}}{eps}{more}){start}{after}"
    return OpResult(
        x,
        f"F.batch_norm({{x}}, {', '.join(f'{{self}}.{n}' for n in held)}{eps})" if frozen else "{self}({x})",
        module,
        attrs=(("in", channels), *attrs, ("momentum", momentum), ("scale", scale)),
        parameters=(("weight", (channels,)), ("bias", (channels,))),
        buffers=(("running_mean", (channels,)), ("running_var", (channels,)), ("num_batches_tracked", ())),
        moves=staying(x),  # as when it is used: while training it reads the whole batch
        behind=("conv", "normalized_conv") if frozen else None,
        inference=Inference(module, behind=("conv", "packed_conv")) if frozen else None,
    )


def _divided(call: OpCall, name: str, groups: int, channels: int, which: str = "channels") -> None:
    if channels % groups:
        near = [g for g in range(max(1, groups - 100), min(channels, groups + 100) + 1) if channels % g == 0]
        near = sorted({1, *sorted(near, key=lambda g: abs(g - groups))[:3]})
        call.fail(
            "size-divide",
            f"{groups} groups do not divide {channels} {which}",
            f"expected a number of groups that divides {channels}",
            f"got {channels} / {groups} = {channels / groups:.4g}",
            help=f"{', '.join(map(str, near[:-1]))} and {near[-1]} divide it" if len(near) > 1 else "use 1",
            argument=name,
        )


@op("groupnorm", statics="groups:int eps:float=1e-5", weights=True)
def groupnorm(call: OpCall) -> OpResult:
    """Mean 0 and variance 1 of each group of channels (axis 1) and everything after, then scale and shift."""
    x = tensor_argument(call, "float")
    channels = _channels(call, x, 2, None, "x[b, c, ...] with the channels second")
    groups = in_range(call, "groups", 1)
    _divided(call, "groups", groups, channels)
    eps, attrs = _eps(call)
    size = Size.of(channels)
    return OpResult(
        x,
        "{self}({x})",
        f"nn.GroupNorm({{groups}}, {{in}}{eps})",
        attrs=(("groups", groups), ("in", size), *attrs),
        parameters=(("weight", (size,)), ("bias", (size,))),
        moves=staying(x, *(Move(dim, dim, DENSE) for dim in range(1, len(x.axes)))),
    )


# --- convolutions and pools ------------------------------------------------------------------------------------


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
    given = known_length(call, x.axes[1], "a number of channels (the second axis)", _TO_CHANNELS)
    out, axis = size_argument(call, "channels")
    kernel, stride = _ints(call, "kernel", n, 1), _ints(call, "stride", n, 1)
    padding, dilation = _ints(call, "padding", n, 0), _ints(call, "dilation", n, 1)
    groups, bias = in_range(call, "groups", 1), call.statics["bias"]
    _divided(call, "groups", groups, given)
    _divided(call, "groups", groups, out, "output channels")
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
            _features(x, 1),
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


@op("max_pool", statics="kernel:ints stride:ints=none padding:ints=0", imports=_F)
def max_pool(call: OpCall) -> OpResult:
    """The largest value in each window of the axes after the channels, `x[b, c, ...]`."""
    return _pool(call, "max")


@op("avg_pool", statics="kernel:ints stride:ints=none padding:ints=0", imports=_F)
def avg_pool(call: OpCall) -> OpResult:
    """The mean of each window of the axes after the channels, `x[b, c, ...]`."""
    return _pool(call, "avg")


# --- recurrent layers ------------------------------------------------------------------------------------------


def _recurrent(call: OpCall, module: str, gates: int) -> OpResult:
    x = tensor_argument(call, "float")
    if len(x.axes) not in (2, 3):
        few = len(x.axes) < 2
        call.fail(
            "axis-count",
            f"{call.op.name} needs x[b, n, d], or x[n, d]: at most one batch axis",
            f"got {call.text('x')} {shown(x.axes)}",
            help="it runs along the last axis but one"
            if few
            else 'merge the batch axes: `rearrange(x, "a b n d -> (a b) n d")`',
            argument="x",
        )
    features = known_length(call, x.axes[-1], "a feature size")
    out, axis = size_argument(call, "size")
    h, many = Size.of(out), Size.of(gates * out)
    return OpResult(
        TensorType("float", (*x.axes[:-1], axis)),
        "{self}({x})[0]",
        f"nn.{module}({{in}}, {{out}}, batch_first=True)",
        attrs=(("in", Size.of(features)), ("out", h)),
        parameters=(
            ("weight_ih_l0", (many, Size.of(features))),
            ("weight_hh_l0", (many, h)),
            ("bias_ih_l0", (many,)),
            ("bias_hh_l0", (many,)),
        ),
        macs=product(x.shape[:-1]) * (gates * out * (features + out)),
        moves=staying(x, _features(x), Move(len(x.axes) - 2, len(x.axes) - 2, IN_TURN)),
    )


@op("lstm", statics="size:size", weights=True)
def lstm(call: OpCall) -> OpResult:
    """The states of an LSTM that runs along the last axis but one."""
    return _recurrent(call, "LSTM", 4)


@op("gru", statics="size:size", weights=True)
def gru(call: OpCall) -> OpResult:
    """The states of a GRU that runs along the last axis but one."""
    return _recurrent(call, "GRU", 3)


# --- without weights -------------------------------------------------------------------------------------------


def _probability(call: OpCall) -> float:
    p = call.statics["p"]
    if not 0 <= p < 1:
        call.fail(
            "value-range",
            f"a probability is between 0 and 1, got {p:g}",
            f"`p` of {call.op.name} is the share of entries that become zero; it is below 1",
            help=f"did you mean {p / 100:g}?" if 1 < p < 100 else "use a number from 0 up to, not including, 1",
            argument="p",
        )
    return float(p)


@op("dropout", statics="p:float", idle="p")
def dropout(call: OpCall) -> OpResult:
    """Zero entries with probability `p` while training, and scale the others by 1 / (1 - p)."""
    x = tensor_argument(call, "float")
    p = _probability(call)
    if p == 0:
        return OpResult(x, "{x}", moves=staying(x))
    return OpResult(x, "{self}({x})", "nn.Dropout({p})", attrs=(("p", p),), moves=staying(x), inference=Inference())


@op("drop_path", statics="p:float", idle="p")
def drop_path(call: OpCall) -> OpResult:
    """Zero everything at a position of the first axis with probability `p` while training (stochastic depth)."""
    x = tensor_argument(call, "float")
    p = _probability(call)
    if not 2 <= len(x.axes) <= 4:
        call.fail(
            "axis-count",
            "drop_path needs x[b, ...] with one to three axes after the first",
            f"got {call.text('x')} {shown(x.axes)}",
            help="`rearrange` splits, merges and reorders axes",
            argument="x",
        )
    if p == 0:
        return OpResult(x, "{x}", moves=staying(x))
    # to torch's dropout of channels the first axis is the channels of one sample
    module = f"nn.Dropout{len(x.axes) - 1}d({{p}})"
    return OpResult(x, "{self}({x}[None])[0]", module, attrs=(("p", p),), moves=staying(x), inference=Inference())


def _along(call: OpCall, x: TensorType) -> int:
    """The dim of the `axis` argument, as code writes it; the last one if none is named."""
    return dim_code(x, _place(call, x))


def _place(call: OpCall, x: TensorType) -> int:
    axis: Axis | None = call.statics.get("axis")
    if axis is None:
        return x.axes.index(last_axis(call, x))
    found = [i for i, a in enumerate(x.axes) if a == axis] or [i for i, a in enumerate(x.axes) if a.same(axis)]
    if not found:
        call.fail(
            "unknown-axis",
            f"`{axis}` is not an axis of {call.text('x')} {shown(x.axes)}",
            help=f"name one of {shown(x.axes)}" if x.axes else None,
            argument="axis",
        )
    return found[-1]


def _moving(call: OpCall, x: TensorType, reach: Reach) -> tuple[Move, ...]:
    dim = _along(call, x) % len(x.axes)
    return staying(x, Move(dim, dim, reach))


@op("softmax", statics="axis:axis=none")
def softmax(call: OpCall) -> OpResult:
    """exp(x) / sum of exp(x) along an axis."""
    x = tensor_argument(call, "float")
    return OpResult(x, f"{{x}}.softmax({_along(call, x)})", moves=_moving(call, x, DENSE))


@op("cumsum", statics="axis:axis=none")
def cumsum(call: OpCall) -> OpResult:
    """Sums of the first 1, 2, 3, ... entries along an axis."""
    x = tensor_argument(call)
    dtype = "int" if x.dtype == "bool" else x.dtype
    return OpResult(
        TensorType(dtype, x.axes),
        f"{{x}}.cumsum({_along(call, x)})",
        moves=_moving(call, x, Reach((Comb(Size.of(0), None),), features=True)),
    )


@op("argmax", statics="axis:axis=none")
def argmax(call: OpCall) -> OpResult:
    """The position of the largest entry along an axis, the first of equal ones; no gradient passes it."""
    x = tensor_argument(call, None if call.x.dtype == "int" else "float")
    dim = _place(call, x)
    moves = [Move(k, k - (k > dim), None) if k != dim else Move(k, None, DENSE) for k in range(len(x.axes))]
    kind = TensorType("int", (*x.axes[:dim], *x.axes[dim + 1 :]))
    return OpResult(kind, f"{{x}}.argmax({dim_code(x, dim)})", moves=tuple(moves))


@op("flip", statics="axis:axis=none")
def flip(call: OpCall) -> OpResult:
    """The entries along an axis in the opposite order."""
    x = tensor_argument(call)
    dim = _along(call, x) % len(x.axes)
    return OpResult(x, f"{{x}}.flip({_along(call, x)})", moves=staying(x, Move(dim, dim, flipped=True)))


@op("roll", statics="shift:int axis:axis=none")
def roll(call: OpCall) -> OpResult:
    """The entries along an axis moved by `shift`; those that fall off one end come in at the other."""
    x = tensor_argument(call)
    return OpResult(
        x,
        f"{{x}}.roll({{shift}}, {_along(call, x)})",
        attrs=(("shift", call.statics["shift"]),),
        moves=_moving(call, x, unknown("positions come in at the other end")),
    )
