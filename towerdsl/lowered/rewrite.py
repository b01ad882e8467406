"""Rebuild a lowered attention with its values changed: each once, so that what was one object stays one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from towerdsl.budget import spend
from towerdsl.ir.nodes import Average, Value
from towerdsl.lowered.nodes import Lowered
from towerdsl.passes.score import DotScore, Product, Term

Tree = TypeVar("Tree", Lowered, Value)

#: What of an average a tree computes; its sources are made before.
FORMULAS = ("score", "visible", "message")


def change_values(tree: Tree, change: Callable[[Value], Value | None]) -> Tree:
    """The tree with what `change` gives in the place of a value as a whole; None goes on with what it is made of."""
    found: Tree = _Rewriter(change).rebuilt(tree)
    return found


@dataclass
class _Rewriter:
    change: Callable[[Value], Value | None]
    done: dict[int, tuple[Any, Any]] = field(default_factory=dict)  # old by identity (kept alive) -> new

    def rebuilt(self, old: Any) -> Any:
        if isinstance(old, tuple):
            new = tuple(map(self.rebuilt, old))
            return new if any(a is not b for a, b in zip(new, old, strict=True)) else old
        if not isinstance(old, Value | Average | DotScore | Term | Product | Lowered):
            return old
        if id(old) not in self.done:
            spend(5)
            changed = self.change(old) if isinstance(old, Value) else None
            self.done[id(old)] = old, self.parts(old) if changed is None else changed
        return self.done[id(old)][1]

    def parts(self, old: Any) -> Any:
        """The same node, of rebuilt parts."""
        names = FORMULAS if isinstance(old, Average) else [f.name for f in fields(old)]
        found = {name: self.rebuilt(getattr(old, name)) for name in names}
        changes = {name: new for name, new in found.items() if new is not getattr(old, name)}
        return replace(old, **changes) if changes else old
