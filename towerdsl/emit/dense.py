"""One `Average` --> statements: the sources laid out, the kernel's part, the result laid out.

Legend of the layout inside: [batch..., head, positions..., feature].
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from towerdsl.emit.frame import ATOM, BITAND, PRODUCT, SUM, Code, Frame, Letters, full
from towerdsl.emit.optional import left_out
from towerdsl.emit.products import ProductWriter
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import read
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis
from towerdsl.kernels.base import Plan
from towerdsl.ops import python
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes.locality import analyze
from towerdsl.passes.score import DotScore, Product, Term


class DenseWriter:
    """Writes one attention into a frame; kernels use its parts."""

    def __init__(self, frame: Frame, average: n.Average, plan: Plan) -> None:
        self.frame, self.average, self.plan = frame, average, plan
        heads = (average.heads,) if average.heads is not None else ()
        self.lead: tuple[Axis, ...] = (*average.batch, *heads)
        self.left_out = left_out(average.visible, frame.optional)
        #: whether each query is known to see a key
        self.full = plan.facts.locality.has_empty_rows() is False

    def parts(self, weights_name: str, message_name: str) -> None:
        """Weights with all their axes, messages with dims of length 1 (or none, in front) for those they lack."""
        frame, message = self.frame, self.average.message
        weights, axes = self.weights()
        every = (*self.lead, *self.average.positions, *self.average.over)
        code = frame.spread(Code(weights), axes, every)
        full = self.expanded(code, axes, every, set(every)) if axes != every else code
        frame.assign(weights_name, full.text)
        frame.assign(message_name, frame.aligned(message, (*every, message.axes[-1])).text)

    # --- sources ----------------------------------------------------------------------------------------------

    def sources(self) -> None:
        """`q`, `k` and `v` of one head each, as far as they are used."""
        average, frame = self.average, self.frame
        used = average.uses
        frame.taken |= {"q", "k", "v", "y"}
        codes: dict[tuple[str, str], list[str]] = {}  # the names of each code: sources may be laid out alike
        read = {"q": average.query, "k": average.key, "v": average.value}
        found = self._together({name: value for name, value in read.items() if value is not None and name in used})
        for name, features, moved, heads in (
            ("q", average.query_features, average.positions, average.heads),
            ("k", average.key_features, average.over, average.heads),
            ("v", average.value_features, average.over, average.heads),
        ):
            if name not in found:
                continue
            value = found[name]
            count = (
                average.key_heads if name != "q" and average.key_heads is not None else heads.size if heads else None
            )
            code = self._laid_out(value, features, [a.on("") for a in moved], count)
            # a module may draw (dropout), so what two calls of one give may differ
            calls = any(isinstance(v, n.CallBlock) or (isinstance(v, n.Apply) and v.module) for v in value.walk())
            codes.setdefault((code.text, name if calls else ""), []).append(name)
        for (text, _), names in codes.items():
            frame.assign(" = ".join(names), text)
        if "q" in used:
            frame.device_from = frame.dtype_from = "q"
        elif "v" in used:
            frame.device_from = frame.dtype_from = "v"

    def _together(self, sources: dict[str, n.Value]) -> dict[str, n.Value]:
        """Write those sources that layers make of one tensor, if they can do so at once; returns all of them."""
        frame = self.frame
        groups: dict[str, dict[str, n.Apply]] = {}  # by the code of what they read
        for name, x in sources.items():
            if isinstance(x, n.Apply) and x.result.joint and not any(isinstance(v, n.CallBlock) for v in x.walk()):
                groups.setdefault(frame.text(x.args[0]), {})[name] = x
        argument, group = max(groups.items(), key=lambda found: len(found[1]), default=("", {}))
        modules = dict.fromkeys(x.module for x in group.values() if x.module is not None)
        if len(modules) < max(len(group), 2):
            return sources
        joint = next(str(x.result.joint) for x in group.values())
        frame.assign(", ".join(group), self._call(joint, [argument, *map(frame.module, modules)]))
        return sources | {name: n.Local(x.type, x.span, name) for name, x in group.items()}

    def _laid_out(self, value: n.Value, features: Sequence[Axis], moved: Sequence[Axis], heads: Size | None) -> Code:
        frame = self.frame
        batch = [a for a in self.average.batch if a in value.axes]
        others = [a for a in value.axes if a not in features]
        code = frame.code(value)
        if heads is None:
            code = frame.permuted(code, value.axes, [*batch, *moved, *features])
            if len(features) > 1:
                code = Code(f"{code.atom}.flatten(-{len(features)})")
            return code
        each = features[0].size.opaque("//", heads)
        code = frame.permuted(code, value.axes, [*others, *features])
        sizes = f"({frame.size(heads, 'heads')}, {frame.size(each, 'head_dim')})"
        code = Code(f"{code.atom}.unflatten(-1, {sizes})")
        head, feature = Axis("head", heads), Axis("", each)
        code = frame.permuted(code, [*others, head, feature], [*batch, head, *moved, feature])
        groups = self._groups(heads)
        if groups is not None and not self._grouped_by_kernel:
            code = Code(f"{code.atom}.repeat_interleave({frame.size(groups, 'groups')}, {len(batch)})")
        return code

    def _groups(self, heads: Size) -> Size | None:
        """How many query heads each key head serves, where that is more than one."""
        if self.average.heads is None or heads == self.average.heads.size:
            return None
        return self.average.heads.size.opaque("//", heads)

    @property
    def _grouped_by_kernel(self) -> bool:
        """Whether the kernel itself lets query heads share key heads: then `k` and `v` are not repeated."""
        if not self.plan.kernel.shares_key_heads or isinstance(self.plan.facts.score, str):
            return False
        right, head = self.plan.facts.score.right, self.average.heads
        leaves = [v for v in right.walk() if not v.operands and head in v.axes]
        conditions = [self.average.visible] if self.average.visible is not None else []
        if read([*(t.value for t in self.plan.facts.score.biases), *conditions]) & {"k", "v"}:
            return False  # the mask is made of all heads
        return len(self.lead) == 2 and all(isinstance(v, n.Local) and v.name == "k" for v in leaves)

    # --- dense parts ------------------------------------------------------------------------------------------

    def weights(self, rows: tuple[str, ...] = ()) -> tuple[str, tuple[Axis, ...]]:
        """Write the weights, dense; returns their variable and axes [batch, head, i, j] (some may be missing).

        `rows` is a function that normalizes instead of the normalizer's own, and what else it is given.
        """
        average, frame = self.average, self.frame
        text, axes = self._score()
        entry = NORMALIZERS[average.normalize]
        if average.visible is None and entry.everywhere == "{0}":
            return self._dropped(frame.assign(frame.fresh("weights"), text)), axes
        score, arguments = self._scored(text, axes)
        if average.visible is None and entry.everywhere is not None:
            call = entry.everywhere.format(score)
        else:
            call = self._call(rows[0] if rows else entry.function.__name__, [*arguments, *rows[1:]])
        weights = frame.fresh("weights")
        frame.line(f"{weights}, log_prob = {call}" if average.log_prob else f"{weights} = {call}")
        if len(average.over) > 1:
            frame.line(f"{weights} = {weights}.unflatten(-1, ({frame.sizes(average.over)}))")
        return self._dropped(weights), axes

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

    def _call(self, function: str, arguments: Sequence[str]) -> str:
        self.frame.helpers.add(function)
        return f"{function}({', '.join(arguments)})"

    def _dropped(self, weights: str) -> str:
        """Write the dropout of the weights; returns their variable."""
        if self.average.dropout:
            self.frame.line(f"{weights} = F.dropout({weights}, {python(self.average.dropout)}, self.training)")
        return weights

    def _visible(self, axes: tuple[Axis, ...], score: str) -> str:
        """Write the condition that holds between all axes of the score; returns its variable, or `None`."""
        frame, apart = self.frame, self.left_out
        whole = apart.rest if apart is not None else self.average.visible

        def code(value: n.Value) -> str:
            return self._full_keys(frame.aligned(value, axes), value, axes, score)

        if apart is None:
            return "None" if whole is None else frame.assign(frame.fresh("visible"), code(whole))
        name, value = frame.variable(apart.name), apart.value
        # in one expression, as it is only made where there is a condition
        shown = self._full_keys(frame.spread(frame.code(value), value.axes, axes), value, axes, score)
        if whole is None:
            return (
                name if shown == name else frame.assign(frame.fresh("visible"), f"None if {name} is None else {shown}")
            )
        variable = frame.assign(frame.fresh("visible"), code(whole))
        frame.line(f"if {name} is not None:")
        frame.line(f"    {variable} = {variable} & {shown}")
        return variable

    def _score(self) -> tuple[str, tuple[Axis, ...]]:
        """The score, with every averaged axis, and all axes that the condition has; a drawn choice is one per query."""
        average, frame = self.average, self.frame
        present = set(average.score.axes) | set(average.over)
        if average.visible is not None:
            present |= set(average.visible.axes)
        if NORMALIZERS[average.normalize].draws or average.dropout:
            present |= {*self.lead, *average.positions}
        axes = tuple(a for a in (*self.lead, *average.positions, *average.over) if a in present)
        needed = [a for a in axes if a not in average.score.axes]
        if average.score.type.scalar:
            return full(frame.sizes(axes), len(axes), frame.text(average.score), frame.device, frame.dtype), axes
        code = frame.aligned(average.score, axes)
        must = [a for a in needed if a in average.over or NORMALIZERS[average.normalize].draws or average.dropout]
        if self.left_out is not None:  # the condition may be None, and then gives the weights no axes
            must += [a for a in needed if a in self.left_out.value.axes and a not in must]
        if average.score.type.dtype != "float":
            code = Code(f"{code.atom}.to({frame.dtype})")
        if must:
            code = self.expanded(code, average.score.axes, axes, set(must))
        return code.text, axes

    def expanded(self, code: Code, own: Sequence[Axis], axes: Sequence[Axis], must: set[Axis]) -> Code:
        """Expand the dims of length 1 that stand for `must`."""
        sizes = [self.frame.size(a.size, a.name or "size") if a in must else "-1" for a in axes]
        first = next((k for k, a in enumerate(axes) if a in own), len(axes))
        if first == 0 and all(a.size == Size.of(1) for a in must):
            return code
        if any(a in must for a in axes[:first]) or first == 0:
            # leading dims are made by expand itself: those that need not exist get length 1
            sizes = [s if s != "-1" or k >= first else "1" for k, s in enumerate(sizes)]
        else:
            sizes = sizes[first:]
        return Code(f"{code.atom}.expand({', '.join(sizes)})")

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

    def weighted_sum(self, weights: str, axes: tuple[Axis, ...]) -> str:
        """The sum of messages by their weights."""
        message = self.average.message
        letters = Letters(self.frame.many_positions)
        a = letters.of(axes)
        b = letters.of(message.axes)
        found = {*axes, *message.axes}
        kept = [x for x in (*self.lead, *self.average.positions, message.axes[-1]) if x in found]
        self._kept = tuple(kept)
        return f'torch.einsum("{a},{b}->{letters.of(kept)}", {weights}, {self.frame.text(message)})'

    def shared_product(self, weights: str, axes: tuple[Axis, ...]) -> str:
        """The sum of messages by weights that all entries of a batch share."""
        average, frame = self.average, self.frame
        message, feature = average.message, average.message.axes[-1]
        if len(self.lead) == len(average.positions) == len(average.over) == 1:
            (batch,), (i,), (j,) = self.lead, average.positions, average.over
            if axes == (i, j) and message.axes == (batch, j, feature):
                self._kept = (batch, i, feature)
                # expanded, so that the messages are not copied to put the batch behind the keys
                many = f"{weights}.expand({frame.size(batch.size, batch.name or 'batch')}, -1, -1)"
                values = frame.code(message)
                text = f"{many} @ {values.at(PRODUCT + 1)}"
                frame.products[f"y = {text}"] = (many, values.text)
                return text
        return self.weighted_sum(weights, axes)

    def scaled_message(self, alone: n.Average) -> str:
        """The message of the one key that each query sees, times its weight; `alone` averages an axis of length 1."""
        frame = self.frame
        weights, axes = type(self)(frame, alone, self.plan).weights()
        message = alone.message
        order = (*self.lead, *self.average.positions, message.axes[-1])
        self._kept = kept = tuple(a for a in order if a in axes or a in message.axes)
        factor = frame.spread(Code(weights), axes, (*kept[:-1], *alone.over))
        return f"{factor.at(PRODUCT)} * {frame.aligned(message, kept).at(PRODUCT + 1)}"

    def weighted_rows(self, listed: n.Average, pairs: str, normalize: str | None) -> str:
        """The sum of the messages of each query's pairs by their weights; `listed` averages an axis of listed pairs."""
        frame, message, (pair,) = self.frame, listed.message, listed.over
        weights, axes = type(self)(frame, listed, self.plan).weights((normalize, pairs) if normalize else ())
        lead = tuple(a for a in self.lead if a in axes or a in message.axes)
        feature = message.axes[-1]
        self._kept = (*lead, *self.average.positions, feature)
        by_weight = frame.spread(Code(weights), axes, (*lead, pair))
        if isinstance(message, n.AtPairs) and self.average.over[0] in message.arg.axes:
            function, values = "weighted_sum", frame.aligned(message.arg, (*lead, *self.average.over, feature))
        else:
            function, values = "sum_of_messages", frame.aligned(message, (*lead, pair, feature))
        frame.helpers.add(function)
        return f"{function}({by_weight.text}, {values.text}, {pairs})"

    _kept: tuple[Axis, ...] | None = None

    def picked(self) -> str:
        """The weighted sum of the few messages that each query picks."""
        average, frame = self.average, self.frame
        picks = NORMALIZERS[average.normalize].picks
        assert picks is not None
        text, axes = self._score()
        call = self._call(picks.__name__, self._scored(text, axes)[1])
        chosen, weights = frame.fresh("chosen"), frame.fresh("weights")
        frame.line(f"{chosen}, {weights}{', log_prob' if average.log_prob else ''} = {call}")
        message = average.message
        positions = tuple(a for a in average.positions if a in axes)
        lead = tuple(a for a in self.lead if a in axes or a in message.axes)
        feature, few = message.axes[-1], Axis("k", Size.of(0))

        def by_query(name: str) -> str:
            own = [*(a for a in axes if a not in average.over), few]
            code = frame.spread(Code(name), own, [*lead, *positions, few])
            if len(positions) == 1:
                return code.text
            return f"{code.atom}.flatten(-{len(positions) + 1}, -2)" if positions else f"{code.atom}.unsqueeze(-2)"

        values = frame.spread(frame.code(message), message.axes, [*lead, *average.over, feature])
        if len(average.over) > 1:
            values = Code(f"{values.atom}.flatten(-{len(average.over) + 1}, -2)")
        frame.helpers.add("picked_sum")
        y = f"picked_sum({values.text}, {by_query(chosen)}, {by_query(weights)})"
        self._kept = (*lead, *positions, feature)
        if len(positions) == 1:
            return y
        return f"{y}.unflatten(-2, ({frame.sizes(positions)}))" if positions else f"{y}.squeeze(-2)"

    def factored(self, average: n.Average, products: Sequence[Product], causal: bool, block: int) -> str:
        """The sums over the keys of each product, then the part of each query in them; `average` may be simpler."""
        written = ProductWriter(self, average, causal, block)
        text = written.write(products)
        self._kept = written.order
        return text

    # --- scaled dot product -----------------------------------------------------------------------------------

    def scaled_dot_product(self, score: DotScore) -> str:
        """`F.scaled_dot_product_attention` on [batch, head, query, feature], positions flattened."""
        average, frame = self.average, self.frame
        operands = self.operands(score)
        apart = self.left_out
        causal = not score.biases and analyze(apart.rest if apart else average.visible).causal(average)
        conditions = [average.visible] if average.visible is not None else []
        early = bool(read([*(term.value for term in score.biases), *conditions]) & {"q", "k", "v"})
        mask = self._any_mask(score, causal) if early else None  # it reads the sources, before they are laid out
        arguments = self.assigned(operands)
        if not early:
            mask = self._any_mask(score, causal)
        if mask is not None:
            arguments.append(f"attn_mask={mask}")
        if average.dropout:
            arguments.append(f"dropout_p={python(average.dropout)} if self.training else 0.0")
        if causal:
            arguments.append(f"is_causal={frame.variable(apart.name)} is None" if apart else "is_causal=True")
        arguments += [*self.scale(score, abs(score.factor)), *self.shared_heads()]
        function = "F.scaled_dot_product_attention"
        if len(self.lead) > 2:  # torch's fast paths have one batch axis
            function = "attention_of_batches"
            frame.helpers.add(function)
            arguments += ["full=True"] if self.full else []
        return self.unlined(f"{function}({', '.join(arguments)})")

    def operands(self, score: DotScore) -> list[tuple[str, str]]:
        """`q`, `k`, `v` with their codes, each [batch, head, position, feature]."""
        return [
            ("q", self._operand(score.left, self.average.positions, score.factor < 0)),
            ("k", self._operand(score.right, self.average.over)),
            ("v", self._operand(self.average.message, self.average.over)),
        ]

    def assigned(self, operands: Sequence[tuple[str, str]]) -> list[str]:
        """Assign the operands; returns their variables."""
        frame = self.frame
        names = []
        for place, (name, text) in enumerate(operands):
            # an operand may be computed from more than one source: keep what a later one still reads
            later = any(re.search(rf"\b{name}\b(?!\.(dtype|device))", other) for _, other in operands[place + 1 :])
            names.append(frame.assign(frame.fresh(name) if (later or frame.nested) and text != name else name, text))
        return names

    def scale(self, score: DotScore, factor: float) -> list[str]:
        """The argument for the scale, `factor` times what is known at run time, where it is not the usual one."""
        size = score.left.axes[-1].size.integer
        if score.scalar is not None:
            number = self.frame.code(score.scalar)
            return [f"scale={number.text if factor == 1 else f'{python(factor)} * {number.at(PRODUCT)}'}"]
        usual = size is not None and abs(factor - size**-0.5) <= 1e-12 * size**-0.5
        return [] if usual else [f"scale={python(factor)}"]

    def shared_heads(self) -> list[str]:
        """The argument for query heads that share key heads."""
        return ["enable_gqa=True"] if self._grouped_by_kernel and self.average.key_heads is not None else []

    def unlined(self, text: str) -> str:
        """[batch, head, query, feature] --> [batch..., head, positions..., feature]."""
        average, frame = self.average, self.frame
        frame.assign("y", text)
        text = "y"
        for _ in range(2 - len(self.lead)):
            text = f"{text}.squeeze({1 if self._batch_only else 0})"
        if not average.positions:
            text = f"{text}.squeeze(-2)"
        elif len(average.positions) > 1:
            text = f"{text}.unflatten(-2, ({frame.sizes(average.positions)}))"
        return text

    @property
    def _batch_only(self) -> bool:
        """One batch axis and no heads: a head axis of length 1 is put in, so that torch's fast paths apply."""
        return len(self.lead) == 1 and self.average.heads is None

    def _operand(self, value: n.Value, positions: Sequence[Axis], negative: bool = False) -> str:
        """The code of an operand as [batch, head, position, feature]."""
        lead = self.lead
        code = self.lined(value, positions)
        if negative:
            code = Code(f"-{code.at(PRODUCT)}", PRODUCT)
        if not positions:
            code = Code(f"{code.atom}.unsqueeze(-2)")
        elif len(positions) > 1:
            code = Code(f"{code.atom}.flatten(-{len(positions) + 1}, -2)")
        if len(lead) == 0:
            code = Code(f"{code.atom}[None, None]")
        elif len(lead) == 1:
            code = Code(f"{code.atom}[:, None]" if self._batch_only else f"{code.atom}[None]")
        return code.text

    def lined(self, value: n.Value, positions: Sequence[Axis]) -> Code:
        """The code of an operand with all of [batch..., head, positions..., feature]."""
        frame = self.frame
        order = [*self.lead, *positions, value.axes[-1]]
        present = [a for a in order if a in value.axes]
        code = frame.permuted(frame.code(value), value.axes, present)
        if value.type.dtype != "float":
            code = Code(f"{code.atom}.to({frame.dtype})")
        missing = set(order) - set(present)
        if missing:
            code = self.expanded(frame.spread(code, present, order), present, order, missing)
        return code

    def _any_mask(self, score: DotScore, causal: bool) -> str | None:
        return self._causal_mask() if causal else self._mask(score, self.frame)

    def _causal_mask(self) -> str | None:
        """Write the mask where all of the condition is `j <= i`, but for a part that may be left out."""
        frame, apart = self.frame, self.left_out
        if apart is None:
            return None
        assert apart.rest is not None
        mask = frame.assign(frame.fresh("mask"), "None")
        frame.line(f"if {frame.variable(apart.name)} is not None:")
        before = dict(frame.positions)
        frame.depth += 1
        parts = [self._pairs(frame.code(x), x.axes).at(BITAND) for x in (apart.rest, apart.value)]
        frame.assign(mask, " & ".join(parts))
        frame.depth -= 1
        frame.positions = before
        return mask

    def _mask(self, score: DotScore, frame: Frame) -> str | None:
        """Write what is added to the score, or where it counts; a part of the condition may be left out."""
        apart = self.left_out
        if apart is None:
            return self._whole_mask(score, frame, self.average.visible)
        name = frame.variable(apart.name)
        part = self._pairs(frame.code(apart.value), apart.value.axes)
        mask = self._whole_mask(score, frame, apart.rest)
        if mask is None:
            alone = f"None if {name} is None else {part.text}"
            return name if part.text == name else frame.assign(frame.fresh("mask"), alone)
        both = f'{mask}.masked_fill(~{part.atom}, float("-inf"))' if score.biases else f"{mask} & {part.atom}"
        frame.line(f"if {name} is not None:")
        frame.line(f"    {mask} = {both}")
        return mask

    def _whole_mask(self, score: DotScore, frame: Frame, visible: n.Value | None) -> str | None:
        average = self.average
        axes: tuple[Axis, ...] = (*self.lead, *average.positions, *average.over)
        bias, own = self.bias(score, axes)
        if visible is None and bias is None:
            return None
        if bias is None:
            assert visible is not None
            code, mask = frame.code(visible), frame.fresh("mask")
            if code.strength < ATOM:
                code = Code(frame.assign(mask, code.text))
            return frame.assign(mask, self._pairs(code, visible.axes).text)
        if visible is not None:
            name = Code(frame.assign(frame.fresh("bias"), bias.text))
            every = tuple(a for a in axes if a in own or a in visible.axes)
            spread_bias = frame.spread(name, own, every) if own else name
            hidden = frame.aligned(visible, every)
            bias = Code(f'{spread_bias.atom}.masked_fill(~{hidden.at(ATOM)}, float("-inf"))')
            own = every
        mask = frame.assign(frame.fresh("mask"), bias.text)
        return frame.assign(mask, self._pairs(Code(mask), own).text)

    def bias(self, score: DotScore, axes: Sequence[Axis]) -> tuple[Code | None, tuple[Axis, ...]]:
        """The sum of what is added to a dot product, and which of some axes it has."""
        frame = self.frame
        if not score.biases:
            return None, ()
        own = tuple(a for a in axes if any(a in term.value.axes for term in score.biases))
        parts = []
        for term in score.biases:
            value = term.value
            code = frame.aligned(value, own)
            if value.type.scalar:
                code = Code(f"torch.tensor({code.text}, device={frame.device}, dtype={frame.dtype})")
            elif value.type.dtype != "float":
                code = Code(f"{code.atom}.to({frame.dtype})")
            parts.append(self.times(term, code))
        text = " + ".join(c.at(PRODUCT) for c in parts)
        return Code(text, ATOM if len(parts) == 1 and parts[0].strength == ATOM else SUM), own

    def times(self, term: Term, code: Code) -> Code:
        """The code of a term's value, times the numbers in front of it."""
        if term.scalar is not None:
            code = Code(f"{self.frame.code(term.scalar).at(PRODUCT)} * {code.at(PRODUCT + 1)}", PRODUCT)
        if term.factor != 1:
            number = python(term.factor) if term.factor > 0 else f"({python(term.factor)})"
            code = Code(f"{number} * {code.at(PRODUCT)}", PRODUCT)
        return code

    def _pairs(self, code: Code, own: Sequence[Axis]) -> Code:
        """A mask or bias as [batch, head, query, key], dims of length 1 where it does not vary."""
        frame, average = self.frame, self.average
        own = list(own)
        axes = [*self.lead, *average.positions, *average.over]
        code = frame.permuted(code, own, [a for a in axes if a in own])
        own = [a for a in axes if a in own]
        groups: list[tuple[Axis, ...]] = [(a,) for a in self.lead]
        groups += [average.positions, average.over]
        # those of a group stand together: all of them, flattened, or none
        full = list(own)
        for group in groups:
            if any(a in own for a in group) and not all(a in own for a in group):
                full = [a for a in axes if a in full or a in group]
        if full != own:
            code = self.expanded(frame.spread(code, own, full), own, full, set(full) - set(own))
        picks: list[str] = []
        at = 0
        flattened = code
        for group in groups:
            present = [a for a in group if a in full]
            if not present:
                picks.append("None")
                continue
            if len(present) > 1:
                end = at + len(present) - 1
                flattened = Code(f"{flattened.atom}.flatten({at}, {end})")
            picks.append(":")
            at += 1
        missing_lead = 2 - len(self.lead)
        if missing_lead > 0:
            picks = [*picks[:1], "None", *picks[1:]] if self._batch_only else ["None"] * missing_lead + picks
        if picks[:-2] == ["None"] * (len(picks) - 2):  # torch's fast paths take masks with two dims or with four
            picks = picks[-2:]
        if set(picks) == {":"}:
            return flattened
        if picks == ["None", *[":"] * (len(picks) - 1)]:
            picks = ["None"]
        return Code(f"{flattened.atom}[{', '.join(picks)}]")

    # --- the result -------------------------------------------------------------------------------------------

    def each_head(self, code: Code) -> Code:
        """The average of each head, with all the axes [batch, head, positions, feature]."""
        order = [*self.lead, *self.average.positions, self.average.message.axes[-1]]
        if self._kept is None or self._kept == tuple(order):
            return code
        missing = {a for a in order if a not in self._kept}
        code = self.frame.spread(code, self._kept, order)
        return self.expanded(code, self._kept, order, missing)

    def result(self, code: Code, gate: n.Value | None = None) -> Code:
        """[batch, head, positions, feature] --> the axes of the result, heads merged, each times its gate."""
        average, frame = self.average, self.frame
        feature = average.message.axes[-1]
        if average.heads is None and len(average.features) == 1 and self._kept is not None:
            plain = {feature: average.features[0]}
            kept = [plain.get(a, a.on("")) for a in self._kept]
            if set(kept) == set(average.layout):
                return frame.permuted(code, kept, list(average.layout))
        code = self.each_head(code)
        if gate is not None:
            factor = Code(f"{frame.text(gate)}.to({code.text})")  # its dtype may be another one, as in autocast
            factor = frame.spread(factor, gate.axes, (*self.lead, *average.positions, feature))
            code = Code(f"{code.at(PRODUCT)} * {factor.at(PRODUCT + 1)}", PRODUCT)
        positions = [a.on("") for a in average.positions]
        batch = list(average.batch)
        if average.heads is not None:
            if average.merge in ("mean", "sum"):
                code = Code(f"{code.atom}.{average.merge}({len(batch)})")
            else:
                code = frame.permuted(
                    code, [*batch, average.heads, *positions, feature], [*batch, *positions, average.heads, feature]
                )
                code = Code(f"{code.atom}.flatten(-2)")
        own = [*batch, *positions, *average.features]
        if len(average.features) > 1:
            code = Code(f"{code.atom}.unflatten(-1, ({frame.sizes(average.features)}))")
        return frame.permuted(code, own, list(average.layout))
