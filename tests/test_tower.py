"""docs/tower.md: what it quotes stands in the specs, its table is what the library says, its pictures can be drawn."""

import re
import runpy
from pathlib import Path

import pytest

from towerdsl import cli
from towerdsl.lang import library

ROOT = Path(__file__).parent.parent
TOWER = (ROOT / "docs" / "tower.md").read_text(encoding="utf-8")
SPECS = [" ".join(p.read_text(encoding="utf-8").split()) for p in (ROOT / "specs").rglob("*.yaml")]
SPECS += [" ".join(p.read_text(encoding="utf-8").split()) for p in (ROOT / "examples").glob("*.yaml")]


def test_its_table_is_what_the_specs_say(capsys):
    """Bring it up to date with `towerdsl specs --fields`."""
    assert cli.main(["specs", "--fields"]) == 0
    table = re.search(r"(?ms)^\| spec \| attention \|.*?\n(?=\n|\Z)", TOWER)
    assert table is not None
    assert table[0].strip() == capsys.readouterr().out.strip()


def quoted() -> list[str]:
    """The parts of specs that are quoted, without their comments' alignment."""
    return [" ".join(text.split()) for text in re.findall(r"(?ms)^```yaml\n(.*?)^```", TOWER)]


@pytest.mark.parametrize("text", quoted(), ids=lambda text: text[:40])
def test_what_it_quotes_stands_in_a_spec(text: str):
    lines = [x.strip() for x in re.split(r"\s*\.\.\.\s*", text) if x.strip()]
    assert any(all(line in spec for line in lines) for spec in SPECS), f"no spec has this:\n{text}"


def test_every_system_is_in_it():
    models = [name for name, path in library.library().items() if not library.read(path).is_library]
    assert not [name for name in models if name not in TOWER]


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", TOWER):
        assert (ROOT / "docs" / target).exists(), target


def draw(level: str):
    pictures = runpy.run_path(str(ROOT / "docs" / "pictures.py"))
    figure = pictures["PICTURES"][level]()
    assert figure.axes
    pictures["plt"].close(figure)


def test_a_picture_is_drawn():
    draw("level4")


@pytest.mark.slow
@pytest.mark.parametrize("level", [f"level{k}" for k in range(1, 10)])
def test_every_picture_is_drawn(level: str):
    draw(level)


def test_its_contents_lead_to_its_headings():
    headings = {re.sub(r"[^\w -]", "", x).lower().replace(" ", "-") for x in re.findall(r"(?m)^#+ (.*)$", TOWER)}
    assert set(re.findall(r"\]\(#([^)]+)\)", TOWER)) <= headings
