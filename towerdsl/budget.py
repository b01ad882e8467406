"""How much work a spec may ask for: one budget for a whole compile, counted in steps, the same on every machine.

A step is about a microsecond of work: every pass counts what it visits, makes or writes (`spend`). Who asks for a
compile holds the budget (`bounded`), and what exceeds it is a mistake at the place that was worked on (`working_at`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from towerdsl.diagnostics import Diagnostic, Span, TowerError

#: Of a whole compile.
STEPS = 2_500_000


class TooMuch(Exception):
    """Something would grow past what it is worth; what is not handled by who asked for it is a mistake of the spec."""

    def __init__(self, message: str = "this is too complicated") -> None:
        super().__init__(message)


class _Spent(Exception):
    """Nothing is left."""


class _Budget:
    """What is left of a number of steps, and the place that is worked on."""

    def __init__(self, steps: int, place: Span | None = None) -> None:
        self.left = steps
        self.place = place


_running: ContextVar[_Budget | None] = ContextVar("budget", default=None)


def spend(steps: int = 1) -> None:
    """Count work, before it is done or while it is. Raises what the `bounded` or `at_most` around it handles."""
    budget = _running.get()
    if budget is not None:
        budget.left -= steps
        if budget.left < 0:
            raise _Spent


def working_at(place: Span | None) -> None:
    """Say where in the spec the work is that follows."""
    budget = _running.get()
    if budget is not None and place is not None:
        budget.place = place


def spent() -> int:
    """How many steps have been counted, in the block `bounded` around this."""
    budget = _running.get()
    return 0 if budget is None else STEPS - budget.left


@contextmanager
def bounded() -> Iterator[None]:
    """All work inside comes out of one budget; inside of another such block, out of that one's. Raises TowerError."""
    if _running.get() is not None:
        yield
        return
    budget = _Budget(STEPS)
    token = _running.set(budget)
    try:
        yield
    except TooMuch as error:
        help = "real models need far simpler sizes"
        raise TowerError([Diagnostic("size", str(error), budget.place, (), help)]) from None
    except RecursionError:
        help = "assign its parts to names"
        raise TowerError([Diagnostic("too-deep", "this is nested too deep", budget.place, (), help)]) from None
    except _Spent:
        message = f"the spec takes more than {STEPS:,} steps of work, and the last of them here"
        help = "write less of it: smaller conditions and sizes, fewer repetitions, blocks and characters"
        raise TowerError([Diagnostic("too-much-work", message, budget.place, (), help)]) from None
    finally:
        _running.reset(token)


@contextmanager
def at_most(steps: int) -> Iterator[None]:
    """Work that is worth so much of the budget and no more. Raises TooMuch where it would take more."""
    outer = _running.get()
    given = steps if outer is None else min(steps, outer.left)
    budget = _Budget(given, outer.place if outer is not None else None)
    token = _running.set(budget)
    try:
        yield
    except _Spent:
        if given < steps:
            raise
        raise TooMuch from None
    finally:
        _running.reset(token)
        if outer is not None:
            outer.left -= given - max(budget.left, 0)
            outer.place = budget.place


@contextmanager
def uncounted() -> Iterator[None]:
    """Work that is kept for all compiles, and is not the first one's."""
    token = _running.set(None)
    try:
        yield
    finally:
        _running.reset(token)
