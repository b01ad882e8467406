"""Kernels in blocks against the reference: where axes stand, what wraps, and what is finite stays so in the padding."""

import pytest
import torch

from towerdsl.compiler import compile_spec

from . import compare
from .test_specs import draw_inputs

LINE = """
tower: blocks
sizes: {{d: 4, heads: 2, w: 3}}
inputs:
  x: float[b, n, d]
  f: float[b, n]
  g: float[n]
  far: float[b, n, heads]
  keep: bool[b, n]
  word: int[b, n]
blocks:
  look(x, f, g, far, keep, word):
    params: {{table: "float[heads, 12]", turned: "float[12, heads]", vectors: "float[12, dk]", tau: "float[heads]"}}
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    heads: heads
    {fields}
outputs: look(x, exp(f), exp(g), far, keep, word)
"""


def agree(text: str, lengths: dict[str, int]) -> None:
    """Values and gradients of every kernel, and of the model as it is planned, are those of the reference."""
    draw = torch.Generator().manual_seed(0)
    reference = compare.build(text, "reference")
    params = compare.draw_params(reference, draw)
    inputs = draw_inputs(compile_spec(text), tuple(lengths[name] for name in sorted(lengths)), draw)
    expected = compare.run(reference, params, inputs)
    compare.compare("reference", expected, expected)
    for kernel, model in compare.others(text):
        compare.compare(kernel, compare.run(model, params, inputs), expected)


#: One for each way to make blocks.
LOCALITIES = [
    ["locality: i // 4 == j // 4"],
    ["locality: (i + 1) // 3 == (j + 1) // 3", "mask: keep[j]"],
    ["locality: abs(i - j) < w"],
    ["locality: 0 <= i - j < w", "normalize: sigmoid"],
    ["locality: abs(i - j) < w or j < 1"],
]


def pairs_of(formulas: list[str]) -> list[tuple[str, list[str]]]:
    """Each formula with two of the localities, all of them in turn."""
    turns = [(k + more) % len(LOCALITIES) for k in range(len(formulas)) for more in (0, 2)]
    return [(formula, LOCALITIES[turns.pop(0)]) for formula in formulas for _ in range(2)]


#: Scores of a position of both sides, a head, and data of either side.
SCORES = [
    "table[head, i + j]",
    "table[head, max(i, j)]",
    "table[head, word[i] * word[j] + i]",
    "turned[i * j, head] * f[i]",
    "(1 + head) * i * j / 9",
    "f[i] * g[j] * tau[head]",
    "far[j, head] * far[i, head]",
    "where(keep[j], table[head, i + j], tau[head] * i)",
    "(f[j] + table[head, i + j]) * g[i]",
    "dot(q, vectors[i + j])",
]


@pytest.mark.parametrize(("score", "locality"), pairs_of(SCORES))
def test_axes_of_blocks_and_heads(score, locality):
    fields = [f"score: dot(q, k) + {score}", *locality]
    agree(LINE.format(fields="\n    ".join(fields)), {"b": 2, "n": 7})


#: Formulas that are finite for every pair, and need not be for what stands in the padding, or at places further apart.
FINITE = [
    "score: dot(q, k) / (f[i] * f[j])",
    "score: -sqrt(sum(f[i] * (q - k) ** 2) + f[j])",
    "score: dot(q, k) + tau[head] * log(f[i] + f[j])",
    "score: dot(q, k) * rsqrt(f[i] * g[j])",
    "score: dot(q, k) + tau[head] / (i + j + 1)",
    "score: dot(q, k) + tau[head] / (n + i - j)",
    "score: dot(q, k) + tau[head] * log(n - i + j)",
    "score: dot(q, k) * 1000.0 ** (i - j)",
    "score: dot(q, k) + table[head, 40 // (n - i + j)]",
    "message: v / f[j]",
]


@pytest.mark.parametrize(("formula", "locality"), pairs_of(FINITE))
def test_padding_is_as_harmless_as_data(formula, locality):
    for n in (2, 7):
        agree(LINE.format(fields="\n    ".join([formula, *locality])), {"b": 2, "n": n})


GRID = """
tower: blocks
sizes: {{d: 4}}
inputs:
  x: float[b, {axes}, d]
blocks:
  look(x):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    heads: 2
    over: {over}
    locality: {locality}
outputs: look(x)
"""


def window(axis: str, shift: int) -> str:
    return f"(i.{axis} + {shift}) // 3 == (j.{axis} + {shift}) // 3"


#: Which axes have a length that windows divide: blocks along those wrap around, blocks along the others do not.
WRAPPING = {
    "the first": ("h = 6, w", [window("h", 1), window("w", 1)]),
    "the last": ("h, w = 6", [window("h", 2), window("w", 1)]),
    "one of known lengths": ("h = 7, w = 6", [window("h", 1), window("w", 2)]),
    "both": ("h = 9, w = 6", [window("h", 1), window("w", 2)]),
    "one beside windows that begin at 0": ("h = 6, w", [window("h", 1), window("w", 0)]),
    "one beside rows": ("h = 6, w", [window("h", 1), "i.w == j.w"]),
    "one beside a band": ("h = 6, w", [window("h", 1), "abs(i.w - j.w) < 2"]),
    "two of three": ("t, h = 6, w = 3", [window("t", 1), window("h", 2), window("w", 1)]),
}


@pytest.mark.parametrize("name", WRAPPING)
def test_blocks_wrap_along_each_axis_by_itself(name):
    axes, parts = WRAPPING[name]
    over = f"[{', '.join(a.split()[0] for a in axes.split(', '))}]"
    text = GRID.format(axes=axes, over=over, locality=" and ".join(parts))
    free = {x for x in ("b", "h", "w", "t") if f"{x}," in f"b, {axes},".replace(" =", "=")}
    for length in (7, 6, 4):
        agree(text, dict.fromkeys(free, length) | {"b": 2})


CHOSEN = """
tower: blocks
sizes: {{d: 4}}
inputs:
  x: float[b, {axes}, d]
blocks:
  look(x):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    over: [{axes}]
    {heads}
    locality: {locality}
    normalize: hard(score_function)
    output: [y, log_prob]
flow:
  - y, log_prob = look(x)
outputs: [y, log_prob]
"""

#: Axes, and conditions along them that make blocks.
ALONG = [
    ("n", "i // 3 == j // 3"),
    ("n", "abs(i - j) < 2"),
    ("h, w", "(i.h + 1) // 2 == (j.h + 1) // 2 and i.w // 3 == j.w // 3"),
    ("t, h, w", "i.h == j.h and i.t == j.t"),
    ("h, w", "abs(i.w - j.w) < 2"),
]


@pytest.mark.parametrize("heads", ["heads: 2", ""], ids=["heads", "no heads"])
@pytest.mark.parametrize(("axes", "locality"), ALONG)
def test_the_probability_of_a_choice_is_one_of_each_query(axes, locality, heads):
    lengths = dict(zip(axes.split(", "), (3, 5, 4), strict=False)) | {"b": 2}
    agree(CHOSEN.format(axes=axes, heads=heads, locality=locality), lengths)
