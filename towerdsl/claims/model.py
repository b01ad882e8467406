"""A model --> every claim on its attentions, checked: with random weights and inputs, or with those given."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from towerdsl.claims import draw
from towerdsl.claims.capture import Call, places, watch
from towerdsl.claims.check import Measured, at_other_lengths, measure
from towerdsl.claims.verified import Checked, Failure, Verified
from towerdsl.compiler import Compiled, compile_spec, divided
from towerdsl.diagnostics import Diagnostic, TowerError, expect
from towerdsl.emit.module import load_module
from towerdsl.explain.facts import Attention
from towerdsl.explain.gather import attention_facts
from towerdsl.explain.spell import axis_text
from towerdsl.explain.work import Calls, Occurrence
from towerdsl.ir.names import class_name
from towerdsl.ir.parameters import parameter_shapes
from towerdsl.ir.size import Size
from towerdsl.kernels.choose import attentions
from towerdsl.kernels.reference import Reference
from towerdsl.lang import library
from towerdsl.passes.static import Setting

#: The weights of an attention are made whole, in float64, and so are their gradients: so many at most.
MOST_WEIGHTS = 10_000_000
#: A model is made whole, in float32: so many parameters at most.
MOST_PARAMETERS = 400_000_000
#: What is tried of a size that makes more: lengths that are divided again and again are seldom prime.
PARTS = [Fraction(*x) for x in ((3, 4), (5, 7), (5, 8), (4, 7), (1, 2), (3, 7), (3, 8), (2, 7), (1, 4), (1, 7), (1, 8))]


def verify_spec(
    spec: str | Path, settings: Mapping[str, Setting] | None = None, kernel: str | None = None, seed: int = 0
) -> Verified:
    """Verify a spec with random weights and inputs. `settings` override its sizes, or give free lengths.

    Sizes are the spec's own; where an attention has more than ten million weights, the size that its lengths are
    made of is a part of that. The model runs until every attention has been seen; each is then verified by itself, in
    float64, with what it was given. Raises TowerError.
    """
    start = time.perf_counter()
    sizes, given = divided(spec, settings or {})
    compiled = compile_spec(spec, sizes, kernel)
    compiled, smaller = _affordable(spec, compiled, sizes, kernel, given)
    sizes |= smaller
    calls = Calls()
    occurrences = calls.occurrences(compiled.model.root)
    if not occurrences:
        return _verified(compiled, {}, sizes, "", calls, [], seed, start)
    # what the attentions are given comes from the reference: a kernel that is wrong spoils no other's arguments
    plans = {key: replace(plan, kernel=Reference()) for key, plan in compiled.plans.items()}
    module = load_module(replace(compiled, plans=plans).source(), compiled.model.name)
    model = draw.build(getattr(module, class_name(compiled.model.name)), seed)
    lengths, seen = _captured(compiled, model, occurrences, given, seed)
    return _verified(compiled, lengths, sizes, "random inputs", calls, seen, seed, start, True)


def verify_library(seed: int = 0) -> Iterator[tuple[str, str, Verified | str]]:
    """Verify every model of the library: (its group, its name, what was found, or the mistakes in it)."""
    root = library.library_folder()
    for name, path in library.library().items():
        try:
            if not library.read(path).is_library:
                yield path.relative_to(root).parent.as_posix(), name, verify_spec(path, {}, None, seed)
        except TowerError as error:
            yield path.relative_to(root).parent.as_posix(), name, str(error)


def verify_model(model: nn.Module, compiled: Compiled, inputs: Mapping[str, Any], seed: int = 0) -> Verified:
    """Verify a model as it is, with its own weights, on inputs: every module of an attention, at its last call."""
    start = time.perf_counter()
    training = model.training
    try:
        model.eval()
        seen = watch(model, list(places(compiled.model.root, model)), lambda: _answer(model, inputs))
    finally:
        model.train(training)
    return _verified(compiled, {}, {}, "the inputs given", Calls(), seen, seed, start)


def _answer(model: nn.Module, inputs: Mapping[str, Any]) -> object:
    """What a model gives for inputs by name. Raises TowerError with what it says of them."""
    for name in inputs:
        expect("inputs", name, str, "a mapping from names to tensors")
    try:
        return model(**inputs)
    except (TypeError, ValueError) as error:
        raise TowerError([Diagnostic("arguments", str(error))]) from error


def _affordable(
    spec: str | Path, compiled: Compiled, sizes: Mapping[str, Setting], kernel: str | None, given: Mapping[str, int]
) -> tuple[Compiled, dict[str, Setting]]:
    """The spec with some of its sizes made smaller, where it has too many parameters to hold, or one of them, where the
    weights of its largest attention are too many."""
    changed: dict[str, Setting] = {}
    own = {k: v for k, v in compiled.model.sizes if isinstance(v, int) and not isinstance(v, bool) and k not in sizes}
    largest = sorted(own.items(), key=lambda x: -x[1])
    parameters = _parameters(compiled)
    for name, size in largest:
        if parameters <= MOST_PARAMETERS:
            break
        if (found := _with(spec, {**sizes, **changed, name: size // 8}, kernel)) and _parameters(found) < parameters:
            compiled, changed, parameters = found, {**changed, name: size // 8}, _parameters(found)
    most = draw.most_weights(compiled.model, given)
    if most <= MOST_WEIGHTS:
        return compiled, changed
    for name, size in largest:
        for part in PARTS:
            if (found := _with(spec, {**sizes, **changed, name: int(size * part)}, kernel)) is None:
                continue
            now = draw.most_weights(found.model, given)
            if now >= most:
                break
            if now <= MOST_WEIGHTS:
                return found, {**changed, name: int(size * part)}
    return compiled, changed


def _with(spec: str | Path, sizes: Mapping[str, Setting], kernel: str | None) -> Compiled | None:
    """The spec with these sizes, if they fit."""
    try:
        return compile_spec(spec, sizes, kernel)
    except TowerError:
        return None


def _parameters(compiled: Compiled) -> int:
    return sum(math.prod(shape) for _, shape, _ in parameter_shapes(compiled.model.root))


def _captured(
    compiled: Compiled, model: nn.Module, occurrences: Sequence[Occurrence], given: Mapping[str, int], seed: int
) -> tuple[dict[str, int], list[Call]]:
    """Run the model with the first lengths and inputs that it takes."""
    often: dict[int, int] = {}
    for o in occurrences:  # of many calls the second is watched: what the first is given may be zeros
        often[id(o.block)] = 2 if id(o.block) in often or o.calls != Size.of(1) else 1
    found = list(places(compiled.model.root, model))

    def run(lengths: Mapping[str, int]) -> list[Call]:
        for empty in (True, False):
            seen = watch(model, found, _run(model, draw.inputs(compiled.model, lengths, seed, empty)), often)
            if _finite(seen):
                return seen
        raise ValueError("what its attentions are given is not finite")

    return draw.running(compiled.model, draw.lengths(compiled.model, occurrences, given), run)


def _run(model: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], object]:
    return lambda: model(*inputs.values())  # in order: an input called `global` is the parameter `global_`


def _finite(seen: Iterable[Call]) -> bool:
    return all(bool(v.isfinite().all()) for call in seen for v in call.arguments.values() if isinstance(v, Tensor))


def _verified(
    compiled: Compiled,
    lengths: Mapping[str, int],
    sizes: Mapping[str, Setting],
    inputs: str,
    calls: Calls,
    seen: Sequence[Call],
    seed: int,
    start: float,
    further: bool = False,
) -> Verified:
    typed = dict(zip(map(id, attentions(compiled.model.root)), attentions(compiled.typed.root), strict=True))
    places: dict[int, list[Occurrence]] = {}
    for o in calls.occurrences(compiled.model.root):
        places.setdefault(id(o.block), []).append(o)
    rows: dict[int, list[Measured]] = {}
    more: dict[int, list[Failure]] = {}
    for call in seen:
        key = id(call.block)
        rows.setdefault(key, []).append(measure(compiled, typed[key], call, seed))
        if further and key not in more:
            more[key] = list(at_other_lengths(compiled, typed[key], call, seed))
    checked = []
    for key, group in places.items():
        if key in rows:
            block = group[0].block
            facts = attention_facts(block, compiled.plans[key], compiled.resolved, calls, dict(group[0].lengths))
            checked.append(_checked(facts, group, rows[key], more.get(key, ())))
    never = tuple(o.path for key, group in places.items() if key not in rows for o in group)
    model = compiled.model
    seconds = time.perf_counter() - start
    return Verified(model.name, model.source_name, dict(lengths), dict(sizes), inputs, tuple(checked), never, seconds)


def _checked(
    facts: Attention, group: Sequence[Occurrence], found: Sequence[Measured], more: Sequence[Failure]
) -> Checked:
    """One row for all modules of a block: the worst of each number, every failure."""

    def largest(name: str) -> Any:
        return max((x for m in found if (x := getattr(m, name)) is not None), default=None)

    def least(name: str) -> Any:
        return min((x for m in found if (x := getattr(m, name)) is not None), default=None)

    over = ", ".join(axis_text(*a) for a in facts.over)
    return Checked(
        paths=tuple(o.path for o in group),
        modules=sum(o.modules for o in group),
        block=facts.block,
        at=facts.at,
        averages=f"{facts.value.text if facts.message == 'v' else 'messages'} over {over}",
        kernel=facts.kernel,
        values=largest("values"),
        gradients=largest("gradients"),
        float32=largest("float32"),
        weights=found[0].claimed.kind,
        why=found[0].claimed.why,
        low=least("low"),
        high=largest("high"),
        row_low=least("row_low"),
        row_high=largest("row_high"),
        pairs=sum(m.pairs for m in found),
        hidden=sum(m.hidden for m in found),
        rows=sum(m.rows for m in found),
        empty=sum(m.empty for m in found),
        notes=tuple(dict.fromkeys(x for m in found for x in m.notes)),
        failures=tuple(dict.fromkeys((*(x for m in found for x in m.failures), *more))),
    )
