"""MLP-Mixer and the feed-forward-only network equal modules of linear layers over a transposed image.

The modules are written after the papers, with the names of timm's `mixer_b16_224` and of the author's `linear_base`.
"""

import pytest
import torch
from torch import nn

import towerdsl

from .equal import assert_equals_oracle, assert_equals_peer, assert_published_size, draw


class Mlp(nn.Module):
    def __init__(self, size, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(size, hidden), nn.Linear(hidden, size)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Patches(nn.Module):
    def __init__(self, d, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, d, patch, stride=patch)

    def forward(self, pixels):
        return self.proj(pixels).flatten(2).transpose(1, 2)


class MixerLayer(nn.Module):
    """Equation 1 of the paper."""

    def __init__(self, d, tokens, token_ff, ff):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        self.mlp_tokens, self.mlp_channels = Mlp(tokens, token_ff), Mlp(d, ff)

    def forward(self, x):
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self, d=768, ff=3072, token_ff=384, depth=12, image=224, patch=16, classes=1000):
        super().__init__()
        self.stem = Patches(d, patch)
        self.blocks = nn.Sequential(*[MixerLayer(d, (image // patch) ** 2, token_ff, ff) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(d, eps=1e-6), nn.Linear(d, classes)

    def forward(self, pixels):
        return self.head(self.norm(self.blocks(self.stem(pixels))).mean(1))


class FeedForwardLayer(nn.Module):
    def __init__(self, d, tokens, token_ff, ff):
        super().__init__()
        self.norm1, self.mlp1 = nn.LayerNorm(d, eps=1e-6), Mlp(d, ff)
        self.norm2, self.mlp2 = nn.LayerNorm(tokens, eps=1e-6), Mlp(tokens, token_ff)

    def forward(self, x):
        x = (x + self.mlp1(self.norm1(x))).transpose(1, 2)
        return (x + self.mlp2(self.norm2(x))).transpose(1, 2)


class Positions(nn.Module):
    def __init__(self, d, side):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, d, side, side))
        self.cls_pos_embed = nn.Parameter(torch.zeros(1, 1, d))

    def forward(self):
        return torch.cat([self.cls_pos_embed, self.pos_embed.flatten(2).transpose(1, 2)], 1)


class FeedForwardOnly(nn.Module):
    def __init__(self, d=768, ff=3072, depth=12, image=224, patch=16, classes=1000):
        super().__init__()
        side = image // patch
        tokens = side**2 + 1
        self.patch_embed, self.pos_encoding = Patches(d, patch), Positions(d, side)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d))
        self.blocks = nn.Sequential(*[FeedForwardLayer(d, tokens, 4 * tokens, ff) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(d, eps=1e-6), nn.Linear(d, classes)

    def forward(self, pixels):
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), self.patch_embed(pixels)], 1)
        return self.head(self.norm(self.blocks(x + self.pos_encoding()))[:, 0])


SMALL = {"d": 10, "ff": 14, "depth": 2, "image": 12, "patch": 4, "classes": 5}
PEERS = {
    "mlp_mixer": ("timm", Mixer, SMALL | {"token_ff": 7}),
    "feed_forward_only": ("paper", FeedForwardOnly, SMALL),
}


@pytest.mark.parametrize("spec", PEERS)
def test_peer(spec):
    format, peer, sizes = PEERS[spec]
    ours, theirs = towerdsl.compile(spec, **sizes)().double(), draw(peer(**sizes)).double()
    pixels = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    assert_equals_peer(ours, theirs, format, {"pixels": pixels}, 1e-12)


@pytest.mark.parametrize("spec", PEERS)
def test_published_size(spec):
    format, peer, _ = PEERS[spec]
    assert_published_size(spec, format, peer)


MIX = """
tower: two_averages
use: [mixing]
inputs: {x: "float[b, 4, 3]"}
sizes: {tokens: 4, token_ff: 5}
outputs: token_feed_forward(x, name=mlp)
"""


def test_a_token_feed_forward_is_two_averages():
    """y[i] = sum over j of weight[i, j] x[j] + bias[i], and once more after gelu."""

    def averages(weight, bias, x):
        return torch.stack([sum(row[j] * x[j] for j in range(len(x))) + b for row, b in zip(weight, bias, strict=True)])

    def oracle(p, x):
        def half(part, x):
            return averages(p[f"mlp.{part}.weight"], p[f"mlp.{part}.bias"], x)

        return torch.stack([half("down", nn.functional.gelu(half("up", one))) for one in x])

    model = draw(towerdsl.compile(MIX)().double())
    assert_equals_oracle(model, oracle, {"x": torch.randn(2, 4, 3, dtype=torch.float64)})
