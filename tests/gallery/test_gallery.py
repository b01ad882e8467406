"""Each malformed spec of this folder has its exact message in the text file of the same name.

The first lines of a spec say what its message has to do:

    # expect: LINE:COLUMN CODE | what must be clear from it; words in `backquotes` must be in it (the excerpt does not count)

one line for each mistake. `TOWERDSL_UPDATE_GOLDENS=1 pytest tests/gallery` writes the messages anew: read them.
Files whose name begins with `_` are used by others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SPECS = sorted(p.stem for p in HERE.glob("*.yaml") if not p.name.startswith("_"))
EXPECT = re.compile(r"# expect: (?:(?P<file>[\w.]+):)?(?P<line>\d+):(?P<column>\d+) (?P<code>[a-z-]+) \| (?P<words>.+)")


@dataclass(frozen=True)
class Expected:
    file: str
    line: int
    column: int
    code: str
    words: tuple[str, ...]


def expected(name: str) -> list[Expected]:
    found = []
    for line in (HERE / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("# expect:"):
            break
        m = EXPECT.fullmatch(line)
        assert m, f"{name}.yaml: {line}"
        words = tuple(re.findall(r"`([^`]+)`", m["words"]))
        found.append(Expected(m["file"] or f"{name}.yaml", int(m["line"]), int(m["column"]), m["code"], words))
    return found


def mistakes(text: str) -> dict[tuple[str, int, int, str], str]:
    """The messages, by their place."""
    parts = re.split(r"\n\n(?=\S)", text)
    found = {}
    for part in parts:
        if m := re.match(r"(.+?):(\d+):(\d+): error\[([a-z-]+)\]: ", part):
            found[m[1], int(m[2]), int(m[3]), m[4]] = part
    return found


@pytest.mark.parametrize("name", SPECS)
def test_message(name: str, run: Callable) -> None:
    outcome = run("check", f"{name}.yaml")
    golden = HERE / f"{name}.txt"
    if os.environ.get("TOWERDSL_UPDATE_GOLDENS") == "1":
        golden.write_text(outcome.text, encoding="utf-8")
    outcome.assert_refused(mistakes=len(expected(name)))
    assert golden.exists(), "no golden file yet: run with TOWERDSL_UPDATE_GOLDENS=1, and read what it wrote"
    assert outcome.text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SPECS)
def test_place_and_words(name: str, run: Callable) -> None:
    said = mistakes(run("check", f"{name}.yaml").text)
    wanted = expected(name)
    assert wanted, f"{name}.yaml begins with no `# expect:` line"
    for e in wanted:
        part = said.get((e.file, e.line, e.column, e.code))
        assert part, f"no {e.code} at {e.file}:{e.line}:{e.column}, but:\n" + "\n\n".join(said.values())
        _, excerpt, carets, *_ = part.split("\n")
        source = (HERE / e.file).read_text(encoding="utf-8").split("\n")[e.line - 1]
        gutter = f"{e.line:>4} | "
        assert excerpt == gutter + source
        assert re.fullmatch(r" *\| [ \t]*\^+", carets), part
        assert carets.index("^") == len(gutter) + e.column - 1, part
        said_of_it = part.replace(f"{excerpt}\n", "").partition(": error[")[2]
        for word in e.words:
            assert word in said_of_it, f"the message does not speak of {word!r}:\n{part}"


def test_every_golden_has_its_spec() -> None:
    assert {p.stem for p in HERE.glob("*.txt")} <= set(SPECS)


def test_the_gallery_is_large() -> None:
    assert len(SPECS) >= 40


def test_what_is_fine_is_fine(run: Callable) -> None:
    outcome = run("check", "fine/plain.yaml")
    assert outcome.code == 0, outcome.text
    outcome.assert_readable()
