"""The smallest specs whose source did not run, each with others of its kind."""

import pytest
import torch

import towerdsl
from towerdsl.compiler import compile_spec

from .running import inputs, runs

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
    "a variable of turns that a later loop assigns anew": """
tower: t
sizes: {d: 4}
inputs: {x: "float[b, n, d]"}
flow:
  - for l in 3:
      - h = zeros([b, d])
      - for t along n:
          - h = tanh(linear(x[n=t], d) + h)
          - left = h + t
      - for k in 2:
          - left = x * 2
      - x = 2 * x
outputs: x
""",
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


ATTENTION = """
tower: lengths
sizes: {{d: 4}}
inputs: {{x: "float[b, n, d]", keep: "bool[b, n] = true"}}
blocks:
  look(x, keep):
    query: x
    key: x
    value: x
    {fields}
outputs: look(x, keep)
"""
OF_LENGTHS = {
    "a condition of a length": ("mask: n == 2",),
    "of two, with heads": ("mask: n == 2 or n > b", "heads: 2"),
    "beside data": ("mask: n > 4 and keep[j]", "heads: 2"),
    "beside data, with a bias": ("mask: n > 2 and keep[j]", "score: dot(q, k) + i"),
    "with every normalizer": ("mask: n != 3", "normalize: sparsemax"),
    "with another": ("mask: n != 3", "normalize: topk(k=2)"),
    "counted": ("mask: n == 2", "score: exp(dot(q, k))", "normalize: count"),
    "of a score of lengths": ("mask: keep[j] and n > 1", "score: 1 if n == 2 else 0", "normalize: sum"),
    "of a message": ("mask: n == 2", "score: 0", "message: v if n == 2 else -v"),
    "of windows": ("mask: n == 2 or abs(i - j) < 2",),
    "two alike": ("mask: (n > 3) == (n < 9)",),
    "and with positions": ("mask: (n > 3) != (i <= j)", "heads: 2"),
    "and with data": ("mask: keep[j] == (n > 2)",),
}


@pytest.mark.parametrize("name", OF_LENGTHS)
def test_conditions_of_lengths_run(name):
    runs(ATTENTION.format(fields="\n    ".join(OF_LENGTHS[name])), lengths=(2, 1, 4))


VALUES = """
tower: values
inputs: {{x: "float[b, n]", ids: "int[b, n]", keep: "bool[b, n] = true"}}
outputs:
{outputs}
"""
NUMBERS = """where((n > 3) == (n < 9), x, -x) | where((n > 3) != (b > 2), x, 1) | (n > 3) == keep
not ((n > 3) == keep) | keep // (b + 1)
(n > 2) <= (b > 2) | x - (n > 2) | keep - (n > 2) | x - keep | -keep | keep + keep | keep * (n > 2) | keep / keep
abs(keep) | relu(keep) | clip(keep, 0, 1) | max(keep, n > 2) | min(keep, x > 0) | mean(keep) | mean(ids) | n | n > 2
n / 2 | x * (n > 3) ** 2 | x if (n > 3) == (b > 2) else -x"""


def test_truth_values_and_lengths_are_numbers_where_numbers_are_read():
    values = [value.strip() for line in NUMBERS.split("\n") for value in line.split("|")]
    outputs = "\n".join(f'  out{k}: "{value}"' for k, value in enumerate(values))
    runs(VALUES.format(outputs=outputs), traced=True)


PAIRS = """
tower: pairs
sizes: {{d: 4, f: 3}}
inputs: {{x: "float[b, h=3, w=2, d]", z: "float[b, n, d]", edge: "float[b, n, n, f]", edges: "relation[n, n]"}}
blocks:
  net(x):
    - linear(relu(linear(x, 5)), 1)
  near(a, c):
    - -sum(abs(outer(a - c)))
  bias(r):
    - sum(embed(r, 9, 1))
  look(x, edge, edges):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    {fields}
outputs: look({given}, edge, edges)
"""
CALLS = {
    "of data of each pair": ("score: dot(q, k) + sum(net(edge[i, j]))",),
    "of vectors of each pair": ("score: sum(net(q + k))", "message: v * sum(net(v + q))", "heads: 2"),
    "of both vectors": ("score: near(q, k)", "normalize: count"),
    "of distances": ("score: dot(q, k) + bias(clip(i - j, -4, 4) + 4)",),
    "in a window": ("score: sum(net(q + k))", "locality: abs(i - j) < 2"),
    "at edges": ("score: sum(net(q - k))", "mask: edges[j, i]", "normalize: sum"),
    "in blocks": ("score: sum(net(q + k))", "over: [h, w]", "locality: i.h // 2 == j.h // 2"),
    "in a condition": ("mask: sum(net(q + k)) > 0",),
    "of edges in messages of heads": ("message: tanh(v + linear(edge[i, j], dv))", "heads: 2"),
}


