"""What a case is: a spec, the parameters it must have, inputs and an oracle."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SPECS = Path(__file__).parent / "specs"
CASES: dict[str, "Case"] = {}

Shapes = dict[str, tuple[int, ...]]
Draw = Callable[[torch.Generator], Tensor]


@dataclass(frozen=True)
class Case:
    name: str
    spec: Path
    params: Shapes
    inputs: dict[str, Draw]
    sizes: dict[str, object]
    oracle: Callable

    def draw_params(self, seed: int = 0) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        return {
            name: 0.5 * torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in self.params.items()
        }

    def draw_inputs(self, seed: int = 1) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        return {name: make(draw) for name, make in self.inputs.items()}


def case(params: Shapes | None = None, spec: str = "", sizes: dict[str, object] | None = None, **inputs: Draw):
    """Register an oracle `(p, **inputs) -> tensor or tuple`; its spec has the same name unless `spec` says which."""

    def register(oracle):
        name = oracle.__name__
        path = SPECS / f"{spec or name}.yaml"
        CASES[name] = Case(name, path, params or {}, inputs, sizes or {}, oracle)
        return oracle

    return register


def floats(*shape: int) -> Draw:
    return lambda draw: torch.randn(shape, generator=draw, dtype=torch.float64)


def positives(*shape: int) -> Draw:
    return lambda draw: torch.rand(shape, generator=draw, dtype=torch.float64) + 0.1


def ints(below: int, *shape: int) -> Draw:
    return lambda draw: torch.randint(below, shape, generator=draw)


def bools(*shape: int) -> Draw:
    return lambda draw: torch.rand(shape, generator=draw) < 0.6


def given(values) -> Draw:
    return lambda draw: torch.tensor(values)


def param(name: str, *shape: int) -> Shapes:
    """A parameter by its own name."""
    return {name: shape}


def linears(prefix: str, rows: int, columns: int, *names: str, bias: bool = True) -> Shapes:
    """`linear` layers `prefix.name` from `columns` features to `rows`; the prefix itself if no names are given."""
    shapes: Shapes = {}
    for name in [f"{prefix}.{n}" if prefix else n for n in names] or [prefix]:
        shapes[name + ".weight"] = (rows, columns)
        if bias:
            shapes[name + ".bias"] = (rows,)
    return shapes


def norms(size: int, *names: str, bias: bool = True) -> Shapes:
    shapes: Shapes = {}
    for name in names:
        shapes[name + ".weight"] = (size,)
        if bias:
            shapes[name + ".bias"] = (size,)
    return shapes
