"""What a probe gives: the weights of each call of each attention, with the positions that they are about.

Legend: B batch, H heads, R rows (the queries that were asked for), K keys, E listed pairs of a query and a key.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import overload

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The positions of one side of an attention: the names and lengths of its axes. One position has no axes."""

    axes: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many positions there are."""
        return math.prod(self.sizes)

    def place(self, position: int) -> tuple[int, ...]:
        """The coordinates of a position that is counted along all axes, the last one fastest."""
        found = []
        for size in reversed(self.sizes):
            position, coordinate = divmod(position, size)
            found.append(coordinate)
        return tuple(reversed(found))

    def position(self, place: Sequence[int]) -> int:
        """The number of the position with these coordinates."""
        found = 0
        for size, coordinate in zip(self.sizes, place, strict=True):
            found = found * size + coordinate
        return found


@dataclass(repr=False)
class AttentionMap:
    """The weights of one attention in one call: y[i] = sum over j of w[i, j] * message[i, j].

    Dense, `weights` are [B, H, R, K]. Where pairs are listed (`query` and `key` are not None: the attention is over
    the edges of a graph), they are [B, H, E], and pair e is of the query `query[e]` and the key `key[e]`.
    Queries and keys are counted along all of their axes, in the coordinates of the spec: a pixel of a window has its
    place in the picture.
    """

    path: str  # the attention's module, as in `named_modules()`: "layer.0.attention"
    call: int  # which call of this module it is: hops and steps of a loop follow each other
    queries: Grid
    keys: Grid
    rows: Tensor  # int [R], the queries shown
    heads: tuple[int, ...]  # the numbers of the heads shown; () where there are no heads: then H is 1
    weights: Tensor
    query: Tensor | None = None  # int [E]
    key: Tensor | None = None  # int [E]
    gradient: Tensor | None = None  # of what was differentiated, by the weights; shaped like them
    score: str = ""  # the score as the spec spells it
    normalize: str = "softmax"
    kernel: str = ""  # the kernel that computed the average

    def __repr__(self) -> str:
        call = f", call {self.call}" if self.call else ""
        return f"AttentionMap({self.path}{call}: {self.normalize} of {self.score}, weights {list(self.weights.shape)})"

    @property
    def listed(self) -> bool:
        """Whether `weights` are those of listed pairs."""
        return self.query is not None

    def dense(self) -> Tensor:
        """The weights as [B, H, R, K], zeros for pairs that are not listed."""
        return self._dense(self.weights)

    def _dense(self, values: Tensor) -> Tensor:
        if self.query is None or self.key is None:
            return values
        found = values.new_zeros(*values.shape[:-1], self.queries.count, self.keys.count)
        found[..., self.query, self.key] = values
        return found[..., self.rows, :]

    def row(self, query: int | Sequence[int], head: int | None = None, batch: int = 0) -> Tensor:
        """The weights of one query on the grid of the keys, [*keys.sizes]; the mean over heads where none is named.

        Raises KeyError for a query or a head that is not in the map.
        """
        number = query if isinstance(query, int) else self.queries.position(query)
        found = (self.rows == number).nonzero().flatten()
        if not len(found):
            raise KeyError(f"query {query} is not among the rows of this map")
        if self.query is None or self.key is None:
            weights = self.weights[batch, :, int(found[0])]
        else:
            pairs = self.query == number
            weights = self.weights.new_zeros(self.weights.shape[1], self.keys.count)
            weights[:, self.key[pairs]] = self.weights[batch, :, pairs]
        chosen = weights.mean(0) if head is None else weights[self.head(head)]
        return chosen.reshape(self.keys.sizes)

    def head(self, number: int) -> int:
        """Where a head is along the dim of heads. Raises KeyError."""
        heads = self.heads or (0,)
        if number not in heads:
            raise KeyError(f"head {number} is not in this map: it has {', '.join(map(str, heads))}")
        return heads.index(number)


class Maps(Sequence[AttentionMap]):
    """Maps in the order in which the attentions were computed; by the name of a module, those of its calls."""

    def __init__(self, found: Sequence[AttentionMap] = ()) -> None:
        self._found = list(found)

    @overload
    def __getitem__(self, index: int) -> AttentionMap: ...
    @overload
    def __getitem__(self, index: slice | str) -> Maps: ...
    def __getitem__(self, index: int | slice | str) -> AttentionMap | Maps:
        """One map by its place; several by a slice, or by a pattern of module names (`"layer.*.attention"`)."""
        if isinstance(index, int):
            if not self._found:
                raise IndexError("there are no maps: call the model inside the `with` of its probe")
            return self._found[index]
        if isinstance(index, slice):
            return Maps(self._found[index])
        if not isinstance(index, str):
            raise TypeError(f"maps have numbers, or are found by a pattern of names; not by a {type(index).__name__}")
        found = Maps([m for m in self._found if fnmatchcase(m.path, index)])
        if not found:
            raise KeyError(f"no attention is called `{index}`; there are {', '.join(self.paths) or 'none'}")
        return found

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return "\n".join(["Maps of", *map(repr, self._found)]) if self._found else "Maps of nothing"

    def __iter__(self) -> Iterator[AttentionMap]:
        return iter(self._found)

    @property
    def paths(self) -> list[str]:
        """The modules whose attentions are here, in the order of their first calls."""
        return list(dict.fromkeys(m.path for m in self._found))

    def append(self, one: AttentionMap) -> None:
        """Add a map."""
        self._found.append(one)

    def stacked(self) -> Tensor:
        """The weights of maps that have the same positions and heads, as [map, B, H, R, K]."""
        return torch.stack([m.dense() for m in self._found])
