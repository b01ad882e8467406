"""Softmax attention that goes through blocks of queries, each with the keys that it can see.

Legend: B all leading axes (batch, heads) as one, Q queries, K keys, S queries of a block, W keys of a block, D and E
features of keys and values; T blocks. Masks and biases are [..., T, S, W], with length 1 where they do not vary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from towerdsl.ops.normalizers import widened
from towerdsl.runtime.blocks import blocked, joined, places_inside
from towerdsl.runtime.captured import captured, plain
from towerdsl.runtime.dtypes import alike
from towerdsl.runtime.fused import fusable, fused_attention, fused_gradients, with_sums
from towerdsl.runtime.tiles import Stack, Tiles, bmm, flat, heads_last


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: int,
    before: int | None = None,
    after: int | None = None,
    visible: tuple[Tensor | None, ...] = (),
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(scale * q k^T + bias) v over the visible keys, in memory linear in Q and K.

    [..., Q, D], [..., K, D], [..., K, E] --> [..., Q, E]; `scale` is 1 / sqrt(D) where it is left out. Block t has the
    queries t * size to (t + 1) * size - 1; its keys go from `before` places before its first query to `after` places
    behind its last, without the two they are all keys. Pairs have to hold all of `visible`; a query that sees no key
    gets zeros.
    """
    return attend_with_lse(q, k, v, size, before, after, visible, bias, scale, dropout, False)[0]


def attend_with_lse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: int,
    before: int | None = None,
    after: int | None = None,
    visible: tuple[Tensor | None, ...] = (),
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    lse: bool = True,
) -> tuple[Tensor, Tensor]:
    """As `attend`, with the log of each query's sum of exponents, [..., Q], if `lse`; it is -inf without keys."""
    if q.ndim == 2:
        y, sums = attend_with_lse(q[None], k[None], v[None], size, before, after, visible, bias, scale, dropout, lse)
        return y[0], sums[0] if lse else sums
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    masks = tuple(x for x in visible if x is not None)
    q, k, v, *added = alike(q, k, v, *([bias] if bias is not None else []))
    bias = added[0] if added else None
    if captured() or plain() or dropout or q.device.type != "cpu":
        return _attend_at_once(q, k, v, size, before, after, masks, bias, scale, dropout)
    y, sums = Attend.apply(q, k, v, bias, size, before, after, scale, lse, *masks)
    return y, sums


def _attend_at_once(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: int,
    before: int | None,
    after: int | None,
    masks: tuple[Tensor, ...],
    bias: Tensor | None,
    scale: float,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """All blocks at once, in plain operations: where torch has to see these, and where weights are dropped."""
    length = q.shape[-2]
    q = blocked(q, q.ndim - 2, (size,))
    if before is None or after is None:
        k, v = k.unsqueeze(-3), v.unsqueeze(-3)
    else:
        there = places_inside((k.shape[-2],), (size,), (before,), (after,), device=k.device)
        masks = (*masks, there.unsqueeze(-2))
        k, v = (blocked(x, x.ndim - 2, (size,), (before,), (after,)) for x in (k, v))
    score = (q * scale) @ k.transpose(-1, -2)
    if bias is not None:
        score = score + bias
    shown = None
    for mask in masks:
        shown = mask if shown is None else shown & mask
    if shown is not None:
        score = score.masked_fill(~shown, float("-inf"))
        empty = ~shown.any(-1, keepdim=True)
        score = score.masked_fill(empty, 0.0)
        weights = score.softmax(-1).masked_fill(empty, 0.0)
        sums = score.logsumexp(-1).masked_fill(empty.squeeze(-1), float("-inf"))
    else:
        weights, sums = score.softmax(-1), score.logsumexp(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    y = joined(weights @ v, q.ndim - 3, (size,), (length,))
    return y, joined(sums, sums.ndim - 2, (size,), (length,))


#: Scores of fewer pairs stay in the cache between the steps that make, normalize and sum them, on a CPU.
CACHED = 2**20


def attention_of_batches(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, full: bool = False, **options: Any
) -> Tensor:
    """torch's scaled_dot_product_attention with several batch axes, [..., H, Q, D]: to its fast paths they are one.

    Where each query sees a key (`full`), what torch has no fast path for on a CPU is computed in plain steps.
    """
    graded = attn_mask is not None and attn_mask.requires_grad and torch.is_grad_enabled()
    plain = full and q.device.type == "cpu" and not options.keys() - {"scale"}
    if captured() or (graded and not plain):
        return F.scaled_dot_product_attention(q, k, v, attn_mask, **options)
    lead = q.shape[:-3]
    if attn_mask is not None and attn_mask.ndim > 3:
        if any(n > 1 for n in attn_mask.shape[:-3]):
            attn_mask = attn_mask.expand(*lead, *attn_mask.shape[-3:])
        attn_mask = attn_mask.flatten(0, -4)
    q, k, v = (x.flatten(0, -4) for x in (q, k, v))
    if plain and (graded or q.shape[:-1].numel() * k.shape[-2] <= CACHED):
        y = _attention_in_steps(q, k, v, attn_mask, **options)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask, **options)
    return y.unflatten(0, lead)


def _attention_in_steps(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None = None) -> Tensor:
    """softmax(scale * q k^T + mask) v, [B, H, Q, D], in which each query sees a key."""
    shape = (*q.shape[:-1], k.shape[-2])
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, float("-inf"))
    q, k, v = (flat(x) for x in (q, k, v))
    if mask is None:
        score = torch.bmm(q * scale, k.transpose(-1, -2))
    else:
        score = torch.baddbmm(flat(mask.expand(shape)), q, k.transpose(-1, -2), alpha=scale)
    return torch.bmm(score.softmax(-1), v).unflatten(0, shape[:2])


