"""torch's flex_attention, with a block mask that is read from the condition itself.

The condition is a function of one pair, `visible(b, h, i, j)`. For the block mask it is called once, with an `Interval`
for all queries and one for all keys of a block: what comes out is whether all pairs of two blocks are visible, and
whether some may be. So the work grows with the pairs of blocks; no pair of positions is evaluated.

Legend: B batch, H heads, T blocks of queries, S blocks of keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def flex_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    score_mod: Callable[..., Tensor] | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """torch's flex_attention on [B, H, position, feature]; on a GPU compiled, as it holds all scores otherwise.

    Its kernels have at least 16 features, so fewer are filled up with zeros.
    """
    from torch.nn.attention.flex_attention import flex_attention

    scale, features = q.shape[-1] ** -0.5 if scale is None else scale, v.shape[-1]
    if not (q.shape[:-1].numel() and k.shape[-2]):  # a kernel has at least one block
        return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=enable_gqa)
    if q.is_meta:
        return q.new_empty(*q.shape[:-1], features)
    q, k, v = (x if x.shape[-1] >= 16 else F.pad(x, (0, 16 - x.shape[-1])) for x in (q, k, v))
    function = flex_attention if q.device.type == "cpu" else torch.compile(flex_attention)
    return function(q, k, v, score_mod, block_mask, scale, enable_gqa)[..., :features]


def block_mask(visible: Callable[..., Any], q: Tensor, k: Tensor, size: int = 128) -> BlockMask | None:
    """The blocks of `size` queries and keys of which some pair may be visible, and those of which all are; None where
    there are no pairs."""
    from torch.nn.attention.flex_attention import BlockMask

    queries, keys = q.shape[-2], k.shape[-2]
    if not (q.shape[:-1].numel() and keys):
        return None
    with torch.no_grad():
        some, every = visible_blocks(visible, q.shape[:2], queries, keys, q.device, size)
        part = some & ~every
        of_queries = *first_ones(part), *first_ones(every)
        of_keys = *first_ones(part.transpose(-1, -2)), *first_ones(every.transpose(-1, -2))
        return BlockMask((queries, keys), *of_queries, *of_keys, (size, size), visible)


def visible_blocks(
    visible: Callable[..., Any],
    lead: tuple[int, ...],
    queries: int,
    keys: int,
    device: torch.device,
    size: int,
) -> tuple[Tensor, Tensor]:
    """Whether some pair of two blocks may be visible, and whether all are: [B, H, T, S], B and H may be 1.

    A block that is not full has none that are all visible, because its kernel looks at positions behind the end.
    """
    b, h = (torch.arange(n, device=device) for n in lead)
    i, j = (Interval.of_blocks(n, size, device) for n in (queries, keys))
    i, j = i.spread(2), j.spread(3)
    with Reading():
        found = visible(exactly(b[:, None, None, None]), exactly(h[:, None, None]), i, j)
    whole = (i.least + size <= queries) & (j.least + size <= keys)
    some, every = torch.broadcast_tensors(found.greatest, found.least & whole)
    return some, every


def first_ones(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """[..., T, S] --> how many blocks each row has, and their numbers, before those of the others."""
    blocks = blocks.int().contiguous()
    return blocks.sum(-1, dtype=torch.int32), blocks.argsort(dim=-1, descending=True, stable=True).int()


def exactly(x: Any) -> Interval:
    """A number that is known."""
    return x if isinstance(x, Interval) else Interval(x, x)


class Interval:
    """What is known of a number for all pairs of two blocks: it is not less than `least` nor more than `greatest`.

    Of a truth value, `least` says whether it is true for all, `greatest` whether it may be for some. NaN is an end
    that is not known: a comparison with it may hold, and is not sure to. `block` are the numbers of the blocks where
    it is the position itself, `size` how long they are.
    """

    def __init__(self, least: Any, greatest: Any, block: Tensor | None = None, size: int = 1) -> None:
        self.least, self.greatest, self.block, self.size = least, greatest, block, size

    @staticmethod
    def of_blocks(length: int, size: int, device: torch.device) -> Interval:
        """The positions of each block."""
        block = torch.arange((length + size - 1) // size, device=device)
        return Interval(block * size, (block * size + size - 1).clamp(max=length - 1), block, size)

    def spread(self, dim: int) -> Interval:
        """The same along one of four dims."""
        shape = [1] * dim + [-1] + [1] * (3 - dim)
        assert self.block is not None
        return Interval(self.least.view(shape), self.greatest.view(shape), self.block.view(shape), self.size)

    def __and__(self, other: Any) -> Interval:
        other = exactly(other)
        return Interval(self.least & other.least, self.greatest & other.greatest)

    def __or__(self, other: Any) -> Interval:
        other = exactly(other)
        return Interval(self.least | other.least, self.greatest | other.greatest)

    def __invert__(self) -> Interval:
        return Interval(~self.greatest, ~self.least)

    def __lt__(self, other: Any) -> Interval:
        other = exactly(other)
        return Interval(self.greatest < other.least, ~(self.least >= other.greatest))

    def __le__(self, other: Any) -> Interval:
        other = exactly(other)
        return Interval(self.greatest <= other.least, ~(self.least > other.greatest))

    def __gt__(self, other: Any) -> Interval:
        other = exactly(other)
        return Interval(self.least > other.greatest, ~(self.greatest <= other.least))

    def __ge__(self, other: Any) -> Interval:
        other = exactly(other)
        return Interval(self.least >= other.greatest, ~(self.greatest < other.least))

    def __eq__(self, other: Any) -> Interval:  # type: ignore[override]
        return (self <= other) & (self >= other)

    def __ne__(self, other: Any) -> Interval:  # type: ignore[override]
        return ~(self == other)

    def __neg__(self) -> Interval:
        return Interval(-self.greatest, -self.least)

    def __add__(self, other: Any) -> Interval:
        other = exactly(other)
        return Interval(self.least + other.least, self.greatest + other.greatest)

    def __sub__(self, other: Any) -> Interval:
        other = exactly(other)
        return Interval(self.least - other.greatest, self.greatest - other.least)

    def __rsub__(self, other: Any) -> Interval:
        return exactly(other) - self

    def __mul__(self, other: Any) -> Interval:
        other = exactly(other)
        return hull(*(x * y for x in (self.least, self.greatest) for y in (other.least, other.greatest)))

    def __floordiv__(self, other: Any) -> Interval:
        if isinstance(other, Interval):
            return unknown(self)
        if self.exact:
            return exactly(self.least // other)
        return hull(self.least // other, self.greatest // other)

    def __mod__(self, other: Any) -> Interval:
        if isinstance(other, Interval):
            return unknown(self)
        if self.exact:
            return exactly(self.least % other)
        one = self.least // other == self.greatest // other  # it does not turn over between them
        found = hull(torch.zeros_like(self.least), torch.full_like(self.least, other))
        least, greatest = (torch.where(one, x % other, y) for x, y in zip(self.ends, found.ends, strict=True))
        return Interval(least, greatest)

    def __abs__(self) -> Interval:
        least = torch.maximum(self.least, -self.greatest).clamp(min=0)
        return Interval(least, torch.maximum(-self.least, self.greatest))

    __rand__, __ror__, __radd__, __rmul__ = __and__, __or__, __add__, __mul__
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __rfloordiv__ = __rmod__ = lambda self, other: unknown(self)

    @property
    def exact(self) -> bool:
        """Whether it is one number."""
        return self.least is self.greatest

    @property
    def ends(self) -> tuple[Any, Any]:
        """What it lies between."""
        return self.least, self.greatest

    def to(self, dtype: torch.dtype) -> Interval:
        """In another dtype: rounding keeps the order."""
        return Interval(self.least.to(dtype), self.greatest.to(dtype))

    def long(self) -> Interval:
        """As a whole number."""
        return self.to(torch.long)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Interval:
        """Functions that are called with intervals; a number between these is what is not known of the others."""
        first, *rest = args
        if function is torch.abs:
            return abs(first)
        if function is torch.clamp and not any(isinstance(x, Interval) for x in rest):
            return Interval(*(torch.clamp(x, *rest, **(kwargs or {})) for x in first.ends))
        like = next(x for x in args if isinstance(x, Interval))
        if function in (torch.minimum, torch.maximum):
            return Interval(*(function(*ends) for ends in zip(*(exactly(x).ends for x in args), strict=True)))
        if function is torch.where:
            condition, a, b = (
                exactly(torch.as_tensor(x, device=like.least.device)) if not isinstance(x, Interval) else x
                for x in args
            )
            found = hull(*a.ends, *b.ends)
            ends = zip(a.ends, b.ends, found.ends, strict=True)
            return Interval(
                *(torch.where(condition.least, x, torch.where(condition.greatest, z, y)) for x, y, z in ends)
            )
        return unknown(like)


def hull(first: Tensor, *others: Tensor) -> Interval:
    """From the least to the greatest of some numbers."""
    least = greatest = first
    for x in others:
        least, greatest = torch.minimum(least, x), torch.maximum(greatest, x)
    return Interval(least, greatest)


def unknown(like: Interval) -> Interval:
    """A number of which nothing is known."""
    return exactly(torch.full_like(like.least, float("nan"), dtype=torch.float32))


class Reading(torch.overrides.TorchFunctionMode):
    """While this is active, a tensor can be read at intervals: `keep[b, j]` is what it has in each block."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.__getitem__:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(x, Interval) for x in index):
                return read_at(args[0], index)
        return function(*args, **(kwargs or {}))


def read_at(x: Tensor, index: tuple[Any, ...]) -> Interval:
    """The least and the greatest entry of each block; where the index is no position, of the whole dim."""
    least = greatest = x
    places: list[Any] = []
    for dim, at in enumerate(map(exactly, index)):
        if at.block is not None:
            count = at.block.numel()
            positions = torch.arange(count * at.size, device=x.device).clamp(max=x.shape[dim] - 1)
            least, greatest = (
                y.index_select(dim, positions).unflatten(dim, (count, at.size)) for y in (least, greatest)
            )
            least, greatest = least.amin(dim + 1), greatest.amax(dim + 1)
            places.append(at.block)
        elif at.exact:
            places.append(at.least)
        else:
            least, greatest = least.amin(dim, keepdim=True), greatest.amax(dim, keepdim=True)
            places.append(torch.zeros_like(at.least))
    return Interval(least[tuple(places)], greatest[tuple(places)])
