"""Random attentions: the text of a spec, and what an evaluator needs to know of it.

Sources may be self, cross, learned, without positions or absent; axes stand in any order; scores, conditions and
messages come from small grammars. Every spec that is drawn is a legal one.
"""

from dataclasses import dataclass, field
from itertools import permutations

from hypothesis import strategies as st

#: What is drawn for `normalize:`, and its name in the loop oracle: without noise, in evaluation.
NORMALIZERS = {
    **{name: name for name in ("softmax", "sum", "count", "sigmoid", "none", "sparsemax", "hard")},
    "hard(straight_through)": "straight_through",
    "hard(gumbel, temperature=0.5)": ("straight_through", 0.5),
    "topk(k=2)": ("topk", 2),
}


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

    draw: object
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

    def _repr_pretty_(self, printer, cycle: bool) -> None:
        printer.text(repr(self))

    # --- drawing ----------------------------------------------------------------------------------------------

    def one(self, *options):
        return self.draw(st.sampled_from(options))

    def chance(self) -> bool:
        return self.draw(st.booleans())

    def shuffled(self, axes):
        return self.draw(st.sampled_from(list(permutations(axes)))) if len(axes) > 1 else tuple(axes)

    def part(self, axes):
        """Some of the axes, in order; all is the simplest."""
        return tuple(a for a in axes if not self.one(False, False, True))

    def inserted(self, extra, axes):
        """`axes` in their order, `extra` anywhere between them."""
        found = list(axes)
        for a in extra:
            found.insert(self.draw(st.integers(0, len(found))), a)
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

    @property
    def dk(self) -> int | None:
        """Features of one head's key, or query where there is no key."""
        return self.width("key") or self.width("query")

    def width(self, name: str) -> int | None:
        source = self.sources.get(name)
        if source is None:
            return None
        total = 1
        for a in (source.linear,) if source.linear else source.features:
            total *= self.lengths[a]
        heads = self.heads if name == "query" else self.key_heads or self.heads
        return total // (heads or 1)

    def static(self, name: str) -> bool:
        """Whether the features of a source are known when compiling."""
        source = self.sources[name]
        return bool(source.linear) or all(a in self.fixed for a in source.features)


# --- sources ---------------------------------------------------------------------------------------------------


@st.composite
def attentions(draw) -> Drawn:
    """A legal spec of one attention."""
    a = Drawn(draw)
    a.batch = a.one(("b",), (), ("b", "g"))
    a.over = a.one(("n",), ("h", "w"), ("t", "h", "w"))
    kind = a.one("self", "cross", "vector", "pooling", "learned", "extra")
    a.heads, a.key_heads = a.one((None, None), (2, None), (4, 2), (1, None), (3, 1))
    layout = a.one("last", "first", "list")
    if a.heads is not None and layout == "list":
        layout = "last"
    longest = {1: 5, 2: 3, 3: 2}[len(a.over)]
    for name in a.over:
        a.lengths[name] = a.draw(st.integers(2, longest))
    for name in a.batch:
        a.lengths[name] = a.draw(st.integers(1, 2))
    a.fixed |= {name for name in (*a.over, *a.batch) if a.one(False, False, True)}
    _sources(a, kind, layout)
    _fields(a, layout)
    a.text = _written(a, layout)
    return a


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
            a.lengths[name] = a.draw(st.integers(2, 3))

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


# --- formulas --------------------------------------------------------------------------------------------------


def _fields(a: Drawn, layout: str) -> None:
    apart = a.one(False, False, True)  # i and j stand apart from each other
    a.fields["normalize"] = a.one("count", "none", "sum", "softmax") if apart else a.one(*NORMALIZERS)
    score = _separable(a) if apart else None if a.chance() else _score(a, 2)
    if a.fields["normalize"] == "sum":
        score = f"exp({score or _similarity(a)})" if not apart else _positive(a)
    if score is not None:
        a.fields["score"] = score
    if a.chance():
        a.fields["mask"] = _sided(a) if apart else _condition(a, 2)
    if apart:
        pass
    elif a.one(False, False, True):
        a.fields["locality"] = _condition(a, 2)
    elif a.positions and a.one(*[False] * 7, True):  # a gate: each position by itself
        itself = " and ".join(f"i.{x} == j.{x}" for x in a.over if x in a.positions) or "i == j"
        a.fields["locality"] = a.one("i == j", itself, f"i == j and {_condition(a, 1)}")
    elif len(a.positions) == len(a.over) == 1 and a.one(False, True):  # a graph
        a.fields["locality"] = _relation(a, 1)
    message = _message(a) if a.one(False, False, True) else None
    if message is not None:
        a.fields["message"] = message
    if a.heads is not None and a.chance():
        a.fields["merge"] = a.one("mean", "sum", "concat")
    if a.one(False, False, True):
        a.fields["dropout"] = "0.3"
    output = a.one(None, "linear(y, 3)", "tanh(y)", "2 * y")
    if output is not None and (layout == "last" or "linear" not in output):
        a.fields["output"] = output


