"""What `explain` says: each fact against the model that is really built, its costs against torch's own count.

`TOWERDSL_UPDATE_GOLDENS=1 pytest tests/test_explain.py` writes the golden file anew: read it.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agreement.test_specs import small

import towerdsl
from towerdsl.compiler import compile_spec
from towerdsl.diagnostics import TowerError
from towerdsl.explain import Explained, explain, explain_compiled, text, to_data
from towerdsl.explain.show import formula, human
from towerdsl.ir.size import Size
from towerdsl.ir.types import TensorType

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "goldens" / "explain_bert.txt"
LIBRARY = sorted(p for p in (ROOT / "specs").rglob("*.yaml") if re.search(r"^(flow|outputs):", p.read_text(), re.M))
ORACLE = sorted(p for p in (ROOT / "tests/oracle/specs").glob("*.yaml") if p.stem != "library")
every_spec = pytest.mark.parametrize("spec", [*LIBRARY, *ORACLE], ids=lambda p: p.stem)

#: torch's counter leaves out recurrent layers and products of a matrix with one vector; `explain` counts both, and both
#: sides of a choice by a loop's index.
NOT_COUNTED_BY_TORCH = {
    "additive",
    "bahdanau",
    "concatenation",
    "feedback",
    "hard_attention",
    "luong_local_p",
    "pooling",
}

HEADS = """
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    heads: heads
"""
NESTED = f"""
tower: nested
sizes: {{d: 8, heads: 2, depth: 3}}
inputs:
  x: float[b, n, d]
modules:
  again: step
blocks:
  look(x, w): {HEADS}
    locality: window(w)
  inner(x):
    - for m in 2:
        - x = x + look(x, 3)
    - x
  step(x):
    - for k in 2:
        - x = inner(x)
    - x
flow:
  - for l in depth:
      - x = again(x)
      - for m in 4:
          - if m != 1:
              - x = x + look(x[n=1:], 2)[n=0]
      - x = look(x, 2)
outputs: x
"""


def one(spec: str | Path, **settings: Any) -> Any:
    """The facts of a spec's only attention."""
    explained = explain(spec, settings)
    assert len(explained.attentions) == 1
    return explained.attentions[0].facts


def attention(fields: str, inputs: str = "x: float[b, n, d]", call: str = "look(x)", head: str = "look(x)") -> str:
    lines = "\n".join(f"    {line}" for line in fields.strip().splitlines())
    types = "\n".join(f"  {x.strip()}" for x in inputs.split(";"))
    return f"tower: one\nsizes: {{d: 8, heads: 2}}\ninputs:\n{types}\nblocks:\n  {head}:\n{lines}\noutputs: {call}\n"


PLAIN = "query: x\nkey: x\nvalue: x\n"


# --- costs -----------------------------------------------------------------------------------------------------


@every_spec
def test_multiply_adds_are_those_that_torch_counts(spec: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    sizes = small(spec) if spec in LIBRARY else {}
    compiled = compile_spec(spec, sizes, "reference")
    lengths = {"b": 2, "n": 5, "m": 3, "t": 6}
    if spec.stem in (
        "detr",
        "segformer",
    ):  # torch counts no products with one position, as small images have in the end
        lengths |= {"h": 64, "w": 64}
    free = explain_compiled(compiled, {}).free
    explained = explain_compiled(compiled, {name: lengths.get(name, 4) for name in free})
    model = towerdsl.compile(spec, kernel="reference", **sizes)().eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**{i.name: _example(i.type, explained) for i in explained.inputs})
    counted, expected = counter.get_total_flops() // 2, explained.number(explained.work.all)
    if spec.stem in NOT_COUNTED_BY_TORCH:
        assert counted < expected
    else:
        assert counted == expected


def _example(kind: Any, explained: Explained) -> Any:
    import torch

    if not isinstance(kind, TensorType):
        return torch.zeros(2, 3, dtype=torch.long)
    shape = [explained.number(axis.size) for axis in kind.axes]
    dtype = {"float": torch.float32, "bool": torch.bool, "int": torch.long}[kind.dtype]
    return torch.ones(shape, dtype=dtype)


def test_bert_by_hand() -> None:
    explained = explain("bert", {"b": 1, "n": 512})
    (found,) = explained.attentions
    d, n, depth, ff = 768, 512, 12, 3072
    assert str(found.facts.work.linear) == f"{4 * d * d} * b * n"
    assert str(found.facts.work.score) == str(found.facts.work.sum) == f"{d} * b * n ** 2"
    assert explained.number(found.facts.work.linear) == 4 * d * d * n
    assert explained.number(explained.work.all) == depth * (n * (4 * d * d + 2 * d * ff) + 2 * d * n * n)
    assert found.facts.parameters == 4 * (d * d + d)
    assert (found.modules, found.calls, found.paths) == (12, 12, ("layer.*.attention",))


