"""`towerdsl draw`: every spec is drawn, legibly and completely, and shows who sees whom as it is."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

import towerdsl
from towerdsl.cli import main
from towerdsl.compiler import compile_spec
from towerdsl.drawing import Drawing, draw
from towerdsl.drawing.graph import Group
from towerdsl.drawing.layout import Item, Placed, arrange, place
from towerdsl.drawing.locality import picture
from towerdsl.explain.work import Calls
from towerdsl.ir import nodes as n

ROOT = Path(__file__).parent.parent
SPECS = [p for p in sorted((ROOT / "specs").rglob("*.yaml")) if re.search("^(flow|outputs):", p.read_text(), re.M)]
GOLDEN = ROOT / "docs" / "pictures" / "drawing.svg"
SVG = "{http://www.w3.org/2000/svg}"
ADVANCE = 0.6021  # the width of a letter of DejaVu Sans Mono, the widest of the fonts, in parts of its size


@cache
def drawn(spec: Path | str) -> tuple[Drawing, Item, ElementTree.Element]:
    """A drawing, what stands where in it, and its elements."""
    drawing = draw(spec)
    return drawing, arrange(drawing.group), ElementTree.fromstring(drawing.svg)


def elements(drawing: Drawing) -> ElementTree.Element:
    return ElementTree.fromstring(drawing.svg)


@contextmanager
def opened(root: Group, which: str) -> Iterator[None]:
    """With the groups open that are so at first, with all, or with none in the outermost one."""
    before = [(group, group.open) for group in root.walk()]
    for group, first in before:
        group.open = {"first": first, "all": True, "none": group is root}[which]
    yield
    for group, first in before:
        group.open = first


def every(test):
    return pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)(test)


# --- every spec of the library ---------------------------------------------------------------------------------------


def modules(block: n.BlockInstance, path: str = "") -> Iterator[str]:
    """The names of all modules that are attentions."""
    if block.average is not None:
        yield path
    for name, slot in block.modules:
        yield from slot_modules(slot, f"{path}.{name}".lstrip("."))


def slot_modules(slot: n.ModuleSlot, path: str) -> Iterator[str]:
    for k, item in enumerate(slot.items):
        yield from slot_modules(item, f"{path}.{k}")
    if slot.block is not None:
        yield from modules(slot.block, path)


def meant(path: str) -> re.Pattern[str]:
    """`layer.*.look` or `stage.2.{0,2-3}.look` --> the names that it stands for."""
    parts = []
    for part in re.findall(r"\{[^}]*\}|[^.]+", path):
        runs = [run.split("-") for run in part.strip("{}").split(",")] if part[0] == "{" else []
        numbers = [str(k) for run in runs for k in range(int(run[0]), int(run[-1]) + 1)]
        parts.append(r"\d+" if part == "*" else f"({'|'.join(numbers)})" if numbers else re.escape(part))
    return re.compile(r"\.".join(parts))


@every
def test_every_attention_stands_in_one_place(path):
    shown = [e.get("data-path") for e in drawn(path)[2].iter(f"{SVG}g") if e.get("class") == "attention"]
    attentions = list(modules(compile_spec(path).model.root))
    found = {module: [p for p in set(shown) if p and meant(p).fullmatch(module)] for module in attentions if module}
    assert all(len(paths) == 1 for paths in found.values()), found
    assert {p for p in shown if p} == {p for paths in found.values() for p in paths}
    assert ("" in attentions) == (None in shown)


def placed(item) -> list[Placed]:
    return [item, *(inner for child in item.inside for inner in placed(child))]


@every
def test_boxes_lie_in_their_group_and_apart(path):
    drawing, item, _ = drawn(path)
    for which in ("first", "all", "none"):
        with opened(drawing.group, which):
            outer_ones = placed(place(item))
        for outer in outer_ones:
            boxes = [(p.x - p.left, p.x + p.right, p.y, p.y + p.height) for p in outer.inside]
            for left, right, top, bottom in boxes:
                assert -outer.left <= left <= right <= outer.right
                assert 0 <= top <= bottom <= outer.height
            for a, b in combinations([b for b in boxes if b[1] > b[0] and b[3] > b[2]], 2):
                assert a[1] < b[0] or b[1] < a[0] or a[3] < b[2] or b[3] < a[2], (a, b)


@every
def test_streams_go_around_boxes(path):
    drawing, item, _ = drawn(path)
    for which in ("first", "all", "none"):
        with opened(drawing.group, which):
            outer_ones = placed(place(item))
        for outer in outer_ones:
            boxes = [(p.x - p.left + 1, p.x + p.right - 1, p.y + 1, p.y + p.height - 1) for p in outer.inside]
            for _, points in outer.streams:
                assert all(-outer.left <= x <= outer.right and 0 <= y <= outer.height for x, y in points)
                for (x, y), (u, v) in pairwise(points):
                    assert x == u or y == v
                    for left, right, top, bottom in boxes:
                        apart = max(x, u) <= left or min(x, u) >= right or max(y, v) <= top or min(y, v) >= bottom
                        assert apart, f"{points} crosses {(left, right, top, bottom)}"


@every
def test_text_fits_its_box(path):
    root = drawn(path)[2]
    for group in root.iter(f"{SVG}g"):
        kind = (group.get("class") or "").split(" ")[0]
        if kind not in ("op", "leaf", "in", "out", "average"):
            continue
        box = group.find(f"{SVG}rect")
        if box is None:
            continue
        left, width = float(box.get("x")), float(box.get("width"))
        for text in group.findall(f"{SVG}text"):
            length = len(text.text) * ADVANCE * 11
            centered = kind != "average" or "port" in (text.get("class") or "")
            start = float(text.get("x")) - (length / 2 if centered else 0)
            assert left < start and start + length < left + width, text.text
        picture_at = group.find(f"{SVG}g[@class='locality']")
        if picture_at is not None:
            beside = float(re.match(r"translate\(([-\d.]+)", picture_at.get("transform"))[1])
            rows = [t for t in group.findall(f"{SVG}text") if "port" not in (t.get("class") or "")]
            assert all(float(t.get("x")) + len(t.text) * ADVANCE * 11 < beside for t in rows)
            for caption in picture_at.findall(f"{SVG}text"):
                assert beside + float(caption.get("x") or 0) + len(caption.text) * ADVANCE * 9 < left + width
                assert float(caption.get("y")) + 30 < float(box.get("height"))
    heads = [g for g in root.iter(f"{SVG}g") if g.find(f"{SVG}rect[@class='head']") is not None]
    for group in heads:
        title = group.find(f"{SVG}text[@class='title']").text
        assert len(title) * ADVANCE * 12 + 10 < float(group.find(f"{SVG}rect[@class='head']").get("width")), title


@every
def test_the_same_every_time(path):
    again = draw(path)
    assert (again.svg, again.mermaid) == (drawn(path)[0].svg, drawn(path)[0].mermaid)


@every
def test_mermaid_is_a_flowchart(path):
    lines = drawn(path)[0].mermaid.splitlines()
    assert lines[0] == "flowchart TB"
    box = r'(n\d+)(\(\["|\(\("|\[\["|\[/"|\[")[^"]*("\]\)|"\)\)|"\]\]|"/\]|"\])(:::\w+)?'
    known = {m[1] for line in lines if (m := re.fullmatch(box, line.strip()))}
    depth = 0
    for line in map(str.strip, lines[1:]):
        if re.fullmatch(r'subgraph g\d+\["[^"]*"\]', line):
            depth += 1
        elif line == "end":
            depth -= 1
        elif edge := re.fullmatch(r'(n\d+) (?:-- "[^"]*" )?--> (n\d+)', line):
            assert {edge[1], edge[2]} <= known
        else:
            assert re.fullmatch(box, line) or re.fullmatch(r"(classDef|style) \w+ [-\w:#,]+", line), line
        assert depth >= 0
    assert depth == 0
    assert len("\n".join(lines)) < 50_000  # what GitHub draws


# --- a browser says the same -----------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the script of a drawing")
@pytest.mark.parametrize("spec", ["level4/bert", "level1/memn2n", "level6/detr", "level7/gat"])
def test_the_script_places_as_the_layout_does(spec, tmp_path):
    """With every group open, and with the first level alone: `fold.js` finds what `place` does."""
    drawing, item, root = drawn(ROOT / "specs" / f"{spec}.yaml")
    script = next(root.iter(f"{SVG}script")).text.strip("{}")  # a block of its own: a page may have several
    for which in ("all", "none"):
        with opened(drawing.group, which):
            mine = [
                [
                    p.x,
                    p.y,
                    p.left,
                    p.right,
                    p.height,
                    *(number for _, points in p.streams for xy in points for number in xy),
                ]
                for p in placed(place(item))
            ]
        program = (
            script
            + f"""
            const visit = (item, root) => {{ if (item.rows) {{
              item.open = root || {json.dumps(which == "all")};
              item.rows.flatMap(boxes).forEach((x) => visit(x, false));
            }} }};
            visit(MODEL, true);
            const found = [];
            const list = (p) => {{
              found.push([p.x, p.y, p.left, p.right, p.height, ...p.streams.flatMap(([, points]) => points.flat())]);
              if (p.item.rows && p.item.open) p.item.rows.flatMap(boxes).forEach((x) => list(p.inside.get(x.id)));
            }};
            list(place(MODEL));
            console.log(JSON.stringify(found));
            """
        )
        file = tmp_path / "fold.js"
        file.write_text(program, encoding="utf-8")
        theirs = json.loads(subprocess.run(["node", file], capture_output=True, text=True, check=True).stdout)
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            assert a == pytest.approx(b, abs=0.3)


# --- who sees whom ---------------------------------------------------------------------------------------------------


def seen(spec: str | Path, at: int = 0, **given):
    compiled = compile_spec(spec)
    o = Calls().occurrences(compiled.model.root)[at]
    return picture(o.block.average, dict(o.lengths), given)


def look(condition: str, data: bool = False) -> str:
    """A spec with one attention, which may read `keep`."""
    return f"""
