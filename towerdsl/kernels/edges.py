"""A relation lists the pairs that are seen: scores and weights for these alone, and never a table of all pairs.

What depends on one side is computed once for each position and read for each pair; what depends on both is computed
along an axis of pairs. The condition is rewritten like the score: it hides pairs that are listed and not seen.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import Axis, TensorType
from towerdsl.kernels.base import Facts
from towerdsl.passes.locality import Locality, analyze, conjuncts, joined

if TYPE_CHECKING:
    from towerdsl.emit.blocks import BlocksWriter

ZERO = Size.of(0)

#: The functions that normalize rows of different lengths; None where each key counts by itself.
ROWS = {"softmax": "softmax_of_rows", "sum": "sum_of_rows", "count": "count_of_rows", "sigmoid": None, "none": None}

#: Values of pairs that are computed from others.
_COMPUTED = (n.Pointwise, n.Dot, n.Reduce, n.Gather, n.Shared, n.Cast)


@dataclass(frozen=True)
class _Lists:
    """What lists every pair that can be seen: relations, and the pairs `i == j` with `itself`.

    `part` is the condition that says so; `exact` is true where it says no more.
    """

    relations: frozenset[n.Member]
    itself: bool
    exact: bool
    part: n.Value | None = None


class Edges:
    name = "edges"
    how = "the pairs of a relation, in compressed rows"
    shares_key_heads = False

    def refuse(self, average: Average, facts: Facts) -> str | None:
        lists = _lists(facts.locality)
        if lists is None or not lists.relations:
            return "no relation lists the pairs that are seen"
        if len(average.positions) + len(average.over) > 2:
            return "pairs are listed of positions along one axis each"
        if average.normalize not in ROWS:
            return f"rows of different lengths have no {average.normalize}"
        return None

    def write(self, average: Average, facts: Facts, writer: BlocksWriter) -> str:
        frame, (i, j) = writer.frame, (*average.positions, *average.over)
        lists = _all_lists(average, facts)
        sources = [_code(frame.variable(m.relation), m) for m in sorted(lists.relations, key=str)]
        if lists.itself:
            frame.helpers.add("itself")
            sources.append(f"itself({frame.size(j.size, 'size')}, {frame.device})")
        frame.helpers.add("pairs_by_query")
        sizes = (frame.size(a.size, a.name or "size") for a in (i, j))
        pairs = frame.assign(frame.fresh("pairs"), f"pairs_by_query({', '.join((*sizes, *sources))})")
        pair = Axis("pair", Size.free(f"{pairs}.key.shape[0]"))
        once = n.Local(TensorType("bool", (pair,)), average.span, f"{pairs}.once")
        parts = conjuncts(average.visible) if average.visible is not None else []
        kept = [once, *(_at_pairs(p, i, j, pair, pairs) for p in parts if not (lists.exact and p == lists.part))]
        axes = TensorType("bool", (*writer.lead, pair))
        listed = replace(
            average,
            positions=(),
            over=(pair,),
            score=_at_pairs(average.score, i, j, pair, pairs),
            visible=joined(kept, n.Local(axes, average.span, pairs)),
            message=_at_pairs(average.message, i, j, pair, pairs),
        )
        return writer.weighted_rows(listed, pairs, ROWS[average.normalize])

    def pairs(self, average: Average, facts: Facts) -> Size:
        lists = _all_lists(average, facts)
        names = {m.relation for m in lists.relations}
        return sum((Size.free(name) for name in sorted(names)), average.over[0].size if lists.itself else ZERO)

    def peak(self, average: Average, facts: Facts) -> Size:
        """Scores and weights, and what the normalizer makes in between; five numbers say what a pair is."""
        heads = (average.heads,) if average.heads is not None else ()
        present = {*average.score.axes, *(average.visible.axes if average.visible else ())}
        if average.dropout:
            present |= {*average.batch, *heads}
        lead = product([a.size for a in (*average.batch, *heads) if a in present])
        return self.pairs(average, facts) * (lead * 4 + 5)


def _code(edges: str, member: n.Member) -> str:
    """The pairs of a relation as (key, query)."""
    return edges if member.axes[0].side == "j" else f"{edges}.flip(0)"


# --- the lists -------------------------------------------------------------------------------------------------


def _lists(found: Locality) -> _Lists | None:
    """The lists that a condition names: one of its parts, or a part of each of its alternatives."""
    options = [_Lists(frozenset(), True, True) for b in found.bands if b.low == b.high == ZERO]
    for part in found.rest:
        if isinstance(part, n.Member):
            options.append(_Lists(frozenset({part}), False, True, part))
        elif isinstance(part, n.Pointwise) and part.op == "or":
            within = [analyze(p) for p in _alternatives(part)]
            each = [x for x in map(_lists, within) if x is not None]
            if len(each) == len(within):
                relations = frozenset[n.Member]().union(*(x.relations for x in each))
                exact = all(x.exact for x in each) and all(len(w.bands) + len(w.rest) == 1 for w in within)
                options.append(_Lists(relations, any(x.itself for x in each), exact, part))
    return max(options, key=lambda x: (bool(x.relations), -len(x.relations), not x.itself), default=None)


def _alternatives(part: n.Value) -> list[n.Value]:
    if isinstance(part, n.Pointwise) and part.op == "or":
        return [x for a in part.args for x in _alternatives(a)]
    return [part]


def _all_lists(average: Average, facts: Facts) -> _Lists:
    """The lists of an attention, with every other relation that its formulas read."""
    lists = _lists(facts.locality)
    assert lists is not None
    parts = conjuncts(average.visible) if average.visible is not None else []
    rest = [p for p in parts if not (lists.exact and p == lists.part)]
    read = {v for x in (average.score, average.message, *rest) for v in x.walk() if isinstance(v, n.Member)}
    if read <= lists.relations:
        return lists
    return replace(lists, relations=lists.relations | read, exact=False)


# --- values of pairs -------------------------------------------------------------------------------------------


def _at_pairs(value: n.Value, i: Axis, j: Axis, pair: Axis, pairs: str) -> n.Value:
    """The value with one axis of pairs instead of the axes of the query's and the key's positions."""
    found = {i, j} & {*value.axes}
    if not found:
        return value
    if len(found) == 1 or not isinstance(value, _COMPUTED):
        return n.AtPairs(_paired(value.type, i, j, pair), value.span, value, pairs)

    def moved(x: Any) -> Any:
        if isinstance(x, n.Value):
            return _at_pairs(x, i, j, pair, pairs)
        if isinstance(x, TensorType):
            return _paired(x, i, j, pair)
        return tuple(moved(y) for y in x) if isinstance(x, tuple) else x

    return replace(value, **{f.name: moved(getattr(value, f.name)) for f in fields(value) if f.name != "span"})


def _paired(kind: TensorType, i: Axis, j: Axis, pair: Axis) -> TensorType:
    first = next((a for a in kind.axes if a in (i, j)), None)
    return replace(kind, axes=tuple(pair if a == first else a for a in kind.axes if a == first or a not in (i, j)))
