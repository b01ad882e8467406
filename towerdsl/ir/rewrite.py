"""Rebuild a model with parts changed: each block, value and loop body once, so that what was shared stays so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from towerdsl.ir import nodes as n
from towerdsl.ir.types import Axis, TensorType

T = TypeVar("T")


def change_averages(model: n.Model, change: Callable[[n.Average], n.Average]) -> n.Model:
    """The model with `change` applied to every attention."""
    return rewrite(model, average=change)


def rewrite(
    model: n.Model,
    *,
    average: Callable[[n.Average], n.Average] = lambda a: a,
    value: Callable[[n.Value], n.Value] = lambda v: v,
    block: Callable[[n.BlockInstance, n.BlockInstance], n.BlockInstance] = lambda old, new: new,
    kept: Collection[str] = (),
) -> n.Model:
    """The model with its parts changed, each after what it is made of.

    `block` gets a block as it was and as it is. Fields of attentions whose names are in `kept` stay as they are.
    """
    return replace(model, root=_Rewriter(average, value, block, kept).block(model.root))


def change_values(body: tuple[n.Step, ...], change: Callable[[n.Value], n.Value]) -> tuple[n.Step, ...]:
    """Statements with `change` applied to every value in them."""
    return _Rewriter(change_value=change).body(body)


@dataclass
class _Rewriter:
    change_average: Callable[[n.Average], n.Average] = lambda a: a
    change_value: Callable[[n.Value], n.Value] = lambda v: v
    change_block: Callable[[n.BlockInstance, n.BlockInstance], n.BlockInstance] = lambda old, new: new
    kept: Collection[str] = ()
    done: dict[int, tuple[Any, Any]] = field(default_factory=dict)  # old by identity (kept alive) -> new

    def once(self, old: T, make: Callable[[T], T]) -> T:
        if id(old) not in self.done:
            self.done[id(old)] = (old, make(old))
        found: T = self.done[id(old)][1]
        return found

    def block(self, block: n.BlockInstance) -> n.BlockInstance:
        return self.once(block, self._block)

    def _block(self, b: n.BlockInstance) -> n.BlockInstance:
        modules = tuple((name, self.once(slot, self._slot)) for name, slot in b.modules)
        results = tuple(self.value(r) if isinstance(r, n.Value) else r for r in b.results)
        return self.change_block(b, replace(b, modules=modules, body=self.body(b.body), results=results))

    def _slot(self, slot: n.ModuleSlot) -> n.ModuleSlot:
        block = self.block(slot.block) if slot.block is not None else None
        return replace(slot, block=block, items=tuple(self.once(s, self._slot) for s in slot.items))

    def body(self, body: tuple[n.Step, ...]) -> tuple[n.Step, ...]:
        return self.once(body, lambda steps: tuple(self._step(s) for s in steps))

    def _step(self, step: n.Step) -> n.Step:
        if isinstance(step, n.Set):
            return replace(step, value=self.value(step.value))
        if isinstance(step, n.Loop):
            return replace(step, bodies=tuple(self.body(b) for b in step.bodies))
        if isinstance(step, n.Scan):
            return replace(step, body=self.body(step.body))
        average: n.Average = self._fields(step.average, self.kept)
        return replace(step, average=self.change_average(average))

    def value(self, value: n.Value) -> n.Value:
        return self.once(value, self._value)

    def _value(self, value: n.Value) -> n.Value:
        found: n.Value = self._fields(value)
        if isinstance(found, n.CallBlock):
            found = replace(found, block=self.block(found.block))
        return self.change_value(found)

    def _fields(self, node: Any, kept: Collection[str] = ()) -> Any:
        """A node with the values in its fields rebuilt."""
        changes: dict[str, Any] = {}
        for f in fields(node):
            old = getattr(node, f.name)
            if f.name in kept:
                continue
            if isinstance(old, n.Value):
                new: Any = self.value(old)
            elif isinstance(old, tuple) and any(isinstance(x, n.Value) for x in old):
                new = tuple(self.value(x) if isinstance(x, n.Value) else x for x in old)
            else:
                continue
            if any(a is not b for a, b in zip(_flat(new), _flat(old), strict=True)):
                changes[f.name] = new
        return replace(node, **changes) if changes else node


def moved(value: n.Value, to: Mapping[Axis, Axis]) -> n.Value:
    """The value with positions along some axes read at others: `keep[j]` --> `keep[i]`."""

    def inner(x: Any) -> Any:
        if isinstance(x, n.Value):
            return moved(x, to)
        if isinstance(x, Axis):
            return to.get(x, x)
        if isinstance(x, TensorType):
            twice = [a for a in x.axes if a in to and to[a] in x.axes]  # i and j: the pairs are those of i alone
            return replace(x, axes=tuple(inner(a) for a in x.axes if a not in twice))
        if isinstance(x, tuple):
            return tuple(inner(y) for y in x)
        return x

    return replace(value, **{f.name: inner(getattr(value, f.name)) for f in fields(value) if f.name != "span"})


def _flat(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
