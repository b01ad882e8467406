"""Specs --> one row each: the cost of a layer, its steps in turn, and the longest path between positions, as O().

`explain` knows a cost as a polynomial in the free lengths, with numbers for what the spec's sizes make of it. Which
size such a number comes from is found by compiling the spec with other sizes. A number is a polynomial in each size:
its values at five of them, evenly spaced, give its degree, and their fourth difference is zero if it has one. What
several sizes make together is checked with all of them changed at once. What does not pass is unknown, and said so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Any

from towerdsl.diagnostics import TowerError
from towerdsl.explain.facts import Along, Explained
from towerdsl.explain.gather import explain
from towerdsl.ir.reach import Path
from towerdsl.ir.size import Size
from towerdsl.passes.reach import on_long_axes
from towerdsl.passes.static import Setting

FACTORS = (1, 3, 5, 7, 9)  # odd, so that what is even or odd stays so; multiples of what divides, divide

Term = tuple[tuple[str, int], ...]  # a product of powers, as in O(r n d)


@dataclass(frozen=True)
class Growth:
    """O() of a sum of terms, or of a logarithm; or unknown, for a reason."""

    terms: tuple[Term, ...] = ()
    base: str = ""  # log_base(the only term)
    unknown: str = ""

    def __str__(self) -> str:
        if self.unknown:
            return "unknown"
        if self.base:
            return f"O(log_{self.base}({_text(self.terms[0])}))"
        return f"O({' + '.join(map(_text, self.terms)) or '1'})"


@dataclass(frozen=True)
class Complexity:
    """What one spec's layers cost along an axis, as table 1 of Vaswani et al. 2017 counts it.

    `layer` is the work that moves information between positions, `whole` that of the layer with its projections.
    """

    name: str
    axis: str
    layer: Growth
    whole: Growth
    steps: Growth
    path: Growth
    towards: str  # "both", or the only direction in which information moves: "later", "earlier"

    def to_data(self) -> dict[str, Any]:
        """The row as plain data; what is not known is null, with its reason."""
        costs = {"layer": self.layer, "whole": self.whole, "steps": self.steps, "path": self.path}
        found = {name: None if growth.unknown else str(growth) for name, growth in costs.items()}
        reasons = {name: growth.unknown for name, growth in costs.items() if growth.unknown}
        return {"name": self.name, "axis": self.axis, **found, "towards": self.towards, "unknown": reasons}


#: What is measured of a spec with its sizes: numbers by what they are.
Numbers = dict[tuple[str, Term], Fraction]


def complexity(spec: str | FilePath, settings: Mapping[str, Setting] | None = None) -> tuple[Complexity, ...]:
    """The rows of one spec, one for each axis along which positions exchange information. Raises TowerError."""
    probe = _Probe(spec, dict(settings or {}))
    return tuple(_row(probe, along) for along in probe.base.stacks)


class _Probe:
    """A spec compiled with its own sizes and with others."""

    def __init__(self, spec: str | FilePath, settings: dict[str, Setting]) -> None:
        self.spec, self.settings = spec, settings
        self.base = self._explained({})
        self._known: dict[tuple[tuple[str, int], ...], Explained | None] = {(): self.base}
        self.sizes = self._sizes()

    def _explained(self, changed: Mapping[str, int]) -> Explained:
        return explain(self.spec, {**self.settings, **changed})

    def at(self, changed: Mapping[str, int]) -> Explained | None:
        """The facts with other sizes; None where the spec cannot be compiled with them."""
        key = tuple(sorted(changed.items()))
        if key not in self._known:
            try:
                self._known[key] = self._explained(changed)
            except TowerError:
                self._known[key] = None
        return self._known[key]

    def _sizes(self) -> dict[str, int]:
        """The sizes that are whole numbers and no formula of others."""
        own = {k: v for k, v in self.base.sizes if isinstance(v, int) and not isinstance(v, bool) and v > 0}
        made: set[str] = set()
        for name, value in own.items():
            other = self.at({name: value * FACTORS[1]})
            if other is not None and name not in made:
                made |= {k for k, v in other.sizes if k in own and k != name and v != own[k]}
        return {name: value for name, value in own.items() if name not in made}


def _numbers(explained: Explained, axis: str) -> Numbers:
    """Costs of the layers along an axis, by the free lengths that multiply them, and what the path is made of."""
    found: Numbers = {}
    layers = [x for x in explained.layers if axis in x.along]
    for layer in layers:
        costs = {"mixing": layer.mixing, "beside": layer.whole - layer.mixing, "steps": layer.steps}
        for what, cost in costs.items():
            for term, number in _terms(on_long_axes(cost)):
                found[what, term] = max(found.get((what, term), number), number)
    for along in explained.stacks:
        if along.axis == axis:
            found[along.path.kind, ()] = Fraction(along.path.number)
    return found


def _terms(size: Size) -> Iterable[tuple[Term, Fraction]]:
    for monomial, coefficient in size.terms:
        yield tuple((str(atom), power) for atom, power in monomial), coefficient


def _row(probe: _Probe, along: Along) -> Complexity:
    numbers = _numbers(probe.base, along.axis)
    batch = _batch(numbers, along.axis)
    path = _path(probe, along)
    order = {name: 0 for term in path.terms for name, _ in term if name != along.axis} | {path.base: 0}
    order |= {name: 2 for name in probe.sizes if name not in order}

    def parts(what: str) -> list[Part]:
        return [(term, _product(probe, along, (what, term))) for kind, term in numbers if kind == what]

    mixing, beside = parts("mixing"), parts("beside")
    # along a long axis, the highest power of its length
    top = max((dict(term).get(along.axis, 0) for term, _ in mixing), default=0)
    leading = [part for part in mixing if dict(part[0]).get(along.axis, 0) == top]
    return Complexity(
        name=probe.base.name,
        axis=along.axis,
        layer=_sum(leading, batch, order),
        whole=_sum(leading + beside, batch, order),
        steps=_sum(parts("steps"), batch, order),
        path=path,
        towards=along.path.towards,
    )


def _batch(numbers: Numbers, axis: str) -> set[str]:
    """Lengths that only say how often all is done: factors, to the first power, of every cost."""
    terms = [dict(term) for what, term in numbers if what in ("mixing", "beside")]
    names = {name for term in terms for name in term if name != axis}
    return {name for name in names if all(term.get(name) == 1 for term in terms)}


def _product(probe: _Probe, along: Along, key: tuple[str, Term]) -> dict[str, int] | None:
    """The powers of the sizes that a number grows with, or None where it is no such product."""

    def values(names: Iterable[str]) -> list[Fraction] | None:
        found = []
        for factor in FACTORS:
            explained = probe.at({name: probe.sizes[name] * factor for name in names if factor > 1})
            number = _numbers(explained, along.axis).get(key) if explained is not None else None
            if number is None:
                return None
            found.append(number)
        return found

    own = _numbers(probe.base, along.axis)[key]
    powers: dict[str, int] = {}
    for name in probe.sizes:
        other = probe.at({name: probe.sizes[name] * FACTORS[1]})
        # a size that cannot be changed alone is a constant of the spec
        if other is not None and _numbers(other, along.axis).get(key) != own:
            sequence = values([name])
            degree = _degree(sequence) if sequence is not None else None
            if degree is None:
                return None
            powers[name] = degree
    if len(powers) > 1:
        together = values(powers)
        if together is None or _degree(together) != sum(powers.values()):
            return None
    return powers


def _degree(values: list[Fraction]) -> int | None:
    """The degree of the polynomial with these values at evenly spaced places; None if it may be larger."""
    degree, row = 0, list(values)
    for order in range(1, len(values)):
        row = [b - a for a, b in pairwise(row)]
        if any(row):
            degree = order
    return degree if degree < len(values) - 1 else None


Part = tuple[Term, dict[str, int] | None]  # the free lengths that multiply a number, and the sizes that make it


def _sum(parts: list[Part], batch: set[str], order: Mapping[str, int]) -> Growth:
    """The sum of what no other part bounds; sizes of the path are written first, then lengths, then other sizes."""
    found: list[dict[str, int]] = []
    for term, sizes in parts:
        if sizes is None:
            return Growth(unknown="a cost is no product of powers of the sizes")
        factors = {k: v for k, v in (*term, *sizes.items()) if v and k not in batch}
        found.append(dict(sorted(factors.items(), key=lambda item: order.get(item[0], 1))))
    kept = [x for x in found if not any(x != y and all(y.get(k, 0) >= v for k, v in x.items()) for y in found)]
    unique = [x for k, x in enumerate(kept) if x not in kept[:k]]
    return Growth(tuple(tuple(x.items()) for x in unique if x))


def _path(probe: _Probe, along: Along) -> Growth:
    """The path of a stack that goes on as it does, in terms of the sizes."""
    path: Path = along.path
    if path.kind in ("none", "unknown"):
        return Growth(unknown=path.reason or "no information moves")
    if path.kind == "constant":
        return Growth()
    length = (along.axis, 1)
    powers = _product(probe, along, (path.kind, ()))
    if powers is None:
        return Growth(unknown="the reach is no product of powers of the sizes")
    powers = {name: power for name, power in powers.items() if power}
    if path.kind == "ratio":
        return Growth(((length, *((name, -power) for name, power in powers.items())),))
    base = next((name for name in powers if list(powers) == [name] and probe.sizes[name] == path.number), None)
    if powers and base is None:
        return Growth(unknown="the base of the logarithm is no size of its own")
    return Growth(((length,),), base=base or str(path.number))


_POWERS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def _text(term: Term) -> str:
    above = [name + (str(power).translate(_POWERS) if power > 1 else "") for name, power in term if power > 0]
    below = [name + (str(-power).translate(_POWERS) if power < -1 else "") for name, power in term if power < 0]
    text = " · ".join(above) or "1"
    divisor = " · ".join(below)
    return text if not below else f"{text} / {divisor}" if len(below) == 1 else f"{text} / ({divisor})"


def published_form(rows: Iterable[Complexity]) -> list[list[str]]:
    """The rows as texts, with their heads: layer type, complexity per layer, sequential operations, path length."""
    found = [["layer type", "complexity per layer", "with projections", "sequential operations", "maximum path length"]]
    rows = list(rows)
    names = [row.name for row in rows]
    for row in rows:
        name = row.name.replace("_", " ")
        if names.count(row.name) > 1:
            name += f", {row.axis}"
        path = str(row.path) + ("" if row.towards == "both" else f", to {row.towards} positions")
        found.append([name, str(row.layer), str(row.whole), str(row.steps), path])
    return found
