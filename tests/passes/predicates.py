"""Random conditions over i and j, as text that both the language and Python read, and what they say of each pair.

Nothing of towerdsl decides here who sees whom: Python evaluates the text, one i and j at a time. `Values` evaluates the
values that the analysis gives back, node by node, in plain numbers.
"""

from __future__ import annotations

import ast
import itertools
import math
import random
from dataclasses import dataclass, field

from hypothesis import strategies as st

from towerdsl.compiler import compile_spec
from towerdsl.ir import nodes as n
from towerdsl.passes.locality import Locality

SPEC = """
tower: one
sizes: {{d: 4{sizes}}}
inputs:
  x: float[b, {axes}, d]
  keep: bool[b, {axes}]
  doc: int[b, {axes}]
  edges: relation[{first}, {first}]
blocks:
  look(x[b, {axes}, d], keep, doc, edges):
    over: [{axes}]
    query: x
    key: x
    value: x
    locality: "{text}"
outputs: look(x, keep, doc, edges)
"""


@dataclass
class Predicate:
    """A condition, and which of the lengths it is about are known when compiling."""

    text: str
    axes: tuple[str, ...] = ("n",)
    fixed: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.text}  # over {', '.join(self.axes)}, {self.fixed}"

    @property
    def spec(self) -> str:
        sizes = "".join(f", {name}: {size}" for name, size in self.fixed.items())
        return SPEC.format(sizes=sizes, axes=", ".join(self.axes), first=self.axes[0], text=self.text)

    def locality(self) -> Locality:
        ((_, plan),) = compile_spec(self.spec).plans.items()
        return plan.facts.locality


# --- drawing ---------------------------------------------------------------------------------------------------


class _Draw:
    def __init__(self, draw, axes: tuple[str, ...], data: bool) -> None:
        self.draw, self.axes, self.data = draw, axes, data

    def one(self, *options):
        return self.draw(st.sampled_from(options))

    def number(self, low: int = -4, high: int = 6) -> str:
        return str(self.draw(st.integers(low, high)))

    def width(self) -> str:
        return self.one("2", "3", "4", "1", "5")

    def pair(self) -> tuple[str, str]:
        """Positions of both sides along one axis, or along all."""
        if len(self.axes) == 1:
            return "i", "j"
        axis = self.one(*self.axes, None)
        return (f"i.{axis}", f"j.{axis}") if axis else ("i", "j")

    def position(self) -> str:
        return self.one(*self.pair())

    def bound(self) -> str:
        """A number, or one that grows with a length."""
        size = self.one(*self.axes)
        return self.one(*[self.number()] * 4, size, f"{size} - {self.width()}", f"{size} // 2", f"{size} / 2")

    def distance(self, depth: int) -> str:
        i, j = self.pair()
        w, c = self.width(), self.number()
        plain = (f"{i} - {j}", f"{j} - {i}", f"{w} * {i} - {w} * {j}", f"({i} - {j}) * -2", f"{i} - {j} + {c}")
        floors = (f"{i} // {w} - {j} // {w}", f"({i} + {c}) // {w} - ({j} + {c}) // {w}", f"({i} - {j}) // {w}")
        residues = (f"({i} - {j}) % {w}", f"({i} + {c}) % {w} - {j} % {w}", f"({i} + {j}) % {w}", f"{i} % {w} - {c}")
        sums = (f"{i} + {j}", f"{i} - 2 * {j}", f"{w} * {i} - {j}", f"{i} // {w} - {j}", f"{i} // 2 // {w} - {j} // 4")
        larger = (f"max({i}, {j}) - min({i}, {j})", f"max({i}, {c}) - {j}", f"min({i} - {j}, {c})")
        options = [*plain * 2, *floors, *residues, *sums, *larger, f"floor({i} / {w}) - floor({j} / {w})"]
        found = self.one(*options)
        if depth and self.one(False, False, True):
            shape = self.one(
                "abs({a})", "-({a})", "({a}) // {w}", "({a}) % {w}", "abs({a}) % {w}", "where({b}, {a}, {c})"
            )
            found = shape.format(a=found, b=self.condition(0), w=self.one(w, w, "-2"), c=c)
        return found

    def data_condition(self) -> str:
        options = ["keep[j]", "not keep[i]", "doc[i] == doc[j]", "doc[j] > 1", "doc[i] < doc[j]", "doc[i] != doc[j]"]
        options += ["keep[i] == keep[j]", "doc[j] == doc[i]", "keep[j] == true", "doc[i] >= doc[j] + 1", "1 < doc[j]"]
        if len(self.axes) == 1:
            options += ["edges[j, i]", "edges[i, j]", "not edges[j, i]"]
        return self.one(*options)

    def condition(self, depth: int) -> str:
        """A condition in parentheses where it needs them."""
        if depth and self.one(True, True, False):
            kind = self.one("and", "or", "and", "or", "not")
            if kind == "not":
                return f"not ({self.condition(depth - 1)})"
            count = self.one(2, 2, 3)
            return "(" + f" {kind} ".join(self.condition(depth - 1) for _ in range(count)) + ")"
        kind = self.one("distance", "distance", "classes", "end", "chain", "data" if self.data else "end")
        op = self.one("<", "<=", ">", ">=", "==", "!=")
        i, j = self.pair()
        w, c = self.width(), self.number()
        match kind:
            case "distance":
                left, right = self.distance(depth), self.bound()
                return f"{left} {op} {right}" if self.one(True, True, False) else f"{right} {op} {left}"
            case "classes":
                other = self.one(c, c, self.number())
                form = self.one(
                    "({p} + {c}) // {w}", "({p} - {c}) // {w}", "{p} // {w}", "({p} + {c}) % {w}", "{p} // 2 // {w}"
                )
                return (
                    f"{form.format(p=i, c=c, w=w)} {self.one('==', '==', '<=', '!=')} {form.format(p=j, c=other, w=w)}"
                )
            case "end":
                return f"{self.position()} {op} {self.bound()}"
            case "chain":
                inner = self.one(f"{i} - {j}", f"{j} - {i}", i, j, f"2 * ({i} - {j})")
                return f"{c} {self.one('<', '<=')} {inner} {self.one('<', '<=')} {self.bound()}"
        return self.data_condition()


