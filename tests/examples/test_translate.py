"""A translator learns a language of two rules, ignores padding, and answers files that it cannot use in a sentence."""

import random
import sys

import pytest
import torch
import translate
from common import files, texts

import towerdsl

WORDS = "ba de gi ko lu ma ne pi ro su".split()
OTHERS = dict(zip(WORDS, "xar yel zin qol vuk war bem din fop gur".split(), strict=True))


def run(monkeypatch, folder, *arguments):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # Ctrl-C stays pytest's
    monkeypatch.setattr(sys, "argv", ["translate.py", "--folder", str(folder), *map(str, arguments)])
    translate.main()


def test_it_learns(monkeypatch, tmp_path, capsys):
    """Each word has another one, and all are said backwards: so each is to be found by the score, across."""
    draw = random.Random(0)
    sentences = [draw.choices(WORDS, k=draw.randint(3, 6)) for _ in range(1100)]
    (tmp_path / "source").write_text("".join(" ".join(words) + "\n" for words in sentences))
    (tmp_path / "target").write_text("".join(" ".join(OTHERS[x] for x in words[::-1]) + "\n" for words in sentences))
    small = "--vocab 400 --epochs 7 --depth 1 --heads 2 --held 100".split()
    run(monkeypatch, tmp_path, "--source", tmp_path / "source", "--target", tmp_path / "target", *small)
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines() if "here, " in line]
    bleu = {words[1]: float(words[-1]) for words in rows}
    # It is 45. With a score of 1 for every key it is 9, without `j <= i` 0: then a word is only learned from itself.
    assert bleu["transformer"] > 25 > bleu["copied"]
    assert all((tmp_path / name).stat().st_size > 5_000 for name in ("losses.png", "attention.png"))


def test_padding_changes_nothing():
    torch.manual_seed(0)
    model = towerdsl.compile("transformer", d=32, ff=64, heads=2, depth=2, vocab=20)().double().eval()
    pairs = [([5, 6, texts.END], [texts.BEGIN, 7, texts.END]), ([*range(3, 12), texts.END], [1, 8, 9, 10, 11, 12, 2])]
    with torch.no_grad():
        alone = [translate.loss_of(model, [pair]).item() for pair in pairs]
        both = translate.loss_of(model, pairs).item()
        written = texts.translated(model, [source for source, _ in pairs])
        short = texts.translated(model, [pairs[0][0]])[0]
    assert written[0][: len(short)] == short
    assert both == pytest.approx((2 * alone[0] + 6 * alone[1]) / 8, rel=1e-12)


def half(path):
    path.write_bytes((files.DATA / "verses.en.xz").read_bytes()[:100_000])


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("missing.txt", lambda path: None, "There is no file"),
        ("empty.txt", lambda path: path.touch(), "it is empty"),
        ("half.xz", half, "ended before the end-of-stream marker"),
        ("image.xz", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff"), "not supported by decoder"),
        ("image.txt", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff"), "can't decode"),
        ("folder", lambda path: path.mkdir(), "Is a directory"),
        ("others.txt", lambda path: path.write_text("uno\ndos\n"), "it has 2 lines, and .* has 31,084"),
    ],
)
def test_a_file_that_cannot_be_used(monkeypatch, tmp_path, name, make, says):
    make(tmp_path / name)
    with pytest.raises(SystemExit, match=says) as stopped:
        run(monkeypatch, tmp_path, "--target", tmp_path / name)
    assert "--source and --target" in str(stopped.value) and "\n" not in str(stopped.value)


def test_too_few_lines(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=r"Only 38 lines have at most 3 words.*examples/data"):
        run(monkeypatch, tmp_path, "--longest", 3)
