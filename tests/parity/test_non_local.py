"""The non-local block equals its paper's equations, written as loops, for every f, along one, two and three axes."""

import itertools
from math import prod

import pytest
import torch

import towerdsl

from .equal import assert_equals_oracle, draw

SPACES = {
    "text": (["n"], 2, (5,)),
    "image": (["h", "w"], 2, (5, 4)),
    "whole image": (["h", "w"], 1, (3, 2)),
    "film": (["t", "h", "w"], 2, (3, 2, 4)),
}
KINDS = ["embedded_gaussian", "gaussian", "dot", "concat"]
C = 6


def places(x):
    return list(itertools.product(*map(range, x.shape[1:])))


def convolved(p, name, x):
    """A convolution of one position, `x [C, ...]`: a matrix for the features of each."""
    weight, bias = p[f"non_local.{name}.weight"].flatten(1), p[f"non_local.{name}.bias"]
    return torch.stack([weight @ x[:, *i] + bias for i in places(x)], 1).unflatten(1, x.shape[1:])


def pooled(x, pool):
    """The largest number of each window, feature by feature; what does not fill a window is left out."""
    pool = [pool] * (x.dim() - 1)
    if len(pool) == 3:  # a film is not subsampled over time
        pool[0] = 1
    shape = [n // p for n, p in zip(x.shape[1:], pool, strict=True)]
    found = x.new_empty(len(x), *shape)
    for c, place in itertools.product(range(len(x)), itertools.product(*map(range, shape))):
        window = itertools.product(*(range(i * p, (i + 1) * p) for i, p in zip(place, pool, strict=True)))
        found[c, *place] = torch.stack([x[c, *i] for i in window]).max()
    return found


def non_local(p, x, kind, pool):
    """`y[i] = 1/C(x) sum over j of f(x[i], x[j]) g(x[j])`, equation 1, with f of equations 2 to 5; `x [C, ...]`."""
    theta = phi = x
    if kind != "gaussian":
        theta, phi = convolved(p, "theta", x), convolved(p, "phi", x)
    phi, g = pooled(phi, pool), pooled(convolved(p, "g", x), pool)
    y = x.new_empty(len(g), *x.shape[1:])
    for i in places(x):
        if kind == "dot":
            f = [theta[:, *i] @ phi[:, *j] for j in places(phi)]
        elif kind == "concat":
            w_f = torch.cat([p["non_local.wq"], p["non_local.wk"]])
            f = [torch.relu(w_f @ torch.cat([theta[:, *i], phi[:, *j]])) for j in places(phi)]
        else:
            f = [torch.exp(theta[:, *i] @ phi[:, *j]) for j in places(phi)]
        c = len(f) if kind in ("dot", "concat") else sum(f)
        y[:, *i] = sum(f_ij * g[:, *j] for f_ij, j in zip(f, places(phi), strict=True)) / c
    return convolved(p, "w", y)


def normalized(p, z, training):
    """Batch normalization of `z [B, C, ...]`."""
    flat = z.transpose(0, 1).flatten(1)
    mean = flat.mean(1) if training else p["non_local.norm.running_mean"]
    var = flat.var(1, correction=0) if training else p["non_local.norm.running_var"]
    scale = p["non_local.norm.weight"] / (var + 1e-5).sqrt()
    column = (-1,) + (1,) * (z.dim() - 2)
    return (z - mean.view(column)) * scale.view(column) + p["non_local.norm.bias"].view(column)


def compile(kind, space, pool, c=C):
    return towerdsl.compile("non_local", kind=kind, space=space, pool=pool, c=c)()


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("space", "pool", "lengths"), SPACES.values(), ids=SPACES)
def test_equations(kind, space, pool, lengths, training):
    model = draw(compile(kind, space, pool).double(), 0.3).train(training)

    def block(p, x):  # equation 6
        return normalized(p, torch.stack([non_local(p, one, kind, pool) for one in x]), training) + x

    draws = torch.Generator().manual_seed(0)
    assert_equals_oracle(model, block, {"x": torch.randn(2, C, *lengths, dtype=torch.float64, generator=draws)})


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_the_block_changes_nothing(kind):
    """So that it can be put into a trained network (section 4.1)."""
    x = torch.randn(2, C, 4, 4)
    assert torch.equal(compile(kind, ["h", "w"], 2).eval()(x), x)


@pytest.mark.parametrize("kind", KINDS)
def test_published_size(kind):
    """The bottleneck of section 3.3: three maps to half of 1024 channels, one back, and its norm."""
    with torch.device("meta"):
        model = towerdsl.compile("non_local", kind=kind)()
    maps = 2 if kind == "gaussian" else 4
    expected = maps * 1024 * 512 + (maps - 1) * 512 + 1024 + 2 * 1024 + 1024 * (kind == "concat")
    assert sum(prod(x.shape) for x in model.parameters()) == expected
