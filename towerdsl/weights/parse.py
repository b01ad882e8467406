"""One side of a checkpoint rule, from text to expression."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from towerdsl.budget import spend, working_at
from towerdsl.diagnostics import Diagnostics, did_you_mean
from towerdsl.weights.expressions import Concat, Expr, Reshape, Stack, Transpose
from towerdsl.weights.names import Text, inside, parse_name

MAX_CHARACTERS = 10_000
MAX_LEVELS = 100
MAX_LENGTH = 2**48

_WORDS = {
    "PATTERN": "a name",
    "FUNC": "a name",
    "KEY": "an option such as `dim=0`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "a list `[...]`",
    "RSQB": "`]`",
    "COMMA": "`,`",
    "EQUAL": "`=`",
    "INT": "a number",
    "IDENT": "a size",
    "$END": "the end",
}

_OPTIONS: dict[str, tuple[str, ...]] = {
    "transpose": ("dims",),
    "concat": ("dim", "parts"),
    "stack": ("dim", "over"),
    "reshape": (),
}

#: The options that are lists, and of what.
LISTS = {"parts": "lengths", "dims": "dims"}

_FORMS = {
    "transpose": "transpose(a, dims=[-2, -1])",
    "concat": "concat(a, b, ..., dim=0)",
    "stack": "stack(a, dim=0)",
    "reshape": "reshape(a, [8, -1])",
}


@lru_cache(maxsize=1)
def _grammar() -> Lark:
    return Lark.open(
        "checkpoint.lark", rel_to=__file__, parser="lalr", propagate_positions=True, maybe_placeholders=False
    )


def parse_expr(text: Text, found: Diagnostics, sizes: Mapping[str, int]) -> Expr | None:
    """The expression in `text`; None after adding what is wrong with it to `found`."""
    if not text.text.strip():
        found.add("checkpoint-syntax", "a checkpoint rule needs a name on both sides", text.span)
        return None
    working_at(text.span)
    spend(50 + 5 * len(text.text))
    if len(text.text) > MAX_CHARACTERS:
        found.add("checkpoint-limit", f"an expression may have {MAX_CHARACTERS} characters", text.span)
        return None
    level = deepest = 0
    for c in text.text:
        level += (c in "([") - (c in ")]")
        deepest = max(deepest, level)
    if deepest > MAX_LEVELS:
        found.add("checkpoint-limit", f"an expression may have {MAX_LEVELS} levels", text.span)
        return None
    try:
        tree = _grammar().parse(text.text)
    except UnexpectedInput as error:
        _explain(text, error, found)
        return None
    before = len(found)
    result = _Reader(text, found, sizes).expr(tree.children[0])
    return result if len(found) == before else None


def _explain(text: Text, error: UnexpectedInput, found: Diagnostics) -> None:
    at, got = len(text.text), ""
    allowed: Iterable[str] = ()
    if isinstance(error, UnexpectedToken):
        allowed = error.accepts or error.expected
        if error.token.type != "$END" and error.token.start_pos is not None:
            at, got = error.token.start_pos, str(error.token)
    elif isinstance(error, UnexpectedCharacters):
        at = error.pos_in_stream or 0
        allowed, got = error.allowed or (), text.text[at : at + 1]
    words = sorted({_WORDS[name] for name in allowed if name in _WORDS})
    expected = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "something else"
    found.add(
        "checkpoint-syntax",
        f"expected {expected}, got {f'`{got}`' if got else 'the end'}",
        inside(text, at, at + max(1, len(got))),
        help=f"a side of a rule is a name, or one of {', '.join(f'`{form}`' for form in _FORMS.values())}",
    )


class _Reader:
    def __init__(self, text: Text, found: Diagnostics, sizes: Mapping[str, int]) -> None:
        self.text, self.found, self.sizes = text, found, sizes

    def expr(self, tree: Tree[Token] | Token) -> Expr | None:
        assert isinstance(tree, Tree)
        start, end = _ends(tree)
        if tree.data == "name":
            return parse_name(self.text, start, end, self.found)
        head = tree.children[0]
        assert isinstance(head, Token)
        function = str(head)
        rest = tree.children[1] if len(tree.children) > 1 else None
        if function not in _FORMS:
            at = _ends(head)
            help = did_you_mean(function, _FORMS, f"there are {', '.join(_FORMS)}")
            self.found.add("checkpoint-function", f"there is no `{function}` here", inside(self.text, *at), help=help)
            return None
        items: list[Expr] = []
        lists: list[tuple[int, ...]] = []
        options: dict[str, tuple[int, ...] | int | str] = {}
        before = len(self.found)
        for argument in rest.children if isinstance(rest, Tree) else []:
            assert isinstance(argument, Tree)
            if argument.data == "option":
                self.option(function, argument, options)
            elif argument.data == "list":
                lists.append(self.lengths(argument))
            else:
                item = self.expr(argument)
                items += [item] if item is not None else []
        if len(self.found) > before:
            return None
        return self.build(function, items, lists, options, (start, end))

    def build(
        self,
        function: str,
        items: list[Expr],
        lists: list[tuple[int, ...]],
        options: dict[str, tuple[int, ...] | int | str],
        at: tuple[int, int],
    ) -> Expr | None:
        span = inside(self.text, *at)
        dim = options.get("dim", 0)
        assert isinstance(dim, int)
        wanted = len(items) >= 2 if function == "concat" else len(items) == 1
        if not wanted or len(lists) != (function == "reshape"):
            got = f"{len(items)} tensor{'s' * (len(items) != 1)}" + (f" and {len(lists)} list" if lists else "")
            self.found.add(
                "checkpoint-arguments", f"`{function}` is written `{_FORMS[function]}`, this one has {got}", span
            )
        elif function == "transpose":
            dims = options.get("dims", (-2, -1))
            if isinstance(dims, tuple) and len(dims) == 2:
                return Transpose(items[0], (dims[0], dims[1]), span)
            self.found.add("checkpoint-arguments", "`dims` needs the two dims that are swapped", span)
        elif function == "stack":
            return Stack(items[0], dim, str(options.get("over", "")), span)
        elif function == "concat":
            parts = options.get("parts")
            if parts is None:
                return Concat(tuple(items), dim, None, span)
            if isinstance(parts, tuple) and len(parts) == len(items) and min(parts) > 0:
                return Concat(tuple(items), dim, parts, span)
            self.found.add(
                "checkpoint-arguments", f"`parts` needs {len(items)} positive lengths, one for each tensor", span
            )
        elif min(lists[0], default=0) < -1 or lists[0].count(-1) > 1:
            self.found.add("checkpoint-arguments", "a shape has lengths from 0 on, and at most one -1", span)
        else:
            return Reshape(items[0], lists[0], span)
        return None

    def option(self, function: str, tree: Tree[Token], options: dict[str, tuple[int, ...] | int | str]) -> None:
        key, value = str(tree.children[0]), tree.children[1]
        span = inside(self.text, *_ends(tree))
        known = _OPTIONS[function]
        if key not in known:
            has = f"it has {' and '.join(f'`{k}`' for k in known)}" if known else "it has none"
            self.found.add(
                "checkpoint-option", f"`{function}` has no option `{key}`", span, help=did_you_mean(key, known, has)
            )
        elif key in options:
            self.found.add("checkpoint-option", f"`{key}` is given twice", span)
        elif key == "over":
            if isinstance(value, Tree) and value.data == "size":
                options[key] = str(value.children[0])
            else:
                self.found.add("checkpoint-option", "`over` needs the name of a placeholder", span)
        elif isinstance(value, Tree) and value.data == "list":
            if key in LISTS:
                options[key] = self.lengths(value)
            else:
                self.found.add("checkpoint-option", f"`{key}` needs one number", span)
        elif key in LISTS:
            self.found.add("checkpoint-option", f"`{key}` needs a list of {LISTS[key]}", span)
        else:
            options[key] = self.number(value)

    def lengths(self, tree: Tree[Token]) -> tuple[int, ...]:
        return tuple(self.number(child) for child in tree.children)

    def number(self, tree: Tree[Token] | Token) -> int:
        """The value of an arithmetic expression; 0 after adding what is wrong with it."""
        before = len(self.found)
        value = self._number(tree)
        if abs(value) > MAX_LENGTH and len(self.found) == before:
            self.found.add("checkpoint-limit", "this length is too large", inside(self.text, *_ends(tree)))
        return value

    def _number(self, tree: Tree[Token] | Token) -> int:
        assert isinstance(tree, Tree)
        children = tree.children
        if tree.data == "number":
            return int(str(children[0]))
        if tree.data == "size":
            name = str(children[0])
            if name in self.sizes:
                return self.sizes[name]
            self.found.add(
                "unknown-name",
                f"there is no size `{name}`",
                inside(self.text, *_ends(tree)),
                help=did_you_mean(name, self.sizes),
            )
            return 0
        if tree.data == "negative":
            return -self._number(children[-1])
        value = self._number(children[0])
        for sign, operand in zip(children[1::2], children[2::2], strict=True):
            other = self._number(operand)
            if sign == "//" and other == 0:
                self.found.add("checkpoint-arguments", "division by zero", inside(self.text, *_ends(tree)))
                return 0
            value = {"+": value + other, "-": value - other, "*": value * other}.get(str(sign), value // (other or 1))
            value = max(-MAX_LENGTH - 1, min(value, MAX_LENGTH + 1))
        return value


def _ends(tree: Tree[Token] | Token) -> tuple[int, int]:
    place = tree if isinstance(tree, Token) else tree.meta
    return place.start_pos or 0, place.end_pos or 0
