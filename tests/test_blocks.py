"""Kernels in blocks: what they refuse, what is chosen however a condition is written, and what they promise."""

import math
import random
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

import towerdsl
from towerdsl.compiler import compile_spec
from towerdsl.kernels.catalog import CATALOG
from towerdsl.runtime.attend import attend, attend_with_lse, attention_of_batches, merged

HEAD = """
tower: blocks
sizes: {{d: 8, heads: 2, w: 5}}
define:
  near(a, b): abs(a - b) < w
  beside(a, b): a // 4 == b // 4
inputs:
  x: float[b, n, d]
  pairs: float[n, n]
  edges: relation[n, n]
  keep: bool[b, n] = true
blocks:
  look(x, keep, pairs, edges):
    params: {{table: "float[heads, 9]"}}
    query: linear(x, d)
    key:   linear(x, d)
    value: linear(x, d)
    heads: heads
    {fields}
outputs: look(x, keep, pairs, edges)
"""


def spec(*fields: str) -> str:
    return HEAD.format(fields="\n    ".join(fields))


def plan(*fields: str):
    (found,) = compile_spec(spec(*fields)).plans.values()
    return found


def given(n: int, b: int = 2, dtype=torch.float64) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(n)
    return {
        "x": torch.randn(b, n, 8, generator=draw, dtype=torch.float64).to(dtype),
        "keep": torch.rand(b, n, generator=draw) < 0.7,
        "pairs": torch.randn(n, n, generator=draw, dtype=torch.float64).to(dtype),
        "edges": torch.randint(n, (2, 3 * n), generator=draw),
    }


# --- which kernel, and why not another -------------------------------------------------------------------------

REFUSED = {
    "no band": ("banded", ["locality: j <= i"], "0 <= i.n - j.n bounds no distance on both sides"),
    "a band of pairs that are read": (
        "banded",
        ["locality: abs(i - j) < 3", "score: dot(q, k) + pairs[i, j]"],
        "pairs of positions are read from a tensor",
    ),
    "a band and a relation": (
        "banded",
        ["locality: abs(i - j) < 3 and not edges[j, i]"],
        "the pairs of a relation are no blocks",
    ),
    "no classes": ("partition", ["locality: abs(i - j) < 3"], "positions do not fall into classes"),
    "classes with pairs that are read": (
        "partition",
        ["locality: i // 4 == j // 4", "score: dot(q, k) + pairs[i, j]"],
        "pairs of positions are read from a tensor",
    ),
    "no union": ("merged", ["locality: abs(i - j) < 3"], "the condition is no union"),
    "another normalizer": (
        "merged",
        ["locality: abs(i - j) < 3 or j < 2", "normalize: sigmoid"],
        "parts are combined by log-sum-exp",
    ),
    "no dot product": (
        "merged",
        ["locality: abs(i - j) < 3 or j < 2", "score: -sum(abs(q - k))"],
        "the score is not written as a dot product",
    ),
    "a part of all pairs": (
        "merged",
        ["locality: i < j or j < 2"],
        "a part of the union is not about the first few keys",
    ),
    "several keys": ("diagonal", ["locality: abs(i - j) < 3"], "more than one key along n may be visible"),
    "no relation": ("edges", ["locality: abs(i - j) < 3"], "no relation lists the pairs that are seen"),
    "sparsemax of rows": (
        "edges",
        ["locality: edges[j, i]", "normalize: sparsemax"],
        "sparsemax is not computed over rows of different lengths",
    ),
    "not by softmax": ("sdpa", ["normalize: sigmoid"], "it computes softmax, the normalizer is sigmoid"),
    "a message": ("sdpa", ["message: 2 * v"], "it averages the value as it is, the message is another"),
    "no GPU": ("flex", ["locality: abs(i - j) < 3"], "it is for GPUs, the device is cpu"),
    "nothing": ("chunked", ["locality: i < j and j < i"], "no key is visible"),
}


def test_every_kernel_has_a_refusal_here_or_beside():
    """All but the reference, which computes everything; tests/test_kernels.py has the others."""
    beside = {"factored", "static", "gather"}
    assert {kernel for kernel, _, _ in REFUSED.values()} | beside == {k.name for k in CATALOG} - {"reference"}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name):
    kernel, fields, reason = REFUSED[name]
    assert reason in dict(plan(*fields).refused)[kernel]
    with pytest.raises(towerdsl.TowerError, match="cannot compute this attention"):
        towerdsl.compile(spec(*fields), kernel=kernel)


