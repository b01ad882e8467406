"""What an operation is: its signature, its shape rule, and the torch code that it emits, as data.

A rule gets an `OpCall` (types and static arguments) and returns an `OpResult`. Code is a template: `{x}` is the code of
the tensor argument `x`, `{self}` the module, and any other field an entry of `attrs`, written by `python`. The code of
a variadic argument `parts...` is `{parts0}`, `{parts1}`, and so on. Filled in, a template is a call or the argument
itself, so it needs no parentheses. An argument needs them where `.` follows its field and it is a sum or the like.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from towerdsl.ir.reach import Reach
from towerdsl.ir.size import Size
from towerdsl.ir.types import TensorType


class OpError(Exception):
    """A call that does not fit the operation: turned into a diagnostic at `argument`, or at the call."""

    def __init__(
        self,
        code: str,
        message: str,
        notes: tuple[str, ...] = (),
        help: str | None = None,
        argument: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.notes, self.help, self.argument = code, message, notes, help, argument


@dataclass(frozen=True)
class OpCall:
    """The arguments of one call: tensor types by name (a tuple for a variadic one), and static values by name.

    A static value of kind "size" is a `SizeArg`, of "sizes" a tuple of them, of "axis" an `Axis`, of "axes" a tuple.
    `texts` holds how arguments are written in the spec, for messages; `sizes` and `axes` what lengths the names of
    numbers and of axes have where the call stands. `outer` says that each tensor may have axes that the others lack.
    """

    op: Op
    tensors: Mapping[str, Any]
    statics: Mapping[str, Any]
    texts: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, Size] = field(default_factory=dict)
    axes: Mapping[str, Size] = field(default_factory=dict)
    outer: bool = False

    @property
    def x(self) -> TensorType:
        found = self.tensors["x"]
        assert isinstance(found, TensorType)
        return found

    def text(self, argument: str) -> str:
        """An argument as the spec writes it."""
        return self.texts.get(argument, argument)

    def fail(
        self, code: str, message: str, *notes: str, help: str | None = None, argument: str | None = None
    ) -> NoReturn:
        raise OpError(code, message, notes, help, argument)


@dataclass(frozen=True)
class SizeArg:
    """A static size and, if it was written as a plain name, that name: the new axis is called so."""

    size: Size
    name: str | None


@dataclass(frozen=True)
class Move:
    """Where the positions along one axis of an argument are in the result, and what each position of it reads.

    `argument` counts the tensor arguments, `dim` is the axis there, `to` the one in the result; None: each number of
    the result may read the whole axis. Without a `reach` each position reads itself, `offset` places before it, or
    counted from the other end.
    """

    dim: int
    to: int | None
    reach: Reach | None = None
    argument: int = 0
    offset: Size = field(default=Size(()))
    flipped: bool = False


@dataclass(frozen=True)
class Inference:
    """How a call is written where nothing is trained: without a module it is gone, and its tensor stays.

    Its module may be one of `towerdsl.runtime`; where it `absorbs`, its call also takes an `activation` (an elementwise
    function that is `fused`) or a tensor `plus`.
    """

    module: str | None = None
    absorbs: bool = False
    helpers: tuple[str, ...] = ()
    behind: tuple[str, str] | None = None
    joint: str | None = None


@dataclass(frozen=True)
class OpResult:
    """What a call gives: its type, its code, and the module that it needs.

    `parameters` and `buffers` map names inside the module to shapes. `macs` is the number of multiply-adds.
    `moves` says how information moves along axes; None is not known. `inference` is the form of a model that is not
    trained, where that is another one. `helpers` are the functions of `towerdsl.runtime` that its code calls.
    """

    type: TensorType
    call: str
    module: str | None = None
    attrs: tuple[tuple[str, Any], ...] = ()
    parameters: tuple[tuple[str, tuple[Size, ...]], ...] = ()
    buffers: tuple[tuple[str, tuple[Size, ...]], ...] = ()
    macs: Size = field(default=Size(()))
    moves: tuple[Move, ...] | None = None
    inference: Inference | None = None
    helpers: tuple[str, ...] = ()
    #: an operation, and a function of `towerdsl.runtime` that computes this one right behind it, as one: it gets what
    #: that one gets and the modules of both
    behind: tuple[str, str] | None = None
    #: a function of `towerdsl.runtime` that gives the results of several of these for one tensor, from their modules
    joint: str | None = None


@dataclass(frozen=True)
class StaticParameter:
    name: str
    kind: str  # one of KINDS
    default: Any = ...  # ... means required


@dataclass(frozen=True)
class Op:
    """One operation. `tensors` name the tensor arguments; one that ends in `...` takes one or more."""

    name: str
    tensors: tuple[str, ...]
    statics: tuple[StaticParameter, ...]
    rule: Callable[[OpCall], OpResult]
    doc: str
    extra_statics: bool = False  # accepts further `name=integer` arguments (rearrange)
    weights: bool = False  # has a module with weights, which needs a name
    #: imports that the emitted code needs, such as "import torch.nn.functional as F"
    imports: tuple[str, ...] = ()
    idle: str | None = None  # the static argument at whose 0 the operation gives its tensor back

    @property
    def signature(self) -> str:
        parts = list(self.tensors)
        for p in self.statics:
            default = p.default
            shown = str(default).lower() if isinstance(default, bool | None) else python(default)
            parts.append(p.name if default is ... else f"{p.name}={shown}")
        return f"{self.name}({', '.join(parts)})"


def python(value: Any, size: Callable[[Size], str] = str) -> str:
    """An entry of `attrs` as Python; `size` writes a size."""
    if isinstance(value, Size):
        return size(value)
    if isinstance(value, tuple):
        return f"({', '.join(python(v, size) for v in value)}{',' if len(value) == 1 else ''})"
    if isinstance(value, float):
        return re.sub(r"e([+-]?)0*(\d)", lambda m: f"e{m[1].strip('+')}{m[2]}", repr(value))
    return str(value)
