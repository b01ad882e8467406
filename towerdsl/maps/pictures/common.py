"""What all pictures share: which weights are shown, their colors, the names of positions, and files.

Figures are made without pyplot, so that nothing global is touched: they need no display and may be made in threads.
matplotlib is imported when a picture is made.
"""

from __future__ import annotations

import io
import math
import textwrap
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from towerdsl import files
from towerdsl.diagnostics import Diagnostic, TowerError, visible
from towerdsl.maps.data import AttentionMap, Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

Floats = NDArray[np.floating[Any]]

#: Points: of labels, of titles of panels, of the title of a picture. Inches: of a line of labels, of a character.
SMALL, MIDDLE, LARGE = 7.5, 8.5, 10.0
LINE, LETTER = 0.135, 0.064
#: Characters of a label that are shown.
LONGEST = 28
DPI = 150
#: A skipped token before the patches of an image is a class token or a register: there are few.
MOST_SKIPPED = 16

_SAVING = threading.Lock()


def fail(message: str, help: str | None = None) -> NoReturn:
    """A mistake of whoever asks for a picture. Raises TowerError."""
    raise TowerError([Diagnostic("picture", message, help=help)]) from None


def require() -> None:
    """Raises TowerError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        message = "pictures need matplotlib, which is not installed: pip install 'towerdsl[pictures]'"
        raise TowerError([Diagnostic("missing", message)]) from None


def figure(width: float, height: float, layout: Any = "constrained") -> Figure:
    """An empty picture, sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def save(picture: Figure, path: str | PathLike[str], dpi: int = DPI) -> None:
    """Write a picture as PNG or SVG, by the suffix of the path; the same picture gives the same bytes.

    Raises TowerError for another suffix, or where the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg"):
        fail(f"a picture is written as .png or .svg, not `{fspath(path)}`")
    import matplotlib as mpl

    metadata = {"Date": None} if suffix == ".svg" else {}
    drawn = io.BytesIO()
    with _SAVING, mpl.rc_context({"svg.hashsalt": "towerdsl", "svg.fonttype": "path"}):
        picture.savefig(drawn, format=suffix[1:], dpi=dpi, metadata=metadata)
    files.write(path, drawn.getvalue())


# --- which weights ---------------------------------------------------------------------------------------------


def one(attention: AttentionMap, head: int | None, batch: int) -> AttentionMap:
    """The map of one head, or of the mean over heads, for one entry of the batch: its weights are [1, 1, ...].

    Every picture begins here. Raises TowerError for what is not in the map, or where matplotlib is missing.
    """
    require()
    found = attention.weights.detach()
    if not 0 <= batch < found.shape[0]:
        fail(f"there is no batch entry {batch} in `{name(attention)}`: it has {found.shape[0]}")
    found = found[batch].float().cpu()
    if head is None:
        found = found.mean(0)
    else:
        try:
            found = found[attention.head(head)]
        except KeyError as error:
            fail(f"`{name(attention)}`: {error.args[0]}")
    cpu = {x: y.cpu() for x in ("rows", "query", "key") if (y := getattr(attention, x)) is not None}
    return replace(attention, heads=(), weights=found[None, None], gradient=None, **cpu)


def matrix(attention: AttentionMap, most: int) -> Floats:
    """The weights of a map that `one` gives, [rows, keys]; with more than `most` on a side, the largest of each cell.

    Where pairs are listed no matrix of all pairs is made. "Largest" is by size, so that negative weights count.
    """
    rows, keys = len(attention.rows), attention.keys.count
    height, width = min(rows, most), min(keys, most)
    if attention.query is None or attention.key is None:
        whole = attention.weights[0, 0]
        if (height, width) == (rows, keys):
            return array(whole)
        high, low = (torch.nn.functional.adaptive_max_pool2d(x[None], (height, width))[0] for x in (whole, whole.neg()))
        return array(torch.where(high >= low, high, low.neg()))
    at = torch.full((attention.queries.count,), -1)
    at[attention.rows] = torch.arange(rows)
    row, shown = at[attention.query], at[attention.query] >= 0
    cell = (row * height // max(1, rows) * width + attention.key * width // keys)[shown]
    values = attention.weights[0, 0][shown]
    order = values.abs().argsort(stable=True)  # of those that share a cell, the largest is written last
    found = np.zeros(height * width, np.float32)
    found[cell[order].numpy()] = array(values[order])
    return found.reshape(height, width)


def row(attention: AttentionMap, query: int | Sequence[int] | None) -> tuple[int, Floats]:
    """A query of a map that `one` gives, the first where none is named: its position and its weights, [keys]."""
    shown = attention.rows.tolist()
    if query is None:
        if not shown:
            fail(f"`{name(attention)}` has no rows to show")
        query = int(shown[0])
    elif not isinstance(query, int):
        place, sizes = tuple(query), attention.queries.sizes
        if len(place) != len(sizes) or not all(0 <= x < size for x, size in zip(place, sizes, strict=True)):
            fail(f"{place} is no place among the queries of `{name(attention)}`: {axes_text(attention.queries)}")
        query = attention.queries.position(place)
    if query not in shown:
        some = ", ".join(map(str, shown[:8])) + (", ..." if len(shown) > 8 else "")
        fail(f"query {query} is not among the rows of `{name(attention)}`: {some}")
    return query, array(attention.row(query).flatten())


def array(values: Tensor) -> Floats:
    """Numbers for matplotlib."""
    found: Floats = values.detach().float().cpu().numpy()
    return found


@dataclass(frozen=True)
class Patches:
    """Which keys are places of a picture: all but the first `skip`, row by row."""

    skip: int
    grid: tuple[int, int]

    def place(self, position: int) -> tuple[int, int] | None:
        """The row and column of a position, if it is a place."""
        return divmod(position - self.skip, self.grid[1]) if position >= self.skip else None


def patches(
    attention: AttentionMap, skip: int | None, grid: tuple[int, int] | None, shape: tuple[int, int] | None
) -> Patches:
    """The picture that the keys make: their own two axes, `grid` after `skip` keys, or what has the image's form."""
    sizes, count = attention.keys.sizes, attention.keys.count
    if grid is not None:
        height, width = grid
        left = count - height * width if skip is None else skip
        if min(height, width) < 1 or left < 0 or left + height * width != count:
            fail(
                f"a grid of {height} x {width} after {left} keys is not what `{name(attention)}` has: {count} keys",
                "skip=1, grid=(h, w) for one leading token and h * w patches",
            )
        return Patches(left, (height, width))
    if len(sizes) == 2 and not skip:
        return Patches(0, (sizes[0], sizes[1]))
    ratio = shape[0] / shape[1] if shape else 1.0
    if len(sizes) == 1:
        for left in range(MOST_SKIPPED + 1) if skip is None else (skip,):
            width = round(math.sqrt(max(0, count - left) / ratio))
            for w in (width, width - 1, width + 1):
                h, rest = divmod(count - left, max(1, w))
                if min(h, w) > 1 and not rest and abs(w * ratio - h) < 0.5:
                    return Patches(left, (h, w))
    form = f"the form of the image, {shape[0]} x {shape[1]}" if shape else "a square"
    fail(
        f"the keys of `{name(attention)}` make no grid: {axes_text(attention.keys)} has not {form}",
        "say which keys are the picture: skip=1, grid=(h, w) for one leading token and h * w patches",
    )