def _similarity(a: Drawn) -> str:
    options = []
    if "key" not in a.sources and "query" not in a.sources:
        return a.one("1", "0", "0.5")
    fixed = all(a.static(name) for name in ("query", "key") if name in a.sources)
    names = [x for x in ("q", "k") if {"q": "query", "k": "key"}[x] in a.sources]
    if len(names) == 2:
        options += ["dot(q, k)", "scaled_dot", "dot(k, q) / 2", "cosine", "gaussian(1.5)", "-sum(abs(q - k)) / 2"]
        options += ["sqrt(dk) * dot(q, k)", "dot(q, k) ** 2 / 9", "dot(q, k) + dot(tanh(q), k)"]
        if a.positions:
            options += ["turned", "shifted"]
        if a.positions and fixed:
            options += ["rope"]
        if fixed:
            options += ["additive", "bilinear", "concat", "gated", "shaw"]
    elif fixed:
        options += ["w1", "w2"]
    else:
        options += [f"sum({names[0]})", f"amax({names[0]}) - mean({names[0]})"]
    chosen = a.one(*options)
    w = "dk"
    dk = a.dk or 1
    match chosen:
        case "rope":
            if dk % 2:
                return "dot(q, k)"
            i, j = a.one(*[(f"i.{x}", f"j.{x}") for x in a.over if x in a.positions], ("i", "j"))
            turn = a.one("rope", "rope_pairs")
            return f"dot({turn}(q, {i}, dk), {turn}(k, {j}, dk)) / sqrt(dk)"
        case "turned":
            return f"dot(q * cos({_position(a, 'i')}), k + {_position(a, 'j')})"
        case "shifted":
            return f"dot(q * {a.data('fi', 'float', a.positions)}[i], k) / dk"
        case "additive":
            return f"additive({a.weight('vec', w, dk)})"
        case "bilinear":
            return f"bilinear({a.weight('mat', 'dk, dk', dk, dk)})"
        case "concat":
            return f"concat_score({a.weight('wq', w, dk)}, {a.weight('wk', w, dk)})"
        case "gated":
            return f"dot(q * {a.weight('gate', 'head, dk' if a.heads else '1, dk', a.heads or 1, dk)}[head], k)"
        case "shaw":
            return f"dot(q, k + {a.weight('rel', '5, dk', 5, dk)}[{_index(a)}])"
        case "w1":
            return f"dot({a.weight('vec', w, dk)}, tanh({names[0]}))"
        case "w2":
            heads = ("head", a.heads) if a.heads else ("1", 1)
            return f"dot({a.weight('wh', f'{heads[0]}, dk', heads[1], dk)}[head], {names[0]})"
    return chosen


def _separable(a: Drawn) -> str:
    """A sum of products of something of i and something of j."""
    parts = [_product(a) for _ in range(a.one(1, 2, 3))]
    return f" {a.one('+', '-')} ".join(parts)


def _product(a: Drawn) -> str:
    fi = f"{a.data('fi', 'float', a.positions)}[i]" if a.positions else "0.7"
    fj = f"{a.data('fj', 'float', a.over)}[j]"
    heads = ("head", a.heads) if a.heads else ("1", 1)
    options = [fi, fj, f"{fi} * {fj}", f"{fj} * ({fi} - 0.5 * {fj})", f"{a.weight('tau', *heads)}[head]", "0.5", "1"]
    options += [f"{_position(a, 'i')} * {_position(a, 'j')} / 4"]
    if all(x in a.sources for x in ("query", "key")):
        dot = a.one("dot(q, k)", "dot(relu(q), k)", "dot(k, cos(q) + 1)", "sum(q * k)", "dot(q * tanh(q), k)")
        options += [dot, dot, dot, f"-{dot} * {fj}", f"{a.weight('tau', *heads)}[head] * {dot} / (1 + abs({fi}))"]
        if a.static("query") and a.static("key"):
            w = a.weight("vec", "dk", a.dk)
            options += [f"dot({w}, q + k)", f"dot({w}, q * k)", f"dot({w} * q, k + {_position(a, 'j')})"]
    return a.one(*options)


def _positive(a: Drawn) -> str:
    """The same, above 0."""
    fj = f"exp({a.data('fj', 'float', a.over)}[j])"
    if all(x in a.sources for x in ("query", "key")):
        return a.one("dot(softplus(q), softplus(k))", f"dot(exp(q), exp(k)) * {fj}", fj)
    return a.one(fj, "2", f"{fj} + 1")


