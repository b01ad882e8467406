"""How many pairs a lowered attention computes, and how many numbers it holds for them."""

from __future__ import annotations

from towerdsl.ir.nodes import Average, Value
from towerdsl.ir.size import Size, product
from towerdsl.lowered import nodes as low
from towerdsl.passes.locality import analyze
from towerdsl.passes.score import sides

ZERO = Size.of(0)

#: How many tensors of all pairs are alive at once, where everything is visible and under a condition: the score, the
#: weights and what the normalizer makes in between, as torch's profiler counts them.
ALIVE = {
    "softmax": (2, 4),
    "sum": (3, 4),
    "count": (2, 4),
    "sigmoid": (2, 3),
    "none": (2, 2),
    "sparsemax": (6, 7),
    "hard": (5, 5),
    "hard(straight_through)": (5, 5),
    "hard(gumbel)": (6, 6),
    "hard(score_function)": (5, 5),
}
#: The same over listed pairs, and how many numbers say what a pair is.
ALIVE_IN_ROWS, OF_A_PAIR = 4, 5


def all_pairs(average: Average) -> Size:
    """The pairs of every query and every key."""
    return product([a.size for a in (*average.positions, *average.over)])


def of_each_head(average: Average) -> Size:
    """How many averages there are for each query: heads of each entry of the batch."""
    return product([a.size for a in average.lead])


# --- pairs -----------------------------------------------------------------------------------------------------


def pairs(lowered: low.Lowered) -> Size:
    """How many pairs of a query and a key are computed, for each head of each batch: what the work grows with."""
    return _pairs(lowered.body, lowered.average)


def _pairs(node: Value, average: Average) -> Size:
    match node:
        case low.Scaled():
            return all_pairs(node.weights.average)  # each query has one key
        case low.Listed():
            return sum((Size.free(name) for name, _ in node.relations), node.itself or ZERO)
        case low.Factored():
            return _pairs_as_products(node)
        case low.Paired():
            return _within_reach(average)
        case low.Attended():
            average, cut = node.average, node.cut
            if cut.key is None:
                return all_pairs(average)
            return product([a.size for a in average.positions]) * cut.length("j").opaque("min", cut.key.size)
        case low.Merged():
            return sum((_pairs(part, average) for part in node.parts), ZERO)
        case low.InBlocks():
            return product([c.count for c in node.cuts]) * pairs(node.body)
        case low.InTurn():
            return pairs(node.body).substitute({low.COUNT: node.axis.size})
    return all_pairs(average)


def _pairs_as_products(node: low.Factored) -> Size:
    """As many pairs as have its multiply-adds: a pair has `rank + width`, and each position here `rank * width`."""
    rank, width = _rank(node).integer, node.average.message.axes[-1].size.integer
    each = max(1, rank * width // (rank + width)) if rank and width else rank or width or 1
    queries = product([a.size for a in node.average.positions])
    keys = product([a.size for a in node.average.over])
    if node.causal:
        return keys * each + queries * (each + node.block)
    return keys * each + queries * each if any(p.left is not None for p in node.products) else keys


def _rank(node: low.Factored) -> Size:
    """How many features the factors of the score have, in all."""
    return sum((p.left.axes[-1].size if p.dot and p.left else Size.of(1) for p in node.products), ZERO)


def _within_reach(average: Average) -> Size:
    """All pairs, or those in blocks that a band leaves, where it bounds the distance on both sides."""
    (query,), (key,) = average.positions, average.over
    bands = analyze(average.visible).bands
    reaches = [b.high - b.low + 1 for b in bands if b.low is not None and b.high is not None]
    return query.size * reaches[0].opaque("min", key.size) if reaches else all_pairs(average)


# --- memory ----------------------------------------------------------------------------------------------------


def peak(lowered: low.Lowered) -> Size:
    """Numbers held at once for the weights, beside the sources and the result."""
    return _peak(lowered.body)


def _peak(node: Value) -> Size:
    match node:
        case low.Summed():
            return _alive(node.weights)
        case low.Scaled():
            return _numbers(node.weights) * 2
        case low.Gathered():
            average = node.weights.average
            rows = product([a.size for a in (*average.lead, *average.positions, node.message.axes[-1])])
            return _alive(node.weights) + rows * int(dict(average.options).get("k", 1))
        case low.Listed():
            (pair,) = node.body.weights.average.over
            count = _pairs(node, node.body.weights.average)
            of_weights = _numbers(node.body.weights).substitute(dict.fromkeys(pair.size.free_names, count))
            return of_weights * ALIVE_IN_ROWS + count * OF_A_PAIR
        case low.Factored():
            return _sums(node)
        case low.Paired():
            return ZERO
        case low.Fused():
            return _added(node)
        case low.Attended():
            return _block(node)
        case low.Merged():
            return sum(map(_peak, node.parts), ZERO)
        case low.InBlocks():
            return peak(node.body)
        case low.InTurn():
            return peak(node.body).substitute({low.COUNT: Size.of(node.size)})
    made = (v for v in node.walk() if sides(v) == {"i", "j"})
    return sum(map(_numbers, made), ZERO)


def _numbers(value: Value) -> Size:
    return product([a.size for a in value.axes])


def _alive(weights: low.Weights) -> Size:
    """The weights, and what they are made by."""
    average = weights.average
    alive = ALIVE.get(average.normalize, max(ALIVE.values()))
    return _numbers(weights) * alive[average.visible is not None]


def _sums(node: low.Factored) -> Size:
    """The sums over the keys; where it is causal those of each block, and the weights inside the blocks."""
    lead = of_each_head(node.average)
    sums = lead * _rank(node) * node.average.message.axes[-1].size
    if not node.causal:
        return sums
    length = product([a.size for a in node.average.positions])
    return sums * length.opaque("//", node.block) * 2 + lead * length * node.block


def _added(node: low.Fused) -> Size:
    """A mask or bias, whole; and where they are not made block by block, the scores and weights."""
    average = node.average
    masks = [t.value for t in node.score.biases]
    if average.visible is not None and (masks or not analyze(average.visible).causal(average)):
        masks.append(average.visible)
    held = product([a.size for a in {a for v in masks for a in v.axes}]) if masks else ZERO
    return held if node.fast else held + all_pairs(average) * of_each_head(average) * 2


def _block(node: low.Attended) -> Size:
    """The scores and weights of one block, and the masks and biases of pairs that each block has its own of."""
    average, cut = node.average, node.cut
    *_, block, query, _ = node.axes_of_pairs
    keys = product([a.size for a in average.over]) if cut.key is None else cut.length("j")
    queries = product([a.size for a in average.positions])
    held = cut.length("i") * keys * of_each_head(average) * 2
    for value in (*node.conditions, *(t.value for t in node.biases)):
        if block in value.axes and sides(value) == {"i", "j"}:
            held = held + queries * product([a.size for a in value.axes if a not in (block, query)])
    return held
