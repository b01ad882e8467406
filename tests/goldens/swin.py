"""Swin: compiled by towerdsl 0.1.0 from specs/level9/swin.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime.attend import attention_of_batches
from towerdsl.runtime.blocks import blocked, joined
from towerdsl.runtime.inputs import as_declared
from towerdsl.runtime.kept import kept


class Patches(nn.Module):
    """patches(pixels[b, c, h, w]), specs/blocks/vision.yaml:11.

        linear(rearrange(pixels, "b c (row p) (column r) -> b row column (c p r)", p=patch, r=patch), d)

    pixels float[b, c=3, h=48, w=48] -> float[b, row=24, column=24, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 8)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.linear(
            pixels.unflatten(2, (24, 2)).unflatten(4, (24, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        )


class WindowAttention(nn.Module):
    """window_attention(x[b, h, w, c], heads, shift), specs/level9/swin.yaml:20.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk) + table[head, i.h - j.h + win - 1, i.w - j.w +
            win - 1]
        j is visible to i where (i.h - shift) // win == (j.h - shift) // win and (i.w - shift) // win == (j.w
            - shift) // win
        with win = 3, shift = 0

    Averaged over h, w, heads merged by concat; kernel: partition.

    x float[b, h=24, w=24, c=8] -> float[b, h=24, w=24, c=8]
    x float[b, h=12, w=12, c=16] -> float[b, h=12, w=12, c=16]
    x float[b, h=6, w=6, c=32] -> float[b, h=6, w=6, c=32]
    """

    def __init__(self, heads: int, features: int, head_dim: int, h: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.h = h
        self.table = nn.Parameter(torch.empty(heads, 5, 5))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features)
        self.value = nn.Linear(features, features)
        self.output = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        x_blocks = blocked(x, 1, (3, 3))
        q = self.query(x_blocks).unflatten(-1, (self.heads, self.head_dim)).transpose(2, 3)
        k = self.key(x_blocks).unflatten(-1, (self.heads, self.head_dim)).transpose(2, 3)
        v = self.value(x_blocks).unflatten(-1, (self.heads, self.head_dim)).transpose(2, 3)
        mask = self.table[:, self.offset_h(q.device), self.offset_w(q.device)][None, None, :, :, :]
        y = attention_of_batches(q, k, v, attn_mask=mask, full=True)
        y = joined(y.transpose(2, 3).flatten(-2), 1, (3, 3), (self.h, self.h))
        return self.output(y)

    @kept
    def offset_h(self, device: torch.device) -> Tensor:
        i_h = j_h = torch.arange(3, device=device)[:, None].expand(3, 3).flatten()
        return i_h[:, None] - j_h + 2

    @kept
    def offset_w(self, device: torch.device) -> Tensor:
        i_w = j_w = torch.arange(3, device=device).expand(3, 3).flatten()
        return i_w[:, None] - j_w + 2


class WindowAttention2(nn.Module):
    """window_attention(x[b, h, w, c], heads, shift), specs/level9/swin.yaml:20.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk) + table[head, i.h - j.h + win - 1, i.w - j.w +
            win - 1]
        j is visible to i where (i.h - shift) // win == (j.h - shift) // win and (i.w - shift) // win == (j.w
            - shift) // win
        with win = 3, shift = 1

    Averaged over h, w, heads merged by concat; kernel: partition.

    x float[b, h=24, w=24, c=8] -> float[b, h=24, w=24, c=8]
    x float[b, h=12, w=12, c=16] -> float[b, h=12, w=12, c=16]
    x float[b, h=6, w=6, c=32] -> float[b, h=6, w=6, c=32]
    """

    def __init__(self, heads: int, features: int, head_dim: int, h: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.h = h
        self.table = nn.Parameter(torch.empty(heads, 5, 5))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features)
        self.value = nn.Linear(features, features)
        self.output = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        x_blocks = blocked(x, 1, (3, 3), shift=(2, 2), wrap=(True, True))
        q = self.query(x_blocks).unflatten(-1, (self.heads, self.head_dim)).transpose(2, 3)
        k = self.key(x_blocks).unflatten(-1, (self.heads, self.head_dim)).transpose(2, 3)
        v = self.value(x_blocks).unflatten(-1, (self.heads, self.head_dim)).transpose(2, 3)
        bias = self.table[:, self.offset_h(q.device), self.offset_w(q.device)]
        visible_place = self.visible(q.device)
        mask = bias.masked_fill(~visible_place[:, None, :, :], float("-inf"))[None]
        y = attention_of_batches(q, k, v, attn_mask=mask, full=True)
        y = joined(
            y.transpose(2, 3).flatten(-2), 1, (3, 3), (self.h, self.h), shift=(2, 2), wrap=(True, True)
        )
        return self.output(y)

    @kept
    def offset_h(self, device: torch.device) -> Tensor:
        i_h = j_h = torch.arange(3, device=device)[:, None].expand(3, 3).flatten()
        return i_h[:, None] - j_h + 2

    @kept
    def offset_w(self, device: torch.device) -> Tensor:
        i_w = j_w = torch.arange(3, device=device).expand(3, 3).flatten()
        return i_w[:, None] - j_w + 2

    @kept
    def visible(self, device: torch.device) -> Tensor:
        i_h = torch.arange(self.h, device=device)
        blocks = blocked(
            ((i_h + 2) // 3)[:, None].expand(-1, self.h), 0, (3, 3), shift=(2, 2), wrap=(True, True)
        )
        i_w = torch.arange(self.h, device=device)
        blocks_2 = blocked(((i_w + 2) // 3).expand(self.h, -1), 0, (3, 3), shift=(2, 2), wrap=(True, True))
        return (blocks[:, :, None] == blocks[:, None, :]) & (blocks_2[:, :, None] == blocks_2[:, None, :])


class WindowAttention3(nn.Module):
    """window_attention(x[b, h, w, c], heads, shift), specs/level9/swin.yaml:20.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk) + table[head, i.h - j.h + win - 1, i.w - j.w +
            win - 1]
        with win = 3, shift = 0

    Averaged over h, w, heads merged by concat; kernel: sdpa.

    x float[b, h=3, w=3, c=64] -> float[b, h=3, w=3, c=64]
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(4, 5, 5))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.query = nn.Linear(64, 64)
        self.key = nn.Linear(64, 64)
        self.value = nn.Linear(64, 64)
        self.output = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (4, 16)).permute(0, 3, 1, 2, 4).flatten(-3, -2)
        k = self.key(x).unflatten(-1, (4, 16)).permute(0, 3, 1, 2, 4).flatten(-3, -2)
        v = self.value(x).unflatten(-1, (4, 16)).permute(0, 3, 1, 2, 4).flatten(-3, -2)
        offset_h = self.offset_h(q.device)
        offset_w = self.offset_w(q.device)
        mask = self.table[:, offset_h[:, None, :, None], offset_w[:, None, :]]
        mask = mask.flatten(1, 2).flatten(2, 3)[None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).unflatten(-2, (3, 3))
        y = y.permute(0, 2, 3, 1, 4).flatten(-2)
        return self.output(y)

    @kept
    def offset_h(self, device: torch.device) -> Tensor:
        i_h = j_h = torch.arange(3, device=device)
        return i_h[:, None] - j_h + 2

    @kept
    def offset_w(self, device: torch.device) -> Tensor:
        i_w = j_w = torch.arange(3, device=device)
        return i_w[:, None] - j_w + 2


class Layer(nn.Module):
    """layer(x[b, h, w, c], heads, shifted, p), specs/level9/swin.yaml:31.

        shift = 0
        x = x + window_attention(layernorm(x, name=attention_norm), heads, shift, name=attention)
        y = gelu(linear(layernorm(x, name=feed_forward_norm), 4 * c, name=up))
        x + linear(y, c, name=down)

    x float[b, h=24, w=24, c=8] -> float[b, h=24, w=24, c=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(8)
        self.attention = WindowAttention(heads=2, features=8, head_dim=4, h=24)
        self.feed_forward_norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 32)
        self.down = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        y = F.gelu(self.up(self.feed_forward_norm(x)))
        return x + self.down(y)


class Layer2(nn.Module):
    """layer(x[b, h, w, c], heads, shifted, p), specs/level9/swin.yaml:31.

        shift = win // 2
        x = x + drop_path(window_attention(layernorm(x, name=attention_norm), heads, shift, name=attention),
            p)
        y = gelu(linear(layernorm(x, name=feed_forward_norm), 4 * c, name=up))
        x + drop_path(linear(y, c, name=down), p)

    x float[b, h=24, w=24, c=8] -> float[b, h=24, w=24, c=8]
    x float[b, h=12, w=12, c=16] -> float[b, h=12, w=12, c=16]
    x float[b, h=6, w=6, c=32] -> float[b, h=6, w=6, c=32]
    """

    def __init__(self, features: int, heads: int, head_dim: int, h: int, p: float, features_out: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(features)
        self.attention = WindowAttention2(heads=heads, features=features, head_dim=head_dim, h=h)
        self.drop_path = nn.Dropout3d(p)
        self.feed_forward_norm = nn.LayerNorm(features)
        self.up = nn.Linear(features, features_out)
        self.down = nn.Linear(features_out, features)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.attention_norm(x))[None])[0]
        y = F.gelu(self.up(self.feed_forward_norm(x)))
        return x + self.drop_path(self.down(y)[None])[0]


class Layer3(nn.Module):
    """layer(x[b, h, w, c], heads, shifted, p), specs/level9/swin.yaml:31.

        shift = 0
        x = x + drop_path(window_attention(layernorm(x, name=attention_norm), heads, shift, name=attention),
            p)
        y = gelu(linear(layernorm(x, name=feed_forward_norm), 4 * c, name=up))
        x + drop_path(linear(y, c, name=down), p)

    x float[b, h=12, w=12, c=16] -> float[b, h=12, w=12, c=16]
    x float[b, h=6, w=6, c=32] -> float[b, h=6, w=6, c=32]
    """

    def __init__(self, features: int, heads: int, h: int, p: float, features_out: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(features)
        self.attention = WindowAttention(heads=heads, features=features, head_dim=8, h=h)
        self.drop_path = nn.Dropout3d(p)
        self.feed_forward_norm = nn.LayerNorm(features)
        self.up = nn.Linear(features, features_out)
        self.down = nn.Linear(features_out, features)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.attention_norm(x))[None])[0]
        y = F.gelu(self.up(self.feed_forward_norm(x)))
        return x + self.drop_path(self.down(y)[None])[0]


class Layer4(nn.Module):
    """layer(x[b, h, w, c], heads, shifted, p), specs/level9/swin.yaml:31.

        shift = 0
        x = x + drop_path(window_attention(layernorm(x, name=attention_norm), heads, shift, name=attention),
            p)
        y = gelu(linear(layernorm(x, name=feed_forward_norm), 4 * c, name=up))
        x + drop_path(linear(y, c, name=down), p)

    x float[b, h=3, w=3, c=64] -> float[b, h=3, w=3, c=64]
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(64)
        self.attention = WindowAttention3()
        self.drop_path = nn.Dropout3d(0.1)
        self.feed_forward_norm = nn.LayerNorm(64)
        self.up = nn.Linear(64, 256)
        self.down = nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.attention_norm(x))[None])[0]
        y = F.gelu(self.up(self.feed_forward_norm(x)))
        return x + self.drop_path(self.down(y)[None])[0]


class Merge(nn.Module):
    """merge(x[b, h, w, c]), specs/level9/swin.yaml:37.

        y = rearrange(x, "b (h p) (w r) c -> b h w (r p c)", p=2, r=2)
        linear(layernorm(y, name=norm), 2 * c, bias=false, name=reduction)

    x float[b, h=24, w=24, c=8] -> float[b, h=12, w=12, 16]
    x float[b, h=12, w=12, c=16] -> float[b, h=6, w=6, 32]
    x float[b, h=6, w=6, c=32] -> float[b, h=3, w=3, 64]
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
        pixels: float[b, 3, image=48, image=48]
    Output:
        result: float[b, classes=1000]
    """

    checkpoints = {
        "huggingface": {
            "rules": {
                "swin.embeddings.patch_embeddings.projection.weight": "reshape(patches.linear.weight, [8, 3, 2, 2])",
                "swin.embeddings.patch_embeddings.projection.bias": "patches.linear.bias",
                "swin.embeddings.norm.{p}": "patch_norm.{p}",
                "swin.encoder.layers.{s}.blocks.{l}.layernorm_before.{p}": "stage.{s}.{l}.attention_norm.{p}",
                "swin.encoder.layers.{s}.blocks.{l}.attention.self.{part}.{p}": "stage.{s}.{l}.attention.{part}.{p}",
                "swin.encoder.layers.{s}.blocks.{l}.attention.self.relative_position_bias_table": "transpose(reshape(stage.{s}.{l}.attention.table, [-1, 25]))",
                "swin.encoder.layers.{s}.blocks.{l}.attention.output.dense.{p}": "stage.{s}.{l}.attention.output.{p}",
                "swin.encoder.layers.{s}.blocks.{l}.layernorm_after.{p}": "stage.{s}.{l}.feed_forward_norm.{p}",
                "swin.encoder.layers.{s}.blocks.{l}.intermediate.dense.{p}": "stage.{s}.{l}.up.{p}",
                "swin.encoder.layers.{s}.blocks.{l}.output.dense.{p}": "stage.{s}.{l}.down.{p}",
                "swin.encoder.layers.{s}.downsample.{part}.{p}": "merge.{s}.{part}.{p}",
                "swin.layernorm.{p}": "norm.{p}",
                "classifier.{p}": "head.{p}",
            },
            "ignore": ["swin.encoder.layers.{s}.blocks.{l}.attention.self.relative_position_index"],
            "rename": {
                "q_proj": "self.query",
                "k_proj": "self.key",
                "v_proj": "self.value",
                "o_proj": "output.dense",
                "mlp.fc1": "intermediate.dense",
                "mlp.fc2": "output.dense",
                "relative_position_bias.relative_position_bias_table": "self.relative_position_bias_table",
            },
        },
    }

    inputs = {
        "pixels": "float[b, 3, image=48, image=48], in the model's dtype",
    }

    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches()
        self.patch_norm = nn.LayerNorm(8)
        self.stage = nn.ModuleList(
            [
                nn.ModuleList(
                    [
                        Layer(),
                        Layer2(
                            features=8, heads=2, head_dim=4, h=24, p=0.014285714285714287, features_out=32
                        ),
                    ]
                ),
                nn.ModuleList(
                    [
                        Layer3(features=16, heads=2, h=12, p=0.028571428571428574, features_out=64),
                        Layer2(
                            features=16, heads=2, head_dim=8, h=12, p=0.042857142857142864, features_out=64
                        ),
                    ]
                ),
                nn.ModuleList(
                    [
                        Layer3(features=32, heads=4, h=6, p=0.05714285714285715, features_out=128),
                        Layer2(
                            features=32, heads=4, head_dim=8, h=6, p=0.07142857142857142, features_out=128
                        ),
                        Layer3(features=32, heads=4, h=6, p=0.08571428571428573, features_out=128),
                    ]
                ),
                nn.ModuleList([Layer4()]),
            ]
        )
        self.merge = nn.ModuleList(
            [
                Merge(features=32, features_out=16, size=12),
                Merge(features=64, features_out=32, size=6),
                Merge(features=128, features_out=64, size=3),
            ]
        )
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 1000)

    def forward(self, pixels: Tensor) -> Tensor:
        (pixels,) = as_declared(self, pixels)
        x = self.patch_norm(self.patches(pixels))
        for stage in self.stage[0]:
            x = stage(x)
        x = self.merge[0](x)
        for stage in self.stage[1]:
            x = stage(x)
        x = self.merge[1](x)
        for stage in self.stage[2]:
            x = stage(x)
        x = self.merge[2](x)
        for stage in self.stage[3]:
            x = stage(x)
        x = self.norm(x)
        return self.head(x.mean((1, 2)))
