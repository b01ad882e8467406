"""Specs with hostile names give what the same specs give with plain ones."""

import os

import pytest

from .hostile import check

#: How many specs `-m slow` compiles and runs.
COUNT = int(os.environ.get("TOWERDSL_NAMES", "20000"))


def ran(seeds: range, kernels: bool) -> int:
    """How many of the specs of these seeds are legal; all of them run, and give what the plain ones give."""
    found = 0
    for seed in seeds:
        try:
            found += check(seed, kernels)
        except BaseException as error:
            error.add_note(f"check({seed}, {kernels}) of tests/emitted/hostile.py shows it again")
            raise
    return found


def test_hostile_names():
    assert ran(range(50), False) > 25


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_many_hostile_names(part):
    each = COUNT // 20
    assert ran(range(1000 + part * each, 1000 + (part + 1) * each), True) > each // 3
