"""The rows of complexity: against the table that was published, and against costs that are worked out by hand."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest

from towerdsl import cli
from towerdsl.diagnostics import TowerError
from towerdsl.explain import Complexity, Growth, complexity, explain, published_form, table
from towerdsl.passes.reach import on_long_axes

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "complexity.md"
SPECS = ("self_attention", "recurrent", "convolutional", "restricted_self_attention")

#: Vaswani et al. 2017, table 1: complexity per layer, sequential operations, maximum path length. Their k is K here.
PUBLISHED = {
    "self_attention": ({"n": 2, "d": 1}, {}, {}),
    "recurrent": ({"n": 1, "d": 2}, {"n": 1}, {"n": 1}),
    "convolutional": ({"K": 1, "n": 1, "d": 2}, {}, ("K", {"n": 1})),
    "restricted_self_attention": ({"r": 1, "n": 1, "d": 1}, {}, {"n": 1, "r": -1}),
}


def product(growth: Growth) -> object:
    """A growth of one term, as powers; with the base of its logarithm."""
    assert not growth.unknown, growth.unknown
    assert len(growth.terms) <= 1
    powers = dict(growth.terms[0]) if growth.terms else {}
    return (growth.base, powers) if growth.base else powers


@cache
def row(spec: str, **settings: int) -> Complexity:
    (found,) = complexity(spec, settings)
    return found


@pytest.mark.parametrize("name", SPECS)
def test_the_published_table(name: str) -> None:
    found = row(name)
    assert (product(found.layer), product(found.steps), product(found.path)) == PUBLISHED[name]


def test_contiguous_convolutions() -> None:
    """O(n / k) "in the case of contiguous kernels" (section 4)."""
    found = row("convolutional", dilated=False)
    assert product(found.layer) == {"K": 1, "n": 1, "d": 2}
    assert product(found.path) == {"n": 1, "K": -1}


@pytest.mark.parametrize("name", SPECS)
def test_rows_are_the_same_with_other_sizes(name: str) -> None:
    sizes = {"d": 24, "heads": 4, "depth": 4, "r": 5, "K": 2}
    own = dict(explain(name).sizes)
    assert row(name, **{k: v for k, v in sizes.items() if k in own}) == row(name)


def test_projections_are_told_apart() -> None:
    assert str(row("self_attention").whole) == "O(n² · d + n · d²)"
    assert str(row("restricted_self_attention").whole) == "O(r · n · d + n · d²)"
    assert row("recurrent").whole == row("recurrent").layer


def layers(fields: str, sizes: str = "d: 8, w: 4") -> str:
    return (
        f"tower: one\nsizes: {{{sizes}}}\ninputs:\n  x: float[b, n, d]\n"
        f"blocks:\n  look(x):\n    query: x\n    key: x\n    value: x\n    {fields}\noutputs: look(look(x))\n"
    )


def test_costs_are_those_of_visible_pairs() -> None:
    """A window of w sees 2 w - 1 keys, also where the chosen kernel computes more: blocks with the keys around them."""
    (layer, *_) = explain(layers("locality: window(w)")).layers
    assert str(layer.mixing) == "16 * b * min(7, n) * n"
    explained = explain(layers("locality: window(w)"), {"b": 1, "n": 3})
    assert explained.number(explained.layers[0].mixing) == 16 * 3 * 3  # never more than all pairs
    assert explained.number(explained.attentions[0].facts.work.pairs) == 16 * 3 * 3
    explained = explain(layers("locality: window(w)"), {"b": 1, "n": 100})
    assert explained.number(explained.layers[0].mixing) == 16 * 100 * 7
    assert explained.number(explained.attentions[0].facts.work.pairs) == 16 * 100 * (16 + 64 + 16)


def test_costs_are_those_of_the_chosen_kernel() -> None:
    """A kernel says how many pairs it computes: one for each query, where a query sees one key."""
    explained = explain(layers("locality: i == j"), {"b": 1, "n": 100})
    facts = explained.attentions[0].facts
    assert facts.kernel == "diagonal"
    assert explained.number(facts.work.pairs) == 16 * 100
    assert explained.number(explained.work.all) == 2 * 16 * 100
    assert explained.number(explained.layers[0].mixing) == 16 * 100


@pytest.mark.parametrize(
    ("condition", "pairs"),
    [
        ("window(w)", "7 * n"),
        ("abs(i - j) <= w", "9 * n"),
        ("causal_window(w)", "4 * n"),
        ("i - j < w and j - i <= 1", "5 * n"),
        ("dilated(w, 3)", "7 * n"),
        ("blocks(w)", "4 * n"),
        ("global_tokens(2) or window(w)", "11 * n"),
        ("i == j", "n"),
        ("causal", "n ** 2"),
    ],
)
def test_pairs_of_a_condition(condition: str, pairs: str) -> None:
    explained = explain(layers(f"locality: {condition}"), {"b": 1})
    mixing = explained.at(on_long_axes(explained.layers[0].mixing))
    assert str(mixing / 16) == pairs  # 8 features, for the score and for the sum


def test_what_is_no_product_is_unknown() -> None:
    spec = layers("heads: 1", "d: 8, f: 4").replace("value: x", "value: linear(x, d + f)")
    found = row(spec.replace("look(look(x))", "look(x)"))
    assert found.layer.unknown == "a cost is no product of powers of the sizes"


def test_sizes_made_of_others_are_no_symbols() -> None:
    spec = (
        layers("heads: 1", "d: 8, w: 2 * d")
        .replace("value: x", "value: linear(x, w)")
        .replace("look(look(x))", "look(x)")
    )
    found = row(spec)
    assert {name for term in found.layer.terms for name, _ in term} <= {"n", "d"}


def test_unknown_paths_are_said_so() -> None:
    found = row(layers("locality: blocks(w)"))
    assert found.path.unknown == "windows side by side"
    assert str(found.path) == "unknown"
    assert found.to_data()["path"] is None


def test_an_axis_each() -> None:
    """An encoder and a decoder are two rows."""
    rows = complexity("transformer", {"d": 16, "heads": 2, "depth": 2})
    assert {r.axis for r in rows} == {"m", "n"}
    assert [texts[0] for texts in published_form(rows)[1:]] == [f"transformer, {r.axis}" for r in rows]


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "recurrent", "self_attention", "--table"]) == 0
    out = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in out.splitlines()[2:]] == ["recurrent", "self attention"]
    assert cli.main(["explain", "recurrent", "--table", "--json"]) == 0
    (data,) = json.loads(capsys.readouterr().out)
    assert data["steps"] == "O(n)" and data["towards"] == "later" and data["unknown"] == {}
    assert cli.main(["explain", "recurrent", "self_attention"]) == 1
    assert "add --table" in capsys.readouterr().err


def test_a_mistake_is_a_diagnostic() -> None:
    with pytest.raises(TowerError, match="there is no"):
        complexity("no_such_spec")


def test_the_page_is_current() -> None:
    """docs/complexity.md has the table that the specs give. TOWERDSL_UPDATE_GOLDENS=1 writes it."""
    rows = [row(name) for name in SPECS]
    written = table(published_form(rows))
    page = PAGE.read_text(encoding="utf-8")
    begin, end = "<!-- table -->\n", "<!-- end -->\n"
    before, rest = page.split(begin)
    current, after = rest.split(end)
    if os.environ.get("TOWERDSL_UPDATE_GOLDENS"):
        PAGE.write_text(before + begin + written + end + after, encoding="utf-8")
    else:
        assert current == written
