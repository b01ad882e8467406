"""TopKeys: compiled by towerdsl 0.1.0 from top_keys.yaml."""

from __future__ import annotations

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


def _largest(score: Tensor, k: int) -> Tensor:
    """Which are the k largest of the last axis, of equal ones the first, [..., k]."""
    keys = score.shape[-1]
    last = score.topk(k).values[..., -1:]
    # topk says nothing of the order of equal ones: these numbers all differ
    level = (score > last).int() + (score >= last)
    picked: Tensor = (level * keys - level.new_ones(keys).cumsum(-1)).topk(k).indices
    return picked


def softmax(score: Tensor, visible: Tensor | None) -> Tensor:
    """exp(f) / sum of exp(f) over the visible keys."""
    if visible is None:
        return score.softmax(-1)
    score = score.masked_fill(~visible, float("-inf"))
    # a row of -inf has no softmax: it gets numbers first and zeros after, so its gradient is zero, not nan
    empty = ~visible.any(-1, keepdim=True)
    return score.masked_fill(empty, 0.0).softmax(-1).masked_fill(~visible, 0.0)


def pick_topk(score: Tensor, visible: Tensor | None, k: int = 8) -> tuple[Tensor, Tensor]:
    """The k largest of the visible keys, [..., k], and their softmax; zeros for those that are too many."""
    if visible is not None:
        score = score.masked_fill(~visible, float("-inf"))
        visible = visible.expand(score.shape)
    picked = _largest(score.detach(), min(k, score.shape[-1]))
    return picked, softmax(score.gather(-1, picked), None if visible is None else visible.gather(-1, picked))


def picked_sum(values: Tensor, picked: Tensor, weights: Tensor) -> Tensor:
    """y[i] = sum over k of weights[i, k] * values[picked[i, k]]: [..., J, V] and [..., I, K] twice."""
    lead = torch.broadcast_shapes(values.shape[:-2], picked.shape[:-2])
    rows = picked.expand(*lead, -1, -1).flatten(-2)[..., None].expand(*lead, -1, values.shape[-1])
    rows = values.expand(*lead, -1, -1).gather(-2, rows)
    return (weights[..., None] * torch.unflatten(rows, -2, picked.shape[-2:])).sum(-2)


class Look(nn.Module):
    """look(x, keep), top_keys.yaml:8.

        y[i] = sum over j of w[i, j] * v[j]
        f[i, j] = dot(q[i], k[j]) / sqrt(dk)
        w[i, j] = exp(f) / sum of exp(f) over the k largest f, 0 for others
        j is visible to i where keep[j]

    Averaged over n, heads merged by concat, k 4; kernel: gather.

    x float[b, n, d=8], keep bool[b, n] -> float[b, n, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)
        self.value = nn.Linear(8, 8)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        q = self.query(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (2, 4)).transpose(1, 2)
        v = self.value(x).unflatten(-1, (2, 4)).transpose(1, 2)
        score = torch.einsum("bhid,bhjd->bhij", q / 2.0, k)
        visible = None if keep is None else keep[:, None, None, :]
        chosen, weights = pick_topk(score, visible, k=4)
        return picked_sum(v, chosen, weights).transpose(1, 2).flatten(-2)


class TopKeys(nn.Module):
    """TopKeys, compiled from top_keys.yaml.

    Each word looks at the four words that fit it best.

    Inputs:
        x: float[b, n, d=8]
        keep: bool[b, n] = true
    Output:
        result: float[b, n, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.look = Look()

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        return self.look(x, keep)
