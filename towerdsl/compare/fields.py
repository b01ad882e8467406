"""One attention --> its fields, each as a reader sees it and as it is compared.

What is compared has no names of its author's: data are called by what they are, learned tensors and streams by their
order, positions by their axis. So two attentions that differ in names alone have the same fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from towerdsl.explain.spell import Speller, short, static_text
from towerdsl.ir import nodes as n
from towerdsl.ir.types import Axis, TensorType
from towerdsl.kernels.base import Plan
from towerdsl.passes.locality import Locality
from towerdsl.passes.score import DotScore

#: What the streams of sources are called: the query's own, then others in the order of query, key and value.
STREAMS = ("x", "memory", "third", "fourth")

#: What changes nothing on the right of an operator.
NEUTRAL = {"+": 0, "-": 0, "*": 1, "/": 1}


@dataclass(frozen=True)
class Field:
    """One field: the parts that are shown, and the same parts as they are compared."""

    name: str
    shown: tuple[str, ...]
    compared: tuple[str, ...]

    def less(self, other: Field) -> tuple[str, ...]:
        """The parts shown that the other does not have."""
        return tuple(s for s, c in zip(self.shown, self.compared, strict=True) if c not in other.compared)

    def same(self, other: Field) -> bool:
        return set(self.compared) == set(other.compared)


def fields(block: n.BlockInstance, plan: Plan, arguments: Mapping[str, str]) -> tuple[Field, ...]:
    """The fields of an attention; `arguments` are the texts of what its block is given."""
    average = block.average
    assert average is not None
    return tuple(_fields(block, average, plan, arguments))


def _fields(block: n.BlockInstance, a: n.Average, plan: Plan, arguments: Mapping[str, str]) -> Iterator[Field]:
    shown, streams = _Names(a), _Streams(block, a, arguments)
    for name, source in (("query", a.query), ("key", a.key), ("value", a.value)):
        yield _one(name, "none" if source is None else streams.text(source))
    own = {x.name for x in a.positions}
    over = [f"{x.name or x.size}" for x in a.over]
    kinds = ["own" if x.name in own else "other" for x in a.over]
    features = f"{len(a.value_features)} features"
    yield Field("over", (", ".join(over),), (f"{', '.join(kinds)}; {features}",))
    rows = [x.name or str(x.size) for x in a.positions]
    others = ["own" if x.name in {y.name for y in a.over} else "other" for x in a.positions]
    yield Field("for each", (", ".join(rows) or "nothing: one average",), (", ".join(others),))
    yield _one("heads", _heads(a))
    score = plan.facts.score
    if isinstance(score, DotScore):
        parts = [_score(score, names) for names in (shown, _Names(a, _data(a)))]
        yield Field("score", tuple(parts[0]), tuple(parts[1]))
    else:
        yield _named("score", a, a.score, shown)
    yield _visible(a, plan.facts.locality, shown)
    options = "".join(f", {name}={static_text(v)}" for name, v in a.options)
    yield _one("normalize", a.normalize + options)
    yield _one("dropout", f"{a.dropout:g}" if a.dropout else "none")
    yield _named("message", a, a.message, shown)
    yield _one("merge", a.merge if a.heads is not None else "none")
    results = [r for r in block.results if isinstance(r, n.Value)]
    yield _one("output", ", ".join(shown.text(r) for r in results))


def _one(name: str, text: str) -> Field:
    return Field(name, (text,), (text,))


def _named(name: str, a: n.Average, value: n.Value, shown: _Names) -> Field:
    return Field(name, (shown.text(value),), (_Names(a, _data(a)).text(value),))


def _heads(a: n.Average) -> str:
    if a.heads is None:
        return "one"
    if a.key_heads is None:
        return "several"
    return f"several, {a.heads.size.opaque('//', a.key_heads)} on each head of the key"


def _score(score: DotScore, names: _Names) -> list[str]:
    """The terms of a score: its product with what it is scaled by, then each bias."""
    size = score.left.axes[-1].size.integer
    dot = f"dot({names.text(score.left)}, {names.text(score.right)})"
    factor, sign = abs(score.factor), "-" if score.factor < 0 else ""
    if score.scalar is not None:
        dot = f"{names.factor(score.scalar)} * {dot}"
    if size is not None and size > 1 and abs(factor - size**-0.5) < 1e-9:
        dot = f"{dot} / sqrt(dk)"
    elif factor != 1:
        dot = f"{short(factor)} * {dot}"
    found = [sign + dot]
    for term in score.biases:
        factor_text = "" if abs(term.factor) == 1 else f"{short(abs(term.factor))} * "
        scalar = "" if term.scalar is None else f"{names.factor(term.scalar)} * "
        text = names.factor(term.value) if factor_text or scalar or term.factor < 0 else names.text(term.value)
        found.append(f"{'-' if term.factor < 0 else '+'} {factor_text}{scalar}{text}")
    return found


def _visible(a: n.Average, locality: Locality, shown: _Names) -> Field:
    """Who is seen: the parts that must all hold."""
    if locality.never:
        return _one("locality, mask", "nothing")

    def texts(conjunct: int) -> tuple[str, str]:
        pair = []
        for names in (shown, _Names(a, _data(a))):
            if conjunct < len(locality.bands):
                b = locality.bands[conjunct]
                pair.append(names.band(b.query, b.key, b.low, b.high))
            else:
                pair.append(names.text(locality.rest[conjunct - len(locality.bands)]))
        return pair[0], pair[1]

    parts = [texts(k) for k in range(len(locality.bands) + len(locality.rest))]
    if not parts:
        return _one("locality, mask", "everything")
    return Field("locality, mask", tuple(s for s, _ in parts), tuple(c for _, c in parts))


def _data(a: n.Average) -> dict[str, str]:
    """What tensors in formulas are called where they are compared: by their type."""
    found = {}
    for root in (a.score, a.message, a.visible):
        for v in root.walk() if root is not None else ():
            if isinstance(v, n.Local) and v.name not in ("q", "k", "v"):
                found[v.name] = f"{v.type.dtype}{len(v.axes)}"
            elif isinstance(v, n.Member):
                found[v.relation] = "relation"
    return found


class _Names(Speller):
    """Spells formulas; with `data`, what tensors are called, as they are compared."""

    def __init__(self, average: n.Average, data: Mapping[str, str] | None = None) -> None:
        super().__init__(average, {})
        self.average, self.data = average, data
        self.weights: dict[tuple[str, ...], str] = {}

    def name(self, axis: Axis) -> str:
        if self.data is None:
            return super().name(axis)
        if axis.side:
            side = self.average.positions if axis.side == "i" else self.average.over
            return f"{axis.side}{[x.name for x in side].index(axis.name)}" if self.several else axis.side
        return "head" if axis.name == "head" else "axis"

    def _written(self, value: n.Value) -> tuple[str, int]:
        if isinstance(value, n.Pointwise) and value.op in NEUTRAL and _is(value.args[-1], NEUTRAL[value.op]):
            return self._written(value.args[0])  # a shift of 0 is none
        text, level = super()._written(value)
        if self.data is None:
            return text, level
        if isinstance(value, n.Local):
            return self.data.get(value.name, value.name), level
        if isinstance(value, n.Weight):
            return self.weights.setdefault(value.path, f"learned{len(self.weights)}"), level
        if isinstance(value, n.Member):
            return "relation[j, i]", level
        return text, level


class _Streams:
    """Where sources come from, in words that do not depend on names."""

    def __init__(self, block: n.BlockInstance, a: n.Average, arguments: Mapping[str, str]) -> None:
        self.lets = {s.names[0]: s.value for s in block.body if isinstance(s, n.Set) and len(s.names) == 1}
        self.arguments = arguments
        self.kinds = dict(block.parameters)
        self.names: dict[str, str] = {}
        self.spell = _SourceNames(a, self)
        for source in (a.query, a.key, a.value):
            if source is not None:
                self.spell.text(source)

    def text(self, source: n.Value) -> str:
        return self.spell.text(source)

    def stream(self, name: str) -> str:
        kind = self.kinds.get(name)
        if not isinstance(kind, TensorType) or kind.dtype != "float":
            return name
        key = self.arguments.get(name, name)
        return self.names.setdefault(key, STREAMS[min(len(self.names), len(STREAMS) - 1)])


class _SourceNames(Speller):
    def __init__(self, average: n.Average, streams: _Streams) -> None:
        super().__init__(average, {})
        self.streams = streams

    def _written(self, value: n.Value) -> tuple[str, int]:
        if isinstance(value, n.Local):
            let = self.streams.lets.get(value.name)
            if let is not None and not any(isinstance(x, n.Local) and x.name == value.name for x in let.walk()):
                return self._code(let)
            return self.streams.stream(value.name), super()._written(value)[1]
        if isinstance(value, n.Weight):
            return "learned", super()._written(value)[1]
        return super()._written(value)


def _is(value: n.Value, number: int) -> bool:
    return isinstance(value, n.Const) and not isinstance(value.value, bool) and value.value == number


def equal(a: Sequence[Field], b: Sequence[Field]) -> int:
    """How many fields are the same."""
    return sum(x.same(y) for x, y in zip(a, b, strict=True))
