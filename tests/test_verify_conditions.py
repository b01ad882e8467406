"""`verify` reads a condition as it is written: it finds what algebra, emitter or a kernel make wrong of one."""

import re

import pytest

import towerdsl
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import TensorType
from towerdsl.passes import logic, simplify
from towerdsl.passes.formula import TRUE, Within

SPEC = """
tower: one
sizes: {{d: 4}}
inputs:
  x: float[{axes}, d]
  kj: bool[{axes}]
  dj: int[{axes}]
blocks:
  look(x, kj, dj):
    over: [{axes}]
    query: x
    key: x
    value: x
    score: {score}
    normalize: {normalize}
    mask: "{text}"
outputs: look(x, kj, dj)
"""


def spec(text: str, axes: str = "n", score: str = "dot(q, k)", normalize: str = "softmax") -> str:
    return SPEC.format(text=text, axes=axes, score=score, normalize=normalize)


CONDITIONS = [
    spec("j - i <= n // 2"),
    spec("abs(i - j - 0.5) < 1"),
    spec("relu(i - 1.5) > 0 or (kj[j] and dj[i] == dj[j])"),
    spec("round(i / 2) == j or dj[j] // -2 < n % -3 or head == 1"),
    spec("where(kj[j], min(i, j - 0.5), clip(j, 1, 3)) >= 2 ** -1 if n > 4 else causal"),
    spec("i > i.w and (i.h + 1) // 2 == (j.h + 1) // 2 and not j - i == w // 2", "h, w"),
    spec("dilated(8, 2) or same(dj) or (2 * dj[j] == 3 and i <= 1)", score="1", normalize="count"),
]


@pytest.mark.parametrize("text", CONDITIONS, ids=lambda x: re.search('mask: "(.*)"', x)[1])
def test_right_ones_hold(text):
    verified = towerdsl.verify(text)
    assert verified.ok, verified


def failures(text: str, **kwargs) -> set[str]:
    return {f.claim for a in towerdsl.verify(text, **kwargs).attentions for f in a.failures}


def test_a_minus_before_a_quotient(monkeypatch):
    render = Size.render
    monkeypatch.setattr(Size, "render", lambda size, free: re.sub(r"^-\((.*)\)$", r"-\1", render(size, free)))
    assert "hidden" in failures(spec("j - i <= n // 2"), n=7)
    assert "hidden" in failures(spec("j - i <= n // 2"), n=8)  # at other lengths that are not given
    assert "hidden" in failures(spec("j - i <= w // 2", "h, w"))


@pytest.mark.parametrize(
    "text", ["abs(i - j - 0.5) < 1", "min(i, j - 0.5) > 0", "relu(i - 1.5) > 0", "abs(1.5 - j) > 2.0"]
)
def test_a_strict_comparison_of_halves(monkeypatch, text):
    compared = logic.Logic._compared

    def whole(self, value):
        forms = [self.reader.linear(x) for x in value.args]
        if value.op != "<" or None in forms:
            return compared(self, value)
        return self.compared((forms[1] - forms[0]).plus(-1), logic.NOT_BELOW)

    monkeypatch.setattr(logic.Logic, "_compared", whole)
    assert "visible" in failures(spec(text))


def test_an_empty_interval_that_counts_as_everything(monkeypatch):
    monkeypatch.setattr(logic, "_literal", lambda form, sets: Within(form, sets) if sets else TRUE)
    assert failures(spec("(2 * dj[j] == 3 and i <= 1) or kj[j]", score="1", normalize="count")) & {"hidden", "values"}


def test_what_only_a_large_map_hides(monkeypatch):
    """A window is wider than the lengths that a model is first run with."""
    monkeypatch.setattr(simplify.locality, "simplify", lambda visible: None)
    assert failures(spec("abs(i - j) < 20")) == {"hidden"}
    assert failures(spec("abs(i - j) < 200")) == {"hidden"}


def test_what_only_a_short_map_shows(monkeypatch):
    """A condition that is given up where there are few keys."""
    simple = simplify.locality.simplify

    def in_long_ones(visible: n.Value) -> n.Value:
        number, truth = (TensorType(dtype, (), True) for dtype in ("int", "bool"))
        few = n.Pointwise(truth, None, ">", (n.SizeOf(number, None, Size.free("n")), n.Const(number, None, 5)))
        return n.Pointwise(visible.type, None, "and", (simple(visible), few))

    monkeypatch.setattr(simplify.locality, "simplify", in_long_ones)
    assert "visible" in failures(spec("i - j < 5"))
