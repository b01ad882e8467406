"""The vocabulary: every operation as data, and `register_op` to add your own."""

from __future__ import annotations

import keyword
from collections.abc import Callable

from towerdsl.ir.operation import Op, OpCall, OpError, OpResult, SizeArg, python
from towerdsl.ops import along, concat, conv, layers, rearrange
from towerdsl.ops.base import OPS, new_axis, op
from towerdsl.ops.elementwise import ELEMENTWISE, Elementwise

__all__ = [
    "BUILT_IN",
    "ELEMENTWISE",
    "OPS",
    "Elementwise",
    "Op",
    "OpCall",
    "OpError",
    "OpResult",
    "SizeArg",
    "along",
    "concat",
    "conv",
    "layers",
    "new_axis",
    "python",
    "rearrange",
    "register_op",
]

#: operations that the compiler itself knows
BUILT_IN = frozenset({"amax", "amin", "dot", "mean", "ones", "outer", "range", "sum", "zeros"})


def register_op(
    name: str,
    tensors: str = "x",
    statics: str = "",
    *,
    imports: tuple[str, ...] = (),
    extra_statics: bool = False,
    weights: bool = False,
) -> Callable[[Callable[[OpCall], OpResult]], Callable[[OpCall], OpResult]]:
    """Add an operation to the language, in this process.

        @towerdsl.register_op("scale", tensors="x", statics="by:float=2.0")
        def scale(call):
            return OpResult(call.x, "torch.mul({x}, {by})", attrs=(("by", call.statics["by"]),))

    `tensors` names the tensor arguments, separated by spaces; one that ends in `...` takes one or more. `statics` lists
    the others as `name:kind` or `name:kind=default`, with the kinds size, int, ints, float, floats, bool, axis, axes
    and text. `weights` is true for one whose module has weights, which then get a name. A name that the language has
    already is refused.
    """
    for argument, text in {"name": name, "tensors": tensors, "statics": statics}.items():
        if not isinstance(text, str):
            raise ValueError(f"`{argument}` of an operation is a text, not {text!r:.60}")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"an operation's name is a Python identifier, got {name!r}")
    if name in OPS or name in ELEMENTWISE or name in BUILT_IN:
        raise ValueError(f"the operation `{name}` exists already; choose another name")
    return op(name, tensors, statics, imports=imports, extra_statics=extra_statics, weights=weights)
