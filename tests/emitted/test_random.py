"""Random specs: each that has no mistakes runs, at several lengths, with inputs left out, forward and backward."""

import pytest

import towerdsl

from .drawing import drawn
from .running import runs


def legal(seeds: range, **how) -> int:
    """Run the specs of these seeds; returns how many of them have no mistakes."""
    found = 0
    for seed in seeds:
        spec = drawn(seed)
        try:
            runs(spec, **how)
            found += 1
        except towerdsl.TowerError:
            continue
        except BaseException as error:
            error.add_note(f"seed {seed}:\n{spec}")
            raise
    return found


def test_random_specs_run():
    assert legal(range(12)) > 8


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 2000, 100))
def test_many_random_specs_run(start):
    assert legal(range(start, start + 100)) > 70


@pytest.mark.slow
def test_random_specs_are_traced():
    assert legal(range(2000, 2010), lengths=(3,), traced=True) > 5
