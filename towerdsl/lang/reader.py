"""YAML text --> SpecFile, with a span for every key and value.

The file is composed to YAML nodes, never constructed to objects, and each scalar's raw text is read by the
expression parser at its own offset, so that every later message can point into the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import yaml

from towerdsl.diagnostics import Diagnostics, Source, Span, TowerError, did_you_mean
from towerdsl.lang import parser
from towerdsl.lang import tree as t

MAX_BYTES = 100_000
MAX_LEVELS = 40
DTYPES = ("int", "float", "bool", "relation")

TOP_KEYS = (
    "tower paper about sizes use define inputs params modules blocks flow outputs checkpoints".split()  # in this order
)
ATTENTION_KEYS = (
    "about let params modules query key value over features heads score mask locality normalize dropout message "
    "merge output"
).split()
COMPOSITION_KEYS = ["about", "params", "modules", "flow"]

Node = yaml.Node
T = TypeVar("T")


def read_spec(source: Source, path: Path | None = None) -> t.SpecFile:
    """Read one file. Raises TowerError with every mistake of form in it."""
    reader = _Reader(source)
    spec = reader.file(path)
    reader.errors.raise_if_any()
    return spec


def _fail(source: Source, code: str, message: str, start: int, help: str | None = None) -> TowerError:
    errors = Diagnostics()
    errors.add(code, message, Span(source, start, start + 1), help=help)
    return TowerError(errors.sorted)


def _compose(source: Source) -> Node | None:
    """YAML text --> node graph, after bounding its size and depth. Raises TowerError."""
    text = source.text
    if len(text) > MAX_BYTES:
        raise _fail(source, "too-long", f"a spec has at most {MAX_BYTES:,} characters, this has {len(text):,}", 0)
    try:
        level = 0
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            start = event.start_mark.index if event.start_mark else 0
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                message = "YAML anchors and aliases are not part of the language"
                raise _fail(source, "yaml-alias", message, start, "share with `define:`, `blocks:` or `modules:`")
            if getattr(event, "tag", None):
                raise _fail(source, "yaml-tag", "YAML tags are not part of the language", start, "remove the tag")
            if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                level += 1
                if level > MAX_LEVELS:
                    message = f"the file is nested more than {MAX_LEVELS} levels deep"
                    raise _fail(source, "too-deep", message, start, "move the inner part to a block of its own")
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                level -= 1
        return yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = (error.problem or error.context or "this is not YAML").removeprefix("found ")
        raise _fail(
            source, "yaml", f"not valid YAML: {problem}", mark.index if mark else 0, _yaml_help(problem)
        ) from None
    except yaml.YAMLError as error:
        position = getattr(error, "position", 0)
        raise _fail(source, "yaml", "not valid YAML: a character that YAML does not allow", position) from None


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


class _Reader:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.errors = Diagnostics()

    # --- YAML nodes -------------------------------------------------------------------------------------------

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
            self.errors.add("form", "a single value was expected here", self.head(node))
            return None
        return t.Text(node.value, self.span(node))

    def mapping(self, node: Node | None, what: str) -> list[tuple[t.Text, Node]]:
        """Key and value nodes; keys are unique texts."""
        if node is None or (isinstance(node, yaml.ScalarNode) and node.value == "" and node.style is None):
            return []
        if not isinstance(node, yaml.MappingNode):
            self.errors.add("form", f"`{what}` is a mapping of names", self.head(node), help="write `name: value`")
            return []
        found: dict[str, t.Text] = {}
        pairs = []
        for key_node, value in node.value:
            key = self.text(key_node)
            if key is None:
                continue
            if key.text in found:
                first = found[key.text].span
                self.errors.add(
                    "name-reused",
                    f"`{key.text}` is given twice in `{what}`",
                    key.span,
                    [f"first on line {first.line}"],
                    "remove one of them",
                )
                continue
            found[key.text] = key
            pairs.append((key, value))
        return pairs

    def sequence(self, node: Node | None, what: str) -> list[Node]:
        if node is None:
            return []
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        self.errors.add("form", f"`{what}` is a list", self.head(node), help="write one item a line, each after `- `")
        return []

    def parse(self, how: Callable[[str, Span], T], node: Node, what: str = "an expression") -> T | None:
        """Read a scalar's raw text with `how`; mistakes are collected and give None."""
        if not isinstance(node, yaml.ScalarNode):
            help = "put it in quotes" if isinstance(node, yaml.SequenceNode) else None
            self.errors.add("form", f"{what} was expected here", self.head(node), help=help)
            return None
        span = self.span(node)
        try:
            return how(span.text, span)
        except TowerError as error:
            for d in error.diagnostics:
                self.errors.add(d.code, d.message, d.span, d.notes, d.help)
            return None

    def read(self, how: Callable[[], T]) -> T | None:
        try:
            return how()
        except TowerError as error:
            for d in error.diagnostics:
                self.errors.add(d.code, d.message, d.span, d.notes, d.help)
            return None

    def expression(self, node: Node) -> t.Expr | None:
        """A scalar, or a YAML list of them (`over: [h, w]`)."""
        if isinstance(node, yaml.SequenceNode):
            items = [self.expression(n) for n in node.value]
            return t.List(self.span(node), tuple(e for e in items if e is not None))
        return self.parse(parser.parse_expression, node)

    def unknown(self, key: t.Text, known: list[str], what: str) -> None:
        listed = f"{what} has: {', '.join(known)}"
        self.errors.add(
            "unknown-key", f"{what} has no `{key.text}`", key.span, help=did_you_mean(key.text, known, listed)
        )

    # --- the file ---------------------------------------------------------------------------------------------

    def file(self, path: Path | None) -> t.SpecFile:
        root = _compose(self.source)
        if root is None:
            raise _fail(self.source, "form", "the file is empty", 0, "start with `tower: name`")
        if not isinstance(root, yaml.MappingNode):
            raise _fail(self.source, "form", "a spec is a mapping", self.span(root).start, "start with `tower: name`")
        nodes: dict[str, Node] = {}
        for key, value in self.mapping(root, "the file"):
            if key.text in TOP_KEYS:
                nodes[key.text] = value
            else:
                self.unknown(key, TOP_KEYS, "a spec")
        tower = self.name(nodes["tower"]) if "tower" in nodes else None
        uses = []
        for node in self.sequence(nodes.get("use"), "use"):
            text = self.text(node)
            if text:
                uses.append(text)
        flow = self.statements(nodes.get("flow"), "flow")
        if "flow" in nodes and tower is None:
            self.errors.add("form", "a spec with a `flow` needs a name", self.head(root), help="add `tower: name`")
        return t.SpecFile(
            source=self.source,
            path=path,
            tower=tower,
            paper=self.words(nodes.get("paper")),
            about=self.words(nodes.get("about")),
            sizes=self.expressions(nodes.get("sizes"), "sizes"),
            use=tuple(uses),
            define=self.definitions(nodes.get("define")),
            inputs=self.types(nodes.get("inputs"), "inputs"),
            params=self.types(nodes.get("params"), "params"),
            modules=self.expressions(nodes.get("modules"), "modules"),
            blocks=self.blocks(nodes.get("blocks")),
            flow=flow,
            outputs=self.outputs(nodes.get("outputs")),
            checkpoints=self.checkpoints(nodes.get("checkpoints")),
        )

    def words(self, node: Node | None) -> str | None:
        text = self.text(node) if node is not None else None
        return " ".join(text.text.split()) if text else None

    def name(self, node: Node) -> t.Text | None:
        text = self.text(node)
        if text and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text.text):
            self.errors.add(
                "name", f"`{text.text}` is not a name", text.span, help="use letters, digits and `_`, as in `bert_base`"
            )
            return None
        return text

    def named(self, node: Node | None, what: str) -> list[tuple[t.Text, Node]]:
        found = []
        for key, value in self.mapping(node, what):
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key.text):
                found.append((key, value))
            else:
                help = "use letters, digits and `_`"
                self.errors.add("name", f"`{key.text}` is not a name for one of `{what}`", key.span, help=help)
        return found

    def expressions(self, node: Node | None, what: str) -> tuple[tuple[t.Text, t.Expr], ...]:
        pairs = [(key, self.expression(value)) for key, value in self.named(node, what)]
        return tuple((key, e) for key, e in pairs if e is not None)

    def types(self, node: Node | None, what: str) -> tuple[tuple[t.Text, t.TypeDecl], ...]:
        pairs = [(key, self.type(value)) for key, value in self.named(node, what)]
        return tuple((key, e) for key, e in pairs if e is not None)

    def type(self, node: Node) -> t.TypeDecl | None:
        found = self.parse(parser.parse_declaration, node, "a type such as `float[b, n, d]`")
        if found is None:
            return None
        left, default = found
        help = "write a type such as `float[b, n, d]`"
        if isinstance(left, t.Name) and left.id in DTYPES:
            return t.TypeDecl(left.id, (), default, left.span)
        if not (isinstance(left, t.Index) and isinstance(left.base, t.Name)):
            self.errors.add("type", "this is not a type", left.span, help=help)
            return None
        if left.base.id not in DTYPES:
            known = did_you_mean(left.base.id, DTYPES, f"types are {', '.join(DTYPES)}")
            self.errors.add("type", f"there is no type `{left.base.id}`", left.base.span, help=known)
            return None
        index = left
        axes = self.read(lambda: parser.axes(index.items))
        return None if axes is None else t.TypeDecl(left.base.id, axes, default, left.span)

    def definitions(self, node: Node | None) -> tuple[t.Definition, ...]:
        found = []
        for key, value in self.mapping(node, "define"):
            signature, body = self.signature(key), self.expression(value)
            if signature and body:
                found.append(t.Definition(signature, body, self.source))
        return tuple(found)

    def signature(self, key: t.Text) -> t.Signature | None:
        def how() -> t.Signature:
            return parser.signature(parser.parse_expression(key.span.text, key.span))

        return self.read(how)

    def outputs(self, node: Node | None) -> tuple[tuple[t.Text | None, t.Expr], ...]:
        if node is None:
            return ()
        if isinstance(node, yaml.MappingNode):
            return self.expressions(node, "outputs")
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found = [self.expression(n) for n in nodes]
        return tuple((None, e) for e in found if e is not None)

    # --- blocks and statements --------------------------------------------------------------------------------

    def blocks(self, node: Node | None) -> tuple[t.Block, ...]:
        found = []
        for key, value in self.mapping(node, "blocks"):
            signature, block = self.signature(key), self.block(key, value)
            if signature and block:
                body, about = block
                found.append(t.Block(signature, body, about, key.span, self.source))
        return tuple(found)

    def block(self, key: t.Text, node: Node) -> tuple[t.Attention | t.Composition, str | None] | None:
        if isinstance(node, yaml.SequenceNode):
            return t.Composition((), (), self.statements(node, key.text)), None
        if not isinstance(node, yaml.MappingNode):
            help = "write an attention (query, key, value...) or a list of statements"
            self.errors.add("form", "a block is a mapping or a list", key.span, help=help)
            return None
        nodes: dict[str, tuple[t.Text, Node]] = {k.text: (k, v) for k, v in self.mapping(node, key.text)}
        composition = "flow" in nodes
        known = COMPOSITION_KEYS if composition else ATTENTION_KEYS
        for name, (where, _) in nodes.items():
            if name not in known:
                self.unknown(where, known, "a composition" if composition else "an attention")
        values = {name: value for name, (_, value) in nodes.items()}
        about = self.words(values.get("about"))
        params, modules = self.types(values.get("params"), "params"), self.expressions(values.get("modules"), "modules")
        if composition:
            return t.Composition(params, modules, self.statements(values["flow"], "flow")), about
        if "value" not in values:
            message = f"the attention `{key.text}` has no `value`"
            self.errors.add("missing-field", message, key.span, help="say what is averaged: `value: linear(x, d)`")
            return None

        def field(name: str) -> t.Expr | None:
            return self.expression(values[name]) if name in values else None

        value = field("value")
        merge = self.text(values["merge"]) if "merge" in values else None
        if merge and merge.text not in ("concat", "mean", "sum"):
            near = did_you_mean(merge.text, ["concat", "mean", "sum"], "merge is concat, mean or sum")
            self.errors.add("merge", f"heads cannot be merged by `{merge.text}`", merge.span, help=near)
        if value is None:
            return None
        attention = t.Attention(
            let=self.statements(values.get("let"), "let"),
            params=params,
            modules=modules,
            query=field("query"),
            key=field("key"),
            value=value,
            over=field("over"),
            features=field("features"),
            heads=self.heads(values.get("heads")),
            score=field("score"),
            mask=field("mask"),
            locality=field("locality"),
            normalize=field("normalize"),
            dropout=field("dropout"),
            message=field("message"),
            merge=merge,
            output=field("output"),
        )
        return attention, about

    def heads(self, node: Node | None) -> tuple[t.Expr, t.Expr] | None:
        if node is None:
            return None
        if not isinstance(node, yaml.MappingNode):
            both = self.expression(node)
            return (both, both) if both else None
        found: dict[str, t.Expr] = {}
        for key, value in self.mapping(node, "heads"):
            if key.text not in ("query", "key"):
                self.unknown(key, ["query", "key"], "heads")
                continue
            expression = self.expression(value)
            if expression:
                found[key.text] = expression
        if len(found) < 2:
            help = "write `heads: {query: 9, key: 3}`, or one number for both"
            self.errors.add("missing-field", "`heads` needs both query and key", self.head(node), help=help)
            return None
        return found["query"], found["key"]

    def statements(self, node: Node | None, what: str) -> tuple[t.Statement, ...]:
        found: list[t.Statement] = []
        for item in self.sequence(node, what):
            if isinstance(item, yaml.MappingNode):
                statement = self.structured(item)
            else:
                statement = self.parse(parser.parse_statement, item, "a statement")
            if statement is not None:
                found.append(statement)
        return tuple(found)

    def structured(self, node: yaml.MappingNode) -> t.Statement | None:
        """`for ...:` or `if ...:` with `else:`, each with a list of statements."""
        parts: list[tuple[str, str, t.Expr | None, tuple[t.Statement, ...], t.Text]] = []
        for key, value in self.mapping(node, "a statement"):
            header = self.read(partial(parser.parse_header, key.span.text, key.span))
            body = self.statements(value, key.text)
            if header is None:
                return None
            parts.append((*header, body, key))
        kinds = [p[0] for p in parts]
        if kinds == ["for"]:
            _, index, count, body, key = parts[0]
            assert count is not None
            return t.For(key.span, index, count, body)
        if kinds in (["if"], ["if", "else"]):
            _, _, test, body, key = parts[0]
            assert test is not None
            return t.If(key.span, test, body, parts[1][3] if len(parts) > 1 else ())
        help = "a mapping among statements is `for l in count:`, or `if condition:` with `else:`"
        self.errors.add("syntax", "this is not a statement", self.head(node), help=help)
        return None

    # --- checkpoints ------------------------------------------------------------------------------------------

    def checkpoints(self, node: Node | None) -> tuple[t.CheckpointSection, ...]:
        found = []
        for name, value in self.mapping(node, "checkpoints"):
            rules: list[tuple[t.Text, t.Text]] = []
            lists: dict[str, tuple[t.Text, ...]] = {"ignore": (), "prefix": ()}
            for key, item in self.mapping(value, name.text):
                if key.text in lists:
                    texts = [self.text(n) for n in self.sequence(item, key.text)]
                    lists[key.text] = tuple(x for x in texts if x)
                else:
                    right = self.text(item)
                    if right:
                        rules.append((key, right))
            found.append(t.CheckpointSection(name, tuple(rules), lists["ignore"], lists["prefix"]))
        return tuple(found)
