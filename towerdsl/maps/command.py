"""`towerdsl maps`: run a model under the probe, and write pictures of what its attentions weigh."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from towerdsl import files
from towerdsl.claims import draw
from towerdsl.compiler import Compiled
from towerdsl.diagnostics import Diagnostic, TowerError
from towerdsl.explain.work import Calls
from towerdsl.maps import explorer, pictures
from towerdsl.maps.data import AttentionMap, Grid, Maps
from towerdsl.maps.inputs import read_inputs
from towerdsl.maps.pictures import common
from towerdsl.maps.pictures.matrix import MOST_ROWS
from towerdsl.maps.pictures.nodes import MOST_NODES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Positions that are shown with lines too; hops, and heads over an image, that are shown side by side.
MOST_LINED, MOST_HOPS, MOST_HEADS = 40, 12, 12
#: Bytes of a file of labels.
MOST_BYTES = 2**20

Draw = Callable[[], "Figure"]


@dataclass(frozen=True)
class Choice:
    """What is shown: which modules, heads and rows, of which entry of the batch, with which words and image."""

    at: str = "*"
    heads: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None
    batch: int = 0
    labels: tuple[str, ...] | None = None
    image: Any = None
    around: int | None = None


def choice(
    at: str,
    heads: tuple[int, ...] | None,
    rows: tuple[int, ...] | None,
    batch: int,
    labels: Path | None,
    image: Path | None,
    around: int | None,
    inputs: Path | None,
) -> Choice:
    """A choice with its files read; over an image one row is shown where none are named. Raises TowerError."""
    common.require()
    photo = None if image is None else _image(image)
    if photo is not None and inputs is None:
        _fail("a photo lies under what the model made of it", "give the inputs that were made of it with --inputs")
    shown = (0,) if rows is None and photo is not None else rows
    words = None if labels is None else _labels(labels)
    return Choice(at, heads, shown, batch, words, photo, around)


def look(
    model: nn.Module, compiled: Compiled, lengths: dict[str, int], inputs: Path | None, seed: int, chosen: Choice
) -> Maps:
    """The maps of one call of a model, on the inputs of a file or random ones of these lengths. Raises TowerError."""
    from towerdsl.maps.probing import probe

    occurrences = Calls().occurrences(compiled.model.root)
    if not occurrences:
        _fail(f"{compiled.model.name} has no attention")

    if inputs is None:

        def drawn(found: dict[str, int]) -> dict[str, Tensor]:
            given = draw.required(model, draw.inputs(compiled.model, found, seed, empty=False))
            with torch.no_grad():
                model(**given)
            return given

        _, given = draw.running(compiled.model, draw.lengths(compiled.model, occurrences, lengths), drawn)
    else:
        parameters = inspect.signature(model.forward).parameters
        names = dict(zip((i.name for i in compiled.model.inputs), parameters, strict=True))
        given = {names[name]: x for name, x in read_inputs(inputs, compiled.model).items()}
        if chosen.image is not None:
            _check_image(chosen.image, list(given.values()))
    try:
        with torch.no_grad(), probe(model, at=chosen.at, heads=chosen.heads, rows=chosen.rows) as found:
            model(**given)
    except (RuntimeError, LookupError, ValueError, ZeroDivisionError) as error:
        reason = (str(error.args[0] if error.args else "").strip() or type(error).__name__).splitlines()[0]
        _fail(f"{compiled.model.name} does not run with these inputs, heads and rows: {reason}")
    if not len(found):
        some = ", ".join(dict.fromkeys(o.path for o in occurrences))
        _fail(f"no attention is called `{chosen.at}`", f"there are {some[:300]}")
    return found


def _check_image(image: Any, given: list[Tensor]) -> None:
    """Refuse a photo that none of the inputs can be made of, as it is."""
    height, width = image.shape[:2]
    pictures_of_it = [x for x in given if x.ndim >= 3 and x.is_floating_point()]
    if not any(abs(x.shape[-2] * width - x.shape[-1] * height) <= max(height, width) for x in pictures_of_it):
        has = ", ".join(f"{x.shape[-2]} x {x.shape[-1]}" for x in pictures_of_it) or "none"
        _fail(
            f"the photo is {height} x {width}, and no input has its form: pictures among the inputs are {has}",
            "cut the photo as the model's input was cut",
        )


def write(maps: Maps, chosen: Choice, folder: Path, suffix: str, reads: Sequence[str | Path]) -> Iterator[Path]:
    """Write the pictures of some maps into a folder; gives the files as they are written. Raises TowerError.

    `reads` are what the maps were made of, which no picture takes the place of.
    """
    if chosen.labels is not None:
        sides = {side.count for m in maps for side in (m.queries, m.keys)}
        if len(chosen.labels) not in sides:
            _fail(
                f"{len(chosen.labels)} labels are given; the maps have {', '.join(map(str, sorted(sides)))} positions"
            )
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for name, make in (*_grids(maps, chosen), *_each(maps, chosen)):
        base = re.sub(r"[^\w.-]", "_", name)[:100]
        file = next(x for k in range(len(taken) + 1) if (x := base + (f"-{k + 1}" if k else "")) not in taken)
        taken.add(file)
        files.apart(folder / (file + suffix), reads)
        pictures.save(make(), folder / (file + suffix))
        yield folder / (file + suffix)


def explore(maps: Maps, chosen: Choice, folder: Path, name: str, drawing: str, reads: Sequence[str | Path]) -> Path:
    """Write the page of an explorer into a folder, beside a drawing of the model. Raises TowerError."""
    where = _patches(maps[0], chosen) if chosen.image is not None else None
    picture = {} if where is None else {"image": chosen.image, "skip": where.skip, "grid": where.grid}
    page = folder / "explorer.html"
    files.apart(page, reads)
    return explorer.write(page, maps, labels=chosen.labels, title=name, graph_svg=drawing, **picture)


# --- which pictures --------------------------------------------------------------------------------------------


def _grids(maps: Maps, chosen: Choice) -> Iterator[tuple[str, Draw]]:
    """A grid of heads for each shape of maps."""
    shapes: dict[tuple[Grid, Grid, int], list[AttentionMap]] = {}
    for m in maps:
        shapes.setdefault((m.queries, m.keys, len(m.rows)), []).append(m)
    for (queries, keys, _), group in shapes.items():
        where = _patches(group[0], chosen) if chosen.image is not None else None
        name = f"heads-{_sizes(queries)}-{_sizes(keys)}"
        for start in range(0, len(group), MOST_ROWS):
            part = group[start : start + MOST_ROWS]
            if max(len(m.heads) for m in part) <= 1 and (len(part) == 1 or queries.count == 1):
                continue  # another picture shows the same
            draw = partial(pictures.head_grid, part, batch=chosen.batch)
            if where is None:
                yield name, draw
            else:
                for query in chosen.rows or ():
                    yield _named(name, query), partial(draw, query=query, skip=where.skip, grid=where.grid)


def _each(maps: Maps, chosen: Choice) -> Iterator[tuple[str, Draw]]:
    """A picture of each attention; of hops and steps that have one query each, one of all."""
    groups: dict[Any, list[AttentionMap]] = {}
    for m in maps:
        step = m.queries.count == 1 and m.keys.count > 1 and not m.listed
        groups.setdefault((_series(m), m.keys, m.heads) if step else (m.path, m.call), []).append(m)
    for group in groups.values():
        yield from _together(group, chosen) if len(group) > 1 else _one(group[0], chosen)


def _together(group: list[AttentionMap], chosen: Choice) -> Iterator[tuple[str, Draw]]:
    name, count = _series(group[0]) or "attention", group[0].keys.count
    words = _words(group[0].keys, chosen)
    for h in chosen.heads or (None,):
        if 1 < len({m.path for m in group}) <= MOST_HOPS and count <= MOST_ROWS:
            sentences = words or tuple(map(str, range(count)))
            draw = partial(pictures.hops, group, sentences, title=name)
        else:
            steps, weights = Grid(("step",), (len(group),)), torch.cat([m.weights for m in group], 2)
            whole = replace(group[0], path=name, queries=steps, rows=torch.arange(len(group)), weights=weights)
            draw = partial(pictures.tokens, whole, keys=words)
        yield _named(name, head=h), partial(draw, head=h, batch=chosen.batch)


def _one(m: AttentionMap, chosen: Choice) -> Iterator[tuple[str, Draw]]:
    name = (m.path or "attention") + (f"-call{m.call}" if m.call else "")
    over_a_picture = chosen.image is not None or len(m.keys.axes) == 2
    where = _patches(m, chosen) if over_a_picture and not m.listed else None
    if m.listed and m.queries.count == m.keys.count:
        for h in chosen.heads or (None,):
            yield _named(name, head=h), partial(_near, m, h, chosen)
    elif where is not None:
        picture = m.queries == m.keys and len(m.keys.axes) == 2
        middle = m.queries.position([size // 2 for size in m.queries.sizes]) if picture else int(m.rows[0])
        draw = partial(pictures.overlay, m, chosen.image, head=chosen.heads or m.heads[:MOST_HEADS] or None)
        draw = partial(draw, skip=where.skip, grid=where.grid, batch=chosen.batch)
        for query in chosen.rows or (middle,):
            yield _named(name, query), partial(draw, query=query)
    else:
        words: dict[str, Any] = {"labels": _words(m.queries, chosen), "keys": _words(m.keys, chosen)}
        words["batch"] = chosen.batch
        for h in chosen.heads or (None,):
            yield _named(name, head=h), partial(pictures.tokens, m, head=h, **words)
        if 1 < max(len(m.rows), m.keys.count) <= MOST_LINED:
            yield f"{name}-lines", partial(pictures.lines, m, **words)


def _near(m: AttentionMap, head: int | None, chosen: Choice) -> Figure:
    """A graph; of a large one, what is near a node."""
    draw = partial(pictures.graph, m, labels=_words(m.queries, chosen), head=head, batch=chosen.batch)
    if m.queries.count <= MOST_NODES and chosen.around is None:
        return draw()
    node = chosen.around or 0
    try:
        return draw(around=node, hops=2)
    except TowerError:
        return draw(around=node, hops=1)


def _patches(m: AttentionMap, chosen: Choice) -> common.Patches | None:
    """The picture that the keys of a map make, if they make one."""
    try:
        return common.patches(m, None, None, None if chosen.image is None else np.shape(chosen.image)[:2])
    except TowerError:
        return None


def _words(grid: Grid, chosen: Choice) -> tuple[str, ...] | None:
    return chosen.labels if chosen.labels is not None and len(chosen.labels) == grid.count else None


def _series(m: AttentionMap) -> str:
    """What the modules of hops have in common: `look.0` and `look.1` are `look`."""
    return re.sub(r"\.\d+\b", "", m.path)


def _named(name: str, query: int | None = None, head: int | None = None) -> str:
    return name + (f"-query{query}" if query is not None else "") + (f"-head{head}" if head is not None else "")


def _sizes(grid: Grid) -> str:
    return "x".join(map(str, grid.sizes)) or "1"


# --- files -----------------------------------------------------------------------------------------------------


def _labels(path: Path) -> tuple[str, ...]:
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        _fail(f"`{path}` has more than {MOST_BYTES:,} bytes of labels")
    try:
        return tuple(text.decode("utf-8").splitlines())
    except UnicodeDecodeError:
        _fail(f"`{path}` is not a UTF-8 text file", "write one label in each line")


def _image(path: Path) -> Any:
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever an untrusted file makes the library say
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        _fail(f"`{path}` is not an image that can be read: {reason}")


def _fail(message: str, help: str | None = None) -> NoReturn:
    raise TowerError([Diagnostic("maps", message, help=help)]) from None
