"""A spec may take so many steps of work and no more, and steps are what work is.

Each template of `growing.py` is doubled until the language says that it is too long, or the budget that it is too much.
"""

import cProfile
import os
import pickle
import resource
import sys
import time
import traceback

import pytest

from towerdsl import budget
from towerdsl.compiler import compile_spec
from towerdsl.diagnostics import TowerError

from .growing import GROWING

#: How often what grows is doubled at most, where `-m slow` looks for growth.
DOUBLED = int(os.environ.get("TOWERDSL_GROWTH", 16))
#: Mistakes that say that there is too much of something: more of it says nothing new.
LIMITS = ("too-long", "too-deep", "too-much-work", "too-large", "loop-count", "checkpoint-limit")
#: What a compile may take on a slow machine, beside what Python and the package take.
SECONDS, MEGABYTES = 5, 500
#: The most calls of functions that a step may stand for.
CALLS = 25


def compiled(text: str) -> tuple[int, str]:
    """How many steps a spec takes, and the code of its mistake, or "" """
    steps, code = 0, ""
    try:
        with budget.bounded():
            try:
                compile_spec(text).source()
            finally:
                steps = budget.spent()
    except TowerError as error:
        code = error.diagnostics[0].code
    return steps, code


def profiled(text: str) -> tuple[int, str, int]:
    """The same, and how many functions are called."""
    profile = cProfile.Profile()
    profile.enable()
    steps, code = compiled(text)
    profile.disable()
    return steps, code, sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize(
    ("name", "count", "code"),
    [
        ("nested_abs", 12, ""),
        ("nested_quotients", 30, ""),
        ("many_equal_parts", 1_000, ""),
        ("loop_of_numbers", 1_000, "too-much-work"),
        ("loops_of_loops", 1_000, "too-much-work"),
        ("either_of_alls", 64, "too-much-work"),
        ("doubled_definitions", 40, "too-much-work"),
        ("blocks_that_call_two_others", 40, "too-much-work"),
        ("index_of_sum", 200, "too-much-work"),
        ("nested_choice_in_tests", 25, ""),
        ("blocks_with_names", 9_000, "too-long"),
    ],
)
def test_what_was_slow_is_bounded(name, count, code, monkeypatch):
    """A tenth of the budget, so that it is quick: what would take more is stopped wherever it is."""
    most = 100_000 if code == "too-much-work" else budget.STEPS
    monkeypatch.setattr(budget, "STEPS", most)
    steps, found = compiled(GROWING[name](count))
    assert found == code
    assert code or steps <= most


def test_the_place_is_where_the_work_is(monkeypatch):
    monkeypatch.setattr(budget, "STEPS", 50_000)
    text = GROWING["loop_of_numbers"](100)
    with pytest.raises(TowerError) as found:
        compile_spec(text)
    (diagnostic,) = found.value.diagnostics
    assert diagnostic.span.text == "x = look(x, a * 7 + c + 1)"
    assert diagnostic.help and "50,000 steps" in diagnostic.message


def test_steps_are_the_same_each_time():
    assert compiled("bert") == compiled("bert")
    assert 0 < compiled("bert")[0] < budget.STEPS / 20


@pytest.mark.parametrize(("name", "sizes"), [("swin", {}), ("transformer", {"depth": 96})])
def test_large_models_are_far_from_the_budget(name, sizes):
    with budget.bounded():
        compile_spec(name, sizes).source()
        assert budget.spent() < budget.STEPS / 8


def test_work_that_is_not_worth_it_stops():
    def work(steps):
        for _ in range(steps):
            budget.spend()

    with budget.bounded():
        with pytest.raises(budget.TooMuch), budget.at_most(10):
            work(11)
        assert budget.spent() == 10
        with budget.at_most(10):
            work(10)
        assert budget.spent() == 20
        with budget.bounded():  # the same budget
            work(5)
        assert budget.spent() == 25
    work(budget.STEPS + 1)  # nobody asks
    with pytest.raises(TowerError, match="too-much-work"), budget.bounded(), budget.at_most(2 * budget.STEPS):
        work(budget.STEPS + 1)


def apart(text: str) -> tuple[int, str, int, float, float]:
    """Steps, code, calls, seconds and megabytes of a compile, in a process of its own."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(readable)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start = time.process_time()
            compiled(text)
            seconds = time.process_time() - start
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            os.write(writable, pickle.dumps((*profiled(text), seconds, grown)))
        except BaseException:
            os.write(writable, pickle.dumps(traceback.format_exc()[-2000:]))
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as file:
        found = pickle.load(file)
    os.waitpid(child, 0)
    assert not isinstance(found, str), f"{text[:1000]}\n{found}"
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads kilobytes")
@pytest.mark.parametrize("name", GROWING)
def test_growth(name):
    compiled("bert")
    last = ""
    for doubled in range(DOUBLED + 1):
        text = GROWING[name](2**doubled)
        if len(text) > 100_000:
            break
        steps, code, calls, seconds, megabytes = apart(text)
        told = f"{name}, {2**doubled} times: {steps:,} steps, {calls:,} calls, {seconds:.1f} s, {megabytes:.0f} MB"
        assert code or steps <= budget.STEPS, told
        assert calls <= CALLS * steps + 200_000, told
        assert seconds < SECONDS, told
        assert megabytes < MEGABYTES, told
        if code in LIMITS and code == last:
            break
        last = code
