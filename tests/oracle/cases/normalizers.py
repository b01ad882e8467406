"""How scores become weights. Models are in eval mode: `hard` takes the largest score."""

import torch

from ..case import bools, case, floats, linears
from ..loops import attention, best, each, linear, part, scaled_dot
from .scores import rows

FIELDS = ("query", "key", "value")
NAMES = {
    "soft": "softmax",
    "summed": "sum",
    "counted": "count",
    "gated": "sigmoid",
    "raw": "none",
    "sparse": "sparsemax",
    "best": ("topk", 2),
}
ALL = {name: shape for block in NAMES for name, shape in linears(block, 8, 8, *FIELDS).items()}


@case(ALL, x=floats(2, 5, 8), keep=bools(2, 5))
def normalizers(p, x, keep):
    def positive(q, k, head, i, j):
        return torch.exp(torch.dot(q, k) / 4)

    def one(block, x, keep):
        score = positive if block == "summed" else scaled_dot
        return attention(
            *rows(p, block, x), heads=2, score=score, visible=lambda head, i, j: keep[j], normalize=NAMES[block]
        )

    return tuple(each(lambda x, keep, block=block: one(block, x, keep), x, keep) for block in NAMES)


def look(p, x, keep, normalize):
    def one(x, keep):
        y = attention(*rows(p, "look", x), heads=2, visible=lambda head, i, j: keep[j], normalize=normalize)
        return linear(p, "look.output", y)

    return each(one, x, keep)


@case(linears("look", 8, 8, *FIELDS, "output"), x=floats(2, 5, 8), keep=bools(2, 5))
def hard(p, x, keep):
    return look(p, x, keep, "hard")


@case(linears("look", 8, 8, *FIELDS, "output"), x=floats(2, 5, 8), keep=bools(2, 5))
def straight_through(p, x, keep):
    return look(p, x, keep, "straight_through")


@case(linears("look", 8, 8, *FIELDS, "output"), x=floats(2, 5, 8), keep=bools(2, 5))
def gumbel(p, x, keep):
    return look(p, x, keep, ("straight_through", 0.7))


@case(linears("glimpse", 8, 8, "query", "key", "output"), x=floats(2, 5, 8), keep=bools(2, 5))
def score_function(p, x, keep):
    def log_prob(q, k, keep, head, i):
        seen = [j for j in range(len(k)) if keep[j]]
        scores = [scaled_dot(part(q[i], head, 2), part(k[j], head, 2), head, i, j) for j in seen]
        return scores[best(scores)] - torch.log(sum(torch.exp(f) for f in scores))

    def one(x, keep):
        q, k = rows(p, "glimpse", x, "query", "key")
        y = attention(q, k, x, heads=2, visible=lambda head, i, j: keep[j], normalize="hard")
        logs = [torch.stack([log_prob(q, k, keep, head, i) for i in range(len(x))]) for head in range(2)]
        return linear(p, "glimpse.output", y), torch.stack(logs)

    ys, logs = zip(*map(one, x, keep), strict=True)
    return torch.stack(ys), torch.stack(logs)
