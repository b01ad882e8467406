"""DANet's head equals its paper: the attentions as loops, around them torch's layers by the authors' names."""

import itertools

import pytest
import torch
from torch import nn

import towerdsl

from .equal import assert_equals_peer, assert_published_size, draw


def softmax(numbers):
    powers = [torch.exp(f) for f in numbers]
    return [p / sum(powers) for p in powers]


class Position(nn.Module):
    """Equations 1 and 2."""

    def __init__(self, c):
        super().__init__()
        self.query_conv, self.key_conv = nn.Conv2d(c, c // 8, 1), nn.Conv2d(c, c // 8, 1)
        self.value_conv, self.gamma = nn.Conv2d(c, c, 1), nn.Parameter(torch.zeros(1))

    def forward(self, a):
        b, c, d = self.query_conv(a), self.key_conv(a), self.value_conv(a)
        places = list(itertools.product(range(a.shape[2]), range(a.shape[3])))
        e = torch.empty_like(a)
        for n, (h, w) in itertools.product(range(len(a)), places):
            s = softmax([(b[n, :, h, w] * c[n, :, k, m]).sum() for k, m in places])
            average = sum(s_ij * d[n, :, k, m] for s_ij, (k, m) in zip(s, places, strict=True))
            e[n, :, h, w] = self.gamma * average + a[n, :, h, w]
        return e


class Channel(nn.Module):
    """Equations 3 and 4; with sign -1 as the authors' code has it, which takes each row from its largest number."""

    def __init__(self, sign):
        super().__init__()
        self.sign, self.gamma = sign, nn.Parameter(torch.zeros(1))

    def forward(self, a):
        e = torch.empty_like(a)
        for n, j in itertools.product(range(a.shape[0]), range(a.shape[1])):
            energy = [(a[n, j] * a[n, i]).sum() for i in range(a.shape[1])]
            x = softmax([max(energy) - f for f in energy] if self.sign < 0 else energy)
            e[n, j] = self.gamma * sum(x_ji * a[n, i] for i, x_ji in enumerate(x)) + a[n, j]
        return e


def convolved(given, made):
    return nn.Sequential(nn.Conv2d(given, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU())


class Head(nn.Module):
    def __init__(self, features=2048, classes=19, dropout=0.1, sign=-1):
        super().__init__()
        c = features // 4
        self.conv5a, self.conv5c = convolved(features, c), convolved(features, c)
        self.sa, self.sc = Position(c), Channel(sign)
        self.conv51, self.conv52 = convolved(c, c), convolved(c, c)
        self.conv6, self.conv7, self.conv8 = (
            nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(c, classes, 1)) for _ in range(3)
        )

    def forward(self, x):
        position, channel = self.conv51(self.sa(self.conv5a(x))), self.conv52(self.sc(self.conv5c(x)))
        return self.conv8(position + channel), self.conv6(position), self.conv7(channel)


@pytest.mark.parametrize("sign", [-1, 1], ids=["code", "equation"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_head(training, sign):
    sizes = {"features": 64, "classes": 3, "dropout": 0.0, "sign": sign}
    ours = towerdsl.compile("danet", **sizes)().double().train(training)
    theirs = draw(Head(**sizes).double(), 0.1).train(training)
    x = torch.randn(2, 64, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_equals_peer(ours, theirs, "paper", {"x": x}, 1e-10)


def test_attentions_are_added_in_time():
    """Both start as what they are given: alpha and beta are zero."""
    model = towerdsl.compile("danet", features=64)()
    x = torch.randn(1, 16, 3, 4)
    assert torch.equal(model.position(x), x) and torch.equal(model.channel(x), x)


def test_published_size():
    assert_published_size("danet", "paper", Head)
