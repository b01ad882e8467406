"""Calls of blocks: modules are named, and each block is typed once for each different set of arguments.

That is, once for each set of types and static arguments: two calls that differ only in lengths share one instance.
"""

from __future__ import annotations

from typing import Any

from towerdsl.budget import spend
from towerdsl.diagnostics import Span
from towerdsl.ir import names
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import weights_read, without_unused
from towerdsl.ir.types import Axis, RelationType, TensorType, Type
from towerdsl.lang import tree as t
from towerdsl.passes.infer.assigned import loops, targets
from towerdsl.passes.infer.attention import type_attention
from towerdsl.passes.infer.binding import Bound, bind
from towerdsl.passes.infer.declared import declare_modules, declare_weights
from towerdsl.passes.infer.mistakes import used_otherwise
from towerdsl.passes.infer.reads import wrong_reads
from towerdsl.passes.infer.scope import Builder, Fault, Poison, Scope, SharedModule, Typed, Unknown, given_names
from towerdsl.passes.infer.statements import type_statements
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.infer.values import to_value
from towerdsl.passes.resolve import block_expressions, call_sites


class Blocks:
    """The instances of blocks that were made so far."""

    def __init__(self, typer: Typer) -> None:
        self.typer = typer
        self.instances: dict[Any, n.BlockInstance | None] = {}
        self.sites = call_sites(typer.resolved)
        self.names: dict[int, tuple[dict[str, str], dict[str, str]]] = {}

    def call(self, block: t.Block, e: t.Call, scope: Scope, module: SharedModule | None) -> n.Value:
        """The call of a block, with a module of its own or a shared one. Raises Fault, Unknown."""
        if module is not None:
            return self._shared(block, e, scope, module)
        name = next((v for k, v in e.kwargs if k == "name"), None)
        parameters = {p.name for p in block.signature.parameters}
        kwargs = tuple((k, v) for k, v in e.kwargs if k != "name" or "name" in parameters)
        bound = bind(self.typer, block, t.Call(e.span, e.func, e.args, kwargs), scope, self._inside(block))
        instance = self._instance(block, bound, e.span)
        attribute = scope.builder.name(block.signature.name, name)
        reference = n.ModuleRef(*scope.builder.place(attribute, n.ModuleSlot(block=instance)))
        return _call(instance, bound, reference, e.span)

    def _shared(self, block: t.Block, e: t.Call, scope: Scope, module: SharedModule) -> n.Value:
        bound = bind(self.typer, block, e, scope, self._inside(block), module.block)
        if module.block is not None:
            bound.take_dtypes(dict(module.block.parameters))
        instance = self._instance(block, bound, e.span)
        if module.block is None:
            module.block = instance
            scope.builder.place_shared(module.name, n.ModuleSlot(block=instance))
        elif module.block != instance:
            now = [(name, value.type) for (name, _), value in zip(bound.types, bound.values, strict=True)]
            raise used_otherwise(module, now, e.span)
        return _call(instance, bound, n.ModuleRef(module.name), e.span)

    def _inside(self, block: t.Block) -> Scope:
        """The scope inside a block, before its arguments are bound."""
        if id(block) not in self.names:
            own, other = given_names(block.body, block_expressions(block)), {}
            if isinstance(block.body, t.Attention):
                variables = [p.name for p in block.signature.parameters]
                variables += [x.name for x in targets(block.body.let)] + [x.index for x in loops(block.body.let)]
                other = {x: y for x, y in names.chosen(variables, names.ATTENTION).items() if x != y}
            self.names[id(block)] = own, other
        own, other = self.names[id(block)]
        return Scope({}, {}, Builder(own), signature=block.signature, other=other)

    def _instance(self, block: t.Block, bound: Bound, span: Span) -> n.BlockInstance:
        """The block typed with these arguments: made once. Raises Unknown if it has mistakes."""
        constants = tuple((type(v).__name__, v) for _, v in bound.constants)  # 1, 1.0 and true are not the same
        axes = tuple(sorted(map(str, bound.axes)))
        key = (block.signature.name, block.span.source.name, tuple(bound.types), constants, axes)
        if key not in self.instances:
            self.instances[key] = None  # stays so where the block has mistakes
            errors = self.typer.errors
            before = len(errors)
            with errors.inside(self._place(block, span)):
                instance = self._made(block, bound)
            if len(errors) == before:
                self.instances[key] = instance
        found = self.instances[key]
        if found is None:
            raise Unknown
        return found

    def _place(self, block: t.Block, span: Span) -> str | None:
        """A note of where a block is called, if that is not plain: more than one call has it, or another file."""
        if self.sites[block.signature.name] < 2 and block.source is span.source:
            return None
        return f"called at {span}: `{' '.join(span.text.split())}`"

    def _made(self, block: t.Block, bound: Bound) -> n.BlockInstance:
        spend(150)
        scope, body = bound.scope, block.body
        written: t.Attention | t.Composition
        if isinstance(body, t.Attention):
            try:
                weights, steps, results = type_attention(self.typer, block, body, scope)
            except Fault as fault:
                self.typer.report(fault)
                raise Unknown from None
            written = scope.builder.readings.attention(body)
        else:
            weights, steps, results = self._composition(block, body, scope)
            written = scope.builder.readings.composition(body)
        self.typer.report_all(wrong_reads(steps, results))
        return n.BlockInstance(
            name=block.signature.name,
            parameters=tuple(bound.types),
            weights=weights_read(weights, steps, results),
            modules=scope.builder.modules,
            body=without_unused(steps, results),
            results=tuple(results),
            result_names=tuple(x.name if isinstance(x, n.Local) else None for x in results),
            about=block.about,
            constants=tuple(bound.constants),
            span=block.span,
            written=written,
        )

    def _composition(self, block: t.Block, body: t.Composition, scope: Scope) -> Typed:
        weights = declare_weights(self.typer, body.params, scope)
        declare_modules(self.typer, body.modules, scope)
        steps, last = type_statements(self.typer, body.body, scope)
        if last is None:
            help = "end with an expression, an assignment, or `return`"
            self.typer.errors.add("form", f"`{block.signature.name}` returns nothing", block.span, help=help)
            raise Unknown
        found = [x for x in last if not isinstance(x, Poison)]
        if len(found) < len(last):
            raise Unknown
        if len(found) > 1 and isinstance(found[0], n.CallBlock) and found[0] is found[-1]:
            call = found[0]
            results = [scope.builder.name("result", None) for _ in found]
            steps.append(n.Set(tuple(results), call))
            found = [
                n.Local(k, call.span, x) if isinstance(k, TensorType) else n.Relation(x, k)
                for x, k in zip(results, call.results, strict=True)
            ]
        return weights, steps, [x if isinstance(x, n.Relation) else to_value(x, block.span) for x in found]


def _call(instance: n.BlockInstance, bound: Bound, reference: n.ModuleRef, span: Span) -> n.Value:
    """The call as a value, its types read outside the block. Raises Fault."""

    def outside(axis: Axis) -> Axis:
        if axis in bound.axes:
            return bound.axes[axis]
        for inner, outer in bound.axes.items():  # a part of an axis keeps its name
            if inner.name == axis.name and inner.side == axis.side and axis.name is not None:
                return Axis(outer.name, axis.size.substitute(bound.outer), axis.side, axis.origin)
        return Axis(axis.name, axis.size.substitute(bound.outer), axis.side, axis.origin)

    types: list[Type] = []
    for r in instance.results:
        if isinstance(r, n.Relation):
            types.append(RelationType(outside(r.type.source), outside(r.type.target)))
        else:
            types.append(TensorType(r.type.dtype, tuple(outside(a) for a in r.axes), r.type.scalar))
    first = types[0]
    if isinstance(first, RelationType):
        raise Fault("type", "a block cannot return a relation", span, (), "pass the relation itself")
    return n.CallBlock(first, span, instance, tuple(bound.values), reference, tuple(types))
