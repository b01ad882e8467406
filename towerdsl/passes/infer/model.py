"""Resolved --> Model: the flow of a spec, typed. Here the parts of inference are put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from towerdsl.diagnostics import Diagnostics, Span, TowerError
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import weights_read, without_unused
from towerdsl.ir.parameters import count_modules
from towerdsl.ir.size import Size
from towerdsl.ir.types import RelationType, TensorType, Type
from towerdsl.lang import tree as t
from towerdsl.passes import static as st
from towerdsl.passes.infer.blocks import Blocks
from towerdsl.passes.infer.branches import alternative, chosen_type, taken
from towerdsl.passes.infer.declared import declare_modules, declare_weights, declared_type
from towerdsl.passes.infer.expression import ExpressionTyper
from towerdsl.passes.infer.reads import wrong_reads
from towerdsl.passes.infer.scope import POISON, Builder, Fault, Poison, Scope, SharedModule, Unknown, given_names
from towerdsl.passes.infer.sizes import set_sizes
from towerdsl.passes.infer.statements import local, type_statements
from towerdsl.passes.infer.tables import Tables
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.infer.values import to_value
from towerdsl.passes.lists import written
from towerdsl.passes.resolve import Resolved, statement_expressions
from towerdsl.passes.static import Static

MAX_MODULES = 20_000


def infer(resolved: Resolved, overrides: Mapping[str, Static], errors: Diagnostics) -> n.Model | None:
    """Type the flow of a spec, with sizes overridden by name. None for a library, or where there are mistakes."""
    typer = _Whole(resolved, errors)
    set_sizes(typer, overrides)
    return None if resolved.spec.is_library else _model(typer)


def all_sizes(resolved: Resolved, overrides: Mapping[str, Static]) -> dict[str, Static]:
    """The sizes of a spec that has no mistakes, with some overridden by name."""
    typer = _Whole(resolved, Diagnostics())
    set_sizes(typer, overrides)
    return {name: value for name, value in typer.sizes.items() if not isinstance(value, Poison)}


class _Whole(ExpressionTyper):
    """Types expressions, and the blocks that they call: the recursion is closed."""

    def __init__(self, resolved: Resolved, errors: Diagnostics) -> None:
        super().__init__(resolved, errors)
        self.blocks = Blocks(self)

    def block(self, block: t.Block, e: t.Call, scope: Scope, module: SharedModule | None = None) -> n.Value:
        return self.blocks.call(block, e, scope, module)


def _model(typer: Typer) -> n.Model | None:
    spec = typer.resolved.spec
    builder = Builder(given_names(spec, [*statement_expressions(spec.flow), *(e for _, e in spec.outputs)]))
    scope = Scope({}, {}, builder, is_flow=True)
    inputs = _inputs(typer, scope)
    if len(inputs) == len(spec.inputs) and not spec.broken:
        _check_bound(typer, inputs)
    _check_order(typer, inputs)
    weights = declare_weights(typer, spec.params, scope)
    declare_modules(typer, spec.modules, scope)
    steps, _ = type_statements(typer, spec.flow, scope)
    results, names = _results(typer, scope)
    typer.report_all(wrong_reads(steps, results))
    if typer.errors or spec.tower is None:
        return None
    root = n.BlockInstance(
        name=spec.tower.text,
        parameters=tuple((i.name, i.type) for i in inputs),
        weights=weights_read(weights, steps, results),
        modules=builder.modules,
        body=without_unused(steps, results),
        results=tuple(results),
        result_names=tuple(names),
        about=spec.about,
        constants=(),
        span=spec.tower.span,
    )
    if (total := count_modules(root)) > MAX_MODULES:
        message = f"the model has {total:,} modules; at most {MAX_MODULES:,} are built"
        help = "share modules (`modules:`), or use fewer repetitions"
        typer.errors.add("too-large", message, spec.tower.span, help=help)
        return None
    sizes = [(name, value) for name, value in typer.sizes.items() if not isinstance(value, Poison)]
    lists = [(name, written(items)) for name, items in typer.resolved.lists.items()]
    return n.Model(spec.tower.text, root, tuple(inputs), spec.paper, spec.about, (*sizes, *lists), spec.source.name)


# --- inputs ----------------------------------------------------------------------------------------------------


def _inputs(typer: Typer, scope: Scope) -> list[n.InputDecl]:
    """Declare the inputs, and bind their names; those with mistakes are left out."""
    inputs: list[n.InputDecl] = []
    for name, declared in typer.resolved.spec.inputs:
        try:
            decl = chosen_type(typer, declared, scope, False)
            kind = declared_type(typer, decl, scope, True)
            default = None
            if decl.default is not None:
                default_expr = taken(typer, decl.default, scope)
                if isinstance(default_expr, t.Call):
                    help = "write `bool[b, n] = true`"
                    message = "the default of an input is a number, true or false"
                    raise Fault("arguments", message, default_expr.span, (), help)
                value = typer.static(default_expr, scope, "a default")
                default = _input_default(value, kind, decl.default.span)
            inputs.append(n.InputDecl(name.text, kind, default))
            scope.names[name.text] = local(name.text, kind, name.span)
        except Fault as fault:
            typer.report(fault)
            scope.names[name.text] = POISON
        except Unknown:
            scope.names[name.text] = POISON
    return inputs


def _input_default(value: Static, kind: Type, span: Span) -> float | bool:
    if isinstance(kind, RelationType) or isinstance(value, (str, Size)):
        raise Fault("type", "this input cannot have a default", span)
    if kind.dtype == "bool" and not isinstance(value, bool):
        raise Fault("type", f"the default of a truth value is true or false, not {st.show(value)}", span)
    if kind.dtype == "int" and (isinstance(value, bool) or not isinstance(value, int)):
        raise Fault("type", f"the default of an int is a whole number, not {st.show(value)}", span)
    return value


def _check_order(tables: Tables, inputs: Sequence[n.InputDecl]) -> None:
    """An input without a default cannot follow one that may be left out."""
    optional: str | None = None
    for i, (name, _) in zip(inputs, tables.resolved.spec.inputs, strict=False):
        if i.default is not None:
            optional = optional or i.name
        elif optional is not None:
            message = f"`{i.name}` must be given, but stands after `{optional}`, which may be left out"
            tables.errors.add("arguments", message, name.span, help=f"put `{i.name}` before it, or give it a default")


def _check_bound(tables: Tables, inputs: Sequence[n.InputDecl]) -> None:
    """Every free length can be read off an input that is always given."""
    required = [i for i in inputs if i.default is None]
    bound = {a.size for i in required if isinstance(i.type, TensorType) for a in i.type.axes}
    for i in inputs:
        axes = i.type.axes if isinstance(i.type, TensorType) else (i.type.source, i.type.target)
        for axis in axes:
            for name in sorted(axis.size.free_names):
                if Size.free(name) not in bound:
                    decl = {k.text: d for k, d in tables.resolved.spec.inputs}[i.name]
                    message = f"no required input has an axis `{name}` to read its length from"
                    help = f"give `{name}` in `sizes:`, or an input with the axis `{name}`"
                    tables.errors.add("free-size", message, decl.span, help=help)


# --- outputs ---------------------------------------------------------------------------------------------------


def _results(typer: Typer, scope: Scope) -> tuple[list[n.Value | n.Relation], list[str | None]]:
    """The results, and their names; those with mistakes are left out."""
    spec = typer.resolved.spec
    if not spec.outputs and "outputs" not in typer.resolved.broken:
        place = spec.flow[-1].span if spec.flow else None
        typer.errors.add("form", "the spec has no `outputs`", place, help="name the result: `outputs: x`")
    results: list[n.Value | n.Relation] = []
    names: list[str | None] = []
    spans: list[Span] = []
    for key, expr in (pair for given in spec.outputs for pair in _outputs(typer, *given, scope)):
        try:
            found = typer.results(typer.expand(expr, scope), scope)
            if len(found) > 1:
                help = "name them in the flow, `a, b = ...`, and list the names here"
                raise Fault("arguments", f"this gives {len(found)} values", expr.span, (), help)
            result = found[0]
            results.append(result if isinstance(result, n.Relation) else to_value(result, expr.span))
            names.append(key.text if key else expr.id if isinstance(expr, t.Name) else None)
            spans.append(key.span if key else expr.span)
        except Fault as fault:
            typer.report(fault)
        except Unknown:
            pass
        except TowerError as error:
            typer.absorb(error)
    _check_fields(typer, names, spans)
    return results, names


def _outputs(typer: Typer, key: t.Text | None, e: t.Expr, scope: Scope) -> list[tuple[t.Text | None, t.Expr]]:
    """The outputs that an entry stands for: `x if small else [a, b]` gives one, or two."""
    try:
        chosen = alternative(typer, e, scope, "the outputs", values=True) if _has_list(e) else e
    except Fault as fault:
        typer.report(fault)
        return []
    except Unknown:
        return []
    return [(None, item) for item in chosen.items] if isinstance(chosen, t.List) and key is None else [(key, chosen)]


def _check_fields(tables: Tables, names: Sequence[str | None], spans: Sequence[Span]) -> None:
    """Several results that all have names are a named tuple, whose fields have names of their own."""
    if len(names) < 2 or not all(names):
        return
    given: set[str] = set()
    for name, span in zip(filter(None, names), spans, strict=True):
        if name.startswith("_"):
            message = f"a result cannot be called `{name}`: fields of a named tuple do not begin with `_`"
            plain = name.strip("_")
            help = f"name it: `outputs: {{{plain}: ...}}`" if plain[:1].isalpha() else "give it another name"
            tables.errors.add("name", message, span, help=help)
        elif name in given:
            help = f"name each of them: `outputs: {{{name}: ..., {name}_2: ...}}`"
            tables.errors.add("name-reused", f"two results are called `{name}`", span, help=help)
        given.add(name)


def _has_list(e: t.Expr) -> bool:
    """Whether a choice is one between lists of values."""
    return isinstance(e, t.List) or (isinstance(e, t.Cond) and (_has_list(e.then) or _has_list(e.otherwise)))
