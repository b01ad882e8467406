"""Specs that are too large, too deep or too odd to keep as files: refused with one readable message, at once.

A spec is untrusted input. Each runs in a process of its own with little memory, so that a bomb ends one test and not all.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = "tower: odd\nsizes: {d: 16, heads: 2, depth: 2}\ninputs:\n  x: float[b, n, d]\n"
LOOK = "    query: linear(x, d)\n    key: linear(x, d)\n    value: linear(x, d)\n    heads: heads\n"


def flow(*statements: str, sizes: str = "{d: 16, heads: 2, depth: 2}", before: str = "") -> str:
    lines = "\n".join(f"  {line}" for s in statements for line in s.split("\n"))
    return f"tower: odd\nsizes: {sizes}\ninputs:\n  x: float[b, n, d]\n{before}flow:\n{lines}\noutputs: x\n"


def look(field: str) -> str:
    return f"{HEAD}blocks:\n  look(x):\n{LOOK}    {field}\nflow:\n  - x = look(x)\noutputs: x\n"


def score(text: str) -> str:
    return look(f"score: {text}")


def size(text: str) -> str:
    return flow("- x = linear(x, d)", sizes=f"{{d: {text}}}")


def nested_loops(depth: int, count: int, body: str = "x = linear(x, d)") -> str:
    text = f'"{body}"'
    for level in range(depth):
        text = f"for l{level} in {count}: [{text}]" if level == 0 else f"for l{level} in {count}: [{{{text}}}]"
    return flow(f"- {text}")


def nested_statements(depth: int) -> str:
    lines = [" " * 2 * level + f"- for l{level} in 1:" for level in range(depth)]
    return flow("\n".join([*lines, " " * 2 * depth + "- x = linear(x, d)"]))


def chain(kind: str, levels: int, step: str, last: str) -> str:
    """`a0` is made of `a1`, which is made of `a2`...; step has `{}` for the next one's name."""
    lines = [f"  a{n}(x): {step.replace('@', f'a{n + 1}')}" for n in range(levels)] + [f"  a{levels}(x): {last}"]
    return flow("- x = a0(x)", before=f"{kind}:\n" + "\n".join(lines) + "\n")


def numbered(pattern: str, count: int) -> list[str]:
    return [pattern.replace("@", str(n)) for n in range(count)]


def lengths(count: int, size: str) -> str:
    """A model whose input has so many free lengths, and that uses a size made of them."""
    return flow(f"- x = x + mean(range({size}))").replace("[b, n, d]", "[" + ", ".join(numbered("a@", count)) + ", d]")


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]\n" for n in range(1, 12)
)
MANY_NAMES = flow(*numbered("- variable_number_@ = linear(x, d)", 600), *numbered("- x = x + varaible_nubmer_@", 600))

