"""The least and the largest number that a value can be, as far as its formula shows it, without any tensor."""

from __future__ import annotations

import math
from collections.abc import Callable

from towerdsl.ir import nodes as n
from towerdsl.ir.placed import Blocks, Place, Rows

Bound = float | None
Bounds = tuple[Bound, Bound]

#: Functions of any number, with a range that no operand can leave.
_RANGES: dict[str, Bounds] = {
    "exp": (0.0, None),
    "sqrt": (0.0, None),
    "rsqrt": (0.0, None),
    "softplus": (0.0, None),
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "erf": (-1.0, 1.0),
    "sin": (-1.0, 1.0),
    "cos": (-1.0, 1.0),
    "sign": (-1.0, 1.0),
    "gelu": (-0.17, None),
    "gelu_tanh": (-0.171, None),
    "silu": (-0.279, None),
}


def bounds(value: n.Value) -> Bounds:
    """(low, high) of every entry; None where there is no bound, or none that is easy to see."""
    if value.type.dtype == "bool" and not isinstance(value, n.Const):
        return 0.0, 1.0
    match value:
        case n.Const():
            return float(value.value), float(value.value)
        case n.Fill():
            return value.value, value.value
        case n.Position() | n.Range():
            size = value.axes[0].size.integer
            return 0.0, None if size is None else float(size - 1)
        case Place():
            last = value.cut.length(value.axes[0].side).integer
            before = value.cut.before if value.axes[0].side == "j" else 0
            return -float(before), None if last is None else float(last - before - 1)
        case Blocks() | Rows() | n.Rename() | n.Shared() | n.Cast() | n.Pick():
            return bounds(value.arg)
        case n.Gather():
            return bounds(value.table)
        case n.Reduce():
            low, high = bounds(value.arg)
            if value.op != "sum":
                return low, high
            return 0.0 if low is not None and low >= 0 else None, 0.0 if high is not None and high <= 0 else None
        case n.Dot():
            return (0.0 if _positive(bounds(value.left)) and _positive(bounds(value.right)) else None), None
        case n.Pointwise():
            return _pointwise(value)
    return None, None


#: What exp gives of more than this is no number in float32.
_LARGEST = 80.0


def is_finite(value: n.Value) -> bool:
    """Whether a function of finite numbers is finite for sure, and whole numbers are not divided by 0."""
    if not isinstance(value, n.Pointwise):
        return True
    (low, high), *others = map(bounds, value.args)
    match value.op:
        case "/" | "//" | "%":
            least, greatest = others[0]
            return (least is not None and least > 0) or (greatest is not None and greatest < 0)
        case "log" | "rsqrt":
            return low is not None and low > 0
        case "sqrt":
            return low is not None and low >= 0
        case "exp":
            return high is not None and high <= _LARGEST
        case "**":
            least, greatest = others[0]
            if least is None or least < 0:
                return False
            below_one = low is not None and low >= 0 and high is not None and high <= 1
            return below_one or (least == greatest and least % 1 == 0)
    return True


def _positive(found: Bounds) -> bool:
    return found[0] is not None and found[0] >= 0


def _both(x: Bound, y: Bound, how: Callable[[float, float], float]) -> Bound:
    return None if x is None or y is None else how(x, y)


def _pointwise(value: n.Pointwise) -> Bounds:
    args = [bounds(a) for a in value.args]
    (a, b), (c, d) = args[0], args[1] if len(args) > 1 else (None, None)
    match value.op:
        case "+":
            return _both(a, c, lambda x, y: x + y), _both(b, d, lambda x, y: x + y)
        case "-":
            return _both(a, d, lambda x, y: x - y), _both(b, c, lambda x, y: x - y)
        case "neg":
            return (None if b is None else -b), (None if a is None else -a)
        case "*":
            return _product(value, args[0], args[1])
        case "/" if c is not None and c >= 0 and a is not None and a >= 0:
            return 0.0, b / c if b is not None and c > 0 else None
        case "**" if c is not None and c == d and c % 2 == 0:
            return 0.0, None
        case "**" if a is not None and a >= 0:
            return 0.0, None
        case "abs":
            return 0.0, None if a is None or b is None else max(abs(a), abs(b))
        case "relu":
            return max(a or 0.0, 0.0), None if b is None else max(b, 0.0)
        case "leaky_relu" if a is not None and a >= 0:
            return a, b
        case "elu":
            return (a if a is not None and a >= 0 else _both(-1.0, abs(args[1][0] or 0.0), lambda x, y: x * y)), None
        case "clip":
            return args[1][0], args[2][1]
        case "min":
            known = [x for x in (b, d) if x is not None]
            return _both(a, c, min), min(known) if known else None
        case "max":
            known = [x for x in (a, c) if x is not None]
            return max(known) if known else None, _both(b, d, max)
        case "where":
            return _both(args[1][0], args[2][0], min), _both(args[1][1], args[2][1], max)
        case "%" if c is not None and c == d and c > 0:
            return 0.0, c - 1 if value.type.dtype == "int" else c
        case "//" if c is not None and c == d and c > 0:
            return (None if a is None else a // c), (None if b is None else b // c)
        case "float":
            return a, b
        case "floor":
            return (None if a is None else math.floor(a)), (None if b is None else math.floor(b))
    return _RANGES.get(value.op, (None, None))


def _product(value: n.Pointwise, left: Bounds, right: Bounds) -> Bounds:
    (a, b), (c, d) = left, right
    if None not in (a, b, c, d):
        ends = [x * y for x in (a, b) for y in (c, d) if x is not None and y is not None]
        return min(ends), max(ends)
    if value.args[0] == value.args[1]:
        return 0.0, None
    if _positive(left) and _positive(right):
        return 0.0, _both(b, d, lambda x, y: x * y)
    return None, None
