"""What is plainly meant is taken so: forms of a type, what modules are called, maps for parts that are not built."""

import pytest
import torch

import towerdsl
from towerdsl.compiler import compile_spec
from towerdsl.diagnostics import TowerError


@pytest.mark.parametrize("scalar", ["float", "float[]", "float[ ]"])
def test_a_single_number_is_a_type_without_axes(scalar):
    spec = f"tower: t\ninputs: {{x: 'float[b, n]', by: '{scalar} = 1'}}\nparams: {{scale: '{scalar}'}}\n"
    spec += "outputs: x * scale * by\n"
    model = towerdsl.compile(spec)()
    assert model.scale.shape == ()
    x = torch.randn(2, 3)
    torch.testing.assert_close(model(x, torch.tensor(2.0)), x * model.scale * 2.0)


def test_what_a_module_is_called_is_no_formula():
    spec = """
tower: t
sizes: {d: 4}
define: {up: 3, down(r): r, called(name): name + 0}
inputs: {x: "float[b, d]"}
modules: {shared: "linear(d)"}
blocks:
  step(x):
    - linear(linear(x, d, name=up), d, name=window)
outputs: step(linear(x, d, name=causal), name=down) * called(name=up)
"""
    names = {name.rpartition(".")[0] for name in towerdsl.compile(spec)().state_dict()}
    assert names == {"causal", "down.up", "down.window"}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_places_in_a_text_are_those_of_a_file(end):
    with pytest.raises(TowerError, match="<spec>:3:10"):
        compile_spec("\ufeff" + end.join(["tower: t", 'inputs: {x: "float[b, n]"}', "outputs: z", ""]))


MAP = """
tower: t
sizes: {{d: 4, wide: false, first: true}}
inputs: {{x: "float[b, d]"}}
modules: {{unused: "linear(d)"}}
blocks:
  top(x):
    - linear(gelu(linear(x, d, name=dense)), d)
flow:
  - x = linear(x, d, name=only)
  - if wide:
      - x = top(x)
outputs: linear(x, d) if first else linear(x, d, name=last)
checkpoints:
  public:
    a.{{p}}: {rule}
"""


@pytest.mark.parametrize("rule", ["top.dense.{p}", "top.linear.{p}", "last.{p}", "unused.{p}", "only.{p}"])
def test_a_map_may_speak_of_what_other_sizes_build(rule):
    compile_spec(MAP.format(rule=rule))


@pytest.mark.parametrize("rule", ["gelu.{p}", "only.linear.{p}", "only.gelu.{p}", "x.{p}", "tops.dense.{p}"])
def test_a_rule_that_no_sizes_give_a_parameter_is_a_mistake(rule):
    with pytest.raises(TowerError, match="no parameter of the model is called"):
        compile_spec(MAP.format(rule=rule))
