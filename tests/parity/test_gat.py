"""GAT and GATv2 equal PyTorch Geometric's layers, and the two-layer network that is made of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch_geometric.nn import GATConv, GATv2Conv

import towerdsl

from .equal import assert_equals_peer, assert_published_size, draw

CORA = Path(__file__).parents[1] / "data/cora.npz"
LAYERS = {"gat": GATConv, "gatv2": GATv2Conv}
SMALL = {"features": 6, "heads": 3, "hidden": 4, "classes": 5, "last_heads": 2, "dropout": 0.6}


class Network(torch.nn.Module):
    """The network of the paper's section 3.3, as PyTorch Geometric's examples build it."""

    def __init__(self, layer, features=1433, heads=8, hidden=8, classes=7, last_heads=1, dropout=0.6):
        super().__init__()
        self.dropout = dropout
        self.conv1 = layer(features, hidden, heads, dropout=dropout)
        self.conv2 = layer(heads * hidden, classes, last_heads, concat=False, dropout=dropout)

    def forward(self, x, edges):
        x = F.dropout(x, self.dropout, self.training)
        x = F.elu(self.conv1(x, edges))
        x = F.dropout(x, self.dropout, self.training)
        return self.conv2(x, edges)


def graph(nodes=12, pairs=25):
    """Pairs given once; some nodes point to themselves, and the last one to nobody."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm((nodes - 1) ** 2, generator=generator)[:pairs]
    edges = torch.cat([torch.stack([chosen // (nodes - 1), chosen % (nodes - 1)]), torch.tensor([[0, 1], [0, 1]])], 1)
    return torch.randn(nodes, SMALL["features"], generator=generator), edges.unique(dim=1)


@pytest.mark.parametrize("spec", LAYERS)
def test_network(spec):
    x, edges = graph()
    assert (edges[0] == edges[1]).sum() >= 2
    ours = towerdsl.compile(spec, **SMALL)().eval()
    theirs = draw(Network(LAYERS[spec], **SMALL)).eval()
    assert_equals_peer(ours, theirs, "torch_geometric", {"x": x, "edges": edges})


@pytest.mark.parametrize("spec", LAYERS)
@pytest.mark.parametrize("heads", [1, 8])
def test_each_layer(spec, heads):
    """One layer of each kind, alone: heads concatenated, and heads averaged."""
    x, edges = graph()
    ours = towerdsl.compile(spec, **SMALL | {"heads": heads, "last_heads": heads})().double().eval()
    theirs = draw(Network(LAYERS[spec], **SMALL | {"heads": heads, "last_heads": heads})).double().eval()
    assert_equals_peer(ours, theirs, "torch_geometric", {"x": x.double(), "edges": edges}, 1e-12)
    torch.testing.assert_close(ours.first(x.double(), edges), theirs.conv1(x.double(), edges))


@pytest.mark.parametrize("spec", LAYERS)
def test_dropout_is_of_features_and_of_weights(spec):
    """Dropping weights alone, the mean of many draws is the value without dropout."""
    x, edges = graph()
    first, x = draw(towerdsl.compile(spec, **SMALL)()).double().first, x.double()
    assert first.dropout.p == SMALL["dropout"]
    with torch.no_grad():
        still = first.eval()(x, edges)
        first.train().dropout.p = 0.0  # features stay
        drawn = torch.stack([first(x, edges) for _ in range(3000)])
    torch.testing.assert_close(drawn.mean(0), still, rtol=0, atol=float(5 * drawn.std(0).max() / 3000**0.5))
    assert drawn.std(0).min() > 0


@pytest.mark.parametrize("spec", LAYERS)
def test_published_size(spec):
    assert_published_size(spec, "torch_geometric", lambda: Network(LAYERS[spec]))


def test_cora():
    """The whole graph at the published sizes: 2708 papers, 10,556 citations."""
    data = np.load(CORA)
    rows = np.repeat(np.arange(2708), np.diff(data["x_indptr"]))
    x = torch.zeros(*data["x_shape"].tolist())
    x[rows, data["x_indices"]] = 1.0
    x = x / x.sum(1, keepdim=True).clamp(min=1)
    theirs = Network(GATConv).eval()
    ours = towerdsl.compile("gat")().eval()
    assert_equals_peer(ours, theirs, "torch_geometric", {"x": x, "edges": torch.from_numpy(data["edge_index"])})
