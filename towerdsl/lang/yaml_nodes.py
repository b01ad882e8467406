"""YAML text --> nodes whose places in the file are known, and what every part of a file is read with.

The file is composed to YAML nodes, never constructed to objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import yaml

from towerdsl.diagnostics import Diagnostic, Diagnostics, Source, Span, TowerError, closest
from towerdsl.lang import tree as t

MAX_CHARACTERS = 100_000
MAX_LEVELS = 40

Node = yaml.Node
T = TypeVar("T")

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def fail(source: Source, code: str, message: str, start: int, help: str | None = None, width: int = 1) -> TowerError:
    """One mistake at a character of the file, as the error that carries it."""
    return TowerError([Diagnostic(code, message, Span(source, start, start + width), (), help)])


def compose(source: Source) -> Node | None:
    """YAML text --> node graph, after bounding its size and depth. Raises TowerError."""
    text = source.text
    if len(text) > MAX_CHARACTERS:
        raise fail(source, "too-long", f"a spec has at most {MAX_CHARACTERS:,} characters, this has {len(text):,}", 0)
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
        raise _explained(source, error) from None
    except yaml.YAMLError as error:
        position = getattr(error, "position", 0)
        help = "remove it" if position < len(text) else None
        raise fail(source, "yaml", "not valid YAML: a character that YAML does not allow", position, help) from None


def _explained(source: Source, error: yaml.MarkedYAMLError) -> TowerError:
    """What is wrong with a text that is not YAML, and where."""
    mark = error.problem_mark or error.context_mark
    at = mark.index if mark else 0
    problem = (error.problem or error.context or "this is not YAML").removeprefix("found ")
    number, _ = source.position(at)
    for near in (number, max(1, number - 1)):
        indent = re.match(r" *\t\s*", source.line(near))
        if indent and indent.end() < len(source.line(near)):
            start = source.start_of(near)
            tab = Span(source, start + indent.group().index("\t"), start + indent.end())
            return TowerError([Diagnostic("yaml", "this line is indented with a tab", tab, (), "indent with spaces")])
    if at >= len(source.text.rstrip()) and error.context_mark:
        at = error.context_mark.index  # where it began says more than where the file ends
    line = None
    if "expected ':'" in problem or "mapping values are not allowed" in problem:
        line = _without_colon(source, error.context_mark.line + 1 if error.context_mark else number)
    if line is not None:
        key = source.line(line).strip()
        start = source.start_of(line) + source.line(line).index(key)
        message, help = f"not valid YAML: `{key}` lacks its colon", f"write `{key}:`"
        if "=" in key:
            message, help = "not valid YAML: this line is no item of the list", "begin it with `- `, or indent it"
        span = Span(source, start, start + len(key))
        return TowerError([Diagnostic("yaml", message, span, (), help)])
    if "expected a single document" in (error.context or problem) or "document start" in problem:
        return fail(source, "yaml", "a file is one YAML document", at, "one file holds one spec: remove the `---`", 3)
    return fail(source, "yaml", f"not valid YAML: {problem}", at, _yaml_help(problem))


def _without_colon(source: Source, number: int) -> int | None:
    """The line, this one or one it may be a part of, that looks like a key but has no colon."""
    indent = len(source.line(number)) - len(source.line(number).lstrip())
    for line in range(number, max(0, number - 20), -1):
        text = source.line(line)
        if not text.strip() or len(text) - len(text.lstrip()) > indent or text.lstrip().startswith("- "):
            continue
        if not re.search(r"[:#]", text):
            return line
        if line < number:
            return None
    return None


def _yaml_help(problem: str) -> str | None:
    for sign, help in {
        "mapping values are not allowed": "put the text in quotes, or check the indentation",
        "cannot start any token": "put the text in quotes",
        "did not find expected key": "check the indentation, and quote texts that hold `[`, `{` or `: `",
        "expected ',' or": 'close the bracket, or quote a type such as "float[a, b]" inside `{...}`',
        "unknown escape": "write `\\\\` for a backslash, or use '...' quotes",
        "unexpected end of stream": "close the quotes",
    }.items():
        if sign in problem:
            return help
    return None


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
        return t.Text(node.value, self.span(node))

    def mapping(self, node: Node | None, what: str) -> list[tuple[t.Text, Node]]:
        """Key and value nodes; keys are unique texts."""
        if node is None or empty(node) or isinstance(node, Reported):
            return []
        if not isinstance(node, yaml.MappingNode):
            self.error("form", f"`{what}` is a mapping of names", self.head(node), help="write `name: value`")
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
        for key, value in node.value:
            if level:  # `d)` of `value: linear(x, d)` was read as a name
                level += self.unclosed(key) + self.unclosed(value)
                continue
            level = self.unclosed(value) if node.flow_style and len(node.value) > 1 else 0
            if level > 0 and any(self.unclosed(k) + self.unclosed(v) < 0 for k, v in node.value):
                self.comma(value, "{...}")
                value = Reported("", "", value.start_mark, value.end_mark)
            else:
                level = 0
            pairs.append((key, value))
        return pairs

    def unclosed(self, node: Node) -> int:
        """How many brackets an unquoted text opens and does not close."""
        if not isinstance(node, yaml.ScalarNode) or node.style:
            return 0
        return sum({"(": 1, "[": 1, ")": -1, "]": -1}.get(c, 0) for c in node.value)

    def comma(self, node: Node, brackets: str) -> None:
        """A value that a comma has cut: say how the whole is written."""
        start, level, end = node.start_mark.index, 0, len(self.source.text)
        for m in re.compile(r"[\[({})\]]").finditer(self.source.text, start):
            level += 1 if m.group() in "([{" else -1
            if level == 0:
                end = m.end()
                break
        whole = Span(self.source, start, end)
        help = f'quote it: `"{whole.text}"`' if "\n" not in whole.text and len(whole.text) < 80 else "quote the value"
        self.error("syntax", f"inside `{brackets}` a comma ends the value", whole, help=help)

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
        items: list[Node] = []
        level = 0
        for item in node.value:
            if level > 0:  # `d)` of `[x = linear(x, d)]` was read as an item
                level += self.unclosed(item)
                continue
            level = self.unclosed(item) if node.flow_style else 0
            if level > 0 and any(self.unclosed(other) < 0 for other in node.value):
                self.comma(item, "[...]")
                items.append(Reported("", item.value, item.start_mark, item.end_mark))
            else:
                level = 0
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

    def fields(self, node: Node, known: Sequence[str], what: str, thing: str) -> dict[str, Node]:
        """The values of a mapping whose keys are known. A misspelled key is reported, and read as what was meant."""
        pairs = self.mapping(node, what)
        found = {key.text: value for key, value in pairs if key.text in known}
        for key, value in pairs:
            if key.text in known:
                continue
            meant = closest(key.text, known)
            listed = f"{thing} has: {', '.join(known)}"
            help = f"did you mean `{meant}`?" if meant else listed
            if key.text == "<<":
                self.mistakes += 1  # fields are missing that it would have brought
                help = "YAML's merge keys are not part of the language: share with `define:` or `blocks:`"
            self.errors.add("unknown-key", f"{thing} has no `{key.text}`", key.span, help=help)
            if meant and meant not in found:
                found[meant] = value
            else:
                self.note_names(value)
        return found
