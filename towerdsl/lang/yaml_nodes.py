"""YAML text --> nodes whose places in the file are known, and what every part of a file is read with.

The file is composed to YAML nodes, never constructed to objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

import yaml

from towerdsl.diagnostics import Diagnostics, Source, Span, TowerError, did_you_mean
from towerdsl.lang import tree as t

MAX_BYTES = 100_000
MAX_LEVELS = 40

Node = yaml.Node
T = TypeVar("T")

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def fail(source: Source, code: str, message: str, start: int, help: str | None = None) -> TowerError:
    errors = Diagnostics()
    errors.add(code, message, Span(source, start, start + 1), help=help)
    return TowerError(errors.sorted)


def compose(source: Source) -> Node | None:
    """YAML text --> node graph, after bounding its size and depth. Raises TowerError."""
    text = source.text
    if len(text) > MAX_BYTES:
        raise fail(source, "too-long", f"a spec has at most {MAX_BYTES:,} characters, this has {len(text):,}", 0)
    try:
        level = 0
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            start = event.start_mark.index if event.start_mark else 0
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                message = "YAML anchors and aliases are not part of the language"
                raise fail(source, "yaml-alias", message, start, "share with `define:`, `blocks:` or `modules:`")
            if getattr(event, "tag", None):
                raise fail(source, "yaml-tag", "YAML tags are not part of the language", start, "remove the tag")
            if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                level += 1
                if level > MAX_LEVELS:
                    message = f"the file is nested more than {MAX_LEVELS} levels deep"
                    raise fail(source, "too-deep", message, start, "move the inner part to a block of its own")
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                level -= 1
        return yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = (error.problem or error.context or "this is not YAML").removeprefix("found ")
        raise fail(
            source, "yaml", f"not valid YAML: {problem}", mark.index if mark else 0, _yaml_help(problem)
        ) from None
    except yaml.YAMLError as error:
        position = getattr(error, "position", 0)
        raise fail(source, "yaml", "not valid YAML: a character that YAML does not allow", position) from None


def _yaml_help(problem: str) -> str | None:
    for sign, help in {
        "mapping values are not allowed": "put the text in quotes, or check the indentation",
        "tab": "indent with spaces",
        "cannot start any token": "put the text in quotes",
        "did not find expected key": "check the indentation, and quote texts that hold `[`, `{` or `: `",
        "expected ',' or": 'close the bracket, or quote a type such as "float[a, b]" inside `{...}`',
        "expected a single document": "one file holds one spec: remove the `---`",
        "did not find expected <document start>": "one file holds one spec",
    }.items():
        if sign in problem:
            return help
    return None


def empty(node: Node) -> bool:
    """`key:` with nothing behind it."""
    return isinstance(node, yaml.ScalarNode) and node.value == "" and node.style is None


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

    def text(self, node: Node) -> t.Text | None:
        if not isinstance(node, yaml.ScalarNode):
            self.error("form", "a single value was expected here", self.head(node))
            return None
        return t.Text(node.value, self.span(node))

    def mapping(self, node: Node | None, what: str) -> list[tuple[t.Text, Node]]:
        """Key and value nodes; keys are unique texts."""
        if node is None or empty(node):
            return []
        if not isinstance(node, yaml.MappingNode):
            self.error("form", f"`{what}` is a mapping of names", self.head(node), help="write `name: value`")
            return []
        found: dict[str, t.Text] = {}
        pairs = []
        for key_node, value in node.value:
            key = self.text(key_node)
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
        if node is None:
            return []
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        self.error("form", f"`{what}` is a list", self.head(node), help="write one item a line, each after `- `")
        return []

    def parse(self, how: Callable[[str, Span], T], node: Node, what: str = "an expression") -> T | None:
        """Read a scalar's raw text with `how`; mistakes are collected and give None."""
        if not isinstance(node, yaml.ScalarNode):
            help = "put it in quotes" if isinstance(node, yaml.SequenceNode) else None
            self.error("form", f"{what} was expected here", self.head(node), help=help)
            return None
        span = self.span(node)
        return self.read(lambda: how(span.text, span))

    def read(self, how: Callable[[], T]) -> T | None:
        """What `how` reads; its mistakes are collected and give None."""
        try:
            return how()
        except TowerError as error:
            for d in error.diagnostics:
                assert d.span is not None
                self.error(d.code, d.message, d.span, d.notes, d.help)
            return None

    def unknown(self, key: t.Text, known: Iterable[str], what: str) -> None:
        listed = f"{what} has: {', '.join(known)}"
        help = did_you_mean(key.text, known, listed)
        self.error("unknown-key", f"{what} has no `{key.text}`", key.span, help=help)
