"""What a row of the table of benchmarks is, and one kind that most are: an attention alone beside its peer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

import towerdsl

Call = Callable[[], object]


class Pair(Protocol):
    """Ours and the peer's call of the same work; the peer is None where ours is measured in seconds alone."""

    def forward(self) -> tuple[Call, Call | None]: ...

    def backward(self) -> tuple[Call, Call | None]: ...


@dataclass(frozen=True)
class Row:
    """A work and the peer beside which it is measured, and the ratios to reach, ours / the peer's; what has none is not
    measured. `build` makes the pair, at a size that only shows that it works if it is given True. Where ours does
    `times` as much as the peer, ratios are divided by that: 1.0 is linear. `busy` other processes keep cores busy."""

    work: str
    peer: str
    build: Callable[[bool], Pair]
    forward: float | None = None
    backward: float | None = None
    memory: float | None = None  # of a forward pass
    times: int = 1
    busy: int = 0


@dataclass(frozen=True)
class Attention:
    """Functions of tensors: ours and the peer's, each with its own arguments."""

    ours: Callable[..., Tensor]
    inputs: Sequence[Tensor]
    peer: Callable[..., Tensor]
    peer_inputs: Sequence[Tensor]

    def forward(self) -> tuple[Call, Call]:
        """One forward pass without gradients."""
        pair = partial(self.ours, *self.inputs), partial(self.peer, *self.peer_inputs)
        return torch.no_grad()(pair[0]), torch.no_grad()(pair[1])

    def backward(self) -> tuple[Call, Call]:
        """One forward pass and the gradients of all arguments."""
        return trained(self.ours, self.inputs), trained(self.peer, self.peer_inputs)


@dataclass(frozen=True)
class Made:
    """What `make` gives: a pair of forward passes, or with True one of forward and backward passes."""

    make: Callable[[bool], tuple[Call, Call]]

    def forward(self) -> tuple[Call, Call]:
        """One forward pass without gradients."""
        return self.make(False)

    def backward(self) -> tuple[Call, Call]:
        """One forward pass and the gradients."""
        return self.make(True)


def trained(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Call:
    """A call of a function with the gradients of its floating arguments."""
    inputs = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
    learned = [x for x in inputs if x.requires_grad]
    with torch.no_grad():
        cotangent = torch.randn_like(function(*inputs))
    return lambda: torch.autograd.grad(function(*inputs), learned, cotangent)


def attention(
    fields: dict[str, str], inputs: str = "[b, n, d]", kernel: str | None = None, **sizes: int
) -> torch.nn.Module:
    """One attention of three given tensors, without projections; `fields` are those of the spec beside them."""
    lines = "\n".join(f"    {name}: {value}" for name, value in fields.items())
    spec = SPEC.format(axes=inputs, sizes=", ".join(f"{k}: {v}" for k, v in sizes.items()), fields=lines)
    return towerdsl.compile(spec, kernel=kernel)()


SPEC = """
tower: attention
sizes: {{{sizes}}}
inputs:
  queries: float{axes}
  keys: float{axes}
  values: float{axes}
blocks:
  look(queries, keys, values):
    query: queries
    key: keys
    value: values
{fields}
outputs: look(queries, keys, values)
"""
