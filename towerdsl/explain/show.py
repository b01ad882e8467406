"""The facts as text, for readers."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from towerdsl.explain.facts import FLOAT_BYTES, Along, Attention, BandFact, Explained, Found, path_formula
from towerdsl.explain.spell import axis_text, static_text
from towerdsl.ir.size import Size
from towerdsl.kernels.work import ZERO
from towerdsl.ops import python
from towerdsl.passes.reach import on_long_axes

_POWERS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_LABEL = 10
_LINE = 88


def human(number: int | Fraction, unit: str = "") -> str:
    """109482240 --> `109.5 M`; below ten thousand every digit stands."""
    value, scale = float(number), 0
    if abs(value) < 10_000 and not unit:
        return f"{int(value):,}" if value.is_integer() else f"{value:.4g}"
    scales = ["", "k", "M", "G", "T", "P", "E"]
    while abs(value) >= 999.95 and scale + 1 < len(scales):
        value, scale = value / 1000, scale + 1
    text = f"{value:.1f}".removesuffix(".0") if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {scales[scale]}{unit}".rstrip()


def formula(size: Size) -> str:
    """A size as it is read: `2.36 M·b·n + 1,536·b·n²`."""
    parts: list[str] = []
    for monomial, coefficient in size.terms:
        factors = []
        for atom, power in monomial:
            text = str(atom)
            text = f"({text})" if " " in text and not text.startswith(("min(", "max(")) else text
            factors.append(text + (str(power).translate(_POWERS) if power > 1 else ""))
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, human(abs(coefficient)))
        sign = "-" if coefficient < 0 else "+"
        parts.append(f" {sign} " if parts else "-" if sign == "-" else "")
        parts.append("·".join(factors))
    return "".join(parts) or "0"


def render(explained: Explained, console: Console | None = None) -> None:
    """Print the facts for a reader."""
    console = console or Console(highlight=False, emoji=False)
    console.print(_head(explained))
    for found in explained.attentions:
        console.print()
        console.print(_panel(explained, found))
    if explained.layers:
        console.print()
        console.print(_layers(explained))
    console.print()
    console.print(_total(explained))
    missing = [name for name in explained.free if name not in explained.given]
    if missing:
        settings = " ".join(f"--set {name}={_SAMPLES.get(name, 128)}" for name in missing)
        console.print()
        console.print(Text(f"For numbers, give the lengths that are free: {settings}", style="dim"))


_SAMPLES = {"b": 1, "n": 512}


def text(explained: Explained, width: int = 100) -> str:
    """What `render` prints, plain."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False, emoji=False)
    with console.capture() as captured:
        render(explained, console)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _grid(*widths: int | None) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for width in widths:
        table.add_column(width=width, ratio=None if width else 1, overflow="fold")
    return table


def _head(explained: Explained) -> Group:
    title = Text.assemble((explained.name, "bold"), "  ", (explained.source, "dim"))
    lines = [title, *(Text(x) for x in (explained.paper, explained.about) if x)]
    grid = _grid(_LABEL, None)
    kinds = [
        f"{i.name} {i.type}" + ("" if i.default is None else f" = {str(i.default).lower()}") for i in explained.inputs
    ]
    results = [f"{name} {kind}" if name else kind for name, kind in explained.outputs]
    for label, items in (("inputs", kinds), ("outputs", results)):
        joined = ", ".join(items)
        for k, line in enumerate([joined] if len(joined) < _LINE else items):
            grid.add_row(_label(label if k == 0 else ""), Text(line))
    if explained.sizes:
        grid.add_row(_label("sizes"), Text("  ".join(f"{name}={static_text(v)}" for name, v in explained.sizes)))
    for name, value in explained.sizes:
        if name in explained.choices:
            grid.add_row(_label(""), Text(f"{name} may be {explained.choices[name].others(value)} as well"))
    if explained.free:
        names = [f"{x}={explained.given[x]:,}" if x in explained.given else x for x in explained.free]
        grid.add_row(_label("free"), Text(", ".join(names)))
    return Group(*lines, Text(), grid)


def _label(text: str) -> Text:
    return Text(text, style="cyan")


def _axes(axes: Iterable[tuple[str | None, Size]]) -> str:
    return ", ".join(axis_text(*a) for a in axes)


