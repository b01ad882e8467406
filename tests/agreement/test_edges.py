"""The kernel of relations: graphs with repeated edges, loops, lonely nodes and two kinds of nodes."""

import math
import weakref

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

import towerdsl
from towerdsl.runtime import edges as over_edges

from . import compare

SPEC = """
tower: graph
sizes: {{d: 6, heads: 2, of: 3}}
inputs:
  x: float[{batch}m, d]
  s: float[{batch}{n}, d]
  edges: relation[{n}, m]
  back: relation[m, {n}]
  keep: bool[{batch}{n}] = true
blocks:
  look(x, s, edges, back, keep):
    params: {{left: "float[heads, of]", right: "float[heads, of]", table: "float[heads, 4, of]"}}
    query: linear(x, d)
    key: linear(s, d)
    value: s
    heads: heads
    {fields}
outputs: look(x, s, edges, back, keep)
"""
PAIRS = {"edges": [[0, 0, 2, 2, 2, 3, 1, 0], [0, 1, 1, 1, 3, 3, 0, 0]], "back": [[3, 1, 1, 4], [2, 0, 0, 3]]}
ONE_SIDED = "score: leaky_relu(dot(left, q) + dot(right, k), 0.2)"

ATTENTIONS = {
    "one relation": ["locality: edges[j, i]"],
    "read backwards": ["locality: back[i, j]"],
    "a union": ["locality: edges[j, i] or back[i, j]"],
    "an intersection": ["locality: edges[j, i] and back[i, j]"],
    "a difference": ["locality: edges[j, i] and not back[i, j]"],
    "a union of parts": ["locality: (edges[j, i] and keep[j]) or (back[i, j] and j < 2)"],
    "a mask": ["locality: edges[j, i]", "mask: keep[j]"],
    "a mask of queries and a band": ["locality: edges[j, i] and i > 0", "mask: i - j < 2"],
    "a mask of heads": ["locality: edges[j, i]", "mask: head == 0 or j > 1"],
    "a score of two sides": ["locality: edges[j, i]", ONE_SIDED],
    "a score that meets before": ["locality: edges[j, i]", "score: dot(left, leaky_relu(q + k, 0.2))"],
    "a bias of pairs": ["locality: edges[j, i]", "score: dot(q, k) + left[head, clip(i - j, 0, 2)]"],
    "a score that reads a relation": ["locality: edges[j, i]", "score: dot(q, k) + (1 if back[i, j] else 0)"],
    "a number as score": ["locality: edges[j, i]", "score: 2", "normalize: count"],
    "a message of pairs": ["locality: edges[j, i]", "message: v + table[head, clip(i - j, -1, 2) + 1]"],
    "a message of the query": ["locality: edges[j, i]", "message: v * i"],
    "a message of the key": ["locality: edges[j, i]", "message: relu(v) * j"],
    "sum": ["locality: edges[j, i]", "score: exp(dot(q, k))", "normalize: sum"],
    "count": ["locality: edges[j, i]", "normalize: count"],
    "sigmoid": ["locality: edges[j, i]", "normalize: sigmoid", "merge: mean"],
    "none": ["locality: edges[j, i]", "normalize: none", "merge: sum"],
}
#: Where queries and keys are the same nodes.
OF_NODES = {
    "and itself": ["locality: edges[j, i] or i == j"],
    "or near": ["locality: edges[j, i] or (i == j and keep[j])"],
    "both directions and itself": ["locality: edges[j, i] or edges[i, j] or i == j", ONE_SIDED],
}


def spec(fields, nodes: str = "n", batch: str = "") -> str:
    return SPEC.format(fields="\n    ".join(fields), n=nodes, batch=batch)


def drawn(nodes: int, batch: tuple[int, ...] = (), queries: int = 5) -> compare.Named:
    draw = torch.Generator().manual_seed(0)
    x, s = (torch.randn(*batch, size, 6, generator=draw, dtype=torch.float64) for size in (queries, nodes))
    pairs = {name: torch.tensor(x) for name, x in PAIRS.items()}
    return {"x": x, "s": s, **pairs, "keep": torch.rand(*batch, nodes, generator=draw) < 0.6}