# name: (the file, what its message speaks of)
REFUSED: dict[str, tuple[str | bytes, str]] = {
    # YAML
    "billion laughs": (LAUGHS + HEAD, "anchor"),
    "quadratic aliases": (HEAD + "about: &a " + "x" * 40_000 + "\ndefine: [" + "*a, " * 10_000 + "*a]\n", "anchor"),
    "alias to itself": ("tower: &a [*a]\n", "anchor"),
    "flow lists 10,000 deep": (HEAD + "define: " + "[" * 10_000 + "]" * 10_000, "deep"),
    "flow lists 10,000 deep, unclosed": (HEAD + "define: " + "[" * 10_000, "deep"),
    "flow mappings 10,000 deep": (HEAD + "define: " + "{a: " * 10_000 + "1" + "}" * 10_000, "deep"),
    "block mappings 400 deep": (HEAD + "define:\n" + "".join(" " * (n + 1) + "a:\n" for n in range(400)), "deep"),
    "block lists 10,000 deep": (HEAD + "flow:\n  " + "- " * 10_000 + "x\n", "deep"),
    "a key that is a list": (HEAD + "? [a, b]\n: 1\n", "key"),
    "a key that is a mapping": (HEAD + "? {a: 1}\n: 1\n", "key"),
    "a key that is a number": (HEAD + "7: 1\n", "7"),
    "a key that is null": (HEAD + "~: 1\n", ""),
    "a key that is nothing": (HEAD + ": 1\n", ""),
    "a key of 100,000 letters": (HEAD + "? " + "k" * 100_000 + "\n: 1\n", ""),
    "python object": (HEAD + "about: !!python/object/new:os.system [echo hello]\n", "tag"),
    "python name": (HEAD + "about: !!python/name:os.system\n", "tag"),
    "binary tag": (HEAD + "about: !!binary R0lGODlhDAAMAIQAAP==\n", "tag"),
    "own tag": (HEAD + "about: !tower {a: 1}\n", "tag"),
    "two documents": (flow("- x = linear(x, d)") + "---\ntower: b\n", "document"),
    "unterminated quote": (HEAD + 'about: "no end\n', ""),
    "bad escape": (HEAD + 'about: "\\q"\n', ""),
    "a colon too many": (HEAD + "about: a: b: c\n", ""),
    # bytes
    "empty file": ("", "empty"),
    "only comments": ("# nothing\n# here\n", "empty"),
    "only a document marker": ("---\n", "empty"),
    "null": ("null\n", ""),
    "no keys": ("{}\n", "tower"),
    "a number": ("42\n", ""),
    "random bytes": (bytes(range(256)) * 20, "UTF-8"),
    "invalid UTF-8": (HEAD.encode() + b"about: caf\xe9\n", "UTF-8"),
    "half a character at the end": (HEAD.encode() + "about: é".encode()[:-1], "UTF-8"),
    "UTF-16": (flow("- x = linear(x, d)").encode("utf-16"), "UTF-8"),
    "NUL": (HEAD + "about: a\0b\n", ""),
    "only NULs": (b"\0" * 10_000, ""),
    "escape sequences": (HEAD + "about: \x1b[31mred\x1b[0m\n", ""),
    "a tab as indentation": (HEAD + "flow:\n\t- x = linear(x, d)\n", "tab"),
    "Windows line ends, with a mistake": (flow("- x = linear(x, dd)").replace("\n", "\r\n"), "`dd`"),
    "old Mac line ends, with a mistake": (flow("- x = linear(x, dd)").replace("\n", "\r"), "`dd`"),
    "BOM, with a mistake": ("\ufeff" + flow("- x = linear(x, dd)"), "`dd`"),
    "line separators, with a mistake": (
        HEAD + "about: 'a\u2028b\u2029c\u0085d'\nflow:\n  - x = linear(x, dd)\noutputs: x\n",
        "",
    ),
    "5 MB": (HEAD + "about: |\n" + "  some text\n" * 450_000, "too"),
    "5 MB in one line": (HEAD + "about: " + "x" * 5_000_000, "too"),
    "5 MB of open brackets": ("[" * 5_000_000, "too"),
    "unicode name": (flow("- größe = linear(x, d)\n- x = größe"), "größe"),
    "names that look alike": (flow("- х = linear(x, d)"), "х"),
    "unicode minus": (score("dot(q, k) − 1"), "−"),
    "emoji": (score("dot(q, k) * 🔥"), "🔥"),
    "arabic digits": (score("dot(q, k) * ٣"), "٣"),
    "superscript": (score("-sum((q - k)²)"), "²"),
    "no-break space": (score("dot(q, k) /\u00a0sqrt(dk)"), ""),
    "text that runs backwards": (flow("- x = \u202elinear(x, d)"), ""),
    # expressions
    "parentheses 10,000 deep": (score("(" * 4_900 + "q" + ")" * 4_900), "100 levels"),
    "parentheses 101 deep": (score("(" * 101 + "dot(q, k)" + ")" * 101), "100 levels"),
    "parentheses 4,000 deep, unclosed": (score("(" * 4_000), ""),
    "parentheses 4,000 deep, unopened": (score("dot(q, k)" + ")" * 4_000), ""),
    "calls 1,900 deep": (score("abs(" * 1_900 + "1" + ")" * 1_900), "100 levels"),
    "indices 2,000 deep": (score("q[" * 2_000 + "1" + "]" * 2_000), "100 levels"),
    "indices after indices": (score("q" + "[1]" * 3_000), ""),
    "attributes after attributes": (score("q" + ".a" * 4_000), ""),
    "calls after calls": (score("q" + "()" * 4_000), ""),
    "lists 4,000 deep": (score("'" + "[" * 4_000 + "]" * 4_000 + "'"), ""),
    "4,000 times minus": (score("'" + "-" * 4_000 + "1'"), ""),
    "2,000 times not": (score("not " * 2_000 + "true"), ""),
    "2,000 times **": (score("dot(q, k) ** " * 700 + "1"), ""),
    "1,000 times if": (score("1 if i < j else " * 600 + "0"), ""),
    "60 kB expression": (score("dot(q, k) + " * 5_000 + "1"), "10,000"),
    "60 kB name": (score("q" * 60_000), "10,000"),
    "60 kB of digits": (score("1" * 60_000), "10,000"),
    "30,000 terms": (score("1+" * 30_000 + "1"), "10,000"),
    "100 kB expression": (score("dot(q, k) + " * 9_000 + "1"), "at most"),
    "50,000 terms": (score("1+" * 50_000 + "1"), "at most"),
    "4,900 terms": (score("dot(q, k) + zz" + "+1" * 4_900), ""),
    "9,000 operators": (score("'" + "*" * 9_000 + "'"), ""),
    "9,000 quotes": (flow("- x = rearrange(x, '" + '"' * 9_001 + "')"), ""),
    "5,000 digits": (score("dot(q, k) + " + "9" * 5_000), ""),
    "a long name, misspelled": (flow(f"- {'ab' * 2_000} = linear(x, d)", f"- x = {'ba' * 2_000}"), ""),
    # numbers
    "10 ** 10 ** 10 as a size": (size("10 ** 10 ** 10"), ""),
    "9 ** 9 ** 9 in a score": (score("dot(q, k) * 9 ** 9 ** 9"), ""),
    "10 ** 10 ** 10 as a loop": (flow("- for l in 10 ** 10 ** 10: ['x = linear(x, d)']"), ""),
    "10 ** 10 ** 10 as a condition": (flow("- if 10 ** 10 ** 10 > 0:\n    - x = linear(x, d)"), ""),
    "10 ** 10 ** 10 as an axis": (flow("- x = linear(x, d)").replace("[b, n, d]", "[b, n, 10 ** 10 ** 10]"), ""),
    "2 ** 100000 as a size": (size("2 ** 100000"), ""),
    "10 ** 30 as a size": (size("10 ** 30"), ""),
    "a size of 5,000 digits": (size("9" * 5_000), ""),
    "powers by multiplying": (
        size("a29, a0: 10 ** 9, " + ", ".join(f"a{n}: a{n - 1} * a{n - 1}" for n in range(1, 30))),
        "",
    ),
    "a float too large": (size("1e400"), ""),
    "a float power too large": (size("10.0 ** 400"), ""),
    "infinity": (size(".inf"), ""),
    "not a number": (size(".nan"), ""),
    "a complex number": (size("(-8) ** 0.5"), ""),
    "zero to a negative power": (size("0 ** -1"), ""),
    "remainder by zero": (size("7 % 0"), "zero"),
    "division by zero in a loop": (flow("- for l in depth:\n    - x = linear(x, d // l)"), "zero"),
    "square root of -1 as a size": (size("sqrt(-1)"), ""),
    "logarithm of 0 as a size": (size("log(0)"), ""),
    "null as a size": (size("~"), ""),
    "a list as a size": (size("[1, 2]"), ""),
    # loops, blocks and definitions that explode
    "a billion repetitions": (flow("- for l in 1000000000: ['x = linear(x, d)']"), "1,000"),
    "minus one repetitions": (flow("- for l in -1: ['x = linear(x, d)']"), ""),
    "1000 x 1000 x 1000": (nested_loops(3, 1000), "20,000"),
    "21,000 modules": (flow("- for l in 1000:\n" + "\n".join(["    - x = linear(x, d)"] * 21)), "20,000"),
    "2 ** 40 blocks": (chain("blocks", 40, "[x = @(x), x = @(x)]", "['x = linear(x, d)']"), ""),
    "2 ** 40 blocks that hold nothing": (chain("blocks", 40, "[x = @(x), x = @(x)]", "[x = x]"), ""),
    "2 ** 40 terms by definitions": (chain("define", 40, "@(x) + @(x)", "x + 1"), ""),
    "2 ** 40 terms by arguments": (chain("define", 40, "@(x + x)", "x + 1"), ""),
    "1,000 definitions in a chain": (chain("define", 1_000, "@(x) + zz", "x"), ""),
    "1,000 blocks in a chain": (chain("blocks", 1_000, "[x = @(x)]", "['x = linear(x, zz)']"), ""),
    "a cycle of 1,000 blocks": (chain("blocks", 1_000, "[x = @(x)]", "[x = a0(x)]"), "a0"),
    "a cycle of 1,000 definitions": (chain("define", 1_000, "@(x)", "a0(x)"), "a0"),
    "a cycle of 3,000 sizes": (size("a0, " + ", ".join(f"a{n}: a{(n + 1) % 3_000}" for n in range(3_000))), "a0"),
    "loops 90 deep around a mistake": (nested_statements(90).replace("linear(x, d)", "linear(x, dd)"), ""),
    "loops 400 deep": (nested_statements(400), ""),
    "a definition that needs itself in a default": (
        look("locality: near(3)").replace("blocks:", "define:\n  near(r, s = near(1)): abs(i - j) <= r + s\nblocks:"),
        "`near`",
    ),
    "a block that needs itself in a default": (
        look("mask: j <= i").replace("look(x):", "look(x, z = look(x)):"),
        "`look`",
    ),
    **{
        f"a block that needs itself in `{field}`": (look(f"{field}: {text}"), "")
        for field, text in {
            "over": "look(x)",
            "features": "look(x)",
            "score": "look(x)",
            "mask": "look(x)",
            "normalize": "hard(gumbel, temperature=look(x))",
            "dropout": "look(x)",
            "message": "look(x)",
            "output": "look(y)",
            "let": "['x = look(x)']",
            "modules": "{again: look}",
            "params": "{a: 'float[3] = constant(look(x))'}",
        }.items()
    },
    "a block that needs itself in `heads`": (look("mask: j <= i").replace("heads: heads", "heads: look(x)"), "`look`"),
    "a polynomial of 40 lengths to the 8th": (lengths(40, "(" + " + ".join(numbered("a@", 40)) + ") ** 8"), ""),
    "a polynomial to the 512th": (lengths(3, "(((a0 + a1 + a2) ** 8) ** 8) ** 8"), ""),
    "a product of sums of lengths": (
        lengths(40, " * ".join("(" + " + ".join(numbered("a@", 40)[n : n + 20]) + ")" for n in range(20))),
        "",
    ),
    "a length to the 8th to the 8th...": (
        flow("- a0 = n", *[f"- a{n} = a{n - 1} ** 8" for n in range(1, 25)], "- x = x + mean(range(a24))"),
        "",
    ),
    "coefficients without end": (
        flow("- a0 = n", *[f"- a{n} = (a{n - 1} * 2 ** 60) ** 8" for n in range(1, 15)], "- x = x + mean(range(a14))"),
        "",
    ),
    # much of it
    "1,500 mistakes": (flow(*["- x = x + lineer(x, d)"] * 1_500), "linear"),
    "3,000 mistakes of 300 letters": (flow(*["- x = x + " + "lineer(x, d) + " * 20 + "1"] * 3_000), ""),
    "600 misspelled of 600 names": (MANY_NAMES, "variable_number_0"),
    "5,000 axes": (flow("- x = linear(x, dd)").replace("[b, n, d]", "[" + ", ".join(numbered("a@", 1_500)) + "]"), ""),
    "2,000 parameters": (
        flow(
            "- x = f(x, " + ", ".join(["x"] * 2_500) + ")",
            before="blocks:\n  f(" + ", ".join(numbered("p@", 1_500)) + "):\n    - p0\n",
        ),
        "",
    ),
    "a long text in the wrong place": (
        score("dot(q, k) '" + "text " * 1_500 + "'").replace("score: ", "score: >\n      "),
        "",
    ),
    "a long key": (HEAD + "k" * 900 + ": 1\n", ""),
    "a long block header": (HEAD + "blocks:\n  ? " + "look(x " * 1_000 + "\n  : [x]\n", ""),
    "a pattern with 2,000 axes": (flow('- x = rearrange(x, "' + " ".join(numbered("a@", 1_500)) + ' -> b n d")'), ""),
    "a pattern 4,000 deep": (flow('- x = rearrange(x, "b n ' + "(" * 4_000 + "d" + ")" * 4_000 + ' -> b n d")'), ""),
}

