"""Model --> Model with one form for conditions that say the same: `abs(i - j) < 4 and j <= i` --> its band."""

from __future__ import annotations

from dataclasses import replace

from towerdsl.ir import nodes as n
from towerdsl.passes import locality


def simplify(model: n.Model) -> n.Model:
    """Rewrite the condition of every attention; each block instance is rebuilt once."""
    done: dict[int, n.BlockInstance] = {}

    def block(b: n.BlockInstance) -> n.BlockInstance:
        if id(b) not in done:
            modules = tuple((name, slot(s)) for name, s in b.modules)
            bodies: dict[int, tuple[n.Step, ...]] = {}
            done[id(b)] = replace(b, modules=modules, body=steps(b.body, bodies))
        return done[id(b)]

    def slot(s: n.ModuleSlot) -> n.ModuleSlot:
        inner = block(s.block) if s.block is not None else None
        return replace(s, block=inner, items=tuple(slot(x) for x in s.items))

    def steps(body: tuple[n.Step, ...], bodies: dict[int, tuple[n.Step, ...]]) -> tuple[n.Step, ...]:
        if id(body) not in bodies:
            bodies[id(body)] = tuple(step(s, bodies) for s in body)
        return bodies[id(body)]

    def step(s: n.Step, bodies: dict[int, tuple[n.Step, ...]]) -> n.Step:
        if isinstance(s, n.Evaluate):
            average = s.average
            return replace(s, average=replace(average, visible=locality.simplify(average.visible)))
        if isinstance(s, n.Loop):
            return replace(s, bodies=tuple(steps(b, bodies) for b in s.bodies))
        return s

    return replace(model, root=block(model.root))
