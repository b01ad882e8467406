"""How scores become weights: one function for each entry of `normalize:`, in torch's tensor methods.

Legend: B batch axes, Q queries, K keys (last, and flat where several axes are averaged).
`score` and `visible` broadcast to [B..., Q..., K]; `visible` is None where every key is visible.
Each function returns the weights; a query that sees no key gets zeros, and zero gradient. Adding a normalizer is
adding a function here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Normalizer:
    """One entry of `normalize:`.

    `weights` says what the weights are: "convex" (not negative, each row sums to 1), "convex where f is not negative",
    "convex where f is 1", "bounded" (each between 0 and 1) or "signed" (each has the sign of f). `formula` is the
    weight of j in words. `draws` is true where the function takes `training`. `everywhere` is torch code for the
    function where every key is visible, if that is short; `{0}` is the score. `picks` is a function of the same
    arguments, where few keys have a weight: it returns which, [..., k], their weights, and log_prob if there is one.
    """

    name: str
    function: Callable[..., Any]
    weights: str
    formula: str
    everywhere: str | None = None
    picks: Callable[..., Any] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options and their defaults."""
        parameters = list(inspect.signature(self.function).parameters.values())[2:]
        return {p.name: p.default for p in parameters if p.name != "training"}

    @property
    def draws(self) -> bool:
        return "training" in inspect.signature(self.function).parameters


NORMALIZERS: dict[str, Normalizer] = {}


