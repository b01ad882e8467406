"""The graph as a Mermaid flowchart, which GitHub shows in a README. Who sees whom is said in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from towerdsl.diagnostics import visible
from towerdsl.drawing.boxes import clipped
from towerdsl.drawing.graph import Group, Link, Node

_SHAPES = {
    "in": ('(["', '"])'),
    "out": ('(["', '"])'),
    "op": ('["', '"]'),
    "sign": ('(("', '"))'),
    "leaf": ('[/"', '"/]'),
    "average": ('["', '"]'),
    "group": ('[["', '"]]'),
}
_STYLE = """
classDef average fill:#fff8ee,stroke:#dfa04e,color:#1f2937
classDef op fill:#eaf0fa,stroke:#9db1d1,color:#1f2937
classDef leaf fill:#e9f6ec,stroke:#86bd95,color:#1f2937
"""
_FRAMES = {
    "attention": "fill:#fff8ee,stroke:#dfa04e,color:#1f2937",
    "": "fill:#f6f8fb,stroke:#c3cad6,color:#1f2937",
}
_ESCAPES = {"&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;", "`": "#96;", "|": "#124;"}


class _Source(NamedTuple):
    """What a stream comes from, through the ports of groups: the box and the axes beside it."""

    box: str
    axes: str


def to_mermaid(group: Group) -> str:
    """A graph as the text of a flowchart; groups that are not open are one box each."""
    writer = _Writer()
    sources = {port: writer.box(port, "in") for port in group.ins}
    results = writer.inside(group, {port: _Source(box, port.outputs[0]) for port, box in sources.items()})
    for number, (out, source) in enumerate(zip(group.outs, results, strict=True)):
        name = out.lines[0] if out.lines else f"result {number + 1}" if len(group.outs) > 1 else "result"
        writer.edge(source, writer.box(Node("out", [name], [], []), "out"))
    style = [line for line in _STYLE.split("\n") if line]
    return (
        "\n".join(["flowchart TB", *(f"  {x}" for x in (*writer.lines, *writer.edges, *style, *writer.styles))]) + "\n"
    )


def _text(text: str) -> str:
    return "".join(_ESCAPES.get(c, c) for c in visible(text, ""))


class _Writer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.edges: list[str] = []
        self.styles: list[str] = []
        self.count = 0
        self.depth = 0

    def _key(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def _line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def box(self, node: Node, kind: str, lines: Sequence[str] | None = None) -> str:
        key = self._key("n")
        start, end = _SHAPES[kind]
        text = "<br/>".join(_text(clipped(line, 60)) for line in (node.lines if lines is None else lines))
        style = f":::{kind}" if kind in ("average", "op", "leaf") else ""
        self._line(f"{key}{start}{text}{end}{style}")
        return key

    def edge(self, source: _Source, target: str, port: str = "") -> None:
        label = f"{port}: {source.axes}" if port and source.axes else port or source.axes
        middle = f'-- "{_text(label)}" -->' if label else "-->"
        self.edges.append(f"{source.box} {middle} {target}")

    def inside(self, group: Group, ports: Mapping[Node, _Source]) -> list[_Source]:
        """The boxes of a group; returns where its results come from."""
        known = {Link(port): source for port, source in ports.items()}
        for node in group.nodes:
            inputs = [known[link] for link in node.inputs]
            inner = node.group
            if inner is not None and inner.open:
                key = self._key("g")
                self._line(f'subgraph {key}["{_text(inner.heading)}"]')
                self.styles.append(f"style {key} {_FRAMES['attention' if inner.kind == 'attention' else '']}")
                self.depth += 1
                through = {
                    port: _Source(source.box, port.outputs[0] or source.axes)
                    for port, source in zip(inner.ins, inputs, strict=True)
                }
                results = self.inside(inner, through)
                self.depth -= 1
                self._line("end")
                found = [_Source(r.box, axes or r.axes) for r, axes in zip(results, node.outputs, strict=True)]
            else:
                lines = [inner.heading] if inner is not None else None
                if node.kind == "average":
                    lines = [f"{name}: {text}" for name, text in node.rows]
                key = self.box(node, node.kind, lines)
                names = node.ports or [""] * len(inputs)
                for source, port in zip(inputs, names, strict=True):
                    self.edge(source, key, port)
                found = [_Source(key, axes) for axes in node.outputs]
            known |= {Link(node, k): source for k, source in enumerate(found)}
        results = [known[out.inputs[0]] for out in group.outs]
        for out, source in zip(group.outs, results, strict=True):
            if out.lines and out.lines[0] in group.carried:
                self.edge(source, self.box(Node("out", [f"next {out.lines[0]}"], [], []), "out"))
        return results
