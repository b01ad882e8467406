"""Where queries, keys and values come from, and which axis is averaged."""

import math

import torch
import torch.nn.functional as F

from ..case import bools, case, floats, linears, norms, param
from ..loops import attention, clip, each, layernorm, linear, rope, scaled_dot, sinusoidal

CROSS = (
    linears("look", 8, 8, "query")
    | linears("look", 8, 6, "key")
    | linears("look", 16, 6, "value")
    | linears("look.output", 8, 16)
)


def keep_some(draw):
    """Two entries; the second keeps nothing."""
    return torch.tensor([[True, False, True, True, False], [False] * 5])


@case(CROSS, x=floats(2, 3, 8), memory=floats(2, 5, 6), keep=keep_some)
def cross(p, x, memory, keep):
    def one(x, memory, keep):
        k, v = linear(p, "look.key", memory), linear(p, "look.value", memory)
        y = attention(linear(p, "look.query", x), k, v, heads=2, visible=lambda head, i, j: keep[j])
        return x + linear(p, "look.output", y)

    return each(one, x, memory, keep)


GROUPED = linears("look", 24, 10, "query", bias=False) | linears("look", 8, 10, "key", "value", bias=False)


@case(GROUPED | linears("look.output", 10, 24, bias=False), x=floats(2, 5, 10))
def grouped(p, x):
    def score(q, k, head, i, j):
        return torch.dot(rope(q, i), rope(k, j)) / 2

    def one(x):
        q, k, v = (linear(p, f"look.{part}", x) for part in ("query", "key", "value"))
        y = attention(q, k, v, heads=6, key_heads=2, score=score, visible=lambda head, i, j: j <= i)
        return linear(p, "look.output", y)

    return each(one, x)


AXIAL = linears("rows", 8, 8, "query", "key", "value") | linears("columns", 8, 8, "query", "key", "value")


@case(AXIAL, x=floats(2, 3, 5, 8), keep=bools(2, 3, 5))
def axial(p, x, keep):
    def line(name, x, visible):
        q, k, v = (linear(p, f"{name}.{part}", x) for part in ("query", "key", "value"))
        return x + attention(q, k, v, heads=2, visible=visible)

    def row(x, keep):
        return line("rows", x, lambda head, i, j: keep[j] and abs(i - j) < 3)

    def one(x, keep):
        x = each(row, x, keep)
        columns = [line("columns", x[:, w], lambda head, i, j: j <= i) for w in range(x.shape[1])]
        return torch.stack(columns, dim=1)

    return each(one, x, keep)


@case(param("attentive.w", 6) | linears("attentive.key", 6, 6), x=floats(2, 5, 6), keep=keep_some)
def pooling(p, x, keep):
    def pool(k, v, keep, **options):
        nobody = torch.zeros(1, k.shape[1], dtype=v.dtype)
        return attention(nobody, k, v, visible=lambda head, i, j: keep[j], **options)[0]

    def middle(x, keep):
        return pool(x, x, keep, score=lambda q, k, head, i, j: 1.0, normalize="count")

    def attentive(x, keep):
        k = linear(p, "attentive.key", x)
        return pool(k, x, keep, score=lambda q, k, head, i, j: torch.dot(p["attentive.w"], torch.tanh(k)))

    def uniform(x):
        return pool(x, x, [True] * len(x), heads=2, score=lambda q, k, head, i, j: 0.0, merge="sum")

    return each(middle, x, keep), each(attentive, x, keep), each(uniform, x)


@case(linears("look", 8, 8, "query", "key", "output"), state=floats(2, 8), x=floats(2, 5, 8))
def query_vector(p, state, x):
    def one(state, x):
        q = linear(p, "look.query", state)[None]
        return linear(p, "look.output", attention(q, linear(p, "look.key", x), x, heads=2)[0])

    return each(one, state, x)


LATENTS = linears("read", 8, 8, "query", "key", "value") | linears("think", 8, 8, "query", "key", "value")


@case(param("latent", 3, 8) | LATENTS, x=floats(2, 5, 8))
def latents(p, x):
    def look(name, z, x):
        q, k, v = linear(p, name + ".query", z), linear(p, name + ".key", x), linear(p, name + ".value", x)
        return attention(q, k, v, heads=2)

    def one(x):
        z = look("read", p["latent"], x)
        return z + look("think", z, z)

    return each(one, x)


@case(param("look.names", 5, 8) | param("look.contents", 5, 8) | param("look.query.weight", 8), x=floats(2, 4, 8))
def memory(p, x):
    interleaved = sinusoidal(4, 8)
    places = torch.cat([interleaved[:, 0::2], interleaved[:, 1::2]], dim=1)

    def one(x):
        q = layernorm(p, "look.query", x + places)
        return x + attention(q, p["look.names"], p["look.contents"])

    return each(one, x)


@case(param("place", 5, 6) | linears("look", 6, 6, "query", "key"), x=floats(2, 5, 6))
def positions_only(p, x):
    q, k = linear(p, "look.query", p["place"]), linear(p, "look.key", p["place"])
    return each(lambda x: attention(q, k, x, heads=2), x)


