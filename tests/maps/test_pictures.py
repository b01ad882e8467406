"""Pictures of attention maps: what they show, that it can be read, and what is said of mistakes."""

import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import PowerNorm
from matplotlib.text import Text
from PIL import Image

from towerdsl import TowerError
from towerdsl.maps import AttentionMap, Grid, Maps, pictures

WORDS = ["[CLS]", "the", "lark", "sings", "[SEP]"]


def grid(sizes, axes="nmkl"):
    return Grid(tuple(axes[: len(sizes)]), tuple(sizes))


def attention(queries=(5,), keys=(5,), heads=2, batch=1, rows=None, path="layer.0.attention", **more):
    draw = torch.Generator().manual_seed(len(path) + sum(keys))
    over, under = grid(queries), grid(keys)
    rows = torch.arange(over.count) if rows is None else torch.tensor(rows)
    weights = torch.rand(batch, heads or 1, len(rows), under.count, generator=draw).softmax(-1)
    return AttentionMap(path, 0, over, under, rows, tuple(range(heads)), weights, **more)


def edges(count=6, heads=2):
    """A ring: each node takes from itself and from the one before it."""
    query = torch.arange(count).repeat(2)
    key = torch.cat([torch.arange(count), (torch.arange(count) - 1) % count])
    weights = torch.rand(1, heads, 2 * count, generator=torch.Generator().manual_seed(0))
    nodes = grid((count,))
    return AttentionMap("first", 0, nodes, nodes, torch.arange(count), (0, 1), weights, query, key)


def photo(height=40, width=60):
    return np.random.default_rng(0).random((height, width, 3))


FIGURES = {
    "tokens": lambda: pictures.tokens(attention(), WORDS, head=1),
    "tokens, mean": lambda: pictures.tokens(attention((3,), (40,)), keys=[f"word{k}" for k in range(40)]),
    "tokens, many": lambda: pictures.tokens(attention((300,), (300,)), [f"word number {k}" for k in range(300)]),
    "tokens, one query": lambda: pictures.tokens(attention((), (8,), heads=0, path="a_path_of.some.depth.attention")),
    "tokens, places": lambda: pictures.tokens(attention((4, 6), (4, 6), heads=0)),
    "lines": lambda: pictures.lines(attention(), WORDS, head=0),
    "lines, heads": lambda: pictures.lines(attention((5,), (9,), heads=12), WORDS),
    "lines, many": lambda: pictures.lines(attention((200,), (200,), heads=1), [f"word {k}" for k in range(200)]),
    "head_grid": lambda: pictures.head_grid([attention(heads=12, path=f"layer.{k}.attention") for k in range(6)]),
    "head_grid, query": lambda: pictures.head_grid([attention((10,), (10,))], query=3),
    "overlay": lambda: pictures.overlay(attention((25,), (25,)), photo(24, 36), head=[0, 1], query=8),
    "overlay, alone": lambda: pictures.overlay(attention((4, 6), (4, 6)), query=(1, 2)),
    "graph": lambda: pictures.graph(edges(), classes=list("aabbcc"), labels=[*WORDS, "six"]),
    "graph, around": lambda: pictures.graph(edges(1000), around=500, hops=3, head=1),
    "hops": lambda: pictures.hops(
        [attention((), (3,), heads=0, path=f"look.{k}") for k in range(3)],
        ["Mary went to the kitchen.", "John went " + "far " * 30, "$x"],
        question="Where is Mary?",
        answer="kitchen",
    ),
}


@pytest.fixture(scope="module")
def figures():
    found = {name: make() for name, make in FIGURES.items()}
    for figure in found.values():
        figure.draw_without_rendering()
    return found


def texts(figure):
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and shown(t)]


def shown(text):
    """A tick label outside of the axes' limits is not drawn, nor are texts of axes that are switched off."""
    return text.axes is None or (text.axes.get_visible() and text.axes.axison) or text in text.axes.texts


def tick_labels(axis):
    low, high = sorted(axis.get_view_interval())
    return [
        t.label1 if t.label1.get_visible() else t.label2 for t in axis.get_major_ticks() if low <= t.get_loc() <= high
    ]


