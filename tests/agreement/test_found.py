"""The smallest specs of the mistakes that random attentions have found."""

from dataclasses import replace

import pytest
import torch

import towerdsl
from towerdsl.compiler import compile_spec

from . import compare
from .driver import Case, check
from .test_specs import draw_inputs

HEAD = """
tower: found
sizes: {{e: 2, m: 3}}
inputs:
  x: float[{axes}]
  keep: bool[n]
  f: float[n]
blocks:
  look(x, keep, f):
    params: {{latent: "float[m, e]", tau: "float[3]", grid: "float[3, 3]"}}
    query: {query}
    key: x
    value: x
    over: {over}
    {fields}
outputs: look(x, keep, f)
"""


def spec(*fields: str, axes: str = "n, e", over: str = "n", query: str = "x") -> str:
    return HEAD.format(fields="\n    ".join(fields), axes=axes, over=over, query=query)


FOUND = {
    "a band along one of several axes is not causal": spec("mask: j.g <= i.g", axes="g, h, e", over="[g, h]"),
    "and along the other": spec("mask: j.h <= i.h", axes="g, h, e", over="[g, h]"),
    "positions stand in the order of over": spec("mask: j <= i", axes="h, g, e", over="[g, h]"),
    "a table has two axes of one length": spec(
        "score: dot(q, k) + grid[clip(i - j, 0, 2), clip(j, 0, 2)]", "locality: i == j"
    ),
    "numbers that are chosen by data": spec("score: 1 if keep[j] else -0.5", "normalize: none"),
    "a choice that is made when compiling": spec("score: where(true, dot(q, k), -dot(q, k))"),
    "a condition that is true when compiling": spec("score: where(head == 0 or i < j, dot(q, k), -dot(q, k))"),
    "a score without axes": spec("score: tau[0]"),
    "a score without axes, hard": spec("score: tau[head]", "normalize: hard"),
    "a quotient of whole numbers": spec("score: dot(q, k) / (3 + head)", "heads: 2", "normalize: none"),
    "quotients of positions": spec("score: dot(q, k) / (3 + i) / (7 + j) + 1 / (3 + j)", "normalize: count"),
    "a condition with more axes than the score": spec(
        "score: f[j]", "normalize: count", "mask: keep[j] and j <= i", "heads: 2"
    ),
    "nothing is visible": spec('mask: "false"', "normalize: sparsemax", axes="g, h, e", over="[g, h]"),
    "positions of learned queries": spec("mask: i.m <= j", query="latent"),
    "a position in both operands": spec("score: dot(q * cos(i), k + j)"),
    "a bias that reads keys that heads share": spec(
        "score: dot(q, k) + -dot(q, k) * f[j]", "heads: {query: 2, key: 1}", query="concat(x, x, axis=e)"
    ),
    "a remainder times a number": spec("score: dot(q, k) + 0.5 * ((f[i] - f[j]) % 3)"),
    "a quotient times a number": spec("score: dot(q, k) - 3 * ((f[i] * f[j]) // 2)"),
    "a remainder behind a minus": spec("score: dot(-(q % 2), k)"),
    "a remainder in front of the product": spec("score: 0.5 * (n % 3) * dot(q, k)"),
    "a condition that reads the vectors": spec("score: 1", "mask: dot(q, k) > 0"),
    "two classes along one axis": spec("locality: i // 2 == j // 2 and (i + 1) // 2 == (j + 1) // 2"),
    "rows, and a band between rows and columns": spec(
        "locality: i.g == j.g and i.g - j.h < 1", axes="g, h, e", over="[g, h]"
    ),
    "a query that is multiplied, with two batch axes": spec(
        "score: dot(q * f[i], k)", "mask: j <= i + 1", "heads: 2", axes="b, g, n, e"
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_kernels_agree(name):
    text = FOUND[name]
    draw = torch.Generator().manual_seed(0)
    reference = compare.build(text, "reference")
    params = compare.draw_params(reference, draw)
    inputs = draw_inputs(compile_spec(text), (3, 4, 2), draw)
    expected = compare.run(reference, params, inputs)
    for kernel, model in compare.others(text):
        compare.compare(kernel, compare.run(model, params, inputs), expected)


@pytest.mark.parametrize("normalize", ["softmax", "sparsemax", "count", "none", "hard"])
def test_itself_is_itself_whatever_the_order_of_axes(normalize):
    text = spec("mask: i == j", f"normalize: {normalize}", "score: 1", axes="h, g, e", over="[g, h]")
    x = torch.randn(3, 4, 2)
    y = towerdsl.compile(text)()(x, torch.ones(2, dtype=torch.bool), torch.ones(2))
    torch.testing.assert_close(y, x)


def test_a_condition_with_a_batch_and_a_score_without():
    text = "tower: found\ninputs:\n  x: float[b, n, d]\n  keep: bool[b, n]\n  f: float[n]\nblocks:\n  look(x, keep, f):"
    text += "\n    value: x\n    score: f[j]\n    mask: keep[j]\n    normalize: count\noutputs: look(x, keep, f)\n"
    x, keep = torch.randn(2, 3, 4), torch.tensor([[True, False, True], [False, False, False]])
    y = towerdsl.compile(text)()(x, keep, torch.ones(3))
    torch.testing.assert_close(y, torch.stack([(x[0, 0] + x[0, 2]) / 2, torch.zeros(4)]))


def test_an_optional_input_before_a_required_one():
    """It is refused with its place, or the model can be called."""
    text = "tower: found\ninputs:\n  keep: bool[n] = true\n  x: float[n]\noutputs: where(keep, x, 2 * x)\n"
    try:
        model = towerdsl.compile(text)()
    except towerdsl.TowerError:
        return
    torch.testing.assert_close(model(x=torch.ones(3)), torch.ones(3))


def test_many_inputs_with_long_names():
    names = [f"a_rather_long_name_{c}" for c in "abcdefg"]
    inputs = "\n".join(f"  {x}: float[n]" for x in names)
    text = f"tower: found\ninputs:\n{inputs}\noutputs: {' + '.join(names)}\n"
    assert towerdsl.compile(text)()(*[torch.ones(2)] * 7).tolist() == [7, 7]


@pytest.mark.parametrize("locality", ["abs(i.h - j.h) < 3 and abs(i.w - j.w) < 2", "i.h // 2 == j.h // 2"])
@pytest.mark.parametrize("condition", ["keep[j]", "keep[i]"])
def test_a_condition_that_is_left_out_inside_blocks(locality, condition):
    """Its axes stand apart, so that it is laid out before it is cut."""
    text = "tower: found\nsizes: {e: 2}\ninputs:\n  x: float[b, h, w, e]\n  keep: bool[h, b, w] = true\nblocks:\n"
    text += "  look(x, keep):\n    query: x\n    key: x\n    value: x\n    over: [h, w]\n    normalize: count\n"
    text += f"    score: sum(abs(q - k))\n    locality: {locality} and {condition}\noutputs: look(x, keep)\n"
    case = Case(text, {"b": 2, "h": 4, "w": 3})
    check(case, ["kernels"])
    check(replace(case, left_out=frozenset({"keep"})), ["kernels"])


WITHOUT = """
tower: without
inputs:
  x: float[b, n, e]
  z: float[b, m, e]
  keep: bool[b, m]
blocks:
  look(x, z, keep):
    query: x
    key: z
    value: z
    score: sum(q) {score}
    normalize: {normalize}
    {mask}
outputs: look(x, z, keep)
"""
NORMALIZED = "softmax sparsemax topk(k=2) hard hard(straight_through) hard(gumbel) sum count none sigmoid".split()


@pytest.mark.parametrize("normalize", NORMALIZED)
@pytest.mark.parametrize("mask", ["mask: keep[j]", 'mask: "j < 3"', ""], ids=["keep", "first", "all"])
@pytest.mark.parametrize("score", ["+ sum(k)", ""], ids=["pairs", "queries"])
def test_queries_without_keys(normalize: str, mask: str, score: str) -> None:
    """They are zeros, on every kernel, and so are batches and queries that there are none of."""
    text = WITHOUT.format(normalize=normalize, mask=mask, score=score)
    for kernel, model in (("reference", compare.build(text, "reference")), *compare.others(text)):
        for b, n, m in ((2, 3, 0), (2, 0, 3), (0, 3, 3), (2, 0, 0)):
            x, z = (torch.randn(b, size, 2, dtype=torch.float64, requires_grad=True) for size in (n, m))
            y = model(x, z, torch.ones(b, m, dtype=torch.bool))
            assert y.shape == (b, n, 2) and not (y.any() and not m), kernel
            if y.requires_grad:
                assert all(
                    g is None or g.isfinite().all() for g in torch.autograd.grad(y.sum(), (x, z), allow_unused=True)
                )


@pytest.mark.parametrize("axes", ["n, b, g, n", "b, n, g, n", "n, n, b", "n, b, n"])
def test_two_batch_axes_without_heads(axes):
    """The last one stands where heads would: a function of a pair gets both."""
    text = f"tower: found\nsizes: {{g: 2, e: 3}}\ninputs:\n  x: float[b, n, g, e]\n  seen: bool[{axes}]\nblocks:\n"
    text += "  look(x, seen):\n    query: x\n    key: x\n    value: x\n    over: n\n    mask: seen[i, j]\n"
    check(Case(text + "outputs: look(x, seen)\n", {"b": 3, "n": 5}), ["kernels"])


@pytest.mark.parametrize("mask", ["j <= i", "abs(i - j) < 2", "i // 3 == j // 3", "i < 1 or abs(i - j) < 2"])
@pytest.mark.parametrize("score", ["scaled_dot", "dot(q, k) + i"])
def test_vectors_without_features(score, mask):
    """Their dots are 0, whatever they are scaled by."""
    text = "tower: found\ninputs:\n  x: float[n, e]\n  z: float[n, f]\nblocks:\n  look(x, z):\n    query: x\n"
    text += f"    key: x\n    value: z\n    score: {score}\n    mask: {mask}\noutputs: look(x, z)\n"
    model, z = compare.build(text, "reference"), torch.randn(7, 2, dtype=torch.float64)
    x = torch.zeros(7, 0, dtype=torch.float64)
    for kernel, other in compare.others(text):
        torch.testing.assert_close(other(x, z), model(x, z), msg=f"{kernel}: {{}}".format)


def test_a_sum_of_small_numbers_over_edges():
    """Their quotient by the sum has finite gradients where the reciprocal of the sum has none."""
    text = (
        "tower: found\ninputs:\n  x: float[n, e]\n  edges: relation[n, n]\nblocks:\n  look(x, edges):\n    query: x\n"
    )
    text += "    key: x\n    value: x\n    score: exp(-dot(q, k))\n    normalize: sum\n    locality: edges[j, i]\n"
    text += "outputs: look(x, edges)\n"
    edges, results = torch.tensor([[0, 1, 2, 0], [0, 0, 1, 2]]), []
    for kernel in ("edges", "reference"):
        x = torch.tensor([[21.4], [21.45], [21.42]], dtype=torch.float64, requires_grad=True)
        y = compare.build(text, kernel)(x, edges)
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
        assert all(r.isfinite().all() for r in results[-1])
    torch.testing.assert_close(*results)


def test_compiled_blocks_of_an_axis_that_is_not_the_last():
    """What is read in blocks lies in memory as torch's compiler believes."""
    text = "tower: found\nsizes: {b: 1, g: 1, e: 3, f: 1, w: 4}\ninputs:\n  x: float[e, g, b, h, w]\n"
    text += "  u: float[b, f, w, h]\nblocks:\n  look(x, u):\n    query: x\n    key: x\n    value: u\n    over: [h, w]\n"
    text += "    features: [e, f]\n    locality: 20 <= i.h - j.h < 23\noutputs: look(x, u)\n"
    torch.compiler.reset()
    model = torch.compile(towerdsl.compile(text)(), backend="aot_eager_decomp_partition", dynamic=True)
    x, u = torch.randn(3, 1, 1, 30, 4, requires_grad=True), torch.randn(1, 1, 4, 30, requires_grad=True)
    found, expected = model(x, u), towerdsl.compile(text, kernel="reference")()(x, u)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(y.square().sum(), (x, u)) for y in (found, expected))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("heads", ["heads: 2", "merge: concat"])
@pytest.mark.parametrize("score", ["dot(q, k) / pj[j]", "sum(q * k) + dot(q, k) * pj[j]", "dot(q, pj[j] * k)"])
def test_a_factor_with_a_batch_axis_that_the_vectors_lack(score, heads):
    """Their features stay the last axis."""
    text = "tower: found\nsizes: {e: 4}\ninputs:\n  s: float[m, b, e]\n  x: float[n, e]\n  u: float[b, n, e]\n"
    text += "  pj: float[n, b]\nblocks:\n  look(s, x, u, pj):\n    query: s\n    key: x\n"
    text += (
        f"    value: u\n    over: n\n    {heads}\n    normalize: none\n    score: {score}\noutputs: look(s, x, u, pj)\n"
    )
    check(Case(text, {"n": 3, "b": 2, "m": 5}), ["kernels"])


@pytest.mark.parametrize("bias", ["tau[head]", "tau[1] * abs(i - j)", "tau[0] - sum(tau) * (i + j)"])
def test_a_bias_that_is_one_learned_number(bias):
    """A function of a pair has its gradient too."""
    check(Case(spec(f"score: scaled_dot + {bias}", "mask: keep[j] or j <= i"), {"n": 5}), ["kernels"])


@pytest.mark.parametrize("shape", [(0, 4, 2), (2, 4, 0), (0, 0, 0)])
def test_related_vectors_without_features(shape):
    text = "tower: found\ninputs:\n  x: float[e, n, f]\n  edges: relation[n, n]\nblocks:\n  look(x, edges):\n"
    text += "    query: x\n    key: x\n    value: x\n    features: [e, f]\n    score: -sum(abs(q - k))\n"
    text += "    locality: edges[j, i]\n"
    check(Case(text + "outputs: look(x, edges)\n", dict(zip("enf", shape, strict=True))), ["kernels"])


@pytest.mark.parametrize("normalize", NORMALIZED)
@pytest.mark.parametrize("lengths", [(0, 3), (3, 0)])
def test_a_condition_with_an_axis_that_the_score_lacks_and_no_keys(normalize, lengths):
    """The weights have the axes of both."""
    fields = ["score: -abs(i - j)", "mask: head == 0 or i.g < j.g", "heads: 2", f"normalize: {normalize}"]
    text = spec(*fields, axes="g, h, e", over="[g, h]")
    check(Case(text, dict(zip("gh", lengths, strict=True)) | {"n": 2}), ["kernels"])
