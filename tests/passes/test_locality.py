"""What the analysis says of a condition, against the condition itself, evaluated for every pair."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, assume, given, note, settings
from hypothesis import strategies as st

from towerdsl.compiler import compile_spec
from towerdsl.ir.printer import show_value
from towerdsl.kernels.choose import attentions
from towerdsl.passes.locality import Classes, End, Locality, Related, Residue, Same, Sided, Union, simplify

from .predicates import Predicate, Values, cases, predicates, rewritten

USUAL = settings(
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)


@settings(USUAL, max_examples=50)
@given(predicates())
def test_what_is_said_is_so(predicate: Predicate) -> None:
    check(predicate)


@pytest.mark.slow
@settings(USUAL, max_examples=5000, derandomize=False)
@given(predicates(depth=3))
def test_what_is_said_of_many_is_so(predicate: Predicate) -> None:
    check(predicate)


@settings(USUAL, max_examples=50)
@given(predicates(), st.randoms(use_true_random=False))
def test_one_form_for_one_condition(predicate: Predicate, draw) -> None:
    check_rewritten(predicate, draw)


@pytest.mark.slow
@settings(USUAL, max_examples=5000, derandomize=False)
@given(predicates(depth=3), st.randoms(use_true_random=False))
def test_one_form_for_many_conditions(predicate: Predicate, draw) -> None:
    check_rewritten(predicate, draw)


def check_rewritten(predicate: Predicate, draw) -> None:
    """The same condition, shifted, scaled, negated, turned around: the same locality."""
    # equal to half a length that may be odd: the rounding of both bounds is not brought to one form
    assume(not any(f"{axis} / 2" in predicate.text for axis in predicate.axes))
    other = replace(predicate, text=rewritten(predicate.text, draw))
    note(f"{predicate!r} rewritten as {other.text}")
    assert [c.seen for c in cases(predicate)] == [c.seen for c in cases(other)], "the rewriting is wrong"
    first, second = predicate.locality(), other.locality()
    assert first == second
    assert first.condition == second.condition


# --- what is found ---------------------------------------------------------------------------------------------

#: bands and readings of a condition, each as `said` writes them
FOUND = {
    "2 * i - 2 * j < 8": "i - j <= 3",
    "3 <= 2 * (i - j) < 9": "2 <= i - j <= 4",
    "max(i, j) - min(i, j) < 4": "-3 <= i - j <= 3",
    "4 > abs(j - i)": "-3 <= i - j <= 3",
    "i - j < 3 or i == j + 3": "i - j <= 3",
    "not (i - j > 5 or i - j < 2) and i - j != 5": "2 <= i - j <= 4",
    "abs(i // 4 - j // 4) < 1": "(i + 0) // 4 == (j + 0) // 4",
    "i // 4 <= j // 4 and j // 4 <= i // 4": "(i + 0) // 4 == (j + 0) // 4",
    "(i - 3) // 4 == (j - 3) // 4": "(i + 1) // 4 == (j + 1) // 4",
    "not ((i + 9) // 4 != (j + 9) // 4)": "(i + 1) // 4 == (j + 1) // 4",
    "floor(i / 2) // 3 == i // 6 and j // 2 // 3 == i // 6": "(i + 0) // 6 == (j + 0) // 6",
    "(i - j) // 4 == 0": "0 <= i - j <= 3",
    "i % 3 == j % 3": "(i - j) % 3 == 0",
    "(i + 1) % 3 == (j + 3) % 3": "(i - j) % 3 == 2",
    "(j - i) % 3 == 1": "(i - j) % 3 == 2",
    "not (i - j) % 2 == 1": "(i - j) % 2 == 0",
    "abs(i - j) % 2 == 0 and i - j > 0": "1 <= i - j; (i - j) % 2 == 0",
    "i < 2": "i <= 1",
    "j >= n - 4": "n - 4 <= j",
    "j == 0": "j <= 0",
    "i >= 0 and j < n and i - j < n": "",
    "i < 0 or j >= n": "never",
    "i - j >= n": "never",
    "edges[j, i]": "forward edges",
    "edges[i, j]": "backward edges",
    "doc[j] == doc[i]": "same",
    "not (doc[j] != doc[i])": "same",
    "keep[j] and not keep[i]": "one side i; one side j",
    "j % 2 == 0": "one side j",
    "i < 2 or j < 2": "either (i <= 1 | j <= 1)",
    "not (i >= 2 and j >= 2)": "either (i <= 1 | j <= 1)",
    "j <= i and (i - j < 4 or j < 2)": "0 <= i - j; either (i - j <= 3 | j <= 1)",
    "j <= i and i - j < 4 or j < 2 and i >= j": "0 <= i - j; either (i - j <= 3 | j <= 1)",
    "keep[j] and i == j or keep[j] and edges[j, i]": "one side j; either (0 <= i - j <= 0 | forward edges)",
    "i != j": "either (i - j <= -1 | 1 <= i - j)",
    "i == j or edges[j, i] or keep[i] and i == j": "either (0 <= i - j <= 0 | forward edges)",
    "where(i < 3, j <= i, false)": "0 <= i - j; i <= 2",
    "(i * j) % 7 == 3": "unknown",
    "i // 2 == j // 2 or 0 <= i - j < 1 or 0 < i - j < n - 2": (
        "either ((i + 0) // 2 == (j + 0) // 2 | 0 <= i - j <= max(1, n - 2) - 1)"
    ),
    "j > i and n != 2 * (j - i) and (j > i and n != 2 * (j - i) and (n != 2 * (j - i) and j > i))": (
        "i - j <= -1; either (i - j <= -(n // 2) - 1 | -((n + 1) // 2) + 1 <= i - j)"
    ),
}


def said(locality: Locality) -> str:
    """A locality in words, for one axis."""
    if locality.never:
        return "never"
    parts = [str(b).replace(".n", "") for b in locality.bands]
    for r in locality.readings:
        match r:
            case Classes():
                parts.append(f"(i + {r.shift}) // {r.width} == (j + {r.shift}) // {r.width}")
            case Residue():
                parts.append(f"(i - j) % {r.step} == {r.rest}")
            case End():
                low, high = "" if r.low is None else f"{r.low} <= ", "" if r.high is None else f" <= {r.high}"
                parts.append(f"{low}{r.axis.side}{high}")
            case Same():
                parts.append("same")
            case Related():
                parts.append(f"{'forward' if r.forward else 'backward'} {r.relation}")
            case Sided():
                parts.append(f"one side {r.side}")
            case Union():
                parts.append(f"either ({' | '.join(map(said, r.parts))})")
    return "; ".join([*parts, *("unknown" for _ in locality.unknown)])


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("max(i - j, 2) < n", "3 * n > 3 * max(i - j, 2)"),
        ("i - j < n - 2 and i - j < 0", "not (not n - 2 > i - j or not 0 > i - j or not n - 2 > i - j)"),
    ],
)
def test_conditions_on_lengths_have_one_form(text, other):
    one, same = Predicate(text).locality(), Predicate(other).locality()
    assert one == same
    assert one.condition == same.condition


@pytest.mark.parametrize("text", FOUND)
def test_what_is_found(text: str) -> None:
    assert said(Predicate(text).locality()) == FOUND[text]


def test_a_row_major_index_is_its_parts() -> None:
    for text, expected in (
        ("i == j", "0 <= i.h - j.h <= 0; 0 <= i.w - j.w <= 0"),
        ("i.h * w + i.w == j", "0 <= i.h - j.h <= 0; 0 <= i.w - j.w <= 0"),
        ("i // w == j // w", "0 <= i.h - j.h <= 0"),
        ("i % w == j % w", "0 <= i.w - j.w <= 0"),
    ):
        bands = Predicate(text, ("h", "w")).locality().bands
        assert "; ".join(map(str, bands)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("i // 4 == j // 4", "-3 <= i - j <= 3"),
        ("0 <= i // 4 - j // 4 <= 1", "-3 <= i - j <= 7"),
        ("abs(i - j) < 3 or i - j == 9", "-2 <= i - j <= 9"),
        ("(i - j < 3 and keep[j]) or (i - j == 5 and doc[i] == doc[j])", "i - j <= 5"),
        ("i < 3 and j >= 5", "i - j <= -3"),
        ("j <= i or j < 2", ""),
        ("keep[j]", ""),
    ],
)
def test_bands_that_have_all_pairs(text: str, expected: str) -> None:
    assert "; ".join(map(str, Predicate(text).locality().hull())).replace(".n", "") == expected


@pytest.mark.parametrize(
    ("text", "back", "empty"),
    [
        ("j <= i", True, False),
        ("j < i", True, True),
        ("0 <= i - j < 3 and keep[j]", True, None),
        ("j <= i and doc[i] == doc[j]", True, False),
        ("abs(i - j) < 3", False, False),
        ("true", False, False),
        ("false", True, True),
        ("i - j == -3", False, True),
        ("i // 4 == j // 4", False, False),
        ("j <= i and (keep[j] or i == j)", True, False),
        ("keep[j]", None, None),
        ("j < 2", False, False),
        ("j >= n - 1", None, False),
    ],
)
def test_questions(text: str, back: bool | None, empty: bool | None) -> None:
    ((block, plan),) = _attention(Predicate(text))
    locality = plan.facts.locality
    assert (locality.looks_back(block.average), locality.has_empty_rows()) == (back, empty)


def _attention(predicate: Predicate):
    compiled = compile_spec(predicate.spec)
    return [(block, compiled.plans[id(block)]) for block in attentions(compiled.model.root)]


def test_a_kernel_takes_care_of_some_parts() -> None:
    locality = Predicate("abs(i - j) < 4 and keep[j] and i % 4 == j % 4 and doc[i] == doc[j]").locality()
    assert said(locality) == "-3 <= i - j <= 3; (i - j) % 4 == 0; same; one side j"
    rest = locality.without(*locality.bands, *locality.same)
    assert said(rest) == "(i - j) % 4 == 0; one side j"
    assert said(rest.without(*rest.residues, *rest.sided)) == "" and rest.without(*rest.readings).condition is None


def test_the_analysis_does_not_depend_on_lengths() -> None:
    """No pair is evaluated: a billion positions are read like ten, up to numbers that are compared with the length."""
    texts = ["abs(i - j) < 4 and keep[j]", "(i + 3) // 8 == (j + 3) // 8 or j < 2", "(i - j) % 3 == 0 and edges[j, i]"]
    for text in texts:
        few, many = (Predicate(text, ("n",), {"n": n}).locality() for n in (20, 10**9))
        assert said(few) == said(many)
        assert few.has_empty_rows() == many.has_empty_rows()
        assert [(b.low, b.high) for b in few.hull()] == [(b.low, b.high) for b in many.hull()]


# --- against every pair ----------------------------------------------------------------------------------------


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
            if r.rest.integer is not None:  # one made of a length may be no rest at some lengths, and then none has it
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
