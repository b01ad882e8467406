"""What statements assign, and the loops among them."""

from __future__ import annotations

from collections.abc import Iterable

from towerdsl.lang import tree as t


def assignments(statements: Iterable[t.Statement]) -> Iterable[t.Assign]:
    """The assignments among statements, those in loops and choices too."""
    for s in statements:
        if isinstance(s, t.Assign):
            yield s
        elif isinstance(s, t.For):
            yield from assignments(s.body)
        elif isinstance(s, t.If):
            yield from assignments(s.body)
            yield from assignments(s.orelse)


def targets(statements: Iterable[t.Statement]) -> Iterable[t.Target]:
    """What statements assign."""
    return (target for s in assignments(statements) for target in s.targets)


def assigned(statements: Iterable[t.Statement]) -> set[str]:
    """The names that statements assign."""
    return {target.name for target in targets(statements)}


def loops(statements: Iterable[t.Statement]) -> Iterable[t.For]:
    """The loops among statements, and those inside of them."""
    for s in statements:
        if isinstance(s, t.For):
            yield s
        if isinstance(s, t.For | t.If):
            yield from loops(s.body)
        if isinstance(s, t.If):
            yield from loops(s.orelse)
