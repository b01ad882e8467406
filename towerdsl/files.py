"""Files that are written: each is put in place at once, when all is in it, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from towerdsl.diagnostics import Diagnostic, TowerError


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a text (as UTF-8) or bytes to a file, as `replacing` does. Raises TowerError."""
    try:
        data = content if isinstance(content, bytes) else content.encode()
    except UnicodeEncodeError as error:
        raise _refused(os.fspath(path), f"U+{ord(error.object[error.start]):04X} is half a character") from None
    with replacing(path) as file:
        file.write_bytes(data)


def apart(path: str | os.PathLike[str], reads: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse to write over a file that is read for it, by whatever name or link. Raises TowerError."""
    for read in reads:
        with suppress(OSError, ValueError):  # what is not there is neither read nor written over
            if os.path.samefile(path, read):
                message = f"`{os.fspath(path)}` is read for this, so it is not written over"
                raise TowerError([Diagnostic("file", message, help="name another file for the result")])


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place at the end; after an error or Ctrl-C there is none.

    The permissions of the old file are kept, a link stays and what it leads to is replaced. A device, a pipe or what is
    open already (`/dev/stdout`) gets the bytes at the end. Raises TowerError where there can be no such file.
    """
    name = os.fspath(path)
    try:
        found = _status(name)
        descriptor = _descriptor(name)
        streamed = descriptor is not None or (found is not None and not stat.S_ISREG(found.st_mode))
        target = Path(os.path.realpath(name))
        folder = Path(tempfile.gettempdir()) if streamed else target.parent
        temporary = folder / f".{uuid.uuid4().hex}.unfinished"  # its own name may be as long as a name can be
        private = 0o666 if found is None else 0o600 | stat.S_IMODE(found.st_mode)
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, private))
            mode = stat.S_IMODE(temporary.stat().st_mode if found is None else found.st_mode)
            yield temporary
            if streamed:
                with (
                    temporary.open("rb") as source,
                    open(name if descriptor is None else os.dup(descriptor), "wb") as stream,
                ):
                    shutil.copyfileobj(source, stream)
            else:
                if found is not None:
                    with suppress(OSError):  # only root can give a file to its owner
                        os.chown(temporary, found.st_uid, found.st_gid)
                temporary.chmod(mode)
                temporary.replace(target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except BrokenPipeError:  # whoever reads has seen enough
        raise
    except OSError as error:
        raise _refused(name, (error.strerror or str(error)).lower()) from None


@contextmanager
def filling(folder: str | os.PathLike[str], instead: Iterable[str] = ()) -> Iterator[Path]:
    """A folder to write files into, which go to `folder` at the end, all of them; after an error or Ctrl-C none does.

    Files there whose names match the patterns of `instead` are gone then, others stay. Raises TowerError.
    """
    name = os.fspath(folder)
    target = Path(os.path.realpath(name))
    try:
        fresh = not target.exists()
        target.mkdir(exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".", suffix=".unfinished", dir=target))
        new, old = work / "new", work / "old"
        moved: list[tuple[Path, Path]] = []
        try:
            new.mkdir()
            old.mkdir()
            yield new
            files = sorted(new.iterdir())
            (work / "any").touch()  # has the permissions that new files have here
            for file in files:
                file.chmod(stat.S_IMODE((work / "any").stat().st_mode))
            gone = {path for pattern in instead for path in target.glob(pattern)} | {
                target / file.name for file in files
            }
            for path in sorted(x for x in gone if x.exists()):
                moved.append((path, old / path.name))
                path.replace(old / path.name)
            for file in files:
                moved.append((file, target / file.name))
                file.replace(target / file.name)
        except BaseException:
            for before, after in reversed(moved):
                if after.exists() and not before.exists():
                    after.replace(before)
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
            if fresh:
                with suppress(OSError):  # it is not empty where all is well
                    target.rmdir()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise _refused(name, reason.lower()) from None


def _status(name: str) -> os.stat_result | None:
    """What is at a path, None where a file may be made. Raises OSError, TowerError where no file can be called so."""
    try:
        found = os.stat(name)
    except FileNotFoundError:
        folder = os.path.dirname(os.path.realpath(name))
        if name and not os.path.isdir(folder):
            raise _refused(name, f"there is no folder `{folder}`") from None
        if not name or name.endswith(os.sep):
            raise
        return None
    except ValueError:  # NUL, or half a character
        raise _refused(name, "no file has such a name") from None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(name, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return found


def _descriptor(name: str) -> int | None:
    """The number of the open file that a path stands for, as `/dev/stdout` or `/dev/fd/3` does."""
    for _ in range(40):  # links, of which a system follows as many
        folder, last = os.path.split(name)
        folder = os.path.realpath(folder or os.curdir)
        if folder == f"/proc/{os.getpid()}/fd" and last.isdecimal():
            return int(last)
        if not os.path.islink(name):
            return None
        name = os.path.join(folder, os.readlink(name))
    return None


def _refused(name: str, reason: str) -> TowerError:
    return TowerError([Diagnostic("file", f"`{name}` cannot be written: {reason}")])
