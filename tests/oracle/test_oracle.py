"""Each case equals its loops: values and gradients, in float64, on the planned kernels and on the reference."""

from functools import partial

import pytest
import torch
from torch import Tensor

import towerdsl

from . import cases  # noqa: F401  (registers them)
from .case import CASES, Case

TOLERANCE = 1e-10
KERNELS = {"planned": {}, "reference": {"kernel": "reference"}}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", CASES)
def test_case(name: str, kernel: str):
    case = CASES[name]
    model = towerdsl.compile(case.spec, **case.sizes, **KERNELS[kernel])().double().eval()
    params = dict(model.named_parameters())
    assert {n: tuple(p.shape) for n, p in params.items()} == case.params
    with torch.no_grad():
        for n, value in case.draw_params().items():
            params[n].copy_(value)

    inputs = case.draw_inputs()
    actual = run(model, params, inputs)
    oracle_params = leaves(case.draw_params())
    expected = run(partial(case.oracle, oracle_params), oracle_params, inputs)
    compare(case, actual, expected)


def run(function, params: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The results, and the gradient of a random projection of them for each parameter and input."""
    inputs = leaves(inputs)
    results = function(**inputs)
    results = tuple(results) if isinstance(results, tuple | list) else (results,)
    draw = torch.Generator().manual_seed(2)
    loss = sum((r * torch.randn(r.shape, generator=draw, dtype=r.dtype)).sum() for r in results)
    sources = params | {f"input {n}": x for n, x in inputs.items() if x.requires_grad}
    gradients = torch.autograd.grad(loss, list(sources.values()), allow_unused=True)
    found = {f"result {n}": r.detach() for n, r in enumerate(results)}
    for (name, source), gradient in zip(sources.items(), gradients, strict=True):
        found[f"gradient {name}"] = torch.zeros_like(source) if gradient is None else gradient
    return found


def leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: x.detach().clone().requires_grad_(x.is_floating_point()) for n, x in tensors.items()}


def compare(case: Case, actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys(), case.name
    for name, value in expected.items():
        difference = f"{case.name}, {name}: {{}}".format
        torch.testing.assert_close(actual[name], value, rtol=TOLERANCE, atol=TOLERANCE, msg=difference)
