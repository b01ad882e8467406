"""YAML text --> nodes whose places in the file are known, and what every part of a file is read with.

The file is composed to YAML nodes, never constructed to objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import yaml

from towerdsl.budget import spend
from towerdsl.diagnostics import Diagnostic, Diagnostics, Source, Span, TowerError, closest, visible
from towerdsl.lang import tree as t
from towerdsl.lang.yaml_mistakes import cut, explained, fail, tagged

MAX_CHARACTERS = 100_000
MAX_LEVELS = 40

Node = yaml.Node
T = TypeVar("T")

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Half of a pair of UTF-16, which is no character.
_LONE = re.compile("[\ud800-\udfff]")
#: What YAML lets be escaped in quotes, and no file should hold.
_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ud800-\udfff]")


def compose(source: Source) -> Node | None:
    """YAML text --> node graph, after bounding its size and depth. Raises TowerError."""
    text = source.text
    if len(text) > MAX_CHARACTERS:
        raise fail(source, "too-long", f"a spec has at most {MAX_CHARACTERS:,} characters, this has {len(text):,}", 0)
    if (lone := _LONE.search(text)) is not None:
        raise _not_allowed(source, lone.start())
    try:
        level = 0
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            spend(20)
            start = event.start_mark.index if event.start_mark else 0
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                message = "YAML anchors and aliases are not part of the language"
                raise fail(source, "yaml-alias", message, start, "share with `define:`, `blocks:` or `modules:`")
            if getattr(event, "tag", None):
                raise tagged(source, start)
            if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                level += 1
                if level > MAX_LEVELS:
                    message = f"the file is nested more than {MAX_LEVELS} levels deep"
                    raise fail(source, "too-deep", message, start, "move the inner part to a block of its own")
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                level -= 1
        return yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        raise explained(source, error) from None
    except yaml.YAMLError as error:
        position = getattr(error, "position", 0)
        raise _not_allowed(source, position) from None


def _not_allowed(source: Source, position: int) -> TowerError:
    help = "remove it" if position < len(source.text) else None
    return fail(source, "yaml", "not valid YAML: a character that YAML does not allow", position, help)


class Reported(yaml.ScalarNode):
    """A value of which a mistake has been reported: nothing more is said."""


def unescaped(span: Span, style: str) -> str:
    """The text in YAML's quotes, as long as it is written: a doubled or escaped quote is a quote and a space.

    Raises TowerError for other escapes.
    """
    raw, escaped = span.text, {"'": "''", '"': '\\"'}.get(style)
    if escaped is None or (escaped not in raw and (style == "'" or "\\" not in raw)):
        return raw
    found: list[str] = []
    inside = ""
    for m in re.finditer(rf"{re.escape(escaped)}|\\\n|\\.|.|\n" if style == '"' else r"''|.|\n", raw):
        piece = m.group()
        if piece == escaped:
            found.append(f" {style}" if not inside else f"{style} ")
            inside = style if not inside else "" if inside == style else inside
        elif piece == "\\\n":
            found.append("  ")
        elif len(piece) == 2:
            at = Span(span.source, span.start + m.start(), span.start + m.end())
            help = "write the text in '...' quotes, or without"
            raise TowerError([Diagnostic("syntax", f"the escape `{piece}` has no meaning here", at, (), help)])
        else:
            if piece in "\"'" and inside in ("", piece):
                inside = "" if inside else piece
            found.append(piece)
    return "".join(found)


def empty(node: Node) -> bool:
    """`key:` with nothing behind it."""
    return isinstance(node, yaml.ScalarNode) and not (node.value or node.style or isinstance(node, Reported))


class Nodes:
    """Reads nodes of one file; mistakes are collected, and the names of what could not be read."""

    def __init__(self, source: Source, errors: Diagnostics) -> None:
        self.source = source
        self.errors = errors
        self.mistakes = 0  # of this file; `errors` may be shared
        self.fatal = False  # a whole part of the file is unreadable: what follows would only repeat that
        self.broken: set[str] = set()

    def error(self, code: str, message: str, span: Span, notes: Iterable[str] = (), help: str | None = None) -> None:
        self.mistakes += 1
        self.errors.add(code, message, span, notes, help)

    def span(self, node: Node) -> Span:
        """The node's text: of a scalar, what is inside its quotes."""
        start, end = node.start_mark.index, node.end_mark.index
        if isinstance(node, yaml.ScalarNode):
            if node.style in ("'", '"'):
                return Span(self.source, start + 1, end - 1)
            if node.style in ("|", ">"):
                header = self.source.text.find("\n", start)
                return Span(self.source, header + 1, max(end, header + 1))
            end = start + len(self.source.text[start:end].rstrip())
        return Span(self.source, start, max(end, start + 1))

    def head(self, node: Node) -> Span:
        """Where a mapping or list begins: its first line, for carets."""
        span = self.span(node)
        line_end = self.source.text.find("\n", span.start)
        return Span(self.source, span.start, min(span.end, line_end if line_end >= 0 else span.end))

    def text(self, node: Node, what: str = "a single value") -> t.Text | None:
        if isinstance(node, Reported):
            return None
        if not isinstance(node, yaml.ScalarNode):
            kind = "mapping" if isinstance(node, yaml.MappingNode) else "list"
            self.error("form", f"{what} was expected here, this is a {kind}", self.head(node))
            return None
        if (control := _CONTROL.search(node.value)) is not None:
            message = f"this text has the character `{visible(control.group(), '')}`, which cannot be shown"
            self.error("form", message, self.head(node), help="remove it")
            return None
        return t.Text(node.value, self.span(node))

    def mapping(self, node: Node | None, what: str) -> list[tuple[t.Text, Node]]:
        """Key and value nodes; keys are unique texts."""
        if node is None or empty(node) or isinstance(node, Reported):
            return []
        if not isinstance(node, yaml.MappingNode):
            help = "write `name: value`"
            if isinstance(node, yaml.SequenceNode):
                help += ", without `[` and `]`" if node.flow_style else ", without the `- `"
            elif m := re.match(rf"({NAME.pattern}):(\S+)", node.value):
                help = f"write `{m[1]}: {m[2]}`, with a space behind the colon"
            self.error("form", f"`{what}` is a mapping of names", self.head(node), help=help)
            return []
        found: dict[str, t.Text] = {}
        pairs = []
        for key_node, value in self.whole_pairs(node):
            key = self.text(key_node, "a name as key")
            if key is None:
                continue
            if key.text in found:
                first = found[key.text].span
                message, note = f"`{key.text}` is given twice in `{what}`", f"first on line {first.line}"
                self.error("name-reused", message, key.span, [note], "remove one of them")
                self.note_names(value)
                continue
            found[key.text] = key
            pairs.append((key, value))
        return pairs

    def whole_pairs(self, node: yaml.MappingNode) -> list[tuple[Node, Node]]:
        """The pairs of a mapping. In `{...}` a comma ends a value: of one that was cut, the rest is left out."""
        pairs: list[tuple[Node, Node]] = []
        level = 0
        cut = node.flow_style and any(self.unclosed(k) < 0 or self.unclosed(v) < 0 for k, v in node.value)
        for key, value in node.value:
            if level > 0:  # `d)` of `value: linear(x, d)` was read as a name
                level += self.unclosed(key) + self.unclosed(value)
                continue
            level = 0
            if cut and self.unclosed(key) > 0:  # `far(a` of `far(a, b): a + b`
                level = self.unclosed(key) + self.unclosed(value)
                self.cut(key, key=True)
                self.note_name(t.Text(key.value, self.span(key)))
                continue
            if cut and self.unclosed(value) > 0:
                level = self.unclosed(value)
                self.cut(value)
                value = Reported("", "", value.start_mark, value.end_mark)
            pairs.append((key, value))
        return pairs

    def unclosed(self, node: Node) -> int:
        """How many brackets an unquoted text opens and does not close."""
        if not isinstance(node, yaml.ScalarNode) or node.style:
            return 0
        return sum({"(": 1, "[": 1, ")": -1, "]": -1}.get(c, 0) for c in node.value)

    def cut(self, node: Node, key: bool = False) -> None:
        """A value that a comma has cut: say how the whole is written."""
        d = cut(self.source, node.start_mark.index, key)
        assert d.span is not None
        self.error(d.code, d.message, d.span, d.notes, d.help)

    def note_names(self, node: Node) -> None:
        """Take the keys of an unreadable mapping as names that are broken."""
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    self.note_name(t.Text(key.value, self.span(key)))

    def note_name(self, key: t.Text) -> None:
        """Take the name that a key begins with, `look` of `look(x`, as one that is broken."""
        if m := NAME.match(key.text):
            self.broken.add(m.group())

    def sequence(self, node: Node | None, what: str) -> list[Node]:
        if node is None or isinstance(node, Reported):
            return []
        if not isinstance(node, yaml.SequenceNode):
            message = f"`{what}` is empty" if empty(node) else f"`{what}` is a list"
            help = "write one item a line, each after `- `"
            if isinstance(node, yaml.ScalarNode) and NAME.fullmatch(node.value):
                help = f"write `{what}: [{node.value}]`"
            self.error("form", message, self.head(node), help=help)
            return []
        return self.whole_items(node)

    def whole_items(self, node: yaml.SequenceNode) -> list[Node]:
        """The items of a list. In `[...]` a comma ends an item: of one that was cut, the rest is left out."""
        items: list[Node] = []
        level = 0
        cut = node.flow_style and any(self.unclosed(item) < 0 for item in node.value)
        for item in node.value:
            if level > 0:  # `d)` of `[x = linear(x, d)]` was read as an item
                level += self.unclosed(item)
                continue
            level = self.unclosed(item) if cut else 0
            if level > 0:
                self.cut(item)
                item = Reported("", item.value, item.start_mark, item.end_mark)
            items.append(item)
        return items

    def parse(self, how: Callable[[str, Span], T], node: Node, what: str = "an expression") -> T | None:
        """Read a scalar's raw text with `how`; mistakes are collected and give None."""
        if isinstance(node, Reported):
            return None
        if not isinstance(node, yaml.ScalarNode):
            kind, help = "a list", "put the text in quotes"
            if isinstance(node, yaml.MappingNode):
                kind, help = "a mapping", "put the text in quotes if it holds a colon"
                if node.flow_style:
                    kind, help = "a mapping in YAML", "write it without `{` and `}`"
            self.error("form", f"{what} was expected here, this is {kind}", self.head(node), help=help)
            return None
        span = self.span(node)
        return self.read(lambda: how(unescaped(span, node.style or ""), span))

    def read(self, how: Callable[[], T]) -> T | None:
        """What `how` reads; its mistakes are collected and give None."""
        try:
            return how()
        except TowerError as error:
            for d in error.diagnostics:
                assert d.span is not None
                self.error(d.code, d.message, d.span, d.notes, d.help)
            return None

    def fields(
        self, node: Node, known: Sequence[str], what: str, thing: str, foreign: Mapping[str, str] = MappingProxyType({})
    ) -> dict[str, Node]:
        """The values of a mapping whose keys are known. A misspelled key is reported, and read as what was meant;
        for a `foreign` word that is the key it stands for, or what to write."""
        pairs = self.mapping(node, what)
        found = {key.text: value for key, value in pairs if key.text in known}
        for key, value in pairs:
            if key.text in known:
                continue
            other = foreign.get(key.text)
            meant = other if other in known else None if other else closest(key.text, known)
            listed = f"{thing} has: {', '.join(known)}"
            help = f"did you mean `{meant}`?" if meant else other or listed
            if key.text == "<<":
                self.mistakes += 1  # fields are missing that it would have brought
                help = "YAML's merge keys are not part of the language: share with `define:` or `blocks:`"
            self.errors.add("unknown-key", f"{thing} has no `{key.text}`", key.span, help=help)
            if meant and meant not in found:
                found[meant] = value
            else:
                self.note_names(value)
        return found
