"""The interface, given what it does not take: an error in words, which says what it takes."""

import inspect
from pathlib import Path

import numpy
import pytest
import torch

import towerdsl
from towerdsl.diagnostics import TowerError
from towerdsl.maps import explorer

SPEC = """tower: t
sizes: {d: 8, h: 2, rate: 0.5, kind: "one_of('a', 'b')", flag: true, widths: [1, 2]}
inputs:
  x: float[b, n, d]
blocks:
  look(x):
    query: linear(x, d)
    key: x
    value: x
    heads: h
    mask: abs(i - j) < widths[1] if flag and kind == 'a' else true
    dropout: rate
outputs: look(x)
checkpoints:
  hf:
    w.{p}: look.query.{p}
"""
ODD = [
    None,
    {},
    object(),
    float("nan"),
    10**400,
    -1,
    1.5,
    "nope",
    "\ud800",
    [None],
    [1.5],
    torch.randn(2, 3),
    Path("/no"),
]
#: What is as odd in the same ways.
MORE = [
    *([], (), set(), b"x", float("inf"), 0, "", "x" * 5_000, "a\0b", True, ["a"], [[1.5]], [10**30], {1: 2}, {"x": 1}),
    *(torch.tensor(3), print, 1 + 2j, range(3), Path("x" * 300), type, [["a"]], [(0,)], [0], [99], slice(2), iter([0])),
]


@pytest.fixture(params=["odd", pytest.param("more", marks=pytest.mark.slow)])
def odd(request):
    return ODD if request.param == "odd" else MORE


def names(value: object) -> str:
    return f"{type(value).__name__} {value!r:.20}".encode("ascii", "replace").decode()


@pytest.fixture(scope="module")
def model():
    return towerdsl.compile(SPEC)()


@pytest.fixture
def saved(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return towerdsl.save_checkpoint(model, "saved.safetensors")


def all_or_words(calls):
    """Each call does what it says, or is refused with a TowerError."""
    wrong = []
    for label, call in calls.items():
        try:
            call()
        except TowerError as error:
            str(error).encode()
        except Exception as error:
            wrong.append(f"{label}: {error!r}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("size", ["d", "h", "rate", "kind", "flag", "widths", "n", "nothing"])
def test_sizes(odd, size):
    all_or_words({names(v): lambda v=v: towerdsl.source(SPEC, **{size: v}) for v in odd})


@pytest.mark.parametrize("size", ["d", "flag", "n"])
@pytest.mark.parametrize("value", [None, float("-inf"), 10**400])
def test_a_size_that_is_none_is_named(size, value):
    with pytest.raises(TowerError, match=f"`{size}=.*: a size is a finite number"):
        towerdsl.source(SPEC, **{size: value})


def test_sizes_of_numpy_are_sizes():
    plain = towerdsl.source(SPEC, d=16, rate=0.25)
    assert towerdsl.source(SPEC, d=numpy.int64(16), rate=numpy.float32(0.25)) == plain


@pytest.mark.parametrize("option", ["spec", "kernel", "inference", "device", "standalone"])
def test_source(odd, option):
    all_or_words({names(v): lambda v=v: towerdsl.source(**{"spec": SPEC, option: v}) for v in odd})


@pytest.mark.parametrize("option", ["spec", "levels", "fold", "n"])
def test_draw(odd, option):
    all_or_words({names(v): lambda v=v: towerdsl.draw(**{"spec": SPEC, option: v}).svg for v in odd})


@pytest.mark.parametrize("option", ["first", "second", "n"])
def test_diff(odd, option):
    all_or_words({names(v): lambda v=v: towerdsl.diff(**{"first": SPEC, "second": SPEC, option: v}) for v in odd})


@pytest.mark.parametrize("option", ["spec", "inputs", "kernel", "seed"])
def test_verify(odd, option):
    wrong = [v for v in odd if option != "seed" or not isinstance(v, int)]  # a seed that is one takes a second
    all_or_words({names(v): lambda v=v: towerdsl.verify(**{"spec": SPEC, option: v}) for v in wrong if v is not None})


@pytest.mark.parametrize("option", ["inputs", "x", "seed"])
def test_verify_a_model(odd, model, option):
    def call(v):
        given = {"inputs": {"x": v}} if option == "x" else {"inputs": {"x": torch.randn(1, 2, 8)}, option: v}
        return towerdsl.verify(model, **given)

    all_or_words({names(v): lambda v=v: call(v) for v in odd})


@pytest.mark.parametrize("option", ["model", "source", "format", "strict"])
def test_load_checkpoint(odd, model, saved, option):
    given = {"model": model, "source": saved}
    all_or_words({names(v): lambda v=v: towerdsl.load_checkpoint(**{**given, option: v}) for v in odd})


@pytest.mark.parametrize("option", ["model", "path", "format"])
def test_save_checkpoint(odd, model, saved, option):
    given = {"model": model, "path": "other.safetensors"}
    all_or_words({names(v): lambda v=v: towerdsl.save_checkpoint(**{**given, option: v}) for v in odd})


@pytest.mark.parametrize("option", list(inspect.signature(towerdsl.probe).parameters))
def test_probe(odd, model, option):
    def call(v):
        with towerdsl.probe(**{"model": model, option: v}):
            model(torch.randn(1, 4, 8))

    all_or_words({names(v): lambda v=v: call(v) for v in odd})


@pytest.mark.parametrize("rows", [["a"], [1.5], "a", [[0, 1]], [None], [10**30]])
def test_rows_that_are_none(model, rows):
    with pytest.raises(TowerError), towerdsl.probe(model, rows=rows):
        model(torch.randn(1, 4, 8))


@pytest.mark.parametrize("option", list(inspect.signature(explorer.explorer).parameters))
def test_explorer(odd, model, option):
    with towerdsl.probe(model) as maps:
        model(torch.randn(1, 4, 8))
    given = {"maps": maps}
    all_or_words({names(v): lambda v=v: explorer.explorer(**{**given, option: v}) for v in odd})


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".safetensors", "no/such.safetensors", "\ud800", "a\0b"])
def test_a_file_that_cannot_be(model, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TowerError, match="cannot be written"):
        towerdsl.save_checkpoint(model, name)


@pytest.mark.parametrize("text", ["1e308 * 10", "-1e308 * 10", "1e308 * 10 - 1e308 * 10", "1 / 1e-320", "1e999"])
def test_numbers_are_finite(text):
    with pytest.raises(TowerError):
        towerdsl.source(SPEC.replace("h: 2", f"h: 2, z: {text}"))


@pytest.mark.parametrize(
    ("where", "text"),
    [("about", '"a\\0b"'), ("about", '"a\\x1bb"'), ("paper", '"\\x7f"'), ("about", "a\ud800"), ("about", "\udfff")],
)
def test_characters_that_no_text_has(where, text):
    with pytest.raises(TowerError) as found:
        towerdsl.source(f"{where}: {text}\n{SPEC}")
    assert str(found.value).isascii()


def test_a_tensor_of_many_axes():
    axes = ", ".join(f"a{k}" for k in range(17))
    many = SPEC.replace("float[b, n, d]", f"float[{axes}, d]")
    with pytest.raises(TowerError, match="too complicated") as found:
        towerdsl.source(many)
    assert found.value.diagnostics[0].span is not None
    with pytest.raises(TowerError, match="at most 24 axes"):
        towerdsl.source(many.replace("a0,", f"{axes.replace('a', 'b')},"))
