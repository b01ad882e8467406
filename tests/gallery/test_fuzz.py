"""Valid specs with a few random mistakes in them either still check, or are refused with a place; never more than that.

The seed is fixed. `TOWERDSL_FUZZ=5000 pytest tests/gallery/test_fuzz.py` tries more than the usual few hundred;
each failure names its seed and shows the spec.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRIES = int(os.environ.get("TOWERDSL_FUZZ", "320"))
GROUPS = 16
TOKEN = re.compile(r"[A-Za-z_]\w*|\d+(?:\.\d+)?|\*\*|//|[<>=!]=|\s+|.", re.DOTALL)
ODD = ["(", ")", "[", "]", "{", "}", ":", ": ", ",", "-", "- ", "\n", "\t", "  ", "'", '"', "#", "&a ", "*a", "!!int ", "|", ">", "=", "==", "@", "0", "-1",
       "1e9", "99999999999999999999", "x", "q", "i", "j", "n", "d", "for l in 3:", "if", "else", "not", "and", "é", "\x00", "\u2028", "* ** /", "linear(x, d)"]  # fmt: skip


def corpus() -> Iterator[tuple[str, str]]:
    """Name and text of each valid spec: the library's files and the manual's examples."""
    for path in sorted((ROOT / "specs").rglob("*.yaml")):
        yield str(path.relative_to(ROOT / "specs")), path.read_text(encoding="utf-8")
    manual = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    for n, block in enumerate(re.findall(r"```yaml\n(.*?)```", manual, re.DOTALL)):
        if block.startswith("tower:"):
            yield f"manual_{n}.yaml", block


def by_characters(text: str, rng: random.Random) -> str:
    at, length = rng.randrange(len(text)), rng.choice([1, 1, 1, 2, 5])
    kind = rng.randrange(4)
    if kind == 0:
        return text[:at] + text[at + length :]
    if kind == 1:
        return text[:at] + rng.choice(ODD) + text[at:]
    if kind == 2:
        return text[:at] + text[at : at + length] + text[at:]
    return text[:at] + rng.choice(ODD) + text[at + length :]


def by_lines(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[a]
    elif kind == 1:
        lines.insert(a, lines[b])
    elif kind == 2:
        lines[a], lines[b] = lines[b], lines[a]
    elif kind == 3:
        lines[a] = " " * rng.randrange(8) + lines[a].lstrip()
    else:
        del lines[a:]
    return "\n".join(lines)


def by_tokens(text: str, rng: random.Random) -> str:
    tokens = TOKEN.findall(text)
    words = [n for n, t in enumerate(tokens) if not t.isspace()]
    a, b = rng.choice(words), rng.choice(words)
    kind = rng.randrange(5)
    if kind == 0:
        tokens[a] = ""
    elif kind == 1:
        tokens[a], tokens[b] = tokens[b], tokens[a]
    elif kind == 2:
        tokens[a] = tokens[b]
    elif kind == 3:
        tokens[a] += " " + tokens[b]
    else:
        tokens[a] = rng.choice(ODD)
    return "".join(tokens)


def mutate(text: str, rng: random.Random) -> str:
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        text = rng.choice([by_characters, by_lines, by_tokens, by_tokens])(text, rng) or "x"
    return text


def test_there_is_something_to_change() -> None:
    assert len(list(corpus())) >= 3


#: A quarter runs always, the rest when slow tests are asked for.
SOME = [pytest.param(k, marks=() if k % 4 == 0 else pytest.mark.slow) for k in range(GROUPS)]


@pytest.mark.parametrize("group", SOME)
def test_changed_specs(group: int, tmp_path: Path, run_apart: Callable) -> None:
    specs = list(corpus())
    library = tmp_path / "specs"
    shutil.copytree(ROOT / "specs", library)
    for name, text in specs:
        (library / name).write_text(text, encoding="utf-8")
    for seed in range(group, TRIES, GROUPS):
        rng = random.Random(seed)
        name, text = rng.choice(specs)
        changed = mutate(text, rng)
        path = library / name
        path.write_text(changed, encoding="utf-8")
        outcome = run_apart("check", str(path))
        path.write_text(text, encoding="utf-8")
        try:
            assert outcome.code in (0, 1), outcome.text
            outcome.assert_readable()
            if outcome.code:
                outcome.assert_refused(mistakes=None)
                assert outcome.places
        except AssertionError as problem:
            raise AssertionError(f"seed {seed}, {name}:\n{problem}\n--- the spec:\n{changed}") from None
