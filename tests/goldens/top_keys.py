"""TopKeys: compiled by towerdsl 0.1.0 from top_keys.yaml."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from towerdsl.ops.normalizers import pick_topk
from towerdsl.runtime import holds_everywhere, picked_sum
from towerdsl.runtime.inputs import as_declared


class Look(nn.Module):
    """look(x, keep), top_keys.yaml:8.

        y[i] = sum over j of w[i, j] * v[j]
        f[i, j] = dot(q[i], k[j]) / sqrt(dk)
        w[i, j] = exp(f) / sum of exp(f) over the k largest f, 0 for others
        j is visible to i where keep[j]

    Averaged over n, heads merged by concat, k 4; kernel: gather.

    x float[b, n, d=8], keep bool[b, n] -> float[b, n, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)
        self.value = nn.Linear(8, 8)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        q = self.query(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (2, 4)).transpose(1, 2)
        v = self.value(x).unflatten(-1, (2, 4)).transpose(1, 2)
        score = torch.einsum("bhid,bhjd->bhij", q / 2.0, k)
        visible = None if keep is None else keep[:, None, None, :]
        chosen, weights = pick_topk(score, visible, k=4)
        return picked_sum(v, chosen, weights).transpose(1, 2).flatten(-2)


class TopKeys(nn.Module):
    """TopKeys, compiled from top_keys.yaml.

    Each word looks at the four words that fit it best.

    Inputs:
        x: float[b, n, d=8]
        keep: bool[b, n] = true
    Output:
        result: float[b, n, d=8]
    """

    inputs = {
        "x": "float[b, n, d=8], in the model's dtype",
        "keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.look = Look()

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        x, keep = as_declared(self, x, keep)
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        return self.look(x, keep)
