"""Deberta: compiled by towerdsl 0.1.0 from specs/level10/deberta.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime import holds_everywhere
from towerdsl.runtime.inputs import as_declared
from towerdsl.runtime.kept import kept


class Embeddings(nn.Module):
    """embeddings(x[b, n, d], segment), specs/level10/deberta.yaml:25.

        dropout(layernorm(x, eps=eps, name=norm), dropout)

    x float[b, n, d=16], segment int[b, n] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16, eps=1e-7)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, segment: Tensor) -> Tensor:
        return self.dropout(self.norm(x))


class ByHead(nn.Module):
    """by_head(x[b, n, d], places[r, d]), specs/blocks/disentangled_layers.yaml:31.

        words = rearrange(x, "b n (heads dk) -> b n heads dk", heads=heads)
        dot(words, rearrange(places, "r (heads dk) -> r heads dk", heads=heads))

    x float[b, n, d=16], places float[r=16, d=16] -> float[b, n, heads=2, r=16]
    """

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        words = x.unflatten(2, (2, 8))
        return torch.einsum("bnhd,rhd->bnhr", words, places.unflatten(1, (2, 8)))


class Attention(nn.Module):
    """attention(x[b, n, d], keep, places[r, d]), specs/blocks/disentangled_layers.yaml:35.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of (dot(q[i], k[j]) + asked[i, head, clip(where(abs(i - j) <= buckets // 2, i
            - j, sign(i - j) * (buckets // 2 - int(floor(-(log(max(abs(i - j), 1) / (buckets // 2)) /
            log((reach - 1) / (buckets // 2)) * (buckets // 2 - 1)))))) + span, 0, 2 * span - 1)] +
            answered[j, head, clip(where(abs(i - j) <= buckets // 2, i - j, sign(i - j) * (buckets // 2 -
            int(floor(-(log(max(abs(i - j), 1) / (buckets // 2)) / log((reach - 1) / (buckets // 2)) *
            (buckets // 2 - 1)))))) + span, 0, 2 * span - 1)]) / sqrt(dk * (1 + 1 + 1))
        j is visible to i where keep[j]
        with buckets = 8, reach = 16, span = 8

    Averaged over n, heads merged by concat, dropout of weights 0.1; kernel: sdpa.

    x float[b, n, d=16], keep bool[b, n], places float[r=16, d=16] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.asking = nn.Linear(16, 16)
        self.answering = nn.Linear(16, 16)
        self.by_head = ByHead()
        self.by_head_2 = ByHead()
        self.value = nn.Linear(16, 16)
        self.output = nn.Linear(16, 16)

    def forward(self, x: Tensor, keep: Tensor | None, places: Tensor) -> Tensor:
        n = x.shape[1]
        asks = self.asking(x)
        answers = self.answering(x)
        keys = self.answering(places)
        asked = self.by_head(asks, keys)
        queries = self.asking(places)
        answered = self.by_head_2(answers, queries)
        q = asks.unflatten(-1, (2, 8)).transpose(1, 2)
        k = answers.unflatten(-1, (2, 8)).transpose(1, 2)
        v = self.value(x).unflatten(-1, (2, 8)).transpose(1, 2)
        mask = (
            0.20412414523193154
            * asked.transpose(1, 2)[
                :, :, torch.arange(n, device=q.device)[:, None], self.offset(n, q.device, q.dtype)
            ]
            + 0.20412414523193154
            * answered.transpose(1, 2)[
                :, :, torch.arange(n, device=q.device), self.offset(n, q.device, q.dtype)
            ]
        )
        if keep is not None:
            mask = mask.masked_fill(~keep[:, None, None, :], float("-inf"))
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=0.1 if self.training else 0.0, scale=0.20412414523193154
        )
        y = y.transpose(1, 2).flatten(-2)
        return self.output(y)

    @kept
    def offset(self, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        i = j = torch.arange(n, device=device)
        r = i[:, None] - j
        return torch.clamp(
            torch.where(
                torch.abs(r) <= 4,
                r,
                torch.sign(r)
                * (
                    4
                    - torch.floor(
                        -(torch.log(torch.clamp(torch.abs(r), min=1).to(wide) / 4) / 1.3217558399823195 * 3)
                    ).long()
                ),
            )
            + 8,
            0,
            15,
        )


class DisentangledLayer(nn.Module):
    """disentangled_layer(x, keep, places), specs/blocks/disentangled_layers.yaml:59.

        x = layernorm(x + dropout(attention(x, keep, places), dropout), eps=eps, name=attention_norm)
        h = linear(gelu(linear(x, ff, name=up)), d, name=down)
        layernorm(x + dropout(h, dropout), eps=eps, name=feed_forward_norm)

    x float[b, n, d=16], keep bool[b, n], places float[16, d=16] -> float[b, n, d=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.dropout = nn.Dropout(0.1)
        self.attention_norm = nn.LayerNorm(16, eps=1e-7)
        self.up = nn.Linear(16, 64)
        self.down = nn.Linear(64, 16)
        self.feed_forward_norm = nn.LayerNorm(16, eps=1e-7)

    def forward(self, x: Tensor, keep: Tensor | None, places: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, keep, places)))
        h = self.down(F.gelu(self.up(x)))
        return self.feed_forward_norm(x + self.dropout(h))


