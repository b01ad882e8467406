"""`a if condition else b`, decided when compiling: of what is not taken, the names are checked and nothing is typed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from towerdsl.budget import spend
from towerdsl.diagnostics import Span
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.lang import tree as t
from towerdsl.ops import ELEMENTWISE, OPS
from towerdsl.passes import static as st
from towerdsl.passes.infer.scope import Fault, Poison, Scope
from towerdsl.passes.infer.statements import assigned
from towerdsl.passes.resolve import RESERVED, block_expressions, statement_expressions, walk
from towerdsl.passes.static import Static

if TYPE_CHECKING:
    from towerdsl.passes.infer.model import Infer


class Branches:
    """Takes the branches that sizes decide, for `infer`, which has the tables and collects the mistakes."""

    def __init__(self, infer: Infer) -> None:
        self.infer = infer

    def expression(self, e: t.Expr, scope: Scope) -> t.Expr:
        """The expression without the choices that sizes decide. Raises Fault, Unknown."""
        if not any(isinstance(x, t.Cond) for x in walk(e)):
            return e
        return self._taken(e, scope)

    def named(self, e: t.Expr, scope: Scope, what: str, values: bool = False) -> t.Expr:
        """The alternative that sizes choose, of names that are no `values`, or of lists. Raises Fault, Unknown."""
        while isinstance(e, t.Cond):
            taken = self._holds(e.test, scope, what)
            if values:
                self.unused(e.otherwise if taken else e.then, scope)
            e = e.then if taken else e.otherwise
        return e

    def type(self, decl: t.AnyType, scope: Scope, known: bool = True) -> t.TypeDecl:
        """The type that sizes choose; its axes are `known` elsewhere, or new here. Raises Fault, Unknown."""
        while isinstance(decl, t.TypeChoice):
            taken = self._holds(decl.test, scope, "a type")
            for d in t.branches(decl.otherwise if taken else decl.then) if known else ():
                for a in d.axes:
                    self.unused(a.size if a.size is not None else t.Name(a.span, a.name or ""), scope)
            decl = decl.then if taken else decl.otherwise
        return decl

    def _holds(self, test: t.Expr, scope: Scope, what: str) -> bool:
        expanded = self.infer.expand(test, scope)
        return self.truth(self.infer.expressions.static(expanded, scope, f"what chooses {what}"), test.span)

    def truth(self, value: Static, span: Span) -> bool:
        """A decided condition. Raises Fault."""
        if isinstance(value, bool | int):
            return bool(value)
        help = "compare it, as in `kind == 'rotary'`" if isinstance(value, str) else "compare it, as in `l % 2 == 0`"
        raise Fault("not-boolean", f"the condition is a truth value, not {st.show(value)}", span, (), help)

    # --- expressions ------------------------------------------------------------------------------------------

    def _taken(self, e: t.Expr, scope: Scope) -> t.Expr:
        spend(5)
        changes: dict[str, Any] = {}
        if isinstance(e, t.Cond):
            test = changes["test"] = self._taken(e.test, scope)
            if self.is_static(test, scope):
                value = self.infer.expressions.any(test, scope)
                if not isinstance(value, n.Value | n.Relation):
                    taken = self.truth(value, e.test.span)
                    self.unused(e.otherwise if taken else e.then, scope)
                    return self._taken(e.then if taken else e.otherwise, scope)
        for name in e.__dataclass_fields__:
            if name not in changes:
                changes[name] = self._inside(getattr(e, name), scope)
        changes = {name: new for name, new in changes.items() if new is not getattr(e, name)}
        return replace(e, **changes) if changes else e

    def _inside(self, value: Any, scope: Scope) -> Any:
        if isinstance(value, t.Expr):
            return self._taken(value, scope)
        if isinstance(value, tuple):
            new = tuple(self._inside(v, scope) for v in value)
            return new if any(a is not b for a, b in zip(new, value, strict=True)) else value
        return value

    def is_static(self, e: t.Expr, scope: Scope) -> bool:
        """Whether it is made of numbers, words, sizes and what is computed from them."""
        spend(3)
        if isinstance(e, t.Name):
            if e.id in scope.names:
                return isinstance(scope.names[e.id], int | float | str | Size | Poison)
            return e.id in self.infer.sizes or (e.id in scope.axes and e.id not in RESERVED)
        if isinstance(e, t.Index) and isinstance(e.base, t.List):
            return all(self.is_static(x, scope) for x in (*e.base.items, *e.items))
        if isinstance(e, t.Call):
            if e.func == t.Name(e.func.span, "len"):
                return True
            known = isinstance(e.func, t.Name) and e.func.id in ELEMENTWISE and e.func.id not in scope.names
            return known and all(self.is_static(a, scope) for a in (*e.args, *(v for _, v in e.kwargs)))
        if isinstance(e, t.Index | t.List | t.Attribute | t.Pick):
            return False
        return all(self.is_static(c, scope) for c in e.children())

    # --- what a reader is shown -------------------------------------------------------------------------------

    def reading(self, e: t.Expr, scope: Scope) -> t.Expr:
        """The expression without what sizes decide, and with those definitions put in that a reader may not know.

        A definition stays where putting it in would write a call twice, which runs once.
        """
        open_ = self.infer.open_definitions
        names = {*open_, *(name for name, op in OPS.items() if op.idle is not None)}
        if not any(isinstance(x, t.Cond | t.Logic) or (isinstance(x, t.Name) and x.id in names) for x in walk(e)):
            return e
        put_in = self.infer.expanded(e, scope, open_)
        once = [x.arg for x in walk(put_in) if isinstance(x, t.Once)]
        repeated = any(isinstance(x, t.Call) for arg in once for x in walk(arg))
        return self._read(e if repeated else put_in, scope)

    def _read(self, e: t.Expr, scope: Scope) -> t.Expr:
        spend(5)
        if isinstance(e, t.Once):
            return self._read(e.arg, scope)
        if isinstance(e, t.Needs):
            return self._read(e.formula, scope)
        if isinstance(e, t.Cond) and (test := self._decided(e.test, scope)) is not None:
            return self._read(e.then if test else e.otherwise, scope)
        if isinstance(e, t.Logic):
            return self._joined(e, scope)
        if isinstance(e, t.Call) and self._is_idle(e, scope):
            return self._read(e.args[0], scope)
        changes: dict[str, Any] = {}
        for name in e.__dataclass_fields__:
            old = getattr(e, name)
            if isinstance(old, t.Expr | tuple):
                changes[name] = _each(old, lambda x: self._read(x, scope))
        return replace(e, **changes)

    def _joined(self, e: t.Logic, scope: Scope) -> t.Expr:
        """`and` or `or` of what is not decided."""
        ends = e.op == "or"  # the truth value that decides all
        left: list[t.Expr] = []
        for operand in e.operands:
            known = self._decided(operand, scope)
            inner = self._read(operand, scope) if known is None else t.Bool(operand.span, known)
            if isinstance(inner, t.Bool):
                if inner.value == ends:
                    return inner
            elif inner not in left:
                left += inner.operands if isinstance(inner, t.Logic) and inner.op == e.op else [inner]
        if not left:
            return t.Bool(e.span, not ends)
        return left[0] if len(left) == 1 else replace(e, operands=tuple(left))

    def _is_idle(self, e: t.Call, scope: Scope) -> bool:
        """Whether it is an operation that does nothing with these arguments: `dropout(x, 0)`."""
        op = OPS.get(e.func.id) if isinstance(e.func, t.Name) and e.func.id not in scope.names else None
        if op is None or op.idle is None:
            return False
        given = dict(zip([*op.tensors, *(p.name for p in op.statics)], e.args, strict=False)) | dict(e.kwargs)
        if op.idle not in given:
            return False
        number = self.infer.expand(given[op.idle], scope)
        return self.is_static(number, scope) and self.infer.expressions.any(number, scope) == 0

    def _decided(self, test: t.Expr, scope: Scope) -> bool | None:
        if isinstance(test, t.Bool):
            return test.value
        test = self.infer.expanded(test, scope)
        if any(isinstance(x, t.Cond) for x in walk(test)) or not self.is_static(test, scope):
            return None
        value = self.infer.expressions.any(test, scope)
        return value if isinstance(value, bool) else None

    # --- what is not taken --------------------------------------------------------------------------------------

    def unused(self, e: t.Expr, scope: Scope) -> None:
        """Report the names of an expression that nothing has."""
        for name in self.unknown(e, scope):
            self.infer.report(self.infer.expressions.unknown_name(name, scope))

    def unknown(self, e: t.Expr, scope: Scope) -> list[t.Name]:
        """The names of an expression that nothing has."""
        return [name for name in _names(e) if not self._known(name.id, scope)]

    def unused_statements(self, statements: Sequence[t.Statement], scope: Scope) -> None:
        """Report the names in statements that nothing has; what they assign is known from here on."""
        scope.skipped |= assigned(statements) | _indices(statements)
        for root in statement_expressions(statements):
            try:
                self.unused(self.infer.expanded(root, scope), scope)
            except Fault as fault:
                self.infer.report(fault)

    def _known(self, name: str, scope: Scope) -> bool:
        resolved = self.infer.resolved
        return (
            name in scope.names
            or name in scope.skipped
            or name in scope.axes
            or name in self.infer.sizes
            or name in RESERVED
            or name in resolved.callable
            or name in self._axes
        )

    @cached_property
    def _axes(self) -> set[str]:
        """Every name that is written as an axis somewhere: with other sizes a tensor may have it."""
        spec = self.infer.resolved.spec
        declared: list[t.AxisDecl] = []
        words: list[str] = []
        roots = [*statement_expressions(spec.flow)]
        statements = [spec.flow]
        for block in self.infer.resolved.blocks.values():
            roots += block_expressions(block)
            statements.append(block.body.body if isinstance(block.body, t.Composition) else block.body.let)
            declared += [a for p in block.signature.parameters for a in p.axes or ()]
        declared += [a for _, kind in spec.inputs for leaf in t.branches(kind) for a in leaf.axes]
        declared += [a for body in statements for target in _targets(body) for a in target.axes or ()]
        for x in (x for root in roots for x in walk(root)):
            if isinstance(x, t.String):
                words += x.value.replace("(", " ").replace(")", " ").split()  # of `rearrange`
            elif isinstance(x, t.Pick):
                words.append(x.axis)
        return {*words, *(a.name for a in declared if a.name is not None)}


def _each(value: Any, change: Callable[[t.Expr], t.Expr]) -> Any:
    """An expression changed, or each expression in a tuple."""
    if isinstance(value, t.Expr):
        return change(value)
    return tuple(_each(x, change) for x in value) if isinstance(value, tuple) else value


def _names(e: t.Expr) -> Iterator[t.Name]:
    """The names in an expression that stand for values: not those of functions, nor of new modules."""
    if isinstance(e, t.Name):
        yield e
    elif isinstance(e, t.Call):
        for argument in (*e.args, *(v for k, v in e.kwargs if k != "name")):
            yield from _names(argument)
    else:
        for c in e.children():
            yield from _names(c)


def _targets(statements: Sequence[t.Statement]) -> Iterator[t.Target]:
    for s in statements:
        if isinstance(s, t.Assign):
            yield from s.targets
        elif isinstance(s, t.For):
            yield from _targets(s.body)
        elif isinstance(s, t.If):
            yield from _targets((*s.body, *s.orelse))


def _indices(statements: Sequence[t.Statement]) -> set[str]:
    """The indices of loops."""
    found: set[str] = set()
    for s in statements:
        if isinstance(s, t.For):
            found |= {s.index} | _indices(s.body)
        elif isinstance(s, t.If):
            found |= _indices((*s.body, *s.orelse))
    return found
