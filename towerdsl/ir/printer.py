"""The typed form as text, for debugging: `show(model)` prints every block once, a statement a line."""

from __future__ import annotations

from collections import Counter

from towerdsl.budget import spend
from towerdsl.ir import nodes as n
from towerdsl.ir.placed import AtPairs, Blocks, Cut, Entry, Inside, Place, Rows
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, shown

INFIX = {"==", "!=", "<", "<=", ">", ">=", "and", "or", "+", "-", "*", "/", "//", "%", "**"}


def show(model: n.Model) -> str:
    """A model: its blocks, callers first, with what they average, their modules and results."""
    printer = _Printer(model.root)
    lines = [f"model {model.name}"]
    for i in model.inputs:
        default = "" if i.default is None else f" = {show_number(i.default)}"
        lines.append(f"  input {i.name}: {i.type}{default}")
    for block in model.root.walk():
        lines += ["", *printer.block(block)]
    return "\n".join(lines) + "\n"


def show_value(value: n.Value) -> str:
    """A value in the words of the language; `x@[b, n]` has its axes renamed, `once(...)` is computed once."""
    method = globals().get(f"_{type(value).__name__.lower()}")
    text = str(method(value)) if method is not None else f"<{type(value).__name__}>"
    spend(2 + len(text) // 100)
    return text


def show_number(number: float | int | bool) -> str:
    """A number as the language writes it."""
    return str(number).lower() if isinstance(number, bool) else str(number)


class _Printer:
    """Every block instance has a name: its own, with a number if there are several."""

    def __init__(self, root: n.BlockInstance) -> None:
        self.names: dict[int, str] = {}
        met = Counter[str]()
        for block in root.walk():
            met[block.name] += 1
            self.names[id(block)] = block.name if met[block.name] == 1 else f"{block.name}#{met[block.name]}"

    def block(self, block: n.BlockInstance) -> list[str]:
        constants = [f"{name} = {value}" for name, value in block.constants]
        parameters = ", ".join([*(f"{name}: {kind}" for name, kind in block.parameters), *constants])
        lines = [f"block {self.names[id(block)]}({parameters})"]
        for w in block.weights:
            numbers = f"({', '.join(map(str, w.options))})" if w.options else ""
            lines.append(f"  weight {w.name}: {w.type} = {w.init}{numbers}")
        lines += [f"  module {name}: {self.slot(slot)}" for name, slot in block.modules]
        lines += self.steps(block.body, "  ")
        results = (r.name if isinstance(r, n.Relation) else show_value(r) for r in block.results)
        types = ", ".join(str(r.type) for r in block.results)
        return [*lines, f"  return {', '.join(results)}: {types}"]

    def slot(self, slot: n.ModuleSlot) -> str:
        """A module: its block or operation; a list as runs of equal entries."""
        if slot.items:
            runs: list[list[str]] = []
            for text in map(self.slot, slot.items):
                if runs and runs[-1][0] == text:
                    runs[-1].append(text)
                else:
                    runs.append([text])
            return f"[{', '.join(f'{run[0]} x {len(run)}' if len(run) > 1 else run[0] for run in runs)}]"
        if slot.block is not None:
            return f"block {self.names[id(slot.block)]}"
        return slot.op.name if slot.op is not None else "nothing"

    def steps(self, body: tuple[n.Step, ...], pad: str) -> list[str]:
        lines: list[str] = []
        for step in body:
            if isinstance(step, n.Set):
                lines.append(f"{pad}{', '.join(step.names)} = {show_value(step.value)}: {step.value.type}")
            elif isinstance(step, n.Evaluate):
                lines += [pad + line for line in self.average(step)]
            elif isinstance(step, n.Loop):
                lines += self.loop(step, pad)
            else:
                collected = "".join(f", {name}: {kind}" for name, kind in step.collected)
                lines += [f"{pad}for {step.index} along {step.axis.detailed}{collected}"]
                lines += self.steps(step.body, pad + "  ")
        return lines

    def loop(self, loop: n.Loop, pad: str) -> list[str]:
        """A loop: one body where all read alike, otherwise each with its numbers."""
        written: dict[tuple[str, ...], list[int]] = {}
        for repetition, body in enumerate(loop.bodies):
            written.setdefault(tuple(self.steps(body, pad + "  ")), []).append(repetition)
        if len(written) < 2:
            return [f"{pad}for {loop.index} in {len(loop.bodies)}", *next(iter(written), ())]
        lines = []
        for body_lines, numbers in written.items():
            lines += [f"{pad}for {loop.index} in {', '.join(map(str, numbers))}", *body_lines]
        return lines

    def average(self, step: n.Evaluate) -> list[str]:
        a = step.average
        rows: list[tuple[str, str]] = []
        for name, source, features in (
            ("query", a.query, a.query_features),
            ("key", a.key, a.key_features),
            ("value", a.value, a.value_features),
        ):
            if source is not None:
                rows.append((name, f"{show_value(source)}: {source.type}, features {shown(features)}"))
        for name, axes in (("batch", a.batch), ("positions", a.positions)):
            if axes:
                rows.append((name, shown(axes)))
        if a.heads is not None:
            fewer = f", {a.key_heads} key heads" if a.key_heads is not None else ""
            rows.append(("heads", f"{a.heads.size}{fewer}, {a.merge}"))
        rows.append(("score", f"{show_value(a.score)}: {a.score.type}"))
        if a.visible is not None:
            rows.append(("visible", f"{show_value(a.visible)}: {a.visible.type}"))
        options = "".join(f", {name} {value}" for name, value in a.options)
        rows.append(("normalize", a.normalize + options + (f", dropout {a.dropout}" if a.dropout else "")))
        rows.append(("message", f"{show_value(a.message)}: {a.message.type}"))
        if step.gate is not None:
            rows.append(("gate", f"{show_value(step.gate)}: {step.gate.type}"))
        width = max(len(name) for name, _ in rows)
        head = f"{', '.join(step.names)} = average over {shown(a.over)}: float{shown(a.layout)}"
        return [head, *(f"  {name:<{width}}  {text}" for name, text in rows)]


# --- values: one function for each node -------------------------------------------------------------------------


def _atom(value: n.Value) -> str:
    """A value as an operand: what is written with an operator is put in parentheses, but for a minus or `not`."""
    text = show_value(value)
    plain = value if isinstance(value, n.Shared) else n.plain(value)
    operator = isinstance(plain, n.Pointwise) and plain.op in INFIX
    return f"({text})" if operator or (isinstance(plain, n.SizeOf) and not plain.size.is_atom) else text


def _list(values: tuple[n.Value, ...]) -> str:
    return ", ".join(show_value(v) for v in values)


def _const(v: n.Const) -> str:
    return show_number(v.value)


def _sizeof(v: n.SizeOf) -> str:
    return str(v.size)


def _local(v: n.Local) -> str:
    return v.name


def _weight(v: n.Weight) -> str:
    return f"self.{'.'.join(v.path)}"


def _position(v: n.Position) -> str:
    return str(v.axes[0])


def _range(v: n.Range) -> str:
    return f"range({v.axes[0]})"


def _fill(v: n.Fill) -> str:
    return f"full({shown(v.axes)}, {v.value})"


def _shared(v: n.Shared) -> str:
    return f"{'kept' if v.kept else 'once'}({show_value(v.arg)})"


def _cast(v: n.Cast) -> str:
    return f"{v.type.dtype}({show_value(v.arg)})"


def _pointwise(v: n.Pointwise) -> str:
    if v.op in INFIX and len(v.args) == 2:
        left = _atom(v.args[0])
        return f"{f'({left})' if v.op == '**' and left[0] == '-' else left} {v.op} {_atom(v.args[1])}"
    if v.op in ("neg", "not") and len(v.args) == 1:
        return f"{'-' if v.op == 'neg' else 'not '}{_atom(v.args[0])}"
    return f"{v.op}({_list(v.args)})"


def _dot(v: n.Dot) -> str:
    return f"dot({show_value(v.left)}, {show_value(v.right)})"


def _reduce(v: n.Reduce) -> str:
    return f"{v.op}({show_value(v.arg)}, {shown(v.over)})"


def _gather(v: n.Gather) -> str:
    return f"{_atom(v.table)}[{', '.join([':'] * v.lead + [show_value(x) for x in v.indices])}]"


def _member(v: n.Member) -> str:
    return f"{v.relation}[{', '.join(map(str, v.axes))}]"


def _atpairs(v: AtPairs) -> str:
    return f"{_atom(v.arg)}[{v.pairs}]"


def _rows(v: Rows) -> str:
    return f"{_atom(v.arg)}[{v.axis}={v.name}]"


def show_cut(cut: Cut) -> str:
    """How an axis is cut, in words."""
    axis = cut.query or cut.key
    if axis is None or cut.whole:
        return f"{axis and axis.name} whole"
    reach = f", keys from {cut.before} before to {cut.after} after" if cut.before or cut.after else ""
    shift = f", shifted by {cut.shift}" if cut.shift else ""
    return f"{axis.name} in blocks of {cut.size}{reach}{shift}{' around the end' if cut.wraps and cut.shift else ''}"


def _blocks(v: Blocks) -> str:
    return f"blocks({show_value(v.arg)})"


def _inside(v: Inside) -> str:
    return f"inside({v.side})"


def _place(v: Place) -> str:
    axis = v.cut.query if v.axes[0].side == "i" else v.cut.key
    return f"place({axis})"


def _entry(v: Entry) -> str:
    return f"{_atom(v.arg)}[{_list(v.index)}]"


def _pick(v: n.Pick) -> str:
    def end(at: Size | n.Value | None) -> str:
        return "" if at is None else show_value(at) if isinstance(at, n.Value) else str(at)

    inside = f"{end(v.start)}:{end(v.stop)}" if v.is_range else end(v.start)
    return f"{_atom(v.arg)}[{v.axis}={inside}]"


def _rename(v: n.Rename) -> str:
    return f"{_atom(v.arg)}@{_names(v.axes)}"


def _names(axes: tuple[Axis, ...]) -> str:
    return f"[{', '.join(map(str, axes))}]"


def _reference(reference: n.ModuleRef) -> str:
    return f"self.{reference.name}" + "".join(f"[{x}]" for x in reference.indices)


def _apply(v: n.Apply) -> str:
    name = _reference(v.module) if v.module is not None else v.op.name
    return f"{name}({_list(v.args)})"


def _callblock(v: n.CallBlock) -> str:
    args = (a.name if isinstance(a, n.Relation) else show_value(a) for a in v.args)
    return f"{_reference(v.module)}({', '.join(args)})"
