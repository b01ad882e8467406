"""Functions that emitted source calls, beside the normalizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def adjacency(edges: Tensor, sources: int, targets: int) -> Tensor:
    """Pairs [2, edges] --> bool [sources, targets], true where (source, target) is among them."""
    flat = edges.new_zeros(sources * targets).index_fill(0, edges[0] * targets + edges[1], 1)
    return flat.view(sources, targets).bool()


def holds_everywhere(condition: Tensor | None) -> bool:
    """Whether a condition is true everywhere, where that is cheap to know: on a CPU, not while compiling."""
    import torch

    if condition is None or condition.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return bool(condition.all())
