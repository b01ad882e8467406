"""What was measured, as tables for readers."""

from __future__ import annotations

import io
from collections.abc import Mapping

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from towerdsl.bench.data import Benched, Measured
from towerdsl.explain.show import human
from towerdsl.explain.spell import static_text


def render(benched: Benched, console: Console | None = None) -> None:
    """Print what was measured of one model."""
    (console or Console(highlight=False, emoji=False)).print(_all(benched))


def text(benched: Benched, width: int = 100) -> str:
    """What `render` prints, plain."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(_all(benched))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _all(b: Benched) -> RenderableType:
    given = [f"{name}={length}" for name, length in b.lengths.items()]
    given += [f"{name}={static_text(value)}" for name, value in b.sizes.items()]
    lines: list[RenderableType] = [
        Text.assemble((b.name, "bold"), "  ", (b.source, "dim")),
        Text(
            ", ".join([*given, "float32", f"medians of {b.repeats} round{'s' if b.repeats > 1 else ''}"]), style="dim"
        ),
        Text(b.machine, style="dim"),
    ]
    if not b.attentions:
        lines.append(Text("no attention"))
    for a in b.attentions:
        lines += [Text(), _table(a), *_verdict(a)]
    if b.never_called:
        lines += [Text(), Text(f"never called, so not timed: {', '.join(b.never_called)}")]
    return Group(*lines)


def _table(a: Measured) -> Table:
    name = ", ".join(path or "the model" for path in a.paths)
    title = Text.assemble(
        (name, "bold"), f" × {a.modules}" if a.modules > len(a.paths) else "", (f"  {a.averages}", "dim")
    )
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="cyan", show_edge=False, title=title,
        title_justify="left", title_style="",
    )  # fmt: skip
    table.add_column("kernel", no_wrap=True)
    for column in ("estimate", "forward", "", "memory", "with backward", "", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    forward, both = a.ratios("forward"), a.ratios("both")
    for t in a.kernels:
        chosen = t.kernel == a.chosen
        cells = [f"{t.estimate:.2f}"]
        for seconds, ratios, memory in ((t.forward, forward, t.forward_bytes), (t.both, both, t.both_bytes)):
            cells += [_time(seconds), _ratio(t.kernel, ratios), "" if memory is None else human(memory, "B")]
        style = "bold green" if chosen else ""
        table.add_row(Text(f"{t.kernel} *" if chosen else t.kernel, style=style), *map(Text, cells))
    return table


def _verdict(a: Measured) -> list[Text]:
    """What was right or wrong of the choice, and what did not run."""
    lines = []
    for what, words in (("forward", "forward"), ("both", "with backward")):
        fastest = a.fastest(what)
        if fastest == a.chosen:
            lines.append(Text(f"{words}: the choice, {a.chosen}, is the fastest", style="green"))
        elif fastest is not None:
            ratio = a.ratios(what).get(a.chosen)
            much = "did not run" if ratio is None else f"takes {ratio:.2f} times as long"
            lines.append(Text(f"{words}: {fastest} is the fastest; the choice, {a.chosen}, {much}", style="yellow"))
    return [*lines, *(Text(f"{t.kernel} was not run: {t.failed}", style="dim") for t in a.kernels if t.failed)]


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _ratio(kernel: str, ratios: Mapping[str, float]) -> str:
    return f"{ratios[kernel]:.2f}" if kernel in ratios else ""
