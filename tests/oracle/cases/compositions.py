"""How blocks are put together: loops, choices, modules, definitions, files, shapes."""

import torch
import torch.nn.functional as F

from ..case import case, floats, given, ints, linears, norms, param
from ..loops import attention, each, layernorm, linear, rmsnorm, sinusoidal, unit
from .scores import rows

ALTERNATING = norms(8, "layernorm.0", "layernorm.1")
for _l in range(2):
    ALTERNATING |= linears(f"look.{_l}", 8, 8, "query", "key", "value", "output")


@case(ALTERNATING, x=floats(2, 5, 8))
def alternating(p, x):
    def one(x):
        for name, reach in (("0", 2), ("1", 5)):
            z = layernorm(p, f"layernorm.{name}", x)
            y = attention(
                *rows(p, f"look.{name}", z), heads=2, visible=lambda head, i, j, reach=reach: abs(i - j) < reach
            )
            x = x + linear(p, f"look.{name}.output", y)
        return x

    return each(one, x)


SHARED = param("scale", 8) | param("words.weight", 9, 8) | norms(8, "again.layernorm", "again.layernorm_2")
SHARED |= linears("again.look.project", 8, 8, bias=False) | linears("again.look.value", 8, 8)
SHARED |= linears("again.up", 16, 8) | linears("again.down", 8, 16)


@case(SHARED, ids=ints(9, 2, 5))
def shared(p, ids):
    def one(ids):
        x = p["words.weight"][ids] * p["scale"] * 8**0.5 + sinusoidal(len(ids), 8)
        for _ in range(2):
            z = layernorm(p, "again.layernorm", x)
            both, v = rows(p, "again.look", z, "project", "value")
            x = x + attention(both, both, v, heads=2, visible=lambda head, i, j: j <= i)
            hidden = F.gelu(linear(p, "again.up", layernorm(p, "again.layernorm_2", x)))
            x = x + linear(p, "again.down", hidden)
        return torch.stack([torch.stack([torch.dot(token, word) for word in p["words.weight"]]) for token in x])

    return each(one, ids)


VIT = (
    param("cls", 8) | param("position", 5, 8) | norms(8, "layernorm") | linears("linear", 8, 12) | linears("head", 3, 8)
)


@case(VIT | linears("look", 8, 8, "query", "key", "value", "output"), pixels=floats(2, 3, 4, 4))
def vit(p, pixels):
    def one(pixels):
        patches = [pixels[:, h : h + 2, w : w + 2].flatten() for h in (0, 2) for w in (0, 2)]
        x = torch.stack([p["cls"], *(linear(p, "linear", patch) for patch in patches)]) + p["position"]
        y = attention(*rows(p, "look", layernorm(p, "layernorm", x)), heads=2)
        x = x + linear(p, "look.output", y)
        return linear(p, "head", x[0]), sum(x[1:]) / 4, x[:-1]

    return tuple(torch.stack(results) for results in zip(*map(one, pixels), strict=True))


USING = (
    norms(8, "twice.layernorm")
    | linears("twice.smooth", 8, 8, "query", "key")
    | linears("twice.smooth_2", 8, 8, "query", "key")
)


@case(USING, x=floats(2, 6, 8))
def using(p, x):
    def laplace(scale):
        return lambda q, k, head, i, j: -(q - k).abs().sum() / scale

    def smooth(name, x):
        q, k = rows(p, name, x, "query", "key")
        return attention(q, k, x, heads=2, score=laplace(4), visible=lambda head, i, j: abs(i - j) < 2 and j <= i)

    def sharp(q, k, head, i, j):
        return laplace(0.5)(q, k, head, i, j) + laplace(2)(q, k, head, i, j)

    def one(x):
        y = smooth("twice.smooth", layernorm(p, "twice.layernorm", x, eps=1e-3))
        z = smooth("twice.smooth_2", y)
        return z + attention(y, y, y, score=sharp, visible=lambda head, i, j: abs(i - 2 * j) < 2)

    return each(one, x)


NESTED = {}
for _l in range(2):
    NESTED |= param(f"mixer.{_l}.alpha", 6) | linears(f"mixer.{_l}.read", 6, 6, "query", "key")
    NESTED |= linears(f"mixer.{_l}.linear", 6, 6, "0", "1", bias=False)
NESTED |= linears("mixer.1.look", 6, 6, "query", "key")


@case(NESTED, x=floats(2, 4, 6), context=floats(2, 5, 6))
def nested(p, x, context):
    def look(name, x, context, reach):
        q, k = linear(p, name + ".query", x), linear(p, name + ".key", context)
        return attention(q, k, context, visible=lambda head, i, j: abs(i - j) <= reach)

    def mixer(name, x, context, both):
        y = look(name + ".read", x, context, 1) * p[name + ".alpha"]
        y = y + (look(name + ".read", y, context, 1) if both else look(name + ".look", y, context, 2))
        for turn in range(2):
            y = torch.tanh(linear(p, f"{name}.linear.{turn}", y)) + turn * x
        return y, y - x

    def one(x, context):
        x, first = mixer("mixer.0", x, context, both=True)
        x, second = mixer("mixer.1", x, context, both=False)
        return x, first + second

    return tuple(torch.stack(results) for results in zip(*map(one, x, context), strict=True))


CHAIN = norms(8, "look.rmsnorm", bias=False) | linears("look", 16, 8, "wide", "up") | linears("look.down", 8, 16)
CHAIN |= linears("look.key", 4, 8) | linears("look.output", 8, 16)