tower: seen
inputs: {{x: "float[b, n, 4]"{', keep: "bool[b, n]"' if data else ""}}}
blocks:
  look(x{", keep" if data else ""}):
    query: x
    key: x
    value: x
    mask: {condition}
outputs: look(x{", keep" if data else ""})
"""


def test_a_causal_mask():
    found = seen(look("j <= i"), n=5)
    assert found.cells == ("#....", "##...", "###..", "####.", "#####")
    assert found.caption == ("rows: 5 queries", "columns: 5 keys")


def test_a_window_is_shown_whole():
    """Where a free length is not given it is long enough for the numbers of the condition."""
    found = seen(look("abs(i - j) < 40"))
    assert found.caption == ("rows: 120 queries", "columns: 120 keys")
    assert {"#", "."} == set("".join(found.cells))


def test_what_data_decides_is_marked():
    assert seen(look("keep[j] and j <= i", True), n=3).cells == ("?..", "??.", "???")
    assert seen(look("keep[j] or j == i", True), n=3).cells == ("#??", "?#?", "??#")
    assert seen(look("not (keep[j] and j < 1)", True), n=3).cells == ("?##", "?##", "?##")
    assert seen(look("keep[j]", True), n=3).where == ("where keep[j]",)


def test_a_grid_is_that_of_one_query():
    found = seen("swin")
    row, column = found.query
    rows = [k for k, line in enumerate(found.cells) if "#" in line]
    assert len(rows) == 7 and row in rows and found.cells[row].count("#") == 7 and found.cells[row][column] == "#"
    shifted = seen("swin", 1)
    assert [k for k, line in enumerate(shifted.cells) if "#" in line] == [k - 4 for k in rows]


def test_a_relation_is_a_graph():
    assert seen("gat").cells == ("#", ".", "#")
    path = ROOT / "tests" / "oracle" / "specs" / "bipartite.yaml"
    assert [seen(path, k).cells for k in range(3)] == [("#", ".", "."), ("#", ".", "."), (".", "#", ".")]


def test_a_window_around_a_place_that_data_says():
    found = seen("luong_local_p", S=30)
    assert found.cells == ("....." + "?" * 21 + "....",)
    assert "where abs(j - p) <= 10" in found.where


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_golden():
    """The picture of docs/drawing.md is what the command writes."""
    svg = draw("gpt").svg
    if os.environ.get("TOWERDSL_UPDATE_GOLDENS"):
        GOLDEN.write_text(svg, encoding="utf-8")
    assert svg == GOLDEN.read_text(encoding="utf-8")


def test_an_attention_says_what_it_is():
    text = " ".join(elements(draw("gpt")).itertext())
    for said in ("dot(q, k) / sqrt(dk)", "j <= i and keep[j]", "softmax over n", "12, of 64 features, concat", "sdpa"):
        assert said in text
    roles = {e.get("class") for e in elements(draw("gpt")).iter(f"{SVG}path")}
    assert {"stream query", "stream key", "stream value"} <= roles


def test_repetitions_are_one_box():
    assert [g.heading for g in draw("bert").group.groups] == ["layer: encoder_layer x 12"]
    (repeated,) = [g for g in drawn(ROOT / "specs" / "level9" / "swin.yaml")[0].group.groups if g.kind == "repeat"]
    assert repeated.count == 3
    assert [g.path for g in repeated.groups] == ["stage.2.{0,2,4}", "stage.2.{1,3,5}"]


def test_numbers_that_differ_are_a_range():
    group = draw("memn2n").group
    assert "C[0..2]" in [line for g in group.walk() for x in g.nodes for line in x.lines]


def test_what_is_open_at_first():
    def names(**options) -> list[str]:
        return [g.path for g in draw("bert", **options).group.walk() if g.open and g.path]

    assert names() == ["layer.*", "layer.*.attention"]
    assert names(levels=1) == []
    assert names(levels=3) == ["layer.*", "layer.*.attention", "layer.*.feed_forward"]
    assert names(levels=3, fold=["*.attention"]) == ["layer.*", "layer.*.feed_forward"]
    assert names(fold=["layer"]) == ["layer.*.attention"]
    folded = elements(draw("bert", fold=["layer"])).find(f".//{SVG}g[@data-path='layer.*']/{SVG}g[@class='inside']")
    assert folded.get("display") == "none"


def test_text_of_a_spec_is_escaped():
    spec = """
