"""Which faster kernel an attention only just misses, and what in the spec is in its way.

Each thing that a spec may say beyond the plainest attention is taken back in turn. A kernel that then no longer
refuses, and is estimated to be much faster, is within reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from towerdsl.ir import nodes as n
from towerdsl.kernels import cost
from towerdsl.kernels.base import Facts, Plan
from towerdsl.kernels.catalog import CATALOG
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes.locality import conjuncts, joined

#: How many times as fast as the chosen kernel one must be to be worth a word.
MUCH = 2.0


@dataclass(frozen=True)
class NearMiss:
    """A kernel that would be `gain` times as fast as the chosen one, if the spec were changed in one thing: `change`
    says how, up to the part of the condition that would go, if it is that."""

    kernel: str
    gain: float
    change: str
    condition: n.Value | None = None


Change = tuple[str, n.Value | None, n.Average]


def near_miss(average: n.Average, plan: Plan, lengths: Mapping[str, int]) -> NearMiss | None:
    """The kernel with the largest gain, or None if there is none; another normalizer is the last thing to think of."""
    now = cost.time(plan.kernel, average, plan.facts, lengths)
    refused = [k for k in CATALOG if k.name in dict(plan.refused)]
    for changes in (_taken_back(average, plan.facts), _normalized(average)):
        found = []
        for change, condition, other in changes:
            facts = Facts.of(other, plan.facts.device)
            for kernel in refused:
                if kernel.refuse(other, facts) is None:
                    gain = now / cost.time(kernel, other, facts, lengths)
                    found.append(NearMiss(kernel.name, gain, change, condition))
        best = max(found, key=lambda x: x.gain, default=None)
        if best is not None and best.gain >= MUCH:
            return best
    return None


def _taken_back(average: n.Average, facts: Facts) -> Iterator[Change]:
    """The attention without one thing that it has."""
    if average.dropout:
        yield "without dropout", None, replace(average, dropout=0.0)
    value = next((v for v in average.message.walk() if isinstance(v, n.Local) and v.name == "v"), None)
    if value is not None and average.message != value:
        yield "with the value itself as message", None, replace(average, message=value)
    if not isinstance(facts.score, str) and facts.score.biases:
        dots = {frozenset((facts.score.left, facts.score.right))}
        dot = next(v for v in average.score.walk() if isinstance(v, n.Dot) and frozenset((v.left, v.right)) in dots)
        yield "without what is added to the dot product", None, replace(average, score=dot)
    parts = conjuncts(average.visible) if average.visible is not None else []
    for k, part in enumerate(parts):
        assert average.visible is not None
        rest = joined([*parts[:k], *parts[k + 1 :]], average.visible.axes)
        yield "without", part, replace(average, visible=rest)


def _normalized(average: n.Average) -> Iterator[Change]:
    """The attention with other normalizers."""
    for name in NORMALIZERS:
        if name != average.normalize:
            yield f"with normalize: {name}", None, replace(average, normalize=name, options=(), log_prob=False)
