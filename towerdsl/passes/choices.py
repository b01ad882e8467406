"""Sizes that are one of several words or numbers: `kind: one_of('learned', 'rotary')`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from towerdsl.budget import spend
from towerdsl.diagnostics import Diagnostics, Span, did_you_mean
from towerdsl.lang import tree as t
from towerdsl.passes.static import Static, show

FORM = "write `kind: one_of('learned', 'rotary')`: words in quotes, or numbers"


@dataclass
class Choice:
    """What a size may be. `compared` has what other files that know the size say it may be, too."""

    values: tuple[Static, ...]
    span: Span
    compared: list[Static] = field(default_factory=list)

    @property
    def shown(self) -> str:
        return ", ".join(map(show, self.values))

    def find(self, value: Static) -> Static | None:
        """The choice that is this value."""
        return next((v for v in self.values if same(v, value)), None)

    def near(self, value: Static) -> str | None:
        """A help line for what is no choice."""
        return did_you_mean(str(value), [v for v in self.values if isinstance(v, str)])

    def others(self, value: Static) -> str:
        """What the size may be as well, in words: `learned or sinusoidal`."""
        found = [str(v) for v in self.values if not same(v, value)]
        return " or ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def same(a: Static, b: Static) -> bool:
    """Whether two values are the same choice: `true` is not 1, and a word is not a number."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def literal(e: t.Expr) -> Static | None:
    """The value of a word, a number or a truth value as it is written."""
    if isinstance(e, t.String | t.Number | t.Bool):
        return e.value
    if isinstance(e, t.Unary) and isinstance(e.operand, t.Number):
        return -e.operand.value
    return None


class Choices:
    """Reads the sizes of the files in turn, and keeps what each may be."""

    def __init__(self, errors: Diagnostics) -> None:
        self.errors = errors
        self.of: dict[str, Choice] = {}
        self.items: dict[str, Choice] = {}  # of lists of words

    def size(self, name: str, e: t.Expr) -> t.Expr:
        """The value of a size: of `one_of`, the first; a later file's word may stand without its quotes."""
        if isinstance(e, t.List) and (words := [x.value for x in e.items if isinstance(x, t.String)]):
            known = self.items[name].compared if name in self.items else []
            self.items[name] = Choice(tuple(dict.fromkeys(words)), e.span, [*known, *words])
        if not (isinstance(e, t.Call) and e.func == t.Name(e.span, "one_of")):
            return _words(e) if name in self.of else e
        values: list[Static] = []
        for item in e.args:
            spend(1 + len(values) // 10)
            value = literal(item)
            if value is None:
                message = f"`{item.span.text}` is neither a word in quotes nor a number"
                help = f"write `'{item.id}'`" if isinstance(item, t.Name) else FORM
                self.errors.add("choice", message, item.span, help=help)
                values += [item.id] if isinstance(item, t.Name) else []
            elif any(same(value, v) for v in values):
                self.errors.add("choice", f"{show(value)} is given twice", item.span, help="remove one of them")
            else:
                values.append(value)
        if e.kwargs or not e.args:
            self.errors.add("choice", "`one_of` takes what the size may be", e.span, help=FORM)
        if not values:
            return t.String(e.span, "")
        known = self.of[name].compared if name in self.of else []
        self.of[name] = Choice(tuple(values), e.span, [*known, *values])
        first = next((item for item in e.args if literal(item) is not None), None)
        return first if first is not None else t.String(e.span, "")

    def check(self, roots: Iterable[t.Expr], hidden: frozenset[str]) -> None:
        """A size is compared with what it may be. Names in `hidden` are not sizes."""
        for e in (x for root in roots for x in _comparisons(root)):
            for op, a, b in zip(e.ops, e.operands, e.operands[1:], strict=False):
                for left, right in ((a, b), (b, a)) if op in ("==", "!=") else ():
                    value, base = literal(right), left.base if isinstance(left, t.Index) else left
                    if not isinstance(base, t.Name) or base.id in hidden or value is None:
                        continue
                    choice = (self.of if base is left else self.items).get(base.id)
                    if choice is not None and not any(same(value, v) for v in choice.compared):
                        message = f"`{left.span.text}` is never {show(value)}"
                        note = f"it is one of {choice.shown}, {choice.span}"
                        self.errors.add("choice", message, right.span, [note], choice.near(value))


def _words(e: t.Expr) -> t.Expr:
    if isinstance(e, t.Name):
        return t.String(e.span, e.id)
    if isinstance(e, t.Cond):
        return replace(e, then=_words(e.then), otherwise=_words(e.otherwise))
    return e


def _comparisons(e: t.Expr) -> Iterator[t.Compare]:
    if isinstance(e, t.Compare):
        yield e
    for c in e.children():
        yield from _comparisons(c)
    for _, c in e.kwargs if isinstance(e, t.Call) else ():
        yield from _comparisons(c)
