"""Checkpoint files -> tensors by name. A checkpoint is untrusted: nothing in it runs, its faults are one sentence."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file
from torch import Tensor

from towerdsl.diagnostics import Diagnostic, TowerError, did_you_mean
from towerdsl.weights import gguf
from towerdsl.weights.report import printable

USUAL = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", gguf.SUFFIX)
WRAPS = ("state_dict", "model_state_dict", "model")
_UNSAFE = ("Can only create", "Can only build", "Trying to", "Unsupported global", "Unsupported class")
#: The format whose files say that they are of it.
FILES_OWN = "gguf"
#: What is not packed in a GGUF file.
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MAX_INDEX = 64 * 2**20
MAX_NAME = 1000


def read(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a checkpoint, on the CPU, mapped into memory where the format allows it.

    `path` is a .safetensors file, a PyTorch file or a GGUF file (whatever they are called), an index of shards, or a
    folder with one of these. Quantized tensors of GGUF become float32. Raises TowerError with one sentence if it is not
    there, not whole, not a checkpoint, or would run code.
    """
    try:
        file = find(Path(path))
    except (OSError, ValueError) as error:  # a name too long, a folder that may not be entered
        _fail("unreadable", f"cannot look for `{printable(os.fspath(path))}`: {_first_line(error)}")
    head = _head(file)
    if file.name.endswith(".index.json") or (file.suffix == ".json" and head.lstrip()[:1] == b"{"):
        return _read_shards(file)
    return _read_one(file, head)


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The format that a file says it is of: `gguf.llama`; None for others than GGUF files. Raises TowerError."""
    file = find(Path(path))
    if not _head(file).startswith(gguf.MAGIC):
        return None
    return f"{FILES_OWN}.{gguf.read_header(file).architecture}"


def find(path: Path) -> Path:
    """The checkpoint file that a path means; TowerError if there is none, or several to choose from."""
    if path.is_dir():
        for name in USUAL:
            if (path / name).is_file():
                return path / name
        files = sorted(f for f in _listing(path) if f.suffix in SUFFIXES and f.is_file())
        if len(files) == 1:
            return files[0]
        if files:
            _fail("which", f"`{path}` has {len(files)} checkpoint files", help=f"give one: {_some(files)}")
        _fail("none", f"the folder `{path}` has no checkpoint", help=f"looked for {', '.join(USUAL)}")
    if not path.exists():
        beside = [f.name for f in _listing(path.parent)] if path.parent.is_dir() else []
        _fail("none", f"there is no file `{path}`", help=did_you_mean(path.name, beside))
    if not path.is_file():
        _fail("none", f"`{path}` is not a file")
    return path


def _listing(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        _fail("unreadable", f"cannot read `{folder}`: {error.strerror}")


def _some(files: list[Path]) -> str:
    return ", ".join(f.name for f in files[:5]) + (" and others" if len(files) > 5 else "")


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(512)
    except OSError as error:
        _fail("unreadable", f"cannot read `{file}`: {error.strerror}")


def _fail(code: str, message: str, notes: Iterable[str] = (), help: str | None = None) -> NoReturn:
    raise TowerError([Diagnostic(f"checkpoint-{code}", message, None, tuple(notes), help)]) from None


def _read_one(file: Path, head: bytes) -> dict[str, Tensor]:
    """The tensors of one file, by what is in it."""
    if head.startswith(b"PK\x03\x04"):
        found = _read_torch(file, zipped=True)
    elif len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        found = _read_safetensors(file)
    elif head.startswith(b"\x80") or head[257:262] == b"ustar":
        found = _read_torch(file, zipped=False)
    elif head.startswith(b"version https://git-lfs"):
        _fail("pointer", f"`{file}` is a Git LFS pointer, not the checkpoint itself", help="run `git lfs pull` there")
    elif head.startswith(gguf.MAGIC):
        found = _read_gguf(file)
    elif not head:
        _fail("format", f"`{file}` is empty")
    elif file.suffix == ".safetensors":
        _fail("corrupt", f"`{file}` is damaged or not a safetensors file")
    else:
        _fail("format", f"`{file}` is neither a safetensors nor a PyTorch file")
    for name, tensor in found.items():
        if len(name) > MAX_NAME:
            _fail("corrupt", f"`{file}` has a name of {len(name)} characters", [printable(name)])
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.device.type != "cpu":
            _fail("format", f"`{printable(name)}` in `{file}` is not a plain dense tensor")
    return found


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(file))
    except MemoryError:
        _fail("memory", f"`{file}` does not fit in memory")
    except Exception as error:  # whatever an untrusted file makes the library say
        _fail("corrupt", f"`{file}` is damaged, cut short or not a safetensors file", [_first_line(error)])


def _read_torch(file: Path, zipped: bool) -> dict[str, Tensor]:
    if zipped:
        _refuse_bomb(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except MemoryError:
        _fail("memory", f"`{file}` does not fit in memory")
    except Exception as error:  # whatever an untrusted file makes the library say
        text = str(error)
        asked = re.search(r"GLOBAL ([\w.]+)", text)
        if "TorchScript" in text:
            _fail("format", f"`{file}` is a TorchScript program, not a checkpoint", help="save its state_dict()")
        if asked or any(sign in text for sign in _UNSAFE):
            _fail(
                "unsafe",
                f"`{file}` holds more than tensors, which could run code, so it was not loaded",
                [f"it asks for {printable(asked[1])}"] if asked else [],
                help="save the model's state_dict() alone, or as safetensors",
            )
        _fail("corrupt", f"`{file}` is damaged, cut short or not a PyTorch checkpoint")
    return _unwrap(file, content)


def _watched(items: list[Any], what: str) -> Iterable[Any]:
    """The items, with a bar on a terminal."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, printable(what), console=Console(stderr=True), transient=True)


