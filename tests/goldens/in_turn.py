"""GroupedRope: compiled by towerdsl 0.1.0 from grouped_rope.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime.inputs import as_declared
from towerdsl.runtime.kept import kept
from towerdsl.runtime.turns import in_turn


class Look(nn.Module):
    """look(x), grouped_rope.yaml:7.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(rope(q[i], i, dk), rope(k[j], j, dk)) / sqrt(dk)
        j is visible to i where j <= i

    Averaged over n, heads on 2 key heads merged by concat; kernel: chunked.

    x float[b, n, d=12] -> float[b, n, d=12]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(12, 24, bias=False)
        self.key = nn.Linear(12, 8, bias=False)
        self.value = nn.Linear(12, 8, bias=False)
        self.output = nn.Linear(24, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        q = self.query(x).unflatten(-1, (6, 4)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (2, 4)).transpose(1, 2).repeat_interleave(3, 1)
        v = self.value(x).unflatten(-1, (2, 4)).transpose(1, 2).repeat_interleave(3, 1)
        cos = self.cos(n, q.device, q.dtype)
        sin = self.sin(n, q.device, q.dtype)
        held = q * cos + q.roll(2, -1) * sin
        held_2 = k * cos + k.roll(2, -1) * sin
        i = j = torch.arange(n, device=q.device)
        def average(rows: slice) -> Tensor:
            q_2 = held[..., rows, :]
            k_2 = held_2
            mask = j <= i[rows][:, None]
            y = F.scaled_dot_product_attention(q_2, k_2, v, attn_mask=mask)
            return y
        y = in_turn(average, n, 256, 2).transpose(1, 2).flatten(-2)
        return self.output(y)

    @kept
    def cos(self, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        i = torch.arange(n, device=device)
        index = torch.arange(4, device=device)
        angle = i[:, None] * (1 / 10000 ** ((2 * (index % 2)).to(wide) / 4))
        return torch.cos(angle).to(dtype)

    @kept
    def sin(self, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        index = torch.arange(4, device=device)
        i = torch.arange(n, device=device)
        angle = i[:, None] * (1 / 10000 ** ((2 * (index % 2)).to(wide) / 4))
        return (torch.where(index < 2, -1, 1) * torch.sin(angle)).to(dtype)


class GroupedRope(nn.Module):
    """GroupedRope, compiled from grouped_rope.yaml.

    Three query heads share a key head; positions turn queries and keys.

    Inputs:
        x: float[b, n, d=12]
    Output:
        result: float[b, n, d=12]
    """

    inputs = {
        "x": "float[b, n, d=12], in the model's dtype",
    }

    def __init__(self) -> None:
        super().__init__()
        self.look = Look()

    def forward(self, x: Tensor) -> Tensor:
        (x,) = as_declared(self, x)
        return self.look(x)
