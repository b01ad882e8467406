"""Glimpses: compiled by towerdsl 0.1.0 from score_function.yaml."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from towerdsl.ops.normalizers import pick_scored
from towerdsl.runtime import holds_everywhere, picked_sum
from towerdsl.runtime.inputs import as_declared


class Glimpse(nn.Module):
    """glimpse(x, keep), score_function.yaml:8.

        y[i] = sum over j of w[i, j] * v[j]
        f[i, j] = dot(q[i], k[j]) / sqrt(dk)
        w[i, j] = 1 for one j, drawn from softmax(f); log_prob is its log p
        j is visible to i where keep[j]

    Averaged over n, heads merged by concat; kernel: gather.

    x float[b, n, d=8], keep bool[b, n] -> float[b, n, d=8], float[b, head=2, n]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)
        self.output = nn.Linear(8, 8)

    def forward(self, x: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        q = self.query(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (2, 4)).transpose(1, 2)
        v = x.unflatten(-1, (2, 4)).transpose(1, 2)
        score = torch.einsum("bhid,bhjd->bhij", q / 2.0, k)
        visible = None if keep is None else keep[:, None, None, :]
        chosen, weights, log_prob = pick_scored(score, visible, self.training)
        y = picked_sum(v, chosen, weights).transpose(1, 2).flatten(-2)
        return self.output(y), log_prob


class GlimpsesOutput(NamedTuple):
    y: Tensor
    log_prob: Tensor


class Glimpses(nn.Module):
    """Glimpses, compiled from score_function.yaml.

    Hard attention; the log of the probability of each choice is returned for REINFORCE.

    Inputs:
        x: float[b, n, d=8]
        keep: bool[b, n] = true
    Outputs:
        y: float[b, n, d=8]
        log_prob: float[b, head=2, n]
    """

    inputs = {
        "x": "float[b, n, d=8], in the model's dtype",
        "keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.glimpse = Glimpse()

    def forward(self, x: Tensor, keep: Tensor | None = None) -> GlimpsesOutput:
        x, keep = as_declared(self, x, keep)
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        y, log_prob = self.glimpse(x, keep)
        return GlimpsesOutput(y, log_prob)
