"""Values of pairs --> values of one pair: numbers made of where it is, and entries of what is held for all pairs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from towerdsl.ir import nodes as n
from towerdsl.ir.placed import Entry
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.lowered.rewriting import Rewriting
from towerdsl.passes.bounds import bounds
from towerdsl.passes.score import sides

#: What a pair computes from its positions; other functions of one side are computed once, for all pairs.
ARITHMETIC = {"+", "-", "*", "//", "%", "neg", "abs", "not", "and", "or", "<", "<=", ">", ">=", "==", "!="}


class Unpaired(Exception):
    """Why a value cannot be written as a function of one pair."""


def paired(value: n.Value, average: n.Average, held: Callable[[n.Value], n.Value], names: Mapping[str, str]) -> n.Value:
    """A value of pairs --> its value for one pair.

    `names` are the variables for the entry of the batch "b", the head "h", the query "i" and the key "j". `held` holds
    what is computed once for all pairs. Raises Unpaired.
    """
    return _Pairing(average, held, names).value(value)


@dataclass
class _Pairing(Rewriting):
    """One pair: a number of what is computed for pairs, and an entry of what is held."""

    average: n.Average
    held: Callable[[n.Value], n.Value]
    names: Mapping[str, str]

    @property
    def key(self) -> Hashable:
        return "paired"

    def instead(self, value: n.Value) -> n.Value | None:
        if value.type.scalar:
            return value
        if isinstance(value, n.Position):
            return self._place(value.axes[0])
        if sides(value) != {"i", "j"} and not _is_arithmetic(value):
            return self._entry(value)
        match value:
            case n.Pointwise() | n.Cast() | n.Shared():
                return None
            case n.Gather():
                return self._looked_up(value)
            case n.Local() | n.Weight() | n.Rename():
                return self._entry(value)
            case n.Member():
                raise Unpaired("the pairs of a relation are no blocks")
        raise Unpaired("pairs are made of vectors")

    def type(self, old: TensorType, operands: Sequence[n.Value]) -> TensorType:
        return TensorType(old.dtype, ())

    def _entry(self, value: n.Value) -> n.Value:
        return Entry(self.type(value.type, ()), value.span, self.held(value), tuple(map(self._place, value.axes)))

    def _looked_up(self, value: n.Gather) -> n.Value:
        table, lead = value.table, value.lead
        if len(table.axes) != lead + len(value.indices):
            raise Unpaired("pairs are made of vectors")
        looked_up = zip(value.indices, table.axes[lead:], strict=True)
        index = (
            *map(self._place, table.axes[:lead]),
            *(_inside(self.value(x), x, axis) for x, axis in looked_up),
        )
        return Entry(self.type(value.type, ()), value.span, self.held(table), index)

    def _place(self, axis: Axis) -> n.Value:
        """Where the pair is along an axis of a tensor that is held."""
        batch, head = self.average.batch, self.average.heads
        if head is None and len(batch) > 1:  # the last batch axis stands in its place
            batch, head = batch[:-1], batch[-1]
        if axis.side:
            return self._variable(axis.side)
        if axis == head:
            return self._variable("h")
        if axis not in batch:
            raise Unpaired("pairs are made of vectors")
        at = self._variable("b")  # the batch axes are one, the last counts fastest
        for inner in batch[batch.index(axis) + 1 :]:
            at = n.Pointwise(at.type, None, "//", (at, _number(inner.size)))
        if axis != batch[0]:
            at = n.Pointwise(at.type, None, "%", (at, _number(axis.size)))
        return at

    def _variable(self, name: str) -> n.Value:
        return n.Local(TensorType("int", ()), None, self.names.get(name, name))


def _is_arithmetic(value: n.Value) -> bool:
    """Whether a value is made of positions and numbers alone."""
    value = n.plain(value)
    if isinstance(value, n.Pointwise):
        return value.op in ARITHMETIC and all(map(_is_arithmetic, value.args))
    return value.type.scalar or isinstance(value, n.Position)


def _inside(entry: n.Value, index: n.Value, axis: Axis) -> n.Value:
    """The entry of an index, kept inside the axis that it reads."""
    low, high = bounds(index)
    last = (axis.size - 1).integer
    if index.type.dtype == "bool":
        entry = n.Pointwise(TensorType("int", (), index.type.scalar), index.span, "int", (entry,))
    if low is not None and low >= 0 and high is not None and last is not None and high <= last:
        return entry
    kind = TensorType("int", (), index.type.scalar)
    return n.Pointwise(kind, index.span, "clip", (entry, _number(Size.of(0)), _number(axis.size - 1)))


def _number(size: Size) -> n.Value:
    kind, number = TensorType("int", (), True), size.integer
    return n.SizeOf(kind, None, size) if number is None else n.Const(kind, None, number)
