"""Formula --> Value: a condition in its one form, as it would be written by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

from towerdsl.diagnostics import Span
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.passes.formula import All, Fact, Formula, Within
from towerdsl.passes.intervals import Interval, Order
from towerdsl.passes.linear import ONE, ZERO, Atom, Floor, Linear, Modulo, negative

_OPPOSITE = {"==": "!=", "<": ">=", ">=": "<"}


@dataclass(frozen=True)
class Writer:
    """Writes formulas over `axes`, which stand in this order in the types of what is written."""

    axes: tuple[Axis, ...]
    span: Span | None
    order: Order

    def condition(self, formula: Formula) -> n.Value:
        match formula:
            case Within():
                return self._within(formula)
            case Fact():
                return formula.value if formula.holds else self._not(formula.value)
        if not formula.parts:
            return n.Const(TensorType("bool", (), True), self.span, isinstance(formula, All))
        op = "and" if isinstance(formula, All) else "or"
        return reduce(lambda a, b: self._of("bool", op, a, b), map(self.condition, formula.parts))

    def _of(self, dtype: str, op: str, *args: n.Value) -> n.Value:
        found = {a for x in args for a in x.axes}
        kind = TensorType(dtype, tuple(a for a in self.axes if a in found), all(x.type.scalar for x in args))
        return n.Pointwise(kind, self.span, op, args)

    def _not(self, value: n.Value) -> n.Value:
        inner = n.plain(value)
        # a < b is not the opposite of a >= b for numbers that may be none
        exact = isinstance(inner, n.Pointwise) and all(a.type.dtype == "int" for a in inner.args)
        if isinstance(inner, n.Pointwise) and inner.op in _OPPOSITE and (exact or inner.op == "=="):
            return replace(inner, op=_OPPOSITE[inner.op])
        return self._of("bool", "not", value)

    # --- forms in intervals -----------------------------------------------------------------------------------

    def _within(self, literal: Within) -> n.Value:
        outside = self.order.complement(literal.sets)
        if len(literal.sets) > 1 and len(outside) == 1:
            return self._interval(literal.form, outside[0], holds=False)
        parts = [self._interval(literal.form, x) for x in literal.sets]
        return reduce(lambda a, b: self._of("bool", "or", a, b), parts)

    def _interval(self, form: Linear, x: Interval, holds: bool = True) -> n.Value:
        """low <= form <= high, or its opposite."""
        low, high = x
        if low is not None and low == high:
            return self._compared(form, "==" if holds else "!=", low)
        if low is not None and high is not None and low == -high and len(form.terms) > 1:
            return self._of(
                "bool", "<" if holds else ">=", self._of("int", "abs", self.number(form)), self.size(high + 1)
            )
        parts = [] if low is None else [self._compared(form, ">=" if holds else "<", low)]
        parts += [] if high is None else [self._compared(form, "<" if holds else ">=", high + 1)]
        return reduce(lambda a, b: self._of("bool", "and" if holds else "or", a, b), parts)

    def _compared(self, form: Linear, op: str, bound: Size) -> n.Value:
        """`j <= i`, `j < i` where the bound is 0 or 1, otherwise `i - j >= 3`."""
        plus, minus = (Linear(tuple(t for t in form.terms if negative(t[1]) == down)) for down in (False, True))
        if minus.terms and plus.terms:
            left, right = self.number(plus), self.number(-minus)
            match op, bound.integer:
                case (("==" | "!=" | "<"), 0):
                    return self._of("bool", op, left, right)
                case ">=", 0:
                    return self._of("bool", "<=", right, left)
                case ">=", 1:
                    return self._of("bool", "<", right, left)
                case "<", 1:
                    return self._of("bool", "<=", left, right)
        if op == ">=" and bound == ONE:
            op, bound = ">", ZERO
        return self._of("bool", op, self.number(form), self.size(bound))

    def size(self, size: Size) -> n.Value:
        number = size.integer
        kind = TensorType("int", (), True)
        return n.Const(kind, self.span, number) if number is not None else n.SizeOf(kind, self.span, size)

    def number(self, form: Linear) -> n.Value:
        """A form as a sum, what is added before what is taken away."""
        parts = sorted(form.terms, key=lambda t: negative(t[1]))
        found: n.Value | None = None
        for atom, factor in parts:
            minus = negative(factor) and (found is not None or factor == -ONE)
            term = self._term(atom, -factor if minus else factor)
            if found is not None:
                found = self._of("int", "-" if minus else "+", found, term)
            else:
                found = self._of("int", "neg", term) if minus else term
        if found is None:
            return self.size(form.constant)
        if form.constant == ZERO:
            return found
        down = negative(form.constant)
        return self._of("int", "-" if down else "+", found, self.size(-form.constant if down else form.constant))

    def _term(self, atom: Atom, factor: Size) -> n.Value:
        value = self._atom(atom)
        return value if factor == ONE else self._of("int", "*", value, self.size(factor))

    def _atom(self, atom: Atom) -> n.Value:
        match atom:
            case Floor():
                return self._of("int", "//", self.number(atom.form), self.size(atom.by))
            case Modulo():
                return self._of("int", "%", self.number(atom.form), self.size(atom.by))
        assert isinstance(atom, n.Value), "larger ones and choices are taken apart before"
        return atom
