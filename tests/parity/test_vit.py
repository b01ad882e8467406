"""ViT equals transformers' ViTForImageClassification."""

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

import towerdsl

from . import peers

SIZES = {"d": 32, "ff": 48, "heads": 4, "depth": 2, "image": 24, "patch": 6, "classes": 7}


@pytest.fixture
def theirs():
    config = ViTConfig(
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_hidden_layers=2,
        image_size=24,
        patch_size=6,
        num_labels=7,
    )
    return peers.shaken(ViTForImageClassification(config))


@pytest.fixture
def ours(theirs, tmp_path):
    return peers.load("vit", theirs, tmp_path, **SIZES)


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(2))


def test_values(ours, theirs, pixels):
    with torch.inference_mode():
        mine, other = ours(pixels), theirs(pixels).logits
    assert mine.shape == (3, 7)
    assert (mine - other).abs().max() <= 1e-5 * other.abs().max()


def test_gradients(ours, theirs, pixels, tmp_path):
    ours, theirs = ours.double(), theirs.double()
    images = [pixels.double().requires_grad_() for _ in range(2)]
    mine = peers.gradients(ours, [ours(images[0])])
    other = peers.gradients(theirs, [theirs(images[1]).logits])
    peers.assert_same_files(mine, other, tmp_path, 1e-10)
    assert (images[0].grad - images[1].grad).abs().max() <= 1e-10 * images[1].grad.abs().max()


def test_the_default_is_the_published_base_model():
    """Names and shapes of ViT-B/16 at 224 with the thousand classes of ImageNet, without memory for them."""
    with torch.device("meta"):
        ours = towerdsl.compile("vit")()
        theirs = ViTForImageClassification(ViTConfig(num_labels=1000))
    assert peers.public_shapes(ours) == peers.peer_shapes(theirs)
    assert sum(x.numel() for x in ours.parameters()) == 86_567_656


@pytest.mark.slow
def test_the_base_model_computes_the_same(tmp_path):
    theirs = peers.shaken(ViTForImageClassification(ViTConfig(num_labels=1000, num_hidden_layers=12)), by=0.01)
    ours = peers.load("vit", theirs, tmp_path)
    pixels = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        mine, other = ours(pixels), theirs(pixels).logits
    assert (mine - other).abs().max() <= 1e-5 * other.abs().max()
