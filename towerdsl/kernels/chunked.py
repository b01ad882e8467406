"""Blocks of queries in turn, each with all keys: memory grows with the number of queries, not with the pairs.

It computes every attention. While training a block is computed again for its gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import Axis
from towerdsl.kernels import sizes
from towerdsl.kernels.base import PASSES, TURNS, Facts, Kernel, Speed, all_pairs, of_each_head
from towerdsl.kernels.sdpa import Sdpa
from towerdsl.kernels.tiling import restricted
from towerdsl.passes.locality import conjuncts
from towerdsl.passes.score import sides

if TYPE_CHECKING:
    from towerdsl.emit.average import AverageWriter


class Chunked(Kernel):
    name = "chunked"
    how = "blocks of queries in turn, each with all keys"

    def speed_of(self, average: Average, facts: Facts) -> Speed:
        """What is no softmax of a dot product makes as many passes over the scores as the reference."""
        return TURNS if Sdpa().refuse(average, facts) is None else replace(PASSES, call=TURNS.call)

    def refuse(self, average: Average, facts: Facts) -> str | None:
        if not average.positions:
            return "there is one query, nothing to take in turn"
        together = _same_for_all_queries(average, facts)
        length = product([a.size for a in (average.positions if together else average.positions[:1])]).integer
        if length is not None and length <= sizes.TURN:
            along = "" if together or len(average.positions) == 1 else f" along {average.positions[0]}"
            return f"{length} queries{along} are one block"
        if average.log_prob:
            return "the choice has a probability beside the average"
        if facts.locality.never:
            return "no key is visible"
        return None

    def write(self, average: Average, facts: Facts, writer: AverageWriter) -> str:
        if _same_for_all_queries(average, facts):
            assert not isinstance(facts.score, str)
            return writer.attended(facts.score, n.Cut(average.positions[0], None, Size.of(sizes.TURN)))
        return writer.in_turn(average.positions[0], sizes.TURN)

    def pairs(self, average: Average, facts: Facts) -> Size:
        return all_pairs(average)

    def peak(self, average: Average, facts: Facts) -> Size:
        _, *rest = average.positions
        return product([Size.of(2 * sizes.TURN), *(a.size for a in (*rest, *average.over))]) * of_each_head(average)


def _same_for_all_queries(average: Average, facts: Facts) -> bool:
    """Whether it is a softmax of a dot product whose condition and biases are about keys alone."""
    if isinstance(facts.score, str) or not average.is_softmax_of_values:
        return False
    if len(average.positions) != 1 or len(average.over) != 1:
        return average.visible is None and not facts.score.biases
    parts = conjuncts(average.visible) if average.visible is not None else []
    return all("i" not in sides(x) for x in (*parts, *(t.value for t in facts.score.biases)))


def _is_variable(x: n.Value) -> bool:
    while isinstance(x, n.Rename):
        x = x.arg
    return isinstance(x, n.Local)


def turn(average: Average, axis: Axis, rows: str, part: str, held: Callable[[n.Value], n.Value]) -> Average:
    """The average of some queries along an axis: `rows` says which, `part` how many, `held` holds a value that is the
    same in every turn."""
    return restricted(
        average,
        axis,
        replace(axis, size=Size.free(part)),
        lambda x, kind: n.Rows(kind, x.span, held(x), axis, rows),
        lambda x: x if x.type.scalar or _is_variable(x) else held(x),
    )
