"""Axes cut in blocks, and softmax attention that goes through blocks of queries.

Legend: T blocks, S queries of a block, W keys of a block.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def blocks(
    x: Tensor,
    dim: int,
    sizes: tuple[int, ...],
    before: tuple[int, ...] = (),
    after: tuple[int, ...] = (),
    shift: tuple[int, ...] = (),
    wrap: bool = False,
) -> Tensor:
    """The dims from `dim` on, as many as there are sizes, cut in blocks: [..., block, place, ...].

    Block t of one dim begins at t * size - shift, and has `before` places more in front and `after` behind; what is
    outside is zero. With `wrap`, the first block has the last places in front. Several dims are blocks of one list.
    """
    count = len(sizes)
    for k, size in enumerate(sizes):
        at = dim + 2 * k
        more, less, moved = before[k] if before else 0, after[k] if after else 0, shift[k] if shift else 0
        if wrap and moved:
            x, moved = x.roll(moved, at), 0
        length = x.shape[at]
        many = (length + moved + size - 1) // size
        front, back = moved + more, many * size - moved - length + less
        if front or back:
            x = F.pad(x, (0, 0) * (x.ndim - 1 - at) + (front, back))
        # overlapping blocks are views
        x = x.unfold(at, size + more + less, size).movedim(-1, at + 1) if more or less else x.unflatten(at, (-1, size))
    if count == 1:
        return x
    order = [*range(dim, dim + 2 * count, 2), *range(dim + 1, dim + 2 * count, 2)]
    x = x.permute(*range(dim), *order, *range(dim + 2 * count, x.ndim))
    return x.flatten(dim + count, dim + 2 * count - 1).flatten(dim, dim + count - 1)


def joined(
    x: Tensor,
    dim: int,
    sizes: tuple[int, ...],
    lengths: tuple[int, ...],
    shift: tuple[int, ...] = (),
    wrap: bool = False,
) -> Tensor:
    """The opposite of `blocks`: [..., block, place, ...] --> dims of these lengths."""
    count = len(sizes)
    moved = shift or (0,) * count
    many = [n // s if wrap else (n + m + s - 1) // s for n, m, s in zip(lengths, moved, sizes, strict=True)]
    if count > 1:
        x = x.unflatten(dim + 1, sizes).unflatten(dim, many)
        order = [place for k in range(count) for place in (dim + k, dim + count + k)]
        x = x.permute(*range(dim), *order, *range(dim + 2 * count, x.ndim))
    for k, (length, first) in enumerate(zip(lengths, moved, strict=True)):
        x = x.flatten(dim + k, dim + k + 1)
        if wrap:
            x = x.roll(-first, dim + k) if first else x
        elif x.shape[dim + k] != length:
            x = x.narrow(dim + k, first, length)
    return x
