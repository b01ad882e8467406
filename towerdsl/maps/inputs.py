"""Inputs of a model from a file: tensors by name, held to what the spec says of them. A file is untrusted."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from towerdsl.diagnostics import Diagnostic, TowerError, did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.ir.types import RelationType
from towerdsl.weights.files import find, read

#: Bytes that the arrays of an .npz file unpack to.
MOST_BYTES = 2**32


def read_inputs(path: Path, model: n.Model) -> dict[str, Tensor]:
    """The inputs of a model that a .npz or .safetensors file has, in the types that the spec declares.

    Numbers are converted where nothing is lost but digits; lengths are held to those declared, and to each other.
    Raises TowerError for a file that cannot be read, or one that does not have the model's inputs.
    """
    found = _read_npz(find(path)) if path.suffix.lower() == ".npz" else read(path)
    declared = {i.name: i for i in model.inputs}
    for name in found:
        if name not in declared:
            _fail(
                f"`{path}` has `{name}`, which is no input of {model.name}", did_you_mean(name, declared, _all(model))
            )
    for i in model.inputs:
        if i.name not in found and i.default is None:
            _fail(f"`{path}` lacks the input `{i.name}`, {i.type}", f"it has {', '.join(found) or 'nothing'}")
    lengths: dict[str, int] = {}
    return {i.name: _held(i, found[i.name], lengths) for i in model.inputs if i.name in found}


def _held(declared: n.InputDecl, given: Tensor, lengths: dict[str, int]) -> Tensor:
    """A tensor as the model takes it. Notes the free lengths that it has."""
    kind = declared.type
    what = f"the input `{declared.name}` is {kind}"
    numbers = "float" if given.dtype.is_floating_point else "bool" if given.dtype == torch.bool else "int"
    if given.dtype.is_complex or (kind.dtype in ("int", "relation") and numbers != "int"):
        _fail(f"{what}, but the file has {_text(given)}")
    if isinstance(kind, RelationType):
        if given.dim() != 2 or given.shape[0] != 2:
            _fail(f"{what}, but the file has {_text(given)}", "give pairs as [2, pairs]: sources, then targets")
        return given.long()
    if given.dim() != len(kind.axes):
        _fail(f"{what}, but the file has {_text(given)}")
    for axis, length in zip(kind.axes, given.shape, strict=True):
        name = str(axis.size)
        wanted = axis.size.integer if axis.size.integer is not None else lengths.get(name)
        if wanted is not None and wanted != length:
            where = f"`{name}` is {wanted} before" if axis.size.integer is None else f"`{axis}` is {wanted}"
            _fail(f"{what}, but the file has {_text(given)}: {where}")
        if axis.size.free_names == {name}:
            lengths[name] = length
    if kind.dtype == "int":
        return given.long()
    return given.bool() if kind.dtype == "bool" else given.float()


def _read_npz(file: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(file) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
        if total > MOST_BYTES:
            _fail(f"`{file}` unpacks to {total:,} bytes, {MOST_BYTES:,} at most")
        with np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}
    except TowerError:
        raise
    except MemoryError:
        _fail(f"`{file}` does not fit in memory")
    except Exception as error:  # whatever an untrusted file makes the libraries say
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        _fail(f"`{file}` is damaged, holds more than numbers, or is not an .npz file: {reason}")


def _all(model: n.Model) -> str:
    return f"its inputs are {', '.join(f'{i.name}: {i.type}' for i in model.inputs)}"


def _text(given: Tensor) -> str:
    return f"{str(given.dtype).removeprefix('torch.')}{list(given.shape)}"


def _fail(message: str, help: str | None = None) -> NoReturn:
    raise TowerError([Diagnostic("inputs", message, help=help)]) from None
