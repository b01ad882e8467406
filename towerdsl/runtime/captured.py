"""Whether the tensors at hand stand for others, so that nothing may depend on their values or lengths."""

from __future__ import annotations

import torch
from torch import Tensor


def captured() -> bool:
    """Whether torch records the operations, for other values and lengths: compiling, exporting, tracing."""
    return torch.compiler.is_compiling() or traced()


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
