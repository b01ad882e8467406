"""Half precisions and autocast against the reference in float64, with bounds that come from the dtype."""

import copy
import itertools
import math

import pytest
import torch

import towerdsl
from towerdsl.kernels.catalog import CATALOG
from towerdsl.ops.normalizers import NORMALIZERS

from . import compare

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


LONG = """
tower: long
inputs: {x: "float[b, n, d]", keep: "bool[b, n]"}
sizes: {d: 4}
blocks:
  look(x, keep):
    query: x
    key: x
    value: x
    score: SCORE
    normalize: NORMALIZE
    mask: MASK
outputs: look(x, keep)
"""


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("mask", ["keep[j]", "j <= i", "true"])
@pytest.mark.parametrize("normalize", ["count", "sum"])
@pytest.mark.parametrize("score", ["dot(q, k)", "sum(k)", "1"])
def test_sums_over_all_keys_that_no_half_holds(score, normalize, mask, dtype):
    text = LONG.replace("SCORE", score).replace("NORMALIZE", normalize).replace("MASK", mask)
    x = (torch.rand(1, 70_000, 4, generator=torch.Generator().manual_seed(0)) + 1.5).to(torch.bfloat16)
    keep = torch.rand(1, 70_000) < 0.9
    model = towerdsl.compile(text, kernel="factored")()
    exact = model(x.double(), keep)
    found = model(x.to(dtype), keep)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=0)


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


# --- every kernel, source and dtype ------------------------------------------------------------------------------

MATRIX = """
tower: matrix
sizes: {d: 8, heads: 2, n: 12}
inputs: {x: "float[b, n, d]", keep: "bool[b, n]", edges: "relation[n, n]"}
blocks:
  look(x, keep, edges):
    params: {rows: "float[n, d]", table: "float[heads, 32]"}
    query: QUERY
    key: KEY
    value: VALUE
    over: n
    heads: heads
    score: SCORE
    normalize: NORMALIZE
    mask: MASK
outputs: look(x, keep, edges)
"""
DOT = "dot(q, k) / sqrt(dk)"
FORMS = {
    "all": (DOT, "softmax", "keep[j]"),
    "a band": (f"{DOT} + table[head, i - j + 16]", "softmax", "abs(i - j) < 3 and keep[j]"),
    "a union": (DOT, "softmax", "(abs(i - j) < 3 or j < 2) and keep[j]"),
    "windows": (DOT, "sparsemax", "i // 4 == j // 4"),
    "edges": (DOT, "softmax", "edges[j, i]"),
    "sums of edges": (f"softplus({DOT})", "sum", "edges[j, i] and keep[j]"),
    "products": (DOT, "count", "keep[j]"),
    "earlier products": ("dot(softplus(q), softplus(k))", "sum", "j <= i"),
    "another score": ("-sum((q - k) ** 2) / 8", "softmax", "j <= i"),
    "cosine": ("4 * cosine", "sigmoid", "keep[j]"),
    "itself": (DOT, "none", "i == j"),
    "few keys": (DOT, "topk(k=3)", "keep[j]"),
}
#: The sum of |the changes of a row's weights| where each score changes by at most d, of n keys. The scores of `sum` are
#: positive, and change by at most d of what they are. A projection brings nothing further apart, in squares.
GROWTH = {
    "softmax": lambda d, n: math.expm1(2 * d),
    "sum": lambda d, n: math.expm1(2 * d),
    "count": lambda d, n: d,
    "none": lambda d, n: d * n,
    "sigmoid": lambda d, n: d * n / 4,
    "sparsemax": lambda d, n: d * n,
}
SOURCES = ["linear(x, d)", "x", "rows"]


def of_kernels(text):
    """The spec on every kernel of a CPU that can compute it, in several blocks."""
    for kernel in CATALOG:
        if kernel.name != "flex":
            try:
                with compare.SMALL_BLOCKS:
                    yield kernel.name, towerdsl.compile(text, kernel=kernel.name)()
            except towerdsl.TowerError as error:
                if {d.code for d in error.diagnostics} != {"kernel"}:
                    raise


def results(model, params, inputs, autocast=False):
    """The result and the gradients of the first input and of the parameters."""
    model.load_state_dict(params)
    x, *others = inputs
    given = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = model(given, *others)
    wave = torch.linspace(-3, 3, y.numel(), dtype=torch.float64).cos().reshape(y.shape)
    leaves = [given, *model.parameters()]
    return y.detach(), torch.autograd.grad((y.double() * wave).sum(), leaves, allow_unused=True)


#: The sum of the sizes of all that a score is made of, of vectors of a head's query and key, without their signs.
SIZES = {
    "cosine": lambda q, k: 4.0,
    "another score": lambda q, k: (q + k).square().sum() / 8,
    "earlier products": lambda q, k: ((q + 1) * (k + 1)).sum(),
}


