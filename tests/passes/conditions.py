"""Random conditions as text, and what they say of each pair, as Python evaluates the text.

Nothing of towerdsl decides here who sees whom. The text is evaluated twice, in exact fractions and in floats: where the
two do not agree, a condition stands on the edge of a rounding error, and says nothing.
"""

from __future__ import annotations

import ast
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

#: axes of the query and of the key, and whether those of the key have lengths of their own
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], bool]] = {
    "one": (("n",), ("n",), False),
    "cross": (("m",), ("n",), False),
    "grid": (("h", "w"), ("h", "w"), False),
    "space": (("t", "h", "w"), ("t", "h", "w"), False),
    "fewer keys": (("n",), ("n",), True),
    "a smaller grid": (("h", "w"), ("h", "w"), True),
    "a row": (("h", "w"), ("w",), False),
}
#: scores whose weights are not 0 where a key is visible
SCORES = (
    ("1", "none"),
    ("1", "count"),
    ("0.5", "sum"),
    ("0", "softmax"),
    ("dot(q, k)", "softmax"),
    ("dot(q, k)", "sigmoid"),
    ("0", "sparsemax"),
)
SPEC = """
tower: one
sizes: {{{sizes}}}
inputs:
  x: float[{q}, e]
  u: float[{k}, e]
  z: float[{k}, width]
  ki: bool[{q}]
  kj: bool[{k}]
  di: int[{q}]
  dj: int[{k}]
  fj: float[{k}]{relation_input}
blocks:
  look(x, u[{ka}, e], z[{ka}, width], ki, kj[{ka}], di, dj[{ka}], fj[{ka}]{relation}):
    query: x
    key: u
    value: z
    over: [{ka}]{heads}
    score: {score}
    normalize: {normalize}
    mask: "{text}"
outputs: look(x, u, z, ki, kj, di, dj, fj{relation})
"""
#: the most keys, where the size of a value must be known
WIDTH = 64
DATA = ("ki", "kj", "di", "dj", "fj")


@dataclass(frozen=True)
class Condition:
    """A condition in an attention; lengths that are not `fixed` are free."""

    text: str
    kind: str = "one"
    fixed: tuple[tuple[str, int], ...] = ()
    heads: int = 0
    score: tuple[str, str] = SCORES[0]

    def __repr__(self) -> str:
        heads = f", {self.heads} heads" if self.heads else ""
        return f"{self.text}  # {self.kind}, {dict(self.fixed)}{heads}, {' '.join(self.score)}"

    @property
    def query(self) -> tuple[str, ...]:
        return KINDS[self.kind][0]

    @property
    def key(self) -> tuple[str, ...]:
        return KINDS[self.kind][1]

    @property
    def own(self) -> tuple[str, ...]:
        """The names of the lengths of the key's axes."""
        return tuple(f"{a}_key" for a in self.key) if KINDS[self.kind][2] else self.key

    @property
    def names(self) -> tuple[str, ...]:
        """All lengths."""
        return tuple(dict.fromkeys((*self.query, *self.own)))

    @property
    def related(self) -> bool:
        return len(self.query) == len(self.key) == 1

    @property
    def spec(self) -> str:
        sizes = {"e": 2, **dict(self.fixed), **({"width": self.heads * WIDTH} if self.heads else {})}
        q, k = ", ".join(self.query), ", ".join(self.own)
        return SPEC.format(
            sizes=", ".join(f"{name}: {size}" for name, size in sizes.items()),
            q=q,
            k=k,
            ka=", ".join(self.key),
            relation_input=f"\n  edges: relation[{k}, {q}]" if self.related else "",
            relation=", edges" if self.related else "",
            heads=f"\n    heads: {self.heads}" if self.heads else "",
            score=self.score[0],
            normalize=self.score[1],
            text=self.text,
        )


# --- drawing ---------------------------------------------------------------------------------------------------


