"""DINOv2 equals transformers' Dinov2Model: trained weights on photographs, and gradients on a small model."""

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from transformers import Dinov2Config, Dinov2Model
from transformers.core_model_loading import revert_weight_conversion

import towerdsl

from .equal import assert_equals_peer, assert_exchanges_files, assert_published_size, draw

PHOTOS = ("astronaut", "cat", "coffee")
SIZES = {"d": 32, "heads": 4, "depth": 2, "image": 20, "patch": 5}


def peer() -> Dinov2Model:
    return Dinov2Model(
        Dinov2Config(
            hidden_size=32,
            num_attention_heads=4,
            num_hidden_layers=2,
            image_size=20,
            patch_size=5,
            use_mask_token=False,
        )
    )


@pytest.fixture(scope="module")
def trained(dinov2):
    return towerdsl.load(dinov2), Dinov2Model.from_pretrained(dinov2).eval()


def photo(name: str, height: int, width: int) -> torch.Tensor:
    """A photograph of scikit-image, with the mean and deviation that DINOv2's images were given."""
    pixels = torch.tensor(getattr(skimage.data, name)()).permute(2, 0, 1)[None] / 255
    pixels = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    return (pixels - mean) / deviation


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize(("height", "width"), [(224, 224), (518, 518), (224, 308)])
def test_photographs(trained, name, height, width):
    """At the size of its positions, at the size of most images, and at one that is not square."""
    ours, theirs = trained
    pixels = photo(name, height, width)
    with torch.inference_mode():
        mine, other = ours(pixels), theirs(pixels)
    assert mine.states.shape == (1, height * width // 14**2 + 1, 384)
    for a, b in ((mine.states, other.last_hidden_state), (mine.pooled, other.pooler_output)):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_every_weight_is_used(trained):
    report = trained[0].checkpoint_report
    assert report.ignored == ("embeddings.mask_token",)
    assert not report.unexpected


@pytest.mark.parametrize("shape", [(20, 20), (40, 10), (35, 25)], ids=str)
def test_small(shape):
    """On the grid of the positions, on another with as many patches, and on another.

    transformers interpolates in float32 always, so there the two agree as float32 does.
    """
    theirs = draw(peer(), 0.2).double().eval()
    ours = towerdsl.compile("dinov2", **SIZES)().double().eval()
    inputs = {"pixels": torch.randn(2, 3, *shape, dtype=torch.float64)}
    tolerance = 1e-12 if shape == (20, 20) else 1e-6
    assert_equals_peer(
        ours,
        theirs,
        "huggingface",
        inputs,
        tolerance,
        lambda pixels: theirs(pixels).to_tuple(),
        names=revert_weight_conversion,
    )


def test_files(tmp_path):
    assert_exchanges_files("dinov2", "huggingface", draw(peer()), tmp_path, **SIZES)


def test_the_default_is_the_published_base_model():
    """DINOv2-base; its token for masked patches is for training only."""
    config = Dinov2Config(image_size=518, patch_size=14, use_mask_token=False)
    assert_published_size("dinov2", "huggingface", lambda: Dinov2Model(config), revert_weight_conversion)
