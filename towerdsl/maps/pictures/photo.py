"""What a query takes from the places of a picture, over the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from towerdsl.maps.data import AttentionMap
from towerdsl.maps.pictures import common
from towerdsl.maps.pictures.common import SMALL, Floats, fail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Panels beside each other, and in all.
ACROSS, MOST_PANELS = 4, 32
#: Few places weigh much more than all others: larger weights than those of this part have the last color.
QUANTILE = 0.995
#: How light red, green and blue are (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


def overlay(
    attention: AttentionMap,
    image: Any = None,
    *,
    query: int | Sequence[int] | None = None,
    head: int | Sequence[int] | None = None,
    skip: int | None = None,
    grid: tuple[int, int] | None = None,
    batch: int = 0,
    title: str | None = None,
) -> Figure:
    """The weights of one query on the grid of the keys, over an image; several heads side by side.

    `image` is an array [h, w], [h, w, 3] or [h, w, 4] (floats between 0 and 1, or bytes), or a PIL image, as the model
    sees it: cut as its input was; without one, the weights alone. `query` is a position or a place, by default the
    first row of the map; where it is a place of the picture it is marked. `head` is one head or several, by default the
    mean over heads. The keys have two axes; or one, `skip` leading tokens and then the places `grid` = (h, w) row by
    row. What is left out is found from the form of the image (a square without one).
    Raises TowerError where the keys make no grid, or a head, query or batch entry is not there.
    """
    heads = (head,) if head is None or isinstance(head, int) else tuple(head)
    if not 1 <= len(heads) <= MOST_PANELS:
        fail(f"an overlay shows between 1 and {MOST_PANELS} heads, not {len(heads)}")
    photo = None if image is None else _photo(image)
    places = common.patches(attention, skip, grid, None if photo is None else (photo.shape[0], photo.shape[1]))
    shown = [common.row(common.one(attention, h, batch), query) for h in heads]
    position = shown[0][0]
    same = (attention.queries.axes, attention.queries.sizes) == (attention.keys.axes, attention.keys.sizes)
    place = places.place(position) if same else None
    pictures = [values[places.skip :].reshape(places.grid) for _, values in shown]
    colors = common.scale(pictures, "inferno", QUANTILE)

    height, width = places.grid if photo is None else photo.shape[:2]
    count = len(heads) + (photo is not None)
    across = min(count, ACROSS)
    down = math.ceil(count / across)
    wide = 2.6 if count > 1 else 4.2
    wide, high = (wide, wide * height / width) if height <= 2 * width else (2 * wide * width / height, 2 * wide)
    picture = common.figure(across * (wide + 0.1) + 1.0, down * (high + 0.4) + 0.35)
    panels = list(picture.subplots(down, across, squeeze=False).flat)
    for axes in panels[count:]:
        axes.axis("off")
    at = ", ".join(map(str, attention.queries.place(position)))
    who = f"query {at}" if at else "the query"
    if photo is not None:
        _frame(panels[0], photo, place, places, colored=True)
        common.headed(panels[0], f"image, {who}" if place else "image", 40)
    for axes, h, values, (_, row) in zip(panels[count - len(heads) : count], heads, pictures, shown, strict=True):
        _frame(axes, photo, place, places)
        axes.imshow(
            values,
            cmap=colors.colors,
            norm=colors.range,
            extent=(0, width, height, 0),
            interpolation="nearest" if photo is None else "bilinear",
            alpha=1.0 if photo is None else 0.65,
        )
        count_heads = len(attention.heads)
        common.headed(
            axes, f"head {h}" if h is not None else f"mean of {count_heads} heads" if count_heads else "weights"
        )
        if places.skip:
            rest = float(row[: places.skip].sum())
            what = "token 0" if places.skip == 1 else f"tokens 0 to {places.skip - 1}"
            axes.set_xlabel(f"{what}, no patch: {rest:.2f}", fontsize=SMALL, labelpad=3)
    names = " × ".join(attention.keys.axes) if len(attention.keys.axes) == 2 else ", ".join(attention.keys.axes)
    common.sides(panels[0], "", f"keys {names}, {places.grid[0]} × {places.grid[1]}")
    common.colorbar(picture, colors, down * high, ax=panels)
    common.titled(picture, title or f"{common.name(attention)}: what {who} takes")
    return picture


def _frame(
    axes: Axes, photo: Floats | None, place: tuple[int, int] | None, places: common.Patches, colored: bool = False
) -> None:
    """The photo, in gray where the colors are those of weights, and where the query stands."""
    axes.set(xticks=[], yticks=[])
    height, width = places.grid if photo is None else photo.shape[:2]
    if photo is not None:
        shown = photo if colored or photo.ndim == 2 else photo[..., :3] @ np.array(LUMA, np.float32)
        axes.imshow(shown, extent=(0, width, height, 0), vmin=0, vmax=1, cmap="gray")
    if place is not None:
        y, x = ((k + 0.5) * size / n for k, n, size in zip(place, places.grid, (height, width), strict=True))
        axes.plot(x, y, "o", markersize=7, markerfacecolor="none", markeredgecolor="black", markeredgewidth=3, zorder=5)
        axes.plot(
            x, y, "o", markersize=7, markerfacecolor="none", markeredgecolor="cyan", markeredgewidth=1.5, zorder=6
        )
    for spine in axes.spines.values():
        spine.set_visible(False)


def _photo(image: Any) -> Floats:
    """An image as floats between 0 and 1, [h, w] or [h, w, channels]."""
    found = np.asarray(image)
    if found.ndim not in (2, 3) or (found.ndim == 3 and found.shape[2] not in (3, 4)) or not found.size:
        fail(f"an image is [h, w], [h, w, 3] or [h, w, 4], not of shape {list(found.shape)}", "put the channels last")
    shown: Floats
    if found.dtype == bool or np.issubdtype(found.dtype, np.floating):
        shown = found.astype(np.float32)
    elif np.issubdtype(found.dtype, np.integer):
        shown = found.astype(np.float32) / (255 if found.dtype.itemsize == 1 else np.iinfo(found.dtype).max)
    else:
        fail(f"an image is of numbers, not of {found.dtype}")
    result: Floats = np.clip(np.nan_to_num(shown), 0, 1)
    return result
