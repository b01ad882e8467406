"""A dot product and what is added to it --> q, k, v, mask and bias as torch's fused attention takes them.

Legend: [batch, head, query or key, feature], positions flattened.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from towerdsl.emit.attention import AttentionWriter
from towerdsl.emit.code import ATOM, BITAND, PRODUCT, SUM, UNARY, Code, permuted, spread
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import read
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis
from towerdsl.ops import python
from towerdsl.passes.locality import analyze
from towerdsl.passes.score import DotScore, Term


class DotWriter:
    """Writes the attention of `writer`, whose score is a dot product."""

    def __init__(self, writer: AttentionWriter, score: DotScore, full: bool = False) -> None:
        """Each query is known to see a key, where it is `full`."""
        self.writer, self.score, self.full = writer, score, full
        self.frame, self.values = writer.frame, writer.values
        self.average, self.lead, self.left_out = writer.average, writer.lead, writer.left_out

    def scaled_dot_product(self) -> str:
        """`F.scaled_dot_product_attention` on [batch, head, query, feature], positions flattened."""
        average, frame = self.average, self.frame
        operands = self.operands()
        apart = self.left_out
        causal = not self.score.biases and analyze(apart.rest if apart else average.visible).causal(average)
        conditions = [average.visible] if average.visible is not None else []
        early = bool(read([*(term.value for term in self.score.biases), *conditions]) & {"q", "k", "v"})
        mask = self._any_mask(causal) if early else None  # it reads the sources, before they are laid out
        arguments = self.assigned(operands)
        if not early:
            mask = self._any_mask(causal)
        if mask is not None:
            arguments.append(f"attn_mask={mask}")
        if average.dropout:
            arguments.append(f"dropout_p={python(average.dropout)} if self.training else 0.0")
        if causal:
            arguments.append(f"is_causal={frame.variable(apart.name)} is None" if apart else "is_causal=True")
        arguments += [*self.scale(abs(self.score.factor)), *self.shared_heads()]
        function = "F.scaled_dot_product_attention"
        if len(self.lead) > 2:  # torch's fast paths have one batch axis
            function = frame.helper("attention_of_batches")
            arguments += ["full=True"] if self.full else []
        return self.unlined(f"{function}({', '.join(arguments)})")

    def operands(self) -> list[tuple[str, Code]]:
        """`q`, `k`, `v` with their codes, each [batch, head, position, feature]."""
        score = self.score
        return [
            ("q", self._operand(score.left, self.average.positions, score.factor < 0)),
            ("k", self._operand(score.right, self.average.over)),
            ("v", self._operand(self.average.message, self.average.over)),
        ]

    def assigned(self, operands: Sequence[tuple[str, Code]]) -> list[str]:
        """Assign the operands; returns their variables."""
        frame = self.frame
        names = []
        for place, (name, code) in enumerate(operands):
            # an operand may be computed from more than one source: keep what a later one still reads
            later = any(re.search(rf"\b{name}\b(?!\.(dtype|device))", other.text) for _, other in operands[place + 1 :])
            kept = (later or frame.nested) and code.text != name
            names.append(frame.assign(frame.fresh(name) if kept else name, code.text))
        return names

    def scale(self, factor: float) -> list[str]:
        """The argument for the scale, `factor` times what is known at run time, where it is not the usual one."""
        score = self.score
        features = score.left.axes[-1].size
        size = features.integer
        if score.scalar is not None:
            number = self.values.code(_finite(score.scalar, features))
            return [f"scale={number.text if factor == 1 else f'{python(factor)} * {number.at(PRODUCT + 1)}'}"]
        usual = size is not None and abs(factor - size**-0.5) <= 1e-12 * size**-0.5
        return [] if usual else [f"scale={python(factor)}"]

    def shared_heads(self) -> list[str]:
        """The argument for query heads that share key heads."""
        return ["enable_gqa=True"] if self.writer.grouped else []

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

    def _operand(self, value: n.Value, positions: Sequence[Axis], negative: bool = False) -> Code:
        """The code of an operand as [batch, head, position, feature]."""
        lead = self.lead
        code = self.writer.lined(value, positions)
        if negative:
            code = Code(f"-{code.at(UNARY)}", UNARY)
        if not positions:
            code = Code(f"{code.atom}.unsqueeze(-2)")
        elif len(positions) > 1:
            code = Code(f"{code.atom}.flatten(-{len(positions) + 1}, -2)")
        if len(lead) == 0:
            code = Code(f"{code.atom}[None, None]")
        elif len(lead) == 1:
            code = Code(f"{code.atom}[:, None]" if self._batch_only else f"{code.atom}[None]")
        return code

    # --- masks and biases -------------------------------------------------------------------------------------

    def _any_mask(self, causal: bool) -> str | None:
        return self._causal_mask() if causal else self._mask()

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
        parts = [self._pairs(self.values.code(x), x.axes).at(BITAND) for x in (apart.rest, apart.value)]
        frame.assign(mask, " & ".join(parts))
        frame.depth -= 1
        frame.positions = before
        return mask

    def _mask(self) -> str | None:
        """Write what is added to the score, or where it counts; a part of the condition may be left out."""
        frame, apart = self.frame, self.left_out
        if apart is None:
            return self._whole_mask(self.average.visible)
        name = frame.variable(apart.name)
        part = self._pairs(self.values.code(apart.value), apart.value.axes)
        mask = self._whole_mask(apart.rest)
        if mask is None:
            alone = f"None if {name} is None else {part.text}"
            return name if part.text == name else frame.assign(frame.fresh("mask"), alone)
        both = f'{mask}.masked_fill(~{part.atom}, float("-inf"))' if self.score.biases else f"{mask} & {part.atom}"
        frame.line(f"if {name} is not None:")
        frame.line(f"    {mask} = {both}")
        return mask

    def _whole_mask(self, visible: n.Value | None) -> str | None:
        average, frame = self.average, self.frame
        axes: tuple[Axis, ...] = (*self.lead, *average.positions, *average.over)
        bias, own = self.bias(axes)
        if visible is None and bias is None:
            return None
        if bias is None:
            assert visible is not None
            code, mask = self.writer.condition(visible, visible.axes), frame.fresh("mask")
            if code.strength < ATOM:
                code = Code(frame.assign(mask, code.text))
            return frame.assign(mask, self._pairs(code, visible.axes).text)
        if visible is not None:
            name = Code(frame.assign(frame.fresh("bias"), bias.text))
            every = tuple(a for a in axes if a in own or a in visible.axes)
            spread_bias = spread(name, own, every) if own else name
            hidden = self.writer.condition(visible, every)
            bias = Code(f'{spread_bias.atom}.masked_fill(~{hidden.at(ATOM)}, float("-inf"))')
            own = every
        mask = frame.assign(frame.fresh("mask"), bias.text)
        return frame.assign(mask, self._pairs(Code(mask), own).text)

    def bias(self, axes: Sequence[Axis]) -> tuple[Code | None, tuple[Axis, ...]]:
        """The sum of what is added to a dot product, and which of some axes it has."""
        frame = self.frame
        if not self.score.biases:
            return None, ()
        own = tuple(a for a in axes if any(a in term.value.axes for term in self.score.biases))
        parts = []
        for term in self.score.biases:
            value = term.value
            code = self.values.aligned(value, own)
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
            code = Code(f"{self.values.code(term.scalar).at(PRODUCT)} * {code.at(PRODUCT + 1)}", PRODUCT)
        if term.factor != 1:
            number = python(term.factor) if term.factor > 0 else f"({python(term.factor)})"
            code = Code(f"{number} * {code.at(PRODUCT + 1)}", PRODUCT)
        return code

    def _pairs(self, code: Code, own: Sequence[Axis]) -> Code:
        """A mask or bias as [batch, head, query, key], dims of length 1 where it does not vary."""
        average = self.average
        own = list(own)
        axes = [*self.lead, *average.positions, *average.over]
        code = permuted(code, own, [a for a in axes if a in own])
        own = [a for a in axes if a in own]
        groups: list[tuple[Axis, ...]] = [(a,) for a in self.lead]
        groups += [average.positions, average.over]
        # those of a group stand together: all of them, flattened, or none
        full = list(own)
        for group in groups:
            if any(a in own for a in group) and not all(a in own for a in group):
                full = [a for a in axes if a in full or a in group]
        if full != own:
            code = self.writer.expanded(spread(code, own, full), own, full, set(full) - set(own))
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


def _finite(scale: n.Value, features: Size) -> n.Value:
    """A number that dots of so many features are multiplied by: without features they are 0, whatever the number is."""
    if isinstance(scale, n.SizeOf) and scale.size == features:
        return replace(scale, size=features.opaque("max", 1))
    if isinstance(scale, n.Pointwise):
        return replace(scale, args=tuple(_finite(x, features) for x in scale.args))
    return replace(scale, arg=_finite(scale.arg, features)) if isinstance(scale, n.Cast) else scale
