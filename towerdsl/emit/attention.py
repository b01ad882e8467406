"""One `Average` in a frame: its sources laid out before the kernel's part, its result laid out after it.

Legend of the layout inside: [batch..., head, positions..., feature].
"""

from __future__ import annotations

from collections.abc import Sequence

from towerdsl.emit.code import PRODUCT, Code, permuted, spread
from towerdsl.emit.optional import left_out
from towerdsl.emit.values import ValueWriter
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis


class AttentionWriter:
    """What every technique needs to write one attention."""

    def __init__(self, values: ValueWriter, average: n.Average, grouped: bool = False) -> None:
        """`grouped` key heads are not repeated for the query heads that they serve."""
        self.values, self.average, self.grouped = values, average, grouped
        self.frame = frame = values.frame
        self.lead = average.lead
        self.left_out = left_out(average.visible, frame.optional)
        #: the axes of what was written; None where it has all of [batch..., head, positions..., feature]
        self.kept: tuple[Axis, ...] | None = None

    # --- sources ----------------------------------------------------------------------------------------------

    def sources(self) -> None:
        """`q`, `k` and `v` of one head each, as far as they are used."""
        average, frame = self.average, self.frame
        used = average.uses
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
                groups.setdefault(self.values.text(x.args[0]), {})[name] = x
        argument, group = max(groups.items(), key=lambda found: len(found[1]), default=("", {}))
        modules = dict.fromkeys(x.module for x in group.values() if x.module is not None)
        if len(modules) < max(len(group), 2):
            return sources
        joint = next(str(x.result.joint) for x in group.values())
        frame.assign(", ".join(group), frame.call(joint, [argument, *map(frame.module, modules)]))
        return sources | {name: n.Local(x.type, x.span, name) for name, x in group.items()}

    def _laid_out(self, value: n.Value, features: Sequence[Axis], moved: Sequence[Axis], heads: Size | None) -> Code:
        frame = self.frame
        batch = [a for a in self.average.batch if a in value.axes]
        others = [a for a in value.axes if a not in features]
        code = self.values.code(value)
        if heads is None:
            code = permuted(code, value.axes, [*batch, *moved, *features])
            if len(features) > 1:
                code = Code(f"{code.atom}.flatten(-{len(features)})")
            return code
        each = features[0].size.opaque("//", heads)
        code = permuted(code, value.axes, [*others, *features])
        sizes = f"({frame.size(heads, 'heads')}, {frame.size(each, 'head_dim')})"
        code = Code(f"{code.atom}.unflatten(-1, {sizes})")
        head, feature = Axis("head", heads), Axis("", each)
        code = permuted(code, [*others, head, feature], [*batch, head, *moved, feature])
        groups = self._groups(heads)
        if groups is not None and not self.grouped:
            code = Code(f"{code.atom}.repeat_interleave({frame.size(groups, 'groups')}, {len(batch)})")
        return code

    def _groups(self, heads: Size) -> Size | None:
        """How many query heads each key head serves, where that is more than one."""
        if self.average.heads is None or heads == self.average.heads.size:
            return None
        return self.average.heads.size.opaque("//", heads)

    # --- conditions -------------------------------------------------------------------------------------------

    def condition(self, value: n.Value, axes: Sequence[Axis]) -> Code:
        """The code of a part of the condition, a tensor that broadcasts against one with `axes`, also where it is a
        truth value of lengths alone."""
        code = self.values.aligned(value, axes)
        return Code(f"torch.tensor({code.text}, device={self.frame.device})") if value.type.scalar else code

    # --- tensors with all axes --------------------------------------------------------------------------------

    def lined(self, value: n.Value, positions: Sequence[Axis]) -> Code:
        """The code of an operand with all of [batch..., head, positions..., feature]."""
        frame = self.frame
        order = [*self.lead, *positions, value.axes[-1]]
        present = [a for a in order if a in value.axes]
        code = permuted(self.values.code(value), value.axes, present)
        if value.type.dtype != "float":
            code = Code(f"{code.atom}.to({frame.dtype})")
        missing = set(order) - set(present)
        if missing:
            code = self.expanded(spread(code, present, order), present, order, missing)
        return code

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

    # --- the result -------------------------------------------------------------------------------------------

    def each_head(self, code: Code) -> Code:
        """The average of each head, with all the axes [batch, head, positions, feature]."""
        order = [*self.lead, *self.average.positions, self.average.message.axes[-1]]
        if self.kept is None or self.kept == tuple(order):
            return code
        missing = {a for a in order if a not in self.kept}
        code = spread(code, self.kept, order)
        return self.expanded(code, self.kept, order, missing)

    def result(self, code: Code, gate: n.Value | None = None) -> Code:
        """[batch, head, positions, feature] --> the axes of the result, heads merged, each times its gate."""
        average, frame = self.average, self.frame
        feature = average.message.axes[-1]
        if average.heads is None and len(average.features) == 1 and self.kept is not None:
            plain = {feature: average.features[0]}
            kept = [plain.get(a, a.on("")) for a in self.kept]
            if set(kept) == set(average.layout):
                return permuted(code, kept, list(average.layout))
        code = self.each_head(code)
        if gate is not None:
            factor = Code(f"{self.values.text(gate)}.to({code.text})")  # its dtype may be another one, as in autocast
            factor = spread(factor, gate.axes, (*self.lead, *average.positions, feature))
            code = Code(f"{code.at(PRODUCT)} * {factor.at(PRODUCT + 1)}", PRODUCT)
        positions = [a.on("") for a in average.positions]
        batch = list(average.batch)
        if average.heads is not None:
            if average.merge in ("mean", "sum"):
                code = Code(f"{code.atom}.{average.merge}({len(batch)})")
            else:
                code = permuted(
                    code, [*batch, average.heads, *positions, feature], [*batch, *positions, average.heads, feature]
                )
                code = Code(f"{code.atom}.flatten(-2)")
        own = [*batch, *positions, *average.features]
        if len(average.features) > 1:
            code = Code(f"{code.atom}.unflatten(-1, ({frame.sizes(average.features)}))")
        return permuted(code, own, list(average.layout))
