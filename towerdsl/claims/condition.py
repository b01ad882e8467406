"""Data that a condition reads, for every pair of i and j: tables are looked up entry by entry, pairs of a relation set
one by one, lengths are counted from the terms of sizes. Nothing here is shared with the emitter or with a kernel.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from towerdsl.budget import spend
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis
from towerdsl.ops import ELEMENTWISE

_OPERATORS: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a.double() / b.double(),
    "//": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "%": torch.remainder,
    "**": operator.pow,
    "neg": operator.neg,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "and": lambda a, b: a.bool() & b.bool(),
    "or": lambda a, b: a.bool() | b.bool(),
    "not": lambda a: ~a.bool(),
    "abs": torch.abs,
    "where": lambda c, a, b: torch.where(c.bool(), a, b),
}


def lookups(values: Iterable[n.Value]) -> list[n.Value]:
    """What values take from outside themselves, largest first: variables, learned tensors, and operations, whose own
    code is asked."""
    found: list[n.Value] = []
    for value in values:
        found += [value] if isinstance(value, (n.Apply, n.Local, n.Weight)) else lookups(value.operands)
    return list({id(x): x for x in found}.values())


@dataclass(frozen=True)
class Pairs:
    """Evaluates formulas of one attention; `known` are the values of what `lookups` names, by their id."""

    lengths: Mapping[str, int]
    relations: Mapping[str, Tensor]
    known: Mapping[int, Tensor]

    def length(self, size: Size) -> int:
        found = number(size, self.lengths)
        assert found.denominator == 1, f"the length {size} is {found}"
        return int(found)

    def aligned(self, value: n.Value, axes: Sequence[Axis]) -> Tensor:
        """The value with a dim for each of `axes`, of length 1 where it does not vary."""
        return spread(self.evaluate(value), value.axes, axes)

    def evaluate(self, value: n.Value) -> Tensor:
        """The value as a tensor with the dims of its axes."""
        if id(value) in self.known:
            return self.known[id(value)]
        found: Tensor = getattr(self, f"_{type(value).__name__.lower()}")(value)
        return found

    def _const(self, v: n.Const) -> Tensor:
        return torch.tensor(v.value, dtype=torch.float64 if isinstance(v.value, float) else None)

    def _sizeof(self, v: n.SizeOf) -> Tensor:
        return torch.tensor(self.length(v.size))

    def _position(self, v: n.Position | n.Range) -> Tensor:
        return torch.arange(self.length(v.axes[0].size))

    _range = _position

    def _fill(self, v: n.Fill) -> Tensor:
        return torch.full([self.length(a.size) for a in v.axes], v.value, dtype=torch.float64)

    def _shared(self, v: n.Shared) -> Tensor:
        return self.evaluate(v.arg)

    def _cast(self, v: n.Cast) -> Tensor:
        return self.evaluate(v.arg).double()

    def _rename(self, v: n.Rename) -> Tensor:
        found = self.evaluate(v.arg)
        if set(v.axes) == set(v.arg.axes) and len(set(v.axes)) == len(v.axes):
            return found.permute([v.arg.axes.index(a) for a in v.axes])
        return found

    def _pointwise(self, v: n.Pointwise) -> Tensor:
        entry = ELEMENTWISE.get(v.op)
        count = len(v.args) if entry is None else entry.arity
        args = [self.aligned(a, v.axes) for a in v.args[:count]]
        spend(50 + args[0].numel() // 100)
        if v.op in _OPERATORS:
            found: Tensor = _OPERATORS[v.op](*args)
            return found
        # every other function entry by entry, as Python's own numbers
        assert entry is not None and entry.static is not None, v.op
        options = {name: self.evaluate(o).item() for (name, _), o in zip(entry.options, v.args[count:], strict=True)}
        tables = torch.broadcast_tensors(*args)
        numbers = [entry.static(*x, **options) for x in zip(*(t.flatten().tolist() for t in tables), strict=True)]
        dtype = {"int": torch.long, "bool": torch.bool}.get(v.type.dtype, torch.float64)
        return torch.tensor(numbers, dtype=dtype).reshape(tables[0].shape)

    def _dot(self, v: n.Dot) -> Tensor:
        axes = (*v.axes, Axis("contracted", v.left.axes[-1].size))
        left, right = (spread(self.evaluate(x), (*x.axes[:-1], axes[-1]), axes) for x in (v.left, v.right))
        return (left * right).sum(-1)

    def _reduce(self, v: n.Reduce) -> Tensor:
        found = self.evaluate(v.arg)
        dims = [v.arg.type.dim(a) for a in v.over]
        function: Callable[..., Tensor] = getattr(torch, v.op)
        return function(found, dims)

    def _gather(self, v: n.Gather) -> Tensor:
        table = self.evaluate(v.table)
        width = v.lead + len(v.indices)
        places = []
        for dim, axis in enumerate(v.table.axes):
            own = torch.arange(table.shape[dim])
            if v.lead <= dim < width:  # an index outside reads the nearest entry
                index = v.indices[dim - v.lead]
                places.append(self.aligned(index, v.axes).long().clamp(0, table.shape[dim] - 1))
            else:
                places.append(spread(own, (axis,), v.axes))
        return table[tuple(places)]

    def _member(self, v: n.Member) -> Tensor:
        found = torch.zeros([self.length(a.size) for a in v.axes], dtype=torch.bool)
        for source, target in self.relations[v.relation].T.tolist():
            found[source, target] = True
        return found

    def _place(self, at: Size | n.Value | None) -> int | None:
        if isinstance(at, n.Value):
            return int(self.evaluate(at).item())
        return None if at is None else self.length(at)

    def _pick(self, v: n.Pick) -> Tensor:
        found, dim = self.evaluate(v.arg), v.arg.type.dim(v.axis)
        start, stop = (self._place(s) for s in (v.start, v.stop))
        if v.is_range:
            return found[(slice(None),) * dim + (slice(start, stop),)]
        assert start is not None
        return found.select(dim, start)


_OF_SIZES: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "//": lambda a, b: Fraction(a // b),
    "%": operator.mod,
    "min": min,
    "max": max,
}


def number(size: Size, lengths: Mapping[str, int]) -> Fraction:
    """A size as a number."""
    total = Fraction(0)
    for monomial, coefficient in size.terms:
        for atom, power in monomial:
            if atom.op == "free":
                factor = Fraction(lengths[atom.name])
            else:
                factor = _OF_SIZES[atom.op](*(number(x, lengths) for x in atom.args))
            coefficient *= factor**power
        total += coefficient
    return total


def heads_of(source: Tensor, axes: Sequence[Axis], lead: Sequence[Axis], moved: Sequence[Axis], roles: Roles) -> Tensor:
    """A query, key or value --> [its batch axes, head, positions, feature], each entry in its place."""
    others = [*(a for a in lead if a in axes), *moved]
    found = source.permute([*(list(axes).index(a) for a in (*others, *roles.features))]).flatten(len(others))
    if roles.heads is None:
        return found
    found = found.unflatten(-1, (roles.own_heads, -1)).movedim(-2, len(others) - len(moved))
    return found.repeat_interleave(roles.heads // roles.own_heads, len(others) - len(moved))


@dataclass(frozen=True)
class Roles:
    """How the features of one source are split: all heads, those that it has itself."""

    features: tuple[Axis, ...]
    heads: int | None
    own_heads: int = 1


def bind(parameters: Sequence[tuple[str, Any]], arguments: Mapping[str, Any]) -> dict[str, int]:
    """The free lengths of a block, from the tensors that are given to it."""
    found: dict[str, int] = {}
    for name, kind in parameters:
        given = arguments.get(name)
        if given is None or not hasattr(kind, "shape"):
            continue
        if kind.scalar:
            found[name] = int(given)
            continue
        for size, length in zip(kind.shape, given.shape, strict=True):
            if size.is_free:
                found[next(iter(size.free_names))] = length
    return found


def spread(found: Tensor, own: Sequence[Axis], axes: Sequence[Axis]) -> Tensor:
    """A tensor with the dims of its `own` axes --> one with a dim for each of `axes`, of length 1 where it has none."""
    if not own:
        return found.reshape([1] * len(axes))
    order = [a for a in axes if a in own]
    found = found.permute([list(own).index(a) for a in order])
    lengths = iter(found.shape)
    return found.reshape([next(lengths) if a in own else 1 for a in axes])


def volume(shape: Sequence[int]) -> int:
    """How many numbers a shape holds."""
    return reduce(operator.mul, shape, 1)
