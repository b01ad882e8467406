"""Axes go by name: what combines, what is a mistake, and that the next step of each message works as written."""

import pytest
import torch

import towerdsl
from towerdsl import TowerError
from towerdsl.compiler import compile_spec
from towerdsl.ir.size import Size

LENGTHS = {"b": 2, "n": 3, "m": 5, "h": 4, "w": 6}


def shapes(text: str, tmp_path) -> list[tuple[int, ...]]:
    """The shapes of what a model gives, for inputs named like `float[b, n, 8]` in the text."""
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    compiled = compile_spec(str(path))
    lengths = {k: Size.of(v) for k, v in LENGTHS.items()}
    inputs = {}
    for name, kind in compiled.model.root.parameters:
        shape = [size.substitute(lengths).integer for size in kind.shape]
        inputs[name] = torch.rand(shape) if kind.dtype == "float" else torch.ones(shape, dtype=torch.int64)
    found = towerdsl.compile(str(path))()(**inputs)
    return [tuple(x.shape) for x in (found if isinstance(found, tuple) else [found])]


FLOW = """
tower: axes
sizes: {{d: 8, c2: 8, e: 4, f: 4, t: 3}}
inputs:
  x: float[b, n, d]
  z: float[b, m, d]
  image: float[b, c = d, h, w]
  square: float[b, c = d, p = d, q = d]
  length: int[b]
params:
  start: float[t, d]
  row: float[e, d]
  column: float[t, d]
flow:
  - seen = x[n=0] + z[m=0] + length + mean(mean(image)) + mean(mean(square))
{steps}
outputs: [{outputs}]
"""

MEANT = {
    "a residual sum": ("image + conv(image, d, 3, padding=1)", (2, 8, 4, 6)),
    "named as the size": ("image + conv(image, c2, 3, padding=1)", (2, 8, 4, 6)),
    "two convolutions": ("conv(image, d, 1) * conv(image, c2, 1)", (2, 8, 4, 6)),
    "dilated": ("image + conv(image, d, 3, padding=2, dilation=2)", (2, 8, 4, 6)),
    "one axis": ("mean(image, w) + conv(mean(image, w), d, 5, padding=2)", (2, 8, 4)),
    "separable": ("image + conv(image, d, [1, 7], padding=[0, 3], groups=d)", (2, 8, 4, 6)),
    "down and up": ("image + resize(max_pool(image, 2), [h, w], 'bilinear')", (2, 8, 4, 6)),
    "pooled in place": ("image - avg_pool(image, 3, stride=1, padding=1)", (2, 8, 4, 6)),
    "resized to its lengths": ("square + resize(square, [d, d], 'bilinear')", (2, 8, 8, 8)),
    "a gate of channels": ("image * sigmoid(linear(mean(image, [h, w]), d))", (2, 8, 4, 6)),
    "the axis by its first name": ("mean(conv(image, d, 1), c)", (2, 4, 6)),
    "the axis by the size": ("mean(conv(image, d, 1), d)", (2, 4, 6)),
    "joined by the size": ("concat(image, conv(image, d, 1), axis=d)", (2, 16, 4, 6)),
    "a state": ("sum(outer(linear(x, e) * linear(x, f)), n)", (2, 4, 4)),
    "positions of rows and columns": ("outer(row + column)", (4, 3, 8)),
    "angles": ("sinusoidal(range(n), d) + x", (2, 3, 8)),
    "lengths": ("where(outer(length > range(n)), x, 0)", (2, 3, 8)),
    "three operands, of which one has all axes": ("where(range(n) < 2, x, start[t=0])", (2, 3, 8)),
    "pairs of tokens": ("outer(concat(x, z, axis=d))", (2, 3, 5, 16)),
    "both": ("outer(length > 0 and range(n) > 0) * 1", (2, 3)),
    "an elementwise function": ("outer(max(length, range(n)))", (2, 3)),
    "a dot of all pairs": ("dot(x, z)", (2, 3, 5)),
    "a token": ("concat(start[t=0], x, axis=n)", (2, 4, 8)),
    "another axis in the place of the joined one": ("concat(z, x, axis=n)", (2, 8, 8)),
}


@pytest.mark.parametrize("name", MEANT)
def test_what_is_meant(name: str, tmp_path) -> None:
    output, shape = MEANT[name]
    assert shapes(FLOW.format(steps="", outputs=f'seen, "{output}"'), tmp_path)[1] == shape