tower: hostile
inputs: {x: "float[b, n, 4]"}
blocks:
  look(x):
    about: "</title><script>alert(1)</script> & ]]>"
    query: x
    key: x
    value: x
    mask: i < j
outputs: look(x)
"""
    drawing = towerdsl.draw(spec)
    root = elements(drawing)
    assert len(list(root.iter(f"{SVG}script"))) == 1
    assert "</title><script>alert(1)</script> & ]]>" in [e.text for e in root.iter(f"{SVG}title")]
    assert "alert" not in next(root.iter(f"{SVG}script")).text
    assert "sees: i - j #lt;= -1" in drawing.mermaid


def test_a_notebook_shows_it():
    drawing = towerdsl.draw("scaled_dot_product", n=4)
    assert drawing._repr_svg_() == drawing.svg
    assert "x 6" in towerdsl.draw("bert", depth=6, levels=1).mermaid
    assert drawing.svg in drawing._repr_html_()
    assert callable(towerdsl.draw)  # and no package of that name stands in its place


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes(tmp_path, capsys):
    assert main(["draw", "bert", "-o", str(tmp_path / "bert.svg")]) == 0
    assert (tmp_path / "bert.svg").read_text(encoding="utf-8") == draw("bert").svg
    assert main(["draw", "bert", "--format", "mermaid", "--depth", "1", "--set", "depth=6"]) == 0
    out, err = capsys.readouterr()
    assert "layer: encoder_layer x 6" in out and not err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["draw", "berd"], "did you mean `bert`?"),
        (["draw", "bert", "--set", "n=0"], "a whole number of at least 1"),
        (["draw", "bert", "--set", "dpth=2"], "did you mean `depth`?"),
        (["draw", "bert", "--fold", "atention"], "did you mean `attention`?"),
        (["draw", "transformer_layers"], "a library of blocks"),
        (["draw", "bert", "-o", "/nowhere/bert.svg"], "cannot be written"),
    ],
)
def test_mistakes_are_diagnostics(arguments, said, capsys):
    assert main(arguments) == 1
    assert said in capsys.readouterr().err


def test_a_long_length_is_no_matter():
    found = draw("gpt", {"n": 50_000}).svg
    assert len(found) < 100_000