def _names(paths: tuple[str, ...], most: int = 3) -> str:
    names = [path or "the model" for path in paths]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _count(found: Found) -> str:
    if found.calls == found.modules:
        return f" × {found.modules}" if found.modules > 1 else ""
    calls = f"{found.calls:,}" if isinstance(found.calls, int) else formula(found.calls)
    called = f"called {calls} times"
    return f", {called}" if found.modules == 1 else f" × {found.modules}, {called} in all"


def _panel(explained: Explained, found: Found) -> Panel:
    a = found.facts
    grid = _grid(_LABEL, None, None)

    def row(label: str, left: str, right: str = "", style: str = "") -> None:
        grid.add_row(_label(label), Text(left, style=style), Text(right, style="dim"))

    constants = ", ".join(f"{name}={static_text(v)}" for name, v in a.constants)
    row("block", a.block + (f"({constants})" if constants else ""), a.at)
    for k, statement in enumerate(a.let):
        row("let" if k == 0 else "", statement)
    for label, s in (("query", a.query), ("key", a.key), ("value", a.value)):
        if s is not None:
            row(label, s.text, f"[{_axes(s.axes)}]")
    row("over", _axes(a.over), _results(a))
    if a.heads is not None:
        row("heads", a.heads_text, _heads(a))
    row("score", a.score, a.score_found)
    if a.score_defined and a.score_formula != a.score_found:
        row("", f"= {a.score_formula}")
    for line in _visible(a):
        row(*line)
    options = "".join(f", {name}={static_text(v)}" for name, v in a.normalize_options)
    row("normalize", a.normalize + options, a.normalize_formula)
    if a.dropout:
        row("dropout", python(a.dropout), "of the weights, while training")
    if a.message != "v":
        row("message", a.message, "averaged in place of the value")
    row("output", a.output, ", ".join(a.results))
    grid.add_row()
    row("kernel", a.kernel, a.how, "bold green")
    for k, (name, reason) in enumerate(a.refused):
        row("refused" if k == 0 else "", name, reason)
    if a.near is not None:
        row("in reach", a.near.kernel, f"{a.near.gain:g} times as fast, by estimate, {a.near.change}")
    for k, (name, times) in enumerate(x for x in a.estimates if x[0] != a.kernel):
        where = ", ".join(f"{free}={length}" for free, length in explained.given.items()) or "the lengths assumed"
        faster = f": faster at {where}" if times < 1 else ""
        row("others" if k == 0 else "", name, f"{times:g} times as long, by estimate{faster}")
    grid.add_row()
    if a.parameters:
        row("parameters", human(a.parameters))
    if a.work.linear != ZERO:
        row("linear", f"{formula(a.work.linear)} multiply-adds", _number(explained, a.work.linear))
    row("attention", f"{formula(a.work.pairs)} multiply-adds", _number(explained, a.work.pairs))
    peak = explained.number(a.peak)
    if peak == 0:
        row("memory", "none for the weights")
    else:
        size = [] if peak is None else [f"{human(peak * FLOAT_BYTES, 'B')} in float32"]
        numbers = [x for x in (_number(explained, a.peak), *size) if x]
        row("memory", f"{formula(a.peak)} numbers for the weights", ", ".join(numbers))
    title = Text.assemble((_names(found.paths), "bold"), _count(found))
    return Panel(grid, title=title, title_align="left", box=box.ROUNDED, padding=(0, 1), border_style="dim")


def _number(explained: Explained, size: Size) -> str:
    """A cost with the lengths given put in; nothing where that says nothing new."""
    if not size.free_names & set(explained.given):
        return ""
    number = explained.number(size)
    return formula(explained.at(size)) if number is None else human(number)


def _results(a: Attention) -> str:
    names = [name or str(size) for name, size in a.batch]
    names += ["head"] if a.heads is not None else []
    names += [name or str(size) for name, size in a.positions]
    return f"one average for each {', '.join(names)}" if names else "one average"


def _heads(a: Attention) -> str:
    sizes = f"{a.value_size} features"
    if a.key_size is not None and a.key_size != a.value_size:
        sizes = f"{a.key_size} features of keys and {a.value_size} of values"
    shared = f" on {a.key_heads} key heads" if a.key_heads != a.heads else ""
    return f"{a.heads}{shared}, of {sizes}, merged by {a.merge}"


def _visible(a: Attention) -> list[tuple[str, str, str]]:
    """Rows of what the spec says and of what the analysis made of it, if that is another text."""
    notes = ["causal"] if a.causal else [x for b in a.bands for x in _band_note(b)]
    notes += dict.fromkeys(on for _, on in a.rest)
    note = ", ".join(notes)
    said = [(label, text) for label, text in (("locality", a.locality), ("mask", a.mask)) if text is not None]
    if len(said) == 1 and said[0][1].replace(" ", "") == a.visible.replace(" ", ""):
        return [(*said[0], note)]
    return [*((*x, "") for x in said), ("visible", a.visible, note)]


