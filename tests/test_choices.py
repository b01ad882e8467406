"""Sizes that are one of several words or numbers, and the branches that sizes decide."""

from pathlib import Path

import pytest
import torch

import towerdsl
from towerdsl import cli
from towerdsl.compiler import compile_spec
from towerdsl.diagnostics import TowerError
from towerdsl.explain import explain, to_data
from towerdsl.explain.show import text
from towerdsl.weights import CheckpointMap, to_public

SPEC = """
tower: words
sizes:
  d: 8
  heads: 2
  kind: one_of('learned', 'sinusoidal', 'rotary')
  space: one_of(1, 2)
  start: false
  ff: 4 * d if kind == 'rotary' else 2 * d
inputs:
  x: float[b, h, w, d] if space == 2 else float[b, n, d]
params:
  table: float[d]
  shift: "float[d] = zeros if kind == 'learned' else constant(3)"
  scale: "float[heads, d] if kind == 'rotary' else float[d]"
blocks:
  look(x):
    params: {bias: "float[heads, 3] = ones"}
    query: linear(x, d) if kind == 'learned' else linear(x, 2 * d)
    key: linear(x, d if kind == 'learned' else 2 * d)
    value: linear(x, d)
    heads: heads
    over: "[h, w] if space == 2 else n"
    score: dot(q, k) + bias[head, 0] if kind == 'learned' else dot(rope(q, i, dk), k) if kind == 'rotary' else 0
    mask: i.h == j.h and i.w <= j.w if space == 2 else true
    locality: j <= i if kind == 'rotary' else true
    normalize: none if start else hard(gumbel, temperature=0.5) if kind == 'rotary' else softmax
    message: v if kind == 'learned' else v * 2
    merge: concat if kind == 'learned' else mean
    dropout: 0.1 if start else 0
    output: "linear(y, d, name=out)"
flow:
  - if space == 2:
      - y = rearrange(x, 'b h w d -> b (h w) d')
  - if kind == 'rotary':
      - z = linear(x, ff)
    else:
      - z = x
  - x = look(x) * shift + (table if kind == 'learned' else mean(scale, heads) if kind == 'rotary' else scale)
outputs: mean(x, [h, w]) if space == 2 else mean(x, n)
"""


def average(**sizes):
    (block,) = [b for b in _blocks(compile_spec(SPEC, sizes).model.root) if b.average is not None]
    return block.average


def _blocks(root):
    yield root
    for _, slot in root.modules:
        if slot.block is not None:
            yield from _blocks(slot.block)


@pytest.mark.parametrize("space", [1, 2])
@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "rotary"])
def test_every_choice_runs(kind, space):
    model = towerdsl.compile(SPEC, kind=kind, space=space)()
    x = torch.randn(2, 3, 5, 8) if space == 2 else torch.randn(2, 5, 8)
    assert model(x).shape == (2, 8)
    names = dict(model.named_parameters())
    assert tuple(names.get("scale", names.get("table")).shape) == ((2, 8) if kind == "rotary" else (8,))
    assert ("look.bias" in names) == (kind == "learned")
    assert ("linear.weight" in names) == (kind == "rotary")
    assert (names["shift"] == (0 if kind == "learned" else 3)).all()
    assert "look.query.weight" in names and "look.query_linear.weight" not in names


def test_the_first_is_the_default():
    assert compile_spec(SPEC).source() == compile_spec(SPEC, {"kind": "learned", "space": 1}).source()


def test_fields_follow():
    learned, rotary = average(), average(kind="rotary", start=True)
    assert (learned.normalize, rotary.normalize) == ("softmax", "none")
    assert (learned.merge, rotary.merge) == ("concat", "mean")
    assert (learned.dropout, rotary.dropout) == (0, 0.1)
    assert learned.visible is None and rotary.visible is not None
    assert average(kind="rotary").options == (("temperature", 0.5),)
    assert [a.name for a in average(space=2).over] == ["h", "w"]


def test_a_choice_is_the_same_as_writing_its_branch():
    plain = SPEC.replace("one_of('learned', 'sinusoidal', 'rotary')", "\"'rotary'\"")
    chosen = compile_spec(SPEC, {"kind": "rotary"}).source()
    assert compile_spec(plain).source().partition("Inputs:")[2] == chosen.partition("Inputs:")[2]


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"kind": "rotery"}, "did you mean `rotary`"),
        ({"kind": "x"}, "`kind` is one of 'learned', 'sinusoidal', 'rotary', not 'x'"),
        ({"kind": 1}, "not 1"),
        ({"kind": True}, "not true"),
        ({"space": 3}, "`space` is one of 1, 2, not 3"),
        ({"space": True}, "not true"),
        ({"space": "2"}, "not '2'"),
        ({"d": "rotary"}, "the size `d` is a number, not a word"),
        ({"start": "yes"}, "the size `start` is true or false, not a word"),
    ],
)
def test_a_setting_that_is_no_choice(sizes, says):
    with pytest.raises(TowerError) as error:
        compile_spec(SPEC, sizes)
    assert says in str(error.value)
    assert len(error.value.diagnostics) == 1


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "words.yaml"
    path.write_text(SPEC)
    assert cli.main(["check", str(path), "--set", "kind=rotary", "--set", "space=2"]) == 0
    assert cli.main(["check", str(path), "--set", "kind=rotery"]) == 1
    assert "did you mean `rotary`" in capsys.readouterr().err


def test_what_was_chosen_is_shown():
    assert "kind = 'rotary', not learned or sinusoidal" in compile_spec(SPEC, {"kind": "rotary"}).source()
    found = explain(SPEC, {"kind": "rotary"})
    assert to_data(found)["choices"] == {"kind": ["learned", "sinusoidal", "rotary"], "space": [1, 2]}
    assert to_data(found)["sizes"]["kind"] == "rotary"
    assert "kind may be learned or sinusoidal as well" in text(found)


