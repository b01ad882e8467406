"""Gemma: compiled by towerdsl 0.1.0 from specs/level10/gemma.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.ops.normalizers import softmax
from towerdsl.runtime import holds_everywhere
from towerdsl.runtime.blocks import blocked, joined, places_inside
from towerdsl.runtime.inputs import as_declared
from towerdsl.runtime.kept import kept


class Attention(nn.Module):
    """attention(x[b, n, d], keep, windowed), specs/blocks/rotary_layers.yaml:36.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of bounded(dot(placed(query_normed(q[i]), i, dk, n, windowed),
            placed(key_normed(k[j]), j, dk, n, windowed)) / sqrt(divisor), bound)
        j is visible to i where 0 <= i - j < window and keep[j]
        with divisor = 256, bound = 50.0, window = 4

    Averaged over n, heads on 1 key heads merged by concat; kernel: banded.

    x float[b, n, d=16], keep bool[b, n] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(16, 16, bias=False)
        self.key = nn.Linear(16, 8, bias=False)
        self.value = nn.Linear(16, 8, bias=False)
        self.query_norm = nn.RMSNorm(8, eps=1e-6).apply(lambda norm: nn.init.constant_(norm.weight, 0.0))
        self.key_norm = nn.RMSNorm(8, eps=1e-6).apply(lambda norm: nn.init.constant_(norm.weight, 0.0))
        self.output = nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        n = x.shape[1]
        q = self.query(x).unflatten(-1, (2, 8)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (1, 8)).transpose(1, 2).repeat_interleave(2, 1)
        v = self.value(x).unflatten(-1, (1, 8)).transpose(1, 2).repeat_interleave(2, 1)
        x_2 = F.rms_norm(q, (8,), 1.0 + self.query_norm.weight, eps=1e-6)
        cos = self.cos(n, q.device, q.dtype)
        sin = self.sin(n, q.device, q.dtype)
        i_blocks = blocked(x_2 * cos + x_2.roll(4, -1) * sin, 2, (64,))
        x_3 = F.rms_norm(k, (8,), 1.0 + self.key_norm.weight, eps=1e-6)
        j_blocks = blocked(x_3 * cos + x_3.roll(4, -1) * sin, 2, (64,), before=(16,))
        x_4 = torch.einsum("bhaid,bhajd->bhaij", i_blocks / 16.0, j_blocks)
        score = (50.0 * torch.tanh(x_4 / 50.0)).transpose(1, 2)
        j = torch.arange(-16, 64, device=q.device)
        i = torch.arange(64, device=q.device)
        inside = places_inside((n,), (64,), before=(16,), device=q.device)
        visible_2 = (j <= i[:, None]) & (i[:, None] - j < 4) & inside[:, None, :]
        visible = visible_2[:, None, :, :]
        if keep is not None:
            visible = visible & blocked(keep, 1, (64,), before=(16,))[:, :, None, None, :]
        weights = softmax(score, visible)
        y = torch.einsum("bahij,bhajd->bahid", weights, blocked(v, 2, (64,), before=(16,)))
        y = joined(y.transpose(1, 2), 2, (64,), (n,)).transpose(1, 2).flatten(-2)
        return self.output(y)

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