def test_memory_of_the_reference_is_that_of_the_pairs() -> None:
    spec = attention(PLAIN + "heads: heads\nnormalize: sigmoid\n")
    assert str(one(spec).peak) == "4 * b * n ** 2"  # two heads, the scores and the weights


def test_a_causal_mask_is_not_held() -> None:
    assert one(attention(PLAIN + "mask: causal")).peak == Size.of(0)


def test_lengths_are_those_of_the_model() -> None:
    """Inside `look` the lengths are called n and n_2; the model calls them rows and n * 2."""
    spec = attention(
        "query: x\nkey: u\nvalue: u",
        "x: float[b, rows, d]; u: float[b, t, 2, d]",
        'look(x, rearrange(u, "b t p d -> b (t p) d"))',
        "look(x, u)",
    )
    facts = one(spec)
    assert str(facts.work.sum) == "16 * b * rows * t"
    assert [str(size) for _, size in facts.over] == ["2 * t"]
    assert facts.results == ("float[b, rows, d=8]",)


def test_a_length_given_counts_and_pins_nothing() -> None:
    free, given = explain("bert"), explain("bert", {"n": 128})
    pinned = [[replace(f.facts, estimates=(), near=None) for f in x.attentions] for x in (free, given)]
    assert pinned[0] == pinned[1]  # but for estimates, which are about the lengths
    assert free.free == given.free == ("b", "n")
    assert str(given.at(given.attentions[0].facts.work.sum)) == f"{768 * 128**2} * b"
    assert given.number(given.work.all) is None
    assert given.number(Size.free("n") * 2) == 256


def test_a_size_of_the_spec_is_compiled() -> None:
    assert explain("bert", {"depth": 2}).attentions[0].modules == 2


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_a_length_is_a_positive_whole_number(value: Any) -> None:
    with pytest.raises(TowerError, match="`n` is the length of an axis"):
        explain("bert", {"n": value})


def test_an_unknown_setting() -> None:
    with pytest.raises(TowerError, match="did you mean `depth`"):
        explain("bert", {"dept": 3})


# --- where attentions stand --------------------------------------------------------------------------------------


def _expanded(path: str, names: set[str]) -> set[str]:
    """The modules that a path such as `layer.*.look` or `look.{0,2}` stands for."""

    def options(part: str) -> str:
        if part == "*":
            return r"\d+"
        if not part.startswith("{"):
            return re.escape(part)
        runs = [r.split("-") for r in part[1:-1].split(",")]
        return "|".join(str(k) for r in runs for k in range(int(r[0]), int(r[-1]) + 1))

    parts = re.findall(r"\{[^}]*\}|[^.]+", path)
    pattern = re.compile(r"\.".join(f"(?:{options(p)})" for p in parts))
    return {name for name in names if pattern.fullmatch(name)}


@every_spec
def test_paths_name_modules_of_the_model(spec: Path) -> None:
    import torch

    with torch.device("meta"):
        model = towerdsl.compile(spec)()
    modules = dict(model.named_modules())
    explained = explain(spec)
    for found in explained.attentions:
        named = [name for path in found.paths for name in _expanded(path, set(modules))]
        assert len(named) == len(set(named)) == found.modules
        for name in named:
            own = sum(p.numel() for p in modules[name].parameters())
            assert found.facts.parameters <= own
    assert explained.parameters == sum(p.numel() for p in model.parameters())
    assert explained.buffers == sum(b.numel() for b in model.buffers())


def test_paths_through_loops_choices_and_shared_modules() -> None:
    explained = explain(NESTED)
    found = {f.paths: (f.modules, f.calls) for f in explained.attentions}
    assert found == {
        ("again.inner.*.look.*",): (4, 12),
        ("look.*.{0,2,3}",): (9, 9),  # these see x[n=1:], of another length
        ("look_2.*",): (3, 3),
    }
    names = {name for name, _ in towerdsl.compile(NESTED)().named_modules()}
    for found_ in explained.attentions:
        assert len(_expanded(found_.paths[0], names)) == found_.modules


