"""Values and gradients of a model, and whether two of them are the same."""

from collections.abc import Iterator
from unittest.mock import patch

import torch
from torch import Tensor, nn

import towerdsl
from towerdsl.kernels.catalog import CATALOG

TOLERANCE = 1e-10
SMALL_BLOCKS = patch.multiple("towerdsl.kernels.sizes", QUERIES={1: 2, 2: 2, 3: 1}, TURN=2, EVEN=1)
#: torch trains with flex_attention on GPUs only; but for that, its own form of the gradients runs on a CPU too.
TRAINS = patch("torch.nn.attention.flex_attention._validate_device")
Named = dict[str, Tensor]


def build(spec, kernel: str | None = None, **sizes) -> nn.Module:
    device = "cuda" if kernel == "flex" else "cpu"
    if device == "cuda":
        torch._dynamo.reset()  # flex_attention keeps a few compiled functions, and then gives up
    return towerdsl.compile(spec, kernel=kernel, device=device, **sizes)().double().eval()


def others(spec, **sizes) -> Iterator[tuple[str, nn.Module]]:
    """The model as planned, and on every kernel of the catalog that does not refuse, but the reference.

    Blocks are so small that there are several, but for the model as planned.
    """
    yield "planned", build(spec, **sizes)
    for kernel in CATALOG:
        if kernel.name != "reference":
            try:
                with SMALL_BLOCKS:
                    model = build(spec, kernel.name, **sizes)
            except towerdsl.TowerError as error:
                if {d.code for d in error.diagnostics} != {"kernel"}:
                    raise
            else:
                yield kernel.name, model


def draw_params(model: nn.Module, draw: torch.Generator) -> Named:
    return {name: 0.5 * torch.randn(p.shape, generator=draw, dtype=p.dtype) for name, p in model.named_parameters()}


def draw_input(dtype: str, shape, draw: torch.Generator, below: int = 3) -> Tensor:
    """A random input; a relation is given by the lengths of its two axes."""
    if dtype == "relation":
        count = 5 if all(shape) else 0
        return torch.stack([torch.randint(max(n, 1), (count,), generator=draw) for n in shape])
    if dtype == "bool":
        return torch.rand(shape, generator=draw) < 0.6
    if dtype == "int":
        return torch.randint(below, shape, generator=draw)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def leaves(tensors: Named) -> Named:
    return {n: x.detach().clone().requires_grad_(x.is_floating_point()) for n, x in tensors.items()}


def run(model: nn.Module, params: Named, inputs: Named) -> Named:
    """Results and gradients of a model with these parameters."""
    params, inputs = leaves(params), leaves(inputs)
    with TRAINS:
        found = torch.func.functional_call(model, params, (), inputs)
    return gradients(tuple(found) if isinstance(found, tuple) else (found,), params, inputs)


def results(found) -> Named:
    """What a model gives, by number."""
    return {f"result {n}": y.detach() for n, y in enumerate(found if isinstance(found, tuple) else (found,))}


def projected(tensors) -> Tensor:
    """A sum with other weights for each number, which every dtype has exactly."""

    def weights(y: Tensor) -> Tensor:
        cosines = torch.linspace(-3, 3, y.numel(), dtype=torch.float64).cos()
        return ((cosines * 32).round() / 32).to(y.dtype).reshape(y.shape)

    return sum((y * weights(y)).sum() for y in tensors)


def gradients(found: tuple[Tensor, ...], params: Named, inputs: Named) -> Named:
    """The results, and the gradient of a projection of them for each parameter and input."""
    sources = {f"gradient of {n}": x for n, x in (params | inputs).items() if x.requires_grad}
    return results(found) | derivatives(projected(found), sources)


def derivatives(loss: Tensor, sources: Named, create_graph: bool = False) -> Named:
    """The gradient of each source; zeros where the loss does not depend on it."""
    if not loss.requires_grad:
        return {n: torch.zeros_like(x) for n, x in sources.items()}
    got = torch.autograd.grad(loss, list(sources.values()), allow_unused=True, create_graph=create_graph)
    return {n: torch.zeros_like(x) if g is None else g for (n, x), g in zip(sources.items(), got, strict=True)}


def run_twice(model: nn.Module, params: Named, inputs: Named) -> Named:
    """Gradients of a projection of the gradients."""
    params, inputs = leaves(params), leaves(inputs)
    found = torch.func.functional_call(model, params, (), inputs)
    sources = {f"second derivative of {n}": x for n, x in (params | inputs).items() if x.requires_grad}
    first = derivatives(projected(found if isinstance(found, tuple) else (found,)).square(), sources, True)
    return derivatives(projected(first.values()), sources)


def compare(what: str, actual: Named, expected: Named, allowed: Named | None = None) -> None:
    """Equal up to what is allowed, and without NaN: a row that sees nothing is zero.

    Where the reference itself is not finite, there is nothing to compare.
    """
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if allowed is not None and not value.isfinite().all():
            continue
        assert actual[name].isfinite().all(), f"{what}, {name}: not finite"
        message = f"{what}, {name}: {{}}".format
        rtol, atol = (TOLERANCE, TOLERANCE) if allowed is None else (0, float(allowed.get(name, TOLERANCE)))
        torch.testing.assert_close(actual[name], value, rtol=rtol, atol=atol, msg=message)