# These are no mistakes in themselves, or depend on a limit that is not promised: fine or refused, but at once and readable.
EITHER: dict[str, str | bytes] = {
    "Windows line ends": flow("- x = linear(x, d)").replace("\n", "\r\n"),
    "BOM": "\ufeff" + flow("- x = linear(x, d)"),
    "directive": "%YAML 1.1\n---\n" + flow("- x = linear(x, d)"),
    "hexadecimal": size("0x10"),
    "octal": size("012"),
    "binary": size("0b10000"),
    "underscores": size("1_000"),
    "base sixty": size("1:30"),
    "plus sign": size("+16"),
    "a date": size("2020-01-01"),
    "float size": size("16.0"),
    "true": size("true"),
    "1000 x 1000 x 1000 without a module": nested_loops(3, 1000, "x = x + 1"),
    "2,000 statements": flow(*["- x = gelu(x)"] * 2_000),
    "2 ** 60 by sharing": flow(*["- x = x + x"] * 60),
    "2 ** 60 lengths by sharing": flow("- x = mean(x, d)", *["- x = concat(x, x, axis=n)"] * 60),
    "2 ** 60 by let": look("let:\n" + "\n".join(["      - x = x + x"] * 60)),
    "2 ** 60 in sizes": size("16, a0: 1, " + ", ".join(f"a{n}: a{n - 1} + a{n - 1}" for n in range(1, 60))),
    "2 ** 60 by definitions of definitions": flow(
        "- x = x * a0(1)",
        before="define:\n" + "".join(f"  a{n}(x): max(a{n + 1}(x), x)\n" for n in range(60)) + "  a60(x): x\n",
    ),
    "80 blocks in a chain": chain("blocks", 80, "[x = @(x)]", "['x = linear(x, d)']"),
    "30 alternatives of 30": look("mask: " + " and ".join(f"(i == {n} or j == {n})" for n in range(30))),
    "200 windows": look("mask: " + " or ".join(f"i // {n} == j // {n}" for n in range(1, 200))),
    "90 times not": look("mask: " + "not " * 90 + "(j <= i)"),
    "90 times if": score("1 if i < j else " * 90 + "0"),
    "300 terms": score("dot(q, k)" + " + 1" * 300),
    "1,000 sizes in a chain": size("a999, a0: 16, " + ", ".join(f"a{n}: a{n - 1}" for n in range(1, 1_000))),
    "a huge window": look("locality: abs(i - j) < 10 ** 18"),
    "a huge range": flow("- x = x + mean(range(10 ** 15))"),
    "a huge tensor": flow("- x = x + mean(mean(zeros([10 ** 9, 10 ** 9])))"),
    "starry checkpoint": flow("- x = linear(x, d)")
    + "checkpoints:\n  a:\n    "
    + ".".join(f"{{a{n}*}}" for n in range(12))
    + ".x: "
    + ".".join(f"{{a{n}*}}" for n in range(12))
    + ".y\n",
    "a checkpoint reshaped without end": flow("- x = linear(x, d)")
    + "checkpoints:\n  a:\n    w: reshape(linear.weight, [10 ** 10 ** 10])\n",
}


