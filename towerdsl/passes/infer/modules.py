"""Shared modules: entries of `modules:`, their calls, and their weights."""

from __future__ import annotations

from towerdsl.diagnostics import Span, did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.ir.parameters import parameter_shapes
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.lang import tree as t
from towerdsl.ops import OPS
from towerdsl.passes import static as st
from towerdsl.passes.infer.mistakes import no_tensors, plural
from towerdsl.passes.infer.operations import apply_rule, arguments, static_arguments
from towerdsl.passes.infer.scope import Fault, Result, Scope, SharedModule
from towerdsl.passes.infer.tables import Tables
from towerdsl.passes.infer.typer import Typer


def declare(tables: Tables, attribute: str, call: t.Call, scope: Scope) -> SharedModule:
    """An entry of `modules:`. Raises Fault."""
    if not isinstance(call.func, t.Name):
        raise Fault("form", "a module is an operation or a block", call.span, (), "write `words: embed(vocab, d)`")
    if call.func.id in OPS:
        no_tensors(call.func.id, call.args, scope)
        return SharedModule(attribute, call, scope, op=OPS[call.func.id])
    if call.func.id in tables.resolved.blocks:
        return SharedModule(attribute, call, scope)
    raise Fault("form", f"`{call.func.id}` has no weights to share", call.span, (), "name an operation or a block")


def shared(typer: Typer, module: SharedModule, e: t.Call, scope: Scope) -> Result:
    """A call of a shared module. Raises Fault, Unknown."""
    # static arguments of the declaration follow the tensors of the call
    merged = t.Call(e.span, module.call.func, (*e.args, *module.call.args), (*e.kwargs, *module.call.kwargs))
    if module.op is None:
        assert isinstance(module.call.func, t.Name)
        return typer.block(typer.resolved.blocks[module.call.func.id], merged, scope, module)
    tensor_names = module.op.tensors
    if len(e.args) > len(tensor_names) and not tensor_names[-1].endswith("..."):
        extra = e.args[len(tensor_names)].span
        help = f"its other arguments stand in `modules:`, line {module.call.span.line}"
        raise Fault("arguments", f"`{module.name}` takes {plural(len(tensor_names), 'tensor')}", extra, (), help)
    given = arguments(typer, module.op, merged, scope)
    result = apply_rule(typer, module.op, merged, scope, given)
    if result.module is None:
        raise Fault("form", f"`{module.op.name}` has no weights to share", module.call.span)
    if module.result is None:
        module.result = result
        scope.builder.place_shared(module.name, n.ModuleSlot(op=module.op, result=result))
    elif (module.result.module, module.result.attrs) != (result.module, result.attrs):
        message = f"`{module.name}` is used with inputs of another size than before"
        raise Fault("shared-module", message, e.span, (), "one module serves one size of inputs")
    return n.Apply(result.type, e.span, module.op, result, given.values(module.op), n.ModuleRef(module.name))


def weight(typer: Typer, module: SharedModule, path: tuple[str, ...], span: Span) -> n.Value:
    """`words.weight`: a parameter of a shared module that has been used before. Raises Fault."""
    if module.result is None and module.block is None:
        if module.op is not None and module.op.name == "embed":
            scope = module.scope
            given = static_arguments(typer, module.op, module.call, scope)
            given.tensors["ids"] = n.Local(TensorType("int", ()), span, "ids")
            module.result = apply_rule(typer, module.op, module.call, scope, given)
            scope.builder.place_shared(module.name, n.ModuleSlot(op=module.op, result=module.result))
        else:
            message = f"`{module.name}` has not been used yet, so the shape of its weights is not known"
            raise Fault("shared-module", message, span, (), "use it before its weight")
    if module.result is not None and len(path) == 1:
        parameters = dict(module.result.parameters)
        if path[0] in parameters:
            axes = _weight_axes(typer, module, parameters[path[0]])
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


def _weight_axes(tables: Tables, module: SharedModule, shape: tuple[Size, ...]) -> tuple[Axis, ...]:
    """Axes of an operation's weight, named like the sizes that it was declared with."""
    names: dict[Size, str] = {}
    for e in (*module.call.args, *(v for _, v in module.call.kwargs)):
        if isinstance(e, t.Name) and e.id in tables.sizes:
            size = st.as_size(tables.size_value(e.id))
            if size is not None:
                names.setdefault(size, e.id)
    return tuple(
        Axis(names.get(s), s, origin=f"{module.call.span.text}, {tables.line(module.call.span)}") for s in shape
    )
