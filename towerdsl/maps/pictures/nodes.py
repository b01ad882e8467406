"""Attention over the edges of a graph, drawn on the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from towerdsl.maps.data import AttentionMap
from towerdsl.maps.pictures import common
from towerdsl.maps.pictures.common import SMALL, Floats, fail

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Nodes that can still be told apart, and labels that can still be read.
MOST_NODES, MOST_LABELS = 400, 60
#: Classes that have a color of their own.
MOST_CLASSES = 20
#: Pairs of all queries and keys are looked through where none are listed.
MOST_PAIRS = 50_000_000


def graph(
    attention: AttentionMap,
    *,
    around: int | None = None,
    hops: int = 2,
    labels: Sequence[str] | None = None,
    classes: Sequence[int | str] | None = None,
    positions: Mapping[int, Sequence[float]] | None = None,
    head: int | None = None,
    batch: int = 0,
    title: str | None = None,
) -> Figure:
    """A graph whose edges are as thick and dark as their weights; queries and keys are its nodes.

    The half of an edge next to a node is what this node takes from the other one; its ring is what it takes from
    itself. `around` shows the nodes that are up to `hops` edges from one node. `labels` and `classes` are of all nodes,
    classes are colors. `positions` {node: (x, y)} places the nodes; left out, edges are springs (networkx).
    Raises TowerError where queries and keys are not the same nodes, there are too many, or a node, head or batch entry
    is not there.
    """
    import networkx as nx

    count = attention.queries.count
    if count != attention.keys.count:
        fail(f"`{common.name(attention)}` is over no graph: it has {count} queries and {attention.keys.count} keys")
    for what, given in (("labels", labels), ("classes", classes)):
        if given is not None and len(given) != count:
            fail(f"{len(given)} {what} are given, but the graph has {count} nodes", "one for each")
    whole = _whole(common.one(attention, head, batch))
    nodes = list(range(count))
    if around is not None:
        if not 0 <= around < count:
            fail(f"there is no node {around}: the graph has {count}")
        nodes = sorted(nx.ego_graph(whole.to_undirected(as_view=True), around, hops).nodes)
    if len(nodes) > MOST_NODES:
        where = f"within {_hops(hops)} of node {around}" if around is not None else "in the graph"
        help = f"hops={hops - 1}" if around is not None and hops > 1 else "around=NODE shows what is near a node"
        fail(f"{len(nodes):,} nodes are {where}; {MOST_NODES} can be drawn", help)
    part = whole.subgraph(nodes)
    place = _places(part, nodes, positions)
    picture = common.figure(7.2, 6.2)
    axes = picture.add_subplot()
    halves, weights = _halves(part, place)
    ring = np.array([float(part.edges[v, v]["weight"]) if part.has_edge(v, v) else 0.0 for v in nodes], np.float32)
    colors = _scale(weights, ring)
    size = float(np.clip(6000 / max(1, len(nodes)), 12, 160))  # of a node, in square points
    order = np.argsort(np.abs(weights), kind="stable")
    _edges(axes, halves[order], weights[order], colors)
    fills, legend = _fills(nodes, classes)
    xy = np.array([place[v] for v in nodes])
    outline = {"edgecolors": colors.colors(colors.range(ring)), "linewidths": _width(ring, colors)}
    axes.scatter(xy[:, 0], xy[:, 1], s=size, c=fills, zorder=2, **outline)
    if around is not None:
        axes.scatter(
            place[around][0],
            place[around][1],
            s=3 * size + 60,
            facecolors="none",
            edgecolors="tab:red",
            linewidths=1.5,
            zorder=3,
        )
    _label(axes, nodes, place, labels, around, size)
    axes.set(xticks=[], yticks=[])
    axes.margins(0.07)
    axes.set_aspect("equal", adjustable="datalim")
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color="0.8")
    axes.set_xlabel(
        "half an edge at a node: what the node takes from the other end; its ring: from itself", fontsize=SMALL
    )
    common.colorbar(picture, colors, 5.4, ax=axes)
    if legend:
        picture.legend(
            handles=legend, loc="outside lower center", ncols=8, fontsize=SMALL, frameon=False, handletextpad=0.1
        )
    near = f", {len(nodes)} nodes up to {_hops(hops)} from node {around}" if around is not None else f", {count} nodes"
    common.titled(picture, title or common.caption(attention, head) + near)
    return picture


def _hops(count: int) -> str:
    return "1 hop" if count == 1 else f"{count} hops"


def _whole(attention: AttentionMap) -> nx.DiGraph[int]:
    """The graph of a map that `common.one` gives: an edge i -> j where query i takes from key j, with its weight."""
    import networkx as nx

    count = attention.queries.count
    if attention.query is None or attention.key is None:
        if len(attention.rows) * count > MOST_PAIRS:
            fail(f"`{common.name(attention)}` lists no edges, and has too many pairs to look through")
        dense = attention.weights[0, 0]
        at, key = dense.nonzero(as_tuple=True)
        query, weight = attention.rows[at], dense[at, key]
    else:
        query, key, weight = attention.query, attention.key, attention.weights[0, 0]
    found: nx.DiGraph[int] = nx.DiGraph()
    found.add_nodes_from(range(count))
    for i, j, w in zip(query.tolist(), key.tolist(), weight.tolist(), strict=True):
        before = found.edges[i, j]["weight"] if found.has_edge(i, j) else 0.0
        found.add_edge(i, j, weight=before + w)  # a pair that is listed twice counts twice
    return found


def _places(
    part: nx.DiGraph[int], nodes: Sequence[int], positions: Mapping[int, Sequence[float]] | None
) -> dict[int, Floats]:
    if positions is not None:
        missing = [v for v in nodes if v not in positions]
        if missing:
            fail(f"{len(missing)} of {len(nodes)} nodes have no position, node {missing[0]} among them")
        return {v: np.asarray(positions[v], np.float32)[:2] for v in nodes}
    import networkx as nx

    loose: nx.Graph[int] = nx.Graph()
    loose.add_nodes_from(nodes)
    loose.add_edges_from(sorted((i, j) for i, j in part.edges if i != j))
    start = nx.circular_layout(loose)
    found = nx.spring_layout(loose, pos=start, seed=0, iterations=200)
    return {v: np.asarray(xy, np.float32) for v, xy in found.items()}


def _halves(part: nx.DiGraph[int], place: Mapping[int, Floats]) -> tuple[Floats, Floats]:
    """Lines [halves, 2, 2] from each node to the middle of its edges, and their weights."""
    pairs = [(i, j) for i, j in part.edges if i != j]
    found = [(place[i], (place[i] + place[j]) / 2) for i, j in pairs]
    weights = [float(part.edges[pair]["weight"]) for pair in pairs]
    return np.asarray(found, np.float32).reshape(-1, 2, 2), np.asarray(weights, np.float32)


def _scale(*values: Floats) -> common.Scale:
    """Grays: a weight of zero is light, but there."""
    from matplotlib.colors import ListedColormap

    found = common.scale(values, "Greys")
    if found.range.vmin:
        return found  # signed weights have colors
    return replace(found, colors=ListedColormap(found.colors(np.linspace(0.2, 1, 256))))


def _width(weights: Floats, colors: common.Scale) -> Floats:
    """Points: how thick a weight is."""
    found: Floats = 0.5 + 3 * np.abs(weights) / (colors.range.vmax or 1.0)
    return found


def _edges(axes: Axes, halves: Floats, weights: Floats, colors: common.Scale) -> None:
    from matplotlib.collections import LineCollection

    shades = colors.colors(colors.range(weights))
    axes.add_collection(LineCollection(list(halves), colors=shades, linewidths=_width(weights, colors), zorder=1))


def _fills(nodes: Sequence[int], classes: Sequence[int | str] | None) -> tuple[Any, list[Any]]:
    """The color of each node, and what the legend says of them."""
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    if classes is None:
        return "0.85", []
    known = sorted({str(c) for c in classes}, key=lambda c: (len(c), c))
    if len(known) > MOST_CLASSES:
        fail(f"{len(known)} classes are too many to tell apart by color, {MOST_CLASSES} at most")
    few = colormaps["tab10" if len(known) <= 10 else "tab20"]
    shade = {c: few(k) for k, c in enumerate(known)}
    here = [c for c in known if c in {str(classes[v]) for v in nodes}]
    legend = [
        Line2D([], [], marker="o", linestyle="", markersize=6, color=shade[c], label=f"class {common.plain(c)}")
        for c in here
    ]
    return [shade[str(classes[v])] for v in nodes], legend


def _label(
    axes: Axes,
    nodes: Sequence[int],
    place: Mapping[int, Floats],
    labels: Sequence[str] | None,
    around: int | None,
    size: float,
) -> None:
    """Write names beside nodes: all while they are few, else only of the node in the middle."""
    shown = nodes if len(nodes) <= MOST_LABELS else [around] if around is not None else []
    for v in shown:
        text = common.plain(labels[v] if labels is not None else str(v))
        axes.annotate(
            text,
            (place[v][0], place[v][1]),
            xytext=(0, (3 * size + 60 if v == around else size) ** 0.5 / 2 + 2.5),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=SMALL,
            parse_math=False,
            zorder=4,
        )
