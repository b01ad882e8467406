"""What no data goes into: values that are made of lengths and positions, and the same wherever these are the same."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, fields
from typing import Any

from towerdsl.budget import spend
from towerdsl.ir import nodes as n
from towerdsl.ir.placed import Blocks, Inside, Place
from towerdsl.ir.types import TensorType

#: What is made of lengths and positions, and of other such values.
COUNTED = (n.Const, n.SizeOf, n.Position, n.Range, n.Fill, Place, Inside)
COMPUTED = (n.Cast, n.Pointwise, n.Reduce, n.Shared, Blocks, n.Rename, n.Pick)
#: What costs no more than to read it again.
CHEAP = {"+", "-", "*", "/", "//", "%", "neg", "abs"}


@dataclass(frozen=True)
class Known:
    """A value that no data goes into: those that are the same, but for the side of their axes, have one number."""

    number: int
    cheap: bool  # it costs no more than a step or two


@dataclass
class Counted:
    """What is known of values, each looked at once."""

    numbers: dict[Hashable, int] = field(default_factory=dict)
    known: dict[int, tuple[n.Value, Known | None]] = field(default_factory=dict)  # by identity (kept alive)

    def of(self, value: n.Value) -> Known | None:
        """What is known of a value; None of one that data goes into."""
        value = n.plain(value)
        if id(value) not in self.known:
            spend(5)
            self.known[id(value)] = value, self._found(value)
        return self.known[id(value)][1]

    def _found(self, value: n.Value) -> Known | None:
        if not isinstance(value, COUNTED + COMPUTED):
            return None
        operands = list(map(self.of, value.operands))
        if None in operands:
            return None
        key = (type(value).__name__, *(self._part(value, getattr(value, f.name)) for f in fields(value) if f.compare))
        cheap = not isinstance(value, Blocks | n.Reduce)
        cheap = cheap and not (isinstance(value, n.Pointwise) and value.op not in CHEAP)
        cheap = cheap and all(x is not None and x.cheap for x in operands)
        return Known(self.numbers.setdefault(key, len(self.numbers)), cheap)

    def _part(self, value: n.Value, x: Any) -> Hashable:
        """A field of a value, without the side of its axes."""
        if isinstance(x, n.Value):
            known = self.of(x)
            return known and known.number
        if isinstance(x, TensorType):
            return x.dtype, x.scalar, tuple(a.on("i") if a.side else a for a in x.axes)
        if isinstance(x, tuple):
            return tuple(self._part(value, y) for y in x)
        if isinstance(value, Blocks) and isinstance(x, str):  # of keys without a reach they are those of queries
            return x if any(c.before or c.after for c in value.cuts) else ""
        found: Hashable = x
        return found
