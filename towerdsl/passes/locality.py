"""What each query sees, read symbolically from the condition over i and j.

A band bounds the distance of positions along one axis, `low <= i - j <= high`. It is found from the algebra of a
condition, so `abs(i - j) < 4 and j <= i`, `0 <= i - j < 4` and the library's names for them are one band. So are
windows, residues, relations, what one side alone decides, and unions of all these. No pair of positions is ever
evaluated: what the algebra does not show is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from towerdsl.budget import TooMuch, at_most
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.passes import implied
from towerdsl.passes.formula import FALSE, All, Either, Fact, Formula, Within, pair
from towerdsl.passes.intervals import EVERY, ONLY_ZERO, Order
from towerdsl.passes.linear import ONE, ZERO, Floor, Modulo, Reader, sides_of
from towerdsl.passes.logic import Logic
from towerdsl.passes.written import Writer


@dataclass(frozen=True)
class Band:
    """`low <= i - j <= high` along the query's and the key's position of one axis; None is unbounded."""

    query: Axis
    key: Axis
    low: Size | None
    high: Size | None

    def __str__(self) -> str:
        name = f".{self.query.name}" if self.query.name else ""
        low = "" if self.low is None else f"{self.low} <= "
        high = "" if self.high is None else f" <= {self.high}"
        return f"{low}i{name} - j{name}{high}"


@dataclass(frozen=True)
class Classes:
    """`(i + shift) // width == (j + shift) // width` along one axis: windows, blocks."""

    query: Axis
    key: Axis
    width: Size
    shift: Size
    value: n.Value = field(compare=False, repr=False)


@dataclass(frozen=True)
class Residue:
    """`(i - j) % step == rest` along one axis."""

    query: Axis
    key: Axis
    step: Size
    rest: Size
    value: n.Value = field(compare=False, repr=False)


@dataclass(frozen=True)
class End:
    """`low <= p <= high` for the position p of one side: the first or last few queries or keys; None is unbounded."""

    axis: Axis
    low: Size | None
    high: Size | None
    value: n.Value = field(compare=False, repr=False)


@dataclass(frozen=True)
class Same:
    """`left(i) == right(j)`, where both come from data: documents, segments."""

    left: n.Value
    right: n.Value
    value: n.Value = field(compare=False, repr=False)


@dataclass(frozen=True)
class Related:
    """The pair of a key and a query is in a relation; `forward` where the key is its source: `edges[j, i]`."""

    relation: str
    query: Axis
    key: Axis
    forward: bool
    value: n.Value = field(compare=False, repr=False)


@dataclass(frozen=True)
class Sided:
    """A condition of queries alone (side "i") or of keys alone ("j"): `keep[j]`, `j % 2 == 0`."""

    side: str
    value: n.Value = field(compare=False, repr=False)


@dataclass(frozen=True)
class Union:
    """At least one of the parts holds; each is what holds beside the rest of the conjunction."""

    parts: tuple[Locality, ...]
    value: n.Value = field(compare=False, repr=False)


T = TypeVar("T")
#: How much work it is worth to know more of one condition.
WORTH = 100_000
Reading = Classes | Residue | End | Same | Related | Sided | Union


@dataclass(frozen=True)
class Locality:
    """A conjunction: all bands hold, and all of `rest`. `never` is true where nothing can be seen.

    The tuples after `never` are readings of entries of `rest`: each keeps, as `value`, the entry that it is read from.
    What is in none of them is unknown: it may be anything.
    """

    bands: tuple[Band, ...] = ()
    rest: tuple[n.Value, ...] = ()
    never: bool = False
    classes: tuple[Classes, ...] = ()
    residues: tuple[Residue, ...] = ()
    ends: tuple[End, ...] = ()
    same: tuple[Same, ...] = ()
    related: tuple[Related, ...] = ()
    sided: tuple[Sided, ...] = ()
    unions: tuple[Union, ...] = ()
    source: _Source | None = field(default=None, compare=False, repr=False)

    @property
    def everything(self) -> bool:
        return not (self.bands or self.rest or self.never)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """All that is read of entries of `rest`."""
        return (*self.classes, *self.residues, *self.ends, *self.same, *self.related, *self.sided, *self.unions)

    @property
    def unknown(self) -> tuple[n.Value, ...]:
        """The entries of `rest` that no reading tells."""
        return tuple(v for v in self.rest if all(v is not r.value for r in self.readings))

    @property
    def condition(self) -> n.Value | None:
        """All of it as one condition; None where everything is visible."""
        return self.source.written() if self.source is not None else None

    def without(self, *readings: Band | Reading) -> Locality:
        """What is left to see to where these are taken care of."""
        if self.source is None or self.never:
            return self
        gone = [r.value for r in readings if not isinstance(r, Band)]
        kept = [p for b, p in zip(self.bands, self.source.parts, strict=False) if b not in readings]
        rest = self.source.parts[len(self.bands) :]
        kept += [p for v, p in zip(self.rest, rest, strict=True) if all(v is not x for x in gone)]
        return self.source.locality(All(tuple(kept)))

    def alternatives(self, most: int = 16) -> tuple[Locality, ...]:
        """Conjunctions of which one has to hold: unions distributed, up to a number of them; they may overlap."""
        if self.source is None or not self.unions:
            return (self,)
        places = [k for k, v in enumerate(self.rest, len(self.bands)) if any(v is u.value for u in self.unions)]
        found: list[list[Formula]] = [[]]
        for place, part in enumerate(self.source.parts):
            options = _alternatives(part) if place in places else (part,)
            if len(found) * len(options) > most:
                options = (part,)
            found = [[*parts, option] for parts in found for option in options]
        try:
            with at_most(WORTH):
                read = [self.source.locality(self.source.logic.all_of(parts)) for parts in found]
        except TooMuch:
            return (self,)
        return tuple(x for x in read if not x.never)

    def hull(self) -> tuple[Band, ...]:
        """For each axis the tightest known band that has all visible pairs: what must hold, whatever else has to."""
        return self._hull

    @cached_property
    def _hull(self) -> tuple[Band, ...]:
        if self.source is None:
            return self.bands
        try:
            with at_most(WORTH):
                found = implied.hull(self.source.logic, self.source.parts)
        except TooMuch:
            return self.bands
        return tuple(sorted((Band(i, j, *ends) for (i, j), ends in found.items()), key=str))

    def causal(self, average: n.Average) -> bool:
        """Whether this is exactly `j <= i` along the only axis of the query's and the key's positions."""
        if len(self.bands) != 1 or self.rest or self.never or len(average.positions) + len(average.over) > 2:
            return False
        band = self.bands[0]
        return band.high is None and band.low == ZERO and band.query.size == band.key.size

    def looks_back(self, average: n.Average) -> bool | None:
        """Whether no query sees a later position, `j <= i` along the only axis; False where one does at some length."""
        if self.never:
            return True
        if len(average.positions) != 1 or len(average.over) != 1 or average.positions[0].name != average.over[0].name:
            return None
        (i,), (j,) = average.positions, average.over
        logic, parts = self._worked
        lows = [b.low for b in self.hull() if b.low is not None]
        if any(logic.order.at_most(ZERO, low) for low in lows):
            return True
        try:
            with at_most(WORTH):
                return False if implied.sees_ahead(logic, parts, i, j) else None
        except TooMuch:
            return None

    def has_empty_rows(self) -> bool | None:
        """Whether a query sees no key, where there are any; None where that depends on data, or is not known."""
        return self._has_empty_rows

    @cached_property
    def _has_empty_rows(self) -> bool | None:
        if self.never:
            return True
        try:
            with at_most(WORTH):
                return implied.has_empty_rows(*self._worked)
        except TooMuch:
            return None

    @property
    def _worked(self) -> tuple[Logic, tuple[Formula, ...]]:
        return (self.source.logic, self.source.parts) if self.source is not None else (_logic(()), ())


def _alternatives(part: Formula) -> tuple[Formula, ...]:
    """The parts of a union; the intervals of a form that is in one of several."""
    if isinstance(part, Within):
        return tuple(Within(part.form, (x,)) for x in part.sets)
    return part.parts if isinstance(part, Either) else (part,)


# --- reading ---------------------------------------------------------------------------------------------------


def analyze(visible: n.Value | None) -> Locality:
    """The locality of a condition (None: everything is visible)."""
    if visible is None:
        return Locality()
    logic = _logic(visible.axes)
    source = _Source((), logic, Writer(visible.axes, visible.span, logic.order))
    try:
        with at_most(WORTH):
            return source.locality(logic.formula(visible))
    except TooMuch:
        return source.locality(Fact(visible))


def simplify(visible: n.Value | None) -> n.Value | None:
    """The same condition in one form for all ways to write it: bands first, each once, then the rest."""
    return analyze(visible).condition


def _logic(axes: Sequence[Axis]) -> Logic:
    """Lengths of axes are at least 1 wherever there is a pair to decide on."""
    return Logic(Reader(Order(frozenset(name for a in axes if a.size.is_free for name in a.size.free_names))))


@dataclass(frozen=True)
class _Source:
    """The formulas of a locality, one for each band and each entry of `rest`, and how to work with them."""

    parts: tuple[Formula, ...]
    logic: Logic
    writer: Writer

    def locality(self, formula: Formula) -> Locality:
        """What a formula says."""
        if formula == FALSE:
            return Locality(never=True, source=_Source((FALSE,), self.logic, self.writer))
        bands: list[tuple[Band, Formula]] = []
        rest: list[Formula] = []
        for part in formula.parts if isinstance(formula, All) else (formula,):
            axes = pair(part.form) if isinstance(part, Within) else None
            if axes is None or not isinstance(part, Within):
                rest.append(part)
                continue
            hull = self.logic.order.hull(part.sets)
            if hull != (None, None):
                bands.append((Band(*axes, *hull), Within(part.form, (hull,))))
            within = self.logic.order.within(part.sets, (hull,)) if len(part.sets) > 1 else EVERY
            if within != EVERY:
                rest.append(Within(part.form, within))
        bands.sort(key=lambda b: str(b[0]))
        source = _Source((*(p for _, p in bands), *rest), self.logic, self.writer)
        values = tuple(map(self.writer.condition, rest))
        found = [self._read(part, value) for part, value in zip(rest, values, strict=True)]

        def those(kind: type[T]) -> tuple[T, ...]:
            return tuple(r for r in found if isinstance(r, kind))

        return Locality(
            tuple(b for b, _ in bands),
            values,
            False,
            those(Classes),
            those(Residue),
            those(End),
            those(Same),
            those(Related),
            those(Sided),
            those(Union),
            source,
        )

    def _read(self, part: Formula, value: n.Value) -> Reading | None:
        """A part that is no band, as what is known of its kind."""
        if isinstance(part, Within):
            found = self._number(part, value)
            if found is not None:
                return found
        if isinstance(part, Fact):
            inner = n.plain(part.value)
            if isinstance(inner, n.Member) and part.holds:
                source, target = inner.axes
                if {source.side, target.side} == {"i", "j"}:
                    forward = source.side == "j"
                    query, key = (target, source) if forward else (source, target)
                    return Related(inner.relation, query, key, forward, value)
            if isinstance(inner, n.Pointwise) and inner.op == "==" and part.holds:
                left, right = inner.args
                return _same(left, right, value) or _side(part, value)
        if (side := _side(part, value)) is not None:
            return side
        if len(parts := _alternatives(part)) > 1:
            return Union(tuple(map(self.locality, parts)), value)
        return None

    def _number(self, part: Within, value: n.Value) -> Reading | None:
        """A form in intervals, as an end, classes, residues, or data that is the same."""
        form, sets = part.form, part.sets
        atoms = [a for a, _ in form.terms]
        if len(sets) == 1 and len(atoms) == 1:
            low, high = sets[0]
            match atoms[0]:
                case n.Position() if sides_of(atoms[0].axes) in ("i", "j") and form.terms[0][1] == ONE:
                    return End(atoms[0].axes[0], low, high, value)
                case Modulo() if low is not None and low == high and (axes := pair(atoms[0].form)) is not None:
                    return Residue(*axes, atoms[0].by, low, value)
        if sets != ONLY_ZERO or [f for _, f in form.terms] != [ONE, -ONE]:
            return None
        a, b = atoms
        if isinstance(a, Floor) and isinstance(b, Floor) and a.by == b.by and a.form.constant == b.form.constant:
            axes = pair(a.form - b.form)
            return Classes(*axes, a.by, a.form.constant, value) if axes is not None else None
        return _same(a, b, value) if isinstance(a, n.Value) and isinstance(b, n.Value) else None

    def written(self) -> n.Value | None:
        """All parts as a condition, bands first; None where there are none."""
        if self.parts == (FALSE,):
            return self.writer.condition(FALSE)
        values = [v for part in self.parts for v in conjuncts(self.writer.condition(part))]
        return joined(values, self.writer.axes)


def _same(left: n.Value, right: n.Value, value: n.Value) -> Same | None:
    """Data of the query that is that of the key."""
    data = not any(isinstance(n.plain(x), n.Position) for x in (left, right))
    return Same(left, right, value) if data and (sides_of(left.axes), sides_of(right.axes)) == ("i", "j") else None


def _side(part: Formula, value: n.Value) -> Sided | None:
    side = sides_of(part.axes)
    return Sided(side, value) if side in ("i", "j") else None


# --- conditions as lists of parts ------------------------------------------------------------------------------


def joined(parts: Sequence[n.Value], axes: Sequence[Axis]) -> n.Value | None:
    """All of some parts of a condition, whose axes stand in this order; None where there are none."""
    if not parts:
        return None
    result = parts[0]
    for part in parts[1:]:
        own = tuple(a for a in axes if a in result.axes or a in part.axes)
        kind = TensorType("bool", own, result.type.scalar and part.type.scalar)
        result = n.Pointwise(kind, result.span, "and", (result, part))
    return result


def conjuncts(value: n.Value) -> list[n.Value]:
    """The parts of a condition that must all hold."""
    inner = n.plain(value)
    if isinstance(inner, n.Pointwise) and inner.op == "and":
        return [part for arg in inner.args for part in conjuncts(arg)]
    return [value]