class Attention2(nn.Module):
    """attention(x[b, n, d], keep, windowed), specs/blocks/rotary_layers.yaml:36.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of bounded(dot(placed(query_normed(q[i]), i, dk, n, windowed),
            placed(key_normed(k[j]), j, dk, n, windowed)) / sqrt(divisor), bound)
        j is visible to i where j <= i and keep[j]
        with divisor = 256, bound = 50.0

    Averaged over n, heads on 1 key heads merged by concat; kernel: reference.

    x float[b, n, d=16], keep bool[b, n] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(16, 16, bias=False)
        self.key = nn.Linear(16, 8, bias=False)
        self.value = nn.Linear(16, 8, bias=False)
        self.query_norm = nn.RMSNorm(8, eps=1e-6).apply(lambda norm: nn.init.constant_(norm.weight, 0.0))
        self.key_norm = nn.RMSNorm(8, eps=1e-6).apply(lambda norm: nn.init.constant_(norm.weight, 0.0))
        self.output = nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        n = x.shape[1]
        q = self.query(x).unflatten(-1, (2, 8)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (1, 8)).transpose(1, 2).repeat_interleave(2, 1)
        v = self.value(x).unflatten(-1, (1, 8)).transpose(1, 2).repeat_interleave(2, 1)
        x_2 = F.rms_norm(q, (8,), 1.0 + self.query_norm.weight, eps=1e-6)
        cos = self.cos(n, q.device, q.dtype)
        sin = self.sin(n, q.device, q.dtype)
        x_3 = F.rms_norm(k, (8,), 1.0 + self.key_norm.weight, eps=1e-6)
        x_4 = torch.einsum(
            "bhid,bhjd->bhij", (x_2 * cos + x_2.roll(4, -1) * sin) / 16.0, x_3 * cos + x_3.roll(4, -1) * sin
        )
        score = 50.0 * torch.tanh(x_4 / 50.0)
        visible = self.visible(n, q.device)
        if keep is not None:
            visible = visible & keep[:, None, None, :]
        weights = softmax(score, visible)
        y = torch.einsum("bhij,bhjd->bhid", weights, v).transpose(1, 2).flatten(-2)
        return self.output(y)

    @kept
    def cos(self, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        i = torch.arange(n, device=device)
        index = torch.arange(8, device=device)
        angle = i[:, None] * (1 / 1000000.0 ** ((2 * (index % 4)).to(wide) / 8))
        return torch.cos(angle).to(dtype)

    @kept
    def sin(self, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        index = torch.arange(8, device=device)
        i = torch.arange(n, device=device)
        angle = i[:, None] * (1 / 1000000.0 ** ((2 * (index % 4)).to(wide) / 8))
        return (torch.where(index < 4, -1, 1) * torch.sin(angle)).to(dtype)

    @kept
    def visible(self, n: int, device: torch.device) -> Tensor:
        i = j = torch.arange(n, device=device)
        return j <= i[:, None]


class Gated(nn.Module):
    """gated(x[b, n, d], size=ff), specs/blocks/rotary_layers.yaml:48.

        y = gelu_tanh(linear(x, size, bias=mlp_bias, name=gate)) * linear(x, size, bias=mlp_bias, name=up)
        linear(y, d, bias=mlp_bias, name=down)

    x float[b, n, d=16] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 24, bias=False)
        self.up = nn.Linear(16, 24, bias=False)
        self.down = nn.Linear(24, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.gate(x), approximate="tanh") * self.up(x)
        return self.down(y)


class RotaryLayer(nn.Module):
    """rotary_layer(x, keep, windowed, l), specs/blocks/rotary_layers.yaml:52.

        y = attention(rmsnorm(x, eps=eps, offset=offset, name=attention_norm), keep, windowed)
        x = x + rmsnorm(y, eps=eps, offset=offset, name=attention_post_norm)
        y = gated(rmsnorm(x, eps=eps, offset=offset, name=feed_forward_norm), name=feed_forward)
        x + rmsnorm(y, eps=eps, offset=offset, name=feed_forward_post_norm)

    x float[b, n, d=16], keep bool[b, n] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(16, eps=1e-6).apply(lambda norm: nn.init.constant_(norm.weight, 0.0))
        self.attention = Attention()
        self.attention_post_norm = nn.RMSNorm(16, eps=1e-6).apply(
            lambda norm: nn.init.constant_(norm.weight, 0.0)
        )
        self.feed_forward_norm = nn.RMSNorm(16, eps=1e-6).apply(
            lambda norm: nn.init.constant_(norm.weight, 0.0)
        )
        self.feed_forward = Gated()
        self.feed_forward_post_norm = nn.RMSNorm(16, eps=1e-6).apply(
            lambda norm: nn.init.constant_(norm.weight, 0.0)
        )

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        y = self.attention(F.rms_norm(x, (16,), 1.0 + self.attention_norm.weight, eps=1e-6), keep)
        x = x + F.rms_norm(y, (16,), 1.0 + self.attention_post_norm.weight, eps=1e-6)
        y = self.feed_forward(F.rms_norm(x, (16,), 1.0 + self.feed_forward_norm.weight, eps=1e-6))
        return x + F.rms_norm(y, (16,), 1.0 + self.feed_forward_post_norm.weight, eps=1e-6)


class RotaryLayer2(nn.Module):
    """rotary_layer(x, keep, windowed, l), specs/blocks/rotary_layers.yaml:52.

        y = attention(rmsnorm(x, eps=eps, offset=offset, name=attention_norm), keep, windowed)
        x = x + rmsnorm(y, eps=eps, offset=offset, name=attention_post_norm)
        y = gated(rmsnorm(x, eps=eps, offset=offset, name=feed_forward_norm), name=feed_forward)
        x + rmsnorm(y, eps=eps, offset=offset, name=feed_forward_post_norm)

    x float[b, n, d=16], keep bool[b, n] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(16, eps=1e-6).apply(lambda norm: nn.init.constant_(norm.weight, 0.0))
        self.attention = Attention2()
        self.attention_post_norm = nn.RMSNorm(16, eps=1e-6).apply(
            lambda norm: nn.init.constant_(norm.weight, 0.0)
        )
        self.feed_forward_norm = nn.RMSNorm(16, eps=1e-6).apply(
            lambda norm: nn.init.constant_(norm.weight, 0.0)
        )
        self.feed_forward = Gated()
        self.feed_forward_post_norm = nn.RMSNorm(16, eps=1e-6).apply(
            lambda norm: nn.init.constant_(norm.weight, 0.0)
        )

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        y = self.attention(F.rms_norm(x, (16,), 1.0 + self.attention_norm.weight, eps=1e-6), keep)
        x = x + F.rms_norm(y, (16,), 1.0 + self.attention_post_norm.weight, eps=1e-6)
        y = self.feed_forward(F.rms_norm(x, (16,), 1.0 + self.feed_forward_norm.weight, eps=1e-6))
        return x + F.rms_norm(y, (16,), 1.0 + self.feed_forward_post_norm.weight, eps=1e-6)


