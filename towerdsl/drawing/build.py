"""A compiled spec --> the graph that is drawn.

Values become nodes where they read a stream, a tensor that flows through the model. What reads none (numbers, learned
tensors, positions) is written inside the node that uses it. Repetitions of a loop that are alike become one group.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from towerdsl.compiler import Compiled
from towerdsl.drawing.alike import adopt_numbers, pattern, signature
from towerdsl.drawing.graph import Group, Link, Node
from towerdsl.drawing.locality import Picture, picture
from towerdsl.drawing.tidy import tidied
from towerdsl.explain.facts import Attention
from towerdsl.explain.gather import attention_facts
from towerdsl.explain.spell import Speller, axis_text, short
from towerdsl.explain.work import Calls, Loops, called, repetitions
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import statements
from towerdsl.ir.size import Size
from towerdsl.ir.types import RelationType, TensorType, Type
from towerdsl.ops import ELEMENTWISE

#: A number with more digits than anyone reads.
DIGITS = re.compile(r"\d+\.\d{5,}")
#: A length that is written with more characters says nothing at a glance.
LONGEST_LENGTH = 12


def build(compiled: Compiled, given: Mapping[str, int]) -> Group:
    """The graph of a compiled spec; free lengths that are `given` are those of the pictures of localities."""
    builder = _Builder(compiled, given, Calls())
    model = compiled.model
    group = builder.block(model.root, model.name, (), {name: Size.free(name) for name in _free(model)})
    group.kind = "model" if group.kind == "block" else group.kind
    return tidied(group)


def _free(model: n.Model) -> list[str]:
    found: dict[str, None] = {}
    for i in model.inputs:
        axes = i.type.axes if isinstance(i.type, TensorType) else (i.type.source, i.type.target)
        found |= dict.fromkeys(name for a in axes for name in sorted(a.size.free_names))
    return list(found)


def axes_text(kind: Type) -> str:
    """The axes of a stream, as they are written beside it: `b n d=768`."""
    if isinstance(kind, RelationType):
        return f"{axis_text(kind.source.name, kind.source.size)} to {axis_text(kind.target.name, kind.target.size)}"
    texts = []
    for a in kind.axes:
        free = a.size.integer is None
        text = (a.name or str(a.size)) if free else axis_text(a.name, a.size)
        texts.append(text if len(text) <= LONGEST_LENGTH or a.name else "...")
    return " ".join(texts) or "scalar"


@dataclass(frozen=True)
class Static:
    """A value that reads no stream."""

    value: n.Value


Known = Link | Static


@dataclass
class Scope:
    """A group that is being filled, with what its names stand for; a loop's also has the scope around it."""

    group: Group
    block: n.BlockInstance
    path: tuple[str, ...]
    lengths: Mapping[str, Size]
    loops: Loops = field(default_factory=dict)
    names: dict[str, Known] = field(default_factory=dict)
    around: Scope | None = None
    assigned: frozenset[str] = frozenset()
    made: dict[Any, Node] = field(default_factory=dict)
    once: dict[int, tuple[n.Value, Known]] = field(default_factory=dict)

    def add(self, node: Node, shared: bool = False) -> Link:
        """Put a node into the group; of those that are `shared`, one that reads and computes the same is there once."""
        if shared:
            key = (node.kind, tuple(node.lines), tuple((id(x.node), x.output) for x in node.inputs))
            if key in self.made:
                return self.made[key].link
            self.made[key] = node
        self.group.nodes.append(node)
        return node.link

    def lookup(self, name: str) -> Known | None:
        if name not in self.names and self.around is not None:
            found = self.around.lookup(name)
            if isinstance(found, Static) and name in self.assigned:
                found = self.around.stream(found)
            if isinstance(found, Link):
                port = Node("in", [name], [], [found.node.outputs[found.output]])
                self.group.ins.append(port)
                self.names[name] = port.link
            elif found is not None:
                self.names[name] = found
        return self.names.get(name)

    def stream(self, known: Known) -> Link:
        """A node for what is learned or constant, where it is drawn."""
        if isinstance(known, Link):
            return known
        fill = known.value
        text = f"all {fill.value:g}" if isinstance(fill, n.Fill) else _spelled(fill)
        return self.add(Node("leaf", [text], [], [axes_text(known.value.type)]), shared=True)