class _Draw:
    def __init__(self, draw: random.Random, kind: str, heads: int) -> None:
        self.draw, self.kind, self.heads = draw, kind, heads
        self.query, self.key, self.shorter = KINDS[kind]
        several = max(len(self.query), len(self.key)) > 1
        self.bare = not several or (self.query == self.key and not self.shorter)  # `i` counts what `j` counts

    def one(self, *options: Any) -> Any:
        return self.draw.choice(options)

    def chance(self, of: int) -> bool:
        return self.draw.randrange(of) == 0

    # --- numbers

    def pair(self) -> tuple[str, str]:
        """Positions of both sides along one axis, or along all."""
        shared = [a for a in self.query if a in self.key]
        if self.kind == "cross" or (len(self.query) == 1 and self.chance(2)):
            return "i", "j"
        axis = self.one(*shared, *([None] if self.bare else []))
        return (f"i.{axis}", f"j.{axis}") if axis else ("i", "j")

    def position(self) -> str:
        if not self.bare or self.chance(3):
            return self.one(*(f"i.{a}" for a in self.query), *(f"j.{a}" for a in self.key))
        return self.one(*self.pair())

    def constant(self) -> str:
        return str(self.draw.randint(-4, 6))

    def size(self) -> str:
        """A number that grows with a length."""
        if self.shorter:  # of `n` there are two
            return self.constant()
        a = self.one(*self.query, *self.key)
        b = self.one(*self.query, *self.key)
        plain = (a, f"{a} // 2", f"{a} // 2", f"{a} % 3", f"{a} - 2", f"2 * {a}", f"{a} + {b}", f"{a} * {b}")
        nested = (f"-({a} // 2)", f"{a} // (1 + {b} // 2)", f"({a} - {b}) // 2", f"{a} % 2 * {b}", f"-{a} // 3")
        larger = (f"min({a}, {b} // 2)", f"max({a} - 4, 1)", f"-(-{a} // 2)", f"({a} // 2) ** 2", f"{a} // -2")
        return self.one(*plain, *nested, *larger)

    def real(self) -> str:
        """A number that need not be whole."""
        size = self.constant() if self.shorter else self.one(*self.query, *self.key)
        return self.one("0.5", "1.5", "-0.5", "2.5", "0.25", "0.1", "2 ** -1", f"{size} / 2", f"{size} / 3", "2.0")

    def by(self) -> str:
        """What is divided by; of lengths those that are not 0."""
        if self.shorter or not self.chance(5):
            return self.one("2", "3", "4", "2", "3", "5", "1", "-2", "-3")
        size = self.one(*self.query, *self.key)
        return self.one(size, f"({size} + 1)", f"(1 + {size} // 2)", f"-{size}", f"({size} // 2 + 1)")

    def data(self) -> str:
        return self.one("di[i]", "dj[j]", "dj[j]", "int(kj[j])", "2 * dj[j]", "2 * di[i] + 1", "fj[j]")

    def distance(self) -> str:
        i, j = self.pair()
        w, c = self.one("2", "3", "4"), self.constant()
        plain = (f"{i} - {j}", f"{j} - {i}", f"{w} * {i} - {w} * {j}", f"({i} - {j}) * -2", f"{i} - {j} + {c}")
        sums = (f"{i} + {j}", f"{i} - 2 * {j}", f"{w} * {i} - {j}", f"{i} // {w} - {j}", f"{i} - {j} - 0.5")
        floors = (f"({i} + {c}) // {w} - ({j} + {c}) // {w}", f"({i} - {j}) // {w}", f"floor({i} / {w}) - {j} // {w}")
        residues = (f"({i} - {j}) % {w}", f"({i} + {c}) % {w} - {j} % {w}", f"({i} + {j}) % {w}", f"{i} % -{w} + {j}")
        others = (f"max({i}, {j}) - min({i}, {j})", f"{i} * {j}", f"{i} % ({j} + 1)", f"{i} // (1 + {j} // 2)")
        return self.one(*plain * 2, *sums, *floors, *residues, *others)

    def number(self, depth: int) -> str:
        """A number, in parentheses where it needs them behind and before any operator."""
        if not depth or self.chance(4):
            kind = self.one(*["position"] * 4, *["distance"] * 5, "constant", "constant", "size", "real", "data")
            if kind == "data" and self.heads and self.chance(2):
                return "head"
            found = getattr(self, kind)()
            return found if found.isidentifier() or found.isdigit() else f"({found})"
        a = self.number(depth - 1)
        b = self.number(depth - 1)
        w, c = self.one("2", "3", "1.5"), self.constant()
        match self.one(*["sum"] * 3, *["of one"] * 4, *["of two"] * 3, "divided", "divided", "choice", "scaled"):
            case "sum":
                return f"({a} {self.one('+', '-')} {b})"
            case "scaled":
                return f"({self.one(c, c, w, w, self.by())} * {a})"
            case "divided":
                return self.one(f"({a} // {self.by()})", f"({a} % {self.by()})", f"({a} / {self.one('2', '4', '-2')})")
            case "of two":
                return f"{self.one('max', 'min')}({a}, {b})"
            case "choice":
                condition = self.condition(depth - 1)
                return self.one(f"where({condition}, {a}, {b})", f"({a} if {condition} else {b})")
        low, high = self.one("-1", "0", "0.5"), self.one("2", "3", "2.5")
        of_one = ("abs({a})", "abs({a})", "relu({a})", "floor({a})", "round({a})", "int({a})", "sign({a})", "(-{a})")
        return self.one(*of_one, "clip({a}, {low}, {high})", "({a}) ** 2").format(a=a, low=low, high=high)

    # --- conditions

    def defined(self) -> str:
        i, j = self.pair()
        w, s = self.one("1", "2", "3", "4"), self.one("0", "1", "2")
        found = [f"shifted_blocks({i}, {j}, {w}, {s})", f"neighbours({i}, {j}, {s})"]
        if (i, j) == ("i", "j"):
            found += ["causal", f"window({w})", f"causal_window({w})", f"dilated({w}, {self.one('1', '2')})"]
            found += [f"strided({w})", f"blocks({w})", f"global_tokens({s})"]
        return self.one(*found)

    def told(self) -> str:
        """A condition that data tells."""
        found = ["kj[j]", "not ki[i]", "di[i] == dj[j]", "dj[j] > 1", "di[i] < dj[j]", "di[i] != dj[j]"]
        found += ["ki[i] == kj[j]", "2 * dj[j] == 3", "kj[j] == true", "fj[j] > 0.5", "4 * di[i] == 2 * dj[j] + 1"]
        found += ["edges[j, i]", "not edges[j, i]"] if len(self.query) == len(self.key) == 1 else []
        found += ["edges[i, j]"] if self.kind == "one" else []
        return self.one(*found)

    def compared(self, depth: int) -> str:
        """A comparison, which may be chained; one that cannot hold at times."""
        left = self.number(depth)
        right = self.one(*[self.constant] * 4, self.size, self.size, self.real, lambda: self.number(depth))()
        op = self.one("<", "<=", ">", ">=", "==", "!=")
        match self.one("plain", "plain", "plain", "turned", "chain", "odd"):
            case "turned":
                left, right = right, left
            case "chain":
                between = self.one(*[self.constant] * 3, self.size, self.real)()
                return f"{between} {self.one('<', '<=')} {left} {self.one('<', '<=', '!=')} {right}"
            case "odd":
                return f"{self.one('2', '4')} * {left} {op} {self.one('1', '3', '5', '2')}"
        return f"{left} {op} {right}"

    def condition(self, depth: int) -> str:
        """A condition in parentheses where it needs them."""
        kind = self.one(*["compared"] * 5, "defined", "told", *(["joined"] * 5 if depth else []))
        if kind == "defined":
            return self.defined()
        if kind == "told":
            return f"({self.told()})"
        if kind == "compared":
            return f"({self.compared(min(depth, 2))})"
        parts = [self.condition(depth - 1) for _ in range(self.one(2, 2, 3))]
        match self.one("and", "or", "and", "or", "not", "where", "if", "equal", "never"):
            case "not":
                return f"(not {parts[0]})"
            case "where":
                return f"where({parts[0]}, {parts[1]}, {parts[-1]})"
            case "if":
                return f"({parts[0]} if {parts[1]} else {parts[-1]})"
            case "equal":
                return f"({parts[0]} {self.one('==', '!=')} {parts[1]})"
            case "never":
                i, j = self.pair()
                never = self.one(
                    f"2 * ({i} - {j}) == 1", f"{i} < 0", f"{j} != {j}", "2 * dj[j] == 3", f"3 * {i} == 2.5"
                )
                return f"(({never} and {parts[0]}) or {parts[1]})"
            case join:
                return f"({f' {join} '.join(parts)})"


