"""Which variables a block's statements read and assign, and which are read afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from towerdsl.ir import nodes as n


def read(values: Iterable[n.Value]) -> set[str]:
    """The variables that values are made of."""
    return {v.name for value in values for v in value.walk() if isinstance(v, n.Local)}


def statements(body: Sequence[n.Step]) -> Iterator[n.Set | n.Evaluate]:
    """The statements of a body and of the loops in it, each body of a loop once."""
    for step in body:
        if isinstance(step, n.Loop):
            for inner in {id(b): b for b in step.bodies}.values():
                yield from statements(inner)
        elif isinstance(step, n.Scan):
            yield from statements(step.body)
        else:
            yield step


def values(step: n.Set | n.Evaluate) -> list[n.Value]:
    """What a statement is made of."""
    if isinstance(step, n.Set):
        return [step.value]
    a = step.average
    return [v for v in (a.query, a.key, a.value, a.score, a.visible, a.message) if v is not None]


def weights_read(
    weights: Iterable[n.WeightDecl], body: Sequence[n.Step], results: Iterable[n.Value | n.Relation]
) -> tuple[n.WeightDecl, ...]:
    """The weights of a block that its statements or results read: a choice of sizes may leave some out."""
    roots = [v for step in statements(body) for v in values(step)] + [r for r in results if isinstance(r, n.Value)]
    names = {v.path[0] for root in roots for v in root.walk() if isinstance(v, n.Weight)}
    return tuple(w for w in weights if w.name in names)


def without_unused(body: Sequence[n.Step], results: Iterable[n.Value | n.Relation]) -> tuple[n.Step, ...]:
    """The statements, in which loops collect nothing that is never read after them."""
    found, _ = _backwards(body, read(r for r in results if isinstance(r, n.Value)))
    return found


def _backwards(body: Sequence[n.Step], after: set[str]) -> tuple[tuple[n.Step, ...], set[str]]:
    """Statements without what is unused, and what is read of what stands before them; `after` is read behind them."""
    found: list[n.Step] = []
    for step in reversed(body):
        if isinstance(step, n.Loop):
            distinct = {id(b): b for b in step.bodies}
            end = after.union(*(_backwards(b, after)[1] for b in distinct.values()))
            made = {key: _backwards(b, end) for key, b in distinct.items()}
            step = replace(step, bodies=tuple(made[id(b)][0] for b in step.bodies))
            after = after.union(*(start for _, start in made.values()))
        elif isinstance(step, n.Scan):
            names = {name for name, _ in step.collected}
            kept = tuple((name, kind) for name, kind in step.collected if name in after)
            outside = after - names
            end = outside | {name for name, _ in kept}
            end |= _backwards(step.body, end)[1]
            inner, start = _backwards(step.body, end)
            step = replace(step, body=inner, collected=kept)
            after = outside | (start - {step.index})
        else:
            after = (after - set(step.names)) | read(values(step))
        found.append(step)
    return tuple(reversed(found)), after