#: A kernel, and conditions that say the same.
ALIKE = {
    "banded": [
        "0 <= i - j < w",
        "i - j < w and not (j > i)",
        "not (i - j >= w or i < j)",
        "0 >= j - i > -w",
        "2 * i - 2 * j < 2 * w and j <= i",
        "near(i, j) and j < i + 1",
        "abs(j - i) < w and i >= j",
    ],
    "partition": [
        "i // 4 == j // 4",
        "(i + 8) // 4 == (j + 8) // 4",
        "not (i // 4 != j // 4)",
        "i // 4 - j // 4 == 0",
        "beside(i, j)",
        "i // 4 <= j // 4 and not (i // 4 < j // 4)",
    ],
    "merged": [
        "abs(i - j) < w or i < 2 or j < 2",
        "not (abs(i - j) >= w and i >= 2 and j >= 2)",
        "j < 2 or near(j, i) or i <= 1",
        "i < 2 or (j < 2 or (i - j < w and j - i < w))",
    ],
}


@pytest.mark.parametrize("kernel", ALIKE)
def test_a_condition_in_another_form_keeps_the_kernel(kernel):
    sources = {towerdsl.source(spec(f"locality: {text}")).split("def __init__")[1] for text in ALIKE[kernel]}
    assert {plan(f"locality: {text}").kernel.name for text in ALIKE[kernel]} == {kernel}
    assert len(sources) == 1


# --- what they promise -----------------------------------------------------------------------------------------