# --- words -----------------------------------------------------------------------------------------------------


def plain(text: str, longest: int = LONGEST) -> str:
    """Text as it may stand in a picture: what cannot be seen is spelled out, what is too long is cut."""
    shown = visible(str(text), "")
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def name(attention: AttentionMap) -> str:
    """What a map is called: its module, and its call where it is not the first."""
    return (attention.path or "attention") + (f", call {attention.call}" if attention.call else "")


def caption(attention: AttentionMap, head: int | None) -> str:
    """What a picture of one head, or of the mean over heads, shows."""
    count = len(attention.heads)
    if head is not None and attention.heads:
        return f"{name(attention)}, head {head}"
    return f"{name(attention)}, mean of {count} heads" if count > 1 else name(attention)


def axes_text(grid: Grid) -> str:
    """`h=4, w=6`"""
    return ", ".join(f"{a}={size}" for a, size in zip(grid.axes, grid.sizes, strict=True)) or "one position"


def side(word: str, grid: Grid) -> str:
    """The name of an axis of a picture: what it counts, along which axes of the spec."""
    return plain(f"{word} ({', '.join(grid.axes)})" if grid.axes else word, 60)


def names(attention: AttentionMap, labels: Sequence[str] | None, keys: Sequence[str] | None) -> tuple[list[str], ...]:
    """The names of the rows shown and of the keys: labels where there are as many, else coordinates.

    `labels` are of the queries, and of the keys too where these have none of their own and are as many.
    Raises TowerError where labels fit neither side.
    """
    queries, over = attention.queries.count, attention.keys.count
    if keys is None and labels is not None and len(labels) == over:
        keys = labels
        labels = labels if queries == over else None
    for given, count, what in ((labels, queries, "queries"), (keys, over, "keys")):
        if given is not None and len(given) != count:
            other = f" and {over} keys" if what == "queries" and queries != over else ""
            fail(f"{len(given)} labels are given, but `{name(attention)}` has {count} {what}{other}", "one for each")
    rows = attention.rows.tolist()
    return (
        [plain(labels[r]) if labels is not None else _place(attention.queries, r) for r in rows],
        [plain(keys[k]) if keys is not None else _place(attention.keys, k) for k in range(over)],
    )


