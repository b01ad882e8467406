"""Affinities, biases, messages."""

import math

import torch
import torch.nn.functional as F

from ..case import bools, case, floats, ints, linears, norms, param, positives
from ..loops import attention, bucket, bucket_causal, clip, each, linear, rmsnorm, rope_pairs, scaled_dot, unit


def rows(p, name, x, *fields):
    return [linear(p, f"{name}.{field}", x) for field in fields or ("query", "key", "value")]


def recurrent(name, size, columns, gates):
    shapes = param(f"{name}.weight_ih_l0", gates * size, columns) | param(f"{name}.weight_hh_l0", gates * size, size)
    return shapes | param(f"{name}.bias_ih_l0", gates * size) | param(f"{name}.bias_hh_l0", gates * size)


ADDITIVE = recurrent("lstm", 6, 4, gates=4) | recurrent("gru", 4, 6, gates=3) | param("look.w", 6)


@case(
    ADDITIVE | linears("look.query", 6, 6, bias=False) | linears("look.key", 6, 4),
    state=floats(2, 6),
    x=floats(2, 4, 4),
)
def additive(p, state, x):
    def gates(name, x, h):
        return (
            F.linear(x, p[name + ".weight_ih_l0"], p[name + ".bias_ih_l0"]),
            F.linear(h, p[name + ".weight_hh_l0"], p[name + ".bias_hh_l0"]),
        )

    def lstm(x):
        h = c = torch.zeros(6, dtype=x.dtype)
        states = []
        for step in x:
            enter, forget, cell, leave = sum(gates("lstm", step, h)).chunk(4)
            c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(cell)
            h = torch.sigmoid(leave) * torch.tanh(c)
            states.append(h)
        return torch.stack(states)

    def gru(x):
        h = torch.zeros(4, dtype=x.dtype)
        states = []
        for step in x:
            (r_x, z_x, n_x), (r_h, z_h, n_h) = (g.chunk(3) for g in gates("gru", step, h))
            z = torch.sigmoid(z_x + z_h)
            h = (1 - z) * torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h) + z * h
            states.append(h)
        return torch.stack(states)

    def score(q, k, head, i, j):
        return torch.dot(p["look.w"], torch.tanh(q + k))

    def one(state, x):
        x = gru(lstm(x))
        return attention(linear(p, "look.query", state)[None], linear(p, "look.key", x), x, score=score)[0]

    return each(one, state, x)


@case(param("look.matrix", 5, 3), x=floats(2, 4, 5), memory=floats(2, 6, 3))
def bilinear(p, x, memory):
    def score(q, k, head, i, j):
        return sum(q[a] * p["look.matrix"][a, b] * k[b] for a in range(5) for b in range(3))

    return each(lambda x, memory: attention(x, memory, memory, score=score), x, memory)


