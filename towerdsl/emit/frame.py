"""Typed values --> Python expressions, in the `forward` of one class.

A `Frame` collects the statements of one `forward` and what they need first (lengths, the model's dtype). Numbers that
come from sizes are written between marks, so that classes which differ in nothing else can be merged.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import statements, values
from towerdsl.ir.parameters import parameter_shapes
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.ops import ELEMENTWISE, python
from towerdsl.passes.bounds import bounds
from towerdsl.passes.infer.scope import safe

#: Strength of binding of Python's operators; higher binds tighter.
CHOICE, OR, AND, NOT, COMPARE, BITOR, BITAND, SUM, PRODUCT, UNARY, POWER, ATOM = range(12)
STRENGTH = {
    "or": BITOR,
    "and": BITAND,
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), COMPARE),
    **dict.fromkeys("+-", SUM),
    **dict.fromkeys(("*", "/", "//", "%"), PRODUCT),
    "**": POWER,
}
MODULE_NAMES = {"torch", "nn", "F", "math", "self", "Tensor", "NamedTuple"}
#: An empty buffer of a class that has nothing else to read the model's dtype from: `model.half()` converts it too.
LIKE = "self.like"
MARK = re.compile("\x01([^\x02]*)\x02([^\x03]*)\x03")


def mark(value: object, hint: str) -> str:
    """A number that may become an argument of the class, with the name it would have."""
    return f"\x01{value}\x02{hint}\x03"


def unmark(text: str) -> str:
    """The text with the marks around its numbers removed."""
    return MARK.sub(lambda m: m[1], text)


def full(sizes: str, rank: int, number: str, device: str, dtype: str) -> str:
    """The code of a tensor full of one number."""
    plain = {"0": "zeros", "False": "zeros", "1": "ones", "True": "ones"}.get(unmark(number))
    if plain is not None and rank:
        return f"torch.{plain}({sizes}, device={device}, dtype={dtype})"
    return f"torch.full(({sizes}{',' if rank == 1 else ''}), {number}, device={device}, dtype={dtype})"


@dataclass
class Code:
    """A piece of Python and how strongly its outermost operator binds."""

    text: str
    strength: int = ATOM

    def at(self, strength: int) -> str:
        """The text, in parentheses if it binds less than `strength`."""
        return self.text if self.strength >= strength else f"({self.text})"

    @property
    def atom(self) -> str:
        return self.at(ATOM)


@dataclass
class Frame:
    block: n.BlockInstance
    optional: frozenset[str] = frozenset()  # parameters that may be None
    lines: list[str] = field(default_factory=list)
    depth: int = 0
    lengths: dict[str, str] = field(default_factory=dict)  # free name -> code that reads it
    needs: dict[str, str] = field(default_factory=dict)  # variable -> code, to stand first
    helpers: set[str] = field(default_factory=set)  # functions of towerdsl.runtime and the normalizers
    taken: set[str] = field(default_factory=set)
    shared: dict[int, str] = field(default_factory=dict)  # values computed once -> their variable
    positions: dict[tuple[str, str | None], str] = field(default_factory=dict)
    nested: bool = False  # whether a function inside the method is written: it assigns no variable of the method
    seen: str | None = None  # a function that sees the weights of an attention, and gives those that are used
    averaging: bool = False  # whether an attention's score, condition and message are written
    merged: dict[str, str] = field(default_factory=dict)  # modules without weights -> the one that serves for all
    device_from: str = ""
    dtype_from: str = ""
    products: dict[str, tuple[str, str]] = field(default_factory=dict)  # line of a batched product -> its operands

    def __post_init__(self) -> None:
        for name, kind in self.block.parameters:
            variable = self.variable(name)
            self.taken.add(variable)
            if not isinstance(kind, TensorType):
                self.device_from = self.device_from or variable
                continue
            if kind.scalar:
                self.lengths.setdefault(name, variable)
                continue
            if name in self.optional:
                continue
            self.device_from = self.device_from or variable
            if kind.dtype == "float" and not self.dtype_from:
                self.dtype_from = variable
            for dim, axis in enumerate(kind.axes):
                name_of = next(iter(axis.size.free_names), "")
                if axis.size == Size.free(name_of):
                    self.lengths.setdefault(name_of, f"{variable}.shape[{dim}]")
        if not self.dtype_from:
            anything = "next(self.parameters())" if parameter_shapes(self.block) else LIKE
            self.dtype_from = self._any_weight() or anything
        if not self.device_from:
            self.device_from = self.dtype_from

    def _any_weight(self) -> str | None:
        if self.block.weights:
            return f"self.{self.block.weights[0].name}"
        for name, slot in self.block.modules:
            if slot.result is not None and slot.result.parameters:
                return f"self.{name}.{slot.result.parameters[0][0]}"
        return None

    # --- statements and names ---------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    @contextmanager
    def function(self, header: str) -> Iterator[int]:
        """What is written inside is the body of a function; gives the number of its first line.

        What it computes once is not known outside."""
        before = dict(self.positions), dict(self.shared), "wide" in self.taken, self.nested
        self.line(header)
        self.depth += 1
        self.nested = True
        yield len(self.lines)
        self.depth -= 1
        self.positions, self.shared, wide, self.nested = before
        if not wide:
            self.taken.discard("wide")

    def variable(self, name: str) -> str:
        """The Python name of a variable of the spec."""
        return f"{name}_" if name in MODULE_NAMES else safe(name) if name != "self" else "self_"

    def fresh(self, name: str) -> str:
        """A variable name that is not in use."""
        base, number = name, 1
        while name in self.taken or name in MODULE_NAMES:
            number += 1
            name = f"{base}_{number}"
        self.taken.add(name)
        return name

    def assign(self, name: str, code: str) -> str:
        if name != code:
            self.line(f"{name} = {code}")
        return name

    def size(self, size: Size, hint: str = "size") -> str:
        """A length as Python: free ones become variables that are read first."""
        number = size.integer
        if number is not None:
            return mark(number, hint)

        def free(name: str) -> str:
            source = self.lengths.get(name, name)
            if source == self.variable(name):
                return source
            known = next((variable for variable, code in self.needs.items() if code == source), None)
            if known is None:  # a variable of the spec may have the name of the axis
                variable = self.variable(name)
                known = self.fresh(variable)
                self.needs[known] = source
            return known

        return size.render(free)

    def sizes(self, axes: Sequence[Axis]) -> str:
        return ", ".join(self.size(a.size, a.name or "size") for a in axes)

    @property
    def device(self) -> str:
        return f"{self.device_from}.device"

    @property
    def dtype(self) -> str:
        return f"{self.dtype_from}.dtype"

    @property
    def wide(self) -> str:
        """A variable that holds the dtype for what is computed from positions."""
        source = f"torch.promote_types({self.dtype}, torch.float32)"
        if self.dtype_from not in ("q", "v"):
            self.needs["wide"] = source
        elif "wide" not in self.taken:  # inside an attention: written where it is first needed
            self.taken.add("wide")
            self.line(f"wide = {source}")
        return "wide"

    def prelude(self) -> list[str]:
        """Statements that stand before all others: lengths that are used, and the dtype for positions."""
        rows: dict[str, list[str]] = {}
        found: list[str] = []
        for variable, source in self.needs.items():
            base, _, rest = source.partition(".shape[")
            if rest:
                rows.setdefault(base, []).append(variable)
            else:
                found.append(f"{variable} = {source}")
        for base, variables in rows.items():
            kind = {self.variable(name): kind for name, kind in self.block.parameters}[base]
            assert isinstance(kind, TensorType)
            dims = {v: int(self.needs[v].partition(".shape[")[2][:-1]) for v in variables}
            ordered = sorted(variables, key=dims.__getitem__)
            if len(ordered) == 1:
                found.append(f"{ordered[0]} = {self.needs[ordered[0]]}")
            else:
                names = {d: v for v, d in dims.items()}
                every = ", ".join(names.get(d, "_") for d in range(len(kind.axes)))
                found.append(f"{every} = {base}.shape")
        return found

    # --- expressions ------------------------------------------------------------------------------------------

    def code(self, value: n.Value) -> Code:
        method = getattr(self, f"_{type(value).__name__.lower()}")
        result: Code = method(value)
        return result

    def text(self, value: n.Value) -> str:
        return self.code(value).text

    def aligned(self, value: n.Value, axes: Sequence[Axis]) -> Code:
        """Code that broadcasts against a tensor with `axes`."""
        code = self.code(value)
        if value.type.scalar:
            return code
        pairwise = {"i", "j"} <= {a.side for a in value.axes}
        if pairwise and set(axes) - set(value.axes) and not code.text.isidentifier():
            found = self.spread(Code("x"), value.axes, axes)
            if "None" in found.text:  # it is put between other dims: name it first, so that the line can be read
                code = Code(self.assign(self.fresh(self._part_name(value)), code.text))
        return self.spread(code, value.axes, axes)

    def _part_name(self, value: n.Value) -> str:
        """A name for a part of a score or condition: `visible_h`, `offset_w`."""
        base = {"bool": "visible", "int": "offset"}.get(value.type.dtype, "term")
        names = {a.name for a in value.axes if a.side and a.name}
        several = any(self.several(a) for a in value.axes if a.side)
        return f"{base}_{names.pop()}" if several and len(names) == 1 else base

    def spread(self, code: Code, own: Sequence[Axis], axes: Sequence[Axis]) -> Code:
        """Reorder a tensor's axes like `axes`, with dims of length 1 for those that it lacks after its first."""
        order = [a for a in axes if a in own]
        code = self.permuted(code, own, order)
        if not order:
            return code
        first = next(k for k, a in enumerate(axes) if a in order)
        picks = [":" if a in order else "None" for a in axes[first:]]
        if "None" not in picks:
            return code
        return Code(f"{code.atom}[{', '.join(picks)}]")

    def permuted(self, code: Code, own: Sequence[Axis], order: Sequence[Axis]) -> Code:
        """The tensor with its axes in another order."""
        own, order = list(own), list(order)
        if own == order:
            return code
        dims: list[int] = []
        for axis in order:
            dims.append(next(k for k, a in enumerate(own) if a == axis and k not in dims))
        if dims == sorted(dims):
            return code
        moved = [k for k, d in enumerate(dims) if k != d]
        if len(moved) == 2:
            a, b = moved
            last = len(dims) - 1
            a_, b_ = (a - last - 1, b - last - 1) if b == last and a == last - 1 else (a, b)
            return Code(f"{code.atom}.transpose({a_}, {b_})")
        return Code(f"{code.atom}.permute({', '.join(map(str, dims))})")

    # Leaves

    def _const(self, value: n.Const) -> Code:
        return self.number(value.value)

    def number(self, number: float | int | bool) -> Code:
        if isinstance(number, bool):
            return Code(str(number))
        text = python(number)
        if isinstance(number, int) and number >= 0:
            known = [name for name, value in self.block.constants if value == number and value is not True]
            return Code(mark(number, known[0] if known else "size"))
        return Code(text, UNARY if number < 0 else ATOM)

    def _sizeof(self, value: n.SizeOf) -> Code:
        text = self.size(value.size)
        return Code(text, ATOM if text.isidentifier() or value.size.integer is not None else SUM)

    def _local(self, value: n.Local) -> Code:
        return Code(self.variable(value.name))

    def _weight(self, value: n.Weight) -> Code:
        return Code(".".join(("self", *value.path)))

    def _position(self, value: n.Position) -> Code:
        axis = value.axes[0]
        return Code(self.position_variable(axis))

    def position_variable(self, axis: Axis) -> str:
        """The variable that holds 0, 1, 2, ... along an axis of an attention."""
        base = axis.side or axis.name or "position"
        name = f"{axis.side}_{axis.name}" if axis.side and self.several(axis) else base
        key = (axis.side, axis.name)
        if key not in self.positions:
            variable = self.fresh(self.variable(name))
            self.positions[key] = variable
            hint = "heads" if name == "head" else axis.name or "size"
            self.line(f"{variable} = torch.arange({self.size(axis.size, hint)}, device={self.device})")
        return self.positions[key]

    @property
    def many_positions(self) -> bool:
        """Whether the query or the key of this attention has more than one position axis."""
        average = self.block.average
        return average is not None and max(len(average.positions), len(average.over)) > 1

    def several(self, axis: Axis) -> bool:
        """Whether the side of a position axis has others beside it."""
        average = self.block.average
        if average is None:
            return False
        return len(average.positions if axis.side == "i" else average.over) > 1

    def _range(self, value: n.Range) -> Code:
        size = self.size(value.axes[0].size, value.axes[0].name or "size")
        code = f"torch.arange({size}, device={self.device})"
        if not self.averaging or self._ranges[value.axes[0].size] < 2:
            return Code(code)
        key = ("range", size)
        if key not in self.positions:
            self.positions[key] = self.assign(self.fresh("index"), code)
        return Code(self.positions[key])

    @cached_property
    def _ranges(self) -> Counter[Size]:
        """How often the attention's formulas count up to each length; what is computed once counts once."""
        average = self.block.average
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
        function = "torch.zeros" if value.value == 0 else "torch.ones"
        dtype = "torch.bool" if value.type.dtype == "bool" else self.dtype
        return Code(f"{function}({self.sizes(value.axes)}, device={self.device}, dtype={dtype})")

    # Blocks

    def _blocks(self, value: n.Blocks) -> Code:
        arg, cuts = value.arg, value.cuts
        own = [c.query if value.side == "i" else c.key for c in cuts]
        of_side = [a for a in own if a is not None]
        if arg.axes and not any(a in arg.axes for a in of_side):  # a source, whose positions have no side yet
            of_side = [a.on("") for a in of_side]
        present = [a for a in arg.axes if a in of_side]
        first = min(arg.axes.index(a) for a in present)
        others = [a for a in arg.axes if a not in of_side]
        before = sum(a not in of_side for a in arg.axes[:first])
        order = [*others[:before], *of_side, *others[before:]]
        code = self.spread(self.code(arg), arg.axes, order)
        missing = [a for a in of_side if a not in present]
        if missing:
            head = next(k for k, a in enumerate(order) if a in arg.axes)
            sizes = [self.size(a.size, a.name or "size") if a in missing else "-1" for a in order[min(head, before) :]]
            code = Code(f"{code.atom}.expand({', '.join(['-1'] * min(head, before) + sizes)})")
        text = f"blocked({code.text}, {before}, {', '.join(self.cuts(cuts, value.side))})"
        if self.averaging and not code.text.isidentifier():
            return Code(self.assign(self.fresh(f"{value.side}_blocks"), text))
        return Code(text)

    def cuts(self, cuts: Sequence[n.Cut], side: str) -> list[str]:
        """How axes are cut, as the arguments of `blocked` say it, sizes first."""
        self.helpers.add("blocked")
        shown = [c for c in cuts if (c.query if side == "i" else c.key) is not None]
        sizes = ["None" if c.whole else self.size(c.size, "size") for c in shown]
        found = [f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"]
        extra = ["shift", *(["before", "after"] if side == "j" else [])]
        for name in extra:
            numbers = [getattr(c, name) for c in shown]
            if any(numbers):
                found.append(f"{name}=({', '.join(mark(x, name) for x in numbers)}{',' if len(shown) == 1 else ''})")
        if any(c.wraps and c.shift for c in shown):
            found.append("wrap=True")
        return found

    def _rows(self, value: n.Rows) -> Code:
        dim = value.arg.type.dim(value.axis)
        code = self.code(value.arg)
        if dim and dim == len(value.arg.axes) - 2:
            return Code(f"{code.atom}[..., {value.name}, :]")
        return Code(f"{code.atom}[{', '.join([':'] * dim + [value.name])}]")

    def _entry(self, value: n.Entry) -> Code:
        code = self.code(value.arg)
        return Code(f"{code.atom}[{', '.join(map(self.text, value.index))}]") if value.index else code

    def _place(self, value: n.Place) -> Code:
        side, cut = value.axes[0].side, value.cut
        axis = cut.query if side == "i" else cut.key
        assert axis is not None
        key = (f"place {side} {cut.length(side)} {cut.before}", axis.name)
        if key not in self.positions:
            name = f"{side}_{axis.name}" if self.several(axis) else side
            first = "" if side == "i" or not cut.before else f"{mark(-cut.before, 'before')}, "
            last = cut.length(side) - (cut.before if side == "j" else 0)
            counted = f"torch.arange({first}{self.size(last, axis.name or 'size')}, device={self.device})"
            cuts = [c for c in value.cuts if (c.query if side == "i" else c.key) is not None]
            if len(cuts) > 1:
                picks = ["None"] * len(cuts)
                picks[cuts.index(cut)] = ":"
                while picks[0] == "None":
                    picks.pop(0)
                sizes = ", ".join(self.size(c.length(side)) for c in cuts)
                spread = f"{counted}[{', '.join(picks)}]" if len(picks) > 1 else counted
                counted = f"{spread}.expand({sizes}).flatten()"
            variable = self.fresh(self.variable(name))
            self.positions[key] = variable
            self.line(f"{variable} = {counted}")
        return Code(self.positions[key])

    # Elementwise

    def _shared(self, value: n.Shared) -> Code:
        if value.key not in self.shared:
            text = self.text(value.arg)
            self.shared[value.key] = self.assign(self.fresh(self.variable(value.name)), text)
        return Code(self.shared[value.key])

    def _cast(self, value: n.Cast) -> Code:
        dtype = self.wide if value.type.dtype == "wide" else self.dtype
        return Code(f"{self.code(value.arg).atom}.to({dtype})")

    def _pointwise(self, value: n.Pointwise) -> Code:
        op, axes = value.op, value.axes
        if value.type.scalar:
            return self._scalar(value)
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
            left, right = (self.aligned(a, axes) for a in value.args)
            tight = strength + 1
            if op == "**":
                return Code(f"{left.at(ATOM)} ** {right.at(UNARY)}", POWER)
            left_text = left.at(tight if strength in (COMPARE,) else strength)
            return Code(f"{left_text} {symbol} {right.at(tight)}", strength)
        return self._function(value)

    def _added(self, value: n.Pointwise) -> Code | None:
        """`y + bias`, where y is the batched product of the line before and is read nowhere else: both in one."""
        line = self.lines[-1] if self.lines else ""
        product, bias = sorted(value.args, key=lambda x: not isinstance(x, n.Local))
        if line not in self.products or not isinstance(product, n.Local) or not line.startswith(f"{product.name} = "):
            return None
        if bias.type.scalar or bias.type.dtype != "float" or product.axes != value.axes:
            return None
        roots = [v for step in statements(self.block.body) for v in values(step)]
        roots += [r for r in self.block.results if isinstance(r, n.Value)]
        reads = sum(isinstance(v, n.Local) and v.name == product.name for root in roots for v in root.walk())
        code = self.aligned(bias, value.axes)
        if reads > 1 or self.lines[-1] != line:
            return None
        self.lines.pop()
        return Code(f"torch.baddbmm({code.text}, {', '.join(self.products[line])})")

    def _chosen(self, value: n.Pointwise) -> Code:
        """`where` with a condition that is one Python truth value."""
        test, *both = value.args
        condition = self.code(test)
        a, b = (self.aligned(v, value.axes) for v in both)
        alike = (value.type.dtype, set(value.axes))
        if all(not v.type.scalar and (v.type.dtype, set(v.axes)) == alike for v in both):
            return Code(f"{a.at(OR)} if {condition.at(OR)} else {b.text}", CHOICE)
        return Code(f"torch.where(torch.tensor({condition.text}, device={self.device}), {a.text}, {b.text})")

    def _function(self, value: n.Pointwise) -> Code:
        if value.op == "where" and value.args[0].type.scalar:
            return self._chosen(value)
        entry = ELEMENTWISE[value.op]
        tensors, options = list(value.args[: entry.arity]), value.args[entry.arity :]
        template = entry.code
        if entry.code_number is not None and any(a.type.scalar for a in tensors):
            tensors.sort(key=lambda a: a.type.scalar)
            template = entry.code_number
        elif entry.arity == 1 and entry.reads != "bool" and tensors[0].type.dtype == "bool":
            tensors[0] = n.Cast(TensorType("wide", tensors[0].axes), tensors[0].span, tensors[0])
        codes = [self.aligned(a, value.axes) for a in tensors]
        if value.op == "where" and value.type.dtype == "wide" and all(a.type.scalar for a in tensors[1:]):
            # of two Python numbers torch makes float32: the first says what is wanted
            codes[1] = Code(f"torch.tensor({codes[1].text}, dtype={self.wide}, device={self.device})")
        fields: dict[str, Any] = {}
        for (name, default), option in zip(entry.options, options, strict=True):
            fields[name] = self.text(option)
            if isinstance(option, n.Const) and option.value == default:  # torch has the same
                template = template.replace(f", {{{name}}}", "")
        if "{dtype}" in template:
            fields["dtype"] = self.wide if value.type.dtype == "wide" else self.dtype
        return Code(_filled(template, {str(k): c for k, c in enumerate(codes)}, fields))

    def _scalar(self, value: n.Pointwise) -> Code:
        """A number that is known only at run time."""
        if value.op == "neg":
            return Code(f"-{self.code(value.args[0]).at(UNARY)}", UNARY)
        if value.op == "not":
            return Code(f"not {self.code(value.args[0]).at(NOT)}", NOT)
        if value.op in ("and", "or"):
            strength = AND if value.op == "and" else OR
            return Code(f" {value.op} ".join(self.code(a).at(strength + 1) for a in value.args), strength)
        if value.op in STRENGTH:
            strength = STRENGTH[value.op]
            left, right = (self.code(a) for a in value.args)
            tight = ATOM if value.op == "**" else strength
            return Code(f"{left.at(tight)} {value.op} {right.at(strength + 1)}", strength)
        entry = ELEMENTWISE[value.op]
        codes = {str(k): self.code(a) for k, a in enumerate(value.args[: entry.arity])}
        options = zip(entry.options, value.args[entry.arity :], strict=True)
        fields = {name: self.text(o) for (name, _), o in options}
        if entry.scalar is not None:
            return Code(_filled(entry.scalar, codes, fields))
        tensor = {k: Code(f"torch.tensor({c.text}, dtype={self.wide})") for k, c in codes.items()}
        return Code(_filled(entry.code, tensor, fields))

    # Contractions, reductions, lookups

    def _dot(self, value: n.Dot) -> Code:
        left, right = value.left, value.right
        if isinstance(left, n.AtPairs) and isinstance(right, n.AtPairs):
            return self._pair_dot(value, left, right)
        if len(right.axes) == 2 and len(left.axes) >= 2 and value.axes == (*left.axes[:-1], right.axes[0]):
            return Code(f"F.linear({self.text(left)}, {self.text(right)})")
        for vector, other in ((right, left), (left, right)):
            if len(vector.axes) == 1 and value.axes == other.axes[:-1]:
                return Code(f"{self.code(other).at(PRODUCT)} @ {self.code(vector).at(UNARY)}", PRODUCT)
        letters = Letters(self.many_positions)
        a = letters.of(left.axes[:-1]) + "_"
        b = letters.of(right.axes[:-1]) + "_"
        contracted = letters.new(left.axes[-1], "d")
        a, b = a.replace("_", contracted), b.replace("_", contracted)
        pattern = f"{a},{b}->{letters.of(value.axes)}"
        return Code(f'torch.einsum("{pattern}", {self.text(left)}, {self.text(right)})')

    def _pair_dot(self, value: n.Dot, left: n.AtPairs, right: n.AtPairs) -> Code:
        """The dot product of a vector of the query and one of the key for each pair, neither of them written out."""
        (pair,) = {*left.axes} - {*left.arg.axes}
        lead = [a for a in value.axes if a != pair]
        codes = {}
        for operand in (left.arg, right.arg):
            position = next(a for a in operand.axes if a.side)
            codes[position.side] = self.aligned(operand, (*lead, position, operand.axes[-1]))
        self.helpers.add("pair_dot")
        code = Code(f"pair_dot({codes['i'].text}, {codes['j'].text}, {left.pairs})")
        return self.permuted(code, (*lead, pair), value.axes)

    def _reduce(self, value: n.Reduce) -> Code:
        dims = [value.arg.type.dim(a) for a in value.over]
        rank = len(value.arg.axes)
        shown = [d - rank if d == rank - 1 else d for d in dims]
        where = str(shown[0]) if len(shown) == 1 else f"({', '.join(map(str, shown))})"
        arg = value.arg
        return Code(f"{self.code(arg).atom}.{value.op}({where})")

    def _gather(self, value: n.Gather) -> Code:
        table = value.table
        index_axes = [a for a in value.axes if any(a in x.axes for x in value.indices)]
        lead, width = table.axes[: value.lead], len(value.indices)
        looked_up = table.axes[value.lead : value.lead + width]
        plain = [a for a in lead if a not in index_axes]
        advanced = [a for a in lead if a in index_axes]
        rest = table.axes[value.lead + width :]
        inner = table.arg if isinstance(table, n.Rename) else table
        code = (
            self.permuted(self.code(inner), inner.axes, [*plain, *advanced, *looked_up, *rest])
            if _distinct(inner.axes)
            else self.code(inner)
        )
        picks = [":"] * len(plain)
        for a in advanced:
            arange = Code(f"torch.arange({self.size(a.size, a.name or 'size')}, device={self.device})")
            picks.append(self.spread(arange, [a], index_axes).text)
        for axis, index in zip(looked_up, value.indices, strict=True):
            picks.append(self._inside(index, axis, index_axes))
        return Code(f"{code.atom}[{', '.join(picks)}]")

    def _inside(self, index: n.Value, axis: Axis, axes: Sequence[Axis]) -> str:
        """Code of an index, kept inside the table."""
        low, high = bounds(index)
        last = axis.size - 1
        code = self.aligned(index, axes)
        if index.type.dtype == "bool" and not index.type.scalar:
            code = Code(f"{code.atom}.long()")
        size = self.size(last, "last")
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
        self.helpers.add("adjacency")
        ends = [self.size(a.size, "size") for a in value.axes]
        return Code(f"adjacency({self.variable(value.relation)}, {ends[0]}, {ends[1]})")

    def _atpairs(self, value: n.AtPairs) -> Code:
        arg, pairs = value.arg, value.pairs
        indices = [f"{pairs}.query" if a.side == "i" else f"{pairs}.key" for a in arg.axes if a.side]
        if isinstance(arg, n.Position):
            return Code(indices[0])
        if isinstance(arg, n.Member):
            self.helpers.add("related")
            edges = self.variable(arg.relation)
            return Code(f"related({edges if arg.axes[0].side == 'j' else f'{edges}.flip(0)'}, {pairs})")
        dim = next(k for k, a in enumerate(arg.axes) if a.side)
        if len(indices) == 1:
            self.helpers.add("entries")
            where = "" if dim == len(arg.axes) - 1 else f", {dim - len(arg.axes)}"
            return Code(f"entries({self.text(arg)}, {indices[0]}{where})")
        others = [a for a in arg.axes if not a.side]
        both = [a for a in arg.axes if a.side]
        code = self.permuted(self.code(arg), arg.axes, [*others[:dim], *both, *others[dim:]])
        picks = [":"] * dim + indices
        return Code(f"{code.atom}[{', '.join(picks)}]")

    def _pick(self, value: n.Pick) -> Code:
        dim = value.arg.type.dim(value.axis)

        def end(at: Size | n.Value | None) -> str:
            return "" if at is None else self.text(at) if isinstance(at, n.Value) else self.size(at, "position")

        inside = f"{end(value.start)}:{end(value.stop)}" if value.is_range else end(value.start)
        picks = [":"] * dim + [inside]
        if dim > 1 and dim == len(value.arg.axes) - 1:
            picks = ["...", inside]
        return Code(f"{self.code(value.arg).atom}[{', '.join(picks)}]")

    def _rename(self, value: n.Rename) -> Code:
        return (
            self.permuted(self.code(value.arg), value.arg.axes, value.axes)
            if set(value.axes) == set(value.arg.axes) and _distinct(value.axes)
            else self.code(value.arg)
        )

    # Calls

    def _apply(self, value: n.Apply) -> Code:
        before = value.args[0] if value.args else None
        if isinstance(before, n.Apply) and before.module and value.module and value.result.behind:
            name, function = value.result.behind
            if before.op.name == name:
                self.helpers.add(function)
                modules = f"{self.module(before.module)}, {self.module(value.module)}"
                return Code(f"{function}({self.text(before.args[0])}, {modules})")
        names: list[str] = []
        for name in value.op.tensors:
            if name.endswith("..."):
                base = name.removesuffix("...")
                names += [f"{base}{k}" for k in range(len(value.args) - len(value.op.tensors) + 1)]
            else:
                names.append(name)
        codes = {name: self.code(a) for name, a in zip(names, value.args, strict=True)}
        if value.module is not None:
            codes["self"] = Code(self.module(value.module))
        self.helpers |= set(value.result.helpers)
        fields = {key: python(v, lambda s: self.size(s, "size")) for key, v in value.result.attrs}
        text = _filled(value.result.call, codes, fields)
        bare = value.result.call.strip("{}") in codes
        return codes[value.result.call.strip("{}")] if bare else Code(text)

    def module(self, reference: n.ModuleRef) -> str:
        if reference.name in self.merged:
            return f"self.{self.merged[reference.name]}"
        return f"self.{reference.name}" + "".join(f"[{index}]" for index in reference.indices)

    def _callblock(self, value: n.CallBlock) -> Code:
        args = [self.variable(a.name) if isinstance(a, n.Relation) else self.text(a) for a in value.args]
        return Code(f"{self.module(value.module)}({', '.join(args)})")


def _filled(template: str, codes: dict[str, Code], fields: dict[str, Any]) -> str:
    """A template with its fields replaced; an operand before `.` or `[` is put in parentheses if it needs them."""

    def replace(match: re.Match[str]) -> str:
        name, after = match[1], match[2]
        if name in codes:
            return (codes[name].atom if after else codes[name].text) + after
        return f"{fields[name]}{after}"

    return re.sub(r"\{(\w+)\}([.\[]?)", replace, template)


def _distinct(axes: Sequence[Axis]) -> bool:
    return len(set(axes)) == len(axes)


class Letters:
    """Einsum letters for axes: `i` and `j` for one position axis each, `h`, `w` and `H`, `W` for several."""

    def __init__(self, several: bool) -> None:
        self.several = several
        self.known: dict[Axis, str] = {}
        self.used: set[str] = set()

    def new(self, axis: Axis, wish: str | None = None) -> str:
        """A letter for an axis, the one that is wished for if it is free."""
        name = (axis.name or "d").lower()
        if wish is None:
            if axis.side and self.several:
                wish = name[0].upper() if axis.side == "j" else name[0]
            else:
                wish = axis.side or ("g" if self.several and name == "head" else name[0])
        for letter in (wish, *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"):
            if letter not in self.used and letter.isalpha() and letter.isascii():
                self.used.add(letter)
                return letter
        raise AssertionError("more axes than letters")

    def of(self, axes: Sequence[Axis]) -> str:
        for axis in axes:
            if axis not in self.known:
                self.known[axis] = self.new(axis)
        return "".join(self.known[a] for a in axes)
