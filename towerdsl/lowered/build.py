"""The parts of trees that kernels share."""

from __future__ import annotations

from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import read
from towerdsl.ir.placed import Cut
from towerdsl.ir.types import TensorType
from towerdsl.lowered import nodes as low
from towerdsl.lowered.tiling import Tiling
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes.locality import conjuncts
from towerdsl.passes.score import DotScore


def weights(average: n.Average, rows: str = "", pairs: str = "") -> low.Weights:
    """The weights of an average, with the axes along which they differ; what draws does so for each query."""
    return low.Weights(_of_pairs(average), average.span, average, rows, pairs)


def picks(average: n.Average) -> low.Picks:
    """The keys that each query picks, and their weights."""
    return low.Picks(_of_pairs(average), average.span, average)


def _of_pairs(average: n.Average) -> TensorType:
    present = {*average.score.axes, *average.over, *(average.visible.axes if average.visible is not None else ())}
    if NORMALIZERS[average.normalize].draws or average.dropout:
        present |= {*average.lead, *average.positions}
    every = (*average.lead, *average.positions, *average.over)
    return TensorType("float", tuple(a for a in every if a in present))


def summed(average: n.Average) -> low.Summed:
    """The sum of the messages by their weights."""
    w = weights(average)
    return low.Summed(low.result_type(average, w, average.message), average.span, w, average.message)


def fused(average: n.Average, score: DotScore) -> low.Fused:
    """An average by torch's scaled_dot_product_attention."""
    return low.Fused(low.result_type(average, lead=True), average.span, average, score, _grouped(average, score))


def paired(average: n.Average, score: DotScore) -> low.Paired:
    """An average by torch's flex_attention."""
    return low.Paired(low.result_type(average, lead=True), average.span, average, score, _grouped(average, score))


def _grouped(average: n.Average, score: DotScore) -> bool:
    """Whether query heads share key heads, and can do so as they are: nothing but the dot product reads the keys."""
    if average.key_heads is None:
        return False
    leaves = [v for v in score.right.walk() if not v.operands and average.heads in v.axes]
    conditions = [average.visible] if average.visible is not None else []
    if read([*(t.value for t in score.biases), *conditions]) & {"k", "v"}:
        return False  # the mask is made of all heads
    return len(average.lead) == 2 and all(isinstance(v, n.Local) and v.name == "k" for v in leaves)


def attended(average: n.Average, score: DotScore, cut: Cut) -> low.Attended:
    """A softmax average of dot products in blocks along one axis. Raises Untileable."""
    tiling = Tiling(average, (cut,), False)
    axes = (*average.lead, tiling.block, tiling.places["i"], tiling.places["j"] if cut.key else average.over[0])
    parts = conjuncts(average.visible) if average.visible is not None else []
    return low.Attended(
        low.result_type(average, lead=True),
        average.span,
        average,
        score,
        cut,
        axes,
        tuple(map(tiling.value, parts)),
        tuple(tiling.term(t) for t in score.biases),
    )
