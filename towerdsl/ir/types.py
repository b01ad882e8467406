"""Axes and types.

An axis is a name and a size. Inside an attention an axis that both query and key have stands twice in a score:
once for the query's position (`side` "i") and once for the key's (`side` "j").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from towerdsl.ir.size import Size, SizeLimitError

#: Of one tensor; a product of two has a letter for each in einsum.
MAX_AXES = 24


@dataclass(frozen=True)
class Axis:
    name: str | None
    size: Size
    side: str = ""
    #: where the size comes from, for messages: "64 comes from d / heads, line 3"
    origin: str = field(default="", compare=False, repr=False)
    #: another name that means it: the `d` of `c = d`, or of `conv(x, d, 3)` that left its length as it was
    also: str | None = field(default=None, compare=False, repr=False)

    #: which it is of the axes of one tensor that nothing else tells apart, counted from the last
    nth: int = 0

    def __str__(self) -> str:
        if self.name is None:
            return str(self.size)
        return f"{self.side}.{self.name}" if self.side else self.name

    @property
    def shown(self) -> str:
        """The axis in a message: its name, and its length where the name does not say it."""
        length = self.size.integer
        return f"{self}={length}" if self.name is not None and length is not None else str(self)

    @property
    def detailed(self) -> str:
        """The axis with its length, also where that is computed: `h=h // 2`."""
        plain = self.name is None or self.size.is_free
        return str(self) if plain else f"{self}={self.size}"

    def same(self, other: Axis) -> bool:
        """Whether both are one axis by name."""
        return self.name is not None and self.name == other.name and self.side == other.side

    def called(self, name: str | None) -> bool:
        """Whether a name means this axis."""
        return name is not None and name in (self.name, self.also)

    def alike(self, other: Axis) -> bool:
        """Whether nothing but their places tells both apart."""
        return self == replace(other, nth=self.nth)

    def on(self, side: str) -> Axis:
        return replace(self, side=side)


@dataclass(frozen=True)
class TensorType:
    """`dtype` is "float", "int", "bool", or "wide": at least float32, see `passes.dtypes`.

    A `scalar` is a Python number at run time, and has no axes. No two axes are equal: those of one name and length, or
    without a name, are counted.
    """

    dtype: str
    axes: tuple[Axis, ...]
    scalar: bool = False

    def __post_init__(self) -> None:
        if len(self.axes) > MAX_AXES:
            raise SizeLimitError(f"a tensor has at most {MAX_AXES} axes, this has {len(self.axes)}")
        names = [a.name for a in self.axes]
        if len(set(names)) < len(names):
            object.__setattr__(self, "axes", apart(self.axes))

    def __str__(self) -> str:
        dtype = "float" if self.dtype == "wide" else self.dtype
        return f"{dtype}[{', '.join(a.shown for a in self.axes)}]"

    @property
    def shape(self) -> tuple[Size, ...]:
        return tuple(a.size for a in self.axes)

    def dim(self, axis: Axis) -> int:
        """The position of an axis. Raises StopIteration if it has none."""
        return next(n for n, a in enumerate(self.axes) if a == axis)

    def without(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        gone = list(axes)
        return tuple(a for a in self.axes if a not in gone)

    def with_axes(self, axes: Iterable[Axis]) -> TensorType:
        return TensorType(self.dtype, tuple(axes))

    def stacked(self, axis: Axis) -> TensorType:
        """The type of one such value for each position of `axis`, which stands before the last axis, or behind one."""
        dim = self.stacked_dim
        return self.with_axes((*self.axes[:dim], axis, *self.axes[dim:]))

    @property
    def stacked_dim(self) -> int:
        """The position of the new axis in `stacked`."""
        return max(len(self.axes) - 1, min(len(self.axes), 1))


@dataclass(frozen=True)
class RelationType:
    """A set of pairs (source, target), at run time an int64 tensor [2, edges]."""

    source: Axis
    target: Axis
    dtype: str = "relation"

    def __str__(self) -> str:
        return f"relation[{self.source.shown}, {self.target.shown}]"


Type = TensorType | RelationType


def apart(axes: Sequence[Axis], taken: Iterable[Axis] = ()) -> tuple[Axis, ...]:
    """The axes, each another one than those behind it and those that are `taken`."""
    found: list[Axis] = []
    known = set(taken)
    for axis in reversed(axes):
        while axis in known:
            axis = replace(axis, nth=axis.nth + 1)
        known.add(axis)
        found.append(axis)
    return tuple(reversed(found))


def named(axes: Iterable[Axis], name: str | None) -> Axis | None:
    """The axis that a name means: the first of that name, or the only one that is also called so."""
    every = [a for a in axes if a.called(name)]
    first = next((a for a in every if a.name == name), None)
    return first or (every[0] if len(every) == 1 else None)


def shown(axes: Iterable[Axis]) -> str:
    """Axes as a message writes them: `[b, n, d=16]`."""
    return f"[{', '.join(a.shown for a in axes)}]"
