"""What a name means: parameters that are numbers beside axes of the same name."""

import pytest
import torch

import towerdsl
from towerdsl.diagnostics import TowerError

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
