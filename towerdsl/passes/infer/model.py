"""Resolved --> Model: every block that is called, with the types of its arguments known.

A block is typed once for each different set of argument types and static arguments. Inside it, each free length has
a name of its own, bound to a dim of an argument, so that two calls that differ only in lengths share one instance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

from towerdsl.diagnostics import Diagnostics, Span, TowerError, did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import weights_read, without_unused
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, RelationType, TensorType, Type
from towerdsl.lang import tree as t
from towerdsl.lang.library import standard_library
from towerdsl.passes import static as st
from towerdsl.passes.expand import expand
from towerdsl.passes.infer.branches import Branches
from towerdsl.passes.infer.calls import Calls
from towerdsl.passes.infer.expression import ExpressionTyper
from towerdsl.passes.infer.reads import check_reads
from towerdsl.passes.infer.scope import POISON, Builder, Fault, Poison, Scope, Unknown, given_names
from towerdsl.passes.infer.statements import Statements, local
from towerdsl.passes.lists import written
from towerdsl.passes.resolve import INITIALIZERS, RESERVED, Resolved, statement_expressions, walk
from towerdsl.passes.static import Static

T = TypeVar("T")


def infer(resolved: Resolved, overrides: Mapping[str, Static], errors: Diagnostics) -> n.Model | None:
    """Type the flow of a spec, with sizes overridden by name. None for a library, or where there are mistakes."""
    return Infer(resolved, overrides, errors).model()


class Infer:
    def __init__(self, resolved: Resolved, overrides: Mapping[str, Static], errors: Diagnostics) -> None:
        self.resolved = resolved
        self.errors = errors
        self.expressions = ExpressionTyper(self)
        self.calls = Calls(self)
        self.statements = Statements(self)
        self.branches = Branches(self)
        #: what a reader is shown in place of a name: the spec's own formulas, and those of the standard library that
        #: read what they are not given, as `window(w)` reads i and j; `rope(q, i, dk)` says what it needs
        standard = {d.signature.name for d in standard_library().define}
        self.open_definitions = {
            name: d
            for name, d in resolved.definitions.items()
            if name not in standard or any(isinstance(x, t.Name) and x.id in RESERVED for x in walk(d.body))
        }
        self.sizes: dict[str, Static | Poison] = {}
        self.pinned: dict[str, Static] = {}
        self._evaluate_sizes(overrides)

    def report(self, fault: Fault) -> None:
        self.errors.add(fault.code, fault.message, fault.span, fault.notes, fault.help)

    def line(self, span: Span) -> str:
        """A place in a note: its line, with the file where there are several."""
        return f"{span.source.name}:{span.line}" if self.resolved.spec.use else f"line {span.line}"

    def every(self, steps: Iterable[Callable[[], T]]) -> list[T]:
        """The results of all steps: every mistake in them is reported, not only the first. Raises Unknown."""
        found: list[T] = []
        failed = False
        for step in steps:
            try:
                found.append(step())
            except Fault as fault:
                self.report(fault)
                failed = True
            except Unknown:
                failed = True
        if failed:
            raise Unknown
        return found

    # --- sizes ------------------------------------------------------------------------------------------------

    def _evaluate_sizes(self, overrides: Mapping[str, Static]) -> None:
        spec = self.resolved.spec
        types = [x for _, d in spec.inputs for x in t.branches(d)]
        free = {a.name for d in types for a in d.axes if a.name and a.size is None}
        for name, value in overrides.items():
            if name in self.resolved.choices:
                self.sizes[name] = self._choice(name, value, None)
            elif name in self.resolved.sizes and not isinstance(value, str):
                self.sizes[name] = value
            elif name in free and name not in self.resolved.sizes:
                self.pinned[name] = value
            elif name not in self.resolved.sizes:
                known = {*self.resolved.sizes, *free}
                help = did_you_mean(name, known, f"sizes are {', '.join(sorted(known))}" if known else None)
                self.errors.add("unknown-name", f"there is no size `{name}` to set", None, help=help)
        pending = [name for name in self.resolved.sizes if name not in self.sizes]
        scope = Scope({}, {}, Builder())

        def evaluate(name: str) -> None:
            if name in self.sizes:
                return
            _, expr = self.resolved.sizes[name]
            for e in walk(expr):
                if isinstance(e, t.Name) and e.id in self.resolved.sizes and e.id != name:
                    evaluate(e.id)
            try:
                called = self.resolved.definitions.get(expr.id) if isinstance(expr, t.Name) else None
                if called is not None and any(p.default is None for p in called.signature.parameters):
                    raise Fault("unknown-name", f"there is no number `{called.signature.name}` here", expr.span)
                expanded = expand(expr, self.resolved.definitions, frozenset(self.resolved.sizes))
                taken = self.branches.expression(expanded, scope)
                value = self.expressions.static(taken, scope, f"the size `{name}`")
                self.sizes[name] = self._choice(name, value, expr.span)
            except TowerError as error:
                self._absorb(error)
                self.sizes[name] = POISON
            except Fault as fault:
                if fault.code == "unknown-name" and fault.help is None and isinstance(expr, t.Name):
                    word = f"a word is one of several: `{name}: one_of('{expr.id}', 'other')`"
                    fault.help = f"a size is a number or a formula; {word}"
                self.report(fault)
                self.sizes[name] = POISON
            except Unknown:
                self.sizes[name] = POISON

        for name, value in overrides.items():
            if isinstance(value, str) and name in pending:  # only a size that is a word already can be another
                evaluate(name)
                default = self.sizes[name]
                if not isinstance(default, str | Poison):
                    kind = "true or false" if isinstance(default, bool) else "a number"
                    self.errors.add("setting", f"`{name}={value}`: the size `{name}` is {kind}, not a word", None)
                self.sizes[name] = value if isinstance(default, str) else POISON
        for name in pending:
            evaluate(name)

    def _choice(self, name: str, value: Static, span: Span | None) -> Static | Poison:
        """A size's value, one of those that it may have."""
        choice = self.resolved.choices.get(name)
        if choice is None:
            return value
        found = choice.find(value)
        if found is not None:
            return found
        message = f"`{name}` is one of {choice.shown}, not {st.show(value)}"
        note = [] if span is None or span.source == choice.span.source else [f"its choices stand at {choice.span}"]
        self.errors.add("choice", message, span, note, choice.near(value))
        return POISON

    def size_value(self, name: str, span: Span) -> Static:
        value = self.sizes[name]
        if isinstance(value, Poison):
            raise Unknown
        return value

    def _absorb(self, error: TowerError) -> None:
        for d in error.diagnostics:
            self.errors.add(d.code, d.message, d.span, d.notes, d.help)

    # --- types ------------------------------------------------------------------------------------------------

    def axis(self, decl: t.AxisDecl, scope: Scope, new_free: bool) -> Axis:
        """A declared axis. A name that nothing is known of is a free length if `new_free`. Raises Fault."""
        line = self.line(decl.span)
        if decl.size is not None:
            size = self.expressions.size(self.expand(decl.size, scope), scope, "the length of an axis")
            also = decl.size.id if isinstance(decl.size, t.Name) and decl.size.id in self.sizes else None
            return Axis(decl.name, size, origin=f"{decl.size.span.text}, {line}", also=also if decl.name else None)
        assert decl.name is not None
        name = decl.name
        if scope.heads is not None and name == "head":
            return scope.heads[1]
        if (own := self.known_axis(name, scope)) is not None:
            return own
        known = scope.names.get(name, self.sizes.get(name))
        if isinstance(known, Poison):
            raise Unknown
        if isinstance(known, (int, float, Size)) and not isinstance(known, bool):
            found = st.as_size(known)
            if found is None or (found.integer is not None and found.integer < 1):
                message = f"the length of an axis is a whole number of at least 1, `{name}` is {st.show(known)}"
                raise Fault("size", message, decl.span)
            return Axis(name, found, origin=f"{name}, {line}")
        if isinstance(known, bool):
            raise Fault("size", f"`{name}` is a truth value, not a length", decl.span)
        if isinstance(known, str):
            raise Fault("size", f"`{name}` is the word {st.show(known)}, not a length", decl.span)
        if name in self.pinned:
            pinned = st.as_size(self.pinned[name])
            if pinned is None or (pinned.integer or 0) < 1:
                raise Fault("size", f"`{name}` is a whole number of at least 1", decl.span)
            return Axis(name, pinned, origin="--set")
        if not new_free:
            help = did_you_mean(name, {*scope.axes, *self.sizes}, "axes here are those of the arguments, and sizes")
            raise Fault("unknown-name", f"there is no axis or size `{name}` here", decl.span, (), help)
        return Axis(name, Size.free(name), origin=f"the axis {name} at run time")

    def number(self, decl: t.AxisDecl, scope: Scope) -> Size | None:
        """The length that the name of an axis has here as a number: a parameter or a size. Raises Unknown."""
        if decl.name in scope.names:
            known = scope.names[decl.name]
            return st.as_size(known) if isinstance(known, int | float | Size) else None
        return st.as_size(self.size_value(decl.name, decl.span)) if decl.name in self.sizes else None

    def lengths(self, scope: Scope) -> tuple[dict[str, Size], dict[str, Size]]:
        """The lengths that names have here: of numbers, that is of sizes and of parameters, and of axes."""
        numbers = {name: st.as_size(v) for name, v in {**self.sizes, **scope.names}.items() if _is_length(v)}
        known = {name: size for name, size in numbers.items() if size is not None}
        return known, {name: axis.size for name, axis in scope.axes.items() if name not in known}

    def known_axis(self, name: str | None, scope: Scope) -> Axis | None:
        """The axis that a name stands for where a length is expected: not where that name is another number."""
        axis = scope.axes.get(name or "")
        if axis is None or name is None:
            return None
        known = scope.names.get(name, self.sizes.get(name))
        if isinstance(known, n.Value):
            return None if known.type.scalar else axis
        differs = isinstance(known, int | float | str | Size) and st.as_size(known) != axis.size
        return None if differs else axis

    def declared_type(self, decl: t.TypeDecl, scope: Scope, new_free: bool) -> Type:
        """Raises Fault."""
        axes = []
        for a in decl.axes:
            if scope.heads is not None and a.name is None and a.size is not None and a.size == scope.heads[0]:
                axes.append(scope.heads[1])
                continue
            if scope.heads is not None and a.size is None and scope.heads[0] == t.Name(a.span, a.name or ""):
                axes.append(scope.heads[1])
                continue
            axis = self.axis(a, scope, new_free)
            axes.append(axis)
            if new_free and axis.name is not None:
                scope.axes.setdefault(axis.name, axis)
        if decl.dtype == "relation":
            if len(axes) != 2:
                help = "write `relation[n, n]`"
                raise Fault("type", "a relation has two axes, of the sources and of the targets", decl.span, (), help)
            return RelationType(axes[0], axes[1])
        return TensorType(decl.dtype, tuple(axes))

    # --- the model --------------------------------------------------------------------------------------------

    def model(self) -> n.Model | None:
        spec = self.resolved.spec
        if spec.is_library:
            return None
        builder = Builder(given_names(spec, [*statement_expressions(spec.flow), *(e for _, e in spec.outputs)]))
        scope = Scope({}, {}, builder, is_flow=True)
        inputs: list[n.InputDecl] = []
        for name, declared in spec.inputs:
            try:
                decl = self.branches.type(declared, scope, False)
                kind = self.declared_type(decl, scope, True)
                default = None
                if decl.default is not None:
                    default_expr = self.branches.expression(decl.default, scope)
                    if isinstance(default_expr, t.Call):
                        help = "write `bool[b, n] = true`"
                        message = "the default of an input is a number, true or false"
                        raise Fault("arguments", message, default_expr.span, (), help)
                    value = self.expressions.static(default_expr, scope, "a default")
                    default = self._input_default(value, kind, decl.default.span)
                inputs.append(n.InputDecl(name.text, kind, default))
                scope.names[name.text] = local(name.text, kind, name.span)
            except Fault as fault:
                self.report(fault)
                scope.names[name.text] = POISON
            except Unknown:
                scope.names[name.text] = POISON
        if len(inputs) == len(spec.inputs) and not spec.broken:
            self._check_bound(inputs)
        self._check_order(inputs)
        weights = self.weights(spec.params, scope)
        self.modules(spec.modules, scope)
        try:
            steps, _ = self.statements.steps(spec.flow, scope)
        except Fault as fault:
            self.report(fault)
            return None
        results: list[n.Value | n.Relation] = []
        names: list[str | None] = []
        spans: list[Span] = []
        outputs = spec.outputs
        if not outputs and "outputs" not in self.resolved.broken:
            self.errors.add(
                "form",
                "the spec has no `outputs`",
                spec.flow[-1].span if spec.flow else None,
                help="name the result: `outputs: x`",
            )
        for key, expr in (pair for given in outputs for pair in self._outputs(*given, scope)):
            try:
                found = self.calls.results(self.expand(expr, scope), scope)
                if len(found) > 1:
                    help = "name them in the flow, `a, b = ...`, and list the names here"
                    raise Fault("arguments", f"this gives {len(found)} values", expr.span, (), help)
                result = found[0]
                results.append(
                    result if isinstance(result, n.Relation) else self.expressions.to_value(result, expr.span)
                )
                names.append(key.text if key else expr.id if isinstance(expr, t.Name) else None)
                spans.append(key.span if key else expr.span)
            except Fault as fault:
                self.report(fault)
            except Unknown:
                pass
            except TowerError as error:
                self._absorb(error)
        self._check_fields(names, spans)
        check_reads(self, steps, results)
        if self.errors or spec.tower is None:
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
        self.calls.check_total(root, spec.tower.span)
        if self.errors:
            return None
        sizes: tuple[tuple[str, Any], ...] = tuple(
            (name, value) for name, value in self.sizes.items() if not isinstance(value, Poison)
        )
        sizes += tuple((name, written(items)) for name, items in self.resolved.lists.items())
        return n.Model(spec.tower.text, root, tuple(inputs), spec.paper, spec.about, sizes, spec.source.name)

    def _check_fields(self, names: Sequence[str | None], spans: Sequence[Span]) -> None:
        """Several results that all have names are a named tuple, whose fields have names of their own."""
        if len(names) < 2 or not all(names):
            return
        given: set[str] = set()
        for name, span in zip(filter(None, names), spans, strict=True):
            if name.startswith("_"):
                message = f"a result cannot be called `{name}`: fields of a named tuple do not begin with `_`"
                plain = name.strip("_")
                help = f"name it: `outputs: {{{plain}: ...}}`" if plain[:1].isalpha() else "give it another name"
                self.errors.add("name", message, span, help=help)
            elif name in given:
                help = f"name each of them: `outputs: {{{name}: ..., {name}_2: ...}}`"
                self.errors.add("name-reused", f"two results are called `{name}`", span, help=help)
            given.add(name)

    def _outputs(self, key: t.Text | None, e: t.Expr, scope: Scope) -> list[tuple[t.Text | None, t.Expr]]:
        """The outputs that an entry stands for: `x if small else [a, b]` gives one, or two."""
        try:
            chosen = self.branches.named(e, scope, "the outputs", values=True) if _has_list(e) else e
        except Fault as fault:
            self.report(fault)
            return []
        except Unknown:
            return []
        return (
            [(None, item) for item in chosen.items] if isinstance(chosen, t.List) and key is None else [(key, chosen)]
        )

    def _input_default(self, value: Static, kind: Type, span: Span) -> float | bool:
        if isinstance(kind, RelationType) or isinstance(value, (str, Size)):
            raise Fault("type", "this input cannot have a default", span)
        if kind.dtype == "bool" and not isinstance(value, bool):
            raise Fault("type", f"the default of a truth value is true or false, not {st.show(value)}", span)
        if kind.dtype == "int" and (isinstance(value, bool) or not isinstance(value, int)):
            raise Fault("type", f"the default of an int is a whole number, not {st.show(value)}", span)
        return value

    def _check_order(self, inputs: Sequence[n.InputDecl]) -> None:
        """An input without a default cannot follow one that may be left out."""
        optional: str | None = None
        for i, (name, _) in zip(inputs, self.resolved.spec.inputs, strict=False):
            if i.default is not None:
                optional = optional or i.name
            elif optional is not None:
                message = f"`{i.name}` must be given, but stands after `{optional}`, which may be left out"
                self.errors.add("arguments", message, name.span, help=f"put `{i.name}` before it, or give it a default")

    def _check_bound(self, inputs: Sequence[n.InputDecl]) -> None:
        """Every free length can be read off an input that is always given."""
        required = [i for i in inputs if i.default is None]
        bound = {a.size for i in required if isinstance(i.type, TensorType) for a in i.type.axes}
        for i in inputs:
            axes = i.type.axes if isinstance(i.type, TensorType) else (i.type.source, i.type.target)
            for axis in axes:
                for name in sorted(axis.size.free_names):
                    if Size.free(name) not in bound:
                        decl = {k.text: d for k, d in self.resolved.spec.inputs}[i.name]
                        message = f"no required input has an axis `{name}` to read its length from"
                        help = f"give `{name}` in `sizes:`, or an input with the axis `{name}`"
                        self.errors.add("free-size", message, decl.span, help=help)

    # --- params and modules -----------------------------------------------------------------------------------

    def weights(self, params: Iterable[tuple[t.Text, t.AnyType]], scope: Scope) -> list[n.WeightDecl]:
        """Declare learned tensors, and bind their names."""
        found = []
        for name, declared in params:
            try:
                decl = self.branches.type(declared, scope)
                kind = self.declared_type(decl, scope, False)
                if isinstance(kind, RelationType) or kind.dtype != "float":
                    help = f"write `float{decl.span.text.removeprefix(decl.dtype)}`"
                    raise Fault("type", "a parameter is a float tensor", decl.span, (), help)
                for axis in kind.axes:
                    if axis.size.integer is None:
                        message = f"the parameter `{name.text}` has axis {axis}, whose length is only known at run time"
                        free = " and ".join(f"`{name}`" for name in sorted(axis.size.free_names)) or f"`{axis}`"
                        raise Fault("free-size", message, decl.span, (), f"give {free} a size in `sizes:`")
                function, options = self._initializer(decl, scope)
                self._check_new(name, scope)
                attribute = scope.builder.attribute(name.text)
                scope.builder.shared.add(attribute)
                found.append(n.WeightDecl(attribute, kind, function, options))
                scope.names[name.text] = n.Weight(kind, name.span, (attribute,))
            except Fault as fault:
                self.report(fault)
                scope.names[name.text] = POISON
            except Unknown:
                scope.names[name.text] = POISON
        return found

    def _check_new(self, name: t.Text, scope: Scope) -> None:
        if name.text in scope.names or name.text in self.sizes:
            help = "rename one of them"
            raise Fault("name-reused", f"`{name.text}` is already a name here", name.span, (), help)

    def _initializer(self, decl: t.TypeDecl, scope: Scope) -> tuple[str, tuple[float, ...]]:
        if decl.default is None:
            return "normal", (0.02,)
        for e in t.alternatives(decl.default):
            if not isinstance(e, (t.Number, t.Unary)) and _called(e) not in INITIALIZERS:
                help = did_you_mean(_called(e), INITIALIZERS, f"initializers are {', '.join(INITIALIZERS)}")
                raise Fault("initializer", f"`{e.span.text}` is not an initializer", e.span, (), help)
        e = self.branches.named(decl.default, scope, "the initializer")
        if isinstance(e, (t.Number, t.Unary)):
            return "constant", (float(self._number(e, scope)),)
        name = _called(e)
        args = e.args if isinstance(e, t.Call) else ()
        if len(args) != INITIALIZERS[name]:
            takes = "a number" if INITIALIZERS[name] else "no arguments"
            help = f"write `{name}(0.02)`" if INITIALIZERS[name] else f"write `{name}`"
            raise Fault("arguments", f"`{name}` takes {takes}", e.span, (), help)
        if name in ("xavier_uniform", "xavier_normal", "kaiming_uniform") and len(decl.axes) < 2:
            raise Fault("initializer", f"`{name}` needs a parameter with at least two axes", e.span)
        if name == "eye" and len(decl.axes) != 2:
            raise Fault("initializer", "`eye` needs a parameter with two axes", e.span)
        return name, tuple(float(self._number(self.expand(a, scope), scope)) for a in args)

    def _number(self, e: t.Expr, scope: Scope) -> float:
        value = self.expressions.static(e, scope, "this number")
        if isinstance(value, (str, Size, bool)):
            raise Fault("type", "a number was expected", e.span)
        return float(value)

    def modules(self, modules: Iterable[tuple[t.Text, t.Expr]], scope: Scope) -> None:
        """Bind the names of `modules:`."""
        for name, e in modules:
            attribute = scope.builder.attribute(name.text)
            try:
                self._check_new(name, scope)
                e = self.branches.expression(e, scope)
                if not isinstance(e, t.Name | t.Call):
                    raise Fault("form", "a module is an operation or a block", e.span, (), "write `embed(vocab, d)`")
                call = t.Call(e.span, e, (), ()) if isinstance(e, t.Name) else e
                scope.builder.shared.add(attribute)
                scope.names[name.text] = self.calls.declare_shared(attribute, call, scope)
            except Fault as fault:
                self.report(fault)
                scope.names[name.text] = POISON
            except Unknown:
                scope.names[name.text] = POISON

    # --- definitions ---------------------------------------------------------------------------------------------

    def expand(self, e: t.Expr, scope: Scope) -> t.Expr:
        """Replace definitions, and take the branches that sizes decide. Raises Fault, Unknown."""
        found = self.branches.expression(self.expanded(e, scope), scope)
        scope.builder.readings.read(e, self.branches.reading(e, scope))
        return found

    def expanded(self, e: t.Expr, scope: Scope, definitions: Mapping[str, t.Definition] | None = None) -> t.Expr:
        """Replace definitions (all of them); names that are variables here are not definitions. Raises Fault."""
        hidden = frozenset({*scope.names, *self.sizes, *self.resolved.broken})
        try:
            return expand(e, self.resolved.definitions if definitions is None else definitions, hidden)
        except TowerError as error:
            d = error.diagnostics[0]
            assert d.span is not None
            raise Fault(d.code, d.message, d.span, d.notes, d.help) from None


def _is_length(value: object) -> TypeGuard[int | float | Size]:
    return isinstance(value, int | float | Size) and not isinstance(value, bool)


def _called(e: t.Expr) -> str:
    """The name that an initializer is written with."""
    inner = e.func if isinstance(e, t.Call) else e
    return inner.id if isinstance(inner, t.Name) else ""


def _has_list(e: t.Expr) -> bool:
    """Whether a choice is one between lists of values."""
    return isinstance(e, t.List) or (isinstance(e, t.Cond) and (_has_list(e.then) or _has_list(e.otherwise)))
