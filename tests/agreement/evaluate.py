"""A drawn attention, evaluated: its formulas are so close to Python that Python reads them, one i and j at a time.

Nothing here comes from towerdsl. The average itself is that of the loop oracle.
"""

import importlib.util
import itertools
import math
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from . import compare
from .drawing import NORMALIZERS, Drawn

_path = Path(__file__).parents[1] / "oracle" / "loops.py"
_spec = importlib.util.spec_from_file_location("agreement_loops", _path)
loops = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(loops)


class Position(int):
    """A row-major index, and its parts."""

    parts: dict[str, int]

    def __getattr__(self, name):
        return self.parts[name]


class Table:
    """A tensor of one batch entry; an index outside reads the nearest entry."""

    def __init__(self, values: Tensor):
        self.values = values

    def __getitem__(self, items):
        items = items if isinstance(items, tuple) else (items,)
        flat = [x for i in items for x in (i.parts.values() if isinstance(i, Position) else (int(i),))]
        flat = [min(max(x, 0), n - 1) for x, n in zip(flat, self.values.shape, strict=False)]
        found = self.values[tuple(flat)]
        return found if found.is_floating_point() else found.item()


def evaluate(a: Drawn, params: dict[str, Tensor], inputs: dict[str, Tensor]) -> tuple[list[str], Tensor, Tensor]:
    """The names of [batch..., positions...], the result [batch..., positions..., features], and the log of the
    probability of the largest score [batch..., positions..., head]."""
    tables = params | inputs
    sources = {}
    for name, source in a.sources.items():
        others = [x for x in (*a.batch, *a.positions, *a.over) if x in source.axes and x not in source.features]
        others = list(dict.fromkeys(others))
        order = [source.axes.index(x) for x in (*others, *source.features)]
        value = tables[source.tensor].permute(order).flatten(len(others))
        if source.linear:
            value = F.linear(value, params[f"{name}.weight"], params.get(f"{name}.bias"))
        sources[name] = others, value

    def vector(name: str, at: dict[str, int], head: int) -> Tensor | None:
        if name not in sources:
            return None
        others, value = sources[name]
        heads = (a.heads if name == "query" else a.key_heads or a.heads) or 1
        return loops.part(value[tuple(at[x] for x in others)], head // ((a.heads or 1) // heads), heads)

    rows, chosen = [], []
    for b in places(a, a.batch):
        entry = of_entry(a, tables, b)
        for i in places(a, a.positions):
            found = []
            for head in range(a.heads or 1):
                scores, messages = [], []
                q = vector("query", b | i, head)
                for j in places(a, a.over):
                    k, v = vector("key", b | j, head), vector("value", b | j, head)
                    names = environment(a, entry, q, k, v, position(a, i), position(a, j), head)
                    message = formula(a.fields.get("message", "v"), names)
                    if all(formula(a.fields[x], names) for x in ("mask", "locality") if x in a.fields):
                        plain = "scaled_dot" if q is not None and k is not None else "0"
                        scores.append(formula(a.fields.get("score", plain), names))
                        messages.append(message)
                normalize = NORMALIZERS[a.fields["normalize"]]
                found.append(loops.average(scores, messages, normalize, torch.zeros_like(message)))
                chosen.append(log_probability(scores))
            rows.append(loops.merged(found, a.fields.get("merge", "concat")))
    first = (*a.batch, *a.positions)
    lengths = [a.lengths[x] for x in first]
    y = torch.stack(rows).unflatten(0, lengths) if first else rows[0]
    return list(first), y, torch.stack(chosen).unflatten(0, [*lengths, a.heads or 1])


def log_probability(scores: list[Tensor]) -> Tensor:
    """The log of the probability of the choice of the largest score; 0 where there is none."""
    if not scores:
        return torch.zeros((), dtype=torch.float64)
    soft = loops.softmax([tensor(f) for f in scores])
    return soft[loops.best([tensor(f) for f in scores])].log()


def looped(a: Drawn, results, params: compare.Named, inputs: compare.Named) -> compare.Named:
    """Values and gradients by loops, with their axes in the order of a compiled model's `results`."""
    params, inputs = compare.leaves(params), compare.leaves(inputs)
    inner: compare.Named = {
        name: torch.zeros(shape, dtype=torch.float64) for name, shape in a.shapes.items()
    }  # those that nothing reads
    inner |= {name.removeprefix("look."): p for name, p in params.items()}
    first, y, chance = evaluate(a, inner, inputs)
    output = a.fields.get("output", "y")
    if "linear" in output:
        y = F.linear(y, inner["output.weight"], inner["output.bias"])
    elif output not in ("y", "[y, log_prob]"):
        y = y.tanh() if "tanh" in output else 2 * y
    axes = results[0].axes
    features = [x.name for x in axes if x.name not in first]
    if len(features) > 1:
        order = a.sources["value"].features
        y = y.unflatten(-1, [a.lengths[x] for x in order])
        y = y.permute(*range(len(first)), *(len(first) + order.index(x) for x in features))
    rest = iter(range(len(first), y.ndim))
    y = y.permute([first.index(x.name) if x.name in first else next(rest) for x in axes])
    if len(results) == 1:
        return compare.gradients((y,), params, inputs)
    order = [*first, "head"]
    dims = [order.index(x.name) for x in results[1].axes]
    chance = chance.permute(*dims, *(n for n in range(chance.ndim) if n not in dims))
    return compare.gradients((y, chance.reshape(chance.shape[: len(dims)])), params, inputs)


def places(a: Drawn, axes) -> list[dict[str, int]]:
    """Every combination of indices, in row-major order."""
    return [dict(zip(axes, x, strict=True)) for x in itertools.product(*(range(a.lengths[y]) for y in axes))]


def position(a: Drawn, parts: dict[str, int]) -> Position:
    flat = 0
    for name, index in parts.items():
        flat = flat * a.lengths[name] + index
    found = Position(flat)
    found.parts = parts
    return found


def of_entry(a: Drawn, tables: dict[str, Tensor], b: dict[str, int]) -> dict[str, object]:
    """Parameters, and the inputs without their batch axes."""
    found: dict[str, object] = {name: Table(x) for name, x in tables.items() if name not in a.inputs}
    for name, (dtype, axes) in a.inputs.items():
        if dtype == "relation":
            found[name] = Relation({tuple(pair) for pair in tables[name].T.tolist()})
        else:
            found[name] = Table(tables[name][tuple(b.get(x, slice(None)) for x in axes)])
    return found


class Relation:
    def __init__(self, pairs):
        self.pairs = pairs

    def __getitem__(self, pair):
        return tuple(map(int, pair)) in self.pairs


def environment(a: Drawn, entry, q, k, v, i, j, head) -> dict[str, object]:
    """What names stand for in a formula."""
    names = dict(entry) | {"q": q, "k": k, "v": v, "i": i, "j": j, "head": head, "true": True, "false": False}
    names |= {x: names[x].values for x in ("vec", "mat", "wq", "wk") if x in names}
    one = k if k is not None else q
    return names | {"dk": len(one) if one is not None else 0, "dv": len(v)} | {x: a.lengths[x] for x in a.over}


def formula(text: str, names: dict[str, object]):
    code = read(text)
    for name in code.co_names:
        if name in DEFINED:
            names[name] = DEFINED[name](SimpleNamespace(**names))
    return eval(code, FUNCTIONS, names)


@cache
def read(text: str):
    return compile(text, text, "eval")


#: Definitions of the standard library, each of what stands in the place where it is used.
DEFINED = {
    "scaled_dot": lambda n: torch.dot(n.q, n.k) / math.sqrt(n.dk),
    "cosine": lambda n: torch.dot(loops.unit(n.q), loops.unit(n.k)),
    "gaussian": lambda n: lambda sigma: -(n.q - n.k).pow(2).sum() / (2 * sigma**2),
    "additive": lambda n: lambda w: torch.dot(w, torch.tanh(n.q + n.k)),
    "bilinear": lambda n: lambda m: n.q @ m @ n.k,
    "concat_score": lambda n: lambda wq, wk: torch.relu(torch.dot(wq, n.q) + torch.dot(wk, n.k)),
    "causal": lambda n: n.j <= n.i,
    "window": lambda n: lambda w: abs(n.i - n.j) < w,
    "causal_window": lambda n: lambda w: 0 <= n.i - n.j < w,
    "dilated": lambda n: lambda w, r: abs(n.i - n.j) < w * r and (n.i - n.j) % r == 0,
    "strided": lambda n: lambda s: (n.i - n.j) % s == 0,
    "blocks": lambda n: lambda w: n.i // w == n.j // w,
    "global_tokens": lambda n: lambda g: n.i < g or n.j < g,
    "same": lambda n: lambda x: x[n.i] == x[n.j],
    "relative": lambda n: lambda table, reach: table[n.head, loops.clip(n.i - n.j, -reach, reach) + reach],
    "bucketed": lambda n: lambda table, *of: table[n.head, loops.bucket(n.j - n.i, *of)],
    "bucketed_causal": lambda n: lambda table, *of: table[n.head, loops.bucket_causal(n.j - n.i, *of)],
    "alibi": lambda n: lambda heads: -abs(n.i - n.j) * 2 ** (-8 * (n.head + 1) / heads),
}


def tensor(x) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(float(x), dtype=torch.float64)


def each(function):
    return lambda x, *more: function(tensor(x), *more)


def of_two(numbers, tensors):
    """A function of whole numbers, that they may index with, and of tensors."""

    def function(a, b):
        whole = isinstance(a, int) and isinstance(b, int)
        return int(numbers(a, b)) if whole else tensors(tensor(a), tensor(b))

    return function


FUNCTIONS = {
    "dot": lambda a, b: (a * b).sum(),
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(),
    "amax": lambda x: x.amax(),
    "abs": abs,
    "exp": each(torch.exp),
    "log": each(torch.log),
    "sqrt": each(torch.sqrt),
    "cos": each(torch.cos),
    "tanh": each(torch.tanh),
    "relu": each(torch.relu),
    "softplus": each(F.softplus),
    "leaky_relu": each(F.leaky_relu),
    "max": of_two(max, torch.maximum),
    "clip": lambda x, low, high: x.clamp(low, high) if isinstance(x, Tensor) else min(max(x, low), high),
    "where": lambda c, a, b: a if c else b,
    "rope": lambda x, p, size: loops.rope(x, p),
    "rope_pairs": lambda x, p, size: loops.rope_pairs(x, p),
    "unit": loops.unit,
    "shifted_blocks": lambda a, b, w, s: (a + s) // w == (b + s) // w,
}
