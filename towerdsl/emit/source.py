"""Model and lowered attentions --> the Python source of a module: a class for each block, the model last."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from towerdsl.diagnostics import visible
from towerdsl.emit.classes import ClassWriter, Draft, Written, after_forward, merge
from towerdsl.emit.code import unmark
from towerdsl.emit.describe import described, docstring
from towerdsl.emit.helpers import copied
from towerdsl.emit.helpers import imports as imports_of
from towerdsl.emit.inputs import declared
from towerdsl.emit.layout import WIDTH, wrapped
from towerdsl.emit.optional import Optional
from towerdsl.emit.scopes import check_attributes, check_scopes
from towerdsl.ir import nodes as n
from towerdsl.ir.names import class_name, unused
from towerdsl.ir.names import fields as fields_of
from towerdsl.ir.parameters import tied_tables
from towerdsl.lowered.nodes import Lowered
from towerdsl.ops import python
from towerdsl.passes.resolve import Resolved
from towerdsl.passes.static import show


def write_source(
    model: n.Model,
    trees: Mapping[int, Lowered],
    resolved: Resolved,
    checkpoints: Mapping[str, Any],
    standalone: bool = False,
    inside: bool = False,
) -> str:
    """The source of a module with the model's class. `standalone` copies in the functions that it uses.

    What runs `inside` another model is given what that computes, and does not look at it.
    """
    optional = Optional()
    written: list[Written] = []
    constructors: dict[int, str] = {}
    own = class_name(model.name)
    taken = {own, f"{own}Output"}
    for name, instances in _groups(model.root).items():
        drafts: dict[tuple[str, ...], list[Draft]] = {}
        for block in instances:
            draft = ClassWriter(block, trees, constructors, optional).draft()
            drafts.setdefault(draft.skeleton, []).append(draft)
        for group in drafts.values():
            called = class_name(f"{name}_block" if class_name(name) == own else name, taken)
            blocks = [d.block for d in group]
            kernel = trees[id(blocks[0])].kernel if id(blocks[0]) in trees else None
            about = described(blocks, kernel, resolved, dict(model.sizes))
            found = merge(group, called, about, taken)
            taken.add(called)
            constructors.update(found.constructors)
            written.append(found)
    root = _Root(model, trees, constructors, resolved, optional, checkpoints, inside, taken)
    classes = [*(w.lines for w in written), *root.lines_of_classes]
    helpers = sorted(set(root.helpers).union(*(w.helpers for w in written)) if written else root.helpers)
    texts = copied(helpers) if standalone else {}
    aliases = ["\n".join(f"{alias} = {name}" for name, alias in sorted(root.aliases.items()))] if root.aliases else []
    body = "\n\n\n".join([*texts.values(), *aliases, *("\n".join(lines) for lines in classes)])
    source = _header(model, body, helpers, standalone) + body + "\n"
    methods = {**{w.name: w.given for w in written}, own: root.given}
    check_scopes(source, [*(texts or helpers), *root.aliases.values(), *root.classes, *methods], methods)
    return source


def _groups(root: n.BlockInstance) -> dict[str, list[n.BlockInstance]]:
    """The instances of each block, those that others need first; the root is left out."""
    order: list[n.BlockInstance] = []
    seen: set[int] = set()

    def visit_slot(slot: n.ModuleSlot) -> None:
        for item in slot.items:
            visit_slot(item)
        if slot.block is not None:
            visit(slot.block)

    def visit(block: n.BlockInstance) -> None:
        if id(block) in seen:
            return
        seen.add(id(block))
        for _, slot in block.modules:
            visit_slot(slot)
        order.append(block)

    visit(root)
    names: dict[str, list[n.BlockInstance]] = {}
    # a block's name comes after the names of all blocks that any of its instances call
    for block in order[:-1]:
        names.setdefault(block.name, []).append(block)
    ranked: dict[str, list[n.BlockInstance]] = {}

    def place(name: str) -> None:
        if name in ranked or name not in names:
            return
        for block in names[name]:
            for inner in _called(block):
                place(inner)
        ranked[name] = names[name]

    for name in names:
        place(name)
    return ranked


def _called(block: n.BlockInstance) -> list[str]:
    found: list[str] = []

    def visit(slot: n.ModuleSlot) -> None:
        for item in slot.items:
            visit(item)
        if slot.block is not None:
            found.append(slot.block.name)

    for _, slot in block.modules:
        visit(slot)
    return found


class _Root:
    """The class of the model, its named tuple of results, and its docstring."""

    def __init__(
        self,
        model: n.Model,
        trees: Mapping[int, Lowered],
        constructors: Mapping[int, str],
        resolved: Resolved,
        optional: Optional,
        checkpoints: Mapping[str, Any],
        inside: bool,
        classes: Collection[str],
    ) -> None:
        looks = {} if inside else declared(model)
        writer = ClassWriter(model.root, trees, constructors, optional, model, ["as_declared"] if looks else [])
        draft = writer.draft()
        self.helpers, self.aliases = draft.helpers, writer.frame.aliases
        name, base = class_name(model.name), "nn.Module"
        if model.inference:
            base = "InferenceModel"
            self.helpers.add(base)
            draft.init.append("self.requires_grad_(False).eval()")
        head = [f"class {name}({base}):", *docstring(_about(model, resolved), 1)]
        lines: list[str] = []
        self.lines_of_classes: list[list[str]] = []
        self.classes: list[str] = []  # besides the model's
        results = model.root.results
        returns = draft.returns
        if len(results) > 1 and all(model.root.result_names):
            fields = [f"    {x}: Tensor" for x in fields_of(x for x in model.root.result_names if x).values()]
            used = writer.frame.names.taken | ({*classes} - {f"{name}Output"})
            returns = unused(f"{name}Output", used, "")
            self.classes.append(returns)
            self.lines_of_classes.append([f"class {returns}(NamedTuple):", *fields])
            draft.forward[-1] = f"return {returns}({draft.forward[-1].removeprefix('return ')})"
        if checkpoints:
            head += [*textwrap.indent(_table("checkpoints", checkpoints), "    ").split("\n"), ""]
        tied = tied_tables(model.root)
        if tied:
            head += [f"    tied = {_entries(tied, 1)}  # read in more than one place", ""]
        looked_at = {writer.frame.variable(name): kind for name, kind in looks.items()}
        if looked_at:
            head += [*textwrap.indent(_table("inputs", looked_at), "    ").split("\n"), ""]
            look, names = writer.frame.helper("as_declared"), ", ".join(looked_at)
            draft.forward.insert(0, f"{names if len(looked_at) > 1 else f'({names},)'} = {look}(self, {names})")
        arguments = ["self"]
        for i in model.inputs:
            variable = writer.frame.variable(i.name)
            arguments.append(f"{variable}: Tensor" if i.default is None else f"{variable}: Tensor | None = None")
        lines += ["    def __init__(self) -> None:", "        super().__init__()"]
        lines += [f"        {line}" for line in draft.init]
        lines.append("")
        lines.append(f"    def forward({', '.join(arguments)}) -> {returns}:")
        lines += [f"        {line}" for line in draft.forward]
        lines += after_forward(draft.methods)
        called = (draft.given.called | {*self.classes, *self.aliases.values()}) - self.aliases.keys()
        self.given = replace(draft.given, called=called)
        check_attributes(name, draft.init, draft.forward, draft.methods)
        self.lines_of_classes.append([*head, *(x for line in lines for x in wrapped(unmark(line)))])


#: What the docstring of a model in its inference form says.
INFERENCE = (
    "The inference form: it is not trained. Where it runs in float32 on a CPU, oneDNN computes its linear layers, with "
    "packed weights; elsewhere, and while torch compiles or exports it, they are torch's own."
)


def _about(model: n.Model, resolved: Resolved) -> list[str]:
    """What the model is, where it comes from, what was chosen, and its inputs and outputs with their axes."""
    lines = [f"{class_name(model.name)}, compiled from {model.source_name}."]
    for text in (model.paper, model.about):
        if text:
            lines += ["", *textwrap.wrap(text, WIDTH - 8)]
    if model.inference:
        lines += ["", *textwrap.wrap(INFERENCE, WIDTH - 8)]
    chosen = [(name, value, resolved.choices[name]) for name, value in model.sizes if name in resolved.choices]
    if chosen:
        lines += ["", "Chosen:"]
        for size, value, choice in chosen:
            text = f"{size} = {show(value)}, not {choice.others(value)}"
            lines += textwrap.wrap(text, WIDTH - 8, initial_indent="    ", subsequent_indent="        ")
    lines += ["", "Inputs:"]
    for i in model.inputs:
        optional = "" if i.default is None else f" = {python(i.default).lower()}"
        lines.append(f"    {i.name}: {i.type}{optional}")
    lines.append("Output:" if len(model.root.results) == 1 else "Outputs:")
    for name, value in zip(model.root.result_names, model.root.results, strict=True):
        lines.append(f"    {name or 'result'}: {value.type}")
    return lines


def _table(name: str, value: Mapping[str, Any]) -> str:
    """A nested mapping of texts as an assignment, one entry a line."""
    return f"{name} = {_entries(value, 0)}"


def _entries(value: Any, level: int) -> str:
    pad = "    " * level
    if isinstance(value, Mapping) and value:
        rows = [f"{pad}    {_quoted(str(k))}: {_entries(v, level + 1)},\n" for k, v in value.items()]
        return "{\n" + "".join(rows) + pad + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_quoted(str(v)) for v in value)}]"
    return _quoted(str(value)) if value else "{}"


def _quoted(text: str) -> str:
    """The text as Python; what would not be seen is written as an escape, which means the same."""
    return visible(json.dumps(text, ensure_ascii=False), "")


def _header(model: n.Model, body: str, helpers: list[str], standalone: bool) -> str:
    """What stands before the classes; `body` is all that follows."""
    from towerdsl import __version__

    imports = []
    if "math." in body:
        imports.append("import math")
    if "(NamedTuple)" in body:
        imports.append("from typing import NamedTuple")
    if imports:
        imports.append("")
    third = ["import torch"] if "torch." in body or standalone else []
    if "F." in body:
        third.append("import torch.nn.functional as F")
    third.append("from torch import Tensor, nn")
    if helpers and not standalone:
        third += ["", *imports_of(helpers)]
    title = docstring([f"{class_name(model.name)}: compiled by towerdsl {__version__} from {model.source_name}."], 0)
    docs = "\n".join(title) + "\nfrom __future__ import annotations\n\n"
    return docs + "\n".join([*imports, *third]) + "\n\n\n"
