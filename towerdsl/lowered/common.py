"""What several parts of an attention have in common is computed once: sines and cosines for queries and keys, the
blocks that positions are in.

A value that no data goes into is the same numbers for queries and for keys, where these stand along one axis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field, fields
from typing import Any

from towerdsl.budget import spend
from towerdsl.ir import nodes as n
from towerdsl.ir.types import TensorType
from towerdsl.lowered.nodes import Lowered
from towerdsl.lowered.rewrite import change_values
from towerdsl.passes.score import sides

#: What is made of lengths and positions, and of other such values.
COUNTED = (n.Const, n.SizeOf, n.Position, n.Range, n.Fill, n.Place, n.Inside)
COMPUTED = (n.Cast, n.Pointwise, n.Reduce, n.Shared, n.Blocks)
#: What costs no more than to read it again.
CHEAP = {"+", "-", "*", "/", "//", "%", "neg", "abs"}


def common_parts(lowered: Lowered) -> Lowered:
    """The same tree, in which values that are made of positions and lengths, and not in a step or two, stand once."""
    common = _Common()
    common.count(lowered.body)
    return change_values(lowered, common.shared) if max(common.counts.values(), default=0) > 1 else lowered


@dataclass(frozen=True)
class _Known:
    """A value that no data goes into: those that are the same, but for the side of their axes, have one number."""

    number: int
    cheap: bool  # it costs no more than a step or two


@dataclass
class _Common:
    """Values that no data goes into, and how often each occurs."""

    numbers: dict[Hashable, int] = field(default_factory=dict)
    known: dict[int, tuple[n.Value, _Known | None]] = field(default_factory=dict)  # by identity (kept alive)
    counts: Counter[int] = field(default_factory=Counter)
    first: dict[int, n.Value] = field(default_factory=dict)
    met: set[int] = field(default_factory=set)  # what is computed once anyway

    def of(self, value: n.Value) -> _Known | None:
        """What is known of a value; None of one that data goes into."""
        value = n.plain(value)
        if id(value) not in self.known:
            spend(5)
            self.known[id(value)] = value, self._found(value)
        return self.known[id(value)][1]

    def _found(self, value: n.Value) -> _Known | None:
        if not isinstance(value, COUNTED + COMPUTED):
            return None
        operands = list(map(self.of, value.operands))
        if None in operands:
            return None
        key = (type(value).__name__, *(self._part(value, getattr(value, f.name)) for f in fields(value) if f.compare))
        cheap = not isinstance(value, n.Blocks | n.Reduce)
        cheap = cheap and not (isinstance(value, n.Pointwise) and value.op not in CHEAP)
        cheap = cheap and all(x is not None and x.cheap for x in operands)
        return _Known(self.numbers.setdefault(key, len(self.numbers)), cheap)

    def _part(self, value: n.Value, x: Any) -> Hashable:
        """A field of a value, without the side of its axes."""
        if isinstance(x, n.Value):
            known = self.of(x)
            return known and known.number
        if isinstance(x, TensorType):
            return x.dtype, x.scalar, tuple(a.on("i") if a.side else a for a in x.axes)
        if isinstance(x, tuple):
            return tuple(self._part(value, y) for y in x)
        if isinstance(value, n.Blocks) and isinstance(x, str):  # of keys without a reach they are those of queries
            return x if any(c.before or c.after for c in value.cuts) else ""
        found: Hashable = x
        return found

    def worth(self, value: n.Value) -> int | None:
        """The number of a value that costs more than its variable."""
        if value.type.scalar or value.type.dtype == "bool":
            return None
        known = self.of(value)
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
        one = n.Shared(first.type, first.span, first, _name(value), hash((number, "common")))
        return one if first.axes == value.axes else n.Rename(value.type, value.span, one)


def _name(value: n.Value) -> str:
    """A name for a value: its own, or that of its function or kind."""
    if isinstance(value, n.Shared):
        return value.name
    if isinstance(value, n.Cast):
        return _name(value.arg)
    if isinstance(value, n.Pointwise) and value.op.isidentifier():
        return "chosen" if value.op == "where" else value.op
    return "term" if isinstance(value, n.Pointwise) else type(value).__name__.lower()
