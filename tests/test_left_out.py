"""A condition that is left out: the code without it computes what the code with it does where it holds everywhere."""

import re

import pytest
import torch

import towerdsl

SPEC = """
tower: sample
sizes: {{d: 4, heads: 2}}
inputs: {{x: "float[b, h=3, w=5, d]", keep: "bool[b, h, w] = true"}}
blocks:
  look(x[b, h, w, d], keep):
    query: x
    key: x
    value: x
    over: {over}
    {fields}
    mask: "{mask}"
outputs: look(x, keep)
"""
CONDITIONS = ["true", "j <= i", "window(2)", "i == j", "i % 2 == j % 2 and j < i + 2"]
FIELDS = {
    "plain": "heads: heads",
    "one head": "score: dot(q, k)",
    "bias": "score: dot(q, k) - abs(i - j)",
    "pairs": "score: -abs(i - j)",
    "sum": "score: exp(dot(q, k))\n    normalize: sum",
    "constant": "score: 1",
    "message": "message: v * (i + j)",
    "sigmoid": "heads: heads\n    normalize: sigmoid",
}


def blocks(over, keep, condition, fields):
    """The attention of a spec whose condition may be left out, and of one that says the same and must be there."""
    for mask in (f"{keep} and {condition}", f"({keep} or j < 0) and {condition}"):
        torch.manual_seed(0)
        yield towerdsl.compile(SPEC.format(over=over, fields=fields, mask=mask))().double().look


def results(block, x, keep):
    x = x.clone().requires_grad_()
    y = block(x, keep)
    y.square().sum().backward()
    return y.detach(), x.grad


@pytest.mark.parametrize("over", ["w", "[h, w]", "h"])
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("fields", FIELDS)
def test_none_is_what_holds_everywhere(fields, condition, over):
    keep = "keep[j.h, j.w]" if over == "[h, w]" else "keep[j]"
    open_, strict = blocks(over, keep, condition, FIELDS[fields])
    torch.manual_seed(1)
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    some = torch.rand(2, 3, 5) < 0.6
    for given, same in ((some, some), (some | True, some | True), (None, some | True)):
        for a, b in zip(results(open_, x, given), results(strict, x, same), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


CAUSAL = """
tower: sample
sizes: {d: 4}
inputs: {x: "float[b, n, d]", keep: "bool[b, n] = true", more: "bool[b, n] = true"}
blocks:
  look(x, keep, more):
    query: x
    key: x
    value: x
    mask: MASK
outputs: look(x, keep, more)
"""


def causal_source(mask):
    return towerdsl.source(CAUSAL.replace("MASK", mask))


def test_what_is_left_is_causal():
    source = causal_source("keep[j] and causal")
    assert "attn_mask=mask, is_causal=keep is None" in source
    assert re.search(r"if keep is not None:\n +mask = self\.visible\(n, q\.device\) & keep", source)


def test_one_condition_is_left_out_at_a_time():
    source = causal_source("keep[j] and more[i] and causal")
    assert re.search(r"def forward\(self, x: Tensor, keep: Tensor \| None, more: Tensor\)", source)
    assert "is_causal=keep" not in source  # `more` is there still


def test_a_condition_that_is_read_twice_is_needed():
    source = causal_source("keep[j] and keep[i] and causal")
    assert re.search(r"def forward\(self, x: Tensor, keep: Tensor, more", source)
