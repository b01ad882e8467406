"""How an attention is computed, as data: the trees of all kernels as text, and the rules that they keep.

`TOWERDSL_UPDATE_GOLDENS=1 pytest tests/test_lowered.py` writes the golden file anew: read it.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from towerdsl.compiler import compile_spec
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.kernels.base import Facts
from towerdsl.kernels.catalog import CATALOG
from towerdsl.kernels.choose import attentions
from towerdsl.kernels.sizes import TURN
from towerdsl.lowered import amounts
from towerdsl.lowered import nodes as low
from towerdsl.lowered.printer import show
from towerdsl.lowered.verify import verify

GOLDEN = Path(__file__).parent / "goldens" / "lowered.txt"
#: An attention for each kernel, as fields of one block.
FIELDS = {
    "diagonal": {"locality": "i == j"},
    "factored": {"normalize": "sum", "score": "dot(exp(q), exp(k))", "locality": "causal"},
    "static": {"score": "-abs(i - j) / 4"},
    "edges": {"heads": "2", "locality": "edges[j, i] or i == j", "score": "leaky_relu(dot(a, q) + dot(a, k))"},
    "partition": {"locality": "i // 4 == j // 4", "mask": "keep[j]"},
    "banded": {"locality": "0 <= i - j < 8", "heads": "2", "score": "dot(q, k) + slope[head] * (j - i)"},
    "merged": {"locality": "abs(i - j) < 4 or j < 2"},
    "gather": {"normalize": "hard"},
    "flex": {"locality": "0 <= i - j < 8", "mask": "keep[j]"},
    "sdpa": {"mask": "keep[j]", "heads": "2"},
    "chunked": {"score": "-sum((q - k) ** 2)", "mask": "keep[j] and i % 3 <= j % 3"},
    "reference": {"normalize": "sigmoid", "dropout": "0.1"},
}


def spec(name: str, source: str = "x", **more: str) -> str:
    """A spec whose attention a kernel computes."""
    sources = dict.fromkeys(("query", "key", "value"), source)
    fields = "\n".join(f"    {field}: {value}" for field, value in {**sources, **FIELDS[name], **more}.items())
    return f"""
tower: sample
sizes: {{d: 8}}
inputs:
  x: float[b, n, d]
  keep: bool[b, n]
  table: float[n, n]
  edges: relation[n, n]
