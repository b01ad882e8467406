"""The rules of lowered attentions, checked: what the emitter, and whoever reads a tree, may rely on.

`verify` raises AssertionError with the rule and the node that breaks it. It is for tests: a broken rule is a mistake of
a kernel, never of a spec.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from towerdsl.ir import nodes as n
from towerdsl.ir.placed import Rows
from towerdsl.ir.printer import show_value
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import Axis
from towerdsl.lowered import nodes as low
from towerdsl.passes.score import sides


def verify(lowered: low.Lowered) -> None:
    """Check a tree. Raises AssertionError with a readable text."""
    _Tree(lowered, frozenset()).check()


class _Tree:
    """One attention, and what is named around it."""

    def __init__(self, lowered: low.Lowered, names: frozenset[str]) -> None:
        self.average, self.body, self.names = lowered.average, lowered.body, names

    def check(self) -> None:
        average = self.average
        every = (*average.lead, *average.positions, average.message.axes[-1])
        self.ordered(self.body, every, any_order=isinstance(self.body, low.Factored))
        if self.body.type.dtype != "float" or self.body.axes[-1:] != every[-1:]:
            self.fail("the average is a float tensor whose last axis is the message's feature", self.body)
        self.node(self.body)

    def fail(self, rule: str, value: n.Value) -> NoReturn:
        shown = type(value).__name__ if type(value).__module__ == low.__name__ else show_value(value)
        raise AssertionError(f"{rule}\n    {shown}: {value.type}")

    def ordered(self, value: n.Value, every: Iterable[Axis], any_order: bool = False) -> None:
        """The axes of a value are some of these, in this order."""
        order = list(every)
        if not set(value.axes) <= set(order) or len(set(value.axes)) < len(value.axes):
            self.fail(f"its axes are some of {', '.join(map(str, order))}", value)
        places = [order.index(a) for a in value.axes]
        if places != sorted(places) and not any_order:
            self.fail(f"its axes stand in the order {', '.join(map(str, order))}", value)

    def node(self, node: n.Value) -> None:
        match node:
            case low.Weights():
                self.weights(node)
            case low.Summed() | low.Scaled() | low.Gathered() | low.RowSums():
                self.sum(node)
            case low.Listed():
                self.listed(node)
            case low.Factored():
                self.factored(node)
            case low.Attended():
                self.attended(node)
            case low.Fused():
                self.dot(node.average, node)
            case low.Merged():
                for part in node.parts:
                    self.node(part)
            case low.InBlocks():
                self.blocks(node)
            case low.InTurn():
                self.turns(node)
            case _:
                self.values([node])

    # --- rows and sums ----------------------------------------------------------------------------------------

    def weights(self, node: low.Weights) -> None:
        average = node.average
        self.ordered(node, (*average.lead, *average.positions, *average.over))
        if not set(average.over) <= set(node.axes):
            self.fail("weights have every averaged axis", node)
        missing = {a for v in node.operands for a in v.axes} - set(node.axes)
        if missing:
            self.fail("weights have the axes of their score and condition", node)
        if bool(node.pairs) != any(node.pairs and node.pairs in str(a.size) for a in average.over):
            self.fail("the keys of listed pairs stand along the list", node)
        self.values(node.operands)

    def sum(self, node: low.Summed | low.Scaled | low.Gathered | low.RowSums) -> None:
        average = node.weights.average
        feature = node.message.axes[-1]
        if set(node.axes) - {feature} - set(self.average.positions) != (
            {*node.weights.axes, *node.message.axes} - {feature} - set(average.over) - set(self.average.positions)
        ):
            self.fail("a sum has the axes of its weights and messages, but for the keys", node)
        if isinstance(node, low.Scaled) and product([a.size for a in average.over]) != Size.of(1):
            self.fail("a weight that is no sum's is that of one key", node)
        if isinstance(node, low.Gathered) != isinstance(node.weights, low.Picks):
            self.fail("what is gathered is picked", node)
        self.weights(node.weights)
        self.values([node.message])

    def listed(self, node: low.Listed) -> None:
        if not node.relations and node.itself is None:
            self.fail("a list has pairs of a relation, or those of each position with itself", node)
        if {node.query, node.key} != {*self.average.positions, *self.average.over}:
            self.fail("pairs are those of the query's and the key's position", node)
        self.names |= {node.pairs}
        self.node(node.body)

    def factored(self, node: low.Factored) -> None:
        for p in node.products:
            for value, other in ((p.left, "j"), (p.right, "i")):
                if value is not None and other in sides(value):
                    self.fail("each factor of a product is of one side", value)
        self.values(v for p in node.products for v in (p.left, p.right, p.number) if v is not None)
        self.values(node.operands)

    # --- calls ------------------------------------------------------------------------------------------------

    def dot(self, average: n.Average, node: low.Fused | low.Attended) -> None:
        score = node.score
        if average.normalize != "softmax" or "i" in sides(average.message):
            self.fail("torch averages one message of each key, by a softmax", node)
        for value, other in ((score.left, "j"), (score.right, "i")):
            if other in sides(value):
                self.fail("each factor of a dot product is of one side", value)
        if score.left.axes[-1].size != score.right.axes[-1].size:
            self.fail("the factors of a dot product are as long", node)
        self.values([score.left, score.right, *([score.scalar] if score.scalar is not None else [])])
        self.values([average.message, *([average.visible] if average.visible is not None else [])])

    def attended(self, node: low.Attended) -> None:
        self.dot(node.average, node)
        for value in (*node.conditions, *(t.value for t in node.biases)):
            if not set(value.axes) <= set(node.axes_of_pairs):
                self.fail("a condition or bias has axes of the pairs of a block", value)
        self.values([*node.conditions, *(t.value for t in node.biases)])

    # --- loops ------------------------------------------------------------------------------------------------

    def blocks(self, node: low.InBlocks) -> None:
        inner = node.body.average
        count = product([c.count for c in node.cuts])
        block = inner.batch[-1] if inner.batch else None
        if block is None or block.size != count or inner.batch[:-1] != self.average.batch:
            self.fail("the blocks are one more axis of the batch", node)
        for axes, side in ((inner.positions, "i"), (inner.over, "j")):
            if [a.size for a in axes] != [product([c.length(side) for c in node.cuts])]:
                self.fail("the positions of a block are its places", node)
        _Tree(node.body, self.names).check()

    def turns(self, node: low.InTurn) -> None:
        at = self.average.positions.index(node.axis)
        if node.body.average.positions[at].size != Size.free(low.COUNT):
            self.fail(f"there are {low.COUNT} queries in a turn", node)
        if len({name for name, _ in node.held}) < len(node.held):
            self.fail("what is held has names of its own", node)
        self.values(value for _, value in node.held)
        inside = self.names | {low.ROWS, low.COUNT, *(name for name, _ in node.held)}
        _Tree(node.body, inside).check()

    # --- values -----------------------------------------------------------------------------------------------

    def values(self, values: Iterable[n.Value]) -> None:
        """What a tree names stands below where it is named."""
        for value in (v for root in values for v in root.walk()):
            named = value.name if isinstance(value, n.Local | Rows) else getattr(value, "pairs", "")
            sizes = {name for a in value.axes for name in a.size.free_names}
            for name in {named, *sizes}:
                if name.startswith("%") and name.partition(".")[0] not in self.names:
                    self.fail(f"{name} is not known here", value)
