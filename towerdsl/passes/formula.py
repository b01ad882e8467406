"""What a condition can say: a tree of `all` and `either` over linear forms in intervals and facts about data.

`not` stands in front of facts alone. `logic.py` brings conditions to one form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from towerdsl.ir import nodes as n
from towerdsl.ir.printer import show_value
from towerdsl.ir.types import Axis
from towerdsl.passes.intervals import Intervals
from towerdsl.passes.linear import ONE, ZERO, Linear


@dataclass(frozen=True)
class Within:
    """A linear form without a constant has a value in one of the intervals."""

    form: Linear
    sets: Intervals

    @cached_property
    def text(self) -> str:
        return f"{self.form.text} in {', '.join(f'{low}..{high}' for low, high in self.sets)}"

    @property
    def axes(self) -> set[Axis]:
        return self.form.axes


@dataclass(frozen=True)
class Fact:
    """A truth value that depends on data, or its opposite."""

    value: n.Value
    holds: bool = True

    @cached_property
    def text(self) -> str:
        return f"{show_value(n.plain(self.value))} is {self.holds}"

    @property
    def axes(self) -> set[Axis]:
        return set(self.value.axes)


@dataclass(frozen=True)
class _Joined:
    parts: tuple[Formula, ...] = ()

    @cached_property
    def text(self) -> str:
        return f"{type(self).__name__}({'; '.join(p.text for p in self.parts)})"

    @property
    def axes(self) -> set[Axis]:
        return {a for p in self.parts for a in p.axes}


class All(_Joined):
    """All parts hold; without parts it is true."""


class Either(_Joined):
    """At least one part holds; without parts it is false."""


Formula = Within | Fact | All | Either
TRUE, FALSE = All(), Either()


def pair(form: Linear) -> tuple[Axis, Axis] | None:
    """The axes of `i - j` along one axis; None for any other form."""
    positions = [a.axes[0] for a, _ in form.terms if isinstance(a, n.Position)]
    if [f for _, f in form.terms] != [ONE, -ONE] or len(positions) < 2 or form.constant != ZERO:
        return None
    i, j = positions
    return (i, j) if (i.side, j.side) == ("i", "j") and i.name == j.name else None
