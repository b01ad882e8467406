"""The verifier: it accepts what every pass makes of every spec, and finds each rule broken on purpose.

`TOWERDSL_UPDATE_GOLDENS=1 pytest tests/test_verify.py` writes the printed models anew: read them.
"""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import towerdsl
from towerdsl.compiler import PASSES, understand
from towerdsl.ir import nodes as n
from towerdsl.ir.printer import show
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.ir.verify import verify

HERE = Path(__file__).parent
FILES = [
    *(HERE / "oracle" / "specs").glob("*.yaml"),
    *(Path(towerdsl.__file__).parent.parent / "specs").rglob("*.yaml"),
]
SPECS = sorted(p for p in FILES if re.search(r"^(flow|outputs):", p.read_text(), re.MULTILINE))

SPEC = """
tower: sample
sizes: {d: 8, heads: 2, depth: 2}
inputs:
  x: float[b, n, d]
  keep: bool[b, n]
  edges: relation[n, n]
params:
  scale: float[d] = ones
blocks:
  look(x, keep, edges):
    params: {table: "float[heads, 5]"}
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    heads: heads
    score: dot(q, k) / sqrt(dk) + table[head, i - j + 2]
    mask: keep[j] and edges[j, i] and not i == j
    message: 2 * v
    output: linear(y, d)
  pair(x):
    - return x, sum(x)
flow:
  - for l in depth:
      - x = x + look(layernorm(x), keep, edges, name=layer)
  - first = x[n=0]
  - a, total = pair(x * scale)
outputs: [a, total, first, "range(n) * ones([n])"]
"""


def model() -> n.Model:
    found = understand(SPEC, {})[1]
    assert found is not None
    return found


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_every_spec_keeps_the_rules(path):
    found = understand(path, {})[1]
    assert found is not None
    verify(found)
    for one_pass in PASSES:
        found = one_pass(found)
        verify(found)


# --- each rule, broken once ------------------------------------------------------------------------------------


def rewritten(
    root: n.BlockInstance, name: str, change: Callable[[n.BlockInstance], n.BlockInstance]
) -> n.BlockInstance:
    """The root with the block `name` changed wherever it is a module."""

    def block(b: n.BlockInstance) -> n.BlockInstance:
        modules = tuple((key, slot(s)) for key, s in b.modules)
        b = replace(b, modules=modules)
        return change(b) if b.name == name else b

    def slot(s: n.ModuleSlot) -> n.ModuleSlot:
        return replace(s, block=s.block and block(s.block), items=tuple(map(slot, s.items)))

    return block(root)


def in_average(**changes) -> Callable[[n.Model], n.Model]:
    """A change of the fields of `look`'s average: values, or functions of it."""

    def change(m: n.Model) -> n.Model:
        def block(b: n.BlockInstance) -> n.BlockInstance:
            a = b.average
            new = replace(a, **{name: f(a) if callable(f) else f for name, f in changes.items()})
            return replace(b, body=tuple(replace(s, average=new) if isinstance(s, n.Evaluate) else s for s in b.body))

        return replace(m, root=rewritten(m.root, "look", block))

    return change


def in_block(of: str = "look", /, **changes) -> Callable[[n.Model], n.Model]:
    def change(m: n.Model) -> n.Model:
        def block(b: n.BlockInstance) -> n.BlockInstance:
            return replace(b, **{key: f(b) if callable(f) else f for key, f in changes.items()})

        return replace(m, root=rewritten(m.root, of, block))

    return change


def result(value: Callable[[n.Local], n.Value]) -> Callable[[n.Model], n.Model]:
    """Another first result of `pair`, made of its argument x."""

    def change(b: n.BlockInstance) -> tuple:
        first = b.results[0]
        assert isinstance(first, n.Local)
        return (value(first), *b.results[1:])

    return in_block("pair", results=change)


def typed(v: n.Value, **changes) -> n.Value:
    return replace(v, type=replace(v.type, **changes))