@st.composite
def predicates(draw, data: bool = True, depth: int = 2) -> Predicate:
    """A condition over one axis or two, of known or free lengths."""
    axes = draw(st.sampled_from([("n",), ("n",), ("h", "w")]))
    fixed = {a: draw(st.integers(1, 6 if len(axes) == 1 else 4)) for a in axes if draw(st.booleans())}
    return Predicate(_Draw(draw, axes, data).condition(depth), axes, fixed)


# --- evaluating ------------------------------------------------------------------------------------------------


class _Position(int):
    """A row-major index and its parts."""

    parts: dict[str, int]

    def __getattr__(self, name: str) -> int:
        return self.parts[name]


class _Table(dict):
    def __getitem__(self, at):
        return super().__getitem__(tuple(at.parts.values()))


class _Relation(set):
    def __getitem__(self, pair):
        return tuple(map(int, pair)) in self


@dataclass
class Case:
    """A predicate with lengths and data: who sees whom, pair by pair."""

    predicate: Predicate
    lengths: dict[str, int]

    def __post_init__(self) -> None:
        draw = random.Random(str(self.lengths))
        axes = self.predicate.axes
        self.places = list(itertools.product(*(range(self.lengths[a]) for a in axes)))
        self.keep = {p: draw.random() < 0.6 for p in self.places}
        self.doc = {p: draw.randrange(3) for p in self.places}
        count = self.lengths[axes[0]]
        self.edges = {(a, b) for a in range(count) for b in range(count) if draw.random() < 0.3}
        code = compile(self.predicate.text, "predicate", "eval")
        self.seen = {(i, j): bool(eval(code, {}, self._names(i, j))) for i in self.places for j in self.places}

    def _names(self, i, j) -> dict:
        names = {"true": True, "false": False, "abs": abs, "min": min, "max": max, "floor": math.floor, **self.lengths}
        names |= {"where": lambda c, a, b: a if c else b}
        for name, place in (("i", i), ("j", j)):
            flat = 0
            for axis, x in zip(self.predicate.axes, place, strict=True):
                flat = flat * self.lengths[axis] + x
            names[name] = _Position(flat)
            names[name].parts = dict(zip(self.predicate.axes, place, strict=True))
        return names | {"keep": _Table(self.keep), "doc": _Table(self.doc), "edges": _Relation(self.edges)}

    def values(self, i, j) -> Values:
        return Values(self, {"i": i, "j": j})


def cases(predicate: Predicate) -> list[Case]:
    """The predicate at several lengths."""
    few = (1, 2, 3, 5, 8) if len(predicate.axes) == 1 else (1, 2, 4)
    options = [(predicate.fixed[a],) if a in predicate.fixed else few for a in predicate.axes]
    return [Case(predicate, dict(zip(predicate.axes, x, strict=True))) for x in itertools.product(*options)]


