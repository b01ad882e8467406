"""DETR equals transformers' DetrForObjectDetection: backbone, transformer and heads, on images of different sizes."""

import re

import pytest
import torch
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.core_model_loading import revert_weight_conversion

import towerdsl
from towerdsl.weights import load_checkpoint

from .equal import assert_equals_peer, assert_exchanges_files, assert_published_size, draw, stir

SIZES = {"d": 16, "ff": 24, "heads": 2, "depth": 2, "queries": 5, "classes": 3, "width": 4, "depths": [2, 1, 2, 1]}


def peer(small: bool = True) -> DetrForObjectDetection:
    if not small:
        backbone = ResNetConfig(out_features=["stage4"])
        return DetrForObjectDetection(DetrConfig(use_timm_backbone=False, backbone_config=backbone, num_labels=91))
    backbone = ResNetConfig(
        embedding_size=4, hidden_sizes=[16, 32, 64, 128], depths=[2, 1, 2, 1], out_features=["stage4"]
    )
    config = DetrConfig(
        use_timm_backbone=False,
        backbone_config=backbone,
        d_model=16,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_layers=2,
        decoder_layers=2,
        num_queries=5,
        num_labels=3,
    )
    return DetrForObjectDetection(config)


def images(*sizes: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Images in one batch, those that are smaller than the largest padded with zeros."""
    draw = torch.Generator().manual_seed(0)
    keep = torch.zeros(len(sizes), max(h for h, _ in sizes), max(w for _, w in sizes), dtype=torch.bool)
    for n, (height, width) in enumerate(sizes):
        keep[n, :height, :width] = True
    return {"pixels": torch.randn(len(sizes), 3, *keep.shape[1:], generator=draw) * keep[:, None], "keep": keep}


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        ([(96, 160), (129, 65)], torch.float32),
        ([(96, 160), (129, 65)], torch.float64),
        ([(70, 100)], torch.float64),
    ],
    ids=["padded-float32", "padded-float64", "one-float64"],
)
def test_small(sizes, dtype):
    theirs = draw(peer().requires_grad_()).eval().to(dtype)
    ours = towerdsl.compile("detr", **SIZES)().eval().to(dtype)
    inputs = images(*sizes)
    inputs["pixels"] = inputs["pixels"].to(dtype)
    if len(sizes) == 1:
        del inputs["keep"]

    def run(pixels, keep=None):
        found = theirs(pixels, pixel_mask=keep)
        return found.logits, found.pred_boxes

    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    assert_equals_peer(ours, theirs, "huggingface", inputs, tolerance, run, names=revert_weight_conversion)


def test_padding_matters():
    model, inputs = draw(towerdsl.compile("detr", **SIZES)(), 1.0).eval(), images((96, 160), (129, 65))
    with torch.inference_mode():
        seen, masked = model(inputs["pixels"]).logits, model(**inputs).logits
    assert (seen - masked).abs().max() > 1e-2 * masked.abs().max()


def test_files(tmp_path):
    assert_exchanges_files("detr", "huggingface", draw(peer()), tmp_path, **SIZES)


def timm(name: str) -> str:
    """A name of the public file facebook/detr-resnet-50, whose backbone is timm's."""
    name = name.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
    name = re.sub(r"encoder\.stages\.(\d)\.layers", lambda m: f"layer{int(m[1]) + 1}", name)
    name = re.sub(r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}", name)
    name = re.sub(r"layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}", name)
    return name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")


def test_a_file_with_the_backbone_of_timm():
    theirs = draw(peer())
    public = revert_weight_conversion(theirs, theirs.state_dict())
    renamed = {timm(name): x for name, x in public.items()}
    prefix = "model.backbone.conv_encoder.model"
    assert {f"{prefix}.layer4.0.downsample.1.running_var", f"{prefix}.layer1.1.conv3.weight"} <= set(renamed)
    first, second = (towerdsl.compile("detr", **SIZES)() for _ in range(2))
    load_checkpoint(first, public, "huggingface", strict="all")
    report = load_checkpoint(second, renamed, "huggingface", strict="all")
    assert not report.ignored
    assert all(torch.equal(x, second.state_dict()[n]) for n, x in first.state_dict().items())


def test_the_default_is_the_published_model():
    """DETR-R50: a hundred queries, the 91 classes of COCO."""
    assert_published_size("detr", "huggingface", lambda: peer(small=False), revert_weight_conversion)


def test_the_published_model_computes_the_same():
    theirs = stir(peer(small=False), 0.03).eval()
    torch.nn.init.normal_(theirs.model.query_position_embeddings.weight)
    ours = towerdsl.compile("detr")().eval()
    load_checkpoint(ours, revert_weight_conversion(theirs, theirs.state_dict()), "huggingface", strict="all")
    inputs = images((160, 224), (256, 130))
    with torch.inference_mode():
        mine, other = ours(**inputs), theirs(inputs["pixels"], pixel_mask=inputs["keep"])
    assert other.logits.std(0).max() > 1e-3 and other.logits.std(1).max() > 1e-3  # images and queries matter
    for a, b in ((mine.logits, other.logits), (mine.boxes, other.pred_boxes)):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
