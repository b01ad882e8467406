"""What follows from a condition for all pairs: bounds of `i - j`, queries that see nothing, queries that see ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, product

from towerdsl.ir import nodes as n
from towerdsl.ir.rewrite import moved
from towerdsl.ir.size import Size, SizeLimitError
from towerdsl.ir.types import Axis, TensorType
from towerdsl.passes.formula import FALSE, TRUE, All, Either, Fact, Formula, Within, pair
from towerdsl.passes.intervals import EVERY, NONE, Interval
from towerdsl.passes.linear import ONE, ZERO, Atom, Floor, Linear, replaced, single
from towerdsl.passes.logic import Logic

Hull = dict[tuple[Axis, Axis], Interval]
#: positions, and what stands in place of each
Places = dict[Axis, Linear]
#: how many choices of keys are tried
MOST = 64


# --- bounds of i - j -------------------------------------------------------------------------------------------


def hull(logic: Logic, parts: Sequence[Formula]) -> Hull:
    """For each axis the bounds of `i - j` that follow where all parts hold."""
    found: Hull = {}
    for bounds in (*(_hull(logic, p) for p in parts), *_from_ends(logic, parts)):
        for axes, ends in bounds.items():
            (found[axes],) = logic.order.intersection((found.get(axes, EVERY[0]),), (ends,)) or (ends,)
    return found


def _hull(logic: Logic, formula: Formula) -> Hull:
    match formula:
        case Within():
            return _relaxed(logic, formula)
        case All():
            return hull(logic, formula.parts)
        case Either(parts=(_, *_)):
            parts = [_hull(logic, p) for p in formula.parts]
            shared = {axes: [p[axes] for p in parts] for axes in parts[0] if all(axes in p for p in parts)}
            hulls = {axes: logic.order.hull(tuple(ends)) for axes, ends in shared.items()}
            return {axes: ends for axes, ends in hulls.items() if ends != (None, None)}
    return {}


def _relaxed(logic: Logic, literal: Within) -> Hull:
    """The bounds of `i - j` along each axis of a form in intervals, with anything in place of what else is in it.

    floor(x / w) is between (x - w + 1) / w and x / w, so of `i // w == j // w` is left that i - j < w on both sides.
    """
    form, interval = literal.form, logic.order.hull(literal.sets)
    floors = [a for a, _ in form.terms if isinstance(a, Floor)]
    if floors and len({a.by for a in floors}) == 1:
        by = floors[0].by
        low, high = (None if x is None else x * by for x in interval)
        inner = Linear()
        for atom, factor in form.terms:
            if not isinstance(atom, Floor):
                inner = inner + single(atom).times(factor * by)
                continue
            inner = inner + atom.form.times(factor)
            sign = logic.reader.sign(factor)
            low = None if low is None or not sign else low + ((by - 1) * factor if sign < 0 else ZERO)
            high = None if high is None or not sign else high + ((by - 1) * factor if sign > 0 else ZERO)
        form, interval = inner, (low, high)
    factors = {a.axes[0]: (a, f) for a, f in form.terms if isinstance(a, n.Position)}
    found: Hull = {}
    for i, j in ((i, j) for i in factors for j in factors if (i.side, j.side) == ("i", "j") and i.name == j.name):
        (a, factor), (b, opposite) = factors[i], factors[j]
        if factor != -opposite:
            continue
        distance = (single(a) - single(b)).times(factor)
        low, high = logic.reader.range(form - distance)
        ends = (
            None if interval[0] is None or high is None else interval[0] - high,
            None if interval[1] is None or low is None else interval[1] - low,
        )
        of, (ends,) = logic.in_units(distance, (ends,))
        if of != single(a) - single(b):
            continue  # the factor is a sum, by which nothing was divided
        inside = logic.order.within((ends,), (logic.reader.range(single(a) - single(b)),))
        if inside not in (EVERY, NONE):
            found[i, j] = logic.order.hull(inside)
    return found


def _from_ends(logic: Logic, parts: Sequence[Formula]) -> Iterator[Hull]:
    """The bounds of `i - j` where both positions are bounded."""
    alone = [
        (p.form.terms[0][0], logic.order.hull(p.sets))
        for p in parts
        if isinstance(p, Within) and len(p.form.terms) == 1
    ]
    ends = {a.axes[0]: x for a, x in alone if isinstance(a, n.Position)}
    for i, (low, high) in ends.items():
        for j, (first, last) in ends.items():
            if (i.side, j.side) == ("i", "j") and i.name == j.name:
                least = None if low is None or last is None else low - last
                yield {(i, j): (least, None if high is None or first is None else high - first)}


# --- what holds at some positions ------------------------------------------------------------------------------


def has_empty_rows(logic: Logic, parts: Sequence[Formula]) -> bool | None:
    """Whether a query sees no key, where there are any: the first and the last one are tried."""
    axes = sorted({a for p in parts for a in p.axes}, key=str)
    queries, keys = ([a for a in axes if a.side == side] for side in "ij")
    if _each_sees(logic, parts, queries, keys):
        return False
    ends = product(*([Linear(), Linear(constant=i.size - 1)] for i in queries))
    return True if any(_at(logic, parts, dict(zip(queries, x, strict=True)), TRUE) == FALSE for x in ends) else None


def sees_ahead(logic: Logic, parts: Sequence[Formula], i: Axis, j: Axis) -> bool:
    """Whether the first query sees a later key for sure, where there are enough of them."""
    ends = (-x for p in parts for x in _ends(p, i, j))
    for step in dict.fromkeys([ONE, *ends]):
        number, length = step.constant, j.size.constant
        if number is None or number < 1 or (length is not None and number >= length):
            continue
        try:
            if _at(logic, parts, {i: Linear(), j: Linear(constant=step)}, FALSE) == TRUE:
                return True
        except SizeLimitError:
            pass
    return False


def _each_sees(logic: Logic, parts: Sequence[Formula], queries: list[Axis], keys: list[Axis]) -> bool:
    """Whether some key is surely visible to each query: itself, the first, the last, or one at a known distance."""
    found: list[Formula] = []
    for choice in islice(product(*(list(_witnesses(parts, j, queries)) for j in keys)), MOST):
        places = dict(zip(keys, choice, strict=True))
        inside = [logic.compared(x, ((ZERO, j.size - 1),)) for j, x in places.items() if x.terms and not _position(x)]
        found.append(logic.all_of([*inside, _at(logic, parts, places, FALSE)]))
        if logic.either_of(found) == TRUE:
            return True
    return False


def _witnesses(parts: Sequence[Formula], key: Axis, queries: list[Axis]) -> Iterator[Linear]:
    """Positions of a key that a query may see."""
    for query in queries:
        if query.name != key.name:
            continue
        position = single(n.Position(TensorType("int", (query,)), None))
        if query.size == key.size:
            yield position
        ends = {x for p in parts for x in _ends(p, query, key) if x != ZERO}
        yield from (position.plus(-x) for x in sorted(ends, key=str)[:4])
    yield Linear()
    yield Linear(constant=key.size - 1)


def _ends(formula: Formula, query: Axis, key: Axis) -> Iterator[Size]:
    """All bounds of `i - j` in a formula."""
    if isinstance(formula, All | Either):
        for part in formula.parts:
            yield from _ends(part, query, key)
    elif isinstance(formula, Within) and pair(formula.form) == (query, key):
        yield from (end for x in formula.sets for end in x if end is not None)


def _at(logic: Logic, parts: Sequence[Formula], places: Places, unknown: Formula) -> Formula:
    """The condition with positions replaced; data that is read at other positions than before is `unknown`."""
    return logic.all_of([_placed(logic, p, places, unknown) for p in parts])


def _placed(logic: Logic, formula: Formula, places: Places, unknown: Formula) -> Formula:
    if not formula.axes & places.keys():
        return formula
    match formula:
        case All():
            return _at(logic, formula.parts, places, unknown)
        case Either():
            return logic.either_of([_placed(logic, p, places, unknown) for p in formula.parts])
    axes = {a: to for a, x in places.items() if (to := _position(x)) is not None}
    if isinstance(formula, Fact) and formula.axes & places.keys() <= axes.keys():
        value = n.plain(moved(formula.value, axes))
        if isinstance(value, n.Pointwise) and value.op == "==" and value.args[0] == value.args[1]:
            # a float may be no number, and then not equal to itself
            return (TRUE if formula.holds else FALSE) if value.args[0].type.dtype in ("int", "bool") else unknown
        return Fact(value, formula.holds)
    if not isinstance(formula, Within):
        return unknown
    forms: dict[Atom, Linear] = {}
    for atom in formula.form.atoms():
        if isinstance(atom, n.Position):
            forms[atom] = places.get(atom.axes[0]) or single(atom)
        elif isinstance(atom, n.Value):
            if not set(atom.axes) & places.keys() <= axes.keys():
                return unknown
            forms[atom] = single(moved(atom, axes))
    return logic.compared(replaced(logic.reader, formula.form, forms), formula.sets)


def _position(form: Linear) -> Axis | None:
    """The axis of a form that is a position and nothing else."""
    atom = form.terms[0][0] if form.terms else None
    return atom.axes[0] if isinstance(atom, n.Position) and form == single(atom) else None
