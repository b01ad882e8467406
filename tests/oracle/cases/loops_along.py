"""Loops along an axis: what is carried, what is collected, what the last step puts out is read by the next."""

import torch

from ..case import bools, case, floats, ints, linears, param
from ..loops import attention, linear


def cell(p, name, x, h):
    z = torch.sigmoid(linear(p, name + ".gate", torch.cat([x, h])))
    return (1 - z) * h + z * torch.tanh(linear(p, name + ".read", x))


DECODER = param("words.weight", 9, 6) | linears("look.query", 6, 6)
for _name in ("encode.cell", "encode_2.cell", "cell"):
    DECODER |= linears(f"{_name}.gate", 6, 12) | linears(f"{_name}.read", 6, 6)


@case(DECODER, x=floats(3, 4, 6), target=ints(9, 3, 5), keep=bools(3, 4))
def decoder(p, x, target, keep):
    def encode(name, x, keep, order):
        states, h = {}, torch.zeros(6, dtype=x.dtype)
        for n in order:
            h = cell(p, f"{name}.cell", x[n], h) if keep[n] else h
            states[n] = h
        return torch.stack([states[n] for n in range(len(x))])

    def one(x, target, keep):
        places = range(len(x))
        memory = encode("encode", x, keep, places) + encode("encode_2", x, keep, reversed(places))
        s = memory[0]
        found = []
        for t in range(len(target)):
            c = attention(
                linear(p, "look.query", s[None]),
                memory,
                memory,
                score=lambda q, k, head, i, j, t=t: torch.dot(q, k) / (1 + abs(j - t)),
                visible=lambda head, i, j, t=t: bool(keep[j]) and j <= t + 1,
            )[0]
            s = cell(p, "cell", p["words.weight"][target[max(t - 1, 0)]] + c, s)
            logits = torch.stack([torch.dot(s, word) for word in p["words.weight"]])
            found.append((logits, torch.dot(s, c), c))
        return *(torch.stack(each) for each in zip(*found, strict=True)), s

    return tuple(torch.stack(results) for results in zip(*map(one, x, target, keep), strict=True))


FEEDBACK = param("place.0.weight", 4, 6) | param("place.1.weight", 4, 6) | param("words.weight", 7, 6)
FEEDBACK |= linears("mix", 6, 7) | linears("choose", 7, 7)
for _name in ("read", "again", "deep"):
    FEEDBACK |= linears(_name, 6, 6, "0", "1")


@case(FEEDBACK, x=floats(2, 3, 6))
def feedback(p, x):
    def one(x):
        count = len(x)
        for layer in range(2):
            h, states = torch.zeros(6, dtype=x.dtype), []
            for t in range(count):
                again = linear(p, f"again.{layer}", h) * t / count
                h = torch.tanh(linear(p, f"read.{layer}", x[count - 1 - t]) + again)
                states.append(h)
            x = x + torch.stack(states)
        s, word, chance = sum(x) / count, 0, None
        found = []
        for u in range(4):
            for layer in range(2):
                s = torch.tanh(linear(p, f"deep.{layer}", s) + p[f"place.{layer}.weight"][u])
            s = s + p["words.weight"][word] + (s if u == 0 else linear(p, "mix", chance))
            energy = torch.stack([torch.dot(s, row) for row in x])
            scores = torch.exp(linear(p, "choose", torch.cat([s, energy[:1]])))
            chance = scores / sum(scores)
            word = max(range(7), key=lambda choice, chance=chance: chance[choice].item())
            found.append((chance, torch.tensor(float(word), dtype=x.dtype), energy, s))
        return tuple(torch.stack(each) for each in zip(*found, strict=True))

    chances, written, energy, s = (torch.stack(results) for results in zip(*map(one, x), strict=True))
    largest = torch.stack([max(s[:, u].flatten(), key=lambda value: value.item()) for u in range(4)])
    numbers = torch.tensor([0.0, 1.0, 4.0, 9.0], dtype=x.dtype)
    late = torch.tensor([0.5, 0.5, 2.0, 2.0], dtype=x.dtype)
    return chances, written, energy, largest, numbers, late
