"""Every kernel against the reference, and the reference against plain loops, over random attentions."""

import os

import pytest
import torch

from . import compare, driver
from .drawing import Choices, Drawn
from .driver import Attention, Case, check
from .evaluate import evaluate
from .families import attention, structured

#: How often in a thousand a comparison is made.
OFTEN = {
    "lengths": 500,
    "empty": 200,
    "large": 100,
    "bf16": 100,
    "fp16": 100,
    "autocast": 100,
    "inference": 100,
    "training": 200,
    "second": 100,
    "eager": 4,
    "aot": 4,
}
#: Pairs of all heads that loops look at.
MOST_PAIRS = 150


def case(choose: Choices) -> tuple[Drawn, Case, list[str]]:
    """An attention, what it is given, and how it is compared."""
    a = Drawn(choose)
    a.one(attention, structured)(a)
    kinds = ["kernels", *(name for name, n in OFTEN.items() if a.choose(1000) >= 1000 - n)]
    free = {n: x for n, x in a.lengths.items() if n not in a.fixed}
    return a, Case(a.text, free, a.choose(1000), frozenset(a.left_out)), kinds


def compared(drawn: Drawn, case: Case, kinds: list[str]) -> None:
    """Compare an attention in these ways. Raises AssertionError with the case."""
    attention = Attention(case.text)
    driver.COUNTED["attentions"] += 1
    driver.COUNTED[f"planned {attention.planned}"] += 1
    driver.COUNTED.update(f"kernel {name}" for name in attention.kernels)
    if pairs(drawn) <= MOST_PAIRS:
        driver.COUNTED["loops"] += 1
        try:
            by_loops(drawn, case, attention)
        except Exception as error:
            raise AssertionError(f"loops: {type(error).__name__}: {error}\n{case}") from error
    check(case, kinds, attention)


def pairs(a: Drawn) -> int:
    total = a.heads or 1
    for x in (*a.batch, *a.positions, *a.over):
        total *= a.lengths[x]
    return total


def by_loops(drawn: Drawn, case: Case, attention: Attention) -> None:
    """The reference gives what plain loops give."""
    params, inputs = attention.params(case), attention.inputs(case)
    expected = looped(drawn, attention, params, inputs)
    compare.compare("loops", compare.run(attention.reference, params, driver.given(case, inputs)), expected)


def looped(drawn: Drawn, attention: Attention, params: compare.Named, inputs: compare.Named) -> compare.Named:
    """The same by loops, with its axes in the order of the compiled model's result."""
    params, inputs = compare.leaves(params), compare.leaves(inputs)
    inner = {name.removeprefix("look."): p for name, p in params.items()}
    first, y, chance = evaluate(drawn, inner, inputs)
    output = drawn.fields.get("output", "y")
    if "linear" in output:
        y = torch.nn.functional.linear(y, inner["output.weight"], inner["output.bias"])
    elif output not in ("y", "[y, log_prob]"):
        y = y.tanh() if "tanh" in output else 2 * y
    results = attention.model.root.results
    axes = results[0].axes
    features = [a.name for a in axes if a.name not in first]
    if len(features) > 1:
        order = drawn.sources["value"].features
        y = y.unflatten(-1, [drawn.lengths[x] for x in order])
        y = y.permute(*range(len(first)), *(len(first) + order.index(x) for x in features))
    rest = iter(range(len(first), y.ndim))
    y = y.permute([first.index(a.name) if a.name in first else next(rest) for a in axes])
    if len(results) == 1:
        return compare.gradients((y,), params, inputs)
    order = [*first, "head"]
    dims = [order.index(a.name) for a in results[1].axes]
    chance = chance.permute(*dims, *(n for n in range(chance.ndim) if n not in dims))
    return compare.gradients((y, chance.reshape(chance.shape[: len(dims)])), params, inputs)


