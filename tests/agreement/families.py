"""Random attentions: of anything, and of the structures that kernels are made for.

Any score, condition or message would rarely be one of those: here the condition is a band, windows side by side,
residues, a union, a relation and so on, with something beside it, at lengths that are shorter than windows or no
multiple of them.
"""

from . import formulas as f
from .drawing import NORMALIZERS, Drawn, begun, written

#: Of each family how often it is drawn.
FAMILIES = {
    "band": 4,
    "classes": 4,
    "residues": 1,
    "union": 4,
    "relation": 3,
    "linear": 2,
    "static": 2,
    "diagonal": 1,
    "picks": 1,
    "dense": 2,
}


def attention(a: Drawn) -> None:
    """Draw one of any sources, score and condition."""
    axes = a.number(1, 3)
    kind = a.one("self", "cross", "vector", "pooling", "learned", "extra")
    layout = begun(a, axes, kind, {1: 5, 2: 3, 3: 2}[axes])
    f.fields(a, layout)
    a.text = written(a, layout)


def structured(a: Drawn) -> None:
    """Draw one of a family."""
    family = a.one(*(name for name, times in FAMILIES.items() for _ in range(times)))
    axes = 1 if family in ("relation", "union") else a.one(1, 1, 2, 2, 3)
    kind = a.one("self", "self", "cross") if family in ("relation", "linear", "static", "picks", "dense") else "self"
    layout = begun(a, axes, kind, {1: 9, 2: 4, 3: 2}[axes])
    a.fields["normalize"] = a.one("softmax", "softmax", "softmax", *NORMALIZERS)
    match family:
        case "band":
            a.fields["locality"] = _beside(a, _each(a, _band))
        case "classes":
            a.fields["locality"] = _beside(a, _each(a, _class))
        case "residues":
            a.fields["locality"] = _beside(a, _each(a, _residue))
        case "union":
            a.fields["normalize"] = a.one("softmax", "softmax", "softmax", "softmax", "count", "topk(k=2)")
            a.fields["locality"] = _beside(a, _union(a))
        case "relation":
            if len(a.positions) == 1:
                a.fields["normalize"] = a.one("softmax", "softmax", "sum", "count", "none", "sigmoid")
                a.fields["locality"] = f.relation(a, 2)
        case "linear":
            a.fields["normalize"] = a.one("count", "none", "sum", "softmax")
            if a.chance():
                a.fields["mask"] = f.sided(a)
        case "static":
            i, j = f.pair(a)
            if a.chance():
                a.fields["mask"] = a.one(
                    f"{j} <= {i}", f"abs({i} - {j}) < 2", f"{j} % 2 == 0", f"head == 0 or {i} < {j}"
                )
        case "diagonal":
            itself = " and ".join(f"{i} == {j}" for i, j in f.shared(a))
            a.fields["locality"] = _beside(a, a.one(itself, "i == j") if a.alike else itself)
        case "picks":
            a.fields["normalize"] = a.one("topk(k=2)", "topk(k=1)", "topk(k=3)", "hard", "hard(score_function)")
            if a.chance():
                a.fields["mask"] = f.condition(a, 1)
        case "dense":
            if a.chance():
                a.fields["mask"] = a.one("causal" if a.over == a.positions else "true", f.sided(a), f.condition(a, 1))
    if family == "linear":
        f.scored(a, f.separable(a), apart=True)
    elif family == "static":
        f.scored(a, f.of_positions(a))
    elif family == "union" and a.one(True, True, False):
        dot = a.one("dot(q, k)", "scaled_dot", "dot(tanh(q), k) / 2")
        f.scored(a, a.one(None, dot, f"{dot} + {f.bias(a)}"))
        f.rest(a, layout, plain=True)
        a.text = written(a, layout)
        return
    else:
        f.scored(a, a.one(None, f.similarity(a), f"{f.similarity(a)} + {f.bias(a)}", f.score(a, 2)))
    f.rest(a, layout)
    a.text = written(a, layout)


def _each(a: Drawn, of_axis) -> str:
    """A condition along each of some axes; along the others perhaps a band, perhaps nothing."""
    parts = []
    for k, (i, j) in enumerate(f.shared(a)):
        which = of_axis if k == 0 or a.chance() else a.one(None, _band)
        if which is not None:
            parts.append(which(a, i, j))
    return " and ".join(a.shuffled(parts))


def _band(a: Drawn, i: str, j: str) -> str:
    w = a.one(1, 2, 3, 4)
    low = a.one(0, 1, 2, 6, 20)
    options = [f"abs({i} - {j}) < {w}", f"0 <= {i} - {j} < {w}", f"{low} <= {i} - {j} < {low + w}"]
    options += [f"-{w} < {i} - {j} <= {w - 1}", f"{j} - {w} <= {i} and {i} < {j} + 1", f"abs(2 * {i} - 2 * {j}) <= {w}"]
    options += [f"abs({i} - {j}) < {2 * w} and ({i} - {j}) % 2 == 0", f"max({i} - {j}, {j} - {i}) <= {w}"]
    return a.one(*options)


def _class(a: Drawn, i: str, j: str) -> str:
    w, s = a.one(2, 3, 4), a.one(0, 1, 2, 5)
    windows = f"({i} + {s}) // {w} == ({j} + {s}) // {w}" if s else f"{i} // {w} == {j} // {w}"
    return a.one(windows, windows, f"shifted_blocks({i}, {j}, {w}, {s})", f"{i} == {j}")


def _residue(a: Drawn, i: str, j: str) -> str:
    w = a.one(2, 3)
    return a.one(f"{i} % {w} == {j} % {w}", f"({i} - {j}) % {w} == 0", f"({i} - {j}) % {w} == 1")


def _union(a: Drawn) -> str:
    g = a.one(1, 2)
    (i, j), n = f.shared(a)[0], a.over[0]
    ends = [f"{i} < {g}", f"{j} < {g}", f"{j} == 0", f"{j} >= {n} - {g}", f"({j} < {g} and {i} > 1)"]
    bands = [f"({_band(a, i, j)})", f"({_band(a, i, j)})", f"({_class(a, i, j)})"]
    parts = [a.one(*ends, *bands), a.one(*bands), *([a.one(*ends)] if a.chance() else [])]
    return f"({' or '.join(a.shuffled(parts))})"


def _beside(a: Drawn, shown: str) -> str:
    """A condition and something beside it: padding, documents, causality, a table of pairs."""
    which = a.one("nothing", "nothing", "keys", "queries", "same", "causal", "later", "float", "pairs", "any", "head")
    match which:
        case "keys":
            return f"{shown} and {a.data('kj', 'bool', a.over)}[j]"
        case "queries":
            return f"{shown} and {a.data('ki', 'bool', a.positions)}[i]"
        case "same":
            return f"{shown} and {f.same(a)}"
        case "causal" | "later":
            i, j = a.one(*[("i", "j")] * a.alike, *f.shared(a))
            return f"{shown} and {j} <= {i}" if which == "causal" else f"{j} >= {i} and {shown}"
        case "float":
            return f"{shown} and {a.data('fi', 'float', a.positions)}[i] <= {a.data('fj', 'float', a.over)}[j]"
        case "pairs":
            return f"{shown} and {a.data('seen', 'bool', (*a.positions, *a.over))}[i, j]"
        case "any":
            return f"({shown}) and {f.condition(a, 1)}"
        case "head":
            return f"({shown}) and (head == 0 or {f.position(a, 'j')} > 1)"
    return shown
