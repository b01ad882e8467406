"""Rebuild a model with its averages changed: each block, value and loop body once, so that what was shared stays so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from towerdsl.ir import nodes as n
from towerdsl.ir.types import Axis, TensorType

T = TypeVar("T")


def change_averages(model: n.Model, change: Callable[[n.Average], n.Average]) -> n.Model:
    """The model with `change` applied to every attention."""
    return replace(model, root=_Rewriter(change).block(model.root))


class _Rewriter:
    def __init__(self, change: Callable[[n.Average], n.Average]) -> None:
        self.change = change
        self.done: dict[int, tuple[Any, Any]] = {}  # old by identity (kept alive) -> new

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
        return replace(b, modules=modules, body=self.once(b.body, self._body), results=results)

    def _slot(self, slot: n.ModuleSlot) -> n.ModuleSlot:
        block = self.block(slot.block) if slot.block is not None else None
        return replace(slot, block=block, items=tuple(self.once(s, self._slot) for s in slot.items))

    def _body(self, body: tuple[n.Step, ...]) -> tuple[n.Step, ...]:
        return tuple(self._step(s) for s in body)

    def _step(self, step: n.Step) -> n.Step:
        if isinstance(step, n.Set):
            return replace(step, value=self.value(step.value))
        if isinstance(step, n.Loop):
            return replace(step, bodies=tuple(self.once(b, self._body) for b in step.bodies))
        if isinstance(step, n.Scan):
            return replace(step, body=self.once(step.body, self._body))
        average: n.Average = self._fields(step.average)
        return replace(step, average=self.change(average))

    def value(self, value: n.Value) -> n.Value:
        return self.once(value, self._value)

    def _value(self, value: n.Value) -> n.Value:
        found: n.Value = self._fields(value)
        return replace(found, block=self.block(found.block)) if isinstance(found, n.CallBlock) else found

    def _fields(self, node: Any) -> Any:
        """A node with the values in its fields rebuilt."""
        changes: dict[str, Any] = {}
        for f in fields(node):
            old = getattr(node, f.name)
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
