"""Every kernel at every length: none, one, and fewer than any window or block has."""

import pytest
import torch

from towerdsl.compiler import compile_spec

from . import compare
from .test_specs import draw_inputs

HEAD = """
tower: lengths
sizes: {{d: 4, w: 3}}
inputs:
  x: float[b, n, d]
  z: float[b, m, d]
  grid: float[b, h, w2, d]
  keep: bool[b, n]
  f: float[n]
  edges: relation[n, n]
blocks:
  look(x, z, grid, keep, f, edges):
    params: {{tau: "float[2]"}}
    query: linear({query}, d)
    key: linear({key}, d)
    value: linear({key}, d)
    heads: 2
    {fields}
outputs: look(x, z, grid, keep, f, edges)
"""


def spec(*fields: str, query: str = "x", key: str = "x") -> str:
    return HEAD.format(query=query, key=key, fields="\n    ".join(fields))


def over_grid(*fields: str) -> str:
    return spec("over: [h, w2]", *fields, query="grid", key="grid")


NORMALIZE = ["softmax", "sum", "count", "sigmoid", "none", "sparsemax", "topk(k=2)", "hard", "hard(score_function)"]
ATTENTIONS = {
    **{f"{name} of all": spec(f"normalize: {name}", query="z") for name in ("softmax", "count", "sparsemax", "hard")},
    **{f"{name} of some of them": spec(f"normalize: {name}", "mask: keep[j]", query="z") for name in NORMALIZE},
    **{f"{name} of related": spec("locality: edges[j, i]", f"normalize: {name}") for name in ("softmax", "count")},
    **{f"{name} of one weight": spec("score: tau[head]", f"normalize: {name}") for name in ("softmax", "count", "sum")},
    "a count of earlier ones": spec("score: dot(q, k) + f[i]", "normalize: count", "mask: j <= i"),
    "a grid": over_grid(),
    "rows": over_grid("locality: i.h == j.h"),
    "windows": over_grid("locality: (i.h + 1) // 2 == (j.h + 1) // 2 and i.w2 // 3 == j.w2 // 3"),
    "bands of a grid": over_grid("locality: abs(i.h - j.h) < 2 and abs(i.w2 - j.w2) < 2"),
    "itself": spec("locality: i == j"),
    "a band": spec("locality: abs(i - j) < w", "mask: keep[j]"),
    "a union": spec("locality: abs(i - j) < w or j < 1"),
    "a bias": spec("score: dot(q, k) + f[i - j]", "mask: j >= n - 2"),
}
#: Bands that are further away than there are positions.
FAR = {
    "behind": spec("locality: 512 <= i - j < 1024", "mask: keep[j]"),
    "ahead": spec("locality: 512 <= j - i < 1024", "score: dot(q, k) + f[i] * f[j]"),
    "at once": spec("locality: 512 <= i - j < 1024", "mask: keep[j]", "normalize: sigmoid"),
    "beside the first": spec("locality: 512 <= j - i < 1024 or j < 2", "mask: keep[j]"),
    "of a grid": over_grid("locality: 20 <= j.h - i.h < 40 and -50 <= i.w2 - j.w2 < -20"),
}

#: The batch, the grid, the other axis and the positions, in the order of their names.
LENGTHS = [(2, 0, 3, 0, 4), (2, 3, 0, 7, 0), (0, 3, 3, 5, 4), (1, 0, 0, 0, 0), (2, 1, 1, 1, 1), (1, 2, 3, 2, 1)]


@pytest.mark.parametrize("name", ATTENTIONS)
def test_of_few(name):
    agree(ATTENTIONS[name], LENGTHS)


@pytest.mark.parametrize("name", FAR)
def test_a_band_that_is_far_away(name):
    agree(FAR[name], [(2, 5, 1, 100, 7), (1, 25, 1, 520, 30), (1, 0, 0, 0, 0)])


def agree(text: str, all_lengths: list[tuple[int, ...]]) -> None:
    """Values and gradients of every kernel are those of the reference, where nothing is seen they are zeros."""
    draw = torch.Generator().manual_seed(0)
    reference = compare.build(text, "reference")
    params = compare.draw_params(reference, draw)
    given = [draw_inputs(compile_spec(text), lengths, draw) for lengths in all_lengths]
    expected = [compare.run(reference, params, inputs) for inputs in given]
    for found in expected:
        compare.compare("reference", found, found)
    for kernel, model in compare.others(text):
        for lengths, inputs, wanted in zip(all_lengths, given, expected, strict=True):
            compare.compare(f"{kernel}, {lengths}", compare.run(model, params, inputs), wanted)
