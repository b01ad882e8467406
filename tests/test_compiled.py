"""What torch's own compiler makes of each kernel gives the values and gradients of the plain operations."""

import pytest
import torch
from test_lowered import FIELDS

import towerdsl
from towerdsl.kernels.catalog import CATALOG

SPEC = """
tower: sample
sizes: {{d: 8}}
inputs:
  x: float[b, n, d]
  keep: bool[b, n]
  table: float[n, n]
  edges: relation[n, n]
blocks:
  look(x, keep, table, edges):
    params: {{a: "float[{a}]", slope: "float[2]"}}
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
{fields}
outputs: look(x, keep, table, edges)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [k.name for k in CATALOG if k.name != "flex"])
def test_compiled_values_and_gradients(kernel):
    torch.manual_seed(0)
    fields = FIELDS[kernel] | {"dropout": "0.0"}
    text = SPEC.format(a="d" if kernel == "edges" else 1, fields="\n".join(f"    {k}: {v}" for k, v in fields.items()))
    model = towerdsl.compile(text, kernel=kernel)()
    n = 300 if kernel == "chunked" else 64
    x, table = torch.randn(2, n, 8), torch.randn(n, n)
    given = (torch.rand(2, n) < 0.8, table, torch.randint(0, n, (2, 1000)))

    def ran(function):
        model.zero_grad()
        own = x.clone().requires_grad_()
        y = function(own, *given)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        parameters = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return [y.detach(), own.grad, *parameters]

    expected = ran(model)
    compiled = torch.compile(model)
    for _ in range(3):
        for found, wanted in zip(ran(compiled), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
