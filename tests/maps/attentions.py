"""Attentions to explore, of random weights; and what packed weights stand for."""

import base64
import zlib

import numpy as np
import torch

from towerdsl.maps import AttentionMap, Grid
from towerdsl.maps.packing import Packed, largest

#: A text that would run a script, were it markup.
HOSTILE = "</script><script>window.hacked = 1</script><!-- <img src=x onerror='window.hacked = 1'>"


def sequence(
    path="layer.0.attention", n=7, keys=None, heads=3, batch=1, axes=("n", "n"), seed=0, **more
) -> AttentionMap:
    """An attention of one axis, of random weights."""
    m = keys or n
    draw = torch.Generator().manual_seed(seed)
    w = torch.randn(batch, heads, n, m, generator=draw).mul(2).softmax(-1)
    given = {"call": 0, "rows": torch.arange(n), "heads": tuple(range(heads)), "weights": w} | more
    return AttentionMap(path, queries=Grid((axes[0],), (n,)), keys=Grid((axes[1],), (m,)), **given)


def windowed(n: int, near: int, heads: int) -> AttentionMap:
    i = torch.arange(n)
    w = torch.randn(1, heads, n, n, generator=torch.Generator().manual_seed(0))
    return sequence(n=n, heads=heads, weights=w.masked_fill((i[:, None] - i).abs() > near, -torch.inf).softmax(-1))


def graph(nodes=30, pairs=120, heads=2) -> AttentionMap:
    """A graph whose pairs are listed in no order; each node has a pair with itself, and the one after it."""
    draw = torch.Generator().manual_seed(1)
    drawn = torch.randperm(nodes * nodes, generator=draw)[:pairs]
    sure = torch.arange(nodes) * nodes
    found = torch.cat([drawn, sure + torch.arange(nodes), sure + (torch.arange(nodes) + 1) % nodes]).unique()
    found = found[torch.randperm(len(found), generator=draw)]
    w = torch.rand(1, heads, len(found), generator=draw)
    places = Grid(("node",), (nodes,))
    query, key = found // nodes, found % nodes
    return AttentionMap("first", 0, places, places, torch.arange(nodes), tuple(range(heads)), w, query, key)


def unpack(one: AttentionMap, packed: Packed) -> torch.Tensor:
    """The weights [B, H, R, K] that a packed map stands for, entry by entry, as `Packed` describes them."""
    data = zlib.decompress(base64.b64decode(packed.data))
    found = []
    for code, count in (
        ("<f4", packed.rows),
        ("<u4", packed.rows),
        ("<u4" if packed.wide else "<u2", packed.entries),
        (f"<{'i' if packed.signed else 'u'}{packed.bits // 8}", packed.entries),
    ):
        size = np.dtype(code).itemsize * count
        found.append(np.frombuffer(data[:size], code))
        data = data[size:]
    assert not data
    scales, counts, steps, values = found
    w = np.zeros((packed.rows, one.keys.count))
    e = 0
    for row in range(packed.rows):
        column = 0
        for _ in range(counts[row]):
            column += int(steps[e])
            share = float(values[e]) / largest(packed.bits, packed.signed)
            w[row, column] += share * abs(share) * scales[row]
            e += 1
    return torch.tensor(w).reshape(*one.weights.shape[:2], len(one.rows), one.keys.count)


CASES = {
    "softmax": sequence(batch=2),
    "signed": sequence(weights=torch.randn(1, 3, 7, 7, generator=torch.Generator().manual_seed(2))),
    "window": windowed(20, 2, 2),
    "rows": sequence(
        rows=torch.tensor([1, 4]), weights=torch.rand(1, 3, 2, 7, generator=torch.Generator().manual_seed(3))
    ),
    "pairs": graph(),
    "wide": sequence(n=1, keys=70_000, heads=1),
    "zeros": sequence(weights=torch.zeros(1, 3, 7, 7)),
}