def part(v: n.Value, kind: type, number: int = 0) -> n.Value:
    return [x for x in v.walk() if isinstance(x, kind)][number]


def swapped(v: n.Value, old: n.Value, new: n.Value) -> n.Value:
    """A value with one below it replaced."""
    if v is old:
        return new
    changes = {}
    for name, x in vars(v).items():
        if isinstance(x, n.Value):
            changes[name] = swapped(x, old, new)
        elif isinstance(x, tuple) and any(isinstance(y, n.Value) for y in x):
            changes[name] = tuple(swapped(y, old, new) if isinstance(y, n.Value) else y for y in x)
    return replace(v, **changes)


def scored(kind: type, number: int = 0, **changes) -> Callable[[n.Model], n.Model]:
    """A change of one value in the score."""

    def score(a: n.Average) -> n.Value:
        old = part(a.score, kind, number)
        return swapped(a.score, old, replace(old, **{k: f(old) if callable(f) else f for k, f in changes.items()}))

    return in_average(score=score)


NUMBER = TensorType("int", (), True)
BOOL = TensorType("bool", (), True)
FLOATS = TensorType("float", ())
M = Axis("m", Size.of(3))
ONE = n.Const(NUMBER, None, 1)


def first_module(slot: Callable[[n.ModuleSlot], n.ModuleSlot], name: str = "look") -> Callable[[n.Model], n.Model]:
    return in_block(name, modules=lambda b: ((b.modules[0][0], slot(b.modules[0][1])), *b.modules[1:]))


