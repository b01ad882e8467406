"""The sources of an attention: its query, key and value, and what their axes are to it.

Axes are features, averaged (`over`), positions of the query, or batch, as the language's reference says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from towerdsl.diagnostics import Span
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import Axis, TensorType, named, shown
from towerdsl.lang import tree as t
from towerdsl.ops import OPS
from towerdsl.passes import static as st
from towerdsl.passes.dtypes import cast
from towerdsl.passes.infer import axes as combining
from towerdsl.passes.infer.branches import alternative
from towerdsl.passes.infer.mistakes import missing_axis, no_axis_to_average
from towerdsl.passes.infer.scope import AttentionScope, Fault, Scope
from towerdsl.passes.infer.tables import Tables
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.resolve import walk

#: The axis of heads, and the number of key heads where it is another one.
Heads = tuple[Axis | None, Size | None]


@dataclass
class Source:
    """A source and its features."""

    field: str
    value: n.Value
    span: Span
    features: tuple[Axis, ...]

    @property
    def others(self) -> tuple[Axis, ...]:
        return self.value.type.without(self.features)


@dataclass(frozen=True)
class Sources:
    """The sources of one attention; without a key, the value says which positions there are."""

    query: Source | None
    key: Source | None
    value: Source

    @property
    def averaged(self) -> tuple[Source, ...]:
        return (self.value,) if self.key is None else (self.key, self.value)

    @property
    def named(self) -> list[tuple[str, Source]]:
        """The sources that there are, by the name of one head's vector."""
        found = (("q", self.query), ("k", self.key), ("v", self.value))
        return [(name, source) for name, source in found if source is not None]


@dataclass(frozen=True)
class Roles:
    """What the axes of the sources are to an attention."""

    batch: tuple[Axis, ...]
    positions: tuple[Axis, ...]
    over: tuple[Axis, ...]
    heads: Axis | None
    key_heads: Size | None

    def count(self, name: str) -> Size | None:
        """How many heads the source of `q`, `k` or `v` is split in."""
        if self.heads is None or name == "q" or self.key_heads is None:
            return self.heads.size if self.heads else None
        return self.key_heads

    def scope(self, outside: Scope) -> AttentionScope:
        """What the attention adds to the scope of its score."""
        positions, over = tuple(a.on("i") for a in self.positions), tuple(a.on("j") for a in self.over)
        return AttentionScope(self.batch, positions, over, self.heads, dict(outside.axes))


def heads(typer: Typer, body: t.Attention, scope: Scope) -> Heads:
    """The heads of an attention. Raises Fault, Unknown."""
    if body.heads is None:
        return None, None
    query, key = body.heads
    found = [typer.integer(typer.expand(e, scope), scope, "the number of heads") for e in body.heads]
    for number, e in zip(found, (query, key), strict=True):
        if number < 1:
            raise Fault("size", f"the number of heads is at least 1, not {number}", e.span)
    if found[0] % found[1]:
        message = f"{found[1]} key heads do not divide {found[0]} query heads"
        raise Fault("size-divide", message, key.span, (), "each key head serves the same number of query heads")
    axis = Axis("head", Size.of(found[0]), origin=f"heads, {typer.line(query.span)}")
    return axis, Size.of(found[1]) if found[1] != found[0] else None


def find_sources(typer: Typer, body: t.Attention, scope: Scope) -> Sources:
    """The query, the key and the value. Raises Fault, Unknown."""
    fields = (("query", body.query), ("key", body.key), ("value", body.value))
    query, key, value = typer.every(partial(_source, typer, body, scope, *each) for each in fields)
    assert value is not None
    if value.value.type.dtype in ("int", "bool", "wide"):
        value.value = cast(value.value, "float")
    if value.value.type.dtype != "float":
        message = "the value is averaged, so it is a float tensor"
        raise Fault("type", message, value.span, (), "use `embed` or `float`")
    return Sources(query, key, value)


def _source(typer: Typer, body: t.Attention, scope: Scope, field: str, e: t.Expr | None) -> Source | None:
    if e is None:
        return None
    expanded = typer.expand(e, scope)
    builder = scope.builder
    builder.field_name, builder.field_modules = field, count_new_modules(typer, expanded, scope)
    try:
        value = typer.tensor(expanded, scope)
    finally:
        builder.field_name = None
    if value.type.scalar or not value.axes:
        raise Fault("rank", f"the {field} needs axes, this is a number", e.span)
    value = combining.renamed(value, tuple(replace(a, nth=0) for a in value.axes))
    twice = next((a for a in value.axes if a.nth and a.name is not None), None)
    if twice is not None:
        message = f"axis `{twice}` stands twice in the {field}, so it does not say which positions are averaged"
        notes = (combining.describe(field, value),)
        raise Fault("axis", message, e.span, notes, combining.naming_apart(value, twice))
    return Source(field, value, e.span, _features(typer, body, value, e.span, scope))