def both(text: str, inputs: compare.Named) -> tuple[compare.Named, compare.Named]:
    """What the kernel gives, and what the reference gives."""
    models = [compare.build(text, kernel) for kernel in ("edges", "reference")]
    params = compare.draw_params(models[0], torch.Generator().manual_seed(1))
    found, expected = (compare.run(m, params, inputs) for m in models)
    return found, expected


@pytest.mark.parametrize("batch", [(), (2,)], ids=["one", "batch"])
@pytest.mark.parametrize("given", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("name", [*ATTENTIONS, *OF_NODES])
def test_it_is_the_reference(name, batch, given):
    nodes = "m" if name in OF_NODES else "n"
    text = spec({**ATTENTIONS, **OF_NODES}[name], nodes, "b, " if batch else "")
    inputs = drawn(5 if nodes == "m" else 4, batch)
    if not given:
        del inputs["keep"]
    found, expected = both(text, inputs)
    compare.compare(name, found, expected)
    assert "kernel: edges." in towerdsl.source(text)


@pytest.mark.parametrize("few", [0, 2**18], ids=["each head", "all heads"])
@pytest.mark.parametrize("spread", [0.0, 80.0], ids=["a row's largest", "the largest"])
@pytest.mark.parametrize("name", ["one relation", "a mask", "a score of two sides"])
def test_all_ways_to_compute_it_agree(monkeypatch, name, spread, few):
    monkeypatch.setattr(over_edges, "FEW", few)
    monkeypatch.setattr(over_edges, "SPREAD", spread)
    found, expected = both(spec(ATTENTIONS[name]), drawn(4))
    compare.compare(name, found, expected)


def test_scores_that_are_far_apart():
    """The exponents of one row would all be zero beside the largest score of another."""
    score, start = torch.tensor([[0.0, 1.0, -3000.0, -3001.0]]), torch.tensor([0, 2, 4])
    none = torch.ones(4, dtype=torch.bool)
    pairs = over_edges.Pairs(torch.tensor([0, 0, 1, 1]), torch.arange(4), start, none, 4, True)
    expected = score.view(1, 2, 2).softmax(-1).flatten(1)
    torch.testing.assert_close(over_edges.softmax_of_rows(score, none, pairs), expected)


def test_an_edge_counts_once():
    text, inputs = spec(ATTENTIONS["one relation"]), drawn(4)
    model = compare.build(text)
    once = inputs | {"edges": inputs["edges"].unique(dim=1)}
    assert once["edges"].shape[1] < inputs["edges"].shape[1]
    torch.testing.assert_close(model(**inputs), model(**once))


def test_lonely_nodes_are_zero_and_have_no_gradient():
    model, inputs = compare.build(spec(ATTENTIONS["one relation"])), drawn(4)
    x = inputs["x"].requires_grad_()
    y = model(**inputs)
    lonely = [2, 4]
    assert (y[lonely] == 0).all() and (y[[0, 1, 3]] != 0).any(-1).all()
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert (gradient[lonely] == 0).all() and gradient.isfinite().all()


@pytest.mark.parametrize("name", ["one relation", "a score of two sides", "sigmoid"])
def test_without_edges_everything_is_zero(name):
    model, inputs = compare.build(spec(ATTENTIONS[name])), drawn(4)
    inputs["edges"] = inputs["edges"][:, :0]
    y = model(**inputs)
    assert y.shape == (5, 3 if "merge: mean" in ATTENTIONS[name] else 6) and (y == 0).all()


@pytest.mark.parametrize("edge", [(4, 0), (0, 5), (-5, 0), (0, -6)])
@pytest.mark.parametrize("kernel", ["edges", "reference"])
def test_an_edge_to_nowhere_is_a_mistake(kernel, edge):
    model, inputs = compare.build(spec(ATTENTIONS["one relation"]), kernel), drawn(4)
    inputs["edges"] = torch.tensor([edge]).T
    with pytest.raises(IndexError, match="out of bounds"):
        model(**inputs)


def test_second_derivatives():
    model, inputs = compare.build(spec(ATTENTIONS["one relation"])), drawn(4)
    x, s = inputs.pop("x").requires_grad_(), inputs.pop("s").requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, s: model(x=x, s=s, **inputs), (x, s))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype):
    inputs = drawn(4)
    model = compare.build(spec(ATTENTIONS["one relation"]))
    expected = model(**inputs)
    narrow = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    y = model.to(dtype)(**narrow)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=60 * torch.finfo(dtype).eps)


