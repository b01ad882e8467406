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


def test_look_inside_bert(tmp_path):
    lines = run("look_inside_bert", "--folder", str(tmp_path))
    shares = [float(words[-4].rstrip("%")) for words in lines if words and words[0] == "│"]
    following, previous, separators, subject = shares
    assert following > 50 and previous > 95 and separators > 80 and subject > 10
    assert "60%" in lines[-2] and {p.name for p in tmp_path.iterdir()} == {"bert_heads.png", "bert_subject.png"}


#: The cat of scikit-image's photo, drawn by hand: (x, y) in parts of its width and height.
CAT = [(0.12, 0), (0.89, 0), (0.8, 0.25), (0.81, 0.5), (0.75, 0.75), (0.65, 1), (0, 1), (0, 0.65), (0.08, 0.35)]


def test_the_cat_is_found(tmp_path):
    import torch
    from skimage.draw import polygon2mask

    import towerdsl
    from towerdsl.maps import measures

    example = runpy.run_path(str(EXAMPLES / "dino_maps.py"))
    image = example["photo"](None)
    grid = (image.shape[0] // 14, image.shape[1] // 14)
    pixels = ((torch.tensor(image).float() - example["MEAN"]) / example["DEVIATION"]).permute(2, 0, 1)[None]
    with torch.inference_mode(), towerdsl.probe(model := example["load"](None), at="layer.11.*", rows=[0]) as maps:
        model(pixels)
    found = measures.mass_threshold(measures.class_maps(maps[0], grid)[0].mean(0), 0.6, dims=2)
    cat = torch.tensor(polygon2mask(grid, [(y * grid[0], x * grid[1]) for x, y in CAT]))
    assert (found & cat).sum() > 0.9 * found.sum() and (found & cat).sum() > 0.4 * cat.sum()
