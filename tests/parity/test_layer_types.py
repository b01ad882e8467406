"""The layers of Vaswani et al. 2017, table 1, equal PyTorch's, or loops over their equations; values and gradients."""

import pytest
import torch
from torch import nn

import towerdsl

from .equal import assert_equals_oracle, assert_equals_peer, assert_published_size, draw

B, N, D, HEADS, DEPTH = 2, 9, 8, 2, 3
SIZES = {"d": D, "heads": HEADS, "depth": DEPTH}


def inputs() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(B, N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)}


def attentions(d: int = D, heads: int = HEADS, depth: int = DEPTH) -> nn.ModuleList:
    return nn.ModuleList(nn.MultiheadAttention(d, heads, batch_first=True) for _ in range(depth))


@pytest.mark.parametrize("padded", [False, True], ids=["all", "padded"])
@pytest.mark.parametrize("r", [None, 2, 3, N], ids=["self", "two", "three", "all"])
def test_attention(r, padded):
    theirs = draw(attentions().double())
    name = "self_attention" if r is None else "restricted_self_attention"
    ours = towerdsl.compile(name, **SIZES, **({} if r is None else {"r": r}))().double()
    keep = torch.tensor([[True] * N, [True, True, False] * 3]) if padded else None
    distance = (torch.arange(N)[:, None] - torch.arange(N)).abs()
    hidden = None if r is None else distance >= r

    def run(x, keep=None):
        padding = None if keep is None else ~keep
        for layer in theirs:
            x = x + layer(x, x, x, key_padding_mask=padding, attn_mask=hidden, need_weights=False)[0]
        return x

    assert_equals_peer(ours, theirs, "torch", inputs() | ({} if keep is None else {"keep": keep}), 1e-12, run)


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("dilated", [True, False])
def test_convolutions(kernel, dilated):
    theirs = draw(nn.ModuleList(nn.Conv1d(D, D, kernel, dilation=kernel**k if dilated else 1) for k in range(DEPTH)))
    theirs = theirs.double()
    ours = towerdsl.compile("convolutional", d=D, K=kernel, depth=DEPTH, dilated=dilated)().double()

    def run(x):
        x = x.mT
        for layer in theirs:
            before = (kernel - 1) * layer.dilation[0]
            x = (
                x
                + nn.functional.conv1d(
                    nn.functional.pad(x, (before, 0)), layer.weight, layer.bias, dilation=layer.dilation
                ).relu()
            )
        return x.mT

    assert_equals_peer(ours, theirs, "torch", inputs(), 1e-12, run)


def test_convolutions_by_loops():
    """y[i] = b + the sum over t of W[t] x[i - t apart], as far as there is something before i."""
    ours = draw(towerdsl.compile("convolutional", d=2, K=2, depth=2)().double())

    def oracle(p, x):
        for layer in range(2):
            w, b, apart = p[f"layer.{layer}.conv.weight"], p[f"layer.{layer}.conv.bias"], 2**layer
            rows = []
            for row in x:
                y = []
                for i in range(len(row)):
                    total = b
                    for t in range(2):
                        j = i - (1 - t) * apart
                        if j >= 0:
                            total = total + torch.stack(
                                [sum(w[c, e, t] * row[j, e] for e in range(2)) for c in range(2)]
                            )
                    y.append(row[i] + total.clamp(min=0))
                rows.append(torch.stack(y))
            x = torch.stack(rows)
        return x

    x = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert_equals_oracle(ours, oracle, {"x": x}, 1e-12)


@pytest.mark.parametrize("name", ["self_attention", "restricted_self_attention"])
def test_attention_has_the_published_size(name):
    assert_published_size(name, "torch", lambda: attentions(512, 8, 6))


def test_convolutions_have_the_published_size():
    assert_published_size("convolutional", "torch", lambda: nn.ModuleList(nn.Conv1d(512, 512, 3) for _ in range(6)))
