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


def in_dtype(model: Any, name: str, declared: str, x: Any) -> Any:
    """One input in its dtype."""
    kind = declared.partition("[")[0]
    if x is None and " = " in declared:
        return None
    if not isinstance(x, Tensor):
        help = "" if x is None else f"; give torch.as_tensor({name})"
        raise TypeError(f"`{name}` is {type(x).__name__}; it is declared {declared}{help}")
    real = x.dtype.is_floating_point
    whole = not real and not x.dtype.is_complex
    if kind == "float" and real:
        if "model's dtype" not in declared:
            return x
        return x.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype))
    if kind == "bool" and whole:
        if x.dtype != torch.bool and readable(x) and bool(((x != 0) & (x != 1)).any()):
            got = f"`{name}` has numbers from {int(x.min())} to {int(x.max())}; it is declared {declared}"
            raise ValueError(f"{got}; give a condition of them, such as {name} > 0")
        return x.to(torch.bool)
    if kind in ("int", "relation") and whole and x.dtype != torch.bool:
        return x.to(torch.long)
    as_meant = {"float": f"{name}.float()", "bool": f"a condition, such as {name} > 0"}
    got = f"`{name}` is {str(x.dtype).removeprefix('torch.')}; it is declared {declared}"
    raise TypeError(f"{got}; if that is meant, give {as_meant.get(kind, f'{name}.long()')}")


def captured() -> bool:
    """Whether torch records the operations, for other values and lengths: compiling, exporting, tracing."""
    return torch.compiler.is_compiling() or traced()


def axes_of(declared: str) -> list[str]:
    """`int[b, n], below 9` --> b, n."""
    inside = declared[declared.index("[") + 1 : declared.index("]")]
    return inside.split(", ") if inside else []


def length_of(size: str, lengths: dict[str, int]) -> Any:
    """The number that a formula of lengths is, such as `2 * n - 1`; None where one of them is not known."""
    import ast
    import operator

    operators: dict[type, Any] = {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
        ast.Pow: operator.pow,
        ast.USub: operator.neg,
    }

    def number(of: Any) -> Any:
        if isinstance(of, ast.Constant):
            return of.value
        if isinstance(of, ast.Name):
            return lengths.get(of.id)
        parts = [number(x) for x in ((of.operand,) if isinstance(of, ast.UnaryOp) else (of.left, of.right))]
        return None if None in parts else operators[type(of.op)](*parts)

    return int(size) if size.isdecimal() else number(ast.parse(size, mode="eval").body)


def lengths_of(inputs: dict[str, str], found: tuple[Any, ...]) -> dict[str, int]:
    """The length of each axis that has no fixed one, by name."""
    lengths: dict[str, int] = {}
    source: dict[str, str] = {}
    later = []
    for (name, declared), x in zip(inputs.items(), found, strict=True):
        if x is None:
            continue
        axes = axes_of(declared)
        got = f"`{name}` has shape {list(x.shape)}; it is declared {declared}"
        if declared.startswith("relation"):
            if x.ndim != 2 or x.shape[0] != 2:
                raise ValueError(f"{got}; give a row of sources and a row of targets, [2, edges]")
            continue
        if x.ndim != len(axes):
            help = f"; if it is one of a batch, give {name}[None]" if x.ndim == len(axes) - 1 else ""
            raise ValueError(f"{got}, {len(axes)} axes{help}")
        for axis, length in zip(axes, x.shape, strict=True):
            size = axis.rpartition("=")[2]
            if size == "?":
                continue
            if not size.isidentifier():
                later.append((axis, size, length, got))
            elif lengths.setdefault(size, length) != length:
                raise ValueError(f"{got}; {size} is {length} here and {lengths[size]} in `{source[size]}`")
            source.setdefault(size, name)
        limit, _, most = declared.rpartition(" at most ")
        if most.isdecimal() and lengths[limit.rpartition(" ")[2]] > int(most):
            raise ValueError(f"{got}; cut it, or compile the model with more positions")
    for axis, size, length, got in later:
        expected = length_of(size, lengths)
        if expected is not None and length != expected:
            help = "give it in this size, or compile the model for another"
            raise ValueError(f"{got}; {length} is not {axis}: {help}")
    return lengths


def check_numbers(name: str, declared: str, x: Tensor, lengths: dict[str, int]) -> None:
    """Whether ids are in their table, and edges between nodes that there are."""
    if declared.startswith("relation"):
        sizes = [axis.rpartition("=")[2] for axis in axes_of(declared)]
        for side, row, size in zip(("source", "target"), x, sizes, strict=True):
            count = int(size) if size.isdecimal() else lengths.get(size)
            low, high = (int(end) for end in row.aminmax())
            if count is not None and (low < 0 or high >= count):
                got = f"`{name}` has the {side} {low if low < 0 else high}, out of bounds"
                raise IndexError(f"{got}; it is declared {declared}, and there are {count}, counted from 0")
        return
    limit = declared.partition(", below ")[2].partition(",")[0]
    if limit:
        low, high = (int(end) for end in x.aminmax())
        if low < 0 or high >= int(limit):
            got = f"`{name}` has {low if low < 0 else high}, out of bounds; it is declared {declared}"
            raise IndexError(f"{got}; are the ids of this model's vocabulary?")


def as_declared(model: Any, *given: Any) -> tuple[Any, ...]:
    """The inputs in the dtypes of `model.inputs`; an error names the one that does not fit.

    Whole numbers of any width do for int, 0 and 1 of them for bool; floats are converted where they meet
    weights. Values are only looked at on a CPU; where operations are recorded, nothing but dtypes is.
    """
    inputs: dict[str, str] = model.inputs
    found = tuple(in_dtype(model, name, inputs[name], x) for name, x in zip(inputs, given, strict=True))
    if not captured():
        lengths = lengths_of(inputs, found)
        for name, x in zip(inputs, found, strict=True):
            if x is not None and x.dtype == torch.long and x.numel() and readable(x):
                check_numbers(name, inputs[name], x, lengths)
    return found


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


def _first(score: Tensor) -> Tensor:
    """Which is the largest of the last axis, [..., 1]; of none none, [..., 0]."""
    return score.argmax(-1, keepdim=True) if score.shape[-1] else score.long()


def _noise(wide: Tensor) -> Tensor:
    """Gumbel noise in the shape of scores that are no halves, which have few numbers between 0 and 1."""
    return -wide.new_empty(wide.shape).exponential_().log()


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


def pick_scored(score: Tensor, visible: Tensor | None, training: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The key of each query and its weight, [..., 1], and the log of its probability, [..., Q...]."""
    chosen, weight, probability = _choice(score, visible, training)
    of_chosen = (probability.gather(-1, chosen) * weight).sum(-1)
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

    inputs = {
        "x": "float[b, n, d=8], in the model's dtype",
        "keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.glimpse = Glimpse()

    def forward(self, x: Tensor, keep: Tensor | None = None) -> GlimpsesOutput:
        x, keep = as_declared(self, x, keep)
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        y, log_prob = self.glimpse(x, keep)
        return GlimpsesOutput(y, log_prob)
