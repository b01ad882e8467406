"""A spec --> each of its distinct attentions, timed on every kernel that can compute it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from towerdsl.bench.data import Benched, Measured, Timed
from towerdsl.bench.timing import in_turns, machine, peak_memory
from towerdsl.claims import draw, probe
from towerdsl.claims.capture import Call, places, watch
from towerdsl.compiler import Compiled, compile_spec, divided
from towerdsl.emit.module import load_module
from towerdsl.explain.facts import FLOAT_BYTES, Attention
from towerdsl.explain.gather import attention_facts, numbers
from towerdsl.explain.spell import axis_text
from towerdsl.explain.work import Calls, Occurrence
from towerdsl.ir.names import class_name
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import RelationType
from towerdsl.kernels import cost
from towerdsl.kernels.base import Kernel
from towerdsl.kernels.catalog import CATALOG
from towerdsl.lowered import amounts
from towerdsl.passes.static import Setting

#: Where the numbers that a kernel holds would take more than this part of the machine's memory, it is not run: with
#: gradients it holds several times as many.
PART_OF_MEMORY = 1 / 6

#: Lengths that are tried for free axes, until the model runs with them; 224 is that of many images.
LENGTHS = (4096, 2048, 1024, 512, 256, 224, 128, 64, 32, 16, 8, 4)

Tell = Callable[[str], None]
Run = Callable[[], object]


@dataclass(frozen=True)
class Group:
    """One distinct attention, and everywhere that it stands."""

    facts: Attention
    occurrences: tuple[Occurrence, ...]


def bench(
    spec: str | Path,
    settings: Mapping[str, Setting] | None = None,
    kernel: str | None = None,
    repeats: int = 10,
    seed: int = 0,
    tell: Tell = lambda text: None,
) -> Benched:
    """Time every attention of a spec on each kernel that can compute it, with random weights and inputs.

    `settings` override sizes, or give free lengths; those left out are the longest that the model takes and the planner
    assumes. The model runs until every attention has been seen; the average of each is then timed by itself,
    without the projections before it, in float32 and evaluation mode, on what it was given. Inputs with a default are
    left out. `tell` is called with what is being done. Raises TowerError.
    """
    sizes, given = divided(spec, settings or {})
    compiled = compile_spec(spec, sizes, kernel)
    groups = _groups(compiled)
    found: list[Measured] = []
    lengths: dict[str, int] = dict(given)
    seen: dict[int, Call] = {}
    if groups:
        tell("the model")
        model = draw.build(
            getattr(load_module(compiled.source(), compiled.model.name), class_name(compiled.model.name)), seed
        )
        lengths, seen = _captured(compiled, model, groups, given, seed)
    for group in groups:
        call = seen.get(id(group.occurrences[0].block))
        if call is not None:
            found.append(_measured(compiled, group, call, lengths, repeats, tell))
    never = tuple(o.path for g in groups if id(g.occurrences[0].block) not in seen for o in g.occurrences)
    model_ = compiled.model
    return Benched(model_.name, model_.source_name, machine(), lengths, dict(sizes), repeats, tuple(found), never)


def _groups(compiled: Compiled) -> list[Group]:
    calls = Calls()
    found: dict[Attention, list[Occurrence]] = {}
    for o in calls.occurrences(compiled.model.root):
        facts = attention_facts(o.block, compiled.plans[id(o.block)], compiled.resolved, calls, dict(o.lengths))
        found.setdefault(facts, []).append(o)
    return [Group(facts, tuple(occurrences)) for facts, occurrences in found.items()]


# --- what the attentions are given -----------------------------------------------------------------------------


def _captured(
    compiled: Compiled, model: nn.Module, groups: Sequence[Group], given: Mapping[str, int], seed: int
) -> tuple[dict[str, int], dict[int, Call]]:
    """Run the model at the largest lengths that it takes: what the first attention of each group is given."""
    wanted = {id(g.occurrences[0].block) for g in groups}
    found = [place for place in places(compiled.model.root, model) if id(place[1]) in wanted]

    def run(lengths: Mapping[str, int]) -> list[Call]:
        inputs = draw.inputs(compiled.model, lengths, seed, empty=False, related=cost.RELATED)
        return watch(model, found, partial(model, **draw.required(model, inputs)), dict.fromkeys(wanted, 1))

    tried = _lengths(compiled, [o for g in groups for o in g.occurrences], given)
    lengths, calls = draw.running(compiled.model, tried, run)
    return lengths, {id(call.block): call for call in calls}


def _lengths(
    compiled: Compiled, occurrences: Sequence[Occurrence], given: Mapping[str, int]
) -> Iterator[dict[str, int]]:
    """Lengths to try: one batch, and of the others so much that no attention has more positions than are assumed when
    planning. One that is given stays."""
    names = draw.free_names(compiled.model.inputs)
    batch = draw.batches(compiled.model, occurrences)
    for length in LENGTHS:
        found = {**{name: 1 if name in batch else length for name in names}, **given}
        fixed = all(name in batch or name in given for name in names)
        if fixed or length == LENGTHS[-1] or _positions(occurrences, found) <= cost.POSITIONS:
            yield found
        if fixed:
            return


def _positions(occurrences: Sequence[Occurrence], lengths: Mapping[str, int]) -> int:
    """The most queries, or keys, that an attention has."""
    values = {name: Size.of(length) for name, length in lengths.items()}
    found = [0]
    for o in occurrences:
        assert o.block.average is not None
        for axes in (o.block.average.positions, o.block.average.over):
            size = product([a.size.substitute(dict(o.lengths)) for a in axes]).substitute(values)
            found.append(size.integer or 0)
    return max(found)


# --- timing ----------------------------------------------------------------------------------------------------


def _measured(
    compiled: Compiled, group: Group, call: Call, lengths: Mapping[str, int], repeats: int, tell: Tell
) -> Measured:
    facts = group.facts
    plan = compiled.plans[id(call.block)]
    able = [k for k in CATALOG if k.name in (facts.kernel, *facts.able)]
    arguments = _arguments(compiled, call)
    own = _known(group.occurrences[0], call, lengths)
    average = call.block.average
    assert average is not None
    estimates = {k.name: cost.time(k, average, plan.facts, own) for k in able}
    rows = {k.name: Timed(k.name, estimates[k.name] / min(estimates.values())) for k in able}
    runs: dict[str, tuple[Run, Run | None]] = {}
    for k in able:
        needed = cost.At(average, own)(amounts.peak(plan.facts.lowered(k, average))) * FLOAT_BYTES
        if needed > _memory() * PART_OF_MEMORY:
            rows[k.name] = replace(rows[k.name], failed=f"it would hold {needed / 1e9:.3g} GB for the weights")
            continue
        tell(f"{_name(group)}: {k.name}")
        try:
            forward, both = _runs(compiled, call, k, arguments)
            memory = peak_memory(forward), None if both is None else peak_memory(both)
        except RuntimeError as error:  # most likely memory
            rows[k.name] = replace(rows[k.name], failed=str(error).strip().splitlines()[0])
        else:
            rows[k.name] = replace(rows[k.name], forward_bytes=memory[0], both_bytes=memory[1])
            runs[k.name] = forward, both

    def timed(what: str, calls: Mapping[str, Run]) -> dict[str, float]:
        tell(f"{_name(group)}: {what}, {', '.join(calls)}")
        return dict(zip(calls, in_turns(list(calls.values()), repeats), strict=True))

    for name, seconds in timed("forward", {name: run for name, (run, _) in runs.items()}).items():
        rows[name] = replace(rows[name], forward=seconds)
    for name, seconds in timed("with backward", {k: run for k, (_, run) in runs.items() if run is not None}).items():
        rows[name] = replace(rows[name], both=seconds)
    over = ", ".join(axis_text(*a) for a in facts.over)
    return Measured(
        paths=tuple(o.path for o in group.occurrences),
        modules=sum(o.modules for o in group.occurrences),
        block=facts.block,
        at=facts.at,
        averages=f"{facts.value.text if facts.message == 'v' else 'messages'} over {over}",
        chosen=facts.kernel,
        kernels=tuple(rows.values()),
    )


def _name(group: Group) -> str:
    return group.occurrences[0].path or "the model"


def _arguments(compiled: Compiled, call: Call) -> list[Any]:
    """What the average alone is given: the arguments of a call, and what the block computes from them before it."""
    before = probe.before(compiled, call.block)
    with torch.no_grad():
        found = _module(before, call)(*call.arguments.values())
    found = found if isinstance(found, tuple) else (found,)
    every = {**call.arguments, **dict(zip(before.results, found, strict=True))}
    return [x.detach().requires_grad_(x.is_floating_point()) if isinstance(x, Tensor) else x for x in every.values()]


def _runs(compiled: Compiled, call: Call, kernel: Kernel, arguments: Sequence[Any]) -> tuple[Run, Run | None]:
    """One forward pass of the average, and one with the gradients of all that it is computed from."""
    module = _module(probe.alone(compiled, call.block, kernel), call)
    learned = [x for x in (*arguments, *module.parameters()) if isinstance(x, Tensor) and x.requires_grad]
    with torch.no_grad():
        cotangent = torch.ones_like(module(*arguments))

    def both() -> object:
        return torch.autograd.grad(module(*arguments), learned, cotangent, allow_unused=True)

    return torch.no_grad()(lambda: module(*arguments)), both if learned else None


def _module(found: probe.Probe, call: Call) -> nn.Module:
    """The module of a probe, with the weights of a call's."""
    with torch.device("meta"):
        module = found.module()
    module.load_state_dict(call.module.state_dict(), assign=True)
    return module.requires_grad_().eval()


def _known(occurrence: Occurrence, call: Call, lengths: Mapping[str, int]) -> dict[str, int]:
    """The free lengths of an attention's block, and the pairs of the relations that it is given."""
    relations = [name for name, kind in call.block.parameters if isinstance(kind, RelationType)]
    pairs = {name: call.arguments[name].shape[-1] for name in relations}
    return {**numbers(dict(occurrence.lengths), lengths), **pairs}


def _memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
