"""Half precisions and autocast against the reference in float64, with bounds that come from the dtype."""

import pytest
import torch

import towerdsl
from towerdsl.ops.normalizers import NORMALIZERS

HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("normalize", [x for x in NORMALIZERS if not x.startswith("hard")])
def test_normalizers_of_many_keys(normalize, dtype):
    """Each weight is rounded to the dtype, and nothing else is."""
    function = NORMALIZERS[normalize].function
    draw = torch.Generator().manual_seed(0)
    for score in (torch.ones(2, 20_000), torch.randn(2, 20_000, generator=draw), torch.linspace(1e4, 3e4, 300)):
        score = score.to(dtype)
        for visible in (None, torch.rand(score.shape, generator=draw) < 0.9):
            found, expected = function(score, visible), function(score.double(), visible)
            assert found.dtype == dtype
            finfo = torch.finfo(dtype)
            torch.testing.assert_close(found.double(), expected, rtol=finfo.eps, atol=finfo.smallest_normal * finfo.eps)


@pytest.mark.parametrize("dtype", HALVES)
def test_choices_are_one_key_and_as_likely_as_in_float64(dtype):
    torch.manual_seed(0)
    score = torch.tensor([0.0, 1.0, 2.0] * 100).to(dtype).expand(5_000, -1)
    for name in ("hard", "hard(straight_through)", "hard(gumbel)", "hard(score_function)"):
        found = NORMALIZERS[name].function(score, None, training=True)
        weights = found[0] if isinstance(found, tuple) else found
        assert ((weights == 0) | (weights == 1)).all()
        assert (weights.sum(-1) == 1).all()
        share = weights.double().mean(0).unflatten(0, (100, 3))
        expected = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64).softmax(0)
        assert (share.sum(0) - expected).abs().max() < 4 * 0.5 / 5_000**0.5  # four deviations
        first = share[:10].sum().item()  # keys at the front are not preferred
        assert abs(first - 0.1) < 4 * 0.3 / 5_000**0.5


HUB = """
tower: hub
inputs: {x: "float[n, d]", edges: "relation[n, m]"}
blocks:
  gather(x, edges):
    value: x
    over: n
    query: zeros([m, 1])
    mask: edges[j, i]
    score: 1
    normalize: NORMALIZE
    message: MESSAGE
outputs: gather(x, edges)
"""


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("message", ["v", "v * f[j]"])
@pytest.mark.parametrize("normalize", ["count", "sum", "softmax"])
def test_a_hub_of_many_neighbours(normalize, message, dtype):
    text = HUB.replace("NORMALIZE", normalize).replace("MESSAGE", message.replace("f[j]", "(1 + 0 * i)"))
    x = torch.ones(20_000, 2, dtype=dtype, requires_grad=True)
    edges = torch.stack([torch.arange(20_000), torch.zeros(20_000, dtype=torch.long)])
    y = towerdsl.compile(text, kernel="edges", m=1)().to(dtype)(x, edges)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y, torch.ones(1, 2, dtype=dtype), rtol=2 * eps, atol=0)  # a weight and the sum


SCORES = {
    "dense": ("dot(q, k) / sqrt(dk)", "softmax", "true", "reference"),
    "with a bias": ("(dot(q, k) + f[j]) * 0.125", "softmax", "true", "reference"),
    "negative": ("1 - dot(q, k) / sqrt(dk)", "softmax", "true", "reference"),
    "a sum": ("sum(q * k) / sqrt(dk)", "softmax", "true", "reference"),
    "by a length": ("dot(q, k) / (4 * n)", "softmax", "true", "reference"),
    "a band": ("dot(q, k) / sqrt(dk)", "softmax", "abs(i - j) < 3", "banded"),
    "a union": ("dot(q, k) / sqrt(dk)", "softmax", "abs(i - j) < 3 or j < 2", "merged"),
    "in turn": ("dot(q, k) / sqrt(dk)", "softmax", "true", "chunked"),
    "few keys": ("dot(q, k) / sqrt(dk)", "topk(k=3)", "true", "gather"),
    "windows": ("dot(q, k) / sqrt(dk)", "sparsemax", "i // 4 == j // 4", "partition"),
    "edges": ("dot(q, k) / sqrt(dk)", "softmax", "edges[j, i]", "edges"),
    "torch's": ("dot(q, k) / sqrt(dk)", "softmax", "j <= i", "sdpa"),
}
LARGE = """
tower: large
sizes: {d: 64}
inputs: {x: "float[b, n, d]", f: "float[b, n]", edges: "relation[n, n]"}
blocks:
  look(x, f, edges):
    query: x
    key: x
    value: x
    score: SCORE
    normalize: NORMALIZE
    mask: MASK
    dropout: 0.0
outputs: look(x, f, edges)
"""


@pytest.mark.parametrize("name", SCORES)
def test_products_larger_than_any_half(name):
    """dot(q, k) is 100,000 and more, what is made of it is not; equal keys weigh the same."""
    score, normalize, mask, kernel = SCORES[name]
    text = LARGE.replace("SCORE", score).replace("NORMALIZE", normalize).replace("MASK", mask)
    x = torch.full((1, 12, 64), 40.0, dtype=torch.float16)
    edges = torch.arange(12).expand(2, 12)
    for model in (towerdsl.compile(text, kernel=kernel)(), towerdsl.compile(text, kernel="reference")()):
        given = x.clone().requires_grad_()
        y = model.half()(given, torch.zeros(1, 12, dtype=torch.float16), edges)
        torch.testing.assert_close(y, x, rtol=2 * torch.finfo(torch.float16).eps, atol=0)
        y.float().sum().backward()
        assert given.grad.isfinite().all()
