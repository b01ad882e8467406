"""GlobalLocal: compiled by towerdsl 0.1.0 from specs/level9/global_local.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime import holds_everywhere
from towerdsl.runtime.attend import attend_with_lse, merged
from towerdsl.runtime.blocks import blocked
from towerdsl.runtime.inputs import as_declared
from towerdsl.runtime.kept import kept


class Look(nn.Module):
    """look(x, keep, near, far), specs/level9/global_local.yaml:22.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk)
        j is visible to i where (abs(i - j) < w or i < g or j < g) and keep[j]
        with w = 257, g = 1

    Averaged over n, heads merged by concat, dropout of weights 0.1; kernel: merged.

    x float[b, n, d=16], keep bool[b, n] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(16, 16)
        self.key = nn.Linear(16, 16)
        self.value = nn.Linear(16, 16)
        self.output = nn.Linear(16, 16)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        n = x.shape[1]
        q = self.query(x).unflatten(-1, (2, 8)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (2, 8)).transpose(1, 2)
        v = self.value(x).unflatten(-1, (2, 8)).transpose(1, 2)
        visible = None if keep is None else blocked(
            keep, 1, (64,), before=(256,), after=(256,)
        )[:, None, :, None, :]
        visible_2 = self.visible(q.device)
        part = attend_with_lse(
            q,
            k,
            v,
            64,
            before=256,
            after=256,
            visible=(visible, visible_2),
            dropout=0.1 if self.training else 0.0,
        )
        visible_3 = None if keep is None else keep[:, :1][:, None, None, None, :]
        visible_4 = self.visible_2(n, q.device)
        visible_5 = self.visible_3(n, q.device)[:, :, None]
        part_2 = attend_with_lse(
            q,
            k[:, :, :1],
            v[:, :, :1],
            256,
            visible=(visible_3, visible_4, visible_5),
            dropout=0.1 if self.training else 0.0,
        )
        visible_6 = None if keep is None else keep[:, None, None, None, :]
        visible_7 = self.visible_4(n, q.device)
        part_3 = attend_with_lse(
            q[:, :, :1], k, v, 1, visible=(visible_6, visible_7), dropout=0.1 if self.training else 0.0
        )
        y = merged(part, part_2, part_3).transpose(1, 2).flatten(-2)
        return self.output(y)

    @kept
    def visible(self, device: torch.device) -> Tensor:
        i = torch.arange(64, device=device)
        j = torch.arange(-256, 320, device=device)
        return torch.abs(i[:, None] - j) < 257

    @kept
    def visible_2(self, n: int, device: torch.device) -> Tensor:
        i = j = torch.arange(n, device=device)
        return blocked(~(torch.abs(i[:, None] - j[:1]) < 257), 0, (256,))

    @kept
    def visible_3(self, n: int, device: torch.device) -> Tensor:
        i = torch.arange(n, device=device)
        return blocked(~(i < 1), 0, (256,))

    @kept
    def visible_4(self, n: int, device: torch.device) -> Tensor:
        i = j = torch.arange(n, device=device)
        return blocked(~(torch.abs(i[:1][:, None] - j) < 257), 0, (1,))


class FeedForward(nn.Module):
    """feed_forward(x), specs/blocks/transformer_layers.yaml:10.

        linear(gelu(linear(x, ff, name=up)), d, name=down)

    x float[b, n, d=16] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 64)
        self.down = nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class GlobalLocal(nn.Module):
    """GlobalLocal, compiled from specs/level9/global_local.yaml.

    Beltagy et al. 2020, arXiv:2004.05150; Zaheer et al. 2020, arXiv:2007.14062

    Each token sees its neighbours; a few global tokens see all, and all see them.

    Chosen:
        act = 'gelu', not relu, silu, swish, gelu_new, gelu_fast, gelu_pytorch_tanh, quick_gelu or tanh
        pattern = 'union', not turns

    Inputs:
        ids: int[b, n]
        keep: bool[b, n] = true
    Output:
        x: float[b, n, d=16]
    """

    checkpoints = {
        "torch": {
            "rules": {
                "words.weight": "words.weight",
                "positions.weight": "positions.weight",
                "norm.{p}": "norm.{p}",
                "layers.{l}.self_attn.in_proj_{p}": "concat(attention.{l}.query.{p}, attention.{l}.key.{p}, attention.{l}.value.{p})",
                "layers.{l}.self_attn.out_proj.{p}": "attention.{l}.output.{p}",
                "layers.{l}.linear1.{p}": "feed_forward.{l}.up.{p}",
                "layers.{l}.linear2.{p}": "feed_forward.{l}.down.{p}",
                "layers.{l}.norm1.{p}": "attention_norm.{l}.{p}",
                "layers.{l}.norm2.{p}": "feed_forward_norm.{l}.{p}",
            },
        },
    }

    inputs = {
        "ids": "int[b, n], below 50, n at most 16",
        "keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.positions = nn.Embedding(16, 16)
        self.norm = nn.LayerNorm(16)
        self.dropout = nn.Dropout(0.1)
        self.attention = nn.ModuleList([Look() for _ in range(2)])
        self.attention_norm = nn.ModuleList([nn.LayerNorm(16) for _ in range(2)])
        self.feed_forward = nn.ModuleList([FeedForward() for _ in range(2)])
        self.feed_forward_norm = nn.ModuleList([nn.LayerNorm(16) for _ in range(2)])

    def forward(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        ids, keep = as_declared(self, ids, keep)
        n = ids.shape[1]
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        x = self.words(ids) + self.positions(torch.arange(n, device=ids.device))
        x = self.dropout(self.norm(x))
        for attention, attention_norm, feed_forward, feed_forward_norm in zip(
            self.attention, self.attention_norm, self.feed_forward, self.feed_forward_norm
        ):
            y = attention(x, keep)
            x = attention_norm(x + self.dropout(y))
            x = feed_forward_norm(x + self.dropout(feed_forward(x)))
        return x
