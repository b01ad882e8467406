"""The four snippets of the design."""

import torch
import torch.nn.functional as F

from ..case import bools, case, floats, given, ints, linears, norms, param
from ..loops import attention, each, layernorm, linear, scaled_dot

BERT = (
    param("embed.weight", 11, 8) | param("embed_2.weight", 7, 8) | param("embed_3.weight", 2, 8) | norms(8, "layernorm")
)
for _l in range(2):
    BERT |= linears(f"layer.{_l}.look", 8, 8, "query", "key", "value", "output")
    BERT |= norms(8, f"layer.{_l}.layernorm", f"layer.{_l}.layernorm_2")
    BERT |= linears(f"layer.{_l}.linear", 16, 8) | linears(f"layer.{_l}.linear_2", 8, 16)


@case(BERT, ids=ints(11, 2, 6), segment=ints(2, 2, 6), keep=bools(2, 6))
def bert(p, ids, segment, keep):
    def one(ids, segment, keep):
        x = p["embed.weight"][ids] + p["embed_2.weight"][: len(ids)] + p["embed_3.weight"][segment]
        x = layernorm(p, "layernorm", x)
        for layer in ("layer.0.", "layer.1."):
            q, k, v = (linear(p, f"{layer}look.{part}", x) for part in ("query", "key", "value"))
            y = attention(q, k, v, heads=2, visible=lambda head, i, j: keep[j])
            x = layernorm(p, layer + "layernorm", x + linear(p, layer + "look.output", y))
            hidden = F.gelu(linear(p, layer + "linear", x))
            x = layernorm(p, layer + "layernorm_2", x + linear(p, layer + "linear_2", hidden))
        return x

    return each(one, ids, segment, keep)


@case(BERT, spec="bert", ids=ints(11, 2, 5))
def bert_defaults(p, ids):
    return bert(p, ids, torch.zeros_like(ids), torch.ones_like(ids))


SWIN = {}
for _l in range(2):
    SWIN |= param(f"window_attention.{_l}.table", 2, 3, 3)
    SWIN |= linears(f"window_attention.{_l}", 8, 8, "query", "key", "value", "output")


@case(SWIN, x=floats(2, 4, 5, 8))
def shifted_windows(p, x):
    height, width = x.shape[1:3]

    def layer(x, name, shift):
        table = p[name + ".table"]

        def window(i):
            return (i // width + shift) // 2, (i % width + shift) // 2

        def score(q, k, head, i, j):
            return scaled_dot(q, k, head, i, j) + table[head, i // width - j // width + 1, i % width - j % width + 1]

        q, k, v = (linear(p, f"{name}.{part}", x) for part in ("query", "key", "value"))
        y = attention(q, k, v, heads=2, score=score, visible=lambda head, i, j: window(i) == window(j))
        return x + linear(p, name + ".output", y)

    def one(x):
        x = x.reshape(height * width, 8)
        x = layer(x, "window_attention.0", 0)
        x = layer(x, "window_attention.1", 1)
        return x.reshape(height, width, 8)

    return each(one, x)


# Node 3 hears nobody, node 5 is alone, and (0, 1) is given twice.
EDGES = [[0, 0, 1, 2, 4, 3, 2, 2, 0, 4], [1, 1, 2, 0, 4, 1, 1, 4, 4, 0]]
GAT = linears("gat.linear", 6, 5, bias=False) | param("gat.a_src", 2, 3) | param("gat.a_dst", 2, 3)
GAT |= linears("last.linear", 8, 6, bias=False) | param("last.a_src", 2, 4) | param("last.a_dst", 2, 4)


@case(GAT, x=floats(6, 5), edges=given(EDGES))
def graph_attention(p, x, edges):
    pairs = {(int(source), int(target)) for source, target in edges.T}

    def layer(x, name, visible, merge):
        def score(q, k, head, i, j):
            return F.leaky_relu(torch.dot(p[name + ".a_dst"][head], q) + torch.dot(p[name + ".a_src"][head], k), 0.2)

        h = linear(p, name + ".linear", x)
        return attention(h, h, h, heads=2, score=score, visible=visible, merge=merge)

    x = F.elu(layer(x, "gat", lambda head, i, j: (j, i) in pairs, "concat"))
    return layer(x, "last", lambda head, i, j: (j, i) in pairs or i == j, "mean")


@case(param("gamma", 4), x=floats(2, 4, 3, 2))
def channel_attention(p, x):
    def one(x):
        channels = x.reshape(4, 6)
        y = attention(channels, channels, channels, score=lambda q, k, head, i, j: -torch.dot(q, k))
        return x + p["gamma"].reshape(4, 1, 1) * y.reshape(4, 3, 2)

    return each(one, x)
