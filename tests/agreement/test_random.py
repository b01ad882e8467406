"""Every kernel against the reference, and the reference against plain loops, over random attentions."""

import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from torch import Tensor

import towerdsl
from towerdsl.compiler import compile_spec
from towerdsl.kernels.catalog import CATALOG

from .drawing import Drawn, attentions
from .evaluate import evaluate

TOLERANCE = 1e-10
USUAL = settings(
    deadline=None, derandomize=True, database=None, print_blob=False, suppress_health_check=list(HealthCheck)
)


@settings(USUAL, max_examples=150)
@given(attentions())
def test_kernels_agree(drawn: Drawn):
    check(drawn)


@pytest.mark.slow
@settings(USUAL, max_examples=2000, derandomize=False)
@given(attentions())
def test_kernels_agree_on_many(drawn: Drawn):
    check(drawn)


def check(drawn: Drawn) -> None:
    """Values and gradients of every kernel that does not refuse, of the reference and of plain loops."""
    note(drawn.text)
    inputs = draw_inputs(drawn)
    reference = towerdsl.compile(drawn.text, kernel="reference")().double().eval()
    params = {name: 0.5 * torch.randn_like(p, generator=DRAW) for name, p in reference.named_parameters()}
    expected = run(reference, params, inputs)
    for name, value in expected.items():
        assert value.isfinite().all(), f"reference, {name}: not finite"
    compare("loops", looped(drawn, params, inputs), expected)
    for kernel in (None, *(k.name for k in CATALOG if k.name != "reference")):
        model = compiled(drawn.text, kernel)
        if model is not None:
            compare(kernel or "planned", run(model, params, inputs), expected)


def compiled(text: str, kernel: str | None) -> torch.nn.Module | None:
    """The model on one kernel, or None if the kernel refuses."""
    try:
        return towerdsl.compile(text, kernel=kernel)().double().eval()
    except towerdsl.TowerError as error:
        if kernel is not None and {d.code for d in error.diagnostics} == {"kernel"}:
            return None
        raise


DRAW = torch.Generator()


def draw_inputs(drawn: Drawn) -> dict[str, Tensor]:
    DRAW.manual_seed(len(drawn.text))
    found = {}
    for name, (dtype, axes) in drawn.inputs.items():
        shape = [drawn.lengths[x] for x in axes]
        if dtype == "relation":
            found[name] = torch.stack([torch.randint(n, (5,), generator=DRAW) for n in shape])
        elif dtype == "bool":
            found[name] = torch.rand(shape, generator=DRAW) < 0.6
        elif dtype == "int":
            found[name] = torch.randint(3, shape, generator=DRAW)
        else:
            found[name] = torch.randn(shape, generator=DRAW, dtype=torch.float64)
    return found


def leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: x.detach().clone().requires_grad_(x.is_floating_point()) for n, x in tensors.items()}


def gradients(y: Tensor, params: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The result and the gradient of a projection of it for each parameter and input."""
    found = {"result": y.detach()}
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).cos().reshape(y.shape)
    sources = {f"gradient of {n}": x for n, x in (params | inputs).items() if x.requires_grad}
    if not y.requires_grad:
        return found | {n: torch.zeros_like(x) for n, x in sources.items()}
    got = torch.autograd.grad((y * weight).sum(), list(sources.values()), allow_unused=True)
    for (name, x), g in zip(sources.items(), got, strict=True):
        found[name] = torch.zeros_like(x) if g is None else g
    return found


def run(model: torch.nn.Module, params: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    params, inputs = leaves(params), leaves(inputs)
    return gradients(torch.func.functional_call(model, params, (), inputs), params, inputs)


def looped(drawn: Drawn, params: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same by loops, with its axes in the order of the compiled model's result."""
    params, inputs = leaves(params), leaves(inputs)
    inner = {name.removeprefix("look."): p for name, p in params.items()}
    first, y = evaluate(drawn, inner, inputs)
    axes = compile_spec(drawn.text).model.root.results[0].axes
    features = [a.name for a in axes if a.name not in first]
    output = drawn.fields.get("output", "y")
    if "linear" in output:
        y = torch.nn.functional.linear(y, inner["output.weight"], inner["output.bias"])
    elif output != "y":
        y = y.tanh() if "tanh" in output else 2 * y
    if len(features) > 1:
        order = drawn.sources["value"].features
        y = y.unflatten(-1, [drawn.lengths[x] for x in order])
        y = y.permute(*range(len(first)), *(len(first) + order.index(x) for x in features))
    rest = iter(range(len(first), y.ndim))
    y = y.permute([first.index(a.name) if a.name in first else next(rest) for a in axes])
    return gradients(y, params, inputs)


def compare(what: str, actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        message = f"{what}, {name}: {{}}".format
        torch.testing.assert_close(actual[name], value, rtol=TOLERANCE, atol=TOLERANCE, msg=message)