def _band_note(band: BandFact) -> list[str]:
    if band.low is None or band.high is None:
        return ["a half-open band"]
    width = band.high - band.low + 1
    return [f"a band of {formula(width)}"] if width != Size.of(1) else ["one j for each i"]


def _layers(explained: Explained) -> Group:
    """Where positions exchange information: what that costs, and how far it carries."""
    table = _table()
    table.add_column("layers", overflow="fold", min_width=24)
    for name in ("mixing", "whole layer", "steps"):
        table.add_column(name, justify="right", overflow="fold")
    for x in explained.layers:
        times = "" if x.calls == 1 else f" × {x.calls if isinstance(x.calls, int) else formula(x.calls)}"
        costs = [formula(on_long_axes(explained.at(size))) for size in (x.mixing, x.whole, x.steps)]
        table.add_row(*map(Text, (_names(x.paths) + times, *costs)))
    grid = _grid(_LABEL, None)
    for along in explained.stacks:
        reads = [f"{reach} × {count}" if count > 1 else str(reach) for reach, count in along.stack.runs]
        rest = [f"and {len(reads) - 4} more"] if len(reads) > 5 else []
        grid.add_row(_label(f"reads, {along.axis}"), Text("; ".join([*(reads[:4] if rest else reads), *rest])))
        grid.add_row(_label(f"path, {along.axis}"), Text(_path_text(explained, along)))
    return Group(table, Text(), grid) if explained.stacks else Group(table)


def _path_text(explained: Explained, along: Along) -> str:
    path = along.path
    written = path_formula(along)
    if written is None:
        return f"unknown: {path.reason}" if path.reason else "no position reads another"
    number = explained.number(along.size)
    value = None if number is None or number < 2 else path.moves(number)
    text = ("" if path.exact else "at most ") + written
    if value is not None and str(value) != written:
        text += f" = {value:,}"
    unit = "step" if path.serial else "move"
    text += f" {unit}{'' if written == '1' else 's'} from any position to any "
    text += {"both": "other", "later": "later one", "earlier": "earlier one"}[path.towards]
    if path.covers is not None:
        count = sum(count for _, count in along.stack.runs)
        text += f"; {'this layer reaches' if count == 1 else f'these {count} layers reach'} {path.covers:,}"
    return text


def table(rows: list[list[str]]) -> str:
    """Rows of texts as a table in Markdown, the first of them its head."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [" | ".join(x.ljust(width) for x, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "".join(f"| {line} |\n" for line in lines)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, header_style="cyan", show_edge=False)


def _total(explained: Explained) -> Group:
    """Parameters and multiply-adds: of each attention, of what is left, and of all."""
    whole = explained.number(explained.work.all)
    given = ", ".join(f"{name}={value:,}" for name, value in explained.given.items())
    table = _table()
    table.add_column("in all", overflow="fold", min_width=24)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("", justify="right", style="dim", no_wrap=True)
    table.add_column(f"multiply-adds at {given}" if given else "multiply-adds", justify="right", overflow="fold")
    table.add_column("", justify="right", style="dim", no_wrap=True)

    def row(name: str, parameters: int, work: Size, style: str = "") -> None:
        share = f"{parameters / explained.parameters:.0%}" if explained.parameters else ""
        number = explained.number(work)
        cost = formula(explained.at(work)) if number is None else human(number)
        work_share = f"{number / whole:.0%}" if number is not None and whole else ""
        table.add_row(*map(Text, (name, human(parameters), share, cost, work_share)), style=style)

    left_parameters, left_work = explained.parameters, explained.work.all
    for f in explained.attentions:
        parameters, work = f.facts.parameters * f.modules, f.facts.work.all * f.calls
        left_parameters, left_work = left_parameters - parameters, left_work - work
        row(_names(f.paths) + _count(f), parameters, work)
    if explained.attentions and (left_parameters or left_work != ZERO):
        row("everything else", left_parameters, left_work)
    row(explained.name, explained.parameters, explained.work.all, "bold")
    size = human((explained.parameters + explained.buffers) * FLOAT_BYTES, "B")
    return Group(table, Text(), Text(f"{explained.parameters:,} parameters, {size} in float32"))
