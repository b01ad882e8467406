"""TokenMixing: compiled by towerdsl 0.1.0 from token_mixing.yaml."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from towerdsl.runtime.inputs import as_declared


class Mix(nn.Module):
    """mix(x), token_mixing.yaml:7.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = weight[i, j]

    Averaged over n; kernel: static.

    x float[b, n=6, d=8] -> float[b, m=4, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 6))
        nn.init.normal_(self.weight, std=0.02)
        self.bias = nn.Parameter(torch.empty(4))
        nn.init.normal_(self.bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        v = x
        weights = self.weight
        return torch.baddbmm(self.bias[:, None], weights.expand(b, -1, -1), v)


class Synthesizer(nn.Module):
    """synthesizer(x[b, n, d]), token_mixing.yaml:14.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of table[head, i, j]

    Averaged over n, heads merged by concat; kernel: static.

    x float[b, n=6, d=8] -> float[b, n=6, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(2, 6, 6))
        nn.init.normal_(self.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        v = x.unflatten(-1, (2, 4)).transpose(1, 2)
        score = self.table
        weights = score.softmax(-1)
        return torch.einsum("hij,bhjd->bhid", weights, v).transpose(1, 2).flatten(-2)


class TokenMixingOutput(NamedTuple):
    mixed: Tensor
    looked: Tensor


class TokenMixing(nn.Module):
    """TokenMixing, compiled from token_mixing.yaml.

    Averages of tokens whose weights are learned, alone and through softmax.

    Inputs:
        x: float[b, n=6, d=8]
    Outputs:
        mixed: float[b, m=4, d=8]
        looked: float[b, n=6, d=8]
    """

    inputs = {
        "x": "float[b, n=6, d=8], in the model's dtype",
    }

    def __init__(self) -> None:
        super().__init__()
        self.mix = Mix()
        self.synthesizer = Synthesizer()

    def forward(self, x: Tensor) -> TokenMixingOutput:
        (x,) = as_declared(self, x)
        return TokenMixingOutput(self.mix(x), self.synthesizer(x))
