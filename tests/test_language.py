"""Conditions that say the same are planned the same, however they are written.

The planner sees algebra, never names: the same kernel, the same facts, the same emitted source apart from docstrings.
"""

import ast
from itertools import pairwise

import pytest
import torch

import towerdsl
from towerdsl.compiler import Compiled, compile_spec
from towerdsl.ir.types import Axis

LINE = """
tower: equal
sizes: {{d: 8, heads: 2, w: 4}}
inputs:
  x: float[b, n, d]
  keep: bool[b, n]
  doc: int[b, n]
define:
  before: j <= i
  near(r): abs(i - j) < r
  local: near(w) and before
blocks:
  look(x, keep, doc):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    heads: heads
    {field}: "{condition}"
    score: "{score}"
    output: linear(y, d)
outputs: look(x, keep, doc)
"""

GRID = """
tower: equal
sizes: {{d: 8, win: 2, shift: 1}}
inputs:
  x: float[b, h, w, d]
blocks:
  look(x[b, h, w, d]):
    over: [h, w]
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    {field}: "{condition}"
    score: "{score}"
outputs: look(x)
"""

#: Every group has one meaning; all its forms make one plan.
CONDITIONS = {
    "causal window": """
        abs(i - j) < 4 and j <= i
        j <= i and abs(i - j) < 4
        0 <= i - j < 4
        0 <= i - j and i - j < 4
        0 <= i - j <= 3
        -4 < j - i <= 0
        4 > i - j >= 0
        i - 4 < j <= i
        j <= i < j + 4
        causal and window(4)
        window(4) and causal
        causal_window(4)
        causal_window(w)
        local
        not (i - j >= 4 or j > i)
        not (i - j >= 4) and not j > i
        abs(i - j) < w and before
        abs(j - i) < 4 and i >= j
        2 * i - 2 * j < 8 and j <= i
        window(4) and causal and window(9)
        window(4) and causal and true
    """,
    "window": """
        abs(i - j) < 4
        abs(j - i) < 4
        abs(i - j) <= 3
        -4 < i - j < 4
        -3 <= i - j and i - j <= 3
        -4 < j - i < 4
        window(4)
        window(w)
        near(w)
        neighbours(i, j, 3)
        not abs(i - j) >= 4
        not (i - j >= 4 or j - i >= 4)
        window(4) and window(5)
    """,
    "causal": """
        j <= i
        i >= j
        causal
        before
        not j > i
        not i < j
        0 <= i - j
        i - j >= 0
        i - j > -1
        j - i < 1
        j < i + 1
        i + 1 > j
        causal and causal
    """,
    "itself": """
        i == j
        j == i
        i - j == 0
        abs(i - j) < 1
        window(1)
        abs(i - j) <= 0
        i <= j and j <= i
        i <= j <= i
    """,
    "ahead": """
        j == i + 1
        i + 1 == j
        j - i == 1
        1 <= j - i <= 1
        0 < j - i < 2
    """,
    "padding": """
        keep[j]
        keep[j] and true
        not not keep[j]
        keep[j] and keep[j]
    """,
    "documents": """
        doc[i] == doc[j]
        same(doc)
    """,
    "decoder": """
        keep[j] and j <= i
        j <= i and keep[j]
        causal and keep[j]
        not (j > i or not keep[j])
    """,
    "everything": """
        true
        1 < 2
        i >= 0
        j < n
    """,
    "nothing": """
        false
        not true
        keep[j] and false
        i < j and j < i
        i - j > 2 and i - j < 2
    """,
    "residues": """
        (i - j) % 3 == 0
        strided(3)
    """,
    "dilated": """
        abs(i - j) < 6 and (i - j) % 3 == 0
        dilated(2, 3)
    """,
    "blocks": """
        i // 4 == j // 4
        j // 4 == i // 4
        blocks(4)
        blocks(w)
    """,
    "two sides": """
        i < 1 or j < 1
        global_tokens(1)
    """,
}