#: Fields, and the kernel that computes them in blocks.
KERNELS = {
    "banded": ["locality: 0 <= i - j < w", "mask: keep[j]", "score: dot(q, k) + table[head, i - j]"],
    "banded by places": ["locality: abs(i - j) < w", "mask: keep[j] and i + j < 500", "score: dot(q, k) - i * j / 999"],
    "banded at once": ["locality: abs(i - j) < w", "mask: keep[j]", "normalize: sigmoid"],
    "partition": [
        "locality: (i + 1) // 4 == (j + 1) // 4",
        "mask: keep[j]",
        "score: dot(q, k) + table[head, i - j + 4]",
    ],
    "merged": ["locality: abs(i - j) < w or j < 1 or i < 1", "mask: keep[j]"],
    "chunked": ["mask: keep[j] and j <= i or i < 2", "score: dot(q, k) - 0.1 * abs(i - j)"],
    "chunked at once": ["mask: keep[j]", "score: dot(q, k)"],
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("n", [1, 63, 64, 65, 300])
def test_values_and_gradients_at_the_ends_of_blocks(name, n):
    found = []
    for kernel in (name.split()[0], "reference"):
        torch.manual_seed(0)
        model = towerdsl.compile(spec(*KERNELS[name]), kernel=kernel)().double()
        torch.nn.init.normal_(model.look.table) if hasattr(model.look, "table") else None
        inputs = given(n)
        inputs["x"].requires_grad_()
        y = model(**inputs)
        gradients = torch.autograd.grad(y.cos().sum(), [inputs["x"], *model.parameters()])
        found.append((y, *gradients))
    for ours, reference in zip(*found, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


def test_what_is_so_of_positions_need_not_be_so_of_places():
    """`max(j, 0)` is j, but a block has places of keys below 0, in front of its first query."""
    fields = ["locality: abs(i - j) < w", "score: dot(q, k) - (max(j, 0) - max(i, 0)) / 9"]
    found = []
    for kernel in ("banded", "reference"):
        torch.manual_seed(0)
        found.append(towerdsl.compile(spec(*fields), kernel=kernel)().double()(**given(150)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", KERNELS)
def test_a_query_that_sees_nothing_gets_zeros(name):
    fields = [x.replace(" or i < 2", "") for x in KERNELS[name]]
    model = towerdsl.compile(spec(*fields), kernel=name.split()[0])().double()
    inputs = given(70) | {"keep": torch.tensor([[False] * 70, [True] * 70])}
    inputs["x"].requires_grad_()
    y = model(**inputs)
    assert not y[0].any() and y[1].any()
    (gradient,) = torch.autograd.grad(y.square().sum(), inputs["x"])
    assert gradient.isfinite().all() and not gradient[0].any() and gradient[1].any()


@pytest.mark.parametrize("name", KERNELS)
def test_one_graph_for_all_lengths(name):
    model = towerdsl.compile(spec(*KERNELS[name]), kernel=name.split()[0])().double().eval()
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for n in (70, 90, 300, 128):
        inputs = given(n)
        torch.testing.assert_close(compiled(**inputs), model(**inputs))
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", KERNELS)
def test_export_with_any_length(name):
    model = towerdsl.compile(spec(*KERNELS[name]), kernel=name.split()[0])().double().eval()
    n, b = torch.export.Dim("n", min=2, max=4096), torch.export.Dim("b", min=2, max=64)
    shapes = {"x": {0: b, 1: n}, "keep": {0: b, 1: n}, "pairs": {0: n, 1: n}, "edges": {1: torch.export.Dim("edges")}}
    exported = torch.export.export(model, (), given(100), dynamic_shapes=shapes).module()
    inputs = given(150, 3)
    torch.testing.assert_close(exported(**inputs), model(**inputs))


@pytest.mark.parametrize("name", KERNELS)
def test_standalone_and_low_precision(name):
    kernel = name.split()[0]
    text = towerdsl.source(spec(*KERNELS[name]), kernel=kernel, standalone=True)
    assert "towerdsl." not in text.split('"""', 2)[2]
    names: dict[str, object] = {"__name__": "alone"}
    exec(compile(text, "alone", "exec"), names)
    torch.manual_seed(0)
    model = names["Blocks"]().bfloat16()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    same = towerdsl.compile(spec(*KERNELS[name]), kernel="reference")()
    same.load_state_dict(model.state_dict())
    inputs = given(80, dtype=torch.bfloat16)
    expected = same(**{k: x.float() if x.is_floating_point() else x for k, x in inputs.items()})
    torch.testing.assert_close(model(**inputs).float(), expected, rtol=0.1, atol=0.1)


class Largest(TorchDispatchMode):
    """The most numbers that any tensor has that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for x in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(x, torch.Tensor) and x.numel():
                self.numbers = max(self.numbers, x.untyped_storage().nbytes() // x.element_size())
        return found


@pytest.mark.parametrize("name", KERNELS)
def test_memory_grows_with_the_length_alone(name):
    model = towerdsl.compile(spec(*KERNELS[name]), kernel=name.split()[0])()
    made = {}
    for n in (512, 2048):
        inputs = given(n, 1, torch.float32) | {"pairs": torch.zeros(1, 1)}
        inputs["x"].requires_grad_()
        with Largest() as largest:
            model(**inputs).sum().backward()
        made[n] = largest.numbers
    assert made[2048] <= 4 * made[512] and made[2048] < 2048 * 2048


# --- the parts of it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", [1, 3], ids=["one mask", "a mask each"])
@pytest.mark.parametrize("kind", ["none", "bool", "float", "learned"])
@pytest.mark.parametrize("full", [False, True])
def test_attention_of_batches(kind, windows, full):
    """In plain steps, where each query sees a key, as by torch itself."""
    draw = torch.Generator().manual_seed(0)
    leaves = [torch.randn(2, 3, 4, 5, 8, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(3)]
    bias = torch.randn(1, windows, 4, 5, 5, generator=draw, dtype=torch.float64)
    mask = {"none": None, "bool": (bias > 0) | torch.eye(5).bool(), "float": bias, "learned": bias.requires_grad_()}[
        kind
    ]
    leaves += [bias] if kind == "learned" else []
    found = attention_of_batches(*leaves[:3], attn_mask=mask, full=full, scale=0.3)
    expected = torch.nn.functional.scaled_dot_product_attention(*leaves[:3], mask, scale=0.3)
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn(expected.shape, generator=draw, dtype=torch.float64)
    for mine, other in zip(*(torch.autograd.grad(y, leaves, cotangent) for y in (found, expected)), strict=True):
        torch.testing.assert_close(mine, other)


def test_attend_with_less_than_a_batch():
    q, k, v = torch.randn(3, 10, 4, dtype=torch.float64)
    expected = (q @ k.T / 2).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v, 3), expected)
    torch.testing.assert_close(attend(q, k, v, 3, 16, 16), expected)


def test_the_gradient_of_a_log_sum_exp():
    q, k, v = (torch.randn(2, 3, 9, 4, dtype=torch.float64, requires_grad=True) for _ in "qkv")
    _, sums = attend_with_lse(q, k, v, 4)
    expected = (q @ k.transpose(-1, -2) / 2).logsumexp(-1)
    torch.testing.assert_close(sums, expected)
    for ours, plain in zip(*(torch.autograd.grad(x.sin().sum(), (q, k)) for x in (sums, expected)), strict=True):
        torch.testing.assert_close(ours, plain)


def test_parts_of_the_keys_are_merged():
    q, k, v = (torch.randn(2, 9, 4, dtype=torch.float64) for _ in "qkv")
    parts = [attend_with_lse(q, k[:, a:b], v[:, a:b], 4) for a, b in ((0, 2), (2, 9))]
    torch.testing.assert_close(merged(*parts), (q @ k.mT / 2).softmax(-1) @ v)
    nothing = (torch.zeros_like(v), torch.full((2, 9), -math.inf, dtype=torch.float64))
    torch.testing.assert_close(merged(nothing, nothing), torch.zeros_like(v))


def drawn_attention(seed: int) -> dict[str, Any]:
    """Arguments of `attend_with_lse`: any leading axes and blocks, masks and a bias that vary in any of their axes."""
    chance, draw = random.Random(seed), torch.Generator().manual_seed(seed)
    lead = chance.choice([(2,), (1, 2), (3, 2), (20, 1), (2, 2, 3)])
    size, queries, width = chance.choice([1, 3, 8]), chance.choice([1, 8, 9, 40, 130]), chance.choice([1, 4])
    before, after = chance.choice([(None, None), (0, 0), (5, 3), (16, 0)])
    keys = queries if before is not None else chance.choice([1, 20])
    reach = keys if before is None else size + before + after

    def beside() -> tuple[int, ...]:
        full = (*lead, -(-queries // size), size, reach)
        some = tuple(n if chance.random() < 0.5 else 1 for n in full)
        return some[chance.randrange(len(lead) + 1) :]

    shapes = (*lead, queries, width), (*lead, keys, width), (*lead, keys, width + (chance.random() < 0.2))
    q, k, v = (torch.randn(s, generator=draw, dtype=torch.float64).requires_grad_() for s in shapes)
    if chance.random() < 0.3:  # features are not what lies together
        k = k.mT.contiguous().mT.detach().requires_grad_()
    masks = tuple(torch.rand(beside(), generator=draw) < chance.choice([0.2, 0.9]) for _ in range(chance.randrange(3)))
    bias = torch.randn(beside(), generator=draw, dtype=torch.float64) if chance.random() < 0.4 else None
    if bias is not None and chance.random() < 0.5:
        bias.requires_grad_()
    given = {"q": q, "k": k, "v": v, "size": size, "before": before, "after": after, "bias": bias}
    return given | {"visible": masks, "scale": 0.3, "lse": chance.random() < 0.5}


@pytest.mark.parametrize("seed", range(80))
def test_blocks_together_are_those_at_once(seed):
    """Values, the log-sum-exp, gradients and gradients of these, with a query without keys in some."""
    given = drawn_attention(seed)
    leaves = [x for x in given.values() if isinstance(x, torch.Tensor) and x.requires_grad]
    found = []
    for traced in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("towerdsl.runtime.attend.plain", lambda traced=traced: traced)
            y, sums = attend_with_lse(**given)
        results = (y, sums.masked_fill(sums.isinf(), 0.0)) if given["lse"] else (y,)
        first = torch.autograd.grad(sum(x.sin().sum() for x in results), leaves, create_graph=True)
        second = torch.autograd.grad(sum(x.sin().sum() for x in first), leaves)
        found.append((*results, *(sums.isinf() for _ in results[1:]), *first, *second))
    for together, at_once in zip(*found, strict=True):
        torch.testing.assert_close(together, at_once, rtol=1e-8, atol=1e-9)


def test_many_blocks_are_one_call():
    """Each call waits for its slowest thread: there are few of them, forward and backward."""

    class Calls(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += "flash" in str(func)
            return func(*args, **(kwargs or {}))

    q, k, v = (torch.randn(1, 2, 64 * 64, 8).requires_grad_() for _ in "qkv")
    seen = torch.arange(64)[:, None] - torch.arange(-256, 64) < 256
    with Calls() as calls:
        attend(q, k, v, 64, 256, 0, (seen,)).sum().backward()
    assert 0 < calls.count <= 2 * 10


def test_dropout_is_of_weights():
    """Each weight is dropped or scaled: with one-hot values, the average shows them."""
    torch.manual_seed(0)
    q, k, v = torch.zeros(1, 1, 200, 4), torch.zeros(1, 1, 200, 4), torch.eye(200)[None, None]
    weights = attend(q, k, v, 64, dropout=0.25)
    values = weights.unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 1 / 200 / 0.75]))
    assert abs((weights == 0).float().mean() - 0.25) < 0.01


@pytest.mark.parametrize("normalize", ["count", "softmax"])
def test_a_condition_of_pairs_that_may_be_left_out(normalize):
    text = f"""
tower: optional
inputs: {{x: "float[b, n, 4]", seen: "bool[b, n, n] = true"}}
blocks:
  look(x, seen):
    query: x
    key: x
    value: x
    heads: 2
    normalize: {normalize}
    mask: seen[i, j]
outputs: look(x, seen)
"""
    ours, reference = (towerdsl.compile(text, kernel=k)().double() for k in ("chunked", "reference"))
    x, seen = torch.randn(3, 300, 4, dtype=torch.float64), torch.rand(3, 300, 300) < 0.5
    for given in ({}, {"seen": seen}):
        torch.testing.assert_close(ours(x, **given), reference(x, **given), rtol=1e-10, atol=1e-10)