blocks:
  look(x, keep, table, edges):
    params: {{a: "float[{"dk" if name == "edges" else 1}]", slope: "float[2]"}}
{fields}
outputs: look(x, keep, table, edges)
"""


def tree(name: str, **more: str) -> low.Lowered:
    """The attention of a kernel, on it."""
    compiled = compile_spec(spec(name, **more))
    (block,) = attentions(compiled.model.root)
    kernel, facts = next(k for k in CATALOG if k.name == name), Facts.of(block.average, "cuda")
    assert kernel.refuse(block.average, facts) is None
    return facts.lowered(kernel, block.average)


def test_trees_are_golden():
    text = "\n".join(f"{show(tree(kernel.name))}" for kernel in CATALOG)
    if os.environ.get("TOWERDSL_UPDATE_GOLDENS"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FIELDS)
def test_trees_keep_the_rules(name):
    verify(tree(name))


def changed(node, **fields):
    return replace(node, **{name: change(getattr(node, name)) for name, change in fields.items()})


def reordered(*dims: int):
    """A type with some of its axes, in another order."""
    return lambda kind: kind.with_axes(kind.axes[d] for d in dims)


#: What each rule says, the kernel whose tree is broken, and how.
BROKEN = {
    "stand in the order": ("sdpa", lambda x: changed(x, type=reordered(1, 0, 2, 3))),
    "are some of": ("sdpa", lambda x: changed(x, type=reordered(0, 0, 1, 2, 3))),
    "last axis is the message's feature": ("sdpa", lambda x: changed(x, type=reordered(0, 1, 2))),
    "every averaged axis": ("reference", lambda x: replace(x, weights=changed(x.weights, type=reordered(0, 1)))),
    "is not known here": ("edges", lambda x: replace(x, pairs="%others")),
    "a sum has the axes": ("static", lambda x: changed(x, type=reordered(1, 2))),
    "that of one key": ("reference", lambda x: low.Scaled(x.type, x.span, x.weights, x.message)),
    "what is gathered is picked": ("gather", lambda x: low.Summed(x.type, x.span, x.weights, x.message)),
    "one more axis of the batch": ("partition", lambda x: replace(x, cuts=x.cuts + x.cuts)),
    "of one side": ("sdpa", lambda x: replace(x, score=replace(x.score, left=x.score.right))),
    "axes of the pairs of a block": ("banded", lambda x: replace(x, axes_of_pairs=x.axes_of_pairs[:-1])),
    "queries in a turn": ("chunked", lambda x: replace(x, body=tree("reference"))),
    "has names of its own": ("chunked", lambda x: replace(x, held=x.held + x.held)),
    "has pairs of a relation": ("edges", lambda x: replace(x, relations=(), itself=None)),
    "by a softmax": ("sdpa", lambda x: replace(x, average=replace(x.average, normalize="sum"))),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_found(rule):
    name, change = BROKEN[rule]
    found = tree(name)
    with pytest.raises(AssertionError, match=rule):
        verify(replace(found, body=change(found.body)))


def test_what_a_tree_is_made_of_can_be_walked():
    """Every value that is computed stands below the root, in blocks and in turns too."""
    for name in FIELDS:
        found = list(tree(name).body.walk())
        assert any(isinstance(v, n.Local) and v.name == "v" for v in found), name


# --- amounts ----------------------------------------------------------------------------------------------------

#: Attentions on each kernel: the pairs that are computed for each head, and the numbers that are held, of a batch of b,
#: n positions and e edges.
AMOUNTS = [
    ("diagonal", {}, lambda b, n, e: (n, 2 * b * n)),
    ("diagonal", {"score": "i", "dropout": "0.1"}, lambda b, n, e: (n, 2 * b * n)),
    ("factored", {}, lambda b, n, e: (4 * n + (4 + 64) * n, 2 * (n // 64) * b * 8 * 8 + b * n * 64)),
    ("factored", {"locality": "true"}, lambda b, n, e: (4 * n + 4 * n, b * 8 * 8)),
    ("factored", {"score": "1", "locality": "true"}, lambda b, n, e: (n, b * 8)),
    ("static", {}, lambda b, n, e: (n * n, 2 * n * n)),
    ("edges", {}, lambda b, n, e: (e + n, (e + n) * (2 * b * 4 + 5))),
    ("edges", {"locality": "edges[i, j]"}, lambda b, n, e: (e, e * (2 * b * 4 + 5))),
    ("partition", {}, lambda b, n, e: (((n + 3) // 4) * 4 * 4, b * ((n + 3) // 4) * 4)),
    ("partition", {"normalize": "sigmoid"}, lambda b, n, e: (((n + 3) // 4) * 4 * 4, 3 * b * ((n + 3) // 4) * 4 * 4)),
    ("banded", {}, lambda b, n, e: (n * min(80, n), 2 * 2 * b * 64 * 80)),
    ("banded", {"mask": "keep[i] == keep[j]"}, lambda b, n, e: (n * min(80, n), 2 * 2 * b * 64 * 80 + b * n * 80)),
    (
        "banded",
        {"normalize": "sigmoid"},
        lambda b, n, e: (((n + 63) // 64) * 64 * 80, 3 * 2 * b * ((n + 63) // 64) * 64 * 80),
    ),
    (
        "merged",
        {},
        lambda b, n, e: (n * min(96, n) + n * min(2, n), 2 * b * 64 * 96 + 2 * b * TURN * min(2, n) + n * min(2, n)),
    ),
    (
        "merged",
        {"locality": "abs(i - j) < 4 or i < 2"},
        lambda b, n, e: (n * min(96, n) + min(2, n) * n, 2 * b * 64 * 96 + 2 * b * 2 * n + min(2, n) * n),
    ),
    ("gather", {}, lambda b, n, e: (n * n, 5 * b * n * n + b * n * 8)),
    ("gather", {"normalize": "topk(k=3)"}, lambda b, n, e: (n * n, 6 * b * n * n + b * n * 3 * 8)),
    ("flex", {}, lambda b, n, e: (n * min(8, n), 0)),
    ("flex", {"locality": "true"}, lambda b, n, e: (n * n, 0)),
    ("sdpa", {}, lambda b, n, e: (n * n, b * n)),
    ("sdpa", {"mask": "causal"}, lambda b, n, e: (n * n, 0)),
    ("sdpa", {"mask": "causal", "score": "dot(q, k) + slope[head] * i"}, lambda b, n, e: (n * n, 2 * n * n)),
    ("sdpa", {"value": "linear(x, 4)"}, lambda b, n, e: (n * n, b * n + 2 * 2 * b * n * n)),
    ("chunked", {}, lambda b, n, e: (n * n, 4 * b * TURN * n)),
    ("chunked", {"score": "dot(q, k)", "mask": "i % 3 <= j % 3"}, lambda b, n, e: (n * n, TURN * n)),
    ("chunked", {"score": "dot(q, k)", "mask": "keep[j]"}, lambda b, n, e: (n * n, 2 * b * TURN * n)),
    ("reference", {}, lambda b, n, e: (n * n, 2 * b * n * n)),
    ("reference", {"normalize": "softmax", "locality": "causal"}, lambda b, n, e: (n * n, 4 * b * n * n)),
]


@pytest.mark.parametrize(("name", "more", "expected"), AMOUNTS, ids=lambda x: x if isinstance(x, str) else "")
def test_amounts_are_those_of_the_tree(name, more, expected):
    found = tree(name, **more)
    for lengths in ((2, 1000, 77), (3, 40, 500), (1, 1, 1)):
        known = dict(zip(("b", "n", "edges"), map(Size.of, lengths), strict=True))
        sizes = amounts.pairs(found), amounts.peak(found)
        assert tuple(x.substitute(known).integer for x in sizes) == expected(*lengths)


def test_of_other_values_those_of_pairs_are_held():
    found = tree("sdpa")
    scaled = found.average.score
    assert [type(v) for v in scaled.walk()][:2] == [n.Pointwise, n.Dot]
    found = replace(found, body=scaled)
    assert (str(amounts.pairs(found)), str(amounts.peak(found))) == ("n ** 2", "4 * b * n ** 2")


def test_every_kernel_has_its_amounts():
    assert {name for name, *_ in AMOUNTS} == {k.name for k in CATALOG}


# --- common parts -----------------------------------------------------------------------------------------------

ROTARY = """
tower: sample
sizes: {{d: 8}}
inputs: {{x: "float[b, n, d]", z: "float[b, {key}, d]", f: "float[{key}]"}}
blocks:
  look(x, z, f):
    query: x
    key: z
    value: z
    score: {score}
    {more}
