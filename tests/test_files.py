"""Files that are written: whole or not at all, by whichever command or function."""

from __future__ import annotations

import os
import resource
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import towerdsl
from towerdsl import files
from towerdsl.cli import main
from towerdsl.diagnostics import TowerError
from towerdsl.maps import Maps, command, explorer, pictures
from towerdsl.maps.data import AttentionMap, Grid

SPEC = "tower: small\nuse: [parts]\nsizes: {d: 4}\ninputs:\n  x: float[b, n, d]\noutputs: up(x)\n"
PARTS = "blocks:\n  up(x):\n    - linear(x, 4)\n"
ONE = AttentionMap("look", 0, Grid(("n",), (1,)), Grid(("n",), (1,)), torch.arange(1), (), torch.ones(1, 1, 1, 1))
MODEL = nn.Linear(30, 30)

#: The functions that write a file, by its suffix. Commands write by them.
WRITERS: dict[str, Callable[[Path], object]] = {
    ".txt": lambda path: files.write(path, "text" * 1000),
    ".safetensors": lambda path: towerdsl.save_checkpoint(MODEL, path),
    ".html": lambda path: explorer.write(path, Maps([ONE])),
    ".png": lambda path: pictures.save(Figure(), path),
}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("suffix", WRITERS)
def test_what_is_stopped_leaves_the_old_file_and_nothing_else(
    suffix: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("before")

    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(TowerError if isinstance(error, OSError) else type(error)):
        WRITERS[suffix](path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", WRITERS)
def test_what_does_not_fit_is_not_there(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("before")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limit[1]))
    try:
        with pytest.raises(TowerError) as error:
            WRITERS[suffix](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert f"`{path}` cannot be written: file too large" in str(error.value)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", WRITERS)
def test_permissions_are_kept_and_links_are_followed(suffix: str, tmp_path: Path) -> None:
    real, link, new = (tmp_path / f"{name}{suffix}" for name in ("real", "link", "new"))
    real.touch(0o600)
    link.symlink_to(real.name)
    WRITERS[suffix](link)
    assert link.is_symlink() and real.stat().st_size
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    mask = os.umask(0o027)
    try:
        WRITERS[suffix](new)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    assert sorted(tmp_path.iterdir()) == [link, new, real]


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 300, "file name too long"),
        ("a\0b", "no file has such a name"),
        ("a\ud800b", "no file has such a name"),
        ("none/x", "there is no folder"),
        ("file/x", "not a directory"),
        ("loop", "too many levels of symbolic links"),
        ("full", "no space left on device"),
    ],
)
def test_where_there_can_be_no_file(suffix: str, name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / f"loop{suffix}").symlink_to(f"loop{suffix}")
    (tmp_path / f"full{suffix}").symlink_to("/dev/full")
    there = sorted(tmp_path.iterdir())
    with pytest.raises(TowerError, match=f"cannot be written: {reason}"):
        WRITERS[suffix](tmp_path / f"{name}{suffix}")
    assert sorted(tmp_path.iterdir()) == there


def test_a_long_name_that_a_file_can_have(tmp_path: Path) -> None:
    path = tmp_path / ("\u65e5" * 84)  # 252 bytes
    files.write(path, "text")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(TowerError, match=r"U\+DC80 is half a character"):
        files.write(path, "a\udc80")


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_pipe_gets_the_bytes(suffix: str, tmp_path: Path) -> None:
    path, plain, got = tmp_path / f"pipe{suffix}", tmp_path / f"plain{suffix}", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()
    WRITERS[suffix](path)
    reader.join(60)
    WRITERS[suffix](plain)
    assert path.is_fifo() and got == [plain.read_bytes()]


def test_what_is_open_already_is_written_on(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        print("head", file=out, flush=True)
        files.write(f"/dev/fd/{out.fileno()}", "text\n")
        print("tail", file=out)
    assert (tmp_path / "out").read_text() == "head\ntext\ntail\n"


@pytest.mark.parametrize("name", ["compile", "draw"])
@pytest.mark.parametrize("out", ["small.yaml", "./small.yaml", "link.yaml", "hard.yaml", "parts.yaml", "std.yaml"])
def test_what_a_command_reads_is_not_written_over(
    name: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SPEC)
    Path("parts.yaml").write_text(PARTS)
    Path("link.yaml").symlink_to("small.yaml")
    os.link("small.yaml", "hard.yaml")
    Path("std.yaml").symlink_to(files.__file__.replace("files.py", "std.yaml"))
    before = Path(out).read_text()
    assert main([name, "small.yaml", "-o", out]) == 1
    assert f"`{out}` is read for this, so it is not written over\n" in capsys.readouterr().err
    assert Path(out).read_text() == before
    assert main([name, "small.yaml", "-o", "new"]) == 0


def test_a_picture_is_not_written_over_what_it_is_made_of(tmp_path: Path) -> None:
    (made,) = command.write(Maps([ONE]), command.Choice(), tmp_path, ".png", [])
    made.write_text("a photo")
    with pytest.raises(TowerError, match="is read for this"):
        list(command.write(Maps([ONE]), command.Choice(), tmp_path, ".png", [made]))
    page = tmp_path / "explorer.html"
    page.symlink_to(made)
    with pytest.raises(TowerError, match="is read for this"):
        command.explore(Maps([ONE]), command.Choice(), tmp_path, "one", "", [made])
    assert made.read_text() == "a photo"
