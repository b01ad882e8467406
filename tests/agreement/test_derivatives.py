"""Derivatives of derivatives, in reverse, forward and of batches: those of the reference, or an error."""

import pytest
import torch
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.utils._pytree import tree_leaves as leaves

from . import compare

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch's fused attention in vmap

SPEC = """
tower: derivatives
sizes: {{d: 4, heads: 2}}
inputs:
  x: float[b, n, d]
  edges: relation[n, n]
blocks:
  look(x, edges):
    params: {{table: "float[heads, 64]"}}
    query: {query}
    key: x
    value: linear(x, d)
    heads: heads
    score: {score}
    normalize: {normalize}
    mask: {mask}
outputs: look(x, edges)
"""
DOT = "dot(q, k) / sqrt(dk)"
CASES = {
    # score, normalizer, mask, and the kernels that have no torch kernel to ask
    "a band": (f"{DOT} + table[head, i - j + 10]", "softmax", "0 <= i - j < 3", {"banded"}),
    "a band of another score": ("softplus(dot(q, k))", "sum", "0 <= i - j < 3", {"banded", "chunked"}),
    "a union": (DOT, "softmax", "0 <= i - j < 3 or j < 1", {"merged"}),
    "keys": (DOT, "softmax", "j % 2 == 0", {"chunked"}),
    "all": (DOT, "softmax", "true", {"chunked"}),
    "products": ("dot(q, k)", "count", "j <= i", {"factored", "chunked"}),
    "few keys": ("dot(q, k)", "topk(k=2)", "j <= i", {"gather", "chunked"}),
    "edges": (DOT, "softmax", "edges[j, i]", {"edges"}),
    "sums of edges": ("softplus(dot(q, k))", "sum", "edges[j, i]", {"edges", "chunked"}),
    "windows": (DOT, "softmax", "i // 2 == j // 2", {"banded"}),
    "itself": ("dot(q, k)", "none", "i == j", {"diagonal", "chunked"}),
}


def models(name, query="linear(x, d)"):
    """The reference, other models with its weights as (kernel, model, whether it may not refuse), and inputs."""
    score, normalize, mask, right = CASES[name]
    text = SPEC.format(query=query, score=score, normalize=normalize, mask=mask)
    draw = torch.Generator().manual_seed(0)
    reference = compare.build(text, "reference")
    params = compare.draw_params(reference, draw)
    reference.load_state_dict(params)
    found = []
    for kernel, model in compare.others(text):
        model.load_state_dict(params)
        if kernel not in ("planned", "flex"):
            found.append((kernel, model, kernel in right))
    assert right <= {kernel for kernel, _, _ in found}
    x = torch.randn(2, 6, 4, dtype=torch.float64, generator=draw)
    return reference, found, x, torch.randint(0, 6, (2, 9), generator=draw)


def same(function, reference, found):
    """Each model gives what the reference gives, or, where it calls torch's fused attention, torch's error."""
    expected = leaves(function(reference))
    for kernel, model, right in found:
        try:
            result = leaves(function(model))
        except (RuntimeError, NotImplementedError) as error:
            if right or "_scaled_dot_product" not in str(error):
                raise
        else:
            torch.testing.assert_close(result, expected, msg=lambda text, kernel=kernel: f"{kernel}: {text}")


@pytest.mark.parametrize("query", ["linear(x, d)", "x"])
@pytest.mark.parametrize("name", CASES)
def test_a_penalty_of_gradients(name, query):
    """The incoming gradient is a constant, so nothing but the saved tensors leads to the second derivatives."""
    reference, found, x, edges = models(name, query)

    def result(model):
        given = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(model(given, edges).sum(), given, create_graph=True)
        second = torch.autograd.grad(first.square().sum(), [given, *model.parameters()], allow_unused=True)
        return [y for y in second if y is not None]

    same(result, reference, found)


@pytest.mark.parametrize("name", ["a band", "a union", "all", "edges"])
def test_gradients_of_gradients_are_differences(name):
    _, found, x, edges = models(name)
    for _, model, right in found:
        if right:
            given = x[:1].clone().requires_grad_()
            assert torch.autograd.gradgradcheck(lambda x, model=model: model(x, edges), given)


def penalty(loss, params, x):
    return grad(lambda params: grad(loss, 1)(params, x).square().sum())(params)


def tangent(loss, params, x):
    with torch.autograd.forward_ad.dual_level():
        y = loss(params, torch.autograd.forward_ad.make_dual(x, x.cos()))
        return torch.autograd.forward_ad.unpack_dual(y).tangent


TRANSFORMS = {
    "penalty": penalty,
    "hessian": lambda loss, params, x: hessian(loss, 1)(params, x[:1]),
    "jvp": lambda loss, params, x: jvp(lambda x: loss(params, x), (x,), (x.cos(),)),
    "tangent": tangent,
    "samples": lambda loss, params, x: vmap(lambda x: grad(loss)(params, x[None]))(x),
}


@pytest.mark.parametrize("name", CASES)
def test_transforms(name):
    reference, found, x, edges = models(name)
    for transform in TRANSFORMS.values():

        def result(model, transform=transform):
            def loss(params, x):
                return functional_call(model, params, (x, edges)).pow(3).sum()

            return transform(loss, {key: p.detach() for key, p in model.named_parameters()}, x)

        same(result, reference, found)


@pytest.mark.parametrize("name", ["a band", "edges"])
def test_compiled_models_refuse_second_derivatives(name):
    _, found, x, edges = models(name)
    for model in (model for _, model, right in found if right):
        given = x.clone().requires_grad_()
        y = torch.compile(model, backend="aot_eager")(given, edges)
        (first,) = torch.autograd.grad(y.sum(), given, create_graph=True)
        with pytest.raises(RuntimeError, match="double backward"):
            first.square().sum().backward()
