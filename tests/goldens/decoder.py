"""Decoder: compiled by towerdsl 0.1.0 from decoder.yaml."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.ops.normalizers import softmax
from towerdsl.runtime.inputs import as_declared


class Cell(nn.Module):
    """cell(x, h), decoder.yaml:11.

        z = sigmoid(linear(concat(x, h, axis=d), d, name=gate))
        (1 - z) * h + z * tanh(linear(x, d, name=read))

    x float[b, d=6], h float[b, d=6] -> float[b, d=6]
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(12, 6)
        self.read = nn.Linear(6, 6)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        z = torch.sigmoid(self.gate(torch.cat([x, h], dim=-1)))
        return (1 - z) * h + z * torch.tanh(self.read(x))


class Encode(nn.Module):
    """encode(x, keep), decoder.yaml:14.

        h = zeros([b, d])
        for t along n:
            h = where(keep[n=t], cell(x[n=t], h), h)
            states = h
        states

    x float[b, n, d=6], keep bool[b, n] -> float[b, n, d=6]
    """

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell()

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        b, n, _ = x.shape
        h = torch.zeros(b, 6, device=x.device, dtype=x.dtype)
        states = []
        for t in range(n):
            h = torch.where(keep[:, t][:, None], self.cell(x[:, t], h), h)
            states.append(h)
        return torch.stack(states, 1) if states else x.new_zeros(b, n, 6)


class Look(nn.Module):
    """look(s, memory, keep, t), decoder.yaml:20.

        y = sum over j of w[j] * v[j]
        w[j] = softmax over j of dot(q, k[j]) / (1 + abs(j - t))
        j is visible where keep[j] and j <= t + 1

    Averaged over n; kernel: reference.

    s float[b, d=6], memory float[b, n, d=6], keep bool[b, n], t int[] -> float[b, d=6]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(6, 6)

    def forward(self, s: Tensor, memory: Tensor, keep: Tensor | None, t: int) -> Tensor:
        n = memory.shape[1]
        q = self.query(s)
        k = v = memory
        j = torch.arange(n, device=q.device)
        score = torch.einsum("bd,bjd->bj", q, k) / (1 + torch.abs(j - t))
        visible = j - t < 2
        if keep is not None:
            visible = visible & keep
        weights = softmax(score, visible)
        return torch.einsum("bj,bjd->bd", weights, v)


class DecoderOutput(NamedTuple):
    logits: Tensor
    energy: Tensor
    c: Tensor
    s: Tensor


class Decoder(nn.Module):
    """Decoder, compiled from decoder.yaml.

    An encoder that reads in both directions, and a decoder that looks at what it has read before each
    step.

    Inputs:
        x: float[b, n, d=6]
        target: int[b, m]
        keep: bool[b, n] = true
    Outputs:
        logits: float[b, m, vocab=9]
        energy: float[b, m]
        c: float[b, m, d=6]
        s: float[b, d=6]
    """

    tied = ["words.weight"]  # read in more than one place

    inputs = {
        "x": "float[b, n, d=6], in the model's dtype",
        "target": "int[b, m]",
        "keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.encode = Encode()
        self.encode_2 = Encode()
        self.look = Look()
        self.words = nn.Embedding(9, 6)
        self.cell = Cell()

    def forward(self, x: Tensor, target: Tensor, keep: Tensor | None = None) -> DecoderOutput:
        x, target, keep = as_declared(self, x, target, keep)
        m = target.shape[1]
        b, n, _ = x.shape
        if keep is None:
            keep = torch.ones(b, n, device=x.device, dtype=torch.bool)
        memory = self.encode(x, keep) + self.encode_2(x.flip(1), keep.flip(-1)).flip(1)
        s = memory[:, 0]
        all_c = []
        logits = []
        energy = []
        for t in range(m):
            c = self.look(s, memory, keep, t)
            s = self.cell(self.words(target[:, max(t - 1, 0)]) + c, s)
            logits.append(F.linear(s, self.words.weight))
            energy.append(torch.einsum("bd,bd->b", s, c))
            all_c.append(c)
        c = torch.stack(all_c, 1) if all_c else x.new_zeros(b, m, 6)
        logits = torch.stack(logits, 1) if logits else x.new_zeros(b, m, 9)
        energy = torch.stack(energy, 1) if energy else x.new_zeros(b, m)
        return DecoderOutput(logits, energy, c, s)
