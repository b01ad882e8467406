"""A compiled spec --> the facts that `explain` shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from types import MappingProxyType

from towerdsl.budget import bounded
from towerdsl.compiler import Compiled, compile_spec, divided
from towerdsl.diagnostics import visible
from towerdsl.explain.facts import Along, Attention, BandFact, Explained, Found, Layer, Near, Source
from towerdsl.explain.flow import Follower
from towerdsl.explain.spell import Speller, short
from towerdsl.explain.work import Calls, Occurrence, merged, volume
from towerdsl.ir import nodes as n
from towerdsl.ir.parameters import parameter_shapes
from towerdsl.ir.reach import path
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import Axis, RelationType, TensorType
from towerdsl.kernels import cost
from towerdsl.kernels.base import Plan
from towerdsl.kernels.choose import attentions
from towerdsl.kernels.near import near_miss
from towerdsl.kernels.work import ZERO, pairs_work, walk
from towerdsl.lang import tree as t
from towerdsl.lang.words import statement_lines, words
from towerdsl.lowered import amounts
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes.locality import Classes, End, Locality, Related, Residue, Same, Sided, Union, analyze
from towerdsl.passes.reach import visible_pairs
from towerdsl.passes.resolve import Resolved
from towerdsl.passes.resolve import walk as expressions
from towerdsl.passes.score import sides
from towerdsl.passes.static import Setting

ONE = Size.of(1)


@bounded()
def explain(
    spec: str | FilePath,
    settings: Mapping[str, Setting] | None = None,
    kernel: str | None = None,
    device: str = "cpu",
) -> Explained:
    """Explain a spec. `settings` override its sizes, or give free lengths (`n`) to count with; `kernel` is used for
    every attention. Raises TowerError."""
    sizes, given = divided(spec, settings or {})
    return explain_compiled(compile_spec(spec, sizes, kernel, device=device), given)


@bounded()
def explain_compiled(compiled: Compiled, given: Mapping[str, int]) -> Explained:
    """Explain a compiled spec, counting with the lengths given."""
    model, follower = compiled.model, Follower()
    computed = {
        id(block.average): amounts.pairs(plan.facts.lowered(plan.kernel, block.average))
        for block in attentions(model.root)
        if block.average is not None and (plan := compiled.plans[id(block)])
    }
    calls = Calls(computed)
    stacks = follower.stacks(model)
    grouped: dict[Attention, list[Occurrence]] = {}
    layers: dict[Layer, list[Occurrence]] = {}
    for o in calls.layers(model.root):
        if isinstance(o.layer, n.BlockInstance):
            plan = compiled.plans[id(o.layer)]
            facts = attention_facts(o.layer, plan, compiled.resolved, calls, dict(o.lengths), given)
            grouped.setdefault(facts, []).append(o)
        layers.setdefault(layer_facts(o, follower), []).append(o)
    found = tuple(
        Found(facts, tuple(o.path for o in group), sum(o.modules for o in group), _calls(group))
        for facts, group in grouped.items()
    )
    shapes = parameter_shapes(model.root)
    counted = [(volume(shape), learned) for _, shape, learned in shapes]
    free: dict[str, None] = {}
    for i in model.inputs:
        axes = i.type.axes if isinstance(i.type, TensorType) else (i.type.source, i.type.target)
        free |= dict.fromkeys(name for a in axes for name in sorted(a.size.free_names))
        if isinstance(i.type, RelationType):
            free[i.name] = None
    results = zip(model.root.result_names, model.root.results, strict=True)
    return Explained(
        name=model.name,
        source=model.source_name,
        paper=_plain(model.paper) if model.paper else None,
        about=_plain(model.about) if model.about else None,
        sizes=model.sizes,
        choices=compiled.resolved.choices,
        inputs=model.inputs,
        outputs=tuple((name, str(value.type)) for name, value in results),
        free=tuple(free),
        given=dict(given),
        attentions=found,
        parameters=sum(number for number, learned in counted if learned),
        buffers=sum(number for number, learned in counted if not learned),
        work=calls.work(model.root),
        layers=tuple(
            replace(facts, paths=tuple(o.path for o in group), calls=_calls(group))
            for facts, occurrences in layers.items()
            for group in [merged(occurrences)]
        ),
        stacks=tuple(Along(axis.name or str(axis.size), axis.size, s, path(s, axis.size)) for axis, s in stacks),
    )


def written_score(block: n.BlockInstance) -> str:
    """The score of an attention as its spec says it."""
    average, body = block.average, block.written
    assert average is not None and isinstance(body, t.Attention)
    if body.score is not None:
        return words(body.score)
    return "dot(q, k) / sqrt(dk)" if average.query is not None and average.key is not None else "0"


def attention_facts(
    block: n.BlockInstance,
    plan: Plan,
    resolved: Resolved,
    calls: Calls,
    lengths: Mapping[str, Size],
    given: Mapping[str, int] = MappingProxyType({}),
) -> Attention:
    """What is said of one attention block; `lengths` are its free lengths in terms of the model's, some are given."""
    average = block.average
    body = block.written
    assert average is not None and isinstance(body, t.Attention)
    spell = Speller(average, lengths)

    def axes(found: Iterable[Axis]) -> tuple[tuple[str | None, Size], ...]:
        return tuple((a.name, a.size.substitute(lengths)) for a in found)

    def source(e: t.Expr | None, value: n.Value | None) -> Source | None:
        return None if value is None else Source(words(e) if e is not None else "", axes(value.axes))

    value = source(body.value, average.value)
    assert value is not None
    features = {
        v.name: v.axes[-1].size.substitute(lengths)
        for v in walk((average.score, average.message))
        if isinstance(v, n.Local) and v.name in "qkv" and v.axes
    }
    heads = average.heads.size.integer if average.heads is not None else None
    key_heads = average.key_heads.integer if average.key_heads is not None else heads
    kind, found = _score_found(average, plan, spell)
    locality = plan.facts.locality
    work = calls.work(block, nested=False)
    return Attention(
        block=block.name,
        constants=block.constants,
        at=f"{block.span.source.name}:{block.span.line}" if block.span is not None else "",
        let=tuple(statement_lines(body.let)),
        query=source(body.query, average.query),
        key=source(body.key, average.key),
        value=value,
        batch=axes(average.batch),
        positions=axes(average.positions),
        over=axes(average.over),
        heads=heads,
        heads_text=", ".join(dict.fromkeys(map(words, body.heads))) if body.heads is not None else "",
        key_heads=key_heads,
        key_size=features.get("k", features.get("q")),
        value_size=features.get("v", average.message.axes[-1].size.substitute(lengths)),
        merge=average.merge,
        dropout=average.dropout,
        score=written_score(block),
        score_formula=spell.text(average.score),
        score_defined=_uses_definitions(resolved.blocks[block.name].body, resolved),
        score_kind=kind,
        score_found=found,
        message=words(body.message) if body.message is not None else "v",
        message_formula=spell.text(average.message),
        locality=words(body.locality) if body.locality is not None else None,
        mask=words(body.mask) if body.mask is not None else None,
        everything=locality.everything,
        causal=locality.causal(average),
        never=locality.never,
        bands=tuple(
            BandFact(
                b.query.name if len(average.positions) > 1 else None,
                b.low.substitute(lengths) if b.low is not None else None,
                b.high.substitute(lengths) if b.high is not None else None,
                spell.band(b.query, b.key, b.low, b.high),
            )
            for b in locality.bands
        ),
        rest=tuple((spell.text(v), _depends(v, locality)) for v in locality.rest),
        normalize=average.normalize,
        normalize_options=average.options,
        normalize_formula=NORMALIZERS[average.normalize].formula,
        output=words(body.output) if body.output is not None else "y",
        results=tuple(spell.type(r.type) for r in block.results if isinstance(r, n.Value)),
        kernel=plan.kernel.name,
        how=plan.kernel.how,
        refused=plan.refused,
        estimates=_estimates(average, plan, numbers(lengths, given)),
        near=_near(average, plan, numbers(lengths, given), spell),
        parameters=_own_parameters(block),
        work=work.outside(lengths),
        peak=amounts.peak(plan.facts.lowered(plan.kernel, average)).substitute(lengths),
    )


