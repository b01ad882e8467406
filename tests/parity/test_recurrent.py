"""Recurrent layers and cells equal PyTorch's, or loops over the paper's equations; values and gradients."""

import pytest
import torch
from torch import sigmoid, tanh

import towerdsl

from .equal import assert_equals_oracle, assert_equals_peer, assert_published_size, draw

B, N, D = 3, 6, 8
CELLS = """
tower: run
sizes: {{d: {d}, width: {width}}}
use: [recurrent_cells]
inputs:
  x: float[b, n, d]
flow:
  - h = zeros([b, width])
  - c = h
  - for t along n:
      - {step}
      - states = h
outputs: {{states: states, h: h, c: c}}
"""


def inputs(length: int = N) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(B, length, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)}


@pytest.mark.parametrize("length", [N, 1])
def test_recurrent_layer(length):
    theirs = draw(torch.nn.RNN(D, D, batch_first=True).double())
    ours = towerdsl.compile("recurrent", d=D)().double()
    assert_equals_peer(ours, theirs, "torch", inputs(length), 1e-12, lambda x: theirs(x)[0])


def test_recurrent_layer_of_no_steps():
    ours = towerdsl.compile("recurrent", d=D)().double()
    assert ours(inputs(0)["x"]).shape == (B, 0, D)


def test_recurrent_layer_has_the_published_size():
    assert_published_size("recurrent", "torch", lambda: torch.nn.RNN(512, 512, batch_first=True))


def test_lstm_cell():
    ours = towerdsl.compile(CELLS.format(d=D, width=5, step="h, c = lstm_cell(x[n=t], h, c, name=cell)"))().double()
    draw(ours)

    def oracle(p, x):
        their = torch.nn.LSTM(D, 5, batch_first=True).double()
        names = {"weight_ih_l0": "input.weight", "weight_hh_l0": "hidden.weight"}
        names |= {"bias_ih_l0": "input.bias", "bias_hh_l0": "hidden.bias"}
        weights = {name: p[f"cell.{own}"] for name, own in names.items()}
        states, (h, c) = torch.func.functional_call(their, weights, (x,))
        return states, h[0], c[0]

    assert_equals_oracle(ours, oracle, inputs(), 1e-12)


@pytest.mark.parametrize("bias", [False, True])
def test_gru_cell(bias):
    """Bahdanau et al. 2014, A.1.1; the reset gate acts before the product, so PyTorch's is another."""
    step = f"h = gru_cell(x[n=t], h, bias={str(bias).lower()}, name=cell)"
    ours = towerdsl.compile(CELLS.format(d=D, width=5, step=step))().double()
    draw(ours)

    def oracle(p, x):
        p = {name.removeprefix("cell."): value for name, value in p.items()}

        def read(name, vector):
            found = torch.stack([sum(row * vector) for row in p[f"{name}.weight"]])
            return found + p[f"{name}.bias"] if f"{name}.bias" in p else found

        rows = []
        for row in x:
            h, states = x.new_zeros(5), []
            for e in row:
                z, r = (sigmoid(read(f"W_{g}", e) + read(f"U_{g}", h)) for g in "zr")
                h = (1 - z) * h + z * tanh(read("W", e) + read("U", r * h))
                states.append(h)
            rows.append(torch.stack(states))
        states = torch.stack(rows)
        return states, states[:, -1], torch.zeros_like(states[:, -1])

    assert len([name for name, _ in ours.named_parameters()]) == (9 if bias else 6)
    assert_equals_oracle(ours, oracle, inputs(), 1e-12)
