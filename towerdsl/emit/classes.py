"""One block instance --> one class; instances of a block that differ in numbers only --> one class with arguments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from towerdsl.budget import working_at
from towerdsl.emit.average import AverageWriter
from towerdsl.emit.code import MARK, full, mark, unmark
from towerdsl.emit.describe import docstring
from towerdsl.emit.frame import LIKE, Frame
from towerdsl.emit.helpers import helpers
from towerdsl.emit.layout import tidy, wrapped
from towerdsl.emit.optional import Optional
from towerdsl.emit.scopes import Given, check_attributes
from towerdsl.emit.values import ValueWriter
from towerdsl.ir import names
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import handed_on, read, statements, values
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType, Type
from towerdsl.lowered.nodes import Lowered
from towerdsl.lowered.once import made_once
from towerdsl.ops import python

INIT = {
    "zeros": "nn.init.zeros_({w})",
    "ones": "nn.init.ones_({w})",
    "eye": "nn.init.eye_({w})",
    "constant": "nn.init.constant_({w}, {0})",
    "normal": "nn.init.normal_({w}, std={0})",
    "truncated_normal": "nn.init.trunc_normal_({w}, std={0})",
    "uniform": "nn.init.uniform_({w}, -{0}, {0})",
    "xavier_uniform": "nn.init.xavier_uniform_({w})",
    "xavier_normal": "nn.init.xavier_normal_({w})",
    "kaiming_uniform": "nn.init.kaiming_uniform_({w})",
}


#: A whole number in code, marked or not, that is no part of a name or of another number.
NUMBER = re.compile("(\x01\\d+\x02[^\x03]*\x03|(?<![\\w.])\\d+(?![\\w.]))")


@dataclass
class Draft:
    """A class before its name and arguments are known: text with marked numbers."""

    block: n.BlockInstance
    init: list[str]
    forward: list[str]
    signature: str
    returns: str
    methods: dict[str, list[str]] = field(default_factory=dict)  # beside `forward`
    helpers: set[str] = field(default_factory=set)
    given: Given = field(default_factory=lambda: Given(frozenset(), frozenset()))

    @property
    def skeleton(self) -> tuple[str, ...]:
        """The text without its numbers and the names of axes: classes with the same skeleton can be one."""
        text = "\n".join((*self._marked, self.signature, self.returns))
        return (MARK.sub("\x01", text),)

    @property
    def numbers(self) -> list[tuple[str, str]]:
        return [(m[1], m[2]) for line in self._marked for m in MARK.finditer(line)]

    @property
    def _marked(self) -> list[str]:
        """The lines that have marks, in the order in which `merge` fills them."""
        return [*self.init, *self.forward, *(line for lines in self.methods.values() for line in lines)]


def _by_index(bodies: Sequence[list[str]], index: str) -> list[str] | None:
    """One body for all repetitions, where the only numbers that differ are the number of the repetition."""
    if len({len(lines) for lines in bodies}) != 1:
        return None
    found = []
    for same in zip(*bodies, strict=True):
        parts = [NUMBER.split(line) for line in same]  # text, number, text, number, ...
        if len({tuple(p[::2]) for p in parts}) != 1:
            return None
        line = list(parts[0])
        for k in range(1, len(line), 2):
            numbers = [unmark(p[k]) for p in parts]
            if len(set(numbers)) == 1:
                continue
            if numbers != [str(repetition) for repetition in range(len(bodies))] or '"' in same[0]:
                return None
            line[k] = index
        found.append("".join(line))
    return found


def module_code(slot: n.ModuleSlot, constructors: Mapping[int, str]) -> str:
    """The expression that builds a submodule."""
    if slot.block is not None:
        return constructors[id(slot.block)]
    if slot.result is None:
        return "nn.Identity()" if not slot.items else module_list(slot, constructors)
    template = slot.result.module or ""
    for key, value in slot.result.attrs:
        text = python(value, partial(_marked, hint=_HINTS.get(key, key)))
        if isinstance(value, float):
            text = mark(text, key)
        template = template.replace("{" + key + "}", text)
    return template


#: What a number in a constructor is called where it becomes an argument of the class.
_HINTS = {"in": "features", "out": "features_out"}


def _marked(size: Size, hint: str) -> str:
    return str(size) if size.integer is None else mark(size.integer, hint)


def module_list(slot: n.ModuleSlot, constructors: Mapping[int, str]) -> str:
    """The expression that builds the list of modules of a loop."""
    items = [module_list(s, constructors) if s.items else module_code(s, constructors) for s in slot.items]
    if len(items) > 1 and len(set(items)) == 1:
        return f"nn.ModuleList([{items[0]} for _ in range({len(items)})])"
    return f"nn.ModuleList([{', '.join(items)}])"


def _leaves(slot: n.ModuleSlot) -> Iterator[n.ModuleSlot]:
    """A module, or those of a list."""
    if slot.items:
        for item in slot.items:
            yield from _leaves(item)
    else:
        yield slot


def _without_weights(block: n.BlockInstance) -> dict[str, str]:
    """Modules that hold nothing, such as dropout, each with the first that is built alike: one serves for all."""
    first: dict[tuple[Any, ...], str] = {}
    found: dict[str, str] = {}
    for name, slot in block.modules:
        kinds = {_built(leaf) for leaf in _leaves(slot)}
        kind = kinds.pop() if len(kinds) == 1 else None
        if kind is not None:
            found[name] = first.setdefault(kind, name)
    return found


def _built(slot: n.ModuleSlot) -> tuple[Any, ...] | None:
    """How a module is built that holds no weights and no buffers; None for all others."""
    result = slot.result
    if result is None or slot.op is None or slot.op.weights or result.parameters or result.buffers:
        return None
    return result.module, result.attrs


class ClassWriter:
    """Writes the parts of one class."""

    def __init__(
        self,
        block: n.BlockInstance,
        trees: Mapping[int, Lowered],
        constructors: Mapping[int, str],
        optional: Optional,
        model: n.Model | None = None,
        helpers: Iterable[str] = (),
    ) -> None:
        """`model` is given for its root, with the functions that its `forward` calls besides."""
        self.block, self.trees, self.constructors, self.optional = block, trees, constructors, optional
        self.model, self.helpers = model, frozenset(helpers)
        self.handed_on = handed_on(block)
        self.defaults = [i for i in model.inputs if i.default is not None] if model is not None else []
        self.start(frozenset(), {})

    def start(self, reserved: frozenset[str], aliases: dict[str, str]) -> None:
        """Begin a `forward`."""
        filled = frozenset(i.name for i in self.defaults)
        merged = _without_weights(self.block)
        optional = self.optional.parameters(self.block)
        self.frame = Frame(self.block, optional, filled, reserved=reserved, aliases=aliases, merged=merged)
        self.values = ValueWriter(self.frame)

    def draft(self) -> Draft:
        """The class as text. What it calls and what is called like a variable of it is one of the two only."""
        draft = self._draft()
        inputs = {self.frame.variable(i.name) for i in self.model.inputs} if self.model is not None else set()
        while clash := self.frame.names.taken & ((self.frame.called | self.helpers) - self.frame.aliases.keys()):
            used = self.frame.names.taken | set(helpers())  # an input keeps its name, and the function gets another
            aliases = {name: names.free(name, used) for name in clash & inputs}
            self.start(self.frame.reserved | (clash - inputs), self.frame.aliases | aliases)
            draft = self._draft()
        return draft

    def _draft(self) -> Draft:
        block = self.block
        working_at(block.span)
        for step in block.body:
            self._step(step, ())
        results = [self._result(r) for r in block.results]
        result = ", ".join(results)
        forward = [*self.frame.lines]
        forward.append(f"return {result}")
        filled = self._filled()
        methods = {
            name: [f"@{self.frame.helper('kept')}", f"def {name}{lines[0]}", *lines[1:]]
            for name, lines in self.frame.methods.items()
        }
        self.frame.called = set(self.frame.helpers)
        prelude = [*self.frame.prelude(), *filled]
        forward = [*prelude, *tidy(forward)]
        kinds = ["Tensor" if self.model is not None else _annotation(r.type) for r in block.results]
        returns = kinds[0] if len(kinds) == 1 else f"tuple[{', '.join(kinds)}]"
        arguments = [
            f"{self.frame.variable(name)}: {_annotation(kind)}{' | None' if name in self.frame.optional else ''}"
            for name, kind in block.parameters
        ]
        signature = ", ".join(["self", *arguments])
        return Draft(
            block,
            self._init(forward),
            forward,
            signature,
            returns,
            methods,
            self.frame.helpers,
            Given(
                frozenset({*self.frame.given, *self.frame.names.known.values()}),
                frozenset(self.frame.called | self.helpers),
            ),
        )

    def _result(self, result: n.Value | n.Relation) -> str:
        """The code of a result; a model gives tensors only."""
        if isinstance(result, n.Relation):
            return self.frame.variable(result.name)
        code = self.values.text(self._made_once(result, False))
        if self.model is None or not result.type.scalar:
            return code
        dtype = {"int": "torch.long", "bool": "torch.bool"}.get(result.type.dtype, self.frame.dtype)
        return f"torch.tensor({code}, device={self.frame.device}, dtype={dtype})"

    def _made_once(self, value: n.Value, whole: bool) -> n.Value:
        """The value, what no data goes into for all calls; or, if not `whole`, only parts of it: it is given away."""
        found = made_once(value)
        return value if isinstance(found, n.Shared) and found.kept and not whole else found

    # --- __init__ ---------------------------------------------------------------------------------------------

    def _init(self, forward: Sequence[str]) -> list[str]:
        lines = []
        for w in self.block.weights:
            sizes = ", ".join(mark(s.integer, a.name or "size") for s, a in zip(w.type.shape, w.type.axes, strict=True))
            lines.append(f"self.{w.name} = nn.Parameter(torch.empty({sizes or '()'}))")
            numbers = {str(k): python(x) for k, x in enumerate(w.options)}
            template = INIT[w.init].replace("{w}", f"self.{w.name}")
            for key, value in numbers.items():
                template = template.replace("{" + key + "}", value)
            lines.append(template)
        for name, slot in self.block.modules:
            kept = self.frame.merged.get(name, name)
            if name in self.frame.merged:
                slot = next(_leaves(slot))
            if kept == name:
                lines.append(f"self.{name} = {module_code(slot, self.constructors)}")
                self.frame.helpers |= {h for leaf in _leaves(slot) if leaf.result for h in leaf.result.helpers}
        if any(f"{LIKE}." in line for line in forward):
            lines.append(f'self.register_buffer("{LIKE.removeprefix("self.")}", torch.empty(0), persistent=False)')
        return lines

    # --- forward ----------------------------------------------------------------------------------------------

    def _filled(self) -> list[str]:
        """Inputs that were left out are filled with their defaults."""
        frame = self.frame
        found: list[str] = []
        for i in self.defaults:
            if not isinstance(i.type, TensorType):
                continue
            variable = frame.variable(i.name)
            if i.default is True and i.name in frame.optional:
                found.append(f"if {frame.call('holds_everywhere', [variable])}:")
                found.append(f"    {variable} = None  # attention is faster without a mask that hides nothing")
                continue
            dtype = {"int": "torch.long", "bool": "torch.bool"}.get(i.type.dtype, frame.dtype)
            value = full(frame.sizes(i.type.axes), len(i.type.axes), python(i.default), frame.device, dtype)
            found += [f"if {variable} is None:", f"    {variable} = {value}"]
        return found

    def _step(self, step: n.Step, loops: tuple[int, ...]) -> None:
        frame = self.frame
        if isinstance(step, n.Set):
            targets = ", ".join(frame.variable(name) for name in step.names)
            frame.assign(targets, self.values.text(self._made_once(step.value, not self.handed_on & {*step.names})))
        elif isinstance(step, n.Evaluate):
            AverageWriter(self.values, self.trees[id(self.block)]).write(step.part, step.names, step.gate)
        elif isinstance(step, n.Loop):
            self._loop(step, loops)
        else:
            self._scan(step, loops)

    def _loop(self, loop: n.Loop, loops: tuple[int, ...]) -> None:
        """A Python loop where all repetitions read alike, otherwise one after the other."""
        frame = self.frame
        if not loop.bodies:
            return
        written: list[list[str]] = []
        index, taken = frame.variable(loop.index), frame.names.taken
        distinct = {id(body): (number, body) for number, body in reversed([*enumerate(loop.bodies)])}
        after = set(taken)
        for number, steps in distinct.values():
            start = len(frame.lines)
            frame.names.taken = taken | frame.needs.keys()  # the same new names in every body
            frame.depth += 1
            for step in steps:
                self._step(step, (*loops, number))
            frame.depth -= 1
            after |= frame.names.taken
            written.append(frame.lines[start:])
            del frame.lines[start:]
        frame.names.taken = after
        if not any(written):  # names stay what they are
            return
        indent = "    " * frame.depth
        if len({tuple(unmark(x) for x in lines) for lines in written}) == 1:
            header, lines = self._loop_header(loop, written[0], loops)
            frame.lines += [indent + header, *lines]
            return
        of_body = dict(zip(distinct, written, strict=True))
        if len(written) == len(loop.bodies):
            indexed = _by_index([of_body[id(body)] for body in loop.bodies], index)
            if indexed is not None:
                frame.lines += [f"{indent}for {index} in range({len(written)}):", *indexed]
                return
        for repetition, body in enumerate(loop.bodies):
            for line in of_body[id(body)]:
                frame.lines.append(line[4:].replace(f"[{index}]", f"[{repetition}]"))

    def _loop_header(self, loop: n.Loop, lines: list[str], loops: tuple[int, ...]) -> tuple[str, list[str]]:
        """`for layer in self.layer:` where the index only picks modules, otherwise `for l in range(count):`.

        `loops` are the numbers of the repetitions around this loop: there it is `for layer in self.layer[s]:`.
        """
        count, index = len(loop.bodies), self.frame.variable(loop.index)
        text = "\n".join(lines)
        picked: dict[str, str] = {}  # the list of modules -> the variable that goes over it
        for name, slot in self.block.modules:
            found = {m[1] for m in re.finditer(rf"(self\.{name}(?:\[\w+\])*)\[{index}\]", text)}
            for modules in found:
                inner = slot
                for number in loops[: modules.count("[")]:
                    inner = inner.items[number]
                if len(found) == 1 and len(inner.items) == count:
                    picked[modules] = name
        rest = text
        for modules in picked:
            rest = rest.replace(f"{modules}[{index}]", "")
        if f"[{index}]" in rest or not picked:
            return f"for {index} in range({count}):", lines
        frame = self.frame
        before = set(frame.names.taken)  # loops may take what another one goes over, but for those inside
        frame.names.taken = before - frame.looped | set(re.findall(r"(?<![.\w])\w+", text))
        for modules, name in picked.items():
            picked[modules] = frame.fresh(name)
            text = text.replace(f"{modules}[{index}]", picked[modules])
        frame.looped |= set(picked.values())
        frame.names.taken = before | frame.looped
        source = ", ".join(picked) if len(picked) == 1 else f"zip({', '.join(picked)})"
        return f"for {', '.join(picked.values())} in {source}:", text.split("\n")

    def _scan(self, scan: n.Scan, loops: tuple[int, ...]) -> None:
        """A Python loop; what it collects is appended to lists, and stacked after it."""
        frame = self.frame
        inside = list(statements(scan.body))
        counts = Counter(name for step in inside for name in step.names)
        once = {name for name in counts if counts[name] == 1} - read(v for step in inside for v in values(step))
        # a variable that is only there to be collected is its list
        appended = {s.names[0] for s in scan.body if isinstance(s, n.Set) and len(s.names) == 1} & once
        lists = {
            name: frame.variable(name) if name in appended else frame.fresh(f"all_{name}") for name, _ in scan.collected
        }
        for variable in lists.values():
            frame.line(f"{variable} = []")
        before = len(frame.lines)
        frame.line(
            f"for {frame.variable(scan.index)} in range({frame.size(scan.axis.size, scan.axis.name or 'size')}):"
        )
        frame.depth += 1
        for step in scan.body:
            if isinstance(step, n.Set) and step.names[0] in lists and step.names[0] in appended:
                frame.line(f"{lists[step.names[0]]}.append({self.values.text(step.value)})")
            else:
                self._step(step, loops)
        for name, variable in lists.items():
            if name not in appended:
                frame.line(f"{variable}.append({frame.variable(name)})")
        frame.depth -= 1
        if len(frame.lines) == before + 1:
            frame.lines.pop()
        each = {name: kind for step in inside for name, kind in _assigned(step)}
        for name, kind in scan.collected:
            code = self._stacked(lists[name], each[name], kind, scan.axis)
            frame.line(f"{frame.variable(name)} = {code}")

    def _stacked(self, variable: str, each: TensorType, kind: TensorType, axis: Axis) -> str:
        """A list of values as one tensor; it may be empty where the length is only known at run time."""
        frame = self.frame
        dtype = {"int": "torch.long", "bool": "torch.bool"}.get(kind.dtype)
        if each.scalar:
            return f"torch.tensor({variable}, dtype={dtype or frame.dtype}, device={frame.device})"
        stack = f"torch.stack({variable}, {each.stacked_dim})"
        if axis.size.integer is not None:
            return stack
        sizes = frame.sizes(kind.axes)
        if kind.dtype == "float":
            return f"{stack} if {variable} else {frame.dtype_from}.new_zeros({sizes})"
        dtype = dtype or frame.wide
        return f"{stack} if {variable} else torch.zeros({sizes}, dtype={dtype}, device={frame.device})"


def _assigned(step: n.Set | n.Evaluate) -> list[tuple[str, TensorType]]:
    """The tensors that a statement assigns, with their types."""
    if isinstance(step, n.Evaluate):
        return []
    kinds: tuple[Type, ...] = (step.value.type,)
    if isinstance(step.value, n.CallBlock) and len(step.names) > 1:
        kinds = step.value.results
    return [(name, kind) for name, kind in zip(step.names, kinds, strict=True) if isinstance(kind, TensorType)]


def _annotation(kind: Type) -> str:
    if isinstance(kind, TensorType) and kind.scalar:
        return {"int": "int", "bool": "bool"}.get(kind.dtype, "float")
    return "Tensor"


def after_forward(methods: Mapping[str, Sequence[str]]) -> list[str]:
    """The lines of a class that has these methods beside `forward`."""
    return [line and f"    {line}" for lines in methods.values() for line in ("", *lines)]


# --- merging ---------------------------------------------------------------------------------------------------


@dataclass
class Written:
    """A finished class, and how each of its instances is built."""

    name: str
    lines: list[str]
    constructors: dict[int, str]
    helpers: set[str]
    given: Given  # to its methods


def merge(drafts: Sequence[Draft], name: str, about: Sequence[str], classes: Collection[str]) -> Written:
    """Drafts with one skeleton --> one class; numbers that differ become arguments of `__init__`.

    `about` is its docstring, `classes` are those before it.
    """
    columns = list(zip(*(d.numbers for d in drafts), strict=True))
    arguments: dict[tuple[str, ...], str] = {}
    block = drafts[0].block
    taken = {*names.MODULE, *names.METHOD, "_", *names.IMPORTED, *names.BUILTINS, *classes, *helpers()}
    taken |= {*(name for name, _ in block.modules), *(w.name for w in block.weights), *drafts[0].methods}
    taken |= {x for line in drafts[0].init for x in re.findall(r"(?<![.\w])[A-Za-z_]\w*(?![\w=])", unmark(line))}
    chosen: list[str | None] = []
    for column in columns:
        values = tuple(value for value, _ in column)
        if len(set(values)) == 1:
            chosen.append(None)
            continue
        if values not in arguments:
            known = [k for k, _ in drafts[0].block.constants]
            fitting = [k for k in known if tuple(str(dict(d.block.constants).get(k)) for d in drafts) == values]
            arguments[values] = names.free(fitting[0] if fitting else column[0][1], taken)
            taken.add(arguments[values])
        chosen.append(arguments[values])
    at = iter(chosen)
    used_in_forward: list[str] = []

    def fill(line: str, inside: str) -> str:
        def one(match: re.Match[str]) -> str:
            argument = next(at)
            value = match[1]
            if argument is None:
                return str(value)
            if inside == "self." and argument not in used_in_forward:
                used_in_forward.append(argument)
            return inside + argument

        return MARK.sub(one, line)

    first = drafts[0]
    init = [fill(line, "") for line in first.init]
    forward = [fill(line, "self.") for line in first.forward]
    methods = {method: [fill(line, "self.") for line in made] for method, made in first.methods.items()}
    kept = [f"self.{a} = {a}" for a in used_in_forward]
    head = [f"class {name}(nn.Module):", *docstring(about, 1)]
    lines: list[str] = []
    signature = ", ".join(
        ["self", *(f"{a}: {'int' if all(x.isdecimal() for x in v) else 'float'}" for v, a in arguments.items())]
    )
    if init or kept:
        lines += [f"    def __init__({signature}) -> None:", "        super().__init__()"]
        lines += [f"        {line}" for line in (*kept, *init)]
        lines.append("")
    lines.append(f"    def forward({unmark(first.signature)}) -> {first.returns}:")
    lines += [f"        {line}" for line in forward]
    lines += after_forward(methods)
    check_attributes(name, [*kept, *init], forward, methods)
    constructors = {}
    for k, d in enumerate(drafts):
        numbers = ", ".join(f"{a}={mark(v[k], a)}" for v, a in arguments.items())
        constructors[id(d.block)] = f"{name}({numbers})"
    body = [x for line in lines for x in wrapped(line)]
    used = set().union(*(d.helpers for d in drafts))
    given = replace(first.given, variables=first.given.variables.union(arguments.values()))
    return Written(name, [*head, *body], constructors, used, given)
