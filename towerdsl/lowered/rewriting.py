"""Values of pairs --> the same values in other terms: in blocks, in a part of an axis, at listed pairs, at one pair.

A score, a condition or a message is computed by a few operations from values of one side each. One walk goes through
these operations; a rule says what becomes of what they are computed from, and of types.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import replace

from towerdsl.ir import nodes as n
from towerdsl.ir.types import TensorType

#: Values of pairs that are computed from other values, entry by entry of their positions.
COMPUTED = (n.Pointwise, n.Dot, n.Reduce, n.Gather, n.Shared, n.Cast)


def read_whole(value: n.Value) -> str:
    """Why the value of all pairs cannot be had for some of them: what it is, where it is not `COMPUTED`."""
    inner = n.plain(value)
    if isinstance(inner, n.Apply):
        return f"`{inner.op.name}` takes all pairs together"
    if isinstance(inner, n.Member):
        return "the pairs of a relation are no blocks"
    return "pairs of positions are read from a tensor"


class Rewriting(ABC):
    """A rule."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """What tells a value that is computed once from the same value by another rule, or by none."""

    @abstractmethod
    def instead(self, value: n.Value) -> n.Value | None:
        """What stands in place of a value as a whole; None where it is computed from its operands, rewritten."""

    @abstractmethod
    def type(self, old: TensorType, operands: Sequence[n.Value]) -> TensorType:
        """The type of a value that is computed from rewritten operands. Its axes may stand in any order, but for those
        of a value that keeps its operand's."""

    def value(self, value: n.Value) -> n.Value:
        """The value, rewritten."""
        found = self.instead(value)
        return self._computed(value) if found is None else found

    def _computed(self, value: n.Value) -> n.Value:
        match value:
            case n.Pointwise():
                new: n.Value = replace(value, args=tuple(map(self.value, value.args)))
            case n.Dot():
                new = replace(value, left=self.value(value.left), right=self.value(value.right))
            case n.Cast():
                arg = self.value(value.arg)
                return replace(value, type=value.type.with_axes(arg.axes), arg=arg)
            case n.Shared():
                arg = self.value(value.arg)
                return replace(value, type=arg.type, arg=arg, key=hash((value.key, self.key)))
            case n.Reduce():
                arg = self.value(value.arg)
                return replace(value, type=value.type.with_axes(arg.type.without(value.over)), arg=arg)
            case n.Gather():
                table, indices = self.value(value.table), tuple(map(self.value, value.indices))
                lead = len(table.axes) - (len(value.table.axes) - value.lead)
                new = replace(value, table=table, lead=lead, indices=indices)
            case _:
                raise AssertionError(f"{type(value).__name__} is computed from nothing")
        return replace(new, type=self.type(value.type, new.operands))
