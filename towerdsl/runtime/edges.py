"""Attention over listed pairs of a query and a key: compressed rows, never a table of all queries and keys.

Legend: L leading axes (batches and heads), Q queries, K keys, E listed pairs, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from towerdsl.ops.normalizers import widened
from towerdsl.runtime.captured import plain, readable
from towerdsl.runtime.dtypes import alike


class Pairs(NamedTuple):
    """Pairs of a query and one of `keys` keys, sorted by query: query q has `start[q]:start[q + 1]`."""

    query: Tensor  # [E]
    key: Tensor  # [E]
    start: Tensor  # [Q + 1]
    once: Tensor  # bool [E], false for a pair that has been listed before
    keys: int
    distinct: bool  # whether it is known that `once` is true everywhere


def pairs_by_query(queries: int, keys: int, *lists: Tensor) -> Pairs:
    """Lists [2, edges] of (key, query) --> all of their pairs, sorted by query, then by key."""
    return remembered(_sorted_by_query, *lists, queries, keys)


def _sorted_by_query(*lists_and_sizes: Any) -> Pairs:
    *lists, queries, keys = lists_and_sizes
    query, key = _positions(torch.cat(lists, 1), queries, keys)
    place = (query * keys + key).sort().values
    once = torch.cat([place[:1] >= 0, place.diff() != 0])
    query, key = place // keys, place % keys
    return Pairs(query, key, row_starts(query, queries), once, keys, readable(place) and bool(once.all()))


def _sorted_by_key(query_E: Tensor, key_E: Tensor, keys: int) -> tuple[Tensor, ...]:
    """The pairs sorted by key, queries and keys exchanged, and the place that each has had."""
    key_E, order = key_E.sort(stable=True)
    return key_E, query_E[order], row_starts(key_E, keys), order


def remembered(function: Callable[..., Any], *given: Any) -> Any:
    """`function(*given)`, computed once while the numbers stay the same: layers share a graph.

    They are compared with copies, as whoever holds a list, or an array with the same memory, may write to it.
    The last graph is kept, and none where numbers may not be looked at.
    """
    if not all(readable(x) for x in given if isinstance(x, Tensor)):
        return function(*given)
    known, result = getattr(function, "last", ((), None))
    if len(known) != len(given) or not all(map(_same, known, given)):
        with torch.inference_mode(False):  # they may be read in training next
            known = tuple(x.clone() if isinstance(x, Tensor) else x for x in given)
            result = function(*known)
        function.last = known, result  # type: ignore[attr-defined]
    return result


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


def _positions(edges: Tensor, queries: int, keys: int) -> list[Tensor]:
    """The query and the key of each edge; one that is outside is the mistake that it is for any tensor."""
    sizes = (queries, edges[1]), (keys, edges[0])
    return [torch.arange(size, device=edges.device)[index] for size, index in sizes]


def row_starts(index_E: Tensor, rows: int) -> Tensor:
    """Sorted row numbers --> [rows + 1], where each row starts and the last one ends."""
    return torch.searchsorted(index_E, torch.arange(rows + 1, device=index_E.device))


def itself(size: int, device: torch.device) -> Tensor:
    """The pairs `i == j`, [2, size]."""
    return torch.arange(size, device=device).expand(2, size)


def related(edges: Tensor, pairs: Pairs) -> Tensor:
    """Which pairs, where each is listed first, are in a list [2, edges] of (key, query): bool [E]."""
    query, key = _positions(edges, pairs.start.shape[0] - 1, pairs.keys)
    listed = torch.searchsorted(pairs.query * pairs.keys + pairs.key, query * pairs.keys + key)
    return torch.zeros_like(pairs.once).index_fill(0, listed, True)


def entries(values: Tensor, index_E: Tensor, dim: int = -1) -> Tensor:
    """The entries of `values` along one axis at an index for each pair: [..., K, ...] --> [..., E, ...]."""
    if dim == -1:
        return values.gather(-1, index_E.expand(*values.shape[:-1], -1))
    return widened(values).index_select(dim, index_E).to(values.dtype)  # the gradient is a sum over pairs


# --- weights of rows ---------------------------------------------------------------------------------


def row_sums(values: Tensor, pairs: Pairs) -> Tensor:
    """The sum over each query's pairs: [..., E] --> [..., Q], of halves in float32."""
    return _sums(values, pairs.query, pairs.start)


def _sums(values: Tensor, query_E: Tensor, start: Tensor) -> Tensor:
    values = widened(values)
    sums = values.new_zeros(*values.shape[:-1], start.shape[0] - 1)
    return sums.scatter_add(-1, query_E.expand_as(values), values)


