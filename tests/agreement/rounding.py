"""How far from the exact values a result may be that is rounded at each step.

The reference runs in float64, and again with each result of arithmetic changed by some random units of the last place
of a dtype: how far that moves a value or a gradient is what rounding may do to it.
"""

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from . import compare
from .compare import Named

#: Half a unit is what one rounding changes at most; several in a row, and in another order, are less than this many.
UNITS = 4.0
#: How many samples of what rounding may do: where a gradient jumps, few of them meet it.
SAMPLES = 9

#: Operations that move numbers, and change none.
MOVES = set(
    """view _unsafe_view reshape permute transpose t expand clone copy_ detach alias index gather where masked_fill cat
    stack select slice unsqueeze squeeze unfold as_strided neg abs relu maximum minimum amax amin max min flip roll
    split split_with_sizes unbind unsafe_split diagonal clamp zeros zeros_like ones ones_like new_zeros new_ones full
    full_like empty empty_like new_empty new_full new_empty_strided index_select scatter index_put slice_backward
    select_backward gt lt ge le eq ne _to_copy lift_fresh scalar_tensor arange masked_fill_ fill_ zero_ constant_pad_nd
    topk sort sign repeat rsub_ scatter_ new_zeros_like threshold_backward local_scalar_dense one_hot""".split()
)


class Rounded(TorchDispatchMode):
    """Each result of arithmetic a few units off; and the largest of them."""

    def __init__(self, unit: float, seed: int):
        super().__init__()
        self.unit, self.draw, self.largest = unit, torch.Generator().manual_seed(seed), 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in MOVES or name.endswith("_"):
            return found
        return tuple(map(self.moved, found)) if isinstance(found, (tuple, list)) else self.moved(found)

    def moved(self, x):
        if not isinstance(x, Tensor) or x.dtype != torch.float64 or not x.numel():
            return x
        self.largest = max(self.largest, x.abs().nan_to_num(0, 0, 0).max().item())
        return (
            x * (1 + self.unit * (2 * torch.rand(x.shape, generator=self.draw, dtype=x.dtype) - 1)) if self.unit else x
        )


def cast(tensors: Named, dtype: torch.dtype) -> Named:
    return {n: x.to(dtype) if x.is_floating_point() else x for n, x in tensors.items()}


def bound(
    model: nn.Module, params: Named, inputs: Named, dtype: torch.dtype, given: bool = False
) -> tuple[Named, Named, float]:
    """The exact values and gradients, how far from each a result in `dtype` may be, and the largest number on the way.

    With `given` parameters and inputs are rounded too, as autocast does.
    """
    eps = torch.finfo(dtype).eps
    with Rounded(0.0, 0) as exact:
        expected = compare.run(model, params, inputs)
    off = {n: torch.zeros((), dtype=torch.float64) for n in expected}
    for sample in range(SAMPLES):
        with Rounded(UNITS * eps, sample) as rounded:
            moved = [{n: rounded.moved(x) if given else x for n, x in y.items()} for y in (params, inputs)]
            found = compare.run(model, *moved)
        for n, x in found.items():
            if x.numel() and x.is_floating_point():
                off[n] = torch.maximum(off[n], (x - expected[n]).abs().max())
    # a weight that is made again for its gradient is exp(score - the log of the sum), in float32 at least
    relative = eps + min(eps, torch.finfo(torch.float32).eps) * exact.largest
    tiny = torch.finfo(dtype).tiny
    allowed = {
        n: off[n] + UNITS * (relative * x.abs().max() + tiny) if x.numel() else off[n] for n, x in expected.items()
    }
    return expected, allowed, exact.largest
