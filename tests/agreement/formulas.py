"""Random scores, conditions and messages of a drawn attention, from small grammars.

What they read is declared on the way. Inputs whose name begins with `p` are positive: they are divided by, and what
logarithms and roots are taken of.
"""

from .drawing import NORMALIZERS, Drawn

#: Buckets and reach of relative positions in buckets, so that no distance lies on the edge of a bucket.
BUCKETS = 8, 20


def fields(a: Drawn, layout: str) -> None:
    """Any score, any condition."""
    apart = a.one(False, False, True)  # i and j stand apart from each other
    a.fields["normalize"] = a.one("count", "none", "sum", "softmax") if apart else a.one(*NORMALIZERS)
    written = separable(a) if apart else None if a.chance() else score(a, 2)
    scored(a, written, apart)
    if a.chance():
        a.fields["mask"] = sided(a) if apart else condition(a, 2)
    if apart:
        pass
    elif a.one(False, False, True):
        a.fields["locality"] = condition(a, 2)
    elif a.positions and a.one(*[False] * 7, True):  # a gate: each position by itself
        itself = " and ".join(f"{i} == {j}" for i, j in shared(a)) or f"i.{a.positions[0]} == j.{a.over[0]}"
        same_place = "i == j" if a.alike else itself
        a.fields["locality"] = a.one(same_place, itself, f"{same_place} and {condition(a, 1)}")
    elif len(a.positions) == len(a.over) == 1 and a.one(False, True):  # a graph
        a.fields["locality"] = relation(a, 1)
    rest(a, layout)


def scored(a: Drawn, written: str | None, apart: bool = False) -> None:
    """The score, above 0 where it is divided by its sum."""
    if a.fields["normalize"] == "sum":
        written = positive(a) if apart else f"exp({written or similarity(a)})"
    if written is not None:
        a.fields["score"] = written


def rest(a: Drawn, layout: str, plain: bool = False) -> None:
    """Message, merge, dropout and output; of `plain` ones the message is the value."""
    written = message(a) if not plain and a.one(False, False, True) else None
    if written is not None:
        a.fields["message"] = written
    if a.heads is not None and a.chance():
        a.fields["merge"] = a.one("mean", "sum", "concat")
    if a.one(False, False, True):
        a.fields["dropout"] = a.one("0", "0.3")
    if a.fields["normalize"] == "hard(score_function)":
        a.fields["output"] = "[y, log_prob]"
        return
    output = a.one(None, "linear(y, 3)", "tanh(y)", "2 * y")
    if output is not None and (layout == "last" or "linear" not in output):
        a.fields["output"] = output


# --- scores ----------------------------------------------------------------------------------------------------


def similarity(a: Drawn) -> str:
    options = []
    if "key" not in a.sources and "query" not in a.sources:
        return a.one("1", "0", "0.5")
    fixed = all(a.static(name) for name in ("query", "key") if name in a.sources)
    names = [x for x in ("q", "k") if {"q": "query", "k": "key"}[x] in a.sources]
    if len(names) == 2:
        options += ["dot(q, k)", "scaled_dot", "dot(k, q) / 2", "cosine", "gaussian(1.5)", "-sum(abs(q - k)) / 2"]
        options += ["sqrt(dk) * dot(q, k)", "dot(q, k) ** 2 / 9", "dot(q, k) + dot(tanh(q), k)"]
        options += ["10 * dot(unit(q), unit(k))", "divided", "distance"]
        if a.positions:
            options += ["turned", "shifted"]
        if a.positions and fixed:
            options += ["rope"]
        if fixed:
            options += ["additive", "bilinear", "concat", "shaw", "weighted distance"]
            # two tensors of one axis each are an outer product
            options += ["gated"] if len(a.sources["query"].axes) > 1 else []
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
            i, j = a.one(*(shared(a) or [(position(a, "i"), position(a, "j"))]))
            turn = a.one("rope", "rope_pairs")
            far = a.one("", "", " + 1000")
            return f"dot({turn}(q, {i}{far}, dk), {turn}(k, {j}{far}, dk)) / sqrt(dk)"
        case "divided":
            pj = f"{a.data('pj', 'float', a.over)}[j]"
            pi = f"{a.data('pi', 'float', a.positions)}[i]" if a.positions else "2"
            return a.one(f"dot(q, k) / ({pi} * {pj})", f"dot(q, k) / sqrt({pi} + {pj})", f"dot(q / {pi}, k / {pj})")
        case "distance":
            return a.one("-sqrt(sum((q - k) ** 2) + 0.01)", "-log(1 + sum((q - k) ** 2))", "1 / (1 + sum(abs(q - k)))")
        case "weighted distance":
            root = f"sum(exp({a.weight('vec', w, dk)}) * (q - k) ** 2)"
            same = a.sources["query"].tensor == a.sources["key"].tensor  # then the root is of 0, and has no gradient
            return f"-sqrt({root} + 0.01)" if same else f"-sqrt({root})"
        case "turned":
            return f"dot(q * cos({position(a, 'i')}), k + {position(a, 'j')})"
        case "shifted":
            return f"dot(q * {a.data('fi', 'float', a.positions)}[i], k) / dk"
        case "additive":
            return f"additive({a.weight('vec', w, dk)})"
        case "bilinear":
            return f"bilinear({a.weight('mat', 'dk, dk', dk, dk)})"
        case "concat":
            return f"concat_score({a.weight('wq', w, dk)}, {a.weight('wk', w, dk)})"
        case "gated":
            return f"dot(q * {a.of_heads('gate', 'dk', dk)}[head], k)"
        case "shaw":
            return f"dot(q, k + {a.weight('rel', '5, dk', 5, dk)}[{index(a)}])"
        case "w1":
            return f"dot({a.weight('vec', w, dk)}, tanh({names[0]}))"
        case "w2":
            return f"dot({a.of_heads('wh', 'dk', dk)}[head], {names[0]})"
    return chosen