def bound(form, sources, params, x, eps):
    """How far a result may be from that of exact numbers, in parts of the largest value, and the largest value.

    The parts of a score are together at most `size`. Those of q, k, what q / sqrt(dk) and q - k are, their sum and what
    is made of it are each rounded, by eps / 2 of it, so a score changes by at most d = 3 eps size. Weights change by
    GROWTH(d) then. Values, weights, their products and sums are rounded too: 4 eps of the sum of |weights|.
    """
    found = {}
    for name, source in zip(("query", "key", "value"), sources, strict=True):
        found[name] = params["look.rows"] if source == "rows" else x
        if source.startswith("linear"):
            weights = params[f"look.{name}.weight"], params[f"look.{name}.bias"]
            found[name] = torch.nn.functional.linear(x, *weights)
    q, k, v = (y.abs().unflatten(-1, (2, 4)).flatten(0, -3).amax(0) for y in found.values())
    sizes = [float(SIZES.get(form, lambda q, k: (q * k).sum() / 2)(*heads)) for heads in zip(q, k, strict=True)]
    size = max(sizes) + (params["look.table"].abs().max().item() if "table" in FORMS[form][0] else 0)
    d = 3 * eps * size
    normalize = FORMS[form][1]
    total = {"count": size, "none": size, "sigmoid": x.shape[1]}.get(normalize, 1)
    return GROWTH[normalize](d, x.shape[1]) + 4 * eps * total, v.max().item()


EVERY = (torch.bfloat16, False), (torch.float16, False), (torch.bfloat16, True)  # a dtype, by autocast or not


def models(form, sources, size=0.5, dtypes=EVERY):
    """The spec on every kernel, with inputs and parameters that halves hold: as exact numbers, and in each dtype."""
    score, normalize, mask = FORMS[form]
    parts = dict(zip(("QUERY", "KEY", "VALUE"), sources, strict=True))
    text = MATRIX
    for key, value in (parts | {"SCORE": score, "NORMALIZE": normalize, "MASK": mask}).items():
        text = text.replace(key, value)
    draw = torch.Generator().manual_seed(0)
    x = size * torch.randn(2, 12, 8, generator=draw)
    keep = torch.rand(2, 12, generator=draw) < 0.8
    edges = torch.randint(12, (2, 40), generator=draw)
    reference = towerdsl.compile(text, kernel="reference")().double()
    params = {k: 0.5 * torch.randn(p.shape, generator=draw) for k, p in reference.state_dict().items()}
    params = {k: p.bfloat16().double() * (size if k == "look.rows" else 1) for k, p in params.items()}
    x = x.bfloat16().double()
    exact = results(reference, params, (x, keep, edges))
    for kernel, model in of_kernels(text):
        for dtype, autocast in dtypes:
            kind = torch.float32 if autocast else dtype
            found = results(model.to(kind), params, (x.to(kind), keep, edges), autocast)
            yield f"{form}, {sources}, {kernel}, {dtype}, autocast={autocast}", dtype, params, x, exact, found


def agree(form, sources, dtypes=EVERY):
    for what, dtype, params, x, (exact, exact_grads), (found, grads) in models(form, sources, dtypes=dtypes):
        error, largest = bound(form, sources, params, x, torch.finfo(dtype).eps)
        assert (found.double() - exact).abs().max() <= error * largest, what
        for g, e in zip(grads, exact_grads, strict=True):
            assert (g is None) == (e is None), what
            # the same products and sums, once more for each key
            assert g is None or (g.double() - e).abs().max() <= error * max(largest, e.abs().max()), what


def is_finite(form, sources):
    """Large scores leave weights that sum to 1, whatever they are."""
    for what, *_, (exact, _), (found, grads) in models(form, sources, size=64.0):
        assert exact.isfinite().all() and found.isfinite().all(), what
        assert all(g is None or g.isfinite().all() for g in grads), what


COMPUTED = [form for form in FORMS if form != "few keys"]
CONVEX = [form for form in FORMS if FORMS[form][1].startswith(("softmax", "sparsemax", "topk"))]
ROTATED = [SOURCES[n:] + SOURCES[:n] for n in range(3)]


@pytest.mark.parametrize("form", COMPUTED)
def test_halves_and_autocast(form):
    for k, sources in enumerate(ROTATED):
        agree(form, sources, EVERY if k == 0 else EVERY[-1:])


@pytest.mark.parametrize("form", CONVEX)
def test_large_scores_in_halves(form):
    is_finite(form, ["linear(x, d)", "x", "rows"])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_halves_and_autocast_of_all_sources(form):
    for sources in itertools.product(SOURCES, repeat=3):
        if sources[1:] == ("rows", "rows"):
            continue  # `b` is no batch axis then, but one of the query's positions
        if form in COMPUTED:
            agree(form, sources)
        if form in CONVEX:
            is_finite(form, sources)


