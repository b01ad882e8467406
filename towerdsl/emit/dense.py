"""Weights of all pairs, as one tensor, and the sums of messages by them."""

from __future__ import annotations

from collections.abc import Sequence

from towerdsl.emit.attention import AttentionWriter
from towerdsl.emit.code import PRODUCT, Code, Letters, full, spread
from towerdsl.ir import nodes as n
from towerdsl.ir.placed import AtPairs
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis
from towerdsl.lowered import nodes as low
from towerdsl.ops import python
from towerdsl.ops.normalizers import NORMALIZERS


class DenseWriter(AttentionWriter):
    """Writes the weights of an average, and its sums."""

    def parts(self, node: low.Summed, weights_name: str, message_name: str) -> None:
        """Weights with all their axes, messages with dims of length 1 (or none, in front) for those they lack."""
        text, every = self.whole(*self.weights(node.weights))
        self.frame.assign(weights_name, text)
        self.frame.assign(message_name, self.values.aligned(node.message, (*every, node.message.axes[-1])).text)

    # --- weights ----------------------------------------------------------------------------------------------

    def weights(self, node: low.Weights) -> tuple[str, tuple[Axis, ...]]:
        """Write the weights; returns their variable and axes [batch, head, i, j] (some may be missing)."""
        average, frame = self.average, self.frame
        if node.average is not average:
            return DenseWriter(self.values, node.average).weights(node)
        text, axes = self._score(node)
        entry = NORMALIZERS[average.normalize]
        if average.visible is None and entry.everywhere == "{0}":
            return self._finished(frame.assign(frame.fresh("weights"), text), axes)
        score, arguments = self._scored(text, axes)
        if average.visible is None and entry.everywhere is not None:
            call = entry.everywhere.format(score)
        else:
            rows = [frame.variable(node.pairs)] if node.rows else []
            call = frame.call(node.rows or entry.function.__name__, [*arguments, *rows])
        weights = frame.fresh("weights")
        frame.line(f"{weights}, log_prob = {call}" if average.log_prob else f"{weights} = {call}")
        if len(average.over) > 1:
            frame.line(f"{weights} = {weights}.unflatten(-1, ({frame.sizes(average.over)}))")
        return self._finished(weights, axes)

    def _scored(self, text: str, axes: tuple[Axis, ...]) -> tuple[str, list[str]]:
        """Write the score and what is visible; returns the score and the arguments of a normalizer, keys flattened."""
        average, frame = self.average, self.frame
        score = frame.assign(frame.fresh("score"), text)
        visible = self._visible(axes, score)
        if len(average.over) > 1:
            dims = f"-{len(average.over)}"
            score = f"{score}.flatten({dims})"
            flat = visible if visible == "None" else f"{visible}.flatten({dims})"
            if self.left_out is not None and self.left_out.rest is None:
                flat = f"None if {visible} is None else {flat}"
            visible = flat
        arguments = [score, visible]
        if NORMALIZERS[average.normalize].draws:
            arguments.append("self.training")
        return score, arguments + [f"{key}={python(value)}" for key, value in average.options]

    def _finished(self, weights: str, axes: tuple[Axis, ...]) -> tuple[str, tuple[Axis, ...]]:
        """Write who sees the weights, and their dropout; returns their variable and axes."""
        if self.frame.seen is not None:
            code, axes = self.whole(weights, axes)
            self.frame.line(f"{weights} = {self.frame.seen}({code})")
        if self.average.dropout:
            self.frame.line(f"{weights} = F.dropout({weights}, {python(self.average.dropout)}, self.training)")
        return weights, axes

    def whole(self, weights: str, axes: tuple[Axis, ...]) -> tuple[str, tuple[Axis, ...]]:
        """The weights with all the axes [batch, head, i, j], and these."""
        every = (*self.lead, *self.average.positions, *self.average.over)
        code = spread(Code(weights), axes, every)
        return (code if axes == every else self.expanded(code, axes, every, set(every))).text, every

    def _visible(self, axes: tuple[Axis, ...], score: str) -> str:
        """Write the condition that holds between all axes of the score; returns its variable, or `None`."""
        frame, apart = self.frame, self.left_out
        whole = apart.rest if apart is not None else self.average.visible

        def code(value: n.Value) -> str:
            return self._full_keys(self.values.aligned(value, axes), value, axes, score)

        if apart is None:
            return "None" if whole is None else frame.assign(frame.fresh("visible"), code(whole))
        name, value = frame.variable(apart.name), apart.value
        # in one expression, as it is only made where there is a condition
        shown = self._full_keys(spread(self.values.code(value), value.axes, axes), value, axes, score)
        if whole is None:
            return (
                name if shown == name else frame.assign(frame.fresh("visible"), f"None if {name} is None else {shown}")
            )
        variable = frame.assign(frame.fresh("visible"), code(whole))
        frame.line(f"if {name} is not None:")
        frame.line(f"    {variable} = {variable} & {shown}")
        return variable

    def _score(self, node: low.Weights) -> tuple[str, tuple[Axis, ...]]:
        """The score, with every averaged axis, and all axes that the condition has; a drawn choice is one per query."""
        average, frame, axes = self.average, self.frame, node.axes
        needed = [a for a in axes if a not in average.score.axes]
        if average.score.type.scalar:
            return full(frame.sizes(axes), len(axes), self.values.text(average.score), frame.device, frame.dtype), axes
        code = self.values.aligned(average.score, axes)
        must = [a for a in needed if a in average.over or NORMALIZERS[average.normalize].draws or average.dropout]
        if self.left_out is not None:  # the condition may be None, and then gives the weights no axes
            must += [a for a in needed if a in self.left_out.value.axes and a not in must]
        if average.score.type.dtype != "float":
            code = Code(f"{code.atom}.to({frame.dtype})")
        if must:
            code = self.expanded(code, average.score.axes, axes, set(must))
        return code.text, axes

    def _full_keys(self, code: Code, value: n.Value, axes: Sequence[Axis], score: str) -> str:
        """A condition that will be flattened over several averaged axes needs them all."""
        if value.type.scalar:
            return f"torch.full_like({score}, {code.text}, dtype=torch.bool)"
        over = self.average.over
        missing = [a for a in over if a not in value.axes]
        if len(over) == 1 or not missing:
            return code.text
        if len(missing) == len(over):
            shape = ", ".join(self.frame.size(a.size, a.name or "size") for a in over)
            return f"{code.atom}.expand(*{code.atom}.shape[:-{len(over)}], {shape})"
        return self.expanded(code, value.axes, axes, set(missing)).text

    # --- sums -------------------------------------------------------------------------------------------------

    def _summed(self, node: low.Summed) -> str:
        """The sum of messages by their weights; weights that all entries of a batch share are not repeated."""
        average, frame, message = self.average, self.frame, node.message
        weights, axes = self.weights(node.weights)
        feature = message.axes[-1]
        if len(self.lead) == len(average.positions) == len(average.over) == 1:
            (batch,), (i,), (j,) = self.lead, average.positions, average.over
            if axes == (i, j) and message.axes == (batch, j, feature):
                self.kept = (batch, i, feature)
                # expanded, so that the messages are not copied to put the batch behind the keys
                many = f"{weights}.expand({frame.size(batch.size, batch.name or 'batch')}, -1, -1)"
                values = self.values.code(message)
                text = f"{many} @ {values.at(PRODUCT + 1)}"
                frame.products[f"y = {text}"] = (many, values.text)
                return text
        letters = Letters(frame.many_positions)
        a, b = letters.of(axes), letters.of(message.axes)
        found = {*axes, *message.axes}
        self.kept = kept = tuple(x for x in (*self.lead, *average.positions, feature) if x in found)
        return f'torch.einsum("{a},{b}->{letters.of(kept)}", {weights}, {self.values.text(message)})'

    def _scaled(self, node: low.Scaled) -> str:
        """The message of the one key that each query sees, times its weight."""
        weights, axes = self.weights(node.weights)
        message = node.message
        order = (*self.lead, *self.average.positions, message.axes[-1])
        self.kept = kept = tuple(a for a in order if a in axes or a in message.axes)
        factor = spread(Code(weights), axes, (*kept[:-1], *node.weights.average.over))
        return f"{factor.at(PRODUCT)} * {self.values.aligned(message, kept).at(PRODUCT + 1)}"

    def listed(self, node: low.Listed) -> str:
        """Write a list of pairs; returns its variable."""
        frame = self.frame
        sources = [f"{frame.variable(name)}{'' if forward else '.flip(0)'}" for name, forward in node.relations]
        if node.itself is not None:
            sources.append(frame.call("itself", [frame.size(node.itself, "size"), frame.device]))
        variable = frame.fresh("pairs")
        sizes = [frame.size(a.size, a.name or "size") for a in (node.query, node.key)]
        frame.symbols[node.pairs] = variable
        return frame.assign(variable, frame.call("pairs_by_query", [*sizes, *sources]))

    def _listed(self, node: low.Listed) -> str:
        self.listed(node)
        return self._rowsums(node.body)

    def _rowsums(self, node: low.RowSums) -> str:
        """The sum of the messages of each query's pairs by their weights."""
        message, (pair,) = node.message, node.weights.average.over
        weights, axes = self.weights(node.weights)
        lead = tuple(a for a in self.lead if a in axes or a in message.axes)
        feature = message.axes[-1]
        self.kept = (*lead, *self.average.positions, feature)
        by_weight = spread(Code(weights), axes, (*lead, pair))
        if isinstance(message, AtPairs) and self.average.over[0] in message.arg.axes:
            function, values = "weighted_sum", self.values.aligned(message.arg, (*lead, *self.average.over, feature))
        else:
            function, values = "sum_of_messages", self.values.aligned(message, (*lead, pair, feature))
        return self.frame.call(function, [by_weight.text, values.text, self.frame.variable(node.weights.pairs)])

    def _gathered(self, node: low.Gathered) -> str:
        """The weighted sum of the few messages that each query picks."""
        average, frame = self.average, self.frame
        picks = NORMALIZERS[average.normalize].picks
        assert picks is not None
        text, axes = self._score(node.weights)
        call = frame.call(picks.__name__, self._scored(text, axes)[1])
        chosen, weights = frame.fresh("chosen"), frame.fresh("weights")
        frame.line(f"{chosen}, {weights}{', log_prob' if average.log_prob else ''} = {call}")
        message = node.message
        positions = tuple(a for a in average.positions if a in axes)
        lead = tuple(a for a in self.lead if a in axes or a in message.axes)
        feature, few = message.axes[-1], Axis("k", Size.of(0))

        def by_query(name: str) -> str:
            own = [*(a for a in axes if a not in average.over), few]
            code = spread(Code(name), own, [*lead, *positions, few])
            if len(positions) == 1:
                return code.text
            return f"{code.atom}.flatten(-{len(positions) + 1}, -2)" if positions else f"{code.atom}.unsqueeze(-2)"

        values = spread(self.values.code(message), message.axes, [*lead, *average.over, feature])
        if len(average.over) > 1:
            values = Code(f"{values.atom}.flatten(-{len(average.over) + 1}, -2)")
        y = frame.call("picked_sum", [values.text, by_query(chosen), by_query(weights)])
        self.kept = (*lead, *positions, feature)
        if len(positions) == 1:
            return y
        return f"{y}.unflatten(-2, ({frame.sizes(positions)}))" if positions else f"{y}.squeeze(-2)"