@case(x=floats(2, 3, 4, 4))
def gaussian(p, x):
    def score(q, k, head, i, j):
        away = (i // 4 - j // 4) ** 2 + (i % 4 - j % 4) ** 2
        return -torch.dot(q - k, q - k) / (2 * 1.5**2) - away / 8

    def one(x):
        pixels = x.reshape(12, 4)
        return attention(pixels, pixels, pixels, score=score).reshape(3, 4, 4)

    return each(one, x)


NONLOCAL = param("look.wq", 6) | param("look.wk", 6) | linears("look", 6, 6, "query", "key", "value", "output")


@case(NONLOCAL, x=floats(2, 5, 6), keep=bools(2, 5))
def concatenation(p, x, keep):
    def score(q, k, head, i, j):
        return torch.relu(torch.dot(p["look.wq"], q) + torch.dot(p["look.wk"], k))

    def one(x, keep):
        y = attention(*rows(p, "look", x), score=score, visible=lambda head, i, j: keep[j], normalize="count")
        return x + linear(p, "look.output", y)

    return each(one, x, keep)


@case(param("look.tau", 2) | param("look.bias", 2) | linears("look", 8, 8, "query", "key", "value"), x=floats(2, 5, 8))
def cosine(p, x):
    def score(q, k, head, i, j):
        return torch.dot(unit(q), unit(k)) * torch.exp(p["look.tau"][head]) + p["look.bias"][head]

    return each(lambda x: attention(*rows(p, "look", x), heads=2, score=score, normalize="sigmoid", merge="mean"), x)


@case(
    param("look.rate", 2) | param("look.table", 2, 4),
    x=floats(2, 5, 8),
    distance=positives(2, 5, 5),
    kind=ints(4, 5, 5),
)
def pairwise(p, x, distance, kind):
    def one(x, distance):
        def score(q, k, head, i, j):
            far = F.softplus(p["look.rate"][head]) * distance[i, j]
            return scaled_dot(q, k, head, i, j) - far + p["look.table"][head, kind[i, j]]

        return attention(x, x, x, heads=2, score=score, visible=lambda head, i, j: distance[j, i] < 0.8)

    return each(one, x, distance)


T5 = param("encode.table", 2, 8) | param("decode.table", 2, 8) | norms(8, "rmsnorm", "rmsnorm_2", bias=False)


@case(T5 | linears("encode", 8, 8, "query", "key", "value", bias=False), x=floats(2, 7, 8))
def t5(p, x):
    def encode(q, k, head, i, j):
        return torch.dot(q, k) + p["encode.table"][head, bucket(j - i, 8, 16)]

    def decode(q, k, head, i, j):
        return torch.dot(q, k) + p["decode.table"][head, bucket_causal(j - i, 8, 16)]

    def one(x):
        x = x + attention(*rows(p, "encode", rmsnorm(p, "rmsnorm", x)), heads=2, score=encode)
        z = rmsnorm(p, "rmsnorm_2", x)
        return x + attention(z, z, z, heads=2, score=decode, visible=lambda head, i, j: j <= i)

    return each(one, x)


@case(linears("look", 16, 16, "query", "key", "value"), x=floats(2, 5, 16))
def alibi(p, x):
    def score(q, k, head, i, j):
        return scaled_dot(q, k, head, i, j) - abs(i - j) * 2 ** (-8 * (head + 1) / 4)

    return each(lambda x: attention(*rows(p, "look", x), heads=4, score=score, visible=lambda head, i, j: j <= i), x)


SHAW = param("look.to_key", 5, 4) | param("look.to_value", 5, 4) | param("look.table", 2, 5)


@case(SHAW | linears("look", 8, 8, "query", "key", "value"), x=floats(2, 6, 8))
def relative(p, x):
    def step(i, j):
        return clip(j - i, -2, 2) + 2

    def score(q, k, head, i, j):
        bias = p["look.table"][head, clip(i - j, -2, 2) + 2]
        return torch.dot(q, k + p["look.to_key"][step(i, j)]) / 2 + bias

    def message(v, head, i, j):
        return v + p["look.to_value"][step(i, j)]

    return each(lambda x: attention(*rows(p, "look", x), heads=2, score=score, message=message), x)


@case(param("look.gate", 3, 2), x=floats(2, 4, 6), weight=floats(2, 4, 4))
def gated_message(p, x, weight):
    def one(x, weight):
        def message(v, head, i, j):
            return torch.relu(v * p["look.gate"][head]) * weight[i, j] + 0.1 * (i - j)

        return attention(x, x, x, heads=3, score=lambda q, k, head, i, j: torch.dot(q, k), message=message)

    return each(one, x, weight)


LINEAR = linears("everywhere", 8, 8, "query", "key", "value") | linears("back", 8, 8, "query", "key", "value")


@case(LINEAR, x=floats(2, 5, 8), keep=bools(2, 5))
def linear_attention(p, x, keep):
    def score(q, k, head, i, j):
        return torch.dot(F.elu(q) + 1, F.elu(k) + 1)

    def one(x, keep):
        look = {"heads": 2, "score": score, "normalize": "sum"}
        x = x + attention(*rows(p, "everywhere", x), visible=lambda head, i, j: keep[j], **look)
        return x + attention(*rows(p, "back", x), visible=lambda head, i, j: j <= i, **look)

    return each(one, x, keep)


@case(linears("retain", 8, 8, "query", "key", "value", bias=False), x=floats(2, 5, 8))
def retention(p, x):
    def score(q, k, head, i, j):
        return torch.dot(rope_pairs(q, i, base=100), rope_pairs(k, j, base=100)) * (1 - 2 ** (-2 - head)) ** (i - j)

    def one(x):
        look = {"heads": 2, "score": score, "normalize": "none"}
        retained = attention(*rows(p, "retain", x), visible=lambda head, i, j: j <= i, **look)
        return retained + attention(x, x, x, score=lambda q, k, head, i, j: torch.dot(q, k), normalize="none")

    return each(one, x)


@case(x=floats(2, 5, 4), t=floats(2, 5))
def arithmetic(p, x, t):
    def one(x, t):
        def score(q, k, head, i, j):
            affinity = torch.dot(torch.tanh(q), torch.sigmoid(k)) if t[i] >= t[j] else -(q - k).abs().sum()
            same = i % 2 == j % 2 and i != j
            return (
                affinity
                + (t[i] if t[i] < t[j] else t[j])
                - (torch.sin(t[i]) if torch.sin(t[i]) > torch.cos(t[j]) else torch.cos(t[j]))
                + (0.3 if t[i] > t[j] else -0.3)
                + (torch.sqrt(1 + t[j] ** 2) if same else 1 / torch.sqrt(2 + t[i] ** 2))
                + math.floor(2 * t[j].item()) * 0.1
                + int(4 * t[i].item()) / 8
                + float(i // 2 > j)
                + torch.log(1 + torch.exp(torch.as_tensor(clip(t[i] - t[j], -1, 0.5), dtype=t.dtype)))
            )

        def visible(head, i, j):
            return not (i == j or -1 <= t[i] - t[j] < -0.9)

        v = F.silu(x) * F.gelu(x, approximate="tanh") + F.softplus(torch.erf(x))
        return attention(x, x, v, score=score, visible=visible)

    y = each(one, x, t)
    return F.leaky_relu(y, 0.3) + F.elu(y, alpha=0.7) + torch.relu(-y) - torch.floor(F.gelu(y)).detach()
