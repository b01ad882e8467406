"""The size of each box, from the text in it. The font has one width for all letters, so that this is known."""

from __future__ import annotations

import textwrap
import unicodedata
from dataclasses import dataclass

from towerdsl.drawing.graph import Node
from towerdsl.drawing.locality import Picture

HEAD = 24  # of a group
LINE = 16  # from line to line
SIZE = 11  # of letters in boxes
PICTURE = 112  # the side of a picture of a locality
PORT = 14  # between the inputs of a box
SIGN = 9  # the radius of a sum
NAMES = 74  # the column of names in an average
WRAP = 36  # letters in a line of an average
LONGEST = 44  # letters in a line elsewhere
LETTER = 0.615  # the width of a letter, in parts of its size, in the widest of the fonts


@dataclass(frozen=True)
class Box:
    left: float
    right: float
    height: float
    ins: list[float]
    outs: list[float]


def text_width(text: str, size: float, bold: bool = False) -> float:
    """How wide a text is at most; letters of some scripts are twice as wide."""
    letters = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return letters * LETTER * size * (1.03 if bold else 1.0)


def clipped(text: str, longest: int = LONGEST) -> str:
    """A text that fits a box."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def wrapped(text: str, longest: int = WRAP, most: int = 3) -> list[str]:
    """A text in lines of a limited length, not more than a few."""
    lines = textwrap.wrap(text, longest, break_on_hyphens=False) or [""]
    return lines if len(lines) <= most else [*lines[: most - 1], clipped(" ".join(lines[most - 1 :]), longest)]


def average_lines(node: Node) -> list[tuple[str, str]]:
    """The lines of an average, each with the name of its field, or nothing where it goes on."""
    return [(name if k == 0 else "", line) for name, text in node.rows for k, line in enumerate(wrapped(text))]


def cell_size(picture: Picture) -> float:
    """The side of a cell of a picture."""
    return min(PICTURE / max(len(picture.cells), len(picture.cells[0])), 14.0)


def picture_height(picture: Picture) -> float:
    """How high a picture is, without the lines under it."""
    return float(PICTURE) if picture.kind == "graph" else cell_size(picture) * len(picture.cells)


def caption(node: Node) -> list[tuple[str, str]]:
    """The lines under the picture of a locality, each with the mark before it: "?" or nothing."""
    if node.picture is None:
        return []
    found = [("", line) for text in node.picture.caption for line in wrapped(text, 24, 2)]
    return found + [
        ("?" if k == 0 else " ", line) for text in node.picture.where for k, line in enumerate(wrapped(text, 22, 2))
    ]


def caption_width(node: Node) -> float:
    """How wide a picture is with the lines under it."""
    return max([PICTURE, *(text_width(line, 9) + (14 if mark else 0) for mark, line in caption(node))])


def box_of(node: Node, middle: int) -> Box:
    """The box of a node that is no group. Its origin is where its input number `middle` enters."""
    count = len(node.inputs)
    if node.kind == "sign":
        return Box(SIGN, SIGN, 2 * SIGN, [0.0] * count, [0.0])
    if node.kind in ("in", "out"):
        half = text_width(node.lines[0], SIZE) / 2 + 8 if node.lines else 0.0
        return Box(half, half, 18.0 if node.lines else 0.0, [0.0] * count, [0.0])
    if node.kind == "average":
        width, height = average_size(node)
        ins = [width * (k + 0.5) / count for k in range(count)]
        origin = ins[middle] if count else width / 2
        return Box(origin, width - origin, height, [x - origin for x in ins], [0.0] * len(node.outputs))
    ins = [PORT * (k - middle) for k in range(count)]
    half = max(max(text_width(clipped(line), SIZE) for line in node.lines) / 2 + 10, *(abs(x) + 8 for x in (*ins, 0)))
    return Box(half, half, LINE * len(node.lines) + 8.0, ins, [0.0])


def average_size(node: Node) -> tuple[float, float]:
    """The width and height of an average: its fields, and the picture beside them."""
    lines = average_lines(node)
    text = max((text_width(line, SIZE) for _, line in lines), default=0.0)
    width = NAMES + text + 24
    height = 30.0 + LINE * len(lines) + 10
    if node.picture is not None:
        width += caption_width(node) + 20
        height = max(height, 48.0 + picture_height(node.picture) + 12 * len(caption(node)))
    return max(width, 70.0 * len(node.inputs)), height
