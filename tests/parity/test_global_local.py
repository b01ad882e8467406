"""Windows and global tokens: the stack equals torch's encoder layers under a mask, and its attention plain loops."""

import math

import pytest
import torch
from torch import nn

import towerdsl

from .equal import assert_equals_oracle, assert_equals_peer, assert_published_size, draw

SIZES = {"w": 3, "g": 2, "d": 8, "heads": 2, "depth": 3, "vocab": 11, "context": 12, "dropout": 0.0}
N = 10
KEEP = torch.arange(N) < torch.tensor([[N], [7], [4]])


def sees(pattern, layer, i, j, w=SIZES["w"], g=SIZES["g"]):
    near, far = abs(i - j) < w, i < g or j < g
    return near or far if pattern == "union" else (far if layer % 2 else near)


class Stack(nn.Module):
    def __init__(self, pattern="union", d=768, heads=12, depth=12, vocab=50265, context=4096, dropout=0.1, **_):
        super().__init__()
        self.pattern, self.norm = pattern, nn.LayerNorm(d)
        self.words, self.positions = nn.Embedding(vocab, d), nn.Embedding(context, d)
        layer = nn.TransformerEncoderLayer(d, heads, 4 * d, dropout, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False).layers

    def forward(self, ids, keep):
        x = self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]])
        for number, layer in enumerate(self.layers):
            hidden = [[not sees(self.pattern, number, i, j) for j in range(N)] for i in range(N)]
            x = layer(x, torch.tensor(hidden), ~keep)
        return x


def inputs(keep):
    return {"ids": torch.randint(11, keep.shape, generator=torch.Generator().manual_seed(0)), "keep": keep}


@pytest.mark.parametrize("pattern", ["union", "turns"])
def test_encoder(pattern):
    ours = towerdsl.compile("global_local", pattern=pattern, **SIZES)().double().eval()
    theirs = draw(Stack(pattern, **SIZES)).double().train()  # without dropout; torch's fast path needs no gradient
    assert_equals_peer(ours, theirs, "torch", inputs(KEEP), 1e-12)


@pytest.mark.parametrize("pattern", ["union", "turns"])
@pytest.mark.parametrize("layer", [0, 1])
def test_loops(pattern, layer):
    """Longformer's equation over the pairs that are seen; a token that sees nothing gets the bias of the output."""
    model = draw(towerdsl.compile("global_local", pattern=pattern, **SIZES)()).double().eval().attention[layer]
    keep = KEEP.clone()
    keep[2, :2] = False  # the global tokens are padding

    def oracle(p, x):
        def linear(name, vector):
            return p[f"{name}.weight"] @ vector + p[f"{name}.bias"]

        rows = []
        for b in range(len(x)):
            q, k, v = ([linear(name, x_i).chunk(2) for x_i in x[b]] for name in ("query", "key", "value"))
            for i in range(N):
                heads = []
                for head in range(2):
                    seen = [j for j in range(N) if keep[b, j] and sees(pattern, layer, i, j)]
                    f = [torch.exp(q[i][head] @ k[j][head] / math.sqrt(4)) for j in seen]
                    heads.append(sum((f_j / sum(f) * v[j][head] for f_j, j in zip(f, seen, strict=True)), 0 * q[i][0]))
                rows.append(linear("output", torch.cat(heads)))
        return torch.stack(rows).view_as(x)

    x = torch.randn(3, N, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    forward = model.forward
    model.forward = lambda x: forward(x, keep)
    assert_equals_oracle(model, oracle, {"x": x})


def test_published_size():
    assert_published_size("global_local", "torch", Stack)