@pytest.mark.parametrize("name", CALLS)
def test_blocks_are_called_on_pairs(name):
    grid = any("[h, w]" in field for field in CALLS[name])
    runs(PAIRS.format(fields="\n    ".join(CALLS[name]), given="x" if grid else "z"), lengths=(3, 1))


def test_a_block_that_is_called_on_pairs_gives_what_its_formula_gives():
    written = PAIRS.format(fields="score: -sum(abs(q - k))", given="z")
    called = PAIRS.format(fields="score: near(q, k)", given="z")
    models = [towerdsl.compile(spec)().eval() for spec in (written, called)]
    models[1].load_state_dict(models[0].state_dict())
    given = inputs(compile_spec(written), {"b": 2, "n": 5}, {"x"})
    given = {name: x.float() if x.is_floating_point() else x for name, x in given.items()}
    x = torch.zeros(2, 3, 2, 4)
    torch.testing.assert_close(*(model(x=x, **given) for model in models))


TWICE = """
tower: twice
sizes: {d: 4}
inputs:
  x: float[b, n, n]
  e: float[n, n, d]
  z: float[b, 3, 3]
  u: float[3]
  w: float[d, d]
  z2: float[m, d]
outputs:
"""
TWO_OF_ONE_NAME = """sum(x) | x + x | relu(x) * 2 | softmax(x) | linear(e, 5) + 1 | layernorm(e) | dot(e, w)
dot(e, z2) | dot(x, x) | sum(z) | mean(mean(z)) | z + u | z * z | dot(z, u) | softmax(z)
amax(linear(z, 3)) | where(z > 0, z, u) | cumsum(z) | argmax(z) | z * sum(z) | sum(rearrange(z, "b p q -> b q p"))"""


def test_axes_of_one_name_and_of_none_are_told_apart():
    values = [value.strip() for line in TWO_OF_ONE_NAME.split("\n") for value in line.split("|")]
    spec = TWICE + "\n".join(f"  out{k}: '{value}'" for k, value in enumerate(values))
    runs(spec, lengths=(3, 1))
    given = inputs(compile_spec(spec), {"b": 2, "n": 3, "m": 4}, set())
    found = dict(zip(values, towerdsl.compile(spec)().double()(**given), strict=True))
    x, e, z, u, w, z2 = given.values()
    expected = {
        "sum(x)": x.sum(-1),
        "dot(e, w)": e @ w.T,
        "dot(e, z2)": e @ z2.T,
        "mean(mean(z))": z.mean((1, 2)),
        "z + u": z + u,
        "dot(z, u)": z @ u,
    }
    for value, wanted in expected.items():
        torch.testing.assert_close(found[value], wanted)


@pytest.mark.parametrize("value", ["dot(e, y)", "sum(x, n)", "x * y", "x[n=0]", "softmax(x, axis=n)", "look(x)"])
def test_one_of_two_axes_of_one_name_is_not_guessed(value):
    spec = """
tower: guessed
sizes: {d: 4}
inputs: {x: "float[n, n]", e: "float[n, n, d]", y: "float[n, d]"}
blocks: {look(x): {query: x, key: x, value: x}}
outputs: VALUE
"""
    spec = spec.replace("y:", "z:").replace("VALUE", value.replace("y", "z"))
    with pytest.raises(towerdsl.TowerError, match=r"stands twice|the name of 2 axes"):
        compile_spec(spec)


def test_a_list_is_not_indexed_by_a_tensor():
    spec = """
tower: listed
sizes: {d: 4, long: [1.0, 2.5]}
define: {rate: "1 / long[range(d) % 2]"}
inputs: {x: "float[n, d]"}
outputs: x * rate
"""
    with pytest.raises(towerdsl.TowerError, match=r"must be known when compiling(.|\n)*it is int\[d=4\]"):
        compile_spec(spec)
    runs(spec.replace("long[range(d) % 2]", "where(range(d) % 2 == 0, long[0], long[1])"), lengths=(2,))
