"""Expr --> Expr without definitions: every use of a definition is replaced by its formula.

What comes from a definition takes the span of its use, so that a message points at what the user wrote, and keeps
the piece of the formula inside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from towerdsl.budget import spend
from towerdsl.diagnostics import Diagnostic, Span, TowerError
from towerdsl.lang import tree as t

_KEYS = itertools.count()


def expand(expr: t.Expr, definitions: Mapping[str, t.Definition], hidden: frozenset[str] = frozenset()) -> t.Expr:
    """`window(8)` --> `abs(i - j) < 8`. Names in `hidden` are variables and sizes. Raises TowerError."""
    return _Expander(definitions, hidden).expand(expr, {}, None)


class _Expander:
    def __init__(self, definitions: Mapping[str, t.Definition], hidden: frozenset[str]) -> None:
        self.definitions, self.hidden = definitions, hidden
        self.sizes: dict[int, tuple[t.Expr, int]] = {}  # of arguments, by identity (kept alive)

    def expand(self, e: t.Expr, bound: Mapping[str, t.Expr], part_of: tuple[Span, str] | None) -> t.Expr:
        """`part_of`: where the definition is used that this is a part of, and its name."""
        spend(12)
        at = e.span if part_of is None else part_of[0].inside(part_of[1], e.span)
        if isinstance(e, t.Name):
            if e.id in bound:
                spend(10 * self._nodes(bound[e.id]))  # all of an argument stands there once more
                return bound[e.id]
            if e.id not in self.hidden:
                definition = self.definitions.get(e.id)
                if definition is not None:
                    return self.use(definition, (), (), at)
            return replace(e, span=at)
        if isinstance(e, t.Call) and isinstance(e.func, t.Name):
            args = tuple(self.expand(a, bound, part_of) for a in e.args)
            definition = None if part_of is None and e.func.id in self.hidden else self.definitions.get(e.func.id)
            plain = ("name",) if definition is None else ()  # what a module is called is no formula
            kwargs = tuple((name, a if name in plain else self.expand(a, bound, part_of)) for name, a in e.kwargs)
            if definition is not None and e.func.id not in bound:
                return self.use(definition, args, kwargs, at)
            func = bound.get(e.func.id, replace(e.func, span=at if part_of is not None else e.func.span))
            return t.Call(at, func, args, kwargs)
        changes: dict[str, Any] = {"span": at}
        if isinstance(e, t.Pick) and e.axis in bound:
            changes["axis"] = self._axis(e.axis, bound[e.axis], at)
        for name in e.__dataclass_fields__:
            value = getattr(e, name)
            if isinstance(value, t.Expr):
                changes[name] = self.expand(value, bound, part_of)
            elif isinstance(value, tuple) and value and isinstance(value[0], t.Expr):
                changes[name] = tuple(self.expand(v, bound, part_of) for v in value)
        return replace(e, **changes)

    def _axis(self, parameter: str, argument: t.Expr, at: Span) -> str:
        """`x[n=0]` with a parameter `n`: the axis that it stands for."""
        if isinstance(argument, t.Name):
            return argument.id
        message = f"the definition picks along its parameter `{parameter}`, but `{argument.span.text}` is no axis"
        raise TowerError([Diagnostic("axis", message, at, (), "give it the name of an axis")])

    def _nodes(self, e: t.Expr) -> int:
        """How many nodes an expression has."""
        if id(e) not in self.sizes:
            inside = [*e.children(), *(v for _, v in e.kwargs)] if isinstance(e, t.Call) else e.children()
            self.sizes[id(e)] = (e, 1 + sum(self._nodes(c) for c in inside))
        return self.sizes[id(e)][1]

    def use(
        self, d: t.Definition, args: tuple[t.Expr, ...], kwargs: tuple[tuple[str, t.Expr], ...], at: Span
    ) -> t.Expr:
        parameters = d.signature.parameters
        written = f"{d.signature.name}({', '.join(p.name for p in parameters)})"
        notes = (f"it is defined as {written} at {d.signature.span}",)
        if len(args) > len(parameters):
            takes = f"{len(parameters)} argument{'' if len(parameters) == 1 else 's'}"
            message = f"`{d.signature.name}` takes {takes}, not {len(args)}"
            raise TowerError([Diagnostic("arguments", message, at, notes)])
        bound = {p.name: a for p, a in zip(parameters, args, strict=False)}
        for name, value in kwargs:
            if name not in {p.name for p in parameters}:
                raise TowerError([Diagnostic("arguments", f"`{written}` has no parameter `{name}`", at, notes)])
            if name in bound:
                raise TowerError([Diagnostic("arguments", f"`{name}` is given twice", at, notes)])
            bound[name] = value
        missing = [p.name for p in parameters if p.name not in bound and p.default is None]
        if missing:
            message = f"`{d.signature.name}` needs {', '.join(f'`{m}`' for m in missing)}"
            raise TowerError([Diagnostic("arguments", message, at, notes, f"write `{written}`")])
        for p in parameters:
            if p.name not in bound and p.default is not None:
                bound[p.name] = self.expand(p.default, {}, (at, d.signature.name))
            arg = bound[p.name]
            if not isinstance(arg, _SIMPLE) and _count(d.body, p.name) > 1:
                bound[p.name] = t.Once(arg.span, arg, p.name, next(_KEYS))
        formula = self.expand(d.body, bound, (at, d.signature.name))
        if not d.needs:
            return formula
        asked = tuple((name, arg) for name, arg in bound.items() if any(_count(e, name) for e in d.needs))
        return t.Needs(at, formula, d, asked)


#: Arguments that cost nothing to repeat.
_SIMPLE = (t.Name, t.Number, t.Bool, t.String, t.Attribute, t.List, t.Once)


def _count(e: t.Expr, name: str) -> int:
    """How often a parameter stands in a formula, of which words that are compared leave one branch."""
    spend(2)
    if isinstance(e, t.Cond) and _of_words(e.test):
        return max(_count(e.then, name), _count(e.otherwise, name))
    own = int(isinstance(e, t.Name) and e.id == name)
    inside = [*e.children(), *(v for _, v in e.kwargs)] if isinstance(e, t.Call) else e.children()
    return own + sum(_count(c, name) for c in inside)


def _of_words(test: t.Expr) -> bool:
    """Whether a condition compares words: sizes alone can be those."""
    if isinstance(test, t.Logic):
        return all(_of_words(x) for x in test.operands)
    return isinstance(test, t.Compare) and any(isinstance(x, t.String) for x in test.operands)
