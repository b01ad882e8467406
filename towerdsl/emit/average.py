"""One lowered attention --> statements: each kind of node is written by the method that is called after its class."""

from __future__ import annotations

import re
from collections.abc import Sequence

from towerdsl.emit.code import Code, mark, permuted, spread
from towerdsl.emit.dense import DenseWriter
from towerdsl.emit.dot import DotWriter
from towerdsl.emit.flex import FlexWriter
from towerdsl.emit.products import ProductWriter
from towerdsl.emit.values import ValueWriter
from towerdsl.ir import nodes as n
from towerdsl.ir.names import unused
from towerdsl.ir.placed import Cut
from towerdsl.ir.types import Axis
from towerdsl.lowered import nodes as low
from towerdsl.ops import python
from towerdsl.passes.locality import conjuncts
from towerdsl.passes.score import DotScore


class AverageWriter(DenseWriter):
    """Writes one attention into a frame."""

    def __init__(self, values: ValueWriter, lowered: low.Lowered) -> None:
        body = lowered.body
        super().__init__(values, lowered.average, isinstance(body, low.Fused) and body.grouped)
        self.lowered = lowered

    def write(self, part: str, names: Sequence[str], gate: n.Value | None = None) -> None:
        """Write an attention, or one of the parts that `Evaluate` names; `gate` is a factor for each head."""
        average, frame, body = self.average, self.frame, self.lowered.body
        blocks = body if isinstance(body, low.InBlocks) and body.at_sources else None
        inner = self if blocks is None else AverageWriter(self.values, blocks.body)
        frame.seen = "self.seen" if part == "seen" else None
        inner.sources()
        frame.averaging = True
        if part == "weights" and isinstance(body, low.Summed):
            self.parts(body, *names)
        elif part == "pairs" and isinstance(body, low.Listed):
            self.pairs(body, *names)
        else:
            frame.assign("y", inner.body())
            if blocks is not None:
                inner._log_prob_joined(self, blocks.cuts)
        frame.averaging = False
        if part in ("weights", "pairs"):
            return
        if blocks is None:
            code = self.each_head(Code("y")) if part == "heads" else self.result(Code("y"), gate)
        elif part == "heads":
            code = inner._heads_joined(Code("y"), self, blocks.cuts)
        else:
            positions = [a.on("") for a in average.positions]
            code = self._joined(inner.result(Code("y"), gate), len(average.batch), blocks.cuts)
            code = permuted(code, [*average.batch, *positions, *average.features], list(average.layout))
        frame.assign("y", code.text)

    def body(self) -> str:
        """Write what computes the average; returns the code of y. `kept` are its axes, if it lacks some."""
        node = self.lowered.body
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is not None:
            text: str = method(node)
            return text
        self.kept = node.axes
        return self.values.text(node)

    def pairs(self, node: low.Listed, weights_name: str, query_name: str, key_name: str, once_name: str) -> None:
        """Weights of listed pairs, with all the axes [batch, head], and what is said of the pairs."""
        pairs, weights = self.listed(node), node.body.weights
        writer = DenseWriter(self.values, weights.average)
        self.frame.assign(weights_name, writer.whole(*writer.weights(weights))[0])
        for name, of in ((query_name, "query"), (key_name, "key"), (once_name, "once")):
            self.frame.assign(name, f"{pairs}.{of}")

    # --- all pairs at once ------------------------------------------------------------------------------------

    def _fused(self, node: low.Fused) -> str:
        return DotWriter(self, node.score, self.lowered.full).scaled_dot_product()

    def _paired(self, node: low.Paired) -> str:
        return FlexWriter(self, node.score).flex()

    def _factored(self, node: low.Factored) -> str:
        writer = ProductWriter(self, node)
        text = writer.write()
        self.kept = writer.order
        return text

    # --- in blocks --------------------------------------------------------------------------------------------

    def _heads_joined(self, code: Code, outer: AverageWriter, cuts: Sequence[Cut]) -> Code:
        """[batch..., block, head, place, feature] --> [batch..., head, positions..., feature]."""
        return self._rejoined(self.each_head(code), outer, cuts, self.average.message.axes[-1:])

    def _log_prob_joined(self, outer: AverageWriter, cuts: Sequence[Cut]) -> None:
        """Write the log of the probability of what was chosen in blocks for all queries, if it is wanted."""
        if self.average.log_prob:
            self.frame.assign("log_prob", self._rejoined(Code("log_prob"), outer, cuts).text)

    def _rejoined(self, code: Code, outer: AverageWriter, cuts: Sequence[Cut], features: Sequence[Axis] = ()) -> Code:
        """[batch..., block, head, place, features...] --> [batch..., head, positions..., features...]."""
        (place,), block = self.average.positions, self.average.batch[-1]
        order = [*outer.lead, block, place, *features]
        return self._joined(permuted(code, [*self.lead, place, *features], order), len(outer.lead), cuts)

    def _joined(self, code: Code, dim: int, cuts: Sequence[Cut]) -> Code:
        """[..., block, place, ...] at `dim` --> the positions that were cut."""
        if all(c.query is None for c in cuts):
            return Code(f"{code.atom}.squeeze({dim}).squeeze({dim})")
        sizes, *rest = self.values.cuts(cuts, "i")
        lengths = self.values.lengths(cuts, "i")
        return Code(self.frame.call("joined", [code.text, str(dim), sizes, lengths, *rest]))

    def _inblocks(self, node: low.InBlocks) -> str:
        """The average inside all blocks at once; sources that are cut before are joined by `write`."""
        inner = AverageWriter(self.values, node.body)
        code = Code(self.frame.assign("y", inner.body()))
        inner._log_prob_joined(self, node.cuts)
        return inner._heads_joined(code, self, node.cuts).text

    def _inturn(self, node: low.InTurn) -> str:
        """The average of some queries after the other, as a function that is called for each part of an axis."""
        frame, axis = self.frame, node.axis
        rows, part = frame.fresh("rows"), frame.fresh(unused("part", frame.lengths))  # it is the name of a length too
        frame.symbols |= {low.ROWS: rows, low.COUNT: part}
        for symbol, value in node.held:
            code = self.values.text(value)
            frame.symbols[symbol] = code if code.isidentifier() else frame.assign(frame.fresh("held"), code)
        inner = AverageWriter(self.values, node.body)
        name = frame.fresh("average")
        length = frame.size(axis.size, axis.name or "size")
        with frame.function(f"def {name}({rows}: slice) -> Tensor:") as start:
            frame.line(f"return {inner.each_head(Code(inner.body())).text}")
            if any(re.search(rf"\b{part}\b", line) for line in frame.lines[start:]):
                frame.lines.insert(start, f"{'    ' * frame.depth}{part} = {rows}.stop - {rows}.start")
        dim = len(self.lead) + self.average.positions.index(axis)
        return frame.call("in_turn", [name, length, mark(node.size, "size"), str(dim)])

    def _merged(self, node: low.Merged) -> str:
        """The averages over disjoint sets of keys, each by `attend`, as one: by their log-sum-exp."""
        frame, names = self.frame, []
        for part in node.parts:
            writer = AverageWriter(self.values, low.Lowered(self.lowered.kernel, part.average, False, part))
            names.append(frame.assign(frame.fresh("part"), writer._attended(part, "attend_with_lse")))
        return frame.call("merged", names)

    def _attended(self, node: low.Attended, function: str = "attend") -> str:
        """`attend`, block by block along one axis, on [batch..., head, position, feature]."""
        average, frame, score, cut = self.average, self.frame, node.score, node.cut
        axes, apart = node.axes_of_pairs, self.left_out
        masks: list[str] = []
        parts = conjuncts(average.visible) if average.visible is not None else []
        for part, condition in zip(parts, node.conditions, strict=True):
            optional = apart is not None and part is apart.value
            code = self.condition(condition, axes)
            name = frame.variable(apart.name) if apart is not None and optional else ""
            text = f"None if {name} is None else {code.text}" if optional else code.text
            masks.append(text if text.isidentifier() else frame.assign(frame.fresh("visible"), text))
        inside = DotScore(score.left, score.right, 1.0, None, node.biases)
        bias, own = DotWriter(self, inside).bias(axes)
        operands = ((score.left, average.positions), (score.right, average.over), (average.message, average.over))
        arguments = [self._one_axis(value, positions) for value, positions in operands]
        arguments.append(frame.size(cut.size, "size"))
        if cut.key is not None:
            arguments += [f"before={python(cut.before)}", f"after={python(cut.after)}"]
        if masks:
            arguments.append(f"visible=({', '.join(masks)}{',' if len(masks) == 1 else ''})")
        if bias is not None:
            bias = Code(frame.assign(frame.fresh("bias"), bias.text))
            arguments.append(f"bias={spread(bias, own, axes).text}")
        arguments += DotWriter(self, score).scale(score.factor)
        if average.dropout:
            arguments.append(f"dropout={python(average.dropout)} if self.training else 0.0")
        text = frame.call(function, arguments)
        many = len(average.positions) > 1
        return f"{text}.unflatten(-2, ({frame.sizes(average.positions)}))" if many else text

    def _one_axis(self, value: n.Value, positions: Sequence[Axis]) -> str:
        """An operand as [batch..., head, position, feature]."""
        code = self.lined(value, positions)
        return f"{code.atom}.flatten(-{len(positions) + 1}, -2)" if len(positions) > 1 else code.text
