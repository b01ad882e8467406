"""Where specs come from: a path, a name of the spec library, or a file that another one uses."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from towerdsl.diagnostics import Diagnostic, Diagnostics, Source, Span, TowerError, did_you_mean
from towerdsl.lang import reader
from towerdsl.lang import tree as t
from towerdsl.lang.yaml_nodes import MAX_BYTES

PACKAGE = Path(__file__).parent.parent


def library_folder() -> Path:
    """The spec library: beside the package in a checkout, inside it in an installed wheel."""
    inside = PACKAGE / "specs"
    return inside if inside.is_dir() else PACKAGE.parent / "specs"


def library() -> dict[str, Path]:
    """Every file of the spec library by its name, in order of its folder."""
    return {p.stem: p for p in sorted(library_folder().rglob("*.yaml"))}


@cache
def standard_library() -> t.SpecFile:
    path = PACKAGE / "std.yaml"
    return reader.read_spec(Source("std.yaml", path.read_text(encoding="utf-8")), path)


def _read_text(path: Path, name: str) -> str:
    try:
        if path.stat().st_size > 4 * MAX_BYTES:
            raise TowerError([Diagnostic("too-long", f"{name} is too large to be a spec")])
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise TowerError([Diagnostic("encoding", f"{name} is not UTF-8 text", help="save it as UTF-8")]) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise TowerError([Diagnostic("file", f"{name} cannot be read: {reason}")]) from None


def read(spec: str | Path, errors: Diagnostics | None = None) -> t.SpecFile:
    """Read a spec: a path, a library name (`bert`), or, if it has more than one line, the text itself.

    Mistakes of form are added to `errors`, if given. Raises TowerError otherwise, and if there is nothing to read.
    """
    if isinstance(spec, str) and "\n" in spec:
        return reader.read_spec(Source("<spec>", spec), None, errors)
    path, known = Path(spec), library()
    text = str(spec)
    if path.suffix not in (".yaml", ".yml") and not path.exists() and text in known:
        path = known[text]
    if path.is_dir():
        raise TowerError([Diagnostic("file", f"{text} is a folder", help="name a .yaml file in it")])
    if not path.exists():
        if path.suffix in (".yaml", ".yml") or "/" in text:
            names = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
            help = did_you_mean(path.name, names, "give a path, or a name that `towerdsl specs` lists")
            raise TowerError([Diagnostic("file", f"there is no file {text}", help=help)])
        help = did_you_mean(text, known, "`towerdsl specs` lists the library")
        raise TowerError([Diagnostic("file", f"there is no spec `{text}` in the library", help=help)])
    return reader.read_spec(Source(_shown(path), _read_text(path, text)), path, errors)


def _shown(path: Path) -> str:
    """A path as it is named in messages and docstrings: never where this machine keeps it."""
    root = library_folder()
    if path.resolve().is_relative_to(root.resolve()):
        return f"specs/{path.resolve().relative_to(root.resolve()).as_posix()}"
    return path.name if path.is_absolute() else path.as_posix()


def read_used(name: str, span: Span, user: Path | None, errors: Diagnostics | None = None) -> t.SpecFile:
    """A file named in `use:`: beside the spec that uses it, or in the library. Mistakes as in `read`."""
    stem = name.removesuffix(".yaml")
    parts = stem.split("/")
    if not stem or any(p in ("", ".", "..") for p in parts) or "\\" in stem or "\0" in stem or ":" in stem:
        message = f"`{name}` is not a name that can be used"
        help = "name a file beside this spec, or one of the library, as in `use: [encoder]`"
        raise TowerError([Diagnostic("use", message, span, (), help)])
    folder = user.parent.resolve() if user else None
    if folder is not None:
        beside = (folder / f"{stem}.yaml").resolve()
        if beside.is_file() and beside.is_relative_to(folder):
            assert user is not None
            shown = _shown(user.parent / f"{stem}.yaml")
            return reader.read_spec(Source(shown, _read_text(beside, name)), beside, errors)
    known = library()
    if parts[-1] in known and (len(parts) == 1 or known[parts[-1]].with_suffix("").as_posix().endswith(stem)):
        path = known[parts[-1]]
        return reader.read_spec(Source(_shown(path), _read_text(path, name)), path, errors)
    local = [p.stem for p in folder.glob("*.yaml")] if folder else []
    near = did_you_mean(name, [*known, *local], "it is looked up beside the spec and in the spec library")
    raise TowerError([Diagnostic("use", f"there is no file `{stem}.yaml` to use", span, (), near)])
