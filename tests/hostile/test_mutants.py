"""A spec that is nearly right is compiled, to source that is Python, or it is told what is wrong: nothing else."""

import os
import time
import traceback
import warnings

import pytest

from towerdsl import budget
from towerdsl.compiler import compile_spec
from towerdsl.diagnostics import TowerError

from .mutants import mutant

#: How many mutants `-m slow` compiles, in how many tests; the first few of them are compiled always.
MANY = int(os.environ.get("TOWERDSL_MUTANTS", 100_000))
PARTS = 40
FEW = 100
#: What one may take, on a slow machine.
SECONDS = 10


def fault(number: int) -> str | None:
    """What is wrong with what the compiler makes of a mutant."""
    text, given = mutant(number)
    start, steps = time.process_time(), 0
    try:
        with budget.bounded():
            source = compile_spec(text, **given).source()
            steps = budget.spent()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            compile(source, "source", "exec")
        source.encode()
    except TowerError as error:
        if not (error.diagnostics and str(error).isprintable() or "\n" in str(error)):
            return "a mistake without words"
        str(error).encode()
    except Exception:
        return traceback.format_exc(limit=-6)
    if steps > budget.STEPS:
        return f"{steps:,} steps"
    seconds = time.process_time() - start
    return f"{seconds:.0f} s, {steps:,} steps" if seconds > SECONDS else None


def check(numbers: range) -> None:
    faults = ((number, fault(number)) for number in numbers)
    for number, found in faults:
        assert found is None, f"mutant({number}): {found}\n{mutant(number)[0]}\n{mutant(number)[1]}"


def test_mutants():
    check(range(FEW))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_many_mutants(part):
    check(range(MANY * part // PARTS, MANY * (part + 1) // PARTS))


def test_most_mutants_reach_the_types():
    """Of those that are mistakes, the mistakes are of many kinds; and some are none."""
    codes: dict[str, int] = {}
    for number in range(60):
        text, given = mutant(number)
        try:
            compile_spec(text, **given)
            code = "fine"
        except TowerError as error:
            code = error.diagnostics[0].code
        codes[code] = codes.get(code, 0) + 1
    assert codes["fine"] >= 3 and len(codes) >= 8, codes
