"""`towerdsl diff`: what differs between two specs is shown, and nothing else is.

`TOWERDSL_UPDATE_GOLDENS=1 pytest tests/test_diff.py` writes the golden tables anew: read them.
"""

import json
import os
from pathlib import Path

import pytest

import towerdsl
from towerdsl import cli

HERE = Path(__file__).parent
GOLDENS = HERE / "goldens"
SPEC = """
tower: sample
sizes: {d: 8, heads: 2, far: 3}
define: {near(r): "abs(i - j) < r"}
inputs:
  x: float[b, n, d]
  keep: bool[b, n]
  memory: float[b, m, d]
blocks:
  look(x, y_in, keep):
    params: {table: "float[heads, 9]"}
    query: linear(x, d)
    key: linear(y_in, d)
    value: linear(y_in, d)
    heads: heads
    score: dot(q, k) / sqrt(dk) + table[head, clip(i - j, -4, 4) + 4]
    locality: causal
    mask: keep[j]
    normalize: softmax
    output: linear(y, d)
outputs: look(x, x, keep)
"""


def changed(*changes: tuple[str, str]) -> str:
    text = SPEC
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def differences(*changes: tuple[str, str]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    found = towerdsl.diff(SPEC, changed(*changes))
    assert len(found.pairs) == 1 and not found.alone
    return {d.field: (d.first, d.second) for d in found.pairs[0].differences}


@pytest.mark.parametrize(
    "changes",
    [
        (("locality: causal", "locality: j <= i"),),
        (("locality: causal", "locality: not (i < j)"), ("mask: keep[j]", "mask: keep[j] and j <= i")),
        (("table", "bias"),),
        (("keep", "seen"), ("memory", "other"), ("look", "attend")),
        (("[b, n", "[batch, words"),),
        (("d: 8", "d: 16"), ("heads: 2", "heads: 4")),
        (("dot(q, k) / sqrt(dk) + table", "dot(q, k) * dk ** -0.5 + table"),),
        (("y_in", "z"),),
    ],
)
def test_names_and_ways_to_write_do_not_count(changes):
    assert not differences(*changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((("locality: causal\n", "locality: near(far)\n"),), {"locality, mask": (("j <= i",), ("abs(i - j) < 3",))}),
        ((("    mask: keep[j]\n", ""),), {"locality, mask": (("keep[j]",), ())}),
        (
            (("    locality: causal\n", ""), ("    mask: keep[j]\n", "")),
            {"locality, mask": (("j <= i", "keep[j]"), ("everything",))},
        ),
        (
            ((" + table[head, clip(i - j, -4, 4) + 4]", ""), ('    params: {table: "float[heads, 9]"}\n', "")),
            {"score": (("+ table[clip(i - j, -4, 4) + 4]",), ())},
        ),
        ((("dot(q, k) / sqrt(dk)", "dot(q, k)"),), {"score": (("dot(q, k) / sqrt(dk)",), ("dot(q, k)",))}),
        ((("normalize: softmax", "normalize: sigmoid"),), {"normalize": (("softmax",), ("sigmoid",))}),
        (
            (("look(x, x, keep)", "look(x, tanh(x), keep)"),),
            {"key": (("linear(x)",), ("linear(memory)",)), "value": (("linear(x)",), ("linear(memory)",))},
        ),
        (
            (
                ("heads: heads\n", "heads: {query: 2, key: 1}\n"),
                ("key: linear(y_in, d)", "key: linear(y_in, d // 2)"),
                ("value: linear(y_in, d)", "value: linear(y_in, d // 2)"),
            ),
            {"heads": (("several",), ("several, 2 on each head of the key",))},
        ),
        ((("normalize: softmax", "dropout: 0.5"),), {"dropout": (("none",), ("0.5",))}),
        (
            (("normalize: softmax", "merge: mean"), ("output: linear(y, d)", "output: y")),
            {"merge": (("concat",), ("mean",)), "output": (("linear(y)",), ("y",))},
        ),
        ((("normalize: softmax", "message: 2 * v"),), {"message": (("v",), ("2 * v",))}),
    ],
)
def test_one_field(changes, expected):
    assert differences(*changes) == expected


def test_attentions_are_paired_by_what_they_have_in_common():
    first, second = GOLDENS / "diff_first.yaml", GOLDENS / "diff_second.yaml"
    found = towerdsl.diff(first, second)
    assert [(p.first, p.second) for p in found.pairs] == [("look", "attend"), ("read", "pool")]
    assert [(p.second, p.first) for p in towerdsl.diff(second, first).pairs] == [("look", "attend"), ("read", "pool")]
    assert towerdsl.diff(first, first).same


def test_layers_that_are_the_same_count_as_one():
    found = towerdsl.diff("bert", "bert", depth=3)
    assert found.same and "the same in every field" in str(found)
    assert found.pairs[0].first == "layer.*.attention × 3"


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("diff", GOLDENS / "diff_first.yaml", GOLDENS / "diff_second.yaml"),
        ("diff_bert_gpt", "bert", "gpt"),
    ],
)
def test_the_table(name, first, second):
    file = GOLDENS / f"{name}.txt"
    shown = str(towerdsl.diff(first, second))
    assert len(shown.splitlines()) < 30
    if os.environ.get("TOWERDSL_UPDATE_GOLDENS"):
        file.write_text(shown, encoding="utf-8")
    assert shown == file.read_text(encoding="utf-8")


def test_vit_and_the_last_stage_of_swin_differ_in_a_bias():
    """Its image is one window; the attentions in windows, shifted and not, are like none of vit."""
    diff = towerdsl.diff("vit", "swin")
    found = {d.field: d for d in diff.pairs[0].differences}
    assert set(found) == {"over", "for each", "score"}
    assert found["score"].first == () and "table" in found["score"].second[0]
    assert len(diff.alone) == 2


def test_the_command_line(capsys):
    assert cli.main(["diff", "bert", "gpt", "--set", "depth=2"]) == 0
    assert "j <= i" in capsys.readouterr().out
    assert cli.main(["diff", "bert", "gpt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["names"] == ["bert", "gpt"] and not found["same"]
    assert found["pairs"][0]["differences"] == [{"field": "locality, mask", "first": [], "second": ["j <= i"]}]
    assert cli.main(["diff", "bert", "gptt"]) == 1
    assert "no spec `gptt`" in capsys.readouterr().err
    assert cli.main(["diff", "bert", "gpt", "--set", "dept=2"]) == 1
    assert "did you mean `depth`" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        cli.main(["diff", "bert"])
    assert stopped.value.code == 2
