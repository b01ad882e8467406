"""A union: each part of it on blocks of its own, the averages combined by their log-sum-exp.

    softmax over A or B = (exp(a) y_A + exp(b) y_B) / (exp(a) + exp(b)),  a and b the log-sum-exp over A and over B

What an earlier part has is hidden in the later ones, so that no pair counts twice. A part is within reach (a band), or
has few keys, or few queries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.size import Size
from towerdsl.ir.types import TensorType
from towerdsl.kernels import sizes
from towerdsl.kernels.banded import bounded, cut_of
from towerdsl.kernels.base import Facts
from towerdsl.kernels.tiling import Tiling, Untileable, restricted
from towerdsl.passes.locality import Locality, joined, written

if TYPE_CHECKING:
    from towerdsl.emit.average import AverageWriter


@dataclass(frozen=True)
class Part:
    """One of the disjoint averages, and how its queries and keys are cut."""

    average: Average
    cut: n.Cut


class Merged:
    name = "merged"
    how = "the parts of a union, each on blocks of its own, combined by their log-sum-exp"
    shares_key_heads = False

    def refuse(self, average: Average, facts: Facts) -> str | None:
        if len(facts.locality.unions) != 1:
            return f"the condition is {'no union' if not facts.locality.unions else 'several unions'}"
        if not average.is_softmax_of_values:
            return "parts are combined by log-sum-exp, which a softmax of values has"
        if isinstance(facts.score, str):
            return facts.score
        if len(average.positions) != 1 or len(average.over) != 1:
            return "it works along one axis"
        try:
            parts = self.parts(average, facts)
            for part in parts:
                tiling = Tiling(part.average, (part.cut,), False)
                for value in (part.average.visible, *(t.value for t in facts.score.biases)):
                    if value is not None:
                        tiling.value(value)
        except Untileable as reason:
            return str(reason)
        return None

    def parts(self, average: Average, facts: Facts) -> list[Part]:
        """The parts of the union, wide ones last; what is common to all holds in each. Raises Untileable."""
        assert average.visible is not None
        union = facts.locality.unions[0]
        common = [x for b in facts.locality.bands for x in written(b, average.visible)]
        common += [x for x in facts.locality.rest if x is not union.value]
        done: list[n.Value] = []
        found: list[Part] = []
        for part in union.parts:
            own = _conditions(part, average.visible)
            hidden = [n.Pointwise(x.type, x.span, "not", (x,)) for x in done]
            visible = joined([*common, *own, *hidden], average.visible)
            found.append(_part(replace(average, visible=visible), part))
            whole = joined(own, average.visible)
            assert whole is not None
            done.append(whole)
        return found

    def write(self, average: Average, facts: Facts, writer: AverageWriter) -> str:
        return writer.merged([(p.average, p.cut) for p in self.parts(average, facts)])

    def pairs(self, average: Average, facts: Facts) -> Size:
        total = Size.of(0)
        for part in self.parts(average, facts):
            (i,), (j,) = part.average.positions, part.average.over
            total = total + i.size * (j.size if part.cut.key is None else part.cut.length("j"))
        return total

    def peak(self, average: Average, facts: Facts) -> Size:
        return self.pairs(average, facts)


def _conditions(part: Locality, at: n.Value) -> list[n.Value]:
    found = [x for b in part.bands for x in written(b, at)] + list(part.rest)
    return found or [n.Const(TensorType("bool", (), True), at.span, True)]


def _part(average: Average, locality: Locality) -> Part:
    """One part: within reach, or about the first keys or queries. Raises Untileable."""
    (i,), (j,) = average.positions, average.over
    bands = bounded(average, locality)
    if bands:
        return Part(average, cut_of(bands[0]))
    for axis in (j, i):
        ends = [e for e in locality.ends if e.axis == axis and e.high is not None and e.high.integer is not None]
        if not ends:
            continue
        high = ends[0].high
        assert high is not None
        short = replace(axis, size=(high + 1).opaque("min", axis.size))
        stop = high + 1
        few = restricted(
            average, axis, short, lambda x, kind, a=axis, to=stop: n.Pick(kind, x.span, x, a, None, to, True)
        )
        (query,) = few.positions
        return Part(few, n.Cut(query, None, Size.of(sizes.TURN)))
    raise Untileable("a part of the union is neither within reach nor about the first keys or queries")
