"""Which conditions a block can do without: parameters that may be None, "everything is visible".

A mask that hides nothing costs time in every attention. Where a boolean parameter is only handed on, or is all of an
attention's condition, the emitted code takes None for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import statements
from towerdsl.ir.types import TensorType
from towerdsl.kernels.base import Plan


def sole_condition(average: n.Average) -> str | None:
    """The name of the variable that is all of the condition, as in `mask: keep[j]`, or None."""
    value = average.visible
    while isinstance(value, n.Rename):
        value = value.arg
    return value.name if isinstance(value, n.Local) else None


class Optional:
    """Finds the parameters of blocks that may be None; each block instance is looked at once."""

    def __init__(self, plans: Mapping[int, Plan]) -> None:
        self.plans = plans
        self.known: dict[int, frozenset[str]] = {}

    def parameters(self, block: n.BlockInstance) -> frozenset[str]:
        if id(block) not in self.known:
            conditions = {k for k, t in block.parameters if isinstance(t, TensorType) and t.dtype == "bool" and t.axes}
            needed = set(self._needed(block)) | {
                v.name for r in block.results if isinstance(r, n.Value) for v in self._read(r)
            }
            self.known[id(block)] = frozenset(conditions - needed)
        return self.known[id(block)]

    def _needed(self, block: n.BlockInstance) -> Iterator[str]:
        """Names of variables that must be there, or are assigned."""
        for step in statements(block.body):
            if isinstance(step, n.Set):
                yield from step.names
                yield from (v.name for v in self._read(step.value))
            else:
                average = step.average
                facts = self.plans[id(block)].facts
                biased = not isinstance(facts.score, str) and bool(facts.score.biases)
                roots = [average.query, average.key, average.value, average.score, average.message]
                if biased or sole_condition(average) is None:
                    roots.append(average.visible)
                yield from (v.name for root in roots if root is not None for v in self._read(root))

    def _read(self, value: n.Value) -> Iterator[n.Local]:
        """The variables that a value reads, but for those that it only hands to a block that can do without."""
        if isinstance(value, n.Local):
            yield value
        elif isinstance(value, n.CallBlock):
            without = self.parameters(value.block)
            for (name, _), arg in zip(value.block.parameters, value.args, strict=True):
                if isinstance(arg, n.Value) and not (isinstance(arg, n.Local) and name in without):
                    yield from self._read(arg)
        else:
            for operand in value.operands:
                yield from self._read(operand)
