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
#: Samples of what rounding may do; and how many before a result is said to be wrong: where a gradient jumps, as at
#: scores that are nearly equal, few of them meet it.
FEW, MANY = 3, 100

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
    """Each result of arithmetic a few units off, relative to it and, where it is next to 0, by `least`; and the largest
    of them."""

    def __init__(self, unit: float, seed: int, least: float = 0.0):
        super().__init__()
        self.unit, self.least, self.draw, self.largest = unit, least, torch.Generator().manual_seed(seed), 0.0

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
        if not self.unit:
            return x
        off = 2 * torch.rand(x.shape, generator=self.draw, dtype=x.dtype) - 1
        moved = x * (1 + self.unit * off) + self.least * off
        return moved.where(moved * x > 0, 0.0)  # what is next to 0 becomes 0, and what is 0 stays so


def cast(tensors: Named, dtype: torch.dtype) -> Named:
    return {n: x.to(dtype) if x.is_floating_point() else x for n, x in tensors.items()}


class Bound:
    """The exact values and gradients of a model, how far from each a result in `dtype` may be, and the `largest`
    number on the way.

    With `given` parameters and inputs are rounded too, as autocast does.
    """

    def __init__(self, model: nn.Module, params: Named, inputs: Named, dtype: torch.dtype, given: bool = False):
        self.model, self.given, self.sources = model, given, (params, inputs)
        self.eps, self.tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
        with Rounded(0.0, 0) as exact:
            self.expected = compare.run(model, params, inputs)
        self.largest, self.samples = exact.largest, 0
        self.off = {n: torch.zeros((), dtype=torch.float64) for n in self.expected}
        self.sample(FEW)

    def sample(self, most: int) -> None:
        """Look at so many samples in all."""
        while self.samples < most:
            with Rounded(UNITS * self.eps, self.samples, UNITS * self.eps * self.tiny) as rounded:
                moved = [{n: rounded.moved(x) if self.given else x for n, x in y.items()} for y in self.sources]
                found = compare.run(self.model, *moved)
            for n, x in found.items():
                off = (x - self.expected[n]).abs()
                if (off := off[off.isfinite()]).numel() and x.is_floating_point():
                    self.off[n] = torch.maximum(self.off[n], off.max())
            self.samples += 1

    @property
    def allowed(self) -> Named:
        """What rounding explains, and at least what is allowed everywhere."""
        # a weight that is made again for its gradient is exp(score - the log of the sum), in float32 at least
        relative = self.eps + min(self.eps, torch.finfo(torch.float32).eps) * self.largest
        return {
            n: self.off[n] + UNITS * (relative * x.abs().max() + self.tiny) + compare.TOLERANCE
            if x.numel()
            else self.off[n]
            for n, x in self.expected.items()
        }

    def compare(self, what: str, found: Named) -> None:
        """Raises AssertionError if it is further away than rounding explains."""
        found = cast(found, torch.float64)
        expected = {n: self.expected[n] for n in found}
        try:
            compare.compare(what, found, expected, self.allowed)
        except AssertionError:
            self.sample(MANY)
            compare.compare(what, found, expected, self.allowed)
