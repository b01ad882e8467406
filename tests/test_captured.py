"""Models that torch traces, exports, maps and differentiates: what is recorded holds for other values and lengths."""

import io
import warnings
from functools import cache

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

import towerdsl
from towerdsl.runtime.captured import captured, plain, readable

SPEC = """
tower: recorded
sizes: {{d: 8, heads: 2}}
inputs:
  x:     float[b, n, d]
  edges: relation[n, n]
  keep:  bool[b, n] = true
blocks:
  look(x, keep, edges):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    heads: heads
    {fields}
outputs: look(x, keep, edges)
"""
DOT = "score: dot(q, k) / sqrt(dk)"
POSITIVE = "score: dot(exp(q), exp(k))"
NEAR, KEPT = "locality: abs(i - j) < 3", "mask: keep[j]"
CASES = {
    "sdpa": [DOT, KEPT],
    "sdpa causal": [DOT, "mask: keep[j] and j <= i"],
    "reference sigmoid": [DOT, "mask: keep[j] and j <= i", "normalize: sigmoid"],
    "reference sparsemax": [DOT, KEPT, "normalize: sparsemax"],
    "chunked": [DOT, KEPT],
    "chunked causal": [DOT, "mask: keep[j] and j <= i"],
    "banded": [DOT, NEAR, KEPT],
    "banded alone": [DOT, NEAR],
    "banded sigmoid": [DOT, NEAR, KEPT, "normalize: sigmoid"],
    "partition": [DOT, "locality: i // 4 == j // 4", KEPT],
    "merged": [DOT, "locality: abs(i - j) < 3 or j < 2 or i < 2", KEPT],
    "gather": [DOT, KEPT, "normalize: hard"],
    "static": ["score: -abs(i - j)"],
    "diagonal": [DOT, "locality: i == j", KEPT],
    "factored": ["score: dot(q, k)", KEPT, "normalize: count"],
    "factored causal": ["score: dot(q, k)", "mask: keep[j] and j <= i", "normalize: none"],
    "factored causal sum": [POSITIVE, "mask: keep[j] and j <= i", "normalize: sum"],
    "edges": [DOT, "locality: edges[j, i]", KEPT],
    "edges and itself": [DOT, "locality: edges[j, i] or i == j"],
    "edges count": [DOT, "locality: edges[j, i]", KEPT, "normalize: count"],
}
Named = dict[str, Tensor]


@cache
def models(name: str) -> tuple[nn.Module, nn.Module]:
    """On its kernel, and on the reference with the same weights."""
    torch.manual_seed(0)
    text = SPEC.format(fields="\n    ".join(CASES[name]))
    model, reference = (towerdsl.compile(text, kernel=k)().double().eval() for k in (name.split()[0], "reference"))
    reference.load_state_dict(model.state_dict())
    return model, reference


def given(n: int, everything: bool = False, b: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(n)
    x = torch.randn(b, n, 8, generator=draw, dtype=torch.float64)
    keep = torch.rand(b, n, generator=draw) < (2.0 if everything else 0.6)
    return x, torch.randint(n, (2, 2 * n), generator=draw), keep


def same(found, name: str, lengths: tuple[int, ...]) -> None:
    for n in lengths:
        for everything in (False, True):
            inputs = given(n, everything)
            torch.testing.assert_close(found(*inputs), models(name)[1](*inputs), msg=lambda m, n=n: f"n = {n}: {m}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_traced_with_a_mask_that_is_all_true(name):
    saved = io.BytesIO()
    torch.jit.save(torch.jit.trace(models(name)[0], given(12, everything=True), check_trace=False), saved)
    saved.seek(0)
    same(torch.jit.load(saved), name, (12, 150, 5))


@pytest.mark.parametrize("name", ["banded", "chunked", "edges", "factored causal sum", "merged", "partition"])
def test_exported_at_one_length(name):
    auto = torch.export.Dim.DYNAMIC
    free = ({0: auto, 1: auto}, {1: auto}, {0: auto, 1: auto})
    same(torch.export.export(models(name)[0], given(12), dynamic_shapes=free).module(), name, (12, 300, 5))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["sdpa", "banded", "merged", "chunked", "factored causal", "partition"])
def test_the_older_onnx_exporter_keeps_the_mask(name):
    model, saved = models(name)[0], io.BytesIO()
    names = ["x", "edges", "keep"]
    torch.onnx.export(model, given(12, True), saved, dynamo=False, opset_version=17, input_names=names, verbose=False)
    runs = ReferenceEvaluator(onnx.load_from_string(saved.getvalue()))

    def found(*inputs):
        numbers = {k: x.numpy() for k, x in zip(names, inputs, strict=True) if k in runs.input_names}
        return torch.as_tensor(runs.run(None, numbers)[0])

    same(found, name, (12,))


def loss(model: nn.Module, params: Named, x: Tensor, edges: Tensor, keep: Tensor) -> Tensor:
    return torch.func.functional_call(model, params, (x, edges, keep)).square().sum()


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_each_sample(name):
    model, reference = models(name)
    x, edges, keep = given(12, b=3)
    params = {k: p.detach() for k, p in model.named_parameters()}
    each = torch.vmap(torch.func.grad(lambda p, x, k: loss(model, p, x[None], edges, k[None])), (None, 0, 0))
    found = each(params, x, keep)
    for at in range(3):
        leaves = {k: p.clone().requires_grad_() for k, p in params.items()}
        total = loss(reference, leaves, x[at : at + 1], edges, keep[at : at + 1])
        expected = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
        for k, gradient in zip(leaves, expected, strict=True):
            torch.testing.assert_close(found[k][at], gradient)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_texts_and_jacobians(name):
    model, reference = models(name)
    x, edges, keep = given(6, b=3)
    each = torch.vmap(lambda x, keep: model(x[None], edges, keep[None])[0])
    torch.testing.assert_close(each(x, keep), reference(x, edges, keep))
    if "edges" in name:
        own = torch.stack([given(6)[1], edges.flip(0)])
        found = torch.vmap(lambda x, e, k: model(x[None], e, k[None])[0])(x[:2], own, keep[:2])
        expected = [reference(x[at : at + 1], own[at], keep[at : at + 1])[0] for at in range(2)]
        torch.testing.assert_close(found, torch.stack(expected))
    expected = torch.autograd.functional.jacobian(lambda x: reference(x, edges, keep).sum(0), x)
    torch.testing.assert_close(torch.func.jacrev(lambda x: model(x, edges, keep).sum(0))(x), expected)
    if name.split()[0] not in ("sdpa", "chunked", "partition"):  # torch's own attention has no forward derivatives
        torch.testing.assert_close(torch.func.jacfwd(lambda x: model(x, edges, keep).sum(0))(x), expected)


def test_where_values_may_be_looked_at():
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append((captured(), plain(), readable(x)))
        return x * 2

    x = torch.ones(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        look(x)
        torch.jit.trace(look, x, check_trace=False)
        torch.fx.experimental.proxy_tensor.make_fx(look)(x)
        torch.vmap(look)(x)
        torch.func.jvp(look, (x,), (x,))
        look(x.to("meta"))
    assert seen == [
        (False, False, True),
        (True, True, False),
        (True, True, False),
        (False, True, False),
        (False, True, False),
        (False, False, False),
    ]
