"""Random attentions: the text of a spec, and what an evaluator needs to know of it.

Sources may be self, cross, learned, without positions or absent; axes stand in any order; scores, conditions and
messages come from small grammars: see `formulas` and `families`. Every spec that is drawn is a legal one.
"""

import random
import re
from dataclasses import dataclass, field
from itertools import permutations
from math import prod

#: What is drawn for `normalize:`, and its name in the loop oracle: without noise, in evaluation.
NORMALIZERS = {
    **{name: name for name in ("softmax", "sum", "count", "sigmoid", "none", "sparsemax", "hard")},
    "hard(straight_through)": "straight_through",
    "hard(gumbel, temperature=0.5)": ("straight_through", 0.5),
    "hard(score_function)": "hard",
    **{f"topk(k={k})": ("topk", k) for k in (1, 2, 3)},
}


class Choices:
    """Which of some options is taken, by chance; the first `fixed` choices are given, and with no seed the others are
    the first option. `taken` are all of them, so that the same can be drawn again, or something smaller."""

    def __init__(self, seed: int | None, fixed: list[int] | tuple[int, ...] = ()):
        self.random = None if seed is None else random.Random(seed)
        self.fixed, self.taken = fixed, []

    def __call__(self, count: int) -> int:
        if len(self.taken) < len(self.fixed):
            found = min(self.fixed[len(self.taken)], count - 1)
        else:
            found = self.random.randrange(count) if self.random else 0
        self.taken.append(found)
        return found


@dataclass
class Source:
    """Where the query, key or value comes from. `axes` are as declared, `features` in the order of the field."""

    tensor: str
    axes: tuple[str, ...]
    features: tuple[str, ...]
    linear: str | None = None  # the size of a projection
    param: bool = False

    def code(self, bias: bool) -> str:
        if self.linear is None:
            return self.tensor
        return f"linear({self.tensor}, {self.linear}{'' if bias else ', bias=false'})"


@dataclass(repr=False)
class Drawn:
    """A random attention, called `look`, alone in its model."""

    choose: Choices
    lengths: dict[str, int] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)
    batch: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    heads: int | None = None
    key_heads: int | None = None
    inputs: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    #: inputs that may be left out; they are then full of their default
    defaults: dict[str, bool | int] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    params: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    text: str = ""

    def __repr__(self) -> str:
        return self.text + (f"# without {', '.join(sorted(self.left_out))}" if self.left_out else "")

    # --- drawing ----------------------------------------------------------------------------------------------

    def one(self, *options):
        return options[self.choose(len(options))]

    def number(self, low: int, high: int) -> int:
        return low + self.choose(high - low + 1)

    def chance(self) -> bool:
        return self.one(False, True)

    def shuffled(self, axes):
        return self.one(*permutations(axes)) if len(axes) > 1 else tuple(axes)

    def part(self, axes):
        """Some of the axes, in order; all is the simplest."""
        return tuple(a for a in axes if not self.one(False, False, True))

    def inserted(self, extra, axes):
        """`axes` in their order, `extra` anywhere between them."""
        found = list(axes)
        for a in extra:
            found.insert(self.number(0, len(found)), a)
        return tuple(found)

    # --- tensors ----------------------------------------------------------------------------------------------

    def data(self, name: str, dtype: str, axes) -> str:
        """An input with `axes` to index, and some of the batch axes."""
        if name not in self.inputs:
            self.inputs[name] = (dtype, self.inserted(self.part(self.batch), axes))
            if dtype in ("bool", "int") and self.chance():
                self.defaults[name] = True if dtype == "bool" else 0
                if self.chance():
                    self.left_out.add(name)
        return name

    def weight(self, name: str, axes: str, *shape: int) -> str:
        self.params.setdefault(name, f"float[{axes}]")
        self.shapes[name] = shape
        return name

    def of_heads(self, name: str, axes: str = "", *shape: int) -> str:
        """A parameter with an entry for each head, or one entry where there are no heads."""
        lead = "head" if self.heads else "1"
        return self.weight(name, f"{lead}, {axes}" if axes else lead, self.heads or 1, *shape)

    @property
    def dk(self) -> int | None:
        """Features of one head's key, or query where there is no key."""
        return self.width("key") or self.width("query")

    def width(self, name: str) -> int | None:
        source = self.sources.get(name)
        if source is None:
            return None
        total = prod(self.lengths[a] for a in ((source.linear,) if source.linear else source.features))
        heads = self.heads if name == "query" else self.key_heads or self.heads
        return total // (heads or 1)

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key, of all heads and the whole batch."""
        return (self.heads or 1) * prod(self.lengths[x] for x in (*self.batch, *self.positions, *self.over))

    @property
    def alike(self) -> bool:
        """Whether a bare `i` and a bare `j` count along the same axes, or one axis each."""
        return bool(self.positions) and (self.positions == self.over or len(self.positions) == len(self.over) == 1)

    def bare(self, side: str) -> tuple[str, ...]:
        """The side's name alone, where it is a position."""
        axes, other = (self.positions, self.over) if side == "i" else (self.over, self.positions)
        return (side,) if len(axes) == 1 or not other or self.alike else ()

    def static(self, name: str) -> bool:
        """Whether the features of a source are known when compiling."""
        source = self.sources[name]
        return bool(source.linear) or all(a in self.fixed for a in source.features)


