"""Runs the command line as a user would, and reads back what it said."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import re
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PLACE = re.compile(r"^(?P<file>.+?):(?P<line>\d+):(?P<column>\d+): error\[(?P<code>[a-z0-9-]+)\]: ", re.MULTILINE)
HEAD = re.compile(r"^(?:.+?:\d+:\d+: )?error(?:\[[a-z0-9-]+\])?: ", re.MULTILINE)
EXCERPT = re.compile(r"^ *\d* \| .*$", re.MULTILINE)
FOREIGN = re.compile(r"Traceback|<towerdsl|<class |object at 0x|\b(?:Token|Tree|Span|Source|Diagnostic)\(|\blark\b")
SHOUTED = re.compile(r"\b_*[A-Z][A-Z0-9_]{2,}\b")
WORDS_IN_CAPITALS = {"YAML", "REINFORCE", "SPEC", "NAME", "VALUE", "FILE", "UTF", "NUL"}
for _spec in (HERE.parent.parent / "specs").rglob("*.yaml"):  # names that the library gives, such as T_A
    WORDS_IN_CAPITALS |= set(SHOUTED.findall(_spec.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Outcome:
    """What one run of the command line did. `seconds` is processor time, so a busy machine fails no test."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def places(self) -> list[tuple[str, int, int, str]]:
        """(file, line, column, code) of each mistake that was reported with its place."""
        found = PLACE.finditer(self.text)
        return [(m["file"], int(m["line"]), int(m["column"]), m["code"]) for m in found]

    def assert_readable(self) -> None:
        """Nothing of the compiler's insides is shown, and it was quick."""
        assert not (leak := FOREIGN.search(self.text)), f"{leak[0]!r} in\n{self.text}"
        words = EXCERPT.sub("", re.sub(r"`[^`\n]*`|\"[^\"\n]*\"", "", self.text))
        shouted = set(SHOUTED.findall(words)) - WORDS_IN_CAPITALS
        assert not shouted, f"names of the grammar? {sorted(shouted)} in\n{self.text}"
        assert self.seconds < 1, f"took {self.seconds:.2f} s:\n{self.text}"

    def assert_refused(self, mistakes: int | None = 1) -> None:
        """Exit code 1, and so many mistakes (any number if None), each readable."""
        assert self.code == 1, f"exit {self.code}:\n{self.text}"
        self.assert_readable()
        found = len(HEAD.findall(self.text))
        assert found == mistakes if mistakes else found, f"{found} mistakes reported:\n{self.text}"


def command(*arguments: str) -> Outcome:
    """`towerdsl ARGUMENTS`, in this process."""
    from towerdsl import cli

    out, err = io.StringIO(), io.StringIO()
    start = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(list(arguments))
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) or e.code is None else 1
            if isinstance(e.code, str):
                print(e.code, file=err)
        except BaseException:
            code = 70
            traceback.print_exc()
    return Outcome(code or 0, out.getvalue(), err.getvalue(), time.process_time() - start)


def command_apart(*arguments: str, limit: float = 10.0) -> Outcome:
    """The same in a forked process that may take 2 GB and `limit` seconds, for what could hang, crash or fill the memory."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            gc.freeze()  # what other tests have left in memory is not collected at the cost of this one
            with contextlib.suppress(OSError, ValueError):
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                room = pages * os.sysconf("SC_PAGESIZE") + 2 * 2**30
                resource.setrlimit(resource.RLIMIT_AS, (room, room))
            with os.fdopen(writer, "w") as pipe:
                json.dump(asdict(command(*arguments)), pipe)
        finally:
            os._exit(0)
    os.close(writer)
    said, start = b"", time.monotonic()
    while (left := start + limit - time.monotonic()) > 0 and select.select([reader], [], [], left)[0]:
        if not (piece := os.read(reader, 2**16)):
            break
        said += piece
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) or not said:
        why = f"stopped after {limit} s" if time.monotonic() - start >= limit else f"died, status {status}"
        return Outcome(-1, "", why, time.monotonic() - start)
    return Outcome(**json.loads(said))


def fastest(run: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """The fastest of up to three runs: a shared machine, or pages copied after a fork, can slow any one of them."""

    def again(*arguments: str, **options: float) -> Outcome:
        outcome = run(*arguments, **options)
        for _ in range(2):
            if 0 <= outcome.seconds < 0.9 or outcome.code == -1:
                break
            outcome = min(outcome, run(*arguments, **options), key=lambda o: o.seconds)
        return outcome

    return again


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    """The grammar and the standard library are read once in a process; no spec is to blame for that time."""
    before = Path.cwd()
    os.chdir(HERE)
    try:
        command("check", "fine/plain.yaml")
    finally:
        os.chdir(before)


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in the gallery, so that files are shown under their bare names wherever the repository lies."""
    monkeypatch.chdir(HERE)
    return HERE


@pytest.fixture
def run(gallery: Path) -> Callable[..., Outcome]:
    return fastest(command)


@pytest.fixture
def run_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Stand in an empty folder; each run in a process of its own."""
    monkeypatch.chdir(tmp_path)
    return fastest(command_apart)
