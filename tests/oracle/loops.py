"""The formula, as loops.

    y[i] = 1 / C[i] * sum over visible j of f(q[i], k[j], i, j) * g(v[j])

Nothing here comes from towerdsl, and nothing here is fast: one query, one head and one key at a time,
with a Python `if` for what is visible. A case hands in the formula's parts as functions of `(head, i, j)`.
"""

import math

import torch
import torch.nn.functional as F


def part(vector, head, heads):
    """The features of one head."""
    size = len(vector) // heads
    return vector[head * size : (head + 1) * size]


def scaled_dot(q, k, head, i, j):
    return torch.dot(q, k) / math.sqrt(len(q))


def everything(head, i, j):
    return True


def plain(v, head, i, j):
    return v


def attention(
    q,
    k,
    v,
    *,
    heads=1,
    key_heads=None,
    score=scaled_dot,
    visible=everything,
    message=plain,
    normalize="softmax",
    merge="concat",
):
    """`q [I, D]`, `k [J, D]` and `v [J, E]` of one batch entry -> `[I, E]`; `i` and `j` count rows."""
    key_heads = key_heads or heads
    rows = []
    for i in range(len(q)):
        averages = []
        for head in range(heads):
            group = head // (heads // key_heads)
            seen = [j for j in range(len(k)) if visible(head, i, j)]
            scores = [score(part(q[i], head, heads), part(k[j], group, key_heads), head, i, j) for j in seen]
            messages = [message(part(v[j], group, key_heads), head, i, j) for j in seen]
            empty = torch.zeros(v.shape[1] // key_heads, dtype=v.dtype)
            averages.append(average(scores, messages, normalize, empty))
        rows.append(merged(averages, merge))
    return torch.stack(rows)


def average(scores, messages, normalize, empty):
    """The average of one query: zeros where nothing is visible."""
    total = empty
    for weight, message in zip(weights(scores, normalize), messages, strict=True):
        total = total + weight * message
    return total


def merged(averages, merge):
    if merge == "concat":
        return torch.cat(averages)
    total = sum(averages)
    return total / len(averages) if merge == "mean" else total


def weights(scores, normalize):
    """The weight of each visible j, from the table of normalizers."""
    if not scores:
        return []
    name, option = normalize if isinstance(normalize, tuple) else (normalize, 1.0)
    scores = [torch.as_tensor(f, dtype=torch.float64) for f in scores]
    if name == "softmax":
        return softmax(scores)
    if name == "sum":
        total = sum(scores)
        return [f / total for f in scores]
    if name == "count":
        return [f / len(scores) for f in scores]
    if name == "sigmoid":
        return [1 / (1 + torch.exp(-f)) for f in scores]
    if name == "none":
        return scores
    if name == "sparsemax":
        return sparsemax(scores)
    if name == "topk":
        return topk(scores, option)
    chosen = best(scores)
    one_hot = [float(j == chosen) for j in range(len(scores))]
    if name == "hard":
        return one_hot
    if name == "straight_through":
        soft = softmax([f / option for f in scores])
        return [one + p - p.detach() for one, p in zip(one_hot, soft, strict=True)]
    raise ValueError(name)


def softmax(scores):
    exponentials = [torch.exp(f) for f in scores]
    total = sum(exponentials)
    return [e / total for e in exponentials]


def sparsemax(scores):
    """Martins and Astudillo 2016, algorithm 1."""
    ordered = sorted(scores, key=number, reverse=True)
    support = max(k for k in range(1, len(ordered) + 1) if 1 + k * ordered[k - 1] > sum(ordered[:k]))
    tau = (sum(ordered[:support]) - 1) / support
    return [f - tau if f > tau else 0 * f for f in scores]


def topk(scores, k):
    """softmax of the k largest; of equal ones the first count."""
    kept = sorted(range(len(scores)), key=lambda j: (-number(scores[j]), j))[:k]
    soft = dict(zip(kept, softmax([scores[j] for j in kept]), strict=True))
    return [soft.get(j, 0 * f) for j, f in enumerate(scores)]


def best(scores):
    return max(range(len(scores)), key=lambda j: number(scores[j]))


def number(f):
    return f.item()


# The rest of a block: what surrounds the average, one tensor at a time.


def linear(p, name, x):
    return F.linear(x, p[name + ".weight"], p.get(name + ".bias"))


def layernorm(p, name, x, eps=1e-5):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * p[name + ".weight"] + p.get(name + ".bias", 0)


def rmsnorm(p, name, x, eps=1e-6):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * p[name + ".weight"]


def each(function, *tensors):
    """The function of every batch entry."""
    return torch.stack([function(*entry) for entry in zip(*tensors, strict=True)])


def rope(x, position, base=10000.0):
    """Rotary in halves: feature t turns with feature t + size / 2."""
    half = len(x) // 2
    low, high = [], []
    for t in range(half):
        angle = position * base ** (-2 * t / len(x))
        low.append(x[t] * math.cos(angle) - x[t + half] * math.sin(angle))
        high.append(x[t + half] * math.cos(angle) + x[t] * math.sin(angle))
    return torch.stack(low + high)


def rope_pairs(x, position, base=10000.0):
    """Rotary in pairs: feature 2t turns with feature 2t + 1."""
    turned = []
    for t in range(len(x) // 2):
        angle = position * base ** (-2 * t / len(x))
        turned.append(x[2 * t] * math.cos(angle) - x[2 * t + 1] * math.sin(angle))
        turned.append(x[2 * t + 1] * math.cos(angle) + x[2 * t] * math.sin(angle))
    return torch.stack(turned)


def sinusoidal(count, size):
    """Vaswani et al. 2017: sine in even features, cosine in odd ones."""
    table = torch.zeros(count, size, dtype=torch.float64)
    for position in range(count):
        for t in range(size // 2):
            angle = position / 10000 ** (2 * t / size)
            table[position, 2 * t] = math.sin(angle)
            table[position, 2 * t + 1] = math.cos(angle)
    return table


def bucket(distance, buckets, far):
    """T5's bucket of `distance = j - i`, both directions."""
    half = buckets // 2
    return (half if distance > 0 else 0) + one_way(abs(distance), half, far)


def bucket_causal(distance, buckets, far):
    """T5's bucket of `distance = j - i`, looking back only."""
    return one_way(max(-distance, 0), buckets, far)


def one_way(distance, buckets, far):
    exact = buckets // 2
    if distance < exact:
        return distance
    return min(buckets - 1, exact + int(math.log(distance / exact) / math.log(far / exact) * (buckets - exact)))


def clip(x, low, high):
    return max(low, min(high, x))


def unit(x):
    return x / torch.sqrt(torch.dot(x, x))
