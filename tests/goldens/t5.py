"""T5: compiled by towerdsl 0.1.0 from specs/level10/t5.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime import holds_everywhere
from towerdsl.runtime.inputs import as_declared
from towerdsl.runtime.kept import kept


class Look(nn.Module):
    """look(x, memory, keep, table, sides), specs/blocks/t5_layers.yaml:20.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) + table[head, bucket(j - i, buckets, far)]
        j is visible to i where keep[j]
        with buckets = 32, far = 128

    Averaged over m, heads merged by concat, dropout of weights 0.1; kernel: sdpa.

    x float[b, m, d=16], memory float[b, m, d=16], keep bool[b, m], table float[heads=2, buckets=32] ->
    float[b, m, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(16, 8, bias=False)
        self.key = nn.Linear(16, 8, bias=False)
        self.value = nn.Linear(16, 8, bias=False)
        self.output = nn.Linear(8, 16, bias=False)

    def forward(self, x: Tensor, memory: Tensor, keep: Tensor | None, table: Tensor) -> Tensor:
        m = x.shape[1]
        q = self.query(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k = self.key(memory).unflatten(-1, (2, 4)).transpose(1, 2)
        v = self.value(memory).unflatten(-1, (2, 4)).transpose(1, 2)
        mask = table[:, self.offset(m, q.device, q.dtype).clamp(0, 31)][None]
        if keep is not None:
            mask = mask.masked_fill(~keep[:, None, None, :], float("-inf"))
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=0.1 if self.training else 0.0, scale=1.0
        )
        y = y.transpose(1, 2).flatten(-2)
        return self.output(y)

    @kept
    def offset(self, m: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        i = j = torch.arange(m, device=device)
        r = j - i[:, None]
        r_2 = torch.abs(r)
        return (
            torch.where(r > 0, 16, 0)
            + torch.where(
                r_2 < 8,
                r_2,
                torch.clamp(
                    8 + (torch.log(torch.clamp(r_2, min=1).to(wide) / 8) / 2.772588722239781 * 8).long(),
                    max=15,
                ),
            )
        )


class Look2(nn.Module):
    """look(x, memory, keep, table, sides), specs/blocks/t5_layers.yaml:20.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) + table[head, _bucket(max(i - j, 0), buckets, far)]
        j is visible to i where keep[j] and j <= i
        with buckets = 32, far = 128

    Averaged over n, heads merged by concat, dropout of weights 0.1; kernel: sdpa.

    x float[b, n, d=16], memory float[b, n, d=16], keep bool[b, n], table float[heads=2, buckets=32] ->
    float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(16, 8, bias=False)
        self.key = nn.Linear(16, 8, bias=False)
        self.value = nn.Linear(16, 8, bias=False)
        self.output = nn.Linear(8, 16, bias=False)

    def forward(self, x: Tensor, memory: Tensor, keep: Tensor | None, table: Tensor) -> Tensor:
        n = x.shape[1]
        q = self.query(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k = self.key(memory).unflatten(-1, (2, 4)).transpose(1, 2)
        v = self.value(memory).unflatten(-1, (2, 4)).transpose(1, 2)
        bias = table[:, self.offset(n, q.device, q.dtype).clamp(0, 31)]
        mask = bias.masked_fill(~self.visible(n, q.device), float("-inf"))[None]
        if keep is not None:
            mask = mask.masked_fill(~keep[:, None, None, :], float("-inf"))
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=0.1 if self.training else 0.0, scale=1.0
        )
        y = y.transpose(1, 2).flatten(-2)
        return self.output(y)

    @kept
    def offset(self, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        i = j = torch.arange(n, device=device)
        r = torch.clamp(i[:, None] - j, min=0)
        return torch.where(
            r < 16,
            r,
            torch.clamp(
                16 + (torch.log(torch.clamp(r, min=1).to(wide) / 16) / 2.0794415416798357 * 16).long(), max=31
            ),
        )

    @kept
    def visible(self, n: int, device: torch.device) -> Tensor:
        i = j = torch.arange(n, device=device)
        return j <= i[:, None]


class Look3(nn.Module):
    """look(x, memory, keep, table, sides), specs/blocks/t5_layers.yaml:20.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) + 0
        j is visible to i where keep[j]

    Averaged over m, heads merged by concat, dropout of weights 0.1; kernel: sdpa.

    x float[b, n, d=16], memory float[b, m, d=16], keep bool[b, m], table float[heads=2, buckets=32] ->
    float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(16, 8, bias=False)
        self.key = nn.Linear(16, 8, bias=False)
        self.value = nn.Linear(16, 8, bias=False)
        self.output = nn.Linear(8, 16, bias=False)

    def forward(self, x: Tensor, memory: Tensor, keep: Tensor | None, table: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k = self.key(memory).unflatten(-1, (2, 4)).transpose(1, 2)
        v = self.value(memory).unflatten(-1, (2, 4)).transpose(1, 2)
        mask = torch.tensor(0, device=q.device, dtype=q.dtype)[None, None]
        if keep is not None:
            mask = mask.masked_fill(~keep[:, None, None, :], float("-inf"))
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=0.1 if self.training else 0.0, scale=1.0
        )
        y = y.transpose(1, 2).flatten(-2)
        return self.output(y)


class FeedForward(nn.Module):
    """feed_forward(x), specs/blocks/t5_layers.yaml:30.

        h = relu(linear(x, ff, bias=false, name=wi))
        linear(dropout(h, dropout), d, bias=false, name=wo)

    x float[b, m, d=16] -> float[b, m, d=16]
    x float[b, n, d=16] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.wi = nn.Linear(16, 24, bias=False)
        self.dropout = nn.Dropout(0.1)
        self.wo = nn.Linear(24, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.wi(x))
        return self.wo(self.dropout(h))


class EncoderLayer(nn.Module):
    """encoder_layer(x, keep, table), specs/blocks/t5_layers.yaml:37.

        h = rmsnorm(x, eps=eps, name=look_norm)
        x = x + dropout(look(h, h, keep, table, 2), dropout)
        x + dropout(feed_forward(rmsnorm(x, eps=eps, name=feed_forward_norm)), dropout)

    x float[b, m, d=16], keep bool[b, m], table float[heads=2, buckets=32] -> float[b, m, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.look_norm = nn.RMSNorm(16, eps=1e-6)
        self.look = Look()
        self.dropout = nn.Dropout(0.1)
        self.feed_forward_norm = nn.RMSNorm(16, eps=1e-6)
        self.feed_forward = FeedForward()

    def forward(self, x: Tensor, keep: Tensor | None, table: Tensor) -> Tensor:
        h = self.look_norm(x)
        x = x + self.dropout(self.look(h, h, keep, table))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class DecoderLayer(nn.Module):
    """decoder_layer(x, memory, keep, memory_keep, table), specs/blocks/t5_layers.yaml:42.

        h = rmsnorm(x, eps=eps, name=look_norm)
        x = x + dropout(look(h, h, keep, table, 1), dropout)
        h = rmsnorm(x, eps=eps, name=cross_norm)
        x = x + dropout(look(h, memory, memory_keep, table, 0, name=cross), dropout)
        x + dropout(feed_forward(rmsnorm(x, eps=eps, name=feed_forward_norm)), dropout)

    x float[b, n, d=16], memory float[b, m, d=16], keep bool[b, n], memory_keep bool[b, m],
    table float[heads=2, buckets=32] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.look_norm = nn.RMSNorm(16, eps=1e-6)
        self.look = Look2()
        self.dropout = nn.Dropout(0.1)
        self.cross_norm = nn.RMSNorm(16, eps=1e-6)
        self.cross = Look3()
        self.feed_forward_norm = nn.RMSNorm(16, eps=1e-6)
        self.feed_forward = FeedForward()

    def forward(
        self, x: Tensor, memory: Tensor, keep: Tensor | None, memory_keep: Tensor | None, table: Tensor
    ) -> Tensor:
        h = self.look_norm(x)
        x = x + self.dropout(self.look(h, h, keep, table))
        h = self.cross_norm(x)
        x = x + self.dropout(self.cross(h, memory, memory_keep, table))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class T5(nn.Module):
    """T5, compiled from specs/level10/t5.yaml.

    Raffel et al. 2020, arXiv:1910.10683

    A Transformer that answers a text with a text. Where words stand is a number, added to a score and the
    same in all layers.

    Chosen:
        act = 'relu', not gelu, silu, swish, gelu_new, gelu_fast, gelu_pytorch_tanh, quick_gelu or tanh

    Inputs:
        ids: int[b, m]
        answer: int[b, n]
        keep: bool[b, m] = true
        answer_keep: bool[b, n] = true
    Output:
        result: float[b, n, vocab=50]
    """

    checkpoints = {
        "huggingface": {
            "rules": {
                "shared.weight": "words.weight",
                "encoder.embed_tokens.weight": "words.weight",
                "decoder.embed_tokens.weight": "words.weight",
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "transpose(table)",
                "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "transpose(decoder_table)",
                "{side}.block.{l}.layer.0.SelfAttention.q.weight": "{side}.{l}.look.query.weight",
                "{side}.block.{l}.layer.0.SelfAttention.k.weight": "{side}.{l}.look.key.weight",
                "{side}.block.{l}.layer.0.SelfAttention.v.weight": "{side}.{l}.look.value.weight",
                "{side}.block.{l}.layer.0.SelfAttention.o.weight": "{side}.{l}.look.output.weight",
                "{side}.block.{l}.layer.0.layer_norm.weight": "{side}.{l}.look_norm.weight",
                "decoder.block.{l}.layer.1.EncDecAttention.q.weight": "decoder.{l}.cross.query.weight",
                "decoder.block.{l}.layer.1.EncDecAttention.k.weight": "decoder.{l}.cross.key.weight",
                "decoder.block.{l}.layer.1.EncDecAttention.v.weight": "decoder.{l}.cross.value.weight",
                "decoder.block.{l}.layer.1.EncDecAttention.o.weight": "decoder.{l}.cross.output.weight",
                "decoder.block.{l}.layer.1.layer_norm.weight": "decoder.{l}.cross_norm.weight",
                "encoder.block.{l}.layer.1.DenseReluDense.{part}.weight": "encoder.{l}.feed_forward.{part}.weight",
                "encoder.block.{l}.layer.1.layer_norm.weight": "encoder.{l}.feed_forward_norm.weight",
                "decoder.block.{l}.layer.2.DenseReluDense.{part}.weight": "decoder.{l}.feed_forward.{part}.weight",
                "decoder.block.{l}.layer.2.layer_norm.weight": "decoder.{l}.feed_forward_norm.weight",
                "{side}.final_layer_norm.weight": "{side}_norm.weight",
                "lm_head.weight": "head.weight",
            },
            "ignore": ["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"],
        },
    }

    tied = ["words.weight"]  # read in more than one place

    inputs = {
        "ids": "int[b, m], below 50",
        "answer": "int[b, n], below 50",
        "keep": "bool[b, m] = true",
        "answer_keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(2, 32))
        nn.init.normal_(self.table, std=0.02)
        self.decoder_table = nn.Parameter(torch.empty(2, 32))
        nn.init.normal_(self.decoder_table, std=0.02)
        self.words = nn.Embedding(50, 16)
        self.dropout = nn.Dropout(0.1)
        self.encoder = nn.ModuleList([EncoderLayer() for _ in range(2)])
        self.encoder_norm = nn.RMSNorm(16, eps=1e-6)
        self.decoder = nn.ModuleList([DecoderLayer()])
        self.decoder_norm = nn.RMSNorm(16, eps=1e-6)

    def forward(
        self, ids: Tensor, answer: Tensor, keep: Tensor | None = None, answer_keep: Tensor | None = None
    ) -> Tensor:
        ids, answer, keep, answer_keep = as_declared(self, ids, answer, keep, answer_keep)
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        if holds_everywhere(answer_keep):
            answer_keep = None  # attention is faster without a mask that hides nothing
        memory = self.dropout(self.words(ids))
        for encoder in self.encoder:
            memory = encoder(memory, keep, self.table)
        memory = self.dropout(self.encoder_norm(memory))
        x = self.dropout(self.words(answer))
        for decoder in self.decoder:
            x = decoder(x, memory, answer_keep, keep, self.decoder_table)
        x = self.dropout(self.decoder_norm(x))
        return F.linear(x / 4.0, self.words.weight)
