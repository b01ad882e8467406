"""Averages that algebra makes cheap, beside code by hand: each function gives two callables, (ours, peer)."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from rows import Made, Row
from torch import Tensor, nn

import towerdsl

Pair = tuple[Callable[[], object], Callable[[], object]]

NON_LOCAL = """
tower: non_local_attention
inputs: {theta: "float[b, m, h, w]", phi: "float[b, m, h, w]", g: "float[b, m, h, w]"}
blocks:
  attend(theta, phi, g):
    over: [h, w]
    features: m
    query: theta
    key: phi
    value: g
    score: dot(q, k)
    normalize: count
outputs: attend(theta, phi, g)
"""

MIX = """
tower: mixing
sizes: {tokens: 196, token_ff: 384}
inputs: {x: "float[b, n=tokens, d]"}
use: [mixing]
outputs: mix(x, token_ff, name=up)
"""


class DenseNonLocal(nn.Module):
    """The block of Wang et al. 2018 as its code computes it: all pairs of positions, divided by their number."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(channels, width, 1) for _ in range(3))
        self.w = nn.Conv2d(width, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.w(dense_non_local(self.theta(x), self.phi(x), self.g(x))))


def dense_non_local(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[b, m, h, w] three times --> [b, m, h, w]: bmm, / N, bmm."""
    weights = torch.bmm(q.flatten(2).transpose(1, 2), k.flatten(2)) / k[0, 0].numel()
    y = torch.bmm(weights, v.flatten(2).transpose(1, 2))
    return y.transpose(1, 2).contiguous().view(q.shape)


def non_local(backward: bool = False, side: int = 56, width: int = 128) -> Pair:
    """The attention of the non-local block, dot product, alone: its queries, keys and values are given."""
    q, k, v = (torch.randn(1, width, side, side, requires_grad=backward) for _ in range(3))
    ours = towerdsl.compile(NON_LOCAL)()
    return pair(lambda: ours(q, k, v), lambda: dense_non_local(q, k, v), backward)


def non_local_block(backward: bool = False, side: int = 56, channels: int = 256) -> Pair:
    """The whole block: three convolutions, the attention, a convolution, batch normalization, the residual."""
    ours = towerdsl.compile("non_local", kind="dot", c=channels, pool=1)().train(backward)
    theirs = DenseNonLocal(channels, channels // 2).train(backward)
    renamed = {name: theirs.state_dict()[name.removeprefix("non_local.")] for name in ours.state_dict()}
    ours.load_state_dict(renamed)
    x = torch.randn(1, channels, side, side, requires_grad=backward)
    return pair(lambda: ours(x), lambda: theirs(x), backward)


def token_mixing(backward: bool = False, batch: int = 1, tokens: int = 196, width: int = 768) -> Pair:
    """One averaging of tokens by learned weights, with its bias, beside einsum."""
    ours = towerdsl.compile(MIX, tokens=tokens)()
    weight, bias = ours.up.weight, ours.up.bias
    x = torch.randn(batch, tokens, width, requires_grad=backward)
    return pair(lambda: ours(x), lambda: torch.einsum("ij,bjd->bid", weight, x) + bias[:, None], backward)


class EinsumMixer(nn.Module):
    """An MLP-Mixer as one writes it by hand, with the weights of a compiled one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        model = self.model
        x = model.patches(pixels).flatten(1, 2)
        for token_norm, tokens, channel_norm, channels in zip(
            model.token_norm, model.tokens, model.channel_norm, model.channels, strict=True
        ):
            y = torch.einsum("ij,bjd->bid", tokens.up.weight, token_norm(x)) + tokens.up.bias[:, None]
            x = x + torch.einsum("ij,bjd->bid", tokens.down.weight, F.gelu(y)) + tokens.down.bias[:, None]
            x = x + channels.down(F.gelu(channels.up(channel_norm(x))))
        return model.head(model.norm(x).mean(1))


def mlp_mixer(backward: bool = False, batch: int = 1, **sizes: int) -> Pair:
    """The whole model beside one whose averages of tokens are einsums."""
    ours = towerdsl.compile("mlp_mixer", **sizes)()
    theirs = EinsumMixer(ours)
    size = sizes.get("image", 224)
    pixels = torch.randn(batch, 3, size, size)
    return pair(lambda: ours(pixels), lambda: theirs(pixels), backward)


def pair(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], backward: bool) -> Pair:
    """Both forward without gradients, or forward and backward. They compute the same."""
    y = ours().detach()
    torch.testing.assert_close(y, theirs().detach(), rtol=1e-3, atol=1e-4)
    upstream = torch.randn_like(y)  # a gradient as a layer above gives it

    def forward_of(run: Callable[[], Tensor]) -> Callable[[], object]:
        return torch.no_grad()(run)

    def both_of(run: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: run().backward(upstream)

    wrapped = both_of if backward else forward_of
    return wrapped(ours), wrapped(theirs)


def non_local_row(tiny: bool) -> Made:
    """`non_local` at the size of the table, or at a tiny one."""
    return Made(partial(non_local, side=8 if tiny else 56))


def token_mixing_row(tiny: bool) -> Made:
    """`token_mixing` at the size of the table, or at a tiny one."""
    return Made(partial(token_mixing, width=16 if tiny else 768))


ROWS = (
    Row("non-local, dot product, 56 x 56 x 256", "the paper's dense form", non_local_row, 0.1, 0.1),
    Row("token mixing, 196 x 768", "einsum", token_mixing_row, 1.0, 1.0),
)