def softmax_of_rows(score: Tensor, visible: Tensor, pairs: Pairs) -> Tensor:
    """exp(f) / sum of exp(f) over the visible pairs of a query."""
    shown = None if visible is pairs.once and pairs.distinct else visible
    function = SoftmaxOfRows.forward if plain() else SoftmaxOfRows.apply
    return function(score, shown, pairs.query, pairs.start)


#: Of numbers this far apart, exp(x - the largest) is still a normal number in float32.
SPREAD = 80.0


class SoftmaxOfRows(torch.autograd.Function):
    """[..., E] scores --> their weights; pairs that are not visible have none."""

    @staticmethod
    def forward(score, visible, query_E, start):
        wide = widened(score)
        if visible is not None:
            wide = wide.masked_fill(~visible, float("-inf"))
        weight = (wide - _subtracted(wide.detach(), query_E, start)).exp()
        total = _sums(weight, query_E, start)
        share = total.masked_fill(total == 0, 1.0).reciprocal()  # 0 in a row that sees nothing
        return (weight * entries(share, query_E)).to(score.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output, *inputs[2:])

    @staticmethod
    def backward(ctx, grad):
        weight, query, start = ctx.saved_tensors
        wide = widened(weight) * grad
        grad = wide - weight * entries(_sums(wide, query, start), query)
        return grad.to(weight.dtype), None, None, None


def _subtracted(score: Tensor, query_E: Tensor, start: Tensor) -> Tensor:
    """The largest score of each pair's row, or of all rows where that serves: a softmax may subtract any."""
    if readable(score) and score.numel():
        low, high = score.aminmax()
        if high - low < SPREAD:
            return high
    starts = start.expand(*score.shape[:-1], -1)
    largest = torch.segment_reduce(score, "max", offsets=starts, axis=score.ndim - 1, unsafe=True)
    largest = largest.clamp(min=torch.finfo(score.dtype).min)  # a row that sees nothing has -inf
    return entries(largest, query_E)


def sum_of_rows(score: Tensor, visible: Tensor, pairs: Pairs) -> Tensor:
    """f / sum of f over the visible pairs of a query; zeros where the sum is zero."""
    wide = widened(score).masked_fill(~visible, 0.0)
    total = entries(row_sums(wide, pairs), pairs.query)
    nothing = total == 0  # a quotient, as the reciprocal of what is small is infinite
    return (wide / total.masked_fill(nothing, 1.0)).masked_fill(nothing, 0.0).to(score.dtype)


def count_of_rows(score: Tensor, visible: Tensor, pairs: Pairs) -> Tensor:
    """f / number of visible pairs of a query."""
    count = row_sums(visible.to(torch.promote_types(score.dtype, torch.float32)), pairs).clamp(min=1)
    return (score.masked_fill(~visible, 0.0) * entries(count.reciprocal(), pairs.query)).to(score.dtype)


# --- products over pairs -----------------------------------------------------------------------------


def weighted_sum(weights: Tensor, values: Tensor, pairs: Pairs) -> Tensor:
    """y[q] = sum over the pairs (q, k) of w[q, k] * values[k]: [..., E], [..., K, D] --> [..., Q, D]."""
    weights, values = alike(weights, values)
    if plain():
        return sum_of_messages(weights, entries(values, pairs.key, -2), pairs)
    lead = torch.broadcast_shapes(weights.shape[:-1], values.shape[:-2])
    weights_LE = weights.expand(*lead, -1).reshape(math.prod(lead), weights.shape[-1])
    y_QLD = WeightedSum.apply(weights_LE, _by_position(values, lead), pairs.query, pairs.key, pairs.start)
    return y_QLD.unflatten(1, lead or (1,)).movedim(0, -2) if lead else y_QLD.squeeze(1)


def sum_of_messages(weights: Tensor, messages: Tensor, pairs: Pairs) -> Tensor:
    """y[q] = sum over the pairs (q, k) of w[q, k] * messages[q, k]: [..., E], [..., E, D] --> [..., Q, D]."""
    weighted = widened(weights[..., None] * messages)
    *lead, _, width = weighted.shape
    y = weighted.new_zeros(*lead, pairs.start.shape[0] - 1, width).index_add(-2, pairs.query, weighted)
    return y.to(messages.dtype)