@case(CHAIN, x=floats(2, 5, 8))
def chain(p, x):
    def one(x):
        x = rmsnorm(p, "look.rmsnorm", x)
        q = linear(p, "look.down", F.gelu(linear(p, "look.up", x)))
        k = torch.stack([unit(row) for row in linear(p, "look.key", x)])
        v = torch.tanh(linear(p, "look.wide", x))
        return x + linear(p, "look.output", attention(q, k, v, heads=2, key_heads=1, merge="sum"))

    return each(one, x)


@case(x=floats(2, 4, 6), lag=floats(2, 4))
def shapes(p, x, lag):
    def one(x, lag):
        grid = x.reshape(4, 3, 2)
        lines = []
        for r in range(2):
            line = grid[:, :, r]
            sums = torch.stack([sum(line[: j + 1]) for j in range(4)])
            y = attention(line.flip(0), sums, line, visible=lambda head, i, j: j <= i)
            lines.append(torch.stack([torch.exp(row) / torch.exp(row).sum() for row in y]))
        y = torch.stack(lines, dim=-1)
        z = torch.cat([y, y.amax(0)[None], y.amin(0)[None]])
        places = torch.arange(4, dtype=x.dtype)
        return z[1:].sum((1, 2)) * lag.mean(), y.mean((0, 2)), x.amax(1) - places

    return tuple(torch.stack(results) for results in zip(*map(one, x, lag), strict=True))


@case(spec="shapes", x=floats(2, 4, 6))
def shapes_defaults(p, x):
    return shapes(p, x, torch.ones(2, 4, dtype=x.dtype))


CONVOLUTIONS = param("conv.weight", 4, 2, 3) | param("conv.bias", 4) | param("conv_2.weight", 4, 4, 1, 3)


@case(CONVOLUTIONS, x=floats(2, 4, 5), grid=floats(2, 4, 4, 5))
def convolutions(p, x, grid):
    def cosine(q, k, *at):
        return torch.dot(unit(q), unit(k))

    def time(x):
        x = F.conv1d(x[None], p["conv.weight"], p["conv.bias"], padding=2, dilation=2, groups=2)[0].T
        return attention(x, x, x, heads=2).T

    def channels(x):
        x = F.conv2d(F.avg_pool2d(x[None], 2, stride=1), p["conv_2.weight"], stride=(1, 2), padding=(0, 1))[0]
        rows = x.flatten(1)
        return attention(rows, rows, rows, score=cosine, visible=lambda head, i, j: abs(i - j) < 2).reshape(x.shape)

    return each(time, x), each(channels, grid)


FIRST = {name: (4, 4, *kernel) for name, kernel in {"conv.0.weight": (1, 3), "conv.1.weight": (1, 3)}.items()}
FIRST |= {"conv.0.bias": (4,), "conv.1.bias": (4,), "conv_2.weight": (2, 4, 1, 1), "conv_2.bias": (2,)}
FIRST |= linears("linear", 4, 4)
for _name, _kernel in {"step.0.conv": 3, "step.1.conv": 3, "look.query": 1, "look.key": 1}.items():
    FIRST |= {f"{_name}.weight": (4, 4, _kernel, _kernel), f"{_name}.bias": (4,)}


@case(FIRST, x=floats(2, 4, 3, 5))
def channels_first(p, x):
    def conv(name, x, **options):
        return F.conv2d(x[None], p[f"{name}.weight"], p[f"{name}.bias"], **options)[0]

    def one(x):
        for n in (0, 1):
            x = x + F.relu(conv(f"step.{n}.conv", x, padding=1))
        for n in (0, 1):
            x = conv(f"conv.{n}", x, padding=(0, 2), dilation=(1, 2))
        q, k = (conv(f"look.{name}", x).flatten(1).T for name in ("query", "key"))
        x = x + attention(q, k, x.flatten(1).T).T.reshape(x.shape)
        x = x + F.max_pool2d(x[None], 3, stride=1, padding=1)[0] - x
        gate = linear(p, "linear", x.mean((1, 2))).sigmoid()
        return x * gate[:, None, None], torch.cat([x, conv("conv_2", x)])

    found = [one(entry) for entry in x]
    return [torch.stack(results) for results in zip(*found, strict=True)]


OUTER = linears("query", 3, 6) | linears("key", 3, 6) | linears("value", 3, 6)
OUTER |= param("row", 2, 6) | param("column", 4, 6)


@case(OUTER, x=floats(2, 5, 6), image=floats(2, 2, 4, 6), length=given([3, 5]))
def outer(p, x, image, length):
    def states(x):
        q, k = (F.softplus(linear(p, name, x)) for name in ("query", "key"))
        v = linear(p, "value", x)
        return q, [[k[n, e] * v[n] for e in range(3)] for n in range(len(x))]

    def read(x, length):
        q, kv = states(x)
        return torch.stack([sum(row[e] * sum(kv[n][e] for n in range(length)) for e in range(3)) for row in q])

    def back(x):
        q, kv = states(x)
        return torch.stack([sum(q[i, e] * kv[j][e] for e in range(3) for j in range(i + 1)) for i in range(len(x))])

    def placed(image):
        return torch.stack([image[h] + p["row"][h] + p["column"] for h in range(2)])

    pairs = torch.stack([torch.stack([torch.cat([row, column]) for column in p["column"]]) for row in p["row"]])
    return each(read, x, length), each(back, x), each(placed, image), pairs
