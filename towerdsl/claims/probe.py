"""One attention by itself, as the emitter writes it: its average head by head, its weights, its sources.

A probe is the class of the attention's block with other results. It is written by the emitter from the same typed
block, so it computes what the block computes; it has the block's parameters, under the same names, and takes the
block's arguments. It serves whoever wants to see inside an attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from towerdsl.compiler import Compiled, deep
from towerdsl.emit.module import load_module
from towerdsl.emit.source import write_source
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import statements
from towerdsl.ir.names import class_name, free
from towerdsl.ir.placed import Rows
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.kernels.base import Facts, Kernel, Plan
from towerdsl.kernels.edges import Edges
from towerdsl.kernels.reference import Reference
from towerdsl.lowered.tiling import restricted

if TYPE_CHECKING:
    from torch import nn

SOURCES = ("query", "key", "value")


@dataclass(frozen=True)
class Probe:
    """The class of a probe, and what stands at which place of its results."""

    module: type[nn.Module]
    results: tuple[str, ...]


def heads(compiled: Compiled, block: n.BlockInstance) -> Probe:
    """The average of each head on the kernel that was chosen.

    Results: y [batch, head, i, feature], then those of query, key and value that the attention has.
    """
    return _probe(compiled, block, "heads", compiled.plans[id(block)])


def weights(compiled: Compiled, block: n.BlockInstance) -> Probe:
    """The weights and messages of the reference: y = sum over j of weights * message, on every kernel.

    Results: weights [batch, head, i, j] with all their axes, message [batch, head, i, j, feature] with length 1 (or no
    dim, in front) for axes that it lacks, then those of query, key and value that the attention has.
    """
    return _probe(compiled, block, "weights", replace(compiled.plans[id(block)], kernel=Reference()))


def condition(compiled: Compiled, block: n.BlockInstance) -> Probe:
    """Who sees whom on the reference: its weights where the score is 1, without a normalizer.

    Results: as of `weights`.
    """
    average = block.average
    assert average is not None
    one = n.Const(TensorType("int", (), True), average.span, 1)
    plain = replace(average, score=one, normalize="none", options=(), dropout=0.0, log_prob=False)
    body = tuple(replace(step, average=plain) if isinstance(step, n.Evaluate) else step for step in block.body)
    return _probe(compiled, replace(block, body=body), "weights", _reference(plain))


def rows(compiled: Compiled, block: n.BlockInstance) -> Probe:
    """The weights of some queries: the block takes further arguments `rows_0`, ..., positions along each of their axes.

    Result: weights [batch, head, i, j] with all their axes, those of the queries as long as the arguments. Nothing is
    dropped from them.
    """
    average = block.average
    assert average is not None
    body, sources = _before(block)
    inner = replace(_on(block, sources), dropout=0.0)
    parameters = dict(block.parameters)
    for k, axis in enumerate(average.positions):
        name = _unused(block, f"rows_{k}")
        short = replace(axis, size=Size.free(name))
        inner = _of_rows(inner, axis, short, name)
        parameters[name] = TensorType("int", (Axis(name, short.size),))
    names = tuple(_unused(block, name) for name in ("weights", "message"))
    result = n.Local(TensorType("float", ()), None, names[0])
    step = n.Evaluate(names, inner, "weights")
    found = replace(
        block, parameters=tuple(parameters.items()), body=(*body, step), results=(result,), result_names=(None,)
    )
    return Probe(_compiled(compiled, found, _reference(inner)), ("weights",))


def _reference(average: n.Average) -> Plan:
    return Plan(Reference(), (), Facts.of(average))


def _of_rows(average: n.Average, axis: Axis, short: Axis, name: str) -> n.Average:
    """The average of the queries that a variable names along one axis."""

    def part(value: n.Value, kind: TensorType) -> n.Value:
        if not any(isinstance(v, n.Local) and v.name == "q" for v in value.walk()):
            return Rows(kind, value.span, value, axis, name)
        # the source of `q` has these queries alone, and so has what is made of it
        return replace(value, **{f.name: made(getattr(value, f.name)) for f in fields(value) if f.name != "span"})

    def made(x: Any) -> Any:
        if isinstance(x, TensorType):
            return x.with_axes(short if a == axis else a for a in x.axes)
        if isinstance(x, n.Value):
            return part(x, made(x.type)) if axis in x.axes else x
        return tuple(map(made, x)) if isinstance(x, tuple) else x

    found = restricted(average, axis, short, part)
    query, plain = average.query, axis.on("")
    if query is None or plain not in query.axes:
        return found
    kind = query.type.with_axes(short.on("") if a == plain else a for a in query.axes)
    return replace(found, query=Rows(kind, query.span, query, plain, name))


def pairs(compiled: Compiled, block: n.BlockInstance) -> Probe | None:
    """The weights of the pairs that relations list; None where none do.

    Results: weights [batch, head, pair] with all their axes, query and key of each pair, and whether it is listed for
    the first time. Nothing is dropped from them.
    """
    average = block.average
    assert average is not None
    plan = replace(compiled.plans[id(block)], kernel=Edges())
    if plan.kernel.refuse(average, plan.facts) is not None:
        return None
    body, sources = _before(block)
    names = ("weights", "query", "key", "once")
    variables = tuple(_unused(block, f"pair_{name}") for name in names)
    step = n.Evaluate(variables, replace(_on(block, sources), dropout=0.0), "pairs")
    results = tuple(n.Local(TensorType("float", ()), None, name) for name in variables)
    found = replace(block, body=(*body, step), results=results, result_names=(None,) * len(names))
    return Probe(_compiled(compiled, found, plan), names)


def seen(compiled: Compiled, block: n.BlockInstance) -> Probe:
    """The block as it is, but that its weights go through the module's method `seen`, with all their axes.

    Weights are those of `pairs` where relations list them, [batch, head, pair], else [batch, head, i, j]. Nothing is
    dropped from them.
    """
    average, plan = block.average, compiled.plans[id(block)]
    assert average is not None
    edges = replace(plan, kernel=Edges())
    plan = replace(plan, kernel=Reference()) if edges.kernel.refuse(average, plan.facts) is not None else edges
    step = next(s for s in block.body if isinstance(s, n.Evaluate))
    found = n.Evaluate(step.names, replace(step.average, dropout=0.0), "seen")
    body = tuple(found if s is step else s for s in block.body)
    return Probe(_compiled(compiled, replace(block, body=body), plan), ())


def values(compiled: Compiled, block: n.BlockInstance, wanted: Sequence[n.Value]) -> Probe:
    """Values of a block's own formulas before its average; those that it cannot have (`q`, `y`) are not asked for.

    Results: the values wanted, then those of query, key and value that the attention has.
    """
    body, sources = _before(block)
    names = (*(f"wanted_{k}" for k in range(len(wanted))), *(f"{name}_source" for name in sources))
    found = replace(block, body=body, results=(*wanted, *sources.values()), result_names=(None,) * len(names))
    return Probe(_compiled(compiled, found, None), names)


def before(compiled: Compiled, block: n.BlockInstance) -> Probe:
    """What a block computes before its average: the variables that the average reads, its query, key and value."""
    given = _given(block)
    return Probe(values(compiled, block, list(_variables(block).values())).module, tuple(given))


def alone(compiled: Compiled, block: n.BlockInstance, kernel: Kernel) -> Probe:
    """The average by itself on a kernel, heads merged: it takes the block's arguments, updated by what `before` gives.

    Result: y, with the axes of the attention's result.
    """
    given = _given(block)
    parameters = {**dict(block.parameters), **{name: value.type for name, value in given.items()}}
    average = _on(block, _before(block)[1])
    y = n.Local(TensorType("float", average.layout), None, _unused(block, "y"))
    step = n.Evaluate((y.name,), average)
    found = replace(block, parameters=tuple(parameters.items()), body=(step,), results=(y,), result_names=(None,))
    return Probe(_compiled(compiled, found, replace(compiled.plans[id(block)], kernel=kernel)), ("y",))


def gated(compiled: Compiled, block: n.BlockInstance) -> Probe:
    """The block itself, on the kernel that was chosen, with the average of each head times a number of its own.

    It takes one argument more, behind the block's: the numbers, [head]. Results: the block's own. The block has heads.
    """
    average = block.average
    assert average is not None and average.heads is not None
    gate = n.Local(TensorType("float", (average.heads,)), None, _unused(block, "gate"))
    body = tuple(replace(step, gate=gate) if isinstance(step, n.Evaluate) else step for step in block.body)
    found = replace(block, parameters=(*block.parameters, (gate.name, gate.type)), body=body)
    names = tuple(name or f"result_{k}" for k, name in enumerate(block.result_names))
    return Probe(_compiled(compiled, found, compiled.plans[id(block)]), names)


def _given(block: n.BlockInstance) -> dict[str, n.Local]:
    return {**_variables(block), **{local.name: local for local in _before(block)[1].values()}}


def _variables(block: n.BlockInstance) -> dict[str, n.Local]:
    """The variables that a block sets and its average reads beside query, key and value."""
    average = block.average
    assert average is not None
    at = next(k for k, step in enumerate(block.body) if isinstance(step, n.Evaluate))
    own = {name for name, _ in block.parameters} - {x for s in statements(block.body[:at]) for x in s.names}
    roots = [v for v in (average.score, average.visible, average.message) if v is not None]
    found = {v.name: v for root in roots for v in root.walk() if isinstance(v, n.Local)}
    return {name: v for name, v in found.items() if name not in {*own, "q", "k", "v"}}


def _on(block: n.BlockInstance, sources: Mapping[str, n.Local]) -> n.Average:
    """The average of a block on variables for its sources."""
    assert block.average is not None
    return replace(block.average, query=sources.get("query"), key=sources.get("key"), value=sources["value"])


def _before(block: n.BlockInstance) -> tuple[tuple[n.Step, ...], dict[str, n.Local]]:
    """The statements before the average, and the sources of the average as variables that they set."""
    average = block.average
    assert average is not None
    at = next(k for k, step in enumerate(block.body) if isinstance(step, n.Evaluate))
    body, sources = list(block.body[:at]), {}
    for name in SOURCES:
        value: n.Value | None = getattr(average, name)
        if value is not None:
            variable = _unused(block, f"{name}_source")
            body.append(n.Set((variable,), value))
            sources[name] = n.Local(value.type, value.span, variable)
    return tuple(body), sources


def _unused(block: n.BlockInstance, name: str) -> str:
    """A name that no variable and no length of a block has."""
    taken = {name for name, _ in block.parameters} | {x for s in block.body if isinstance(s, n.Set) for x in s.names}
    kinds = [kind for _, kind in block.parameters if isinstance(kind, TensorType)]
    return free(name, taken | {x for kind in kinds for axis in kind.axes for x in axis.size.free_names})


def _probe(compiled: Compiled, block: n.BlockInstance, part: str, plan: Plan) -> Probe:
    body, sources = _before(block)
    inner = _on(block, sources)
    names = ("weights", "message") if part == "weights" else ("y",)
    variables = tuple(_unused(block, name) for name in names)
    own = tuple(n.Local(TensorType("float", ()), None, name) for name in variables)
    results = (*own, *sources.values())
    step = n.Evaluate(variables, inner, part)
    found = replace(block, body=(*body, step), results=results, result_names=(None,) * len(results))
    return Probe(_compiled(compiled, found, plan), (*names, *(f"{name}_source" for name in sources)))


@deep()
def _compiled(compiled: Compiled, block: n.BlockInstance, plan: Plan | None) -> type[nn.Module]:
    inputs = tuple(n.InputDecl(name, kind, None) for name, kind in block.parameters)
    model = n.Model(f"{block.name}_probe", block, inputs, None, None, (), compiled.model.source_name)
    average = block.average
    lowered = {id(block): plan.lowered(average)} if plan is not None and average is not None else {}
    source = write_source(model, compiled.lowered | lowered, compiled.resolved, {}, inside=True)
    found: type[nn.Module] = getattr(load_module(source, model.name), class_name(model.name))
    return found
