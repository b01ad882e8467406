"""The smallest specs whose source did not run, each with others of its kind."""

import pytest

from .running import runs

WIDTHS = """
tower: widths
sizes: {c: 4}
inputs: {x: "float[b, n, c]", z: "float[b, n, c]"}
blocks:
  pad(x[b, n, c], size, to):
    - concat(x, zeros([b, size + to, c]), zeros([b, size, c]), axis=n)
  other(x[b, n, c], win):
    - concat(x, zeros([b, 2 * win + 1, c]), zeros([b, 2 * win, c]), axis=n)
  layer(x, size, win):
    - linear(other(pad(x, size, win), win), c)
"""
DEFAULTS = """
tower: defaults
sizes: {d: 8, deep: true, rate: 0.5}
"""
FOUND = {
    "parts of two factors that are computed alike": """
tower: t
sizes: {dh: 4}
inputs: {x: "float[n, dh]", z: "float[n, dh]"}
outputs: dot(rope(x, range(n), dh), rope(z, range(n), dh))
""",
    "and of three": """
tower: t
sizes: {dh: 4}
inputs: {x: "float[b, n, dh]", z: "float[n, dh]"}
flow:
  - a = dot(rope(x, range(n), dh), rope(z, range(n), dh))
outputs: a * dot(rope(x, range(n), dh), rope(x, range(n), dh)) + dot(rope_pairs(z, range(n), dh), x)
""",
    "computed sizes in blocks side by side": WIDTHS
    + """
flow:
  - a = layer(x, 7, 4)
  - c2 = layer(z, 5, 3)
outputs: [a, c2]
""",
    "computed sizes in blocks of blocks": WIDTHS
    + """
  twice(x, size_2, size_3, size):
    - layer(layer(x, size_2, size_3), size, size_3) * size_2
outputs: {a: "twice(x, 1, 2, 3)", e: "twice(z, 2, 3, 5)"}
""",
    "a float default beside ids": DEFAULTS
    + """
inputs: {ids: "int[b, n]", s: "float[d] = 1.0"}
outputs: embed(ids, 9, d) * s
""",
    "defaults of all kinds and nothing else": DEFAULTS
    + """
inputs: {s: "float[d] = 2 * rate", t: "float[d] = -rate / 3", keep: "bool[d] = deep", ids: "int[d] = 3"}
outputs: {a: "s * 2 + t", c: "where(keep, ids, 0)"}
""",
    "defaults in an attention without weights": DEFAULTS
    + """
inputs: {ids: "int[b, n]", w: "float[d] = 1.0", s: "float[b, n, d] = 0.0", keep: "bool[b, n] = true"}
blocks:
  look(s, w, keep):
    query: s
    key: s + w
    value: s
    mask: keep[j]
outputs: look(s, w, keep)
""",
    "a length that only a condition tells": DEFAULTS
    + """
inputs: {x: "float[n, d]", seen: "bool[m, n]"}
blocks:
  look(x, seen):
    query: x
    key: x
    value: x
    mask: seen[0, j]
    output: dot(y, zeros([m, d]))
outputs: look(x, seen)
""",
}


@pytest.mark.parametrize("name", FOUND)
def test_runs(name):
    runs(FOUND[name], traced=True)