class Gemma(nn.Module):
    """Gemma, compiled from specs/level10/gemma.yaml.

    Gemma Team 2024, arXiv:2408.00118 (Gemma 2), and 2025, arXiv:2503.19786 (Gemma 3)

    Llama with windows in most layers, norms before and after each half of a layer, and scores that have a
    bound.

    Chosen:
        rope = 'default', not linear, dynamic, llama3, yarn or longrope
        act = 'gelu_pytorch_tanh', not gelu, relu, silu, swish, gelu_new, gelu_fast, quick_gelu or tanh

    Inputs:
        ids: int[b, n]
        keep: bool[b, n] = true
    Output:
        result: float[b, n, vocab=50]
    """

    checkpoints = {
        "huggingface": {
            "rules": {
                "embed_tokens.weight": "words.weight",
                "layers.{l}.self_attn.q_proj.{p}": "layer.{l}.attention.query.{p}",
                "layers.{l}.self_attn.k_proj.{p}": "layer.{l}.attention.key.{p}",
                "layers.{l}.self_attn.v_proj.{p}": "layer.{l}.attention.value.{p}",
                "layers.{l}.self_attn.o_proj.{p}": "layer.{l}.attention.output.{p}",
                "layers.{l}.self_attn.q_norm.weight": "layer.{l}.attention.query_norm.weight",
                "layers.{l}.self_attn.k_norm.weight": "layer.{l}.attention.key_norm.weight",
                "layers.{l}.mlp.gate_proj.{p}": "layer.{l}.feed_forward.gate.{p}",
                "layers.{l}.mlp.up_proj.{p}": "layer.{l}.feed_forward.up.{p}",
                "layers.{l}.mlp.down_proj.{p}": "layer.{l}.feed_forward.down.{p}",
                "layers.{l}.input_layernorm.weight": "layer.{l}.attention_norm.weight",
                "norm.weight": "norm.weight",
                "lm_head.weight": "head.weight",
                "layers.{l}.post_attention_layernorm.weight": "layer.{l}.attention_post_norm.weight",
                "layers.{l}.pre_feedforward_layernorm.weight": "layer.{l}.feed_forward_norm.weight",
                "layers.{l}.post_feedforward_layernorm.weight": "layer.{l}.feed_forward_post_norm.weight",
            },
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
        self.layer = nn.ModuleList([RotaryLayer(), RotaryLayer2()])
        self.norm = nn.RMSNorm(16, eps=1e-6).apply(lambda norm: nn.init.constant_(norm.weight, 0.0))

    def forward(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        ids, keep = as_declared(self, ids, keep)
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        x = 4.0 * self.words(ids)
        for layer in self.layer:
            x = layer(x, keep)
        x = F.rms_norm(x, (16,), 1.0 + self.norm.weight, eps=1e-6)
        return F.linear(x, self.words.weight)
