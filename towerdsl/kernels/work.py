"""Multiply-adds: what one attention computes, in its block's own lengths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size, product

ZERO = Size.of(0)


@dataclass(frozen=True)
class Work:
    """Multiply-adds: of operations with weights, of the scores, of the weighted sums."""

    linear: Size = ZERO
    score: Size = ZERO
    sum: Size = ZERO

    def __add__(self, other: Work) -> Work:
        return Work(self.linear + other.linear, self.score + other.score, self.sum + other.sum)

    def times(self, count: int | Size) -> Work:
        return Work(self.linear * count, self.score * count, self.sum * count)

    def outside(self, lengths: Mapping[str, Size]) -> Work:
        return Work(*(size.substitute(lengths) for size in (self.linear, self.score, self.sum)))

    @property
    def pairs(self) -> Size:
        return self.score + self.sum

    @property
    def all(self) -> Size:
        return self.linear + self.pairs


def walk(values: Iterable[n.Value]) -> Iterator[n.Value]:
    """All values below some, each once that is computed once."""
    seen: set[tuple[str, int]] = set()
    stack = list(values)[::-1]
    while stack:
        value = stack.pop()
        key = ("shared", value.key) if isinstance(value, n.Shared) else ("", id(value))
        if key not in seen:
            seen.add(key)
            yield value
            stack.extend(reversed(value.operands))


def dot_work(dot: n.Dot) -> Size:
    """The multiply-adds of a dot product."""
    return product([a.size for a in (*dot.axes, dot.left.axes[-1])])


def pairs_work(average: n.Average, pairs: Size | None = None) -> Work:
    """The products in score, condition and message, over their own axes, and the weighted sum.

    Both are over all pairs of a query and a key, or over as many as `pairs` says.
    """
    linear, score = ZERO, ZERO
    both = (*average.positions, *average.over)
    if pairs is None:
        pairs = product([a.size for a in both])
    for value in walk(v for v in (average.score, average.visible, average.message) if v is not None):
        if isinstance(value, n.Dot) and all(a in value.axes for a in both):
            others = [a for a in (*value.axes, value.left.axes[-1]) if a not in both]
            score += product([a.size for a in others]) * pairs
        elif isinstance(value, n.Dot):
            score += dot_work(value)
        elif isinstance(value, n.Apply):
            linear += value.result.macs
    axes = (*average.lead, average.message.axes[-1])
    return Work(linear, score, product([a.size for a in axes]) * pairs)
