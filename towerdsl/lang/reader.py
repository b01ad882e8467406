"""YAML text --> SpecFile, with a span for every key and value.

The file is composed to YAML nodes, never constructed to objects, and each scalar's raw text is read by the
expression parser at its own offset, so that every later message can point into the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import yaml

from towerdsl.diagnostics import Diagnostics, Source, did_you_mean
from towerdsl.lang import parser
from towerdsl.lang import tree as t
from towerdsl.lang.foreign import FIELDS, STATEMENTS
from towerdsl.lang.mistakes import CHARACTERS, KEYWORDS, WORDS, dunder
from towerdsl.lang.public import PublicNames
from towerdsl.lang.yaml_mistakes import fail, lacks_space
from towerdsl.lang.yaml_nodes import NAME, Node, Reported, compose, empty

DTYPES = ("int", "float", "bool", "relation")

TOP_KEYS = (  # in this order
    "tower paper about sizes use define inputs params modules blocks flow outputs checkpoints config gguf".split()
)
ATTENTION_KEYS = (
    "about let params modules query key value over features heads score mask locality normalize dropout message "
    "merge output needs"
).split()
COMPOSITION_KEYS = ["about", "params", "modules", "flow", "needs"]
DEFINITION_KEYS = ["formula", "needs"]


#: What stands before the `=` of an assignment: `x`, `a, b` or `x[b, n]`.
TARGET = r"\s*[A-Za-z_]\w*\s*(?:\[[^\]]*\]\s*)?"
TARGETS = re.compile(rf"{TARGET}(?:,{TARGET})*(?=[-+*/@]?=(?!=)|:|$)")


def assigned(statement: t.Statement) -> Iterator[str]:
    """The names that a statement assigns."""
    if isinstance(statement, t.Assign):
        yield from (target.name for target in statement.targets)
    elif isinstance(statement, (t.For, t.If)):
        for inner in (*statement.body, *(statement.orelse if isinstance(statement, t.If) else ())):
            yield from assigned(inner)


def read_spec(source: Source, path: Path | None = None, errors: Diagnostics | None = None) -> t.SpecFile:
    """Read one file. Mistakes of form are added to `errors`, and what could be read is returned.

    Raises TowerError with every mistake if no `errors` are given, or where going on makes no sense.
    """
    reader = _Reader(source, Diagnostics() if errors is None else errors)
    spec = reader.file(path)
    if errors is None or reader.fatal:
        reader.errors.raise_if_any()
    return spec


class _Reader(PublicNames):
    # --- the file ---------------------------------------------------------------------------------------------

    def file(self, path: Path | None) -> t.SpecFile:
        root = compose(self.source)
        if root is None or empty(root) or (isinstance(root, yaml.MappingNode) and not root.value):
            raise fail(self.source, "form", "the file is empty", 0, "start with `tower: name`")
        if not isinstance(root, yaml.MappingNode):
            kind = "a list" if isinstance(root, yaml.SequenceNode) else "a text"
            message, start = f"a spec is a mapping, this is {kind}", self.span(root).start
            raise fail(self.source, "form", message, start, "start with `tower: name`")
        nodes = self.fields(root, TOP_KEYS, "the file", "a spec")
        tower = self.name(nodes["tower"]) if "tower" in nodes else None
        uses = self.texts(nodes.get("use"), "use")
        for part in ("flow", "outputs"):
            if part in nodes and "tower" not in nodes:
                message = f"a spec with {'a `flow`' if part == 'flow' else '`outputs`'} needs a name"
                self.error("form", message, self.head(root), help="add `tower: name`")
                break
        for part in ("sizes", "define", "inputs", "params", "modules", "blocks"):
            self.fatal |= part in nodes and not (isinstance(nodes[part], yaml.MappingNode) or empty(nodes[part]))
        self.fatal |= "use" in nodes and not isinstance(nodes["use"], yaml.SequenceNode)
        spec = t.SpecFile(
            source=self.source,
            path=path,
            tower=tower,
            paper=self.words(nodes.get("paper")),
            about=self.words(nodes.get("about")),
            sizes=self.expressions(nodes.get("sizes"), "sizes"),
            use=uses,
            define=self.definitions(nodes.get("define")),
            inputs=self.types(nodes.get("inputs"), "inputs"),
            params=self.types(nodes.get("params"), "params"),
            modules=self.expressions(nodes.get("modules"), "modules"),
            blocks=self.blocks(nodes.get("blocks")),
            flow=self.statements(nodes.get("flow"), "flow"),
            outputs=self.outputs(nodes.get("outputs")),
            checkpoints=self.checkpoints(nodes.get("checkpoints")),
            config=self.config(nodes.get("config"), "config"),
            gguf=self.config(nodes.get("gguf"), "gguf"),
            broken=frozenset(),
        )
        return replace(spec, broken=frozenset(self.broken))

    def texts(self, node: Node | None, what: str) -> tuple[t.Text, ...]:
        """A list of texts; one that cannot be read hides what it stands for, so nothing more is said."""
        found = [self.text(item) for item in self.sequence(node, what)]
        self.fatal |= any(text is None for text in found)
        return tuple(text for text in found if text is not None)

    def words(self, node: Node | None) -> str | None:
        text = self.text(node) if node is not None else None
        return " ".join(text.text.split()) if text else None

    def name(self, node: Node) -> t.Text | None:
        text = self.text(node)
        if text and not NAME.fullmatch(text.text):
            self.error(
                "name", f"`{text.text}` is not a name", text.span, help="use letters, digits and `_`, as in `bert_base`"
            )
            return None
        if text and len(text.text) > parser.MAX_NAME:
            self.error("too-long", parser.long_name(text.text), text.span, help="call it something shorter")
            return None
        if text:
            self.no_dunder(text)
        return text

    def no_dunder(self, name: t.Text) -> None:
        if found := dunder(name.text):
            self.error("name-reserved", found[0], name.span, help=found[1])

    def named(self, node: Node | None, what: str) -> list[tuple[t.Text, Node]]:
        found = []
        for key, value in self.mapping(node, what):
            if key.text in (*KEYWORDS, "true", "false"):
                help = "choose another name"
                self.error("name-reserved", f"`{key.text}` is a word of the language", key.span, help=help)
            elif NAME.fullmatch(key.text) and len(key.text) > parser.MAX_NAME:
                self.error("too-long", parser.long_name(key.text), key.span, help="call it something shorter")
                self.note_name(key)
            elif NAME.fullmatch(key.text):
                found.append((key, value))
                self.no_dunder(key)
            elif empty(value) and (m := re.fullmatch(rf"({NAME.pattern})\s+(\S.*)", key.text)):
                self.error("form", f"`{m[1]}` lacks its colon", key.span, help=f"write `{m[1]}: {m[2]}`")
                self.note_name(key)
            elif empty(value) and (m := re.fullmatch(rf"({NAME.pattern}):(\S.*)", key.text)):
                d = lacks_space(m[1], m[2], key.span)
                self.error(d.code, d.message, key.span, help=d.help)
                self.note_name(key)
            else:
                help = "use letters, digits and `_`"
                if isinstance(node, yaml.MappingNode) and node.flow_style and empty(value):
                    help = "`{...}` is a mapping in YAML, `{name: value}`: write the value without `{` and `}`"
                self.error("name", f"`{key.text}` is not a name for one of `{what}`", key.span, help=help)
                self.note_name(key)
        return found

    def expression(self, node: Node, what: str = "an expression") -> t.Expr | None:
        """A scalar, or a YAML list of them (`over: [h, w]`). `what` is its name in the file, for messages."""
        if isinstance(node, yaml.SequenceNode):
            items = [self.expression(n) for n in self.whole_items(node)]
            read = tuple(e for e in items if e is not None)
            return t.List(self.span(node), read) if len(read) == len(items) else None
        if empty(node):
            message = "an expression was expected here" if what == "an expression" else f"{what} is empty"
            help = "write a value, or remove it"
            if re.compile(r"\s*[,}]").match(self.source.text, node.end_mark.index):
                help = "in `{...}` each name has a value, `{x: x}`; a list is written `[x, y]`"
            self.error("syntax", message, self.span(node), help=help)
            return None
        return self.parse(parser.parse_expression, node)

    def expressions(self, node: Node | None, what: str) -> tuple[tuple[t.Text, t.Expr], ...]:
        pairs = [(key, self.expression(value, f"`{key.text}`")) for key, value in self.named(node, what)]
        self.broken |= {key.text for key, e in pairs if e is None}
        return tuple((key, e) for key, e in pairs if e is not None)

    def types(self, node: Node | None, what: str) -> tuple[tuple[t.Text, t.AnyType], ...]:
        found, unread = [], frozenset(self.broken)
        for key, value in self.named(node, what):
            decl, names = self.type(value, key.text), NAME.findall(self.span(value).text)
            if decl is None:  # the axes that it would have named are unknown as well
                self.broken |= {key.text, *names}
            elif not unread.isdisjoint(names):  # as long as a size that could not be read
                self.broken.add(key.text)
            else:
                found.append((key, decl))
        return tuple(found)

    def type(self, node: Node, name: str) -> t.AnyType | None:
        if isinstance(node, yaml.SequenceNode):
            written = " ".join(self.span(node).text.split())
            short = node.flow_style and len(written) <= 80
            help = f"write `float{written}`" if short else "write one such as `float[b, n, d]`"
            self.error("form", "a list is no type: what its entries are is missing", self.head(node), help=help)
            return None
        if empty(node):
            self.error("syntax", f"`{name}` has no type", self.span(node), help="write one such as `float[b, n, d]`")
            return None
        found = self.parse(parser.parse_declaration, node, "a type such as `float[b, n, d]`")
        if found is None:
            return None
        return self.type_of(*found)

    def type_of(self, left: t.Expr, default: t.Expr | None) -> t.AnyType | None:
        """An expression as a type."""
        if isinstance(left, t.Cond):
            then, otherwise = (self.type_of(e, default) for e in (left.then, left.otherwise))
            return t.TypeChoice(left.test, then, otherwise, left.span) if then and otherwise else None
        if isinstance(left, t.Name) and left.id in DTYPES:
            return t.TypeDecl(left.id, (), default, left.span)
        if not (isinstance(left, t.Index) and isinstance(left.base, t.Name)):
            self.error("type", "this is not a type", left.span, help=_as_type(left))
            return None
        if left.base.id not in DTYPES:
            known = did_you_mean(left.base.id, DTYPES, f"types are {', '.join(DTYPES)}")
            self.error("type", f"there is no type `{left.base.id}`", left.base.span, help=known)
            return None
        index = left
        axes = self.read(lambda: parser.axes(index.items))
        return None if axes is None else t.TypeDecl(left.base.id, axes, default, left.span)

    def definitions(self, node: Node | None) -> tuple[t.Definition, ...]:
        found = []
        for key, value in self.mapping(node, "define"):
            signature, needs = self.signature(key), None
            if isinstance(value, yaml.MappingNode):
                parts = self.fields(value, DEFINITION_KEYS, key.text, "a definition")
                needs = parts.get("needs")
                if "formula" not in parts:
                    self.error("missing-field", f"`{key.text}` has no `formula`", key.span, help="add `formula: ...`")
                    self.note_name(key)
                    continue
                value = parts["formula"]
            body = self.expression(value, f"`{key.text}`")
            if signature and body:
                found.append(t.Definition(signature, body, self.source, self.needs(needs)))
            else:
                self.note_name(key)
        return tuple(found)

    def needs(self, node: Node | None) -> tuple[t.Expr, ...]:
        """One condition or a list of them."""
        found = self.expression(node, "`needs`") if node is not None else None
        return found.items if isinstance(found, t.List) else (found,) if found is not None else ()

    def signature(self, key: t.Text) -> t.Signature | None:
        def how() -> t.Signature:
            return parser.parse_signature(key.span.text, key.span)

        return self.read(how)

    def outputs(self, node: Node | None) -> tuple[tuple[t.Text | None, t.Expr], ...]:
        found: tuple[tuple[t.Text | None, t.Expr], ...]
        if node is None:
            return ()
        if isinstance(node, yaml.MappingNode):
            found = self.expressions(node, "outputs")
            unread = bool(node.value) and not found
        else:
            nodes = self.whole_items(node) if isinstance(node, yaml.SequenceNode) else [node]
            read = [self.expression(n, "`outputs`") for n in nodes]
            found = tuple((None, e) for e in read if e is not None)
            unread = bool(nodes) and not found
        if unread:
            self.broken.add("outputs")
        return found

    # --- blocks and statements --------------------------------------------------------------------------------

    def blocks(self, node: Node | None) -> tuple[t.Block, ...]:
        found = []
        for key, value in self.mapping(node, "blocks"):
            before, outside = self.mistakes, set(self.broken)
            signature, block = self.signature(key), self.block(key, value)
            self.broken = outside  # what is inside a block is not seen from outside
            if signature and block and self.mistakes == before:
                body, about, needs = block
                found.append(t.Block(signature, body, about, key.span, self.source, needs))
            else:
                self.note_name(key)
        return tuple(found)

    def block(
        self, key: t.Text, node: Node
    ) -> tuple[t.Attention | t.Composition, str | None, tuple[t.Expr, ...]] | None:
        if isinstance(node, yaml.SequenceNode):
            return t.Composition((), (), self.statements(node, key.text)), None, ()
        if not isinstance(node, yaml.MappingNode):
            help = "write an attention (query, key, value...) or a list of statements"
            if isinstance(node, yaml.ScalarNode) and not empty(node):
                help = (
                    "write its statements below it, each after `- `; a formula alone may be a definition, in `define:`"
                )
            self.error("form", "a block is a mapping or a list", key.span, help=help)
            return None
        composition = any(isinstance(k, yaml.ScalarNode) and k.value == "flow" for k, _ in node.value)
        if composition:
            values = self.fields(node, COMPOSITION_KEYS, key.text, "a composition")
        else:
            values = self.fields(node, ATTENTION_KEYS, key.text, "an attention", FIELDS)
        about, needs = self.words(values.get("about")), self.needs(values.get("needs"))
        params, modules = self.types(values.get("params"), "params"), self.expressions(values.get("modules"), "modules")
        if composition:
            return t.Composition(params, modules, self.statements(values["flow"], "flow")), about, needs
        if "value" not in values:
            if any(isinstance(k, yaml.ScalarNode) and k.value == "<<" for k, _ in node.value):
                return None  # it may have been there
            message = f"the attention `{key.text}` has no `value`"
            self.error("missing-field", message, key.span, help="say what is averaged: `value: linear(x, d)`")
            return None

        def field(name: str) -> t.Expr | None:
            if name in ("mask", "locality") and isinstance(values.get(name), yaml.SequenceNode):
                message = f"`{name}` is one condition, this is a list"
                self.error("form", message, self.head(values[name]), help="join conditions with `and`")
                return None
            return self.expression(values[name], f"`{name}`") if name in values else None

        value = field("value")
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
            merge=field("merge"),
            output=field("output"),
        )
        return attention, about, needs

    def heads(self, node: Node | None) -> tuple[t.Expr, t.Expr] | None:
        if node is None:
            return None
        if isinstance(node, yaml.SequenceNode):
            help = "write `heads: {query: 9, key: 3}`, or one number for both"
            self.error("form", "`heads` is a number, or says those of query and key", self.head(node), help=help)
            return None
        if not isinstance(node, yaml.MappingNode):
            both = self.expression(node)
            return (both, both) if both else None
        values = self.fields(node, ["query", "key"], "heads", "`heads`")
        found = {name: self.expression(value, f"`{name}`") for name, value in values.items()}
        query, key = found.get("query"), found.get("key")
        if query is None or key is None:
            if len(node.value) < 2 and len(values) == len(node.value):
                help = "write `heads: {query: 9, key: 3}`, or one number for both"
                self.error("missing-field", "`heads` needs both query and key", self.head(node), help=help)
            self.mistakes += 1
            return None
        return query, key

    def statements(self, node: Node | None, what: str) -> tuple[t.Statement, ...]:
        found: list[t.Statement] = []
        if isinstance(node, yaml.SequenceNode) and not node.value:
            shown = what if what.startswith("the ") else f"`{what}`"
            self.error("form", f"{shown} has no statements", self.head(node), help="write one a line, each after `- `")
        for item in self.sequence(node, what):
            if isinstance(item, yaml.MappingNode):
                statement = self.structured(item)
            elif empty(item) and not isinstance(item, Reported):
                self.error("syntax", "a statement is empty", self.span(item), help="write one, or remove the `-`")
                statement = None
            else:
                statement = self.parse(parser.parse_statement, item, "a statement")
                if statement is None and isinstance(item, yaml.ScalarNode):
                    self.note_targets(item.value)
            if statement is not None:
                found.append(statement)
        return tuple(found)

    def note_targets(self, text: str) -> None:
        """Take what an unreadable statement assigns as names that are broken."""
        if m := TARGETS.match(text[:1000]):
            self.broken |= set(NAME.findall(re.sub(r"\[[^\]]*\]", "", m.group())))

    def structured(self, node: yaml.MappingNode) -> t.Statement | None:
        """`for ...:` or `if ...:` with `else:`, each with a list of statements."""
        if node.flow_style and any(isinstance(k, yaml.ScalarNode) and "=" in k.value for k, _ in node.value):
            help = "write the statement without `{` and `}`"
            self.error("syntax", "this is not a statement", self.head(node), help=help)
            return None
        parts: list[tuple[str, str, t.Expr | None, tuple[t.Statement, ...]]] = []
        keys: list[t.Text] = []
        before = self.mistakes
        for key, value in self.mapping(node, "a statement"):
            keys.append(key)
            if not self.is_header(key, value):
                self.broken |= {name for _, _, _, body in parts for s in body for name in assigned(s)}
                return None
            header = self.read(partial(parser.parse_header, key.span.text, key.span))
            inside = self.mistakes
            body = self.body(key, value)
            if header is None or (not body and self.mistakes > inside):
                header = ("", "", None)
            parts.append((*header, body))
        kinds = [p[0] for p in parts]
        whole = "" not in kinds and len(parts) == len(node.value)
        if whole and kinds in (["for"], ["along"]):
            kind, index, count, body = parts[0]
            assert count is not None
            return t.For(keys[0].span, index, count, body, kind == "along")
        if whole and kinds in (["if"], ["if", "else"]):
            _, _, test, body = parts[0]
            assert test is not None
            return t.If(keys[0].span, test, body, parts[1][3] if len(parts) > 1 else ())
        self.broken |= {name for _, _, _, body in parts for s in body for name in assigned(s)}
        if self.mistakes == before:
            if kinds[0] == "else":
                message, help = "this `else` has no `if`", "write `else:` right below the `if`, without a `-`"
            else:
                message, help = (
                    "these are several statements",
                    "begin each with `- `; only `else:` stands beside an `if`",
                )
            self.error("syntax", message, keys[0 if kinds[0] == "else" else 1].span, help=help)
        return None

    def is_header(self, key: t.Text, value: Node) -> bool:
        """Whether a mapping among statements may be a loop or a choice; says so if not."""
        word = re.match(r"[A-Za-z_]*", key.text)
        first = word.group() if word else ""
        lone = re.fullmatch(r"for\s+(\w+)", key.text)
        if lone and isinstance(value, yaml.ScalarNode) and value.value:
            help = f"write `for {lone[1]} in {value.value}:`, and the statements in a list below it"
            self.error("syntax", "a loop names its index and its number", key.span, help=help)
            return False
        if first in ("for", "if", "else"):
            return True
        if first == "elif":
            self.error("syntax", "there is no `elif`", key.span, help="put an `if` in the list under `else:`")
            return False
        self.note_targets(key.text)
        target = re.fullmatch(TARGETS, key.text)
        if isinstance(value, yaml.ScalarNode) and target:
            message, help = "a statement assigns with `=`", f"write `{key.text.strip()} = ...`"
        elif isinstance(value, yaml.ScalarNode) and first not in STATEMENTS and re.search(r"[(\[=]", key.text):
            whole = self.source.text[key.span.start : self.span(value).end].rstrip()
            message = "YAML reads this statement as a name and its value, because of the `:`"
            quoted = f'"{whole}"' if '"' not in whole else f"'{whole}'"
            help = (
                f"quote the statement: `{quoted}`" if len(whole) < 80 and "\n" not in whole else "quote the statement"
            )
            if not value.value and not value.style:
                message, help = "a statement ends without a colon", "remove the `:`"
            elif re.search(r"\blambda\b", key.text):
                message, help = "`lambda` has no meaning here", WORDS["lambda"]
            elif "?" in key.text:
                message, help = "`?` has no meaning here", CHARACTERS["?"]
        else:
            message = f"`{first}` is not a statement" if first else "this is not a statement"
            help = "what has statements below it is `for l in depth:` or `if condition:`, with `else:`"
        self.error("syntax", message, key.span, help=help)
        return False

    def body(self, key: t.Text, node: Node) -> tuple[t.Statement, ...]:
        """The statements of a loop or choice."""
        what = {"for": "the loop", "if": "the `if`"}.get(key.text.split()[0] if key.text else "", "the `else`")
        if isinstance(node, yaml.SequenceNode):
            return self.statements(node, what)
        if empty(node):
            help = "write one a line, each after `- `, indented below it"
            self.error("form", f"{what} has no statements", self.span(node), help=help)
        elif not isinstance(node, Reported):
            help = "write one a line, each after `- `, indented below it"
            self.error("form", f"the statements of {what} are a list", self.head(node), help=help)
            if isinstance(node, yaml.ScalarNode):
                self.note_targets(node.value)
        return ()


def _as_type(e: t.Expr) -> str:
    """Help for what stands where a type is expected."""
    if isinstance(e, (t.Number, t.Bool)):
        dtype = "float" if isinstance(e, t.Number) else "bool"
        return f"the type comes first: `{dtype} = {e.span.text}`"
    if isinstance(e, t.List) and e.items:
        return f"write `float{e.span.text}`"
    if isinstance(e, t.Call) and isinstance(e.func, t.Name) and not e.kwargs:
        dtype = e.func.id if e.func.id in DTYPES else "float"
        inside = ", ".join(a.span.text for a in e.args)
        return f"write `{dtype}[{inside}]`" if inside else f"write `{dtype}`"
    return "write a type such as `float[b, n, d]`, or `float` for a single number"
