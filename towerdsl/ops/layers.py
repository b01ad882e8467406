"""Layers with weights, tables, and dropout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from towerdsl.ir.operation import Inference, Move, OpCall, OpResult
from towerdsl.ir.reach import DENSE, IN_TURN
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import TensorType, shown
from towerdsl.ops.base import FUNCTIONAL, mixed, op, staying
from towerdsl.ops.checks import (
    TO_CHANNELS,
    check_groups,
    in_range,
    known_length,
    last_axis,
    size_argument,
    tensor_argument,
)

# --- linear layers and tables ----------------------------------------------------------------------------------


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
        moves=staying(x, mixed(x)),
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


@op("lookup", tensors="at", statics="numbers:floats")
def lookup(call: OpCall) -> OpResult:
    """The numbers of a list at positions `at`, in float32; the nearest one where a position is outside."""
    at: TensorType = tensor_argument(call, "int", "at")
    numbers = call.statics["numbers"]
    if not numbers:
        call.fail("arguments", "there is nothing in this list to look up", argument="numbers")
    kind = replace(at, dtype="wide")
    code = "torch.tensor({numbers}, device={at}.device)[{at}.clamp(0, {last})]"
    attrs = (("numbers", numbers), ("last", len(numbers) - 1))
    return OpResult(kind, code, attrs=attrs, moves=staying(at))


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


@op("rmsnorm", statics="eps:float=1e-6 offset:float=0", imports=FUNCTIONAL, weights=True)
def rmsnorm(call: OpCall) -> OpResult:
    """Mean square 1 along the last axis, then scale: by the weight, and an offset that is no part of it."""
    x = tensor_argument(call, "float")
    features = Size.of(known_length(call, last_axis(call, x), "a feature size"))
    eps, attrs = _eps(call, None)
    offset = float(call.statics["offset"])
    start = ".apply(lambda norm: nn.init.constant_(norm.weight, {start}))" if offset else ""
    shifted = f"F.rms_norm({{x}}, ({{in}},), {{offset}} + {{self}}.weight{eps})"
    return OpResult(
        x,
        shifted if offset else "{self}({x})",
        f"nn.RMSNorm({{in}}{eps}){start}",
        attrs=(("in", features), *attrs, *((("offset", offset), ("start", 1 - offset)) if offset else ())),
        parameters=(("weight", (features,)),),
        moves=staying(x, Move(len(x.axes) - 1, len(x.axes) - 1, DENSE)),
    )


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
    return known_length(call, x.axes[1], "a number of channels (the second axis)", TO_CHANNELS)


@op(
    "batchnorm",
    statics="eps:float=1e-5 momentum:float=0.1 frozen:bool=false scale:float=1",
    imports=FUNCTIONAL,
    weights=True,
)
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


@op("groupnorm", statics="groups:int eps:float=1e-5", weights=True)
def groupnorm(call: OpCall) -> OpResult:
    """Mean 0 and variance 1 of each group of channels (axis 1) and everything after, then scale and shift."""
    x = tensor_argument(call, "float")
    channels = _channels(call, x, 2, None, "x[b, c, ...] with the channels second")
    groups = in_range(call, "groups", 1)
    check_groups(call, "groups", groups, channels)
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
        moves=staying(x, mixed(x), Move(len(x.axes) - 2, len(x.axes) - 2, IN_TURN)),
    )


@op("lstm", statics="size:size", weights=True)
def lstm(call: OpCall) -> OpResult:
    """The states of an LSTM that runs along the last axis but one."""
    return _recurrent(call, "LSTM", 4)


@op("gru", statics="size:size", weights=True)
def gru(call: OpCall) -> OpResult:
    """The states of a GRU that runs along the last axis but one."""
    return _recurrent(call, "GRU", 3)


# --- dropout ---------------------------------------------------------------------------------------------------


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
