"""Builds one call of an operation from types written as text, runs the code that it emits, and checks what it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.ir.operation import Move
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.ops import OPS, OpCall, OpError, OpResult, SizeArg, python

DTYPES = {"float": torch.float64, "int": torch.int64, "bool": torch.bool}
#: what free lengths are at run time; two sets, so that no shape is right by chance
LENGTHS = ({"b": 2, "n": 7, "m": 4, "h": 8, "w": 6, "t": 9}, {"b": 3, "n": 5, "m": 6, "h": 10, "w": 9, "t": 12})


def axis(text: str) -> Axis:
    """`n` is free, `d=64` has a length, `_=64` has a length and no name, `n:n-1` is called n and has another length."""
    name, _, length = text.partition("=")
    if length:
        return Axis(None if name == "_" else name, Size.of(int(length)))
    name, _, formula = text.partition(":")
    base, minus, number = formula.partition("-")
    return Axis(name, Size.free(base or name) - int(number) if minus else Size.free(base or name))


def tensor(text: str) -> TensorType:
    """`float b n d=64`; float is the default."""
    words = text.split()
    dtype = words.pop(0) if words and words[0] in DTYPES else "float"
    return TensorType(dtype, tuple(axis(word) for word in words))


def size(value: int | Size, name: str | None = None) -> SizeArg:
    return SizeArg(Size.of(value), name)


def call(op: str, *tensors: str, **statics: Any) -> OpCall:
    """The call of an operation, with the defaults of what is left out."""
    entry = OPS[op]
    types = [tensor(t) for t in tensors]
    names = entry.tensors
    given = {names[0].removesuffix("..."): tuple(types)} if names[0].endswith("...") else dict(zip(names, types))  # noqa: B905
    defaults = {p.name: p.default for p in entry.statics if p.default is not ...}
    return OpCall(entry, given, {**defaults, **statics})


def result(op: str, *tensors: str, **statics: Any) -> OpResult:
    made = call(op, *tensors, **statics)
    return made.op.rule(made)


def error(op: str, *tensors: str, **statics: Any) -> OpError:
    """The mistake in a call, which has to say what to do."""
    with pytest.raises(OpError) as caught:
        result(op, *tensors, **statics)
    assert caught.value.help, caught.value.message
    return caught.value


def value(length: Size, lengths: dict[str, int]) -> int:
    found = length.substitute({k: Size.of(v) for k, v in lengths.items()}).integer
    assert found is not None, length
    return found


def shape(sizes: tuple[Size, ...], lengths: dict[str, int]) -> tuple[int, ...]:
    return tuple(value(s, lengths) for s in sizes)


def real(type_: TensorType, lengths: dict[str, int]) -> Tensor:
    """A tensor of a type, every entry different where that is possible."""
    sizes = shape(type_.shape, lengths)
    flat = torch.arange(math.prod(sizes)).reshape(sizes)
    if type_.dtype == "float":
        return flat.double().sin()
    return flat % 5 if type_.dtype == "int" else flat % 2 == 0


@dataclass
class Run:
    result: OpResult
    code: str
    module: nn.Module | None
    inputs: list[Tensor]
    output: Tensor


def runs(op: str, *tensors: str, **statics: Any) -> list[Run]:
    """Run a call for each set of lengths, and check everything that its result says about it."""
    made = call(op, *tensors, **statics)
    return [run_once(made, lengths) for lengths in LENGTHS]


def run_once(made: OpCall, lengths: dict[str, int]) -> Run:
    found = made.op.rule(made)
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, **{f"len_{k}": v for k, v in lengths.items()}}
    fields = {k: python(v, lambda s: s.render(lambda name: f"len_{name}")) for k, v in found.attrs}
    inputs = {}
    for name, types in made.tensors.items():
        if isinstance(types, tuple):
            inputs |= {f"{name}{n}": real(t, lengths) for n, t in enumerate(types)}
        else:
            inputs[name] = real(types, lengths)
    module = None
    if found.module is not None:
        module = eval(found.module.format_map(fields), names).double()
        got = {name: tuple(t.shape) for name, t in module.named_parameters()}
        assert got == {name: shape(s, lengths) for name, s in found.parameters}
        got = {name: tuple(t.shape) for name, t in module.named_buffers()}
        assert got == {name: shape(s, lengths) for name, s in found.buffers}
    else:
        assert not found.parameters
        assert not found.buffers
        assert "{self}" not in found.call
    code = found.call.format_map({**fields, **{k: k for k in inputs}, "self": "module"})
    output = eval(code, {**names, **inputs, "module": module})
    assert tuple(output.shape) == shape(found.type.shape, lengths), code
    assert output.dtype == DTYPES[found.type.dtype], code
    assert value(found.macs, lengths) >= 0
    used = {"F.": "import torch.nn.functional as F"}
    assert all(line in made.op.imports for prefix, line in used.items() if prefix in found.call)
    if module is not None:
        module.eval()
    types = [t for x in made.tensors.values() for t in (x if isinstance(x, tuple) else (x,))]

    def again(changed: dict[str, Tensor]) -> Tensor:
        result = eval(code, {**names, **inputs, **changed, "module": module})
        assert isinstance(result, Tensor)
        return result

    if found.moves is not None:
        with torch.no_grad():
            moves(found.moves, types, inputs, again, lengths)
    else:
        assert not made.op.rule.__module__.startswith("towerdsl."), "which positions does it read?"
    if module is not None:
        module.train()
    return Run(found, code, module, list(inputs.values()), output)


def moves(
    said: tuple[Move, ...],
    types: list[TensorType],
    inputs: dict[str, Tensor],
    again: Callable[[dict[str, Tensor]], Tensor],
    lengths: dict[str, int],
) -> None:
    """The result says how information moves: a position that changes is read where its moves say, and nowhere else."""
    before = again({})
    for k, (name, tensor_) in enumerate(inputs.items()):
        own = [m for m in said if m.argument == k]
        assert sorted(m.dim for m in own) == list(range(tensor_.dim()))
        assert len({m.to for m in own if m.to is not None}) == sum(m.to is not None for m in own)
        if types[k].dtype != "float":
            continue
        for move in own:
            if move.to is None or (move.reach is not None and move.reach.unknown):
                continue
            for j in range(tensor_.shape[move.dim]):
                changed = tensor_.clone()
                changed.select(move.dim, j).mul_(-3).add_(1)
                after = again({name: changed})
                different = (
                    (after != before)
                    .movedim(move.to, 0)
                    .reshape(before.shape[move.to], -1)
                    .any(1)
                    .nonzero()
                    .flatten()
                    .tolist()
                )
                allowed = set(different) & _readers(move, j, tensor_.shape[move.dim], before.shape[move.to], lengths)
                assert set(different) == allowed, (move, j, different)


def _readers(move: Move, j: int, length: int, many: int, lengths: dict[str, int]) -> set[int]:
    """The positions of the result that may read position j."""
    if move.reach is None:
        return {length - 1 - j if move.flipped else j + value(move.offset, lengths)}
    found = set()
    for comb in move.reach.combs:
        low, high = (None if x is None else value(x, lengths) for x in (comb.low, comb.high))
        start = low if low is not None else high if high is not None else 0
        for i in range(many):
            inside = (low is None or low <= i - j) and (high is None or i - j <= high)
            if inside and (i - j - start) % comb.step == 0:
                found.add(i)
    return found