GRID_CONDITIONS = {
    "neighbours": """
        abs(i.h - j.h) <= 1 and abs(i.w - j.w) <= 1
        abs(i.w - j.w) <= 1 and abs(i.h - j.h) <= 1
        neighbours(i.h, j.h, 1) and neighbours(i.w, j.w, 1)
        -1 <= i.h - j.h < 2 and abs(j.w - i.w) < 2
    """,
    "rows": """
        i.h == j.h
        j.h - i.h == 0
    """,
    "shifted windows": """
        (i.h + shift) // win == (j.h + shift) // win and (i.w + shift) // win == (j.w + shift) // win
        shifted_blocks(i.h, j.h, win, shift) and shifted_blocks(i.w, j.w, win, shift)
        shifted_blocks(i.h, j.h, 2, 1) and (i.w + 1) // 2 == (j.w + 1) // 2
    """,
}

SCORES = {
    "scaled": """
        dot(q, k) / sqrt(dk)
        scaled_dot
        dot(q, k) / dk ** 0.5
        dot(q, k) * dk ** -0.5
        dk ** -0.5 * dot(q, k)
        dot(q, k) * rsqrt(dk)
    """,
    "plain": """
        dot(q, k)
        embedded_gaussian
        1 * dot(q, k)
    """,
    "cosine": """
        dot(unit(q), unit(k))
        cosine
    """,
}


def forms(table: dict[str, str]) -> list:
    """(first form, another form) for every other form of each meaning."""
    found = []
    for meaning, text in table.items():
        first, *others = (line.strip() for line in text.strip().splitlines())
        for other in others:
            found.append(pytest.param(first, other, id=f"{meaning}: {other}"))
    return found


def plan_of(compiled: Compiled) -> tuple:
    """The kernel, what the others were refused for, and the facts."""
    ((_, plan),) = compiled.plans.items()
    facts = plan.facts.locality
    return plan.kernel.name, plan.refused, facts, plan.facts.score


def code_of(compiled: Compiled) -> str:
    """The emitted source without docstrings, which quote the spec."""
    tree = ast.parse(compiled.source())
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def same(spec: str, first: str, second: str, **fields: str) -> None:
    usual = {"field": "locality", "score": "dot(q, k) / sqrt(dk)"} | fields
    a, b = (compile_spec(spec.format(condition=condition, **usual)) for condition in (first, second))
    assert code_of(a) == code_of(b)
    assert plan_of(a) == plan_of(b)


@pytest.mark.parametrize(("first", "second"), forms(CONDITIONS))
def test_one_plan_for_one_condition(first, second):
    same(LINE, first, second)


@pytest.mark.parametrize(("first", "second"), forms(GRID_CONDITIONS))
def test_one_plan_for_one_condition_on_a_grid(first, second):
    same(GRID, first, second)


@pytest.mark.parametrize(("first", "second"), forms(SCORES))
def test_one_plan_for_one_score(first, second):
    a, b = (compile_spec(LINE.format(field="mask", condition="causal", score=s)) for s in (first, second))
    assert code_of(a) == code_of(b)
    assert plan_of(a)[0] == plan_of(b)[0]


@pytest.mark.parametrize("condition", ["causal", "window(4)", "keep[j] and j <= i"])
def test_locality_and_mask_are_one_condition(condition):
    a, b = (compile_spec(LINE.format(field=f, condition=condition, score="scaled_dot")) for f in ("locality", "mask"))
    assert code_of(a) == code_of(b)
    assert plan_of(a) == plan_of(b)


def test_no_condition_is_everything():
    spec = LINE.replace('    {field}: "{condition}"\n', "")
    a = compile_spec(spec.format(score="scaled_dot"))
    b = compile_spec(LINE.format(field="mask", condition="true", score="scaled_dot"))
    assert code_of(a) == code_of(b)


def test_other_conditions_make_other_plans():
    """The comparison can fail."""
    firsts = [text.strip().splitlines()[0].strip() for text in CONDITIONS.values()]
    codes = [code_of(compile_spec(LINE.format(field="mask", condition=c, score="scaled_dot"))) for c in firsts]
    assert len(set(codes)) == len(codes)


