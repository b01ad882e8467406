"""Functions that emitted source calls, beside the normalizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def adjacency(edges: Tensor, sources: int, targets: int) -> Tensor:
    """Pairs [2, edges] --> bool [sources, targets], true where (source, target) is among them."""
    return edges.new_zeros(sources, targets).index_put((edges[0], edges[1]), edges.new_ones(())).bool()


def holds_everywhere(condition: Tensor | None) -> bool:
    """Whether a condition is true everywhere, where its values may be looked at."""
    from towerdsl.runtime.captured import readable

    return condition is not None and readable(condition) and bool(condition.all())


def causal_product(left: Tensor, right: Tensor, values: Tensor, block: int) -> Tensor:
    """y[i] = sum over j <= i of dot(left[i], right[j]) * values[j]: [..., N, D], [..., N, D] and [..., N, V].

    In blocks: the keys of earlier blocks by the sum of right[j] values[j]^T, those inside by their weights.
    """
    import torch

    from towerdsl.runtime.captured import captured

    length = left.shape[-2]
    # recorded code holds for all lengths, so there are some blocks more, and never one
    many = length // block + 2 if captured() else -(-length // block)
    padded = (torch.nn.functional.pad(x, (0, 0, 0, many * block - length)) for x in (left, right, values))
    left, right, values = (torch.unflatten(x, -2, (-1, block)) for x in padded)  # [..., blocks, block, D]
    sums = right.transpose(-2, -1) @ values
    before = torch.nn.functional.pad(sums, (0, 0, 0, 0, 1, 0))[..., :-1, :, :].cumsum(-3)
    inside = (left @ right.transpose(-2, -1)).tril()
    y = (left @ before + inside @ values).flatten(-3, -2)
    return y.index_select(-2, torch.arange(length, device=y.device)) if captured() else y[..., :length, :]


def picked_sum(values: Tensor, picked: Tensor, weights: Tensor) -> Tensor:
    """y[i] = sum over k of weights[i, k] * values[picked[i, k]]: [..., J, V] and [..., I, K] twice."""
    import torch

    lead = torch.broadcast_shapes(values.shape[:-2], picked.shape[:-2])
    rows = picked.expand(*lead, -1, -1).flatten(-2)[..., None].expand(*lead, -1, values.shape[-1])
    rows = values.expand(*lead, -1, -1).gather(-2, rows)
    return (weights[..., None] * torch.unflatten(rows, -2, picked.shape[-2:])).sum(-2)
