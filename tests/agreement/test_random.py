"""Every kernel against the reference, and the reference against plain loops, over random attentions."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, note, settings

from towerdsl.compiler import compile_spec

from . import compare
from .drawing import Drawn, attentions
from .evaluate import evaluate

USUAL = settings(
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)


@settings(USUAL, max_examples=60)
@given(attentions())
def test_kernels_agree(drawn: Drawn):
    check(drawn)


@pytest.mark.slow
@settings(USUAL, max_examples=2000, derandomize=False)
@given(attentions())
def test_kernels_agree_on_many(drawn: Drawn):
    check(drawn)


def check(drawn: Drawn) -> None:
    """Values and gradients of plain loops, of the reference and of every kernel that does not refuse."""
    note(repr(drawn))
    draw = torch.Generator().manual_seed(len(drawn.text))
    inputs = {
        name: compare.draw_input(dtype, [drawn.lengths[x] for x in axes], draw)
        for name, (dtype, axes) in drawn.inputs.items()
    }
    for name in drawn.left_out:
        inputs[name] = torch.full_like(inputs[name], drawn.defaults[name])
    reference = compare.build(drawn.text, "reference")
    params = compare.draw_params(reference, draw)
    expected = looped(drawn, params, inputs)
    given = {name: x for name, x in inputs.items() if name not in drawn.left_out}
    for name, model in (("reference", reference), *compare.others(drawn.text)):
        compare.compare(name, compare.run(model, params, given), expected)


def looped(drawn: Drawn, params: compare.Named, inputs: compare.Named) -> compare.Named:
    """The same by loops, with its axes in the order of the compiled model's result."""
    params, inputs = compare.leaves(params), compare.leaves(inputs)
    inner = {name.removeprefix("look."): p for name, p in params.items()}
    first, y = evaluate(drawn, inner, inputs)
    output = drawn.fields.get("output", "y")
    if "linear" in output:
        y = torch.nn.functional.linear(y, inner["output.weight"], inner["output.bias"])
    elif output != "y":
        y = y.tanh() if "tanh" in output else 2 * y
    axes = compile_spec(drawn.text).model.root.results[0].axes
    features = [a.name for a in axes if a.name not in first]
    if len(features) > 1:
        order = drawn.sources["value"].features
        y = y.unflatten(-1, [drawn.lengths[x] for x in order])
        y = y.permute(*range(len(first)), *(len(first) + order.index(x) for x in features))
    rest = iter(range(len(first), y.ndim))
    y = y.permute([first.index(a.name) if a.name in first else next(rest) for a in axes])
    return compare.gradients((y,), params, inputs)
