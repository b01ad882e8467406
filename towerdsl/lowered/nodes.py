"""How an attention is computed: a small tree of loops over blocks, products, reductions of rows, gathers and calls.

A kernel makes it of an `Average`, and the emitter prints it. Its nodes are typed values, as those of `ir` are: beside
these they say what is done with pairs. Each has the axes [batch..., head, positions..., feature] of its result; an axis
along which nothing differs may be missing.

What a tree names itself (a list of pairs, some rows) begins with `%`: the emitter finds variables for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from towerdsl.ir.nodes import Average, Value
from towerdsl.ir.placed import Cut
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.passes.score import DotScore, Product, Term

#: The variables that a tree may name.
PAIRS, ROWS, COUNT, HELD = "%pairs", "%rows", "%count", "%held"


@dataclass(frozen=True)
class Lowered:
    """One attention on a kernel: `body` computes `average`, from its `q`, `k` and `v`.

    It is `full` where each query is known to see a key.
    """

    kernel: str
    average: Average
    full: bool
    body: Value


# --- rows ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights(Value):
    """w[i, j], the score of `average` where its condition holds, normalized over the keys; what dropout leaves of it.

    Where the keys are an axis of listed `pairs`, the function `rows` normalizes those of each query, if it is not "".
    """

    average: Average
    rows: str = ""
    pairs: str = ""

    @property
    def operands(self) -> tuple[Value, ...]:
        return tuple(v for v in (self.average.score, self.average.visible) if v is not None)


@dataclass(frozen=True)
class Picks(Weights):
    """The few keys of each query that have a weight, and these."""


# --- products and gathers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summed(Value):
    """y[i] = sum over j of w[i, j] * message[j], one product."""

    weights: Weights
    message: Value


@dataclass(frozen=True)
class Scaled(Value):
    """y[i] = w[i] * message[i], where each query has one key."""

    weights: Weights
    message: Value


@dataclass(frozen=True)
class Gathered(Value):
    """y[i] = sum over the picked j of w[i, j] * message[j], of which no others are read."""

    weights: Picks
    message: Value


@dataclass(frozen=True)
class RowSums(Value):
    """y[i] = sum over the pairs p of i of w[p] * message[p]."""

    weights: Weights
    message: Value


@dataclass(frozen=True)
class Listed(Value):
    """The list of `pairs`, sorted by their queries: those of `relations` (of each its name, and whether it goes from j
    to i) and, if there is a number `itself`, so many pairs i == j. `body` is computed along it."""

    query: Axis
    key: Axis
    relations: tuple[tuple[str, bool], ...]
    itself: Size | None
    pairs: str
    body: RowSums


@dataclass(frozen=True)
class Factored(Value):
    """y[i] = sum of left[i] . (sum over j of right[j] message[j]), a product at a time, as `average` normalizes it.

    Where it is `causal` the sums run up to each query's own position, in blocks of `block`.
    """

    average: Average
    products: tuple[Product, ...]
    causal: bool
    block: int

    @property
    def operands(self) -> tuple[Value, ...]:
        a = self.average
        return tuple(v for v in (a.score, a.visible, a.message) if v is not None)


# --- calls -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fused(Value):
    """torch's scaled_dot_product_attention. `grouped` key heads serve several query heads each: none is repeated."""

    average: Average
    score: DotScore
    grouped: bool

    @property
    def operands(self) -> tuple[Value, ...]:
        visible = (self.average.visible,) if self.average.visible is not None else ()
        biases = (t.value for t in self.score.biases)
        return (self.score.left, self.score.right, self.average.message, *visible, *biases)

    @property
    def fast(self) -> bool:
        """Whether scores are made and dropped block by block: of keys and values of different sizes they are not."""
        return self.score.left.axes[-1].size == self.average.message.axes[-1].size


@dataclass(frozen=True)
class Paired(Fused):
    """torch's flex_attention: the condition and the biases are functions of one pair."""


@dataclass(frozen=True)
class Attended(Value):
    """A softmax average, block by block as `cut` says; each part of the condition and each bias comes in blocks.

    `axes_of_pairs` are those of a block's scores.
    """

    average: Average
    score: DotScore
    cut: Cut
    axes_of_pairs: tuple[Axis, ...]
    conditions: tuple[Value, ...]
    biases: tuple[Term, ...]

    @property
    def operands(self) -> tuple[Value, ...]:
        biases = (t.value for t in self.biases)
        return (self.score.left, self.score.right, self.average.message, *self.conditions, *biases)


@dataclass(frozen=True)
class Merged(Value):
    """The averages over disjoint sets of keys as one, by their log-sum-exp."""

    parts: tuple[Attended, ...]


# --- loops over blocks -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InBlocks(Value):
    """`body` in every block of `cuts` at once, put together again. With `at_sources` its `q`, `k` and `v` are cut,
    otherwise what is made of them is."""

    cuts: tuple[Cut, ...]
    at_sources: bool
    body: Lowered

    @property
    def operands(self) -> tuple[Value, ...]:
        return (self.body.body,)


@dataclass(frozen=True)
class InTurn(Value):
    """`body` for `size` queries along `axis` after the other, and the results joined; `held` is computed before."""

    axis: Axis
    size: int
    held: tuple[tuple[str, Value], ...]
    body: Lowered

    @property
    def operands(self) -> tuple[Value, ...]:
        return (*(value for _, value in self.held), self.body.body)


# --- types -----------------------------------------------------------------------------------------------------


def result_type(average: Average, *of: Value, lead: bool = False) -> TensorType:
    """The type of an average that is made of some values: of the axes of a result, those that any of them has, or all
    of them with `lead`."""
    feature = average.message.axes[-1]
    found = {a for value in of for a in value.axes}
    every = (*average.lead, *average.positions)
    return TensorType("float", (*(a for a in every if lead or a in found), feature))
