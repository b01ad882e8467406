"""Where specs come from: a path, a name of the spec library, or a file that another one uses."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from towerdsl.budget import uncounted
from towerdsl.diagnostics import Diagnostic, Diagnostics, Source, Span, TowerError, did_you_mean, visible
from towerdsl.lang import reader
from towerdsl.lang import tree as t
from towerdsl.lang.yaml_nodes import MAX_CHARACTERS

#: A name in `use:` has at most so many characters.
MAX_NAME = 200

PACKAGE = Path(__file__).parent.parent
STANDARD = PACKAGE / "std.yaml"


def library_folder() -> Path:
    """The spec library: beside the package in a checkout, inside it in an installed wheel."""
    inside = PACKAGE / "specs"
    return inside if inside.is_dir() else PACKAGE.parent / "specs"


def library() -> dict[str, Path]:
    """Every file of the spec library by its name, in order of its folder: the tenth level stands behind the ninth."""

    def order(path: Path) -> list[str | int]:
        return [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", path.as_posix())]

    return {p.stem: p for p in sorted(library_folder().rglob("*.yaml"), key=order)}


@cache
def standard_library() -> t.SpecFile:
    """The definitions of `std.yaml`, read once."""
    with uncounted():
        return reader.read_spec(Source(STANDARD.name, STANDARD.read_text(encoding="utf-8")), STANDARD)


def _fail(code: str, message: str, help: str | None = None, span: Span | None = None) -> TowerError:
    return TowerError([Diagnostic(code, message, span, (), help)])


def _read_text(path: Path, name: str, span: Span | None = None) -> str:
    """The text of a file; no more of it is read than a spec may have."""
    most = 4 * MAX_CHARACTERS + 3  # in UTF-8, with a byte order mark
    try:
        if not path.is_file():
            raise _fail("file", f"{name} is not a file", "name a .yaml file", span)
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            message = f"{name} is too large: a spec has at most {MAX_CHARACTERS:,} characters"
            raise _fail("too-long", message, "move parts of it to files that it names in `use:`", span)
        return _lines(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise _fail("encoding", f"{name} is not UTF-8 text", "save it as UTF-8", span) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _fail("file", f"{name} cannot be read: {reason}", None, span) from None


def _lines(text: str) -> str:
    """The text without a byte order mark, its lines ended as everywhere else: places count in it."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _is_readable(path: Path, text: str) -> bool:
    """Whether there is something at a path. Raises TowerError if no file can have such a name."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return False
    except (OSError, ValueError) as error:
        reason = (error.strerror or "").lower() if isinstance(error, OSError) else "no file has such a name"
        shown = text if len(text) <= MAX_NAME else f"{text[:60]}..."
        raise _fail("file", f"{shown} cannot be read: {reason}", "give the path of a .yaml file") from None
    return True


def read(spec: str | Path, errors: Diagnostics | None = None) -> t.SpecFile:
    """Read a spec: a path, a library name (`bert`), or, if it has more than one line, the text itself.

    Mistakes of form are added to `errors`, if given. Raises TowerError otherwise, and if there is nothing to read.
    """
    if not isinstance(spec, str | os.PathLike):
        raise _fail("file", f"a spec is a path, a name or a text, not {type(spec).__name__}")
    if isinstance(spec, str) and "\n" in spec:
        return reader.read_spec(Source("<spec>", _lines(spec)), None, errors)
    path, known = Path(spec), library()
    text = str(spec)
    if not text:
        raise _fail("file", "an empty name is not a spec", "give a path, or a name that `towerdsl specs` lists")
    there = _is_readable(path, text)
    if path.suffix not in (".yaml", ".yml") and not there and text in known:
        path, there = known[text], True
    if there and path.is_dir():
        raise _fail("file", f"{text} is a folder", "name a .yaml file in it")
    if not there:
        if path.suffix in (".yaml", ".yml") or "/" in text:
            names = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
            help = did_you_mean(path.name, names, "give a path, or a name that `towerdsl specs` lists")
            raise _fail("file", f"there is no file {text}", help)
        raise _fail(
            "file", f"there is no spec `{text}` in the library", did_you_mean(text, known, "`towerdsl specs` lists it")
        )
    return reader.read_spec(Source(_shown(path), _read_text(path, text)), path, errors)


def _shown(path: Path) -> str:
    """A path as it is named in messages and docstrings: never where this machine keeps it."""
    root = library_folder()
    if path.resolve().is_relative_to(root.resolve()):
        return f"specs/{path.resolve().relative_to(root.resolve()).as_posix()}"
    return visible(path.name if path.is_absolute() else path.as_posix(), "")


def read_used(name: str, span: Span, user: Path | None, errors: Diagnostics | None = None) -> t.SpecFile:
    """A file named in `use:`: beside the spec that uses it, or in the library. Mistakes as in `read`."""
    stem = name.removesuffix(".yaml")
    parts = stem.split("/")
    if len(name) > MAX_NAME:
        message = f"a name in `use:` has at most {MAX_NAME} characters, this has {len(name):,}"
        raise _fail("use", message, "name a file beside this spec, or one of the library", span)
    if any(p in ("", ".", "..") for p in parts) or re.search(r"[\\:~*\x00-\x1f]", stem):
        message = f"`{name}` is not a name that can be used" if name else "an empty name cannot be used"
        help = "name a file beside this spec, or one of the library, as in `use: [transformer_layers]`"
        raise _fail("use", message, help, span)
    folder = user.parent.resolve() if user else None
    if folder is not None:
        try:
            beside = (folder / f"{stem}.yaml").resolve()
            found = beside.is_file() and beside.is_relative_to(folder)
        except (OSError, RuntimeError, ValueError):  # too long for this machine, or a link to itself
            found = False
        if found:
            assert user is not None
            shown = _shown(user.parent / f"{stem}.yaml")
            return reader.read_spec(Source(shown, _read_text(beside, shown, span)), beside, errors)
    known = library()
    if parts[-1] in known and (len(parts) == 1 or known[parts[-1]].with_suffix("").as_posix().endswith(f"/{stem}")):
        path = known[parts[-1]]
        return reader.read_spec(Source(_shown(path), _read_text(path, _shown(path), span)), path, errors)
    local = [p.stem for p in folder.glob("*.yaml")] if folder else []
    near = did_you_mean(name, known, "it is looked up beside the spec and in the spec library", own=local)
    raise _fail("use", f"there is no file `{stem}.yaml` to use", near, span)
