"""What no data goes into is made once, and not in every call: masks, angles of rotary positions, blocks of positions.

Its numbers depend on lengths, a device and a dtype only. A method makes them, and what it made is kept for these.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from towerdsl.ir import nodes as n
from towerdsl.ir.placed import Place
from towerdsl.ir.types import Axis
from towerdsl.lowered.common import name_of
from towerdsl.lowered.counted import Counted
from towerdsl.lowered.nodes import Lowered, Paired
from towerdsl.lowered.rewrite import Tree, change_values
from towerdsl.passes.score import sides


def made_once(tree: Tree) -> Tree:
    """The same tree, in which the largest values that no data goes into, and that are more than a step, are kept."""
    if isinstance(tree, Lowered) and isinstance(tree.body, Paired):  # it is computed for one pair at a time
        return tree
    average = tree.average if isinstance(tree, Lowered) else None
    return change_values(tree, _Once(average).kept)


@dataclass
class _Once:
    average: n.Average | None
    counted: Counted = field(default_factory=Counted)

    def worth(self, value: n.Value) -> bool:
        """Whether a value costs more than to look it up."""
        known = None if value.type.scalar else self.counted.of(value)
        return known is not None and (not known.cheap or len(sides(value)) > 1) and not _local(value)

    def kept(self, value: n.Value) -> n.Value | None:
        """What stands in the place of a value that is worth it."""
        if isinstance(_converted(value), n.Rename):  # the same tensor is kept under one name of its axes
            return None
        if not self.worth(value):
            return None
        inner = n.plain(value)
        kept = n.Shared(inner.type, inner.span, inner, self.name(value), id(inner), kept=True)
        return n.Shared(value.type, value.span, kept, value.name, value.key) if isinstance(value, n.Shared) else kept

    def name(self, value: n.Value) -> str:
        """A name for what is kept: what it is for, along which axis; or what it is made by."""
        if value.type.dtype == "bool":
            base = "visible"
        else:
            base = "offset" if value.type.dtype == "int" and len(sides(value)) > 1 else name_of(value)
        axes = {a.name for v in value.walk() for a in _counted(v) if a is not None}
        several = self.average is not None and max(len(self.average.positions), len(self.average.over)) > 1
        return f"{base}_{axes.pop()}" if several and len(axes) == 1 and None not in axes else base


def _converted(value: n.Value) -> n.Value:
    """What is in another dtype, if it is no more than that."""
    while isinstance(value, n.Cast | n.Shared):
        value = value.arg
    return value


def _counted(value: n.Value) -> tuple[Axis | None, ...]:
    """The axis that a value counts along, if it does."""
    match value:
        case n.Position():
            return value.axes
        case Place():
            return (value.cut.query or value.cut.key,)
    return ()


def _local(value: n.Value) -> bool:
    """Whether a value is made of lengths that only the tree names: those of a part."""
    sizes = (s for v in value.walk() for s in (*v.type.shape, *([v.size] if isinstance(v, n.SizeOf) else [])))
    return any(name.startswith("%") for s in sizes for name in s.free_names)
