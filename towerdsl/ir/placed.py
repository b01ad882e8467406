"""Values of some positions or pairs: in blocks, in a part of an axis, at listed pairs, of one pair.

No spec has them; whoever computes an attention makes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from towerdsl.ir.nodes import Value
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis


@dataclass(frozen=True)
class Cut:
    """How positions along one axis are cut in blocks of `size`.

    Block t has the queries from t * size - shift on, and the keys from `before` places before its first query to
    `after` places behind its last. One side may be absent. A `whole` axis is one block. Where it `wraps`, the first
    block has the last queries in front, so that all blocks are full. What is outside is padding: the nearest position
    once more.
    """

    query: Axis | None
    key: Axis | None
    size: Size
    before: int = 0
    after: int = 0
    shift: int = 0
    whole: bool = False
    wraps: bool = False

    @property
    def count(self) -> Size:
        """How many blocks there are."""
        axis = self.query or self.key
        assert axis is not None
        if self.whole:
            return Size.of(1)
        return axis.size.opaque("//", self.size) if self.wraps else _rounded_up(axis.size + self.shift, self.size)

    def length(self, side: str) -> Size:
        """How many queries (side "i") or keys ("j") a block has."""
        axis = self.query if side == "i" else self.key
        if axis is None:
            return Size.of(1)
        return axis.size if self.whole else self.size + (0 if side == "i" else self.before + self.after)


def _rounded_up(size: Size, by: Size) -> Size:
    return (size + by - 1).opaque("//", by)


@dataclass(frozen=True)
class Blocks(Value):
    """`arg` with the axes of one side cut in blocks: [..., block, place, ...] stands where the first of them stood."""

    arg: Value
    cuts: tuple[Cut, ...]
    side: str  # of the positions that the places are: "i" or "j"


@dataclass(frozen=True)
class Inside(Value):
    """Which places of blocks are positions of one side, and no padding: bool, [block, place]."""

    cuts: tuple[Cut, ...]
    side: str


@dataclass(frozen=True)
class Place(Value):
    """Where a position is along one axis, counted from the first query of its block; its axis is all places."""

    cuts: tuple[Cut, ...]
    cut: Cut


@dataclass(frozen=True)
class Rows(Value):
    """The part of `arg` along one axis that the variable `name` says; in its type the axis has another length."""

    arg: Value
    axis: Axis
    name: str


@dataclass(frozen=True)
class AtPairs(Value):
    """A value at listed pairs: along an axis of pairs, which stands for those of the query and the key, each pair's
    entry. `pairs` is the variable that holds the list."""

    arg: Value
    pairs: str


@dataclass(frozen=True)
class Entry(Value):
    """One entry of `arg`, with an index for each of its axes: what it is for one pair of a query and a key."""

    arg: Value
    index: tuple[Value, ...]