def merged(*parts: tuple[Tensor, Tensor]) -> Tensor:
    """The softmax average over all keys from those over disjoint sets of them: sum of exp(lse_p - lse) y_p.

    Each part is y, [..., Q, E], and its log-sum-exp, [..., Q]; one with fewer queries is about the first ones, and
    stands behind those with all.
    """
    length = parts[0][0].shape[-2]
    sums = [F.pad(s, (0, length - s.shape[-1]), value=float("-inf")) for _, s in parts]
    highest = torch.stack([s.detach() for s in sums]).amax(0).clamp(min=torch.finfo(sums[0].dtype).min)
    shares = [(s - highest).exp() for s in sums]
    total = sum(shares[1:], shares[0])
    total = total.masked_fill(total == 0, 1.0)  # a query that no part has keys for
    shares = [(share / total).to(parts[0][0].dtype) for share in shares]
    found = parts[0][0] * shares[0].unsqueeze(-1)
    for (y, _), share in zip(parts[1:], shares[1:], strict=True):
        few = y.shape[-2]
        share = share[..., :few, None]
        if captured() or plain():
            found = found + F.pad(y * share, (0, 0, 0, length - few))
        elif not (found.requires_grad or y.requires_grad or share.requires_grad):
            found[..., :few, :].addcmul_(y, share)
        elif few == length:
            found = torch.addcmul(found, y, share)
        else:
            found = torch.cat((torch.addcmul(found[..., :few, :], y, share), found[..., few:, :]), -2)
    return found


class Attend(torch.autograd.Function):
    """Blocks by torch's fused kernel; where it does not take them, one after the other, so that the scores of one stay
    in the cache. For the gradients scores are computed again."""

    @staticmethod
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        size: int,
        before: int | None,
        after: int | None,
        scale: float,
        lse: bool,
        *masks: Tensor,
    ) -> tuple[Tensor, Tensor]:
        tiles = Tiles(q, k, size, before, after, scale, bias, masks)
        if fusable(q, k, v):
            return fused_attention(tiles, v)
        y = heads_last(q, v.shape[-1])
        sums = widened(q.new_empty(q.shape[:-1] if lse else (0,)))
        for t in range(tiles.count):
            score, empty, rows, columns = tiles.score(t)
            if not score.shape[-1]:
                y[..., rows, :] = 0.0
                if lse:
                    sums[..., rows] = float("-inf")
                continue
            weights = score.softmax(-1)
            if empty is not None:
                weights = weights.masked_fill(empty, 0.0)
            y[..., rows, :] = bmm(weights, flat(v[..., columns, :])).unflatten(0, q.shape[:-2])
            if lse:  # the largest weight of a row is exp(its largest score - lse)
                found = score.amax(-1) - weights.amax(-1).log()
                found = found if empty is None else found.masked_fill(empty.squeeze(-1), float("-inf"))
                sums[..., rows] = found.unflatten(0, q.shape[:-2])
        return y, sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        q, k, v, bias, *ctx.options = inputs[:8]
        found = output if fusable(q, k, v) else (None, None)
        ctx.save_for_backward(q, k, v, bias, *found, *inputs[9:])

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, grad_sums: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, bias, y, sums, *masks = ctx.saved_tensors
        if grad_y is None:
            grad_y = q.new_zeros(()).expand(*q.shape[:-1], v.shape[-1])
        given = grad_y, grad_sums, q, k, v, bias, y, sums
        grads = GradientsOfAttend.apply(*given, ctx.needs_input_grad[3], *ctx.options, *masks)
        return (*grads, *(None,) * (5 + len(masks)))


