"""Random weights and inputs for a model, of the right types and in the right ranges."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from towerdsl.diagnostics import Diagnostic, TowerError
from towerdsl.explain.work import Calls, Occurrence
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import statements, values
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import RelationType, Type

R = TypeVar("R")

#: Lengths that are tried for free axes, until the model runs with them: first all different, then all the same.
TRIED = ((9, 10, 11, 12, 13, 14), *((k,) * 6 for k in (12, 16, 8, 24, 32, 64, 128, 224, 7, 4)))
LARGEST_INT = 4
POOL = 1_000_003
#: Lengths at which an attention is measured by itself: small ones, and large ones where it has one axis, two or three.
SMALL, LARGE = (3, 5, 2, 7), (131, 19, 7)
#: The most weights that it then has.
MOST_FURTHER = 250_000
#: How many keys an attention should have at least, where its axes are free.
KEYS = 9


class _Unfilled(TorchFunctionMode):
    """While a model is built its parameters are not drawn: `build` does that in one go."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "trunc_normal_", "erfinv_"):
            found: Tensor = args[0] if args else kwargs["tensor"]
            with torch.no_grad():
                return found.zero_()  # not left as it is: some draw again until a number is within bounds
        return func(*args, **(kwargs or {}))


def build(model: type[nn.Module], seed: int) -> nn.Module:
    """A model with random weights, in float32: what would start as zeros or ones is drawn around them."""
    with _Unfilled():
        found = model()
    draw = torch.Generator().manual_seed(seed)
    pool = torch.randn(POOL, generator=draw)
    at = 0
    with torch.no_grad():
        for p in found.parameters():
            if p.is_meta or not p.numel():
                continue
            numbers = _from_pool(pool, at, p.numel()).view(p.shape)
            at = (at + p.numel() + 7919) % POOL
            if p.dim() < 2:
                start = 1.0 if bool((p == 1).all()) else 0.0
                p.copy_(start + 0.2 * numbers)
            else:
                gain = 1.5 if p.dim() == 2 else 1.0  # many convolutions with residuals after each other stay bounded
                torch.mul(numbers, min(0.5, gain * (p.numel() // p.shape[0]) ** -0.5), out=p)
    return found.eval()


def _from_pool(pool: Tensor, start: int, count: int) -> Tensor:
    if start + count <= POOL:
        return pool[start : start + count]
    return pool.roll(-start).repeat(-(-count // POOL))[:count]


# --- lengths ---------------------------------------------------------------------------------------------------


def free_names(inputs: Sequence[n.InputDecl]) -> tuple[str, ...]:
    """The free lengths of a model, in the order of its inputs."""
    axes = (a for i in inputs for a in _axes(i.type))
    return tuple(dict.fromkeys(name for a in axes for name in sorted(a.size.free_names)))


def lengths(model: n.Model, occurrences: Sequence[Occurrence], given: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Lengths to try for the free axes: of a batch 2, or 3 where a condition is given for each of its entries."""
    free = free_names(model.inputs)
    conditions = {x for i in model.inputs if i.type.dtype == "bool" for a in _axes(i.type) for x in a.size.free_names}
    batch = {name: 3 if name in conditions else 2 for name in batches(model, occurrences)}
    for tried in TRIED:
        others = [name for name in free if name not in batch]
        found = {**batch, **{name: tried[k % len(tried)] for k, name in enumerate(others)}, **given}
        if all(_pairs(o, found) >= KEYS for o in occurrences) or tried is TRIED[-1]:
            yield found


def running(
    model: n.Model, tried: Iterable[dict[str, int]], run: Callable[[dict[str, int]], R]
) -> tuple[dict[str, int], R]:
    """The first lengths with which a model runs, and what `run` gives with them. Raises TowerError where none are."""
    reason = ""
    for found in tried:
        try:
            return found, run(found)
        except (RuntimeError, IndexError, ValueError, ZeroDivisionError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    text = f"no lengths were found with which {model.name} runs; with the last ones: {reason}"
    help = f"give them: {' '.join(f'--set {x}=..' for x in free_names(model.inputs))}"
    raise TowerError([Diagnostic("lengths", text, help=help)])


def batches(model: n.Model, occurrences: Sequence[Occurrence]) -> tuple[str, ...]:
    """The free lengths of a model that are averaged nowhere, and are nobody's position."""
    inside: set[str] = set()
    for o in occurrences:
        assert o.block.average is not None
        for axis in (*o.block.average.positions, *o.block.average.over):
            inside |= axis.size.substitute(dict(o.lengths)).free_names
    for i in model.inputs:
        if isinstance(i.type, RelationType):
            inside |= {name for a in _axes(i.type) for name in a.size.free_names}
    return tuple(name for name in free_names(model.inputs) if name not in inside)


def most_weights(model: n.Model, given: Mapping[str, int]) -> int:
    """How many weights the largest attention of a model has with the first lengths that would be tried."""
    occurrences = Calls().occurrences(model.root)
    values = {name: Size.of(length) for name, length in next(lengths(model, occurrences, given), {}).items()}
    found = [0]
    for o in occurrences:
        average = o.block.average
        assert average is not None
        heads = (average.heads,) if average.heads is not None else ()
        shape = [
            a.size.substitute(dict(o.lengths)) for a in (*average.batch, *heads, *average.positions, *average.over)
        ]
        found.append(product([s.substitute(values) for s in shape]).integer or 0)
    return max(found)


def _pairs(occurrence: Occurrence, found: Mapping[str, int]) -> int:
    """How many keys an attention averages; many where that does not depend on free lengths."""
    assert occurrence.block.average is not None
    total = 1
    values = {name: Size.of(length) for name, length in found.items()}
    for axis in occurrence.block.average.over:
        size = axis.size.substitute(dict(occurrence.lengths))
        if not size.free_names:
            return KEYS
        total *= size.substitute(values).integer or 0
    return total


def _axes(kind: Type) -> Sequence[Any]:
    return (kind.source, kind.target) if isinstance(kind, RelationType) else kind.axes


# --- inputs ----------------------------------------------------------------------------------------------------


def inputs(
    model: n.Model, found: Mapping[str, int], seed: int, empty: bool = True, related: int = 2
) -> dict[str, Tensor]:
    """Random inputs. Ints stay below the tables that they are looked up in. A condition has a tail that is false,
    some more that are, and with `empty` is all false for the last entry of its first axis. A relation has about
    `related` pairs for each node, and leaves nodes alone."""
    return _tensors({i.name: i.type for i in model.inputs}, _counts(model.root), found, seed, empty, related)


def _tensors(
    kinds: Mapping[str, Type], below: Mapping[str, int], found: Mapping[str, int], seed: int, empty: bool, related: int
) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    values = {name: Size.of(length) for name, length in found.items()}
    result = {}
    for name, kind in kinds.items():
        shape = [a.size.substitute(values).integer or 1 for a in _axes(kind)]
        if isinstance(kind, RelationType):
            result[name] = _relation(shape, related, draw)
        elif kind.dtype == "int":
            result[name] = torch.randint(below.get(name, LARGEST_INT), shape, generator=draw)
        elif kind.dtype == "bool":
            result[name] = _condition(shape, draw, empty)
        else:
            result[name] = torch.randn(shape, generator=draw)
    return result


def arguments(block: n.BlockInstance, lengths: Mapping[str, int], seed: int) -> dict[str, Any]:
    """Random arguments for a block by itself, in float32."""
    found: dict[str, Any] = dict(_tensors(dict(block.parameters), _counts(block), lengths, seed, True, 2))
    for name, kind in block.parameters:
        if not isinstance(kind, RelationType) and kind.scalar:
            found[name] = int(found[name])
    return found


def further(block: n.BlockInstance, reach: int) -> Iterator[dict[str, int]]:
    """Lengths of the free axes of an attention at which it is measured by itself: 1; small ones, all different, that
    few numbers divide; larger than a block of any kernel and than twice what the numbers of its condition `reach`."""
    average = block.average
    assert average is not None
    moved = {x for a in (*average.positions, *average.over) for x in a.size.free_names}
    names = dict.fromkeys(x for _, kind in block.parameters for a in _axes(kind) for x in sorted(a.size.free_names))
    inside = [name for name in names if name in moved]
    if not inside:
        return
    outside = {name: 2 for name in names if name not in moved}
    rank = max(len(average.positions), len(average.over))
    heads = average.heads.size.integer or 1 if average.heads is not None else 1
    most = int((MOST_FURTHER / heads) ** (1 / max(1, len(average.positions) + len(average.over))))
    large = min(most, max(LARGE[min(rank, len(LARGE)) - 1], 2 * reach + 3))
    yield {**outside, **dict.fromkeys(inside, 1)}
    yield {**outside, **{name: SMALL[k % len(SMALL)] for k, name in enumerate(inside)}}
    yield {**dict.fromkeys(outside, 1), **{name: max(1, large - 2 * k) for k, name in enumerate(inside)}}


def required(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of all inputs in their order, those without a default, by the names that `forward` gives them."""
    parameters = inspect.signature(model.forward).parameters.values()
    pairs = zip(parameters, inputs.values(), strict=True)
    return {p.name: x for p, x in pairs if p.default is inspect.Parameter.empty}


def _relation(shape: Sequence[int], related: int, draw: torch.Generator) -> Tensor:
    """Pairs, some of them twice; the last source has none, and neither has the last target."""
    sources, targets = (max(1, k - 1) for k in shape)
    count = related * max(sources, targets)
    pairs = [torch.randint(k, (count,), generator=draw) for k in (sources, targets)]
    return torch.stack([torch.cat((p, p[:2])) for p in pairs])


def _condition(shape: Sequence[int], draw: torch.Generator, empty: bool) -> Tensor:
    found = torch.rand(shape, generator=draw) < 0.8
    if not shape:
        return found
    tail = torch.randint(0, max(1, shape[-1] * 3 // 4), (*shape[:-1], 1), generator=draw)
    found &= torch.arange(shape[-1]) < shape[-1] - tail
    found[..., 0] = True
    if empty and len(shape) > 1 and shape[0] > 1:
        found[-1] = False
    return found


def _counts(root: n.BlockInstance) -> dict[str, int]:
    """How many entries the tables have that each int parameter of a block is looked up in, at the least."""
    found: dict[str, int] = {}

    def note(value: n.Value, count: int) -> None:
        """An index that is computed may be larger than what it is made of: that stays below half."""
        index = n.plain(value)
        own = isinstance(index, n.Local | n.Pick | n.Rename)
        for x in index.walk():
            if isinstance(x, n.Local) and x.type.dtype == "int":
                found[x.name] = min(found.get(x.name, count), count if own else max(1, count // 2))

    def visit(value: n.Value) -> None:
        for v in value.walk():
            if isinstance(v, n.Apply) and v.op.name == "embed":
                note(v.args[0], dict(v.result.attrs)["count"].integer or 1)
            elif isinstance(v, n.CallBlock):
                inner = _counts(v.block)
                for (name, _), argument in zip(v.block.parameters, v.args, strict=True):
                    if isinstance(argument, n.Value) and name in inner:
                        note(argument, inner[name])

    for step in statements(root.body):
        for v in values(step):
            visit(v)
    for result in root.results:
        if isinstance(result, n.Value):
            visit(result)
    return found
