"""Text of one expression or statement --> tree, with spans into the file it stands in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedInput

from towerdsl.budget import spend, working_at
from towerdsl.diagnostics import Span, visible
from towerdsl.lang import tree as t
from towerdsl.lang.foreign import LIBRARIES
from towerdsl.lang.mistakes import KEYWORDS, TOKEN, dunder, error, explain

MAX_CHARACTERS = 10_000
MAX_LEVELS = 100
MAX_NAME = 100
_LONG = re.compile(rf"[^\W\d]\w{{{MAX_NAME},}}")


@cache
def _lark() -> Lark:
    grammar = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", start=["expression", "statement", "header"], propagate_positions=True)


def parse_expression(text: str, span: Span) -> t.Expr:
    """The expression in `text`, which stands at `span.start` in its source. Raises TowerError."""
    return _Builder(span).build(_parse(text, span, "expression"))


def parse_statement(text: str, span: Span) -> t.Statement:
    """An assignment, a `return` or a bare expression. Raises TowerError."""
    parsed = _parse(text, span, "statement")
    builder = _Builder(span)
    whole = builder.span_of(parsed)
    assert isinstance(parsed, Tree)
    items = builder.sequence(parsed.children[0])
    if parsed.data == "returns":
        return t.Return(whole, items)
    if parsed.data == "assign":
        value = builder.build(parsed.children[1])
        return t.Assign(whole, tuple(target(e) for e in items), value)
    if len(items) > 1:
        raise error("syntax", "several values, but nothing receives them", whole, "write `return a, b` or `a, b = ...`")
    return t.Bare(whole, items[0])


def parse_header(text: str, span: Span) -> tuple[str, str, t.Expr | None]:
    """`for l in depth` --> ("for", "l", depth), `for t along n` --> ("along", "t", n); `if c` --> ("if", "", c);
    `else` --> ("else", "", None)."""
    parsed = _parse(text, span, "header")
    builder = _Builder(span)
    assert isinstance(parsed, Tree)
    if parsed.data in ("for_header", "along_header"):
        kind = str(parsed.data).removesuffix("_header")
        index = str(parsed.children[0])
        if index in (*KEYWORDS, "true", "false"):
            raise error("syntax", f"`{index}` is a word of the language, it cannot be a name here", span, None)
        return kind, index, builder.build(parsed.children[1])
    if parsed.data == "if_header":
        return "if", "", builder.build(parsed.children[0])
    return "else", "", None


def parse_declaration(text: str, span: Span) -> tuple[t.Expr, t.Expr | None]:
    """`left` or `left = right`: a type with a default. `float[]` is `float`, a single number."""
    text = re.sub(r"\[\s*\]", lambda m: " " * len(m.group()), text)
    parsed = _parse(text, span, "type")
    builder = _Builder(span)
    assert isinstance(parsed, Tree)
    if parsed.data == "returns":
        raise error("syntax", "`return` belongs in a list of statements", builder.span_of(parsed), None)
    items = builder.sequence(parsed.children[0])
    if len(items) != 1:
        raise error("syntax", "one type was expected here", items[1].span, "write one such as `float[b, n, d]`")
    return items[0], builder.build(parsed.children[1]) if parsed.data == "assign" else None


def target(expr: t.Expr, parameter: bool = False) -> t.Target:
    """The left side of an assignment: `x` or `x[b, n, d]`. Raises TowerError."""
    if isinstance(expr, t.Name):
        return t.Target(expr.id, None, expr.span)
    if isinstance(expr, t.Index) and isinstance(expr.base, t.Name):
        return t.Target(expr.base.id, axes(expr.items), expr.span)
    message, help = "only a name can be assigned", "write `x = ...` or `x[b, n, d] = ...`"
    if parameter:
        message, help = "a parameter is a name", "write `x` or `x[b, n, d]`"
    raise error("syntax", message, expr.span, help)


def axes(items: Sequence[t.Expr]) -> tuple[t.AxisDecl, ...]:
    """Index items read as axes: `n`, `3`, `4 * d`, `h = image`. Raises TowerError."""
    found = []
    for item in items:
        if isinstance(item, t.Pick):
            if item.is_range:
                raise error("syntax", "an axis has a name and a size, not a range", item.span, "write `h = image`")
            found.append(t.AxisDecl(item.axis, item.start, item.span))
        elif isinstance(item, t.Name):
            found.append(t.AxisDecl(item.id, None, item.span))
        else:
            found.append(t.AxisDecl(None, item, item.span))
    return tuple(found)


def parse_signature(text: str, span: Span) -> t.Signature:
    """`look(x[b, n, d], keep, shift=0)` or, without parameters, `causal`. Raises TowerError."""
    expr = _Builder(span).build(_parse(text, span, "signature"))
    if isinstance(expr, t.Name):
        return t.Signature(expr.id, (), expr.span)
    if not (isinstance(expr, t.Call) and isinstance(expr.func, t.Name)):
        raise error("syntax", "a name with parameters was expected", expr.span, "write it as `look(x, keep):`")
    found: list[t.Parameter] = []
    for arg in expr.args:
        named = target(arg, parameter=True)
        found.append(t.Parameter(named.name, named.axes, None, named.span))
    for name, default in expr.kwargs:
        found.append(t.Parameter(name, None, default, default.span))
    seen: set[str] = set()
    for p in found:
        if p.name in seen:
            raise error("name-reused", f"the parameter `{p.name}` is named twice", p.span, "give each its own name")
        seen.add(p.name)
    return t.Signature(expr.func.id, tuple(found), expr.span)


def _parse(text: str, span: Span, kind: str) -> Tree[Token] | Token:
    if len(text) > MAX_CHARACTERS:
        message = f"this expression has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read"
        raise error("too-long", message, Span(span.source, span.start, span.start + 1), "name its parts in `define:`")
    _check_levels(text, span)
    _check_names(text, span)
    if (long := _LONG.search(text)) is not None:
        place = Span(span.source, span.start + long.start(), span.start + long.end())
        raise error("too-long", long_name(long.group()), place, "call it something shorter")
    working_at(span)
    spend(50 + 5 * len(text))
    try:
        return _lark().parse(text, start={"signature": "expression", "type": "statement"}.get(kind, kind))
    except UnexpectedInput as problem:
        raise explain(problem, text, span, kind) from None


def long_name(name: str) -> str:
    """What is wrong with a name that is too long."""
    return f"a name has at most {MAX_NAME} characters, this has {len(name):,}"


def _check_names(text: str, span: Span) -> None:
    if not text.isascii() and (unseen := next((k for k, c in enumerate(text) if visible(c) != c), None)) is not None:
        place = Span(span.source, span.start + unseen, span.start + unseen + 1)
        message = f"this text has the character `{visible(text[unseen])}`, which cannot be shown"
        raise error("form", message, place, "remove it")
    for match in TOKEN.finditer(text) if "__" in text else ():
        if found := dunder(match.group()):
            place = Span(span.source, span.start + match.start(), span.start + match.end())
            raise error("name-reserved", found[0], place, found[1])


def _check_levels(text: str, span: Span) -> None:
    level = 0
    for match in re.finditer(r"[(\[)\]]", text):
        level += 1 if match.group() in "([" else -1
        if level > MAX_LEVELS:
            place = Span(span.source, span.start + match.start(), span.start + match.end())
            message = f"brackets are nested more than {MAX_LEVELS} levels deep"
            raise error("too-deep", message, place, "name its parts in `define:`")


class _Builder:
    def __init__(self, span: Span) -> None:
        self.source, self.offset = span.source, span.start

    def span_of(self, node: Tree[Token] | Token) -> Span:
        meta = node if isinstance(node, Token) else node.meta
        start, end = getattr(meta, "start_pos", None), getattr(meta, "end_pos", None)
        return Span(self.source, self.offset + (start or 0), self.offset + (end or start or 0))

    def sequence(self, node: Tree[Token] | Token | None) -> tuple[t.Expr, ...]:
        return tuple(self.build(c) for c in node.children if c is not None) if isinstance(node, Tree) else ()

    def build(self, root: Tree[Token] | Token) -> t.Expr:
        """Build bottom up without recursion, and bound the depth of what is built."""
        depth: dict[int, int] = {}
        built: dict[int, t.Expr] = {}
        assert isinstance(root, Tree)
        for node in root.iter_subtrees():  # children before parents
            below = [depth[id(c)] for c in node.children if isinstance(c, Tree)]
            depth[id(node)] = 1 + max(below, default=0)
            if depth[id(node)] > 4 * MAX_LEVELS:
                message = f"this expression is nested more than {4 * MAX_LEVELS} levels deep"
                raise error("too-deep", message, self.span_of(node), "name its parts in `define:`")
            make = getattr(self, f"_{node.data}", None)
            if make is not None:
                built[id(node)] = make(node, self.span_of(node), built)
        return built[id(root)]

    # Each method below builds one node; its operands are in `built`.

    def _number(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        text = str(node.children[0])
        if len(text) > 40:
            raise error("too-long", "this number has too many digits", span, None)
        if text.isdigit() and text != str(int(text)):
            raise error("syntax", "a whole number does not begin with 0", span, f"write `{int(text)}`")
        return t.Number(span, int(text) if text.isdigit() else float(text))

    def _string(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        return t.String(span, str(node.children[0])[1:-1])

    def _true(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        return t.Bool(span, True)

    def _false(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        return t.Bool(span, False)

    def _name(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        name = str(node.children[0])
        if name in KEYWORDS:
            raise error("syntax", f"`{name}` is a word of the language, it cannot be a name here", span, None)
        return t.Name(span, name)

    def _group(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        return built[id(node.children[0])]

    def _list(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        inner = node.children[0]
        items = tuple(built[id(c)] for c in inner.children) if isinstance(inner, Tree) else ()
        return t.List(span, items)

    def _attribute(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        return t.Attribute(span, built[id(node.children[0])], str(node.children[1]))

    def _call(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        func, arguments = node.children
        args: list[t.Expr] = []
        kwargs: list[tuple[str, t.Expr]] = []
        for argument in arguments.children if isinstance(arguments, Tree) else ():
            if not isinstance(argument, Tree):
                continue
            if argument.data == "keyword":
                name = str(argument.children[0])
                if name in dict(kwargs):
                    raise error("arguments", f"`{name}` is given twice", self.span_of(argument), None)
                kwargs.append((name, built[id(argument.children[1])]))
            elif kwargs:
                message = "an argument in order cannot follow one given by name"
                raise error("arguments", message, self.span_of(argument), "put it before the named ones")
            else:
                args.append(built[id(argument.children[0])])
        called = built[id(func)]
        if not isinstance(called, t.Name):
            help = None
            library = called.base if isinstance(called, t.Attribute) else None
            if isinstance(called, t.Call) or (isinstance(called, t.Attribute) and called.name[:1].isupper()):
                help = "a layer and what it is given are one call: `linear(x, d)`"
            elif isinstance(called, t.Attribute) and isinstance(library, t.Name) and library.id in LIBRARIES:
                help = f"the language has functions of its own: write `{called.name}(...)`, without `{library.id}.`"
            elif isinstance(called, t.Attribute):
                help = f"write `{called.name}(...)`, with what stands before the `.` as its first argument"
            raise error("not-a-function", "only a name can be called", span, help)
        return t.Call(span, called, tuple(args), tuple(kwargs))

    def _index(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        base, picks = node.children
        assert isinstance(picks, Tree)
        items: list[t.Expr] = []
        for pick in picks.children:
            if not isinstance(pick, Tree):
                continue
            parts = [built[id(c)] if isinstance(c, Tree) else c for c in pick.children]
            where = self.span_of(pick)
            if pick.data == "position":
                assert isinstance(parts[0], t.Expr)
                items.append(parts[0])
            else:
                start, stop = parts[1], parts[2] if len(parts) > 2 else None
                assert not isinstance(start, Token) and not isinstance(stop, Token)
                items.append(t.Pick(where, str(parts[0]), start, stop, pick.data == "pick_range"))
        return t.Index(span, built[id(base)], tuple(items))

    def _unary(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        op, operand = str(node.children[0]), built[id(node.children[1])]
        return operand if op == "+" else t.Unary(span, "-", operand)

    def _binary(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        left, op, right = node.children
        return t.Binary(span, str(op), built[id(left)], built[id(right)])

    def _comparison(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        operands = tuple(built[id(c)] for c in node.children[::2])
        return t.Compare(span, tuple(str(c) for c in node.children[1::2]), operands)

    def _conjunction(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        return t.Logic(span, "and", tuple(built[id(c)] for c in node.children))

    def _disjunction(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        return t.Logic(span, "or", tuple(built[id(c)] for c in node.children))

    def _not_(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        return t.Not(span, built[id(node.children[0])])

    def _cond(self, node: Tree[Token], span: Span, built: dict[int, t.Expr]) -> t.Expr:
        then, test, otherwise = (built[id(c)] for c in node.children)
        return t.Cond(span, test, then, otherwise)
