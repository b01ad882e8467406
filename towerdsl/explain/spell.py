"""Typed values as text, in the language's own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.lang.words import ATOM, LEVELS
from towerdsl.ops import python

ZERO = Size.of(0)
LONGEST = 500


def static_text(value: Any) -> str:
    """A static value as the language writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return f"[{', '.join(map(static_text, value))}]"
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else python(value)


def short(number: float) -> str:
    """A number with the digits that a reader needs: 0.08839 for 0.08838834764831845."""
    text = f"{number:.4g}"
    return text if float(text) != number or "e" in text else python(number)


def axis_text(name: str | None, size: Size) -> str:
    """`n`, `d=768`, or `768` for an axis without a name."""
    return str(size) if name is None or name == str(size) else f"{name}={size}"


class Speller:
    """Writes typed values as the language would, with lengths of the model's own."""

    def __init__(self, average: n.Average | None, lengths: Mapping[str, Size]) -> None:
        self.lengths = lengths
        self._known: dict[int, tuple[str, int]] = {}
        self.several = average is not None and max(len(average.positions), len(average.over)) > 1

    def size(self, size: Size) -> str:
        return str(size.substitute(self.lengths))

    def type(self, kind: TensorType) -> str:
        axes = ", ".join(axis_text(a.name, a.size.substitute(self.lengths)) for a in kind.axes)
        return f"{'float' if kind.dtype == 'wide' else kind.dtype}[{axes}]"

    def name(self, axis: Axis) -> str:
        if axis.side:
            return f"{axis.side}.{axis.name}" if self.several and axis.name else axis.side
        return axis.name or self.size(axis.size)

    def band(self, query: Axis, key: Axis, low: Size | None, high: Size | None) -> str:
        i, j = self.name(query), self.name(key)
        if low is not None and high is not None and low == high:
            return f"{i} - {j} == {self.size(low)}" if low != ZERO else f"{i} == {j}"
        if low == ZERO and high is None:
            return f"{j} <= {i}"
        if high == ZERO and low is None:
            return f"{i} <= {j}"
        if low is not None and high is not None and low == -high:
            return f"abs({i} - {j}) < {self.size(high + 1)}"
        before = "" if low is None else f"{self.size(low)} <= "
        after = "" if high is None else f" <= {self.size(high)}"
        return f"{before}{i} - {j}{after}"

    def text(self, value: n.Value) -> str:
        return self._code(value)[0]

    def factor(self, value: n.Value) -> str:
        """A value as an operand behind `*`."""
        return self._inside(value, LEVELS["*"] + 1)

    def _inside(self, value: n.Value, level: int) -> str:
        text, own = self._code(value)
        return text if own >= level else f"({text})"

    def _list(self, values: Iterable[n.Value]) -> str:
        return ", ".join(self.text(v) for v in values)

    def _code(self, value: n.Value) -> tuple[str, int]:
        """The text, and how tightly its outermost operation binds; `...` where it is longer than anyone reads."""
        if id(value) not in self._known:
            text, level = self._written(value)
            self._known[id(value)] = (text, level) if len(text) <= LONGEST else ("...", ATOM)
        return self._known[id(value)]

    def _written(self, value: n.Value) -> tuple[str, int]:
        match value:
            case n.Const():
                text = static_text(value.value)
                return text, LEVELS["neg"] if text.startswith("-") else ATOM
            case n.SizeOf():
                text = self.size(value.size)
                return text, ATOM if text.isidentifier() or text.isdigit() else 0
            case n.Local():
                return value.name, ATOM
            case n.Weight():
                return ".".join(value.path), ATOM
            case n.Position():
                return self.name(value.axes[0]), ATOM
            case n.Range():
                return f"range({self.name(value.axes[0])})", ATOM
            case n.Fill():
                return python(value.value), ATOM
            case n.Rename():
                sided = [self.name(a) for a in value.axes if a.side and a not in value.arg.axes]
                if not sided:
                    return self._code(value.arg)
                return f"{self._inside(value.arg, ATOM)}[{', '.join(sided)}]", ATOM
            case n.Cast() | n.Shared():
                return self._code(value.arg)
            case n.Pointwise():
                return self._pointwise(value)
            case n.Dot():
                return f"dot({self.text(value.left)}, {self.text(value.right)})", ATOM
            case n.Reduce():
                last = value.over == value.arg.axes[-1:]
                names = "" if last else f", [{', '.join(map(self.name, value.over))}]"
                return f"{value.op}({self.text(value.arg)}{names})", ATOM
            case n.Gather():
                return f"{self._inside(value.table, ATOM)}[{self._list(value.indices)}]", ATOM
            case n.Member():
                return f"{value.relation}[{', '.join(map(self.name, value.axes))}]", ATOM
            case n.Pick():
                at = value.start
                start = "" if at is None else self.size(at) if isinstance(at, Size) else self.text(at)
                stop = "" if value.stop is None else self.size(value.stop)
                part = f"{start}:{stop}" if value.is_range else start
                return f"{self._inside(value.arg, ATOM)}[{self.name(value.axis)}={part}]", ATOM
            case n.Apply():
                return f"{value.op.name}({self._list(value.args)})", ATOM
            case n.CallBlock():
                return f"{value.block.name}({self._list(value.operands)})", ATOM
        return type(value).__name__.lower(), ATOM

    def _pointwise(self, value: n.Pointwise) -> tuple[str, int]:
        level = LEVELS.get(value.op)
        if level is None:
            return f"{value.op}({self._list(value.args)})", ATOM
        if value.op == "neg":
            return f"-{self._inside(value.args[0], level)}", level
        if value.op == "not":
            return f"not {self._inside(value.args[0], level)}", level
        last = n.plain(value.args[-1])
        if value.op == "+" and len(value.args) == 2 and isinstance(last, n.Pointwise) and last.op == "neg":
            return f"{self._inside(value.args[0], level)} - {self._inside(last.args[0], level + 1)}", level
        parts = [self._inside(value.args[0], level + (value.op == "**" or level == 4))]
        parts += [self._inside(x, level + (level not in (1, 2))) for x in value.args[1:]]
        return f" {value.op} ".join(parts), level
