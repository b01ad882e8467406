"""Swin: compiled by towerdsl 0.1.0 from specs/level9/swin.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Patches(nn.Module):
    """patches(pixels[b, c, h, w]), specs/blocks/vision.yaml:11.

        linear(rearrange(pixels, "b c (row p) (column r) -> b row column (c p r)", p=patch, r=patch), d)

    pixels float[b, c=3, h=32, w=32] -> float[b, row=16, column=16, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 8)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.linear(
            pixels.unflatten(2, (16, 2)).unflatten(4, (16, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        )


class WindowAttention(nn.Module):
    """window_attention(x[b, h, w, c], heads, shift), specs/level9/swin.yaml:20.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk) + table[head, i.h - j.h + win - 1, i.w - j.w +
            win - 1]
        j is visible to i where (i.h - shift) // win == (j.h - shift) // win and (i.w - shift) // win == (j.w
            - shift) // win

    Averaged over h, w, heads merged by concat; kernel: sdpa.

    x float[b, h=16, w=16, c=8] -> float[b, h=16, w=16, c=8]
    x float[b, h=8, w=8, c=16] -> float[b, h=8, w=8, c=16]
    x float[b, h=4, w=4, c=32] -> float[b, h=4, w=4, c=32]
    """

    def __init__(self, heads: int, features: int, h: int, shift: int) -> None:
        super().__init__()
        self.heads = heads
        self.h = h
        self.shift = shift
        self.table = nn.Parameter(torch.empty(heads, 5, 5))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features)
        self.value = nn.Linear(features, features)
        self.output = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (self.heads, 4)).permute(0, 3, 1, 2, 4)
        k = self.key(x).unflatten(-1, (self.heads, 4)).permute(0, 3, 1, 2, 4).flatten(-3, -2)
        v = self.value(x).unflatten(-1, (self.heads, 4)).permute(0, 3, 1, 2, 4).flatten(-3, -2)
        i_h = torch.arange(self.h, device=q.device)
        j_h = torch.arange(self.h, device=q.device)
        offset_h = i_h[:, None] - j_h + 2
        i_w = torch.arange(self.h, device=q.device)
        j_w = torch.arange(self.h, device=q.device)
        offset_w = i_w[:, None] - j_w + 2
        bias = self.table[:, offset_h[:, None, :, None].clamp(0, 4), offset_w[:, None, :].clamp(0, 4)]
        visible_h = ((i_h - self.shift) // 3)[:, None] == (j_h - self.shift) // 3
        visible_w = ((i_w - self.shift) // 3)[:, None] == (j_w - self.shift) // 3
        mask = bias.masked_fill(~(visible_h[:, None, :, None] & visible_w[:, None, :]), float("-inf"))
        mask = mask.flatten(1, 2).flatten(2, 3)
        q = q.flatten(-3, -2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).unflatten(-2, (self.h, self.h))
        y = y.permute(0, 2, 3, 1, 4).flatten(-2)
        return self.output(y)


class WindowAttention2(nn.Module):
    """window_attention(x[b, h, w, c], heads, shift), specs/level9/swin.yaml:20.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk) + table[head, i.h - j.h + win - 1, i.w - j.w +
            win - 1]
        j is visible to i where (i.h - shift) // win == (j.h - shift) // win and (i.w - shift) // win == (j.w
            - shift) // win

    Averaged over h, w, heads merged by concat; kernel: sdpa.

    x float[b, h=2, w=2, c=64] -> float[b, h=2, w=2, c=64]
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(16, 5, 5))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.query = nn.Linear(64, 64)
        self.key = nn.Linear(64, 64)
        self.value = nn.Linear(64, 64)
        self.output = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (16, 4)).permute(0, 3, 1, 2, 4)
        k = self.key(x).unflatten(-1, (16, 4)).permute(0, 3, 1, 2, 4).flatten(-3, -2)
        v = self.value(x).unflatten(-1, (16, 4)).permute(0, 3, 1, 2, 4).flatten(-3, -2)
        i_h = torch.arange(2, device=q.device)
        j_h = torch.arange(2, device=q.device)
        offset_h = i_h[:, None] - j_h + 2
        i_w = torch.arange(2, device=q.device)
        j_w = torch.arange(2, device=q.device)
        offset_w = i_w[:, None] - j_w + 2
        bias = self.table[:, offset_h[:, None, :, None], offset_w[:, None, :]]
        visible_h = ((i_h - 0) // 3)[:, None] == (j_h - 0) // 3
        visible_w = ((i_w - 0) // 3)[:, None] == (j_w - 0) // 3
        mask = bias.masked_fill(~(visible_h[:, None, :, None] & visible_w[:, None, :]), float("-inf"))
        mask = mask.flatten(1, 2).flatten(2, 3)
        q = q.flatten(-3, -2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).unflatten(-2, (2, 2))
        y = y.permute(0, 2, 3, 1, 4).flatten(-2)
        return self.output(y)


class Layer(nn.Module):
    """layer(x[b, h, w, c], heads, shift, p), specs/level9/swin.yaml:31.

        x = x + drop_path(window_attention(layernorm(x, name=attention_norm), heads, shift, name=attention),
            p)
        y = gelu(linear(layernorm(x, name=feed_forward_norm), 4 * c, name=up))
        x + drop_path(linear(y, c, name=down), p)

    x float[b, h=16, w=16, c=8] -> float[b, h=16, w=16, c=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(8)
        self.attention = WindowAttention(heads=2, features=8, h=16, shift=0)
        self.feed_forward_norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 32)
        self.down = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        y = F.gelu(self.up(self.feed_forward_norm(x)))
        return x + self.down(y)


class Layer2(nn.Module):
    """layer(x[b, h, w, c], heads, shift, p), specs/level9/swin.yaml:31.

        x = x + drop_path(window_attention(layernorm(x, name=attention_norm), heads, shift, name=attention),
            p)
        y = gelu(linear(layernorm(x, name=feed_forward_norm), 4 * c, name=up))
        x + drop_path(linear(y, c, name=down), p)

    x float[b, h=16, w=16, c=8] -> float[b, h=16, w=16, c=8]
    x float[b, h=8, w=8, c=16] -> float[b, h=8, w=8, c=16]
    x float[b, h=4, w=4, c=32] -> float[b, h=4, w=4, c=32]
    """

    def __init__(self, features: int, heads: int, h: int, shift: int, p: float, features_out: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(features)
        self.attention = WindowAttention(heads=heads, features=features, h=h, shift=shift)
        self.drop_path = nn.Dropout3d(p)
        self.feed_forward_norm = nn.LayerNorm(features)
        self.up = nn.Linear(features, features_out)
        self.down = nn.Linear(features_out, features)
        self.drop_path_2 = nn.Dropout3d(p)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.attention_norm(x))[None])[0]
        y = F.gelu(self.up(self.feed_forward_norm(x)))
        return x + self.drop_path_2(self.down(y)[None])[0]


class Layer3(nn.Module):
    """layer(x[b, h, w, c], heads, shift, p), specs/level9/swin.yaml:31.

        x = x + drop_path(window_attention(layernorm(x, name=attention_norm), heads, shift, name=attention),
            p)
        y = gelu(linear(layernorm(x, name=feed_forward_norm), 4 * c, name=up))
        x + drop_path(linear(y, c, name=down), p)

    x float[b, h=2, w=2, c=64] -> float[b, h=2, w=2, c=64]
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(64)
        self.attention = WindowAttention2()
        self.drop_path = nn.Dropout3d(p)
        self.feed_forward_norm = nn.LayerNorm(64)
        self.up = nn.Linear(64, 256)
        self.down = nn.Linear(256, 64)
        self.drop_path_2 = nn.Dropout3d(p)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.attention_norm(x))[None])[0]
        y = F.gelu(self.up(self.feed_forward_norm(x)))
        return x + self.drop_path_2(self.down(y)[None])[0]


class Stage(nn.Module):
    """stage(x[b, h, w, c], heads, depth, before), specs/level9/swin.yaml:36.

        for l in depth:
            x = layer(x, heads, 0 if l % 2 == 0 or min(h, w) <= win else win // 2, drop_path * (before + l) /
                (layers - 1))
        return x

    x float[b, h=16, w=16, c=8] -> float[b, h=16, w=16, c=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            [Layer(), Layer2(features=8, heads=2, h=16, shift=1, p=0.016666666666666666, features_out=32)]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class Stage2(nn.Module):
    """stage(x[b, h, w, c], heads, depth, before), specs/level9/swin.yaml:36.

        for l in depth:
            x = layer(x, heads, 0 if l % 2 == 0 or min(h, w) <= win else win // 2, drop_path * (before + l) /
                (layers - 1))
        return x

    x float[b, h=8, w=8, c=16] -> float[b, h=8, w=8, c=16]
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            [
                Layer2(features=16, heads=4, h=8, shift=0, p=0.03333333333333333, features_out=64),
                Layer2(features=16, heads=4, h=8, shift=1, p=0.05000000000000001, features_out=64),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class Stage3(nn.Module):
    """stage(x[b, h, w, c], heads, depth, before), specs/level9/swin.yaml:36.

        for l in depth:
            x = layer(x, heads, 0 if l % 2 == 0 or min(h, w) <= win else win // 2, drop_path * (before + l) /
                (layers - 1))
        return x

    x float[b, h=4, w=4, c=32] -> float[b, h=4, w=4, c=32]
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            [
                Layer2(
                    features=32, heads=8, h=4, shift=0, p=0.06666666666666667, features_out=128
                ) for _ in range(1)
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class Stage4(nn.Module):
    """stage(x[b, h, w, c], heads, depth, before), specs/level9/swin.yaml:36.

        for l in depth:
            x = layer(x, heads, 0 if l % 2 == 0 or min(h, w) <= win else win // 2, drop_path * (before + l) /
                (layers - 1))
        return x

    x float[b, h=2, w=2, c=64] -> float[b, h=2, w=2, c=64]
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer3(p=0.08333333333333333), Layer3(p=0.10000000000000002)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


class Merge(nn.Module):
    """merge(x[b, h, w, c]), specs/level9/swin.yaml:41.

        y = rearrange(x, "b (h p) (w r) c -> b h w (r p c)", p=2, r=2)
        linear(layernorm(y, name=norm), 2 * c, bias=false, name=reduction)

    x float[b, h=16, w=16, c=8] -> float[b, h=8, w=8, 16]
    x float[b, h=8, w=8, c=16] -> float[b, h=4, w=4, 32]
    x float[b, h=4, w=4, c=32] -> float[b, h=2, w=2, 64]
    """

    def __init__(self, features: int, features_out: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.norm = nn.LayerNorm(features)
        self.reduction = nn.Linear(features, features_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x.unflatten(1, (self.size, 2)).unflatten(3, (self.size, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(y))


class Swin(nn.Module):
    """Swin, compiled from specs/level9/swin.yaml.

    Liu et al. 2021, arXiv:2103.14030

    Patches look at those in their window, windows move by half in every second layer, and four patches
    become one.

    Inputs:
        pixels: float[b, 3, image=32, image=32]
    Output:
        result: float[b, classes=1000]
    """

    checkpoints = {
        "huggingface": {
            "rules": {
                "swin.embeddings.patch_embeddings.projection.weight": "reshape(patches.linear.weight, [8, 3, 2, 2])",
                "swin.embeddings.patch_embeddings.projection.bias": "patches.linear.bias",
                "swin.embeddings.norm.{p}": "patch_norm.{p}",
                "swin.encoder.layers.{s}.blocks.{l}.layernorm_before.{p}": "stage_{s}.layer.{l}.attention_norm.{p}",
                "swin.encoder.layers.{s}.blocks.{l}.attention.self.{part}.{p}": "stage_{s}.layer.{l}.attention.{part}.{p}",
                "swin.encoder.layers.{s}.blocks.{l}.attention.self.relative_position_bias_table": "transpose(reshape(stage_{s}.layer.{l}.attention.table, [-1, 25]))",
                "swin.encoder.layers.{s}.blocks.{l}.attention.output.dense.{p}": "stage_{s}.layer.{l}.attention.output.{p}",
                "swin.encoder.layers.{s}.blocks.{l}.layernorm_after.{p}": "stage_{s}.layer.{l}.feed_forward_norm.{p}",
                "swin.encoder.layers.{s}.blocks.{l}.intermediate.dense.{p}": "stage_{s}.layer.{l}.up.{p}",
                "swin.encoder.layers.{s}.blocks.{l}.output.dense.{p}": "stage_{s}.layer.{l}.down.{p}",
                "swin.encoder.layers.{s}.downsample.{part}.{p}": "merge_{s}.{part}.{p}",
                "swin.layernorm.{p}": "norm.{p}",
                "classifier.{p}": "head.{p}",
            },
            "ignore": ["swin.encoder.layers.{s}.blocks.{l}.attention.self.relative_position_index"],
        },
    }

    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches()
        self.patch_norm = nn.LayerNorm(8)
        self.stage_0 = Stage()
        self.merge_0 = Merge(features=32, features_out=16, size=8)
        self.stage_1 = Stage2()
        self.merge_1 = Merge(features=64, features_out=32, size=4)
        self.stage_2 = Stage3()
        self.merge_2 = Merge(features=128, features_out=64, size=2)
        self.stage_3 = Stage4()
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 1000)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stage_1(self.merge_0(self.stage_0(self.patch_norm(self.patches(pixels)))))
        x = self.norm(self.stage_3(self.merge_2(self.stage_2(self.merge_1(x)))))
        return self.head(x.mean((1, 2)))
