"""What each kernel refuses and why, and what those that never make all pairs promise."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

import towerdsl
from towerdsl.compiler import compile_spec

HEAD = """
tower: kernels
sizes: {{e: 4, t: 6}}
inputs:
  x: float[b, n, e]
  keep: bool[b, n]
  f: float[b, n]
  pairs: float[n, n]
blocks:
  look(x, keep, f, pairs):
    params: {{table: "float[t, t]", w: "float[e]"}}
    query: x
    key: x
    value: x
    {fields}
outputs: look(x, keep, f, pairs)
"""


def spec(*fields: str) -> str:
    return HEAD.format(fields="\n    ".join(fields))


def plan(*fields: str):
    (found,) = compile_spec(spec(*fields)).plans.values()
    return found


def given(b: int = 2, n: int = 5) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(n)
    x, f, pairs = (torch.randn(s, generator=draw, dtype=torch.float64) for s in ((b, n, 4), (b, n), (n, n)))
    return {"x": x, "keep": torch.rand(b, n, generator=draw) < 0.6, "f": f, "pairs": pairs}


REFUSED = {
    "softmax": ("factored", ["score: dot(q, k)"], "softmax is a product only of a score that does not depend on j"),
    "sigmoid": ("factored", ["normalize: sigmoid"], "sigmoid of a product is no product"),
    "pairwise": (
        "factored",
        ["normalize: none", "score: dot(q, k) + pairs[i, j]"],
        "`pairs` does not split into a factor of i and a factor of j",
    ),
    "a function of a product": (
        "factored",
        ["normalize: none", "score: exp(dot(q, k))"],
        "`exp(dot(q, k))` does not split",
    ),
    "two products": (
        "factored",
        ["normalize: none", "score: dot(q, k) * dot(q, k)"],
        "two dot products are multiplied",
    ),
    "divided": ("factored", ["normalize: none", "score: 1 / (f[i] + f[j])"], "divided by `f[i] + f[j]`"),
    "a band": (
        "factored",
        ["normalize: none", "mask: abs(i - j) < 2"],
        "-1 <= i.n - j.n <= 1 hides single pairs, and is not causal",
    ),
    "pairs are hidden": ("factored", ["normalize: none", "mask: f[i] < f[j]"], "a condition of i and j together"),
    "its messages": ("factored", ["normalize: none", "message: v * (i - j)"], "the message depends on i"),
    "its dropout": ("factored", ["normalize: none", "dropout: 0.1"], "dropout drops the weights of single pairs"),
    "data": ("static", ["score: dot(q, k)"], "the score depends on q"),
    "data in the condition": ("static", ["score: table[i, j]", "mask: keep[j]"], "the condition depends on keep"),
    "draws": ("static", ["score: table[i, j]", "normalize: hard"], "hard draws for each entry of a batch"),
    "static dropout": ("static", ["score: table[i, j]", "dropout: 0.1"], "dropout drops other weights for each entry"),
    "no choice": ("gather", ["normalize: sum"], "sum picks no keys"),
    "its gradient": ("gather", ["normalize: hard(gumbel)"], "the gradient of hard(gumbel) is that of softmax"),
    "a product that is nothing": (
        "sdpa",
        ["score: 0 * dot(q, k)", "mask: j <= i"],
        "the dot product is multiplied by 0",
    ),
    "picked messages": ("gather", ["normalize: hard", "message: v * (i - j)"], "the message depends on i"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name):
    kernel, fields, reason = REFUSED[name]
    assert reason in dict(plan(*fields).refused)[kernel]
    with pytest.raises(towerdsl.TowerError, match="cannot compute this attention"):
        towerdsl.compile(spec(*fields), kernel=kernel)


SPLIT = {
    "a dot product": "dot(q, k)",
    "features": "dot(relu(q) + 1, exp(k))",
    "scaled, the other way round": "-2 * dot(k, q) / sqrt(dk)",
    "a sum over features": "sum(q * k)",
    "weighted features": "dot(w, q * k)",
    "a weight of each key": "dot(q, k) * f[j]",
    "divided by a norm": "dot(q, k) / (1 + abs(f[i]))",
    "a sum": "f[i] + f[j]",
    "a sum that is multiplied": "(f[i] - f[j]) * (1 + f[j])",
    "a sum inside": "dot(w, q + k)",
    "positions": "(i - j) * j",
    "a constant": "0.5",
    "several": "dot(q, k) + 0.5 * dot(tanh(q), tanh(k)) - f[j] + 1",
}
MASKS = [[], ["mask: keep[j]"], ["mask: keep[i] and not (not keep[j])"], ["mask: j <= i"], ["mask: keep[j] and i >= j"]]


@pytest.mark.parametrize("normalize", ["none", "count"])
@pytest.mark.parametrize("score", SPLIT)
def test_scores_that_split(score, normalize):
    for mask in MASKS:
        fields = [f"score: {SPLIT[score]}", f"normalize: {normalize}", *mask]
        assert plan(*fields).kernel.name == "factored"
        inputs = given()
        ours, reference = (towerdsl.compile(spec(*fields), kernel=k)().double() for k in (None, "reference"))
        reference.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours(**inputs), reference(**inputs), rtol=1e-10, atol=1e-10)


def test_a_score_that_is_nothing_is_the_mean():
    model = towerdsl.compile(spec("score: 0 * dot(q, k)", "mask: j <= i"))().double().eval()
    x = given()["x"]
    torch.testing.assert_close(model(**given()), x.cumsum(1) / torch.arange(1, 6)[:, None])


def test_causal_sums_over_several_blocks():
    fields = ["score: dot(q, k) / dk", "normalize: count", "mask: j <= i and keep[j]"]
    for n in (1, 63, 64, 65, 200):
        inputs = given(n=n)
        ours, reference = (towerdsl.compile(spec(*fields), kernel=k)().double() for k in ("factored", "reference"))
        torch.testing.assert_close(ours(**inputs), reference(**inputs), rtol=1e-10, atol=1e-10)


#: Fields, and the kernel that is chosen for them.
CHOSEN = {
    "by a sum": (["score: dot(exp(q), exp(k))", "normalize: sum"], "factored"),
    "by their number": (["score: dot(q, k)", "normalize: count"], "factored"),
    "pooling": (["score: 1"], "factored"),
    "a table": (["score: table[i, j]"], "static"),
    "hard": (["normalize: hard"], "gather"),
    "the best": (["normalize: topk(k=2)"], "gather"),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_a_query_that_sees_nothing_gets_zeros(name):
    fields, kernel = CHOSEN[name]
    if kernel != "static":  # data hides nothing there
        model = towerdsl.compile(spec(*fields, "mask: keep[j]"), kernel=kernel)().double()
        inputs = given() | {"keep": torch.tensor([[False] * 5, [True] * 5])}
        inputs["x"].requires_grad_()
        y = model(**inputs)
        assert not y[0].any() and y[1].any()
        (gradient,) = torch.autograd.grad(y.square().sum(), inputs["x"])
        assert gradient.isfinite().all() and not gradient[0].any() and gradient[1].any()


@pytest.mark.parametrize("name", CHOSEN)
def test_standalone(name):
    fields, kernel = CHOSEN[name]
    assert plan(*fields).kernel.name == kernel
    text = towerdsl.source(spec(*fields), standalone=True)
    assert "towerdsl." not in text.split('"""', 2)[2]
    names: dict[str, object] = {"__name__": "alone"}
    exec(compile(text, "alone", "exec"), names)
    model, same = (x().double().eval() for x in (names["Kernels"], towerdsl.compile(spec(*fields))))
    same.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(**given()), same(**given()))


