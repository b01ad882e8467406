"""RestrictedSelfAttention: compiled by towerdsl 0.1.0 from specs/level3/restricted_self_attention.yaml."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from towerdsl.runtime import holds_everywhere
from towerdsl.runtime.attend import attend
from towerdsl.runtime.blocks import blocked
from towerdsl.runtime.inputs import as_declared
from towerdsl.runtime.kept import kept


class Attention(nn.Module):
    """attention(query, key, value, keep, causal=false), specs/level2/multi_head_attention.yaml:16.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk)
        j is visible to i where keep[j] and abs(i - j) < r
        with r = 64

    Averaged over n, heads merged by concat; kernel: banded.

    query float[b, n, d=512], key float[b, n, d=512], value float[b, n, d=512], keep bool[b, n] ->
    float[b, n, d=512]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(512, 512)
        self.key = nn.Linear(512, 512)
        self.value = nn.Linear(512, 512)
        self.output = nn.Linear(512, 512)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None) -> Tensor:
        q = self.query(query).unflatten(-1, (8, 64)).transpose(1, 2)
        k = self.key(key).unflatten(-1, (8, 64)).transpose(1, 2)
        v = self.value(value).unflatten(-1, (8, 64)).transpose(1, 2)
        visible = self.visible(q.device)
        visible_2 = None if keep is None else blocked(
            keep, 1, (64,), before=(64,), after=(64,)
        )[:, None, :, None, :]
        y = attend(q, k, v, 64, before=64, after=64, visible=(visible, visible_2)).transpose(1, 2).flatten(-2)
        return self.output(y)

    @kept
    def visible(self, device: torch.device) -> Tensor:
        i = torch.arange(64, device=device)
        j = torch.arange(-64, 128, device=device)
        return torch.abs(i[:, None] - j) < 64


class RestrictedSelfAttention(nn.Module):
    """RestrictedSelfAttention, compiled from specs/level3/restricted_self_attention.yaml.

    Vaswani et al. 2017, arXiv:1706.03762, table 1 and section 4

    Self-attention in which a position reads only its neighbours, so that cost grows with the length and
    not its square.

    Inputs:
        x: float[b, n, d=512]
        keep: bool[b, n] = true
    Output:
        x: float[b, n, d=512]
    """

    checkpoints = {
        "torch": {
            "rules": {
                "{l}.in_proj_weight": "concat(layer.{l}.query.weight, layer.{l}.key.weight, layer.{l}.value.weight)",
                "{l}.in_proj_bias": "concat(layer.{l}.query.bias, layer.{l}.key.bias, layer.{l}.value.bias)",
                "{l}.out_proj.{p}": "layer.{l}.output.{p}",
            },
        },
    }

    inputs = {
        "x": "float[b, n, d=512], in the model's dtype",
        "keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Attention() for _ in range(6)])

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        x, keep = as_declared(self, x, keep)
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        for layer in self.layer:
            x = x + layer(x, x, x, keep)
        return x
