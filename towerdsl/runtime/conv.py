"""Convolutions that are computed together with what follows them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from towerdsl.runtime.linear import Packing, on_onednn


def normalized_conv(x: Tensor, conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, norm: nn.BatchNorm2d) -> Tensor:
    """norm(conv(x)) with frozen statistics, in one pass over x."""
    y: Tensor = conv._conv_forward(x, *folded(conv, norm))
    return y


def folded(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weights of the convolution that is norm(conv(x)): s (W x + b - mean) + c = (s W) x + s (b - mean) + c."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    return conv.weight * scale.view(-1, *[1] * (conv.weight.dim() - 1)), norm.bias - mean * scale


def packed_conv(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """`normalized_conv` with weights that are folded once, channels last as oneDNN reads them."""
    if not on_onednn(x, conv.weight, norm.weight) or conv.weight.dim() != 4:
        return normalized_conv(x, conv, norm)
    packing: Packing = conv.__dict__.setdefault("packing", Packing())
    found = packing.of(conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    if found is None:
        weight, bias = folded(conv, norm)
        packing.made = found = weight.detach().contiguous(memory_format=torch.channels_last), bias.detach()
    y: Tensor = conv._conv_forward(x.contiguous(memory_format=torch.channels_last), *found)
    return y