# --- what can be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_every_text_is_large_enough(name, figures):
    small = [(t.get_text(), t.get_fontsize()) for t in texts(figures[name]) if t.get_fontsize() < 7]
    assert not small


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_off(name, figures):
    figure = figures[name]
    whole = figure.bbox.padded(1)
    beside = []
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            beside += [x for x in tick_labels(axis) if x.get_text() and axes.axison]
            beside += [axis.label]
        beside += [axes.title, *axes.texts]
    boxes = {x.get_text(): x.get_window_extent() for x in (*beside, *figure.texts) if x.get_text()}
    assert len(boxes) > 2
    for text, box in boxes.items():
        inside = whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
        assert inside, text


@pytest.mark.parametrize("name", FIGURES)
def test_labels_do_not_overlap(name, figures):
    for axes in figures[name].axes:
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [x.get_window_extent() for x in tick_labels(axis) if x.get_text()]
            for a, b in combinations(boxes, 2):
                assert a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 2 or b.y1 <= a.y0 + 2


@pytest.mark.parametrize("name", FIGURES)
def test_weights_have_a_scale(name, figures):
    assert any(x.get_ylabel().startswith("weight") for x in figures[name].axes)


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_has_a_title_and_names_of_axes(name, figures):
    figure = figures[name]
    assert figure.get_suptitle() or figure.texts
    words = [x for axes in figure.axes for x in (axes.get_xlabel(), axes.get_ylabel()) if x]
    assert len(words) + len(figure.texts) >= 2


# --- what is shown ---------------------------------------------------------------------------------------------


def test_tokens_shows_the_weights_of_a_head():
    m = attention(rows=[1, 3])
    figure = pictures.tokens(m, WORDS, head=1)
    assert np.allclose(figure.axes[0].images[0].get_array(), m.weights[0, 1])
    assert [x.get_text() for x in figure.axes[0].get_yticklabels()] == ["the", "sings"]
    assert np.allclose(pictures.tokens(m).axes[0].images[0].get_array(), m.weights[0].mean(0))


def test_labels_of_one_side_leave_numbers_on_the_other():
    figure = pictures.tokens(attention((3,), (5,)), WORDS)
    assert [x.get_text() for x in figure.axes[0].get_xticklabels()] == WORDS
    assert [x.get_text() for x in figure.axes[0].get_yticklabels()] == ["0", "1", "2"]


def test_of_many_weights_the_largest_of_a_cell_is_shown():
    m = attention((3000,), (3000,), heads=0, rows=[7])
    m.weights = torch.zeros(1, 1, 1, 3000)
    m.weights[..., 1234] = 0.5
    m.weights[..., 1500] = -0.75
    shown = pictures.tokens(m).axes[0].images[0].get_array()
    assert shown.shape == (1, 1024) and shown.max() == 0.5 and shown.min() == -0.75


def test_listed_pairs_are_shown_without_all_pairs():
    m = edges()
    dense = pictures.tokens(m, head=0).axes[0].images[0].get_array()
    assert np.allclose(dense, m.dense()[0, 0])
    m.rows = torch.tensor([4, 2])
    assert np.allclose(pictures.tokens(m, head=0).axes[0].images[0].get_array(), m.dense()[0, 0])
    large = edges(100_000)  # 40 GB, were all pairs made
    shown = pictures.tokens(large, head=0).axes[0].images[0].get_array()
    first = (large.query < 97) & (large.key < 97)  # the cell is of the first 98 queries and keys
    assert shown.shape == (1024, 1024) and shown[0, 0] >= large.weights[0, 0, first].max()


def test_signed_weights_have_two_colors():
    m = attention(normalize="none")
    m.weights = m.weights - 0.25
    image = pictures.tokens(m).axes[0].images[0]
    assert image.cmap.name == "RdBu" and image.norm.vmin == -image.norm.vmax


def test_lines_are_as_opaque_as_their_weights_and_thin_ones_are_left_out():
    m = attention(heads=1)
    m.weights = torch.tensor([[1.0, 0.5, 0.02], [0.0, 0.3, 0.7]])[None, None]
    m.queries, m.keys, m.rows = grid((2,)), grid((3,)), torch.arange(2)
    (found,) = pictures.lines(m, ["a", "b", "c"]).axes[0].findobj(LineCollection)
    assert np.allclose(sorted(found.get_colors()[:, 3]), [0.3, 0.5, 0.7, 1])
    (found,) = pictures.lines(m, least=0.4).axes[0].findobj(LineCollection)
    assert np.allclose(sorted(found.get_colors()[:, 3]), [0.5, 0.7, 1])


