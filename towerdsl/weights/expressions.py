"""One side of a checkpoint rule: an expression over names, each of whose operations can be undone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from towerdsl.diagnostics import Span
from towerdsl.weights.names import Name


@dataclass(frozen=True)
class Transpose:
    """`item` with two dims swapped, the last two if none are said."""

    item: Expr
    dims: tuple[int, int] = (-2, -1)
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        dims = "" if self.dims == (-2, -1) else f", dims={list(self.dims)}"
        return f"transpose({self.item}{dims})"


@dataclass(frozen=True)
class Concat:
    """`items` joined along `dim`. `parts` (left side only) are their lengths there, up to a common factor."""

    items: tuple[Expr, ...]
    dim: int = 0
    parts: tuple[int, ...] | None = None
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        parts = f", parts={list(self.parts)}" if self.parts else ""
        return f"concat({', '.join(map(str, self.items))}{_dim(self.dim)}{parts})"


@dataclass(frozen=True)
class Stack:
    """`item` for each value of the placeholder `over`, in order, along a new dim. `over` is "" until resolved."""

    item: Expr
    dim: int = 0
    over: str = ""
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"stack({self.item}{_dim(self.dim)}, over={self.over})"


@dataclass(frozen=True)
class Reshape:
    """`item` with its elements, in order, in another shape; one length may be -1."""

    item: Expr
    shape: tuple[int, ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"reshape({self.item}, {list(self.shape)})"


Expr: TypeAlias = Name | Transpose | Concat | Stack | Reshape


def _dim(dim: int) -> str:
    return f", dim={dim}" if dim else ""


def names_in(expr: Expr) -> Iterator[Name]:
    """The name patterns of an expression, left to right."""
    return (e for e in walk(expr) if isinstance(e, Name))


def variables(expr: Expr) -> dict[str, bool]:
    """The placeholders of an expression, and whether each stands for several parts."""
    result: dict[str, bool] = {}
    for name in names_in(expr):
        result.update(name.variables)
    return result


def walk(expr: Expr) -> Iterator[Expr]:
    """An expression and all below it."""
    yield expr
    if isinstance(expr, Concat):
        for item in expr.items:
            yield from walk(item)
    elif not isinstance(expr, Name):
        yield from walk(expr.item)
