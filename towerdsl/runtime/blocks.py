"""Axes cut in blocks, and joined again.

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
    wrap: tuple[bool, ...] = (),
) -> Tensor:
    """The dims from `dim` on, as many as there are sizes, cut in blocks: [..., block, place, ...].

    Block t of one dim begins at t * size - shift, and has `before` places more in front and `after` behind; outside
    stands the nearest position once more, so that what is finite for positions is finite there too. Where it wraps,
    the first block has the last places in front. A dim with size None is one block. Several dims are blocks of one
    list.
    """
    count = len(sizes)
    for k, size in enumerate(sizes):
        at = dim + 2 * k
        if size is None:
            x = x.unsqueeze(at)
            continue
        more, less, moved = before[k] if before else 0, after[k] if after else 0, shift[k] if shift else 0
        if wrap and wrap[k] and moved:
            x, moved = x.roll(moved, at), 0
        many = blocks_of(x.shape[at], size, moved)
        x = cut(x, at, many, size, moved + more, size + more + less)
    if count == 1:
        return x
    order = [*range(dim, dim + 2 * count, 2), *range(dim + 1, dim + 2 * count, 2)]
    x = x.permute(*range(dim), *order, *range(dim + 2 * count, x.ndim))
    return x.flatten(dim + count, dim + 2 * count - 1).flatten(dim, dim + count - 1)


def places_inside(
    lengths: tuple[int, ...],
    sizes: tuple[int | None, ...],
    before: tuple[int, ...] = (),
    after: tuple[int, ...] = (),
    shift: tuple[int, ...] = (),
    wrap: tuple[bool, ...] = (),
    *,
    device: torch.device,
) -> Tensor:
    """Which places of the blocks that `blocked` makes of dims of these lengths are positions: bool, [block, place]."""
    found = torch.ones(1, 1, dtype=torch.bool, device=device)
    for k, (length, size) in enumerate(zip(lengths, sizes, strict=True)):
        if size is None:
            there = torch.ones(1, length, dtype=torch.bool, device=device)
        else:
            more, less = before[k] if before else 0, after[k] if after else 0
            moved = shift[k] if shift and not (wrap and wrap[k]) else 0
            places = _places(blocks_of(length, size, moved), size, moved + more, size + more + less, device)
            there = (places >= 0) & (places < length)
        found = (found[:, None, :, None] & there[:, None, :]).flatten(2).flatten(0, 1)
    return found


def blocks_of(length: int, size: int, shift: int = 0) -> int:
    """How many blocks there are; recorded some more, a multiple of a rounded quotient, which is never 1: no length is
    known, but how a product divides."""
    if captured():
        return (length + 2 * size - 1) // (2 * size) * (3 if shift else 2)
    return (length + shift + size - 1) // size


def cut(x: Tensor, dim: int, count: int, size: int, front: int, width: int) -> Tensor:
    """[..., T, width, ...]: block t of `count` has the places from t * size - front on; the nearest where there are
    none."""
    length = x.shape[dim]
    if captured():  # a compiler knows no length, so nothing may depend on how it divides
        places = _places(count, size, front, width, x.device)
        places = places.clamp(0, length - 1)
        return torch.unflatten(x.index_select(dim, places.flatten()), dim, (count, width))  # as dense as it seems
    if not length:
        x = F.pad(x, (0, 0) * (x.ndim - 1 - dim) + (0, count * width), value=1.0)  # no position is the nearest
        return x.unflatten(dim, (count, width))
    total = (count - 1) * size + width
    ahead, behind = (min(max(more, 0), total) for more in (front, total - front - length))
    parts = [x.narrow(dim, max(-front, 0), total - ahead - behind)] if ahead + behind < total else []
    if ahead:
        parts.insert(0, _repeated(x, dim, 0, ahead))
    if behind:
        parts.append(_repeated(x, dim, length - 1, behind))
    x = torch.cat(parts, dim) if len(parts) > 1 else parts[0]
    return x.unfold(dim, width, size).movedim(-1, dim + 1)  # a view, also where blocks overlap


def _repeated(x: Tensor, dim: int, at: int, count: int) -> Tensor:
    """One position of a dim, `count` times."""
    return x.narrow(dim, at, 1).expand(*x.shape[:dim], count, *x.shape[dim + 1 :])


def _places(count: int, size: int, front: int, width: int, device: torch.device) -> Tensor:
    """The positions of the places of blocks, [T, width]."""
    blocks, places = torch.arange(count, device=device), torch.arange(width, device=device)
    return blocks[:, None] * size + places - front


def joined(
    x: Tensor,
    dim: int,
    sizes: tuple[int | None, ...],
    lengths: tuple[int, ...],
    shift: tuple[int, ...] = (),
    wrap: tuple[bool, ...] = (),
) -> Tensor:
    """The opposite of `blocked`: [..., block, place, ...] --> dims of these lengths."""
    count = len(sizes)
    wrap = wrap or (False,) * count
    moved = shift or (0,) * count
    starts = tuple(0 if around else m for m, around in zip(moved, wrap, strict=True))
    each = [n if s is None else s for n, s in zip(lengths, sizes, strict=True)]
    if count > 1:
        rows = zip(lengths, starts, sizes, strict=True)
        many = [1 if s is None else blocks_of(n, s, first) for n, first, s in rows]
        x = x.unflatten(dim + 1, each).unflatten(dim, many)
        order = [place for k in range(count) for place in (dim + k, dim + count + k)]
        x = x.permute(*range(dim), *order, *range(dim + 2 * count, x.ndim))
    for k, (length, first) in enumerate(zip(lengths, starts, strict=True)):
        x = x.flatten(dim + k, dim + k + 1)
        if sizes[k] is None:
            continue
        if captured():
            x = x.index_select(dim + k, torch.arange(first, first + length, device=x.device))
        elif x.shape[dim + k] != length:
            x = x.narrow(dim + k, first, length)
        if wrap[k] and moved[k]:
            x = x.roll(-moved[k], dim + k)
    return x
