"""Blocks of queries in turn, each with all keys: memory grows with the number of queries, not with the pairs.

It computes every attention. While training a block is computed again for its gradients.
"""

from __future__ import annotations

from dataclasses import replace

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.placed import Cut, Rows
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import Axis, TensorType
from towerdsl.kernels import sizes
from towerdsl.kernels.base import PASSES, TURNS, Facts, Kernel, Speed
from towerdsl.kernels.dense import dense
from towerdsl.kernels.sdpa import Sdpa
from towerdsl.lowered import build
from towerdsl.lowered import nodes as low
from towerdsl.lowered.tiling import restricted
from towerdsl.passes.locality import conjuncts
from towerdsl.passes.score import sides


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

    def lower(self, average: Average, facts: Facts) -> n.Value:
        if _same_for_all_queries(average, facts):
            assert not isinstance(facts.score, str)
            return build.attended(average, facts.score, Cut(average.positions[0], None, Size.of(sizes.TURN)))
        axis, held = average.positions[0], dict[str, n.Value]()
        body = dense(_turn(average, axis, held))
        kind = low.result_type(average, lead=True)
        return low.InTurn(kind, average.span, axis, sizes.TURN, tuple(held.items()), body)


def _same_for_all_queries(average: Average, facts: Facts) -> bool:
    """Whether it is a softmax of a dot product whose condition and biases are about keys alone."""
    if isinstance(facts.score, str) or not average.is_softmax_of_values:
        return False
    if len(average.positions) != 1 or len(average.over) != 1:
        return average.visible is None and not facts.score.biases
    parts = conjuncts(average.visible) if average.visible is not None else []
    return all("i" not in sides(x) for x in (*parts, *(t.value for t in facts.score.biases)))


def _turn(average: Average, axis: Axis, held: dict[str, n.Value]) -> Average:
    """The average of some queries along an axis; `held` gets the values that are the same in every turn."""

    def hold(value: n.Value) -> n.Value:
        variable = value
        while isinstance(variable, n.Rename):
            variable = variable.arg
        if isinstance(variable, n.Local):
            return replace(variable, type=value.type)
        name = f"{low.HELD}{len(held)}"
        held[name] = value
        return n.Local(value.type, None, name)

    def part(value: n.Value, kind: TensorType) -> n.Value:
        return Rows(kind, value.span, hold(value), axis, low.ROWS)

    short = replace(axis, size=Size.free(low.COUNT))
    return restricted(average, axis, short, part, lambda x: x if x.type.scalar else hold(x))
