"""A function that is called for parts of a length, one after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from towerdsl.runtime.captured import captured, plain


def in_turn(function: Callable[[slice], Tensor], length: int, size: int, dim: int) -> Tensor:
    """The results of `function` for each part of `length`, joined along `dim`.

    For its gradients a part is computed again, so that one part is held at a time. Recorded, all is one part.
    """
    from torch.utils.checkpoint import checkpoint

    if captured() or length <= size:
        return function(slice(0, length))
    parts = [slice(start, min(start + size, length)) for start in range(0, length, size)]
    if torch.is_grad_enabled() and not plain():
        return torch.cat([checkpoint(function, part, use_reentrant=False) for part in parts], dim)
    return torch.cat([function(part) for part in parts], dim)