# --- positions and powers ----------------------------------------------------------------------------------------

FLOW = """
tower: flow
sizes: {d: 16}
inputs: {p: "float[b, n]", x: "float[b, n, d]", at: "int[b, n]"}
params: {w: "float[d]", s: "float"}
blocks:
  turn(x, angle):
    - x * cos(angle) + roll(x, 1) * sin(angle)
  look(x, p):
    query: x
    key: x
    value: x
    score: dot(rope(q, p[i], dk), rope(k, p[j], dk)) / 64
"""


def flow(text, dtype, p, x):
    """A flow in a half precision, and of the same numbers in float64."""
    model = towerdsl.compile(FLOW + text)()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.rand(weight.shape).to(torch.bfloat16))
    given = p, x.to(dtype), p.long()
    # copies, as conversions are in place
    exact = copy.deepcopy(model).double()(*(y.double() if y.is_floating_point() else y for y in given))
    found = model.to(dtype)(*given)
    return found, exact


ANGLES = {
    "given positions": "outputs: rope(x, p, d)",
    "interleaved": "outputs: rope_pairs(x, p, d)",
    "whole positions": "outputs: rope(x, at, d)",
    "from an offset": "outputs: rope(x, outer(p[n=0] + range(n)), d)",
    "stretched": "outputs: rope(x, range(n) * s, d)",
    "learned frequencies": "outputs: x * cos(outer(range(n) * w))",
    "of given positions": "outputs: x * cos(outer(p * w))",
    "named": "flow:\n  - angle = outer(p * 10000 ** (-range(d) / d))\noutputs: x * cos(angle)",
    "given to a block": "flow:\n  - angle = outer(p * 10000 ** (-range(d) / d))\noutputs: turn(x, angle)",
    "added": "outputs: x + sinusoidal(p, d)",
    "of features": "outputs: x * sin(100 * x * w)",
    "in a score": "outputs: look(x, p)",
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ANGLES)
def test_angles_are_not_halves(name, dtype):
    """The sine and cosine of angles up to 1500 are rounded, the angles are not."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 300, 16, generator=draw).to(torch.bfloat16)
    found, exact = flow(ANGLES[name], dtype, 5.0 * torch.arange(300.0)[None], x)
    assert found.dtype == dtype
    # x cos + y sin: both functions, both products and the sum are rounded, and of them at most 2 max |x|
    assert (found.double() - exact).abs().max() <= 4 * torch.finfo(dtype).eps * x.abs().max()


POWERS = {
    "unit": "outputs: unit(x)",
    "by hand": "outputs: x * rsqrt(max(sum(x ** 2), 1e-24))",
    "divided": "outputs: x / max(sqrt(sum(x * x)), 1e-12)",
    "a dot product": "outputs: x * rsqrt(dot(x, x) + 1e-12)",
    "named": "flow:\n  - length = sqrt(sum(x ** 2) + 1e-12)\noutputs: x / length",
    "rmsnorm": "outputs: rmsnorm(x, name=norm)",
    "rmsnorm, offset": "outputs: rmsnorm(x, offset=1, name=norm)",
    "rmsnorm by hand": "outputs: x * rsqrt(mean(x ** 2) + 1e-6)",
    "layernorm by hand": "flow:\n  - c = x - mean(x)\noutputs: c / sqrt(mean(c ** 2) + 1e-5)",
    "in a loop": "flow:\n  - h = zeros([b])\n  - for t along n:\n      - h = h + sum(x[n=t] ** 2) / 1e7\noutputs: h",
    "carried": "flow:\n  - h = sum(x[n=0] ** 2)\n  - for t along n:\n      - h = h / 2 + sum(x[n=t])\noutputs: h",
    "cubes": "outputs: x ** 3 / 1e9",
}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", POWERS)
def test_powers_are_not_halves(name, dtype):
    """Vectors that are zero, longer than halves are large, and whose squares are smaller than they are small."""
    x = (
        torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
        * torch.tensor([0, 9e3, 3e2, 1, 1e-3])[:, None]
    )
    found, exact = flow(POWERS[name], dtype, torch.zeros(1, 5), x.to(torch.bfloat16).to(dtype))
    finfo = torch.finfo(dtype)
    torch.testing.assert_close(found.double(), exact, rtol=8 * finfo.eps, atol=finfo.tiny)


def test_distances_of_long_vectors():
    x = torch.tensor([[3e4, 0], [0, 3e4], [2.9e4, 0]], dtype=torch.float16)
    text = """
tower: near
inputs: {x: "float[n, d]"}
blocks: {look(x): {query: x, key: x, value: x, score: gaussian(2000)}}
outputs: look(x)
"""
    model = towerdsl.compile(text)()
    exact = model(x.double())
    torch.testing.assert_close(model.half()(x).double(), exact, rtol=8 * torch.finfo(torch.float16).eps, atol=1)