def _features(typer: Typer, body: t.Attention, value: n.Value, span: Span, scope: Scope) -> tuple[Axis, ...]:
    """The axes of a source that are contracted or kept whole. Raises Fault, Unknown."""
    e = body.features
    if e is None:
        return (value.axes[-1],)
    e = alternative(typer, e, scope, "the features", values=True)
    items = e.items if isinstance(e, t.List) else (e,)
    names: list[Axis] = []
    for item in items:
        if not isinstance(item, t.Name):
            raise Fault("axis", "`features` names axes", item.span, (), "write `features: [h, w]`")
        wanted = scope.axes.get(item.id)
        found = named(value.axes, item.id)
        own = [a for a in value.axes if a == found or (wanted is not None and a == wanted)]
        if any(a in names for a in own):
            raise Fault("axis", "an axis is named twice in `features`", e.span)
        names += own
    if not names:
        message = f"none of the `features` is an axis of {shown(value.axes)}"
        raise Fault("axis", message, e.span, (f"the source stands at {span}",), "name axes that the sources have")
    return tuple(names)


def find_roles(typer: Typer, body: t.Attention, sources: Sources, split: Heads, scope: Scope) -> Roles:
    """What the axes of the sources are. Raises Fault, Unknown."""
    over = _over(typer, body, sources.averaged[0], scope)
    _check_over(over, sources)
    return Roles(*_batch(sources, over), over, *split)


def _over(typer: Typer, body: t.Attention, source: Source, scope: Scope) -> tuple[Axis, ...]:
    """The axes that are averaged. Raises Fault, Unknown."""
    e = body.over
    if e is None:
        if not source.others:
            message = f"the {source.field} has only features, nothing to average over"
            note = combining.describe(source.field, source.value)
            raise Fault("rank", message, source.span, (note,), "name the axes with `over:` and `features:`")
        return (source.others[-1],)
    e = alternative(typer, e, scope, "what is averaged", values=True)
    items = e.items if isinstance(e, t.List) else (e,)
    found = tuple(_axis(typer, item, source.value.axes, "over", scope) for item in items)
    for axis, item in zip(found, items, strict=True):
        if axis in source.features:
            message = f"axis `{axis}` is both averaged and a feature"
            raise Fault("axis", message, item.span, (), "name the feature axes with `features:`")
    if len(set(found)) < len(found):
        raise Fault("axis", "an axis is named twice in `over`", e.span)
    return found


def _axis(tables: Tables, e: t.Expr, axes: tuple[Axis, ...], what: str, scope: Scope) -> Axis:
    if not isinstance(e, t.Name):
        raise Fault("axis", f"`{what}` names axes", e.span, (), f"write `{what}: [h, w]`")
    wanted = scope.axes.get(e.id)
    found = named(axes, e.id) or next((a for a in axes if a.name is not None and a == wanted), None)
    if found is not None:
        return found
    help = missing_axis(e.id, axes, scope, tables.sizes, f"the axes are {shown(axes)}")
    raise Fault("axis", f"`{what}`: there is no axis `{e.id}` here", e.span, (), help)


def _check_over(over: tuple[Axis, ...], sources: Sources) -> None:
    """Key and value have the averaged axes. Raises Fault."""
    for source in sources.averaged:
        for axis in over:
            fitting = next((a for a in source.others if a.same(axis) or (a.name is None and a == axis)), None)
            if fitting is None:
                notes = tuple(combining.describe(s.field, s.value) for s in sources.averaged)
                message, help = no_axis_to_average(axis, source.field, source.value, source.features)
                raise Fault("axis-mismatch", message, source.span, notes, help)
            if fitting.size != axis.size:
                notes = tuple(combining.describe(s.field, s.value) for s in sources.averaged)
                message = f"axis `{axis}` has two lengths, {axis.size} and {fitting.size}"
                raise Fault("axis-mismatch", message, source.span, notes)


