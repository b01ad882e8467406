"""Pictures of what models look at, over images: ink is gray, weights are colored."""

import math
from pathlib import Path

import numpy as np
from common.scenes import NOTHING, SIDE, Scenes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from towerdsl.maps import pictures

SURE = 0.5  # what has a lower score is not drawn
COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan")
BADGE = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "tab:red"}  # of the number of a look


def over_images(images: Tensor, columns: dict[str, Tensor], path: Path) -> None:
    """A row for each of the images [n, side, side], a column for each title: the weights [looks, n, places].

    Places are those of a square grid, row by row; negative weights are red. Of several looks each is at one place, half
    as wide and high as the image: they are drawn as a way from one to the next.
    """
    figure, panels = grid(len(images), len(columns))
    side = images.shape[-1]
    for column, (title, weights) in zip(panels.T, columns.items(), strict=True):
        column[0].set_title(title, fontsize=8)
        places = math.isqrt(weights.shape[-1])
        for axes, image, looks in zip(column, images, weights.transpose(0, 1).numpy(), strict=True):
            axes.imshow(image, cmap="gray_r", vmin=0, vmax=1.5, extent=(0, side, side, 0))
            if len(looks) == 1:
                most, square = np.abs(looks).max(), looks.reshape(places, places)
                axes.imshow(square, cmap="RdBu", vmin=-most, vmax=most, alpha=0.6, extent=(0, side, side, 0))
            else:
                way = np.stack(np.unravel_index(looks.argmax(-1), (places, places)), 1) / (places - 1) * side / 2
                axes.plot(*(way + side / 4).T[::-1], color="tab:red", linewidth=1)
                for y, x in np.unique(way, axis=0):
                    numbers = (np.flatnonzero((way == (y, x)).all(1)) + 1).tolist()
                    axes.add_patch(Rectangle((x, y), side / 2, side / 2, color="tab:red", alpha=0.1 * len(numbers)))
                    middle, text = (x + side / 4, y + side / 4), ", ".join(map(str, numbers))
                    axes.annotate(text, middle, fontsize=8, ha="center", va="center", bbox=BADGE, zorder=3)
    save(figure, path)


def detections(scenes: Scenes, found: list[tuple[Tensor, Tensor, Tensor]], looks: Tensor, path: Path, rows=5) -> None:
    """Scenes with true boxes, dashed, and those found; beside each what the queries that found them look at.

    found: for each scene classes [queries], boxes [queries, 4] and scores [queries]; looks: [n, queries, places]
    """
    figure, panels = grid(rows, 5)
    places = math.isqrt(looks.shape[-1])
    for number, row in enumerate(panels):
        for axes in row:
            axes.imshow(scenes.pixels[number], cmap="gray_r", vmin=0, vmax=1.5, extent=(0, SIDE, SIDE, 0))
        row[0].set_title("dashed: true boxes", fontsize=8)
        for box in scenes.boxes[number][scenes.digits[number] < NOTHING]:
            row[0].add_patch(framed(box, edgecolor="black", linestyle=(0, (2, 2))))
        classes, boxes, scores = found[number]
        sure = [query for query in scores.argsort(descending=True).tolist() if scores[query] > SURE]
        for query in sure:
            row[0].add_patch(framed(boxes[query], edgecolor=COLORS[query % len(COLORS)]))
        for axes, query in zip(row[1:], sure, strict=False):
            weights = looks[number, query].view(places, places)
            axes.imshow(weights, cmap="Blues", alpha=0.6, extent=(0, SIDE, SIDE, 0), interpolation="bilinear")
            axes.add_patch(framed(boxes[query], edgecolor=COLORS[query % len(COLORS)]))
            axes.set_title(f"query {query}: {classes[query]}, {scores[query]:.0%} sure", fontsize=8)
        for axes in row[1 + len(sure) :]:
            axes.set_visible(False)
    save(figure, path)


def framed(box: Tensor, **how) -> Rectangle:
    x, y, width, height = (box * SIDE).tolist()
    return Rectangle((x - width / 2, y - height / 2), width, height, fill=False, linewidth=1.3, **how)


def grid(rows: int, columns: int):
    figure = Figure(figsize=(1.7 * columns, 1.75 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
    return figure, panels


def save(figure: Figure, path: Path) -> None:
    pictures.save(figure, path)
    print(f"picture: {path}")
