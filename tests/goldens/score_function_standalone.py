"""Glimpses: compiled by towerdsl 0.1.0 from score_function.yaml."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


def traced() -> bool:
    """Whether `torch.jit.trace`, torch's older ONNX exporter or `make_fx` records each plain operation."""
    if torch.compiler.is_compiling():
        return False
    key = torch._C._TorchDispatchModeKey.PROXY
    return torch._C._get_tracing_state() is not None or torch._C._get_dispatch_mode(key) is not None


def plain() -> bool:
    """Whether torch has to see plain operations: it traces, torch.func is at work, or tangents go along."""
    mapped = torch._C._are_functorch_transforms_active()
    return mapped or torch.autograd.forward_ad._current_level >= 0 or traced()


def readable(x: Tensor) -> bool:
    """Whether a decision may rest on the values of a tensor: it is on a CPU and stands for no others."""
    if torch.compiler.is_compiling() or not x.is_cpu or type(x) not in (Tensor, torch.nn.Parameter):
        return False
    return not plain()


def holds_everywhere(condition: Tensor | None) -> bool:
    """Whether a condition is true everywhere, where its values may be looked at."""
    return condition is not None and readable(condition) and bool(condition.all())


def softmax(score: Tensor, visible: Tensor | None) -> Tensor:
    """exp(f) / sum of exp(f) over the visible keys."""
    if visible is None:
        return score.softmax(-1)
    score = score.masked_fill(~visible, float("-inf"))
    # a row of -inf has no softmax: it gets numbers first and zeros after, so its gradient is zero, not nan
    empty = ~visible.any(-1, keepdim=True)
    return score.masked_fill(empty, 0.0).softmax(-1).masked_fill(~visible, 0.0)


def widened(x: Tensor) -> Tensor:
    """Halves as float32, in which sums over many keys are made; others as they are."""
    return x.float() if x.element_size() < 4 else x


def _noise(wide: Tensor) -> Tensor:
    """Gumbel noise in the shape of scores that are no halves, which have few numbers between 0 and 1."""
    return -wide.new_empty(wide.shape).exponential_().log()


def _choice(score: Tensor, visible: Tensor | None, training: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The key of each query, drawn while training, else the largest, and its weight, [..., 1]; softmax(f)."""
    probability = softmax(widened(score), visible)
    if training:
        noisy = probability.detach().log() + _noise(probability)  # the Gumbel-max trick
        chosen = noisy.argmax(-1, keepdim=True)
    else:
        chosen = probability.detach().argmax(-1, keepdim=True)
    weight = score.new_ones(chosen.shape)
    if visible is not None:
        weight = weight * visible.expand(probability.shape).gather(-1, chosen)
    return chosen, weight, probability


def pick_scored(score: Tensor, visible: Tensor | None, training: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The key of each query and its weight, [..., 1], and the log of its probability, [..., Q...]."""
    chosen, weight, probability = _choice(score, visible, training)
    of_chosen = (probability.gather(-1, chosen) * weight).squeeze(-1)
    return chosen, weight, of_chosen.masked_fill(of_chosen == 0, 1.0).log().to(score.dtype)


def picked_sum(values: Tensor, picked: Tensor, weights: Tensor) -> Tensor:
    """y[i] = sum over k of weights[i, k] * values[picked[i, k]]: [..., J, V] and [..., I, K] twice."""
    lead = torch.broadcast_shapes(values.shape[:-2], picked.shape[:-2])
    rows = picked.expand(*lead, -1, -1).flatten(-2)[..., None].expand(*lead, -1, values.shape[-1])
    rows = values.expand(*lead, -1, -1).gather(-2, rows)
    return (weights[..., None] * torch.unflatten(rows, -2, picked.shape[-2:])).sum(-2)


class Glimpse(nn.Module):
    """glimpse(x, keep), score_function.yaml:8.

        y[i] = sum over j of w[i, j] * v[j]
        f[i, j] = dot(q[i], k[j]) / sqrt(dk)
        w[i, j] = 1 for one j, drawn from softmax(f); log_prob is its log p
        j is visible to i where keep[j]

    Averaged over n, heads merged by concat; kernel: gather.

    x float[b, n, d=8], keep bool[b, n] -> float[b, n, d=8], float[b, head=2, n]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)
        self.output = nn.Linear(8, 8)

    def forward(self, x: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        q = self.query(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (2, 4)).transpose(1, 2)
        v = x.unflatten(-1, (2, 4)).transpose(1, 2)
        score = torch.einsum("bhid,bhjd->bhij", q / 2.0, k)
        visible = None if keep is None else keep[:, None, None, :]
        chosen, weights, log_prob = pick_scored(score, visible, self.training)
        y = picked_sum(v, chosen, weights).transpose(1, 2).flatten(-2)
        return self.output(y), log_prob


class GlimpsesOutput(NamedTuple):
    y: Tensor
    log_prob: Tensor


class Glimpses(nn.Module):
    """Glimpses, compiled from score_function.yaml.

    Hard attention; the log of the probability of each choice is returned for REINFORCE.

    Inputs:
        x: float[b, n, d=8]
        keep: bool[b, n] = true
    Outputs:
        y: float[b, n, d=8]
        log_prob: float[b, head=2, n]
    """

    def __init__(self) -> None:
        super().__init__()
        self.glimpse = Glimpse()

    def forward(self, x: Tensor, keep: Tensor | None = None) -> GlimpsesOutput:
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        y, log_prob = self.glimpse(x, keep)
        return GlimpsesOutput(y, log_prob)