def drawn(seed: int, depth: int = 2) -> Condition:
    """The condition of a seed."""
    draw = random.Random(seed)
    kind = draw.choice(["one"] * 4 + ["grid"] * 2 + list(KINDS))
    query, key, shorter = KINDS[kind]
    heads = draw.choice([0, 0, 0, 2])
    text = _Draw(draw, kind, heads).condition(draw.randint(0, depth))
    most = {1: 7, 2: 4, 3: 3}[max(len(query), len(key))]
    own = () if shorter else tuple(dict.fromkeys((*query, *key)))
    fixed = tuple((a, draw.randint(1, most)) for a in own if draw.random() < 0.25)
    return Condition(text, kind, fixed, heads, draw.choice(SCORES))


# --- evaluating ------------------------------------------------------------------------------------------------


class _Position(int):
    """A row-major index and its parts, `i.h`."""

    parts: dict[str, int]

    def __getattr__(self, name: str) -> int:
        return self.parts[name]


class _Table:
    """Data at a place; an index outside reads the nearest entry."""

    def __init__(self, entries: Tensor) -> None:
        self.entries = entries

    def __getitem__(self, at: Any) -> Any:
        place = tuple(at.parts.values()) if isinstance(at, _Position) else at if isinstance(at, tuple) else (at,)
        return self.entries[place].item()


