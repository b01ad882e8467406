"""A relation lists the pairs that are seen: scores and weights for these alone, and never a table of all pairs.

What depends on one side is computed once for each position and read for each pair; what depends on both is computed
along an axis of pairs. The condition is rewritten like the score: it hides pairs that are listed and not seen.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.placed import AtPairs
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.kernels.base import Facts, Kernel, Speed
from towerdsl.lowered import build
from towerdsl.lowered import nodes as low
from towerdsl.lowered.rewriting import COMPUTED, Rewriting
from towerdsl.passes.locality import Band, Locality, Reading, Related, conjuncts, joined

ZERO = Size.of(0)

#: The functions that normalize rows of different lengths; None where each key counts by itself.
ROWS = {"softmax": "softmax_of_rows", "sum": "sum_of_rows", "count": "count_of_rows", "sigmoid": None, "none": None}

#: Entries are read here and there in memory, and the list is sorted first.
LISTED = Speed(call=1_500_000, multiply_add=0.1, pair=9)


@dataclass(frozen=True)
class _Lists:
    """What lists every pair that can be seen: relations, and the pairs `i == j` with `itself`.

    `reading` is the part of the condition that says so; `exact` is true where it says no more.
    """

    relations: frozenset[Related]
    itself: bool
    exact: bool
    reading: Reading | Band


class Edges(Kernel):
    name = "edges"
    how = "the pairs of a relation, in compressed rows"
    speed = LISTED

    def refuse(self, average: Average, facts: Facts) -> str | None:
        lists = _lists(facts.locality)
        if lists is None or not lists.relations:
            return "no relation lists the pairs that are seen"
        if len(average.positions) + len(average.over) > 2:
            return "pairs are listed of positions along one axis each"
        if average.normalize not in ROWS:
            return f"{average.normalize} is not computed over rows of different lengths"
        return None

    def lower(self, average: Average, facts: Facts) -> n.Value:
        i, j = _ends(average)
        lists = _all_lists(average, facts)
        pair = Axis("pair", Size.free(f"{low.PAIRS}.key.shape[0]"))
        once = n.Local(TensorType("bool", (pair,)), average.span, f"{low.PAIRS}.once")
        rest = _rest(facts, lists)
        at_pairs = _AtPairs(i, j, pair, low.PAIRS).value
        kept = [once, *map(at_pairs, conjuncts(rest) if rest is not None else [])]
        of_pairs = replace(
            average,
            positions=(),
            over=(pair,),
            score=at_pairs(average.score),
            visible=joined(kept, (*average.lead, pair)),
            message=at_pairs(average.message),
        )
        weights = build.weights(of_pairs, ROWS[average.normalize] or "", low.PAIRS)
        lead = [a for a in average.lead if a in weights.axes or a in of_pairs.message.axes]
        kind = TensorType("float", (*lead, i, average.message.axes[-1]))
        sums = low.RowSums(kind, average.span, weights, of_pairs.message)
        relations = tuple((r.relation, r.forward) for r in sorted(lists.relations, key=str))
        itself = _both(average) if lists.itself else None
        return low.Listed(kind, average.span, i, j, relations, itself, low.PAIRS, sums)


# --- the lists -------------------------------------------------------------------------------------------------


def _lists(found: Locality) -> _Lists | None:
    """The lists that a condition names: in one of its parts, or in each alternative of a union."""
    options = [_Lists(frozenset({r}), False, True, r) for r in found.related]
    options += [_Lists(frozenset(), True, True, b) for b in found.bands if b.low == b.high == ZERO]
    for union in found.unions:
        each = [x for x in map(_lists, union.parts) if x is not None]
        if len(each) == len(union.parts):
            relations = frozenset[Related]().union(*(x.relations for x in each))
            exact = all(x.exact and p.without(x.reading).everything for x, p in zip(each, union.parts, strict=True))
            options.append(_Lists(relations, any(x.itself for x in each), exact, union))
    return max(options, key=lambda x: (bool(x.relations), -len(x.relations), not x.itself), default=None)


def _rest(facts: Facts, lists: _Lists) -> n.Value | None:
    """What must hold of a pair that is listed."""
    return (facts.locality.without(lists.reading) if lists.exact else facts.locality).condition


def _all_lists(average: Average, facts: Facts) -> _Lists:
    """The lists of an attention, with every other relation that its formulas read."""
    lists = _lists(facts.locality)
    assert lists is not None
    formulas = [v for v in (average.score, average.message, _rest(facts, lists)) if v is not None]
    members = {v for formula in formulas for v in formula.walk() if isinstance(v, n.Member)}
    read = {Related(m.relation, *_ends(average), m.axes[0].side == "j", m) for m in members}
    if read <= lists.relations:
        return lists
    return replace(lists, relations=lists.relations | read, exact=False)


def _both(average: Average) -> Size:
    """How many positions there are of both the query and the key."""
    i, j = _ends(average)
    return i.size.opaque("min", j.size)


def _ends(average: Average) -> tuple[Axis, Axis]:
    return average.positions[0], average.over[0]


# --- values of pairs -------------------------------------------------------------------------------------------


@dataclass
class _AtPairs(Rewriting):
    """One axis of listed pairs, instead of the axes of the query's and the key's positions."""

    i: Axis
    j: Axis
    pair: Axis
    pairs: str

    @property
    def key(self) -> Hashable:
        return self.pairs

    def instead(self, value: n.Value) -> n.Value | None:
        found = {self.i, self.j} & {*value.axes}
        if not found:
            return value
        if len(found) == 2 and isinstance(value, COMPUTED):
            return None
        return AtPairs(self.type(value.type, ()), value.span, value, self.pairs)

    def type(self, old: TensorType, operands: Sequence[n.Value]) -> TensorType:
        ends = [a for a in old.axes if a in (self.i, self.j)]
        return old.with_axes(self.pair if a == ends[0] else a for a in old.axes if a not in ends[1:])
