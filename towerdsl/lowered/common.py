"""What several parts of an attention have in common is computed once: sines and cosines for queries and keys, the
blocks that positions are in.

A value that no data goes into is the same numbers for queries and for keys, where these stand along one axis.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from towerdsl.budget import spend
from towerdsl.ir import nodes as n
from towerdsl.lowered.counted import Counted
from towerdsl.lowered.nodes import Lowered
from towerdsl.lowered.rewrite import change_values
from towerdsl.passes.score import sides


def common_parts(lowered: Lowered) -> Lowered:
    """The same tree, in which values that are made of positions and lengths, and not in a step or two, stand once."""
    common = _Common()
    common.count(lowered.body)
    return change_values(lowered, common.shared) if max(common.counts.values(), default=0) > 1 else lowered


@dataclass
class _Common:
    """How often each value occurs that no data goes into."""

    counted: Counted = field(default_factory=Counted)
    counts: Counter[int] = field(default_factory=Counter)
    first: dict[int, n.Value] = field(default_factory=dict)
    met: set[int] = field(default_factory=set)  # what is computed once anyway

    def worth(self, value: n.Value) -> int | None:
        """The number of a value that costs more than its variable."""
        if value.type.scalar or value.type.dtype == "bool":
            return None
        known = self.counted.of(value)
        return None if known is None or known.cheap or len(sides(value)) > 1 else known.number

    def count(self, value: n.Value) -> None:
        """Count the values below one that are worth a variable."""
        spend(2)
        number = self.worth(value)
        if number is not None:
            self.counts[number] += 1
            self.first.setdefault(number, n.plain(value))
        if isinstance(value, n.Shared):
            if value.key in self.met:
                return
            self.met.add(value.key)
        for operand in value.operands:
            self.count(operand)

    def shared(self, value: n.Value) -> n.Value | None:
        """What stands in the place of a value that occurs more than once."""
        number = self.worth(value)
        if number is None or self.counts[number] < 2:
            return None
        first = self.first[number]
        one = n.Shared(first.type, first.span, first, name_of(value), hash((number, "common")))
        return one if first.axes == value.axes else n.Rename(value.type, value.span, one)


def name_of(value: n.Value) -> str:
    """A name for a value: its own, that of the function that it is made by, or of its kind."""
    if isinstance(value, n.Shared):
        return value.name
    if isinstance(value, n.Cast):
        return name_of(value.arg)
    if not isinstance(value, n.Pointwise):
        return type(value).__name__.lower()
    functions = [v.op for v in value.walk() if isinstance(v, n.Pointwise) and v.op.isidentifier()]
    return next((x for x in functions if x != "where"), "chosen" if functions else "term")
