"""Declared types, and the `params:` and `modules:` of a block or a model."""

from __future__ import annotations

from collections.abc import Iterable

from towerdsl.diagnostics import did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, RelationType, TensorType, Type
from towerdsl.lang import tree as t
from towerdsl.passes import static as st
from towerdsl.passes.infer.branches import alternative, chosen_type, taken
from towerdsl.passes.infer.modules import declare
from towerdsl.passes.infer.scope import POISON, Fault, Poison, Scope, Unknown
from towerdsl.passes.infer.tables import Tables
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.resolve import INITIALIZERS


def declared_axis(typer: Typer, decl: t.AxisDecl, scope: Scope, new_free: bool) -> Axis:
    """A declared axis. A name that nothing is known of is a free length if `new_free`. Raises Fault."""
    line = typer.line(decl.span)
    if decl.size is not None:
        size = typer.size(typer.expand(decl.size, scope), scope, "the length of an axis")
        also = decl.size.id if isinstance(decl.size, t.Name) and decl.size.id in typer.sizes else None
        return Axis(decl.name, size, origin=f"{decl.size.span.text}, {line}", also=also if decl.name else None)
    assert decl.name is not None
    name = decl.name
    if scope.heads is not None and name == "head":
        return scope.heads[1]
    if (own := typer.known_axis(name, scope)) is not None:
        return own
    known = scope.names.get(name, typer.sizes.get(name))
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
    if name in typer.pinned:
        pinned = st.as_size(typer.pinned[name])
        if pinned is None or (pinned.integer or 0) < 1:
            raise Fault("size", f"`{name}` is a whole number of at least 1", decl.span)
        return Axis(name, pinned, origin="--set")
    if not new_free:
        help = did_you_mean(name, {*scope.axes, *typer.sizes}, "axes here are those of the arguments, and sizes")
        raise Fault("unknown-name", f"there is no axis or size `{name}` here", decl.span, (), help)
    return Axis(name, Size.free(name), origin=f"the axis {name} at run time")


def declared_type(typer: Typer, decl: t.TypeDecl, scope: Scope, new_free: bool) -> Type:
    """A declared type; names of its axes become known here if `new_free`. Raises Fault."""
    axes = []
    for a in decl.axes:
        if scope.heads is not None and a.name is None and a.size is not None and a.size == scope.heads[0]:
            axes.append(scope.heads[1])
            continue
        if scope.heads is not None and a.size is None and scope.heads[0] == t.Name(a.span, a.name or ""):
            axes.append(scope.heads[1])
            continue
        axis = declared_axis(typer, a, scope, new_free)
        axes.append(axis)
        if new_free and axis.name is not None:
            scope.axes.setdefault(axis.name, axis)
    if decl.dtype == "relation":
        if len(axes) != 2:
            help = "write `relation[n, n]`"
            raise Fault("type", "a relation has two axes, of the sources and of the targets", decl.span, (), help)
        return RelationType(axes[0], axes[1])
    return TensorType(decl.dtype, tuple(axes))


def declare_weights(typer: Typer, params: Iterable[tuple[t.Text, t.AnyType]], scope: Scope) -> list[n.WeightDecl]:
    """Declare learned tensors, and bind their names."""
    found = []
    for name, declared in params:
        try:
            decl = chosen_type(typer, declared, scope)
            kind = declared_type(typer, decl, scope, False)
            if isinstance(kind, RelationType) or kind.dtype != "float":
                help = f"write `float{decl.span.text.removeprefix(decl.dtype)}`"
                raise Fault("type", "a parameter is a float tensor", decl.span, (), help)
            for axis in kind.axes:
                if axis.size.integer is None:
                    message = f"the parameter `{name.text}` has axis {axis}, whose length is only known at run time"
                    free = " and ".join(f"`{name}`" for name in sorted(axis.size.free_names)) or f"`{axis}`"
                    raise Fault("free-size", message, decl.span, (), f"give {free} a size in `sizes:`")
            function, options = _initializer(typer, decl, scope)
            _check_new(typer, name, scope)
            attribute = scope.builder.attribute(name.text)
            scope.builder.shared.add(attribute)
            found.append(n.WeightDecl(attribute, kind, function, options))
            scope.names[name.text] = n.Weight(kind, name.span, (attribute,))
        except Fault as fault:
            typer.report(fault)
            scope.names[name.text] = POISON
        except Unknown:
            scope.names[name.text] = POISON
    return found


def _check_new(tables: Tables, name: t.Text, scope: Scope) -> None:
    if name.text in scope.names or name.text in tables.sizes:
        help = "rename one of them"
        raise Fault("name-reused", f"`{name.text}` is already a name here", name.span, (), help)


def _initializer(typer: Typer, decl: t.TypeDecl, scope: Scope) -> tuple[str, tuple[float, ...]]:
    if decl.default is None:
        return "normal", (0.02,)
    for e in t.alternatives(decl.default):
        if not isinstance(e, (t.Number, t.Unary)) and _called(e) not in INITIALIZERS:
            help = did_you_mean(_called(e), INITIALIZERS, f"initializers are {', '.join(INITIALIZERS)}")
            raise Fault("initializer", f"`{e.span.text}` is not an initializer", e.span, (), help)
    e = alternative(typer, decl.default, scope, "the initializer")
    if isinstance(e, (t.Number, t.Unary)):
        return "constant", (float(_number(typer, e, scope)),)
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
    return name, tuple(float(_number(typer, typer.expand(a, scope), scope)) for a in args)


def _number(typer: Typer, e: t.Expr, scope: Scope) -> float:
    value = typer.static(e, scope, "this number")
    if isinstance(value, (str, Size, bool)):
        raise Fault("type", "a number was expected", e.span)
    return float(value)


def declare_modules(typer: Typer, modules: Iterable[tuple[t.Text, t.Expr]], scope: Scope) -> None:
    """Bind the names of `modules:`."""
    for name, e in modules:
        attribute = scope.builder.attribute(name.text)
        try:
            _check_new(typer, name, scope)
            e = taken(typer, e, scope)
            if not isinstance(e, t.Name | t.Call):
                raise Fault("form", "a module is an operation or a block", e.span, (), "write `embed(vocab, d)`")
            call = t.Call(e.span, e, (), ()) if isinstance(e, t.Name) else e
            scope.builder.shared.add(attribute)
            scope.names[name.text] = declare(typer, attribute, call, scope)
        except Fault as fault:
            typer.report(fault)
            scope.names[name.text] = POISON
        except Unknown:
            scope.names[name.text] = POISON


def _called(e: t.Expr) -> str:
    """The name that an initializer is written with."""
    inner = e.func if isinstance(e, t.Call) else e
    return inner.id if isinstance(inner, t.Name) else ""