class Largest(TorchDispatchMode):
    """The most numbers that any tensor has that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for x in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(x, torch.Tensor) and not x.is_set_to(x.new_empty(0)):
                self.numbers = max(self.numbers, x.untyped_storage().nbytes() // x.element_size())
        return found


@pytest.mark.parametrize("mask", ["mask: keep[j]", "mask: j <= i"])
def test_sums_over_keys_never_make_all_pairs(mask):
    model = towerdsl.compile(spec("score: dot(q, k)", "normalize: none", mask))().double()
    made = {}
    for n in (256, 1024):
        inputs = given(1, n) | {"pairs": torch.zeros(1, 1)}
        inputs["x"].requires_grad_()
        with Largest() as largest:
            model(**inputs).sum().backward()
        made[n] = largest.numbers
    assert made[1024] <= 4 * made[256] and made[1024] <= 1024 * 64


def test_what_is_picked_needs_no_product_of_all_pairs():
    """The only product with a side of queries and one of keys is the score."""
    text = towerdsl.source(spec("normalize: topk(k=2)"))
    assert text.count("einsum") == 1 and "picked_sum" in text


@pytest.mark.parametrize("normalize", ["hard", "hard(score_function)"])
def test_training_draws_what_the_reference_draws(normalize):
    fields = [f"normalize: {normalize}", "mask: keep[j]"]
    if "score" in normalize:
        fields.append("output: y + 0 * sum(log_prob)")
    ours, reference = (towerdsl.compile(spec(*fields), kernel=k)().double().train() for k in ("gather", "reference"))
    found = []
    for model in (ours, reference):
        torch.manual_seed(3)
        found.append(model(**given(n=9)))
    torch.testing.assert_close(*found)


def test_of_equal_scores_the_first_keys_count():
    model = towerdsl.compile(spec("normalize: topk(k=3)", "score: 1"))().double()
    inputs = given(1, 70)
    torch.testing.assert_close(model(**inputs), inputs["x"][:, :3].mean(1, keepdim=True).expand(-1, 70, -1))


def test_fewer_keys_than_are_asked_for_all_count():
    few, soft = (
        towerdsl.compile(spec(f"normalize: {x}", "mask: keep[j]"))().double() for x in ("topk(k=4)", "softmax")
    )
    for n in (1, 3, 9):
        inputs = given(n=n)
        inputs["keep"] &= torch.arange(n) < 4
        torch.testing.assert_close(few(**inputs), soft(**inputs))


@pytest.mark.parametrize("name", CHOSEN)
def test_one_graph_for_all_lengths(name):
    fields, kernel = CHOSEN[name]
    if kernel == "static":
        return
    model = towerdsl.compile(spec(*fields, *(["mask: j <= i"] if kernel == "factored" else [])))().double().eval()
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for n in (70, 90, 200):
        inputs = given(n=n)
        torch.testing.assert_close(compiled(**inputs), model(**inputs))
    assert counter.frame_count == 1
