"""The arguments of a block's call: each free length has a name of the block's own inside, bound to one outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from towerdsl.diagnostics import Span, did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, RelationType, TensorType, Type, shown
from towerdsl.lang import tree as t
from towerdsl.passes import static as st
from towerdsl.passes.dtypes import as_before
from towerdsl.passes.infer.mistakes import keyword_span, plural
from towerdsl.passes.infer.names import is_static
from towerdsl.passes.infer.needs import check_needs
from towerdsl.passes.infer.scope import Builder, Fault, Result, Scope
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.static import Static


@dataclass
class Bound:
    """The arguments of a block call, and how its inner axes and lengths read outside."""

    scope: Scope  # inside
    numbers: dict[str, Size | None]  # parameters that are no tensors -> their length outside, where they are one
    pairs: set[str | None]  # names of axes of which the arguments have the query's and the key's position
    types: list[tuple[str, Type]] = field(default_factory=list)
    values: list[n.Value | n.Relation] = field(default_factory=list)
    constants: list[tuple[str, Static]] = field(default_factory=list)
    outer: dict[str, Size] = field(default_factory=dict)  # inner free name -> length outside
    axes: dict[Axis, Axis] = field(default_factory=dict)  # inner axis -> axis outside
    lengths: dict[tuple[str | None, Size], Size] = field(default_factory=dict)  # a name and a length outside -> inside

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

    def give(self, name: str, kind: Type, value: n.Value | n.Relation) -> None:
        """Pass an argument along, under the name of a parameter."""
        self.types.append((name, kind))
        self.values.append(value)

    def inner_axis(self, axis: Axis, name: str | None) -> Axis:
        """The axis inside the block: its length becomes a name of the block's own unless it is a number."""
        size = axis.size
        if size.constant is None:
            key = (name, size)
            if key not in self.lengths:
                base = name or "length"
                label, number = base, 1
                while label in self.outer or self.hides(label, size):
                    number += 1
                    label = f"{base}_{number}"
                self.outer[label] = size
                self.lengths[key] = Size.free(label)
            size = self.lengths[key]
        return Axis(name, size, "", axis.origin, axis.also if name == axis.name else None)

    def inner_length(self, name: str, size: Size, span: Span) -> Size:
        """A length known at run time, given as an argument: it is a length of the arguments, or passed along."""
        for inner, outer in self.outer.items():
            if outer == size:
                return Size.free(inner)
        kind = TensorType("int", (), True)
        self.give(name, kind, n.SizeOf(kind, span, size))
        self.outer[name] = size
        return Size.free(name)


def bind(
    typer: Typer, block: t.Block, e: t.Call, scope: Scope, inner: Scope, before: n.BlockInstance | None = None
) -> Bound:
    """Match arguments to parameters, and give the block's inside its own lengths. Raises Fault, Unknown.

    Axes that no parameter names are called as in the call `before`, where it is one of the same module.
    """
    signature = block.signature
    given = _matched(signature, e)
    values = typer.every(partial(typer.any, expr, scope) for expr in given.values())
    found: dict[str, Result] = dict(zip(given, values, strict=True))
    positions = {(a.name, a.side) for x in found.values() if isinstance(x, n.Value) for a in x.axes if a.side}
    pairs = {name for name, side in positions if side == "i" and (name, "j") in positions}
    bound = Bound(inner, _numbers(typer, signature, found), pairs)
    named: dict[str, TensorType] = {}  # parameters that name their axes come first: the others follow their names
    called = {name: kind.axes for name, kind in before.parameters if isinstance(kind, TensorType)} if before else {}
    for p in signature.parameters:
        value = found.get(p.name)
        name = inner.variable(p.name)
        if (p.axes is not None or name in called) and isinstance(value, n.Value) and not value.type.scalar:
            axes = called.get(name, ())
            named[p.name] = _inner_type(typer, bound, p, value.type, given[p.name].span, axes)
    for p in signature.parameters:
        name, value = inner.variable(p.name), found.get(p.name)
        span = given[p.name].span if p.name in given else e.span
        if p.name not in given:
            assert p.default is not None
            default = typer.expand(p.default, inner)
            value = typer.any(default, inner)
        if isinstance(value, n.Value) and value.type.scalar and not isinstance(value, n.Const):
            # a number that is only known at run time is passed along
            bound.give(name, value.type, value)
            inner.names[p.name] = n.Local(value.type, p.span, name)
        elif isinstance(value, n.Value):
            kind = named.get(p.name) or _inner_type(typer, bound, p, value.type, span)
            bound.give(name, kind, value)
            inner.names[p.name] = n.Local(kind, p.span, name)
        elif isinstance(value, n.Relation):
            _no_axes(p, "a relation")
            source, target = (bound.inner_axis(a, bound.inner_name(a)) for a in (value.type.source, value.type.target))
            bound.bind(source, value.type.source)
            bound.bind(target, value.type.target)
            relation = RelationType(source, target)
            bound.give(name, relation, value)
            inner.names[p.name] = n.Relation(name, relation)
        elif isinstance(value, Size):
            _no_axes(p, "a size")
            inner.names[p.name] = bound.inner_length(name, value, span) if p.name in given else value
        else:
            assert value is not None
            _no_axes(p, "a number")
            bound.constants.append((p.name, value))
            inner.names[p.name] = value
    check_needs(typer, block, given, e.span, inner)
    return bound