outputs: look(x, z, f)
"""


def rotary(key="n", score="dot(rope(q, i, dk), rope(k, j, dk))", more="locality: causal", kernel=None) -> str:
    return compile_spec(ROTARY.format(key=key, score=score, more=more), kernel=kernel).source()


@pytest.mark.parametrize("kernel", ["sdpa", "reference", "chunked"])
def test_what_positions_of_both_sides_give_is_computed_once(kernel):
    source = rotary(kernel=kernel)
    assert source.count("torch.cos(") == source.count("torch.sin(") == source.count("torch.where(") == 1
    assert all(method.count("torch.arange(n") < 2 for method in source.split("    def "))


def test_other_lengths_and_data_are_other_values():
    assert rotary(key="m", more="over: m").count("torch.cos(") == 2
    assert rotary(score="dot(rope(q, i, dk), rope(k, j + 1, dk))").count("torch.cos(") == 2
    assert rotary(score="dot(q, k) + cos(f[i]) * cos(f[j])").count("torch.cos(") == 2
    assert rotary(score="dot(q, k) + cos(i) * (z[j, 0] * cos(j)) + cos(j)").count("torch.cos(") == 1


def test_blocks_of_keys_with_a_reach_are_others():
    score = "dot(q, k) + cos(i) * cos(j)"
    within = rotary(score=score, more="locality: 0 <= i - j < 8", kernel="banded")
    assert (within.count("torch.cos("), within.count("blocked(cos")) == (1, 2)
    classes = rotary(score=score, more="locality: i // 4 == j // 4", kernel="partition")
    assert (classes.count("torch.cos("), classes.count("blocked(torch.cos")) == (1, 1)
