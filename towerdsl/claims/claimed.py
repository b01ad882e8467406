"""What the weights of an attention are, from its normalizer and the bounds of its score alone."""

from __future__ import annotations

from dataclasses import dataclass

from towerdsl.ir import nodes as n
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes.bounds import bounds

#: Largest differences allowed in float64, as parts of the largest number compared. What is measured is rounding, a few
#: 1e-16 for values; gradients pass through more sums, and through differences of nearly equal numbers.
VALUES, GRADIENTS = 1e-10, 1e-8


@dataclass(frozen=True)
class Claimed:
    """`kind` is "convex" (not negative, rows sum to 1), "bounded" (from 0 to 1, rows have any sum), "positive"
    (not negative, without an upper bound) or "signed" (of any sign). `sums` is true where each row that is not all
    zeros sums to 1; `why` says what it follows from."""

    kind: str
    low: float | None
    high: float | None
    sums: bool
    why: str
    zeros: bool = False  # rows whose scores sum to 0 are zeros


def claimed(average: n.Average) -> Claimed:
    """The claim on the weights W of an attention.

    f is the score. softmax, sparsemax, topk, hard: convex for every f. sigmoid: from 0 to 1. sum: convex where f >= 0,
    otherwise rows sum to 1 with any sign. count: convex where f = 1. none and count: not negative where f is not,
    at most 1 where f is.
    """
    entry = NORMALIZERS[average.normalize]
    low, high = bounds(average.score)
    positive = low is not None and low >= 0
    f = f"f {_range(low, high)}"
    if entry.weights == "convex":
        return Claimed("convex", 0.0, 1.0, True, f"{entry.name} of any f")
    if entry.weights == "bounded":
        return Claimed("bounded", 0.0, 1.0, False, f"{entry.name} of any f")
    if entry.weights == "convex where f is not negative":
        if positive:
            return Claimed("convex", 0.0, 1.0, True, f"{entry.name} of {f}", zeros=True)
        return Claimed("signed", None, None, True, f"{entry.name} of {f}", zeros=True)
    if entry.weights == "convex where f is 1" and low == high == 1:
        return Claimed("convex", 0.0, 1.0, True, f"{entry.name} of f = 1")
    if positive and high is not None and high <= 1:
        return Claimed("bounded", 0.0, 1.0, False, f"{entry.name} of {f}")
    if positive:
        return Claimed("positive", 0.0, None, False, f"{entry.name} of {f}")
    return Claimed("signed", None, None, False, f"{entry.name} of {f}")


def _range(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return "of any sign"
    if low is None or high is None:
        return f">= {low:g}" if low is not None else f"<= {high:g}"
    return f"= {low:g}" if low == high else f"from {low:g} to {high:g}"
