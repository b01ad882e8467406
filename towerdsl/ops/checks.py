"""What rules ask of the arguments of a call: each raises OpError where it is not so."""

from __future__ import annotations

from typing import Any

from towerdsl.ir.operation import OpCall, SizeArg
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.ops.base import new_axis

_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def in_words(number: int) -> str:
    """A small number as a word, for messages."""
    return _WORDS[number] if number < len(_WORDS) else str(number)


def tensor_argument(call: OpCall, dtype: str | None = None, name: str = "x") -> TensorType:
    """A tensor argument, which must not be a Python number and must be of `dtype`, where that matters."""
    x: TensorType = call.tensors[name]
    if x.scalar:
        call.fail(
            "not-tensor",
            f"`{call.op.name}` needs a tensor; `{call.text(name)}` is a number",
            help="arithmetic and the elementwise functions work on numbers; this operation works on tensors",
            argument=name,
        )
    if dtype is not None and x.dtype != dtype:
        convert = f"write `{dtype}({call.text(name)})`" if dtype == "float" or x.dtype == "bool" else None
        call.fail(
            "dtype-mismatch",
            f"`{call.op.name}` reads {dtype}; `{call.text(name)}` is {x.dtype}",
            f"got {x}",
            help=convert or f"pass the ids themselves: an input of type `{dtype}[{', '.join(map(str, x.axes))}]`",
            argument=name,
        )
    return x


#: What helps where a tensor was meant.
NO_AXES = "a single number has no axes: name them where it is declared, as in `float[n, d]`"


def last_axis(call: OpCall, x: TensorType) -> Axis:
    """The last axis of a tensor argument. Raises OpError if it has none."""
    if not x.axes:
        call.fail(
            "axis-count",
            f"{call.op.name} works along the last axis; `{call.text('x')}` has no axes",
            help=NO_AXES,
            argument="x",
        )
    return x.axes[-1]


def known_length(call: OpCall, axis: Axis, what: str, help: str | None = None) -> int:
    """The length of an axis that weights are made for."""
    length = axis.size.integer
    if length is None:
        call.fail(
            "free-size",
            f"{call.op.name} needs {what} that is known when compiling; axis {axis} has a free length",
            f"got {call.x}",
            help=help or f"give the axis a size: a name from `sizes` in place of `{axis}` in the type of the input",
            argument="x",
        )
    return length


_ROLES = {"size": "size", "count": "count", "channels": "number of channels"}


def size_argument(call: OpCall, name: str) -> tuple[int, Axis]:
    """A size that is part of a module's weights, and the axis that it makes."""
    given = call.statics[name]
    if not isinstance(given, SizeArg):
        given = SizeArg(Size.of(given), None)
    op_name, text, role = call.op.name, call.text(name), _ROLES.get(name, name)
    constant = given.size.constant
    if constant is None:
        call.fail(
            "not-static",
            f"the length of `{given.name or given.size}` is known only at run time; "
            f"the {role} of {_a(op_name)} is part of its weights",
            f"{op_name} needs a number that is known when compiling",
            help=f"put a number in `sizes` and use its name, as in `sizes: {{{given.name or name}: 64}}`",
            argument=name,
        )
    if constant.denominator != 1:
        written = text if text != name else "this"
        call.fail(
            "not-integer",
            f"the {role} of `{op_name}` is a whole number; {written} is {float(constant):.4g}",
            help="use `//` to round down",
            argument=name,
        )
    if constant < 1:
        written = text if text not in (name, str(constant)) else "this"
        call.fail(
            "size-positive",
            f"a size is at least 1; {written} is {constant}",
            f"it is the {role} of `{op_name}`",
            help="check how it is computed",
            argument=name,
        )
    return int(constant), new_axis(given)


def in_range(
    call: OpCall, name: str, low: float | None = None, high: float | None = None, *, open_low: bool = False
) -> Any:
    """A number, or each of a tuple of numbers, that has to be in a range."""
    value = call.statics[name]
    for v in value if isinstance(value, tuple) else (value,):
        if (low is not None and (v < low or (open_low and v == low))) or (high is not None and v > high):
            if low is not None and high is not None:
                rule = f"between {low:g} and {high:g}"
            elif open_low:
                rule = f"above {low:g}"
            else:
                rule = f"at least {low:g}" if low is not None else f"at most {high:g}"
            call.fail(
                "value-range",
                f"`{name}` of {call.op.name} is {rule}, got {v:g}",
                help=f"use a number {rule}",
                argument=name,
            )
    return value


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" or noun == "lstm" else f"a {noun}"


TO_CHANNELS = 'give it a size in `sizes:`, or bring the channels to the second place: `rearrange(x, "b n d -> b d n")`'


def check_groups(call: OpCall, name: str, groups: int, channels: int, which: str = "channels") -> None:
    """A number of groups divides the channels."""
    if channels % groups:
        near = [g for g in range(max(1, groups - 100), min(channels, groups + 100) + 1) if channels % g == 0]
        near = sorted({1, *sorted(near, key=lambda g: abs(g - groups))[:3]})
        call.fail(
            "size-divide",
            f"{groups} groups do not divide {channels} {which}",
            f"expected a number of groups that divides {channels}",
            f"got {channels} / {groups} = {channels / groups:.4g}",
            help=f"{', '.join(map(str, near[:-1]))} and {near[-1]} divide it" if len(near) > 1 else "use 1",
            argument=name,
        )
