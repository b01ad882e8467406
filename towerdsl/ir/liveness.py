"""Which variables a block's statements read and assign, and which are read afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from towerdsl.budget import spend
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


def variables(block: n.BlockInstance) -> list[str]:
    """The names of a block's parameters, of what its statements assign, and of the indices of its loops."""
    found = [name for name, _ in block.parameters]

    def visit(body: Sequence[n.Step]) -> None:
        for step in body:
            if isinstance(step, n.Loop):
                found.append(step.index)
                for inner in {id(b): b for b in step.bodies}.values():
                    visit(inner)
            elif isinstance(step, n.Scan):
                found.extend((step.index, *(name for name, _ in step.collected)))
                visit(step.body)
            else:
                found.extend(step.names)

    visit(block.body)
    return found


def values(step: n.Set | n.Evaluate) -> list[n.Value]:
    """What a statement is made of."""
    if isinstance(step, n.Set):
        return [step.value]
    a = step.average
    return [v for v in (a.query, a.key, a.value, a.score, a.visible, a.message, step.gate) if v is not None]


def handed_on(block: n.BlockInstance) -> set[str]:
    """The variables that a block may give as they are: what is made of them by arithmetic is another tensor."""
    found: set[str] = set()

    def visit(value: n.Value | n.Relation) -> None:
        if isinstance(value, n.Local):
            found.add(value.name)
        elif isinstance(value, n.Value) and not isinstance(value, n.Pointwise | n.Dot | n.Reduce | n.Gather):
            for operand in value.operands:
                visit(operand)

    for result in block.results:
        visit(result)
    before = -1
    while len(found) > before:
        before = len(found)
        for step in statements(block.body):
            if isinstance(step, n.Set) and found & {*step.names}:
                visit(step.value)
    return found


def weights_read(
    weights: Iterable[n.WeightDecl], body: Sequence[n.Step], results: Iterable[n.Value | n.Relation]
) -> tuple[n.WeightDecl, ...]:
    """The weights of a block that its statements or results read: a choice of sizes may leave some out."""
    roots = [v for step in statements(body) for v in values(step)] + [r for r in results if isinstance(r, n.Value)]
    names = {v.path[0] for root in roots for v in root.walk() if isinstance(v, n.Weight)}
    return tuple(w for w in weights if w.name in names)


def without_unused(body: Sequence[n.Step], results: Iterable[n.Value | n.Relation]) -> tuple[n.Step, ...]:
    """The statements, in which loops collect nothing that is never read after them."""
    return _Liveness().kept(body, read(r for r in results if isinstance(r, n.Value)))


def needed(body: Sequence[n.Step]) -> frozenset[str]:
    """The variables of before a body that it reads."""
    return _Liveness().needed(body)


class _Liveness:
    """Goes through statements from the last to the first, with the variables that are read behind each."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Sequence[n.Step], frozenset[str]]] = {}  # by identity of a body (kept alive)

    def needed(self, body: Sequence[n.Step]) -> frozenset[str]:
        """The variables of before a body that it reads."""
        if id(body) not in self.known:
            found: set[str] = set()
            for step in reversed(body):
                self.before(step, found)
            self.known[id(body)] = (body, frozenset(found))
        return self.known[id(body)][1]

    def before(self, step: n.Step, after: set[str]) -> None:
        """Make what is read behind a statement into what is read before it."""
        spend(3)
        if isinstance(step, n.Loop):
            spend(len(step.bodies))
            after.update(*map(self.needed, {id(b): b for b in step.bodies}.values()))
        elif isinstance(step, n.Scan):
            after -= {name for name, _ in step.collected}
            after |= self.needed(step.body) - {step.index}
        else:
            after -= set(step.names)
            after |= read(values(step))

    def kept(self, body: Sequence[n.Step], after: set[str]) -> tuple[n.Step, ...]:
        """A body whose loops collect only what is read in `after`, or in the body behind them."""
        found: list[n.Step] = []
        after = set(after)
        for step in reversed(body):
            made = step
            if isinstance(step, n.Loop):
                distinct = {id(b): b for b in step.bodies}
                end = after.union(*map(self.needed, distinct.values()))
                bodies = {key: self.kept(b, end) for key, b in distinct.items()}
                made = replace(step, bodies=tuple(bodies[id(b)] for b in step.bodies))
            elif isinstance(step, n.Scan):
                collected = tuple((name, kind) for name, kind in step.collected if name in after)
                # what is carried or collected is read at the end of each step
                inner = self.kept(step.body, after | self.needed(step.body))
                made = replace(step, body=inner, collected=collected)
            found.append(made)
            self.before(step, after)
        return tuple(reversed(found))
