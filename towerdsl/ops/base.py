"""The table of operations, how a rule gets into it, and what rules share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from towerdsl.ir.operation import Move, Op, OpCall, OpResult, SizeArg, StaticParameter
from towerdsl.ir.reach import DENSE
from towerdsl.ir.types import Axis, TensorType

OPS: dict[str, Op] = {}
#: What an operation imports whose code calls `F.`.
FUNCTIONAL = ("import torch.nn.functional as F",)
KINDS = ("size", "sizes", "int", "ints", "float", "floats", "bool", "axis", "axes", "text")


def op(
    name: str,
    tensors: str = "x",
    statics: str = "",
    *,
    imports: tuple[str, ...] = (),
    extra_statics: bool = False,
    weights: bool = False,
    idle: str | None = None,
) -> Callable[[Callable[[OpCall], OpResult]], Callable[[OpCall], OpResult]]:
    """Register an operation: `statics` is written `size:size bias:bool=true`, with kinds after the colon."""

    def register(rule: Callable[[OpCall], OpResult]) -> Callable[[OpCall], OpResult]:
        parameters = []
        for item in statics.split():
            left, _, default = item.partition("=")
            parameter, _, kind = left.partition(":")
            if kind not in KINDS:
                raise ValueError(f"{name}: the kind of `{item}` has to be one of {', '.join(KINDS)}")
            parameters.append(StaticParameter(parameter, kind, _default(kind, default) if default else ...))
        OPS[name] = Op(
            name,
            tuple(tensors.split()),
            tuple(parameters),
            rule,
            rule.__doc__ or "",
            extra_statics,
            weights,
            imports,
            idle,
        )
        return rule

    return register


def _default(kind: str, text: str) -> Any:
    if text == "none":
        return None
    readers: dict[str, Callable[[str], Any]] = {
        "bool": lambda t: t == "true",
        "float": float,
        "int": int,
        "ints": int,
        "size": int,
    }
    return readers.get(kind, str)(text)


def new_axis(size: SizeArg, dtype_origin: str = "") -> Axis:
    """The axis that a size argument makes."""
    return Axis(size.name, size.size, origin=dtype_origin)


def kept(axis: Axis, new: Axis) -> Axis:
    """The axis an operation makes of another one: it keeps its name where its length stays, and has the new one too."""
    same = axis.name is not None and axis.size == new.size
    return replace(axis, also=new.name or axis.also) if same else new


def staying(x: TensorType, *but: Move) -> tuple[Move, ...]:
    """Every axis stays in its place, and each position reads itself alone; `but` a few."""
    return (*but, *(Move(dim, dim) for dim in range(len(x.axes)) if all(m.dim != dim for m in but)))


def mixed(x: TensorType, dim: int = -1) -> Move:
    """A matrix along an axis: each number of the result may read all of it."""
    return Move(dim % len(x.axes), None, DENSE)


def dim_code(x: TensorType, position: int) -> int:
    """How code calls a dim: the last one is -1."""
    return -1 if position == len(x.axes) - 1 else position


def reordered(order: list[int]) -> str:
    """The code that puts dims in an order."""
    moved = [i for i, dim in enumerate(order) if i != dim]
    if not moved:
        return ""
    if len(moved) == 2:
        return f".transpose({moved[0]}, {moved[1]})"
    return f".permute({', '.join(map(str, order))})"