BROKEN: dict[str, tuple[Callable[[n.Model], n.Model], str]] = {
    "inputs": (lambda m: replace(m, inputs=m.inputs[1:]), "inputs are not the parameters"),
    # names
    "unbound": (result(lambda x: replace(x, name="z")), "`z` is not bound"),
    "other type": (result(lambda x: typed(x, dtype="int")), "`x` is float"),
    "parameter twice": (
        lambda m: replace(m, inputs=m.inputs * 2, root=replace(m.root, parameters=m.root.parameters * 2)),
        "the parameter `x` is there twice",
    ),
    "attribute twice": (in_block(modules=lambda b: (*b.modules, b.modules[0])), "the attribute `query` is there twice"),
    "result names": (in_block("pair", result_names=("a",)), "2 results have 1 names"),
    "names of a call": (
        lambda m: replace(
            m, root=replace(m.root, body=(*m.root.body[:-1], replace(m.root.body[-1], names=("a",) * 3)))
        ),
        "3 names for 2 values",
    ),
    "weight": (result(lambda x: n.Weight(x.type, None, ("table",))), "no parameter `table`"),
    "weight of a module": (result(lambda x: n.Weight(x.type, None, ("words", "weight"))), "no module `words`"),
    "weight's length": (
        in_block(weights=lambda b: (replace(b.weights[0], type=b.parameters[0][1]),)),
        "is a float tensor of known lengths",
    ),
    "relation": (
        in_average(visible=lambda a: swapped(a.visible, m := part(a.visible, n.Member), replace(m, relation="pairs"))),
        "no relation `pairs`",
    ),
    # values
    "dtype": (result(lambda x: typed(x, dtype="half")), "no dtype half"),
    "number with axes": (result(lambda x: typed(x, scalar=True)), "a number has no axes"),
    "position outside": (
        result(lambda x: n.Range(TensorType("int", (x.axes[1].on("i"),)), None)),
        "outside an attention",
    ),
    "free length": (
        result(lambda x: n.Range(TensorType("int", (Axis("t", Size.free("t")),)), None)),
        "the length `t` can be read from no parameter",
    ),
    "free number": (result(lambda x: n.SizeOf(NUMBER, None, Size.free("t"))), "the length `t`"),
    "constant": (result(lambda x: n.Const(FLOATS, None, 1)), "this is a number"),
    "range": (result(lambda x: n.Range(TensorType("int", x.axes), None)), "an index has one axis"),
    "fill": (result(lambda x: n.Fill(TensorType("int", x.axes), None, 0.0)), "a filled tensor is float"),
    "shared": (result(lambda x: n.Shared(FLOATS, None, x, "x", 0)), "computed once"),
    "cast": (result(lambda x: n.Cast(TensorType("bool", x.axes), None, x)), "cast to int, wide or float"),
    "cast's axes": (result(lambda x: n.Cast(FLOATS, None, x)), "a cast keeps the axes"),
    "operands": (result(lambda x: n.Pointwise(x.type, None, "+", (x,))), "`+` has 2 operands, not 1"),
    "operator": (result(lambda x: n.Pointwise(x.type, None, "@", (x, x))), "no operator `@`"),
    "result's axes": (result(lambda x: n.Pointwise(FLOATS, None, "exp", (x,))), "`exp` has the axes"),
    "scalar": (result(lambda x: n.Pointwise(FLOATS, None, "+", (ONE, ONE))), "the result is a number exactly"),
    "comparison": (result(lambda x: n.Pointwise(x.type, None, "<", (x, x))), "gives a truth value"),
    "logic": (result(lambda x: n.Pointwise(BOOL, None, "not", (ONE,))), "joins truth values"),
    "dot": (result(lambda x: n.Dot(FLOATS, None, x, ONE)), "takes tensors with a feature axis"),
    "dot's features": (
        result(lambda x: n.Dot(FLOATS, None, x, n.Fill(TensorType("float", (M,)), None, 0.0))),
        "contracts 8 with 3",
    ),
    "dot's axes": (result(lambda x: n.Dot(x.type, None, x, x)), "`dot` has the axes"),
    "reduction": (result(lambda x: n.Reduce(FLOATS, None, "prod", x, x.axes)), "no reduction"),
    "reduced axis": (result(lambda x: n.Reduce(FLOATS, None, "sum", x, (M,))), "without them"),
    "reduced axes": (result(lambda x: n.Reduce(x.type, None, "sum", x, x.axes[:1])), "`sum` leaves"),
    "table": (result(lambda x: n.Gather(FLOATS, None, x, 3, (ONE,))), "for a table of 3 axes"),
    "index": (result(lambda x: n.Gather(FLOATS, None, x, 0, (x,))), "an index is a whole number"),
    "looked up": (result(lambda x: n.Gather(FLOATS, None, x, 0, (ONE,))), "a table read at indices"),
    "pick": (result(lambda x: n.Pick(FLOATS, None, x, M, Size.of(0), None, False)), "a tensor without it"),
    "picked": (result(lambda x: n.Pick(x.type, None, x, x.axes[0], Size.of(0), None, False)), "drops the axis"),
    "part": (result(lambda x: n.Pick(FLOATS, None, x, x.axes[0], None, None, True)), "keeps the axis"),
    "rename": (result(lambda x: n.Rename(TensorType("float", (*x.axes[:2], M)), None, x)), "other names for the axes"),
    "no node": (result(lambda x: n.Value(x.type, None)), "Value is no node"),
    "position": (
        in_average(score=lambda a: n.Position(TensorType("int", (M,)), None)),
        "an axis of the attention around it",
    ),
    "member": (
        in_average(visible=lambda a: typed(part(a.visible, n.Member), dtype="float")),
        "a pair is in a relation or not",
    ),
    # modules
    "no module": (in_block(modules=lambda b: b.modules[1:]), "no module `query`"),
    "two kinds": (first_module(lambda s: replace(s, items=(s,))), "more than one of"),
    "list": (first_module(lambda s: n.ModuleSlot(items=(s,))), "a list of modules"),
    "other module": (
        first_module(lambda s: replace(s, result=replace(s.result, module="nn.Tanh()"))),
        "of another kind",
    ),
    "without weights": (first_module(lambda s: replace(s, result=replace(s.result, module=None))), "without weights"),
    "too few": (
        first_module(lambda s: replace(s, items=s.items[:1]), "sample"),
        "has 1 entries, the loop more",
    ),
    "no loop": (
        lambda m: replace(m, root=replace(m.root, body=(*m.root.body[0].bodies[0], *m.root.body[1:]))),
        "no loop around it",
    ),
    "another block": (in_block("pair", name="twin"), "another block"),
    # loops
    "carried": (
        lambda m: replace(
            m,
            root=replace(m.root, body=(replace(m.root.body[0], bodies=((n.Set(("x",), ONE),),)), *m.root.body[1:])),
        ),
        "`x` is int",
    ),
    "loop index": (
        lambda m: replace(m, root=replace(m.root, body=(replace(m.root.body[0], index="x"), *m.root.body[1:]))),
        "a name already",
    ),
    # attention
    "two attentions": (in_block(body=lambda b: b.body * 2), "at most one attention"),
    "bool score": (in_average(score=lambda a: a.visible), "the score is a number"),
    "score's features": (in_average(score=lambda a: a.message), "the score is a number"),
    "message's features": (in_average(message=lambda a: a.score), "its features last"),
    "visible": (in_average(visible=lambda a: a.score), "what is visible is a truth value"),
    "batch side": (in_average(batch=lambda a: tuple(x.on("i") for x in a.batch)), "its side is wrong"),
    "over side": (in_average(over=lambda a: tuple(x.on("") for x in a.over)), "its side is wrong"),
    "positions side": (in_average(positions=lambda a: tuple(x.on("") for x in a.positions)), "its side is wrong"),
    "role twice": (in_average(over=lambda a: a.over * 2), "the same role twice"),
    "nothing averaged": (in_average(over=()), "nothing is averaged"),
    "no query": (in_average(query=None), "there is no query"),
    "axes of the key": (in_average(key_features=(M,)), "the axes of the key are not"),
    "axes of the value": (in_average(batch=()), "the axes of the query are not"),
    "head axis": (in_average(heads=replace(M, size=Size.of(2))), "called head"),
    "key heads": (in_average(key_heads=Size.of(3)), "do not divide"),
    "merge": (in_average(merge="max"), "no merge"),
    "dropout": (in_average(dropout=1.0), "a probability"),
    "vectors": (
        scored(n.Local, 0, type=lambda v: replace(v.type, axes=(v.axes[1], v.axes[0], *v.axes[2:]))),
        "`q` has the axes",
    ),
    "results": (
        in_block(body=lambda b: tuple(replace(s, names=("z",)) if isinstance(s, n.Evaluate) else s for s in b.body)),
        "gives y, not z",
    ),
    "layout": (in_average(layout=lambda a: a.layout[1:]), "the layout of the result"),
    "features": (
        in_average(features=(M,), layout=lambda a: (*a.layout[:-1], M)),
        "the heads merged have 8",
    ),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_broken_rule(rule):
    change, message = BROKEN[rule]
    broken = change(model())
    with pytest.raises(AssertionError, match=re.escape(message)) as error:
        verify(broken)
    assert "object at 0x" not in str(error.value)


def test_blocks_are_listed_once():
    assert [b.name for b in model().root.walk()] == ["sample", "look", "pair"]


# --- the printer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sample", "nested", "grouped", "shifted_windows", "graph_attention", "decoder"])
def test_printed(name):
    found = model() if name == "sample" else understand(HERE / "oracle" / "specs" / f"{name}.yaml", {})[1]
    printed = show(found)
    golden = HERE / "goldens" / f"typed_{name}.txt"
    if os.environ.get("TOWERDSL_UPDATE_GOLDENS"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(printed, encoding="utf-8")
    assert printed == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_every_spec_can_be_printed(path):
    found = understand(path, {})[1]
    for one_pass in PASSES:
        found = one_pass(found)
    printed = show(found)
    assert not re.search(r"object at 0x|<\w+>|Size\(|Axis\(", printed)
    assert all(f"block {b.name}" in printed for b in found.root.walk())