def write(folder: Path, text: str | bytes, name: str = "spec.yaml") -> None:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path, run_apart: Callable) -> None:
    text, word = REFUSED[name]
    write(tmp_path, text)
    outcome = run_apart("check", "spec.yaml")
    outcome.assert_refused(mistakes=None)
    assert "spec.yaml" in outcome.text
    assert word in outcome.text
    assert len(outcome.text) < 50_000, (
        f"{len(outcome.text)} characters are not a readable message: {outcome.text[:2000]}"
    )
    assert not set("\0\x1b\u202e") & set(outcome.text), f"shown raw: {outcome.text!r}"


@pytest.mark.parametrize("name", EITHER)
def test_fine_or_refused(name: str, tmp_path: Path, run_apart: Callable) -> None:
    write(tmp_path, EITHER[name])
    outcome = run_apart("check", "spec.yaml")
    assert outcome.code in (0, 1), outcome.text
    outcome.assert_readable()
    assert len(outcome.text) < 20_000
    if outcome.code:
        outcome.assert_refused(mistakes=None)


@pytest.mark.parametrize("text", ["BOM", "Windows line ends"])
def test_an_editor_on_windows_makes_no_mistake(text: str, tmp_path: Path, run_apart: Callable) -> None:
    write(tmp_path, EITHER[text])
    assert run_apart("check", "spec.yaml").code == 0


