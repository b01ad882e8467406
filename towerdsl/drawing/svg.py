"""The picture as SVG: one file that shows itself, and whose groups fold at a click where scripts run."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from towerdsl.diagnostics import visible
from towerdsl.drawing import boxes as b
from towerdsl.drawing import layout
from towerdsl.drawing.graph import Group
from towerdsl.drawing.layout import Edge, Item, Placed
from towerdsl.drawing.locality import Picture

MARGIN = 16
ROUND = 6  # the radius of a stream's corners
LENGTHS = ("GAP", "LANE", "LABEL", "TURN", "ARROW", "PAD", "STRAIGHT")  # that a layout is made with

COLORS = {"": "#5b6678", "query": "#c2410c", "key": "#1d4ed8", "value": "#15803d", "pair": "#3b6fc4"}  # of arrows

_RULES = """
text { font: 11px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #1f2937; }
.page { fill: #fbfbfd; }
.frame { fill: #ffffff; stroke: #c3cad6; }
.block .block > .frame, .block .repeat > .frame, .model .repeat .block > .frame { fill: #f6f8fb; }
.repeat > .frame, .turns > .frame { stroke-dasharray: 5 3; }
.attention > .frame { fill: #fff8ee; stroke: #dfa04e; }
.head { fill: #e6ebf3; cursor: pointer; }
.attention > .head { fill: #fbe6c8; }
.title { font-size: 12px; font-weight: bold; pointer-events: none; }
.op > rect { fill: #eaf0fa; stroke: #9db1d1; }
.op.weighted > rect { fill: #d6e4fb; stroke: #6f93cf; }
.leaf > rect { fill: #e9f6ec; stroke: #86bd95; stroke-dasharray: 3 2; }
.in > rect, .out > rect { fill: #ffffff; stroke: #8a94a6; }
.sign > circle { fill: #ffffff; stroke: #5b6678; }
.sign > text { font-size: 14px; font-weight: bold; }
.average > rect { fill: #ffffff; stroke: #dfa04e; stroke-width: 1.5; }
.average .name, .average .port { fill: #7a5a22; }
.average .port { font-weight: bold; }
.middle > text, .port, .sign > text { text-anchor: middle; }
.label { font-size: 10px; fill: #5b6678; }
.stream { fill: none; stroke-width: 1.2; }
.caption { font-size: 9px; fill: #5b6678; }
.paper { fill: #ffffff; stroke: #c3cad6; }
.seen { fill: #3b6fc4; }
.perhaps { fill: #b9cdee; }
.grid { stroke: #ffffff; stroke-width: 0.6; }
.asked { fill: none; stroke: #dc2626; stroke-width: 1.5; }
.other { fill: #ffffff; stroke: #b6bfcc; }
.neighbour { fill: #3b6fc4; }
.node { fill: #dc2626; }
.pair { stroke: #3b6fc4; stroke-width: 1.3; fill: none; }
.far { stroke: #d5dae3; }
"""


def _style() -> str:
    """The rules, for what is inside a drawing alone: it may be part of a page."""
    found = []
    for rule in _RULES.split("\n")[1:-1]:
        selectors, body = rule.split(" {", 1)
        found.append(", ".join(f".towerdsl-drawing {x.strip()}" for x in selectors.split(",")) + " {" + body)
    for name, color in COLORS.items():
        role = f".{name}" if name else ""
        found.append(f".towerdsl-drawing .stream{role} {{ stroke: {color}; }}")
        found += [f".towerdsl-drawing .port{role} {{ fill: {color}; }}"] if name else []
    return "\n".join(found)


def to_svg(group: Group) -> str:
    """A graph as the text of an SVG."""
    item = layout.arrange(group)
    return _Writer().document(item, layout.place(item))


def _attribute(text: str) -> str:
    return quoteattr(visible(text, ""))


def _text(text: str) -> str:
    return escape(visible(text, ""))


def number(x: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    return f"{round(x, 1) + 0.0:g}"


def path(points: list[tuple[float, float]]) -> str:
    """A line through points, with round corners."""
    kept = [p for k, p in enumerate(points) if k == 0 or p != points[k - 1]]
    text = f"M{number(kept[0][0])} {number(kept[0][1])}"
    for before, at, after in zip(kept, kept[1:], kept[2:], strict=False):
        ends = []
        for other in (before, after):
            length = abs(other[0] - at[0]) + abs(other[1] - at[1])
            part = min(ROUND, length / 2) / length
            ends.append((at[0] + (other[0] - at[0]) * part, at[1] + (other[1] - at[1]) * part))
        (x1, y1), (x2, y2) = ends
        text += f"L{number(x1)} {number(y1)}Q{number(at[0])} {number(at[1])} {number(x2)} {number(y2)}"
    return text + f"L{number(kept[-1][0])} {number(kept[-1][1])}"


class _Writer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0

    def document(self, item: Item, placed: Placed) -> str:
        width, height = placed.left + placed.right + 2 * MARGIN, placed.height + 2 * MARGIN
        assert item.plan is not None
        title = item.plan.group.title
        box = f"{number(-placed.left - MARGIN)} {-MARGIN} {number(width)} {number(height)}"
        size = f'width="{number(width)}" height="{number(height)}"'
        self.lines += [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="towerdsl-drawing" viewBox="{box}" {size} role="img" '
            f"aria-label={_attribute(title)}>",
            f"<title>{_text(title)}</title>",
            f"<style>\n{_style()}\n</style>",
            "<defs>",
            *(
                f'<marker id="towerdsl-arrow-{name}" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" '
                f'markerHeight="7" orient="auto"><path d="M0 0.5L8 4L0 7.5Z" fill="{color}"/></marker>'
                for name, color in COLORS.items()
            ),
            "</defs>",
            f'<rect class="page" x="{number(-placed.left - MARGIN)}" y="{-MARGIN}" {size}/>',
        ]
        data = self.group(item, placed)
        script = files("towerdsl.drawing").joinpath("fold.js").read_text(encoding="utf-8")
        constants = {
            name: getattr(layout, name) for name in ("GAP", "LANE", "LABEL", "TURN", "ARROW", "PAD", "STRAIGHT")
        }
        constants |= {"HEAD": b.HEAD, "MARGIN": MARGIN, "ROUND": ROUND}
        # only numbers and truth values: nothing of a spec's text is in the script
        self.lines += [
            "<script><![CDATA[{",
            f"const SIZES = {json.dumps(constants)};",
            f"const MODEL = {json.dumps(data, separators=(',', ':'))};",
            script.rstrip(),
            "}]]></script>",
            "</svg>",
        ]
        return "\n".join(self.lines) + "\n"

    def group(self, item: Item, placed: Placed) -> dict[str, Any]:
        """A group and all in it, open or not; returns what `fold.js` needs to place it."""
        plan = item.plan
        assert plan is not None
        group = plan.group
        key = self._key()
        left, width = -placed.left, placed.left + placed.right
        attributes = f"data-path={_attribute(group.path)}" if group.path else ""
        self.lines.append(
            f'<g class="{group.kind}" data-id="{key}" {attributes} transform="translate({number(placed.x)} '
            f'{number(placed.y)})">'
        )
        if group.note:
            self.lines.append(f"<title>{_text(group.note)}</title>")
        self.lines += [
            f'<rect class="frame" x="{number(left)}" width="{number(width)}" height="{number(placed.height)}" rx="6"/>',
            f'<rect class="head" x="{number(left)}" width="{number(width)}" height="{b.HEAD}" rx="6"/>',
            f'<text class="title" x="{number(left + 10)}" y="16">{"▾" if group.open else "▸"} '
            f"{_text(b.clipped(group.heading))}</text>",
        ]
        hidden = "" if group.open else ' display="none"'
        self.lines.append(f'<g class="inside"{hidden}>')
        # what is closed is drawn where it would be: a script moves it when it is opened
        inside = {id(p.item.node): p for p in placed.inside} or {
            id(i.node): Placed(i, 0, 0, i.left, i.right, i.height) for row in plan.rows for i in row.items
        }
        points = {id(edge): found for edge, found in placed.streams}
        streams = [self.stream(edge, points.get(id(edge), [])) for edge in plan.edges]
        boxes = {i: self.node(inside[i]) for i in inside}
        self.lines.append("</g></g>")

        def row(r: layout.Row) -> dict[str, Any]:
            return {
                "main": boxes[id(r.main.node)] if r.main else None,
                "left": [boxes[id(i.node)] for i in r.left],
                "right": [boxes[id(i.node)] for i in r.right],
            }

        order = {i: data["id"] for i, data in boxes.items()}
        return {
            **self._item(item, key),
            "open": group.open,
            "rows": [row(r) for r in plan.rows],
            "turns": plan.turns,
            "labels": plan.labels,
            "lanes": [[lane.side, lane.first, lane.last] for lane in plan.lanes],
            "edges": [
                [
                    k,
                    order[id(e.source.node)],
                    e.output,
                    order[id(e.target.node)],
                    e.input,
                    *e.rows,
                    e.leave,
                    e.enter,
                    -1 if e.lane is None else e.lane,
                    e.sideways,
                ]
                for k, e in zip(streams, plan.edges, strict=True)
            ],
        }

    def _key(self) -> int:
        self.count += 1
        return self.count

    @staticmethod
    def _item(item: Item, key: int) -> dict[str, Any]:
        def short(x: float) -> float:
            return round(x, 2)

        return {
            "id": key,
            "size": [short(item.left), short(item.right), short(item.height), short(item.beside)],
            "ins": list(map(short, item.ins)),
            "outs": list(map(short, item.outs)),
        }

    def stream(self, edge: Edge, points: list[tuple[float, float]]) -> int:
        key = self._key()
        target = edge.target.node
        port = target.ports[edge.input] if target.kind == "average" else ""
        role = port if port in COLORS else ""
        arrow = "" if target.kind == "out" else f' marker-end="url(#towerdsl-arrow-{role})"'
        line = path(points) if points else "M0 0"
        self.lines.append(f'<path class="{f"stream {role}".strip()}" data-id="{key}" d="{line}"{arrow}/>')
        return key

    def node(self, placed: Placed) -> dict[str, Any]:
        item = placed.item
        node = item.node
        where = f'transform="translate({number(placed.x)} {number(placed.y)})"'
        if node.group is not None:
            data = self.group(item, placed)
        else:
            key = self._key()
            data = self._item(item, key)
            classes = f"{node.kind}{' weighted' if node.weighted else ''}{'' if node.kind == 'average' else ' middle'}"
            self.lines.append(f'<g class="{classes}" data-id="{key}" {where}>')
            self.box(item)
            self.lines.append("</g>")
        if node.kind != "out" and any(node.outputs):
            at = f'transform="translate({number(placed.x)} {number(placed.y + placed.height)})"'
            self.lines.append(f'<g class="labels" data-of="{data["id"]}" {at}>')
            for x, text in zip(item.outs, node.outputs, strict=True):
                if text:
                    self.lines.append(f'<text class="label" x="{number(x + 6)}" y="11">{_text(text)}</text>')
            self.lines.append("</g>")
        return data

    def box(self, item: Item) -> None:
        node = item.node
        if node.kind == "sign":
            sign = {"*": "×"}.get(node.lines[0], node.lines[0])
            self.lines.append(f'<circle cy="{b.SIGN}" r="{b.SIGN}"/><text y="{b.SIGN + 5}">{_text(sign)}</text>')
            return
        if not node.lines and node.kind != "average":
            return
        size = f'width="{number(item.left + item.right)}" height="{number(item.height)}"'
        corner = 9 if node.kind in ("in", "out") else 4
        self.lines.append(f'<rect x="{number(-item.left)}" {size} rx="{corner}"/>')
        if node.kind == "average":
            self.average(item)
            return
        if any(b.clipped(line) != line for line in node.lines):
            self.lines.append(f"<title>{_text(chr(10).join(node.lines))}</title>")
        center = number((item.right - item.left) / 2)
        first = 13 if node.kind in ("in", "out") else 16
        for k, line in enumerate(node.lines):
            self.lines.append(f'<text x="{center}" y="{first + k * b.LINE}">{_text(b.clipped(line))}</text>')

    # --- an attention -------------------------------------------------------------------------------------------

    def average(self, item: Item) -> None:
        node = item.node
        for x, name in zip(item.ins, node.ports, strict=True):
            role = f" {name}" if name in COLORS else ""
            self.lines.append(f'<text class="port{role}" x="{number(x)}" y="16">{_text(b.clipped(name, 10))}</text>')
        left = -item.left + 12
        lines = b.average_lines(node)
        for k, (name, line) in enumerate(lines):
            y = 40 + k * b.LINE
            if name:
                self.lines.append(f'<text class="name" x="{number(left)}" y="{y}">{_text(name)}</text>')
            self.lines.append(f'<text x="{number(left + b.NAMES)}" y="{y}">{_text(line)}</text>')
        if node.picture is not None:
            x = item.right - 12 - b.caption_width(node)
            self.lines.append(f'<g class="locality" transform="translate({number(x)} 30)">')
            self.picture(node.picture)
            for k, (mark, line) in enumerate(b.caption(node)):
                y = round(b.picture_height(node.picture)) + 14 + 12 * k
                if mark == "?":
                    self.lines.append(f'<rect class="perhaps" y="{y - 8}" width="9" height="9"/>')
                indent = ' x="14"' if mark else ""
                self.lines.append(f'<text class="caption"{indent} y="{y}">{_text(line)}</text>')
            self.lines.append("</g>")

    def picture(self, picture: Picture) -> None:
        if picture.kind == "graph":
            self.graph(picture)
            return
        rows, columns, cell = len(picture.cells), len(picture.cells[0]), b.cell_size(picture)
        width, height = cell * columns, cell * rows
        self.lines.append(f'<rect class="paper" width="{number(width)}" height="{number(height)}"/>')
        for kind, name in (("#", "seen"), ("?", "perhaps")):
            line = _cells(picture.cells, kind, cell)
            if line:
                self.lines.append(f'<path class="{name}" d="{line}"/>')
        if cell >= 4:
            line = "".join(f"M{number(cell * k)} 0V{number(height)}" for k in range(1, columns))
            line += "".join(f"M0 {number(cell * k)}H{number(width)}" for k in range(1, rows))
            self.lines.append(f'<path class="grid" d="{line}"/>')
        if picture.query is not None:
            side = max(cell, 5.0)
            x, y = (cell * (p + 0.5) - side / 2 for p in reversed(picture.query))
            self.lines.append(
                f'<rect class="asked" x="{number(x)}" y="{number(y)}" width="{number(side)}" height="{number(side)}"/>'
            )

    def graph(self, picture: Picture) -> None:
        """A node (red), those that are listed with it (blue), others, and arrows from those that it sees."""
        center = (56, 58)
        near = [(20, 30), (56, 10), (92, 30), (104, 74)]
        far = [(8, 76), (96, 104), (20, 104)]
        for a, c in ((near[0], far[0]), (far[0], far[2]), (near[3], far[1]), (near[0], near[1]), (near[1], near[2])):
            self.lines.append(f'<line class="far" x1="{a[0]}" y1="{a[1]}" x2="{c[0]}" y2="{c[1]}"/>')
        listed, other, itself = (cell != "." for cell in picture.cells)
        lines = []
        for place in (*(near if listed else ()), *(far if other else ())):
            (x1, y1), (x2, y2) = _shortened(place, center, 9)
            lines.append(f"M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}")
        lines += ["M51 65C40 86 72 86 61 65.5"] if itself else []
        self.lines += [f'<path class="pair" d="{d}" marker-end="url(#towerdsl-arrow-pair)"/>' for d in lines]
        for kind, places in (("other", far), ("neighbour", near), ("node", [center])):
            self.lines += [f'<circle class="{kind}" cx="{x}" cy="{y}" r="7"/>' for x, y in places]


def _shortened(
    a: tuple[float, float], c: tuple[float, float], by: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    length = ((a[0] - c[0]) ** 2 + (a[1] - c[1]) ** 2) ** 0.5
    dx, dy = (c[0] - a[0]) / length * by, (c[1] - a[1]) / length * by
    return (a[0] + dx, a[1] + dy), (c[0] - dx, c[1] - dy)


def _cells(cells: tuple[str, ...], kind: str, size: float) -> str:
    """Cells of one kind as a path: runs along rows, rows that are alike as one rectangle."""
    found, first = "", 0
    for r in range(1, len(cells) + 1):
        if r < len(cells) and cells[r] == cells[first]:
            continue
        start: int | None = None
        for c, x in enumerate([*cells[first], " "]):
            if x == kind and start is None:
                start = c
            elif x != kind and start is not None:
                w, h = size * (c - start), size * (r - first)
                found += f"M{number(size * start)} {number(size * first)}h{number(w)}v{number(h)}h{number(-w)}z"
                start = None
        first = r
    return found
