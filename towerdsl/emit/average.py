"""One `Average` --> statements: what kernels write with. Each technique is a writer of its own, or goes by blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from towerdsl.emit.code import Code, mark, permuted, spread
from towerdsl.emit.dense import DenseWriter
from towerdsl.emit.dot import DotWriter
from towerdsl.emit.flex import FlexWriter
from towerdsl.emit.products import ProductWriter
from towerdsl.ir import nodes as n
from towerdsl.ir.names import unused
from towerdsl.ir.types import Axis
from towerdsl.kernels.base import Facts, Plan
from towerdsl.kernels.chunked import turn
from towerdsl.kernels.edges import ROWS, Edges
from towerdsl.kernels.reference import Reference
from towerdsl.kernels.sdpa import Sdpa
from towerdsl.kernels.tiling import Tiling, padded, tiled
from towerdsl.ops import python
from towerdsl.passes.locality import analyze, conjuncts
from towerdsl.passes.score import DotScore, Product, Term, split


class AverageWriter(DenseWriter):
    """Writes one attention into a frame; kernels use its parts."""

    def write(self, part: str, names: Sequence[str], gate: n.Value | None = None) -> None:
        """Write an attention, or one of the parts that `Evaluate` names; `gate` is a factor for each head."""
        average, frame, kernel, facts = self.average, self.frame, self.plan.kernel, self.plan.facts
        fold = kernel.fold(average, facts) if part in ("result", "heads") else None
        frame.seen = "self.seen" if part == "seen" else None
        inner = self
        if fold is not None:
            inner = self._inside(fold.average)
            inner.full = self.full and not any(padded(cut) for cut in fold.cuts)
        inner.sources()
        frame.averaging = True
        if part == "weights":
            self.parts(*names)
        elif part == "pairs":
            self.pairs(*names)
        else:
            frame.assign("y", inner.plan.kernel.write(inner.average, inner.plan.facts, inner))
            if fold is not None:
                inner._log_prob_joined(self, fold.cuts)
        frame.averaging = False
        if part in ("weights", "pairs"):
            return
        if fold is None:
            code = self.each_head(Code("y")) if part == "heads" else self.result(Code("y"), gate)
        elif part == "result":
            positions = [a.on("") for a in average.positions]
            code = self._joined(inner.result(Code("y"), gate), len(average.batch), fold.cuts)
            code = permuted(code, [*average.batch, *positions, *average.features], list(average.layout))
        else:
            code = inner._heads_joined(Code("y"), self, fold.cuts)
        frame.assign("y", code.text)

    def pairs(self, weights_name: str, query_name: str, key_name: str, once_name: str) -> None:
        """Weights of listed pairs, with all the axes [batch, head], and what is said of the pairs."""
        frame = self.frame
        listed, pairs = Edges().listed(self.average, self.plan.facts, self)
        normalize = ROWS[self.average.normalize]
        writer = AverageWriter(self.values, listed, self.plan)
        frame.assign(weights_name, writer.whole(*writer.weights((normalize, pairs) if normalize else ()))[0])
        for name, of in ((query_name, "query"), (key_name, "key"), (once_name, "once")):
            frame.assign(name, f"{pairs}.{of}")

    def _inside(self, inner: n.Average) -> AverageWriter:
        """A writer for an average inside blocks."""
        facts = Facts(analyze(inner.visible), split(inner.score))
        kernel = Sdpa() if Sdpa().refuse(inner, facts) is None else Reference()
        return AverageWriter(self.values, inner, Plan(kernel, (), facts))

    # --- all pairs at once ------------------------------------------------------------------------------------

    def scaled_dot_product(self, score: DotScore) -> str:
        """`F.scaled_dot_product_attention`."""
        return DotWriter(self, score).scaled_dot_product()

    def flex(self, score: DotScore) -> str:
        """`flex_attention`, on a GPU."""
        return FlexWriter(self, score).flex()

    def factored(self, average: n.Average, products: Sequence[Product], causal: bool, block: int) -> str:
        """The sums over the keys of each product, then the part of each query in them; `average` may be simpler."""
        written = ProductWriter(self, average, causal, block)
        text = written.write(products)
        self.kept = written.order
        return text

    def dense(self) -> str:
        """The average as its dense kernel writes it."""
        return self.plan.kernel.write(self.average, self.plan.facts, self)

    # --- in blocks --------------------------------------------------------------------------------------------

    def _heads_joined(self, code: Code, outer: AverageWriter, cuts: Sequence[n.Cut]) -> Code:
        """[batch..., block, head, place, feature] --> [batch..., head, positions..., feature]."""
        return self._rejoined(self.each_head(code), outer, cuts, self.average.message.axes[-1:])

    def _log_prob_joined(self, outer: AverageWriter, cuts: Sequence[n.Cut]) -> None:
        """Write the log of the probability of what was chosen in blocks for all queries, if it is wanted."""
        if self.average.log_prob:
            self.frame.assign("log_prob", self._rejoined(Code("log_prob"), outer, cuts).text)

    def _rejoined(self, code: Code, outer: AverageWriter, cuts: Sequence[n.Cut], features: Sequence[Axis] = ()) -> Code:
        """[batch..., block, head, place, features...] --> [batch..., head, positions..., features...]."""
        (place,), block = self.average.positions, self.average.batch[-1]
        order = [*outer.lead, block, place, *features]
        return self._joined(permuted(code, [*self.lead, place, *features], order), len(outer.lead), cuts)

    def _joined(self, code: Code, dim: int, cuts: Sequence[n.Cut]) -> Code:
        """[..., block, place, ...] at `dim` --> the positions that were cut."""
        if all(c.query is None for c in cuts):
            return Code(f"{code.atom}.squeeze({dim}).squeeze({dim})")
        sizes, *rest = self.values.cuts(cuts, "i")
        lengths = self.values.lengths(cuts, "i")
        return Code(self.frame.call("joined", [code.text, str(dim), sizes, lengths, *rest]))

    def in_blocks(self, cuts: Sequence[n.Cut]) -> str:
        """The average inside all blocks at once, from sources that are not cut yet."""
        inner = self._inside(tiled(self.average, cuts))
        code = Code(self.frame.assign("y", inner.dense()))
        inner._log_prob_joined(self, cuts)
        return inner._heads_joined(code, self, cuts).text

    def in_turn(self, axis: Axis, size: int) -> str:
        """The average of some queries after the other, as a function that is called for each part of `axis`."""
        frame = self.frame
        rows, part = frame.fresh("rows"), frame.fresh(unused("part", frame.lengths))  # it is the name of a length too

        def held(value: n.Value) -> n.Value:
            """A value of all turns, computed once."""
            code = self.values.text(value)
            name = code if code.isidentifier() else frame.assign(frame.fresh("held"), code)
            return n.Local(value.type, None, name)

        inner = self._inside(turn(self.average, axis, rows, part, held))
        name = frame.fresh("average")
        length = frame.size(axis.size, axis.name or "size")
        frame.lengths[part] = part
        with frame.function(f"def {name}({rows}: slice) -> Tensor:") as start:
            frame.line(f"return {inner.each_head(Code(inner.dense())).text}")
            if any(re.search(rf"\b{part}\b", line) for line in frame.lines[start:]):
                frame.lines.insert(start, f"{'    ' * frame.depth}{part} = {rows}.stop - {rows}.start")
        dim = len(self.lead) + self.average.positions.index(axis)
        return frame.call("in_turn", [name, length, mark(size, "size"), str(dim)])

    def merged(self, parts: Sequence[tuple[n.Average, n.Cut]]) -> str:
        """The averages over disjoint sets of keys, each by `attend`, as one: by their log-sum-exp."""
        frame = self.frame
        names = []
        for average, cut in parts:
            writer = self._inside(average)
            score = writer.plan.facts.score
            assert not isinstance(score, str)
            names.append(frame.assign(frame.fresh("part"), writer.attended(score, cut, "attend_with_lse")))
        return frame.call("merged", names)

    def attended(self, score: DotScore, cut: n.Cut, function: str = "attend") -> str:
        """`attend`, block by block along one axis, on [batch..., head, position, feature]."""
        average, frame = self.average, self.frame
        tiling = Tiling(average, (cut,), False)
        axes = (*self.lead, tiling.block, tiling.places["i"], tiling.places["j"] if cut.key else average.over[0])
        masks: list[str] = []
        apart = self.left_out
        for part in conjuncts(average.visible) if average.visible is not None else []:
            optional = apart is not None and part is apart.value
            code = self.condition(tiling.value(part), axes)
            name = frame.variable(apart.name) if apart is not None and optional else ""
            text = f"None if {name} is None else {code.text}" if optional else code.text
            masks.append(text if text.isidentifier() else frame.assign(frame.fresh("visible"), text))
        inside = DotScore(score.left, score.right, 1.0, None, tuple(_tiled(t, tiling) for t in score.biases))
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


def _tiled(term: Term, tiling: Tiling) -> Term:
    """A bias in blocks."""
    return replace(term, value=tiling.value(term.value))
