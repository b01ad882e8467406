"""Functions of the entries of tensors, as data.

Code is a template over the operands `{0}`, `{1}`, ... and the options by name. Every template is a call when filled in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import EllipsisType

Number = float | int | bool


@dataclass(frozen=True)
class Elementwise:
    """A function of each entry.

    `dtype` says what the result is: "float", "int", "bool", "same" (the widest of the operands, bool < int < float),
    or "where" (the widest of operands 1 and 2). `reads` is the narrowest dtype that torch's function takes: an operand
    below it has to be converted first.
    """

    name: str
    arity: int
    #: on tensors
    code: str
    dtype: str
    #: the same on Python numbers, known when compiling: operands, then options by name
    static: Callable[..., Number] | None
    doc: str
    #: on Python numbers that are known only at run time; None if there is no short form
    scalar: str | None = None
    #: where operand 1 is a Python number and operand 0 a tensor (both are exchangeable)
    code_number: str | None = None
    #: options and their defaults; `...` for required ones
    options: tuple[tuple[str, float | EllipsisType], ...] = ()
    reads: str = "bool"
    #: whether layers of the inference form compute it with their result
    fused: bool = False

    @property
    def signature(self) -> str:
        operands = {1: ["x"], 2: ["a", "b"], 3: ["c", "a", "b"]}[self.arity]
        options = [name if default is ... else f"{name}={default}" for name, default in self.options]
        return f"{self.name}({', '.join(operands + options)})"


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def _gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def _gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _leaky_relu(x: float, slope: float = 0.01) -> float:
    return x if x >= 0 else slope * x


def _elu(x: float, alpha: float = 1.0) -> float:
    return x if x >= 0 else alpha * math.expm1(x)


def _clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


_TABLE = (
    Elementwise("exp", 1, "torch.exp({0})", "float", math.exp, "e to the power x", "math.exp({0})"),
    Elementwise("log", 1, "torch.log({0})", "float", math.log, "the natural logarithm", "math.log({0})"),
    Elementwise("sqrt", 1, "torch.sqrt({0})", "float", math.sqrt, "the square root", "math.sqrt({0})"),
    Elementwise(
        "rsqrt", 1, "torch.rsqrt({0})", "float", lambda x: 1 / math.sqrt(x), "1 / sqrt(x)", "math.pow({0}, -0.5)"
    ),
    Elementwise("abs", 1, "torch.abs({0})", "same", abs, "the size without the sign", "abs({0})", reads="int"),
    Elementwise("sign", 1, "torch.sign({0})", "same", _sign, "-1, 0 or 1", "(({0} > 0) - ({0} < 0))", reads="int"),
    Elementwise("floor", 1, "torch.floor({0})", "same", math.floor, "rounded down", "math.floor({0})", reads="int"),
    Elementwise("sin", 1, "torch.sin({0})", "float", math.sin, "the sine", "math.sin({0})"),
    Elementwise("cos", 1, "torch.cos({0})", "float", math.cos, "the cosine", "math.cos({0})"),
    Elementwise("round", 1, "torch.round({0})", "same", round, "the nearest whole number", "round({0})", reads="int"),
    Elementwise(
        "tanh", 1, "torch.tanh({0})", "float", math.tanh, "the hyperbolic tangent", "math.tanh({0})", fused=True
    ),
    Elementwise("sigmoid", 1, "torch.sigmoid({0})", "float", _sigmoid, "1 / (1 + exp(-x))", fused=True),
    Elementwise(
        "relu", 1, "F.relu({0})", "same", lambda x: max(x, 0), "max(x, 0)", "max({0}, 0)", reads="int", fused=True
    ),
    Elementwise(
        "gelu",
        1,
        "F.gelu({0})",
        "float",
        _gelu,
        "x times the normal distribution's P(X < x)",
        reads="float",
        fused=True,
    ),
    Elementwise(
        "gelu_tanh",
        1,
        'F.gelu({0}, approximate="tanh")',
        "float",
        _gelu_tanh,
        "gelu, approximated with tanh",
        reads="float",
        fused=True,
    ),
    Elementwise(
        "silu", 1, "F.silu({0})", "float", lambda x: x * _sigmoid(x), "x * sigmoid(x)", reads="float", fused=True
    ),
    Elementwise("softplus", 1, "F.softplus({0})", "float", _softplus, "log(1 + exp(x))", reads="float"),
    Elementwise("erf", 1, "torch.erf({0})", "float", math.erf, "the error function", "math.erf({0})"),
    Elementwise(
        "leaky_relu",
        1,
        "F.leaky_relu({0}, {slope})",
        "float",
        _leaky_relu,
        "x, times slope below 0",
        options=(("slope", 0.01),),
        reads="float",
    ),
    Elementwise(
        "elu",
        1,
        "F.elu({0}, {alpha})",
        "float",
        _elu,
        "x, and alpha * (exp(x) - 1) below 0",
        options=(("alpha", 1.0),),
        reads="float",
    ),
    Elementwise(
        "clip",
        1,
        "torch.clamp({0}, {low}, {high})",
        "same",
        _clip,
        "the nearest number from low to high",
        "min(max({0}, {low}), {high})",
        options=(("low", ...), ("high", ...)),
        reads="int",
    ),
    Elementwise(
        "min",
        2,
        "torch.minimum({0}, {1})",
        "same",
        min,
        "the smaller of both",
        "min({0}, {1})",
        "torch.clamp({0}, max={1})",
        reads="int",
    ),
    Elementwise(
        "max",
        2,
        "torch.maximum({0}, {1})",
        "same",
        max,
        "the larger of both",
        "max({0}, {1})",
        "torch.clamp({0}, min={1})",
        reads="int",
    ),
    Elementwise(
        "where",
        3,
        "torch.where({0}, {1}, {2})",
        "where",
        lambda c, a, b: a if c else b,
        "a where the condition c holds, else b",
        "({1} if {0} else {2})",
    ),
    Elementwise("int", 1, "{0}.long()", "int", int, "the whole number nearest to x on the side of 0", "int({0})"),
    Elementwise("float", 1, "{0}.to({dtype})", "float", float, "the same number as a float", "float({0})"),
)

ELEMENTWISE: dict[str, Elementwise] = {e.name: e for e in _TABLE}