def _read_gguf(file: Path) -> dict[str, Tensor]:
    header = gguf.read_header(file)
    foreign = sorted({t.packed for t in header.tensors.values() if t.size is None})
    if foreign:
        read = ", ".join(name for name, *_ in gguf.PACKED.values())
        _fail("format", f"`{file}` has tensors packed as {foreign[0]}, which is not read", help=f"read are {read}")
    data = torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8)
    tensors = _watched(list(header.tensors.items()), f"Reading {file.name}")
    return {name: _unpacked(file, data, tensor) for name, tensor in tensors}


def _unpacked(file: Path, data: Tensor, tensor: gguf.Stored) -> Tensor:
    """A tensor of a GGUF file: its bytes themselves where they are floats."""
    assert tensor.size is not None
    packed = data[tensor.start : tensor.start + tensor.size]
    dtype = PLAIN.get(tensor.packed)
    if dtype is not None:
        return packed.view(dtype).reshape(tensor.shape)
    try:
        from gguf import GGMLQuantizationType, dequantize
    except ImportError:
        message = f"`{file}` has tensors packed as {tensor.packed}, which needs the package gguf"
        _fail("gguf", message, help="pip install gguf, or give a file in F32, F16 or BF16")
    rows = packed.reshape(math.prod(tensor.shape[:-1]), -1)
    return torch.from_numpy(dequantize(rows.numpy(), GGMLQuantizationType[tensor.packed])).reshape(tensor.shape)


def _refuse_bomb(file: Path) -> None:
    """torch.save stores without compression; an archive that unpacks to more than itself is not one of its."""
    try:
        with zipfile.ZipFile(file) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
    except Exception:  # zipfile raises many kinds for what is damaged
        _fail("corrupt", f"`{file}` is damaged, cut short or not a PyTorch checkpoint")
    if total > file.stat().st_size:
        _fail("corrupt", f"`{file}` unpacks to more than its own size, which no PyTorch checkpoint does")


def _unwrap(file: Path, content: object) -> dict[str, Tensor]:
    """The mapping from names to tensors in a PyTorch file's content, also inside {"state_dict": ...} and the like."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        tensors = {k: v.detach() for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors:
            return tensors
        content = next((content[key] for key in WRAPS if isinstance(content.get(key), Mapping)), None)
    _fail("format", f"`{file}` has no tensors by name", help="it should hold a model's state_dict()")


def _read_shards(file: Path) -> dict[str, Tensor]:
    try:
        if file.stat().st_size > MAX_INDEX:
            _fail("corrupt", f"the index `{file}` has more than {MAX_INDEX} bytes")
        weight_map = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        where = {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        _fail("corrupt", f"`{file}` is not an index of shards", help='it should hold {"weight_map": {name: file}}')
    result: dict[str, Tensor] = {}
    for shard in _watched(sorted(set(where.values())), f"Reading {file.parent.name}"):
        if shard in ("", ".", "..") or re.search(r"[/\\:\x00]", shard) or Path(shard).name != shard:
            _fail("shard", f"`{file}` names the shard `{printable(shard)}`, which is not a file beside it")
        if not (file.parent / shard).is_file():
            _fail("shard", f"the shard `{printable(shard)}` of `{file}` is not there")
        tensors = _read_one(file.parent / shard, _head(file.parent / shard))
        names = [name for name in where if where[name] == shard]
        for name in names:
            if name not in tensors:
                _fail("shard", f"the shard `{shard}` of `{file}` lacks `{printable(name)}`, which the index promises")
            result[name] = tensors[name]
    return result


def _first_line(error: Exception) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])