def bias(a: Drawn) -> str:
    i, j = pair(a)
    options = ["table", "relative", "distance", "fj", "tau", "pairs", "fi", "alibi", "two", "number", "outer"]
    options += ["buckets", "far", "log", "root"]
    match a.one(*options):
        case "table":
            return f"{a.of_heads('table', '5', 5)}[head, {index(a)}]"
        case "relative":
            if a.alike:
                return f"relative({a.of_heads('table', '5', 5)}, 2)"
        case "buckets":
            if a.alike:
                buckets = a.of_heads("buckets", str(BUCKETS[0]), BUCKETS[0])
                return f"{a.one('bucketed', 'bucketed_causal')}({buckets}, {BUCKETS[0]}, {BUCKETS[1]})"
        case "far":  # a table of what is no distance
            return f"{a.of_heads('long', '7', 7)}[head, {inside(a, a.one(*far(i, j)), 6)}]"
        case "log":
            pj = f"{a.data('pj', 'float', a.over)}[j]"
            pi = f"{a.data('pi', 'float', a.positions)}[i]" if a.positions else "1"
            return a.one(f"{a.of_heads('tau')}[head] * log({pi} + {pj})", f"log({pj})", f"log({pi} * {pj}) / 2")
        case "root":
            pj = f"{a.data('pj', 'float', a.over)}[j]"
            return a.one(f"sqrt({pj})", f"1 / {pj}", f"sqrt({pj}) * {j}")
        case "distance":
            return a.one(f"0.1 * abs({i} - {j})", f"0.1 * ({i} - {j}) ** 2", f"-log(1 + abs({i} - {j}))")
        case "tau":
            return f"{a.of_heads('tau')}[head]"
        case "pairs":
            if a.positions:
                return f"{a.data('bias', 'float', (*a.positions, *a.over))}[i, j]"
        case "fi":
            if a.positions:
                return f"{a.data('fi', 'float', a.positions)}[i]"
        case "alibi":
            if a.alike:
                return f"alibi({a.heads or 1})"
        case "two":
            return f"{a.weight('grid', '3, 3', 3, 3)}[{index(a, last=2)}, {index(a, last=2)}]"
        case "number":
            return a.one("0.3", "head", "1")
        case "outer":
            return f"0.2 * {i} * {j} - {j} / 3"
    return f"{a.data('fj', 'float', a.over)}[j]"


def score(a: Drawn, depth: int) -> str:
    if depth == 0:
        return similarity(a) if a.chance() else bias(a)
    inner = score(a, depth - 1) if a.one(False, True) else similarity(a)
    match a.one("plain", "sum", "factor", "head", "where", "function", "minus", "decay", "max"):
        case "sum":
            return f"{inner} + {bias(a)}"
        case "factor":
            return a.one(f"0.5 * ({inner})", f"({inner}) / 3", f"-({inner})", f"-0.25 * ({inner})")
        case "head":
            tau = a.of_heads("tau")
            return a.one(f"({inner}) * {tau}[head]", f"exp({tau}[head]) * ({inner})", f"({inner}) / (1 + head)")
        case "where":
            shown, other = condition(a, 1), score(a, depth - 1)
            return a.one(f"where({shown}, {inner}, {other})", f"({inner} if {shown} else {other})")
        case "function":
            return a.one(f"tanh({inner})", f"leaky_relu({inner}, 0.2)", f"softplus({inner})")
        case "minus":
            return f"{bias(a)} - ({inner})"
        case "decay":
            i, j = pair(a)
            return f"({inner}) * 0.8 ** abs({i} - {j})"
        case "max":
            return a.one(f"max({inner}, {bias(a)})", f"clip({inner}, -1, 1.5)")
    return inner


