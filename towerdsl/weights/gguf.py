"""GGUF files, as llama.cpp writes them: the header, read within bounds. Nothing here needs torch.

A file has metadata by key, then of each tensor its name, shape, type and place, then the tensors.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from towerdsl.diagnostics import Diagnostic, TowerError
from towerdsl.weights.report import printable

SUFFIX, MAGIC = ".gguf", b"GGUF"
VERSIONS = (2, 3)
#: How tensors are packed, by number: the elements of a block, and its bytes.
PACKED = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
#: Others, which are not read.
_FOREIGN = {4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S"}
_FOREIGN |= {20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64"}
_FOREIGN |= {28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
MAX_KEYS, MAX_TENSORS, MAX_TEXT, MAX_TEXTS, MAX_DIMS = 2**16, 2**18, 2**24, 2**23, 4
#: A longer list is counted only: the words of a tokenizer.
LONGEST = 4096


@dataclass(frozen=True)
class Counted:
    """A list of metadata that is too long to be one value."""

    length: int


Value: TypeAlias = "int | float | bool | str | list[Value] | Counted"


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: where its bytes begin, and how they are packed; `size` is None if that is not read."""

    name: str
    shape: tuple[int, ...]
    packed: str
    start: int
    size: int | None


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    metadata: Mapping[str, Value]
    tensors: Mapping[str, Stored]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))


def read_header(file: Path) -> Header:
    """The header of a GGUF file. Raises TowerError if it is damaged, or larger than any model's."""
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(file, data).header()
    except OSError as error:
        raise _error("unreadable", f"cannot read `{file}`: {error.strerror}") from None
    except (struct.error, ValueError, OverflowError):  # past the end; no text
        raise _error("corrupt", f"`{file}` is damaged, cut short or not a GGUF file") from None


def _error(code: str, message: str, help: str | None = None) -> TowerError:
    return TowerError([Diagnostic(f"checkpoint-{code}", message, None, (), help)])


class _Reader:
    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self.file, self.data, self.at, self.texts = file, data, 0, 0

    def header(self) -> Header:
        if self.data[:4] != MAGIC:
            raise ValueError
        self.at = 4
        version = self.number("I")
        if version not in VERSIONS:
            raise _error("format", f"`{self.file}` is of version {version} of GGUF, which is not read")
        tensors, keys = self.number("Q"), self.number("Q")
        if keys > MAX_KEYS or tensors > MAX_TENSORS:
            raise ValueError
        metadata: dict[str, Value] = {}
        for _ in range(keys):
            key = self.text()
            if key in metadata:
                raise _error("corrupt", f"`{self.file}` has the key `{printable(key)}` twice")
            metadata[key] = self.value(self.number("I"))
        found = [self.stored() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment > 2**16 or alignment % 8:
            raise ValueError
        begin = -(-self.at // alignment) * alignment
        placed: dict[str, Stored] = {}
        for name, shape, kind, offset in found:
            if name in placed:
                raise _error("corrupt", f"`{self.file}` has the tensor `{printable(name)}` twice")
            packed, elements, size = PACKED.get(kind, (_FOREIGN.get(kind, f"number {kind}"), 0, 0))
            whole = None
            if elements:
                whole = math.prod(shape) // elements * size
                cut = begin + offset + whole > len(self.data)
                if cut or offset % alignment or (shape[-1] if shape else 1) % elements:
                    raise ValueError
            placed[name] = Stored(name, shape, packed, begin + offset, whole)
        return Header(metadata, placed)

    def number(self, code: str) -> int:
        found: int = struct.unpack_from(f"<{code}", self.data, self.at)[0]
        self.at += struct.calcsize(f"<{code}")
        return found

    def text(self) -> str:
        length = self.number("Q")
        start = self.at
        self.skip(length)
        if length > MAX_TEXT:
            raise ValueError
        return self.data[start : self.at].decode()

    def skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self.data):
            raise ValueError

    def value(self, kind: int) -> Value:
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            return self.number(_code(kind))
        kind, length = self.number("I"), self.number("Q")
        if kind != _TEXT:
            code = _code(kind)
            start, width = self.at, struct.calcsize(f"<{code}")
            self.skip(width * length)
            if length > LONGEST:
                return Counted(length)
            return list(struct.unpack_from(f"<{length}{code}", self.data, start))
        self.texts += length
        if self.texts > MAX_TEXTS:
            raise ValueError
        if length <= LONGEST:
            return [self.text() for _ in range(length)]
        for _ in range(length):
            self.skip(self.number("Q"))
        return Counted(length)

    def stored(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dims = self.text(), self.number("I")
        if dims > MAX_DIMS:
            raise ValueError
        shape = tuple(self.number("Q") for _ in range(dims))[::-1]
        if any(n > 2**48 for n in shape):
            raise ValueError
        return name, shape, self.number("I"), self.number("Q")


def _code(kind: int) -> str:
    """How struct says a number of a kind."""
    if kind not in _NUMBERS:
        raise ValueError
    return _NUMBERS[kind]