@case(param("mix.weight", 4, 4), x=floats(2, 6, 3))
def mixing(p, x):
    def score(q, k, head, i, j):
        return p["mix.weight"][min(i, 3), min(j, 3)]

    return each(lambda x: x + attention(x, x, x, score=score, normalize="none"), x)


@case(param("look.table", 2) | param("look.far", 7), x=floats(2, 4, 2, 6), memory=floats(2, 5, 6))
def extra_axis(p, x, memory):
    def score(q, k, head, i, j):
        return scaled_dot(q, k, head, i, j) * p["look.table"][i % 2] + p["look.far"][clip(i - j, 0, 6)]

    def one(x, memory):
        y = attention(x.reshape(8, 6), memory, memory, score=score, visible=lambda head, i, j: i // 2 >= j - 1)
        return y.reshape(4, 2, 6)

    return each(one, x, memory)


REDUCED = norms(6, "groupnorm", "batchnorm") | param("look.reduce.weight", 6, 6, 2, 2) | param("look.reduce.bias", 6)


@case(REDUCED | param("look.full.weight", 6, 6, 1, 1), x=floats(2, 6, 4, 6))
def reduced(p, x):
    def score(q, k, head, i, j):
        return scaled_dot(q, k, head, i, j) - 0.1 * abs(i // 6 - 2 * (j // 3)) - 0.2 * abs(i % 6 - 2 * (j % 3))

    def one(x):
        q = F.conv2d(x[None], p["look.full.weight"])[0].reshape(6, 24).T
        k = F.conv2d(x[None], p["look.reduce.weight"], p["look.reduce.bias"], stride=2)[0].reshape(6, 6).T
        return x + attention(q, k, k, heads=2, score=score).T.reshape(6, 4, 6)

    x = F.group_norm(x, 3, p["groupnorm.weight"], p["groupnorm.bias"], eps=1e-5)
    nothing, unit = torch.zeros(6, dtype=x.dtype), torch.ones(6, dtype=x.dtype)
    x = F.batch_norm(x, nothing, unit, p["batchnorm.weight"], p["batchnorm.bias"], eps=1e-5)
    return F.max_pool2d(each(one, x), 2)


@case(param("look.sink", 6), x=floats(2, 4, 6))
def sink(p, x):
    def one(x):
        memory = torch.stack([x[0], p["look.sink"], *x[1:]])
        return attention(x, memory, memory, visible=lambda head, i, j: j <= i + 1 or j == 1)

    return each(one, x)


@case(x=floats(2, 5, 8))
def rotary(p, x):
    tau, n, d = 2 * math.pi, x.shape[1], x.shape[2]

    def plain(base=10000.0, size=d):
        return [base ** (-2 * t / size) for t in range(size // 2)]

    def stretched(length):
        return plain(10000 * (4 * max(n, length) / length - 3) ** (d / (d - 2)))

    def llama3(rate):
        """Llama 3.1: long waves are 8 times slower, short ones stay, between them both are mixed."""
        turns = 512 * rate / tau
        mixed = (1 - (turns - 1) / 3) * rate / 8 + (turns - 1) / 3 * rate
        return rate if turns > 4 else rate / 8 if turns < 1 else mixed

    def yarn(fast, slow, whole):
        """Peng et al. 2023, equation 23: features between those that turn `fast` and `slow` times are mixed."""
        first, last = (d * math.log(256 / (turns * tau)) / (2 * math.log(10000)) for turns in (fast, slow))
        first, last = (math.floor(first), math.ceil(last)) if whole else (first, last)
        first, last = max(first, 0), min(last, d - 1)
        slower = [clip((t - first) / (last - first), 0, 1) for t in range(d // 2)]
        return [rate * (1 - s) + rate / 4 * s for rate, s in zip(plain(), slower, strict=True)]

    longer = [rate / by for rate, by in zip(plain(), (1.0, 1.5, 2.5, 4.0), strict=True)]
    scale = math.sqrt(1 + math.log(4) / math.log(64))

    def one(x):
        def turned(rates, pairs=False, scale=1.0):
            rows = []
            for i, row in enumerate(x):
                size, half = 2 * len(rates), len(rates)
                new = row.clone()
                for t, rate in enumerate(rates):
                    a, b = (2 * t, 2 * t + 1) if pairs else (t, t + half)
                    cos, sin = math.cos(7 * i * rate), math.sin(7 * i * rate)
                    new[a], new[b] = row[a] * cos - row[b] * sin, row[b] * cos + row[a] * sin
                rows.append(torch.cat([scale * new[:size], row[size:]]))
            return torch.stack(rows)

        return (
            turned([rate / 4 for rate in plain()]),
            turned(plain(10000 * 4 ** (d / (d - 2)))),
            turned(stretched(16), pairs=True),
            turned(stretched(2)),
            turned([llama3(rate) for rate in plain(500)]),
            turned(yarn(16, 2, True), pairs=True, scale=0.05 * math.log(4) + 1),
            turned(yarn(32, 1, False)),
            turned(longer, scale=scale),
            turned(plain(size=4)),
            turned(plain(size=4), pairs=True, scale=2.0),
        )

    found = [one(entry) for entry in x]
    return tuple(torch.stack(parts) for parts in zip(*found, strict=True))
