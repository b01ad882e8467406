import ast
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from towerdsl.ops import ELEMENTWISE, Elementwise

NUMBERS = (-25.0, -3.5, -1.0, -0.25, 0.0, 0.25, 1.0, 2.5, 3.0, 25.0)
OPTIONS: dict[str, list[dict[str, float]]] = {
    "leaky_relu": [{"slope": 0.01}, {"slope": 0.3}],
    "elu": [{"alpha": 1.0}, {"alpha": 0.4}],
    "clip": [{"low": -1.0, "high": 0.5}, {"low": 0.0, "high": 2.0}],
}
DOCUMENTED = """exp log sqrt rsqrt abs sign floor round sin cos tanh sigmoid relu gelu gelu_tanh silu softplus erf
    leaky_relu elu clip min max where int float"""
WIDTH = [torch.bool, torch.int64, torch.float64]


def evaluate(template: str, operands: list[Any], options: dict[str, float]) -> Any:
    names = {"torch": torch, "F": F, "math": math, **{f"arg{n}": x for n, x in enumerate(operands)}}
    fields = {**{k: repr(v) for k, v in options.items()}, "dtype": "torch.float64"}
    return eval(template.format(*[f"arg{n}" for n in range(len(operands))], **fields), names)


def operands(entry: Elementwise) -> list[list[float]]:
    if entry.arity == 1:
        return [[x] for x in NUMBERS]
    if entry.arity == 2:
        return [[x, y] for x in NUMBERS for y in NUMBERS]
    return [[c, x, y] for c in (True, False) for x in NUMBERS for y in NUMBERS[::3]]


def cases() -> list[Any]:
    return [pytest.param(e, o, id=e.name) for e in ELEMENTWISE.values() for o in OPTIONS.get(e.name, [{}])]


def test_all_documented() -> None:
    assert set(ELEMENTWISE) == set(DOCUMENTED.split())
    assert all(name == entry.name and entry.doc for name, entry in ELEMENTWISE.items())


def test_signatures() -> None:
    assert ELEMENTWISE["leaky_relu"].signature == "leaky_relu(x, slope=0.01)"
    assert ELEMENTWISE["clip"].signature == "clip(x, low, high)"
    assert ELEMENTWISE["where"].signature == "where(c, a, b)"


@pytest.mark.parametrize(("entry", "options"), cases())
def test_static_agrees_with_torch(entry: Elementwise, options: dict[str, float]) -> None:
    """Also the code on numbers of run time, and options given in order as well as by name."""
    assert entry.static is not None
    checked = 0
    for numbers in operands(entry):
        tensors = [torch.tensor(x, dtype=torch.bool if isinstance(x, bool) else torch.float64) for x in numbers]
        expected = evaluate(entry.code, tensors, options).item()
        try:
            found = entry.static(*numbers, **options)
        except ValueError:
            assert not math.isfinite(expected)
            continue
        except ZeroDivisionError:
            assert math.isinf(expected)
            continue
        checked += 1
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-10), numbers
        assert entry.static(*numbers, *options.values()) == found
        if entry.scalar is not None:
            assert evaluate(entry.scalar, numbers, options) == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assert checked > len(operands(entry)) / 3


@pytest.mark.parametrize(("entry", "options"), cases())
def test_dtype(entry: Elementwise, options: dict[str, float]) -> None:
    """Operands at least as wide as `reads` are taken, and give what `dtype` says."""
    for dtype in WIDTH[["bool", "int", "float"].index(entry.reads) :]:
        x = torch.tensor([0, 1, 1]).to(dtype)
        given = [x > 0, x, x] if entry.name == "where" else [x] * entry.arity
        whole = {k: int(v) for k, v in options.items()} if dtype == torch.int64 and entry.dtype == "same" else options
        out = evaluate(entry.code, given, whole)
        if entry.dtype == "float":
            assert out.dtype.is_floating_point
            assert out.dtype == torch.float64 or dtype != torch.float64
        else:
            assert out.dtype == {"int": torch.int64, "same": dtype, "where": dtype}[entry.dtype]


@pytest.mark.parametrize(("entry", "options"), [c for c in cases() if c.id != "int"])
def test_gradients_are_finite(entry: Elementwise, options: dict[str, float]) -> None:
    """Where a function and its derivative are finite, so is the gradient."""
    positive = entry.name in ("log", "sqrt", "rsqrt")
    x = torch.tensor([v for v in (*NUMBERS, 1e-3, 80.0) if v > 0 or not positive], dtype=torch.float64)
    x.requires_grad_()
    given = [x > 0, x, 2 * x] if entry.name == "where" else [x, *[x.detach().flip(0)] * (entry.arity - 1)]
    evaluate(entry.code, given, options).sum().backward()
    if x.grad is not None:
        assert torch.isfinite(x.grad).all()
    else:
        assert entry.name in ("sign", "floor", "round")


@pytest.mark.parametrize("name", ["min", "max"])
def test_with_a_number(name: str) -> None:
    entry = ELEMENTWISE[name]
    x = torch.tensor(NUMBERS)
    assert entry.code_number is not None
    found = evaluate(entry.code_number, [x, 0.5], {})
    assert torch.equal(found, evaluate(entry.code, [x, torch.full_like(x, 0.5)], {}))
    assert evaluate(entry.code_number, [torch.tensor([1, 2]), 1], {}).dtype == torch.int64
    assert evaluate(entry.code_number, [torch.tensor([1, 2]), 0.5], {}).dtype == torch.float32


def test_where_takes_numbers() -> None:
    x = torch.tensor([1.0, 2.0])
    code = ELEMENTWISE["where"].code
    assert evaluate(code, [x > 1, x, 0.0], {}).tolist() == [0.0, 2.0]
    assert evaluate(code, [x > 1, 1.0, x], {}).tolist() == [1.0, 1.0]
    assert evaluate(code, [x > 1, 1, 0], {}).tolist() == [0, 1]


def test_int_truncates() -> None:
    found = evaluate(ELEMENTWISE["int"].code, [torch.tensor([-1.7, -0.2, 0.9, 2.0])], {})
    assert found.tolist() == [-1, 0, 0, 2]


@pytest.mark.parametrize("entry", ELEMENTWISE.values(), ids=lambda e: e.name)
def test_templates_need_no_parentheses(entry: Elementwise) -> None:
    """A filled template is one operand: power binds tighter than anything but a call."""
    operands = [f"arg{n}" for n in range(entry.arity)]
    options = {name: "opt" for name, _ in entry.options}
    for template in (entry.code, entry.scalar, entry.code_number):
        if template is not None:
            code = template.format(*operands, **options, dtype="dtype")
            power = ast.parse(f"{code} ** 2", mode="eval").body
            assert isinstance(power, ast.BinOp) and isinstance(power.op, ast.Pow)
            assert isinstance(power.right, ast.Constant) and power.right.value == 2
