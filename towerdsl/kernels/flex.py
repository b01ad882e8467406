"""torch's flex_attention, for GPUs: blocks of pairs of which none is visible are left out.

The condition and the biases are written as functions of one pair. The same function of the condition, read with what is
known of whole blocks in the place of positions, says which blocks are left out: see `towerdsl.runtime.flex`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.kernels.base import Facts, Kernel, Speed, all_pairs, not_one_axis
from towerdsl.kernels.rewriting import Rewriting
from towerdsl.passes.bounds import bounds
from towerdsl.passes.score import sides

if TYPE_CHECKING:
    from towerdsl.emit.average import AverageWriter

#: What a pair computes from its positions; other functions of one side are computed once, for all pairs.
ARITHMETIC = {"+", "-", "*", "//", "%", "neg", "abs", "not", "and", "or", "<", "<=", ">", ">=", "==", "!="}


class Unpaired(Exception):
    """Why a value cannot be written as a function of one pair."""


class Flex(Kernel):
    name = "flex"
    how = "torch's flex_attention, without the blocks of pairs that see nothing"
    shares_key_heads = True
    #: Beside the other numbers, which are a CPU's: on a GPU no mask or bias of pairs is read from memory.
    speed = Speed(call=400_000, multiply_add=0.015, pair=0.4)

    def refuse(self, average: Average, facts: Facts) -> str | None:
        if facts.device != "cuda":
            return f"it is for GPUs, the device is {facts.device}"
        if not average.is_softmax_of_values:
            return "it computes the softmax average of values as they are"
        if isinstance(facts.score, str):
            return facts.score
        if facts.locality.never:
            return "no key is visible"
        if (several := not_one_axis(average)) is not None:
            return several
        if average.dropout:
            return "flex_attention drops no weights"
        biases = [t.value for t in facts.score.biases]
        if not biases and (facts.locality.everything or facts.locality.causal(average)):
            return "there is nothing to leave out that scaled_dot_product_attention does not"
        conditions = [average.visible] if average.visible is not None else []
        if any(x.type.scalar for x in conditions):
            return "the condition is one for all pairs"
        read: list[n.Value] = []

        def learned(x: n.Value) -> n.Value:
            read.append(x.arg if isinstance(x, n.Rename) else x)
            return x

        try:
            for value in biases:
                paired(value, average, learned, {})
            for value in conditions:
                paired(value, average, lambda x: x, {})
        except Unpaired as reason:
            return str(reason)
        learns = [any(v.type.dtype == "float" and not v.type.scalar for v in x.walk()) for x in read]
        if any(learns[k] and x in read[:k] for k, x in enumerate(read)):
            return "flex_attention has no gradient of a tensor that biases read twice"
        return None

    def write(self, average: Average, facts: Facts, writer: AverageWriter) -> str:
        assert not isinstance(facts.score, str)
        return writer.flex(facts.score)

    def pairs(self, average: Average, facts: Facts) -> Size:
        """Those within reach, where a band bounds the distance on both sides."""
        (query,), (key,) = average.positions, average.over
        reaches = [b.high - b.low + 1 for b in facts.locality.bands if b.low is not None and b.high is not None]
        return query.size * reaches[0].opaque("min", key.size) if reaches else all_pairs(average)

    def peak(self, average: Average, facts: Facts) -> Size:
        return Size.of(0)


def paired(value: n.Value, average: Average, held: Callable[[n.Value], n.Value], names: Mapping[str, str]) -> n.Value:
    """A value of pairs --> its value for one pair.

    `names` are the variables for the entry of the batch "b", the head "h", the query "i" and the key "j". `held` holds
    what is computed once for all pairs. Raises Unpaired.
    """
    return _Pairing(average, held, names).value(value)


@dataclass
class _Pairing(Rewriting):
    """One pair: a number of what is computed for pairs, and an entry of what is held."""

    average: Average
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
        return n.Entry(self.type(value.type, ()), value.span, self.held(value), tuple(map(self._place, value.axes)))

    def _looked_up(self, value: n.Gather) -> n.Value:
        table, lead = value.table, value.lead
        if len(table.axes) != lead + len(value.indices):
            raise Unpaired("pairs are made of vectors")
        looked_up = zip(value.indices, table.axes[lead:], strict=True)
        index = (
            *map(self._place, table.axes[:lead]),
            *(_inside(self.value(x), x, axis) for x, axis in looked_up),
        )
        return n.Entry(self.type(value.type, ()), value.span, self.held(table), index)

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
