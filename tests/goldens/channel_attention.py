"""ChannelAttention: compiled by towerdsl 0.1.0 from channel_attention.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime.inputs import as_declared


class ChannelAttentionBlock(nn.Module):
    """channel_attention(x[b, c, h, w]), channel_attention.yaml:11.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of -dot(q[i], k[j])

    Averaged over c; kernel: sdpa.

    x float[b, c=4, h, w] -> float[b, c=4, h, w]
    """

    def forward(self, x: Tensor) -> Tensor:
        _, _, h, w = x.shape
        q = k = v = x.flatten(-2)
        q = (-q)[:, None]
        k = k[:, None]
        v = v[:, None]
        return F.scaled_dot_product_attention(q, k, v, scale=1.0).squeeze(1).unflatten(-1, (h, w))


class ChannelAttention(nn.Module):
    """ChannelAttention, compiled from channel_attention.yaml.

    Fu et al. 2019, arXiv:1809.02983

    Inputs:
        x: float[b, c=4, h, w]
    Output:
        result: float[b, c=4, h, w]
    """

    inputs = {
        "x": "float[b, c=4, h, w], in the model's dtype",
    }

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(4))
        nn.init.zeros_(self.gamma)
        self.channel_attention = ChannelAttentionBlock()

    def forward(self, x: Tensor) -> Tensor:
        (x,) = as_declared(self, x)
        return x + self.gamma[:, None, None] * self.channel_attention(x)