class Deberta(nn.Module):
    """Deberta, compiled from specs/level10/deberta.yaml.

    He et al. 2020, arXiv:2006.03654; He et al. 2021, arXiv:2111.09543 (v3)

    BERT in which what a word is and where it stands are compared each by itself.

    Chosen:
        act = 'gelu', not relu, silu, swish, gelu_new, gelu_fast, gelu_pytorch_tanh, quick_gelu or tanh

    Inputs:
        ids: int[b, n]
        segment: int[b, n] = 0
        keep: bool[b, n] = true
    Output:
        result: float[b, n, d=16]
    """

    checkpoints = {
        "huggingface": {
            "rules": {
                "embeddings.word_embeddings.weight": "words.weight",
                "embeddings.position_embeddings.weight": "embeddings.positions.weight",
                "embeddings.token_type_embeddings.weight": "embeddings.segments.weight",
                "embeddings.LayerNorm.{p}": "embeddings.norm.{p}",
                "encoder.rel_embeddings.weight": "places",
                "encoder.LayerNorm.{p}": "place_norm.{p}",
                "encoder.layer.{l}.attention.output.dense.{p}": "layer.{l}.attention.output.{p}",
                "encoder.layer.{l}.attention.output.LayerNorm.{p}": "layer.{l}.attention_norm.{p}",
                "encoder.layer.{l}.intermediate.dense.{p}": "layer.{l}.up.{p}",
                "encoder.layer.{l}.output.dense.{p}": "layer.{l}.down.{p}",
                "encoder.layer.{l}.output.LayerNorm.{p}": "layer.{l}.feed_forward_norm.{p}",
                "cls.predictions.transform.dense.{p}": "masked_words.transform.{p}",
                "cls.predictions.transform.LayerNorm.{p}": "masked_words.norm.{p}",
                "cls.predictions.bias": "masked_words.bias",
                "cls.predictions.decoder.bias": "masked_words.bias",
                "encoder.layer.{l}.attention.self.query_proj.{p}": "layer.{l}.attention.asking.{p}",
                "encoder.layer.{l}.attention.self.key_proj.{p}": "layer.{l}.attention.answering.{p}",
                "encoder.layer.{l}.attention.self.value_proj.{p}": "layer.{l}.attention.value.{p}",
                "encoder.layer.{l}.attention.self.pos_key_proj.{p}": "layer.{l}.attention.place_key.{p}",
                "encoder.layer.{l}.attention.self.pos_query_proj.{p}": "layer.{l}.attention.place_query.{p}",
            },
            "ignore": ["embeddings.position_ids", "cls.predictions.decoder.weight"],
            "prefix": ["deberta."],
        },
        "first": {
            "rules": {
                "embeddings.word_embeddings.weight": "words.weight",
                "embeddings.position_embeddings.weight": "embeddings.positions.weight",
                "embeddings.token_type_embeddings.weight": "embeddings.segments.weight",
                "embeddings.LayerNorm.{p}": "embeddings.norm.{p}",
                "encoder.rel_embeddings.weight": "places",
                "encoder.layer.{l}.attention.output.dense.{p}": "layer.{l}.attention.output.{p}",
                "encoder.layer.{l}.attention.output.LayerNorm.{p}": "layer.{l}.attention_norm.{p}",
                "encoder.layer.{l}.intermediate.dense.{p}": "layer.{l}.up.{p}",
                "encoder.layer.{l}.output.dense.{p}": "layer.{l}.down.{p}",
                "encoder.layer.{l}.output.LayerNorm.{p}": "layer.{l}.feed_forward_norm.{p}",
                "cls.predictions.transform.dense.{p}": "masked_words.transform.{p}",
                "cls.predictions.transform.LayerNorm.{p}": "masked_words.norm.{p}",
                "cls.predictions.bias": "masked_words.bias",
                "cls.predictions.decoder.bias": "masked_words.bias",
                "encoder.layer.{l}.attention.self.in_proj.weight": "reshape(concat(reshape(layer.{l}.attention.asking.weight, [2, -1, 16]), reshape(layer.{l}.attention.answering.weight, [2, -1, 16]), reshape(layer.{l}.attention.value.weight, [2, -1, 16]), dim=1), [-1, 16])",
                "encoder.layer.{l}.attention.self.q_bias": "layer.{l}.attention.asking.bias",
                "encoder.layer.{l}.attention.self.v_bias": "layer.{l}.attention.value.bias",
                "encoder.layer.{l}.attention.self.pos_proj.{p}": "layer.{l}.attention.place_key.{p}",
                "encoder.layer.{l}.attention.self.pos_q_proj.{p}": "layer.{l}.attention.place_query.{p}",
            },
            "ignore": ["embeddings.position_ids", "cls.predictions.decoder.weight"],
            "prefix": ["deberta."],
        },
    }

    inputs = {
        "ids": "int[b, n], below 50",
        "keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.empty(16, 16))
        nn.init.normal_(self.places, std=0.02)
        self.words = nn.Embedding(50, 16).apply(lambda table: nn.init.normal_(table.weight, std=0.02))
        self.embeddings = Embeddings()
        self.place_norm = nn.LayerNorm(16, eps=1e-7)
        self.dropout = nn.Dropout(0.1)
        self.layer = nn.ModuleList([DisentangledLayer()])

    def forward(self, ids: Tensor, segment: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        ids, keep = as_declared(self, ids, keep)
        b, n = ids.shape
        if segment is None:
            segment = torch.zeros(b, n, device=ids.device, dtype=torch.long)
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        x = self.embeddings(self.words(ids), segment)
        at_places = self.dropout(self.place_norm(self.places))
        for layer in self.layer:
            x = layer(x, keep, at_places)
        return x