def _matched(signature: t.Signature, e: t.Call) -> dict[str, t.Expr]:
    """The arguments of a call by parameter. Raises Fault."""
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
    return given


def _numbers(typer: Typer, signature: t.Signature, given: Mapping[str, Result]) -> dict[str, Size | None]:
    """The parameters that are no tensors, and the lengths that they are, None where they are none."""
    found: dict[str, Size | None] = {}
    nothing = Scope({}, {}, Builder())
    for p in signature.parameters:
        value = given.get(p.name)
        if value is None and p.default is not None:
            default = typer.expand(p.default, nothing)
            if not is_static(typer, default, nothing):
                continue  # made of the lengths of other arguments
            value = typer.any(default, nothing)
        if isinstance(value, n.Value) and value.type.scalar:
            found[p.name] = None
        elif value is not None and not isinstance(value, n.Value | n.Relation):
            found[p.name] = st.as_size(value)
    return found


def _no_axes(p: t.Parameter, what: str) -> None:
    """Raise Fault where a parameter that is given no tensor names axes."""
    if p.axes is not None:
        message = f"the parameter `{p.name}` names axes, but it is given {what}"
        raise Fault("type", message, p.span)


def _inner_type(
    typer: Typer, bound: Bound, p: t.Parameter, kind: TensorType, span: Span, before: tuple[Axis, ...] = ()
) -> TensorType:
    """The type of a tensor inside the block. Raises Fault."""
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
            wanted = None if decl.name in bound.numbers else _declared(typer, decl, bound.scope)
            if wanted is not None and wanted != axis.size:
                notes = (f"got: {shown(kind.axes)}", f"wanted: {decl.span.text} = {wanted}, {p.span}")
                message = f"axis {k + 1} of `{p.name}` has length {axis.size}, not {wanted}"
                raise Fault("axis-mismatch", message, span, notes)
            first = bound.scope.axes.get(names[k] or "")
            if first is not None and bound.axes[first].size != axis.size:
                notes = (f"got: {shown(kind.axes)}", f"{names[k]} is {bound.axes[first].size} already")
                message = f"axis `{names[k]}` has two lengths, {bound.axes[first].size} and {axis.size}"
                raise Fault("axis-mismatch", message, span, notes)
    own = tuple(bound.inner_axis(axis, name) for name, axis in zip(names, kind.axes, strict=True))
    inner = TensorType(kind.dtype, own, kind.scalar)
    for axis, outside in zip(inner.axes, kind.axes, strict=True):
        bound.bind(axis, outside)
    return inner


def _declared(typer: Typer, decl: t.AxisDecl, scope: Scope) -> Size | None:
    """The length that a parameter says that an axis has. Raises Fault."""
    if decl.size is not None:
        return typer.size(typer.expand(decl.size, scope), scope, "the length of an axis")
    return typer.number(decl, scope)
