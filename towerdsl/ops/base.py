"""The table of operations, how a rule gets into it, and what rules share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from towerdsl.ir.operation import Move, Op, OpCall, OpResult, SizeArg, StaticParameter
from towerdsl.ir.types import Axis, TensorType

OPS: dict[str, Op] = {}
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
