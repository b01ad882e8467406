"""Heat maps: queries by keys for one head, layers by heads, sentences by hops."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from towerdsl.maps.data import AttentionMap
from towerdsl.maps.pictures import common
from towerdsl.maps.pictures.common import LETTER, LINE, MIDDLE, SMALL, Floats, fail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Cells on a side of a heat map, and of a small one in a grid: of more, the largest of each cell is shown.
CELLS, SMALL_CELLS = 1024, 192
#: Rows of a grid of heads, of a table of hops.
MOST_ROWS = 64


def tokens(
    attention: AttentionMap,
    labels: Sequence[str] | None = None,
    *,
    keys: Sequence[str] | None = None,
    head: int | None = None,
    batch: int = 0,
    title: str | None = None,
) -> Figure:
    """A heat map of the weights: a row for each query, how much it takes from each key.

    `head` is one head, left out the mean over heads. `labels` name the queries, and the keys where they are as many;
    `keys` names the keys. Raises TowerError for a head or batch entry that is not there, or labels of a wrong length.
    """
    shown = common.one(attention, head, batch)
    rows, columns = common.names(attention, labels, keys)
    values = common.matrix(shown, CELLS)
    wide, high = (min(9.0, max(least, 0.2 * len(words))) for words, least in ((columns, 1.4), (rows, 0.4)))
    upright = common.longest(columns) + 0.08 > wide / max(1, len(columns)) and any(len(x) > 4 for x in columns)
    below = common.longest(columns) if upright else LINE
    picture = common.figure(wide + common.longest(rows) + 1.4, high + below + 0.8)
    axes = picture.add_subplot()
    colors = common.scale([values])
    _heat(axes, values, colors, len(columns), len(rows))
    common.ticks(axes.xaxis, columns, wide, 90 if upright else 0)
    common.ticks(axes.yaxis, rows, high)
    common.sides(axes, common.side("key", attention.keys), common.side("query", attention.queries))
    pooled = values.shape != (len(rows), len(columns))
    common.colorbar(picture, colors, high, "weight, the largest of each cell" if pooled else "weight", ax=axes)
    common.titled(picture, title or common.caption(attention, head))
    return picture


def head_grid(
    maps: Sequence[AttentionMap],
    *,
    query: int | Sequence[int] | None = None,
    skip: int | None = None,
    grid: tuple[int, int] | None = None,
    batch: int = 0,
    title: str | None = None,
) -> Figure:
    """All heads at once: a row for each map (a layer), a column for each head, one color scale.

    A cell is a small heat map of queries by keys. With `query` it is what that one query takes from the grid of the
    keys, as `overlay` shows it: `skip` and `grid` as there. Raises TowerError where there is nothing to show, or a map
    lacks the query or the batch entry.
    """
    if not maps:
        fail("there are no maps to show", "run the model under the probe first")
    if len(maps) > MOST_ROWS:
        fail(f"a grid of heads has at most {MOST_ROWS} rows, not {len(maps)}", 'choose some: maps["layer.0.*"]')
    columns = list(dict.fromkeys(h for m in maps for h in (m.heads or (0,))))
    cells: list[list[Floats | None]] = []
    for m in maps:
        own = m.heads or (0,)
        cells.append([_cell(m, h, query, skip, grid, batch) if h in own else None for h in columns])
    first = next(x for x in cells[0] if x is not None)
    side = min(1.1, max(0.45, 11 / len(columns)))
    tall = side * min(1.0, max(0.25, first.shape[0] / first.shape[1]))
    names = ["\n".join(_broken(common.name(m))) for m in maps]
    gap = 0.05
    left = max(common.longest(line for x in names for line in x.split("\n")), 0.3) + 0.45
    wide, high = len(columns) * (side + gap), len(maps) * (tall + gap)
    width, height = max(left + wide + 0.95, 3.4), high + 0.92
    picture = common.figure(width, height, "none")
    every = [x for line in cells for x in line if x is not None]
    # beside a head with weights of 1, those that spread would look empty; few places outweigh a whole picture
    colors = common.scale(every, gamma=0.5) if query is None else common.scale(every, "inferno", 0.995, 0.5)
    panels = picture.subplots(
        len(maps),
        len(columns),
        squeeze=False,
        gridspec_kw={
            "left": left / width,
            "right": (left + wide) / width,
            "top": 1 - 0.5 / height,
            "bottom": 0.42 / height,
            "wspace": gap / side,
            "hspace": gap / tall,
        },
    )
    for r, line in enumerate(cells):
        for c, values in enumerate(line):
            axes = panels[r, c]
            axes.set(xticks=[], yticks=[])
            if values is None:
                axes.axis("off")
                continue
            _heat(axes, values, colors, values.shape[1], values.shape[0])
            if r == 0 and maps[r].heads:
                axes.set_title(f"head {columns[c]}" if side > 0.55 else str(columns[c]), fontsize=SMALL, pad=3)
        text = panels[r, 0].text(-0.06, 0.5, names[r], transform=panels[r, 0].transAxes, fontsize=SMALL)
        text.set(parse_math=False, ha="right", va="center")
    x, y = ("key", "query") if query is None else ("the keys' columns", "the keys' rows")
    middle = (left + wide / 2) / width
    picture.text(middle, 0.2 / height, f"{x}, in each cell", ha="center", fontsize=MIDDLE)
    picture.text(
        0.12 / width, (0.42 + high / 2) / height, f"{y}, in each cell", va="center", rotation=90, fontsize=MIDDLE
    )
    tall_bar = min(high, 3.2)
    bar = picture.add_axes(
        ((left + wide + 0.12) / width, 1 - (0.5 + tall_bar) / height, 0.13 / width, tall_bar / height)
    )
    common.colorbar(picture, colors, tall_bar, cax=bar)
    what = "weights of each head" if query is None else f"weights of query {query} in each head"
    text = picture.text(middle, 1 - 0.12 / height, common.plain(title or what, int(12 * width)), ha="center", va="top")
    text.set(fontsize=common.LARGE, parse_math=False)
    return picture


def _cell(
    attention: AttentionMap,
    head: int,
    query: int | Sequence[int] | None,
    skip: int | None,
    grid: tuple[int, int] | None,
    batch: int,
) -> Floats:
    shown = common.one(attention, head, batch)
    if query is None:
        return common.matrix(shown, SMALL_CELLS)
    places = common.patches(attention, skip, grid, None)
    return common.row(shown, query)[1][places.skip :].reshape(places.grid)


def _heat(axes: Axes, values: Floats, colors: common.Scale, wide: int, high: int) -> None:
    """Draw values where `wide` x `high` positions are: position k has its center at k."""
    extent = (-0.5, wide - 0.5, high - 0.5, -0.5)
    axes.imshow(values, cmap=colors.colors, norm=colors.range, extent=extent, aspect="auto", interpolation="nearest")
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color="0.6")


def _broken(text: str, width: int = 16) -> list[str]:
    """A module's name in lines, broken at dots."""
    lines = [""]
    for part in text.replace(", ", ".\0").split("."):
        piece = part.replace("\0", "")
        if lines[-1] and len(lines[-1]) + len(piece) + 1 > width:
            lines.append(piece)
        else:
            lines[-1] += ("." if lines[-1] else "") + piece
    return [common.plain(x) for x in lines]


