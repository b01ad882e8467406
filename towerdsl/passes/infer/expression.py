"""Expr --> static value or typed Value, in a scope. Calls of blocks and operations go through `calls`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from towerdsl.budget import spend
from towerdsl.diagnostics import Span, did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import read
from towerdsl.ir.size import Size, SizeLimitError
from towerdsl.ir.types import Axis, TensorType, named
from towerdsl.lang import tree as t
from towerdsl.lang.foreign import OPTIONS, VALUES
from towerdsl.ops import ELEMENTWISE, OPS
from towerdsl.ops.layers import NO_AXES
from towerdsl.passes import static as st
from towerdsl.passes.infer import axes as combining
from towerdsl.passes.infer.dtypes import (
    ARITHMETIC,
    cast,
    converted,
    meets_wide,
    promote,
    result_dtype,
    uncast,
    wide_angle,
)
from towerdsl.passes.infer.index import index
from towerdsl.passes.infer.mistakes import by_name, missing_axis
from towerdsl.passes.infer.needs import check_needs
from towerdsl.passes.infer.scope import AttentionScope, Fault, Poison, Scope, SharedModule, Unknown
from towerdsl.passes.static import Static, StaticError

if TYPE_CHECKING:
    from towerdsl.passes.infer.model import Infer

Result = Static | n.Value | n.Relation
POSITION_NAMES = ("i", "j")
_STATIC = "use numbers, sizes and loop indices"
REDUCTIONS = ("sum", "mean", "amax", "amin")


class ExpressionTyper:
    """Types expressions; `infer` gives it calls of blocks and collects its mistakes."""

    def __init__(self, infer: Infer) -> None:
        self.infer = infer
        self.once: dict[int, Result] = {}
        self.parts: dict[int, Result] | None = None  # while it is there, what each part of an expression is

    # --- entry points -----------------------------------------------------------------------------------------

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

    def tensor(self, e: t.Expr, scope: Scope) -> n.Value:
        """The value of `e` as a node; static values become constants."""
        return self.to_value(self.any(e, scope), e.span)

    def to_value(self, result: Result, span: Span) -> n.Value:
        if isinstance(result, n.Value):
            return result
        if isinstance(result, n.Relation):
            help = f"read it with positions: `{result.name}[j, i]`"
            raise Fault("type", f"`{result.name}` is a relation, not a tensor", span, (), help)
        if isinstance(result, str):
            raise Fault("type", "text has no place here", span)
        if isinstance(result, Size):
            return n.SizeOf(TensorType("int", (), True), span, result)
        dtype = "bool" if isinstance(result, bool) else "int" if isinstance(result, int) else "float"
        return n.Const(TensorType(dtype, (), True), span, result)

    def static(self, e: t.Expr, scope: Scope, what: str, help: str = _STATIC) -> Static:
        """A value that is known when compiling. Raises Fault if it is not."""
        result = self.any(e, scope)
        if isinstance(result, (n.Value, n.Relation)):
            message = f"{what} must be known when compiling"
            kind = result.type if isinstance(result, n.Relation) or not result.type.scalar else "known at run time"
            notes = (f"`{e.span.text}` is {kind}",)
            if help == _STATIC and isinstance(result, n.Value) and read([result]) & scope.along.keys():
                help = "a position along an axis is known at run time; the index of `for l in depth` when compiling"
            raise Fault("not-static", message, e.span, notes, help)
        return result

    def size(self, e: t.Expr, scope: Scope, what: str) -> Size:
        """A whole, positive length. Raises Fault."""
        value = self.static(e, scope, what)
        size = st.as_size(value)
        if size is None:
            raise Fault("size", f"{what} is a whole number, not {st.show(value)}", e.span)
        if (number := size.integer) is not None and number < 1:
            raise Fault("size", f"{what} is at least 1, not {number}", e.span)
        if number is None and size.constant is not None:
            raise Fault("size", f"{what} is a whole number, not {size}", e.span)
        return size

    def integer(self, e: t.Expr, scope: Scope, what: str) -> int:
        """A whole number without free lengths. Raises Fault."""
        value = self.static(e, scope, what)
        size = st.as_size(value)
        if size is None:
            raise Fault("size", f"{what} is a whole number, not {st.show(value)}", e.span)
        if size.integer is None:
            names = ", ".join(f"`{x}`" for x in sorted(size.free_names))
            message = f"{what} depends on {names}, which is only known at run time"
            raise Fault("free-size", message, e.span, (), f"give {names} in `sizes:` or with `--set`")
        return size.integer

    def all(self, es: Sequence[t.Expr], scope: Scope) -> list[n.Value]:
        """Several operands: every mistake in them is reported, not only the first."""
        return self.infer.every(partial(self.tensor, e, scope) for e in es)

    # --- leaves -----------------------------------------------------------------------------------------------

    def _number(self, e: t.Number, scope: Scope) -> Result:
        if not math.isfinite(e.value):
            raise Fault("size", "the number is too large", e.span)
        return self._normal(e.value, e.span)

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
        if e.id in self.infer.sizes:
            return self.infer.size_value(e.id, e.span)
        attention = scope.attention
        if attention is not None:
            if e.id in POSITION_NAMES:
                return self._flat_position(e.id, e.span, scope)
            if e.id == "head":
                return 0 if attention.head is None else self._index_of(attention.head, e.span)
        if e.id in scope.axes:
            return st.normal(scope.axes[e.id].size)
        if e.id in self.infer.resolved.broken:
            raise Unknown
        raise self.unknown_name(e, scope)

    def unknown_name(self, e: t.Name, scope: Scope) -> Fault:
        resolved, name = self.infer.resolved, e.id
        notes: tuple[str, ...] = ()
        inside: set[str] = set()
        if e.span.within is not None and (outer := resolved.definitions.get(e.span.within[0])) is not None:
            inside = {p.name for p in outer.signature.parameters}
        known = {*scope.names, *scope.axes, *(("i", "j", "head") if scope.attention else ())}
        help = (
            VALUES.get(name)
            or self._implicit(name, scope)
            or self._word(name)
            or did_you_mean(name, {*known, *inside})
            or did_you_mean(name, self.infer.sizes)
        )
        if name in scope.ended:
            help = f"it is the index of the loop on line {scope.ended[name].line}, known in that loop only"
        if any(name in loop.new for loop in scope.along.values()):
            help = f"what a loop carries has a first value before it, as in `{name} = zeros([b, d])`"
        if help is None and not scope.is_flow and name in {key.text for key, _ in resolved.spec.inputs}:
            message = f"`{name}` is an input of the model; a block sees only its parameters"
            parameters = [p.span.text for p in scope.signature.parameters] if scope.signature else []
            block = scope.signature.name if scope.signature else "block"
            help = f"make it a parameter, `{block}({', '.join([*parameters, name])})`, and pass it"
            return Fault("unknown-name", message, e.span, notes, help)
        learned = {key.text for key, _ in (*resolved.spec.params, *resolved.spec.modules)}
        if help is None and not scope.is_flow and name in learned:
            message = f"`{name}` belongs to the model; a block sees only its parameters"
            help = "declare it in the `params:` or `modules:` of the block"
            return Fault("unknown-name", message, e.span, notes, help)
        if help is None and name in OPS:
            help = f"a weight is read of a module that `modules:` names: `words: {name}(...)`, then `words.weight`"
        if help is None and name in {*ELEMENTWISE, *resolved.definitions, *resolved.blocks}:
            return Fault("unknown-name", f"`{name}` is a function here: call it", e.span, notes, f"write `{name}(...)`")
        if help is None and known:
            help = f"names here: {', '.join(sorted(known))}" if len(known) <= 12 else None
            if scope.attention is not None:
                help = f"{help}; a learned tensor is declared in `params:`" if help else "declare it in `params:`"
        return Fault("unknown-name", f"there is no `{name}` here", e.span, notes, help)

    def _word(self, name: str) -> str | None:
        """Help for a word of `one_of` without its quotes."""
        if any(name in choice.values for choice in self.infer.resolved.choices.values()):
            return f"a word stands in quotes: `'{name}'`"
        return None

    def _implicit(self, name: str, scope: Scope) -> str | None:
        """Help for a name that has a meaning elsewhere in an attention."""
        if scope.attention is not None:
            return {
                "query": "`q` is the query of one head",
                "key": "`k` is the key of one head",
                "value": "`v` is the value of one head",
                "q": "`q` is the query of one head: add `query:` to the attention",
                "k": "`k` is the key of one head: add `key:` to the attention",
                "dk": "`dk` is the key's size: add `key:` to the attention",
                "y": "`y` is the result, known in `output` only",
                "log_prob": "`log_prob` is known in `output` only, with `normalize: hard(score_function)`",
            }.get(name)
        if name in ("i", "j", "head"):
            return f"`{name}` is known in the `score`, `mask`, `locality` and `message` of an attention only"
        if name in ("q", "k", "v"):
            return f"`{name}` is one head's vector, known in `score` and `message` only"
        if name == "y":
            return "`y` is the result of an attention, known in its `output` only"
        if name == "log_prob":
            return "`log_prob` is known in `output`, with `normalize: hard(score_function)`"
        return None

    # --- positions --------------------------------------------------------------------------------------------

    def _index_of(self, axis: Axis, span: Span) -> n.Value:
        return n.Position(TensorType("int", (axis,)), span)

    def _side(self, name: str, span: Span, scope: Scope) -> tuple[Axis, ...]:
        assert scope.attention is not None
        found = scope.attention.positions if name == "i" else scope.attention.over
        if not found:
            message = "the query has no position here, so there is no `i`"
            raise Fault("no-position", message, span, (), "`i` needs a query with an axis that the key has not")
        return found

    def _flat_position(self, name: str, span: Span, scope: Scope) -> n.Value:
        """`i` over several axes is the row-major index, where `j` is over the same ones. Raises Fault."""
        parts = self._side(name, span, scope)
        assert scope.attention is not None
        _check_flat(name, span, scope.attention)
        value = self._index_of(parts[0], span)
        for axis in parts[1:]:
            length = self.to_value(st.normal(axis.size), span)
            value = self.pointwise("*", [value, length], span, scope)
            value = self.pointwise("+", [value, self._index_of(axis, span)], span, scope)
        return value

    def _attribute(self, e: t.Attribute, scope: Scope) -> Result:
        base = e.base
        if isinstance(base, t.Name) and base.id in POSITION_NAMES and scope.attention and base.id not in scope.names:
            return self._position_part(base, e, scope)
        path = [e.name]
        while isinstance(base, t.Attribute):
            path.append(base.name)
            base = base.base
        if isinstance(base, t.Name):
            found = scope.names.get(base.id)
            if isinstance(found, Poison):
                raise Unknown
            if isinstance(found, SharedModule):
                return self.infer.calls.shared_weight(found, tuple(reversed(path)), e.span)
            if found is None and base.id not in self.infer.sizes:
                raise self.unknown_name(base, scope)
        help = {
            "shape": "the name of an axis is its length, as in `range(n)`",
            "T": 'axes go by name; `rearrange(x, "n d -> d n")` reorders them',
        }.get(e.name, "parts are `i.h`, or `words.weight` of a module")
        raise Fault("type", f"this has no part `{e.name}`", e.span, (), help)

    def _position_part(self, base: t.Name, e: t.Attribute, scope: Scope) -> n.Value:
        attention = scope.attention
        assert attention is not None
        axis = attention.aliases.get(e.name)
        name = axis.name if axis is not None else e.name
        parts = attention.positions if base.id == "i" else attention.over
        for part in (*parts, *attention.batch):
            if part.name == name:
                return self._index_of(part, e.span)
        known = [a.name for a in parts if a.name]
        help = did_you_mean(
            e.name, known, f"`{base.id}` has {', '.join(f'`{base.id}.{x}`' for x in known) or 'no parts'}"
        )
        raise Fault("unknown-name", f"`{base.id}` has no axis `{e.name}`", e.span, (), help)

    # --- arithmetic -------------------------------------------------------------------------------------------

    def _normal(self, value: Static, span: Span) -> Static:
        try:
            return st.normal(value)
        except StaticError as error:
            raise Fault("size", str(error), span) from None

    def _pair(self, left: t.Expr, right: t.Expr, scope: Scope) -> tuple[Result, Result]:
        first, second = self.infer.every(partial(self.any, e, scope) for e in (left, right))
        return first, second

    def _unary(self, e: t.Unary, scope: Scope) -> Result:
        operand = self.any(e.operand, scope)
        if isinstance(operand, (n.Value, n.Relation)):
            return self.pointwise("neg", [self.to_value(operand, e.span)], e.span, scope)
        return self._static(lambda: st.negate(operand), e.span)

    def _static(self, compute: object, span: Span) -> Static:
        try:
            return compute()  # type: ignore[operator,no-any-return]
        except StaticError as error:
            raise Fault("size", str(error), span) from None

    def _binary(self, e: t.Binary, scope: Scope, outer: bool = False) -> Result:
        left, right = self._pair(e.left, e.right, scope)
        if not isinstance(left, (n.Value, n.Relation)) and not isinstance(right, (n.Value, n.Relation)):
            a, b = left, right
            result = self._static(lambda: st.binary(e.op, a, b), e.span)
            if result is not None:
                return result
        values = [self.to_value(left, e.left.span), self.to_value(right, e.right.span)]
        if e.op in ("+", "-"):
            return self._sum(e.op, values, e.span, scope, outer)
        return self.pointwise(e.op, values, e.span, scope, outer=outer)

    def _sum(self, op: str, values: list[n.Value], span: Span, scope: Scope, outer: bool = False) -> n.Value:
        """`i - j + win - 1` --> `i - j + 6`: whole numbers at the end of a sum are added up."""
        left, right = values
        if isinstance(left, n.Pointwise) and left.op in ("+", "-") and _whole(right) and _whole(left.args[1]):
            first, second = left.args[1], right
            assert isinstance(first, n.Const) and isinstance(second, n.Const)
            total = (first.value if left.op == "+" else -first.value) + (second.value if op == "+" else -second.value)
            right = self.to_value(abs(total), span)
            left, op = left.args[0], "+" if total >= 0 else "-"
        return self.pointwise(op, [left, right], span, scope, outer=outer)

    def _compare(self, e: t.Compare, scope: Scope, outer: bool = False) -> Result:
        operands = [self.any(x, scope) for x in e.operands]
        parts: list[Result] = []
        for op, a, b, x, y in zip(e.ops, operands, operands[1:], e.operands, e.operands[1:], strict=False):
            if not isinstance(a, (n.Value, n.Relation)) and not isinstance(b, (n.Value, n.Relation)):
                left, right = a, b
                decided = self._static(lambda op=op, a=left, b=right: st.compare(op, a, b), e.span)
                if decided is not None:
                    parts.append(decided)
                    continue
            values = [self.to_value(a, x.span), self.to_value(b, y.span)]
            parts.append(self.pointwise(op, values, e.span, scope, outer=outer))
        return self._joined("and", parts, e.span, scope)

    def _joined(self, op: str, parts: Sequence[Result], span: Span, scope: Scope, outer: bool = False) -> Result:
        """`and` or `or` of parts; static ones are decided."""
        kept: list[n.Value] = []
        for part in parts:
            if isinstance(part, bool):
                if part == (op == "or"):
                    return part
                continue
            value = self.to_value(part, span)
            if value.type.dtype != "bool":
                shown = "a number" if value.type.scalar else str(value.type)
                message = f"`{op}` joins truth values, this is {shown}"
                raise Fault("not-boolean", message, value.span or span, (), "compare it, as in `x > 0`")
            kept.append(value)
        if not kept:
            return op == "and"
        result = kept[0]
        for value in kept[1:]:
            result = self.pointwise(op, [result, value], span, scope, outer=outer)
        return result

    def _logic(self, e: t.Logic, scope: Scope, outer: bool = False) -> Result:
        return self._joined(e.op, [self.any(x, scope) for x in e.operands], e.span, scope, outer)

    def _not(self, e: t.Not, scope: Scope) -> Result:
        operand = self.any(e.operand, scope)
        if isinstance(operand, bool):
            return not operand
        value = self.to_value(operand, e.operand.span)
        if value.type.dtype != "bool":
            message = f"`not` takes a truth value, this is {value.type}"
            raise Fault("not-boolean", message, e.operand.span, (), "compare it, as in `x > 0`")
        return self.pointwise("not", [value], e.span, scope)

    def _cond(self, e: t.Cond, scope: Scope) -> Result:
        test = self.any(e.test, scope)
        if not isinstance(test, (n.Value, n.Relation, Size)):
            taken = self.infer.branches.truth(test, e.test.span)
            self.infer.branches.unused(e.otherwise if taken else e.then, scope)
            return self.any(e.then if taken else e.otherwise, scope)
        values = [self.to_value(test, e.test.span), *self.all([e.then, e.otherwise], scope)]
        return self.pointwise("where", values, e.span, scope)

    def _list(self, e: t.List, scope: Scope) -> Result:
        help = "lists name axes, as in `over: [h, w]`"
        raise Fault("type", "a list has no place here", e.span, (), help)

    def _once(self, e: t.Once, scope: Scope) -> Result:
        if e.key not in self.once:
            found = self.any(e.arg, scope)
            if isinstance(found, n.Value) and not isinstance(found, n.Local | n.Const | n.Position | n.SizeOf):
                found = n.Shared(found.type, found.span, found, e.name, e.key)
            self.once[e.key] = found
        return self.once[e.key]

    def _needs(self, e: t.Needs, scope: Scope) -> Result:
        check_needs(self.infer, e.definition, dict(e.args), e.span, scope)
        return self.any(e.formula, scope)

    def _pick(self, e: t.Pick, scope: Scope) -> Result:
        raise AssertionError("handled by _index")

    # --- elementwise ------------------------------------------------------------------------------------------

    def pointwise(
        self,
        op: str,
        args: Sequence[n.Value],
        span: Span,
        scope: Scope,
        options: tuple[n.Value, ...] = (),
        outer: bool = False,
    ) -> n.Value:
        """An elementwise function of values that are combined by axis name. Raises Fault."""
        what = f"`{op}`" if op in ARITHMETIC or not op.isidentifier() else f"`{op}(...)`"
        values = combining.together(args, span, what, scope.attention, outer)
        dtype = result_dtype(op, values, span)
        axes = combining.union(values, scope.attention)
        scalar = all(v.type.scalar for v in values)
        values = [wide_angle(v) if op in ("sin", "cos") else uncast(v) for v in values]
        inside = "wide" if dtype == "float" and meets_wide(values) else dtype
        found = n.Pointwise(TensorType(inside, axes, scalar), span, op, (*converted(op, values, inside), *options))
        return cast(found, dtype)

    # --- calls ------------------------------------------------------------------------------------------------

    def _call(self, e: t.Call, scope: Scope) -> Result:
        if not isinstance(e.func, t.Name):
            raise Fault("not-a-function", "only a name can be called", e.func.span)
        name = e.func.id
        bound = scope.names.get(name)
        if isinstance(bound, Poison):
            raise Unknown
        if isinstance(bound, SharedModule):
            return self.infer.calls.shared(bound, e, scope)
        if name in self.infer.resolved.broken:
            raise Unknown
        if name in self.infer.resolved.blocks:
            return self.infer.calls.block(self.infer.resolved.blocks[name], e, scope)
        if name in ("dot", "outer", "range", "zeros", "ones", "len", *REDUCTIONS):
            result: Result = getattr(self, f"_call_{'reduce' if name in REDUCTIONS else name}")(e, scope)
            return result
        if name in ELEMENTWISE:
            return self._elementwise(e, scope)
        if name == "one_of":
            help = "write `kind: one_of('learned', 'rotary')` there, and compare: `kind == 'rotary'`"
            raise Fault("form", "`one_of` says what a size may be: it stands alone, in `sizes:`", e.span, (), help)
        return self.infer.calls.op(e, scope)

    def _arguments(self, e: t.Call, least: int, most: int, written: str) -> None:
        assert isinstance(e.func, t.Name)
        known = ("axis",) if e.func.id in REDUCTIONS else ()
        for name, value in e.kwargs if e.func.id not in ELEMENTWISE else ():
            if name not in known:
                message = f"`{e.func.id}` has no option `{name}`"
                help = OPTIONS.get(name, f"write `{written}`")
                raise Fault("arguments", message, keyword_span(name, value), (), help)
        if not least <= len(e.args) <= most:
            number = str(least) if least == most else f"{least} or {most}"
            message = f"`{e.func.id}` takes {number} argument{'s' if most != 1 else ''}, not {len(e.args)}"
            several = f"; several axes are a list, `{e.func.id}(x, [h, w])`" if known and len(e.args) > most else ""
            raise Fault("arguments", message, e.span, (), f"write `{written}`{several}")

    def _elementwise(self, e: t.Call, scope: Scope, outer: bool = False) -> Result:
        assert isinstance(e.func, t.Name)
        entry = ELEMENTWISE[e.func.id]
        names = [name for name, _ in entry.options]
        operands = "x" if entry.arity == 1 else ", ".join("abc"[: entry.arity])
        written = f"{entry.name}({', '.join([operands, *names])})"
        if entry.name in ("min", "max") and (len(e.args) == 1 or any(name == "axis" for name, _ in e.kwargs)):
            message = f"`{entry.name}` compares two values at each place"
            raise Fault("arguments", message, e.span, (), f"along an axis write `a{entry.name}(x, n)`")
        self._arguments(e, entry.arity, entry.arity + len(names), written)
        given = dict(zip(names, e.args[entry.arity :], strict=False))
        for name, value in e.kwargs:
            if name not in names or name in given:
                help = OPTIONS.get(name) or did_you_mean(name, names, f"write `{written}`")
                message = f"`{entry.name}` has no option `{name}`"
                raise Fault("arguments", message, keyword_span(name, value), (), help)
            given[name] = value
        options = []
        for name, default in entry.options:
            if name in given:
                options.append(self.to_value(self.static(given[name], scope, f"`{name}`"), given[name].span))
            elif default is ...:
                raise Fault("arguments", f"`{entry.name}` needs `{name}`", e.span, (), f"write `{written}`")
            else:
                options.append(self.to_value(default, e.span))
        raw = [self.any(a, scope) for a in e.args[: entry.arity]]
        if entry.name == "where" and isinstance(raw[0], bool):
            return raw[1] if raw[0] else raw[2]
        static = [a for a in raw if not isinstance(a, (n.Value, n.Relation))]
        if len(static) == len(raw):
            decided = self._static_call(entry.name, static, options, e)
            if decided is not None:
                return decided
        values = [self.to_value(a, x.span) for a, x in zip(raw, e.args, strict=False)]
        if entry.name in ("min", "max") and all(v.type.dtype == "bool" for v in values):
            op = "and" if entry.name == "min" else "or"
            return self.pointwise(op, values, e.span, scope, outer=outer)
        return self.pointwise(entry.name, values, e.span, scope, tuple(options), outer)

    def _static_call(self, name: str, args: list[Static], options: list[n.Value], e: t.Call) -> Static | None:
        entry = ELEMENTWISE[name]
        if any(isinstance(a, Size) for a in args):
            if name in ("min", "max"):
                return self._static(lambda: st.binary(name, args[0], args[1]), e.span)
            return None
        if entry.static is None or not all(isinstance(o, n.Const) for o in options):
            return None
        try:
            found = entry.static(*args, *(o.value for o in options if isinstance(o, n.Const)))
        except (ValueError, OverflowError, ZeroDivisionError, TypeError):
            shown = ", ".join(st.show(a) for a in args)
            raise Fault("size", f"{name}({shown}) is not a number", e.span) from None
        return self._normal(found, e.span)

    def _call_dot(self, e: t.Call, scope: Scope) -> Result:
        self._arguments(e, 2, 2, "dot(q, k)")
        left, right = self.all(e.args, scope)
        return self.dot(left, right, e.span, scope)

    def dot(self, left: n.Value, right: n.Value, span: Span, scope: Scope) -> n.Value:
        """Contract the last axes. Raises Fault where their lengths differ."""
        for value in (left, right):
            if not value.axes:
                raise Fault("rank", "`dot` takes tensors with a feature axis", value.span or span, (), NO_AXES)
        a, b = left.axes[-1], right.axes[-1]
        if a.size != b.size:
            names = (_label(left, "left"), _label(right, "right"))
            notes = tuple(combining.describe(x, v) for x, v in zip(names, (left, right), strict=True))
            help = _dot_help(a, b)
            message = f"{_written(left, right)} needs the same feature size on both sides"
            raise Fault("axis-mismatch", message, span, notes, help)
        combining.check_twice(left, right, span, "`dot`", but=1)
        others_a, others_b = left.axes[:-1], right.axes[:-1]
        for y in others_b:
            x = next((x for x in others_a if x.same(y)), None)
            if x is not None and x.size != y.size:
                notes = (combining.describe("left", left), combining.describe("right", right))
                message = f"`dot`: axis {y} has two lengths, {x.size} and {y.size}"
                raise Fault("axis-mismatch", message, span, notes)
        axes = [*others_a, *(y for y in others_b if y not in others_a)]
        if scope.attention is not None:
            key = scope.attention
            axes.sort(key=lambda axis: combining._order(axis, key))
        dtype = promote([left, right])
        dtype = "wide" if dtype in ("int", "bool") or left == right else dtype
        inside = "wide" if meets_wide([left, right]) else dtype
        left, right = cast(left, inside), cast(right, inside)
        return cast(n.Dot(TensorType(inside, tuple(axes)), span, left, right), dtype)

    def _call_outer(self, e: t.Call, scope: Scope) -> Result:
        """An operation whose sides may have axes of their own: every position of one meets every one of the other."""
        written = "outer(k * v)"
        if len(e.args) == 2:
            written = f"outer({e.args[0].span.text} * {e.args[1].span.text})"
        self._arguments(e, 1, 1, written)
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
            return self._elementwise(inner, scope, outer=True)
        if isinstance(inner, t.Call) and name == "concat" and name not in scope.names:
            return self.infer.calls.op(inner, scope, outer=True)
        message = "`outer` holds one operation, whose sides may have axes of their own"
        raise Fault("arguments", message, inner.span, (), "write `outer(k * v)`")

    def _call_range(self, e: t.Call, scope: Scope) -> Result:
        self._arguments(e, 1, 1, "range(n)")
        size = self.size(e.args[0], scope, "the length of `range`")
        name = e.args[0].id if isinstance(e.args[0], t.Name) else None
        axis = self.infer.known_axis(name, scope)
        if axis is None or axis.size != size:
            axis = Axis(name, size, origin=f"{e.args[0].span.text}, {self.infer.line(e.span)}")
        return n.Range(TensorType("int", (axis,)), e.span)

    def _call_len(self, e: t.Call, scope: Scope) -> Result:
        self._arguments(e, 1, 1, "len(depths)")
        if not isinstance(e.args[0], t.List):
            help = "an axis is its length: write its name"
            raise Fault("type", "`len` takes a list of the sizes", e.args[0].span, (), help)
        return len(e.args[0].items)

    def _call_zeros(self, e: t.Call, scope: Scope) -> Result:
        return self._fill(e, scope, 0.0)

    def _call_ones(self, e: t.Call, scope: Scope) -> Result:
        return self._fill(e, scope, 1.0)

    def _fill(self, e: t.Call, scope: Scope, value: float) -> Result:
        assert isinstance(e.func, t.Name)
        self._arguments(e, 1, 1, f"{e.func.id}([b, n])")
        items = e.args[0].items if isinstance(e.args[0], t.List) else (e.args[0],)
        names = [x.id if isinstance(x, t.Name) else None for x in items]
        axes = [self.infer.known_axis(name, scope) for name in names]
        made = (a or Axis(name, self.size(x, scope, "an axis")) for a, name, x in zip(axes, names, items, strict=True))
        return n.Fill(TensorType("float", tuple(made)), e.span, value)

    def _call_reduce(self, e: t.Call, scope: Scope) -> Result:
        assert isinstance(e.func, t.Name)
        name = e.func.id
        axis_expr = dict(e.kwargs).get("axis")
        self._arguments(e, 1, 2 if axis_expr is None else 1, f"{name}(x, axis)")
        arg = self.tensor(e.args[0], scope)
        where = axis_expr if axis_expr is not None else e.args[1] if len(e.args) > 1 else None
        if not arg.axes:
            raise Fault("rank", f"`{name}` needs a tensor with axes", e.args[0].span, (), NO_AXES)
        over = (arg.axes[-1],) if where is None else self.axes_of(where, arg, scope, f"`{name}`")
        dtype = arg.type.dtype
        if name == "mean" and dtype in ("int", "bool"):
            dtype, arg = "wide", cast(arg, "wide")
        elif dtype == "bool":
            dtype = "int" if name == "sum" else "bool"
        return n.Reduce(TensorType(dtype, arg.type.without(over)), e.span, name, arg, over)

    # --- axes by name -----------------------------------------------------------------------------------------

    def axis_of(self, e: t.Expr, value: n.Value, scope: Scope, what: str) -> Axis:
        """The axis of `value` that `e` names. Raises Fault."""
        if not isinstance(e, t.Name):
            if isinstance(e, t.Attribute) and isinstance(e.base, t.Name) and e.base.id in POSITION_NAMES:
                for axis in value.axes:
                    if axis.side == e.base.id and axis.name == e.name:
                        return axis
            raise Fault("axis", f"{what} takes the name of an axis", e.span, (), by_name(e, value.axes))
        wanted = scope.axes.get(e.id)
        found = named(value.axes, e.id) or next((a for a in value.axes if a.name is not None and a == wanted), None)
        if found is not None:
            self.check_single(found, value, e.span)
            return found
        help = missing_axis(e.id, value.axes, scope, self.infer.sizes, f"it has {shown_names(value)}")
        raise Fault(
            "axis", f"{what}: there is no axis `{e.id}` here", e.span, (combining.describe("tensor", value),), help
        )

    def check_single(self, axis: Axis, value: n.Value, span: Span) -> None:
        """Raise Fault where an axis that is meant by its name is one of several of that name."""
        alike = [a for a in value.axes if a.name == axis.name]
        if len(alike) < 2 or axis.name is None:
            return
        message = f"`{axis.name}` is the name of {len(alike)} axes here"
        sides = list(dict.fromkeys(map(str, alike)))
        help = f"write `{'` or `'.join(sides)}`" if len(sides) > 1 else combining.naming_apart(value, axis)
        raise Fault("axis", message, span, (combining.describe("tensor", value),), help)

    def axes_of(self, e: t.Expr, value: n.Value, scope: Scope, what: str) -> tuple[Axis, ...]:
        items = e.items if isinstance(e, t.List) else (e,)
        return tuple(self.axis_of(x, value, scope, what) for x in items)

    # --- indexing ---------------------------------------------------------------------------------------------

    def _index(self, e: t.Index, scope: Scope) -> Result:
        return index(self, e, scope)


def _check_flat(name: str, span: Span, attention: AttentionScope) -> None:
    """Several axes are counted as one only where the other side has the same ones, or none. Raises Fault."""
    own, other = attention.positions, attention.over
    if name == "j":
        own, other = other, own
    if len(own) == 1 or not other or [(a.name, a.size) for a in own] == [(a.name, a.size) for a in other]:
        return
    sides = ("i", attention.positions), ("j", attention.over)
    notes = [f"`{side}`: [{', '.join(a.detailed for a in axes)}]" for side, axes in sides]
    message = f"a bare `{name}` counts several axes as one, and the other side has not the same ones"
    names = [a.name for a in own if a.name is not None]
    shared = next((x for x in names if any(x == a.name for a in other)), None)
    help = f"write its parts: {', '.join(f'`{name}.{x}`' for x in names)}"
    if shared is not None:
        help = f"both have {shared}: write `i.{shared}` and `j.{shared}` for `i` and `j`"
    raise Fault("axis-mismatch", message, span, notes, help)


def keyword_span(name: str, value: t.Expr) -> Span:
    """Where the name of an argument stands, before its value."""
    source = value.span.source
    at = source.text.rfind(name, 0, value.span.start)
    return Span(source, at, at + len(name)) if at >= 0 else value.span


def _whole(value: n.Value) -> bool:
    return isinstance(value, n.Const) and isinstance(value.value, int) and not isinstance(value.value, bool)


def _label(value: n.Value, otherwise: str) -> str:
    return value.name if isinstance(value, n.Local) else otherwise


def _written(left: n.Value, right: n.Value) -> str:
    return f"dot({_label(left, '...')}, {_label(right, '...')})"


def _dot_help(a: Axis, b: Axis) -> str:
    return f"make both sides {a.size} or both {b.size}, for instance with `linear`"


def shown_names(value: n.Value) -> str:
    """The axes of a value in words, for help lines."""
    names = [str(a) for a in value.axes]
    return f"axes {', '.join(names)}" if names else "no axes"