def test_attentions_that_differ_stand_apart() -> None:
    spec = attention(PLAIN + "locality: window(w)", head="look(x, w)", call="look(look(look(x, 2), 3), 2)")
    explained = explain(spec)
    assert [(f.paths, f.facts.bands[0].text) for f in explained.attentions] == [
        (("look", "look_3"), "abs(i - j) < 2"),
        (("look_2",), "abs(i - j) < 3"),
    ]


def test_calls_without_end_are_counted_not_walked() -> None:
    """Ten levels of ten calls each of one shared module: 10 ** 10 attentions in a model of eleven modules."""
    levels = "".join(
        f"  s{k}:\n    modules: {{inner: s{k + 1}}}\n    flow: [{', '.join(['x = inner(x)'] * 10)}]\n".replace(
            f"s{k}:", f"s{k}(x):", 1
        )
        for k in range(10)
    )
    spec = attention(PLAIN + "locality: causal", call="s0(x)").replace("look(x):", "s10(x):")
    spec = spec.replace("outputs:", f"{levels}outputs:")
    (found,) = explain(spec).attentions
    assert (found.modules, found.calls) == (1, 10**10)


# --- what the analysis found -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "bands", "rest"),
    [
        ("locality: causal_window(4)", ["0 <= i - j <= 3"], []),
        ("locality: window(4)\nmask: causal", ["0 <= i - j <= 3"], []),
        ("locality: abs(i - j) < 4", ["abs(i - j) < 4"], []),
        ("mask: causal and keep[j]", ["j <= i"], ["keep[j]"]),
        ("mask: same(doc) and doc[j] > 0", [], ["doc[i] == doc[j]", "doc[j] > 0"]),
    ],
)
def test_what_is_visible(fields: str, bands: list[str], rest: list[str]) -> None:
    spec = attention(
        PLAIN + fields,
        "x: float[b, n, d]; keep: bool[b, n]; doc: int[b, n]",
        "look(x, keep, doc)",
        "look(x, keep, doc)",
    )
    facts = one(spec)
    assert [b.text for b in facts.bands] == bands
    assert [r for r, _ in facts.rest] == rest
    assert not facts.everything


def test_everything_is_visible() -> None:
    facts = one(attention(PLAIN))
    assert facts.everything
    assert (facts.score, facts.score_found) == ("dot(q, k) / sqrt(dk)", "0.3536 * dot(q, k)")


def test_a_name_and_its_formula_are_found_to_be_the_same() -> None:
    name = one(attention(PLAIN + "score: scaled_dot\nlocality: window(3)"))
    written = one(attention(PLAIN + "score: dot(q, k) / sqrt(dk)\nlocality: abs(i - j) < 3"))
    for field in ("score_formula", "score_found", "score_kind", "bands", "rest", "kernel", "refused", "work", "peak"):
        assert getattr(name, field) == getattr(written, field)


@pytest.mark.parametrize(
    ("score", "kind"),
    [
        ("dot(q, k)", "dot"),
        ("-sum(abs(q - k))", "pairwise"),
        ("sum(k)", "keys"),
        ("1", "constant"),
    ],
)
def test_kinds_of_score(score: str, kind: str) -> None:
    assert one(attention(PLAIN + f"score: {score}")).score_kind == kind


def test_key_heads() -> None:
    facts = one(attention("query: x\nkey: linear(x, d // 2)\nvalue: linear(x, d)\nheads: {query: 4, key: 2}"))
    assert (facts.heads, facts.key_heads, str(facts.key_size), str(facts.value_size)) == (4, 2, "2", "4")


def test_every_kernel_is_accounted_for() -> None:
    from towerdsl.kernels.catalog import CATALOG

    for fields in (PLAIN, PLAIN + "normalize: sum"):
        facts = one(attention(fields))
        assert sorted([facts.kernel, *dict(facts.refused), *facts.able]) == sorted(k.name for k in CATALOG)


def test_a_library_of_blocks_has_no_plan() -> None:
    with pytest.raises(TowerError):
        explain("transformer_layers")


# --- for programs ------------------------------------------------------------------------------------------------


