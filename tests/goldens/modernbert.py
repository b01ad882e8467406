"""Modernbert: compiled by towerdsl 0.1.0 from specs/level10/modernbert.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime import holds_everywhere
from towerdsl.runtime.attend import attend
from towerdsl.runtime.blocks import blocked
from towerdsl.runtime.inputs import as_declared
from towerdsl.runtime.kept import kept


class Attention(nn.Module):
    """attention(x, keep, near, base), specs/blocks/local_global_layers.yaml:22.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(rope(q[i], i, dk, base), rope(k[j], j, dk, base)) / sqrt(dk)
        j is visible to i where keep[j]
        with base = 160000.0

    Averaged over n, heads merged by concat; kernel: sdpa.

    x float[b, n, d=16], keep bool[b, n] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(16, 16, bias=False)
        self.key = nn.Linear(16, 16, bias=False)
        self.value = nn.Linear(16, 16, bias=False)
        self.output = nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        n = x.shape[1]
        q = self.query(x).unflatten(-1, (2, 8)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (2, 8)).transpose(1, 2)
        v = self.value(x).unflatten(-1, (2, 8)).transpose(1, 2)
        cos = self.cos(n, q.device, q.dtype)
        sin = self.sin(n, q.device, q.dtype)
        q = q * cos + q.roll(4, -1) * sin
        k = k * cos + k.roll(4, -1) * sin
        mask = None if keep is None else keep[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)
        return self.output(y)

    @kept
    def cos(self, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        i = torch.arange(n, device=device)
        index = torch.arange(8, device=device)
        angle = i[:, None] * (1 / 160000.0 ** ((2 * (index % 4)).to(wide) / 8))
        return torch.cos(angle).to(dtype)

    @kept
    def sin(self, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        index = torch.arange(8, device=device)
        i = torch.arange(n, device=device)
        angle = i[:, None] * (1 / 160000.0 ** ((2 * (index % 4)).to(wide) / 8))
        return (torch.where(index < 4, -1, 1) * torch.sin(angle)).to(dtype)


class Attention2(nn.Module):
    """attention(x, keep, near, base), specs/blocks/local_global_layers.yaml:22.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(rope(q[i], i, dk, base), rope(k[j], j, dk, base)) / sqrt(dk)
        j is visible to i where keep[j] and abs(i - j) <= window // 2
        with base = 10000.0, window = 128

    Averaged over n, heads merged by concat; kernel: banded.

    x float[b, n, d=16], keep bool[b, n] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(16, 16, bias=False)
        self.key = nn.Linear(16, 16, bias=False)
        self.value = nn.Linear(16, 16, bias=False)
        self.output = nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        n = x.shape[1]
        q = self.query(x).unflatten(-1, (2, 8)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (2, 8)).transpose(1, 2)
        v = self.value(x).unflatten(-1, (2, 8)).transpose(1, 2)
        visible = self.visible(q.device)
        visible_2 = None if keep is None else blocked(
            keep, 1, (64,), before=(64,), after=(64,)
        )[:, None, :, None, :]
        cos = self.cos(n, q.device, q.dtype)
        sin = self.sin(n, q.device, q.dtype)
        y = attend(
            q * cos + q.roll(4, -1) * sin,
            k * cos + k.roll(4, -1) * sin,
            v,
            64,
            before=64,
            after=64,
            visible=(visible, visible_2),
        )
        y = y.transpose(1, 2).flatten(-2)
        return self.output(y)

    @kept
    def visible(self, device: torch.device) -> Tensor:
        i = torch.arange(64, device=device)
        j = torch.arange(-64, 128, device=device)
        return torch.abs(i[:, None] - j) < 65

    @kept
    def cos(self, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        i = torch.arange(n, device=device)
        index = torch.arange(8, device=device)
        angle = i[:, None] * (1 / 10000.0 ** ((2 * (index % 4)).to(wide) / 8))
        return torch.cos(angle).to(dtype)

    @kept
    def sin(self, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        index = torch.arange(8, device=device)
        i = torch.arange(n, device=device)
        angle = i[:, None] * (1 / 10000.0 ** ((2 * (index % 4)).to(wide) / 8))
        return (torch.where(index < 4, -1, 1) * torch.sin(angle)).to(dtype)


class LocalGlobalLayer(nn.Module):
    """local_global_layer(x, keep, first, near), specs/blocks/local_global_layers.yaml:32.

        h = x
        x = x + attention(h, keep, near, base)
        h = layernorm(x, eps=eps, bias=norm_bias, name=feed_forward_norm)
        h = gelu(linear(h, ff, bias=mlp_bias, name=gate)) * linear(h, ff, bias=mlp_bias, name=up)
        x + linear(h, d, bias=mlp_bias, name=down)

    x float[b, n, d=16], keep bool[b, n] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.feed_forward_norm = nn.LayerNorm(16, bias=False)
        self.gate = nn.Linear(16, 24, bias=False)
        self.up = nn.Linear(16, 24, bias=False)
        self.down = nn.Linear(24, 16, bias=False)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        h = x
        x = x + self.attention(h, keep)
        h = self.feed_forward_norm(x)
        h = F.gelu(self.gate(h)) * self.up(h)
        return x + self.down(h)


class LocalGlobalLayer2(nn.Module):
    """local_global_layer(x, keep, first, near), specs/blocks/local_global_layers.yaml:32.

        h = layernorm(x, eps=eps, bias=norm_bias, name=attention_norm)
        x = x + attention(h, keep, near, near_base)
        h = layernorm(x, eps=eps, bias=norm_bias, name=feed_forward_norm)
        h = gelu(linear(h, ff, bias=mlp_bias, name=gate)) * linear(h, ff, bias=mlp_bias, name=up)
        x + linear(h, d, bias=mlp_bias, name=down)

    x float[b, n, d=16], keep bool[b, n] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(16, bias=False)
        self.attention = Attention2()
        self.feed_forward_norm = nn.LayerNorm(16, bias=False)
        self.gate = nn.Linear(16, 24, bias=False)
        self.up = nn.Linear(16, 24, bias=False)
        self.down = nn.Linear(24, 16, bias=False)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        h = self.attention_norm(x)
        x = x + self.attention(h, keep)
        h = self.feed_forward_norm(x)
        h = F.gelu(self.gate(h)) * self.up(h)
        return x + self.down(h)


class MaskedWords(nn.Module):
    """masked_words(x, table), specs/level10/modernbert.yaml:22.

        x = layernorm(gelu(linear(x, d, bias=head_bias, name=transform)), eps=eps, bias=norm_bias, name=norm)
        dot(x, table) + shift

    x float[b, n, d=16], table float[vocab=50, d=16] -> float[b, n, vocab=50]
    """

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.empty(50))
        nn.init.zeros_(self.shift)
        self.transform = nn.Linear(16, 16, bias=False)
        self.norm = nn.LayerNorm(16, bias=False)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        x = self.norm(F.gelu(self.transform(x)))
        return F.linear(x, table) + self.shift


class Modernbert(nn.Module):
    """Modernbert, compiled from specs/level10/modernbert.yaml.

    Warner et al. 2024, arXiv:2412.13663

    BERT with rotary positions, gates and no biases. One layer in three sees all of a text, the others
    what is near.

    Chosen:
        act = 'gelu', not relu, silu, swish, gelu_new, gelu_fast, gelu_pytorch_tanh, quick_gelu or tanh

    Inputs:
        ids: int[b, n]
        keep: bool[b, n] = true
    Output:
        result: float[b, n, vocab=50]
    """

    checkpoints = {
        "huggingface": {
            "rules": {
                "embeddings.tok_embeddings.weight": "words.weight",
                "embeddings.norm.{p}": "word_norm.{p}",
                "layers.{l}.attn_norm.{p}": "layer.{l}.attention_norm.{p}",
                "layers.{l}.attn.Wqkv.{p}": "concat(layer.{l}.attention.query.{p}, layer.{l}.attention.key.{p}, layer.{l}.attention.value.{p})",
                "layers.{l}.attn.Wo.{p}": "layer.{l}.attention.output.{p}",
                "layers.{l}.mlp_norm.{p}": "layer.{l}.feed_forward_norm.{p}",
                "layers.{l}.mlp.Wi.{p}": "concat(layer.{l}.gate.{p}, layer.{l}.up.{p})",
                "layers.{l}.mlp.Wo.{p}": "layer.{l}.down.{p}",
                "final_norm.{p}": "norm.{p}",
                "head.dense.{p}": "masked_words.transform.{p}",
                "head.norm.{p}": "masked_words.norm.{p}",
                "decoder.bias": "masked_words.shift",
            },
            "ignore": ["decoder.weight"],
            "prefix": ["model."],
        },
    }

    tied = ["words.weight"]  # read in more than one place

    inputs = {
        "ids": "int[b, n], below 50",
        "keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16).apply(lambda table: nn.init.normal_(table.weight, std=0.02))
        self.word_norm = nn.LayerNorm(16, bias=False)
        self.layer = nn.ModuleList([LocalGlobalLayer(), LocalGlobalLayer2()])
        self.norm = nn.LayerNorm(16, bias=False)
        self.masked_words = MaskedWords()

    def forward(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        ids, keep = as_declared(self, ids, keep)
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        x = self.word_norm(self.words(ids))
        for layer in self.layer:
            x = layer(x, keep)
        x = self.norm(x)
        return self.masked_words(x, self.words.weight)
