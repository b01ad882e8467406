"""Graph layers of the library beside those of torch_geometric, with the same weights."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rows import Call, Row
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GATv2Conv

import towerdsl

CORA = Path(__file__).parents[1] / "data" / "cora.npz"


@dataclass(frozen=True)
class Layers:
    """One layer of each, and the graph that both read."""

    ours: nn.Module
    inference: nn.Module
    peer: nn.Module
    x: Tensor
    edges: Tensor

    def forward(self) -> tuple[Call, Call]:
        """One forward pass without gradients; ours is of the inference form."""
        ours, peer = (lambda m=m: m(self.x, self.edges) for m in (self.inference, self.peer))
        return torch.no_grad()(ours), torch.no_grad()(peer)

    def backward(self) -> tuple[Call, Call]:
        """One forward pass and the gradients of all weights."""
        return self._trained(self.ours), self._trained(self.peer)

    def _trained(self, layer: nn.Module) -> Call:
        weights = [*layer.parameters()]
        with torch.no_grad():
            cotangent = torch.randn_like(layer(self.x, self.edges))
        return lambda: torch.autograd.grad(layer(self.x, self.edges), weights, cotangent)


def gat(x: Tensor, edges: Tensor, heads: int, width: int) -> Layers:
    """The first layer of `gat` and a GATConv."""
    ours, inference = (_first("gat", x, heads, width, form) for form in (False, True))
    peer = GATConv(x.shape[1], width, heads)
    given = {"linear.weight": peer.lin.weight, "source": peer.att_src[0], "target": peer.att_dst[0], "bias": peer.bias}
    ours.load_state_dict(given)
    inference.load_state_dict(given)
    return Layers(ours, inference, peer, x, edges)


def gatv2(x: Tensor, edges: Tensor, heads: int, width: int) -> Layers:
    """The first layer of `gatv2` and a GATv2Conv."""
    ours, inference = (_first("gatv2", x, heads, width, form) for form in (False, True))
    peer = GATv2Conv(x.shape[1], width, heads)
    given = {"affinity": peer.att[0], "bias": peer.bias}
    for name, linear in (("source", peer.lin_l), ("target", peer.lin_r)):
        given |= {f"{name}.weight": linear.weight, f"{name}.bias": linear.bias}
    ours.load_state_dict(given)
    inference.load_state_dict(given)
    return Layers(ours, inference, peer, x, edges)


def _first(spec: str, x: Tensor, heads: int, width: int, inference: bool) -> nn.Module:
    sizes = {"features": x.shape[1], "heads": heads, "hidden": width, "dropout": 0.0}
    return towerdsl.compile(spec, inference=inference, **sizes)().first


def cora(tiny: bool = False) -> tuple[Tensor, Tensor]:
    """The papers of Cora, [2708, 1433], with all their zeros, and its 10,556 citations; a part of them if tiny."""
    data = np.load(CORA)
    rows = np.repeat(np.arange(len(data["x_indptr"]) - 1), np.diff(data["x_indptr"]))
    x = torch.zeros(*data["x_shape"].tolist())
    x[rows, data["x_indices"]] = 1.0
    x, edges = x / x.sum(1, keepdim=True).clamp(min=1), torch.from_numpy(data["edge_index"])
    return (x[:100], edges[:, (edges < 100).all(0)]) if tiny else (x, edges)


def random_graph(nodes: int, edges: int, features: int) -> tuple[Tensor, Tensor]:
    """Pairs of nodes drawn once each, none of them a loop."""
    draw = torch.Generator().manual_seed(0)
    pairs = torch.randint(nodes * nodes, (edges + edges // 10,), generator=draw).unique()
    pairs = pairs[pairs // nodes != pairs % nodes]
    pairs = pairs[torch.randperm(len(pairs), generator=draw)[:edges]]
    return torch.randn(nodes, features, generator=draw), torch.stack([pairs // nodes, pairs % nodes])


def gat_cora(tiny: bool = False) -> Layers:
    """8 heads of 8 features on Cora."""
    return gat(*cora(tiny), 8, 8)


def gat_20k(tiny: bool = False) -> Layers:
    """8 heads of 32 features, 20,000 nodes and 420,000 edges, those of each node to itself among them."""
    nodes = 200 if tiny else 20_000
    return gat(*random_graph(nodes, 20 * nodes, 256), 8, 32)


def gatv2_cora(tiny: bool = False) -> Layers:
    """8 heads of 8 features on Cora."""
    return gatv2(*cora(tiny), 8, 8)


def gatv2_20k(tiny: bool = False) -> Layers:
    """8 heads of 32 features, 20,000 nodes and 420,000 edges, those of each node to itself among them."""
    nodes = 200 if tiny else 20_000
    return gatv2(*random_graph(nodes, 20 * nodes, 256), 8, 32)


ROWS = (
    Row("GAT layer, Cora (dense features)", "torch_geometric", gat_cora, 0.6, 0.75),
    Row("GAT layer, 20k nodes, 420k edges, 8 x 32", "torch_geometric", gat_20k, 0.17, 0.2),
)
