"""Values that only kernels make --> Python: positions in blocks, rows of a turn, entries of one pair, listed pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from towerdsl.emit.code import Code, mark, permuted, spread
from towerdsl.emit.frame import Frame
from towerdsl.ir import nodes as n
from towerdsl.ir.placed import AtPairs, Blocks, Cut, Entry, Inside, Place, Rows
from towerdsl.ir.types import Axis


class PlacedWriter(ABC):
    """Writes such values, each by the method that is called after its class; `code` writes what they are made of."""

    frame: Frame

    @abstractmethod
    def code(self, value: n.Value) -> Code:
        """The code of a value."""

    @abstractmethod
    def aligned(self, value: n.Value, axes: Sequence[Axis]) -> Code:
        """Code that broadcasts against a tensor with `axes`."""

    def text(self, value: n.Value) -> str:
        return self.code(value).text

    # --- blocks -----------------------------------------------------------------------------------------------

    def _blocks(self, value: Blocks, name: str = "") -> Code:
        frame = self.frame
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
        code = spread(self.code(arg), arg.axes, order)
        missing = [a for a in of_side if a not in present]
        if missing:
            head = next(k for k, a in enumerate(order) if a in arg.axes)
            sizes = [frame.size(a.size, a.name or "size") if a in missing else "-1" for a in order[min(head, before) :]]
            code = Code(f"{code.atom}.expand({', '.join(['-1'] * min(head, before) + sizes)})")
        text = frame.call("blocked", [code.text, str(before), *self.cuts(cuts, value.side)])
        # what may be None is read only where it is not
        optional = any(isinstance(v, n.Local) and v.name in frame.optional for v in arg.walk())
        if frame.averaging and not optional and not code.text.isidentifier():
            return Code(frame.assign(frame.fresh(name or f"{value.side}_blocks"), text))
        return Code(text)

    def _inside(self, value: Inside) -> Code:
        frame = self.frame
        arguments = [self.lengths(value.cuts, value.side), *self.cuts(value.cuts, value.side)]
        text = frame.call("places_inside", [*arguments, f"device={frame.device}"])
        return Code(frame.assign(frame.fresh("inside"), text))

    def lengths(self, cuts: Sequence[Cut], side: str) -> str:
        """The lengths of the axes that are cut, as a tuple."""
        axes = [a for c in cuts if (a := c.query if side == "i" else c.key) is not None]
        return f"({self.frame.sizes(axes)}{',' if len(axes) == 1 else ''})"

    def cuts(self, cuts: Sequence[Cut], side: str) -> list[str]:
        """How axes are cut, as the arguments of `blocked`, `joined` and `places_inside` say it, sizes first."""
        shown = [c for c in cuts if (c.query if side == "i" else c.key) is not None]
        sizes = ["None" if c.whole else self.frame.size(c.size, "size") for c in shown]
        one = "," if len(shown) == 1 else ""
        found = [f"({', '.join(sizes)}{one})"]
        extra = ["shift", *(["before", "after"] if side == "j" else [])]
        for name in extra:
            numbers = [getattr(c, name) for c in shown]
            if any(numbers):
                found.append(f"{name}=({', '.join(mark(x, name) for x in numbers)}{one})")
        if any(c.wraps and c.shift for c in shown):
            found.append(f"wrap=({', '.join(str(c.wraps) for c in shown)}{one})")
        return found

    def _rows(self, value: Rows) -> Code:
        dim, name = value.arg.type.dim(value.axis), self.frame.variable(value.name)
        code = self.code(value.arg)
        if dim and dim == len(value.arg.axes) - 2:
            return Code(f"{code.atom}[..., {name}, :]")
        return Code(f"{code.atom}[{', '.join([':'] * dim + [name])}]")

    def _entry(self, value: Entry) -> Code:
        code = self.code(value.arg)
        return Code(f"{code.atom}[{', '.join(map(self.text, value.index))}]") if value.index else code

    def _place(self, value: Place) -> Code:
        frame = self.frame
        side, cut = value.axes[0].side, value.cut
        axis = cut.query if side == "i" else cut.key
        assert axis is not None
        key = (f"place {side} {cut.length(side)} {cut.before}", axis.name)
        if key not in frame.positions:
            name = f"{side}_{axis.name}" if frame.several(axis) else side
            first = "" if side == "i" or not cut.before else f"{mark(-cut.before, 'before')}, "
            last = cut.length(side) - (cut.before if side == "j" else 0)
            counted = f"torch.arange({first}{frame.size(last, axis.name or 'size')}, device={frame.device})"
            cuts = [c for c in value.cuts if (c.query if side == "i" else c.key) is not None]
            if len(cuts) > 1:
                picks = ["None"] * len(cuts)
                picks[cuts.index(cut)] = ":"
                while picks[0] == "None":
                    picks.pop(0)
                sizes = ", ".join(frame.size(c.length(side)) for c in cuts)
                counted = f"{counted}[{', '.join(picks)}]" if len(picks) > 1 else counted
                counted = f"{counted}.expand({sizes}).flatten()"
            variable = frame.fresh(name)
            frame.positions[key] = variable
            frame.line(f"{variable} = {counted}")
        return Code(frame.positions[key])

    # --- listed pairs -----------------------------------------------------------------------------------------

    def _atpairs(self, value: AtPairs) -> Code:
        frame = self.frame
        arg, pairs = value.arg, frame.variable(value.pairs)
        indices = [f"{pairs}.query" if a.side == "i" else f"{pairs}.key" for a in arg.axes if a.side]
        if isinstance(arg, n.Position):
            return Code(indices[0])
        if isinstance(arg, n.Member):
            edges = frame.variable(arg.relation)
            return Code(frame.call("related", [edges if arg.axes[0].side == "j" else f"{edges}.flip(0)", pairs]))
        dim = next(k for k, a in enumerate(arg.axes) if a.side)
        if len(indices) == 1:
            where = [] if dim == len(arg.axes) - 1 else [str(dim - len(arg.axes))]
            return Code(frame.call("entries", [self.text(arg), *indices, *where]))
        others = [a for a in arg.axes if not a.side]
        both = [a for a in arg.axes if a.side]
        code = permuted(self.code(arg), arg.axes, [*others[:dim], *both, *others[dim:]])
        picks = [":"] * dim + indices
        return Code(f"{code.atom}[{', '.join(picks)}]")

    def pair_dot(self, value: n.Dot, left: AtPairs, right: AtPairs) -> Code:
        """The dot product of a vector of the query and one of the key for each pair, neither of them written out."""
        (pair,) = {*left.axes} - {*left.arg.axes}
        lead = [a for a in value.axes if a != pair]
        codes = {}
        for operand in (left.arg, right.arg):
            position = next(a for a in operand.axes if a.side)
            codes[position.side] = self.aligned(operand, (*lead, position, operand.axes[-1]))
        code = Code(self.frame.call("pair_dot", [codes["i"].text, codes["j"].text, self.frame.variable(left.pairs)]))
        return permuted(code, (*lead, pair), value.axes)