@dataclass
class Values:
    """Values of the typed model at one i and j."""

    case: Case
    places: dict[str, tuple[int, ...]]

    def at(self, axis) -> int:
        return self.places[axis.side][self.case.predicate.axes.index(axis.name)]

    def size(self, size) -> int:
        names = {name: type(size).of(length) for name, length in self.case.lengths.items()}
        found = size.substitute(names).constant
        return int(found) if found.denominator == 1 else found

    def __call__(self, v: n.Value):
        match v:
            case n.Const():
                return v.value
            case n.SizeOf():
                return self.size(v.size)
            case n.Position():
                return self.at(v.axes[0])
            case n.Shared() | n.Cast():
                return self(v.arg)
            case n.Rename() if isinstance(v.arg, n.Local):
                sides = [a for a in v.axes if a.side]
                assert len({a.side for a in sides}) == 1
                place = tuple(self.at(next(a for a in sides if a.name == name)) for name in self.case.predicate.axes)
                return {"keep": self.case.keep, "doc": self.case.doc}[v.arg.name][place]
            case n.Member():
                return tuple(self.at(a) for a in v.axes) in self.case.edges
            case n.Pointwise():
                return _OPERATIONS[v.op](*map(self, v.args))
        raise AssertionError(v)

    def all(self, locality: Locality) -> bool:
        """Whether a locality lets this pair see: all bands and all of the rest."""
        return not locality.never and all(map(self.band, locality.bands)) and all(map(self, locality.rest))

    def band(self, band) -> bool:
        difference = self.at(band.query) - self.at(band.key)
        above = band.low is None or self.size(band.low) <= difference
        return above and (band.high is None or difference <= self.size(band.high))


_OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "/": lambda a, b: a / b,
    "neg": lambda a: -a,
    "abs": abs,
    "min": min,
    "max": max,
    "floor": math.floor,
    "where": lambda c, a, b: a if c else b,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": lambda a: not a,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


# --- rewriting -------------------------------------------------------------------------------------------------


def rewritten(text: str, draw: random.Random) -> str:
    """The condition in another form that says the same: turned around, shifted, scaled, negated, in another order."""
    return ast.unparse(_Rewriter(draw).visit(ast.parse(text, mode="eval"))).replace("True", "true")


_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_OPPOSITE = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}


class _Rewriter(ast.NodeTransformer):
    """Every node may be written in another way, each by algebra that holds for all whole numbers."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    def _new(self, text: str, **parts: ast.expr) -> ast.expr:
        return ast.parse(text.format(**{k: f"({ast.unparse(v)})" for k, v in parts.items()}), mode="eval").body

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        parts = [self.visit(v) for v in node.values]
        self.draw.shuffle(parts)
        if self.draw.random() < 0.3:
            parts.append(self.draw.choice(parts))
        if self.draw.random() < 0.4:  # De Morgan
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            return self._new("not {x}", x=ast.BoolOp(other, [self._new("not {x}", x=p) for p in parts]))
        return ast.BoolOp(node.op, parts)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        operands = [node.left, *node.comparators]
        if len(node.ops) > 1:
            pairs = [ast.Compare(a, [op], [b]) for a, op, b in zip(operands, node.ops, operands[1:], strict=False)]
            return self.visit(ast.BoolOp(ast.And(), pairs))
        (a, b), (kind,) = operands, node.ops
        if any(isinstance(x, ast.Constant) and isinstance(x.value, bool) for x in (a, b)):
            return node
        op = _OPERATORS[type(kind)]
        way = self.draw.randrange(9)
        if any(isinstance(x, ast.Name) and x.id == "keep" for x in ast.walk(node)):  # truth values
            way %= 2
        options = {
            0: f"{{b}} {_FLIPPED[op]} {{a}}",
            1: f"not {{a}} {_OPPOSITE[op]} {{b}}",
            2: f"{{a}} + {{c}} {op} {{b}} + {{c}}",
            3: f"{{c}} * {{a}} {op} {{b}} * {{c}}",
            4: f"-{{a}} {_FLIPPED[op]} -{{b}}",
            5: f"{{a}} - {{b}} {op} 0",
            6: {"<": "{a} <= {b} - 1", ">": "{a} - 1 >= {b}"}.get(op),
            7: {"==": "{a} <= {b} and {b} <= {a}", "!=": "{a} < {b} or {b} < {a}"}.get(op),
        }
        if way == 6 and any(isinstance(x, ast.Div) for x in ast.walk(node)):  # may be no whole number
            way = 5
        return self._new(options.get(way) or f"{{a}} {op} {{b}}", a=a, b=b, c=ast.Constant(self.draw.randint(1, 5)))


_OPERATORS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
