"""What a model is given: converted to what it declares, or refused by the input's name."""

import timeit

import numpy as np
import pytest
import torch

import towerdsl

TEXT = """
tower: reader
sizes: {d: 8, vocab: 11, context: 16, places: 5}
inputs:
  ids:  int[b, n]
  kind: int[b, n] = 0
  keep: bool[b, n] = true
  near: float[n, n] = 0
blocks:
  look(x, keep, near):
    params: {table: "float[places, d]"}
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    score: dot(q, k) / sqrt(dk) + near[i, j]
    mask: keep[j]
modules:
  words: embed(vocab, d)
params: {kinds: "float[places, d]"}
flow:
  - x = words(ids) + kinds[kind] + embed(range(n), context, d)
outputs: look(x, keep, near)
"""
IMAGE = """
tower: seer
sizes: {c: 3, image: 6, d: 4}
inputs:
  pixels: float[b, c, h = image, w = image]
  x:      float[b, n, d]
  wide:   float[b, 2 * n - 1]
outputs: mean(conv(pixels, d, 3), [h, w]) + mean(linear(x, d), n) + mean(wide)
"""
GRAPH = """
tower: graph
sizes: {d: 4}
inputs:
  x: float[m, d]
  s: float[n, d]
  edges: relation[n, m]
blocks:
  look(x, s, edges):
    query: linear(x, d)
    key: linear(s, d)
    value: s
    locality: edges[j, i]
outputs: look(x, s, edges)
"""


def given(b: int = 2, n: int = 5) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    ids, kind = torch.randint(11, (b, n), generator=draw), torch.randint(5, (b, n), generator=draw)
    keep = torch.rand(b, n, generator=draw) < 0.6
    return {"ids": ids, "kind": kind, "keep": keep, "near": torch.randn(n, n, generator=draw)}


@pytest.fixture(scope="module", params=["", "inference", "standalone"])
def model(request):
    torch.manual_seed(0)
    if request.param != "standalone":
        return towerdsl.compile(TEXT, inference=bool(request.param))().eval()
    space: dict[str, object] = {"__name__": "alone"}
    exec(towerdsl.source(TEXT, standalone=True), space)
    return space["Reader"]().eval()


@pytest.mark.parametrize(
    ("name", "dtypes"),
    [
        ("keep", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8]),
        ("ids", [torch.int32, torch.int16, torch.uint8]),
        ("kind", [torch.int32, torch.int16, torch.uint8, torch.int8]),  # as an index uint8 would be a mask
    ],
)
def test_other_widths_are_the_same_input(model, name, dtypes):
    inputs = given()
    expected = model(**inputs)
    for dtype in dtypes:
        torch.testing.assert_close(model(**inputs | {name: inputs[name].to(dtype)}), expected, rtol=0, atol=0)
    everything = inputs | {"keep": torch.ones(2, 5, dtype=torch.int64)}
    torch.testing.assert_close(model(**everything), model(**inputs | {"keep": None}))