def _place(grid: Grid, position: int) -> str:
    return ", ".join(map(str, grid.place(position))) if grid.axes else ""


def longest(texts: Iterable[str]) -> float:
    """The inches that the longest of some labels takes."""
    return max(map(len, texts), default=0) * LETTER


def ticks(axis: Any, words: Sequence[str], inches: float, rotation: float = 0, start: float = 0) -> None:
    """Label the positions of an axis (`axes.xaxis`) that is so long; of labels that would touch, every other one."""
    across = axis.axis_name == "x" and not rotation
    each = longest(words) + 0.08 if across else LINE
    step = max(1, math.ceil(each * len(words) / max(inches, LINE)))
    if step > 1:  # 7 --> 10, so that numbers are round
        power = 10 ** int(math.log10(step))
        step = next(x * power for x in (1, 2, 5, 10) if x * power >= step)
    at = list(range(0, len(words), step))
    axis.set_ticks(
        [start + k for k in at], labels=[words[k] for k in at], fontsize=SMALL, rotation=rotation, parse_math=False
    )
    axis.set_tick_params(length=0 if step == 1 else 2, pad=2)


def titled(picture: Figure, text: str) -> None:
    """Put a title above a picture, in as many lines as it takes."""
    across = int(picture.get_figwidth() / LETTER * SMALL / LARGE)
    found = [y for x in text.split("\n") for y in textwrap.wrap(plain(x, 200), max(20, across))]
    picture.suptitle("\n".join(found), fontsize=LARGE, parse_math=False)


def headed(axes: Axes, text: str, longest: int = 80) -> None:
    """Put a title above one panel."""
    axes.set_title(plain(text, longest), fontsize=MIDDLE, parse_math=False)


def sides(axes: Axes, x: str, y: str) -> None:
    """Name both axes of a panel."""
    axes.set_xlabel(plain(x, 120), fontsize=MIDDLE, parse_math=False)
    axes.set_ylabel(plain(y, 120), fontsize=MIDDLE, parse_math=False)


# --- colors ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """The colors of weights: white is zero; negative ones, if there are any, are red."""

    colors: Colormap
    range: Normalize
    beyond: Any = "neither"


def scale(values: Iterable[Floats], colors: str = "Blues", quantile: float = 1.0, gamma: float = 1.0) -> Scale:
    """One scale for all values. With a quantile below 1, what is larger has the last color; with a gamma below 1,
    small weights have more of the colors."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize, PowerNorm

    flat = np.concatenate([np.ravel(x) for x in values] or [np.zeros(1, np.float32)])
    flat = flat[np.isfinite(flat)]
    size = np.abs(flat)
    most = float(size.max(initial=0.0))
    top = float(np.quantile(size, quantile)) if size.size and quantile < 1 else most
    top = top if top > 0 else most or 1.0
    signed = bool(flat.size) and float(flat.min()) < 0
    beyond = ("both" if signed else "max") if top < most else "neither"
    if signed:
        return Scale(colormaps["RdBu"], Normalize(-top, top), beyond)
    return Scale(colormaps[colors], PowerNorm(gamma, 0.0, top) if gamma != 1 else Normalize(0.0, top), beyond)


def colorbar(picture: Figure, colors: Scale, tall: float, text: str = "weight", **where: Any) -> None:
    """Show what the colors mean, in a bar so many inches tall: beside the panels `ax=`, or in `cax=`."""
    from matplotlib.cm import ScalarMappable

    if "ax" in where:
        where |= {"aspect": max(5.0, tall / 0.14), "pad": 0.02}
    bar = picture.colorbar(ScalarMappable(colors.range, colors.colors), extend=colors.beyond, **where)
    bar.set_label(text, fontsize=MIDDLE)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_linewidth(0.5)