def test_bands_are_found():
    """The facts of a condition, in numbers."""
    compiled = compile_spec(LINE.format(field="mask", condition="causal_window(4) and keep[j]", score="scaled_dot"))
    (plan,) = compiled.plans.values()
    (band,) = plan.facts.locality.bands
    assert isinstance(band.query, Axis)
    assert (str(band.low), str(band.high)) == ("0", "3")
    assert len(plan.facts.locality.rest) == 1


def test_windows_nest():
    """A wider window says nothing beside a narrower one, whichever stands first."""
    for a, b in pairwise([2, 3, 7]):
        same(LINE, f"window({a}) and window({b})", f"window({b}) and window({a})")
        same(LINE, f"window({a})", f"window({b}) and window({a})")


def test_a_condition_that_is_decided_has_all_positions():
    """`keep[j]` of a parameter that is `true` hides nothing: one block serves calls with and without a mask."""
    spec = LINE.replace("look(x, keep, doc):", "look(x, keep = true, doc = 0):")
    a = compile_spec(
        spec.replace("look(x, keep, doc)", "look(x)").format(
            field="mask", condition="keep[j] and j <= i", score="scaled_dot"
        )
    )
    b = compile_spec(
        spec.replace("look(x, keep, doc)", "look(x)").format(field="mask", condition="j <= i", score="scaled_dot")
    )
    assert code_of(a) == code_of(b)
    none = compile_spec(
        spec.replace("look(x, keep, doc)", "look(x, false)").format(
            field="mask", condition="not keep[j]", score="scaled_dot"
        )
    )
    assert "is_causal" not in code_of(none) and "mask" not in code_of(none)


TALKING = """
tower: talking
sizes: {d: 8, heads: 2}
inputs:
  x: float[b, n, d]
blocks:
  look(x):
    modules: {mix: linear(heads)}
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    heads: heads
    score: rearrange(mix(rearrange(dot(q, k), "b head i j -> b i j head")), "b i j head -> b head i j")
outputs: look(x)
"""


def test_positions_stay_positions_when_a_score_is_rearranged():
    model = towerdsl.compile(TALKING)()
    x = torch.randn(2, 5, 8)
    q, k, v = (getattr(model.look, name)(x).unflatten(-1, (2, 4)) for name in ("query", "key", "value"))
    score = torch.einsum("gh,bihc,bjhc->bgij", model.look.mix.weight, q, k) + model.look.mix.bias[:, None, None]
    expected = torch.einsum("bgij,bjgc->bigc", score.softmax(-1), v).flatten(-2)
    torch.testing.assert_close(model(x), expected)


def test_a_condition_becomes_a_number_once():
    spec = "tower: t\ninputs: {x: 'float[b, n]', keep: 'bool[b, n]'}\noutputs: x * float(keep)\n"
    assert ".to(wide).to(wide)" not in compile_spec(spec).source()
    x, keep = torch.randn(2, 3), torch.rand(2, 3) > 0.5
    assert torch.equal(towerdsl.compile(spec)()(x, keep), x * keep)


def test_a_loop_that_reads_its_index_stays_a_loop():
    spec = """
tower: indexed
sizes: {d: 4, depth: 3}
inputs: {x: "float[b, d]", memory: "float[depth, b, d]"}
flow:
  - for l in depth:
      - x = tanh(linear(x, d)) + memory[l] * l
outputs: x
"""
    source = compile_spec(spec).source()
    assert "for l in range(3):" in source and "memory[l]" in source and "memory[1]" not in source
    model, x, memory = towerdsl.compile(spec)(), torch.randn(2, 4), torch.randn(3, 2, 4)
    expected = x
    for l, linear in enumerate(model.linear):  # noqa: E741
        expected = torch.tanh(linear(expected)) + memory[l] * l
    torch.testing.assert_close(model(x, memory), expected)
    # one that reads something else of it is written out
    assert "for l" not in compile_spec(spec.replace("memory[l] * l", "memory[depth - 1 - l]")).source()
