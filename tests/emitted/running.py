"""Whether the source of a spec runs: as it is, in the form for inference, under torch.compile, and exported."""

import ast
import itertools

import torch
from torch import Tensor

import towerdsl
from towerdsl.compiler import Compiled, compile_spec
from towerdsl.ir.size import Size
from towerdsl.ir.types import RelationType
from towerdsl.ir.verify import verify

DTYPES = {"int": torch.int64, "bool": torch.bool, "float": torch.float64, "wide": torch.float64}
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def runs(spec: str, lengths=(2, 1, 5), traced: bool = False, kernel: str | None = None, **sizes) -> None:
    """Compile a spec and run it at several lengths, with inputs left out in all combinations, forward and backward."""
    compiled = compile_spec(spec, sizes, kernel)
    verify(compiled.typed)
    verify(compiled.model)
    for standalone in (False, True):
        ast.parse(compiled.source(standalone))
    torch.manual_seed(0)
    model = towerdsl.compile(spec, kernel=kernel, **sizes)().double().eval()
    fast = towerdsl.compile(spec, kernel=kernel, inference=True, **sizes)().double().eval()
    fast.load_state_dict(model.state_dict())
    optional = [i.name for i in compiled.model.inputs if i.default is not None]
    several = range(len(optional) + 1) if len(optional) < 3 else (0, 1, len(optional))
    left_out = [set(c) for r in several for c in itertools.combinations(optional, r)]
    for length, without in itertools.product(lengths, left_out):
        at = _lengths(compiled, length)
        found = results(model, compiled, at, without)
        _fits(found, compiled, at)
        loss = [y.sum() for y in found if y.requires_grad]
        if loss:
            sum(loss).backward()
        _same(found, results(fast, compiled, at, without))
    for without in (left_out[0], left_out[-1]) if traced else ():
        torch._dynamo.reset()
        dynamic = torch.compile(model, dynamic=True, fullgraph=True, backend="eager")
        for length in (3, 5):
            at = _lengths(compiled, length)
            _same(results(model, compiled, at, without), results(dynamic, compiled, at, without))
        given = inputs(compiled, _lengths(compiled, 4), without)
        exported = torch.export.export(model, (), given).module()
        _same(_listed(model(**given)), _listed(exported(**given)))


def inputs(compiled: Compiled, lengths: dict[str, int], without: set[str]) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(sum(lengths.values()))
    found = {}
    for i in compiled.model.inputs:
        if isinstance(i.type, RelationType):
            found[i.name] = torch.stack(
                [torch.randint(_number(a.size, lengths), (6,), generator=draw) for a in (i.type.source, i.type.target)]
            )
            continue
        shape = [_number(a.size, lengths) for a in i.type.axes]
        if i.type.dtype == "int":
            found[i.name] = torch.randint(3, shape, generator=draw)
        elif i.type.dtype == "bool":
            found[i.name] = torch.rand(shape, generator=draw) < 0.7
        else:
            found[i.name] = torch.randn(shape, generator=draw, dtype=torch.float64)
    return {name: x for name, x in found.items() if name not in without}


def results(model, compiled: Compiled, lengths: dict[str, int], without: set[str]) -> list[Tensor]:
    return _listed(model(**inputs(compiled, lengths, without)))


def _listed(found) -> list[Tensor]:
    return list(found) if isinstance(found, tuple) else [found]


def _number(size: Size, lengths: dict[str, int]) -> int:
    number = size.substitute({name: Size.of(length) for name, length in lengths.items()}).integer
    assert number is not None
    return number


def _lengths(compiled: Compiled, first: int) -> dict[str, int]:
    """Lengths of the free axes, each another one; all 1, or 0, where the first is."""
    names: set[str] = set()
    for i in compiled.model.inputs:
        axes = (i.type.source, i.type.target) if isinstance(i.type, RelationType) else i.type.axes
        names |= {name for a in axes for name in a.size.free_names}
    return {name: first + (k if first > 1 else 0) for k, name in enumerate(sorted(names))}


def _fits(found: list[Tensor], compiled: Compiled, lengths: dict[str, int]) -> None:
    """Results have the dtypes and axes that their types say."""
    for y, value in zip(found, compiled.model.root.results, strict=True):
        kind = value.type
        assert y.dtype == DTYPES[kind.dtype], f"{y.dtype} for {kind}"
        assert list(y.shape) == [_number(a.size, lengths) for a in kind.axes], f"{list(y.shape)} for {kind}"


def _same(found: list[Tensor], expected: list[Tensor]) -> None:
    for y, z in zip(found, expected, strict=True):
        assert y.dtype == z.dtype
        torch.testing.assert_close(y, z, equal_nan=True, **TOLERANCE)
