"""What a model is given, against what it declares: converted to the declared dtypes, or refused by the input's name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from towerdsl.runtime.captured import captured, readable


def as_declared(model: Any, *given: Any) -> tuple[Any, ...]:
    """The inputs in the dtypes of `model.inputs`; an error names the one that does not fit.

    Whole numbers of any width do for int, 0 and 1 of them for bool; floats are converted where they meet
    weights. Values are only looked at on a CPU; where operations are recorded, nothing but dtypes is.
    """
    inputs: dict[str, str] = model.inputs
    found = tuple(in_dtype(model, name, inputs[name], x) for name, x in zip(inputs, given, strict=True))
    if not captured():
        lengths = lengths_of(inputs, found)
        for name, x in zip(inputs, found, strict=True):
            if x is not None and x.dtype == torch.long and x.numel() and readable(x):
                check_numbers(name, inputs[name], x, lengths)
    return found


def in_dtype(model: Any, name: str, declared: str, x: Any) -> Any:
    """One input in its dtype."""
    kind = declared.partition("[")[0]
    if x is None and " = " in declared:
        return None
    if not isinstance(x, Tensor):
        help = "" if x is None else f"; give torch.as_tensor({name})"
        raise TypeError(f"`{name}` is {type(x).__name__}; it is declared {declared}{help}")
    real = x.dtype.is_floating_point
    whole = not real and not x.dtype.is_complex
    if kind == "float" and real:
        if "model's dtype" not in declared:
            return x
        return x.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype))
    if kind == "bool" and whole:
        if x.dtype != torch.bool and readable(x) and bool(((x != 0) & (x != 1)).any()):
            got = f"`{name}` has numbers from {int(x.min())} to {int(x.max())}; it is declared {declared}"
            raise ValueError(f"{got}; give a condition of them, such as {name} > 0")
        return x.to(torch.bool)
    if kind in ("int", "relation") and whole and x.dtype != torch.bool:
        return x.to(torch.long)
    as_meant = {"float": f"{name}.float()", "bool": f"a condition, such as {name} > 0"}
    got = f"`{name}` is {str(x.dtype).removeprefix('torch.')}; it is declared {declared}"
    raise TypeError(f"{got}; if that is meant, give {as_meant.get(kind, f'{name}.long()')}")


def lengths_of(inputs: dict[str, str], found: tuple[Any, ...]) -> dict[str, int]:
    """The length of each axis that has no fixed one, by name."""
    lengths: dict[str, int] = {}
    source: dict[str, str] = {}
    later = []
    for (name, declared), x in zip(inputs.items(), found, strict=True):
        if x is None:
            continue
        axes = axes_of(declared)
        got = f"`{name}` has shape {list(x.shape)}; it is declared {declared}"
        if declared.startswith("relation"):
            if x.ndim != 2 or x.shape[0] != 2:
                raise ValueError(f"{got}; give a row of sources and a row of targets, [2, edges]")
            continue
        if x.ndim != len(axes):
            help = f"; if it is one of a batch, give {name}[None]" if x.ndim == len(axes) - 1 else ""
            raise ValueError(f"{got}, {len(axes)} axes{help}")
        for axis, length in zip(axes, x.shape, strict=True):
            size = axis.rpartition("=")[2]
            if size == "?":
                continue
            if not size.isidentifier():
                later.append((axis, size, length, got))
            elif lengths.setdefault(size, length) != length:
                raise ValueError(f"{got}; {size} is {length} here and {lengths[size]} in `{source[size]}`")
            source.setdefault(size, name)
        limit, _, most = declared.rpartition(" at most ")
        if most.isdecimal() and lengths[limit.rpartition(" ")[2]] > int(most):
            raise ValueError(f"{got}; cut it, or compile the model with more positions")
    for axis, size, length, got in later:
        expected = length_of(size, lengths)
        if expected is not None and length != expected:
            help = "give it in this size, or compile the model for another"
            raise ValueError(f"{got}; {length} is not {axis}: {help}")
    return lengths


def length_of(size: str, lengths: dict[str, int]) -> Any:
    """The number that a formula of lengths is, such as `2 * n - 1`; None where one of them is not known."""
    import ast
    import operator

    operators: dict[type, Any] = {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
        ast.Pow: operator.pow,
        ast.USub: operator.neg,
    }

    def number(of: Any) -> Any:
        if isinstance(of, ast.Constant):
            return of.value
        if isinstance(of, ast.Name):
            return lengths.get(of.id)
        parts = [number(x) for x in ((of.operand,) if isinstance(of, ast.UnaryOp) else (of.left, of.right))]
        return None if None in parts else operators[type(of.op)](*parts)

    return int(size) if size.isdecimal() else number(ast.parse(size, mode="eval").body)


def axes_of(declared: str) -> list[str]:
    """`int[b, n], below 9` --> b, n."""
    inside = declared[declared.index("[") + 1 : declared.index("]")]
    return inside.split(", ") if inside else []


def check_numbers(name: str, declared: str, x: Tensor, lengths: dict[str, int]) -> None:
    """Whether ids are in their table, and edges between nodes that there are."""
    if declared.startswith("relation"):
        sizes = [axis.rpartition("=")[2] for axis in axes_of(declared)]
        for side, row, size in zip(("source", "target"), x, sizes, strict=True):
            count = int(size) if size.isdecimal() else lengths.get(size)
            low, high = (int(end) for end in row.aminmax())
            if count is not None and (low < 0 or high >= count):
                got = f"`{name}` has the {side} {low if low < 0 else high}, out of bounds"
                raise IndexError(f"{got}; it is declared {declared}, and there are {count}, counted from 0")
        return
    limit = declared.partition(", below ")[2].partition(",")[0]
    if limit:
        low, high = (int(end) for end in x.aminmax())
        if low < 0 or high >= int(limit):
            got = f"`{name}` has {low if low < 0 else high}, out of bounds; it is declared {declared}"
            raise IndexError(f"{got}; are the ids of this model's vocabulary?")
