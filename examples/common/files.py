"""Reading what a user has or has not got: what is read, or one sentence on what to get and where to put it."""

import lzma
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

from safetensors import SafetensorError

What = TypeVar("What")
DATA = Path(__file__).parent.parent / "data"
#: What readers raise where a file is cut, or is another kind of file.
UNREADABLE = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, RuntimeError,
    lzma.LZMAError, zlib.error, zipfile.BadZipFile, UnpicklingError, SafetensorError,
)  # fmt: skip


def read(path: Path, reader: Callable[[Path], What], advice: str) -> What:
    """`reader(path)`; where there is no such file, or the reader says that it is not what it reads, the program ends.

    A reader raises ValueError with what is wrong. The advice says what to get and where to put it.
    """
    try:
        return reader(path)
    except FileNotFoundError:
        sys.exit(f"There is no file {path}. {advice}")
    except UNREADABLE as error:
        sys.exit(f"{path} cannot be used: {said(error)}. {advice}")


def lines(path: Path) -> list[str]:
    """The lines of a text; other ends than that of a line, such as those of a page, are a part of it."""
    return text(path).removesuffix("\n").split("\n")


def said(error: Exception) -> str:
    """The first sentence of what an error says, where that says anything to who gave the file."""
    if isinstance(error, LookupError | TypeError | AttributeError):
        return "it holds something else"
    return " ".join(str(error).split()).partition(". ")[0].rstrip(".") or type(error).__name__


def text(path: Path) -> str:
    """The text of a file, which may be packed by xz."""
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
        found = file.read()
    if not found.strip():
        raise ValueError("it is empty")
    return found