def _batch(sources: Sources, over: tuple[Axis, ...]) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
    """The batch axes, in the query's order first, and the query's positions."""
    query = sources.query
    found: list[Axis] = []
    for source in sources.averaged:
        for axis in source.others:
            if axis in over or axis in found:
                continue
            clash = next((a for a in found if a.same(axis)), None)
            if clash is not None:
                message = f"axis `{axis}` has two lengths, {clash.size} and {axis.size}"
                raise Fault("axis-mismatch", message, source.span)
            found.append(axis)
    positions: list[Axis] = []
    if query is None:
        return tuple(found), ()
    for axis in query.others:
        if axis in over or axis not in found:
            # an averaged axis may have another length than the query's of that name: keys can be subsampled
            clash = next((a for a in found if a.same(axis) and a != axis), None)
            if clash is not None:
                notes = tuple(combining.describe(s.field, s.value) for s in filter(None, (query, *sources.averaged)))
                message = f"axis `{axis}` has two lengths, {axis.size} in the query and {clash.size}"
                raise Fault("axis-mismatch", message, query.span, notes, "give the query's axis another name")
            positions.append(axis)
    # axes that are averaged too stand in the order of `over`: a bare `i` counts as a bare `j` does
    averaged = iter([a for a in over if a in positions])
    positions = [next(averaged) if a in over else a for a in positions]
    ordered = [a for a in query.others if a in found and a not in positions]
    return (*[a for a in found if a not in ordered], *ordered), tuple(positions)


def bind_sources(sources: Sources, roles: Roles, scope: Scope, outside: Scope) -> None:
    """Bind `q`, `k`, `v`, `dk` and `dv` in the scope of the score, and the last two in that of the attention."""
    assert scope.attention is not None
    attention = scope.attention
    for name, source in sources.named:
        count, label = roles.count(name), "dv" if name == "v" else "dk"
        size = product(tuple(a.size for a in source.features))
        one = source.features[0] if len(source.features) == 1 else None
        axis = Axis(one.name if one else None, size, origin=one.origin if one else "the features together")
        if count is not None:
            each = size.opaque("//", count)
            origin = f"{size} / {count} heads" + (f"; {size} comes from {axis.origin}" if axis.origin else "")
            axis = Axis(label, each, origin=origin)
        batch = [a for a in source.others if a in attention.batch]
        moved = attention.positions if name == "q" else attention.over
        axes = (*sorted(batch, key=attention.batch.index), *([roles.heads] if roles.heads else []), *moved, axis)
        scope.names[name] = n.Local(TensorType("float", axes), source.span, name)
        number = st.normal(axis.size)
        if name == "k" or (name == "q" and sources.key is None):
            scope.names["dk"] = outside.names["dk"] = number
        if name == "v":
            scope.names["dv"] = outside.names["dv"] = number
    for name in ("dk", "dv"):
        known = scope.names.get(name)
        length = st.as_size(known) if isinstance(known, (int, float, Size)) else None
        if length is not None:
            scope.axes[name] = outside.axes[name] = Axis(name, length)


def check_divides(body: t.Attention, sources: Sources, roles: Roles, uses: set[str]) -> None:
    """Heads divide the features of each source that is read. Raises Fault."""
    for name, source in sources.named:
        count = roles.count(name)
        if count is None or name not in uses:
            continue
        assert body.heads is not None
        e = body.heads[0 if name == "q" else 1]
        if len(source.features) > 1:
            message = f"heads split one feature axis, the {source.field} has {len(source.features)}"
            raise Fault("axis", message, e.span, (combining.describe(source.field, source.value),))
        size, number = source.features[0].size.integer, count.integer
        assert number is not None
        if size is None:
            message = f"the features of the {source.field} are split in heads, so their size must be known"
            raise Fault("free-size", message, source.span, (combining.describe(source.field, source.value),))
        if size % number:
            message = f"{number} heads do not divide the {source.field}'s {size} features"
            note = combining.describe(source.field, source.value)
            near = sorted((h for h in range(1, size + 1) if size % h == 0), key=lambda h: (abs(h - number), h))[:2]
            fitting = " or ".join(str(h) for h in sorted(near))
            help = f"use {fitting} head{'' if fitting == '1' else 's'}, or another size"
            raise Fault("size-divide", message, e.span, (note,), help)


def count_new_modules(tables: Tables, e: t.Expr, scope: Scope) -> int:
    """How many modules with weights an expression creates."""
    blocks = tables.resolved.blocks
    calls = [
        x for x in walk(e) if isinstance(x, t.Call) and isinstance(x.func, t.Name) and x.func.id not in scope.names
    ]
    names = [x.func.id for x in calls if isinstance(x.func, t.Name)]
    return sum(1 for x in names if x in blocks or (x in OPS and OPS[x].weights))
