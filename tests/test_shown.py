"""Characters that are not seen, or that change how others are, are spelled out wherever a person reads them."""

import json
import unicodedata

import pytest

import towerdsl
from towerdsl.cli import main
from towerdsl.compiler import compile_spec
from towerdsl.diagnostics import TowerError, visible
from towerdsl.maps import explorer
from towerdsl.weights.report import Report, printable

UNSEEN = "\u202e\u2066\u200b\xad\u061c\u3164\U000e0041\ufe0f\x85"
SPEC = """tower: shown
about: "back UNSEEN\\u2028wards"
paper: "UNSEEN"
sizes: {d: 8}
inputs:
  x: float[b, n, d]
blocks:
  look(x):
    about: "block UNSEEN"
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
outputs: look(x)
checkpoints:
  "formatUNSEEN\\u2028":
    "a.UNSEEN.query.{p}": look.query.{p}
    "a.key.{p}": look.key.{p}
    "a.value.{p}": look.value.{p}
    ignore: ["UNSEEN\\u2028"]
""".replace("UNSEEN", UNSEEN.replace("\x85", ""))


def seen(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" or unicodedata.category(c) == "Zs" for c in text) and "\u3164" not in text


def test_what_is_seen_stays():
    text = "é Ελλάδα 日本語　→ ≤ ± 👍 x\xa0y"
    assert visible(text) == text
    assert visible(UNSEEN) == r"\u202e\u2066\u200b\xad\u061c\u3164\U000e0041\ufe0f\x85"
    assert visible("a\tb\n") == "a\tb\n" and visible("a\tb\n", "") == r"a\tb\n"


@pytest.mark.parametrize("standalone", [False, True])
def test_emitted_source(standalone):
    source = compile_spec(SPEC).source(standalone)
    assert seen(source)
    model = towerdsl.compile(SPEC)
    assert list(model.checkpoints) == ["format" + UNSEEN.replace("\x85", "") + "\u2028"]  # it means what it did


@pytest.mark.parametrize("command", ["check", "explain", "draw", "explain --json"])
def test_commands(command, tmp_path, capsys):
    path = tmp_path / "na\u202eme.yaml"
    path.write_text(SPEC, encoding="utf-8")
    name, *options = command.split()
    drawing = ["-o", str(tmp_path / "out.svg")] if name == "draw" else []
    assert main([name, str(path), *options, *drawing]) == 0
    out = capsys.readouterr()
    assert seen(out.out + out.err)
    if options:
        assert json.loads(out.out)["name"] == "shown"
    if drawing:
        assert seen((tmp_path / "out.svg").read_text(encoding="utf-8"))


def test_words_of_the_language():
    for text in ("kind: \"one_of('a', 'b\u202e')\"", 'kind: "1 +\u200b 2"'):
        with pytest.raises(TowerError, match="cannot be shown") as caught:
            compile_spec(SPEC.replace("{d: 8}", f"{{d: 8, {text}}}"))
        assert seen(str(caught.value))


def test_reports_and_labels():
    report = Report(format=UNSEEN, missing=(UNSEEN,), conflicts=((UNSEEN, "a"),), uncovered=("b\u2028c",))
    assert seen(str(report)) and printable("b\u2028c") == r"b\u2028c"
    assert explorer._batched([UNSEEN, "\n"]) == ((visible(UNSEEN), "\n"),)
