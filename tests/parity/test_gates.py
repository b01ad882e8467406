"""Squeeze-and-excitation and CBAM equal their papers' equations, written as loops over channels and positions."""

import itertools

import pytest
import torch

import towerdsl
from towerdsl.compiler import compile_spec

from .equal import assert_equals_oracle, draw

B, C, H, W, R, FILTER = 2, 6, 4, 3, 3, 3


def grid(x):
    return itertools.product(range(x.shape[-2]), range(x.shape[-1]))


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def linear(p, name, z):
    weight, bias = p[f"{name}.weight"], p.get(f"{name}.bias")
    found = torch.stack([sum(row[c] * z[c] for c in range(len(z))) for row in weight])
    return found if bias is None else found + bias


def mlp(p, name, z):
    """W1 relu(W0 z), or as Hu et al. count them W2 relu(W1 z)."""
    return linear(p, f"{name}.up", torch.clamp(linear(p, f"{name}.down", z), min=0))


def mean_of_positions(x):
    return torch.stack([sum(x[c, h, w] for h, w in grid(x)) / len(list(grid(x))) for c in range(len(x))])


def most_of_positions(x):
    return torch.stack([torch.stack([x[c, h, w] for h, w in grid(x)]).max() for c in range(len(x))])


def squeeze_excitation(p, x):
    """Equations 2, 3 and 4."""
    rows = []
    for one in x:
        s = sigmoid(mlp(p, "mlp", mean_of_positions(one)))
        rows.append(torch.stack([s[c] * one[c] for c in range(len(one))]))
    return torch.stack(rows)


def channel_attention(p, x):
    """Equation 2."""
    rows = []
    for one in x:
        m = sigmoid(sum(mlp(p, "channel.mlp", z) for z in (mean_of_positions(one), most_of_positions(one))))
        rows.append(torch.stack([m[c] * one[c] for c in range(len(one))]))
    return torch.stack(rows)


def spatial_attention(p, x):
    """Equation 3: the filter slides over the means and the maxima of the channels; outside the image is zero."""
    f, results = p["spatial.conv.weight"][0], torch.empty_like(x)
    reach = f.shape[-1] // 2
    for b, one in enumerate(x):
        maps = [sum(one[c] for c in range(len(one))) / len(one), one.max(0).values]
        for h, w in grid(one):
            total = 0
            for part, dh, dw in itertools.product(range(2), range(-reach, reach + 1), range(-reach, reach + 1)):
                if 0 <= h + dh < one.shape[1] and 0 <= w + dw < one.shape[2]:
                    total = total + f[part, dh + reach, dw + reach] * maps[part][h + dh, w + dw]
            results[b, :, h, w] = sigmoid(total) * one[:, h, w]
    return results


def cbam(p, x):
    """Equation 1."""
    return spatial_attention(p, channel_attention(p, x))


ORACLES = {f.__name__: f for f in (squeeze_excitation, channel_attention, spatial_attention, cbam)}
SIZES = {
    "squeeze_excitation": {"c": C, "r": R},
    "channel_attention": {"c": C, "r": R},
    "spatial_attention": {"c": C, "filter": FILTER},
    "cbam": {"c": C, "r": R, "filter": FILTER, "bias": True},
}


@pytest.mark.parametrize("kernel", [None, "reference"])
@pytest.mark.parametrize("spec", ORACLES)
def test_equations(spec, kernel):
    torch.manual_seed(0)
    model = draw(towerdsl.compile(spec, kernel=kernel, **SIZES[spec])().double())
    assert_equals_oracle(model, ORACLES[spec], {"x": torch.randn(B, C, H, W, dtype=torch.float64)})


def test_each_gate_is_one_key_for_each_query():
    """A gate costs as much as its image, not the square of it."""
    kernels = [plan.kernel.name for plan in compile_spec("cbam").plans.values()]
    assert kernels.count("diagonal") == 2
