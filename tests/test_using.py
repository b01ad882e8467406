"""Files that use others: sizes and definitions of a used file are defaults, its blocks are not."""

from pathlib import Path

import pytest

from towerdsl.compiler import compile_spec
from towerdsl.diagnostics import TowerError

BASE = """
sizes: {d: 8}
define:
  act(x): relu(x)
  near(r): abs(i - j) <= r
blocks:
  step(x):
    - x + act(linear(x, d))
  look(x):
    value: x
    query: x
    key: x
    locality: near(2)
"""
MIDDLE = """
use: [base]
define:
  act(x): tanh(x)
"""
OTHER = """
use: [base]
blocks:
  twice(x):
    - step(step(x))
"""
SPEC = """
tower: spec
use: [{use}]
define:
  {define}
inputs:
  x: float[b, n, d]
outputs: {outputs}
"""


@pytest.fixture
def source(tmp_path: Path):
    """The source of a spec that uses some of the files."""
    for name, text in {"base": BASE, "middle": MIDDLE, "other": OTHER}.items():
        (tmp_path / f"{name}.yaml").write_text(text)

    def compiled(use: str, define: str = "unused: 1", outputs: str = "look(step(x))", **files: str) -> str:
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        (tmp_path / "spec.yaml").write_text(SPEC.format(use=use, define=define, outputs=outputs))
        return compile_spec(tmp_path / "spec.yaml").source()

    return compiled


def test_the_default(source):
    assert "relu" in source("base")


def test_a_definition_is_replaced_inside_the_used_blocks(source):
    found = source("base", "act(y): gelu(y)")
    assert "gelu" in found and "relu" not in found


def test_a_condition_is_replaced(source):
    wide, narrow = source("base", "near(r): abs(i - j) <= 2 * r"), source("base", "near(r): abs(i - j) <= r")
    assert wide != narrow == source("base")


def test_a_replacement_may_use_sizes_and_definitions_of_the_spec(source):
    found = source("base", "act(x): twice(x) * d\n  twice(x): silu(x) * 2")
    assert "silu" in found and "relu" not in found


def test_a_file_between_replaces(source):
    found = source("middle")
    assert "tanh" in found and "relu" not in found


def test_the_outermost_wins(source):
    found = source("middle", "act(x): gelu(x)")
    assert "gelu" in found and "tanh" not in found


@pytest.mark.parametrize("use", ["middle, other", "other, middle", "base, other, middle", "middle, base, other"])
def test_order_does_not_matter(use, source):
    """`middle` uses `base`, so what it says takes the place of what `base` says, also for `other`."""
    found = source(use, outputs="twice(x)")
    assert "tanh" in found and "relu" not in found


def test_two_files_that_differ(source):
    with pytest.raises(TowerError, match="`act` is defined twice") as error:
        source("middle, third", third=MIDDLE.replace("tanh", "silu"))
    assert "middle.yaml:4:3" in str(error.value) and "third.yaml:4:3" in str(error.value)


def test_two_files_that_differ_and_a_spec_that_decides(source):
    found = source("middle, third", "act(x): gelu(x)", third=MIDDLE.replace("tanh", "silu"))
    assert "gelu" in found and "tanh" not in found and "silu" not in found


def test_two_files_that_agree(source):
    assert "tanh" in source("middle, third", third=MIDDLE)


def test_as_many_parameters(source):
    with pytest.raises(TowerError, match="takes the place of a definition with other parameters") as error:
        source("base", "act(x, y): x * y")
    assert len(error.value.diagnostics) == 1
    assert "spec.yaml:5:3" in str(error.value) and "base.yaml:4:3" in str(error.value)


def test_names_of_the_standard_library_stay(source):
    with pytest.raises(TowerError, match="`causal` is in the standard library"):
        source("base", "causal: j < i")


def test_a_library_has_a_part_of_a_map(tmp_path: Path):
    """Of two rules about one public name that of the spec counts; a map that the spec has not is there too."""
    maps = "checkpoints:\n  theirs: {'a.{p}': 'step.linear.{p}', b: step.linear.bias}\n  more: {c: step.linear.bias}\n"
    (tmp_path / "base.yaml").write_text(BASE + maps)
    spec = SPEC.format(use="base", define="unused: 1", outputs="step(linear(x, d))")
    (tmp_path / "spec.yaml").write_text(f"{spec}checkpoints:\n  theirs: {{b: linear.weight, c: linear.bias}}\n")
    found, more = compile_spec(tmp_path / "spec.yaml").checkpoints
    assert found.to_data()["rules"] == {"a.{p}": "step.linear.{p}", "b": "linear.weight", "c": "linear.bias"}
    assert more.to_data()["rules"] == {"c": "step.linear.bias"}


def test_words_leave_one_branch(source):
    """What stands in a definition several times, in one branch each, is written in its place."""
    choice = "sizes: {kind: \"one_of('a', 'b')\"}\n"
    text = source("base, choice", define="act(x): tanh(x) if kind == 'a' else relu(x)", choice=choice)
    assert "torch.tanh(self.linear(x))" in text and "tanh(linear(x, d))" in text
