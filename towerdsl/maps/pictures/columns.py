"""Two columns, queries and keys, and a line for each pair: the more it weighs, the darker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from towerdsl.maps.data import AttentionMap
from towerdsl.maps.pictures import common
from towerdsl.maps.pictures.common import SMALL, Floats, fail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Weights below this part of the largest are left out, and all but so many of the largest.
PART = 0.05
MOST_LINES = 20_000
#: Positions on a side.
MOST_POSITIONS = 512


def lines(
    attention: AttentionMap,
    labels: Sequence[str] | None = None,
    *,
    keys: Sequence[str] | None = None,
    head: int | None = None,
    least: float | None = None,
    batch: int = 0,
    title: str | None = None,
) -> Figure:
    """Queries on the left, keys on the right, a line for each pair whose opacity is its weight.

    `head` is one head; left out, each head has its color. Weights below `least` are left out, by default those below
    a twentieth of the largest. `labels` and `keys` as in `tokens`; the form is that of Vig 2019, arXiv:1906.05714.
    Raises TowerError for a head or batch entry that is not there, labels of a wrong length, or too many positions.
    """
    rows, columns = common.names(attention, labels, keys)
    if max(len(rows), len(columns)) > MOST_POSITIONS:
        count = max(len(rows), len(columns))
        fail(f"{count} positions are too many for lines, {MOST_POSITIONS} at most", "`tokens` shows them as a heat map")
    heads = (attention.heads or (0,)) if head is None else (head,)
    values = np.stack([common.matrix(common.one(attention, h, batch), MOST_POSITIONS) for h in heads])
    size = np.abs(np.nan_to_num(values))
    most = float(size.max(initial=0.0)) or 1.0
    limit = PART * most if least is None else least
    if (size >= limit).sum() > MOST_LINES:
        limit = max(limit, float(np.partition(size.ravel(), -MOST_LINES)[-MOST_LINES]))
    which = np.argwhere((size >= limit) & (size > 0))
    which = which[np.argsort(size[tuple(which.T)], kind="stable")]  # the strongest lie on top

    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
    from matplotlib.lines import Line2D

    colors = np.array([to_rgb(c) for c in _colors(len(heads))])
    high = min(12.0, max(1.2, 0.19 * max(len(rows), len(columns))))
    sides = [common.longest(x) + 0.35 for x in (rows, columns)]
    picture = common.figure(sum(sides) + 3.8, high + 0.85 + (0.18 * -(-len(heads) // 6) if len(heads) > 1 else 0))
    axes = picture.add_subplot()
    spread = (np.arange(len(heads)) - (len(heads) - 1) / 2) * 0.6 / max(1, len(heads))
    h, i, j = which.T
    centers = [_centers(len(x), max(len(rows), len(columns))) for x in (rows, columns)]
    y = np.stack([centers[0][i] + spread[h], centers[1][j] + spread[h]], 1)
    ends = np.stack([np.broadcast_to([0.0, 1.0], y.shape), y], 2)
    opacity = np.clip(size[h, i, j] / most, 0, 1)
    shades = np.concatenate([colors[h], opacity[:, None]], 1)
    axes.add_collection(LineCollection(list(ends), colors=shades, linewidths=1.3 if len(heads) == 1 else 1.0))
    axes.set(xlim=(0, 1), ylim=(max(len(rows), len(columns)) - 0.5, -0.5), xticks=[])
    axes.spines[:].set_visible(False)
    other = axes.twinx()
    other.set(ylim=axes.get_ylim())
    other.spines[:].set_visible(False)
    for beside, words, at in ((axes, rows, centers[0]), (other, columns, centers[1])):
        inches = len(words) * high / max(len(rows), len(columns), 1)
        common.ticks(beside.yaxis, words, inches, start=float(at[0]) if len(at) else 0)
        beside.yaxis.set_tick_params(length=0)
    axes.set_ylabel(common.side("query", attention.queries), fontsize=common.MIDDLE, parse_math=False)
    other.set_ylabel(
        common.side("key", attention.keys), fontsize=common.MIDDLE, parse_math=False, rotation=270, va="bottom"
    )
    axes.set_xlabel(f"{len(which):,} lines; weights below {limit:.2g} are left out", fontsize=SMALL)
    ink = "black" if len(heads) > 1 else tuple(colors[0])
    scale = common.Scale(LinearSegmentedColormap.from_list("ink", ["white", ink]), Normalize(0, most))
    negative = bool((values < 0).any())
    common.colorbar(picture, scale, high, "size of weight" if negative else "weight", ax=[axes, other])
    if len(heads) > 1:
        marks = [Line2D([], [], color=tuple(c), linewidth=3) for c in colors]
        picture.legend(
            marks,
            [f"head {x}" for x in heads],
            loc="outside lower center",
            ncols=6,
            fontsize=SMALL,
            frameon=False,
            handlelength=1,
        )
    every = f"{common.name(attention)}, {len(heads)} heads" if len(heads) > 1 else common.caption(attention, heads[0])
    common.titled(picture, title or every)
    return picture


def _centers(count: int, of: int) -> Floats:
    """Where the positions of a column stand, if the longer column has `of`: in the middle of it."""
    return np.arange(count) + (of - count) / 2


def _colors(count: int) -> list[Any]:
    """A color for each head: those that are told apart best while they are few."""
    from matplotlib import colormaps

    if count <= 20:
        few = colormaps["tab10" if count <= 10 else "tab20"]
        return [few(k) for k in range(count)]
    return [colormaps["hsv"](k / count) for k in range(count)]