@every_spec
def test_data_is_json_and_its_formulas_are_arithmetic(spec: Path) -> None:
    compiled = compile_spec(spec)
    explained = explain_compiled(compiled, {})
    given = explain_compiled(compiled, dict.fromkeys(explained.free, 3))
    data = json.loads(json.dumps(to_data(given)))
    assert json.loads(json.dumps(to_data(explained)))["given"] == {}

    def costs(value: Any) -> list[dict[str, Any]]:
        if isinstance(value, dict):
            own = [value] if {"formula", "number"} <= set(value) else []
            return own + [c for v in value.values() for c in costs(v)]
        return [c for v in value for c in costs(v)] if isinstance(value, list) else []

    found = costs(data)
    assert len(found) == 4 + 4 * len(data["attentions"]) + 3 * len(data["layers"]) + len(data["paths"])
    functions = {"min": min, "max": max, "ceil": math.ceil, "log": math.log}
    for cost in found:
        if cost["formula"] is None:
            assert not cost["number"] and cost["unknown"]
        elif "covers" in cost and eval(cost["size"], functions, data["given"]) < 2:
            assert cost["number"] == 0
        elif cost["number"] is not None or "covers" not in cost:
            assert eval(cost["formula"], functions, data["given"]) == cost["number"]
        else:  # these layers are too few
            assert cost["covers"] < eval(cost["size"], functions, data["given"]) - 1


def test_keys_of_the_data_are_those_documented() -> None:
    data = to_data(explain("bert", {"n": 4}))
    documented = sys.modules["towerdsl.explain"].__doc__ or ""
    (found,) = data["attentions"]
    for keys in (data, found, data["total"], *data["layers"], *data["paths"]):
        for key in keys:
            assert re.search(rf"\b{key}\b", documented), f"{key} is not in the docstring of towerdsl.explain"
    assert list(data) == (
        "name source paper about sizes choices free given inputs outputs attentions layers paths total".split()
    )
    assert data["total"]["multiply_adds"]["all"]["number"] is None
    shares = to_data(explain("bert", {"b": 1, "n": 4}))["total"]["shares"]
    assert 0 < shares[0]["multiply_adds"] < 1
    assert shares[0]["parameters"] == pytest.approx(12 * 2362368 / 108891648, abs=1e-4)


# --- for readers -------------------------------------------------------------------------------------------------


def test_golden() -> None:
    said = text(explain("bert", {"b": 8, "n": 512}))
    if os.environ.get("TOWERDSL_UPDATE_GOLDENS") == "1":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(said, encoding="utf-8")
    assert said == GOLDEN.read_text(encoding="utf-8")


@every_spec
def test_text_fits(spec: Path) -> None:
    compiled = compile_spec(spec)
    plain = explain_compiled(compiled, {})
    for explained in (plain, explain_compiled(compiled, dict.fromkeys(plain.free, 1000))):
        for width in (100,) if spec in LIBRARY else (100, 70):
            lines = text(explained, width).splitlines()
            assert max(map(len, lines)) <= width
            assert not any(line != line.rstrip() for line in lines)


def test_square_brackets_are_text() -> None:
    """`keep[j]` and `x[red]` are not markup."""
    said = text(
        explain(attention(PLAIN + "mask: red[j]", "x: float[b, n, d]; red: bool[b, n]", "look(x, red)", "look(x, red)"))
    )
    assert "red[j]" in said


def test_nothing_reaches_the_terminal_but_text() -> None:
    said = text(explain(attention(PLAIN).replace("tower: one", 'tower: one\nabout: "red\\u202e"')))
    assert "\u202e" not in said
    assert "red\\u202e" in said
    with pytest.raises(TowerError, match="cannot be shown") as refused:
        explain(attention(PLAIN).replace("tower: one", 'tower: one\nabout: "a\\e[31mred"'))
    assert "\x1b" not in str(refused.value)


def test_names_that_double_are_cut_short() -> None:
    doubling = "".join(f"  a{k}(x): a{k - 1}(x) + a{k - 1}(x)\n" for k in range(1, 8))
    spec = attention(PLAIN + "score: a7(dot(q, k))").replace("blocks:", f"define:\n  a0(x): x\n{doubling}blocks:")
    assert len(one(spec).score_formula) <= 500


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (12_345, "12.3 k"),
        (108_891_648, "108.9 M"),
        (999_960, "1 M"),
        (2_500_000_000, "2.5 G"),
    ],
)
def test_human_numbers(number: int, said: str) -> None:
    assert human(number) == said
    assert human(4_200_000, "B") == "4.2 MB"


def test_formulas_for_readers() -> None:
    b, n = Size.free("b"), Size.free("n")
    assert formula(b * n * n * 1536 + b * n * 2_359_296) == "1,536·b·n² + 2.36 M·b·n"
    assert formula(n.opaque("//", 2) * b - 3) == "b·(n // 2) - 3"
    assert formula(Size.of(0)) == "0"


def test_without_torch() -> None:
    program = (
        "import sys; from towerdsl.explain import explain, text, to_data; e = explain('bert'); text(e); to_data(e);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
