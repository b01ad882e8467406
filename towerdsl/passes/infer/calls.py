"""Calls of operations, blocks and shared modules: arguments are bound, modules are named, instances are made once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from towerdsl.budget import spend
from towerdsl.diagnostics import Span, did_you_mean
from towerdsl.ir import names
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import weights_read, without_unused
from towerdsl.ir.parameters import count_modules, parameter_shapes
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, RelationType, TensorType, Type, shown
from towerdsl.lang import tree as t
from towerdsl.lang.foreign import OPTIONS
from towerdsl.ops import OPS, Op, OpCall, OpError, OpResult, SizeArg
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes import static as st
from towerdsl.passes.infer.attention import type_attention
from towerdsl.passes.infer.dtypes import as_before, cast
from towerdsl.passes.infer.expression import Result, keyword_span
from towerdsl.passes.infer.mistakes import no_tensors, used_otherwise
from towerdsl.passes.infer.needs import check_needs
from towerdsl.passes.infer.reads import check_reads
from towerdsl.passes.infer.scope import Builder, Fault, Poison, Scope, SharedModule, Unknown, _Slot, given_names
from towerdsl.passes.infer.statements import loops, targets
from towerdsl.passes.resolve import INITIALIZERS, block_expressions, call_sites
from towerdsl.passes.static import Static

if TYPE_CHECKING:
    from towerdsl.passes.infer.model import Infer

MAX_MODULES = 20_000


@dataclass
class _Bound:
    """The arguments of a block call, and how its inner axes and lengths read outside."""

    types: list[tuple[str, Type]]
    values: list[n.Value | n.Relation]
    constants: list[tuple[str, Static]]
    outer: dict[str, Size]  # inner free name -> length outside
    axes: dict[Axis, Axis]  # inner axis -> axis outside
    numbers: dict[str, Size | None]  # parameters that are no tensors -> their length outside, where they are one
    pairs: set[str | None]  # names of axes of which the arguments have the query's and the key's position
    scope: Scope

    def inner_name(self, axis: Axis) -> str | None:
        """What an axis outside is called inside: what a parameter named it, or its own name, where that is no number
        of another parameter."""
        named = next((i.name for i, o in self.axes.items() if o == axis and i.name is not None), None)
        if named is None and axis.side and axis.name in self.pairs:
            return f"{axis.side}_{axis.name}"
        return named or (None if self.hides(axis.name, axis.size) else axis.name)

    def take_dtypes(self, known: Mapping[str, Type]) -> None:
        """Give floats in the dtypes of these parameters."""
        for k, ((name, kind), value) in enumerate(zip(self.types, self.values, strict=True)):
            if isinstance(value, n.Value) and isinstance(kind, TensorType):
                self.values[k] = value = as_before(value, known.get(name))
                self.types[k] = name, replace(kind, dtype=value.type.dtype)

    def bind(self, inner: Axis, outside: Axis) -> None:
        """An axis inside stands for one outside."""
        self.axes.setdefault(inner, outside)
        if inner.name is not None:
            self.scope.axes.setdefault(inner.name, inner)

    def hides(self, name: str | None, size: Size) -> bool:
        """Whether a name means a number in the block that is not this length outside."""
        return name in self.numbers and self.numbers[name] != size


def plural(number: int, noun: str) -> str:
    """`1 argument`, `2 arguments`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Calls:
    def __init__(self, infer: Infer) -> None:
        self.infer = infer
        self.instances: dict[Any, n.BlockInstance | None] = {}
        self.depth = 0
        self.sites = call_sites(infer.resolved)
        self.given: dict[int, tuple[dict[str, str], dict[str, str]]] = {}

    def _unknown(self, func: t.Name) -> Fault | Unknown:
        """The mistake that nothing has a name that is called, where `resolve` has not said so."""
        if self.infer.errors:
            return Unknown()
        return Fault("unknown-name", f"there is no function or block `{func.id}`", func.span)

    # --- operations -------------------------------------------------------------------------------------------

    def op(self, e: t.Call, scope: Scope, outer: bool = False) -> n.Value:
        assert isinstance(e.func, t.Name)
        operation = OPS.get(e.func.id)
        if operation is None:
            raise _no_operation(e.func, scope) or self._unknown(e.func)
        name = next((v for k, v in e.kwargs if k == "name"), None)
        tensors, statics, spans, texts = self._op_arguments(operation, e, scope, True)
        result = self._apply_rule(operation, e, scope, tensors, statics, spans, texts, outer)
        reference = None
        if result.module is not None:
            attribute = scope.builder.name(operation.name, name)
            reference = n.ModuleRef(*scope.builder.place(attribute, n.ModuleSlot(op=operation, result=result)))
        elif name is not None:
            message = f"`{operation.name}` has no weights, so it has no name"
            raise Fault("arguments", message, name.span, (), "remove `name=`")
        return n.Apply(result.type, e.span, operation, result, self._flat(operation, tensors), reference)

    def _flat(self, operation: Op, tensors: Mapping[str, Any]) -> tuple[n.Value, ...]:
        found: list[n.Value] = []
        for name in operation.tensors:
            value = tensors[name.removesuffix("...")]
            found += value if isinstance(value, tuple) else [value]
        return tuple(found)

    def _op_arguments(
        self, operation: Op, e: t.Call, scope: Scope, with_tensors: bool
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Span], dict[str, str]]:
        """Tensor and static arguments by name. Raises Fault, Unknown."""
        written = f"write `{operation.signature.replace('=none', '')}`"
        positional = list(e.args)
        tensors: dict[str, Any] = {}
        spans: dict[str, Span] = {}
        texts: dict[str, str] = {}
        values: list[n.Value] = []
        tensor_exprs: list[t.Expr] = []
        if with_tensors:
            for name in operation.tensors:
                if name.endswith("..."):
                    for expr in positional:
                        if isinstance(expr, t.List):
                            brackets = f"{written}, the tensors without brackets"
                            raise Fault("type", f"`{operation.name}` takes no list of tensors", expr.span, (), brackets)
                    tensor_exprs += positional
                    positional = []
                elif positional:
                    tensor_exprs.append(positional.pop(0))
                else:
                    message = f"`{operation.name}` needs a tensor `{name}`"
                    raise Fault("arguments", message, e.span, (), written)
            values = self.infer.expressions.all(tensor_exprs, scope)
            values = [cast(v, "float") if v.type.dtype == "wide" else v for v in values]
            names = list(operation.tensors)
            for position, (value, expr) in enumerate(zip(values, tensor_exprs, strict=True)):
                name = names[min(position, len(names) - 1)]
                if name.endswith("..."):
                    key = name.removesuffix("...")
                    tensors[key] = (*tensors.get(key, ()), value)
                    part = f"{key}{len(tensors[key]) - 1}"
                    spans[part], texts[part] = expr.span, expr.span.text
                else:
                    key = name
                    tensors[name] = value
                spans.setdefault(key, expr.span)
                texts.setdefault(key, expr.span.text)
            for name in names:
                if name.endswith("...") and name.removesuffix("...") not in tensors:
                    raise Fault("arguments", f"`{operation.name}` needs tensors", e.span, (), written)
        given: dict[str, t.Expr] = {}
        parameters = {p.name: p for p in operation.statics}
        for p, expr in zip(operation.statics, positional, strict=False):
            given[p.name] = expr
        if len(positional) > len(operation.statics):
            extra = positional[len(operation.statics)]
            message = (
                f"`{operation.name}` has {len(e.args) - len(positional) + len(operation.statics)} arguments at most"
            )
            raise Fault("arguments", message, extra.span, (), written)
        for name, expr in e.kwargs:
            if name == "name":
                continue
            if name in given:
                message = f"`{name}` is given in order and by name"
                raise Fault("arguments", message, keyword_span(name, expr), (), written)
            if name not in parameters and not operation.extra_statics:
                help = OPTIONS.get(name) or did_you_mean(name, [*parameters, "name"], written)
                message = f"`{operation.name}` has no option `{name}`"
                raise Fault("arguments", message, keyword_span(name, expr), (), help)
            given[name] = expr
        statics: dict[str, Any] = {}
        for p in operation.statics:
            if p.name not in given:
                if p.default is ...:
                    message = f"`{operation.name}` needs `{p.name}`"
                    raise Fault("arguments", message, e.span, (), written)
                statics[p.name] = p.default
                continue
            expr = given[p.name]
            spans[p.name], texts[p.name] = expr.span, expr.span.text
            statics[p.name] = self._static_argument(p.kind, expr, scope, values, operation.name, p.name)
        for name, expr in given.items():
            if name not in parameters:
                statics[name] = self._static_argument("int", expr, scope, values, operation.name, name)
        return tensors, statics, spans, texts

    def _static_argument(
        self, kind: str, e: t.Expr, scope: Scope, values: list[n.Value], function: str, name: str
    ) -> Any:
        typer = self.infer.expressions
        what = f"`{name}` of `{function}`"
        if kind in ("axis", "axes"):
            # of several tensors (concat), the first that has the axis
            wanted = e.id if isinstance(e, t.Name) else None
            one = next((v for v in values if any(a.called(wanted) for a in v.axes)), values[0])
            return typer.axis_of(e, one, scope, what) if kind == "axis" else typer.axes_of(e, one, scope, what)
        if kind == "sizes":
            items = e.items if isinstance(e, t.List) else (e,)
            return tuple(self._static_argument("size", x, scope, values, function, name) for x in items)
        if kind == "ints" and isinstance(e, t.List):
            return tuple(typer.integer(x, scope, what) for x in e.items)
        if kind == "floats":
            items = e.items if isinstance(e, t.List) else (e,)
            return tuple(self._static_argument("float", x, scope, values, function, name) for x in items)
        value = typer.static(e, scope, what)
        if kind == "size":
            size = st.as_size(value)
            if size is None and isinstance(value, float):
                message = f"{what} is a whole number, not {st.show(value)}"
                raise Fault("size", message, e.span, (), "use `//` to round down")
            if size is None:
                raise Fault("size", f"{what} is a size, not {st.show(value)}", e.span)
            return SizeArg(size, e.id if isinstance(e, t.Name) else None)
        if kind in ("int", "ints"):
            return typer.integer(e, scope, what)
        if kind == "text":
            if not isinstance(value, str):
                raise Fault("type", f"{what} is a text in quotes", e.span)
            return value
        if kind == "bool":
            if not isinstance(value, bool):
                raise Fault("type", f"{what} is true or false, not {st.show(value)}", e.span)
            return value
        if isinstance(value, (bool, str, Size)):
            raise Fault("type", f"{what} is a number, not {st.show(value)}", e.span)
        return float(value)

    def _apply_rule(
        self,
        operation: Op,
        e: t.Call,
        scope: Scope,
        tensors: Mapping[str, Any],
        statics: Mapping[str, Any],
        spans: Mapping[str, Span],
        texts: Mapping[str, str],
        outer: bool = False,
    ) -> OpResult:
        types = {k: tuple(x.type for x in v) if isinstance(v, tuple) else v.type for k, v in tensors.items()}
        try:
            sizes, named = self.infer.lengths(scope)
            result = operation.rule(OpCall(operation, types, statics, texts, sizes, named, outer))
        except OpError as error:
            span = spans.get(error.argument or "", e.span)
            raise Fault(error.code, error.message, span, error.notes, error.help) from None
        line = self.infer.line(e.span)
        axes = tuple(a if a.origin else replace(a, origin=f"{e.span.text}, {line}") for a in result.type.axes)
        kind = TensorType(result.type.dtype, axes)
        return replace(result, type=kind)

    # --- shared modules ---------------------------------------------------------------------------------------

    def declare_shared(self, attribute: str, call: t.Call, scope: Scope) -> SharedModule:
        if not isinstance(call.func, t.Name):
            raise Fault("form", "a module is an operation or a block", call.span, (), "write `words: embed(vocab, d)`")
        if call.func.id in OPS:
            no_tensors(call.func.id, call.args, scope)
            return SharedModule(attribute, call, scope, op=OPS[call.func.id])
        if call.func.id in self.infer.resolved.blocks:
            return SharedModule(attribute, call, scope)
        raise Fault("form", f"`{call.func.id}` has no weights to share", call.span, (), "name an operation or a block")

    def shared(self, module: SharedModule, e: t.Call, scope: Scope) -> Result:
        reference = n.ModuleRef(module.name)
        if module.op is None:
            assert isinstance(module.call.func, t.Name)
            block = self.infer.resolved.blocks[module.call.func.id]
            # static arguments of the declaration follow the tensors of the call
            merged = t.Call(e.span, module.call.func, (*e.args, *module.call.args), (*e.kwargs, *module.call.kwargs))
            bound = self._bind(block, merged, scope, module.block)
            if module.block is not None:
                bound.take_dtypes(dict(module.block.parameters))
            instance = self._instance(block, bound, e.span)
            if module.block is None:
                module.block = instance
                scope.builder.place_shared(module.name, n.ModuleSlot(block=instance))
            elif module.block != instance:
                now = [(name, value.type) for (name, _), value in zip(bound.types, bound.values, strict=True)]
                raise used_otherwise(module, now, e.span)
            return self._call_value(instance, bound, reference, e.span)
        tensor_names = module.op.tensors
        if len(e.args) > len(tensor_names) and not tensor_names[-1].endswith("..."):
            extra = e.args[len(tensor_names)].span
            help = f"its other arguments stand in `modules:`, line {module.call.span.line}"
            raise Fault("arguments", f"`{module.name}` takes {plural(len(tensor_names), 'tensor')}", extra, (), help)
        tensors_call = t.Call(e.span, module.call.func, (*e.args, *module.call.args), (*e.kwargs, *module.call.kwargs))
        tensors, statics, spans, texts = self._op_arguments(module.op, tensors_call, scope, True)
        result = self._apply_rule(module.op, tensors_call, scope, tensors, statics, spans, texts)
        if result.module is None:
            raise Fault("form", f"`{module.op.name}` has no weights to share", module.call.span)
        if module.result is None:
            module.result = result
            scope.builder.place_shared(module.name, n.ModuleSlot(op=module.op, result=result))
        elif (module.result.module, module.result.attrs) != (result.module, result.attrs):
            message = f"`{module.name}` is used with inputs of another size than before"
            raise Fault("shared-module", message, e.span, (), "one module serves one size of inputs")
        return n.Apply(result.type, e.span, module.op, result, self._flat(module.op, tensors), reference)

    def shared_weight(self, module: SharedModule, path: tuple[str, ...], span: Span) -> n.Value:
        """`words.weight`: a parameter of a shared module that has been used before. Raises Fault."""
        if module.result is None and module.block is None:
            if module.op is not None and module.op.name == "embed":
                scope = module.scope
                ids = n.Local(TensorType("int", ()), span, "ids")
                _, statics, spans, texts = self._op_arguments(module.op, module.call, scope, False)
                module.result = self._apply_rule(module.op, module.call, scope, {"ids": ids}, statics, spans, texts)
                scope.builder.place_shared(module.name, n.ModuleSlot(op=module.op, result=module.result))
            else:
                message = f"`{module.name}` has not been used yet, so the shape of its weights is not known"
                raise Fault("shared-module", message, span, (), "use it before its weight")
        if module.result is not None and len(path) == 1:
            parameters = dict(module.result.parameters)
            if path[0] in parameters:
                axes = self._weight_axes(module, path[0], parameters[path[0]])
                return n.Weight(TensorType("float", axes), span, (module.name, *path))
            help = did_you_mean(path[0], parameters, f"it has {', '.join(parameters)}")
            raise Fault("unknown-name", f"`{module.name}` has no weight `{path[0]}`", span, (), help)
        if module.block is not None:
            found = {name: (kind, p) for name, kind, p in parameter_shapes(module.block)}
            key = ".".join(path)
            if key in found:
                axes = tuple(Axis(None, Size.of(s)) for s in found[key][0])
                return n.Weight(TensorType("float", axes), span, (module.name, *path))
            raise Fault("unknown-name", f"`{module.name}` has no weight `{key}`", span, (), did_you_mean(key, found))
        raise Fault("unknown-name", f"`{module.name}` has no weight `{'.'.join(path)}`", span)

    def _weight_axes(self, module: SharedModule, name: str, shape: tuple[Size, ...]) -> tuple[Axis, ...]:
        """Axes of an operation's weight, named like the sizes that it was declared with."""
        names: dict[Size, str] = {}
        for e in (*module.call.args, *(v for _, v in module.call.kwargs)):
            if isinstance(e, t.Name) and e.id in self.infer.sizes:
                size = st.as_size(self.infer.size_value(e.id, e.span))
                if size is not None:
                    names.setdefault(size, e.id)
        return tuple(
            Axis(names.get(s), s, origin=f"{module.call.span.text}, {self.infer.line(module.call.span)}") for s in shape
        )

    # --- blocks -----------------------------------------------------------------------------------------------

    def block(self, block: t.Block, e: t.Call, scope: Scope) -> n.Value | n.Relation:
        name = next((v for k, v in e.kwargs if k == "name"), None)
        parameters = {p.name for p in block.signature.parameters}
        kwargs = tuple((k, v) for k, v in e.kwargs if k != "name" or "name" in parameters)
        bound = self._bind(block, t.Call(e.span, e.func, e.args, kwargs), scope)
        instance = self._instance(block, bound, e.span)
        attribute = scope.builder.name(block.signature.name, name)
        reference = n.ModuleRef(*scope.builder.place(attribute, n.ModuleSlot(block=instance)))
        return self._call_value(instance, bound, reference, e.span)

    def results(self, e: t.Expr, scope: Scope) -> list[Result]:
        """The values of an expression: one, or one `CallBlock` repeated for a block with several results."""
        value = self.infer.expressions.any(e, scope)
        if isinstance(value, n.CallBlock) and len(value.results) > 1:
            return [value] * len(value.results)
        return [value]

    def _bind(self, block: t.Block, e: t.Call, scope: Scope, before: n.BlockInstance | None = None) -> _Bound:
        """Match arguments to parameters, and give the block's inside its own lengths. Raises Fault, Unknown.

        Axes that no parameter names are called as in the call `before`, where it is one of the same module.
        """
        signature = block.signature
        written = f"{signature.name}({', '.join(p.name for p in signature.parameters)})"
        help = f"write `{written}`"
        if len(e.args) > len(signature.parameters):
            message = f"`{signature.name}` takes {plural(len(signature.parameters), 'argument')}, not {len(e.args)}"
            raise Fault("arguments", message, e.span, (f"it is defined at {signature.span}",), help)
        given: dict[str, t.Expr] = {p.name: a for p, a in zip(signature.parameters, e.args, strict=False)}
        for name, expr in e.kwargs:
            if name not in {p.name for p in signature.parameters}:
                known = [p.name for p in signature.parameters]
                near = did_you_mean(name, known, help)
                message = f"`{signature.name}` has no parameter `{name}`"
                raise Fault("arguments", message, keyword_span(name, expr), (), near)
            if name in given:
                message = f"`{name}` is given in order and by name"
                raise Fault("arguments", message, keyword_span(name, expr), (), help)
            given[name] = expr
        missing = [p.name for p in signature.parameters if p.name not in given and p.default is None]
        if missing:
            needed = ", ".join(f"`{m}`" for m in missing)
            notes = (f"it is defined at {signature.span}",)
            raise Fault("arguments", f"`{signature.name}` needs {needed}", e.span, notes, help)
        values = self.infer.every(partial(self.infer.expressions.any, expr, scope) for expr in given.values())
        found: dict[str, Result] = dict(zip(given, values, strict=True))
        own, other = self._names_in(block)
        inner = Scope({}, {}, Builder(own), signature=signature, other=other)
        positions = {(a.name, a.side) for x in found.values() if isinstance(x, n.Value) for a in x.axes if a.side}
        pairs = {name for name, side in positions if side == "i" and (name, "j") in positions}
        bound = _Bound([], [], [], {}, {}, self._numbers(signature, found), pairs, inner)
        lengths: dict[tuple[str | None, Size], Size] = {}
        named: dict[str, TensorType] = {}  # parameters that name their axes come first: the others follow their names
        called = {name: kind.axes for name, kind in before.parameters if isinstance(kind, TensorType)} if before else {}
        for p in signature.parameters:
            value = found.get(p.name)
            name = inner.variable(p.name)
            if (p.axes is not None or name in called) and isinstance(value, n.Value) and not value.type.scalar:
                axes = called.get(name, ())
                named[p.name] = self._inner_type(p, value.type, lengths, bound, given[p.name].span, axes)
        for p in signature.parameters:
            name, value = inner.variable(p.name), found.get(p.name)
            span = given[p.name].span if p.name in given else e.span
            if p.name not in given:
                assert p.default is not None
                default = self.infer.expand(p.default, inner)
                value = self.infer.expressions.any(default, inner)
            if isinstance(value, n.Value) and value.type.scalar and not isinstance(value, n.Const):
                # a number that is only known at run time is passed along
                bound.types.append((name, value.type))
                bound.values.append(value)
                inner.names[p.name] = n.Local(value.type, p.span, name)
            elif isinstance(value, n.Value):
                kind = named.get(p.name) or self._inner_type(p, value.type, lengths, bound, span)
                bound.types.append((name, kind))
                bound.values.append(value)
                inner.names[p.name] = n.Local(kind, p.span, name)
            elif isinstance(value, n.Relation):
                self._no_axes(p, "a relation")
                ends = [
                    self._inner_axis(a, bound.inner_name(a), lengths, bound)
                    for a in (value.type.source, value.type.target)
                ]
                relation = RelationType(ends[0], ends[1])
                bound.bind(ends[0], value.type.source)
                bound.bind(ends[1], value.type.target)
                bound.types.append((name, relation))
                bound.values.append(value)
                inner.names[p.name] = n.Relation(name, relation)
            elif isinstance(value, Size):
                self._no_axes(p, "a size")
                if p.name in given:
                    inner.names[p.name] = self._inner_size(name, value, bound, span)
                else:
                    inner.names[p.name] = value
            else:
                assert value is not None
                self._no_axes(p, "a number")
                bound.constants.append((p.name, value))
                inner.names[p.name] = value
        check_needs(self.infer, block, given, e.span, inner)
        return bound

    def _names_in(self, block: t.Block) -> tuple[dict[str, str], dict[str, str]]:
        """The attributes for the names that a block gives, and its variables that an attention would overwrite."""
        if id(block) not in self.given:
            own, other = given_names(block.body, block_expressions(block)), {}
            if isinstance(block.body, t.Attention):
                variables = [p.name for p in block.signature.parameters]
                variables += [x.name for x in targets(block.body.let)] + [x.index for x in loops(block.body.let)]
                other = {x: y for x, y in names.chosen(variables, names.ATTENTION).items() if x != y}
            self.given[id(block)] = own, other
        return self.given[id(block)]

    def _numbers(self, signature: t.Signature, given: Mapping[str, Result]) -> dict[str, Size | None]:
        """The parameters that are no tensors, and the lengths that they are, None where they are none."""
        found: dict[str, Size | None] = {}
        nothing = Scope({}, {}, Builder())
        for p in signature.parameters:
            value = given.get(p.name)
            if value is None and p.default is not None:
                default = self.infer.expand(p.default, nothing)
                if not self.infer.branches.is_static(default, nothing):
                    continue  # made of the lengths of other arguments
                value = self.infer.expressions.any(default, nothing)
            if isinstance(value, n.Value) and value.type.scalar:
                found[p.name] = None
            elif value is not None and not isinstance(value, n.Value | n.Relation):
                found[p.name] = st.as_size(value)
        return found

    def _no_axes(self, p: t.Parameter, what: str) -> None:
        if p.axes is not None:
            message = f"the parameter `{p.name}` names axes, but it is given {what}"
            raise Fault("type", message, p.span)

    def _inner_size(self, name: str, size: Size, bound: _Bound, span: Span) -> Size:
        """A length known at run time, given as an argument: it is a length of the arguments, or passed along."""
        for inner, outer in bound.outer.items():
            if outer == size:
                return Size.free(inner)
        bound.types.append((name, TensorType("int", (), True)))
        bound.values.append(n.SizeOf(TensorType("int", (), True), span, size))
        bound.outer[name] = size
        return Size.free(name)

    def _inner_type(
        self,
        p: t.Parameter,
        kind: TensorType,
        lengths: dict[tuple[str | None, Size], Size],
        bound: _Bound,
        span: Span,
        before: tuple[Axis, ...] = (),
    ) -> TensorType:
        names: list[str | None] = [bound.inner_name(a) for a in kind.axes]
        if len(before) == len(kind.axes):
            names = [a.name for a in before]
        if p.axes is not None:
            if len(p.axes) != len(kind.axes):
                message = f"`{p.name}` has {len(p.axes)} axes here, it is given {len(kind.axes)}"
                notes = (f"wanted: [{', '.join(a.span.text for a in p.axes)}], {p.span}", f"got:    {shown(kind.axes)}")
                raise Fault("rank", message, span, notes)
            for k, (decl, axis) in enumerate(zip(p.axes, kind.axes, strict=True)):
                names[k] = decl.name if decl.name is not None else axis.name
                if decl.size is None and bound.hides(decl.name, axis.size):
                    number = bound.numbers[decl.name or ""]
                    is_now = f"is {number}" if number is not None else "is no length"
                    has = f"axis `{decl.name}` of `{p.name}` has length {axis.size}"
                    message = f"{has}, but the parameter `{decl.name}` {is_now}"
                    notes = (f"got:    {shown(kind.axes)}", f"wanted: {p.span.text}, {p.span}")
                    help = "call the axis or the parameter otherwise, if they are not one length"
                    raise Fault("axis-mismatch", message, span, notes, help)
                wanted = None if decl.name in bound.numbers else self._declared(decl, bound.scope)
                if wanted is not None and wanted != axis.size:
                    notes = (f"got: {shown(kind.axes)}", f"wanted: {decl.span.text} = {wanted}, {p.span}")
                    message = f"axis {k + 1} of `{p.name}` has length {axis.size}, not {wanted}"
                    raise Fault("axis-mismatch", message, span, notes)
                first = bound.scope.axes.get(names[k] or "")
                if first is not None and bound.axes[first].size != axis.size:
                    notes = (f"got: {shown(kind.axes)}", f"{names[k]} is {bound.axes[first].size} already")
                    message = f"axis `{names[k]}` has two lengths, {bound.axes[first].size} and {axis.size}"
                    raise Fault("axis-mismatch", message, span, notes)
        own = tuple(self._inner_axis(axis, name, lengths, bound) for name, axis in zip(names, kind.axes, strict=True))
        inner = TensorType(kind.dtype, own, kind.scalar)
        for axis, outside in zip(inner.axes, kind.axes, strict=True):
            bound.bind(axis, outside)
        return inner

    def _declared(self, decl: t.AxisDecl, scope: Scope) -> Size | None:
        if decl.size is not None:
            return self.infer.expressions.size(self.infer.expand(decl.size, scope), scope, "the length of an axis")
        return self.infer.number(decl, scope)

    def _inner_axis(
        self, axis: Axis, name: str | None, lengths: dict[tuple[str | None, Size], Size], bound: _Bound
    ) -> Axis:
        """The axis inside the block: its length becomes a name of the block's own unless it is a number."""
        size = axis.size
        if size.constant is None:
            key = (name, size)
            if key not in lengths:
                base = name or "length"
                label, number = base, 1
                while label in bound.outer or bound.hides(label, size):
                    number += 1
                    label = f"{base}_{number}"
                bound.outer[label] = size
                lengths[key] = Size.free(label)
            size = lengths[key]
        return Axis(name, size, "", axis.origin, axis.also if name == axis.name else None)

    def _instance(self, block: t.Block, bound: _Bound, span: Span) -> n.BlockInstance:
        """The block typed with these arguments: made once. Raises Unknown if it has mistakes."""
        constants = tuple((type(v).__name__, v) for _, v in bound.constants)  # 1, 1.0 and true are not the same
        axes = tuple(sorted(map(str, bound.axes)))
        key = (block.signature.name, block.span.source.name, tuple(bound.types), constants, axes)
        if key not in self.instances:
            self.instances[key] = None  # stays so where the block has mistakes
            before = len(self.infer.errors)
            with self.infer.errors.inside(self._place(block, span)):
                instance = self._make(block, bound)
            if len(self.infer.errors) == before and instance is not None:
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

    def _make(self, block: t.Block, bound: _Bound) -> n.BlockInstance | None:
        scope = bound.scope
        body = block.body
        if isinstance(body, t.Attention):
            try:
                weights, steps, results = type_attention(self.infer, block, body, scope)
                written: t.Attention | t.Composition = scope.builder.readings.attention(body)
            except Fault as fault:
                self.infer.report(fault)
                return None
            except Unknown:
                return None
        else:
            weights = self.infer.weights(body.params, scope)
            self.infer.modules(body.modules, scope)
            steps, last = self.infer.statements.steps(body.body, scope)
            if last is None:
                help = "end with an expression, an assignment, or `return`"
                self.infer.errors.add("form", f"`{block.signature.name}` returns nothing", block.span, help=help)
                return None
            if any(isinstance(x, Poison) for x in last):
                return None
            if len(last) > 1 and isinstance(last[0], n.CallBlock) and last[0] is last[-1]:
                names = [f"{scope.builder.name('result', None)}" for _ in last]
                call = last[0]
                steps.append(n.Set(tuple(names), call))
                last = [
                    n.Local(k, call.span, x) if isinstance(k, TensorType) else n.Relation(x, k)
                    for x, k in zip(names, call.results, strict=True)
                ]
            results = [
                x if isinstance(x, n.Relation) else self.infer.expressions.to_value(x, block.span)  # type: ignore[arg-type]
                for x in last
            ]
            written = scope.builder.readings.composition(body)
        check_reads(self.infer, steps, results)
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

    def _call_value(
        self, instance: n.BlockInstance, bound: _Bound, reference: n.ModuleRef, span: Span
    ) -> n.Value | n.Relation:
        """The call as a value, its types read outside the block."""

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

    # --- loops and limits -------------------------------------------------------------------------------------

    def repeat_modules(self, builder: Builder, names: set[str], repetition: int) -> None:
        """Give a repetition whose body is that of the first modules of its own, of the same kind."""

        def visit(slot: _Slot, path: list[int]) -> None:
            if not path:
                if repetition > 0 and 0 in slot.items:
                    slot.items.setdefault(repetition, slot.items[0])
                return
            if path[0] in slot.items:
                visit(slot.items[path[0]], path[1:])

        spend(3 + 2 * len(names) * len(builder.loops))
        path = [number for _, number in builder.loops[:-1]]
        for name in names:
            visit(builder.slots[name], path)

    def check_total(self, root: n.BlockInstance, span: Span) -> None:
        total = count_modules(root)
        if total > MAX_MODULES:
            message = f"the model has {total:,} modules; at most {MAX_MODULES:,} are built"
            self.infer.errors.add(
                "too-large", message, span, help="share modules (`modules:`), or use fewer repetitions"
            )


def _no_operation(func: t.Name, scope: Scope) -> Fault | None:
    """The mistake that something known is called that is no operation."""
    name = func.id
    if name in scope.names:
        message, help = f"`{name}` is a value here, it cannot be called", f"to multiply, write `{name} * (...)`"
    elif name in INITIALIZERS:
        message = f"`{name}` says how a learned tensor starts, it is no operation"
        help = f"write it in `params:`, as in `table: float[d] = {name}`"
    elif any(name == known.partition("(")[0] for known in NORMALIZERS):
        message, help = f"`{name}` is a normalizer, it is no operation", f"write `normalize: {name}` in an attention"
    else:
        return None
    return Fault("not-a-function", message, func.span, (), help)
