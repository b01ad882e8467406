"""Which conditions a block can do without: parameters that may be None, "everything is visible".

A mask that hides nothing costs time in every attention. Where a boolean parameter is only handed on, or must hold
beside whatever else an attention's condition says, the emitted code takes None for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import read, statements
from towerdsl.ir.placed import AtPairs, Blocks, Rows
from towerdsl.ir.size import Size
from towerdsl.ir.types import TensorType
from towerdsl.passes.locality import conjuncts, joined


@dataclass(frozen=True)
class LeftOut:
    """A condition in two: a variable that may be None, as it is read (`keep[j]`), and the rest (None: everything)."""

    name: str
    value: n.Value
    rest: n.Value | None


def left_out(visible: n.Value | None, names: frozenset[str]) -> LeftOut | None:
    """The condition with one of the variables `names` apart, if it is read by itself and nowhere else in it."""
    parts = conjuncts(visible) if visible is not None else []
    for place, part in enumerate(parts):
        value = part
        while isinstance(value, n.Rename | Blocks | Rows | n.Pick | AtPairs):
            value = value.arg
        others = [*parts[:place], *parts[place + 1 :]]
        if isinstance(value, n.Local) and value.name in names - read(others):
            assert visible is not None
            return LeftOut(value.name, part, joined(others, visible.axes))
    return None


class Optional:
    """Finds the parameters of blocks that may be None; each block instance is looked at once."""

    def __init__(self) -> None:
        self.known: dict[int, frozenset[str]] = {}

    def parameters(self, block: n.BlockInstance) -> frozenset[str]:
        if id(block) not in self.known:
            conditions = frozenset(
                k for k, t in block.parameters if isinstance(t, TensorType) and t.dtype == "bool" and t.axes
            )
            needed = set(self._needed(block, conditions)) | {
                v.name for r in block.results if isinstance(r, n.Value) for v in self._read(r)
            }
            self.known[id(block)] = conditions - needed - _only_sources(block, conditions)
        return self.known[id(block)]

    def _needed(self, block: n.BlockInstance, conditions: frozenset[str]) -> Iterator[str]:
        """Names of variables that must be there, or are assigned."""
        for step in statements(block.body):
            if isinstance(step, n.Set):
                yield from step.names
                yield from (v.name for v in self._read(step.value))
            else:
                average = step.average
                apart = left_out(average.visible, conditions)
                visible = apart.rest if apart is not None else average.visible
                roots = [average.query, average.key, average.value, average.score, average.message, visible]
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


def _only_sources(block: n.BlockInstance, conditions: frozenset[str]) -> set[str]:
    """Those of the conditions that a length is read from, which no other parameter has."""
    kinds = {name: kind for name, kind in block.parameters if isinstance(kind, TensorType)}
    known = {x for name, kind in kinds.items() if name not in conditions for x in (name, *_lengths(kind))}
    return {name for name in conditions if not _lengths(kinds[name]) <= known}


def _lengths(kind: TensorType) -> set[str]:
    """The free lengths that a tensor of this type tells."""
    return {name for a in kind.axes for name in a.size.free_names if a.size == Size.free(name)}
