"""Bert: compiled by towerdsl 0.1.0 from specs/level4/bert.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime import holds_everywhere
from towerdsl.runtime.inputs import as_declared


class Attention(nn.Module):
    """attention(query, key, value, keep, causal=false), specs/level2/multi_head_attention.yaml:16.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk)
        j is visible to i where keep[j]

    Averaged over n, heads merged by concat, dropout of weights 0.1; kernel: sdpa.

    query float[b, n, d=16], key float[b, n, d=16], value float[b, n, d=16], keep bool[b, n] ->
    float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(16, 16)
        self.key = nn.Linear(16, 16)
        self.value = nn.Linear(16, 16)
        self.output = nn.Linear(16, 16)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None) -> Tensor:
        q = self.query(query).unflatten(-1, (2, 8)).transpose(1, 2)
        k = self.key(key).unflatten(-1, (2, 8)).transpose(1, 2)
        v = self.value(value).unflatten(-1, (2, 8)).transpose(1, 2)
        mask = None if keep is None else keep[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.1 if self.training else 0.0)
        y = y.transpose(1, 2).flatten(-2)
        return self.output(y)


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


class EncoderLayer(nn.Module):
    """encoder_layer(x, keep), specs/blocks/transformer_layers.yaml:13.

        x = layernorm(x + dropout(attention(x, x, x, keep), dropout), eps=eps, name=attention_norm)
        x = layernorm(x + dropout(feed_forward(x), dropout), eps=eps, name=feed_forward_norm)
        return x

    x float[b, n, d=16], keep bool[b, n] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.dropout = nn.Dropout(0.1)
        self.attention_norm = nn.LayerNorm(16, eps=1e-12)
        self.feed_forward = FeedForward()
        self.feed_forward_norm = nn.LayerNorm(16, eps=1e-12)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, x, x, keep)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class Bert(nn.Module):
    """Bert, compiled from specs/level4/bert.yaml.

    Devlin et al. 2018, arXiv:1810.04805

    A Transformer encoder in which every token sees all others, to the left and to the right.

    Chosen:
        act = 'gelu', not relu, silu, swish, gelu_new, gelu_fast, gelu_pytorch_tanh, quick_gelu or tanh

    Inputs:
        ids: int[b, n]
        segment: int[b, n] = 0
        keep: bool[b, n] = true
    Output:
        x: float[b, n, d=16]
    """

    checkpoints = {
        "huggingface": {
            "rules": {
                "embeddings.word_embeddings.weight": "words.weight",
                "embeddings.position_embeddings.weight": "positions.weight",
                "embeddings.token_type_embeddings.weight": "segments.weight",
                "embeddings.LayerNorm.{p}": "norm.{p}",
                "encoder.layer.{l}.attention.self.{part}.{p}": "layer.{l}.attention.{part}.{p}",
                "encoder.layer.{l}.attention.output.dense.{p}": "layer.{l}.attention.output.{p}",
                "encoder.layer.{l}.attention.output.LayerNorm.{p}": "layer.{l}.attention_norm.{p}",
                "encoder.layer.{l}.intermediate.dense.{p}": "layer.{l}.feed_forward.up.{p}",
                "encoder.layer.{l}.output.dense.{p}": "layer.{l}.feed_forward.down.{p}",
                "encoder.layer.{l}.output.LayerNorm.{p}": "layer.{l}.feed_forward_norm.{p}",
                "pooler.dense.{p}": "next_sentence.pooler.{p}",
                "cls.seq_relationship.{p}": "next_sentence.score.{p}",
                "cls.predictions.transform.dense.{p}": "masked_words.transform.{p}",
                "cls.predictions.transform.LayerNorm.{p}": "masked_words.norm.{p}",
                "cls.predictions.decoder.bias": "masked_words.bias",
                "cls.predictions.bias": "masked_words.bias",
            },
            "ignore": ["embeddings.position_ids", "cls.predictions.decoder.weight"],
            "prefix": ["bert."],
            "rename": {
                "gamma": "weight",
                "beta": "bias",
            },
        },
    }

    inputs = {
        "ids": "int[b, n], below 50, n at most 16",
        "segment": "int[b, n] = 0, below 2",
        "keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16).apply(lambda table: nn.init.normal_(table.weight, std=0.02))
        self.positions = nn.Embedding(16, 16).apply(lambda table: nn.init.normal_(table.weight, std=0.02))
        self.segments = nn.Embedding(2, 16).apply(lambda table: nn.init.normal_(table.weight, std=0.02))
        self.norm = nn.LayerNorm(16, eps=1e-12)
        self.dropout = nn.Dropout(0.1)
        self.layer = nn.ModuleList([EncoderLayer() for _ in range(2)])

    def forward(self, ids: Tensor, segment: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        ids, segment, keep = as_declared(self, ids, segment, keep)
        b, n = ids.shape
        if segment is None:
            segment = torch.zeros(b, n, device=ids.device, dtype=torch.long)
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        x = self.words(ids) + self.positions(torch.arange(n, device=ids.device)) + self.segments(segment)
        x = self.dropout(self.norm(x))
        for layer in self.layer:
            x = layer(x, keep)
        return x