def _sided(a: Drawn) -> str:
    """A condition that says something of queries, something of keys, or that only earlier keys are visible."""
    kj = f"{a.data('kj', 'bool', a.over)}[j]"
    options = [kj, f"{kj} and {_position(a, 'j')} > 0", f"{a.data('fj', 'float', a.over)}[j] < 0.3"]
    if a.positions:
        ki = f"{a.data('ki', 'bool', a.positions)}[i]"
        options += [ki, f"{ki} and {kj}", f"{kj} and {_position(a, 'i')} > 0"]
        if a.positions == a.over:
            options += ["causal", "causal", f"{kj} and causal", f"{ki} and causal", f"not (j > i or not ({kj}))"]
    return a.one(*options)


def _position(a: Drawn, side: str) -> str:
    axes = a.positions if side == "i" else a.over
    return a.one(side, *(f"{side}.{x}" for x in axes)) if axes else "1"


def _pair(a: Drawn) -> tuple[str, str]:
    """Positions of both sides; the query may have none."""
    if not a.positions:
        return a.one("1", "0"), _position(a, "j")
    shared = [(f"i.{x}", f"j.{x}") for x in a.over if x in a.positions]
    return a.one(("i", "j"), *shared, (_position(a, "i"), _position(a, "j")))


def _index(a: Drawn) -> str:
    """A whole number, to read a table of 5 entries; it may be outside."""
    i, j = _pair(a)
    options = [f"clip({i} - {j}, -2, 2) + 2", f"{i} - {j} + 2", f"abs({i} - {j})", f"{j} % 3", f"({j} - {i}) // 2"]
    if a.positions and a.chance():
        return f"{a.data('di', 'int', a.positions)}[i] + {j}"
    return a.one(*options)


def _bias(a: Drawn) -> str:
    i, j = _pair(a)
    heads = ("head", a.heads) if a.heads else ("1", 1)
    options = ["table", "relative", "distance", "fj", "tau", "pairs", "fi", "alibi", "two", "number", "outer"]
    match a.one(*options):
        case "table":
            return f"{a.weight('table', f'{heads[0]}, 5', heads[1], 5)}[head, {_index(a)}]"
        case "relative":
            if a.positions:
                return f"relative({a.weight('table', f'{heads[0]}, 5', heads[1], 5)}, 2)"
        case "distance":
            return f"0.1 * abs({i} - {j})"
        case "tau":
            return f"{a.weight('tau', heads[0], heads[1])}[head]"
        case "pairs":
            if a.positions:
                return f"{a.data('bias', 'float', (*a.positions, *a.over))}[i, j]"
        case "fi":
            if a.positions:
                return f"{a.data('fi', 'float', a.positions)}[i]"
        case "alibi":
            if a.positions:
                return f"alibi({a.heads or 1})"
        case "two":
            return f"{a.weight('grid', '3, 3', 3, 3)}[{_index(a)}, {_index(a)}]"
        case "number":
            return a.one("0.3", "head", "1")
        case "outer":
            return f"0.2 * {i} * {j} - {j} / 3"
    return f"{a.data('fj', 'float', a.over)}[j]"


def _score(a: Drawn, depth: int) -> str:
    if depth == 0:
        return _similarity(a) if a.chance() else _bias(a)
    inner = _score(a, depth - 1) if a.one(False, True) else _similarity(a)
    match a.one("plain", "sum", "factor", "head", "where", "function", "minus", "decay", "max"):
        case "sum":
            return f"{inner} + {_bias(a)}"
        case "factor":
            return a.one(f"0.5 * ({inner})", f"({inner}) / 3", f"-({inner})", f"-0.25 * ({inner})")
        case "head":
            heads = ("head", a.heads) if a.heads else ("1", 1)
            tau = a.weight("tau", heads[0], heads[1])
            return a.one(f"({inner}) * {tau}[head]", f"exp({tau}[head]) * ({inner})", f"({inner}) / (1 + head)")
        case "where":
            condition, other = _condition(a, 1), _score(a, depth - 1)
            return a.one(f"where({condition}, {inner}, {other})", f"({inner} if {condition} else {other})")
        case "function":
            return a.one(f"tanh({inner})", f"leaky_relu({inner}, 0.2)", f"softplus({inner})")
        case "minus":
            return f"{_bias(a)} - ({inner})"
        case "decay":
            i, j = _pair(a)
            return f"({inner}) * 0.8 ** abs({i} - {j})"
        case "max":
            return a.one(f"max({inner}, {_bias(a)})", f"clip({inner}, -1, 1.5)")
    return inner