class _Builder:
    def __init__(self, compiled: Compiled, given: Mapping[str, int], calls: Calls) -> None:
        self.compiled, self.given, self.calls = compiled, given, calls
        self._said: dict[Any, tuple[tuple[tuple[str, str], ...], Picture | None]] = {}

    # --- groups -------------------------------------------------------------------------------------------------

    def block(self, block: n.BlockInstance, title: str, path: tuple[str, ...], lengths: Mapping[str, Size]) -> Group:
        kind = "attention" if block.average is not None else "block"
        named = title if block.name in (title, self.compiled.model.name) else f"{title}: {block.name}"
        group = Group(kind, named, ".".join(path), note=block.about or "")
        scope = Scope(group, block, path, lengths)
        for name, type_ in block.parameters:
            if isinstance(type_, TensorType) and type_.scalar:
                continue
            port = Node("in", [name], [], [axes_text(type_)])
            group.ins.append(port)
            scope.names[name] = port.link
        self.steps(scope, block.body)
        for label, result in zip(block.result_names, block.results, strict=True):
            found = self.known(scope, result) if isinstance(result, n.Value) else scope.lookup(result.name)
            assert found is not None
            lines = [label] if label else []
            group.outs.append(Node("out", lines, [scope.stream(found)], [axes_text(result.type)]))
        return group

    def call(self, scope: Scope, call: n.CallBlock) -> Node:
        block = called(scope.block, call, scope.loops)
        own = {name: size.substitute(scope.lengths) for name, size in self.calls.lengths(call).items()}
        names = self._path(scope, call.module)
        group = self.block(block, call.module.name, names, own)
        inputs = []
        for (_, kind), argument in zip(block.parameters, call.args, strict=True):
            if isinstance(kind, TensorType) and kind.scalar:
                continue
            known = self.known(scope, argument) if isinstance(argument, n.Value) else scope.lookup(argument.name)
            assert known is not None
            inputs.append(scope.stream(known))
        node = Node("group", [], inputs, [axes_text(x) for x in call.results], group=group)
        scope.add(node)
        return node

    @staticmethod
    def _path(scope: Scope, module: n.ModuleRef) -> tuple[str, ...]:
        return (*scope.path, module.name, *(repetitions(*scope.loops[index]) for index in module.indices))

    # --- statements ---------------------------------------------------------------------------------------------

    def steps(self, scope: Scope, body: Sequence[n.Step]) -> None:
        for step in body:
            if isinstance(step, n.Loop):
                self.loop(scope, step)
            elif isinstance(step, n.Scan):
                self.turns(scope, step)
            elif isinstance(step, n.Evaluate):
                link = self.average(scope, step)
                scope.names |= {name: Link(link.node, k) for k, name in enumerate(step.names)}
            elif len(step.names) > 1:
                call = n.plain(step.value)
                assert isinstance(call, n.CallBlock)
                node = self.call(scope, call)
                scope.names |= {name: Link(node, k) for k, name in enumerate(step.names)}
            else:
                scope.names[step.names[0]] = self.known(scope, step.value)

    def loop(self, scope: Scope, loop: n.Loop) -> None:
        """Runs of repetitions that are alike as one group each; the others one after the other."""
        total = len(loop.bodies)
        kinds: dict[int, int] = {}  # the number of a body's signature, by the id of the body
        known: dict[Any, int] = {}
        for number, body in enumerate(loop.bodies):
            if id(body) not in kinds:
                found = signature(self._repeated(scope, loop, [number], 1).group)
                kinds[id(body)] = known.setdefault(found, len(known))
        signatures = [kinds[id(body)] for body in loop.bodies]
        first = 0
        while first < total:
            period, times = pattern(signatures[first:])
            if times == 1:
                inner = replace(scope, loops={**scope.loops, loop.index: (frozenset({first}), total)}, once={})
                self.steps(inner, loop.bodies[first])
                first += 1
                continue
            numbers = list(range(first, first + period))
            made = self._repeated(scope, loop, numbers, times)
            for k in range(1, times):  # what is alike but for numbers says all numbers
                later = [x + k * period for x in numbers]
                if any(loop.bodies[x] is not loop.bodies[y] for x, y in zip(numbers, later, strict=True)):
                    adopt_numbers(made.group, self._repeated(scope, loop, later, 1).group)
            self._put(scope, made)
            first += period * times

    def _repeated(self, scope: Scope, loop: n.Loop, numbers: Sequence[int], times: int) -> Scope:
        """The bodies with these numbers as a group that stands `times` times behind itself."""
        period, total = len(numbers), len(loop.bodies)
        group = Group("repeat", "repeat", "", times)
        inner = self._inside(scope, group, [s for x in numbers for s in loop.bodies[x]])
        for number in numbers:
            meant = frozenset(range(number, number + period * times, period))
            inner.loops = {**scope.loops, loop.index: (meant, total)}
            inner.once = {}
            self.steps(inner, loop.bodies[number])
        return self._closed(inner)

    def turns(self, scope: Scope, scan: n.Scan) -> None:
        axis = scan.axis.name or str(scan.axis.size)
        group = Group("turns", f"for each {axis} in turn", "")
        inner = self._inside(scope, group, scan.body)
        index = TensorType("int", (), scalar=True)
        inner.names[scan.index] = Static(n.Local(index, None, scan.index))
        self.steps(inner, scan.body)
        self._closed(inner, {name: axes_text(kind) for name, kind in scan.collected})
        if group.carried:
            group.title += f", {', '.join(sorted(group.carried))} carried on"
        self._put(scope, inner)

    @staticmethod
    def _inside(scope: Scope, group: Group, body: Sequence[n.Step]) -> Scope:
        assigned = frozenset(name for s in statements(body) for name in s.names)
        return Scope(group, scope.block, scope.path, scope.lengths, scope.loops, {}, scope, assigned)

    @staticmethod
    def _closed(inner: Scope, collected: Mapping[str, str] | None = None) -> Scope:
        """The scope of a loop with the ports of what its body assigns."""
        group = inner.group
        for name in sorted(inner.assigned & set(inner.names)):
            link = inner.stream(inner.names[name])
            axes = (collected or {}).get(name, link.node.outputs[link.output])
            group.outs.append(Node("out", [name], [link], [axes]))
        group.carried = frozenset(x.lines[0] for x in group.ins) & inner.assigned
        return inner

    @staticmethod
    def _put(scope: Scope, inner: Scope) -> None:
        """Put the group of a loop into the group around it."""
        group = inner.group
        inputs = []
        for port in group.ins:
            known = scope.lookup(port.lines[0])
            assert known is not None
            inputs.append(scope.stream(known))
        node = Node("group", [], inputs, [x.outputs[0] for x in group.outs], group=group)
        scope.add(node)
        scope.names |= {x.lines[0]: Link(node, k) for k, x in enumerate(group.outs)}

    # --- the attention ------------------------------------------------------------------------------------------

    def average(self, scope: Scope, step: n.Evaluate) -> Link:
        a = step.average
        ports: dict[str, Link] = {}
        for name, source in (("query", a.query), ("key", a.key), ("value", a.value)):
            if source is not None:
                ports[name] = scope.stream(self.known(scope, source))
        for root in (a.score, a.visible, a.message):
            for x in root.walk() if root is not None else ():
                name = x.name if isinstance(x, n.Local) else x.relation if isinstance(x, n.Member) else ""
                known = scope.lookup(name) if name and name not in ("q", "k", "v") else None
                if isinstance(known, Link):
                    ports.setdefault(name, known)
        outputs = [axes_text(TensorType("float", a.layout))] + [""] * (len(step.names) - 1)
        node = Node("average", [], list(ports.values()), outputs, tuple(ports))
        node.rows, node.picture = self._told(scope.block, a, scope.lengths)
        return scope.add(node)

    def _told(
        self, block: n.BlockInstance, average: n.Average, lengths: Mapping[str, Size]
    ) -> tuple[tuple[tuple[str, str], ...], Picture | None]:
        """What is written in the box of an attention, and its picture; once for all that are the same."""
        key = (id(block), tuple(lengths.items()))
        if key not in self._said:
            plan = self.compiled.plans[id(block)]
            facts = attention_facts(block, plan, self.compiled.resolved, self.calls, lengths, self.given)
            self._said[key] = tuple(_rows(facts)), picture(average, lengths, self.given)
        return self._said[key]

    # --- values -------------------------------------------------------------------------------------------------

    def known(self, scope: Scope, value: n.Value) -> Known:
        """What a value is: an output of a node, or nothing that reads a stream."""
        if id(value) not in scope.once:
            scope.once[id(value)] = (value, self._known(scope, value))
        return scope.once[id(value)][1]

    def _known(self, scope: Scope, value: n.Value) -> Known:
        match value:
            case n.Local():
                return scope.lookup(value.name) or Static(value)
            case n.Shared():
                return self.known(scope, value.arg)
            case n.CallBlock():
                return self.call(scope, value).link
            case n.Pointwise(op="+" | "*") if not isinstance(value.type, RelationType):
                parts = [self.known(scope, x) for x in _terms(value)]
                streams = list(dict.fromkeys(x for x in parts if isinstance(x, Link)))
                if len(streams) > 1 and len(streams) == len(parts):
                    return scope.add(Node("sign", [value.op], streams, [axes_text(value.type)]), shared=True)
        operands = {id(x): self.known(scope, x) for x in value.operands}
        streams = list(dict.fromkeys(x for x in operands.values() if isinstance(x, Link)))
        names_of = {x: "x" if len(streams) == 1 else _name(value, operands, x, k) for k, x in enumerate(streams)}
        if isinstance(value, n.Cast | n.Rename) and len(streams) == 1:
            node, output = streams[0]
            if isinstance(value, n.Rename) and node.kind == "op" and not any(a.side for a in value.axes):
                node.outputs[output] = axes_text(value.type)  # the spec has names for its axes
            return streams[0]

        def told(part: n.Value) -> n.Value:
            known = operands[id(part)]
            return known.value if isinstance(known, Static) else n.Local(part.type, None, names_of[known])

        rebuilt = _with_operands(value, told)
        if not streams and not isinstance(value, n.Apply):
            return Static(rebuilt)
        text = self._text(value, rebuilt)
        node = Node("op", [text], streams, [axes_text(value.type)])
        node.weighted = isinstance(value, n.Apply) and bool(value.result.parameters)
        return scope.add(node, shared=not isinstance(value, n.Apply) or value.module is None)

    @staticmethod
    def _text(value: n.Value, rebuilt: n.Value) -> str:
        if isinstance(value, n.Apply):
            static = [x for x in rebuilt.operands if not isinstance(x, n.Local)]
            of = f"({', '.join(map(_spelled, static))})" if static else ""
            name = value.module.name if value.module is not None else ""
            plain = name.rstrip("_0123456789") == value.op.name.rstrip("_0123456789")
            return ("" if plain or not name else f"{name}: ") + value.op.name + of
        if isinstance(value, n.Pointwise) and len(value.args) == 1 and value.op in ELEMENTWISE:
            return value.op
        return _spelled(rebuilt)


