"""A drawn attention, evaluated: its formulas are so close to Python that Python reads them, one i and j at a time.

Nothing here comes from towerdsl. The average itself is that of the loop oracle.
"""

import importlib.util
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

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


def evaluate(a: Drawn, params: dict[str, Tensor], inputs: dict[str, Tensor]) -> tuple[list[str], Tensor]:
    """The result [batch..., positions..., features], and the names of its first axes."""
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

    rows = []
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
                found.append(loops.average(scores, messages, normalize, 0.0 * message))
            rows.append(loops.merged(found, a.fields.get("merge", "concat")))
    first = (*a.batch, *a.positions)
    y = torch.stack(rows).unflatten(0, [a.lengths[x] for x in first]) if first else rows[0]
    return list(first), y


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
    raw = SimpleNamespace(**{name: x.values for name, x in entry.items() if isinstance(x, Table)})
    names = dict(entry) | {"q": q, "k": k, "v": v, "i": i, "j": j, "head": head, "true": True, "false": False}
    names |= {name: getattr(raw, name) for name in ("vec", "mat", "wq", "wk") if hasattr(raw, name)}
    one = k if k is not None else q
    dk = names["dk"] = len(one) if one is not None else 0
    names["dv"] = len(v)
    names |= {a.over[0]: a.lengths[a.over[0]]}
    if q is not None and k is not None and len(q) == len(k):
        names |= {
            "scaled_dot": torch.dot(q, k) / math.sqrt(dk),
            "cosine": torch.dot(loops.unit(q), loops.unit(k)),
            "gaussian": lambda sigma: -(q - k).pow(2).sum() / (2 * sigma**2),
            "additive": lambda w: torch.dot(w, torch.tanh(q + k)),
            "bilinear": lambda m: q @ m @ k,
            "concat_score": lambda wq, wk: torch.relu(torch.dot(wq, q) + torch.dot(wk, k)),
        }
    return names | {
        "causal": j <= i,
        "window": lambda w: abs(i - j) < w,
        "causal_window": lambda w: 0 <= i - j < w,
        "dilated": lambda w, r: abs(i - j) < w * r and (i - j) % r == 0,
        "strided": lambda s: (i - j) % s == 0,
        "blocks": lambda w: i // w == j // w,
        "global_tokens": lambda g: i < g or j < g,
        "same": lambda x: x[i] == x[j],
        "relative": lambda table, reach: table[head, loops.clip(i - j, -reach, reach) + reach],
        "alibi": lambda heads: -abs(i - j) * 2 ** (-8 * (head + 1) / heads),
        **FUNCTIONS,
    }


def formula(text: str, names: dict[str, object]):
    return eval(text, {}, names)


def tensor(x) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(float(x), dtype=torch.float64)


def each(function):
    return lambda x, *more: function(tensor(x), *more)


FUNCTIONS = {
    "dot": lambda a, b: (a * b).sum(),
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(),
    "amax": lambda x: x.amax(),
    "abs": abs,
    "exp": each(torch.exp),
    "sqrt": each(torch.sqrt),
    "cos": each(torch.cos),
    "tanh": each(torch.tanh),
    "relu": each(torch.relu),
    "softplus": each(F.softplus),
    "leaky_relu": each(F.leaky_relu),
    "max": lambda a, b: torch.maximum(tensor(a), tensor(b)),
    "clip": lambda x, low, high: x.clamp(low, high) if isinstance(x, Tensor) else min(max(x, low), high),
    "where": lambda c, a, b: a if c else b,
    "rope": lambda x, p, size: loops.rope(x, p),
    "rope_pairs": lambda x, p, size: loops.rope_pairs(x, p),
}
