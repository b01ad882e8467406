"""What torch's own compiler makes of each kernel gives the values and gradients of the plain operations."""

import os
import subprocess
import sys

import pytest
import torch
from test_lowered import spec

import towerdsl
from towerdsl.kernels.catalog import CATALOG


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("kernel", [k.name for k in CATALOG if k.name != "flex"])  # it is for GPUs
def test_compiled_values_and_gradients(kernel, dtype, close):
    torch.manual_seed(0)
    text = spec(kernel, "linear(x, d)", dropout="0.0")
    model = towerdsl.compile(text, kernel=kernel)().to(dtype).eval()  # nothing is drawn
    n = 300 if kernel == "chunked" else 64
    x, table = torch.randn(2, n, 8, dtype=dtype), torch.randn(n, n, dtype=dtype)
    given = (torch.rand(2, n) < 0.8, table, torch.randint(0, n, (2, 1000)))

    def ran(function):
        model.zero_grad()
        own = x.clone().requires_grad_()
        y = function(own, *given)
        (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)).sum().backward()
        parameters = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return [y.detach(), own.grad, *parameters]

    expected = ran(model)
    compiled = torch.compile(model)
    for _ in range(3):
        for found, wanted in zip(ran(compiled), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=close, atol=close)


ROWS = """
import torch
from towerdsl.runtime import edges as rows

def attended(x, values, listed):
    pairs = rows.pairs_by_query(64, 64, listed, rows.itself(64, listed.device))
    weights = rows.softmax_of_rows(rows.entries(x, pairs.key), pairs.once, pairs)
    return rows.weighted_sum(weights, values, pairs)

def gradients(function, x, values, listed):
    y = function(x, values, listed)
    return torch.autograd.grad((y * torch.linspace(0, 1, y.numel()).view_as(y)).sum(), (x, values))

torch.manual_seed(0)
given = torch.randn(2, 64).requires_grad_(), torch.randn(2, 64, 8).requires_grad_(), torch.randint(0, 64, (2, 1000))
expected = gradients(attended, *given)
compiled = torch.compile(attended)
for _ in range(3):
    for found, wanted in zip(gradients(compiled, *given), expected):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
def test_gradients_of_rows_stay_in_their_memory():
    """In a process of its own, which what writes outside ends; with one thread nothing does."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", ROWS], env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-2000:]
