"""Sizes that are lists, of axes or numbers: the same as writing their items."""

import pytest
import torch

import towerdsl
from towerdsl import cli
from towerdsl.compiler import compile_spec
from towerdsl.diagnostics import TowerError
from towerdsl.explain import explain, to_data

SPEC = """
tower: spaces
sizes: {c: 4, space: [h, w], depths: [2, 1], widths: [8, 2 * c], kernel_size: [3, 3], total: "depths[0] + depths[1]"}
inputs:
  x: float[b, c, space]
  keep: bool[b, space] = true
params:
  scale: float[total, widths[1]]
define:
  everywhere(x): mean(x, space)
blocks:
  look(x[b, channel, space], keep):
    query: x
    key: x
    value: x
    over: space
    features: channel
    mask: keep[j]
  channels(x[b, channel, space]):
    query: x
    key: x
    value: x
    over: channel
    features: space
  wide(x, space):
    - x * space
flow:
  - for s in len(depths):
      - x = conv(x, widths[s], kernel_size, padding=1)
      - for l in depths[s]:
          - x = x + look(x, keep)
  - x[b, channel, space] = wide(channels(x), 2)
outputs: everywhere(x) + mean(x * zeros([b, space]), [b, space]) + mean(scale, total)
"""


def spelled(text: str, space: str) -> str:
    """The spec without lists: its items written out."""
    text = text.replace("[b, space]", f"[b, {space}]").replace("channel, space]", f"channel, {space}]")
    text = text.replace("c, space]", f"c, {space}]").replace(": space\n", f": [{space}]\n")
    text = text.replace("mean(x, space)", f"mean(x, [{space}])").replace(" space: [h, w],", "")
    for name, items in {"depths": "21", "widths": "8 8".split()}.items():
        for number, item in enumerate(items):
            text = text.replace(f"{name}[{number}]", item)
    text = text.replace("len(depths)", "2").replace("widths[s]", "8").replace("depths[s]", "2 - s")
    return text.replace("depths: [2, 1], widths: [8, 2 * c], kernel_size: [3, 3], ", "").replace(
        "kernel_size", str([3] * len(space.split(",")))
    )


def code(text: str, **sizes) -> str:
    """The source without docstrings, which quote the spec."""
    lines = compile_spec(text, sizes).source().split('"""')
    return "".join(lines[::2])


def test_the_same_as_its_items():
    assert code(SPEC) == code(spelled(SPEC, "h, w"))


@pytest.mark.parametrize("space", [["t"], ["t", "h", "w"], ("h", "t")])
def test_other_axes(space):
    kernel_size = [3] * len(space)
    assert code(SPEC, space=space, kernel_size=kernel_size) == code(spelled(SPEC, ", ".join(space)))
    model = towerdsl.compile(SPEC, space=space, kernel_size=kernel_size)()
    assert model(torch.randn(2, 4, *[3] * len(space))).shape == (2, 8)


def test_other_numbers():
    model = towerdsl.compile(SPEC, depths=[1, 0, 3], widths=[8, 12, 12])()
    assert [m.out_channels for m in model.conv] == [8, 12, 12]


def test_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "spaces.yaml"
    path.write_text(SPEC)
    settings = ["--set", "space=[t,h, w]", "--set", "kernel_size=[3, 3, 3]", "--set", "t=4"]
    assert cli.main(["explain", str(path), *settings]) == 0
    shown = capsys.readouterr().out
    assert "space=[t, h, w]" in shown and "t=4" in shown
    assert cli.main(["check", str(path), "--set", "space=[t h]"]) == 1
    assert cli.main(["check", str(path), "--set", "space=h"]) == 1
    assert "the size `space` is a list" in capsys.readouterr().err


WORDS = """
tower: words
sizes: {d: 4, kinds: "['near', 'far', 'near']", depth: 5}
inputs: {x: "float[b, d]"}
flow:
  - for l in depth:
      - if kinds[l % len(kinds)] == 'near':
          - x = linear(x, d, name=near)
        else:
          - x = linear(x, d, name=far)
outputs: x
"""


def names(text: str, **sizes) -> list[str]:
    return [name.removesuffix(".weight") for name in towerdsl.compile(text, **sizes)().state_dict() if "weight" in name]


