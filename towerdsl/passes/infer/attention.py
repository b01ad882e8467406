"""An attention block --> its steps, around one `Average`.

y[i] = (1 / C[i]) * sum over visible j of f(q[i], k[j], i, j) * g(v[j])
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from towerdsl.diagnostics import Span, closest, did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.ir.types import Axis, TensorType
from towerdsl.lang import tree as t
from towerdsl.passes.dtypes import cast
from towerdsl.passes.infer import axes as combining
from towerdsl.passes.infer.assigned import targets
from towerdsl.passes.infer.declared import declare_modules, declare_weights
from towerdsl.passes.infer.mistakes import not_a_vector
from towerdsl.passes.infer.scope import Fault, Scope, Typed, Unknown
from towerdsl.passes.infer.sources import (
    Roles,
    Sources,
    bind_sources,
    check_divides,
    count_new_modules,
    find_roles,
    find_sources,
    heads,
)
from towerdsl.passes.infer.statements import type_statements
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.infer.values import joined, to_value
from towerdsl.passes.infer.weighting import dropout, merge, normalizer
from towerdsl.passes.resolve import RESERVED, walk

#: Names that mean positions, and the number of a head, in the score and the condition.
POSITIONS = ("i", "j", "head")


def type_attention(typer: Typer, block: t.Block, body: t.Attention, scope: Scope) -> Typed:
    """Type an attention block. Raises Fault, Unknown."""
    return _Attention(typer, block, body, scope).run()


class _Attention:
    def __init__(self, typer: Typer, block: t.Block, body: t.Attention, scope: Scope) -> None:
        self.typer, self.block, self.body, self.scope = typer, block, body, scope
        self.wording: list[n.Wording] = []

    def run(self) -> Typed:
        typer, body, scope = self.typer, self.body, self.scope
        self._check_names()
        split = heads(typer, body, scope)
        if split[0] is not None and body.heads is not None:
            scope.heads = (body.heads[0], split[0])
        late = tuple(p for p in body.params if _needs_sources(p[1]))
        weights = declare_weights(typer, [p for p in body.params if p not in late], scope)
        declare_modules(typer, body.modules, scope)
        steps, _ = type_statements(typer, body.let, scope)
        try:
            sources = find_sources(typer, body, scope)
        except Unknown:
            self._misspelled()
            raise
        roles = find_roles(typer, body, sources, split, scope)
        inner = scope.child()
        inner.attention = roles.scope(scope)
        bind_sources(sources, roles, inner, scope)
        weights += declare_weights(typer, late, scope)
        inner.names |= {name.text: scope.names[name.text] for name, _ in late}
        average = self._average(sources, roles, inner)
        steps.append(n.Evaluate(("y", "log_prob") if average.log_prob else ("y",), average))
        self._bind_result(average, roles)
        return weights, steps, self._results()

    def _average(self, sources: Sources, roles: Roles, inner: Scope) -> n.Average:
        typer, body, scope = self.typer, self.body, self.scope
        fields: list[Callable[[Scope], Any]] = [self._score, self._visible, self._message]
        score, visible, message = typer.every(partial(field, inner) for field in fields)
        roots = (score, message, visible)
        uses = {v.name for root in roots if root is not None for v in root.walk() if isinstance(v, n.Local)}
        check_divides(body, sources, roles, uses)
        normalize, options = normalizer(typer, body, scope)
        merged = merge(typer, body, scope)
        layout, features = self._layout(sources, roles, message, merged)
        query, key, value = sources.query, sources.key, sources.value
        assert inner.attention is not None
        return n.Average(
            query=query.value if query else None,
            key=key.value if key else None,
            value=value.value,
            batch=roles.batch,
            positions=inner.attention.positions,
            over=inner.attention.over,
            heads=roles.heads,
            key_heads=roles.key_heads,
            score=score,
            visible=visible,
            normalize=normalize,
            options=options,
            dropout=dropout(typer, body, scope),
            message=message,
            merge=merged,
            features=features,
            query_features=query.features if query else (),
            key_features=key.features if key else (),
            value_features=value.features,
            layout=layout,
            log_prob=normalize == "hard(score_function)",
            span=self.block.span,
            wording=tuple(self.wording),
        )

    def _bind_result(self, average: n.Average, roles: Roles) -> None:
        """Bind `y`, and `log_prob` where there is one, for `output`."""
        scope = self.scope
        scope.names["y"] = n.Local(TensorType("float", average.layout), None, "y")
        for a in average.layout:
            if a.name is not None:
                scope.axes.setdefault(a.name, a)
        if average.log_prob:
            drawn = (*roles.batch, *([roles.heads] if roles.heads else []), *roles.positions)
            scope.names["log_prob"] = n.Local(TensorType("float", drawn), None, "log_prob")

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

    def _misspelled(self) -> None:
        """Without its sources an attention is not typed; misspelled names in its other fields are reported still."""
        body, scope = self.body, self.scope
        known = {*scope.names, *scope.axes, *self.typer.sizes, *RESERVED}
        for e in (body.score, body.mask, body.locality, body.message, body.output):
            for x in walk(e) if e is not None else ():
                unknown = isinstance(x, t.Name) and x.id not in known and x.id not in self.typer.resolved.callable
                if unknown and isinstance(x, t.Name) and closest(x.id, known) is not None:
                    help = did_you_mean(x.id, known)
                    self.typer.report(Fault("unknown-name", f"there is no `{x.id}` here", x.span, (), help))

    def _score(self, scope: Scope) -> n.Value:
        e = self.body.score
        if e is None:
            if "q" not in scope.names or "k" not in scope.names:
                return to_value(0, self.block.span)
            span = self.body.query.span if self.body.query else self.block.span
            q, k = t.Name(span, "q"), t.Name(span, "k")
            dot = t.Call(span, t.Name(span, "dot"), (q, k), ())
            e = t.Binary(span, "/", dot, t.Call(span, t.Name(span, "sqrt"), (t.Name(span, "dk"),), ()))
        value = self.typer.tensor(self.typer.expand(e, scope), scope)
        if value.type.dtype == "bool":
            help = "a condition belongs in `mask:` or `locality:`; for a number write `where(c, 1, 0)`"
            raise Fault("type", "the score is a number, this is a truth value", e.span, (), help)
        self._check_pairwise(value, scope, "score", e.span)
        return value

    def _condition(self, field: str, e: t.Expr, scope: Scope) -> bool | n.Value:
        """One of `locality` and `mask`: decided when compiling, or a truth value for each i and j. Raises Fault."""
        expanded = self.typer.expand(e, scope)
        value, wording = self.typer.worded(expanded, scope)
        self.wording.append(wording)
        if isinstance(value, bool):
            return value
        node = to_value(value, e.span)
        if node.type.dtype != "bool":
            got = "a number" if not node.axes else str(node.type)
            help = "compare it, as in `keep[j] > 0`; a number to add is part of `score`"
            raise Fault("not-boolean", f"the {field} is a condition, this is {got}", e.span, (), help)
        self._check_pairwise(node, scope, field, e.span)
        return node

    def _visible(self, scope: Scope) -> n.Value | None:
        fields = (("locality", self.body.locality), ("mask", self.body.mask))
        parts = self.typer.every(partial(self._condition, f, e, scope) for f, e in fields if e is not None)
        found = joined("and", parts, self.block.span, scope)
        if found is True:
            return None
        if found is False:
            return n.Const(TensorType("bool", (), True), self.block.span, False)
        return to_value(found, self.block.span)

    def _message(self, scope: Scope) -> n.Value:
        e = self.body.message
        if e is None:
            found = scope.names["v"]
            assert isinstance(found, n.Value)
            return found
        value = self.typer.tensor(self.typer.expand(e, scope), scope)
        assert scope.attention is not None
        left = [a for a in value.axes if scope.attention.rank(a) == 4]
        if len(left) != 1 or value.axes[-1] != left[0]:
            raise not_a_vector(value, left, scope.attention, e)
        return cast(value, "float")

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

    def _layout(
        self, sources: Sources, roles: Roles, message: n.Value, merge: str
    ) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
        """The axes of the result, and its features."""
        query, value = sources.query, sources.value
        plain = isinstance(message, n.Local) and message.name == "v"
        each = message.axes[-1]
        features = value.features
        if roles.heads is not None:
            size = each.size * roles.heads.size if merge == "concat" else each.size
            origin = f"{each.size} features of {roles.heads.size} heads" if merge == "concat" else each.origin
            same = plain and merge == "concat" and roles.key_heads is None
            features = value.features if same else (Axis(None, size, origin=origin),)
        elif not plain:
            features = (each,)
        if query is None:
            layout = tuple(a for a in value.value.axes if a not in roles.over)
            axes = _replace(layout, value.features, features)
            return (*[a for a in roles.batch if a not in axes], *axes), features
        axes = _replace(query.value.axes, query.features, features)
        return (*[a for a in roles.batch if a not in axes], *axes), features

    def _results(self) -> list[n.Value | n.Relation]:
        e = self.body.output
        scope = self.scope
        if e is None:
            found = scope.names["y"]
            assert isinstance(found, n.Value)
            return [found]
        expanded = self.typer.expand(e, scope)
        items = expanded.items if isinstance(expanded, t.List) else (expanded,)
        builder = scope.builder
        builder.field_name = "output"
        builder.field_modules = count_new_modules(self.typer, expanded, scope)
        try:
            return list(self.typer.all(items, scope))
        finally:
            builder.field_name = None


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
