"""What the README shows is what there is."""

import re
from pathlib import Path

import pytest

import towerdsl
from towerdsl import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SPEC = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1]


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """The README's first spec, saved in the current folder as encoder.yaml."""
    monkeypatch.chdir(tmp_path)
    file = Path("encoder.yaml")
    file.write_text(SPEC, encoding="utf-8")
    return file


def test_the_source_is_what_the_spec_compiles_to(spec):
    source = towerdsl.source(spec)
    shown = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if block.startswith("class ")]
    assert shown
    for block in shown:
        assert block in source


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("    mask:   keep[j]\n", "    mask:   keep[j]\n    locality: abs(i - j) < 64\n"),
        ("    mask:   keep[j]\n", "    mask: keep[j] and j <= i\n"),
        ("    mask:   keep[j]\n", "    mask:   keep[j]\n    normalize: sigmoid\n"),
    ],
)
def test_the_changes_of_one_line_compile(line, changed):
    assert line in SPEC
    towerdsl.compile(SPEC.replace(line, changed), d=24, depth=1)


def test_the_mistake_is_answered_as_shown(spec, capsys):
    command, answer = re.search(r"```\n\$ towerdsl (check encoder.yaml)\n(.*?)```", README, re.DOTALL).groups()
    change = re.search(r"With `key: (.*?)` in that spec", README)[1]
    spec.write_text(re.sub(r"(key: +).*", rf"\g<1>{change}", SPEC), encoding="utf-8")
    assert cli.main(command.split()) == 1
    assert capsys.readouterr().err.strip() == answer.strip()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)|src=\"([^\"]+)\"", README):
        assert (ROOT / "".join(target)).exists(), target