def normalizer(
    name: str, weights: str, formula: str, everywhere: str | None = None, picks: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as an entry of `normalize:`; `hard(gumbel)` is an entry of its own."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        NORMALIZERS[name] = Normalizer(name, function, weights, formula, everywhere, picks)
        return function

    return register


def widened(x: Tensor) -> Tensor:
    """Halves as float32, in which sums over many keys are made; others as they are."""
    return x.float() if x.element_size() < 4 else x


@normalizer("softmax", "convex", "exp(f) / sum of exp(f)", "{0}.softmax(-1)")
def softmax(score: Tensor, visible: Tensor | None) -> Tensor:
    """exp(f) / sum of exp(f) over the visible keys."""
    if visible is None:
        return score.softmax(-1)
    score = score.masked_fill(~visible, float("-inf"))
    # a row of -inf has no softmax: it gets numbers first and zeros after, so its gradient is zero, not nan
    empty = ~visible.any(-1, keepdim=True)
    return score.masked_fill(empty, 0.0).softmax(-1).masked_fill(~visible, 0.0)


@normalizer("sum", "convex where f is not negative", "f / sum of f")
def normalize_sum(score: Tensor, visible: Tensor | None) -> Tensor:
    """f / sum of f over the visible keys; zeros where the sum is zero."""
    wide = widened(score)
    if visible is not None:
        wide = wide.masked_fill(~visible, 0.0)
    total = wide.sum(-1, keepdim=True)
    return (wide / total.masked_fill(total == 0, 1.0)).masked_fill(total == 0, 0.0).to(score.dtype)


@normalizer("count", "convex where f is 1", "f / number of visible j")
def normalize_count(score: Tensor, visible: Tensor | None) -> Tensor:
    """f / number of visible keys."""
    if visible is None:
        return score / score.shape[-1]
    wide = widened(score).masked_fill(~visible, 0.0)
    count = wide.new_ones(wide.shape).masked_fill(~visible, 0.0).sum(-1, keepdim=True)
    return (wide / count.clamp(min=1)).to(score.dtype)


@normalizer("sigmoid", "bounded", "1 / (1 + exp(-f))", "{0}.sigmoid()")
def normalize_sigmoid(score: Tensor, visible: Tensor | None) -> Tensor:
    """1 / (1 + exp(-f)) for each visible key by itself."""
    weight = score.sigmoid()
    return weight if visible is None else weight.masked_fill(~visible, 0.0)


@normalizer("none", "signed", "f", "{0}")
def normalize_none(score: Tensor, visible: Tensor | None) -> Tensor:
    """f, as it is."""
    return score if visible is None else score.masked_fill(~visible, 0.0)


@normalizer("sparsemax", "convex", "the projection of f on the simplex")
def sparsemax(score: Tensor, visible: Tensor | None) -> Tensor:
    """max(f - t, 0), with t such that the weights sum to 1 (Martins and Astudillo 2016, equation 2 and algorithm 1)."""
    if not score.shape[-1]:
        return score if visible is None else score.masked_fill(~visible, 0.0)
    wide = widened(score)
    if visible is None:
        ordered = wide.sort(-1, descending=True).values
        top = ordered[..., :1].detach()  # from there on sums of large scores are exact
        wide, ordered = wide - top, ordered - top
    else:
        top = wide.detach().masked_fill(~visible, float("-inf")).amax(-1, keepdim=True)
        wide = (wide - top).where(visible, -2.0)  # further below the largest score than 1 a key has weight 0
        ordered = wide.sort(-1, descending=True).values
    count = ordered.new_ones(ordered.shape[-1]).cumsum(-1)
    total = ordered.cumsum(-1) - 1
    support = (count * ordered > total).sum(-1, keepdim=True).clamp(min=1)
    weight = (wide - total.gather(-1, support - 1) / support).clamp(min=0)
    if visible is not None:
        weight = weight.masked_fill(~visible, 0.0)
    return weight.to(score.dtype)


def _spread(keys: int, picked: Tensor, weight: Tensor) -> Tensor:
    """Weights of picked keys, [..., k] --> weights of all, [..., keys]."""
    return weight.new_zeros(*picked.shape[:-1], keys).scatter(-1, picked, weight)


def _largest(score: Tensor, k: int) -> Tensor:
    """Which are the k largest of the last axis, of equal ones the first, [..., k]."""
    keys = score.shape[-1]
    last = score.topk(k).values[..., -1:]
    # topk says nothing of the order of equal ones: these numbers all differ
    level = (score > last).int() + (score >= last)
    picked: Tensor = (level * keys - level.new_ones(keys).cumsum(-1)).topk(k).indices
    return picked


def pick_topk(score: Tensor, visible: Tensor | None, k: int = 8) -> tuple[Tensor, Tensor]:
    """The k largest of the visible keys, [..., k], and their softmax; zeros for those that are too many."""
    if visible is not None:
        score = score.masked_fill(~visible, float("-inf"))
        visible = visible.expand(score.shape)
    picked = _largest(score.detach(), min(k, score.shape[-1]))
    return picked, softmax(score.gather(-1, picked), None if visible is None else visible.gather(-1, picked))


@normalizer("topk", "convex", "exp(f) / sum of exp(f) over the k largest f, 0 for others", picks=pick_topk)
def topk(score: Tensor, visible: Tensor | None, k: int = 8) -> Tensor:
    """softmax over the k largest f; of equal f those of the first keys. Fewer than k visible keys all count."""
    picked, weight = pick_topk(score, visible, k)
    return _spread(score.shape[-1], picked, weight)


def _choice(score: Tensor, visible: Tensor | None, training: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The key of each query, drawn while training, else the largest, and its weight, [..., 1]; softmax(f)."""
    probability = softmax(widened(score), visible)
    if training:
        noisy = probability.detach().log() + _noise(probability)  # the Gumbel-max trick
        chosen = _first(noisy)
    else:
        chosen = _first(probability.detach())
    weight = score.new_ones(chosen.shape)
    if visible is not None:
        weight = weight * visible.expand(probability.shape).gather(-1, chosen)
    return chosen, weight, probability


def _first(score: Tensor) -> Tensor:
    """Which is the largest of the last axis, [..., 1]; of none none, [..., 0]."""
    return score.argmax(-1, keepdim=True) if score.shape[-1] else score.long()


def _noise(wide: Tensor) -> Tensor:
    """Gumbel noise in the shape of scores that are no halves, which have few numbers between 0 and 1."""
    return -wide.new_empty(wide.shape).exponential_().log()


def pick_hard(score: Tensor, visible: Tensor | None, training: bool) -> tuple[Tensor, Tensor]:
    """The key of each query and its weight, [..., 1]: 1, or 0 where none is visible."""
    return _choice(score, visible, training)[:2]


@normalizer(
    "hard", "convex", "1 for one j, drawn from softmax(f) while training, the largest otherwise", picks=pick_hard
)
def hard(score: Tensor, visible: Tensor | None, training: bool) -> Tensor:
    """One key for each query; no gradient reaches the score."""
    return _spread(score.shape[-1], *pick_hard(score, visible, training))


@normalizer("hard(straight_through)", "convex", "1 for one j, as in hard; the gradient is that of softmax(f)")
def hard_straight_through(score: Tensor, visible: Tensor | None, training: bool) -> Tensor:
    """One key for each query, with the gradient of softmax (Bengio et al. 2013)."""
    chosen, weight, probability = _choice(score, visible, training)
    return _spread(score.shape[-1], chosen, weight) + (probability - probability.detach()).to(score.dtype)


@normalizer("hard(gumbel)", "convex", "1 for the largest f + noise; the gradient is that of its softmax")
def hard_gumbel(score: Tensor, visible: Tensor | None, training: bool, temperature: float = 1.0) -> Tensor:
    """The largest of f + Gumbel noise, with the gradient of softmax((f + noise) / temperature) (Jang et al. 2017)."""
    wide = widened(score)
    if training:
        wide = wide + _noise(wide)
    weights: Tensor = hard_straight_through(wide / temperature, visible, False)
    return weights.to(score.dtype)


def pick_scored(score: Tensor, visible: Tensor | None, training: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The key of each query and its weight, [..., 1], and the log of its probability, [..., Q...]."""
    chosen, weight, probability = _choice(score, visible, training)
    of_chosen = (probability.gather(-1, chosen) * weight).sum(-1)
    return chosen, weight, of_chosen.masked_fill(of_chosen == 0, 1.0).log().to(score.dtype)


@normalizer(
    "hard(score_function)",
    "convex",
    "1 for one j, drawn from softmax(f); log_prob is its log p",
    picks=pick_scored,
)
def hard_score_function(score: Tensor, visible: Tensor | None, training: bool) -> tuple[Tensor, Tensor]:
    """One key for each query, and the log of its probability, [B..., Q...], for REINFORCE (Williams 1992).

    E[reward * gradient of log_prob] is the gradient of E[reward]. A query that sees no key has log_prob 0.
    """
    chosen, weight, log_prob = pick_scored(score, visible, training)
    return _spread(score.shape[-1], chosen, weight), log_prob
