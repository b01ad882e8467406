"""Loops along an axis: what they are made into, lengths, what is collected, cost. Values are in the oracle's cases."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import towerdsl
from towerdsl.compiler import compile_spec, understand
from towerdsl.explain import explain, text
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.ir.verify import verify

HEAD = """
tower: loops
sizes: {d: 4, depth: 2, steps: 3}
inputs:
  x: float[b, n, d]
  keep: bool[b, n] = true
"""
BLOCKS = """
blocks:
  look(h, x, keep):
    query: linear(h, d)
    key: x
    value: x
    mask: keep[j]
  last(x):
    - h = zeros([b, d])
    - for t along n:
        - h = tanh(x[n=t] + linear(h, d))
    - h
flow:
"""


def spec(flow: str, outputs: str) -> str:
    lines = [f"  {line}" for line in flow.strip("\n").split("\n")]
    return HEAD + BLOCKS + "\n".join(lines) + f"\noutputs: {outputs}\n"


def forward(flow: str, outputs: str, **sizes) -> str:
    """The code of the model's `forward`."""
    return towerdsl.source(spec(flow, outputs), **sizes).rpartition("def forward")[2].partition("\n")[2]


def example(lengths: tuple[int, int] = (2, 5)) -> torch.Tensor:
    return torch.randn(*lengths, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


DECODER = """
- h = zeros([b, d])
- for t along n:
    - c = look(h, x, keep)
    - h = tanh(linear(x[n=t], d) + c)
    - states = h
"""


# --- code ------------------------------------------------------------------------------------------------------


def test_reads_as_a_person_would_write_it():
    code = forward(DECODER, "states")
    assert [line.strip() for line in code.rstrip().split("\n")][-7:] == [
        "h = torch.zeros(b, 4, device=x.device, dtype=x.dtype)",
        "states = []",
        "for t in range(n):",
        "c = self.look(h, x, keep)",
        "h = torch.tanh(self.linear(x[:, t]) + c)",
        "states.append(h)",
        "return torch.stack(states, 1) if states else x.new_zeros(b, n, 4)",
    ]


def test_what_is_not_read_is_not_collected():
    assert ".append" not in forward(DECODER, "h")
    assert forward(DECODER, "{c: c, h: h}").count(".append(") == 1
    nested = "- for l in depth:\n    " + DECODER.strip().replace("\n", "\n    ")
    code = forward(f"{nested}\n    - x = x + states", "x")
    assert code.count(".append(") == 1
    assert "for look, linear in zip(self.look, self.linear):" in code


def test_a_name_of_the_list_is_in_use():
    code = forward(DECODER.replace("states = h", "all_c = h"), "{c: c, all_c: all_c}")
    assert "all_c_2.append(c)" in code
    assert "all_c.append(h)" in code


LOOP = "- h = zeros([b, d])\n- for t along n:\n    - h = h + {}"


@pytest.mark.parametrize(
    ("read", "code"),
    [
        ("x[n=t]", "x[:, t]"),
        ("x[n=n - 1 - t]", "x[:, n - 1 - t]"),
        ("x[n=t - 1]", "x[:, max(t - 1, 0)]"),
        ("x[n=t + 1]", "x[:, min(t + 1, n - 1)]"),
        ("x[n=2 * t - n]", "x[:, max(2 * t - n, 0)]"),
        ("x[n=t // 2]", "x[:, min(max(t // 2, 0), n - 1)]"),
        ("x[n=t * t]", "x[:, min(max(t * t, 0), n - 1)]"),
    ],
)
def test_a_position_is_kept_inside_where_it_can_leave(read, code):
    assert f"h = h + {code}" in forward(LOOP.format(read), "h")
    model = towerdsl.compile(spec(LOOP.format(read), "h"))()
    x = example()
    index = [min(max(eval(read[4:-1], {"t": t, "n": 5}), 0), 4) for t in range(5)]
    torch.testing.assert_close(model(x), x[:, index].sum(1))


@pytest.mark.parametrize("operator", ["+", "*"])
def test_many_loops_in_loops(operator):
    """Nothing grows with the number of ways through them."""
    lines = [f"{'    ' * k}- for t{k} along n:" for k in range(16)]
    position = f" {operator} ".join(f"t{k}" for k in range(16))
    flow = "- h = zeros([b, d])\n" + "\n".join(lines) + f"\n{'    ' * 16}- h = h + x[n={position}]"
    code = forward(flow, "h")
    assert "max(" in code
    assert "min(" in code


def test_what_does_not_depend_on_the_loop_is_computed_before_it():
    code = forward(LOOP.format("linear(x, d)[n=t] + gelu(linear(x, d))[n=t]"), "h")
    before, inside = code.split("for t in range(n):")
    assert "x_linear = self.linear(x)\n" in before
    assert "x_linear_2 = F.gelu(self.linear_2(x))\n" in before
    assert "h = h + x_linear[:, t] + x_linear_2[:, t]" in inside


@pytest.mark.parametrize("read", ["linear(x + h, d)[n=t]", "linear(x, d)[n=0]", "linear(x * t, d)[n=t]"])
def test_what_depends_on_the_loop_or_is_no_position_of_it_stays(read):
    before, inside = forward(LOOP.format(read), "h").split("for t in range(n):")
    assert "self.linear" in inside
    assert "self.linear" not in before


def test_what_has_weights_for_each_repetition_stays():
    loop = "- h = zeros([b, d])\n- for t along n:\n    - for l in depth:\n        - h = h + linear(x, d)[n=t]"
    assert "for linear in self.linear:\n" in forward(loop, "h")


def test_a_choice_by_the_index():
    choice = "where(t == 0, x[n=t], h) + where(t < 2, 1.0, 0.5) * where(t > 1, x[n=0], 0)"
    code = forward(LOOP.format(choice), "h")
    assert "(x[:, t] if t == 0 else h)" in code
    assert "(1.0 if t < 2 else 0.5)" in code
    found = towerdsl.compile(spec(LOOP.format(choice), "h"))()(x := example())
    h = torch.zeros(2, 4, dtype=x.dtype)
    for t in range(5):
        h = h + (x[:, t] if t == 0 else h) + (1.0 if t < 2 else 0.5) * (x[:, 0] if t > 1 else 0)
    torch.testing.assert_close(found, h)


def test_a_name_of_an_axis_is_also_a_variable():
    """A length that the code needs has another variable then."""
    code = forward("- x = x + sinusoidal(range(n), d)\n- n = linear(x, d)\n- h = zeros([b, n])", "{h: h, n: n}")
    assert "b, n_2, _ = x.shape" in code
    assert "h = torch.zeros(b, n_2," in code


# --- lengths ---------------------------------------------------------------------------------------------------


KINDS = """
- h = zeros([b, d])
- for t along n:
    - h = h + x[n=t]
    - states = h
    - total = sum(h)
    - all_of_it = sum(total)
    - number = 2 * t
    - even = t % 2 == 0
    - choice = argmax(h)
    - kept = keep[n=t]
    - place = range(d) * 0.5
"""
SHAPES = {
    "states": ((2, 0, 4), torch.float64),
    "total": ((2, 0), torch.float64),
    "all_of_it": ((0,), torch.float64),
    "number": ((0,), torch.int64),
    "even": ((0,), torch.bool),
    "choice": ((2, 0), torch.int64),
    "kept": ((2, 0), torch.bool),
    "place": ((4, 0), torch.float64),
}


def test_no_steps():
    model = towerdsl.compile(spec(KINDS, "{" + ", ".join(f"{k}: {k}" for k in (*SHAPES, "h")) + "}"))()
    found = model(example((2, 0)))._asdict()
    assert not found.pop("h").any()
    assert {name: (tuple(x.shape), x.dtype) for name, x in found.items()} == SHAPES
    one = model(example((2, 1)))._asdict()
    assert {name: x.dtype for name, x in one.items() if name != "h"} == {k: d for k, (_, d) in SHAPES.items()}


def test_lengths_that_are_known():
    steps = "- h = x[n=0]\n- for t along steps:\n    - h = tanh(linear(h, d) + embed(t, steps, d))\n    - states = h"
    assert str(explain(spec(steps, "states")).outputs[0][1]) == "float[b, steps=3, d=4]"
    assert "torch.stack(states, 1)\n" in forward(steps, "states").rstrip() + "\n"
    assert "for t in range(7):" in forward(steps, "states", steps=7)
    assert "for t in range(5):" in forward(DECODER, "h", n=5)
    part = "- y_[b, rest, d] = x[n=1:]\n- h = x[n=0]\n- for t along rest:\n    - h = h * y_[rest=t]\n    - s = h"
    assert towerdsl.compile(spec(part, "s"))()(example()).shape == (2, 4, 4)
    sized = HEAD.replace("keep: bool[b, n] = true", "z: float[b, m=n * 2] = 0")
    assert "range(2 * n)" in towerdsl.source(
        sized + "flow:\n  - h = zeros([b])\n  - for t along m:\n      - h = h + z[m=t]\noutputs: [h, x]\n"
    )


def test_in_a_block_whose_instances_differ_in_the_length():
    text = HEAD + "blocks:\n  run(h, count):\n    - for t along count:\n        - h = tanh(linear(h, d))\n    - h\n"
    source = towerdsl.source(text + "outputs: run(x, 2) + run(x, 3)\n")
    assert source.count("class Run(") == 1
    assert "for t in range(self.count):" in source


def test_what_an_inner_loop_collects_is_collected_by_the_outer_one():
    flow = "- for t along n:\n    - for u along n:\n        - a = dot(x[n=t], x[n=u])"
    x = example()
    torch.testing.assert_close(towerdsl.compile(spec(flow, "a"))()(x), torch.einsum("bid,bjd->bij", x, x))


def test_a_position_of_an_outer_loop_is_read_in_its_place():
    flow = "- h = zeros([b, d])\n- for t along n:\n    - for u along steps:\n        - h = h + dropout(x, 0.5)[n=t]"
    assert "h = h + self.dropout(x)[:, t]" in forward(flow, "h")  # drawn anew in each step


# --- torch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(2, 5), (1, 1)])
def test_compiles_without_a_graph_break_and_exports(lengths):
    torch.manual_seed(0)
    model = towerdsl.compile(spec(DECODER + "- g = last(states)", "{states: states, g: g}"))().double()
    x = example(lengths)
    expected = model(x)
    for other in (torch.compile(model, backend="eager", fullgraph=True), torch.export.export(model, (x,)).module()):
        found = other(x)
        for name in ("states", "g"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def test_gradients_flow_through_all_steps():
    model = towerdsl.compile(spec(DECODER, "h"))().double()
    x = example().requires_grad_()
    assert torch.autograd.gradcheck(model, (x,))


# --- the typed form --------------------------------------------------------------------------------------------


def test_cost_is_that_of_the_body_times_the_length():
    flow = DECODER + "- for t along n:\n    - for u along steps:\n        - g = dot(x[n=t], look(h, x, keep))"
    explained = explain(spec(flow, "{states: states, g: g}"))
    (found,) = explained.attentions  # both are the same but for their names
    b, length = Size.free("b"), Size.free("n")
    assert found.calls == length * 4
    assert explained.work.all == found.facts.work.all * length * 4 + b * length * (16 + 3 * 4)
    assert "called 4·n times in all" in text(explained)


def test_steps_are_asked_of_the_loop():
    _, model = understand(spec(DECODER, "h"), {})
    scan = next(s for s in model.root.body if isinstance(s, n.Scan))
    assert scan.steps == Size.free("n")


def test_parameters_are_named_as_outside_of_a_loop():
    compiled = compile_spec(spec(DECODER + "- for t along n:\n    - h = tanh(linear(h, d) + x[n=t])", "h"))
    assert [name for name, _ in compiled.model.root.modules] == ["look", "linear", "linear_2"]


def changed(**changes: object) -> Callable[[n.Model], n.Model]:
    def change(m: n.Model) -> n.Model:
        def step(s: n.Step) -> n.Step:
            if not isinstance(s, n.Scan):
                return s
            return replace(s, **{k: f(s) if callable(f) else f for k, f in changes.items()})

        return replace(m, root=replace(m.root, body=tuple(map(step, m.root.body))))

    return change


def other(s: n.Scan) -> tuple[n.Step, ...]:
    """The body with another type for what it carries."""
    return (*s.body, n.Set(("h",), n.Const(TensorType("int", (), True), None, 1)))


BROKEN = {
    "index": (changed(index="x"), "`x` is a name already"),
    "length": (changed(axis=Axis("k", Size.free("k"))), "the length `k` of the loop"),
    "carried": (changed(body=other), "`h` changes in a loop"),
    "collected": (changed(collected=(("states", TensorType("float", ())),)), "collects `states` as float[]"),
    "not collected": (changed(collected=()), "`states` is not bound"),
    "carried and collected": (changed(collected=(("h", TensorType("float", ())),)), "collects `h`"),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_broken_rule(rule):
    change, message = BROKEN[rule]
    _, model = understand(spec(DECODER, "states"), {})
    verify(model)
    with pytest.raises(AssertionError, match=re.escape(message)):
        verify(change(model))