class _Relation(set[tuple[int, int]]):
    def __getitem__(self, pair: Any) -> bool:
        return tuple(map(int, pair)) in self


class _Plain(ast.NodeTransformer):
    """Python's text with what the language means by it: both sides of `and`, `or` and of a choice are evaluated."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact

    def _call(self, name: str, *args: ast.expr) -> ast.expr:
        return ast.Call(ast.Name(name, ast.Load()), list(args), [])

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        return self._call("every" if isinstance(node.op, ast.And) else "some", *map(self.visit, node.values))

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        return self._call("where", *map(self.visit, (node.test, node.body, node.orelse)))

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        operands = [self.visit(x) for x in (node.left, *node.comparators)]
        pairs = zip(operands, node.ops, operands[1:], strict=False)
        return self._call("every", *(ast.Compare(a, [op], [b]) for a, op, b in pairs))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        if self.exact and isinstance(node.op, ast.Div | ast.Pow):
            return self._call("divided" if isinstance(node.op, ast.Div) else "power", left, right)
        return ast.BinOp(left, node.op, right)

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if self.exact and isinstance(node.value, float):
            return self._call("Fraction", ast.Constant(repr(node.value)))
        return node


FUNCTIONS: dict[str, Any] = {
    "true": True,
    "false": False,
    "abs": abs,
    "min": min,
    "max": max,
    "floor": math.floor,
    "round": round,
    "int": int,
    "relu": lambda x: max(x, 0),
    "sign": lambda x: (x > 0) - (x < 0),
    "clip": lambda x, low, high: min(max(x, low), high),
    "where": lambda c, a, b: a if c else b,
    "every": lambda *parts: all(parts),
    "some": lambda *parts: any(parts),
    "Fraction": Fraction,
    "divided": lambda a, b: Fraction(a) / Fraction(b),
    "power": lambda a, b: Fraction(a) ** b,
    # the library's definitions, by hand
    "shifted_blocks": lambda a, b, w, s: (a + s) // w == (b + s) // w,
    "neighbours": lambda a, b, r: -r <= a - b <= r,
}


def _defined(i: int, j: int) -> dict[str, Any]:
    return {
        "causal": j <= i,
        "window": lambda w: -w < i - j < w,
        "causal_window": lambda w: i - w < j <= i,
        "dilated": lambda w, r: abs(i - j) < w * r and (i - j) % r == 0,
        "strided": lambda s: (i - j) % s == 0,
        "blocks": lambda w: i // w == j // w,
        "global_tokens": lambda g: i < g or j < g,
    }


@dataclass
class Case:
    """A condition with lengths and data."""

    condition: Condition
    lengths: dict[str, int]
    inputs: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        c = self.condition
        draw = torch.Generator().manual_seed(sum(self.lengths.values()))
        self.q, self.k = [self.lengths[a] for a in c.query], [self.lengths[a] for a in c.own]
        self.queries, self.keys = (list(itertools.product(*map(range, x))) for x in (self.q, self.k))
        count = len(self.keys)
        width = WIDTH if c.heads else count or 1
        z = torch.eye(count, width, dtype=torch.float64).reshape(*self.k, width)
        self.inputs = {
            "x": torch.randn(*self.q, 2, generator=draw).double(),
            "u": torch.randn(*self.k, 2, generator=draw).double(),
            "z": torch.cat([z] * c.heads, -1) if c.heads else z,
            "ki": torch.rand(self.q, generator=draw) < 0.6,
            "kj": torch.rand(self.k, generator=draw) < 0.6,
            "di": torch.randint(-2, 4, self.q, generator=draw),
            "dj": torch.randint(-2, 4, self.k, generator=draw),
            "fj": torch.randint(-4, 5, self.k, generator=draw).double() / 4,
        }
        if c.related:
            pairs = [
                torch.randint(max(size, 1), (2 * count if self.q[0] else 0,), generator=draw)
                for size in (*self.k, *self.q)
            ]
            self.inputs["edges"] = torch.stack(pairs)

    def seen(self, text: str | None = None) -> list[list[list[bool]]] | None:
        """For each head and query, whether it sees each key; None where rounding decides. Raises ZeroDivisionError."""
        exact, rounded = (self._evaluated(text or self.condition.text, exact) for exact in (True, False))
        return exact if exact == rounded else None

    @property
    def divides_by_nothing(self) -> bool:
        """Whether the text divides by a length that is 0, also where there is no pair for which it would."""
        divisions = (ast.Div, ast.FloorDiv, ast.Mod)
        tree = ast.walk(ast.parse(self.condition.text, mode="eval"))
        for by in [x.right for x in tree if isinstance(x, ast.BinOp) and isinstance(x.op, divisions)]:
            names = {x.id for x in ast.walk(by) if isinstance(x, ast.Name)}
            if names <= self.lengths.keys() and not eval(ast.unparse(by), dict(self.lengths)):
                return True
        return False

    def _evaluated(self, text: str, exact: bool) -> list[list[list[bool]]]:
        tree = ast.fix_missing_locations(_Plain(exact).visit(ast.parse(text, mode="eval")))
        code = compile(tree, "condition", "eval")
        c = self.condition
        names = FUNCTIONS | {a: self.lengths[a] for a in (*c.query, *c.key) if a in self.lengths}
        names |= {name: _Table(self.inputs[name]) for name in DATA}
        if exact:
            names["fj"] = _Table(self.inputs["fj"])
        if c.related:
            names["edges"] = _Relation(map(tuple, self.inputs["edges"].T.tolist()))
        places = {"i": self._positions(c.query, self.q), "j": self._positions(c.key, self.k)}
        found = []
        for head in range(max(c.heads, 1)):
            rows = []
            for i in places["i"]:
                row = []
                for j in places["j"]:
                    space = {**names, **_defined(i, j), "i": i, "j": j, "head": head}
                    row.append(bool(eval(code, space)))
                rows.append(row)
            found.append(rows)
        return found

    @staticmethod
    def _positions(axes: Sequence[str], lengths: Sequence[int]) -> list[_Position]:
        found = []
        for number, place in enumerate(itertools.product(*map(range, lengths))):
            position = _Position(number)
            position.parts = dict(zip(axes, place, strict=True))
            found.append(position)
        return found

    def weights(self, y: Tensor) -> list[list[list[bool]]]:
        """Which weights of a result, whose values are one for each key, are not 0."""
        heads, rows, keys = max(self.condition.heads, 1), len(self.queries), len(self.keys)
        shown = y.reshape(rows, heads, y.shape[-1] // heads)[..., :keys].abs() > 1e-9
        found: list[list[list[bool]]] = shown.movedim(1, 0).tolist()
        return found


#: lengths that are drawn, by the number of axes
LENGTHS = {1: (1, 2, 3, 5, 7, 0), 2: (1, 2, 3, 5, 0), 3: (1, 2, 3)}
#: the most pairs of a case
MOST_PAIRS = 700


def cases(condition: Condition, count: int = 3) -> Iterator[Case]:
    """The condition at several lengths, those of the key and of each axis different from others at times."""
    draw = random.Random(condition.text)
    options = LENGTHS[max(len(condition.query), len(condition.key))]
    fixed = dict(condition.fixed)
    met: set[tuple[int, ...]] = set()
    for _ in range(8 * count):
        lengths = {a: fixed.get(a, draw.choice(options)) for a in condition.names}
        pairs = math.prod(lengths[a] for a in condition.query) * math.prod(lengths[a] for a in condition.own)
        if pairs > MOST_PAIRS or tuple(lengths.values()) in met:
            continue
        met.add(tuple(lengths.values()))
        yield Case(condition, lengths)
        if len(met) == count:
            return
