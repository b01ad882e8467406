"""ShiftedWindows: compiled by towerdsl 0.1.0 from shifted_windows.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WindowAttention(nn.Module):
    """window_attention(x[b, h, w, d], win, shift), shifted_windows.yaml:9.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk) + table[head, i.h - j.h + win - 1, i.w - j.w +
            win - 1]
        j is visible to i where (i.h + shift) // win == (j.h + shift) // win and (i.w + shift) // win == (j.w
            + shift) // win
        with win = 2, shift = 0

    Averaged over h, w, heads merged by concat; kernel: sdpa.

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
        q = self.query(x).unflatten(-1, (2, 4)).permute(0, 3, 1, 2, 4).flatten(-3, -2)
        k = self.key(x).unflatten(-1, (2, 4)).permute(0, 3, 1, 2, 4).flatten(-3, -2)
        v = self.value(x).unflatten(-1, (2, 4)).permute(0, 3, 1, 2, 4).flatten(-3, -2)
        i_h = j_h = torch.arange(h, device=q.device)
        offset_h = i_h[:, None] - j_h + 1
        i_w = j_w = torch.arange(w, device=q.device)
        offset_w = i_w[:, None] - j_w + 1
        bias = self.table[:, offset_h[:, None, :, None].clamp(0, 2), offset_w[:, None, :].clamp(0, 2)]
        visible_h = (i_h // 2)[:, None] == j_h // 2
        visible_w = (i_w // 2)[:, None] == j_w // 2
        mask = bias.masked_fill(~(visible_h[:, None, :, None] & visible_w[:, None, :]), float("-inf"))
        mask = mask.flatten(1, 2).flatten(2, 3)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).unflatten(-2, (h, w))
        y = y.permute(0, 2, 3, 1, 4).flatten(-2)
        return self.output(y)


class WindowAttention2(nn.Module):
    """window_attention(x[b, h, w, d], win, shift), shifted_windows.yaml:9.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk) + table[head, i.h - j.h + win - 1, i.w - j.w +
            win - 1]
        j is visible to i where (i.h + shift) // win == (j.h + shift) // win and (i.w + shift) // win == (j.w
            + shift) // win
        with win = 2, shift = 1

    Averaged over h, w, heads merged by concat; kernel: sdpa.

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
        q = self.query(x).unflatten(-1, (2, 4)).permute(0, 3, 1, 2, 4).flatten(-3, -2)
        k = self.key(x).unflatten(-1, (2, 4)).permute(0, 3, 1, 2, 4).flatten(-3, -2)
        v = self.value(x).unflatten(-1, (2, 4)).permute(0, 3, 1, 2, 4).flatten(-3, -2)
        i_h = j_h = torch.arange(h, device=q.device)
        offset_h = i_h[:, None] - j_h + 1
        i_w = j_w = torch.arange(w, device=q.device)
        offset_w = i_w[:, None] - j_w + 1
        bias = self.table[:, offset_h[:, None, :, None].clamp(0, 2), offset_w[:, None, :].clamp(0, 2)]
        visible_h = ((i_h + 1) // 2)[:, None] == (j_h + 1) // 2
        visible_w = ((i_w + 1) // 2)[:, None] == (j_w + 1) // 2
        mask = bias.masked_fill(~(visible_h[:, None, :, None] & visible_w[:, None, :]), float("-inf"))
        mask = mask.flatten(1, 2).flatten(2, 3)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).unflatten(-2, (h, w))
        y = y.permute(0, 2, 3, 1, 4).flatten(-2)
        return self.output(y)


class ShiftedWindows(nn.Module):
    """ShiftedWindows, compiled from shifted_windows.yaml.

    Liu et al. 2021, arXiv:2103.14030

    Inputs:
        x: float[b, h, w, d=8]
    Output:
        x: float[b, h, w, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.window_attention = nn.ModuleList([WindowAttention(), WindowAttention2()])

    def forward(self, x: Tensor) -> Tensor:
        for window_attention in self.window_attention:
            x = x + window_attention(x)
        return x
