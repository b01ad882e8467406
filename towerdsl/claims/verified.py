"""What was verified of a model, as data, and as tables for readers."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from towerdsl.claims.claimed import GRADIENTS, VALUES
from towerdsl.explain.spell import static_text

_MOST_FAILURES = 20
_WIDEST = 36
#: Words of these columns stay whole where they are narrow.
_LONGEST = {"kernels": "reference", "W is": "positive", "": "holds"}


@dataclass(frozen=True)
class Failure:
    """A claim that does not hold: which one, and what was measured where."""

    claim: str  # "values", "gradients", "hidden", "visible", "empty" or "weights"
    text: str


@dataclass(frozen=True)
class Checked:
    """One attention: what it averages, and what was measured.

    `values` and `gradients` are the largest differences of the kernel from W times values, as parts of the largest
    value; None where there is nothing to compare. `float32` is that of values in float32. `weights` says what W is
    claimed to be, `why` from what; `low`, `high`, `row_low` and `row_high` are the least and the largest weight and sum
    of a row, over pairs that are visible and rows that are not empty; None where there are none.
    """

    paths: tuple[str, ...]
    modules: int
    block: str
    at: str
    averages: str
    kernel: str
    values: float | None
    gradients: float | None
    float32: float | None
    weights: str
    why: str
    low: float | None
    high: float | None
    row_low: float | None
    row_high: float | None
    pairs: int
    hidden: int
    rows: int
    empty: int
    notes: tuple[str, ...]
    failures: tuple[Failure, ...]

    @property
    def ok(self) -> bool:
        return not self.failures


@dataclass(frozen=True)
class Verified:
    """A model: its attentions, and the lengths and sizes that they were verified with."""

    name: str
    source: str
    lengths: Mapping[str, int]
    sizes: Mapping[str, Any]
    inputs: str
    attentions: tuple[Checked, ...]
    never_called: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return all(a.ok for a in self.attentions)

    def __str__(self) -> str:
        return text(self)


def to_data(verified: Verified) -> dict[str, Any]:
    """A verified model as plain data, with the names of the fields above, `ok`, and the tolerances."""
    found = asdict(verified)
    del found["seconds"]
    for entry, attention in zip(found["attentions"], verified.attentions, strict=True):
        entry["ok"] = attention.ok
    return {**found, "ok": verified.ok, "tolerance": {"values": VALUES, "gradients": GRADIENTS}}


# --- tables ----------------------------------------------------------------------------------------------------


def render(verified: Verified, console: Console | None = None) -> None:
    """Print what was verified of one model."""
    (console or _console()).print(_one(verified))


def render_library(found: Sequence[tuple[str, str, Verified | str]], console: Console | None = None) -> None:
    """Print a row for each spec, given with its group and name; a text says what is wrong in the spec."""
    (console or _console()).print(_all(found))


def text(verified: Verified, width: int = 100) -> str:
    """What `render` prints, plain."""
    return _plain(_one(verified), width)


def library_text(found: Sequence[tuple[str, str, Verified | str]], width: int = 100) -> str:
    """What `render_library` prints, plain."""
    return _plain(_all(found), width)


def _console() -> Console:
    return Console(highlight=False, emoji=False)


def _plain(content: RenderableType, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(content)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="cyan", show_edge=False)
    for name, how in columns:
        justify: Literal["left", "right"] = "right" if how == "number" else "left"
        least = len(_LONGEST[name]) if name in _LONGEST else None
        table.add_column(name, justify=justify, no_wrap=how != "text", overflow="fold", min_width=least)
    return table


def _one(v: Verified) -> RenderableType:
    title = Text.assemble((v.name, "bold"), "  ", (v.source, "dim"))
    if not v.attentions:
        return Group(title, Text("no attention" if not v.never_called else _never(v)))
    given = [f"{name}={length}" for name, length in v.lengths.items()]
    given += [f"{name}={static_text(value)}" for name, value in v.sizes.items()]
    how = f"{v.inputs}{' with ' if given else ''}{', '.join(given)}; float64, evaluation mode"
    table = _table(
        ("attention, and what it averages", "word"),
        ("kernel", "word"),
        ("values", "number"),
        ("gradients", "number"),
        ("W is", "text"),
        ("rows sum to", "text"),
        ("", "word"),
    )
    for k, a in enumerate(v.attentions):
        if k:
            table.add_row()
        table.add_row(
            Text.assemble(_paths(a), f"\n  {_short(a.averages)}", (f"\n  {_seen(a)}", "dim")),
            Text(a.kernel),
            Text(difference(a.values)),
            Text(difference(a.gradients)),
            Text.assemble(a.weights, ("\n" + _between(a.low, a.high), "dim")),
            Text(_between(a.row_low, a.row_high)),
            _verdict(a.ok),
        )
    lines: list[RenderableType] = [title, Text(how, style="dim"), Text(), table, Text()]
    for note in dict.fromkeys(x for a in v.attentions for x in a.notes):
        names = [_paths(a) for a in v.attentions if note in a.notes]
        where = "" if len(names) == len(v.attentions) else f"{', '.join(names)}: "
        lines.append(Text(where + note, style="dim"))
    if v.never_called:
        lines.append(Text(_never(v)))
    lines += _failures(v)
    lines.append(Text(_promise(v), style="dim"))
    return Group(*lines)


def _promise(v: Verified) -> str:
    if not v.ok:
        return ""
    return (
        f"y is W times values on each kernel: values to {VALUES:g}, gradients to {GRADIENTS:g}; "
        "W is 0 where locality or mask is false, and leaves out no other key; empty rows give 0; "
        "W is what its normalizer makes it"
    )


def _never(v: Verified) -> str:
    return f"never called, so not verified: {', '.join(v.never_called)}"


def _failures(v: Verified) -> list[RenderableType]:
    found = [(a, f) for a in v.attentions for f in a.failures]
    lines: list[RenderableType] = [
        Text.assemble((f"{v.name}, {_paths(a)}: {f.claim}: ", "bold red"), f.text) for a, f in found[:_MOST_FAILURES]
    ]
    if len(found) > _MOST_FAILURES:
        lines.append(Text(f"and {len(found) - _MOST_FAILURES} more"))
    return lines


def _all(found: Sequence[tuple[str, str, Verified | str]]) -> RenderableType:
    table = _table(
        ("spec", "word"),
        ("count", "number"),
        ("kernels", "text"),
        ("values", "number"),
        ("gradients", "number"),
        ("W is", "text"),
        ("rows sum to", "text"),
        ("hidden", "number"),
        ("", "word"),
    )
    group = None
    for place, name, v in found:
        if place != group:
            table.add_row(Text(place, style="dim"))
            group = place
        if isinstance(v, str):
            table.add_row(Text(f" {name}"), *[Text()] * 7, Text("mistake", style="bold red"))
            continue
        a = v.attentions
        pairs, hidden = sum(x.pairs for x in a), sum(x.hidden for x in a)
        table.add_row(
            Text(f" {name}"),
            Text(str(sum(x.modules for x in a))),
            Text("\n".join(dict.fromkeys(x.kernel for x in a)) or "none"),
            Text(difference(max((x.values for x in a if x.values is not None), default=None))),
            Text(difference(max((x.gradients for x in a if x.gradients is not None), default=None))),
            Text("\n".join(dict.fromkeys(x.weights for x in a))),
            Text(_rows(a)),
            Text(f"{hidden / pairs:.0%}" if pairs else ""),
            _verdict(v.ok) if a else Text(),
        )
    lines: list[RenderableType] = [table, Text()]
    for _, _, v in found:
        lines += [Text(v)] if isinstance(v, str) else _failures(v)
    models = [v for _, _, v in found if not isinstance(v, str)]
    good, modules = sum(v.ok for v in models), sum(x.modules for v in models for x in v.attentions)
    lines.append(Text(f"{good} of {len(found)} specs hold, {modules} attentions"))
    return Group(*lines)


def _rows(found: Iterable[Checked]) -> str:
    sums = [x for a in found for x in (a.row_low, a.row_high) if x is not None]
    return _between(min(sums), max(sums)) if sums else ""


def _verdict(ok: bool) -> Text:
    return Text("holds", style="green") if ok else Text("fails", style="bold red")


def _paths(a: Checked) -> str:
    names = ", ".join(path or "the model" for path in a.paths)
    return f"{names} × {a.modules}" if a.modules > len(a.paths) else names


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _seen(a: Checked) -> str:
    parts = []
    if a.hidden:
        parts.append(f"{a.hidden / a.pairs:.0%} hidden")
    if a.empty:
        parts.append(f"{a.empty / a.rows:.0%} empty")
    return ", ".join(parts) or "all visible"


def difference(number: float | None) -> str:
    """A difference as a table shows it: `4e-16`, `0`, or nothing where nothing was compared."""
    if number is None:
        return "-"
    return "0" if number == 0 else f"{number:.0e}".replace("e-0", "e-")


def _between(low: float | None, high: float | None) -> str:
    """`1`, or `-0.4 .. 2.1`."""
    if low is None or high is None:
        return ""
    a, b = (f"{0.0 if abs(x) < 5e-4 else x:.3g}" for x in (low, high))
    return a if a == b else f"{a} .. {b}"
