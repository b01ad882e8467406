"""The explorer: one HTML file in which the attention weights of a run can be pointed at. It needs no network.

The page is made of the files in `page/`: a frame, a style sheet, and plain scripts that share one scope, in the order
of `SCRIPTS`. What a run has is put into it as JSON (positions, labels, modules) and packed weights (`packing.py`).
Nothing of it is markup: the frame's policy lets only these scripts run, known by their hashes, and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn

from towerdsl import files
from towerdsl.diagnostics import Diagnostic, TowerError, expect, visible
from towerdsl.maps.data import Grid, Maps
from towerdsl.maps.packing import Packed, pack

#: A page larger than this is refused: a browser would take seconds to open it.
LIMIT = 64 * 2**20
#: Up to so many weights are kept with 16 bits each, if nothing else is asked for.
FINE = 2**23
#: The longer side of a photo on the page, in pixels.
PHOTO = 1024

SCRIPTS = ("data", "colors", "panel", "list", "picture", "graph", "matrix", "overview", "aside", "main")

Labels = Sequence[str] | Sequence[Sequence[str]]


@dataclass(frozen=True)
class _Side:
    """The positions on one side of maps, as the page shows them."""

    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    labels: tuple[tuple[tuple[str, ...], ...] | None, ...]  # of each axis: for each element of the batch, or for all
    skip: int  # so many leading positions are tokens beside the picture
    picture: tuple[int, int, int] | None  # frames, rows, columns


def explorer(
    maps: Maps,
    *,
    labels: Labels | Mapping[str, Labels] | None = None,
    image: Any = None,
    skip: int = 0,
    grid: tuple[int, int] | None = None,
    title: str = "Attention maps",
    graph_svg: str | None = None,
    colors: Sequence[str] | None = None,
    bits: int | None = None,
    top: int | None = None,
    limit: int = LIMIT,
) -> str:
    """The text of an HTML page that shows the weights of maps.

    labels: what positions are called: a list for every side of that many positions (or of `skip` leading tokens), or
        lists by the names of axes; a list of lists has one for each element of the batch.
    image: the photo under positions that form a grid: a file, a PIL image, or an array [height, width, 3] of bytes or
        of numbers from 0 to 1; a list has one for each element of the batch. Needs pillow.
    skip, grid: positions that are counted along one axis form a grid of rows and columns after `skip` leading tokens;
        with an image, the grid that fits it best is taken where none is given.
    graph_svg: a drawing of the model; in it an element of class `attention` with `data-path` chooses that attention.
    colors: the scale from 0 to the largest weight, as two or more colors like "#ffcc00".
    bits: of a weight, relative to the largest of its row: 8 or 16. By default 16 while the page stays small.
    top: keep only so many keys of each row, those of the largest weights.
    limit: the largest page, in bytes.

    Raises TowerError where there is nothing to show, where something given does not fit the maps, or above the limit.
    """
    expect("maps", maps, Maps, "what a probe has found")
    expect("title", title, str, "a text")
    expect("graph_svg", graph_svg, (str, NoneType), "a text")
    expect("labels", labels, (Sequence, Mapping, NoneType), "texts, or a mapping from names of axes to texts")
    for texts in labels.values() if isinstance(labels, Mapping) else ():
        expect("labels", texts, Sequence, "texts, or a mapping from names of axes to texts")
    expect("colors", colors, (Sequence, NoneType), "two or more texts like #ffcc00")
    for name, number in {
        "skip": skip,
        "limit": limit,
        "top": 1 if top is None else top,
        "bits": 8 if bits is None else bits,
    }.items():
        expect(name, number, int, "a whole number")
    if grid is not None and not (isinstance(grid, Sequence) and [type(x) for x in grid] == [int, int]):
        _refuse("a grid is a number of rows and a number of columns", "write grid=(14, 14)")
    if not len(maps):
        _refuse("there are no maps to explore", "probe a model that has attentions, or ask for other paths")
    if colors is not None and (len(colors) < 2 or any(not re.fullmatch("#[0-9a-fA-F]{6}", str(c)) for c in colors)):
        _refuse("colors are two or more texts like #ffcc00")
    if bits not in (None, 8, 16):
        _refuse("a weight is kept with 8 or 16 bits")
    if top is not None and top < 1:
        _refuse("`top` keys of a row are kept: at least 1")
    images = _images(image)
    shape = (images[0][1], images[0][2]) if images else None
    sides: list[_Side] = []
    used: set[str] = set()
    described = []
    count = sum(m.weights.numel() for m in maps)
    bits = bits or (16 if count <= FINE else 8)
    packed: list[Packed] = []
    size, seen = 0, 0
    for one in maps:
        places = []
        for positions in (one.queries, one.keys):
            side = _side(positions, labels, skip, grid, shape, used)
            if side not in sides:
                sides.append(side)
            places.append(sides.index(side))
        packed.append(pack(one, bits, top))
        size, seen = size + len(packed[-1].data), seen + one.weights.numel()
        if size > limit:
            _too_large(maps, size * count // seen, limit, top)
        described.append(
            {
                "path": one.path,
                "call": one.call,
                "score": one.score,
                "normalize": one.normalize,
                "kernel": one.kernel,
                "queries": places[0],
                "keys": places[1],
                "listed": one.listed,
                "batch": one.weights.shape[0],
                "heads": list(one.heads),
                "chosen": None if len(one.rows) == one.queries.count else one.rows.tolist(),
                **{name: x for name, x in asdict(packed[-1]).items() if name != "data"},
            }
        )
    _all_used(labels, used, maps)
    data = {
        "title": title,
        "images": [source for source, _, _ in images],
        "svg": graph_svg,
        "colors": None if colors is None else list(colors),
        "top": top,
        "sides": [asdict(side) for side in sides],
        "maps": described,
    }
    text = _page(title, data, packed)
    if len(text) > limit:
        _too_large(maps, len(text), limit, top)
    return text


def write(path: str | Path, maps: Maps, **options: Any) -> Path:
    """Write the page of `explorer(maps, **options)` to a file. Raises TowerError, also where it cannot be written."""
    expect("path", path, (str, os.PathLike), "a path")
    target = Path(path)
    text = explorer(maps, **options)
    files.write(target, text)
    return target


def _refuse(message: str, help: str | None = None) -> NoReturn:
    raise TowerError([Diagnostic("explorer", message, help=help)])


def _too_large(maps: Maps, size: int, limit: int, top: int | None) -> NoReturn:
    """Say how far the maps are from fitting, and what would make them fit."""
    share = 0.9 * limit / size  # the rest of the page has its size, too
    first = maps[0]
    heads, rows = first.weights.shape[1], len(first.rows)
    ways = []
    if len(maps) > 1:
        fitting = max(1, int(len(maps) * share))
        ways.append(f'{fitting} of the {len(maps)} maps, such as maps["{maps[len(maps) - 1].path}"]')
    if heads > 1 and heads * share >= 1:
        ways.append(f"probe {int(heads * share)} of {heads} heads")
    if rows * share >= 1:
        ways.append(f"probe {int(rows * share)} of {rows} rows")
    keys = first.keys.count if top is None else top
    few = int(keys * share / 2)  # columns that are not neighbors take as much as weights
    if few >= 1 and not first.listed:
        ways.append(f"keep the largest of each row: top={few}")
    has, may = (f"{x / 2**20:.3g} MB" for x in (size, limit))
    _refuse(
        f"the page would have about {has}, more than the limit of {may}",
        f"explore {'; or '.join(ways)}" if ways else "raise the limit",
    )


# --- positions -------------------------------------------------------------------------------------------------


def _side(
    positions: Grid,
    labels: Labels | Mapping[str, Labels] | None,
    skip: int,
    grid: tuple[int, int] | None,
    shape: tuple[int, int] | None,
    used: set[str],
) -> _Side:
    """How positions are shown. What the page cannot tell apart is the same side: names of axes that have labels."""
    picture, skipped = _picture(positions, skip, grid, shape)
    found: list[tuple[tuple[str, ...], ...] | None] = []
    for axis, size in zip(positions.axes, positions.sizes, strict=True):
        if isinstance(labels, Mapping):
            own = _batched(labels[axis]) if axis in labels else None
            if own is not None and any(len(one) != size for one in own):
                lengths = ", ".join(str(n) for n in sorted({len(one) for one in own}))
                _refuse(f"axis {axis} has {size} positions, and {lengths} labels were given")
            key = axis
        else:
            own = None if labels is None or len(positions.axes) > 1 else _batched(labels)
            fits = own is not None and any({len(one) for one in own} == {n} for n in (size, skipped or size))
            own, key = own if fits else None, ""
        if own is not None:
            used.add(key)
        found.append(own)
    named = any(x is not None for x in found) or picture is not None
    return _Side(() if named else positions.axes, positions.sizes, tuple(found), skipped, picture)


def _batched(labels: Labels) -> tuple[tuple[str, ...], ...]:
    """One tuple of labels for all elements of a batch, or one for each."""
    if any(isinstance(x, str) for x in labels) or not len(labels):
        return (tuple(visible(str(x)) for x in labels),)
    if not all(isinstance(one, Sequence) for one in labels):
        _refuse("labels are texts, or a list of texts for each element of the batch")
    return tuple(tuple(visible(str(x)) for x in one) for one in labels)


def _all_used(labels: Labels | Mapping[str, Labels] | None, used: set[str], maps: Maps) -> None:
    """Refuse labels that no side of a map has a place for."""
    if labels is None:
        return
    sides = list({(g.axes, g.sizes): g for m in maps for g in (m.queries, m.keys)}.values())
    has = "; ".join(", ".join(f"{a}: {n}" for a, n in zip(g.axes, g.sizes, strict=True)) for g in sides[:8])
    if isinstance(labels, Mapping):
        for axis in labels:
            if axis not in used:
                _refuse(f"there are labels for axis {axis}, which no map has", f"the axes are {has}")
    elif not used:
        lengths = ", ".join(str(n) for n in sorted({len(one) for one in _batched(labels)}))
        _refuse(f"no map has {lengths} positions, as many as there are labels", f"the maps have {has}")


def _picture(
    positions: Grid, skip: int, grid: tuple[int, int] | None, shape: tuple[int, int] | None
) -> tuple[tuple[int, int, int] | None, int]:
    """Frames, rows and columns of positions that form a grid, and how many tokens lead them."""
    if len(positions.sizes) > 1:
        rows, columns = positions.sizes[-2:]
        return (math.prod(positions.sizes[:-2]), rows, columns), 0
    cells = positions.count - skip
    if cells < 1 or not positions.sizes:
        return None, 0
    if grid is not None:
        return ((1, *grid), skip) if math.prod(grid) == cells else (None, 0)
    if shape is None or cells < 4:
        return None, 0
    height, width = shape
    fitting = [(r, cells // r) for r in range(1, cells + 1) if not cells % r]
    best = min(fitting, key=lambda g: abs(math.log(g[0] / g[1] * width / height)))
    near = abs(math.log(best[0] / best[1] * width / height)) < math.log(1.2)  # patches are about square
    return ((1, *best), skip) if near else (None, 0)


# --- images ----------------------------------------------------------------------------------------------------


def _images(image: Any) -> list[tuple[str, int, int]]:
    """Photos as data URLs, with their heights and widths."""
    if image is None:
        return []
    return [_photo(one) for one in (image if isinstance(image, (list, tuple)) else [image])]


def _photo(image: Any) -> tuple[str, int, int]:
    try:
        from PIL import Image
    except ImportError:
        _refuse("an image on the page needs pillow, which is not installed", "pip install pillow")
    import numpy as np

    try:
        if isinstance(image, (str, Path)):
            picture: Image.Image = Image.open(image)
        elif isinstance(image, Image.Image):
            picture = image
        else:
            array = np.asarray(image)
            if array.ndim != 3 or array.shape[2] != 3:
                raise ValueError(f"it has the shape {list(array.shape)}")
            if array.dtype.kind == "f":
                array = np.rint(array.clip(0, 1) * 255)
            picture = Image.fromarray(array.astype(np.uint8))
        picture = picture.convert("RGB")
        picture.thumbnail((PHOTO, PHOTO))
    except (OSError, TypeError, ValueError, Image.DecompressionBombError) as error:
        _refuse(f"the image cannot be read: {error}", "give a file, or an array [height, width, 3]")
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}", picture.height, picture.width


# --- the page --------------------------------------------------------------------------------------------------


def _page(title: str, data: Mapping[str, Any], packed: Sequence[Packed]) -> str:
    folder = Path(__file__).with_name("page")
    scripts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    hashes = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode("ascii") for s in scripts)
    weights = (f'<script type="text/plain" id="weights-{k}">{one.data}</script>' for k, one in enumerate(packed))
    parts = {
        "policy": " ".join(f"'sha256-{h}'" for h in hashes),
        "title": html.escape(visible(title, "")),
        "style": (folder / "explorer.css").read_text(encoding="utf-8"),
        "data": _json(data),
        "weights": "\n".join(weights),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    frame = (folder / "index.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m.group(1)], frame)


def _json(data: Mapping[str, Any]) -> str:
    """JSON that can stand in a script element whatever its texts are: nothing in it opens or ends an element."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
