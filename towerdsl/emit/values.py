"""Typed values --> Python expressions, in the frame of one class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from towerdsl.budget import spend
from towerdsl.emit.code import (
    AND,
    ATOM,
    CHOICE,
    COMPARE,
    NOT,
    OR,
    POWER,
    PRODUCT,
    STRENGTH,
    SUM,
    UNARY,
    Code,
    Letters,
    filled,
    mark,
    permuted,
    spread,
)
from towerdsl.emit.frame import Frame, MethodFrame
from towerdsl.emit.helpers import helpers
from towerdsl.emit.placed import PlacedWriter
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import statements, values
from towerdsl.ir.placed import AtPairs, Blocks
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis
from towerdsl.ops import ELEMENTWISE, python
from towerdsl.passes.bounds import bounds
from towerdsl.passes.score import scaled_first


class ValueWriter(PlacedWriter):
    """Writes values; what is computed once, for several uses, becomes a statement of the frame."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def code(self, value: n.Value) -> Code:
        """The code of a value, by the method that is called after its class."""
        method = getattr(self, f"_{type(value).__name__.lower()}")
        result: Code = method(value)
        spend(10 + len(result.text) // 50)
        return result

    def aligned(self, value: n.Value, axes: Sequence[Axis]) -> Code:
        """Code that broadcasts against a tensor with `axes`."""
        code = self.code(value)
        if value.type.scalar:
            return code
        pairwise = {"i", "j"} <= {a.side for a in value.axes}
        if pairwise and set(axes) - set(value.axes) and not code.text.isidentifier():
            found = spread(Code("x"), value.axes, axes)
            if "None" in found.text:  # it is put between other dims: name it first, so that the line can be read
                code = Code(self.frame.assign(self.frame.fresh(self._part_name(value)), code.text))
        return spread(code, value.axes, axes)

    def _part_name(self, value: n.Value) -> str:
        """A name for a part of a score or condition: `visible_h`, `offset_w`."""
        base = {"bool": "visible", "int": "offset"}.get(value.type.dtype, "term")
        names = {a.name for a in value.axes if a.side and a.name}
        several = any(self.frame.several(a) for a in value.axes if a.side)
        return f"{base}_{names.pop()}" if several and len(names) == 1 else base

    # --- leaves -------------------------------------------------------------------------------------------------

    def _const(self, value: n.Const) -> Code:
        return self.number(value.value)

    def number(self, number: float | int | bool) -> Code:
        if isinstance(number, bool):
            return Code(str(number))
        text = python(number)
        if isinstance(number, int) and number >= 0:
            known = [name for name, value in self.frame.block.constants if value == number and value is not True]
            return Code(mark(number, known[0] if known else "size"))
        return Code(text, UNARY if number < 0 else ATOM)

    def _sizeof(self, value: n.SizeOf) -> Code:
        text = self.frame.size(value.size)
        return Code(text, ATOM if text.isidentifier() or value.size.integer is not None else SUM)

    def _local(self, value: n.Local) -> Code:
        return Code(self.frame.variable(value.name))

    def _weight(self, value: n.Weight) -> Code:
        return Code(".".join(("self", *value.path)))

    def _position(self, value: n.Position) -> Code:
        axis = value.axes[0]
        return Code(self.frame.position_variable(axis))

    def _range(self, value: n.Range) -> Code:
        frame = self.frame
        size = frame.size(value.axes[0].size, value.axes[0].name or "size")
        code = f"torch.arange({size}, device={frame.device})"
        if not frame.averaging or self._ranges[value.axes[0].size] < 2:
            return Code(code)
        key = ("range", size)
        if key not in frame.positions:
            frame.positions[key] = frame.assign(frame.fresh("index"), code)
        return Code(frame.positions[key])

    @cached_property
    def _ranges(self) -> Counter[Size]:
        """How often the attention's formulas count up to each length; what is computed once counts once."""
        average = self.frame.block.average
        roots = [average.score, average.visible, average.message] if average is not None else []
        counts: Counter[Size] = Counter()
        met: set[int] = set()

        def visit(value: n.Value) -> None:
            if isinstance(value, n.Shared):
                if value.key in met:
                    return
                met.add(value.key)
            if isinstance(value, n.Range):
                counts[value.axes[0].size] += 1
            for operand in value.operands:
                visit(operand)

        for root in roots:
            if root is not None:
                visit(root)
        return counts

    def _fill(self, value: n.Fill) -> Code:
        frame = self.frame
        function = "torch.zeros" if value.value == 0 else "torch.ones"
        dtype = "torch.bool" if value.type.dtype == "bool" else frame.dtype
        sizes = frame.sizes(value.axes) or "()"
        return Code(f"{function}({sizes}, device={frame.device}, dtype={dtype})")

    # --- elementwise --------------------------------------------------------------------------------------------

    def _shared(self, value: n.Shared) -> Code:
        frame = self.frame
        if value.kept:
            return self._kept(value)
        if value.key not in frame.shared:
            if isinstance(value.arg, Blocks) and frame.averaging:  # they get a variable by themselves
                text = self._blocks(value.arg, value.name).text
                frame.shared[value.key] = text if text.isidentifier() else frame.assign(frame.fresh(value.name), text)
            else:
                text = self.text(value.arg)
                frame.shared[value.key] = frame.assign(frame.fresh(value.name), text)
        return Code(frame.shared[value.key])

    def _kept(self, value: n.Shared) -> Code:
        """A call of the method that makes a value."""
        frame = self.frame
        own = MethodFrame(
            frame.block,
            reserved=frozenset({*helpers(), *frame.aliases.values()}),
            helpers=frame.helpers,
            aliases=frame.aliases,
            averaging=frame.averaging,
        )
        own.line(f"return {type(self)(own).text(value.arg)}")
        return Code(frame.method(value.name, own))

    def _cast(self, value: n.Cast) -> Code:
        if value.type.dtype == "int":
            return Code(f"{self.code(value.arg).atom}.long()")
        dtype = self.frame.wide if value.type.dtype == "wide" else self.frame.dtype
        return Code(f"{self.code(value.arg).atom}.to({dtype})")

    def _pointwise(self, value: n.Pointwise) -> Code:
        op, axes = value.op, value.axes
        if value.type.scalar:
            return self._scalar(value)
        if (early := scaled_first(value)) != value:
            return self.code(early)
        if op == "neg":
            return Code(f"-{self.aligned(value.args[0], axes).at(UNARY)}", UNARY)
        if op == "not":
            return Code(f"~{self.aligned(value.args[0], axes).at(UNARY)}", UNARY)
        if op == "//" and value.type.dtype in ("float", "wide"):  # torch's own `//` has no gradient
            left, right = (self.aligned(a, axes) for a in value.args)
            return Code(f"torch.floor({left.at(PRODUCT)} / {right.at(UNARY)})")
        if op == "+" and (found := self._added(value)) is not None:
            return found
        if op in STRENGTH:
            strength = STRENGTH[op]
            symbol = {"and": "&", "or": "|"}.get(op, op)
            left, right = (self.aligned(a, axes) for a in _uncast(value))
            tight = strength + 1
            if op == "**":
                return Code(f"{left.at(ATOM)} ** {right.at(UNARY)}", POWER)
            left_text = left.at(tight if strength in (COMPARE,) else strength)
            return Code(f"{left_text} {symbol} {right.at(tight)}", strength)
        return self._function(value)

    def _added(self, value: n.Pointwise) -> Code | None:
        """`y + bias`, where y is the batched product of the line before and is read nowhere else: both in one."""
        frame = self.frame
        line = frame.lines[-1] if frame.lines else ""
        product, bias = sorted(value.args, key=lambda x: not isinstance(x, n.Local))
        if line not in frame.products or not isinstance(product, n.Local) or not line.startswith(f"{product.name} = "):
            return None
        if bias.type.scalar or bias.type.dtype != "float" or product.axes != value.axes:
            return None
        roots = [v for step in statements(frame.block.body) for v in values(step)]
        roots += [r for r in frame.block.results if isinstance(r, n.Value)]
        reads = sum(isinstance(v, n.Local) and v.name == product.name for root in roots for v in root.walk())
        code = self.aligned(bias, value.axes)
        if reads > 1 or frame.lines[-1] != line:
            return None
        frame.lines.pop()
        return Code(f"torch.baddbmm({code.text}, {', '.join(frame.products[line])})")

    def _chosen(self, value: n.Pointwise) -> Code:
        """`where` with a condition that is one Python truth value."""
        test, *both = value.args
        condition = self.code(test)
        a, b = (self.aligned(v, value.axes) for v in both)
        alike = (value.type.dtype, set(value.axes))
        if all(not v.type.scalar and (v.type.dtype, set(v.axes)) == alike for v in both):
            return Code(f"{a.at(OR)} if {condition.at(OR)} else {b.text}", CHOICE)
        return Code(f"torch.where(torch.tensor({condition.text}, device={self.frame.device}), {a.text}, {b.text})")

    def _function(self, value: n.Pointwise) -> Code:
        frame = self.frame
        if value.op == "where" and value.args[0].type.scalar:
            return self._chosen(value)
        entry = ELEMENTWISE[value.op]
        tensors, options = list(value.args[: entry.arity]), value.args[entry.arity :]
        template = entry.code
        if entry.code_number is not None and any(a.type.scalar for a in tensors):
            tensors.sort(key=lambda a: a.type.scalar)
            template = entry.code_number
        codes = [self.aligned(a, value.axes) for a in tensors]
        if value.op == "where" and value.type.dtype == "wide" and all(a.type.scalar for a in tensors[1:]):
            # of two Python numbers torch makes float32: the first says what is wanted
            codes[1] = Code(f"torch.tensor({codes[1].text}, dtype={frame.wide}, device={frame.device})")
        fields: dict[str, str] = {}
        for (name, default), option in zip(entry.options, options, strict=True):
            fields[name] = self.text(option)
            if isinstance(option, n.Const) and option.value == default:  # torch has the same
                template = template.replace(f", {{{name}}}", "")
        if "{dtype}" in template:
            fields["dtype"] = frame.wide if value.type.dtype == "wide" else frame.dtype
        return Code(filled(template, {str(k): c for k, c in enumerate(codes)}, fields))

    def _scalar(self, value: n.Pointwise) -> Code:
        """A number that is known only at run time."""
        if value.op == "neg":
            return Code(f"-{self.code(value.args[0]).at(UNARY)}", UNARY)
        if value.op == "not":
            return Code(f"not {self.code(value.args[0]).at(NOT)}", NOT)
        if value.op in ("and", "or"):
            strength = AND if value.op == "and" else OR
            return Code(f" {value.op} ".join(self.code(a).at(strength + 1) for a in value.args), strength)
        if value.op in ("==", "!=") and all(a.type.dtype == "bool" for a in value.args):
            return self._alike(value)
        if value.op in STRENGTH:
            strength = STRENGTH[value.op]
            left, right = (self.code(a) for a in value.args)
            tight = {POWER: ATOM, COMPARE: COMPARE + 1}.get(strength, strength)  # a < b < c is no comparison of a < b
            return Code(f"{left.at(tight)} {value.op} {right.at(strength + 1)}", strength)
        entry = ELEMENTWISE[value.op]
        codes = {str(k): self.code(a) for k, a in enumerate(value.args[: entry.arity])}
        options = zip(entry.options, value.args[entry.arity :], strict=True)
        fields = {name: self.text(o) for (name, _), o in options}
        if entry.scalar is not None:
            return Code(filled(entry.scalar, codes, fields))
        tensor = {k: Code(f"torch.tensor({c.text}, dtype={self.frame.wide})") for k, c in codes.items()}
        return Code(filled(entry.code, tensor, fields))

    def _alike(self, value: n.Pointwise) -> Code:
        """Whether two truth values are the same, or not: torch compares those of free lengths with nothing else."""
        left, right = (self.code(a) for a in value.args)
        same, other = right.at(OR), f"not {right.at(NOT)}"
        if value.op == "!=":
            same, other = other, same
        return Code(f"{same} if {left.at(OR)} else {other}", CHOICE)

    # --- contractions, reductions, lookups ----------------------------------------------------------------------

    def _dot(self, value: n.Dot) -> Code:
        left, right = value.left, value.right
        if isinstance(left, AtPairs) and isinstance(right, AtPairs):
            return self.pair_dot(value, left, right)
        if len(right.axes) == 2 and len(left.axes) >= 2 and value.axes == (*left.axes[:-1], right.axes[0]):
            return Code(f"F.linear({self.text(left)}, {self.text(right)})")
        for vector, other in ((right, left), (left, right)):
            if len(vector.axes) == 1 and value.axes == other.axes[:-1]:
                return Code(f"{self.code(other).at(PRODUCT)} @ {self.code(vector).at(UNARY)}", PRODUCT)
        letters = Letters(self.frame.many_positions)
        a = letters.of(left.axes[:-1]) + "_"
        b = letters.of(right.axes[:-1]) + "_"
        contracted = letters.new(left.axes[-1], "d")
        a, b = a.replace("_", contracted), b.replace("_", contracted)
        pattern = f"{a},{b}->{letters.of(value.axes)}"
        return Code(f'torch.einsum("{pattern}", {self.text(left)}, {self.text(right)})')

    def _reduce(self, value: n.Reduce) -> Code:
        dims = [value.arg.type.dim(a) for a in value.over]
        rank = len(value.arg.axes)
        shown = [d - rank if d == rank - 1 else d for d in dims]
        where = str(shown[0]) if len(shown) == 1 else f"({', '.join(map(str, shown))})"
        return Code(f"{self.code(value.arg).atom}.{value.op}({where})")

    def _gather(self, value: n.Gather) -> Code:
        table = value.table
        index_axes = [a for a in value.axes if any(a in x.axes for x in value.indices)]
        lead, width = table.axes[: value.lead], len(value.indices)
        looked_up = table.axes[value.lead : value.lead + width]
        plain = [a for a in lead if a not in index_axes]
        advanced = [a for a in lead if a in index_axes]
        rest = table.axes[value.lead + width :]
        inner = table.arg if isinstance(table, n.Rename) else table
        code = permuted(self.code(inner), inner.axes, [*plain, *advanced, *looked_up, *rest])
        picks = [":"] * len(plain)
        for a in advanced:
            arange = Code(f"torch.arange({self.frame.size(a.size, a.name or 'size')}, device={self.frame.device})")
            picks.append(spread(arange, [a], index_axes).text)
        for axis, index in zip(looked_up, value.indices, strict=True):
            picks.append(self._kept_inside(index, axis, index_axes))
        code = Code(f"{code.atom}[{', '.join(picks)}]")
        return permuted(code, (*plain, *index_axes, *rest), value.axes)

    def _kept_inside(self, index: n.Value, axis: Axis, axes: Sequence[Axis]) -> str:
        """Code of an index, kept inside the table."""
        low, high = bounds(index)
        last = axis.size - 1
        code = self.aligned(index, axes)
        if index.type.dtype == "bool" and not index.type.scalar:
            code = Code(f"{code.atom}.long()")
        size = self.frame.size(last, "last")
        below = low is not None and low >= 0
        above = high is not None and last.integer is not None and high <= last.integer
        if index.type.scalar:
            if below and above:
                return code.text
            return f"min(max({code.text}, 0), {size})"
        if below and above:
            return code.text
        if below:
            return f"{code.atom}.clamp(max={size})"
        return f"{code.atom}.clamp(min=0)" if above else f"{code.atom}.clamp(0, {size})"

    def _member(self, value: n.Member) -> Code:
        frame = self.frame
        ends = (frame.size(a.size, "size") for a in value.axes)
        return Code(frame.call("adjacency", [frame.variable(value.relation), *ends]))

    def _pick(self, value: n.Pick) -> Code:
        dim = value.arg.type.dim(value.axis)

        def end(at: Size | n.Value | None) -> str:
            return "" if at is None else self.text(at) if isinstance(at, n.Value) else self.frame.size(at, "position")

        inside = f"{end(value.start)}:{end(value.stop)}" if value.is_range else end(value.start)
        picks = [":"] * dim + [inside]
        if dim > 1 and dim == len(value.arg.axes) - 1:
            picks = ["...", inside]
        return Code(f"{self.code(value.arg).atom}[{', '.join(picks)}]")

    def _rename(self, value: n.Rename) -> Code:
        return (
            permuted(self.code(value.arg), value.arg.axes, value.axes)
            if set(value.axes) == set(value.arg.axes)
            else self.code(value.arg)
        )

    # --- calls --------------------------------------------------------------------------------------------------

    def _apply(self, value: n.Apply) -> Code:
        frame = self.frame
        before = value.args[0] if value.args else None
        if isinstance(before, n.Apply) and before.module and value.module and value.result.behind:
            name, function = value.result.behind
            if before.op.name == name:
                modules = map(frame.module, (before.module, value.module))
                return Code(frame.call(function, [self.text(before.args[0]), *modules]))
        names: list[str] = []
        for name in value.op.tensors:
            if name.endswith("..."):
                base = name.removesuffix("...")
                names += [f"{base}{k}" for k in range(len(value.args) - len(value.op.tensors) + 1)]
            else:
                names.append(name)
        codes = {name: self.code(a) for name, a in zip(names, value.args, strict=True)}
        if value.module is not None:
            codes["self"] = Code(frame.module(value.module))
        fields = {key: python(v, lambda s: frame.size(s, "size")) for key, v in value.result.attrs}
        template = value.result.call
        for helper in value.result.helpers:
            template = re.sub(rf"\b{helper}\b", frame.helper(helper), template)
        text = filled(template, codes, fields)
        bare = value.result.call.strip("{}") in codes
        return codes[value.result.call.strip("{}")] if bare else Code(text)

    def _callblock(self, value: n.CallBlock) -> Code:
        args = [self.frame.variable(a.name) if isinstance(a, n.Relation) else self.text(a) for a in value.args]
        return Code(f"{self.frame.module(value.module)}({', '.join(args)})")


def _uncast(value: n.Pointwise) -> tuple[n.Value, ...]:
    """The operands, without the casts of tensors that torch does by itself: beside a wide one that has axes."""

    def widened(x: n.Value) -> bool:
        return isinstance(x, n.Cast) and x.type.dtype == "wide" and x.arg.type.dtype == "float"

    if value.op == "**" or not any(x.type.dtype == "wide" and x.axes and not widened(x) for x in value.args):
        return value.args
    return tuple(x.arg if isinstance(x, n.Cast) and widened(x) else x for x in value.args)
