"""What makes a graph easy to read: without what nobody reads, loops of one block as that block, chains in one box."""

from __future__ import annotations

from collections import Counter

from towerdsl.drawing.graph import Group, Link, Node

#: So many operations stand in one box.
CHAIN = 6


def tidied(group: Group) -> Group:
    """The graph, with the same blocks and streams."""
    _prune(group, set(range(len(group.outs))))
    _hoist(group)
    for inner in group.walk():
        _chain(inner)
        if len(inner.outs) == 1 and inner.kind != "turns":  # one result needs no name
            inner.outs[0].lines = []
    _label(group)
    return group


def _prune(group: Group, used: set[int]) -> None:
    """Leave out results of loops that nobody reads, and what only they need."""
    if group.kind in ("repeat", "turns"):
        carried = [k for k, out in enumerate(group.outs) if out.lines[0] in group.carried and k not in used]
        group.outs = [group.outs[k] for k in (*sorted(used), *carried)]
    needed: dict[int, set[int]] = {}
    for out in group.outs:
        _need(needed, out)
    for node in reversed(group.nodes):
        if id(node) not in needed:
            continue
        if node.group is not None:
            inner, read = node.group, needed[id(node)]
            before = list(inner.outs)
            _prune(inner, read)
            node.outputs = [node.outputs[before.index(out)] for out in inner.outs]
            _renumber(group, node, before)
            _drop_ports(node, inner)
        _need(needed, node)
    group.nodes = [node for node in group.nodes if id(node) in needed]


def _drop_ports(node: Node, loop: Group) -> None:
    """Leave out what a loop does not read."""
    if loop.kind in ("repeat", "turns"):
        read = {x.node for reader in (*loop.nodes, *loop.outs) for x in reader.inputs}
        kept = [k for k, port in enumerate(loop.ins) if port in read]
        loop.ins, node.inputs = [loop.ins[k] for k in kept], [node.inputs[k] for k in kept]


def _need(needed: dict[int, set[int]], node: Node) -> None:
    for link in node.inputs:
        needed.setdefault(id(link.node), set()).add(link.output)


def _renumber(group: Group, node: Node, before: list[Node]) -> None:
    assert node.group is not None
    places = {k: node.group.outs.index(out) for k, out in enumerate(before) if out in node.group.outs}
    for reader in (*group.nodes, *group.outs):
        reader.inputs = [
            Link(node, places[x.output]) if x.node is node and x.output in places else x for x in reader.inputs
        ]


def _hoist(group: Group) -> None:
    """A loop whose body is one block becomes that block, with its count."""
    moved: list[tuple[Node, list[Node]]] = []
    for node in group.nodes:
        if node.group is None:
            continue
        _hoist(node.group)
        loop = node.group
        leaves, others = ([x for x in loop.nodes if (x.kind == "leaf") == leaf] for leaf in (True, False))
        call = others[0] if len(others) == 1 else None
        inner = call.group if call is not None else None
        if loop.kind != "repeat" or call is None or inner is None:
            continue
        if any(x.node is not call for out in loop.outs for x in out.inputs):
            continue
        sources = [x if x.node in leaves else node.inputs[loop.ins.index(x.node)] for x in call.inputs]
        moved += [(node, leaves)]
        places = [out.inputs[0].output for out in loop.outs]
        for reader in (*group.nodes, *group.outs):
            reader.inputs = [Link(node, places[x.output]) if x.node is node else x for x in reader.inputs]
        inner.count *= loop.count
        node.inputs, node.outputs, node.group = sources, call.outputs, inner
    for node, leaves in moved:
        group.nodes[group.nodes.index(node) : group.nodes.index(node)] = leaves


def _chain(group: Group) -> None:
    """Operations that follow each other, each read by the next alone, stand in one box."""
    readers = Counter(x.node for node in group.all for x in node.inputs)
    made = {node: _made(node) for node in group.nodes}
    after: list[Node] = []
    for node in group.nodes:
        before = node.inputs[0].node if node.kind == "op" and len(node.inputs) == 1 else None
        joins = before is not None and before.kind == "op" and readers[before] == 1
        if joins and before is not None and len(before.lines) < CHAIN:
            node.lines = [*before.lines[:-1], before.lines[-1] + made[before], *node.lines]
            node.inputs, node.weighted = before.inputs, node.weighted or before.weighted
            after.remove(before)
        after.append(node)
    group.nodes = after


def _made(node: Node) -> str:
    """The axes that an operation makes, for a line within a box: there they are not written beside a stream."""
    read = {x for link in node.inputs for x in link.node.outputs[link.output].split()}
    new = [x for x in " ".join(node.outputs).split() if x not in read]
    return f" -> {' '.join(new)}" if new and node.inputs else ""


def _label(group: Group) -> None:
    """Axes are written once: not again inside a group, behind a port that has the same, or before a result; and not
    where nothing is read."""
    read = {link for node in group.all for link in node.inputs}
    for node in group.nodes:
        node.outputs = [x if Link(node, k) in read else "" for k, x in enumerate(node.outputs)]
        if node.group is None:
            continue
        inner = node.group
        _label(inner)
        for port, link in zip(inner.ins, node.inputs, strict=True):
            if port.outputs[0] == link.node.outputs[link.output]:
                port.outputs = [""]
        readers = Counter(x.node for reader in inner.all for x in reader.inputs)
        for out in inner.outs:
            link = out.inputs[0]
            if readers[link.node] == 1 and link.node.kind != "in":
                link.node.outputs = ["" if k == link.output else x for k, x in enumerate(link.node.outputs)]
