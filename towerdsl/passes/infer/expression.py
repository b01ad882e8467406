"""Expr --> static value or typed Value, in a scope: one method for each kind of expression."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from towerdsl.budget import spend
from towerdsl.diagnostics import Diagnostics
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size, SizeLimitError
from towerdsl.lang import tree as t
from towerdsl.ops import ELEMENTWISE
from towerdsl.passes import static as st
from towerdsl.passes.infer.branches import taken, truth
from towerdsl.passes.infer.functions import FUNCTIONS, check_arguments, elementwise
from towerdsl.passes.infer.index import index
from towerdsl.passes.infer.modules import shared, weight
from towerdsl.passes.infer.names import check_names, unknown_name
from towerdsl.passes.infer.needs import check_needs
from towerdsl.passes.infer.operations import operation
from towerdsl.passes.infer.positions import flat_position, position_along, position_part
from towerdsl.passes.infer.scope import Fault, Poison, Result, Scope, SharedModule, Unknown
from towerdsl.passes.infer.shown import reading
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.infer.values import added, decided, joined, pointwise, to_value
from towerdsl.passes.resolve import Resolved


class ExpressionTyper(Typer):
    """Types every kind of expression; calls of blocks are left to the class that has all parts."""

    def __init__(self, resolved: Resolved, errors: Diagnostics) -> None:
        super().__init__(resolved, errors)
        self.once: dict[int, Result] = {}
        self.parts: dict[int, Result] | None = None  # while it is there, what each part of an expression is

    def expand(self, e: t.Expr, scope: Scope) -> t.Expr:
        """Replace definitions, and take the branches that sizes decide. Raises Fault, Unknown."""
        found = taken(self, self.expanded(e, scope), scope)
        scope.builder.readings.read(e, reading(self, e, scope))
        return found

    def any(self, e: t.Expr, scope: Scope) -> Result:
        """A static value, a tensor or a relation. Raises Fault, Unknown."""
        spend(10)
        method = getattr(self, f"_{type(e).__name__.lower()}")
        try:
            result: Result = method(e, scope)
        except SizeLimitError as error:
            raise Fault("size", str(error), e.span, (), "real models need far simpler sizes") from None
        if self.parts is not None:
            self.parts[id(e)] = result
        return result

    def worded(self, e: t.Expr, scope: Scope) -> tuple[Result, n.Wording]:
        """What an expression is, and each part of it. Raises Fault, Unknown."""
        before, parts = self.parts, dict[int, Result]()
        self.parts = parts
        try:
            return self.any(e, scope), n.Wording(e, parts)
        finally:
            self.parts = before

    # --- leaves -----------------------------------------------------------------------------------------------

    def _number(self, e: t.Number, scope: Scope) -> Result:
        if not math.isfinite(e.value):
            raise Fault("size", "the number is too large", e.span)
        return decided(lambda: st.normal(e.value), e.span)

    def _bool(self, e: t.Bool, scope: Scope) -> Result:
        return e.value

    def _string(self, e: t.String, scope: Scope) -> Result:
        return e.value

    def _name(self, e: t.Name, scope: Scope) -> Result:
        if e.id in scope.names:
            found = scope.names[e.id]
            if isinstance(found, Poison):
                raise Unknown
            if isinstance(found, SharedModule):
                help = f"call it: `{e.id}(x)`, or name its weight: `{e.id}.weight`"
                raise Fault("type", f"`{e.id}` is a module, not a value", e.span, (), help)
            if isinstance(found, n.Value):
                return replace(found, span=e.span)
            return found
        if e.id in self.sizes:
            return self.size_value(e.id)
        attention = scope.attention
        if attention is not None:
            if e.id in ("i", "j"):
                return flat_position(e.id, e.span, scope)
            if e.id == "head":
                return 0 if attention.head is None else position_along(attention.head, e.span)
        if e.id in scope.axes:
            return st.normal(scope.axes[e.id].size)
        if e.id in self.resolved.broken:
            raise Unknown
        raise unknown_name(self, e, scope)

    def _attribute(self, e: t.Attribute, scope: Scope) -> Result:
        base = e.base
        if isinstance(base, t.Name) and base.id in ("i", "j") and scope.attention and base.id not in scope.names:
            return position_part(base, e, scope)
        path = [e.name]
        while isinstance(base, t.Attribute):
            path.append(base.name)
            base = base.base
        if isinstance(base, t.Name):
            found = scope.names.get(base.id)
            if isinstance(found, Poison):
                raise Unknown
            if isinstance(found, SharedModule):
                return weight(self, found, tuple(reversed(path)), e.span)
            if found is None and base.id not in self.sizes:
                raise unknown_name(self, base, scope)
        help = {
            "shape": "the name of an axis is its length, as in `range(n)`",
            "T": 'axes go by name; `rearrange(x, "n d -> d n")` reorders them',
        }.get(e.name, "parts are `i.h`, or `words.weight` of a module")
        raise Fault("type", f"this has no part `{e.name}`", e.span, (), help)

    # --- arithmetic and conditions ----------------------------------------------------------------------------

    def _pair(self, left: t.Expr, right: t.Expr, scope: Scope) -> tuple[Result, Result]:
        first, second = self.every(partial(self.any, e, scope) for e in (left, right))
        return first, second

    def _unary(self, e: t.Unary, scope: Scope) -> Result:
        operand = self.any(e.operand, scope)
        if isinstance(operand, (n.Value, n.Relation)):
            return pointwise("neg", [to_value(operand, e.span)], e.span, scope)
        return decided(lambda: st.negate(operand), e.span)

    def _binary(self, e: t.Binary, scope: Scope, outer: bool = False) -> Result:
        left, right = self._pair(e.left, e.right, scope)
        if not isinstance(left, (n.Value, n.Relation)) and not isinstance(right, (n.Value, n.Relation)):
            a, b = left, right
            result = decided(lambda: st.binary(e.op, a, b), e.span)
            if result is not None:
                return result
        values = [to_value(left, e.left.span), to_value(right, e.right.span)]
        if e.op in ("+", "-"):
            return added(e.op, values, e.span, scope, outer)
        return pointwise(e.op, values, e.span, scope, outer=outer)

    def _compare(self, e: t.Compare, scope: Scope, outer: bool = False) -> Result:
        operands = [self.any(x, scope) for x in e.operands]
        parts: list[Result] = []
        for op, a, b, x, y in zip(e.ops, operands, operands[1:], e.operands, e.operands[1:], strict=False):
            if not isinstance(a, (n.Value, n.Relation)) and not isinstance(b, (n.Value, n.Relation)):
                known = decided(partial(st.compare, op, a, b), e.span)
                if known is not None:
                    parts.append(known)
                    continue
            values = [to_value(a, x.span), to_value(b, y.span)]
            parts.append(pointwise(op, values, e.span, scope, outer=outer))
        return joined("and", parts, e.span, scope)

    def _logic(self, e: t.Logic, scope: Scope, outer: bool = False) -> Result:
        return joined(e.op, [self.any(x, scope) for x in e.operands], e.span, scope, outer)

    def _not(self, e: t.Not, scope: Scope) -> Result:
        operand = self.any(e.operand, scope)
        if isinstance(operand, bool):
            return not operand
        value = to_value(operand, e.operand.span)
        if value.type.dtype != "bool":
            message = f"`not` takes a truth value, this is {value.type}"
            raise Fault("not-boolean", message, e.operand.span, (), "compare it, as in `x > 0`")
        return pointwise("not", [value], e.span, scope)

    def _cond(self, e: t.Cond, scope: Scope) -> Result:
        test = self.any(e.test, scope)
        if not isinstance(test, (n.Value, n.Relation, Size)):
            holds = truth(test, e.test.span)
            check_names(self, e.otherwise if holds else e.then, scope)
            return self.any(e.then if holds else e.otherwise, scope)
        values = [to_value(test, e.test.span), *self.all([e.then, e.otherwise], scope)]
        return pointwise("where", values, e.span, scope)

    def _list(self, e: t.List, scope: Scope) -> Result:
        help = "lists name axes, as in `over: [h, w]`"
        raise Fault("type", "a list has no place here", e.span, (), help)

    # --- what definitions leave behind ------------------------------------------------------------------------

    def _once(self, e: t.Once, scope: Scope) -> Result:
        if e.key not in self.once:
            found = self.any(e.arg, scope)
            if isinstance(found, n.Value) and not isinstance(found, n.Local | n.Const | n.Position | n.SizeOf):
                found = n.Shared(found.type, found.span, found, e.name, e.key)
            self.once[e.key] = found
        return self.once[e.key]

    def _needs(self, e: t.Needs, scope: Scope) -> Result:
        check_needs(self, e.definition, dict(e.args), e.span, scope)
        return self.any(e.formula, scope)

    # --- calls and indices ------------------------------------------------------------------------------------

    def _call(self, e: t.Call, scope: Scope) -> Result:
        if not isinstance(e.func, t.Name):
            raise Fault("not-a-function", "only a name can be called", e.func.span)
        name = e.func.id
        bound = scope.names.get(name)
        if isinstance(bound, Poison):
            raise Unknown
        if isinstance(bound, SharedModule):
            return shared(self, bound, e, scope)
        if name in self.resolved.broken:
            raise Unknown
        if name in self.resolved.blocks:
            return self.block(self.resolved.blocks[name], e, scope)
        if name == "outer":
            return self._outer(e, scope)
        if name in FUNCTIONS:
            return FUNCTIONS[name](self, e, scope)
        if name in ELEMENTWISE:
            return elementwise(self, e, scope)
        if name == "one_of":
            help = "write `kind: one_of('learned', 'rotary')` there, and compare: `kind == 'rotary'`"
            raise Fault("form", "`one_of` says what a size may be: it stands alone, in `sizes:`", e.span, (), help)
        return operation(self, e, scope)

    def _outer(self, e: t.Call, scope: Scope) -> Result:
        """An operation whose sides may have axes of their own: every position of one meets every one of the other."""
        written = "outer(k * v)"
        if len(e.args) == 2:
            written = f"outer({e.args[0].span.text} * {e.args[1].span.text})"
        check_arguments(e, 1, 1, written)
        inner = e.args[0]
        name = inner.func.id if isinstance(inner, t.Call) and isinstance(inner.func, t.Name) else ""
        if isinstance(inner, t.Binary):
            return self._binary(inner, scope, outer=True)
        if isinstance(inner, t.Compare):
            return self._compare(inner, scope, outer=True)
        if isinstance(inner, t.Logic):
            return self._logic(inner, scope, outer=True)
        if isinstance(inner, t.Index):
            return index(self, inner, scope, outer=True)
        if isinstance(inner, t.Call) and name in ELEMENTWISE and name not in scope.names:
            return elementwise(self, inner, scope, outer=True)
        if isinstance(inner, t.Call) and name == "concat" and name not in scope.names:
            return operation(self, inner, scope, outer=True)
        message = "`outer` holds one operation, whose sides may have axes of their own"
        raise Fault("arguments", message, inner.span, (), "write `outer(k * v)`")

    def _index(self, e: t.Index, scope: Scope) -> Result:
        return index(self, e, scope)

    def _pick(self, e: t.Pick, scope: Scope) -> Result:
        raise AssertionError("handled by _index")
