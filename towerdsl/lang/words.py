"""Expr --> the text of the language; a tree that was changed has no span that says it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from towerdsl.lang import tree as t

#: How tightly operations bind; what is not here binds like a name.
LEVELS = {
    **dict.fromkeys(("if",), 0),
    **dict.fromkeys(("or",), 1),
    **dict.fromkeys(("and",), 2),
    **dict.fromkeys(("not",), 3),
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), 4),
    **dict.fromkeys(("+", "-"), 5),
    **dict.fromkeys(("*", "/", "//", "%"), 6),
    **dict.fromkeys(("neg",), 7),
    **dict.fromkeys(("**",), 8),
}
ATOM = 9


def words(e: t.Expr, names: Mapping[str, str] | None = None, level: int = 0) -> str:
    """The text of an expression, in parentheses where it binds less than `level`; `names` are written as others."""
    text, own = _Writer(names or {}).written(e)
    return text if own >= level else f"({text})"


def statement_lines(statements: Sequence[t.Statement], indent: str = "") -> list[str]:
    """Statements as Python would write them: a line each, bodies indented."""
    lines: list[str] = []
    for s in statements:
        if isinstance(s, t.Assign):
            lines.append(f"{indent}{', '.join(_plain(x.span.text) for x in s.targets)} = {words(s.value)}")
        elif isinstance(s, t.Bare):
            lines.append(indent + words(s.value))
        elif isinstance(s, t.Return):
            lines.append(f"{indent}return {', '.join(map(words, s.values))}")
        elif isinstance(s, t.For):
            lines.append(f"{indent}for {s.index} {'along' if s.along else 'in'} {words(s.count)}:")
            lines += statement_lines(s.body, indent + "    ")
        elif isinstance(s, t.If):
            lines += [f"{indent}if {words(s.test)}:", *statement_lines(s.body, indent + "    ")]
            if s.orelse:
                lines += [f"{indent}else:", *statement_lines(s.orelse, indent + "    ")]
    return lines


def _plain(text: str) -> str:
    return " ".join(text.split())


class _Writer:
    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def at(self, e: t.Expr, level: int) -> str:
        text, own = self.written(e)
        return text if own >= level else f"({text})"

    def listed(self, items: Sequence[t.Expr]) -> str:
        return ", ".join(self.at(x, 0) for x in items)

    def written(self, e: t.Expr) -> tuple[str, int]:
        """The text, and how tightly its outermost operation binds."""
        match e:
            case t.Number():
                return _number(e), ATOM
            case t.Bool():
                return str(e.value).lower(), ATOM
            case t.String():
                quoted = e.span.text
                return (quoted if quoted[1:-1] == e.value else f"'{e.value}'"), ATOM
            case t.Name():
                return self.names.get(e.id, e.id), ATOM
            case t.Attribute():
                base = e.base.id if isinstance(e.base, t.Name) else self.at(e.base, ATOM)
                return f"{base}.{e.name}", ATOM
            case t.Call():
                given = [*(self.at(a, 0) for a in e.args), *(f"{k}={self.at(v, 0)}" for k, v in e.kwargs)]
                func = e.func.id if isinstance(e.func, t.Name) else self.at(e.func, ATOM)
                return f"{func}({', '.join(given)})", ATOM
            case t.Index():
                base = e.base.id if isinstance(e.base, t.Name) else self.at(e.base, ATOM)
                return f"{base}[{self.listed(e.items)}]", ATOM
            case t.Pick():
                start, stop = ("" if x is None else self.at(x, 0) for x in (e.start, e.stop))
                return f"{e.axis}={start}:{stop}" if e.is_range else f"{e.axis}={start}", ATOM
            case t.Unary():
                return f"-{self.at(e.operand, LEVELS['neg'])}", LEVELS["neg"]
            case t.Binary():
                return self.binary(e)
            case t.Compare():
                parts = [self.at(x, LEVELS["<"] + 1) for x in e.operands]
                pairs = zip(e.ops, parts[1:], strict=True)
                return parts[0] + "".join(f" {op} {part}" for op, part in pairs), LEVELS["<"]
            case t.Logic():
                level = LEVELS[e.op]
                return f" {e.op} ".join(self.at(x, level + 1) for x in e.operands), level
            case t.Not():
                return f"not {self.at(e.operand, LEVELS['not'])}", LEVELS["not"]
            case t.Cond():
                then, test = self.at(e.then, 1), self.at(e.test, 1)
                return f"{then} if {test} else {self.at(e.otherwise, 0)}", LEVELS["if"]
            case t.Once():
                return self.written(e.arg)
            case t.Needs():
                return self.written(e.formula)
            case t.List():
                return f"[{self.listed(e.items)}]", ATOM
        raise AssertionError(type(e).__name__)

    def binary(self, e: t.Binary) -> tuple[str, int]:
        level = LEVELS[e.op]
        if e.op == "**":
            return f"{self.at(e.left, level + 1)} ** {self.at(e.right, LEVELS['neg'])}", level
        right = self.at(e.right, level + 1)
        if e.op == "+" and _is_negative(e.right):
            return f"{self.at(e.left, level)} - {right.removeprefix('-')}", level
        return f"{self.at(e.left, level)} {e.op} {right}", level


def _is_negative(e: t.Expr) -> bool:
    """Whether it is a minus before all of a product: `a + -b * c` reads `a - b * c`."""
    while isinstance(e, t.Binary) and e.op in ("*", "/"):
        e = e.left
    return isinstance(e, t.Unary)


def _number(e: t.Number) -> str:
    """A number as the spec writes it, where its span still says so."""
    text = e.span.text
    if re.fullmatch(r"[\d.]+(e[+-]?\d+)?", text) and float(text) == e.value:
        return text
    return re.sub(r"e-0*", "e-", repr(e.value))