# --- sources ---------------------------------------------------------------------------------------------------


def begun(a: Drawn, axes: int, kind: str, longest: int) -> str:
    """Draw the axes and the sources of an attention; returns how the axes stand."""
    a.batch = a.one(("b",), (), ("b", "g"))
    a.over = {1: ("n",), 2: ("h", "w"), 3: ("t", "h", "w")}[axes]
    a.heads, a.key_heads = a.one((None, None), (2, None), (4, 2), (1, None), (3, 1))
    layout = a.one("last", "first", "list")
    if a.heads is not None and layout == "list":
        layout = "last"
    for name in a.over:
        a.lengths[name] = a.number(2, longest)
    for name in a.batch:
        a.lengths[name] = a.number(1, 2)
    a.fixed |= {name for name in (*a.over, *a.batch) if a.one(False, False, True)}
    _sources(a, kind, layout)
    return layout


def _sources(a: Drawn, kind: str, layout: str) -> None:
    key_heads = a.key_heads or a.heads or 1
    each, each_v = a.one(2, 4, 3), a.one(2, 1, 3)
    if layout == "list":
        a.lengths |= {"e": 2, "f": each}
        features = value_features = ("e", "f")
    else:
        a.lengths |= {"qf": (a.heads or 1) * each, "kf": key_heads * each, "vf": key_heads * each_v}
        features, value_features = ("kf",), ("vf",)
    free = a.heads is None and layout != "last" and a.chance()
    a.fixed |= set() if free else {name for name in ("qf", "kf", "vf", "e", "f") if name in a.lengths}

    query_others: tuple[str, ...] | None = None
    if kind == "self":
        a.positions = a.over
        query_others = (*a.batch, *a.over)
    elif kind == "cross":
        a.positions = a.one(("m",), ("m", "r"))
        query_others = (*a.batch, *a.positions)
    elif kind == "vector":
        query_others = a.batch
    elif kind == "learned":
        a.positions = ("m",)
        a.fixed.add("m")
        query_others = ("m",)
    elif kind == "extra":
        a.positions = a.inserted(("p",), a.over)
        query_others = (*a.batch, *a.positions)
    for name in a.positions:
        if name not in a.lengths:
            a.lengths[name] = a.number(2, 3)

    def source(name: str, tensor: str, others, wanted) -> Source:
        """A source of `wanted` features: an input as it is, or a projection of one."""
        others = a.shuffled(others)
        if layout == "last":
            if a.chance():
                if tensor not in a.inputs:
                    a.lengths["c"] = 3
                    a.fixed.add("c")
                    a.inputs[tensor] = ("float", (*others, "c"))
                found = a.inputs[tensor][1]
                return Source(tensor, found, found[-1:], linear=wanted[0])
            tensor = f"{tensor}_{wanted[0]}"
            a.inputs.setdefault(tensor, ("float", (*others, *wanted)))
        else:
            tensor = f"{tensor}_{wanted[0]}"
            a.inputs.setdefault(tensor, ("float", a.shuffled((*others, *wanted))))
        return Source(tensor, a.inputs[tensor][1], wanted)

    wanted_q = ("qf",) if features == ("kf",) and a.key_heads else features
    if kind == "learned":
        a.weight("latent", ", ".join(("m", *wanted_q)), *(a.lengths[x] for x in ("m", *wanted_q)))
        a.fixed |= set(wanted_q)
        a.sources["query"] = Source("latent", ("m", *wanted_q), wanted_q, param=True)
    elif query_others is not None:
        name = "x" if kind == "self" else "s"
        a.sources["query"] = source("query", name, query_others, wanted_q)
    key_others = (*a.batch, *a.over)
    with_key = kind != "pooling" or a.chance()
    if with_key:
        # without them, the query's batch axes are positions
        others = key_others if kind == "self" or not a.one(False, False, True) else (*a.part(a.batch), *a.over)
        a.sources["key"] = source("key", "x", others, features)
    same = layout != "last" or a.chance()
    if same and with_key and a.chance():
        a.sources["value"] = a.sources["key"]
        if a.sources["key"].linear:
            a.sources["value"] = Source(**{**a.sources["key"].__dict__, "linear": "vf"})
    else:
        # batch axes that only other sources have are broadcast
        others = key_others if not with_key else (*a.part(a.batch), *a.over)
        a.sources["value"] = source("value", "u" if a.chance() else "x", others, value_features)
    # the batch is what the sources have
    found = {x for s in ("key", "value") if s in a.sources for x in a.sources[s].axes}
    query_axes = a.sources["query"].axes if "query" in a.sources else ()
    extra = tuple(x for x in query_axes if x in a.batch and x not in found)
    a.batch = tuple(x for x in a.batch if x in found)
    if "query" in a.sources:
        a.positions = tuple(x for x in query_axes if x in (*a.positions, *extra))
    # positions that are averaged too stand in the order of `over`
    in_over = iter([x for x in a.over if x in a.positions])
    a.positions = tuple(next(in_over) if x in a.over else x for x in a.positions)


