"""Attentions of which each query sees a part, or all of an image, beside what torch offers for them.

A peer gets its tensors as it likes them, [b, h, n, d]; ours gets what projections give, [b, n, h * d].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from rows import Attention, Pair, Row, attention
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import towerdsl

HEADS, WIDTH = 12, 64
CAUSAL = "0 <= i - j < 256"
GLOBAL = "abs(i - j) < 128 or i < 16 or j < 16"
Condition = Callable[[Tensor, Tensor], Tensor]


def causal(i: Tensor, j: Tensor) -> Tensor:
    """Whether j is one of the last 256 positions up to i."""
    return (i >= j) & (i - j < 256)


def with_global(i: Tensor, j: Tensor) -> Tensor:
    """Whether i and j are less than 128 apart, or one of them is among the first 16."""
    return ((i - j).abs() < 128) | (i < 16) | (j < 16)


def tensors(n: int) -> list[Tensor]:
    """Query, key and value of n positions, [1, n, heads * width]."""
    return [torch.randn(1, n, HEADS * WIDTH) for _ in range(3)]


def split(x: Tensor) -> Tensor:
    """[b, n, h * d] --> [b, h, n, d], in that order in memory."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2).contiguous()


def merge(y: Tensor) -> Tensor:
    """[b, h, n, d] --> [b, n, h * d]"""
    return y.transpose(1, 2).flatten(-2)


def checked(pair: Attention, result: Callable[[Tensor], Tensor] = lambda y: y) -> Attention:
    """A pair whose two results are the same."""
    ours, peer = pair.forward()
    torch.testing.assert_close(ours(), result(peer()), rtol=1e-3, atol=1e-4)
    return pair


@cache
def local(locality: str) -> torch.nn.Module:
    """The compiled attention in which each query sees what a condition says."""
    return attention({"heads": "heads", "locality": locality}, d=HEADS * WIDTH, heads=HEADS)


def beside_sdpa(locality: str, condition: Condition, tiny: bool) -> Pair:
    """Ours beside scaled_dot_product_attention, with the condition as a dense mask that is ready."""
    n = 512 if tiny else 4096
    inputs = tensors(n)
    mask = condition(torch.arange(n)[:, None], torch.arange(n))
    peer = partial(F.scaled_dot_product_attention, attn_mask=mask)
    return checked(Attention(local(locality), inputs, peer, [split(x) for x in inputs]), merge)


def beside_flex(tiny: bool) -> Pair:
    """Ours beside flex_attention, compiled and with its mask built before."""
    n = 512 if tiny else 4096
    inputs = tensors(n)
    mask = create_block_mask(lambda b, h, i, j: causal(i, j), None, None, n, n, device="cpu")
    compiled = flex_attention if tiny else torch.compile(flex_attention)  # compiling takes half a minute
    return checked(
        Attention(local(CAUSAL), inputs, partial(compiled, block_mask=mask), [split(x) for x in inputs]), merge
    )


def beside_itself(
    ours: Callable[[], Callable[..., Tensor]], make: Callable[[int], list[Tensor]], n: int, times: int
) -> Callable[[bool], Pair]:
    """Ours with `times` as many positions beside ours with n."""

    def build(tiny: bool) -> Pair:
        few = n // 64 if tiny else n
        function = ours()
        return Attention(function, make(few * times), function, make(few))

    return build


def danet(tiny: bool) -> Pair:
    """Every position of an image sees all, without heads; the peer is what the authors' code does."""
    side, c, m = (16, 32, 8) if tiny else (64, 512, 64)
    maps = [torch.randn(1, channels, side, side) for channels in (m, m, c)]
    spec = """
tower: position
sizes: {c: 512, m: 64}
inputs:
  queries: float[b, m, h, w]
  keys: float[b, m, h, w]
  values: float[b, c, h, w]
blocks:
  look(queries[b, m, h, w], keys[b, m, h, w], values[b, c, h, w]):
    over: [h, w]
    features: [m, c]
    query: queries
    key: keys
    value: values
    score: dot(q, k)
outputs: look(queries, keys, values)
"""

    def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.bmm(q.flatten(2).mT, k.flatten(2)).softmax(-1)
        return torch.bmm(v.flatten(2), weights.mT).view_as(v)

    return checked(Attention(towerdsl.compile(spec, c=c, m=m)(), maps, dense, maps))


def related(n: int) -> list[Tensor]:
    """Query, key and value of n nodes, and 16 edges for each."""
    return [*(x[0] for x in tensors(n)), torch.randint(n, (2, 16 * n))]


def over_edges() -> Callable[..., Tensor]:
    """The compiled attention over the edges of a graph."""
    spec = """
tower: graph
sizes: {d: 768, heads: 12}
inputs: {queries: "float[n, d]", keys: "float[n, d]", values: "float[n, d]", edges: "relation[n, n]"}
blocks:
  look(queries, keys, values, edges):
    query: queries
    key: keys
    value: values
    heads: heads
    locality: edges[j, i]
outputs: look(queries, keys, values, edges)
"""
    module: Callable[..., Tensor] = towerdsl.compile(spec)()
    return module


def unlike() -> Callable[..., Tensor]:
    """The compiled attention that scores by distance: no dot product, and everything is visible."""
    return attention({"score": "-sum(abs(q - k))"}, d=8, kernel="chunked")


DENSE = "SDPA with a dense mask"
N = 4096
ROWS = (
    Row("causal window 256, N = 4096, 12 x 64", DENSE, partial(beside_sdpa, CAUSAL, causal), 0.08, 0.11),
    Row("the same beside two busy processes", DENSE, partial(beside_sdpa, CAUSAL, causal), 0.4, 0.4, busy=2),
    Row("causal window 256, N = 4096, 12 x 64", "compiled flex_attention", beside_flex, 0.6),
    *(
        Row(
            f"causal window 256, N = {N * k}",
            f"ours at {N}",
            beside_itself(partial(local, CAUSAL), tensors, N, k),
            1.1,
            1.1,
            1.15,
            k,
        )
        for k in (4, 16)
    ),
    Row("window 128 or 16 global tokens, N = 4096", DENSE, partial(beside_sdpa, GLOBAL, with_global), 0.13, 0.16),
    Row("DANet position attention, 64 x 64", "bmm, softmax, bmm", danet, 0.9, 0.85, 0.11),
    Row(
        "window or global tokens, N = 16384",
        f"ours at {N}",
        beside_itself(partial(local, GLOBAL), tensors, N, 4),
        memory=1.15,
        times=4,
    ),
    Row(
        "blocks of 256, N = 16384",
        f"ours at {N}",
        beside_itself(partial(local, "i // 256 == j // 256"), tensors, N, 4),
        memory=1.15,
        times=4,
    ),
    Row(
        "16 edges for each of 16384 nodes",
        f"ours at {N}",
        beside_itself(over_edges, related, N, 4),
        memory=1.15,
        times=4,
    ),
    Row(
        "a score that is no dot product, N = 8192",
        "ours at 2048",
        beside_itself(unlike, lambda n: [torch.randn(1, n, 8) for _ in range(3)], 2048, 4),
        memory=1.15,
        times=4,
    ),
)
