"""An attention block --> its steps, around one `Average`.

    y[i] = (1 / C[i]) * sum over visible j of f(q[i], k[j], i, j) * g(v[j])

Axes of the sources are features, averaged (`over`), positions of the query, or batch, as the language's reference says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from towerdsl.diagnostics import Span, closest, did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import Axis, TensorType, named, shown
from towerdsl.lang import tree as t
from towerdsl.ops import OPS
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes import static as st
from towerdsl.passes.infer import axes as combining
from towerdsl.passes.infer.dtypes import cast
from towerdsl.passes.infer.expression import keyword_span
from towerdsl.passes.infer.mistakes import missing_axis, no_axis_to_average, not_a_vector
from towerdsl.passes.infer.scope import AttentionScope, Fault, Scope, Unknown
from towerdsl.passes.infer.statements import targets
from towerdsl.passes.resolve import RESERVED, walk

if TYPE_CHECKING:
    from towerdsl.passes.infer.model import Infer

MERGES = ("concat", "mean", "sum")
#: Names that mean positions, and the number of a head, in the score and the condition.
POSITIONS = ("i", "j", "head")
Results = tuple[list[n.WeightDecl], list[n.Step], list[n.Value | n.Relation]]


@dataclass
class _Source:
    """A source and the roles of its axes."""

    field: str
    value: n.Value
    span: Span
    features: tuple[Axis, ...]

    @property
    def others(self) -> tuple[Axis, ...]:
        return self.value.type.without(self.features)


def type_attention(infer: Infer, block: t.Block, body: t.Attention, scope: Scope) -> Results:
    """Type an attention block. Raises Fault, Unknown."""
    return _Typer(infer, block, body, scope).run()


class _Typer:
    def __init__(self, infer: Infer, block: t.Block, body: t.Attention, scope: Scope) -> None:
        self.infer, self.block, self.body, self.scope = infer, block, body, scope
        self.expressions = infer.expressions
        self.wording: list[n.Wording] = []

    def run(self) -> Results:
        body, scope = self.body, self.scope
        self._check_names()
        heads, key_heads = self._heads()
        if heads is not None and body.heads is not None:
            scope.heads = (body.heads[0], heads)
        late = tuple(p for p in body.params if _needs_sources(p[1]))
        weights = self.infer.weights([p for p in body.params if p not in late], scope)
        self.infer.modules(body.modules, scope)
        steps, _ = self.infer.statements.steps(body.let, scope)
        try:
            query, key, value = self._sources()
        except Unknown:
            self._misspelled()
            raise
        over = self._over(key or value)
        self._check_over(over, key, value)
        batch, positions = self._roles(query, key, value, over)
        aliases = dict(scope.axes.items())
        inner = AttentionScope(
            batch, tuple(a.on("i") for a in positions), tuple(a.on("j") for a in over), heads, aliases
        )
        score_scope = scope.child()
        score_scope.attention = inner
        self._bind_sources(score_scope, query, key, value, heads, key_heads)
        weights += self.infer.weights(late, scope)
        score_scope.names |= {name.text: scope.names[name.text] for name, _ in late}
        parts = self._parts(score_scope)
        score, visible, message = parts
        roots = (score, message, visible)
        uses = {v.name for root in roots if root is not None for v in root.walk() if isinstance(v, n.Local)}
        self._check_divides(query, key, value, heads, key_heads, uses)
        normalize, options = self._normalizer()
        merge = self._merge()
        layout, features = self._layout(query, value, batch, heads, key_heads, over, message, merge)
        log_prob = normalize == "hard(score_function)"
        average = n.Average(
            query=query.value if query else None,
            key=key.value if key else None,
            value=value.value,
            batch=batch,
            positions=inner.positions,
            over=inner.over,
            heads=heads,
            key_heads=key_heads,
            score=score,
            visible=visible,
            normalize=normalize,
            options=options,
            dropout=self._dropout(),
            message=message,
            merge=merge,
            features=features,
            query_features=query.features if query else (),
            key_features=key.features if key else (),
            value_features=value.features,
            layout=layout,
            log_prob=log_prob,
            span=self.block.span,
            wording=tuple(self.wording),
        )
        names = ("y", "log_prob") if log_prob else ("y",)
        steps.append(n.Evaluate(names, average))
        scope.names["y"] = n.Local(TensorType("float", layout), None, "y")
        for a in layout:
            if a.name is not None:
                scope.axes.setdefault(a.name, a)
        if log_prob:
            drawn = (*batch, *([heads] if heads else []), *positions)
            scope.names["log_prob"] = n.Local(TensorType("float", drawn), None, "log_prob")
        return weights, steps, self._results()

    def _check_names(self) -> None:
        """Names that the score reads as positions and heads are given to nothing else."""
        body = self.body
        named = [(p.name, p.span) for p in self.block.signature.parameters]
        named += [(name.text, name.span) for name, _ in (*body.params, *body.modules)]
        named += [(target.name, target.span) for target in targets(body.let)]
        for name, span in named:
            if name in POSITIONS:
                what = "the number of a head" if name == "head" else "a position"
                message = f"`{name}` is {what} in an attention"
                raise Fault("name-reserved", message, span, (), "choose another name")
        for param, _ in body.params:
            if param.text in RESERVED:
                message = f"`{param.text}` has a meaning of its own inside attentions, which would hide this parameter"
                raise Fault("name-reserved", message, param.span, (), "choose another name")

    # --- heads, sources, axes ---------------------------------------------------------------------------------

    def _heads(self) -> tuple[Axis | None, Size | None]:
        if self.body.heads is None:
            return None, None
        query, key = self.body.heads
        found = [
            self.expressions.integer(self.infer.expand(e, self.scope), self.scope, "the number of heads")
            for e in (query, key)
        ]
        for number, e in zip(found, (query, key), strict=True):
            if number < 1:
                raise Fault("size", f"the number of heads is at least 1, not {number}", e.span)
        if found[0] % found[1]:
            message = f"{found[1]} key heads do not divide {found[0]} query heads"
            raise Fault("size-divide", message, key.span, (), "each key head serves the same number of query heads")
        axis = Axis("head", Size.of(found[0]), origin=f"heads, {self.infer.line(query.span)}")
        return axis, Size.of(found[1]) if found[1] != found[0] else None

    def _source(self, field: str, e: t.Expr | None) -> _Source | None:
        if e is None:
            return None
        expanded = self.infer.expand(e, self.scope)
        builder = self.scope.builder
        builder.field_name, builder.field_modules = field, count_module_calls(expanded, self.infer, self.scope)
        try:
            value = self.expressions.tensor(expanded, self.scope)
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
        return _Source(field, value, e.span, self._features(value, e.span))

    def _sources(self) -> tuple[_Source | None, _Source | None, _Source]:
        fields = (("query", self.body.query), ("key", self.body.key), ("value", self.body.value))
        query, key, value = self.infer.every(partial(self._source, *each) for each in fields)
        assert value is not None
        if value.value.type.dtype in ("int", "bool", "wide"):
            value.value = cast(value.value, "float")
        if value.value.type.dtype != "float":
            raise Fault(
                "type", "the value is averaged, so it is a float tensor", value.span, (), "use `embed` or `float`"
            )
        return query, key, value

    def _misspelled(self) -> None:
        """Without its sources an attention is not typed; misspelled names in its other fields are reported still."""
        body, scope = self.body, self.scope
        known = {*scope.names, *scope.axes, *self.infer.sizes, *RESERVED}
        for e in (body.score, body.mask, body.locality, body.message, body.output):
            for x in walk(e) if e is not None else ():
                unknown = isinstance(x, t.Name) and x.id not in known and x.id not in self.infer.resolved.callable
                if unknown and isinstance(x, t.Name) and closest(x.id, known) is not None:
                    help = did_you_mean(x.id, known)
                    self.infer.report(Fault("unknown-name", f"there is no `{x.id}` here", x.span, (), help))

    def _axis(self, e: t.Expr, axes: tuple[Axis, ...], what: str) -> Axis:
        if not isinstance(e, t.Name):
            raise Fault("axis", f"`{what}` names axes", e.span, (), f"write `{what}: [h, w]`")
        wanted = self.scope.axes.get(e.id)
        found = named(axes, e.id) or next((a for a in axes if a.name is not None and a == wanted), None)
        if found is not None:
            return found
        help = missing_axis(e.id, axes, self.scope, self.infer.sizes, f"the axes are {shown(axes)}")
        raise Fault("axis", f"`{what}`: there is no axis `{e.id}` here", e.span, (), help)

    def _features(self, value: n.Value, span: Span) -> tuple[Axis, ...]:
        e = self.body.features
        if e is None:
            return (value.axes[-1],)
        e = self.infer.branches.named(e, self.scope, "the features", values=True)
        items = e.items if isinstance(e, t.List) else (e,)
        names = []
        for item in items:
            if not isinstance(item, t.Name):
                raise Fault("axis", "`features` names axes", item.span, (), "write `features: [h, w]`")
            wanted = self.scope.axes.get(item.id)
            found = named(value.axes, item.id)
            names += [a for a in value.axes if a == found or (wanted is not None and a == wanted)]
        if not names:
            message = f"none of the `features` is an axis of {shown(value.axes)}"
            raise Fault("axis", message, e.span, (f"the source stands at {span}",), "name axes that the sources have")
        return tuple(names)

    def _over(self, source: _Source) -> tuple[Axis, ...]:
        e = self.body.over
        if e is None:
            if not source.others:
                message = f"the {source.field} has only features, nothing to average over"
                note = combining.describe(source.field, source.value)
                raise Fault("rank", message, source.span, (note,), "name the axes with `over:` and `features:`")
            return (source.others[-1],)
        e = self.infer.branches.named(e, self.scope, "what is averaged", values=True)
        items = e.items if isinstance(e, t.List) else (e,)
        found = tuple(self._axis(item, source.value.axes, "over") for item in items)
        for axis, item in zip(found, items, strict=True):
            if axis in source.features:
                message = f"axis `{axis}` is both averaged and a feature"
                raise Fault("axis", message, item.span, (), "name the feature axes with `features:`")
        if len(set(found)) < len(found):
            raise Fault("axis", "an axis is named twice in `over`", e.span)
        return found

    def _check_over(self, over: tuple[Axis, ...], key: _Source | None, value: _Source) -> None:
        for source in filter(None, (key, value)):
            for axis in over:
                fitting = next((a for a in source.others if a.same(axis) or (a.name is None and a == axis)), None)
                if fitting is None:
                    notes = tuple(combining.describe(s.field, s.value) for s in filter(None, (key, value)))
                    message, help = no_axis_to_average(axis, source.field, source.value, source.features)
                    raise Fault("axis-mismatch", message, source.span, notes, help)
                if fitting.size != axis.size:
                    notes = tuple(combining.describe(s.field, s.value) for s in filter(None, (key, value)))
                    message = f"axis `{axis}` has two lengths, {axis.size} and {fitting.size}"
                    raise Fault("axis-mismatch", message, source.span, notes)

    def _roles(
        self, query: _Source | None, key: _Source | None, value: _Source, over: tuple[Axis, ...]
    ) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
        """The batch axes, in the query's order first, and the query's positions."""
        found: list[Axis] = []
        for source in filter(None, (key, value)):
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
                    notes = tuple(combining.describe(s.field, s.value) for s in filter(None, (query, key, value)))
                    message = f"axis `{axis}` has two lengths, {axis.size} in the query and {clash.size}"
                    raise Fault("axis-mismatch", message, query.span, notes, "give the query's axis another name")
                positions.append(axis)
        # axes that are averaged too stand in the order of `over`: a bare `i` counts as a bare `j` does
        averaged = iter([a for a in over if a in positions])
        positions = [next(averaged) if a in over else a for a in positions]
        ordered = [a for a in query.others if a in found and a not in positions]
        return (*[a for a in found if a not in ordered], *ordered), tuple(positions)

    # --- one head's vectors -----------------------------------------------------------------------------------

    def _bind_sources(
        self,
        scope: Scope,
        query: _Source | None,
        key: _Source | None,
        value: _Source,
        heads: Axis | None,
        key_heads: Size | None,
    ) -> None:
        assert scope.attention is not None
        attention = scope.attention
        for name, label, source, count in (
            ("q", "dk", query, heads.size if heads else None),
            ("k", "dk", key, key_heads or (heads.size if heads else None)),
            ("v", "dv", value, key_heads or (heads.size if heads else None)),
        ):
            if source is None:
                continue
            size = product(tuple(a.size for a in source.features))
            one = source.features[0] if len(source.features) == 1 else None
            axis = Axis(one.name if one else None, size, origin=one.origin if one else "the features together")
            if heads is not None and count is not None:
                each = size.opaque("//", count)
                origin = f"{size} / {count} heads" + (f"; {size} comes from {axis.origin}" if axis.origin else "")
                axis = Axis(label, each, origin=origin)
            batch = [a for a in source.others if a in attention.batch]
            moved = attention.positions if name == "q" else attention.over
            axes = (*sorted(batch, key=attention.batch.index), *([heads] if heads else []), *moved, axis)
            scope.names[name] = n.Local(TensorType("float", axes), source.span, name)
            number = st.normal(axis.size)
            if name == "k" or (name == "q" and key is None):
                scope.names["dk"] = self.scope.names["dk"] = number
            if name == "v":
                scope.names["dv"] = self.scope.names["dv"] = number
        for name in ("dk", "dv"):
            known = scope.names.get(name)
            length = st.as_size(known) if isinstance(known, (int, float, Size)) else None
            if length is not None:
                scope.axes[name] = self.scope.axes[name] = Axis(name, length)

    def _check_divides(
        self,
        query: _Source | None,
        key: _Source | None,
        value: _Source,
        heads: Axis | None,
        key_heads: Size | None,
        uses: set[str],
    ) -> None:
        if heads is None:
            return
        assert self.body.heads is not None
        for name, source, count, e in (
            ("q", query, heads.size, self.body.heads[0]),
            ("k", key, key_heads or heads.size, self.body.heads[1]),
            ("v", value, key_heads or heads.size, self.body.heads[1]),
        ):
            if source is None or name not in uses:
                continue
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

    # --- score, mask, message ---------------------------------------------------------------------------------

    def _parts(self, scope: Scope) -> tuple[n.Value, n.Value | None, n.Value]:
        steps: list[Callable[[Scope], Any]] = [self._score, self._visible, self._message]
        score, visible, message = self.infer.every(partial(step, scope) for step in steps)
        return score, visible, message

    def _check_pairwise(self, value: n.Value, scope: Scope, field: str, span: Span) -> None:
        """No features are left, and no axes that the attention does not know."""
        assert scope.attention is not None
        for axis in value.axes:
            if scope.attention.rank(axis) == 4:
                help = f"contract it with `dot(...)` or `sum(...)`, or index it: {field}s are numbers for each i and j"
                if field != "score":
                    help = "index it with `i` or `j`, as in `keep[j]`"
                note = combining.describe(field, value)
                raise Fault("axis", f"the {field} still has axis {axis.shown}", span, (note,), help)

    def _score(self, scope: Scope) -> n.Value:
        e = self.body.score
        if e is None:
            if "q" not in scope.names or "k" not in scope.names:
                return self.expressions.to_value(0, self.block.span)
            span = self.body.query.span if self.body.query else self.block.span
            q, k = t.Name(span, "q"), t.Name(span, "k")
            dot = t.Call(span, t.Name(span, "dot"), (q, k), ())
            e = t.Binary(span, "/", dot, t.Call(span, t.Name(span, "sqrt"), (t.Name(span, "dk"),), ()))
        value = self.expressions.tensor(self.infer.expand(e, scope), scope)
        if value.type.dtype == "bool":
            help = "a condition belongs in `mask:` or `locality:`; for a number write `where(c, 1, 0)`"
            raise Fault("type", "the score is a number, this is a truth value", e.span, (), help)
        self._check_pairwise(value, scope, "score", e.span)
        return value

    def _condition(self, field: str, e: t.Expr, scope: Scope) -> bool | n.Value:
        """One of `locality` and `mask`: decided when compiling, or a truth value for each i and j. Raises Fault."""
        expanded = self.infer.expand(e, scope)
        value, wording = self.expressions.worded(expanded, scope)
        self.wording.append(wording)
        if isinstance(value, bool):
            return value
        node = self.expressions.to_value(value, e.span)
        if node.type.dtype != "bool":
            got = "a number" if not node.axes else str(node.type)
            help = "compare it, as in `keep[j] > 0`; a number to add is part of `score`"
            raise Fault("not-boolean", f"the {field} is a condition, this is {got}", e.span, (), help)
        self._check_pairwise(node, scope, field, e.span)
        return node

    def _visible(self, scope: Scope) -> n.Value | None:
        fields = (("locality", self.body.locality), ("mask", self.body.mask))
        parts = self.infer.every(partial(self._condition, f, e, scope) for f, e in fields if e is not None)
        joined = self.expressions._joined("and", parts, self.block.span, scope)
        if joined is True:
            return None
        if joined is False:
            return n.Const(TensorType("bool", (), True), self.block.span, False)
        return self.expressions.to_value(joined, self.block.span)

    def _message(self, scope: Scope) -> n.Value:
        e = self.body.message
        if e is None:
            found = scope.names["v"]
            assert isinstance(found, n.Value)
            return found
        value = self.expressions.tensor(self.infer.expand(e, scope), scope)
        assert scope.attention is not None
        left = [a for a in value.axes if scope.attention.rank(a) == 4]
        if len(left) != 1 or value.axes[-1] != left[0]:
            raise not_a_vector(value, left, scope.attention, e)
        return cast(value, "float")

    # --- the rest ---------------------------------------------------------------------------------------------

    def _merge(self) -> str:
        if self.body.merge is None:
            return "concat"
        for e in t.alternatives(self.body.merge):
            name = self._word(e) or (e.id if isinstance(e, t.Name) else "")
            if name not in MERGES:
                help = did_you_mean(name, MERGES, "merge is concat, mean or sum")
                raise Fault("merge", f"heads cannot be merged by `{self._word(e) or e.span.text}`", e.span, (), help)
        e = self.infer.branches.named(self.body.merge, self.scope, "how heads are merged")
        return self._word(e) or e.span.text

    def _normalizer(self) -> tuple[str, tuple[tuple[str, Any], ...]]:
        if self.body.normalize is None:
            return "softmax", ()
        for e in t.alternatives(self.body.normalize):
            name = self._word(e) or _normalizer_name(e)
            if name not in NORMALIZERS or (isinstance(e, t.Call) and len(e.args) > 1):
                help = did_you_mean(name or e.span.text, NORMALIZERS, f"normalizers are {', '.join(NORMALIZERS)}")
                written = self._word(e) or e.span.text
                raise Fault("unknown-name", f"there is no normalizer `{written}`", e.span, (), help)
        e = self.infer.branches.named(self.body.normalize, self.scope, "the normalizer")
        name = self._word(e) or _normalizer_name(e)
        found = dict(NORMALIZERS[name].options)
        for key, value in e.kwargs if isinstance(e, t.Call) else ():
            if key not in found:
                help = did_you_mean(key, found, f"it has {', '.join(found) or 'no options'}")
                message = f"`{name}` has no option `{key}`"
                raise Fault("arguments", message, keyword_span(key, value), (), help)
            number = self.expressions.static(self.infer.expand(value, self.scope), self.scope, f"`{key}`")
            if isinstance(number, (str, bool, Size)) or number <= 0:
                raise Fault("size", f"`{key}` is a number above 0", value.span)
            if isinstance(found[key], int) and number != int(number):
                raise Fault("size", f"`{key}` is a whole number", value.span)
            found[key] = type(found[key])(number)
        return name, tuple(found.items())

    def _word(self, e: t.Expr) -> str | None:
        """The word that a size is, where a field names the size in place of the word."""
        word = self.scope.names.get(e.id, self.infer.sizes.get(e.id)) if isinstance(e, t.Name) else None
        return word if isinstance(word, str) else None

    def _dropout(self) -> float:
        e = self.body.dropout
        if e is None:
            return 0.0
        value = self.expressions.static(self.infer.expand(e, self.scope), self.scope, "`dropout`")
        if isinstance(value, (bool, str, Size)) or not 0 <= value < 1:
            raise Fault("size", f"`dropout` is a probability from 0 up to 1, not {st.show(value)}", e.span)
        return float(value)

    def _layout(
        self,
        query: _Source | None,
        value: _Source,
        batch: tuple[Axis, ...],
        heads: Axis | None,
        key_heads: Size | None,
        over: tuple[Axis, ...],
        message: n.Value,
        merge: str,
    ) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
        """The axes of the result, and its features."""
        plain = isinstance(message, n.Local) and message.name == "v"
        each = message.axes[-1]
        features = value.features
        if heads is not None:
            size = each.size * heads.size if merge == "concat" else each.size
            origin = f"{each.size} features of {heads.size} heads" if merge == "concat" else each.origin
            same = plain and merge == "concat" and key_heads is None
            features = value.features if same else (Axis(None, size, origin=origin),)
        elif not plain:
            features = (each,)
        if query is None:
            layout = tuple(a for a in value.value.axes if a not in over)
            axes = _replace(layout, value.features, features)
            return (*[a for a in batch if a not in axes], *axes), features
        axes = _replace(query.value.axes, query.features, features)
        return (*[a for a in batch if a not in axes], *axes), features

    def _results(self) -> list[n.Value | n.Relation]:
        e = self.body.output
        scope = self.scope
        if e is None:
            found = scope.names["y"]
            assert isinstance(found, n.Value)
            return [found]
        expanded = self.infer.expand(e, scope)
        items = expanded.items if isinstance(expanded, t.List) else (expanded,)
        builder = scope.builder
        builder.field_name = "output"
        builder.field_modules = count_module_calls(expanded, self.infer, scope)
        try:
            return list(self.expressions.all(items, scope))
        finally:
            builder.field_name = None


def _normalizer_name(e: t.Expr) -> str:
    """`softmax` or `hard(gumbel)`, as the table of normalizers has it."""
    if isinstance(e, t.Call) and isinstance(e.func, t.Name):
        inner = [a.id if isinstance(a, t.Name) else a.span.text for a in e.args[:1]]
        return f"{e.func.id}({inner[0]})" if inner else e.func.id
    return e.id if isinstance(e, t.Name) else ""


def _needs_sources(decl: t.AnyType) -> bool:
    """Whether a parameter's type names the feature sizes of the sources, `dk` or `dv`."""
    axes = [a for d in t.branches(decl) for a in d.axes]
    roots = [t.Name(a.span, a.name) if a.size is None and a.name else a.size for a in axes]
    return any(isinstance(x, t.Name) and x.id in ("dk", "dv") for root in roots if root for x in walk(root))


def _replace(axes: tuple[Axis, ...], old: tuple[Axis, ...], new: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """The axes with the features `old` replaced by `new`: each in its place if they are the same, else at the first."""
    if set(old) == set(new):
        return axes
    found: list[Axis] = []
    for axis in axes:
        if axis not in old:
            found.append(axis)
        elif axis == old[0]:
            found.extend(new)
    return tuple(found)


def count_module_calls(e: t.Expr, infer: Infer, scope: Scope) -> int:
    """How many modules with weights an expression creates."""
    blocks = infer.resolved.blocks
    calls = [
        x for x in walk(e) if isinstance(x, t.Call) and isinstance(x.func, t.Name) and x.func.id not in scope.names
    ]
    names = [x.func.id for x in calls if isinstance(x.func, t.Name)]
    return sum(1 for x in names if x in blocks or (x in OPS and OPS[x].weights))
