"""The facts that `explain` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from towerdsl.ir import nodes as n
from towerdsl.ir.reach import Path, Stack
from towerdsl.ir.size import Size
from towerdsl.kernels.work import Work
from towerdsl.passes.choices import Choice

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Source:
    """A query, key or value: how the spec writes it, and its axes with the model's own lengths."""

    text: str
    axes: tuple[tuple[str | None, Size], ...]


@dataclass(frozen=True)
class BandFact:
    axis: str | None
    low: Size | None
    high: Size | None
    text: str


@dataclass(frozen=True)
class Near:
    """A kernel within reach: how many times as fast as the chosen one it would be, and with what change of the spec."""

    kernel: str
    gain: float
    change: str


@dataclass(frozen=True)
class Attention:
    """What is to be said of one attention; equal for attentions that are the same in all but their names."""

    block: str
    constants: tuple[tuple[str, Any], ...]
    at: str
    let: tuple[str, ...]
    query: Source | None
    key: Source | None
    value: Source
    batch: tuple[tuple[str | None, Size], ...]
    positions: tuple[tuple[str | None, Size], ...]
    over: tuple[tuple[str | None, Size], ...]
    heads: int | None
    heads_text: str
    key_heads: int | None
    key_size: Size | None
    value_size: Size
    merge: str
    dropout: float
    score: str
    score_formula: str
    score_defined: bool
    score_kind: str
    score_found: str
    message: str
    message_formula: str
    locality: str | None
    mask: str | None
    everything: bool
    causal: bool
    never: bool
    bands: tuple[BandFact, ...]
    rest: tuple[tuple[str, str], ...]  # the condition, and what it depends on
    normalize: str
    normalize_options: tuple[tuple[str, Any], ...]
    normalize_formula: str
    output: str
    results: tuple[str, ...]
    kernel: str
    how: str
    refused: tuple[tuple[str, str], ...]
    estimates: tuple[tuple[str, float], ...]  # of every kernel that is able, in parts of the chosen one's time
    near: Near | None
    parameters: int
    work: Work
    peak: Size

    @property
    def visible(self) -> str:
        """Who sees whom, as the analysis found it: bands first, then what is no band."""
        texts = [b.text for b in self.bands] + [text for text, _ in self.rest]
        parts = [f"({x})" if len(texts) > 1 and " or " in x else x for x in texts]
        return "everything" if self.everything else "nothing" if self.never else " and ".join(parts)

    @property
    def able(self) -> tuple[str, ...]:
        """The other kernels that could compute it."""
        return tuple(name for name, _ in self.estimates if name != self.kernel)


@dataclass(frozen=True)
class Found:
    """A distinct attention, and where it stands in the model."""

    facts: Attention
    paths: tuple[str, ...]
    modules: int
    calls: int | Size  # a size where a loop along an axis of free length is around them


@dataclass(frozen=True)
class Layer:
    """A layer in which positions exchange information, and what that costs.

    `mixing` counts the multiply-adds that move information between positions: of an attention the scores and weighted
    sums of the visible pairs, of a convolution and of a recurrence all of them, as their matrices are what moves it.
    `whole` counts the block's projections too. `steps` is how many of its operations can only be done in turn.
    """

    kind: str
    mixing: Size
    whole: Size
    steps: Size
    along: tuple[str, ...]  # the axes
    paths: tuple[str, ...] = ()
    calls: int | Size = 1


@dataclass(frozen=True)
class Along:
    """An axis along which positions exchange information: the layers in which they do, and the path through them."""

    axis: str
    size: Size
    stack: Stack
    path: Path


def path_formula(along: Along) -> str | None:
    """The number of moves from any position to any other, or None where it is not known."""
    path, n = along.path, str(along.size)
    if path.kind in ("none", "unknown"):
        return None
    if path.kind == "constant":
        return str(path.number)
    distance = str(along.size - 1)
    if path.kind == "ratio":
        return distance if path.number == 1 else f"ceil(({distance}) / {path.number})"
    if path.first == path.number - 1:
        return f"ceil(log({n}, {path.number}))"
    times = Fraction(path.number - 1, path.first)
    return f"ceil(log(({distance}) * {times} + 1, {path.number}))"


@dataclass(frozen=True)
class Explained:
    """Everything that `explain` says about a spec."""

    name: str
    source: str
    paper: str | None
    about: str | None
    sizes: tuple[tuple[str, Any], ...]
    choices: Mapping[str, Choice]
    inputs: tuple[n.InputDecl, ...]
    outputs: tuple[tuple[str | None, str], ...]
    free: tuple[str, ...]
    given: Mapping[str, int]
    attentions: tuple[Found, ...]
    parameters: int
    buffers: int
    work: Work
    layers: tuple[Layer, ...]
    stacks: tuple[Along, ...]

    def number(self, size: Size) -> int | None:
        """The number that a size is with the lengths given, or None."""
        constant = self.at(size).constant
        return None if constant is None else round(constant)

    def at(self, size: Size) -> Size:
        """A size with the lengths given put in."""
        return size.substitute({name: Size.of(value) for name, value in self.given.items()})
