"""Why a kernel refuses is the true reason: what is said is what the decision was made of."""

import pytest

from towerdsl.compiler import compile_spec

SPEC = """
tower: refused
sizes: {{d: 8, heads: 2}}
inputs:
  x: float[b, n, d]
  z: float[b, m, d]
  grid: float[b, h, w, d]
  doc: int[b, n]
  edges: relation[n, n]
blocks:
  look({first}, z, doc, edges):
    query: linear(x, d)
    key: linear({keys}, d)
    value: linear({keys}, d)
    heads: heads
    {fields}
outputs: look({given}, z, doc, edges)
"""


def refusals(*fields, keys="x", first="x", given="x"):
    text = SPEC.format(fields="\n    ".join(fields), keys=keys, first=first, given=given)
    (plan,) = compile_spec(text).plans.values()
    return dict(plan.refused)


LONGER = "the axes of i and j have different lengths, n and 2 * n"
CASES = {
    "longer keys, a window": ("locality: abs(i - j) < 4", {"banded": LONGER}, {"keys": "concat(x, x, axis=n)"}),
    "longer keys, their own": (
        "locality: i == j",
        {"diagonal": LONGER, "partition": LONGER, "banded": LONGER},
        {"keys": "concat(x, x, axis=n)"},
    ),
    "longer keys, windows": ("locality: i // 4 == j // 4", {"partition": LONGER}, {"keys": "concat(x, x, axis=n)"}),
    "two axes": (
        "locality: abs(i - j) < 4",
        dict.fromkeys(("banded", "partition", "diagonal"), "i and j are positions of different axes, n and m"),
        {"keys": "z"},
    ),
    "the next": ("locality: j == i + 1", {"diagonal": "the key is not the one at the query's own position"}),
    "residues": ("locality: i % 4 == j % 4", {"partition": "the positions of a class do not stand side by side"}),
    "other residues": ("locality: (i - j) % 4 == 1", {"partition": "positions do not fall into classes"}),
    "documents": ("mask: doc[i] == doc[j]", {"partition": "data decides which positions see each other"}),
    "a graph": ("mask: edges[j, i]", {"partition": "data decides which positions see each other"}),
    "wide classes": (
        "locality: i // (n // 2) == j // (n // 2)",
        {"partition": "how wide the classes of positions are is known at run time"},
    ),
    "a wide window": ("locality: abs(i - j) < n // 2", {"banded": "depends on a length that is known at run time"}),
    "what algebra does not read": (
        "locality: (i - j) ** 2 < 16",
        {
            "banded": "no distance i - j is known to be bounded",
            "partition": "no classes that see only themselves are known",
            "merged": "the condition is no union that is known",
        },
    ),
    "one side": ("locality: j <= i", {"banded": "0 <= i.n - j.n bounds no distance on both sides"}),
    "a union that looks back": (
        "locality: j <= i or j < 2",
        {"merged": "not about the first few keys or queries, and 0 <= i.n - j.n bounds no distance on both sides"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_reason_is_true(name):
    field, reasons, *where = CASES[name]
    found = refusals(field, **(where[0] if where else {}))
    for kernel, reason in reasons.items():
        assert reason in found[kernel], kernel


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ("j.h <= i.h", "0 <= i.h - j.h is causal along one of several axes"),
        ("abs(i.w - j.w) < 2 and j.h <= i.h", "-1 <= i.w - j.w <= 1 hides single pairs"),
    ],
)
def test_a_sum_that_looks_back_has_one_axis(mask, reason):
    fields = ("over: [h, w]", "normalize: none", "score: dot(q, k)", f"mask: {mask}")
    assert reason in refusals(*fields, first="x[b, h, w, d]", given="grid")["factored"]


def test_longer_keys_are_no_causal_sum():
    found = refusals("normalize: none", "score: dot(q, k)", "mask: j <= i", keys="concat(x, x, axis=n)")
    assert LONGER in found["factored"]


def test_heads_that_are_mixed_are_no_tensor_that_is_read():
    mixed = 'rearrange(mix(rearrange(dot(q, k), "b head i j -> b i j head")), "b i j head -> b head i j")'
    found = refusals("modules: {mix: linear(heads)}", f"score: '{mixed}'", "locality: abs(i - j) < 3")
    assert "takes all pairs together" in found["banded"]