def _condition(a: Drawn, depth: int) -> str:
    if depth and a.chance():
        left, right = _condition(a, depth - 1), _condition(a, depth - 1)
        return a.one(f"({left} and {right})", f"({left} or {right})", f"not ({left})")
    i, j = _pair(a)
    options = ["keep_j", "band", "window", "causal", "block", "residue", "shifted", "even", "head", "static", "float"]
    if a.positions:
        options += ["keep_i", "doc", "global", "adjacent", "rate"]
        if len(a.positions) == len(a.over) == 1:
            options += ["edges"]
    match a.one(*options):
        case "band":
            return a.one(f"abs({i} - {j}) < 2", f"{i} - {j} >= 0", f"-1 <= {i} - {j} < 2", f"{j} < {i} + 1")
        case "window":
            if a.positions:
                return a.one("window(2)", "causal_window(2)", "causal", "dilated(2, 2)", "strided(2)", "blocks(2)")
        case "causal":
            return a.one(f"{j} <= {i}", f"{j} < {i}", f"{i} == {j}", f"{i} != {j}", f"2 * {i} >= {j}")
        case "block":
            return f"{i} // 2 == {j} // 2"
        case "residue":
            return f"({i} - {j}) % 2 == 0"
        case "shifted":
            return f"({i} + 1) // 2 == ({j} + 1) // 2"
        case "even":
            return f"{j} % 2 == 0"
        case "head":
            return a.one(f"{i} - {j} < 2 ** head", "head == 0", f"{j} > head")
        case "static":
            return a.one("true", "false", "1 < 2", f"{j} < {a.over[0]}")
        case "float":
            return f"{a.data('fj', 'float', a.over)}[j] < 0.5"
        case "keep_i":
            return f"{a.data('ki', 'bool', a.positions)}[i]"
        case "doc":
            if a.positions == a.over:
                return a.one(f"{(doc := a.data('doc', 'int', a.over))}[i] == {doc}[j]", f"same({doc})")
            return f"{a.data('di', 'int', a.positions)}[i] == {a.data('dj', 'int', a.over)}[j]"
        case "global":
            return a.one("i < 1 or j < 1", "global_tokens(1)", "j == 0")
        case "adjacent":
            return f"{a.data('seen', 'bool', (*a.positions, *a.over))}[i, j]"
        case "rate":
            return f"{a.data('fi', 'float', a.positions)}[i] <= {a.data('fj', 'float', a.over)}[j]"
        case "edges":
            return _edges(a)
    return f"{a.data('kj', 'bool', a.over)}[j]"


def _relation(a: Drawn, depth: int) -> str:
    """A condition that lists pairs; every relation is a set, however often it names a pair."""
    first, second = _edges(a), _edges(a)
    match a.one("one", "itself", "union", "alone", "both", "kept", "some"):
        case "itself":
            return f"{first} or i == j"
        case "union":
            return f"{first} or {second}"
        case "alone":
            return f"{first} and not {second}"
        case "both":
            return f"{first} and {second}"
        case "kept":
            return f"({_relation(a, depth - 1) if depth else first}) and {_condition(a, 1)}"
        case "some":
            return f"({first} and {_condition(a, 1)}) or {_relation(a, depth - 1) if depth else second}"
    return first


def _edges(a: Drawn) -> str:
    """Whether a pair is in one of several relations, whose sources are the keys or the queries."""
    name, forward = a.one(("edges", True), ("near", True), ("back", False))
    ends = (*a.over, *a.positions)
    a.inputs[name] = ("relation", ends if forward else ends[::-1])
    return f"{name}[j, i]" if forward else f"{name}[i, j]"


def _message(a: Drawn) -> str | None:
    options = ["2 * v", "relu(v)", f"v * {a.data('fj', 'float', a.over)}[j]", f"v - 0.1 * {_pair(a)[1]}"]
    dv = a.width("value") or 1
    if a.static("value"):
        options += ["rel", "gate"]
    chosen = a.one(*options)
    if chosen == "rel":
        return f"v + {a.weight('rel_v', '5, dv', 5, dv)}[{_index(a)}]"
    if chosen == "gate":
        return f"v * {a.weight('gate_v', 'head, dv' if a.heads else '1, dv', a.heads or 1, dv)}[head]"
    return chosen


# --- text ------------------------------------------------------------------------------------------------------


def _written(a: Drawn, layout: str) -> str:
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
    # a free length is read off an input that has it
    required = [x for name, x in a.inputs.items() if name not in a.defaults]
    given = {x for dtype, axes in required if dtype != "relation" for x in axes}
    a.fixed |= {x for x in a.lengths if x not in given}
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
    lines += ["blocks:", f"  look({arguments}):", *(f"    {x}" for x in block), f"outputs: look({arguments})"]
    return "\n".join(lines) + "\n"


def _listed(axes) -> str:
    return axes[0] if len(axes) == 1 else f"[{', '.join(axes)}]"