def layer_facts(o: Occurrence, follower: Follower) -> Layer:
    """What is said of one layer."""
    lengths = dict(o.lengths)
    layer, whole, steps = o.layer, o.work.all, ONE
    mixing = whole
    if isinstance(layer, n.Scan):
        kind, axes = "loop", [layer.axis]
        steps = layer.steps if id(layer) in follower.serial else ONE
    elif isinstance(layer, n.Apply):
        kind, x = layer.op.name, layer.args[0]
        moves = [m for m in layer.result.moves or () if m.reach is not None and not m.reach.features]
        axes = [x.axes[m.dim] for m in moves]
        steps = product([x.axes[m.dim].size for m in moves if m.reach is not None and m.reach.serial])
    else:
        average = layer.average
        assert average is not None
        kind = layer.name
        axes = [a for a in average.over if any(a.name == i.name for i in average.positions)]
        mixing = pairs_work(average, visible_pairs(average, analyze(average.visible))).pairs
        whole = o.work.linear + mixing
    return Layer(
        kind=kind,
        mixing=mixing.substitute(lengths),
        whole=whole.substitute(lengths),
        steps=steps.substitute(lengths),
        along=tuple(a.name or str(a.size.substitute(lengths)) for a in axes),
    )


def numbers(lengths: Mapping[str, Size], given: Mapping[str, int]) -> dict[str, int]:
    """A block's free lengths as numbers, as far as the model's that are given say them."""
    values = {name: Size.of(length) for name, length in given.items()}
    found = {name: size.substitute(values).integer for name, size in lengths.items()}
    return {name: number for name, number in found.items() if number is not None}


