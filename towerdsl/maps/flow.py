"""From the weights of layers to what the input contributes: rollout, flow, relevance.

Legend: B batch, H heads, N positions, P chosen positions. Layers are maps in the order in which they were computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from towerdsl.maps.data import AttentionMap
from towerdsl.maps.places import mistake

#: `maximum_flow` counts in whole numbers below 2 ** 31: capacities of at most 1 are multiples of this part of 1.
UNITS = 2**29


def rollout(maps: Iterable[AttentionMap], residual: float = 0.5) -> Tensor:
    """Attention rollout: how much of each input position is in each position behind the last layer, [B, N, N].

        A[l] = (1 - residual) * mean over heads of W[l] + residual * I, each row divided by its sum
        rollout = A[last] @ ... @ A[first]

    With 0.5 this is Abnar and Zuidema 2020 (arXiv:2005.00928), section 3 and equation 1. Entry [b, i, j] is of the
    output i and the input j; rows sum to 1. Part of a model: `rollout(maps["layer.*.attention"][:3])`. Raises
    TowerError where maps are not of self-attention over the same positions, with all rows.
    """
    layers = _layers(maps, residual)
    found = layers[0]
    for layer in layers[1:]:
        found = layer @ found
    return found


def attention_flow(maps: Iterable[AttentionMap], positions: int | Sequence[int], residual: float = 0.5) -> Tensor:
    """Attention flow: the most that can flow from each input position to chosen positions behind the last layer.

    Layers are a graph: position i of layer l and position j of the layer below are joined by an edge of capacity
    A[l][i, j], as `rollout` has it. The flow of (output i, input j) is the maximum flow between these two
    nodes, by itself (Abnar and Zuidema 2020, arXiv:2005.00928, section 3, "Attention flow"). Result: [B, P, N], or
    [B, N] for one position, float64; capacities are rounded to multiples of 2 ** -29. It takes one maximum flow for
    each input position, some milliseconds at 6 layers of 64 positions. Needs scipy. Raises TowerError as `rollout`
    does, for a position that is not there, and for weights that are negative.
    """
    try:
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import maximum_flow
    except ImportError:
        raise mistake("attention flow needs scipy", "pip install scipy") from None
    layers = torch.stack(_layers(maps, residual)).double().cpu()  # [L, B, N, N]
    depth, batch, count, _ = layers.shape
    chosen = [positions] if isinstance(positions, int) else list(positions)
    for position in chosen:
        if not 0 <= position < count:
            raise mistake(f"there is no position {position}", f"positions are 0 to {count - 1}")
    if bool((layers < 0).any()):
        raise mistake("a capacity of the flow is negative", "weights that may be negative have no flow: see `rollout`")
    if depth == 1:  # one edge joins an output with an input
        found = layers[0][:, chosen]
    else:
        found = layers.new_zeros(batch, len(chosen), count)
        for b in range(batch):
            for place, position in enumerate(chosen):
                graph, source, inputs = _graph(layers[:, b], position, csr_array)
                for k, node in enumerate(inputs):
                    found[b, place, k] = maximum_flow(graph, source, node).flow_value / UNITS
    return found[:, 0] if isinstance(positions, int) else found


def _graph(layers: Tensor, position: int, csr_array: Any) -> tuple[Any, int, range]:
    """The edges below one output as a sparse matrix of whole capacities; the number of the output, those of inputs.

    Node (layer l, position i) has the number l * N + i; layer 0 is the input.
    """
    depth, count = layers.shape[:2]
    capacity = (layers * UNITS).round().to(torch.int32)
    capacity[-1, torch.arange(count) != position] = 0  # a smaller graph: no flow passes other outputs
    layer, i, j = capacity.nonzero(as_tuple=True)
    values = capacity[layer, i, j].numpy()
    size = (depth + 1) * count
    rows, columns = ((layer + 1) * count + i).numpy().astype("int32"), (layer * count + j).numpy().astype("int32")
    graph = csr_array((values, (rows, columns)), shape=(size, size))
    graph.indices, graph.indptr = graph.indices.astype("int32"), graph.indptr.astype("int32")
    return graph, depth * count + position, range(count)


def relevance(maps: Iterable[AttentionMap]) -> Tensor:
    """Gradient-weighted relevance of each input position for each position behind the last layer, [B, N, N].

        R = I
        for each layer, from the first:  A = mean over heads of max(gradient * W, 0);  R = R + A @ R

    Chefer et al. 2021 (arXiv:2103.15679), equations 5 and 6, for models of self-attention alone: the gradients are
    those of one output, such as the score of a class, and the row of the class token says where it comes from (the
    paper leaves out the entry of that token itself). Raises TowerError for maps without gradients, and as `rollout`.
    """
    found: Tensor | None = None
    for one in _square(maps):
        if one.gradient is None:
            help = "probe with gradients=True, not inside no_grad, and call backward() on what is to be explained"
            raise mistake(f"the map of `{one.path}` has no gradient", help)
        positive = (one.gradient * one.weights).clamp(min=0)
        mean = replace(one, weights=positive).dense().mean(1)
        if found is None:
            found = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device).expand_as(mean)
        found = found + mean @ found
    assert found is not None
    return found


def _layers(maps: Iterable[AttentionMap], residual: float) -> list[Tensor]:
    """What each layer passes on, [B, N, N] each: the weights, the mean over heads, and the residual connection."""
    if not 0 <= residual < 1:
        raise mistake(f"the part of the residual connection is {residual}", "it is at least 0 and less than 1")
    found = []
    for one in _square(maps):
        mean = one.dense().mean(1)
        layer = (1 - residual) * mean + residual * torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        found.append(layer / layer.sum(-1, keepdim=True))
    return found


def _square(maps: Iterable[AttentionMap]) -> list[AttentionMap]:
    """The maps, if each is of self-attention over the same positions, with all of its rows."""
    found = list(maps)
    if not found:
        raise mistake("there are no maps", "probe a model first, and choose some of its attentions")
    first = found[0]
    for one in found:
        queries, keys = one.queries.count, one.keys.count
        choose = 'choose the layers of one stack, as in maps["encoder.*"]'
        if one.queries != one.keys:
            raise mistake(f"`{one.path}` is no self-attention: it has {queries} queries and {keys} keys", choose)
        if len(one.rows) != queries or not torch.equal(one.rows.cpu(), torch.arange(queries)):
            message = (
                f"the map of `{one.path}` has {len(one.rows)} of {queries} rows, one layer after another needs all"
            )
            raise mistake(message, "probe the model with all rows")
        if keys != first.keys.count or len(one.weights) != len(first.weights):
            message = f"`{first.path}` has {len(first.weights)} times {first.keys.count} positions, "
            raise mistake(f"{message}`{one.path}` has {len(one.weights)} times {keys}", choose)
    return found
