"""Where everything stands: rows from top to bottom, the main stream in a straight line, what skips rows around them.

`arrange` decides once what stands in which row, on which side of the main stream, and in which lane a stream goes
around the rows that it skips. `place` gives coordinates, which depend on which groups are open; `fold.js` does the same
with the same data in a browser. Coordinates of a box are relative to its origin: the place where its main stream
enters, at its top. Lengths are in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import networkx as nx

from towerdsl.drawing.boxes import HEAD, box_of, text_width
from towerdsl.drawing.graph import Group, Link, Node

GAP = 26  # between boxes of a row
LANE = 14  # between lanes, and between a lane and a box
LABEL = 14  # the height of a line beside a stream
TURN = 9  # between the horizontal parts of streams
ARROW = 12  # straight into a box
PAD = 16  # inside a group
LABEL_SIZE = 10
STRAIGHT = 4  # a stream does not turn for less


@dataclass
class Item:
    """A box in a row: how far it goes to the left and right of its origin, its height, where streams enter and leave.

    `beside` is how far its label goes to the right of its origin. A group has a `plan`.
    """

    node: Node
    left: float
    right: float
    height: float
    ins: list[float]
    outs: list[float]
    beside: float
    plan: Plan | None = None


@dataclass
class Row:
    """The boxes of a layer: the one on the main stream, those to its left and right, from the inside out."""

    main: Item | None = None
    left: list[Item] = field(default_factory=list)
    right: list[Item] = field(default_factory=list)

    @property
    def items(self) -> list[Item]:
        return [*([self.main] if self.main else []), *self.left, *self.right]


@dataclass
class Lane:
    """A straight way from row `first`, behind it, to row `last`, on the left (-1) or right (1) of their boxes."""

    side: int
    first: int
    last: int


@dataclass
class Edge:
    """A stream from one box to another. `leave` and `enter` number its horizontal parts behind the first row and
    before the last; `sideways` enters a sign at its side."""

    source: Item
    output: int
    target: Item
    input: int
    rows: tuple[int, int]
    leave: int = 0
    enter: int = 0
    lane: int | None = None
    sideways: int = 0


@dataclass
class Plan:
    """A group, arranged. `turns` counts the horizontal parts of streams behind each row."""

    group: Group
    rows: list[Row]
    turns: list[int]
    labels: list[bool]
    lanes: list[Lane]
    edges: list[Edge]


@dataclass
class Placed:
    """A box with coordinates: of its origin in the group around it, and its extent. A group that is open has the boxes
    in it, and the points of its streams."""

    item: Item
    x: float
    y: float
    left: float
    right: float
    height: float
    inside: list[Placed] = field(default_factory=list)
    streams: list[tuple[Edge, list[tuple[float, float]]]] = field(default_factory=list)


def arrange(group: Group) -> Item:
    """A graph with everything in its row. The coordinates are those of `place`."""
    return _item(Node("group", [], [], [], group=group), 0, _plan(group))


def _item(node: Node, middle: int, plan: Plan | None) -> Item:
    """A node with its size. `middle` is the input by which the main stream enters."""
    if node.group is None or plan is None:
        box = box_of(node, middle)
        labels = [x + 6 + text_width(text, LABEL_SIZE) for x, text in zip(box.outs, node.outputs, strict=False) if text]
        return Item(node, box.left, box.right, box.height, box.ins, box.outs, max(labels, default=0))
    ports = [place_row(row, {}) for row in (plan.rows[0], plan.rows[-1])]
    ins = [ports[0][id(x)] for x in node.group.ins]
    outs = [ports[1][id(x)] for x in node.group.outs]
    head = text_width(node.group.heading, 12, bold=True) + 40
    left = max(head / 2, *(10 - x for x in (*ins, *outs, 0)))
    right = max(head / 2, head - left, *(10 + x for x in (*ins, *outs, 0)))
    labels = [x + 6 + text_width(text, LABEL_SIZE) for x, text in zip(outs, node.outputs, strict=False)]
    return Item(node, left, right, HEAD, ins, outs, max(labels, default=0), plan)


# --- what stands where -----------------------------------------------------------------------------------------


def _plan(group: Group) -> Plan:
    return _Planner(group).plan()


class _Planner:
    """Arranges one group: rows, the main stream, sides, and the ways of streams."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.plans = {x: _plan(x.group) for x in group.nodes if x.group is not None}
        graph: nx.DiGraph[Node] = nx.DiGraph()
        graph.add_nodes_from(group.all)
        graph.add_edges_from((x.node, node) for node in group.all for x in node.inputs)
        order = list(nx.lexicographical_topological_sort(graph, key=group.all.index))
        self.row = self._rows_from_the_top(graph, order)
        self.main = self._main()
        for node in reversed(order):  # what is beside the main stream stands just above its reader
            readers = [self.row[x] for x in graph.successors(node)]
            if node not in self.main and node.kind not in ("in", "out") and readers:
                self.row[node] = min(readers) - 1
        self.side = self._sides()
        self.items = {node: _item(node, self.main.get(node, 0), self.plans.get(node)) for node in group.all}
        self.rows = [Row() for _ in range(max(self.row.values(), default=0) + 1)]
        for node in self.main:
            self.rows[self.row[node]].main = self.items[node]
        for node in sorted(self.side, key=lambda x: self.side[x][1]):
            row = self.rows[self.row[node]]
            (row.left if self.side[node][0] < 0 else row.right).append(self.items[node])

    def plan(self) -> Plan:
        edges, lanes = self._ways()
        turns = self._turns(edges)
        labels = [any(i.node.kind != "out" and any(i.node.outputs) for i in row.items) for row in self.rows]
        return Plan(self.group, self.rows, turns, labels, lanes, edges)

    def _rows_from_the_top(self, graph: nx.DiGraph[Node], order: list[Node]) -> dict[Node, int]:
        """Each node in the row behind the last of what it reads; ports at the top, results at the bottom."""
        top = 1 if self.group.ins else 0
        row: dict[Node, int] = {}
        for node in order:
            row[node] = 0 if node.kind == "in" else max([top, *(row[x] + 1 for x in graph.predecessors(node))])
        return row | dict.fromkeys(self.group.outs, max(row.values(), default=0))

    def _main(self) -> dict[Node, int]:
        """The nodes on the main stream, each with the input that it enters by: from a result up, always by what has
        come the longest way; of several results the first, of several inputs the one of a group's own main stream, or
        the one in the middle."""
        found: dict[Node, int] = {}
        node = max(self.group.outs, key=lambda x: self.row[x.inputs[0].node], default=None)
        while node is not None:
            depth = max((self.row[x.node] for x in node.inputs), default=0)
            deepest = [k for k, x in enumerate(node.inputs) if self.row[x.node] == depth] or [-1]
            own = self._own_main(node)
            found[node] = own if own in deepest else deepest[(len(deepest) - 1) // 2]
            node = node.inputs[found[node]].node if node.inputs else None
        return found

    def _own_main(self, node: Node) -> int | None:
        """The port of a group at which its own main stream begins."""
        start = self.plans[node].rows[0].main if node in self.plans else None
        ports = self.plans[node].group.ins if node in self.plans else []
        return ports.index(start.node) if start is not None and start.node in ports else None

    def _sides(self) -> dict[Node, tuple[int, int]]:
        """For each node beside the main stream its side, and a number by which those of a row are sorted, inner
        first."""
        found: dict[Node, tuple[int, int]] = {}
        group, main = self.group, self.main

        def visit(node: Node, side: int) -> None:
            """What a node reads stands on its side; of one on the main stream, on the side of the input."""
            middle = main.get(node, -1)
            for k in (*reversed(range(middle)), *range(max(middle, 0), len(node.inputs))):
                source = node.inputs[k].node
                if source not in main and source not in found:
                    found[source] = (side if node not in main else -1 if k < middle else 1, len(found))
                    visit(source, found[source][0])

        for node in main:
            visit(node, 1)
        for node in (*group.outs, *reversed(group.nodes), *group.ins):
            if node not in main and node not in found:
                found[node] = (1, len(found))
                visit(node, 1)
        for ports in (group.ins, group.outs):  # these keep their order
            middle = next((k for k, x in enumerate(ports) if x in main), 0)
            found |= {x: (-1 if k < middle else 1, abs(k - middle)) for k, x in enumerate(ports) if x not in main}
        return found

    def _ways(self) -> tuple[list[Edge], list[Lane]]:
        """The way of each stream; those of one source that skip rows on one side share a lane."""
        edges: list[Edge] = []
        lanes: dict[tuple[Link, int], Lane] = {}
        for target in self.group.all:
            for k, link in enumerate(target.inputs):
                edge = self._edge(link, target, k)
                edges.append(edge)
                first, last = edge.rows
                if last - first > 1:
                    way = self._way(link, target, k)
                    lane = lanes.setdefault((link, way), Lane(way, first, first + 1))
                    lane.last = max(lane.last, last if edge.sideways else last - 1)
                    edge.lane = list(lanes).index((link, way))
        values = list(lanes.values())
        ordered = sorted(range(len(values)), key=lambda k: (values[k].last - values[k].first, k))  # short ones inside
        for edge in edges:
            edge.lane = None if edge.lane is None else ordered.index(edge.lane)
        return edges, [values[k] for k in ordered]

    def _way(self, link: Link, target: Node, number: int) -> int:
        """The side on which a stream comes: that of what is beside the main stream, or of the input."""
        if target in self.side:
            return self.side[target][0]
        return self.side[link.node][0] if link.node in self.side else -1 if number < self.main[target] else 1

    def _edge(self, link: Link, target: Node, number: int) -> Edge:
        rows = self.row[link.node], self.row[target]
        edge = Edge(self.items[link.node], link.output, self.items[target], number, rows)
        way = self._way(link, target, number)
        free = not (self.rows[rows[1]].left if way < 0 else self.rows[rows[1]].right)
        if target.kind == "sign" and number != self.main.get(target, number) and free:
            edge.sideways = way if rows[1] - rows[0] > 1 or link.node in self.side else 0
        return edge

    def _turns(self, edges: list[Edge]) -> list[int]:
        """Number the horizontal parts of streams behind each row; those of one source in a gap are one. Returns how
        many there are."""
        turns = [0] * len(self.rows)
        numbers: dict[tuple[int, int, int], int] = {}

        def turn(gap: int, edge: Edge) -> int:
            key = (gap, id(edge.source), edge.output)
            if key not in numbers:
                numbers[key] = turns[gap]
                turns[gap] += 1
            return numbers[key]

        def early(edge: Edge) -> tuple[bool, bool, bool]:
            """What leaves the main stream turns first and what joins it last, so that no two are one line on it."""
            joins = self.main.get(edge.target.node) == edge.input
            return edge.source.node not in self.main, joins, edge.lane is None

        for edge in sorted(edges, key=early):
            first, last = edge.rows
            both_main = edge.source is self.rows[first].main and edge.target is self.rows[last].main
            straight = both_main and edge.source.outs[edge.output] == edge.target.ins[edge.input]
            if edge.lane is not None or not (straight or edge.sideways):
                edge.leave = turn(first, edge)
            if edge.lane is not None and not edge.sideways:
                edge.enter = turn(last - 1, edge)
        return turns


# --- coordinates -----------------------------------------------------------------------------------------------


def place_row(row: Row, sizes: dict[int, Placed]) -> dict[int, float]:
    """Where the origins of a row's boxes are, by the ids of their nodes. `sizes` are those of groups."""

    def extent(item: Item) -> tuple[float, float]:
        size = sizes.get(id(item.node))
        left, right = (item.left, item.right) if size is None else (size.left, size.right)
        return left, max(right, item.beside)

    found: dict[int, float] = {}
    left, right = 0.0, 0.0
    if row.main is not None:
        found[id(row.main.node)] = 0.0
        left, right = extent(row.main)
    for item in row.right:
        own = extent(item)
        found[id(item.node)] = right + GAP + own[0] if found else own[0]
        right = found[id(item.node)] + own[1]
    for item in row.left:
        own = extent(item)
        found[id(item.node)] = -(left + GAP + own[1])
        left = own[0] - found[id(item.node)]
    return found


def place(item: Item, x: float = 0.0, y: float = 0.0) -> Placed:
    """The coordinates of a box and of all that is in it, where it is open."""
    plan = item.plan
    if plan is None or not plan.group.open:
        return Placed(item, x, y, item.left, item.right, item.height)
    inner = {id(i.node): place(i) for row in plan.rows for i in row.items}
    lefts, rights, tops, bottoms = [], [], [], []
    at = HEAD + PAD / 2
    for row, label, turns in zip(plan.rows, plan.labels, plan.turns, strict=True):
        places = place_row(row, inner)
        height = max((inner[key].height for key in places), default=0.0)
        for key, px in places.items():
            inner[key].x, inner[key].y = px, at + height - inner[key].height
        boxes = [(inner[id(i.node)], i) for i in row.items]
        lefts.append(max((p.left - p.x for p, _ in boxes), default=0.0))
        rights.append(max((p.x + max(p.right, i.beside) for p, i in boxes), default=0.0))
        tops.append(at)
        bottoms.append(at + height)
        at += height + (LABEL if label else 0) + TURN * turns + ARROW
    lanes = []
    for k, lane in enumerate(plan.lanes):
        extents = lefts if lane.side < 0 else rights
        ends = [inner[id(e.target.node)].x + e.target.ins[e.input] for e in plan.edges if e.lane == k]
        # no further inside than where it goes: it comes from outside, or straight from above
        far = max(max(extents[lane.first : lane.last + 1]) + LANE, *(lane.side * end for end in ends))
        extents[lane.first + 1 : lane.last + 1] = [far] * (lane.last - lane.first)
        lanes.append(lane.side * far)
    placed = Placed(item, x, y, 0.0, 0.0, bottoms[-1])
    placed.left = max(item.left, max(lefts) + PAD)
    placed.right = max(item.right, max(rights) + PAD)
    placed.inside = [inner[id(i.node)] for row in plan.rows for i in row.items]
    placed.streams = [(edge, _points(edge, plan, inner, lanes, tops, bottoms)) for edge in plan.edges]
    return placed


def _points(
    edge: Edge,
    plan: Plan,
    inner: dict[int, Placed],
    lanes: list[float],
    tops: list[float],
    bottoms: list[float],
) -> list[tuple[float, float]]:
    source, target = inner[id(edge.source.node)], inner[id(edge.target.node)]
    first, last = edge.rows
    start = (source.x + edge.source.outs[edge.output], bottoms[first])
    end = (target.x + edge.target.ins[edge.input], target.y)

    def turn(gap: int, number: int) -> float:
        return bottoms[gap] + (LABEL if plan.labels[gap] else 0) + TURN * number + TURN / 2

    if edge.sideways:
        middle = target.y + target.height / 2
        end = (target.x + edge.sideways * target.right, middle)
        if edge.lane is None:
            return [start, (start[0], middle), end]
        x = lanes[edge.lane]
        y = turn(first, edge.leave)
        return [start, (start[0], y), (x, y), (x, middle), end]
    y = turn(first, edge.leave)
    if edge.lane is None:
        straight = abs(start[0] - end[0]) < STRAIGHT
        return [start, (start[0], end[1])] if straight else [start, (start[0], y), (end[0], y), end]
    x, enter = lanes[edge.lane], turn(last - 1, edge.enter)
    return [start, (start[0], y), (x, y), (x, enter), (end[0], enter), end]