REFUSED = {
    "a mask that is added": ({"keep": torch.zeros(2, 5)}, TypeError, r"`keep` is float32; it is declared bool\[b, n\]"),
    "a mask of numbers": ({"keep": torch.full((2, 5), 3)}, ValueError, r"`keep` has numbers from 3 to 3"),
    "an extended mask": ({"keep": torch.tensor([[0, -10000] * 3] * 2)[:, :5]}, ValueError, "from -10000 to 0"),
    "a list": ({"ids": [[1, 2]]}, TypeError, r"`ids` is list; .* give torch.as_tensor\(ids\)"),
    "an array": ({"keep": np.ones((2, 5), bool)}, TypeError, "`keep` is ndarray"),
    "nothing": ({"ids": None}, TypeError, "`ids` is NoneType; it is declared int"),
    "float ids": ({"ids": torch.ones(2, 5, dtype=torch.float64)}, TypeError, r"`ids` is float64; .* ids.long\(\)"),
    "a mask for ids": ({"ids": torch.ones(2, 5) > 0}, TypeError, "`ids` is bool"),
    "whole numbers for floats": ({"near": torch.ones(5, 5).long()}, TypeError, r"`near` is int64; .* near.float\(\)"),
    "an id too much": ({"ids": torch.full((2, 5), 11)}, IndexError, r"`ids` has 11, .* declared int\[b, n\], below 11"),
    "an id below": ({"ids": torch.full((2, 5), -1)}, IndexError, "`ids` has -1"),
    "one text": ({"ids": torch.ones(5).long()}, ValueError, r"`ids` has shape \[5\]; .* give ids\[None\]"),
    "one axis more": ({"keep": torch.ones(2, 1, 1, 5) > 0}, ValueError, r"`keep` has shape \[2, 1, 1, 5\]; .* 2 axes"),
    "another length": ({"keep": torch.ones(2, 4) > 0}, ValueError, "`keep` .*; n is 4 here and 5 in `ids`"),
    "one for all": ({"keep": torch.ones(1, 5) > 0}, ValueError, "`keep` .*; b is 1 here and 2 in `ids`"),
    "no square": ({"near": torch.ones(5, 1)}, ValueError, "`near` .*; n is 1 here and 5 in `ids`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_name(model, name):
    changed, error, says = REFUSED[name]
    with pytest.raises(error, match=says):
        model(**given() | changed)


def test_a_text_beyond_the_context(model):
    assert model(**given(n=16)).shape == (2, 16, 8)
    with pytest.raises(ValueError, match=r"`ids` has shape \[2, 17\]; .*, n at most 16; cut it"):
        model(**given(n=17))
    assert model(**given(n=0)).shape == (2, 0, 8)


def test_an_axis_of_any_name():
    text = TEXT.replace("[b, n", "[b, _").replace("float[n, n]", "float[_, _]").replace("(n)", "(_)")
    model = towerdsl.compile(text)()
    assert model(**given()).shape == (2, 5, 8)
    with pytest.raises(ValueError, match="_ at most 16"):
        model(**given(n=17))


def test_images_of_another_size_and_lengths_by_formula():
    model = towerdsl.compile(IMAGE)()
    pixels, x, wide = torch.randn(2, 3, 6, 6), torch.randn(2, 5, 4), torch.randn(2, 9)
    expected = model(pixels, x, wide)
    with pytest.raises(ValueError, match=r"`pixels` has shape \[2, 3, 6, 7\]; .*; 7 is not w=6"):
        model(torch.randn(2, 3, 6, 7), x, wide)
    with pytest.raises(ValueError, match=r"`pixels` has shape \[3, 6, 6\]; .*pixels\[None\]"):
        model(pixels[0], x, wide)
    with pytest.raises(ValueError, match=r"`wide` .*; 10 is not 2 \* n - 1"):
        model(pixels, x, torch.randn(2, 10))
    with pytest.raises(TypeError, match="`pixels` is uint8"):
        model(pixels.to(torch.uint8), x, wide)
    # what numpy gives is converted where it meets weights
    torch.testing.assert_close(model(pixels.double(), x.double(), wide), expected)
    half = model.bfloat16()(pixels, x, wide.bfloat16())
    assert half.dtype == torch.bfloat16
    assert model.double()(pixels, x.half(), wide.double()).dtype == torch.float64


@pytest.mark.parametrize("kernel", ["edges", "reference"])
def test_edges(kernel):
    model, x, s = towerdsl.compile(GRAPH, kernel=kernel)(), torch.randn(5, 4), torch.randn(3, 4)
    edges = torch.tensor([[0, 2, 1], [4, 0, 0]])
    torch.testing.assert_close(model(x, s, edges.int()), model(x, s, edges))
    for wrong, says in (([3, 0], "the source 3"), ([0, 5], "the target 5"), ([-1, 0], "source -1"), ([0, -1], "-1")):
        with pytest.raises(IndexError, match=f"`edges` has .*{says}, out of bounds"):
            model(x, s, torch.tensor([wrong]).T)
    with pytest.raises(ValueError, match=r"`edges` has shape \[3, 2\].*\[2, edges\]"):
        model(x, s, edges.T)
    with pytest.raises(TypeError, match="`edges` is float32"):
        model(x, s, edges.float())
    assert model(x, s, edges[:, :0]).abs().sum() == 0


def test_an_input_that_nothing_reads_is_not_looked_at():
    unread = TEXT.replace(" + near[i, j]", "")
    assert list(towerdsl.compile(unread).inputs) == ["ids", "kind", "keep"]
    towerdsl.compile(unread)()(**given() | {"near": torch.ones(1)})


def test_what_data_decides_reads_the_nearest_entry(model):
    assert "below" not in model.inputs["kind"]
    far, near = (given() | {"kind": torch.full((2, 5), kind)} for kind in (9, model.kinds.shape[0] - 1))
    assert torch.equal(model(**far), model(**near))


def test_ids_of_several_tables_and_of_changed_ids():
    text = TEXT.replace("kinds[kind]", "kinds[kind] + embed(ids, 9, d, name=less)")
    assert towerdsl.compile(text).inputs["ids"].startswith("int[b, n], below 9")
    text = TEXT.replace("words(ids)", "words(ids % vocab)")
    assert "below" not in towerdsl.compile(text).inputs["ids"]
    towerdsl.compile(text)()(**given() | {"ids": torch.full((2, 5), 10**6)})


def test_under_transformations_and_compilers_only_dtypes_are_looked_at(model):
    inputs = given()
    expected, whole = model(**inputs), inputs | {"keep": inputs["keep"].long(), "ids": inputs["ids"].int()}
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    torch.testing.assert_close(compiled(**whole), expected)
    exported = torch.export.export(model, (), whole).module()
    torch.testing.assert_close(exported(**whole), expected)
    order = ("ids", "kind", "keep", "near")
    traced = torch.jit.trace(model, tuple(inputs[k] for k in order), check_trace=False)
    torch.testing.assert_close(traced(*(whole[k] for k in order)), expected)
    each = torch.vmap(lambda ids, keep: model(ids[None], None, keep[None], inputs["near"])[0])
    torch.testing.assert_close(each(whole["ids"], whole["keep"]), model(**inputs | {"kind": None}))
    meta = {k: x.to("meta") for k, x in whole.items()}
    with torch.device("meta"):
        assert towerdsl.compile(TEXT)()(**meta).shape == expected.shape


def test_it_costs_microseconds(model):
    from towerdsl.runtime.inputs import as_declared

    inputs = tuple(given().values())
    seconds = min(timeit.repeat(lambda: as_declared(model, *inputs), number=50, repeat=5)) / 50
    assert seconds < 1e-3
    print(f"{1e6 * seconds:.0f} microseconds")