@pytest.mark.parametrize(
    ("text", "column"), [("\ufeffab: 1\n", 1), ("tower: a\r\nab: 1\r\n", 1)], ids=["BOM", "Windows line ends"]
)
def test_places_do_not_move(text: str, column: int, tmp_path: Path, run_apart: Callable) -> None:
    write(tmp_path, text)
    line = text.rstrip().count("\n") + 1
    assert ("spec.yaml", line, column) in [p[:3] for p in run_apart("check", "spec.yaml").places]


# ---------------------------------------------------------------- files and folders

SECRET = "the-secret-is-here"


def using(name: str) -> str:
    return f"tower: uses\nuse: [{name}]\nsizes: {{d: 16}}\ninputs:\n  x: float[b, n, d]\nflow:\n  - x = linear(x, d)\noutputs: x\n"


@pytest.mark.parametrize(
    "name",
    ["../secret", "../secret.yaml", "'{outside}/secret'", "'{outside}/secret.yaml'", "inner/../../secret", "./../secret", "~/secret", "..", ".",
     "'file://{outside}/secret.yaml'", "'..\\secret'", "''", "'a b'", "'*'", "'secret\\0'", '"a\\0b"', "linked", "linked_folder/secret", "folder",
     "'" + "a" * 5_000 + "'", "'https://example.org/a'", "5", "[a, b]", "{a: b}", "~", "/dev/zero", "pipe"],
)  # fmt: skip
def test_use_reads_nothing_outside(
    name: str, tmp_path: Path, run_apart: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "inside" / ".." / ".."
    (inside / "inner").mkdir(parents=True)
    write(tmp_path, f"sizes: {{d: 16}}\nblocks:\n  f(x): {SECRET}((\n", "secret.yaml")
    (inside / "linked.yaml").symlink_to(tmp_path / "secret.yaml")
    (inside / "linked_folder").symlink_to(tmp_path, target_is_directory=True)
    (inside / "folder.yaml").mkdir()
    os.mkfifo(inside / "pipe.yaml")
    write(inside, using(name.replace("{outside}", str(tmp_path))))
    monkeypatch.chdir(inside)
    outcome = run_apart("check", "spec.yaml")
    outcome.assert_refused()
    assert outcome.places[0][:2] == ("spec.yaml", 2), outcome.text
    assert SECRET not in outcome.text
    assert outside.exists() and len(outcome.text) < 5_000


def test_use_a_file_that_is_too_large(tmp_path: Path, run_apart: Callable) -> None:
    write(tmp_path, using("large"))
    write(tmp_path, "about: |\n" + "  text\n" * 1_000_000, "large.yaml")
    outcome = run_apart("check", "spec.yaml")
    outcome.assert_refused()
    assert "too" in outcome.text


def test_use_in_a_circle(tmp_path: Path, run_apart: Callable) -> None:
    write(tmp_path, using("a"))
    for name, other in ["ab", "bc", "ca"]:
        write(tmp_path, f"use: [{other}]\nsizes: {{d: 16}}\n", f"{name}.yaml")
    outcome = run_apart("check", "spec.yaml")
    outcome.assert_refused()
    assert "c.yaml" in outcome.text


def test_use_in_a_long_chain(tmp_path: Path, run_apart: Callable) -> None:
    write(tmp_path, using("f0"))
    for n in range(1_200):
        write(tmp_path, f"use: [f{n + 1}]\n", f"f{n}.yaml")
    write(tmp_path, "sizes: {d: dd}\n", "f1200.yaml")
    run_apart("check", "spec.yaml").assert_refused(mistakes=None)


def test_use_that_doubles(tmp_path: Path, run_apart: Callable) -> None:
    """Each file uses both of the next level: 2 ** 30 ways to 60 files, each read once."""
    write(tmp_path, using("a0, b0"))
    for n in range(30):
        for side in "ab":
            nexts = f"use: [a{n + 1}, b{n + 1}]\n" if n < 29 else ""
            write(tmp_path, f"{nexts}sizes: {{{side}{n}: 1}}\n", f"{side}{n}.yaml")
    outcome = run_apart("check", "spec.yaml")
    outcome.assert_readable()
    assert outcome.code == 0, outcome.text


@pytest.mark.parametrize(
    "path",
    ["missing.yaml", "folder", "folder.yaml", "a" * 5_000, "folder/" * 2_000 + "a.yaml", "", "no such\nname", "/dev/zero", "/dev/null", ".", "/", "nolibrarymodel",
     "caf\udce9.yaml", "../../../../../etc/passwd"],
    ids=lambda p: repr(p[:24]),
)  # fmt: skip
def test_the_file_itself(path: str, tmp_path: Path, run_apart: Callable) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.yaml").mkdir()
    outcome = run_apart("check", path)
    outcome.assert_refused(mistakes=None)
    assert len(outcome.text) < 8_000


def test_a_path_with_nul(run_apart: Callable) -> None:
    run_apart("check", "a\0b").assert_refused()


def test_a_missing_library_name_is_compared(run_apart: Callable) -> None:
    outcome = run_apart("check", "berd")
    outcome.assert_refused()
    assert "`bert`" in outcome.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path, run_apart: Callable) -> None:
    write(tmp_path, flow("- x = linear(x, d)"))
    (tmp_path / "spec.yaml").chmod(0)
    run_apart("check", "spec.yaml").assert_refused()


