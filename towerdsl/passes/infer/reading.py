"""A block as it reads once sizes have decided: no branches that are not taken, the spec's own definitions put in.

The typed form has numbers where the spec has names, and the standard library's formulas where it has their names; a
reader of the emitted source wants the words of the spec, as far as they are about what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from towerdsl.lang import tree as t


@dataclass
class Readings:
    """What became of the expressions and choices of one block, by their identity; loops may take both branches."""

    forms: dict[int, list[t.Expr]] = field(default_factory=dict)
    tests: dict[int, set[bool]] = field(default_factory=dict)

    def read(self, e: t.Expr, form: t.Expr) -> None:
        """Note what an expression of the spec says, this time."""
        known = self.forms.setdefault(id(e), [])
        if form not in known:
            known.append(form)

    def decided(self, s: t.If, test: bool) -> None:
        """Note which branch is taken, this time."""
        self.tests.setdefault(id(s), set()).add(test)

    def attention(self, body: t.Attention) -> t.Attention:
        """An attention with what was noted put in."""
        changes: dict[str, Any] = {"let": self.statements(body.let)}
        for f in fields(body):
            old = getattr(body, f.name)
            if isinstance(old, t.Expr):
                changes[f.name] = self._form(old)
        if body.heads is not None:
            changes["heads"] = tuple(map(self._form, body.heads))
        return replace(body, **changes)

    def composition(self, body: t.Composition) -> t.Composition:
        """A composition with what was noted put in."""
        return replace(body, body=self.statements(body.body))

    def statements(self, found: Sequence[t.Statement]) -> tuple[t.Statement, ...]:
        """Statements with what was noted put in; a choice that always went one way is that branch."""
        return tuple(x for s in found for x in self._statement(s))

    def _form(self, e: t.Expr) -> t.Expr:
        forms = self.forms.get(id(e), [])
        return forms[0] if len(forms) == 1 else e

    def _statement(self, s: t.Statement) -> Sequence[t.Statement]:
        match s:
            case t.Assign() | t.Bare():
                return (replace(s, value=self._form(s.value)),)
            case t.Return():
                return (replace(s, values=tuple(map(self._form, s.values))),)
            case t.For():
                return (replace(s, count=self._form(s.count), body=self.statements(s.body)),)
            case t.If():
                tests = self.tests.get(id(s), set())
                if len(tests) == 1:
                    return self.statements(s.body if True in tests else s.orelse)
                return (replace(s, body=self.statements(s.body), orelse=self.statements(s.orelse)),)
        return (s,)