def hops(
    maps: Sequence[AttentionMap],
    sentences: Sequence[str],
    *,
    question: str = "",
    answer: str = "",
    head: int | None = None,
    batch: int = 0,
    title: str | None = None,
) -> Figure:
    """What is looked at, hop after hop: a row for each sentence of a story, a column for each map, cells with weights.

    Each map has one query (the question, with what the hops before found). Sentences are in the order of the keys.
    Raises TowerError where there are no maps, more than one query, or another number of keys than sentences.
    """
    if not maps:
        fail("there are no hops to show", "run the model under the probe first")
    if len(sentences) > MOST_ROWS:
        fail(f"at most {MOST_ROWS} sentences are shown, not {len(sentences)}")
    found = []
    for m in maps:
        if len(m.rows) != 1:
            fail(f"a hop has one query, but `{common.name(m)}` shows {len(m.rows)}", "name one with rows=[..]")
        if m.keys.count != len(sentences):
            fail(
                f"{len(sentences)} sentences are given, but `{common.name(m)}` has {m.keys.count} keys", "one for each"
            )
        found.append(common.row(common.one(m, head, batch), None)[1])
    values = np.stack(found, 1)
    lines = [textwrap.wrap(common.plain(s, 160), 48) or [""] for s in sentences]
    heads = [f"hop {k + 1}" for k in range(len(maps))]
    room = max(len(x) for words in lines for x in words) * LETTER
    tall = 0.12 + LINE * max(map(len, lines))
    high, wide = tall * len(sentences), max(1.6, 0.62 * len(maps))
    above = [x for x in (title, question and f"question: {question}", answer and f"answer: {answer}") if x]
    above = above or [", ".join(dict.fromkeys(m.path for m in maps))]
    picture = common.figure(max(3.0, room + wide + 1.3), high + 0.75 + 0.17 * len(above))
    axes = picture.add_subplot()
    colors = common.scale([values])
    _heat(axes, values, colors, len(maps), len(sentences))
    ink = np.abs(colors.range(values) - float(colors.range(0.0)))  # how far from white
    for r, c in np.ndindex(*values.shape):
        shade = "white" if ink[r, c] > (0.3 if colors.range.vmin else 0.6) else "0.15"
        axes.text(c, r, f"{values[r, c]:.2f}", ha="center", va="center", fontsize=SMALL, color=shade)
    common.ticks(axes.xaxis, heads, wide)
    axes.set_yticks(range(len(lines)), ["\n".join(x) for x in lines], fontsize=SMALL, parse_math=False)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(len(maps) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(lines) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="w", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    common.sides(axes, "hop" + (f", head {head}" if head is not None else ""), common.side("key", maps[0].keys))
    common.colorbar(picture, colors, high, ax=axes)
    common.titled(picture, "\n".join(above))
    return picture
