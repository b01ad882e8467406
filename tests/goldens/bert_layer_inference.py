"""Bert: compiled by towerdsl 0.1.0 from bert.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime import holds_everywhere
from towerdsl.runtime.inputs import as_declared
from towerdsl.runtime.linear import InferenceModel, PackedLinear, together


class Look(nn.Module):
    """look(x, keep), bert.yaml:11.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk)
        j is visible to i where keep[j]

    Averaged over n, heads merged by concat; kernel: sdpa.

    x float[b, n, d=8], keep bool[b, n] -> float[b, n, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = PackedLinear(8, 8)
        self.key = PackedLinear(8, 8)
        self.value = PackedLinear(8, 8)
        self.output = PackedLinear(8, 8)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        q, k, v = together(x, self.query, self.key, self.value)
        q = q.unflatten(-1, (2, 4)).transpose(1, 2)
        k = k.unflatten(-1, (2, 4)).transpose(1, 2)
        v = v.unflatten(-1, (2, 4)).transpose(1, 2)
        mask = None if keep is None else keep[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)
        return self.output(y)


class Layer(nn.Module):
    """layer(x, keep), bert.yaml:20.

        x = layernorm(x + look(x, keep))
        x = layernorm(x + linear(gelu(linear(x, ff)), d))

    x float[b, n, d=8], keep bool[b, n] -> float[b, n, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.look = Look()
        self.layernorm = nn.LayerNorm(8)
        self.linear = PackedLinear(8, 16)
        self.linear_2 = PackedLinear(16, 8)
        self.layernorm_2 = nn.LayerNorm(8)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        x = self.layernorm(x + self.look(x, keep))
        return self.layernorm_2(self.linear_2(self.linear(x, activation="gelu"), plus=x))


class Bert(InferenceModel):
    """Bert, compiled from bert.yaml.

    Devlin et al. 2018, arXiv:1810.04805

    The inference form: it is not trained. Where it runs in float32 on a CPU, oneDNN computes its linear
    layers, with packed weights; elsewhere, and while torch compiles or exports it, they are torch's own.

    Inputs:
        ids: int[b, n]
        segment: int[b, n] = 0
        keep: bool[b, n] = true
    Output:
        x: float[b, n, d=8]
    """

    inputs = {
        "ids": "int[b, n], below 11, n at most 7",
        "segment": "int[b, n] = 0, below 2",
        "keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.embed_2 = nn.Embedding(7, 8)
        self.embed_3 = nn.Embedding(2, 8)
        self.layernorm = nn.LayerNorm(8)
        self.layer = nn.ModuleList([Layer() for _ in range(2)])
        self.requires_grad_(False).eval()

    def forward(self, ids: Tensor, segment: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        ids, segment, keep = as_declared(self, ids, segment, keep)
        b, n = ids.shape
        if segment is None:
            segment = torch.zeros(b, n, device=ids.device, dtype=torch.long)
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        x = self.embed(ids) + self.embed_2(torch.arange(n, device=ids.device)) + self.embed_3(segment)
        x = self.layernorm(x)
        for layer in self.layer:
            x = layer(x, keep)
        return x