def test_dropout_drops_weights():
    """A value that is one-hot gives back the weights: each is there, larger, or is not."""
    text = spec(["locality: edges[j, i]", "score: 1", "normalize: none", "dropout: 0.25"])
    text = text.replace("value: s", "value: concat(s, s, axis=d)")
    model = towerdsl.compile(text)()
    inputs = {name: x.float() if x.is_floating_point() else x for name, x in drawn(6).items()}
    inputs["s"] = torch.eye(6)
    edges = torch.cartesian_prod(torch.arange(6), torch.arange(5)).T.repeat(1, 2)
    torch.manual_seed(0)
    found = torch.stack([model(**inputs | {"edges": edges}) for _ in range(300)])  # the same of every head
    torch.testing.assert_close(found.unique(), torch.tensor([0.0, 1 / 0.75]))
    standard = math.sqrt(0.25 * 0.75 / found.numel())
    assert abs((found == 0).double().mean() - 0.25) < 5 * standard
    heads = found.unflatten(-1, (2, 6))
    assert (heads[:, :, 0] != heads[:, :, 1]).any()
    torch.testing.assert_close(model.eval()(**inputs | {"edges": edges}), torch.ones(5, 12))


# --- graphs that change ------------------------------------------------------------------------------------------


def in_place(edges, _):
    edges[1, 0] = 3


def through_a_view(edges, _):
    edges[1][:1].fill_(3)


def through_numpy(_, array):
    array[1, 0] = 3


def without_a_count(edges, _):
    edges.data[1, 0] = 3  # torch counts no version


@pytest.mark.parametrize("change", [in_place, through_a_view, through_numpy, without_a_count])
@pytest.mark.parametrize("name", ["one relation", "a union", "read backwards", "both directions and itself"])
def test_edges_that_change_give_the_answer_of_the_new_graph(name, change):
    fields = (ATTENTIONS | OF_NODES)[name]
    nodes = "m" if name in OF_NODES else "n"
    text = spec(fields, nodes)
    model, dense = compare.build(text, "edges"), compare.build(text, "reference")
    dense.load_state_dict(model.state_dict())
    inputs = drawn(5)
    arrays = {name: inputs[name].numpy().copy() for name in PAIRS}
    given = {name: torch.from_numpy(array) for name, array in arrays.items()}
    relation = "back" if name == "read backwards" else "edges"
    before = model(**inputs | given)
    torch.testing.assert_close(before, dense(**inputs | given))
    change(given[relation], arrays[relation])
    x = inputs["x"].requires_grad_()
    after, expected = (m(**inputs | given) for m in (model, dense))
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, expected)
    torch.testing.assert_close(*(torch.autograd.grad(y.cos().sum(), x)[0] for y in (after, expected)))


def test_a_graph_that_is_gone_is_not_held():
    model, inputs = compare.build(spec(ATTENTIONS["one relation"]), "edges"), drawn(4)
    model(**inputs).sum().backward()
    gone = weakref.ref(inputs.pop("edges"))
    assert gone() is None