def test_a_grid_has_a_row_for_each_map_and_one_scale():
    maps = Maps([attention(heads=3), attention(heads=1, path="last")])
    figure = pictures.head_grid(maps)
    cells = [x for x in figure.axes if x.images]
    assert [x.get_title() for x in figure.axes[:3]] == ["head 0", "head 1", "head 2"]
    assert len(cells) == 4 and len({x.images[0].norm.vmax for x in cells}) == 1
    assert isinstance(cells[0].images[0].norm, PowerNorm)
    assert np.allclose(cells[3].images[0].get_array(), maps[1].weights[0, 0])


def test_an_overlay_leaves_out_leading_tokens_and_marks_the_query():
    m = attention((25,), (25,))
    figure = pictures.overlay(m, photo(24, 36), query=1 + 2 * 6 + 4, head=0)  # found: 4 x 6 after one token
    weights = figure.axes[1].images[1].get_array()
    assert np.allclose(weights, m.weights[0, 0, 17, 1:].reshape(4, 6))
    (x,), (y,) = figure.axes[1].lines[0].get_data()
    assert (x, y) == (4.5 * 6, 2.5 * 6)
    assert f"{float(m.weights[0, 0, 17, 0]):.2f}" in figure.axes[1].get_xlabel()
    assert not pictures.overlay(m, photo(24, 36), query=0).axes[1].lines  # this is no place
    same = pictures.overlay(m, query=17, head=0, skip=1, grid=(4, 6)).axes[0].images[0].get_array()
    assert np.allclose(same, weights)


def test_an_image_may_be_of_pil():
    image = Image.fromarray((photo() * 255).astype(np.uint8))
    shown = pictures.overlay(attention((4, 6), (4, 6)), image).axes[0].images[0].get_array()
    assert np.allclose(shown, photo(), atol=1 / 255)


def test_the_half_of_an_edge_at_a_node_is_what_it_takes():
    m = edges(3, heads=1)
    places = {0: (0, 0), 1: (2, 0), 2: (0, 2)}
    figure = pictures.graph(m, positions=places, head=0)
    (found,) = figure.axes[0].findobj(lambda x: type(x) is LineCollection)
    weight = dict(zip(zip(m.query.tolist(), m.key.tolist(), strict=True), m.weights[0, 0].tolist(), strict=True))
    drawn = {tuple(map(tuple, x)): w for x, w in zip(found.get_segments(), found.get_linewidths(), strict=True)}
    assert len(drawn) == 3
    thick, thin = drawn[(2, 0), (1, 0)], drawn[(0, 0), (0, 1)]  # 1 takes from 0, and 0 from 2
    assert (thick > thin) == (weight[1, 0] > weight[0, 2])
    nodes = figure.axes[0].findobj(PathCollection)[0]
    assert np.allclose(nodes.get_offsets(), list(places.values()))


def test_a_large_graph_is_shown_around_a_node():
    figure = pictures.graph(edges(1000), around=500, hops=3)
    assert len(figure.axes[0].findobj(PathCollection)[0].get_offsets()) == 7
    assert {x.get_text() for x in figure.axes[0].texts} == {str(k) for k in range(497, 504)}


def test_hops_are_columns():
    maps = [attention((), (3,), heads=0, path=f"look.{k}" * (k + 1)) for k in range(2)]
    figure = pictures.hops(maps, ["a", "b", "c"], question="where?", answer="here")
    assert figure.get_suptitle() == "question: where?\nanswer: here"
    shown = figure.axes[0].images[0].get_array()
    assert np.allclose(shown, torch.stack([m.weights[0, 0, 0] for m in maps], 1))
    assert figure.axes[0].texts[0].get_text() == f"{shown[0, 0]:.2f}"


def test_labels_are_taken_as_they_are():
    odd = [r"$\frac$ is", "a" * 100, "tab\t", "<b>&", "\x1b[31m"]
    figure = pictures.tokens(attention(), odd)
    figure.draw_without_rendering()
    found = [x.get_text() for x in figure.axes[0].get_yticklabels()]
    assert found[0] == odd[0] and len(found[1]) == 28 and found[2:] == ["tab\\t", "<b>&", "\\x1b[31m"]


# --- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_same_picture_gives_the_same_file(suffix, tmp_path):
    for name in ("one", "two"):
        pictures.save(pictures.lines(attention(), WORDS), tmp_path / f"{name}.{suffix}")
    first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
    assert first == second and len(first) > 1000
    assert b"<dc:date>" not in first


