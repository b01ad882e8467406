"""Both models of text learn, neither sees what comes next, and a text that cannot be read is answered in a sentence."""

import json
import sys

import pytest
import torch
import word_model
from common import files

import towerdsl

SMALL = ["--vocab", "256", "--context", "25", "--heads", "2", "--depth", "2"]


def run(monkeypatch, folder, *arguments):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # Ctrl-C stays pytest's
    monkeypatch.setattr(sys, "argv", ["word_model.py", "--folder", str(folder), *map(str, arguments)])
    word_model.main()


def test_it_learns(monkeypatch, tmp_path, capsys):
    (tmp_path / "text").write_text(files.text(files.DATA / "tinyshakespeare.txt")[:80_000], encoding="utf-8")
    run(monkeypatch, tmp_path, "--text", tmp_path / "text", "--epochs", 1, *SMALL)
    printed = capsys.readouterr().out
    assert "0 <= i - j <= 15" in printed and "nanoGPT" in printed and "window writes:" in printed
    for name in word_model.MODELS:
        loss = json.loads((tmp_path / name / "epoch-1/history.json").read_text())["history"][0]["validation"]
        # With a score of 1 for every key it is 2.99, without `j <= i` 0.66: the next letter is seen.
        assert 2.0 < loss < 2.75
    assert (tmp_path / "word_model.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", word_model.MODELS)
def test_what_is_seen(name):
    """A token changes what is said from its place on; by two windows of 4 no further than 6 places."""
    window = {"window": 4} if name == "window" else {}
    torch.manual_seed(0)
    model = towerdsl.compile(word_model.MODELS[name], d=32, heads=2, depth=2, vocab=50, context=40, **window)().eval()
    ids = torch.randint(50, (1, 40))
    other = ids.clone()
    other[0, 20] = (other[0, 20] + 1) % 50
    with torch.inference_mode():
        changed = (model(ids) - model(other)).abs().amax(-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == list(range(20, 27 if window else 40))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "There is no file"),
        (b"", "it is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "can't decode"),
        (b"To be, or not to be", "is too short"),
    ],
)
def test_a_text_that_cannot_be_used(monkeypatch, tmp_path, content, says):
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    with pytest.raises(SystemExit, match=says) as stopped:
        run(monkeypatch, tmp_path, "--text", tmp_path / "text")
    assert "tinyshakespeare.txt" in str(stopped.value) and "\n" not in str(stopped.value)


def test_a_folder_is_no_text(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=r"Is a directory.*tinyshakespeare.txt"):
        run(monkeypatch, tmp_path, "--text", tmp_path)
