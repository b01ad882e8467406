"""Specs that are nearly right: those of the library, of the gallery and of the oracle, with something changed.

A mutant has a number: `mutant(number)` is always the same text and settings.
"""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import towerdsl

from .growing import GROWING

TESTS = Path(__file__).parent.parent
#: What stands before the expression of a line.
KEY = re.compile(r"\s*(- )?([\w.{}+*]+(\([^)]*\))?:\s?)?(\{\w+:)?")
TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
#: What is put in the place of what is there: numbers, names, signs, and characters that have no business in a spec.
NUMBERS = """0 1 2 3 7 8 16 64 100 1000 1001 -1 -0 0.0 0.5 1e-5 1e308 1e309 1e-320 9223372036854775807
9223372036854775808 00 1_0 0x10 1. .5 1e 2**63 10**19 4294967296""".split()
NAMES = """i j q k v y head dk dv log_prob x n b d true false null nan inf self f F torch nn class lambda None range len
sum mean dot linear embed concat where outer rearrange zeros ones clip max min abs softmax one_of if else for in along
and or not return float int bool relation name axis layernorm conv lstm window causal rope unit relative bert sizes
inputs blocks flow outputs define params modules checkpoints use about paper tower query key value over features heads
score mask locality normalize dropout message merge output needs let formula topk hard gumbel sparsemax sigmoid count
none stack transpose reshape ignore prefix rename __class__ _modules __init__ é ß 变 x_ _ a1""".split()
SIGNS = (
    """+ - * / // % ** == != < <= > >= = ( ) [ ] , . [0] [j] [n=0] [n=1:] ** -1 .h ( ( ) ) , , [] () , - <""".split()
)
#: What YAML has a use for, which is then what the mistake is about: not often.
STRANGE = """{ } : ; ' " | & ! ? @ # $ ^ ~ \\ ` -> => := += << --- ... : -""".split()
ODD = "\0 \x1b \t \r \x85 \u2028 \u202e \ufeff \ud800 \udc80 \U0001f600 \xa0 &a *a !!x % \n".split(" ")


@cache
def bases() -> list[str]:
    """What is changed; small ones are quick, so that most are small."""
    root = Path(towerdsl.__file__).parent.parent
    paths = [*TESTS.glob("oracle/specs/*.yaml"), *TESTS.glob("goldens/*.yaml"), *root.glob("specs/**/*.yaml")]
    right = [p.read_text(encoding="utf-8") for p in sorted(paths)]
    documents = [*root.glob("docs/*.md"), root / "README.md"]
    right += [m for p in sorted(documents) for m in re.findall(r"```yaml\n(.*?)```", p.read_text("utf-8"), re.DOTALL)]
    right += [make(count) for make in GROWING.values() for count in (1, 2, 3)]
    paths = [*TESTS.glob("gallery/*.yaml"), *root.glob("shared/faults/*.yaml")]
    wrong = [p.read_text(encoding="utf-8", errors="replace") for p in sorted(paths)]
    short = [text for text in right if len(text) < 1_000]
    return [*short, *short, *short, *right, *wrong]


@cache
def lines() -> list[str]:
    return [line for text in bases() for line in text.split("\n") if line.strip()]


def mutant(number: int) -> tuple[str, dict[str, Any]]:
    """The text of a spec, and what `compile_spec` is told beside it."""
    r = random.Random(number)
    text = r.choice(bases())
    for _ in range(r.choice((1, 1, 1, 1, 1, 2, 2, 3, 5))):
        text = r.choice((_token, _token, _token, _token, _token, _token, _line, _bracket, _bracket, _odd))(r, text)
    if "\n" not in text:
        text += "\n"
    given: dict[str, Any] = {}
    if r.random() < 0.2:
        name = r.choice(re.findall(r"[A-Za-z_]\w*", text) or ["d"])
        value = r.choice((0, 1, 2, 3, 64, -1, 0.5, True, "a", "n", float("nan"), 2**62, [1, 2], ["h", "w"], [], ""))
        given["sizes"] = {name: value}
    if r.random() < 0.1:
        given["kernel"] = r.choice(("reference", "sdpa", "banded", "factored", "flex", "gather", "edges", "static"))
    if r.random() < 0.1:
        given["inference"] = True
    if r.random() < 0.1:
        given["device"] = "cuda"
    return text, given


