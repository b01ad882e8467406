"""ViT equals transformers' ViTForImageClassification."""

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification
from transformers.core_model_loading import revert_weight_conversion

import towerdsl

from .equal import assert_equals_peer, assert_exchanges_files, assert_published_size, draw, stir

SIZES = {"d": 32, "ff": 48, "heads": 4, "depth": 2, "image": 24, "patch": 6, "classes": 7}


def peer() -> ViTForImageClassification:
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=32,
            intermediate_size=48,
            num_attention_heads=4,
            num_hidden_layers=2,
            image_size=24,
            patch_size=6,
            num_labels=7,
        )
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(24, 24), (48, 12), (30, 36)], ids=str)
def test_small(shape, dtype):
    """On the grid of its positions; on others they are interpolated, as for higher resolution (section 3.2)."""
    theirs = draw(peer(), 0.2).eval().to(dtype)
    ours = towerdsl.compile("vit", **SIZES)().eval().to(dtype)
    pixels = torch.randn(3, 3, *shape, generator=torch.Generator().manual_seed(1)).to(dtype)

    def run(pixels):
        return theirs(pixels, interpolate_pos_encoding=shape != (24, 24)).logits

    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert_equals_peer(ours, theirs, "huggingface", {"pixels": pixels}, tolerance, run, names=revert_weight_conversion)


def test_files(tmp_path):
    assert_exchanges_files("vit", "huggingface", draw(peer()), tmp_path, **SIZES)


def test_the_default_is_the_published_base_model():
    """ViT-B/16 at 224, with the thousand classes of ImageNet."""
    assert_published_size(
        "vit", "huggingface", lambda: ViTForImageClassification(ViTConfig(num_labels=1000)), revert_weight_conversion
    )


@pytest.mark.slow
def test_the_base_model_computes_the_same():
    theirs = stir(ViTForImageClassification(ViTConfig(num_labels=1000))).eval()
    ours = towerdsl.compile("vit")().eval()
    pixels = torch.randn(1, 3, 224, 224)
    assert_equals_peer(
        ours,
        theirs,
        "huggingface",
        {"pixels": pixels},
        call=lambda pixels: theirs(pixels).logits,
        names=revert_weight_conversion,
    )