def separable(a: Drawn) -> str:
    """A sum of products of something of i and something of j."""
    parts = [_product(a) for _ in range(a.one(1, 2, 3))]
    return f" {a.one('+', '-')} ".join(parts)


def _product(a: Drawn) -> str:
    fi = f"{a.data('fi', 'float', a.positions)}[i]" if a.positions else "0.7"
    fj = f"{a.data('fj', 'float', a.over)}[j]"
    options = [fi, fj, f"{fi} * {fj}", f"{fj} * ({fi} - 0.5 * {fj})", f"{a.of_heads('tau')}[head]", "0.5", "1"]
    options += [f"{position(a, 'i')} * {position(a, 'j')} / 4"]
    if all(x in a.sources for x in ("query", "key")):
        dot = a.one("dot(q, k)", "dot(relu(q), k)", "dot(k, cos(q) + 1)", "sum(q * k)", "dot(q * tanh(q), k)")
        options += [dot, dot, dot, f"-{dot} * {fj}", f"{a.of_heads('tau')}[head] * {dot} / (1 + abs({fi}))"]
        options += [f"{dot} / (1 + head)", f"{dot} / {a.data('pj', 'float', a.over)}[j]"]
        if a.static("query") and a.static("key"):
            w = a.weight("vec", "dk", a.dk)
            options += [f"dot({w}, q + k)", f"dot({w}, q * k)"]
            options += [f"dot({w} * q, k + {position(a, 'j')})"] if len(a.sources["query"].axes) > 1 else []
    return a.one(*options)


def positive(a: Drawn) -> str:
    """The same, above 0."""
    fj = f"exp({a.data('fj', 'float', a.over)}[j])"
    if all(x in a.sources for x in ("query", "key")):
        return a.one("dot(softplus(q), softplus(k))", f"dot(exp(q), exp(k)) * {fj}", fj)
    return a.one(fj, "2", f"{fj} + 1")


def of_positions(a: Drawn) -> str:
    """A score that no input changes."""
    i, j = pair(a)
    table, long, grid = a.of_heads("table", "5", 5), a.of_heads("long", "7", 7), a.weight("grid", "3, 3", 3, 3)
    options = [f"{table}[head, {index(a, data=False)}]", f"-0.3 * abs({i} - {j})", f"0.1 * {i} * {j}"]
    options += [f"{long}[head, {inside(a, a.one(*far(i, j)), 6)}]", f"cos({i} - {j})", "1"]
    options += [f"{grid}[{index(a, data=False, last=2)}, {index(a, data=False, last=2)}]"]
    parts = [a.one(*options) for _ in range(a.one(1, 2))]
    return " + ".join(parts)


# --- positions -------------------------------------------------------------------------------------------------


def position(a: Drawn, side: str) -> str:
    axes = a.positions if side == "i" else a.over
    return a.one(*a.bare(side), *(f"{side}.{x}" for x in axes)) if axes else "1"


def shared(a: Drawn) -> list[tuple[str, str]]:
    """The positions along each axis that query and key share."""
    return [(f"i.{x}", f"j.{x}") for x in a.over if x in a.positions]


def pair(a: Drawn) -> tuple[str, str]:
    """Positions of both sides; the query may have none."""
    if not a.positions:
        return a.one("1", "0"), position(a, "j")
    return a.one(*[("i", "j")] * a.alike, *shared(a), (position(a, "i"), position(a, "j")))


def index(a: Drawn, data: bool = True, last: int = 4) -> str:
    """A whole number, to read a table with so many entries behind the first; it may be outside, if not for certain."""
    i, j = pair(a)
    if data and a.positions and a.chance():
        return f"{a.data('di', 'int', a.positions)}[i] + {j}"
    half = last // 2
    near = [f"{i} - {j} + {half}", f"abs({i} - {j})", f"({j} - {i}) // 2"]
    options = [f"clip({i} - {j}, -{half}, {half}) + {half}", f"{j} % 3", *(f"clip({x}, 0, {last})" for x in near)]
    return a.one(*options, *(inside(a, x, last) for x in far(i, j)))


def far(i: str, j: str) -> list[str]:
    """Whole numbers of two positions that are no distance."""
    return [f"{i} + {j}", f"max({i}, {j})", f"{i} * {j}"]


def inside(a: Drawn, index: str, last: int) -> str:
    """An index, kept inside of its table where it would leave it for certain: see `drawing.OUTSIDE`."""
    return f"<<{index} to {last}>>" if a.positions else f"clip({index}, 0, {last})"


# --- conditions ------------------------------------------------------------------------------------------------