#: a mistake; what its message says to do; that done, and the shape that it gives
NEXT_STEPS = {
    "a sum": (
        "image + alike",
        "`alike[b, c, h, w] = alike`",
        ["alike[b, c, h, w] = alike"], "image + alike",
        (2, 8, 4, 6),
    ),
    "all pairs of a sum": (
        "image + alike",
        "`outer(image + alike)`",
        [], "outer(image + alike)",
        (2, 8, 8, 4, 6),
    ),
    "a sum with what has no name": (
        "image + (1 + alike)",
        "`z[b, c, h, w] = ...`",
        ["z[b, c, h, w] = 1 + alike"], "image + z",
        (2, 8, 4, 6),
    ),
    "prefix tokens": (
        "concat(start, x, axis=n)",
        "`first[n, d] = start`, and join `first`",
        ["first[n, d] = start"], "concat(first, x, axis=n)",
        (2, 6, 8),
    ),
    "prefix tokens behind": (
        "concat(x, start, axis=n)",
        "`first[n, d] = start`, and join `first`",
        ["first[n, d] = start"], "concat(x, first, axis=n)",
        (2, 6, 8),
    ),
    "a mask of lengths": (
        "range(n) < length",
        "`outer(range(n) < length)`",
        [], "outer(range(n) < length) * 1",
        (3, 2),
    ),
    "one number for all channels": (
        "image * conv(image, 1, 1)",
        """`rearrange(conv(image, 1, 1), "b 1 h w -> b h w")`""",
        [], "image * rearrange(conv(image, 1, 1), 'b 1 h w -> b h w')",
        (2, 8, 4, 6),
    ),
    "one number for all features": (
        "x * linear(x, 1)",
        """`rearrange(linear(x, 1), "b n 1 -> b n")`""",
        [], "x * rearrange(linear(x, 1), 'b n 1 -> b n')",
        (2, 3, 8),
    ),
    "a state of other sizes": (
        "sum(linear(x, e) * x, n)",
        "`outer(linear(x, e) * x)`",
        [], "sum(outer(linear(x, e) * x), n)",
        (2, 4, 8),
    ),
    "a state of features of one name": (
        "sum(outer(x * key), n)",
        "`key[b, n, d2] = key`",
        ["key[b, n, d2] = key"], "sum(outer(x * key), n)",
        (2, 8, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NEXT_STEPS)
def test_the_next_step_works(name: str, tmp_path) -> None:
    mistake, said, steps, output, shape = NEXT_STEPS[name]
    before = ["alike[b, g, h, w] = image", "key = linear(x, d)"]

    def spec(steps: list[str], output: str) -> str:
        lines = "".join(f'  - "{step}"\n' for step in [*before, *steps])
        return FLOW.format(steps=lines, outputs=f'seen, "{output}"')

    with pytest.raises(TowerError) as caught:
        shapes(spec([], mistake), tmp_path)
    assert said in str(caught.value)
    assert shapes(spec(steps, output), tmp_path)[1] == shape


QUERY = """
tower: query
sizes: {{d: 4}}
inputs:
  x: float[b, n, g, d]
  z: float[b, n, d]
blocks:
  look(x, z):
    params: {{of_query: "float[3, 2]"}}
    query: x
    key: z
    value: z
    score: dot(q, k) + of_query[i]
    locality: "{locality}"
outputs: {{y: "look(x, z)"}}
"""


def test_a_query_with_an_axis_more_sees_nothing_later(tmp_path) -> None:
    """A bare `i` would count the further axis too; `i.n` is the query's place among the keys."""
    path = tmp_path / "query.yaml"
    for written in ("causal", "0 <= i - j < 2", "i == j", "i < 2 or j < 2"):
        path.write_text(QUERY.format(locality=written), encoding="utf-8")
        with pytest.raises(TowerError, match=r"write `i\.n` and `j\.n` for `i` and `j`"):
            towerdsl.compile(str(path))
    path.write_text(QUERY.format(locality="j.n <= i.n"), encoding="utf-8")
    model = towerdsl.compile(str(path))()
    x, z = torch.rand(1, 3, 2, 4), torch.rand(1, 3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x, z)[:, 1].sum(), z)
    assert gradient[0].abs().sum(-1).ne(0).tolist() == [True, True, False]


@pytest.mark.parametrize("over", ["[h, w]", "[w, h]"])
def test_positions_over_the_same_axes_are_counted(over: str, tmp_path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(
        f"""
tower: grid
inputs:
  x: float[b, h, w, 4]
blocks:
  look(x):
    over: {over}
    query: x
    key: x
    value: x
    locality: causal
outputs: look(x)
""",
        encoding="utf-8",
    )
    model = towerdsl.compile(str(path))()
    x = torch.rand(1, 2, 3, 4)
    rows = x if over == "[h, w]" else x.transpose(1, 2)
    flat = rows.flatten(1, 2)
    expected = torch.nn.functional.scaled_dot_product_attention(flat, flat, flat, is_causal=True).view_as(rows)
    assert torch.allclose(model(x), expected if over == "[h, w]" else expected.transpose(1, 2), atol=1e-6)


SHARED = """
tower: shared
sizes: {d: 4}
inputs:
  x: float[b, m, d]
  z: float[b, n, d]
modules:
  feed: mlp
  look: attention
blocks:
  mlp(x):
    - linear(relu(linear(x, d)), d)
  attention(x, z):
    query: linear(x, d)
    key: linear(z, d)
    value: z
    mask: j <= i
flow:
  - y = look(feed(x), feed(z))
outputs: [y, "look(z, y)", "look(y, y)"]
"""


def test_one_module_for_axes_of_several_names(tmp_path) -> None:
    path = tmp_path / "shared.yaml"
    path.write_text(SHARED, encoding="utf-8")
    model = towerdsl.compile(str(path))()
    x, z = torch.rand(2, 5, 4), torch.rand(2, 3, 4)
    y, other, own = model(x, z)

    def look(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        score = model.look.query(x) @ model.look.key(z).mT / 2
        hidden = torch.ones(x.shape[1], z.shape[1], dtype=torch.bool).triu(1)
        return score.masked_fill(hidden, float("-inf")).softmax(-1) @ z

    expected = look(model.feed(x), model.feed(z))
    assert torch.allclose(y, expected, atol=1e-6)
    assert torch.allclose(other, look(z, expected), atol=1e-6)
    assert torch.allclose(own, look(expected, expected), atol=1e-6)
