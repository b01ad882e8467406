"""Rules as text: what they mean, and what is said about the wrong ones."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerdsl.diagnostics import Diagnostics, Source, Span, TowerError
from towerdsl.weights import CheckpointMap, check, expand, parse_map
from towerdsl.weights.equations import leaves


def make(rules, **options):
    return CheckpointMap.from_strings("hf", rules, **options)


def codes(error):
    return [d.code for d in error.value.diagnostics]


@dataclass(frozen=True)
class Words:
    text: str
    span: Span


@dataclass(frozen=True)
class Section:
    name: Words
    rules: tuple[tuple[Words, Words], ...]
    ignore: tuple[Words, ...] = ()
    prefix: tuple[Words, ...] = ()
    rename: tuple[tuple[Words, Words], ...] = ()


def words(source, text, quoted=None):
    start = source.text.index(quoted or text)
    return Words(text, Span(source, start, start + len(quoted or text)))


def test_data_round_trip_with_sizes_as_numbers():
    first = make(
        {
            "h.{l}.c_attn.weight": "transpose(concat(layer.{l}.q.weight, layer.{l}.k.weight, dim=-2))",
            "x.w": "stack(stack(layer.{l}.e.{e}.w, over=e), dim=2 // 2, over=l)",
            "concat(a.q, a.k, parts=[heads * 2, kv])": "in.w",
            "p.w": "reshape(w, [heads + 2 * (kv - 1), -1])",
        },
        ignore=["a.{p*}"],
        prefix=["bert."],
        sizes={"heads": 9, "kv": 3},
    )
    data = first.to_data()
    assert data == {
        "rules": {
            "h.{l}.c_attn.weight": "transpose(concat(layer.{l}.q.weight, layer.{l}.k.weight, dim=-2))",
            "x.w": "stack(stack(layer.{l}.e.{e}.w, over=e), dim=1, over=l)",
            "concat(a.q, a.k, parts=[18, 3])": "in.w",
            "p.w": "reshape(w, [13, -1])",
        },
        "ignore": ["a.{p*}"],
        "prefix": ["bert."],
    }
    assert CheckpointMap.from_data("hf", data) == first


@pytest.mark.parametrize(
    ("left", "right", "code", "caret", "says"),
    [
        ("a.{l", "b", "checkpoint-pattern", "{", "brace without its partner"),
        ("a.{l+x}", "b.{l}", "checkpoint-pattern", "{", "brace without its partner"),
        ("a.{l}", "b.{l+1}", "checkpoint-pattern", "b.{l+1}", "counts on"),
        ("a.l}", "b", "checkpoint-pattern", "}", "brace without its partner"),
        ("a..b", "b", "checkpoint-pattern", ".", "dot with nothing beside it"),
        ("a", "b.{x}{y}", "checkpoint-pattern", "{x}{y}", "2 placeholders in one part"),
        ("{x*}.{y*}", "{x*}.{y*}", "checkpoint-pattern", "{x*}.{y*}", "several parts"),
        ("a{x*}", "b.{x*}", "checkpoint-pattern", "a{x*}", "whole parts"),
        ("a.{l*}", "b.{l}", "checkpoint-pattern", "b.{l}", "one part on one side"),
        ("a", "concat(b", "checkpoint-syntax", "b", "expected `)` or `,`, got the end"),
        ("a b", "c", "checkpoint-syntax", "b", "expected the end, got `b`"),
        ("a", "concat(b,,c)", "checkpoint-syntax", ",", "got `,`"),
        ("a", "trans(b)", "checkpoint-function", "trans", "no `trans`"),
        ("a", "concat(b)", "checkpoint-arguments", "concat(b)", "has 1 tensor"),
        ("a", "reshape(b, d)", "checkpoint-arguments", "reshape(b, d)", "reshape(a, [8, -1])"),
        ("a", "reshape(b, [-1, -1])", "checkpoint-arguments", "reshape(b, [-1, -1])", "at most one -1"),
        ("a", "reshape(b, [nope])", "unknown-name", "nope", "no size `nope`"),
        ("a", "reshape(b, [1 // 0])", "checkpoint-arguments", "1 // 0", "division by zero"),
        ("a", "reshape(b, [999999999999 * 999999999999])", "checkpoint-limit", "9", "too large"),
        ("a", "concat(b, c, dm=0)", "checkpoint-option", "dm=0", "no option `dm`"),
        ("a", "concat(b, c, dim=0, dim=1)", "checkpoint-option", "dim=1", "given twice"),
        ("a", "concat(b, c, parts=[1, 1])", "checkpoint-parts", "concat(b, c, parts=[1, 1])", "left side only"),
        ("concat(b, c, parts=[1])", "a", "checkpoint-arguments", "concat(b, c, parts=[1])", "2 positive lengths"),
        ("reshape(a, [2])", "c", "checkpoint-reshape", "reshape(a, [2])", "cannot be undone"),
        ("a.{l}", "b", "checkpoint-placeholder", "a.{l}", "only on the left side"),
        ("a", "b.{l}", "checkpoint-placeholder", "b.{l}", "only on the right side"),
        ("a.{l}", "concat(b.{l}, c)", "checkpoint-placeholder", "c", "the same for every `{l}`"),
        ("a", "stack(b.{l}.{m})", "checkpoint-stack", "stack(b.{l}.{m})", "`{l}` or `{m}`"),
        ("a", "stack(b)", "checkpoint-stack", "stack(b)", "only the right side has"),
        ("a.{l}", "stack(b.{l})", "checkpoint-stack", "stack(b.{l})", "only the right side has"),
        ("a", "stack(b.{l*})", "checkpoint-stack", "stack(b.{l*})", "only the right side has"),
        ("", "b", "checkpoint-syntax", "", "needs a name on both sides"),
    ],
)
def test_a_mistake_is_shown_where_it_is(left, right, code, caret, says):
    with pytest.raises(TowerError) as error:
        make({left: right})
    diagnostic = error.value.diagnostics[0]
    assert diagnostic.code == code
    assert says in diagnostic.message
    assert diagnostic.span is not None and diagnostic.span.text.startswith(caret)
    assert not any(word in str(error.value) for word in ("PATTERN", "FUNC", "LPAR", "RSQB", "Token", "Tree"))


@pytest.mark.parametrize(
    "text", ["a" * 10_001, "transpose(" * 101 + "a" + ")" * 101, "reshape(a, [" + "(" * 5000 + "1" + ")" * 4000 + "])"]
)
def test_work_is_bounded(text):
    with pytest.raises(TowerError) as error:
        make({"x": text})
    assert codes(error) == ["checkpoint-limit"]


def test_a_long_sum_and_many_rules():
    make({"x": "reshape(a, [" + "1+" * 4900 + "1])"})
    with pytest.raises(TowerError) as error:
        make({f"x.{i}": f"y.{i}" for i in range(501)})
    assert codes(error) == ["checkpoint-limit"]


@given(st.text(alphabet="ab.{}*()[],=1 -+/\n\tdimconcatstack\u00e9", max_size=40))
def test_any_text_is_a_rule_or_a_diagnostic(text):
    with contextlib.suppress(TowerError):  # anything else is a failure
        make({"x": text})
    with contextlib.suppress(TowerError):
        make({text: "x"})


def test_spans_lie_in_the_file_of_the_spec():
    source = Source("bert.yaml", 'checkpoints:\n  hf:\n    "a.{l}": concat(b.{l}, c.{k})\n    ignore: [x..y]\n')
    section = Section(
        words(source, "hf"),
        ((words(source, "a.{l}", '"a.{l}"'), words(source, "concat(b.{l}, c.{k})")),),
        (words(source, "x..y"),),
        (Words("{p}", Span(source, 0, 5)),),
    )
    found = Diagnostics()
    map = parse_map(section, found)
    assert map.rules == ()
    places = {d.code: (d.span.line, d.span.text) for d in found.sorted if d.span is not None}
    assert places["checkpoint-placeholder"] == (3, "c.{k}")
    assert places["checkpoint-pattern"][0] == 4
    assert "checkpoint-prefix" in places


def test_a_rule_written_twice():
    source = Source("x.yaml", "a: b\n")
    rule = (words(source, "a"), words(source, "b"))
    found = Diagnostics()
    parse_map(Section(words(source, "a"), (rule, rule)), found)
    assert [d.code for d in found.sorted] == ["checkpoint-twice"]


@pytest.mark.parametrize("data", [3, {"rule": {}}, {"rules": {"a": 1}}, {"rules": {}, "ignore": "a"}, {"prefix": [1]}])
def test_data_of_another_form(data):
    with pytest.raises(TowerError) as error:
        CheckpointMap.from_data("hf", data)
    assert codes(error) == ["checkpoint-map"]


def test_check_unknown_name_has_the_closest():
    shapes = {f"layer.{n}.look.{part}.weight": (4, 4) for n in range(3) for part in ("query", "key")}
    (found,) = check(make({"h.{l}.q.{p}": "layer.{l}.lok.query.{p}"}), shapes)
    assert found.code == "checkpoint-unmatched"
    assert found.help == "did you mean `layer.{l}.look.query.{p}`?"
    found, *more = check(make({"h.{l}.qk": "concat(layer.{l}.look.query.weight, layer.{l}.look.kye.weight)"}), shapes)
    assert found.code == "checkpoint-name" and not more  # once, not for each layer
    assert found.help == "did you mean `layer.0.look.key.weight`?"


@pytest.mark.parametrize(
    ("left", "right", "code", "says"),
    [
        ("x", "transpose(bias)", "checkpoint-shape", "two dims or more, this one is [8]"),
        ("transpose(x)", "bias", "checkpoint-shape", "two dims or more"),
        ("x", "concat(weight, bias)", "checkpoint-shape", "differ in dim 0 only"),
        ("x", "concat(weight, other)", "checkpoint-shape", "differ in dim 0 only"),
        ("x", "concat(weight, other, dim=2)", "checkpoint-shape", "no dim 2 in a tensor of 2 dims"),
        ("x", "reshape(weight, [5, -1])", "checkpoint-shape", "[8, 4] has 32 elements and cannot become [5, -1]"),
        ("x", "reshape(weight, [0, -1])", "checkpoint-shape", "cannot become"),
        ("x", "stack(list.{n})", "checkpoint-shape", "one shape"),
        ("concat(x, y, z)", "weight", "checkpoint-shape", "dim 0 of [8, 4] cannot be split in 3 equal parts"),
        ("concat(x, y, parts=[2, 1])", "weight", "checkpoint-shape", "like 2:1"),
        ("concat(x, x)", "weight", "checkpoint-twice", "`x` is made twice"),
        ("stack(x.{n})", "huge", "checkpoint-limit", "names"),
    ],
)
def test_check_shapes(left, right, code, says):
    shapes = {"weight": (8, 4), "bias": (8,), "other": (8, 3), "list.0": (2,), "list.1": (3,), "huge": (10**9, 1)}
    (found,) = check(make({left: right}), shapes)
    assert found.code == code and says in found.message


def test_check_two_rules_for_one_public_name():
    (found,) = check(make({"x.{p}": "a.{p}", "x.w": "b.w"}), {"a.w": (1,), "b.w": (1,)})
    assert found.code == "checkpoint-twice" and "`x.{p}: a.{p}`" in found.notes[0]


def test_check_uncovered():
    expansion = expand(make({"x": "a"}), {"a": (1,), "b": (2,)})
    assert expansion.uncovered == ("b",) and not expansion.diagnostics and expansion.public == {"x": (1,)}


def test_the_rule_that_says_more_has_the_parameter():
    map = make({"self.{part}.{p}": "look.{part}.{p}", "out.{p}": "look.output.{p}"})
    shapes = {f"look.{part}.{p}": (2,) for part in ("query", "output") for p in ("weight", "bias")}
    assert set(expand(map, shapes).public) == {"self.query.weight", "self.query.bias", "out.weight", "out.bias"}


def test_stacked_in_the_order_of_numbers():
    map = make({"w": "stack(layer.{l}.w)"})
    (equation,) = expand(map, {f"layer.{n}.w": (2,) for n in (10, 9, 2, 0)}).equations
    assert [leaf.name for leaf in leaves(equation.ours)] == [f"layer.{n}.w" for n in (0, 2, 9, 10)]
    assert equation.ours.shape == (4, 2)


def test_placeholders_within_a_part():
    map = make({"in_proj_{p}": "concat(q.{p}, k.{p})", "rnn.weight_ih_l{k}": "rnn.{k}.w", "{p*}.g": "{p*}.gain"})
    shapes = {"q.weight": (2, 2), "k.weight": (2, 2), "rnn.0.w": (1,), "a.b.gain": (3,)}
    assert expand(map, shapes).public == {"in_proj_weight": (4, 2), "rnn.weight_ih_l0": (1,), "a.b.g": (3,)}


def test_importing_needs_no_torch():
    code = (
        "import sys; from towerdsl.weights import CheckpointMap, check;"
        "check(CheckpointMap.from_strings('x', {'a': 'b'}), {'b': (1,)}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
