"""Swin equals transformers' SwinForImageClassification, whose windows are rolled, masked and cut out of the image."""

import pytest
import torch
from transformers import SwinConfig, SwinForImageClassification
from transformers.core_model_loading import revert_weight_conversion

import towerdsl

from .equal import assert_equals_peer, assert_exchanges_files, assert_published_size, draw, stir

SIZES = {"d": 8, "heads": [2, 4, 8, 16], "depths": [2, 2, 2, 2], "image": 48, "patch": 2, "win": 3, "classes": 7}


def peer(image: int = 48, win: int = 3, depth: int = 2) -> SwinForImageClassification:
    return SwinForImageClassification(
        SwinConfig(
            embed_dim=8,
            num_heads=[2, 4, 8, 16],
            depths=[2, 2, depth, 2],
            image_size=image,
            patch_size=2,
            window_size=win,
            num_labels=7,
        )
    )


@pytest.mark.parametrize(
    ("image", "win", "depth"),
    [(48, 3, 3), (64, 2, 2)],
    ids=["the last map is one window", "all maps have several windows"],
)
def test_small(image, win, depth):
    theirs = draw(peer(image, win, depth), 0.2).double().eval()
    ours = (
        towerdsl.compile("swin", **SIZES | {"image": image, "win": win, "depths": [2, 2, depth, 2]})().double().eval()
    )
    inputs = {"pixels": torch.randn(2, 3, image, image, dtype=torch.float64)}
    assert_equals_peer(
        ours,
        theirs,
        "huggingface",
        inputs,
        1e-10,
        lambda pixels: theirs(pixels).logits,
        names=revert_weight_conversion,
    )


def test_drop_path_grows_with_depth():
    """The same probabilities of leaving out a layer while training, in order."""
    with torch.device("meta"):
        ours, theirs = towerdsl.compile("swin")(), SwinForImageClassification(SwinConfig())
    mine = [x.p for x in ours.modules() if isinstance(x, torch.nn.Dropout3d)]
    others = [x.drop_prob for x in theirs.modules() if type(x).__name__ == "SwinDropPath"]
    assert mine == pytest.approx(others)


def test_files(tmp_path):
    assert_exchanges_files("swin", "huggingface", draw(peer()), tmp_path, **SIZES)


def test_the_default_is_the_published_model():
    """Swin-T, with the thousand classes of ImageNet."""
    assert_published_size(
        "swin", "huggingface", lambda: SwinForImageClassification(SwinConfig(num_labels=1000)), revert_weight_conversion
    )


def test_the_published_model_computes_the_same():
    theirs = stir(SwinForImageClassification(SwinConfig(num_labels=1000))).eval()
    ours = towerdsl.compile("swin")().eval()
    towerdsl.weights.load_checkpoint(ours, revert_weight_conversion(theirs, theirs.state_dict()), "huggingface")
    pixels = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        mine, other = ours(pixels), theirs(pixels).logits
    assert (other[0] - other[1]).abs().max() > 0.01 * other.abs().max()  # the image matters
    assert (mine - other).abs().max() <= 1e-5 * other.abs().max()
