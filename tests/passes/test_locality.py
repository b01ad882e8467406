"""What the analysis says of a condition, against the condition itself, evaluated for every pair."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings

from towerdsl.ir.printer import show_value
from towerdsl.passes.locality import Classes, End, Locality, Related, Residue, Same, Sided, Union, simplify

from .predicates import Predicate, Values, cases, predicates

USUAL = settings(
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)


@settings(USUAL, max_examples=150)
@given(predicates())
def test_what_is_said_is_so(predicate: Predicate) -> None:
    check(predicate)


@pytest.mark.slow
@settings(USUAL, max_examples=5000, derandomize=False)
@given(predicates(depth=3))
def test_what_is_said_of_many_is_so(predicate: Predicate) -> None:
    check(predicate)


def check(predicate: Predicate) -> None:
    """Every reading, and every answer, at several lengths."""
    note(repr(predicate))
    locality = predicate.locality()
    note(str(locality.condition and show_value(locality.condition)))
    assert locality.condition == simplify(locality.condition), "one form has one form"
    empty, hull = locality.has_empty_rows(), locality.hull()
    options = locality.alternatives()
    for case in cases(predicate):
        for (i, j), seen in case.seen.items():
            values = case.values(i, j)
            assert values.all(locality) == seen, (case.lengths, i, j)
            assert any(values.all(x) for x in options) == seen
            check_readings(locality, values)
            if seen:
                assert all(map(values.band, hull)), (case.lengths, i, j, list(map(str, hull)))
        rows = [any(case.seen[i, j] for j in case.places) for i in case.places]
        assert empty is None or empty != all(rows), case.lengths
        if locality.everything:
            assert all(case.seen.values())


def check_readings(locality: Locality, values: Values) -> None:
    """Each reading says what its value is."""
    readings = (*locality.classes, *locality.residues, *locality.ends, *locality.same, *locality.related)
    for r in (*readings, *locality.sided, *locality.unions):
        assert any(r.value is v for v in locality.rest)
        assert meaning(r, values) == values(r.value), r


def meaning(r, values: Values) -> bool:
    at, size = values.at, values.size
    match r:
        case Classes():
            width, shift = size(r.width), size(r.shift)
            assert 0 <= shift < width
            return (at(r.query) + shift) // width == (at(r.key) + shift) // width
        case Residue():
            assert 0 <= size(r.rest) < size(r.step)
            return (at(r.query) - at(r.key)) % size(r.step) == size(r.rest)
        case End():
            above = r.low is None or size(r.low) <= at(r.axis)
            return above and (r.high is None or at(r.axis) <= size(r.high))
        case Same():
            assert {a.side for a in r.left.axes if a.side} == {"i"} and {a.side for a in r.right.axes if a.side} == {
                "j"
            }
            return values(r.left) == values(r.right)
        case Related():
            pair = (at(r.key), at(r.query)) if r.forward else (at(r.query), at(r.key))
            return pair in values.case.edges
        case Sided():
            other = {"i": "j", "j": "i"}[r.side]
            moved = Values(values.case, values.places | {other: values.case.places[0]})
            return moved(r.value)
        case Union():
            for part in r.parts:
                check_readings(part, values)
            return any(values.all(part) for part in r.parts)
    raise AssertionError(r)
