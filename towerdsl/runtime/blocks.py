"""Axes cut in blocks, and softmax attention that goes through blocks of queries.

Legend: T blocks, S queries of a block, W keys of a block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from towerdsl.runtime.captured import captured


def blocked(
    x: Tensor,
    dim: int,
    sizes: tuple[int | None, ...],
    before: tuple[int, ...] = (),
    after: tuple[int, ...] = (),
    shift: tuple[int, ...] = (),
    wrap: bool = False,
) -> Tensor:
    """The dims from `dim` on, as many as there are sizes, cut in blocks: [..., block, place, ...].

    Block t of one dim begins at t * size - shift, and has `before` places more in front and `after` behind; what is
    outside is zero. With `wrap`, the first block has the last places in front. A dim with size None is one block.
    Several dims are blocks of one list.
    """
    count = len(sizes)
    for k, size in enumerate(sizes):
        at = dim + 2 * k
        more, less, moved = before[k] if before else 0, after[k] if after else 0, shift[k] if shift else 0
        if size is None:
            x = x.unsqueeze(at)
            continue
        if wrap and moved:
            x, moved = x.roll(moved, at), 0
        many = blocks_of(x.shape[at], size, moved)
        x = cut(x, at, many, size, moved + more, size + more + less)
    if count == 1:
        return x
    order = [*range(dim, dim + 2 * count, 2), *range(dim + 1, dim + 2 * count, 2)]
    x = x.permute(*range(dim), *order, *range(dim + 2 * count, x.ndim))
    return x.flatten(dim + count, dim + 2 * count - 1).flatten(dim, dim + count - 1)


def blocks_of(length: int, size: int, shift: int = 0) -> int:
    """How many blocks there are; recorded some more, a multiple of a rounded quotient, which is never 1: no length is
    known, but how a product divides."""
    if captured():
        return (length + 2 * size - 1) // (2 * size) * (3 if shift else 2)
    return (length + shift + size - 1) // size


def cut(x: Tensor, dim: int, count: int, size: int, front: int, width: int) -> Tensor:
    """[..., T, width, ...]: block t of `count` has the places from t * size - front on; zeros where there are none."""
    length = x.shape[dim]
    if captured():  # a compiler knows no length, so nothing may depend on how it divides
        blocks, places = torch.arange(count, device=x.device), torch.arange(width, device=x.device)
        places = blocks[:, None] * size + places - front
        there = (places >= 0) & (places < length)
        x = x[(slice(None),) * dim + (places.clamp(0, length - 1),)]
        return x.where(there[(..., *(None,) * (x.ndim - 2 - dim))], x.new_zeros(()))
    back = (count - 1) * size + width - front - length
    if front or back:
        x = F.pad(x, (0, 0) * (x.ndim - 1 - dim) + (front, back))
    return x.unfold(dim, width, size).movedim(-1, dim + 1)  # a view, also where blocks overlap


def joined(
    x: Tensor,
    dim: int,
    sizes: tuple[int | None, ...],
    lengths: tuple[int, ...],
    shift: tuple[int, ...] = (),
    wrap: bool = False,
) -> Tensor:
    """The opposite of `blocked`: [..., block, place, ...] --> dims of these lengths."""
    count = len(sizes)
    moved = shift or (0,) * count
    each = [n if s is None else s for n, s in zip(lengths, sizes, strict=True)]
    if count > 1:
        rows = zip(lengths, moved, sizes, strict=True)
        many = [1 if s is None else blocks_of(n, s, 0 if wrap else m) for n, m, s in rows]
        x = x.unflatten(dim + 1, each).unflatten(dim, many)
        order = [place for k in range(count) for place in (dim + k, dim + count + k)]
        x = x.permute(*range(dim), *order, *range(dim + 2 * count, x.ndim))
    for k, (length, first) in enumerate(zip(lengths, moved, strict=True)):
        x = x.flatten(dim + k, dim + k + 1)
        if sizes[k] is None:
            continue
        if wrap:
            x = x.roll(-first, dim + k) if first else x
        elif captured():
            x = x.index_select(dim + k, torch.arange(first, first + length, device=x.device))
        elif x.shape[dim + k] != length:
            x = x.narrow(dim + k, first, length)
    return x