def test_a_link_as_the_spec_is_fine(tmp_path: Path, run_apart: Callable) -> None:
    """The user names the spec; only what the spec names is kept inside."""
    (tmp_path / "real").mkdir()
    write(tmp_path / "real", flow("- x = linear(x, d)"))
    (tmp_path / "link.yaml").symlink_to(tmp_path / "real" / "spec.yaml")
    assert run_apart("check", "link.yaml").code == 0


# ---------------------------------------------------------------- nothing of a spec becomes code

INJECTIONS = [
    ('about: \'"""; boom()  #\'', "quotes"),
    ("about: 'ends in a backslash \\'", "backslash"),
    ("about: '\"'", "one quote at the end"),
    ("about: '\\N{BULLET} \\x00 \\u1234'", "escapes"),
    ('about: "line\\nboom()\\r\\nboom()"', "line ends"),
    ('about: "\\u2028boom() {boom()} %s {0}"', "other line ends and templates"),
    ('paper: \'"""\\nboom()\'', "the paper"),
]


@pytest.mark.parametrize("line", [text for text, _ in INJECTIONS], ids=[name for _, name in INJECTIONS])
def test_text_stays_text(line: str, tmp_path: Path, run_apart: Callable) -> None:
    write(tmp_path, line + "\n" + flow("- x = linear(x, d)"), "inject.yaml")
    outcome = run_apart("compile", "inject.yaml", "-o", "out.py")
    assert outcome.code == 0, outcome.text
    called = {
        n.func.id
        for n in ast.walk(ast.parse((tmp_path / "out.py").read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert "boom" not in called


@pytest.mark.parametrize("name", ['a"""b', "a'b", "a\\", "{boom()}", "a\tb"])
def test_a_file_name_stays_text(name: str, tmp_path: Path, run_apart: Callable) -> None:
    write(tmp_path, flow("- x = linear(x, d)"), f"{name}.yaml")
    assert run_apart("compile", f"{name}.yaml", "-o", "out.py").code == 0
    ast.parse((tmp_path / "out.py").read_text())


@pytest.mark.parametrize(
    "pattern", ["b n d -> b n {boom()}", "b n d'); boom() #", "b n d -> b d n\\", "b n __import__ -> b __import__ n"]
)
def test_a_pattern_stays_text(pattern: str, tmp_path: Path, run_apart: Callable) -> None:
    write(tmp_path, flow(f"- 'x = rearrange(x, \"{pattern.replace(chr(39), chr(39) * 2)}\")'"))
    outcome = run_apart("compile", "spec.yaml", "-o", "out.py")
    assert outcome.code in (0, 1), outcome.text
    outcome.assert_readable()
    if outcome.code == 0:
        assert "boom()" not in ast.unparse(ast.parse((tmp_path / "out.py").read_text()))
