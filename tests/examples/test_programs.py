"""The programs that train are short, take their models from specs, and stand in docs/results.md with their commands."""

import ast
import re

import pytest

from .running import EXAMPLES

ROOT = EXAMPLES.parent
(NAMES,) = re.findall(r"^TRAINED := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_all_are_named():
    assert len(NAMES.split()) == 8
    learning = [p.stem for p in EXAMPLES.glob("*.py") if "common.training" in p.read_text(encoding="utf-8")]
    assert sorted(learning) == sorted(NAMES.split())
    assert set(re.findall(r"^    make (\w+)", RESULTS, re.MULTILINE)) == set(NAMES.split())


@pytest.mark.parametrize("name", NAMES.split())
def test_it_is_short_and_its_model_comes_from_a_spec(name):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    assert "towerdsl.compile(" in text and f"python examples/{name}.py" in ast.get_docstring(ast.parse(text))
    assert not [x for x in ast.walk(ast.parse(text)) if isinstance(x, ast.ClassDef) and "Module" in ast.unparse(x)]


def test_its_pictures_are_there():
    pictures = re.findall(r"\]\((pictures/[^)]+)\)", RESULTS)
    assert len(pictures) >= 6 and all((ROOT / "docs" / path).is_file() for path in pictures)