# --- text ------------------------------------------------------------------------------------------------------


#: An index that may be outside of its table. Where lengths are known it would be for certain, and is kept inside.
OUTSIDE = re.compile(r"<<(.*?) to (\d)>>")


def written(a: Drawn, layout: str) -> str:
    """The spec, with the inputs and parameters that something reads."""
    read = set(re.findall(r"\w+", " ".join(a.fields.values()))) | {s.tensor for s in a.sources.values()}
    a.inputs = {name: x for name, x in a.inputs.items() if name in read}
    a.params = {name: x for name, x in a.params.items() if name in read}
    a.left_out &= set(a.inputs)
    # a free length is read off an input that has it
    required = [x for name, x in a.inputs.items() if name not in a.defaults]
    given = {x for dtype, axes in required if dtype != "relation" for x in axes}
    a.fixed |= {x for x in a.lengths if x not in given}
    certain = any(x in a.fixed for x in (*a.positions, *a.over))
    a.fields = {x: OUTSIDE.sub(r"clip(\1, 0, \2)" if certain else r"\1", text) for x, text in a.fields.items()}
    block = []
    if a.params:
        block.append("params: {" + ", ".join(f'{name}: "{kind}"' for name, kind in a.params.items()) + "}")
    for name, source in a.sources.items():
        block.append(f"{name}: {source.code(a.chance())}")
    first = a.sources.get("key") or a.sources["value"]
    others = [x for x in first.axes if x not in first.features]
    if len(a.over) > 1 or others[-1] != a.over[0] or a.chance():
        block.append(f"over: {_listed(a.over)}")
    if layout != "last":
        names = dict.fromkeys(x for s in a.sources.values() for x in s.features)
        block.append(f"features: {_listed(tuple(names))}")
    if a.heads is not None:
        block.append(f"heads: {a.heads}" if a.key_heads is None else f"heads: {{query: {a.heads}, key: {a.key_heads}}}")
    block += [f'{name}: "{value}"' for name, value in a.fields.items()]
    used = {x for _, axes in a.inputs.values() for x in axes} | {s.linear for s in a.sources.values()}
    used |= {x for s in a.sources.values() for x in s.axes}
    sizes = {name: a.lengths[name] for name in sorted(a.fixed) if name in used or name in a.over}
    a.inputs = dict(sorted(a.inputs.items(), key=lambda item: item[0] in a.defaults))  # optional ones come last
    lines = ["tower: random"]
    if sizes:
        lines.append(f"sizes: {{{', '.join(f'{k}: {v}' for k, v in sizes.items())}}}")
    lines.append("inputs:")
    for name, (dtype, axes) in a.inputs.items():
        default = f" = {str(a.defaults[name]).lower()}" if name in a.defaults else ""
        lines.append(f"  {name}: {dtype}[{', '.join(axes)}]{default}")
    arguments = ", ".join(a.inputs)
    lines += ["blocks:", f"  look({arguments}):", *(f"    {x}" for x in block)]
    if a.fields.get("output") == "[y, log_prob]":
        lines += ["flow:", f"  - average, chance = look({arguments})", "outputs: [average, chance]"]
    else:
        lines.append(f"outputs: look({arguments})")
    return "\n".join(lines) + "\n"


def _listed(axes) -> str:
    return axes[0] if len(axes) == 1 else f"[{', '.join(axes)}]"
