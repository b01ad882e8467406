"""MultiHeadAttention: compiled by towerdsl 0.1.0 from specs/level2/multi_head_attention.yaml."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime import holds_everywhere
from towerdsl.runtime.inputs import as_declared


class Attention(nn.Module):
    """attention(query, key, value, keep, causal=false), specs/level2/multi_head_attention.yaml:16.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk)
        j is visible to i where keep[j]

    Averaged over n, heads merged by concat; kernel: sdpa.

    query float[b, m, d=16], key float[b, n, d=16], value float[b, n, d=16], keep bool[b, n] ->
    float[b, m, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(16, 16)
        self.key = nn.Linear(16, 16)
        self.value = nn.Linear(16, 16)
        self.output = nn.Linear(16, 16)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None) -> Tensor:
        q = self.query(query).unflatten(-1, (2, 8)).transpose(1, 2)
        k = self.key(key).unflatten(-1, (2, 8)).transpose(1, 2)
        v = self.value(value).unflatten(-1, (2, 8)).transpose(1, 2)
        mask = None if keep is None else keep[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)
        return self.output(y)


class MultiHeadAttention(nn.Module):
    """MultiHeadAttention, compiled from specs/level2/multi_head_attention.yaml.

    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2

    Several averages of the same values at once, each with a query, key and value of its own.

    Inputs:
        query: float[b, m, d=16]
        key: float[b, n, d=16]
        value: float[b, n, d=16]
        keep: bool[b, n] = true
    Output:
        result: float[b, m, d=16]
    """

    checkpoints = {
        "torch": {
            "rules": {
                "in_proj_weight": "concat(attention.query.weight, attention.key.weight, attention.value.weight)",
                "in_proj_bias": "concat(attention.query.bias, attention.key.bias, attention.value.bias)",
                "out_proj.{p}": "attention.output.{p}",
            },
        },
    }

    inputs = {
        "query": "float[b, m, d=16], in the model's dtype",
        "key": "float[b, n, d=16], in the model's dtype",
        "value": "float[b, n, d=16], in the model's dtype",
        "keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None = None) -> Tensor:
        query, key, value, keep = as_declared(self, query, key, value, keep)
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        return self.attention(query, key, value, keep)
