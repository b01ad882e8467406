"""Promises that hold whatever the spec: empty rows are zeros, and a window counts the query's own position."""

import math

import pytest
import torch

import towerdsl

KERNELS = {"planned": {}, "reference": {"kernel": "reference"}, "sdpa": {"kernel": "sdpa"}}
DTYPES = [torch.float32, torch.float64]

LOOK = """
tower: look
sizes: {{d: 8, heads: 2}}
inputs:
  x: float[b, n, d]
  keep: bool[b, n]
blocks:
  look(x, keep):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    heads: heads
    mask: {mask}
outputs: look(x, keep)
"""

WINDOWS = """
tower: windows
sizes: {w: 1}
inputs:
  x: float[b, n, d]
  values: float[n, m]
blocks:
  centered(x, values):
    query: x
    key: x
    value: values
    locality: window(w)
  back(x, values):
    query: x
    key: x
    value: values
    locality: causal_window(w)
outputs: {centered: "centered(x, values)", back: "back(x, values)"}
"""

PARAMS = """
tower: params
sizes: {n: 40, d: 50}
inputs:
  x: float[b, n, d]
params:
  nothing: float[n, d] = zeros
  one: float[n, d] = ones
  same: float[n, d] = constant(2.5)
  wide: float[n, d] = normal(3)
  cut: float[n, d] = truncated_normal(0.5)
  flat: float[n, d] = uniform(0.2)
  xavier: float[n, d] = xavier_uniform
  glorot: float[n, d] = xavier_normal
  kaiming: float[n, d] = kaiming_uniform
  diagonal: float[n, d] = eye
  usual: float[n, d]
outputs: x + nothing + one + same + wide + cut + flat + xavier + glorot + kaiming + diagonal + usual
"""


def build(text, **options):
    return towerdsl.compile(text, **options)()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_entry_that_keeps_nothing_is_zero(kernel, dtype):
    model = build(LOOK.format(mask="keep[j]"), **KERNELS[kernel]).to(dtype)
    x = torch.randn(2, 5, 8, dtype=dtype, requires_grad=True)
    keep = torch.tensor([[False] * 5, [True, False, True, True, False]])
    y = model(x, keep)
    assert not y[0].any()
    assert y[1].all()

    loss = y.square().sum() + y.sum()
    gradients = torch.autograd.grad(loss, [x, *model.parameters()], retain_graph=True)
    assert all(g.isfinite().all() for g in gradients)
    assert not gradients[0][0].any()

    gradients = torch.autograd.grad(y[0].sum(), [x, *model.parameters()])
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_query_that_sees_nothing_is_zero(kernel, dtype):
    """A single row among others: the first position of `j < i`, and one that its own padding hides."""
    model = build(LOOK.format(mask="j < i and keep[i]"), **KERNELS[kernel]).to(dtype)
    x = torch.randn(1, 5, 8, dtype=dtype, requires_grad=True)
    y = model(x, torch.tensor([[True, True, True, False, True]]))
    seen = y[0].abs().sum(-1) > 0
    assert seen.tolist() == [False, True, True, False, True]
    gradients = torch.autograd.grad(y.sum(), [x, *model.parameters()], retain_graph=True)
    assert all(g.isfinite().all() for g in gradients)
    gradients = torch.autograd.grad(y[:, [0, 3]].sum(), [x, *model.parameters()])
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("kernel", KERNELS)
def test_zero_rows_leave_other_rows_alone(kernel):
    """The rows that do see something are the same with and without an empty entry beside them."""
    model = build(LOOK.format(mask="keep[j]"), **KERNELS[kernel]).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    keep = torch.tensor([[False] * 5, [True, False, True, True, False]])
    torch.testing.assert_close(model(x, keep)[1:], model(x[1:], keep[1:]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("w", [1, 2, 4, 9])
def test_window_counts_own_position(kernel, w):
    """The values are one-hot, so the result shows the weights: which are not zero says what is visible."""
    n = 7
    model = build(WINDOWS, w=w, **KERNELS[kernel]).double()
    centered, back = model(torch.randn(2, n, 3, dtype=torch.float64), torch.eye(n, dtype=torch.float64))
    for i in range(n):
        for j in range(n):
            assert bool(centered[0, i, j]) == (abs(i - j) < w)
            assert bool(back[0, i, j]) == (0 <= i - j < w)
    torch.testing.assert_close(centered.sum(-1), torch.ones(2, n, dtype=torch.float64))


def test_window_of_one_is_the_value():
    x, values = torch.randn(2, 6, 3), torch.randn(6, 4)
    for y in build(WINDOWS, w=1)(x, values):
        torch.testing.assert_close(y, values.expand(2, 6, 4))


def test_dropout_drops_weights_while_training():
    text = WINDOWS.replace("locality: window(w)", "score: 0\n    dropout: 0.25")
    model = build(text).double()
    n = 50
    x, values = torch.randn(20, n, 3, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    torch.manual_seed(0)
    weights = model(x, values)[0]
    kept = weights > 0
    torch.testing.assert_close(weights[kept], torch.full_like(weights[kept], 1 / n / 0.75))
    assert abs(kept.double().mean() - 0.75) < 0.01
    torch.testing.assert_close(model.eval()(x, values)[0], torch.full_like(weights, 1 / n))


def test_initializers():
    torch.manual_seed(0)
    p = {name: value.detach() for name, value in build(PARAMS).named_parameters()}
    assert not p["nothing"].any()
    assert (p["one"] == 1).all()
    assert (p["same"] == 2.5).all()
    assert torch.equal(p["diagonal"], torch.eye(40, 50))
    # 2000 numbers: a standard deviation is known to 1.6 %, and 10 % is six times that.
    spread = {
        "wide": 3,
        "flat": 0.2 / math.sqrt(3),
        "xavier": math.sqrt(2 / 90),
        "glorot": math.sqrt(2 / 90),
        "usual": 0.02,
    }
    for name, expected in spread.items():
        assert abs(p[name].std() / expected - 1) < 0.1, name
        assert abs(p[name].mean()) < 0.2 * expected, name
    assert 0.4 < p["cut"].std() < 0.55
    assert p["flat"].abs().max() <= 0.2
    assert p["xavier"].abs().max() <= math.sqrt(6 / 90)
    assert 0 < p["kaiming"].std() < 1