def _token(r: random.Random, text: str) -> str:
    """A word, number or sign deleted, doubled, swapped with another, or put in the place of one."""
    if r.random() < 0.1:
        tokens, signs = TOKEN.findall(text), STRANGE
        places = [k for k, t in enumerate(tokens) if not t.isspace()]
    else:  # of an expression: behind a key or the sign of an item
        tokens, signs, places = [], SIGNS, []
        for line in text.splitlines(keepends=True):
            begins = KEY.match(line)
            tokens.append(begins.group() if begins else "")
            for token in TOKEN.findall(line[len(tokens[-1]) :]):
                if not token.isspace() and token not in STRANGE and not ("{" in line and token == ","):
                    places.append(len(tokens))
                tokens.append(token)
    if not places:
        return text
    a = r.choice(places)
    alike = [k for k in places if _kind(tokens[k]) == _kind(tokens[a])]
    b = r.choice(alike if r.random() < 0.8 else places)
    match r.randrange(9):
        case 0:
            del tokens[a]
        case 1:
            tokens.insert(a, tokens[a] + r.choice((" + ", " * ", ", ", "", " ")))
        case 2:
            tokens[a], tokens[b] = tokens[b], tokens[a]
        case 3 | 4 | 5:
            tokens[a] = tokens[b]
        case 6 | 7:
            kind = _kind(tokens[a])
            tokens[a] = r.choice(NUMBERS if kind == "number" else NAMES if kind == "name" else signs)
        case 8:
            tokens.insert(
                a, r.choice((f"{r.choice(NAMES)} {r.choice(signs)} ", f"{r.choice(NUMBERS)} * ", "-", "not "))
            )
    return "".join(tokens)


def _kind(token: str) -> str:
    return "number" if token[0].isdigit() else "name" if token[0].isalpha() or token[0] == "_" else "sign"


def _line(r: random.Random, text: str) -> str:
    """A line deleted, doubled, moved, indented otherwise, or one of another spec put in."""
    rows = text.split("\n")
    a, b = r.randrange(len(rows)), r.randrange(len(rows))
    if r.random() < 0.5:  # one of the same kind
        like = re.match(r"\s*(- )?", rows[a])
        alike = [k for k, x in enumerate(rows) if like and x.startswith(like.group()) and x.strip()]
        b = r.choice(alike or [b])
    match r.randrange(6):
        case 0:
            del rows[a]
        case 1:
            rows.insert(b, rows[a])
        case 2:
            rows[a], rows[b] = rows[b], rows[a]
        case 3:
            rows[a] = r.choice(("  ", "", "    ")) + rows[a].lstrip()
        case 4:
            rows.insert(a, r.choice(lines()))
        case 5:
            before = re.match(r"\s*(- )?", rows[a])
            rows[a] = (before.group() if before else "") + r.choice(lines()).strip().removeprefix("- ")
    return "\n".join(rows)


def _odd(r: random.Random, text: str) -> str:
    """A character that has no business there."""
    at = r.randrange(len(text) + 1)
    return text[:at] + r.choice(ODD) + text[at:]


def _bracket(r: random.Random, text: str) -> str:
    """What stands behind a colon or a sign put in a call, list or mapping."""
    places = [m.end() for m in re.finditer(r"[=(,+*] ?", text)]
    if not places:
        return text
    at = r.choice(places)
    end = re.compile(r"[,)\]}\n]|$").search(text, at)
    assert end is not None
    inside = text[at : end.start()]
    name = r.choice(NAMES)
    around = (f"{name}({inside})", f"({inside})[{name}]", f"({inside})[0]", f"{inside} if {name} else {inside}")
    around += (
        f"not {inside}",
        f"{inside}.{name}",
        f"{name}[{inside}]",
        f"({inside})",
        f"-({inside})",
        "",
        f"'{inside}'",
    )
    return text[:at] + r.choice(around) + text[end.start() :]
