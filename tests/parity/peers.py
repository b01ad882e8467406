"""How a model is held to one of transformers': by weights, values and gradients under the names of public files."""

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

import towerdsl
from towerdsl.weights import CheckpointMap, to_public


def shaken(model: nn.Module, seed: int = 0, by: float = 0.1) -> nn.Module:
    """The model with noise on every parameter and buffer: no bias is 0, no norm is idle; variances stay positive."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if x.is_floating_point() and name.endswith("running_var"):
                x.copy_(0.5 + torch.rand(x.shape, generator=draw))
            elif x.is_floating_point():
                x.add_(by * torch.randn(x.shape, generator=draw))
    return model.eval()


def load(spec: str, peer: nn.Module, folder: Path, format: str = "huggingface", **sizes) -> nn.Module:
    """The spec's model with the weights of the peer, through the file that the peer saves; no name may be left over."""
    peer.save_pretrained(folder)
    return towerdsl.load(spec, checkpoint=folder / "model.safetensors", format=format, strict="all", **sizes).eval()


def gradients(model: nn.Module, outputs: list[Tensor], seed: int = 1) -> nn.Module:
    """A copy of the model that holds, in place of its parameters, the gradients of a random projection of outputs."""
    draw = torch.Generator().manual_seed(seed)
    model.zero_grad()
    sum((y * torch.randn(y.shape, generator=draw, dtype=y.dtype)).sum() for y in outputs).backward()
    held = copy.deepcopy(model)
    for x in held.parameters():
        x.data, x.grad = torch.zeros_like(x) if x.grad is None else x.grad, None
    return held


def assert_same_files(ours: nn.Module, theirs: nn.Module, folder: Path, tolerance: float, format="huggingface") -> None:
    """What both save, ours through its map, is the same: names, shapes, and values to a share of the largest."""
    (folder / "theirs").mkdir()
    theirs.save_pretrained(folder / "theirs")
    mine = load_file(towerdsl.save_checkpoint(ours, folder / "ours.safetensors", format))
    others = load_file(folder / "theirs" / "model.safetensors")
    assert {n: x.shape for n, x in mine.items()} == {n: x.shape for n, x in others.items()}
    scale = max(x.abs().max() for x in others.values())
    for name, other in others.items():
        assert (mine[name] - other).abs().max() <= tolerance * scale, name


def public_shapes(ours: nn.Module, format: str = "huggingface") -> dict[str, torch.Size]:
    """Names and shapes of what a model would save under a format; it may be on the meta device."""
    map = CheckpointMap.from_data(format, ours.checkpoints[format])
    return {name: x.shape for name, x in to_public(map, ours.state_dict()).items()}


def peer_shapes(theirs: nn.Module) -> dict[str, torch.Size]:
    """The same for one of transformers' models: since version 5 its modules have other names than its files."""
    return {name: x.shape for name, x in revert_weight_conversion(theirs, theirs.state_dict()).items()}
