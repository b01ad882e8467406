"""Packed: compiled by towerdsl 0.1.0 from flex.yaml."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from towerdsl.runtime import holds_everywhere
from towerdsl.runtime.flex import block_mask, flex_attention
from towerdsl.runtime.inputs import as_declared


class Look(nn.Module):
    """look(x, doc, keep), flex.yaml:9.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk) + table[head, clip(i - j, -32, 32) + 32]
        j is visible to i where abs(i - j) < 256 and doc[i] == doc[j] and keep[j]

    Averaged over n, heads on 2 key heads merged by concat; kernel: flex.

    x float[b, n, d=64], doc int[b, n], keep bool[b, n] -> float[b, n, d=64]
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(4, 65))
        nn.init.normal_(self.table, std=0.02)
        self.query = nn.Linear(64, 64)
        self.key = nn.Linear(64, 32)
        self.value = nn.Linear(64, 32)
        self.output = nn.Linear(64, 64)

    def forward(self, x: Tensor, doc: Tensor, keep: Tensor | None) -> Tensor:
        q = self.query(x).unflatten(-1, (4, 16)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (2, 16)).transpose(1, 2)
        v = self.value(x).unflatten(-1, (2, 16)).transpose(1, 2)
        table = self.table
        def biased(score, b, h, i, j):
            return score + table[h, torch.clamp(i - j, -32, 32) + 32]
        def visible(b, h, i, j):
            shown = (torch.abs(i - j) < 256) & (doc[b, i] == doc[b, j])
            return shown if keep is None else shown & keep[b, j]
        mask = block_mask(visible, q, k)
        y = flex_attention(q, k, v, score_mod=biased, block_mask=mask, enable_gqa=True)
        y = y.transpose(1, 2).flatten(-2)
        return self.output(y)


class Packed(nn.Module):
    """Packed, compiled from flex.yaml.

    Packed documents, each read through a window, with relative positions; for GPUs.

    Inputs:
        x: float[b, n, d=64]
        doc: int[b, n]
        keep: bool[b, n] = true
    Output:
        result: float[b, n, d=64]
    """

    inputs = {
        "x": "float[b, n, d=64], in the model's dtype",
        "doc": "int[b, n]",
        "keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.look = Look()

    def forward(self, x: Tensor, doc: Tensor, keep: Tensor | None = None) -> Tensor:
        x, doc, keep = as_declared(self, x, doc, keep)
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        return self.look(x, doc, keep)
