"""Conditions in one form: a tree of `all` and `either` over linear forms in intervals and facts about data.

    abs(i - j) < 4 and j <= i            i - j within 0 .. 3
    not (i - j >= 4 or j > i)            the same
    (j <= i or keep[j]) and j <= i       i - j within 0 .. : one part absorbs the other

`not` stands in front of facts alone. What one part says of a form is left out of the others, and what all alternatives
have in common stands in front of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from towerdsl.budget import TooMuch, spend
from towerdsl.ir import nodes as n
from towerdsl.ir.printer import show_value
from towerdsl.ir.size import Size
from towerdsl.ir.types import TensorType
from towerdsl.passes.formula import FALSE, TRUE, All, Either, Fact, Formula, Within
from towerdsl.passes.intervals import EVERY, NONE, ONLY_ZERO, Interval, Intervals, TooComplex, floored
from towerdsl.passes.linear import (
    ONE,
    ZERO,
    Atom,
    Choice,
    Floor,
    Larger,
    Linear,
    Modulo,
    Reader,
    common,
    negative,
    quotient,
    replaced,
    sides_of,
    single,
)

NOT_BELOW: Intervals = ((ZERO, None),)


class Logic:
    """Values --> formulas, by what is known of lengths."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.order = reader, reader.order

    # --- from values ------------------------------------------------------------------------------------------

    def formula(self, value: n.Value) -> Formula:
        """The formula of a condition; of one that is too complex for the algebra a single fact."""
        try:
            return self._formula(value)
        except (TooMuch, RecursionError):
            return Fact(value)

    def _formula(self, value: n.Value) -> Formula:
        inner = n.plain(value)
        if isinstance(inner, n.Const):
            return TRUE if inner.value else FALSE
        if isinstance(inner, n.Pointwise):
            match inner.op:
                case "and":
                    return self.all_of(map(self._formula, inner.args))
                case "or":
                    return self.either_of(map(self._formula, inner.args))
                case "not":
                    return self.negated(self._formula(inner.args[0]))
                case "where":
                    return self._chosen(inner.args[0], *map(self._formula, inner.args[1:]))
                case "==" | "!=" | "<" | "<=" | ">" | ">=":
                    return self._compared(inner)
        return Fact(value)

    def _compared(self, value: n.Pointwise) -> Formula:
        a, b = value.args
        if value.op in (">", ">="):
            return self._compared(replace(value, op={">": "<", ">=": "<="}[value.op], args=(b, a)))
        if value.op == "!=":
            return self.negated(self._compared(replace(value, op="==")))
        if value.op == "==" and {a.type.dtype, b.type.dtype} == {"bool"}:
            for truth, other in ((n.plain(a), b), (n.plain(b), a)):
                if isinstance(truth, n.Const):
                    found = self._formula(other)
                    return found if truth.value else self.negated(found)
        x, y = self.reader.linear(a), self.reader.linear(b)
        if x is None or y is None:
            if value.op == "==":
                first, second = sorted(value.args, key=lambda v: ("ij".find(sides_of(v.axes)) % 3, show_value(v)))
                value = replace(value, args=(first, second))
            return Fact(value)
        if value.op == "==":
            return self.compared(y - x, ONLY_ZERO)
        if value.op == "<=":
            return self.compared(y - x, NOT_BELOW)
        return self.negated(self.compared(x - y, NOT_BELOW))  # so that no bound of what need not be whole is left out

    def _chosen(self, condition: n.Value, yes: Formula, no: Formula) -> Formula:
        holds = self._formula(condition)
        return self.either_of((self.all_of((holds, yes)), self.all_of((self.negated(holds), no))))

    # --- linear forms in intervals ----------------------------------------------------------------------------

    def compared(self, form: Linear, sets: Intervals) -> Formula:
        """form in one of the intervals."""
        for atom in form.atoms():
            if isinstance(atom, Choice):
                yes, no = (self.compared(self._with(form, atom, x), sets) for x in atom.forms)
                return self._chosen(atom.condition, yes, no)
            if isinstance(atom, Larger):
                return self._larger(form, atom, sets)
        return self._within(form, sets)

    def _with(self, form: Linear, atom: Atom, by: Linear) -> Linear:
        return replaced(self.reader, form, {atom: by})

    def _larger(self, form: Linear, atom: Larger, sets: Intervals) -> Formula:
        """max(a, b) + x >= 0 where one of both is; -max(a, b) + x >= 0 where both are."""
        a, b = atom.forms
        sign = self.reader.sign(dict(form.terms).get(atom, ZERO))
        alone = sum(x == atom for x in form.atoms()) == 1  # inside of another atom it may count the other way
        if sign and alone and len(sets) == 1:
            (low, high) = sets[0]
            found = []
            for half, rises in (((low, None), sign > 0), ((None, high), sign < 0)):
                if half != (None, None):
                    join = self.either_of if rises else self.all_of
                    found.append(join([self.compared(self._with(form, atom, x), (half,)) for x in (a, b)]))
            return self.all_of(found)
        larger = self.compared(a - b, NOT_BELOW)
        first, second = (self.compared(self._with(form, atom, x), sets) for x in (a, b))
        return self.either_of((self.all_of((larger, first)), self.all_of((self.negated(larger), second))))

    def _within(self, form: Linear, sets: Intervals) -> Formula:
        """form in one of the intervals, where the form is linear in positions, floors, residues and data."""
        form, sets = replace(form, constant=ZERO), _moved(sets, -form.constant)
        if not form.terms:
            return self.either_of([self._zero_in(x) for x in sets])
        form, sets = self.in_units(form, sets)
        sets = self.order.union(sets)  # 2 * x == 3 has no numbers
        if sets in (EVERY, NONE):
            return _literal(form, sets)
        for rule in (self._one_floor, self._residue, self._digits):
            found = rule(form, sets)
            if found is not None:
                return found
        return _literal(form, self.order.within(sets, (self.reader.range(form),)))

    def in_units(self, form: Linear, sets: Intervals) -> tuple[Linear, Intervals]:
        """`4 * i - 4 * j <= 9` --> `i - j <= 2`; the first factor is positive."""
        unit = common(form)
        if self.reader.sign(unit) < 0:
            form, sets, unit = -form, _mirrored(sets), -unit
        if not self.reader.sign(unit):
            unit = ONE
        if unit != ONE or not all(x.is_whole for ends in sets for x in ends if x is not None):
            form = Linear(tuple((a, f / unit) for a, f in form.terms))
            sets = tuple(
                (None if a is None else -self._part(-a, unit), None if b is None else self._part(b, unit))
                for a, b in sets
            )
        return (-form, _mirrored(sets)) if negative(form.terms[0][1]) else (form, sets)

    def _part(self, size: Size, unit: Size) -> Size:
        """floor(size / unit), unit > 0"""
        if unit.integer is not None:
            return floored(size, unit.integer)
        exact = quotient(size, unit)
        if exact is None and not size.is_whole:
            raise TooComplex
        if self.order.at_most(ZERO, size) and self.order.below(size, unit):
            return ZERO
        if exact is not None:
            return exact
        # lengths are at least 1 where there are pairs, but it is computed where there is none too
        return size.opaque("//", unit.opaque("max", ONE))

    def _one_floor(self, form: Linear, sets: Intervals) -> Formula | None:
        """floor(x / w) + y from low to high: x + w * y from w * low to w * high + w - 1."""
        floors = [(a, f) for a, f in form.terms if isinstance(a, Floor)]
        others = [a for a, _ in form.terms if not isinstance(a, Floor)]
        # not into a product with data, which may be of any size
        if len(floors) != 1 or any(isinstance(a, n.Value) and not isinstance(a, n.Position) for a in others):
            return None
        ((atom, factor),) = floors
        if factor not in (ONE, -ONE):
            return None
        if factor == -ONE:
            form, sets = -form, _mirrored(sets)
        rest, by = form - single(atom), atom.by
        ends = tuple((None if a is None else a * by, None if b is None else b * by + by - 1) for a, b in sets)
        return self._within(atom.form + rest.times(by), ends)

    def _residue(self, form: Linear, sets: Intervals) -> Formula | None:
        """One residue, or all but one: `(j - i + 1) % 4 == 3` --> `(i - j) % 4 == 2`."""
        atoms = [a for a, _ in form.terms]
        residues = [a for a in atoms if isinstance(a, Modulo)]
        if len(residues) < len(atoms) or len({a.by for a in residues}) > 1:
            return None
        by = residues[0].by
        if len(atoms) > 1:
            if {f for _, f in form.terms} != {ONE, -ONE} or len(atoms) > 2:
                return None
            if sets not in (ONLY_ZERO, self.order.complement(ONLY_ZERO)):
                return None  # two residues that are equal are those of numbers whose difference has none
            a, b = residues
            return self._within(self.reader.modulo_of(a.form - b.form, by), sets)
        inside: Intervals = ((ZERO, by - 1),)
        sets, others = (self.order.intersection(x, inside) for x in (sets, self.order.complement(sets)))
        for found, holds in ((sets, True), (others, False)):
            if len(found) == 1 and found[0][0] == found[0][1] and found[0][0] is not None:
                point = self._congruent(residues[0].form, by, found[0][0])
                return point if holds else self.negated(point)
        return None

    def _congruent(self, form: Linear, by: Size, rest: Size) -> Formula:
        """form % by == rest"""
        rest, form = rest - form.constant, replace(form, constant=ZERO)
        both = [(self.reader.modulo_of(x, by), r) for x, r in ((form, rest), (-form, -rest))]
        found, rest = min(both, key=lambda x: (not x[0].terms or _backwards(x[0]), x[0].text))
        inside = self.order.at_most(ZERO, rest) and self.order.below(rest, by)
        point = rest if inside else rest.opaque("%", by)
        if not found.terms:
            return self._within(found, ((point, point),))
        if isinstance(found.terms[0][0], Modulo) and found.terms[0][0].by == by:
            return Within(found, ((point, point),))
        return self._within(found, ((point, point),))

    def _digits(self, form: Linear, sets: Intervals) -> Formula | None:
        """`w * x + y == 0` where y is between -w and w: both are 0. So the row-major index of a grid is its parts."""
        everywhere = self.order.complement(ONLY_ZERO)
        if sets not in (ONLY_ZERO, everywhere):
            return None
        for unit in {f: None for _, f in form.terms if f not in (ONE, -ONE)}:
            unit = -unit if self.reader.sign(unit) < 0 else unit
            ratios = [(a, f, quotient(f, unit)) for a, f in form.terms]
            large = Linear(tuple((a, r) for a, _, r in ratios if r is not None))
            small = Linear(tuple((a, f) for a, f, r in ratios if r is None))
            low, high = self.reader.range(small)
            if not small.terms or low is None or high is None or not self.reader.sign(unit):
                continue
            if self.order.below(-unit, low) and self.order.below(high, unit):
                join = self.all_of if sets == ONLY_ZERO else self.either_of
                return join([self._within(x, sets) for x in (large, small)])
        return None

    def _zero_in(self, x: Interval) -> Formula:
        """Whether 0 is in an interval."""
        ends = ([] if x[0] is None else [-x[0]]) + ([] if x[1] is None else [x[1]])
        return self.all_of([self._not_below(end) for end in ends])

    def _not_below(self, size: Size) -> Formula:
        """size >= 0"""
        size = floored(size)  # 2 * n - 5 is at least 0 where n - 3 is
        size = floored(size, math.gcd(*(int(c) for m, c in size.terms if m)) or 1)
        if (sign := self.order.at_most(ZERO, size)) or self.order.below(size, ZERO):
            return TRUE if sign else FALSE
        if negative(size):
            return self.negated(self._not_below(-size - 1))
        constant = sum(c for m, c in size.terms if not m)
        kind, truth = TensorType("int", (), True), TensorType("bool", (), True)
        args = n.SizeOf(kind, None, size - constant), n.Const(kind, None, -int(constant))
        return Fact(n.Pointwise(truth, None, ">=", args))

    # --- all and either ---------------------------------------------------------------------------------------

    def negated(self, formula: Formula) -> Formula:
        """The opposite, with `not` moved inside (De Morgan)."""
        match formula:
            case All():
                return self.either_of([self.negated(p) for p in formula.parts])
            case Either():
                return self.all_of([self.negated(p) for p in formula.parts])
        return self._opposite(formula)

    def _opposite(self, formula: Formula) -> Formula:
        match formula:
            case Within():
                return _literal(formula.form, self._outside_of(formula))
            case Fact():
                return replace(formula, holds=not formula.holds)
        other = Either if isinstance(formula, All) else All
        return other(_in_order(map(self._opposite, formula.parts)))

    def either_of(self, parts: Iterable[Formula], mirrored: bool = False) -> Formula:
        """At least one part holds, in its one form: not all of the opposites."""
        return self._opposite(self.all_of(map(self._opposite, parts), not mirrored))

    def _outside_of(self, formula: Within) -> Intervals:
        """Where a form is otherwise; a residue that is not 1 of 2 is 0."""
        sets = self.order.complement(formula.sets)
        atoms = [a for a, _ in formula.form.terms]
        if len(atoms) == 1 and isinstance(atoms[0], Modulo):
            inside = self.order.intersection(sets, ((ZERO, atoms[0].by - 1),))
            if len(inside) == 1 and inside[0][0] == inside[0][1]:
                return inside
        return sets

    def all_of(self, parts: Iterable[Formula], mirrored: bool = False) -> Formula:
        """All parts hold, in one form: each linear form and each fact once, alternatives without what is known.

        `mirrored`: the result is turned into its opposite.
        """
        spend(20)
        known = _Known()
        eithers: list[Either] = []
        todo = list(parts)
        while todo:
            spend(20)
            part = todo.pop()
            match part:
                case All():
                    todo += part.parts
                case Either(parts=()):
                    return FALSE
                case Either():
                    eithers.append(part)
                case Fact():
                    if known.facts.setdefault(n.plain(part.value), part).holds != part.holds:
                        return FALSE
                case Within():
                    todo += self._met(part, known)
            if not todo:
                todo += self._told(eithers, known, mirrored)
        each = [(e, set(e.parts)) for e in dict.fromkeys(eithers)]
        spend(len(each) ** 2 // 10)
        eithers = [e for e, parts in each if not any(less < parts for _, less in each)]
        found: list[Formula] = [Within(f, s) for f, s in known.forms.items()]
        found += known.facts.values()
        every: list[Formula] = [*found, *eithers]
        fronted = self._fronted(every, mirrored) if mirrored else None
        return fronted or self._factored(found, eithers, mirrored) or _one(All, every)

    def _met(self, part: Within, known: _Known) -> Iterable[Formula]:
        """Note where a form is; what else that makes of it is returned."""
        before = known.forms.pop(part.form, None)
        if before is None:
            known.forms[part.form] = part.sets
            return ()
        found = self._within(part.form, self.order.intersection(before, part.sets))
        if isinstance(found, Within) and found.form == part.form:
            known.forms[part.form] = found.sets
            return ()
        return (found,)

    def _told(self, eithers: list[Either], known: _Known, mirrored: bool) -> Iterable[Formula]:
        """Take out the first alternatives that what is known makes shorter, and return them in their new form."""
        for place, either in enumerate(eithers):
            found = self.given(either, known, mirrored)
            if found is not either:
                del eithers[place]
                return (found,)
        return ()

    def given(self, formula: Formula, known: _Known, mirrored: bool = False) -> Formula:
        """A formula without what is known; the same object where that is nothing."""
        spend(2)
        match formula:
            case Within() if formula.form in known.forms:
                sets = self.order.within(formula.sets, known.forms[formula.form])
                return formula if sets == formula.sets else _literal(formula.form, sets)
            case Fact() if n.plain(formula.value) in known.facts:
                return TRUE if known.facts[n.plain(formula.value)].holds == formula.holds else FALSE
            case All() | Either():
                parts = [self.given(p, known, mirrored) for p in formula.parts]
                if any(a is not b for a, b in zip(parts, formula.parts, strict=True)):
                    return (self.all_of if isinstance(formula, All) else self.either_of)(parts, mirrored)
        return formula

    def _factored(self, kept: list[Formula], eithers: list[Either], mirrored: bool) -> Formula | None:
        """(a or c) and (b or c) --> (a and b) or c"""
        shared = [p for p in eithers[0].parts if all(p in e.parts for e in eithers)] if len(eithers) > 1 else []
        if not shared:
            return None
        rest = [_one(Either, [p for p in e.parts if p not in shared]) for e in eithers]
        return self.all_of([*kept, self.either_of([*shared, self.all_of(rest, mirrored)], mirrored)], mirrored)

    def _fronted(self, parts: list[Formula], mirrored: bool) -> Formula | None:
        """(x < 0 or a) and (x < 2 or b) --> x < 0 or (a and (x < 2 or b)): what is so wherever one part is not."""
        if len(parts) < 2:
            return None
        for form in [x.form for x in _children(parts[0]) if isinstance(x, Within)]:
            hull = self._outside(parts, form)
            if hull == (None, None):
                continue
            inner = [self.given(p, _Known({form: (hull,)}), mirrored) for p in parts]
            if self._outside(inner, form) != (None, None):
                continue
            outside = Within(form, self.order.complement((hull,)))
            return self.either_of([outside, self.all_of(inner, mirrored)], mirrored)
        return None

    def _outside(self, parts: list[Formula], form: Linear) -> Interval:
        """The least and the largest value of a form where one of the parts does not hold, as far as they are known."""
        found: list[Interval] = []
        for part in parts:
            own = [x for x in _children(part) if isinstance(x, Within) and x.form == form]
            if not own:
                return None, None
            found += self.order.complement(own[0].sets)
        hull = self.order.hull(tuple(found))
        bounds = {b for x in found for b in x}
        return hull if all(b in bounds for b in hull) else (None, None)


@dataclass
class _Known:
    """Where forms are, and which facts are so."""

    forms: dict[Linear, Intervals] = field(default_factory=dict)
    facts: dict[n.Value, Fact] = field(default_factory=dict)


def _literal(form: Linear, sets: Intervals) -> Formula:
    """form in one of the intervals, true or false where these are everything or nothing."""
    return TRUE if sets == EVERY else Within(form, sets) if sets else FALSE


def _children(part: Formula) -> tuple[Formula, ...]:
    return part.parts if isinstance(part, Either) else (part,)


def _one(join: type[All] | type[Either], parts: list[Formula]) -> Formula:
    return parts[0] if len(parts) == 1 else join(_in_order(parts))


def _in_order(parts: Iterable[Formula]) -> tuple[Formula, ...]:
    kinds = (Within, Fact, All, Either)
    return tuple(sorted(parts, key=lambda p: (next(k for k, c in enumerate(kinds) if isinstance(p, c)), p.text)))


def _moved(sets: Intervals, by: Size) -> Intervals:
    return tuple((None if a is None else a + by, None if b is None else b + by) for a, b in sets)


def _mirrored(sets: Intervals) -> Intervals:
    return tuple((None if b is None else -b, None if a is None else -a) for a, b in reversed(sets))


def _backwards(form: Linear) -> bool:
    atom = form.terms[0][0]
    inner = atom.form if isinstance(atom, Modulo) else form
    return negative(inner.terms[0][1])
