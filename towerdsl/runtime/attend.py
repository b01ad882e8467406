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
from towerdsl.runtime.captured import captured, plain, readable
from towerdsl.runtime.dtypes import alike


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
    """One block after the other; the scores of a block stay in the cache, and are computed again for the gradients."""

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
        q, k, v, bias, *ctx.options = inputs[:9]
        ctx.save_for_backward(q, k, v, bias, *inputs[9:])

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, *masks = ctx.saved_tensors
        grads = GradientsOfAttend.apply(grad_y, grad_sums, q, k, v, bias, ctx.needs_input_grad[3], *ctx.options, *masks)
        return (*grads, *(None,) * (5 + len(masks)))


class GradientsOfAttend(torch.autograd.Function):
    """The gradients of `Attend`, block after block; those of them are taken through plain operations, all at once."""

    @staticmethod
    def forward(
        grad_y: Tensor,
        grad_sums: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        learned: bool,
        size: int,
        before: int | None,
        after: int | None,
        scale: float,
        lse: bool,
        *masks: Tensor,
    ) -> tuple[Tensor | None, ...]:
        tiles = Tiles(q, k, size, before, after, scale, bias, masks)
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
            if lse:
                grad = grad.addcmul_(weights, flat(grad_sums[..., rows, None]))
            if grad_bias is not None:
                part = tiles.part(grad_bias, t)
                part += grad.unflatten(0, lead).sum_to_size(part.shape)
            grad_q[..., rows, :] = bmm(grad, flat(k[..., columns, :])).unflatten(0, lead)
            grad_k[..., columns, :] += bmm(grad.transpose(-1, -2), flat(q[..., rows, :])).unflatten(0, lead)
        grad_k, grad_v = grad_k.mul_(scale).to(k.dtype), grad_v.to(v.dtype)
        return grad_q.mul_(scale), grad_k, grad_v, None if grad_bias is None else grad_bias.to(q.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        *tensors, ctx.learned, ctx.size, ctx.before, ctx.after, ctx.scale, ctx.lse = inputs[:12]
        ctx.save_for_backward(*tensors, *inputs[12:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            # each by another name, as one may be made of another
            own: list[Any] = [None if x is None else renamed(x) for x in ctx.saved_tensors[:6]]
            of_y, of_sums, q, k, v, bias = own
            masks = ctx.saved_tensors[6:]
            found = _attend_at_once(q, k, v, ctx.size, ctx.before, ctx.after, masks, bias, ctx.scale, 0.0)
            count = 2 if ctx.lse else 1
            wanted = (q, k, v, bias) if ctx.learned else (q, k, v)
            first = torch.autograd.grad(found[:count], wanted, (of_y, of_sums)[:count], create_graph=True)
        given = [x for x in own if x is not None]
        pairs = [(x, g) for x, g in zip(first, grads, strict=False) if g is not None]
        second = torch.autograd.grad(
            [x for x, _ in pairs], given, [g for _, g in pairs], create_graph=again, allow_unused=True
        )
        return (*second, *(None,) * (12 - len(second) + len(masks)))


def renamed(x: Tensor) -> Tensor:
    """The same tensor, that derivatives can be taken for, and go on from."""
    return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()


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


class Tiles:
    """The blocks of an attention: which rows and columns each has, and its scores."""

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

    def part(self, x: Tensor, t: int) -> Tensor:
        """What a mask or bias [..., T, S, W] says of block t."""
        rows, columns, first = self.ends(t)
        x = x[..., t if x.shape[-3] > 1 else 0, :, :] if x.ndim > 2 else x
        if x.ndim > 1 and x.shape[-2] > 1:
            x = x[..., : rows.stop - rows.start, :]
        return x[..., first : first + columns.stop - columns.start] if x.ndim and x.shape[-1] > 1 else x

    def score(self, t: int) -> tuple[Tensor, Tensor | None, slice, slice]:
        """scale * q k^T + bias of block t, -inf where hidden; which rows are empty (None: none); queries and keys.

        Of halves they are float32. An empty row has scores of 0, so that its softmax is a number.
        """
        rows, columns, first = self.ends(t)
        q, k = flat(self.q[..., rows, :]), flat(self.k[..., columns, :]).transpose(-1, -2)
        shape = (*self.q.shape[:-2], q.shape[-2], k.shape[-1])
        if not shape[-1]:
            return q.new_zeros(q.shape[0], shape[-2], 0), None, rows, columns
        added, empty = self.added(t, (first, *shape[-2:]))
        if added is None:
            return widened(torch.bmm(q * self.scale, k)), None, rows, columns
        if added.ndim > 2:
            added = flat(added.expand(shape))
        if empty is not None:
            empty = flat(empty.expand(*shape[:-1], 1))
        return widened(torch.baddbmm(added, q, k, alpha=self.scale)), empty, rows, columns

    def added(self, t: int, place: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None]:
        """What is added to the scores of a block, and its empty rows; kept while blocks do not differ."""
        everything = (*self.masks, *([self.bias] if self.bias is not None else []))
        if not everything:
            return None, None
        alike = all(x.ndim < 3 or x.shape[-3] == 1 for x in everything)
        if alike and self.known is not None and self.known[0] == place:
            return self.known[1:]
        shown = None
        for mask in self.masks:
            part = self.part(mask, t)
            shown = part if shown is None else shown & part
        added = None if self.bias is None else self.part(self.bias, t)
        empty = None
        if shown is not None:
            empty = ~shown.any(-1, keepdim=True)
            hidden = ~(shown | empty)
            added = self.q.new_zeros(()) if added is None else added
            added = added.masked_fill(hidden, float("-inf"))
            if readable(empty) and not empty.any():
                empty = None
        self.known = place, added, empty
        return added, empty
