"""Each query sees the key at its own position and no other: `i == j` along every averaged axis.

An average over one key is elementwise: its weight, by whatever normalizer, times its message. This is what gates are.
"""

from __future__ import annotations

from dataclasses import replace

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.rewrite import moved
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.kernels.base import Facts, Kernel, Speed, lengths_differ, no_common_axis
from towerdsl.lowered import build
from towerdsl.lowered import nodes as low
from towerdsl.lowered.rewriting import COMPUTED, read_whole

ZERO = Size.of(0)


class Diagonal(Kernel):
    name = "diagonal"
    how = "one key for each query, elementwise"
    speed = Speed(call=44_000, multiply_add=0.26, pair=37)

    def refuse(self, average: Average, facts: Facts) -> str | None:
        if facts.locality.never:
            return "no key is visible"
        tied = _tied(average, facts)
        for axis in average.over:
            if axis not in tied:
                return _untied(axis, average, facts)
        for value in (average.score, average.message, *facts.locality.rest):
            for part in value.walk():
                if not isinstance(part, COMPUTED) and any({i, j} <= set(part.axes) for j, i in tied.items()):
                    return read_whole(part)
        return None

    def lower(self, average: Average, facts: Facts) -> n.Value:
        alone = _alone(average, facts)
        weights = build.weights(alone)
        kind = low.result_type(average, weights, alone.message)
        return low.Scaled(kind, average.span, weights, alone.message)


def _untied(axis: Axis, average: Average, facts: Facts) -> str:
    """Why the key's position along an axis is not known to be the query's."""
    for band in facts.locality.bands:
        if band.key == axis and band.low is not None and band.low == band.high:
            if band.low != ZERO:
                return f"{band}: the key is not the one at the query's own position"
            if band.query.size != band.key.size:
                return lengths_differ(band)
    if not facts.locality.everything and (reason := no_common_axis(average)) is not None:
        return reason
    return f"more than one key along {axis.name or 'the averaged axis'} may be visible"


def _tied(average: Average, facts: Facts) -> dict[Axis, Axis]:
    """The averaged axes along which `i == j`, and the query's axis of each."""
    return {
        band.key: band.query
        for band in facts.locality.bands
        if band.low == band.high == ZERO and band.query.size == band.key.size and band.query in average.positions
    }


def _alone(average: Average, facts: Facts) -> Average:
    """The same average over one key: every j is i, and the averaged axis has length 1."""
    tied = _tied(average, facts)
    visible: n.Value | None = None
    for part in facts.locality.rest:
        part = moved(part, tied)
        if visible is not None:
            axes = (*visible.axes, *(a for a in part.axes if a not in visible.axes))
            scalar = visible.type.scalar and part.type.scalar
            part = n.Pointwise(TensorType("bool", axes, scalar), part.span, "and", (visible, part))
        visible = part
    return replace(
        average,
        over=(Axis(None, Size.of(1), "j"),),
        score=moved(average.score, tied),
        visible=visible,
        message=moved(average.message, tied),
    )