def pair_dot(left: Tensor, right: Tensor, pairs: Pairs) -> Tensor:
    """dot(left[q], right[k]) for each pair (q, k): [..., Q, D], [..., K, D] --> [..., E]."""
    left, right = alike(left, right)
    if plain():
        return (entries(left, pairs.query, -2) * entries(right, pairs.key, -2)).sum(-1)
    lead = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    vectors = _by_position(left, lead), _by_position(right, lead)
    score_LE = PairDot.apply(*vectors, pairs.query, pairs.key, pairs.start)
    return score_LE.reshape(*lead, score_LE.shape[-1])


def _by_position(vectors: Tensor, lead: torch.Size) -> Tensor:
    """[..., K, D] --> [K, L, D]: all that is read of one position lies together."""
    whole = vectors.expand(*lead, *vectors.shape[-2:]).movedim(-2, 0)
    return whole.reshape(whole.shape[0], math.prod(lead), whole.shape[-1])


def _bags(weights_E: Tensor, values_KD: Tensor, index_E: Tensor, start: Tensor) -> Tensor:
    """The weighted sum of each row: what torch calls a bag of embeddings."""
    return F.embedding_bag(
        index_E, values_KD, start, mode="sum", per_sample_weights=weights_E, include_last_offset=True
    )


#: Up to so many weights, one call for all heads costs less than the calls that it saves.
FEW = 2**18


class WeightedSum(torch.autograd.Function):
    """[L, E] weights and [K, L, D] values --> their sums [Q, L, D], with no message of a pair in memory."""

    @staticmethod
    def forward(weights_LE, values_KLD, query_E, key_E, start):
        weights, values, leading = weights_LE.detach(), values_KLD.detach(), weights_LE.shape[0]
        if not torch.compiler.is_compiling() and weights.numel() > FEW:
            values = values.transpose(0, 1).contiguous()
            return torch.stack([_bags(weights[h], values[h], key_E, start) for h in range(leading)], 1)
        # all at once: how many there are may vary
        shift = torch.arange(leading, device=key_E.device)[:, None]
        starts = torch.cat([(start[:-1] + key_E.shape[0] * shift).flatten(), start[-1:] * leading])
        places = (key_E * leading + shift).flatten()
        y = _bags(weights.flatten(), values.flatten(0, 1), places, starts)
        return y.unflatten(0, (leading, start.shape[0] - 1)).transpose(0, 1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_QLD):
        weights, values, query, key, start = ctx.saved_tensors
        of_weights = of_values = None
        if ctx.needs_input_grad[0]:
            of_weights = PairDot.apply(grad_QLD, values, query, key, start)
        if ctx.needs_input_grad[1]:
            *turned, order = remembered(_sorted_by_key, query, key, values.shape[0])
            of_values = WeightedSum.apply(entries(weights, order), grad_QLD, *turned)
        return of_weights, of_values, None, None, None


class PairDot(torch.autograd.Function):
    """[Q, L, D] and [K, L, D] --> the dot product of each pair, [L, E]."""

    @staticmethod
    def forward(left_QLD, right_KLD, query_E, key_E, start):
        import warnings

        (queries, leading, _), keys, pairs = left_QLD.shape, right_KLD.shape[0], key_E.shape[0]
        # compiled it is one loop, which keeps nothing; a sparse tensor lists no more pairs than there are
        if torch.compiler.is_compiling() or left_QLD.is_meta or pairs > queries * keys:
            return (left_QLD[query_E] * right_KLD[key_E]).sum(-1).t()
        wide = torch.promote_types(left_QLD.dtype, torch.float32)
        left, right = left_QLD.detach().to(wide).transpose(0, 1), right_KLD.detach().to(wide).permute(1, 2, 0)
        with warnings.catch_warnings():  # that sparse tensors are new
            warnings.simplefilter("ignore", UserWarning)
            rows, columns = start.expand(leading, -1), key_E.expand(leading, -1)
            none, shape = left.new_zeros(columns.shape), (leading, queries, keys)
            listed = torch.sparse_csr_tensor(rows, columns, none, shape)
            return torch.sparse.sampled_addmm(listed, left, right).values().to(left_QLD.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_LE):
        left, right, query, key, start = ctx.saved_tensors
        of_left = of_right = None
        if ctx.needs_input_grad[0]:
            of_left = WeightedSum.apply(grad_LE, right, query, key, start)
        if ctx.needs_input_grad[1]:
            *turned, order = remembered(_sorted_by_key, query, key, right.shape[0])
            of_right = WeightedSum.apply(entries(grad_LE, order), left, *turned)
        return of_left, of_right, None, None, None
