"""What a kernel is: a reason to refuse, or a tree that computes an attention; and how fast that is.

Kernels see algebra (the `Average`, its locality, its score split in terms), never names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from towerdsl.ir.nodes import Average, Value
from towerdsl.lowered.common import common_parts
from towerdsl.lowered.nodes import Lowered
from towerdsl.lowered.once import made_once
from towerdsl.passes.locality import Band, Classes, Locality, analyze
from towerdsl.passes.score import DotScore, split


@dataclass(frozen=True)
class Facts:
    """What the analysis found of one attention, and what kernels made of it."""

    locality: Locality
    score: DotScore | str  # the reason where the score is no dot product
    device: str = "cpu"  # what the code is for
    _trees: dict[str, Lowered] = field(default_factory=dict, init=False, compare=False, repr=False)

    @classmethod
    def of(cls, average: Average, device: str = "cpu") -> Facts:
        """The analysis of an attention."""
        return cls(analyze(average.visible), split(average.score), device)

    def lowered(self, kernel: Kernel, average: Average) -> Lowered:
        """The attention on a kernel, made once: to see whether it can be, to count its pairs, and to write it."""
        tree = self._trees.get(kernel.name)
        if tree is None or tree.average is not average:
            full = self.locality.has_empty_rows() is False
            tree = self._trees[kernel.name] = Lowered(kernel.name, average, full, kernel.lower(average, self))
        return tree


@dataclass(frozen=True)
class Speed:
    """How fast a kernel is: nanoseconds of a call, of a multiply-add, and of what else it does for a pair (of each
    head of each batch), as `tests/bench/calibrate.py` measures them."""

    call: float
    multiply_add: float
    pair: float


#: Tensors of all pairs, a pass over memory for each step; and torch's scaled_dot_product_attention.
PASSES = Speed(call=80_000, multiply_add=0.015, pair=4.5)
FUSED = Speed(call=70_000, multiply_add=0.015, pair=1.2)
#: Blocks of queries one after the other, whose scores stay in the cache.
BLOCKS = Speed(call=400_000, multiply_add=0.015, pair=0.8)
#: The same with all keys, whose scores go through memory.
TURNS = Speed(call=400_000, multiply_add=0.015, pair=2.0)


class Kernel(ABC):
    """One technique. `name` is what `explain` calls it, `how` is one line on what it does."""

    name: str
    how: str
    speed: Speed = PASSES

    def speed_of(self, average: Average, facts: Facts) -> Speed:
        """How fast it is for one attention."""
        return self.speed

    @abstractmethod
    def refuse(self, average: Average, facts: Facts) -> str | None:
        """Why this kernel cannot compute the attention, or None if it can."""

    @abstractmethod
    def lower(self, average: Average, facts: Facts) -> Value:
        """How it computes y, with the axes [batch..., head, positions..., feature]: see `towerdsl.lowered`."""


def not_one_axis(average: Average) -> str | None:
    """Why an attention does not go along one axis of queries and one of keys, if it does not."""
    if not average.positions:
        return "the query has no position"
    queries, keys = len(average.positions), len(average.over)
    return None if queries == keys == 1 else f"it works along one axis: queries have {queries}, keys {keys}"


def no_common_axis(average: Average) -> str | None:
    """Why no condition is about distances along one axis, if queries and keys have none in common."""
    queries, keys = ([a.name or "one without a name" for a in x] for x in (average.positions, average.over))
    if not queries or set(queries) & set(keys):
        return None
    return f"i and j are positions of different axes, {', '.join(queries)} and {', '.join(keys)}"


def lengths_differ(found: Band | Classes) -> str:
    """The words for what is known of two axes that are not one axis for queries and keys."""
    return f"the axes of i and j have different lengths, {found.query.size} and {found.key.size}"


@dataclass(frozen=True)
class Plan:
    """The kernel chosen for one attention, and why each of the others was not."""

    kernel: Kernel
    refused: tuple[tuple[str, str], ...]
    facts: Facts
    able: tuple[Kernel, ...] = ()  # those that do not refuse, the chosen one among them

    def lowered(self, average: Average) -> Lowered:
        """How the chosen kernel computes the attention, common parts once, and what no data goes into for all calls."""
        return made_once(common_parts(self.facts.lowered(self.kernel, average)))
