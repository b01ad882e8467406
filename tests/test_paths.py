"""What `explain` says of paths, against the graph of which position really reads which.

Each layer of a random stack is compiled alone, and the Jacobian of its result says what it reads. The shortest paths
through these graphs, one layer after another, are what the formulas must give: exactly, or as a bound from above.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product
from typing import Any

import networkx as nx
import pytest
import torch

import towerdsl
from towerdsl.explain import Along, explain

BLOCKS = """
  look(x, low, high):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    locality: low <= i - j and i - j <= high
  window_of(x, w):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    locality: window(w)
  before(x, w):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    locality: causal_window(w)
  apart(x, w, r):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    locality: dilated(w, r)
  each(x, s):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    locality: strided(s)
  hubs(x, g, w):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    locality: global_tokens(g) or window(w)
  sinks(x, g, w):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    locality: j < g or window(w)
  side_by_side(x, w):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    locality: blocks(w)
  all(x):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
  causally(x):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    locality: causal
  strictly(x):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    locality: j < i
  centered(x[b, n, d], size, apart):
    - c = conv(rearrange(x, "b n d -> b d n"), d, size, padding=size // 2 * apart, dilation=apart)
    - rearrange(c, "b d n -> b n d")
  earlier(x[b, n, d], size, apart):
    - c[b, d, n] = conv(rearrange(x, "b n d -> b d n"), d, size, padding=(size - 1) * apart, dilation=apart)[n=:n]
    - rearrange(c, "b d n -> b n d")
  padded(x[b, n, d], size, apart):
    - c = concat(zeros([b, (size - 1) * apart, d]), x, axis=n)
    - c = conv(rearrange(c, "b n d -> b d n"), d, size, dilation=apart)
    - rearrange(c, "b d n -> b n d")
  later(x):
    - flip(gru(flip(x, n), d), n)
  in_turn(x):
    - h = zeros([b, d])
    - for t along n:
        - h = tanh(linear(x[n=t], d) + linear(h, d))
        - y = h
    - return y
  scaled(x):
    - x * sigmoid(linear(x, d))
  gated(x):
    - x * sigmoid(linear(mean(x, n), d))
"""
SERIAL = ("gru", "lstm", "later", "in_turn")
LAYERS = {
    "look": ("low", "high"),
    "window_of": ("w",),
    "before": ("w",),
    "apart": ("w", "r"),
    "each": ("s",),
    "hubs": ("g", "w"),
    "sinks": ("g", "w"),
    "side_by_side": ("w",),
    "all": (),
    "causally": (),
    "strictly": (),
    "centered": ("odd", "apart"),
    "earlier": ("size", "apart"),
    "padded": ("size", "apart"),
    "gru": (),
    "lstm": (),
    "later": (),
    "in_turn": (),
    "scaled": (),
    "gated": (),
}
RANGES = {
    "low": (-3, 0, 1),
    "high": (0, 1, 2),
    "w": (1, 2, 3, 4),
    "r": (1, 2, 3),
    "s": (1, 2, 3, 4),
    "g": (1, 2),
    "odd": (1, 3, 5),
    "size": (1, 2, 3),
    "apart": (1, 2, 3, 4, 9),
}


@dataclass(frozen=True)
class Layer:
    name: str
    arguments: tuple[int, ...] = ()
    residual: bool = False

    @property
    def call(self) -> str:
        if self.name in ("gru", "lstm"):
            text = f"{self.name}(x, d)"
        else:
            text = f"{self.name}({', '.join(['x', *map(str, self.arguments)])})"
        return f"x + {text}" if self.residual else text


def spec(layers: list[Layer], style: str = "flow") -> str:
    """The stack as a spec: statements of the flow, of a loop, or of a block in a block."""
    head = f"tower: stack\nsizes: {{d: 3}}\ninputs:\n  x: float[b, n, d]\nblocks:{BLOCKS}"
    if style == "flow":
        return head + "flow:\n" + "".join(f"  - x = {x.call}\n" for x in layers) + "outputs: x\n"
    body = "".join(f"    - x = {x.call}\n" for x in layers)
    head += f"  whole(x):\n{body}    - return x\n  every(x):\n    - whole(x)\n"
    if style == "block":
        return head + "outputs: every(x)\n"
    choices = "".join(f"      - if l == {k}:\n          - x = {x.call}\n" for k, x in enumerate(layers))
    return head + f"flow:\n  - for l in {len(layers)}:\n{choices}outputs: x\n"


READS: dict[tuple[Layer, int], torch.Tensor] = {}


def reads(layer: Layer, n: int) -> torch.Tensor:
    """Which j each i of one layer reads: where the Jacobian is not zero for some weights and inputs."""
    if (layer, n) not in READS:
        model = towerdsl.compile(spec([layer]))().double()
        found = torch.zeros(n, n, dtype=torch.bool)
        for seed in range(2):
            torch.manual_seed(seed)
            for p in model.parameters():
                torch.nn.init.normal_(p)
            x = torch.randn(1, n, 3, dtype=torch.float64)
            jacobian = torch.autograd.functional.jacobian(model, x)
            found |= (jacobian[0, :, :, 0] != 0).any(1).any(-1)
        READS[layer, n] = found
    return READS[layer, n]


def longest(layers: list[Layer], n: int) -> dict[tuple[int, int], int]:
    """The number of moves from each j to each i that it gets to, on the shortest way through the layers."""
    graph = nx.DiGraph()
    graph.add_nodes_from((0, j) for j in range(n))
    for depth, layer in enumerate(layers):
        seen = reads(layer, n)
        for i, j in product(range(n), repeat=2):
            if seen[i, j]:
                moves = abs(i - j) if layer.name in SERIAL else int(i != j)
                graph.add_edge((depth, j), (depth + 1, i), weight=moves)
    ways = dict(nx.all_pairs_dijkstra_path_length(graph))
    end = len(layers)
    return {(j, i): ways[0, j][end, i] for i, j in product(range(n), repeat=2) if (end, i) in ways[0, j]}


def check(layers: list[Layer], lengths: tuple[int, ...], style: str = "flow") -> Along | None:
    """The path of a stack is what the graph says, or unknown. Returns what was found along n."""
    found = [a for a in explain(spec(layers, style)).stacks if a.axis == "n"]
    if not found:
        assert not any(longest(layers, lengths[-1]).values())
        return None
    (along,) = found
    path = along.path
    for n in lengths if path.kind != "unknown" else ():
        moves = path.moves(n)
        ways = longest(layers, n)
        later = {(j, i) for i, j in product(range(n), repeat=2) if j < i}
        earlier = {(i, j) for j, i in later}
        wanted = {"both": later | earlier, "later": later, "earlier": earlier}[path.towards]
        if path.kind == "none" or path.towards != "both":
            assert not any(pair in ways for pair in (later | earlier) - (set() if path.kind == "none" else wanted))
        if path.kind == "none" or moves is None:
            if path.exact and path.covers is not None:
                assert wanted - set(ways), "all positions are connected, though the layers are said to reach less"
            continue
        assert wanted <= set(ways), f"not connected at n={n}: {sorted(wanted - set(ways))}"
        most = max((ways[pair] for pair in wanted), default=0)
        assert most <= moves, (n, most, path)
        if path.exact:
            assert most == moves, (n, most, path)
    return along


def draw(rng: random.Random) -> tuple[list[Layer], str]:
    names = list(LAYERS)

    def layer() -> Layer:
        name = rng.choice(names)
        arguments = tuple(rng.choice(RANGES[a]) for a in LAYERS[name])
        if name == "padded":
            arguments = (max(arguments[0], 2), arguments[1])  # there are no axes of length 0
        if name == "look" and arguments[0] > arguments[1]:
            arguments = arguments[::-1]
        return Layer(name, arguments, rng.random() < 0.5)

    kind = rng.random()
    depth = rng.randint(1, 5)
    if kind < 0.5:  # one layer, many times
        layers = [layer()] * depth
    elif kind < 0.6:  # ever further apart
        name, base = rng.choice(["earlier", "padded", "centered"]), rng.choice([2, 3])
        size = 3 if name == "centered" else base
        layers = [Layer(name, (size, base**k), rng.random() < 0.5) for k in range(min(depth, 4))]
    else:
        layers = [layer() for _ in range(min(depth, 3))]
    return layers, rng.choice(["flow", "loop", "block"])


@pytest.mark.parametrize("seed", range(30))
def test_paths_of_random_stacks(seed: int) -> None:
    layers, style = draw(random.Random(seed))
    check(layers, (2, 4, 7), style)


def test_most_random_stacks_are_known() -> None:
    """What cannot be told may not be most of what there is."""
    known = 0
    for seed in range(30):
        layers, style = draw(random.Random(seed))
        found = explain(spec(layers, style)).stacks
        known += all(a.path.kind != "unknown" for a in found if a.axis == "n")
    assert known >= 18, known


WAYS: list[tuple[list[Layer], str, str]] = [
    ([Layer("all")] * 3, "1", "both"),
    ([Layer("causally")] * 3, "1", "later"),
    ([Layer("strictly")], "1", "later"),
    ([Layer("window_of", (3,))] * 4, "ceil((n - 1) / 2)", "both"),
    ([Layer("window_of", (2,))] * 4, "n - 1", "both"),
    ([Layer("before", (4,))] * 4, "ceil((n - 1) / 3)", "later"),
    ([Layer("look", (-3, 1))] * 4, "n - 1", "both"),
    ([Layer("look", (0, 2), True)] * 4, "ceil((n - 1) / 2)", "later"),
    ([Layer("centered", (5, 1))] * 4, "ceil((n - 1) / 2)", "both"),
    ([Layer("earlier", (3, 1))] * 4, "ceil((n - 1) / 2)", "later"),
    ([Layer("padded", (3, 1))] * 4, "ceil((n - 1) / 2)", "later"),
    ([Layer("earlier", (3, 3**k)) for k in range(3)], "ceil(log(n, 3))", "later"),
    ([Layer("padded", (2, 2**k), True) for k in range(4)], "ceil(log(n, 2))", "later"),
    ([Layer("hubs", (1, 2))] * 2, "2", "both"),
    ([Layer("each", (3,)), Layer("window_of", (3,))], "2", "both"),
    ([Layer("gru")] * 2, "n - 1", "later"),
    ([Layer("in_turn")], "n - 1", "later"),
    ([Layer("later")], "n - 1", "earlier"),
    ([Layer("gru"), Layer("later")], "n - 1", "both"),
    ([Layer("window_of", (2,)), Layer("all")], "1", "both"),
    ([Layer("side_by_side", (3,)), Layer("all", residual=True)], "1", "both"),
    ([Layer("gated", residual=True)], "1", "both"),
]


@pytest.mark.parametrize(
    ("layers", "formula", "towards"), WAYS, ids=[f"{w[0][0].name}-{k}" for k, w in enumerate(WAYS)]
)
def test_paths_that_are_known(layers: list[Layer], formula: str, towards: str) -> None:
    from towerdsl.explain.facts import path_formula

    along = check(layers, (2, 4, 9))
    assert along is not None
    assert (path_formula(along), along.path.towards) == (formula, towards)


UNKNOWN: list[tuple[list[Layer], str]] = [
    ([Layer("side_by_side", (3,))] * 2, "windows side by side"),
    ([Layer("apart", (2, 3))] * 3, "positions 3rd apart"),
    ([Layer("each", (2,))] * 3, "some positions are connected only"),
    ([Layer("centered", (3, 3**k)) for k in range(3)], ""),
]


def test_the_edges_of_symmetric_dilation() -> None:
    """Positions -1 to 1, -3 to 3 and -9 to 9 apart do not reach position 2 from 0: the way leads through -1."""
    layers = [Layer("centered", (3, 3**k)) for k in range(3)]
    assert (0, 2) not in longest(layers, 9)
    along = check(layers, (9,))
    assert along is not None and along.path.kind == "unknown"


def _jacobian_of(text: str, n: int, **inputs: Any) -> torch.Tensor:
    torch.manual_seed(0)
    model = towerdsl.compile(text)().double()
    x = torch.randn(1, n, 3, dtype=torch.float64)
    found = torch.autograd.functional.jacobian(lambda x: model(x, **inputs), x)
    return (found[0, :, :, 0] != 0).any(1).any(-1)


@pytest.mark.parametrize("seed", range(10))
def test_the_graph_is_that_of_the_whole_model(seed: int) -> None:
    """The layers one by one read what the stack reads: what the tests above rest on."""
    layers, style = draw(random.Random(1000 + seed))
    ways = longest(layers, 6)
    whole = _jacobian_of(spec(layers, style), 6)
    # a residual and a layer may cancel nowhere, but a weight of exactly 1 hides a query
    assert {(j, i) for i, j in product(range(6), repeat=2) if whole[i, j]} <= set(ways)


MEMORY = """
tower: remembering
sizes: {d: 3}
inputs: {x: "float[b, n, d]", memory: "float[b, m, d]"}
blocks:
  look(x, memory):
    let:
      - all = concat(memory, x, axis=n)
    query: x
    key: all
    value: all
    locality: LOCALITY
outputs: look(x, memory)
"""


@pytest.mark.parametrize(("locality", "towards"), [("j <= i + m", "later"), ("true", "both")])
def test_keys_that_a_memory_precedes(locality: str, towards: str) -> None:
    """The positions of a sequence, behind a memory of any length, are seen as far as the condition says."""
    text = MEMORY.replace("LOCALITY", locality)
    (along,) = [a for a in explain(text).stacks if a.axis == "n"]
    assert (along.path.kind, along.path.number, along.path.towards) == ("constant", 1, towards)
    seen = _jacobian_of(text, 5, memory=torch.randn(1, 4, 3, dtype=torch.float64))
    assert seen.tolist() == [[j <= i or locality == "true" for j in range(5)] for i in range(5)]
