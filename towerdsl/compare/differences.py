"""What differs between two specs, as data, and on one screen."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Difference:
    """One field of a pair: what only the first has, and what only the second has."""

    field: str
    first: tuple[str, ...]
    second: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """An attention of each spec, by their paths; `differences` and the names of the fields that are the same."""

    first: str
    second: str
    differences: tuple[Difference, ...]
    same: tuple[str, ...]


@dataclass(frozen=True)
class Diff:
    """What differs between two specs. `alone` are attentions without a partner, as (spec, path, what it averages);
    `sizes` those that both have with different values."""

    names: tuple[str, str]
    pairs: tuple[Pair, ...]
    alone: tuple[tuple[str, str, str], ...]
    parameters: tuple[int, int]
    sizes: tuple[tuple[str, str, str], ...]

    @property
    def same(self) -> bool:
        """Whether every attention of one is, in every field, an attention of the other."""
        return not self.alone and not any(p.differences for p in self.pairs)

    def __str__(self) -> str:
        return text(self)


def to_data(diff: Diff) -> dict[str, Any]:
    """The differences as plain data, with the names of the fields above, and `same`."""
    return {**asdict(diff), "same": diff.same}


def render(diff: Diff, console: Console | None = None) -> None:
    """Print what differs."""
    (console or Console(highlight=False, emoji=False)).print(_content(diff))


def text(diff: Diff, width: int = 100) -> str:
    """What `render` prints, plain."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(_content(diff))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _content(diff: Diff) -> RenderableType:
    lines: list[RenderableType] = []
    for pair in diff.pairs:
        lines += [_pair(diff, pair), Text()]
    for name, path, what in diff.alone:
        lines.append(Text.assemble((f"only {name}: ", "cyan"), (path, "bold"), f": {what}"))
    if diff.alone:
        lines.append(Text())
    if not diff.pairs and not diff.alone:
        lines += [Text("neither has an attention"), Text()]
    one, two = diff.parameters
    lines.append(Text(f"parameters: {one:,}" + (" in both" if one == two else f" | {two:,}"), style="dim"))
    if diff.sizes:
        sizes = ", ".join(f"{name} {a} | {b}" for name, a, b in diff.sizes)
        lines.append(Text(f"sizes: {sizes}", style="dim"))
    return Group(*lines)


def _pair(diff: Diff, pair: Pair) -> RenderableType:
    first, second = diff.names
    if not pair.differences:
        return Text.assemble(
            (f"{first} ", "cyan"),
            (pair.first, "bold"),
            (f"  {second} ", "cyan"),
            (pair.second, "bold"),
            "\nthe same in every field",
        )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="")
    table.add_column("", style="cyan", no_wrap=True)
    for name, path in ((first, pair.first), (second, pair.second)):
        table.add_column(Text.assemble((name, "cyan"), "  ", (path, "bold")), overflow="fold", ratio=1)
    for d in pair.differences:
        table.add_row(d.field, *(Text("\n".join(x) or "-") for x in (d.first, d.second)))
    return Group(table, Text.assemble(("the same: ", "dim"), (", ".join(pair.same) or "nothing", "dim")))