def sided(a: Drawn) -> str:
    """A condition that says something of queries, something of keys, or that only earlier keys are visible."""
    kj = f"{a.data('kj', 'bool', a.over)}[j]"
    options = [kj, f"{kj} and {position(a, 'j')} > 0", f"{a.data('fj', 'float', a.over)}[j] < 0.3"]
    if a.positions:
        ki = f"{a.data('ki', 'bool', a.positions)}[i]"
        dj = f"{a.data('dj', 'int', a.over)}[j]"
        options += [ki, f"{ki} and {kj}", f"{kj} and {position(a, 'i')} > 0"]
        options += [f"({dj} == 1 and {position(a, 'i')} <= 1) or {kj}", f"2 * {dj} == 3 or {ki}"]
        if a.positions == a.over:
            options += ["causal", "causal", f"{kj} and causal", f"{ki} and causal", f"not (j > i or not ({kj}))"]
    return a.one(*options)


def condition(a: Drawn, depth: int) -> str:
    if depth and a.chance():
        left, right = condition(a, depth - 1), condition(a, depth - 1)
        return a.one(f"({left} and {right})", f"({left} or {right})", f"not ({left})")
    i, j = pair(a)
    options = ["keep_j", "band", "window", "causal", "block", "residue", "shifted", "even", "head", "static", "float"]
    options += ["length"]
    if a.positions:
        options += ["keep_i", "doc", "global", "adjacent", "rate"]
        if len(a.positions) == len(a.over) == 1:
            options += ["edges"]
    match a.one(*options):
        case "band":
            return a.one(f"abs({i} - {j}) < 2", f"{i} - {j} >= 0", f"-1 <= {i} - {j} < 2", f"{j} < {i} + 1")
        case "window":
            if a.alike:
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
        case "length":
            n = a.one(*a.over)
            return a.one(f"{j} >= {n} - 2", f"{j} - {i} <= {n} // 2", f"{i} + {j} < {n}", f"2 * {j} < {n}")
        case "float":
            return f"{a.data('fj', 'float', a.over)}[j] < 0.5"
        case "keep_i":
            return f"{a.data('ki', 'bool', a.positions)}[i]"
        case "doc":
            return same(a)
        case "global":
            options = ["i < 1 or j < 1", "global_tokens(1)"] if a.alike else []
            return a.one(*options, f"{position(a, 'j')} == 0")
        case "adjacent":
            return f"{a.data('seen', 'bool', (*a.positions, *a.over))}[i, j]"
        case "rate":
            return f"{a.data('fi', 'float', a.positions)}[i] <= {a.data('fj', 'float', a.over)}[j]"
        case "edges":
            return edges(a)
    return f"{a.data('kj', 'bool', a.over)}[j]"


def same(a: Drawn) -> str:
    """Data of the query that is that of the key."""
    if a.positions == a.over:
        return a.one(f"{(doc := a.data('doc', 'int', a.over))}[i] == {doc}[j]", f"same({doc})")
    return f"{a.data('di', 'int', a.positions)}[i] == {a.data('dj', 'int', a.over)}[j]"


def relation(a: Drawn, depth: int) -> str:
    """A condition that lists pairs; every relation is a set, however often it names a pair."""
    first, second = edges(a), edges(a)
    match a.one("one", "itself", "union", "alone", "both", "kept", "some", "near"):
        case "itself":
            return f"{first} or i == j"
        case "union":
            return f"{first} or {second}"
        case "alone":
            return f"{first} and not {second}"
        case "both":
            return f"{first} and {second}"
        case "kept":
            return f"({relation(a, depth - 1) if depth else first}) and {condition(a, 1)}"
        case "some":
            return f"({first} and {condition(a, 1)}) or {relation(a, depth - 1) if depth else second}"
        case "near":
            return f"{first} {a.one('and', 'or')} abs(i - j) < {a.one(1, 2, 3)}"
    return first


def edges(a: Drawn) -> str:
    """Whether a pair is in one of several relations, whose sources are the keys or the queries."""
    name, forward = a.one(("edges", True), ("near", True), ("back", False))
    ends = (*a.over, *a.positions)
    a.inputs[name] = ("relation", ends if forward else ends[::-1])
    if a.over == a.positions:  # either end may be read as the key
        forward = a.one(forward, not forward)
    return f"{name}[j, i]" if forward else f"{name}[i, j]"


# --- messages --------------------------------------------------------------------------------------------------


def message(a: Drawn) -> str | None:
    options = ["2 * v", "relu(v)", f"v * {a.data('fj', 'float', a.over)}[j]", f"v - 0.1 * {pair(a)[1]}"]
    options += [f"v / {a.data('pj', 'float', a.over)}[j]"]
    dv = a.width("value") or 1
    if a.static("value"):
        options += ["rel", "gate"]
    chosen = a.one(*options)
    if chosen == "rel":
        return f"v + {a.weight('rel_v', '5, dv', 5, dv)}[{index(a)}]"
    if chosen == "gate":
        return f"v * {a.of_heads('gate_v', 'dv', dv)}[head]"
    return chosen