def test_words():
    assert sorted(names(WORDS)) == ["far.1", "far.4", "near.0", "near.2", "near.3"]
    assert names(WORDS, kinds=["far"], depth=2) == ["far.0", "far.1"]
    with pytest.raises(TowerError, match="the size `kinds` is a list of 'near', 'far'"):
        towerdsl.compile(WORDS, kinds=["near", "fair"])
    with pytest.raises(TowerError, match="the size `kinds` is a list of 'near', 'far'"):
        towerdsl.compile(WORDS, kinds=["near", 1])
    with pytest.raises(TowerError, match="is never 'nears'"):
        towerdsl.compile(WORDS.replace("== 'near'", "== 'nears'"))


def test_data():
    sizes = to_data(explain(SPEC, {"space": ["h"], "kernel_size": [3]}))["sizes"]
    assert list(sizes["space"]) == ["h"] and list(sizes["depths"]) == [2, 1]


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"space": 3}, "`space=3`: the size `space` is a list of axes or numbers"),
        ({"space": "h"}, "the size `space` is a list of axes or numbers"),
        ({"space": ["h", "1 x"]}, "the size `space` is a list of axes or numbers"),
        ({"space": ["h", ["w"]]}, "a size is a finite number, a truth value, a word, or a list of these"),
        ({"c": [1, 2]}, "`c=[1, 2]`: `c` is no list"),
        ({"depth": [1, 2]}, "`depth=[1, 2]`: `depth` is no size"),
    ],
)
def test_a_setting_that_does_not_fit(sizes, says):
    with pytest.raises(TowerError) as error:
        compile_spec(SPEC, sizes)
    assert says in str(error.value) and len(error.value.diagnostics) == 1


def test_of_a_used_file(tmp_path):
    (tmp_path / "parts.yaml").write_text(
        "sizes: {space: [h, w]}\nblocks:\n  pool(x[b, space, d]):\n    - mean(x, space)\n"
    )
    spec = "tower: t\nuse: [parts]\nsizes: {space: [n]}\ninputs:\n  x: float[b, n, 4]\noutputs: pool(x)\n"
    (tmp_path / "spec.yaml").write_text(spec)
    assert towerdsl.compile(tmp_path / "spec.yaml")()(torch.ones(2, 3, 4)).shape == (2, 4)


def test_a_branch_on_the_number_of_axes():
    text = SPEC.replace("    mask:", "    locality: i.t == j.t if len(space) == 3 else i.h == j.h\n    mask:")
    assert code(text) == code(SPEC.replace("    mask:", "    locality: i.h == j.h\n    mask:"))
    compile_spec(text, {"space": ["t", "h", "w"], "kernel_size": [3, 3, 3]})


STAGES = """
tower: stages
sizes: {c: 4, widths: [6, 8, 10]}
inputs:
  x: float[b, c, h, w]
blocks:
  double(x):
    - x * len(widths)
flow:
  - for s in len(widths):
      - x = double(conv(x, widths[s], 1))
outputs: x
"""


def test_a_loop_that_reads_its_index_may_change_what_it_carries():
    model = towerdsl.compile(STAGES)()
    assert [(m.in_channels, m.out_channels) for m in model.conv] == [(4, 6), (6, 8), (8, 10)]
    assert model(torch.ones(1, 4, 2, 2)).shape == (1, 10, 2, 2)
    with pytest.raises(TowerError, match="`x` changes from one repetition to the next"):
        compile_spec(STAGES.replace("widths[s]", "widths[1]"))


LOOKUP = """
tower: table
sizes: {rates: [0.5, 1, 2.5], c: 3}
inputs: {at: "int[b, n]", x: "float[b, n]"}
outputs: {found: "lookup(at, rates)", times: "x * lookup(at, rates)"}
"""


def test_numbers_at_positions():
    """Outside of the list the nearest one is read; float32 until it meets the model's dtype."""
    at, x = torch.tensor([[0, 2, -1, 9]]), torch.ones(1, 4, dtype=torch.bfloat16)
    found = towerdsl.compile(LOOKUP)().bfloat16()(at, x)
    assert found.found.tolist() == [[0.5, 2.5, 0.5, 2.5]]
    assert found.times.dtype == torch.bfloat16
    other = towerdsl.compile(LOOKUP, rates=[7, 8.25])()(at, x.float())
    assert other.found.tolist() == [[7, 8.25, 7, 8.25]]


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ("[]", "there is nothing in this list"),
        ("[at]", "must be known when compiling"),
        ("rates[0], 1", "has 2 arguments at most"),
    ],
)
def test_no_numbers_to_look_up(numbers, says):
    with pytest.raises(TowerError, match=says):
        towerdsl.compile(LOOKUP.replace("lookup(at, rates)", f"lookup(at, {numbers})"))