# --- what it costs ---------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The numbers in the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for x in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(x, torch.Tensor) and x.layout == torch.strided:
                self.size = max(self.size, x.untyped_storage().nbytes() // x.element_size())
        return found


@pytest.mark.parametrize("name", ["one relation", "a score of two sides"])
def test_memory_is_linear_in_the_edges(name):
    """No table of all pairs, and no message of each edge."""
    model = towerdsl.compile(spec(ATTENTIONS[name]))()
    for nodes, edges in ((300, 5000), (3000, 5000), (300, 20000)):
        draw = torch.Generator().manual_seed(0)
        x, s = (torch.randn(nodes, 6, generator=draw, requires_grad=True) for _ in range(2))
        pairs = torch.randint(nodes, (2, edges), generator=draw)
        with Largest() as largest:
            model(x, s, pairs, pairs[:, :0]).sum().backward()
        assert largest.size <= max(2 * edges, 6 * nodes) + 1  # two heads, or six features; where the last row ends


@pytest.mark.parametrize("name", ["one relation", "a score of two sides", "a mask"])
def test_compiled_it_is_one_graph_for_all_lengths(name):
    torch.compiler.reset()
    model = towerdsl.compile(spec(ATTENTIONS[name]))()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    draw = torch.Generator().manual_seed(0)
    counts = []
    for queries, keys, edges in ((5, 4, 9), (11, 6, 30), (8, 9, 3)):
        x, s = torch.randn(queries, 6, generator=draw), torch.randn(keys, 6, generator=draw, requires_grad=True)
        pairs = torch.stack([torch.randint(size, (edges,), generator=draw) for size in (keys, queries)])
        rest = pairs, pairs[:, :2].flip(0), torch.rand(keys, generator=draw) < 0.5
        y, expected = compiled(x, s, *rest), model(x, s, *rest)
        torch.testing.assert_close(y, expected)
        of_y, of_expected = (torch.autograd.grad(z.cos().sum(), s)[0] for z in (y, expected))
        torch.testing.assert_close(of_y, of_expected)
        counts.append(counter.frame_count)
    assert len(set(counts)) == 1


def test_export_with_any_number_of_edges():
    model = towerdsl.compile(spec(ATTENTIONS["one relation"]))().eval()
    example = (torch.randn(5, 6), torch.randn(4, 6), *(torch.tensor(x) for x in PAIRS.values()))
    auto = torch.export.Dim.DYNAMIC
    exported = torch.export.export(model, example, dynamic_shapes=({0: auto}, {0: auto}, {1: auto}, {1: auto}))
    other = (torch.randn(7, 6), torch.randn(9, 6), torch.randint(7, (2, 13)), torch.randint(7, (2, 1)))
    torch.testing.assert_close(exported.module()(*other), model(*other))


def test_a_file_that_stands_alone():
    text, inputs = spec(ATTENTIONS["a union of parts"]), drawn(4)
    space: dict[str, object] = {"__name__": "alone"}
    source = towerdsl.source(text, standalone=True)
    assert "towerdsl." not in source.split('"""', 2)[2]
    exec(source, space)
    model = compare.build(text)
    alone = space["Graph"]().double()
    alone.load_state_dict(model.state_dict())
    x = inputs["x"].requires_grad_()
    found, expected = alone(**inputs), model(**inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (found, expected)))


# --- what it refuses -------------------------------------------------------------------------------------------

REFUSED = {
    "no relation lists the pairs": ["mask: keep[j]"],
    "no relation": ["locality: edges[j, i] or keep[j]"],
    "sparsemax is not computed over rows": ["locality: edges[j, i]", "normalize: sparsemax"],
    "hard is not computed over rows": ["locality: edges[j, i]", "normalize: hard"],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_it_says_why_it_refuses(reason):
    with pytest.raises(towerdsl.TowerError, match=reason):
        towerdsl.compile(spec(REFUSED[reason]), kernel="edges")


def test_positions_along_two_axes_are_refused():
    text = spec(["locality: edges[j.n, i.m]", "over: [n, r]"]).replace("s: float[n, d]", "s: float[n, r, d]")
    with pytest.raises(towerdsl.TowerError, match="along one axis each"):
        towerdsl.compile(text.replace("keep: bool[n]", "keep: bool[n]"), kernel="edges")
