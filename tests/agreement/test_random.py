"""Every kernel against the reference, and the reference against plain loops, over random attentions.

An attention has a number: `case(Choices(number))` is always the same one. What disagrees is made smaller first.
"""

import os
import time
from collections.abc import Callable

import pytest

from towerdsl.kernels.catalog import CATALOG

from . import driver
from .drawing import Choices, Drawn
from .driver import COUNTED, Attention, Case, check
from .families import attention, structured

#: How many attentions `-m slow` compares, in how many tests; the first few of them are compared always.
MANY = int(os.environ.get("TOWERDSL_ATTENTIONS", 20_000))
PARTS = 40
FEW = 60
#: How often in a thousand a comparison is made, beside that of every kernel and that with loops.
OFTEN = {
    "lengths": 500,
    "empty": 200,
    "large": 100,
    "bf16": 100,
    "fp16": 100,
    "autocast": 100,
    "inference": 100,
    "training": 200,
    "second": 100,
    "eager": 4,
    "aot": 4,
}
#: Of a thousand attentions, how many each kernel computes at least.
REACHED = {
    "diagonal": 15,
    "factored": 80,
    "static": 30,
    "edges": 20,
    "partition": 30,
    "banded": 70,
    "merged": 6,
    "gather": 90,
    "flex": 20,
    "sdpa": 50,
    "chunked": 400,
    "reference": 1000,
}


def case(choose: Choices) -> tuple[Case, list[str]]:
    """An attention with what it is given, and how it is compared."""
    a = Drawn(choose)
    a.one(attention, structured)(a)
    kinds = ["loops", "kernels", *(name for name, n in OFTEN.items() if a.choose(1000) >= 1000 - n)]
    free = {n: x for n, x in a.lengths.items() if n not in a.fixed}
    return Case(a.text, free, a.choose(1000), frozenset(a.left_out), a), kinds


def compared(number: int) -> None:
    """Compare an attention. Raises AssertionError with the smallest case that disagrees in the same way."""
    driver.forget()
    choices = Choices(number)
    drawn, kinds = case(choices)
    of = Attention(drawn.text)
    COUNTED["attentions"] += 1
    COUNTED[f"planned: {of.planned}"] += 1
    COUNTED.update(f"kernel: {name}" for name in ("reference", *of.kernels))
    for kind in kinds:
        try:
            check(drawn, [kind], of)
        except AssertionError as error:
            told = smaller(choices.taken, lambda c, kind=kind: disagreement(c, kind)) or str(error)
            raise AssertionError(f"attention {number}: {told}") from error


def disagreement(choices: Choices, kind: str) -> str | None:
    """How the attention of some choices disagrees, if it does; what cannot be drawn does not."""
    driver.forget()
    try:
        drawn, _ = case(choices)
        of = Attention(drawn.text)
    except Exception:
        return None
    try:
        check(drawn, [kind], of)
    except AssertionError as error:
        return str(error)
    return None


def smaller(taken: list[int], told: Callable[[Choices], str | None], seconds: float = 60) -> str | None:
    """What is told of the fewest and first choices of which something is told, as far as time allows."""
    best, until = None, time.monotonic() + seconds

    def better(fixed: list[int]) -> bool:
        nonlocal best, taken
        choices = Choices(None, fixed)
        found = told(choices) if time.monotonic() < until else None
        if found is None or best is not None and (len(choices.taken), choices.taken) >= (len(taken), taken):
            return False
        best, taken = found, choices.taken
        return True

    changed = better(taken)
    while changed:
        changed = False
        for size in (8, 4, 2, 1):
            at = 0
            while at < len(taken):
                if better(taken[:at] + taken[at + size :]):
                    changed = True
                else:
                    at += size
        for at in range(len(taken)):
            for less in (0, taken[at] // 2) if at < len(taken) and taken[at] else ():
                if at < len(taken) and less < taken[at] and better([*taken[:at], less, *taken[at + 1 :]]):
                    changed = True
                    break
    return best


@pytest.mark.parametrize("part", range(3))
def test_kernels_agree(part):
    for number in range(part, FEW, 3):
        compared(number)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_kernels_agree_on_many(part):
    numbers = range(part, MANY, PARTS)
    before = COUNTED.copy()
    for number in numbers:
        compared(number)
    found = COUNTED - before
    print("".join(f"\n{n:7} {what}" for what, n in sorted(found.items())))
    if len(numbers) >= 300:
        rare = {k: found[f"kernel: {k}"] for k, n in REACHED.items() if found[f"kernel: {k}"] < n * len(numbers) / 1000}
        assert not rare, f"computed too few of {len(numbers)} attentions: {rare}"


def test_every_kernel_is_reached():
    assert REACHED.keys() == {k.name for k in CATALOG}


@pytest.fixture
def padding_counts(monkeypatch):
    monkeypatch.setattr("towerdsl.lowered.tiling.Tiling.inside", lambda self: None)


def compare_a_few() -> None:
    for number in range(FEW):
        compared(number)


def test_padding_that_counts_is_found(padding_counts, monkeypatch):
    monkeypatch.setitem(globals(), "smaller", lambda taken, told: None)
    with pytest.raises(AssertionError, match=r"attention \d+: \w+"):
        compare_a_few()


@pytest.mark.slow
def test_what_disagrees_is_made_smaller(padding_counts):
    """It is told with what it takes to see it again."""
    with pytest.raises(AssertionError, match=r"(?s)attention \d+: \w+: .*tower: random.*# Case\(text, ") as raised:
        compare_a_few()
    assert len(str(raised.value).split("tower: random")[1]) < 500
