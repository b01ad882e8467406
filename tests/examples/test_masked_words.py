"""BERT learns which words are missing, and says what is wrong with other texts."""

import random
import re

import pytest

from . import running


def counting(path, lines: int) -> None:
    """Numbers in words, counted up and then down from anywhere: a missing one follows from those beside it."""
    draw = random.Random(0)
    numbers = [f"{tens}{ones}" for tens in "abcdef" for ones in "abcdef"]

    def counted(step: int) -> list[str]:
        start = draw.randrange(36)
        return [numbers[(start + step * k) % 36] for k in range(draw.randrange(3, 6))]

    path.write_text("\n".join(" ".join(counted(1) + counted(-1)) for _ in range(lines)))


def test_it_learns(tmp_path):
    counting(tmp_path / "text.txt", 800)
    out = running.run(
        "masked_words",
        "--text",
        tmp_path / "text.txt",
        "--heads",
        2,
        "--depth",
        1,
        "--epochs",
        12,
        "--folder",
        tmp_path,
    )
    unigram, right = (float(x) for x in re.findall(r"│ ([\d.]+)% +│", out))
    assert "5.84" in out
    assert unigram < 8 and right > 55


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "There is no file"),
        (b"", "it is empty"),
        (bytes(range(200, 256)), "cannot be used"),
        (b"two\nlines", "has 2 different lines"),
    ],
    ids=["missing", "empty", "bytes", "short"],
)
def test_other_texts_are_one_sentence(tmp_path, content, says, monkeypatch):
    import masked_words

    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    options = ["masked_words.py", "--text", str(tmp_path / "text.txt"), "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", options)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # Ctrl-C stays pytest's
    with pytest.raises(SystemExit) as stopped:
        masked_words.main()
    assert says in str(stopped.value) and str(stopped.value).endswith(masked_words.ADVICE)
