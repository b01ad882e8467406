"""What a name means: parameters that are numbers beside axes of the same name."""

import re

import pytest
import torch

import towerdsl
from towerdsl.compiler import compile_spec
from towerdsl.diagnostics import TowerError
from towerdsl.emit.helpers import helpers
from towerdsl.emit.scopes import Given, ScopeError, check_attributes, check_scopes
from towerdsl.ir import names
from towerdsl.runtime.linear import InferenceModel

SPEC = """
tower: named
sizes: {{c: 4, d: 8}}
inputs:
  x: float[b, c, h]
blocks:
  block({signature}):
{body}
outputs: {call}
"""


def model(signature: str, *statements: str, call: str) -> torch.nn.Module:
    body = "\n".join(f"    {s}" for s in statements)
    return towerdsl.compile(SPEC.format(signature=signature, body=body, call=call))().double().eval()


X = torch.arange(2 * 4 * 6, dtype=torch.float64).reshape(2, 4, 6)

#: A block with a number of the name of an axis that its argument brings along, and the shape of what it gives.
PARAMETERS = {
    "a length": ("x, h", ['- resize(x, [h], "linear")'], "block(x, 3 * h)", (2, 4, 18)),
    "a number": ("x, h", ['- resize(x, [h], "linear")'], "block(x, 7)", (2, 4, 7)),
    "in front": ("h, x", ['- resize(x, [h], "linear")'], "block(3 * h, x)", (2, 4, 18)),
    "a default": ("x, h = 9", ['- resize(x, [h], "linear")'], "block(x)", (2, 4, 9)),
    "zeros": ("x, h", ["- x[h=0] + zeros([c])"], "block(rearrange(x, 'b c h -> b h c'), h)", (2, 4)),
    "zeros of it": ("x, h", ["- zeros([h])"], "block(x, 3 * h)", (18,)),
    "a range": ("x, h", ["- float(range(h))"], "block(x, h + 1)", (7,)),
    "of a type": ("x, c", ["params: {w: 'float[c]'}", "flow:", "  - zeros([c]) + w"], "block(x, 5)", (5,)),
    "a loop": ("x, h", ["- for l in h:", "    - x = x + 1", "- x"], "block(x, 3)", (2, 4, 6)),
    "along it": ("x, h", ["- y = mean(x)", "- for t along h:", "    - y = y + 1", "- y"], "block(x, 3)", (2, 4)),
    "a comparison": ("x, h", ["- x if h == 6 else zeros([h])"], "block(x, 3)", (3,)),
    "the same length": ("x, h", ["- x + zeros([h])"], "block(x, h)", (2, 4, 6)),
    "heads": ("x, h", ["value: linear(x, 8)", "heads: h", "score: head * h"], "block(zeros([b, h, 8]), 2)", (2, 8)),
    "a window": (
        "x, c",
        ["value: x", "key: x", "query: x", "locality: abs(i - j) < c"],
        "block(x, 2)",
        (2, 4, 6),
    ),
    "a size of the file": ("x[b, d], d", ["- zeros([d]) + x"], "block(linear(x[h=0], 16), 16)", (2, 16)),
    "its own names": ("x[b, m, n], h", ["- sum(x, n) * h"], "block(x, 3)", (2, 4)),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_hides_an_axis_that_an_argument_brings_along(name):
    signature, statements, call, shape = PARAMETERS[name]
    assert model(signature, *statements, call=call)(X).shape == shape


def test_the_values_of_what_a_parameter_makes():
    up = model("x, h", '- resize(x, [h], "linear")', call="block(x, 3 * h)")
    torch.testing.assert_close(up(X), torch.nn.functional.interpolate(X, 18, mode="linear"))
    window = model("x, c", "query: x", "key: x", "value: x", "score: 0", "locality: j < c", call="block(x, 2)")
    torch.testing.assert_close(window(X), X[:, :2].mean(1, keepdim=True).expand(X.shape))


def test_nested_blocks_have_numbers_of_their_own():
    spec = """
tower: nested
inputs: {x: "float[b, c, h]"}
blocks:
  up(x, h):
    - resize(x, [h], "linear")
  twice(x, h):
    - up(up(x, 2 * h), h + 1)
outputs: twice(x, 3 * h)
"""
    assert towerdsl.compile(spec)()(torch.randn(2, 4, 6)).shape == (2, 4, 19)


def test_a_number_in_a_flow_hides_an_axis():
    spec = "tower: t\ninputs: {x: 'float[b, n]'}\nflow:\n  - n = 3\n  - y = zeros([n]) + sum(x)[b=0]\noutputs: y\n"
    assert towerdsl.compile(spec)()(torch.randn(2, 5)).shape == (3,)


def test_a_definition_picks_along_the_axis_that_it_is_given():
    spec = """
tower: picked
define: {"first(x, n)": "x[n=0]"}
inputs: {x: "float[b, n, m, d]"}
outputs: first(x, m)
"""
    x = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(towerdsl.compile(spec)()(x), x[:, :, 0])


# --- patterns --------------------------------------------------------------------------------------------------

PATTERNS = """
tower: patterns
sizes: {{c: 4, d: 8, heads: 2}}
inputs: {{x: "float[b, n, d]", z: "float[b, m, d]", g: "float[b, c, h, w]"}}
outputs: {output}
"""
#: Known names of other axes, and what to write instead.
BOUND_OTHERWISE = {
    'rearrange(x, "b d n -> b n d")': "b n d -> b d n",
    'rearrange(x, "n b d -> b (n d)")': "b n d -> n (b d)",
    'rearrange(x, "b m d -> b m d")': "b n d -> b n d",
    'rearrange(x, "b c d -> b d c")': "b n d -> b d n",
    'rearrange(x, "b (d k) n -> b d k n", k=1)': "b (n k) d -> b n k d",
    'rearrange(g, "b h w c -> b (h w) c")': "b c h w -> b (c h) w",
    'rearrange(g, "b c w h -> b (w h) c")': "b c h w -> b (h w) c",
    'rearrange(conv(g, d, 2, stride=2), "b c y x -> b (y x) c")': None,
    'rearrange(linear(x, 16), "b n d -> b d n")': "b n d2 -> b d2 n",
    'rearrange(mean(g, h), "b c h -> b h c")': "b c w -> b w c",
}
NAMED = {
    'rearrange(x, "batch word feature -> batch feature word")': (2, 8, 5),
    'rearrange(x, "b n (heads d) -> b heads n d", heads=heads)': (2, 2, 5, 4),
    'rearrange(linear(x, 3 * d), "b n (three heads d) -> three b heads n d", three=3, heads=heads)': (3, 2, 2, 5, 4),
    'rearrange(linear(x, 2 * c), "b n d -> b d n")': (2, 8, 5),
    'rearrange(conv(g, d, 2, stride=2), "b d h w -> b (h w) d")': (2, 9, 8),
    'rearrange(g, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)': (2, 9, 16),
    'rearrange(conv(g, d, 2, stride=2), "b k h w -> b (h w) k")': (2, 9, 8),
}


def rearranged(output: str) -> tuple[int, ...]:
    compiled = towerdsl.compile(PATTERNS.format(output=output))()
    return compiled(torch.randn(2, 5, 8), torch.randn(2, 3, 8), torch.randn(2, 4, 6, 6)).shape


@pytest.mark.parametrize("output", BOUND_OTHERWISE)
def test_a_pattern_gives_no_known_name_to_another_axis(output):
    with pytest.raises(TowerError) as caught:
        rearranged(output)
    (mistake,) = caught.value.diagnostics
    assert mistake.code == "axis-mismatch"
    pattern = output.split('"')[1]
    wanted = mistake.help.split('"')[1]
    assert BOUND_OTHERWISE[output] in (None, wanted)
    assert rearranged(output.replace(pattern, wanted))  # the next step can be taken


@pytest.mark.parametrize("output", NAMED)
def test_a_pattern_names_axes_as_they_are_or_anew(output):
    assert rearranged(output) == NAMED[output]


# --- one name, two axes ----------------------------------------------------------------------------------------

TWICE = "tower: twice\ninputs:\n  x: float[b, n, d = 8]\n  e: float[b, n, n]\nflow:\n{flow}\noutputs: y\n"


NAMING = [
    "sum(e, n)",
    "mean(e, [b, n])",
    "e[n=0]",
    "e[n=1:]",
    "softmax(e, n)",
    "flip(e, n)",
]


@pytest.mark.parametrize("value", NAMING)
def test_an_axis_that_is_there_twice_is_not_meant_by_its_name(value):
    with pytest.raises(TowerError) as caught:
        towerdsl.compile(TWICE.format(flow=f"  - y = {value}"))
    (mistake,) = caught.value.diagnostics
    assert mistake.message == "`n` is the name of 2 axes here"
    apart = mistake.help.split("`")[1]
    assert towerdsl.compile(TWICE.format(flow=f"  - {apart}\n  - y = {value}"))


@pytest.mark.parametrize("value", ["e + e", "1 - e / 2", "where(e > 0, e, 0.0)", "relu(e)"])
def test_what_has_the_same_axes_is_combined_in_order(value):
    e = torch.randn(2, 5, 5)
    model = towerdsl.compile(TWICE.format(flow=f"  - y = {value}"))()
    expected = {"e + e": 2 * e, "1 - e / 2": 1 - e / 2}.get(value, e.relu())
    torch.testing.assert_close(model(torch.randn(2, 5, 8), e), expected)


def test_the_last_axis_is_the_last_one():
    e = torch.randn(2, 5, 5)
    for name, reduced in (("sum", e.sum(-1)), ("mean", e.mean(-1)), ("amax", e.amax(-1))):
        plain = towerdsl.compile(TWICE.format(flow=f"  - y = {name}(e)"))()
        torch.testing.assert_close(plain(torch.randn(2, 5, 8), e), reduced)


def test_positions_of_an_attention_are_nothing_else():
    for parameters, let in (("x, i", "z = x"), ("x, z", "j = 5"), ("x, z", "head = 1")):
        body = f"    let:\n      - {let}\n    query: x\n    key: x\n    value: x\n    mask: j <= i\n"
        text = f"tower: t\ninputs: {{x: 'float[b, n, 8]'}}\nblocks:\n  look({parameters}):\n{body}outputs: look(x, 2)\n"
        with pytest.raises(TowerError, match="name-reserved"):
            towerdsl.compile(text)


@pytest.mark.parametrize("name", ["f", "tensor", "nn", "named_tuple", "module"])
def test_classes_have_names_that_the_module_does_not_use(name):
    for tower in ("t", name):
        block = f"  {name}(x):\n    query: linear(x, 4)\n    key: x\n    value: gelu(x)\n"
        text = f"tower: {tower}\ninputs: {{x: 'float[b, n, 4]'}}\nblocks:\n{block}outputs: {name}(x)\n"
        assert towerdsl.compile(text)()(torch.randn(2, 3, 4)).shape == (2, 3, 4)


@pytest.mark.parametrize("axes", ["6", "2, 6"])
def test_positions_and_batch_axes_without_a_name(axes):
    """Positions of one side are one axis, also where nothing names it."""
    spec = """
tower: nameless
inputs: {z: "float[AXES, 4]", keep: "bool[AXES]", t: "float[AXES]"}
blocks:
  look(z, keep, t):
    query: z
    key: z
    value: z
    score: dot(q, k) + t[i] * t[j] + 0.1 * (i - j) * (1 + j)
    mask: keep[j] and abs(i - j) <= 2 and (t[i] < t[j] or j <= i)
outputs: look(z, keep, t)
"""
    shape = tuple(map(int, axes.split(", ")))
    given = torch.randn(*shape, 4), torch.rand(shape) < 0.7, torch.randn(shape)
    named = spec.replace("AXES", "b = 2, m = 6" if len(shape) > 1 else "m = 6")
    torch.testing.assert_close(
        towerdsl.compile(spec.replace("AXES", axes))()(*given), towerdsl.compile(named)()(*given)
    )


# --- names in Python -------------------------------------------------------------------------------------------


def compiled(text: str, alone: bool = False) -> torch.nn.Module:
    """The model of a text, which runs; `alone` also as a file that stands alone."""
    torch.manual_seed(0)
    model = towerdsl.compile(text)()
    model(torch.ones(2, 3, 4))
    if alone:
        found: dict = {}
        exec(compile_spec(text).source(standalone=True), found)
        copy = found[type(model).__name__]()
        copy.load_state_dict(model.state_dict())
        torch.testing.assert_close(copy(torch.ones(2, 3, 4)), model(torch.ones(2, 3, 4)))
    return model


FLOW = "tower: t\nsizes: {d: 4}\ninputs: {x: 'float[b, n, d]'}\n"


def test_what_nn_module_has_is_known():
    has = {*dir(torch.nn.Module()), *dir(InferenceModel())}
    has -= {"smart_apply"}  # transformers adds it, where it is imported
    assert {x for x in has if not x.startswith("__")} <= names.MODULE
    assert {x for x in helpers() if x[0].isupper()} == names.RUNTIME


@pytest.mark.parametrize("name", ["train", "_modules", "T_destination", "lambda", "inputs"])
@pytest.mark.parametrize("where", ["params: {@: 'float[d]'}\noutputs: x + @", "outputs: linear(x, d, name=@)"])
def test_what_nn_module_uses_itself_gets_an_underscore(name, where):
    (key, *_) = compiled(FLOW + where.replace("@", name) + "\n").state_dict()
    assert key.split(".")[0] == f"{name}_"


@pytest.mark.parametrize("name", ["self", "_a", "torch", "q"])
def test_other_parameters_are_called_as_they_are(name):
    assert list(compiled(FLOW + f"params: {{{name}: 'float[d]'}}\noutputs: x + {name}\n").state_dict()) == [name]


#: What a spec calls its parameters and modules, and what they are called then.
GIVEN = {
    "params: {train: 'float[d]', train_: 'float[d]'}\noutputs: x + train * train_": ["train__", "train_"],
    "params: {train_: 'float[d]'}\noutputs: linear(x + train_, d, bias=false, name=train)": [
        "train_",
        "train__.weight",
    ],
    "flow: ['x = linear(x, d, bias=false)', 'x = linear(x, d, bias=false, name=linear)']\noutputs: x": [
        "linear_2.weight",
        "linear.weight",
    ],
    "blocks: {'linear_2(x)': ['linear(x, d, bias=false)']}\n"
    "flow: ['x = linear_2(x)', 'x = linear(x, d, bias=false)', 'x = linear(x, d, bias=false)']\noutputs: x": [
        "linear_2.linear.weight",
        "linear.weight",
        "linear_3.weight",
    ],
    "blocks: {'look(x)': {params: {key: 'float[d]'}, query: x, key: 'linear(x + key, d, bias=false)', value: x}}\n"
    "outputs: look(x)": ["look.key", "look.key_2.weight"],
}


@pytest.mark.parametrize("text", GIVEN)
def test_a_name_is_that_of_one_module(text):
    assert list(compiled(FLOW + text + "\n").state_dict()) == GIVEN[text]


USES = """
tower: t
sizes: {d: 4}
inputs: {NAME: "float[b, n, d]"}
blocks:
  sums(NAME):
    query: NAME
    key: NAME
    value: NAME
    normalize: none
    mask: j <= i
  picks(z):
    query: z
    key: z
    value: z
    normalize: topk(k=2)
    score: dot(q, k) + i - j
flow:
  - h = zeros([b, d])
  - for t along n:
      - h = h + NAME[n=t]
outputs: {a: sums(NAME), b: picks(NAME), c: h}
"""


@pytest.mark.parametrize(
    "name",
    ["wide", "causal_product", "pick_topk", "picked_sum", "as_declared", "TOutput", "Sums", "_"],
)
def test_an_input_keeps_its_name(name):
    found = compiled(USES.replace("NAME", name), alone=True)(**{name: torch.ones(2, 3, 4)})
    torch.testing.assert_close(found, compiled(USES.replace("NAME", "x"))(x=torch.ones(2, 3, 4)))


@pytest.mark.parametrize("name", ["torch", "F", "self", "range", "def"])
def test_an_input_does_not_hide_what_is_called(name):
    found = compiled(USES.replace("NAME", name))(**{f"{name}_": torch.ones(2, 3, 4)})
    torch.testing.assert_close(found, compiled(USES.replace("NAME", "x"))(x=torch.ones(2, 3, 4)))


@pytest.mark.parametrize("name", ["attend", "tiles", "none", "_1", "value_error", "t", "t_output"])
def test_a_class_hides_nothing(name):
    look = f"{FLOW}blocks:\n  {name}(x):\n    query: x\n    key: x\n    value: x\n    locality: abs(i - j) < 2\n"
    compiled(look.replace("tower: t", f"tower: {name}") + f"outputs: {{a: {name}(x), b: x}}\n", alone=True)


def test_blocks_of_one_name_in_camel_case():
    blocks = "".join(f"  {name}(x):\n    - gelu(linear(x, d)) * {k}\n" for k, name in enumerate(ALIKE))
    found = compiled(FLOW + "blocks:\n" + blocks + f"outputs: {' + '.join(f'{name}(x)' for name in ALIKE)}\n")
    assert len({type(m) for m in found.children()}) == len(ALIKE)


ALIKE = ["my_block", "myBlock", "MyBlock", "my_Block_", "myBlock2"]


@pytest.mark.parametrize("name", ["range", "self", "_"])
def test_the_index_of_a_loop_hides_nothing(name):
    loops = "  - for @ in 3:\n      - x = linear(x, d) + @\n  - for @ along n:\n      - y = x + @\n"
    compiled(FLOW + "flow:\n" + loops.replace("@", name) + "outputs: [x, y]\n")


@pytest.mark.parametrize("name", ["_", "_1", "a__"])
def test_calls_of_a_block_have_names(name):
    text = f"tower: t\nsizes: {{d: 4}}\ninputs: {{x: 'float[b, d]'}}\nblocks:\n  {name}(x):\n    - linear(x, d)\n"
    model = towerdsl.compile(f"{text}outputs: {name}(x) + {name}(x)\n")()
    assert len(model.state_dict()) == 4
    assert model(torch.randn(2, 4)).shape == (2, 4)


def test_modules_of_a_loop_in_a_loop():
    text = "tower: t\nsizes: {d: 4}\ninputs: {x: 'float[b, d]'}\nflow:\n  - for a in 2:\n      - for c in 3:\n"
    model = towerdsl.compile(f"{text}          - x = linear(x, d, name=_)\noutputs: x\n")()
    assert len(model.state_dict()) == 12
    assert model(torch.randn(2, 4)).shape == (2, 4)


def test_what_an_attention_is_given_may_be_called_as_what_it_makes():
    look = """
blocks:
  look(A, B, C):
    let:
      - D = A + linear(C, d)
    query: linear(B, d)
    key: linear(A, d)
    value: A + D
outputs: look(x, 2 * x, 3 * x)
"""
    hostile = look
    for plain, name in zip("ABCD", ["q", "k", "v", "y"], strict=True):
        hostile = re.sub(rf"\b{plain}\b", name, hostile)
    expected, found = compiled(FLOW + look), compiled(FLOW + hostile)
    found.load_state_dict(expected.state_dict())
    torch.testing.assert_close(found(torch.ones(2, 3, 4)), expected(torch.ones(2, 3, 4)))


def test_an_argument_of_a_class_is_not_hidden_in_it():
    block = "blocks:\n  step(x, table):\n    - x + embed(range(n), 9, d, std=table)\n"
    compiled(FLOW + block + "outputs: step(x, 0.5) + step(x, 0.25)\n")


def test_source_that_means_something_else_is_not_given():
    given = {"A": Given(frozenset({"x", "y"}), frozenset({"used"}))}
    method = "class A:\n    def forward(self, x):\n        "
    check_scopes(method + "y = used(x)\n        return y\n\ndef used(x): return x\n", ["A", "used"], given)
    for body in ("return missing(x)", "used = x\n        return used", "range = x\n        return range", "z = x"):
        with pytest.raises(ScopeError, match=r"A\.forward"):
            check_scopes(method + body + "\n\ndef used(x): return x\n", ["A", "used"], given)
    with pytest.raises(ScopeError, match="twice"):
        check_scopes("class A: pass\n", ["A", "A"], {})
    for init, forward, methods in (
        (["self.a = 1", "self.a = 2"], [], {}),
        (["self.train = 1"], [], {}),
        (["self.a = 1"], ["return self.b"], {}),
        (["self.a = 1"], ["return self.a()"], {"a": ["def a(self):"]}),
        (["self.a = 1"], ["return self.b()"], {"b": ["def b(self):", "    return self.c"]}),
        ([], [], {"train": ["def train(self):"]}),
    ):
        with pytest.raises(ScopeError, match="class A"):
            check_attributes("A", init, forward, methods)


def test_an_axis_is_not_what_a_loop_goes_over():
    loop = "flow:\n  - for l in 2:\n      - x = linear(x, d)\n  - x = x + range(n)[n=0]\noutputs: x\n"
    compiled((FLOW + loop).replace("[b, n, d]", "[b, linear, d]").replace("(n)[n=0]", "(linear)[linear=0]"))


def test_an_axis_is_not_the_number_of_the_queries_of_a_turn():
    look = "  look(x):\n    query: x\n    key: x\n    value: x\n    over: [m, n]\n    mask: j <= i\n"
    text = "tower: t\ninputs: {x: 'float[b, m, n, 4]'}\nblocks:\n" + look + "outputs: look(x)\n"
    x = torch.randn(2, 3, 5, 4)
    found = towerdsl.compile(re.sub(r"\bn\b", "part", text), kernel="chunked")()(x)
    torch.testing.assert_close(found, towerdsl.compile(text)()(x))
