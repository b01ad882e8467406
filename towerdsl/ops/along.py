"""Operations along one axis: each has an `axis` argument, and takes the last one without."""

from __future__ import annotations

from towerdsl.ir.operation import Move, OpCall, OpResult
from towerdsl.ir.reach import DENSE, Comb, Reach, unknown
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType, shown
from towerdsl.ops.base import dim_code, op, staying
from towerdsl.ops.checks import in_range, last_axis, tensor_argument


def _along(call: OpCall, x: TensorType) -> int:
    """The dim of the `axis` argument, as code writes it; the last one if none is named."""
    return dim_code(x, _place(call, x))


def _place(call: OpCall, x: TensorType) -> int:
    axis: Axis | None = call.statics.get("axis")
    if axis is None:
        return x.axes.index(last_axis(call, x))
    found = [i for i, a in enumerate(x.axes) if a == axis] or [i for i, a in enumerate(x.axes) if a.same(axis)]
    if not found:
        call.fail(
            "unknown-axis",
            f"`{axis}` is not an axis of {call.text('x')} {shown(x.axes)}",
            help=f"name one of {shown(x.axes)}" if x.axes else None,
            argument="axis",
        )
    return found[-1]


def _moving(call: OpCall, x: TensorType, reach: Reach) -> tuple[Move, ...]:
    dim = _along(call, x) % len(x.axes)
    return staying(x, Move(dim, dim, reach))


@op("softmax", statics="axis:axis=none")
def softmax(call: OpCall) -> OpResult:
    """exp(x) / sum of exp(x) along an axis."""
    x = tensor_argument(call, "float")
    return OpResult(x, f"{{x}}.softmax({_along(call, x)})", moves=_moving(call, x, DENSE))


@op("cumsum", statics="axis:axis=none")
def cumsum(call: OpCall) -> OpResult:
    """Sums of the first 1, 2, 3, ... entries along an axis."""
    x = tensor_argument(call)
    dtype = "int" if x.dtype == "bool" else x.dtype
    return OpResult(
        TensorType(dtype, x.axes),
        f"{{x}}.cumsum({_along(call, x)})",
        moves=_moving(call, x, Reach((Comb(Size.of(0), None),), features=True)),
    )


@op("argmax", statics="axis:axis=none")
def argmax(call: OpCall) -> OpResult:
    """The position of the largest entry along an axis, the first of equal ones; no gradient passes it."""
    x = tensor_argument(call, None if call.x.dtype == "int" else "float")
    dim = _place(call, x)
    moves = [Move(k, k - (k > dim), None) if k != dim else Move(k, None, DENSE) for k in range(len(x.axes))]
    kind = TensorType("int", (*x.axes[:dim], *x.axes[dim + 1 :]))
    return OpResult(kind, f"{{x}}.argmax({dim_code(x, dim)})", moves=tuple(moves))


@op("largest", statics="k:int axis:axis=none")
def largest(call: OpCall) -> OpResult:
    """Whether an entry is one of the k largest along an axis, of equal ones any; no gradient passes it."""
    x = tensor_argument(call, None if call.x.dtype == "int" else "float")
    k = in_range(call, "k", 1)
    dim = _along(call, x)
    length = x.axes[dim].size.integer
    if length is not None and k > length:
        message = f"`largest` picks {k} entries, and the axis {x.axes[dim].shown} has {length}"
        call.fail("value-range", message, help=f"`k` is at most {length}", argument="k")
    many = "{k}" if length is not None else f"min({{k}}, {{x}}.shape[{dim}])"
    code = f"torch.zeros_like({{x}}, dtype=torch.bool).scatter({dim}, {{x}}.topk({many}, {dim}).indices, True)"
    return OpResult(TensorType("bool", x.axes), code, attrs=(("k", k),), moves=_moving(call, x, DENSE))


@op("flip", statics="axis:axis=none")
def flip(call: OpCall) -> OpResult:
    """The entries along an axis in the opposite order."""
    x = tensor_argument(call)
    dim = _along(call, x) % len(x.axes)
    return OpResult(x, f"{{x}}.flip({_along(call, x)})", moves=staying(x, Move(dim, dim, flipped=True)))


@op("roll", statics="shift:int axis:axis=none")
def roll(call: OpCall) -> OpResult:
    """The entries along an axis moved by `shift`; those that fall off one end come in at the other."""
    x = tensor_argument(call)
    return OpResult(
        x,
        f"{{x}}.roll({{shift}}, {_along(call, x)})",
        attrs=(("shift", call.statics["shift"]),),
        moves=_moving(call, x, unknown("positions come in at the other end")),
    )
