"""ShiftedWindows: compiled by towerdsl 0.1.0 from shifted_windows.yaml."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from towerdsl.runtime.attend import attention_of_batches
from towerdsl.runtime.blocks import blocked, joined, places_inside
from towerdsl.runtime.inputs import as_declared
from towerdsl.runtime.kept import kept


class WindowAttention(nn.Module):
    """window_attention(x[b, h, w, d], win, shift), shifted_windows.yaml:9.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk) + table[head, i.h - j.h + win - 1, i.w - j.w +
            win - 1]
        j is visible to i where (i.h + shift) // win == (j.h + shift) // win and (i.w + shift) // win == (j.w
            + shift) // win
        with win = 2, shift = 0

    Averaged over h, w, heads merged by concat; kernel: partition.

    x float[b, h, w, d=8] -> float[b, h, w, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(2, 3, 3))
        nn.init.normal_(self.table, std=0.02)
        self.query = nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)
        self.value = nn.Linear(8, 8)
        self.output = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        _, h, w, _ = x.shape
        x_blocks = blocked(x, 1, (2, 2))
        q = self.query(x_blocks).unflatten(-1, (2, 4)).transpose(2, 3)
        k = self.key(x_blocks).unflatten(-1, (2, 4)).transpose(2, 3)
        v = self.value(x_blocks).unflatten(-1, (2, 4)).transpose(2, 3)
        bias = self.table[:, self.offset_h(q.device), self.offset_w(q.device)]
        inside = places_inside((h, w), (2, 2), device=q.device)
        mask = bias.masked_fill(~inside[:, None, None, :], float("-inf"))[None]
        y = attention_of_batches(q, k, v, attn_mask=mask)
        y = joined(y.transpose(2, 3).flatten(-2), 1, (2, 2), (h, w))
        return self.output(y)

    @kept
    def offset_h(self, device: torch.device) -> Tensor:
        i_h = j_h = torch.arange(2, device=device)[:, None].expand(2, 2).flatten()
        return i_h[:, None] - j_h + 1

    @kept
    def offset_w(self, device: torch.device) -> Tensor:
        i_w = j_w = torch.arange(2, device=device).expand(2, 2).flatten()
        return i_w[:, None] - j_w + 1


class WindowAttention2(nn.Module):
    """window_attention(x[b, h, w, d], win, shift), shifted_windows.yaml:9.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk) + table[head, i.h - j.h + win - 1, i.w - j.w +
            win - 1]
        j is visible to i where (i.h + shift) // win == (j.h + shift) // win and (i.w + shift) // win == (j.w
            + shift) // win
        with win = 2, shift = 1

    Averaged over h, w, heads merged by concat; kernel: partition.

    x float[b, h, w, d=8] -> float[b, h, w, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(2, 3, 3))
        nn.init.normal_(self.table, std=0.02)
        self.query = nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)
        self.value = nn.Linear(8, 8)
        self.output = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        _, h, w, _ = x.shape
        x_blocks = blocked(x, 1, (2, 2), shift=(1, 1))
        q = self.query(x_blocks).unflatten(-1, (2, 4)).transpose(2, 3)
        k = self.key(x_blocks).unflatten(-1, (2, 4)).transpose(2, 3)
        v = self.value(x_blocks).unflatten(-1, (2, 4)).transpose(2, 3)
        bias = self.table[:, self.offset_h(q.device), self.offset_w(q.device)]
        inside = places_inside((h, w), (2, 2), shift=(1, 1), device=q.device)
        mask = bias.masked_fill(~inside[:, None, None, :], float("-inf"))[None]
        y = attention_of_batches(q, k, v, attn_mask=mask)
        y = joined(y.transpose(2, 3).flatten(-2), 1, (2, 2), (h, w), shift=(1, 1))
        return self.output(y)

    @kept
    def offset_h(self, device: torch.device) -> Tensor:
        i_h = j_h = torch.arange(2, device=device)[:, None].expand(2, 2).flatten()
        return i_h[:, None] - j_h + 1

    @kept
    def offset_w(self, device: torch.device) -> Tensor:
        i_w = j_w = torch.arange(2, device=device).expand(2, 2).flatten()
        return i_w[:, None] - j_w + 1


class ShiftedWindows(nn.Module):
    """ShiftedWindows, compiled from shifted_windows.yaml.

    Liu et al. 2021, arXiv:2103.14030

    Inputs:
        x: float[b, h, w, d=8]
    Output:
        x: float[b, h, w, d=8]
    """

    inputs = {
        "x": "float[b, h, w, d=8], in the model's dtype",
    }

    def __init__(self) -> None:
        super().__init__()
        self.window_attention = nn.ModuleList([WindowAttention(), WindowAttention2()])

    def forward(self, x: Tensor) -> Tensor:
        (x,) = as_declared(self, x)
        for window_attention in self.window_attention:
            x = x + window_attention(x)
        return x
