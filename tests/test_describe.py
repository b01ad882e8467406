"""Docstrings of emitted classes: they say what was chosen."""

import re

import pytest

import towerdsl

SPEC = """
tower: sample
sizes: {{d: 8, w: 3, causal: false, deep: 2, kind: "one_of('one', 'other')", p: 0.0}}
define:
  sees(keep): keep[j] and (not causal or j <= i)
  act(x): gelu(x)
  gate(x): x * sigmoid(x)
inputs: {{x: "float[b, n, d]", keep: "bool[b, n] = true"}}
blocks:
{blocks}
flow:
{flow}
outputs: x
"""
LOOK = """
  look(x, keep):
    query: x
    key: x
    value: x
    {field}
"""


def described(blocks, flow, **sizes):
    """The docstrings of the classes, by name, without the first line and the lines on shapes."""
    source = towerdsl.source(SPEC.format(blocks=blocks, flow=flow), **sizes)
    found = re.findall(r'class (\w+)\(nn.Module\):\n    """.*?\n\n(.*?)\n\n', source, re.S)
    return {name: [line.strip() for line in text.split("\n")] for name, text in found}


def look(field, **sizes):
    return described(LOOK.format(field=field), "  - x = look(x, keep)", **sizes)["Look"]


def test_conditions_are_those_that_were_chosen():
    assert look("mask: sees(keep)")[2:] == ["j is visible to i where keep[j]"]
    assert look("mask: sees(keep)", causal=True)[2:] == ["j is visible to i where keep[j] and j <= i"]
    assert look("mask: causal or keep[j]", causal=True)[2:] == []
    assert look("mask: not causal")[2:] == []


def test_two_conditions_are_joined():
    found = look('{locality: "i < 2 or j < 2", mask: "keep[j]"}'.strip("{}").replace(", mask", "\n    mask"))
    assert found[2] == "j is visible to i where (i < 2 or j < 2) and keep[j]"


def test_a_score_is_the_one_that_was_chosen():
    field = "score: scaled_dot if kind == 'one' else dot(unit(q), unit(k)) - w * abs(i - j)"
    assert look(field)[1] == "w[i, j] = softmax over j of dot(q[i], k[j]) / sqrt(dk)"
    assert look(field, kind="other")[1:] == [
        "w[i, j] = softmax over j of dot(unit(q[i]), unit(k[j])) - w * abs(i - j)",
        "with w = 3",
    ]


def test_a_definition_that_reads_positions_is_put_in():
    assert look("locality: window(w)")[2:] == ["j is visible to i where abs(i - j) < w", "with w = 3"]
    rotary = "score: dot(rope(q, i, dk), rope(k, j, dk))"
    assert look(rotary)[1] == "w[i, j] = softmax over j of dot(rope(q[i], i, dk), rope(k[j], j, dk))"


@pytest.mark.parametrize(
    ("normalize", "lines"),
    [
        ("none", ["w[i, j] = exp(dot(q[i], k[j]))"]),
        ("sum", ["f[i, j] = exp(dot(q[i], k[j]))", "w[i, j] = f / sum of f"]),
        ("count", ["w[i, j] = exp(dot(q[i], k[j])) / number of visible j"]),
        ("sigmoid", ["w[i, j] = 1 / (1 + exp(-exp(dot(q[i], k[j]))))"]),
    ],
)
def test_a_normalizer_is_its_formula(normalize, lines):
    assert look(f"score: exp(dot(q, k))\n    normalize: {normalize}")[1:] == lines


def test_without_a_query_there_is_no_i():
    block = "  pool(x, keep):\n    value: x\n    mask: keep[j]"
    found = described(block, "  - x = x + pool(x, keep)")["Pool"]
    assert found == ["y = sum over j of w[j] * v[j]", "w[j] = softmax over j of 0", "j is visible where keep[j]"]


STEP = """
  step(x, first):
    - if kind == 'one':
        - x = act(linear(x, d, name=up))
      else:
        - x = tanh(x)
    - y = dropout(x, p)
    - for l in deep:
        - y = linear(y if first else gate(y), d)
    - return y
"""


def test_statements_are_those_that_run():
    found = described(STEP, "  - x = step(x, true)")["Step"]
    lines = ["x = gelu(linear(x, d, name=up))", "y = x", "for l in deep:", "y = linear(y, d)", "return y"]
    assert found == lines
    assert described(STEP, "  - x = step(x, false)", kind="other", p=0.5)["Step"][:3] == [
        "x = tanh(x)",
        "y = dropout(x, p)",
        "for l in deep:",
    ]


def test_a_call_is_not_written_twice():
    block = "  step(x):\n    - gate(linear(x, d)) + gate(x)"
    assert described(block, "  - x = step(x)")["Step"] == ["gate(linear(x, d)) + gate(x)"]
    block = "  step(x):\n    - gate(x)"
    assert described(block, "  - x = step(x)")["Step"] == ["x * sigmoid(x)"]


def test_a_choice_that_goes_both_ways_stays():
    block = """
  step(x):
    - for l in deep:
        - if l % 2 == 0:
            - x = relu(x)
          else:
            - x = tanh(x)
    - return x
"""
    lines = ["for l in deep:", "if l % 2 == 0:", "x = relu(x)", "else:", "x = tanh(x)", "return x"]
    assert described(block, "  - x = step(x)")["Step"] == lines


def test_instances_of_one_class_show_what_they_have_in_common():
    block = """
  step(x, first, by):
    - c = by if first else by + 1
    - x + c
  look(x, keep, far):
    value: x
    query: x
    key: x
    mask: abs(i - j) < far or not causal and i - j < w
"""
    flow = """
  - x = step(x, {0}, 4)
  - x = step(x, {1}, 7)
  - x = look(x, keep, 2)
  - x = look(x, keep, {2})
"""
    unlike = described(block, flow.format("true", "false", 5), causal=True)
    assert unlike["Step"] == ["c = by if first else by + 1", "x + c"]
    assert unlike["Look"][2:] == ["j is visible to i where abs(i - j) < far"]
    alike = described(block, flow.format("true", "true", 2))
    assert alike["Step"] == ["c = by", "x + c"]
    assert alike["Look"][2:] == ["j is visible to i where abs(i - j) < far or i - j < w", "with far = 2, w = 3"]