USED = """
sizes: {kind: "one_of('learned', 'rotary')", other: "one_of('a', 'b')"}
blocks:
  step(x):
    - x * 2 if kind == 'learned' else tanh(x)
"""


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("kind: rotary", "tanh"),
        ("kind: 'rotary'", "tanh"),
        ("kind: \"'rotary'\"", "tanh"),
        ("kind: rotary if big else learned", "tanh"),
        ("kind: one_of('rotary')", "tanh"),
        ("kind: one_of('neither', 'rotary')", "tanh"),
        ("other: b", "x * 2"),
    ],
)
def test_a_spec_sets_the_word_of_a_used_file(size, says, tmp_path):
    (tmp_path / "used.yaml").write_text(USED)
    text = f"tower: t\nuse: [used]\nsizes:\n  big: true\n  {size}\ninputs:\n  x: float[b, d]\noutputs: step(x)\n"
    (tmp_path / "spec.yaml").write_text(text)
    assert says in compile_spec(tmp_path / "spec.yaml").source()


def branch(output: str, flow: str = "x = x", size: str = "true") -> str:
    return f"""
tower: t
sizes: {{c: {size}, d: 8}}
inputs:
  x: float[b, n, d]
flow:
  - {flow}
outputs: {output}
"""


@pytest.mark.parametrize(
    "output",
    [
        "x if c else linear(x, 3.5)",  # a size that does not fit
        "x if c else x + linear(x, 5)",  # axes that do not match
        "x if c else mean(x, 5)",
        "x if c else x[b]",
        "x if c else (x if d == 9 else dot(x, x, x))",
        "x if d == 8 else (x if c else 1 / 0)",
        "x if c or d > 9 else x[n=0:d - 100]",
        "x if min(d, 3) == 3 else x + c",
    ],
)
def test_what_is_not_taken_is_not_typed(output):
    assert compile_spec(branch(output)).source().replace("result:", "x:") == compile_spec(branch("x")).source()


def test_names_of_what_is_not_taken_are_checked():
    with pytest.raises(TowerError, match="there is no `why` here"):
        compile_spec(branch("x if c else x + why"))
    with pytest.raises(TowerError, match="there is no function or block `linaer`"):
        compile_spec(branch("x if c else linaer(x, d)"))


def test_what_only_the_other_branch_assigns_may_be_named_where_it_is_not_taken():
    text = branch("x if c else y", flow="if not c: [y = 2 * x]")
    compile_spec(text)
    with pytest.raises(TowerError, match="there is no `y` here"):
        compile_spec(text.replace("x if c else y", "y if c else x"))


def test_modules_are_made_of_what_is_taken():
    first = towerdsl.compile(branch("linear(x, d) if c else linear(x, 4)"))
    second = towerdsl.compile(branch("linear(x, d) if c else linear(x, 4)", size="false"))
    assert {k: v.shape for k, v in first().state_dict().items()} == {"linear.weight": (8, 8), "linear.bias": (8,)}
    assert {k: v.shape for k, v in second().state_dict().items()} == {"linear.weight": (4, 8), "linear.bias": (4,)}


WORDS = """
tower: named
sizes:
  d: 4
  weights: one_of('softmax', 'sigmoid', 'hard(gumbel)')
  together: one_of('concat', 'sum')
inputs:
  x: float[b, n, d]
blocks:
  look(x):
    query: x
    key: x
    value: x
    heads: 2
    normalize: weights
    merge: together
  twice(x, weights):
    value: x
    normalize: weights
outputs: [look(x), "twice(x, 'count')"]
"""


@pytest.mark.parametrize("word", ["softmax", "sigmoid", "hard(gumbel)"])
def test_a_size_names_the_normalizer_and_the_merge(word):
    model = compile_spec(WORDS, {"weights": word, "together": "sum"}).model
    look, twice = [b.average for b in _blocks(model.root) if b.average is not None]
    assert (look.normalize, look.merge) == (word, "sum")
    assert look.options == ((("temperature", 1.0),) if "gumbel" in word else ())
    assert twice.normalize == "count"


def test_a_size_names_a_normalizer_that_there_is():
    with pytest.raises(TowerError, match="there is no normalizer `softmin`"):
        compile_spec(WORDS.replace("'softmax', ", "'softmin', "))
    with pytest.raises(TowerError, match="heads cannot be merged by `first`"):
        compile_spec(WORDS.replace("'concat', ", "'first', "))


MAPPED = """
tower: mapped
sizes: {d: 4, kind: "one_of('dot', 'concat')"}
inputs: {x: "float[b, n, d]"}
blocks:
  look(x):
    params: {wq: "float[d]", wk: "float[d]"}
    query: x
    key: x
    value: linear(x, d)
    score: dot(q, k) if kind == 'dot' else concat_score(wq, wk)
outputs: look(x)
checkpoints:
  paper: {g.weight: look.value.weight, g.bias: look.value.bias, w_f: "concat(look.wq, look.wk)"}
"""


def test_a_map_names_parameters_of_other_choices():
    for kind, public in (("dot", {"g.weight", "g.bias"}), ("concat", {"g.weight", "g.bias", "w_f"})):
        model = towerdsl.compile(MAPPED, kind=kind)()
        rules = CheckpointMap.from_data("paper", model.checkpoints["paper"])
        assert set(to_public(rules, model.state_dict())) == public
    for typo in (MAPPED.replace("look.wq,", "look.wp,"), MAPPED.replace("look.value.bias", "look.value.bais")):
        with pytest.raises(TowerError, match="no parameter of the model"):
            compile_spec(typo)