class GradientsOfAttend(torch.autograd.Function):
    """The gradients of `Attend`, blocks as there; those of them are taken through plain operations, all at once."""

    @staticmethod
    def forward(
        grad_y: Tensor,
        grad_sums: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        y: Tensor | None,
        sums: Tensor | None,
        learned: bool,
        size: int,
        before: int | None,
        after: int | None,
        scale: float,
        *masks: Tensor,
    ) -> tuple[Tensor | None, ...]:
        tiles = Tiles(q, k, size, before, after, scale, bias, masks)
        learned = learned and bias is not None
        if y is not None and grad_sums is not None and not learned:
            y = with_sums(y, grad_y, grad_sums)
        if y is not None and sums is not None and not learned:
            grad_q, grad_k, grad_v = fused_gradients(tiles, v, y, sums, grad_y)
            return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None
        grad_q = heads_last(q, q.shape[-1])
        grad_k, grad_v = (widened(heads_last(x, x.shape[-1])).zero_() for x in (k, v))  # blocks add up in them
        grad_bias = widened(torch.zeros_like(bias)) if bias is not None and learned else None
        lead = q.shape[:-2]
        for t in range(tiles.count):
            score, empty, rows, columns = tiles.score(t)
            if not score.shape[-1]:
                grad_q[..., rows, :] = 0.0
                continue
            weights = score.softmax(-1)
            if empty is not None:
                weights = weights.masked_fill(empty, 0.0)
            grad = flat(grad_y[..., rows, :])
            grad_v[..., columns, :] += bmm(weights.transpose(-1, -2), grad).unflatten(0, lead)
            grad = bmm(grad, flat(v[..., columns, :]).transpose(-1, -2))
            grad = torch._softmax_backward_data(grad.to(weights.dtype), weights, -1, weights.dtype)
            if grad_sums is not None:
                grad = grad.addcmul_(weights, flat(grad_sums[..., rows, None]))
            if grad_bias is not None:
                part = tiles.part(grad_bias, Stack(t))
                grad_scores = grad.unflatten(0, lead)
                part += (grad_scores.unsqueeze(-3) if part.ndim > 2 else grad_scores).sum_to_size(part.shape)
            grad_q[..., rows, :] = bmm(grad, flat(k[..., columns, :])).unflatten(0, lead)
            grad_k[..., columns, :] += bmm(grad.transpose(-1, -2), flat(q[..., rows, :])).unflatten(0, lead)
        grad_k, grad_v = grad_k.mul_(scale).to(k.dtype), grad_v.to(v.dtype)
        return grad_q.mul_(scale), grad_k, grad_v, None if grad_bias is None else grad_bias.to(q.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        *tensors, _, _, ctx.learned, ctx.size, ctx.before, ctx.after, ctx.scale = inputs[:13]
        ctx.save_for_backward(*tensors, *inputs[13:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            # each by another name, as one may be made of another
            own: list[Any] = [None if x is None else renamed(x) for x in ctx.saved_tensors[:6]]
            of_y, of_sums, q, k, v, bias = own
            masks = ctx.saved_tensors[6:]
            found = _attend_at_once(q, k, v, ctx.size, ctx.before, ctx.after, masks, bias, ctx.scale, 0.0)
            count = 1 if of_sums is None else 2
            wanted = (q, k, v, bias) if ctx.learned else (q, k, v)
            first = torch.autograd.grad(found[:count], wanted, (of_y, of_sums)[:count], create_graph=True)
        given = [x for x in own if x is not None]
        pairs = [(x, g) for x, g in zip(first, grads, strict=False) if g is not None]
        second = torch.autograd.grad(
            [x for x, _ in pairs], given, [g for _, g in pairs], create_graph=again, allow_unused=True
        )
        filled = iter(second)
        return (*[None if x is None else next(filled) for x in own], *(None,) * (7 + len(masks)))


def renamed(x: Tensor) -> Tensor:
    """The same tensor, that derivatives can be taken for, and go on from."""
    return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
