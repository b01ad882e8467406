"""Blocks of a softmax attention by torch's fused kernel for CPUs, many in one call.

A call is one loop that all threads share, over blocks and heads. Where other programs use the cores too, a loop waits
for a thread that has lost its core; a call for each step of each block waits in every one.

Legend: S queries of a block, W keys of a block, D features of keys and values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from towerdsl.ops.normalizers import widened
from towerdsl.runtime.captured import readable
from towerdsl.runtime.tiles import Stack, Tiles, heads_last, of_one_block

#: The most numbers of one tensor that a call makes: it stays in the cache until its blocks are where they belong.
TOGETHER = 2**22
#: The most blocks of a call.
STACKED = 16


def fusable(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel takes them: keys and values have as many features, and there are some of all."""
    return q.shape[-1] == v.shape[-1] and q.numel() > 0 and k.numel() > 0


def fused_attention(tiles: Tiles, v: Tensor) -> tuple[Tensor, Tensor]:
    """The average of all blocks, [..., Q, D], and the log-sum-exp of each query; zeros and -inf without keys."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    tiles = tiles.whole()
    size = tiles.size
    q, k, v = dense_features(tiles.q), dense_features(tiles.k), dense_features(v)
    y = heads_last(q, q.shape[-1])
    sums = widened(q.new_empty(q.shape[:-1]))
    for stack in tiles.stacks(blocks_of_a_call(tiles, tiles.size)):
        rows, columns, _ = tiles.ends(stack.first)
        of_y, of_sums = stack.part(y, rows, size), stack.part(sums[..., None], rows, size).squeeze(-1)
        if columns.start == columns.stop:
            of_y.zero_()
            of_sums.fill_(float("-inf"))
            continue
        mask, empty = added_to_scores(tiles, stack)
        tensors = (stack.part(q, rows, size), stack.part(k, columns, size), stack.part(v, columns, size))
        found, found_sums = kernel(*tensors, attn_mask=mask, scale=tiles.scale)
        of_y.copy_(found)
        of_sums.copy_(found_sums if empty is None else found_sums.masked_fill(empty, float("-inf")))
    return y, sums


def fused_gradients(tiles: Tiles, v: Tensor, y: Tensor, sums: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, those of k and v as wide as they add up."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    tiles = tiles.whole()
    size = tiles.size
    q, k, v, grad_y = dense_features(tiles.q), dense_features(tiles.k), dense_features(v), dense_features(grad_y)
    sums = sums.masked_fill(sums == float("-inf"), 0.0)  # the weights of an empty row are exp(-inf - 0)
    grad_q = heads_last(q, q.shape[-1])
    grad_k, grad_v = (widened(heads_last(x, x.shape[-1])).zero_() for x in (k, v))  # blocks add up in them
    for stack in tiles.stacks(blocks_of_a_call(tiles, tiles.width)):
        rows, columns, _ = tiles.ends(stack.first)
        if columns.start == columns.stop:
            stack.part(grad_q, rows, size).zero_()
            continue
        mask, _ = added_to_scores(tiles, stack)
        grad, of_q = stack.part(grad_y, rows, size), stack.part(q, rows, size)
        of_k, of_v = stack.part(k, columns, size), stack.part(v, columns, size)
        found = stack.part(y, rows, size), stack.part(sums[..., None], rows, size).squeeze(-1)
        of_q, *others = kernel(grad, of_q, of_k, of_v, *found, 0.0, False, attn_mask=mask, scale=tiles.scale)
        stack.part(grad_q, rows, size).copy_(of_q)
        for total, part in zip((grad_k, grad_v), others, strict=True):
            width = part.shape[-2]
            step = size if stack.many > 1 else width  # the keys of neighbors overlap, those of a step do not
            for first in range(0, width, step):
                end = min(first + step, width)
                at = slice(columns.start + first, columns.start + end)
                stack.part(total, at, step).add_(part[..., first:end, :])
    return grad_q, grad_k, grad_v


def blocks_of_a_call(tiles: Tiles, positions: int) -> int:
    """How many blocks are computed in one call, with so many positions in what it makes of each."""
    *_, heads, _, width = tiles.q.shape
    numbers = positions * width
    for x in (*tiles.masks, tiles.bias):
        if x is not None and x.ndim > 2 and x.shape[-3] > 1:  # each block has its own
            numbers = max(numbers, tiles.size * tiles.width)
    return max(1, min(STACKED, TOGETHER // (numbers * heads)))


def added_to_scores(tiles: Tiles, stack: Stack) -> tuple[Tensor | None, Tensor | None]:
    """What is added to the scores of blocks as the kernel takes it, [block, head, S, W], and which rows are empty,
    [block, head, S]."""
    mask, empty = tiles.added(stack)
    rows, columns, _ = tiles.shape(stack.first)

    def laid_out(x: Tensor, width: int) -> Tensor:
        if stack.entry is None:
            return of_one_block(x).expand(*tiles.q.shape[:-2], rows, width).flatten(0, -4)
        return x.expand(tiles.q.shape[-3], stack.many, rows, width).transpose(0, 1)

    if mask is not None:
        mask = laid_out(dense_features(mask.expand(*mask.shape[:-1], columns)) if mask.ndim else mask, columns)
    return mask, None if empty is None else laid_out(empty, 1).squeeze(-1)


def dense_features(x: Tensor) -> Tensor:
    """The same with its last axis dense in memory, which the kernel does not ask for but assumes."""
    return x if x.stride(-1) == 1 else x.contiguous()


def with_sums(y: Tensor, grad_y: Tensor, grad_sums: Tensor) -> Tensor | None:
    """An average with which the kernel's gradients are also those of the log-sum-exp; None where there is none.

    The kernel reads y in one term, sum(grad * y) of a row, and the gradient of the log-sum-exp is one to subtract
    from it: so is a multiple of grad from y. A row without grad has no such multiple.
    """
    wide = torch.promote_types(y.dtype, torch.float32)
    norm = torch.linalg.vector_norm(grad_y, dim=-1, keepdim=True, dtype=wide)
    less = grad_sums.unsqueeze(-1) / norm / norm
    less = less.masked_fill(grad_sums.unsqueeze(-1) == 0, 0.0)
    if not readable(less) or not less.isfinite().all():
        return None
    return torch.addcmul(y.to(wide), grad_y.to(wide), less, value=-1).to(y.dtype)