def _name(value: n.Value, operands: Mapping[int, Known], stream: Link, number: int) -> str:
    """What a formula calls one of several streams: the name of its variable, or a letter."""
    variables = (x.name for x in value.operands if isinstance(x, n.Local) and operands[id(x)] == stream)
    return next(variables, f"x{number + 1}")


def _spelled(value: n.Value) -> str:
    """A value as the language writes it, numbers with the digits that a reader needs."""
    return DIGITS.sub(lambda m: short(float(m.group())), Speller(None, {}).text(value))


def _terms(value: n.Pointwise) -> list[n.Value]:
    """The terms of a sum, or the factors of a product, written in a row."""
    first = value.args[0]
    own = _terms(first) if isinstance(first, n.Pointwise) and first.op == value.op else [first]
    return [*own, *value.args[1:]]


def _with_operands(value: n.Value, change: Any) -> n.Value:
    found: dict[str, Any] = {}
    for f in fields(value):
        x = getattr(value, f.name)
        if isinstance(x, n.Value):
            found[f.name] = change(x)
        elif isinstance(x, tuple) and any(isinstance(y, n.Value) for y in x):
            found[f.name] = tuple(change(y) if isinstance(y, n.Value) else y for y in x)
    return replace(value, **found) if found else value


def _rows(a: Attention) -> list[tuple[str, str]]:
    """The fields of an attention that are written in its box."""
    over = ", ".join(name or str(size) for name, size in a.over)
    options = "".join(f", {name} {value}" for name, value in a.normalize_options)
    rows = [("score", a.score), ("sees", a.visible), ("normalize", f"{a.normalize}{options} over {over}")]
    if a.message != "v":
        rows.append(("message", a.message))
    if a.heads is not None:
        shared = f" on {a.key_heads} of keys" if a.key_heads != a.heads else ""
        rows.append(("heads", f"{a.heads}{shared}, of {a.value_size} features, {a.merge}"))
    return [*rows, ("kernel", a.kernel)]