PROGRAM = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "matplotlib" + {part!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import torch
from towerdsl.maps import AttentionMap, Grid, pictures
one = Grid(("n",), (4,))
m = AttentionMap("look", 0, one, one, torch.arange(4), (0,), torch.rand(1, 1, 4, 4))
pictures_of = [pictures.tokens, pictures.lines, lambda m: pictures.head_grid([m]), pictures.overlay, pictures.graph]
for show in pictures_of:
    try:
        show(m)
        print("shown")
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("", "TowerError error[missing]: pictures need matplotlib, which is not installed: pip install"),
        (".pyplot", "shown"),
    ],
)
def test_pictures_need_matplotlib_but_no_pyplot(part, said):
    environment = os.environ | {"PYTHONPATH": str(Path(pictures.__file__).parents[3])}
    command = [sys.executable, "-c", PROGRAM.format(part=part)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = done.stdout.splitlines()
    assert not done.returncode and len(lines) == 5 and all(x.startswith(said) for x in lines), done.stdout + done.stderr


# --- mistakes --------------------------------------------------------------------------------------------------

MISTAKES = {
    "head 7 is not in this map: it has 0, 1": lambda: pictures.tokens(attention(), head=7),
    "there is no batch entry 1 in `layer.0.attention`: it has 1": lambda: pictures.lines(attention(), batch=1),
    "4 labels are given, but `layer.0.attention` has 5 queries": lambda: pictures.tokens(attention(), WORDS[1:]),
    "4 labels are given, but `layer.0.attention` has 5 keys": lambda: pictures.lines(attention(), keys=WORDS[1:]),
    "4 labels are given, but `layer.0.attention` has 2 queries and 3 keys": lambda: pictures.tokens(
        attention((2,), (3,)), WORDS[1:]
    ),
    "600 positions are too many for lines": lambda: pictures.lines(attention((1,), (600,))),
    "there are no maps to show": lambda: pictures.head_grid([]),
    "query 3 is not among the rows of `layer.0.attention`: 0, 2": lambda: pictures.head_grid(
        [attention((4,), (4,), rows=[0, 2])], query=3
    ),
    "make no grid: n=3 has not the form of the image, 40 x 60": lambda: pictures.overlay(
        attention((3,), (3,)), photo()
    ),
    "make no grid: n=2, m=3, k=4 has not a square": lambda: pictures.overlay(attention((2, 3, 4), (2, 3, 4))),
    "a grid of 2 x 3 after 2 keys is not what `layer.0.attention` has: 5 keys": lambda: pictures.overlay(
        attention(), skip=2, grid=(2, 3)
    ),
    "(1, 9) is no place among the queries of `layer.0.attention`: n=4, m=6": lambda: pictures.overlay(
        attention((4, 6), (4, 6)), query=(1, 9)
    ),
    "an image is [h, w], [h, w, 3] or [h, w, 4], not of shape [3, 8, 8]": lambda: pictures.overlay(
        attention(), np.zeros((3, 8, 8))
    ),
    "is over no graph: it has 3 queries and 5 keys": lambda: pictures.graph(attention((3,), (5,))),
    "1,000 nodes are in the graph; 400 can be drawn": lambda: pictures.graph(edges(1000)),
    "901 nodes are within 450 hops of node 3; 400 can be drawn": lambda: pictures.graph(
        edges(1000), around=3, hops=450
    ),
    "there is no node 6: the graph has 6": lambda: pictures.graph(edges(), around=6),
    "2 classes are given, but the graph has 6 nodes": lambda: pictures.graph(edges(), classes=[0, 1]),
    "5 of 6 nodes have no position, node 1 among them": lambda: pictures.graph(edges(), positions={0: (0, 0)}),
    "a hop has one query, but `layer.0.attention` shows 5": lambda: pictures.hops([attention()], WORDS),
    "5 sentences are given, but `look` has 3 keys": lambda: pictures.hops([attention((), (3,), path="look")], WORDS),
    "a picture is written as .png or .svg, not `a.pdf`": lambda: pictures.save(pictures.tokens(attention()), "a.pdf"),
    "`/nowhere/a.png` cannot be written: there is no folder `/nowhere`": lambda: pictures.save(
        pictures.tokens(attention()), "/nowhere/a.png"
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_one_sentence(message):
    with pytest.raises(TowerError) as raised:
        MISTAKES[message]()
    assert message in str(raised.value)
