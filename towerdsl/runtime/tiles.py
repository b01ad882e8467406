"""The blocks of an attention: which queries and keys each has, what is added to its scores, and the scores.

Legend: N positions, S queries of a block, W keys of a block, T blocks; D features of keys and values. Masks and biases
are [..., T, S, W], with length 1 where they do not vary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from towerdsl.ops.normalizers import widened
from towerdsl.runtime.captured import readable


class Stack(NamedTuple):
    """Blocks that lie alike: `many` from the `first` on, of one entry of the batch; or, without one, a block of all."""

    first: int
    many: int = 1
    entry: tuple[int, ...] | None = None

    def part(self, x: Tensor, at: slice, step: int) -> Tensor:
        """[..., head, N, D] --> [block, head, W, D], a view: the positions of the first block, and of each other one
        `step` further. Without an entry it is [batch, head, W, D]."""
        if self.entry is None:
            return x[..., at, :].flatten(0, -4)
        width = at.stop - at.start
        places = x[self.entry].narrow(-2, at.start, (self.many - 1) * step + width)
        return places.unfold(-2, width, step).permute(1, 0, 3, 2)

    def own(self, x: Tensor) -> Tensor:
        """Of a mask or bias [..., head, T, S, W] what is about the entry: [head, T, S, W]."""
        if self.entry is None or x.ndim <= 4:
            return x
        lead = x.shape[:-4]
        return x[tuple(i if n > 1 else 0 for i, n in zip(self.entry[-len(lead) :], lead, strict=True))]


class Tiles:
    """All blocks of an attention."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        size: int,
        before: int | None,
        after: int | None,
        scale: float,
        bias: Tensor | None,
        masks: tuple[Tensor, ...],
    ) -> None:
        self.q, self.k, self.size, self.scale, self.bias, self.masks = q, k, size, scale, bias, masks
        self.before, self.after = before, after
        self.count = -(-q.shape[-2] // size)
        #: How many keys a block can have.
        self.width = k.shape[-2] if before is None or after is None else size + before + after
        self.known: tuple[tuple[int, ...], Tensor | None, Tensor | None] | None = None

    def ends(self, t: int) -> tuple[slice, slice, int]:
        """The queries and keys of block t, and the place of the first key among those the block could have."""
        start, end = t * self.size, min((t + 1) * self.size, self.q.shape[-2])
        length = self.k.shape[-2]
        if self.before is None or self.after is None:
            return slice(start, end), slice(0, length), 0
        low = min(max(start - self.before, 0), length)
        high = max(min(start + self.size + self.after, length), low)
        return slice(start, end), slice(low, high), low - (start - self.before)

    def shape(self, t: int) -> tuple[int, int, int]:
        """How many queries and keys block t has, and the place of its first key: blocks of one shape lie alike."""
        rows, columns, first = self.ends(t)
        return rows.stop - rows.start, columns.stop - columns.start, first

    def stacks(self, most: int) -> list[Stack]:
        """All blocks: of those that lie alike up to `most` of one entry of the batch, or one of all, whatever is
        more."""
        entries: list[tuple[int, ...]] = [()]
        for n in self.q.shape[:-3]:
            entries = [(*entry, i) for entry in entries for i in range(n)]
        found: list[Stack] = []
        start = 0
        while start < self.count:
            end = start + 1
            while end < self.count and self.shape(end) == self.shape(start):
                end += 1
            if min(end - start, most) < len(entries):
                found += [Stack(t) for t in range(start, end)]
            else:
                firsts = range(start, end, most)
                found += [Stack(t, min(most, end - t), entry) for entry in entries for t in firsts]
            start = end
        return found

    def whole(self) -> Tiles:
        """The same as one block, where every block has all keys."""
        if self.before is not None and self.after is not None:
            return self
        length = self.q.shape[-2]

        def joined(x: Tensor) -> Tensor:
            if x.shape[-3:-1].numel() == 1:
                return x
            x = x if x.ndim > 2 else x[None]
            rows = x.expand(*x.shape[:-3], self.count, self.size, -1).flatten(-3, -2)
            return rows.narrow(-2, 0, length).unsqueeze(-3)

        bias = None if self.bias is None else joined(self.bias)
        masks = tuple(joined(x) for x in self.masks)
        return Tiles(self.q, self.k, length, None, None, self.scale, bias, masks)

    def part(self, x: Tensor, stack: Stack) -> Tensor:
        """What a mask or bias [..., T, S, W] says of some blocks."""
        rows, columns, first = self.ends(stack.first)
        x = stack.own(x)
        if x.ndim > 2 and x.shape[-3] > 1:
            x = x[..., stack.first : stack.first + stack.many, :, :]
        if x.ndim > 1 and x.shape[-2] > 1:
            x = x[..., : rows.stop - rows.start, :]
        return x[..., first : first + columns.stop - columns.start] if x.ndim and x.shape[-1] > 1 else x

    def score(self, t: int) -> tuple[Tensor, Tensor | None, slice, slice]:
        """scale * q k^T + bias of block t, -inf where hidden; which rows are empty (None: none); queries and keys.

        Of halves they are float32. An empty row has scores of 0, so that its softmax is a number.
        """
        rows, columns, _ = self.ends(t)
        q, k = flat(self.q[..., rows, :]), flat(self.k[..., columns, :]).transpose(-1, -2)
        shape = (*self.q.shape[:-2], q.shape[-2], k.shape[-1])
        if not shape[-1]:
            return q.new_zeros(q.shape[0], shape[-2], 0), None, rows, columns
        added, empty = self.added(Stack(t))
        if added is None:
            return widened(torch.bmm(q * self.scale, k)), None, rows, columns
        if empty is not None:
            added = added.masked_fill(empty, 0.0)
            empty = flat(of_one_block(empty).expand(*shape[:-1], 1))
        added = of_one_block(added)
        if added.ndim > 2:
            added = flat(added.expand(shape))
        return widened(torch.baddbmm(added, q, k, alpha=self.scale)), empty, rows, columns

    def added(self, stack: Stack) -> tuple[Tensor | None, Tensor | None]:
        """What is added to the scores of some blocks, [..., T, S, W], and their empty rows; kept while they do not
        differ."""
        everything = (*self.masks, *([self.bias] if self.bias is not None else []))
        if not everything:
            return None, None
        one = stack.entry is None
        alike = all(x.ndim < 3 or (x.shape[-3] == 1 and (one or x.shape[:-4].numel() == 1)) for x in everything)
        place = (*self.shape(stack.first), one)
        if alike and self.known is not None and self.known[0] == place:
            return self.known[1:]
        shown = None
        for mask in self.masks:
            part = self.part(mask, stack)
            shown = part if shown is None else shown & part
        added = None if self.bias is None else self.part(self.bias, stack)
        empty = None
        if shown is not None:
            empty = ~shown.any(-1, keepdim=True)
            added = self.q.new_zeros(()) if added is None else added
            added = added.masked_fill(~shown, float("-inf"))
            if readable(empty) and not empty.any():
                empty = None
        self.known = place, added, empty
        return added, empty


def of_one_block(x: Tensor) -> Tensor:
    """[..., T, S, W] of one block --> [..., S, W]."""
    return x.squeeze(-3) if x.ndim > 2 else x


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """Their product, where one of them may be wider than halves."""
    return torch.bmm(a.to(b.dtype), b)


def flat(x: Tensor) -> Tensor:
    """[..., Q, D] --> [B, Q, D]."""
    return x.flatten(0, -3)


def heads_last(like: Tensor, features: int) -> Tensor:
    """An empty [..., head, Q, E] that lies in memory as [..., Q, head, E], so that merging heads copies nothing."""
    *lead, length, _ = like.shape
    return like.new_empty(*lead[:-1], length, lead[-1], features).transpose(-3, -2)
