"""The parts of a file that speak of public names: `checkpoints:`, `config:` and `gguf:`."""

from __future__ import annotations

import re

import yaml

from towerdsl.diagnostics import Span
from towerdsl.lang import parser
from towerdsl.lang import tree as t
from towerdsl.lang.mistakes import error
from towerdsl.lang.yaml_nodes import Node, Nodes, empty

#: What stands behind the only value of a key: what it is where it is absent.
_ABSENT = re.compile(r"(?<![=!<>])=(?!=)")
#: What stands behind the value of an absent key: the value of one that is null.
_NULL = re.compile(r",\s*null\s*=(?!=)")


class PublicNames(Nodes):
    """Reads rules: a public name on the left, what it is in this spec on the right."""

    def checkpoints(self, node: Node | None) -> tuple[t.CheckpointSection, ...]:
        found = []
        for name, value in self.mapping(node, "checkpoints"):
            rules: list[tuple[t.Text, t.Text]] = []
            rename: list[tuple[t.Text, t.Text]] = []
            lists: dict[str, tuple[t.Text, ...]] = {"ignore": (), "prefix": ()}
            if isinstance(value, yaml.ScalarNode) and not empty(value):
                help = f"write `huggingface:`, and `{name.text}: {value.value}` below it, indented"
                self.error("form", "a rule stands in a map, which has a name", name.span, help=help)
                continue
            for key, item in self.mapping(value, name.text):
                if key.text in lists:
                    texts = [self.text(n) for n in self.sequence(item, key.text)]
                    lists[key.text] = tuple(x for x in texts if x)
                elif key.text == "rename":
                    pairs = [(old, self.text(new)) for old, new in self.mapping(item, "rename")]
                    rename += [(old, new) for old, new in pairs if new]
                else:
                    right = self.text(item)
                    if right:
                        rules.append((key, right))
            found.append(t.CheckpointSection(name, tuple(rules), lists["ignore"], lists["prefix"], tuple(rename)))
        return tuple(found)

    def config(self, node: Node | None, what: str) -> t.ConfigRules:
        """The rules of a mapping, and of those inside it."""
        rules: list[tuple[t.Text, t.ConfigRule]] = []
        sizes: list[tuple[t.Text, t.Expr]] = []
        ignore: list[t.Text] = []
        needs: list[t.Expr] = []
        pairs: dict[str, list[tuple[t.Text, t.Text]]] = {"rename": [], "within": []}
        for key, value in self.mapping(node, what):
            if key.text == "sizes":
                fixed = [(name, self.parse(parser.parse_expression, x)) for name, x in self.mapping(value, "sizes")]
                sizes += [(name, e) for name, e in fixed if e is not None]
            elif key.text == "needs":
                conditions = [self.parse(parser.parse_expression, x) for x in self.sequence(value, "needs")]
                needs += [e for e in conditions if e is not None]
            elif key.text == "ignore":
                ignore += [x for x in (self.text(n) for n in self.sequence(value, "ignore")) if x]
            elif key.text in pairs:
                texts = [(old, self.text(new)) for old, new in self.mapping(value, key.text)]
                pairs[key.text] += [(old, new) for old, new in texts if new]
            elif isinstance(value, yaml.MappingNode):
                cases = [(case, self.config(x, key.text)) for case, x in self.mapping(value, key.text)]
                rules.append((key, tuple(cases)))
            elif empty(value):
                help = f"write the size that it gives, or `ignore: [{key.text}]`"
                self.error("form", f"`{key.text}` has no rule", key.span, help=help)
            else:
                rule = self.parse(self.config_rule, value)
                rules += [(key, rule)] if rule is not None else []
        renamed, within = map(tuple, pairs.values())
        return t.ConfigRules(tuple(rules), tuple(sizes), tuple(ignore), renamed, within, tuple(needs))

    @staticmethod
    def config_rule(text: str, span: Span) -> t.ConfigRead | t.ConfigOnly:
        """`size`, `size = absent`, `size = absent, null = value`, or `== value`, the only one, `== value = absent`."""

        def part(start: int, end: int) -> t.Expr:
            return parser.parse_expression(text[start:end], Span(span.source, span.start + start, span.start + end))

        if text.startswith("=="):
            at = _ABSENT.search(text, 2)
            return t.ConfigOnly(part(2, at.start() if at else len(text)), part(at.end(), len(text)) if at else None)
        found = _NULL.search(text)
        end = found.start() if found else len(text)
        left, absent = parser.parse_declaration(text[:end], Span(span.source, span.start, span.start + end))
        null = None
        if found:
            null = parser.parse_expression(text[found.end() :], Span(span.source, span.start + found.end(), span.end))
        if isinstance(left, t.Name):
            return t.ConfigRead(t.Text(left.id, left.span), absent, null)
        help = "write the size that it gives, `hidden_size: d`, or the only value, `hidden_act: == 'silu'`"
        raise error("syntax", "a key gives a size", left.span, help)
