"""Who sees whom, by the text of locality and mask: the parsed expression, operator by operator, for every pair.

What the compiler makes of the expression is not asked, but for data: what an index or an operation reads is taken from
the typed form. Positions are counted out, in whole numbers, and everything else is computed in float64.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from towerdsl.claims.condition import Pairs, number
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis
from towerdsl.lang import tree as t


def _power(a: Tensor, b: Tensor) -> Tensor:
    whole = not a.is_floating_point() and not b.is_floating_point() and bool((b >= 0).all())
    return a**b if whole else a.double() ** b.double()


def _unless_whole(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x) if x.is_floating_point() else x


_COMPARED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COMPUTED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a.double() / b.double(),
    "//": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "%": torch.remainder,
    "**": _power,
}
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "abs": torch.abs,
    "sign": torch.sign,
    "relu": lambda x: torch.where(x > 0, x, 0),
    "floor": _unless_whole(torch.floor),
    "round": _unless_whole(torch.round),
    "int": lambda x: _unless_whole(torch.trunc)(x).long(),
    "float": Tensor.double,
    "min": torch.minimum,
    "max": torch.maximum,
    "clip": lambda x, low, high: torch.minimum(torch.maximum(x, low), high),
    "where": lambda c, a, b: torch.where(c.bool(), a, b),
    **{name: getattr(torch, name) for name in ("exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid", "erf")},
}


class Reading:
    """One condition: which of its parts are data, and who sees whom where these are known."""

    def __init__(self, wording: n.Wording) -> None:
        self.expression, self.parts = wording.expression, wording.parts
        # of an argument that a definition uses more than once, one copy is typed
        copies = (e for e in _walk(self.expression) if isinstance(e, t.Once) and id(e.arg) in self.parts)
        self.once = {e.key: e.arg for e in copies}

    def numbers(self) -> Iterator[int]:
        """The whole numbers that it is made of."""
        for found in self.parts.values():
            if isinstance(found, int) and not isinstance(found, bool):
                yield abs(found)

    def data(self) -> Iterator[n.Value]:
        """What the condition takes from the typed form."""
        yield from self._data(self.expression)

    def _data(self, e: t.Expr) -> Iterator[n.Value]:
        operands = self._operands(e)
        if operands is not None:
            for x in operands:
                yield from self._data(x)
        elif isinstance(found := self.parts.get(id(e)), n.Value) and not _is_position(e):
            yield found

    def _operands(self, e: t.Expr) -> tuple[t.Expr, ...] | None:
        """What an expression is computed from; None where it is a name, a number, or data."""
        match e:
            case t.Once():
                return (self.once[e.key],)
            case t.Binary() | t.Unary() | t.Logic() | t.Not():
                return tuple(e.children())
            case t.Compare() if not any(isinstance(self.parts.get(id(x)), str) for x in e.operands):
                return e.operands
            case t.Cond():
                known = self.parts.get(id(e.test))  # of a choice that is made when compiling the other side has no type
                return (e.then if known else e.otherwise,) if isinstance(known, bool) else (e.test, e.then, e.otherwise)
            case t.Call(func=t.Name(id=name)) if name in _FUNCTIONS:
                found = self.parts.get(id(e))
                inner = n.plain(found) if isinstance(found, n.Value) else None
                if inner is None or (isinstance(inner, n.Pointwise) and inner.op == name):
                    return (*e.args, *(x for _, x in sorted(e.kwargs, key=lambda option: option[0] == "high")))
        return None

    def table(self, pairs: Pairs, axes: Sequence[Axis]) -> Tensor:
        """The condition over all of `axes`."""
        known: dict[int, Tensor] = {}

        def plain(value: Any) -> Tensor:
            """A number with a dim for each axis, so that it does not count as a Python number."""
            if isinstance(value, Size):
                found = number(value, pairs.lengths)
                value = int(found) if found.denominator == 1 else float(found)
            dtype = {bool: torch.bool, int: torch.long, float: torch.float64}[type(value)]
            return torch.tensor(value, dtype=dtype).reshape([1] * len(axes))

        def counted(axis: Axis) -> Tensor:
            dim = list(axes).index(axis)
            return torch.arange(pairs.length(axis.size)).reshape([-1 if k == dim else 1 for k in range(len(axes))])

        def position(e: t.Expr) -> Tensor:
            found = self.parts.get(id(e))
            if isinstance(e, t.Attribute) or (isinstance(e, t.Name) and e.id == "head"):
                return counted(found.axes[0]) if isinstance(found, n.Value) else plain(found or 0)
            assert isinstance(e, t.Name)
            total = plain(0)
            for axis in axes:
                if axis.side == e.id:
                    total = total * pairs.length(axis.size) + counted(axis)
            return total

        def value(e: t.Expr) -> Tensor:
            operands = self._operands(e)
            if isinstance(e, t.Once):
                if e.key not in known:
                    known[e.key] = value(self.once[e.key])
                return known[e.key]
            if operands is None:
                if _is_position(e):
                    return position(e)
                if isinstance(e, t.Number | t.Bool):
                    return plain(e.value)
                found = self.parts[id(e)]
                return pairs.aligned(found, axes) if isinstance(found, n.Value) else plain(found)
            found = [value(x) for x in operands]
            match e:
                case t.Logic():
                    return _every(found) if e.op == "and" else _some(found)
                case t.Not():
                    return ~found[0].bool()
                case t.Cond():
                    return found[0] if len(found) == 1 else _FUNCTIONS["where"](*found)
                case t.Compare():
                    links = zip(e.ops, found, found[1:], strict=False)
                    return _every([_COMPARED[op](a, b) for op, a, b in links])
                case t.Unary():
                    return -_counting(found[0])
                case t.Binary():
                    return _COMPUTED[e.op](*map(_counting, found))
                case t.Call(func=t.Name(id=name)):
                    return _FUNCTIONS[name](*(found if name == "where" else map(_counting, found)))
            raise AssertionError(type(e).__name__)

        return value(self.expression).bool().expand([pairs.length(a.size) for a in axes])


def _walk(e: t.Expr) -> Iterator[t.Expr]:
    yield e
    for child in e.children():
        yield from _walk(child)


def _is_position(e: t.Expr) -> bool:
    """`i`, `j`, `head`, `i.h`"""
    name = e.base if isinstance(e, t.Attribute) else e
    return isinstance(name, t.Name) and name.id in ("i", "j", "head")


def _counting(x: Tensor) -> Tensor:
    return x.long() if x.dtype == torch.bool else x


def _every(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*(x.bool() for x in parts))).all(0)


def _some(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*(x.bool() for x in parts))).any(0)
