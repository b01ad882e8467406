"""A union: each part of it on blocks of its own, the averages combined by their log-sum-exp.

    softmax over A or B = (exp(a) y_A + exp(b) y_B) / (exp(a) + exp(b)),  a and b the log-sum-exp over A and over B

What an earlier part has is hidden in the later ones, so that no pair counts twice. A part is within reach (a band), or
has few keys, or few queries.
"""

from __future__ import annotations

from dataclasses import replace

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.placed import Cut
from towerdsl.ir.size import Size
from towerdsl.ir.types import TensorType
from towerdsl.kernels import sizes
from towerdsl.kernels.banded import bounded, cut_of, unbounded
from towerdsl.kernels.base import BLOCKS, Facts, Kernel, not_one_axis
from towerdsl.lowered import build
from towerdsl.lowered import nodes as low
from towerdsl.lowered.tiling import Untileable, restricted
from towerdsl.passes.locality import End, Locality, conjuncts, joined
from towerdsl.passes.score import split


class Merged(Kernel):
    name = "merged"
    how = "the parts of a union, each on blocks of its own, combined by their log-sum-exp"
    speed = BLOCKS

    def refuse(self, average: Average, facts: Facts) -> str | None:
        if len(facts.locality.unions) != 1:
            known = " that is known" if facts.locality.unknown else ""
            return f"the condition is {'several unions' if facts.locality.unions else f'no union{known}'}"
        if not average.is_softmax_of_values:
            return "parts are combined by log-sum-exp, which a softmax of values has"
        if isinstance(facts.score, str):
            return facts.score
        if (reason := not_one_axis(average)) is not None:
            return reason
        try:
            facts.lowered(self, average)
        except Untileable as why:
            return str(why)
        return None

    def lower(self, average: Average, facts: Facts) -> n.Value:
        return low.Merged(low.result_type(average, lead=True), average.span, _parts(average, facts))


def _parts(average: Average, facts: Facts) -> tuple[low.Attended, ...]:
    """The parts of the union, those with fewer queries last; what is common to all holds in each. Raises Untileable."""
    assert average.visible is not None
    union = facts.locality.unions[0]
    common = facts.locality.without(union).condition
    done: list[n.Value] = []
    found: list[low.Attended] = []
    for part in union.parts:
        own = part.condition
        if own is None:
            raise Untileable("a part of the union is everything")
        hidden = [n.Pointwise(x.type, x.span, "not", (x,)) for x in done]
        end = _end(average, part)
        left = part.without(end).condition if end is not None else own
        seen = [y for x in (common, left) if x is not None for y in conjuncts(x)]
        visible = joined([*seen, *hidden], average.visible.axes)
        found.append(_part(replace(average, visible=visible), part, end))
        done.append(own)
    return tuple(sorted(found, key=lambda p: p.average.positions != average.positions))


def _end(average: Average, locality: Locality) -> End | None:
    """The condition that a part is about the first keys, or the first queries; None where it is within reach."""
    if bounded(average, locality):
        return None
    ends = [e for e in locality.ends if e.low in (None, Size.of(0)) and e.high and e.high.integer is not None]
    return next((e for axis in (*average.over, *average.positions) for e in ends if e.axis == axis), None)


def _part(average: Average, locality: Locality, end: End | None) -> low.Attended:
    """One part: within reach, or about the first keys or queries. Raises Untileable."""
    if bands := bounded(average, locality):
        return _attended(average, cut_of(bands[0]))
    if end is None or end.high is None:
        reason = unbounded(average, locality)
        raise Untileable(f"a part of the union is not about the first few keys or queries, and {reason}")
    axis, stop = end.axis, end.high + 1
    short = replace(axis, size=stop.opaque("min", axis.size))

    def first(x: n.Value, kind: TensorType) -> n.Value:
        return n.Pick(kind, x.span, x, axis, None, stop, True)

    few = restricted(average, axis, short, first)
    queries = few.positions[0]
    most = stop.integer if queries == short else None
    return _attended(few, Cut(queries, None, Size.of(min(sizes.TURN, most or sizes.TURN))))


def _attended(average: Average, cut: Cut) -> low.Attended:
    score = split(average.score)
    if isinstance(score, str):
        raise Untileable(score)
    return build.attended(average, score, cut)
