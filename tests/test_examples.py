"""The small examples run as a newcomer runs them, and what they print is right."""

import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> list[list[str]]:
    """The words of each line that an example prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_search_by_key():
    rows = [words for words in run("search_by_key", "Untied Kindom") if words and words[0].isdigit()]
    population = runpy.run_path(str(EXAMPLES / "search_by_key.py"))["POPULATION"]
    assert float(rows[0][1]) == pytest.approx(sum(population.values()) / len(population), abs=0.05)  # scale 0: the mean
    assert rows[-1][1:] == ["67.7", "United", "Kingdom", "(100%)"]  # a large one: exact lookup
    certain = [int(words[-1].strip("(%)")) for words in rows[1:]]
    assert certain == sorted(certain) and certain[0] < 50


def test_recommend():
    example = runpy.run_path(str(EXAMPLES / "recommend.py"))
    films, stars = example["FILMS"].split(", "), example["STARS"]
    guesses = {" ".join(words[:-2]): float(words[-2]) for words in run("recommend", "Jin")[1:]}
    assert list(guesses.values()) == sorted(guesses.values(), reverse=True)
    assert set(guesses) == {film for film, given in zip(films, stars["Jin"], strict=True) if not given}

    def taste(name):
        return [given - 3 if given else 0 for given in stars[name]]

    def alike(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    for film, guess in guesses.items():
        seen = [name for name in stars if name != "Jin" and stars[name][films.index(film)]]
        weights = [math.exp(4 * alike(taste("Jin"), taste(name))) for name in seen]
        mean = sum(w * stars[name][films.index(film)] for w, name in zip(weights, seen, strict=True)) / sum(weights)
        assert guess == pytest.approx(mean, abs=0.051)


@pytest.mark.parametrize("name", ["search_by_key", "recommend"])
def test_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 60