def _estimates(average: n.Average, plan: Plan, known: Mapping[str, int]) -> tuple[tuple[str, float], ...]:
    times = {k.name: cost.time(k, average, plan.facts, known) for k in plan.able}
    return tuple((name, _rounded(time / times[plan.kernel.name])) for name, time in times.items())


def _near(average: n.Average, plan: Plan, known: Mapping[str, int], spell: Speller) -> Near | None:
    found = near_miss(average, plan, known)
    if found is None:
        return None
    condition = "" if found.condition is None else f" {spell.text(found.condition)}"
    return Near(found.kernel, _rounded(found.gain), found.change + condition)


def _rounded(x: float) -> float:
    """Two digits: estimates are not better."""
    return float(f"{x:.2g}")


def _calls(group: Iterable[Occurrence]) -> int | Size:
    total = ZERO
    for o in group:
        total = total + o.calls
    return total if total.integer is None else total.integer


def _own_parameters(block: n.BlockInstance) -> int:
    """How many numbers a block learns, without those of attentions inside it."""

    def slot_count(slot: n.ModuleSlot) -> int:
        if slot.items:
            return sum(map(slot_count, slot.items))
        if slot.block is not None:
            return 0 if slot.block.average is not None else _own_parameters(slot.block)
        shapes = slot.result.parameters if slot.result is not None else ()
        return sum(volume(s.integer or 0 for s in shape) for _, shape in shapes)

    own = sum(volume(s.integer or 0 for s in w.type.shape) for w in block.weights)
    return own + sum(slot_count(slot) for _, slot in block.modules)


def _score_found(average: n.Average, plan: Plan, spell: Speller) -> tuple[str, str]:
    """What kind of score it is (a word for programs), and in words what the analysis found."""
    score = plan.facts.score
    if isinstance(score, str):
        on = sides(average.score)
        if isinstance(average.score, n.Const):
            return "constant", "the same for every j"
        if on == {"i", "j"}:
            return "pairwise", "a function of i and j"
        if on == {"j"}:
            return "keys", "depends on j alone"
        return ("queries", "depends on i alone") if on == {"i"} else ("constant", "depends on neither i nor j")
    dot = f"dot({spell.text(score.left)}, {spell.text(score.right)})"
    factor = "-" if score.factor == -1 else "" if score.factor == 1 else f"{short(score.factor)} * "
    if score.scalar is not None:
        factor += f"{spell.factor(score.scalar)} * "
    texts = [factor + dot]
    for bias in score.biases:
        names = [spell.name(a) for a in bias.value.axes]
        texts.append(f"bias[{', '.join(names)}]" if names else "bias")
    return "dot", " + ".join(texts)


def _depends(value: n.Value, locality: Locality) -> str:
    """What a part of a condition that is no band is."""
    match next((r for r in locality.readings if r.value is value), None):
        case Classes():
            return "windows side by side"
        case Residue():
            return "one residue of the distance"
        case End() as end:
            return "the first or last keys" if end.axis.side == "j" else "the first or last queries"
        case Same():
            return "pairs of the same data"
        case Related():
            return "the pairs of a relation"
        case Sided() as sided:
            return "a condition of keys" if sided.side == "j" else "a condition of queries"
        case Union() as union:
            return f"any of {len(union.parts)} conditions"
    return "a condition of pairs" if sides(value) == {"i", "j"} else "the same for all pairs"


def _plain(text: str) -> str:
    """Text on one line, in which all is seen."""
    return visible(" ".join(text.split()), "")


def _uses_definitions(body: t.Attention | t.Composition, resolved: Resolved) -> bool:
    """Whether the score is written with names for formulas."""
    score = body.score if isinstance(body, t.Attention) else None
    return score is not None and any(isinstance(x, t.Name) and x.id in resolved.definitions for x in expressions(score))
