"""Which j each i sees."""

import torch

from ..case import bools, case, floats, given, ints, linears, param
from ..loops import attention, each, linear, scaled_dot
from .scores import rows
from .sources import keep_some

WINDOWS = [
    lambda head, i, j: abs(i - j) < 2,
    lambda head, i, j: 0 <= i - j < 3,
    lambda head, i, j: (i - j) in (-3, 0, 3),
    lambda head, i, j: i // 3 == j // 3,
    lambda head, i, j: (i - j) % 3 == 0 and j <= i or 0 <= i - j < 2,
    lambda head, i, j: abs(i - j) < 2 or i < 1 or j < 1,
    lambda head, i, j: i // 3 != j // 3 and (i + 1) // 2 != (j + 1) // 2,
]


@case(x=floats(2, 8, 4))
def windows(p, x):
    def one(x):
        for visible in WINDOWS:
            x = (x + attention(x, x, x, visible=visible)) / 2
        return x

    return each(one, x)


@case(linears("look", 6, 6, "query", "key", "value"), x=floats(2, 7, 6))
def by_head(p, x):
    def visible(head, i, j):
        return j <= i and (i - j < 2**head or head == 2)

    return each(lambda x: attention(*rows(p, "look", x), heads=3, visible=visible), x)


@case(x=floats(2, 7, 4), doc=ints(2, 2, 7), keep=bools(2, 7), time=floats(2, 7))
def documents(p, x, doc, keep, time):
    def one(x, doc, keep, time):
        def visible(head, i, j):
            return keep[j] and keep[i] and doc[i] == doc[j] and time[j] - time[i] < 0.5

        return attention(x, x, x, heads=2, visible=visible)

    return each(one, x, doc, keep, time)


@case(linears("before", 4, 4, "query", "key", "value"), x=floats(2, 3, 4, 4), keep=bools(2, 3, 4))
def raster(p, x, keep):
    def windows(x, shift):
        def window(i):
            return (i // 4 + shift) // 2, (i % 4 + shift) // 2

        return attention(x, x, x, visible=lambda head, i, j: window(i) == window(j))

    def score(q, k, head, i, j):
        return scaled_dot(q, k, head, i, j) + 0.1 * (i - j)

    def one(x, keep):
        x, keep = x.reshape(12, 4), keep.reshape(12)
        x = x + attention(*rows(p, "before", x), score=score, visible=lambda head, i, j: j <= i and keep[j])
        return (x + windows(x, 0) + windows(x, 1)).reshape(3, 4, 4)

    return each(one, x, keep)


@case(param("look.table", 2, 3, 3) | linears("look.value", 4, 4), x=floats(1, 2, 3, 3, 4), hot=floats(2, 3, 3))
def video(p, x, hot):
    places = [(t, h, w) for t in range(2) for h in range(3) for w in range(3)]

    def score(q, k, head, i, j):
        (t, h, w), (t2, h2, w2) = places[i], places[j]
        return torch.dot(q, k) + p["look.table"][t - t2, h - h2 + 1, w - w2 + 1] + hot[t2, h2, w2]

    def visible(head, i, j):
        (t, h, w), (t2, h2, w2) = places[i], places[j]
        return abs(h - h2) <= 1 and abs(w - w2) <= 1 and t >= t2

    def one(x):
        x = x.reshape(18, 4)
        return attention(x, x, linear(p, "look.value", x), score=score, visible=visible).reshape(2, 3, 3, 4)

    return each(one, x)


@case(users=floats(2, 4, 4), items=floats(2, 5, 4), edges=given([[0, 4, 4, 2, 3, 4], [1, 1, 3, 3, 3, 1]]))
def bipartite(p, users, items, edges):
    pairs = {(int(source), int(target)) for source, target in edges.T}

    def known(head, i, j):
        return (j, i) in pairs

    def one(q, k):
        return (
            attention(q, k, k, heads=2, visible=known),
            attention(q, k, k, score=lambda *_: 1.0, visible=known, normalize="count"),
            attention(q, k, k, score=lambda *_: 1.0, visible=lambda *at: not known(*at), normalize="none"),
        )

    return tuple(torch.stack(results) for results in zip(*map(one, users, items), strict=True))


@case(linears("soft", 4, 4, "query", "key", "value"), x=floats(2, 5, 4), keep=keep_some)
def nobody(p, x, keep):
    def one(x, keep):
        look = {"visible": lambda head, i, j: keep[j] and j < i}
        return (
            attention(*rows(p, "soft", x), **look),
            attention(x, x, x, score=lambda q, k, *at: torch.exp(torch.dot(q, k)), normalize="sum", **look),
            attention(x, x, x, score=lambda q, k, *at: torch.dot(q, k), normalize="count", **look),
            attention(x, x, x, normalize="sparsemax", **look),
            attention(x, x, x, normalize="straight_through", **look),
        )

    return tuple(torch.stack(results) for results in zip(*map(one, x, keep), strict=True))


@case(
    linears("linear", 2, 3) | linears("linear_2", 3, 2) | linears("alone.value", 4, 3),
    x=floats(2, 3, 3, 4),
    keep=bools(2, 3, 4),
)
def gates(p, x, keep):
    gated, spatial = torch.zeros_like(x), torch.zeros_like(x)
    alone = x.new_zeros(2, 3, 4, 4)
    for b in range(2):
        f = linear(p, "linear_2", torch.relu(linear(p, "linear", x[b].mean((1, 2)))))
        for c in range(3):
            gated[b, c] = x[b, c] / (1 + torch.exp(-f[c]))
        for h in range(3):
            for w in range(4):
                if keep[b, h, w]:
                    alone[b, h, w] = linear(p, "alone.value", x[b, :, h, w])
                    if h != 1:
                        vector = x[b, :, h, w]
                        spatial[b, :, h, w] = (2 * torch.dot(vector, vector) + h * w) * vector
    return gated, spatial, alone
