"""GraphAttention: compiled by towerdsl 0.1.0 from graph_attention.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime.edges import entries, itself, pairs_by_query, softmax_of_rows, weighted_sum
from towerdsl.runtime.inputs import as_declared


class Gat(nn.Module):
    """gat(x[n, f], edges, width), graph_attention.yaml:10.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of leaky_relu(dot(a_dst, q[i]) + dot(a_src, k[j]), 0.2)
        j is visible to i where edges[j, i]

    Averaged over n, heads merged by concat; kernel: edges.

    x float[n, f=5], edges relation[n, n] -> float[n, 6]
    """

    def __init__(self) -> None:
        super().__init__()
        self.a_src = nn.Parameter(torch.empty(2, 3))
        nn.init.normal_(self.a_src, std=0.02)
        self.a_dst = nn.Parameter(torch.empty(2, 3))
        nn.init.normal_(self.a_dst, std=0.02)
        self.linear = nn.Linear(5, 6, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        n = x.shape[0]
        h = self.linear(x)
        q = k = v = h.unflatten(-1, (2, 3)).transpose(0, 1)
        pairs = pairs_by_query(n, n, edges)
        score = F.leaky_relu(
            entries(torch.einsum("hd,hid->hi", self.a_dst, q), pairs.query)
            + entries(torch.einsum("hd,hjd->hj", self.a_src, k), pairs.key),
            0.2,
        )
        visible = pairs.once
        weights = softmax_of_rows(score, visible, pairs)
        return weighted_sum(weights, v, pairs).transpose(0, 1).flatten(-2)


class Last(nn.Module):
    """last(x, edges, width), graph_attention.yaml:22.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = softmax over j of leaky_relu(dot(a_dst, q[i]) + dot(a_src, k[j]), 0.2)
        j is visible to i where edges[j, i] or i == j

    Averaged over n, heads merged by mean; kernel: edges.

    x float[n, 6], edges relation[n, n] -> float[n, 4]
    """

    def __init__(self) -> None:
        super().__init__()
        self.a_src = nn.Parameter(torch.empty(2, 4))
        nn.init.normal_(self.a_src, std=0.02)
        self.a_dst = nn.Parameter(torch.empty(2, 4))
        nn.init.normal_(self.a_dst, std=0.02)
        self.linear = nn.Linear(6, 8, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        n = x.shape[0]
        h = self.linear(x)
        q = k = v = h.unflatten(-1, (2, 4)).transpose(0, 1)
        pairs = pairs_by_query(n, n, edges, itself(n, q.device))
        score = F.leaky_relu(
            entries(torch.einsum("hd,hid->hi", self.a_dst, q), pairs.query)
            + entries(torch.einsum("hd,hjd->hj", self.a_src, k), pairs.key),
            0.2,
        )
        visible = pairs.once
        weights = softmax_of_rows(score, visible, pairs)
        return weighted_sum(weights, v, pairs).mean(0)


class GraphAttention(nn.Module):
    """GraphAttention, compiled from graph_attention.yaml.

    Velickovic et al. 2018, arXiv:1710.10903

    Inputs:
        x: float[n, f=5]
        edges: relation[n, n]
    Output:
        x: float[n, 4]
    """

    inputs = {
        "x": "float[n, f=5], in the model's dtype",
        "edges": "relation[n, n]",
    }

    def __init__(self) -> None:
        super().__init__()
        self.gat = Gat()
        self.last = Last()

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x, edges = as_declared(self, x, edges)
        return self.last(F.elu(self.gat(x, edges)), edges)
