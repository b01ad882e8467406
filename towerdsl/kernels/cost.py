"""What an attention would cost on a kernel: a model of its time, to rank those that can compute it.

    time = call + multiply_adds * multiply_add + pairs * pair + elements * ELEMENT

`call`, `multiply_add` and `pair` are the kernel's `Speed`; `pairs` are those that its tree computes, for every head of
every batch; `multiply_adds` are those of the score and of the weighted sum over them; `elements` are the numbers that
the formulas of score, condition and message make for them beside dot products. One forward pass is meant.

Free lengths are not known when a model is compiled, so the choice assumes nominal ones: it is the same for the same
spec. Numbers are nanoseconds on the machine of docs/performance.md; only their ratios matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.size import Size, product
from towerdsl.kernels.base import Facts, Kernel, Speed
from towerdsl.kernels.work import pairs_work, walk
from towerdsl.lowered.amounts import all_pairs, of_each_head
from towerdsl.lowered.amounts import pairs as pairs_of

#: How many queries, and how many keys, an attention is assumed to have where their number is free: along one axis, or
#: along several of the same length (64 x 64).
POSITIONS = 4096
#: How many pairs a relation is assumed to have for each query.
RELATED = 16
#: Nanoseconds of one number that an elementwise operation makes.
ELEMENT = 1.2


def nominal(average: Average) -> dict[str, int]:
    """The length that is assumed for each free one: of a batch, 1."""
    found = {name: 1 for axis in average.batch for name in axis.size.free_names}
    for axes in (average.positions, average.over, average.query_features, average.value_features):
        names = {name for axis in axes for name in axis.size.free_names}
        found |= dict.fromkeys(names, round(POSITIONS ** (1 / len(names))) if names else 1)
    return found


@dataclass(frozen=True)
class Counts:
    """What an attention's time is made of on some kernel."""

    multiply_adds: float
    pairs: float
    elements: float


def counts(kernel: Kernel, average: Average, facts: Facts, lengths: Mapping[str, int] | None = None) -> Counts:
    """What a kernel computes of an attention, at nominal lengths or at some that are given."""
    at = At(average, lengths or {})
    pairs = pairs_of(facts.lowered(kernel, average))
    every = at(all_pairs(average))
    share = at(pairs) / every if every else 0.0
    return Counts(
        multiply_adds=at(pairs_work(average, pairs).pairs),
        pairs=at(pairs) * at(of_each_head(average)),
        elements=share * sum(at(product([a.size for a in v.axes])) for v in _of_pairs(average)),
    )


def total(count: Counts, speed: Speed, element: float = ELEMENT) -> float:
    """The nanoseconds that a kernel of this speed is estimated to take."""
    pairwise = count.multiply_adds * speed.multiply_add + count.pairs * speed.pair + count.elements * element
    return speed.call + pairwise


def time(kernel: Kernel, average: Average, facts: Facts, lengths: Mapping[str, int] | None = None) -> float:
    """The nanoseconds that an attention is estimated to take on a kernel."""
    return total(counts(kernel, average, facts, lengths), kernel.speed_of(average, facts))


class At:
    """Sizes as numbers."""

    def __init__(self, average: Average, lengths: Mapping[str, int]) -> None:
        self.known = {name: Size.of(length) for name, length in {**nominal(average), **lengths}.items()}
        # the pairs of a relation are a length of its name, which no axis has
        self.related = product([a.size for a in average.positions]).substitute(self.known) * RELATED

    def __call__(self, size: Size) -> float:
        relations = size.free_names - self.known.keys()
        constant = size.substitute(self.known | dict.fromkeys(relations, self.related)).constant
        assert constant is not None
        return float(constant)


def _of_pairs(average: Average) -> Iterator[n.Value]:
    """The values that are computed for pairs, but for dot products and their scale."""
    for value in walk(v for v in (average.score, average.visible, average.message) if v is not None):
        scale = isinstance(value, n.Pointwise) and value.op in ("*", "/") and any(a.type.scalar for a in value.args)
        computed = not scale and not isinstance(value, (n.Dot, n.Local, n.Weight, n.Shared, n.Rename))
        if computed and {a.side for a in value.axes} >= {"i", "j"}:
            yield value
