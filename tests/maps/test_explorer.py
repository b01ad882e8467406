"""The explorer's page: it holds the weights it was given, and nothing in it that was given is markup."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from towerdsl.diagnostics import TowerError
from towerdsl.maps import AttentionMap, Grid, Maps, explorer
from towerdsl.maps.packing import largest, pack

from .attentions import CASES, HOSTILE, graph, sequence, unpack, windowed


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("case", CASES)
def test_packed_weights_are_as_near_as_is_said(case, bits):
    one = CASES[case]
    packed = pack(one, bits)
    w = one.dense().double()
    scale = w.abs().amax(-1, keepdim=True)
    peak = largest(bits, packed.signed)
    error = (unpack(one, packed) - w).abs()
    assert (error <= (w.abs() * scale).sqrt() / peak + scale / (4 * peak**2) + 1e-7 * scale).all()
    assert error.max() <= packed.error * (1 + 1e-6)
    assert packed.wide == (one.keys.count > 65536) and packed.signed == (case == "signed")


@pytest.mark.parametrize("one", [sequence(n=9), graph()], ids=["dense", "pairs"])
def test_the_largest_of_each_row_are_kept(one):
    kept, w = unpack(one, pack(one, 16, top=2)), one.dense()
    assert ((kept > 0).sum(-1) == (w > 0).sum(-1).clamp(max=2)).all()
    assert torch.equal(kept.topk(2).indices, w.topk(2).indices)


def test_a_window_stays_small():
    one = windowed(512, 8, 4)
    assert pack(one, 8).entries <= 4 * 512 * 17
    assert len(pack(one, 8).data) < 2.2 * 4 * 512 * 17  # bytes of an entry, its column included


def test_all_listed_pairs_are_kept():
    one = graph()
    one.weights[..., ::2] = 1e-12
    assert pack(one, 8).entries == one.weights.numel()


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(TowerError, match=r"layer\.0\.attention, call 0, are not finite"):
        pack(sequence(weights=torch.full((1, 3, 7, 7), torch.nan)), 8)


# --- the page --------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """The elements of a page, and the texts of its scripts by their ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.scripts: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] == "script" and data.strip():
            self.scripts[self.found[-1][1].get("id", "")] = data


def data(page: str) -> dict:
    return json.loads(Elements(page).scripts["data"])


def test_no_text_of_the_user_is_markup():
    maps = Maps([sequence(HOSTILE, score=HOSTILE, kernel=HOSTILE)])
    page = explorer.explorer(maps, title=HOSTILE, labels=[HOSTILE] * 7, graph_svg=f"<svg>{HOSTILE}</svg>")
    plain = explorer.explorer(Maps([sequence()]), labels=["a"] * 7)
    assert [tag for tag, _ in Elements(page).found] == [tag for tag, _ in Elements(plain).found]
    found = data(page)
    assert found["title"] == found["maps"][0]["path"] == found["sides"][0]["labels"][0][0][0] == HOSTILE


def test_a_page_needs_nothing_from_elsewhere():
    page = explorer.explorer(Maps([sequence()]), image=np.zeros((8, 8, 3)))
    elements = Elements(page).found
    assert not [a for _, a in elements if a.keys() & {"src", "href", "srcset"}]
    assert not re.search(r"\bimport\b|@import|url\(|fetch\(|XMLHttpRequest", page)
    policy = next(a["content"] for _, a in elements if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "http" not in policy


def test_all_scripts_of_the_folder_are_on_the_page():
    folder = Path(explorer.__file__).with_name("page")
    assert {p.stem for p in folder.glob("*.js")} == set(explorer.SCRIPTS)


def test_labels_find_their_sides():
    cross = sequence("cross", 4, 6, axes=("t", "s"))
    found = data(explorer.explorer(Maps([cross]), labels={"t": list("abcd"), "s": ["x"] * 6}))
    assert [s["labels"] for s in found["sides"]] == [[[list("abcd")]], [[["x"] * 6]]]
    found = data(explorer.explorer(Maps([sequence(batch=2)]), labels=[["a"] * 7, ["b"] * 7]))
    assert found["sides"][0]["labels"] == [[["a"] * 7, ["b"] * 7]]
    assert found["maps"][0]["queries"] == found["maps"][0]["keys"] == 0


def test_patches_find_their_grid():
    maps = Maps([sequence(n=1 + 6 * 8, heads=1)])
    picture = {"image": np.zeros((60, 80, 3)), "skip": 1}
    side = data(explorer.explorer(maps, labels=["[CLS]"], **picture))["sides"][0]
    assert (side["picture"], side["skip"], side["labels"]) == ([1, 6, 8], 1, [[["[CLS]"]]])
    assert data(explorer.explorer(maps, grid=(4, 12), skip=1))["sides"][0]["picture"] == [1, 4, 12]
    assert data(explorer.explorer(maps))["sides"][0]["picture"] is None
    video = Grid(("t", "h", "w"), (2, 3, 4))
    one = AttentionMap("a", 0, video, video, torch.arange(24), (), torch.rand(1, 1, 24, 24))
    assert data(explorer.explorer(Maps([one])))["sides"][0]["picture"] == [2, 3, 4]


@pytest.mark.parametrize(
    ("maps", "options", "message"),
    [
        (Maps(), {}, "no maps to explore"),
        (Maps([sequence()]), {"labels": ["a"] * 6}, "no map has 6 positions"),
        (Maps([sequence()]), {"labels": {"n": ["a"] * 6}}, "axis n has 7 positions, and 6 labels"),
        (Maps([sequence()]), {"labels": {"z": ["a"]}}, "labels for axis z, which no map has"),
        (Maps([sequence()]), {"colors": ["red", "blue"]}, "colors are two or more texts"),
        (Maps([sequence()]), {"bits": 4}, "8 or 16 bits"),
        (Maps([sequence()]), {"top": 0}, "at least 1"),
        (Maps([sequence()]), {"image": "nowhere.png"}, "image cannot be read"),
        (Maps([sequence()]), {"image": np.zeros(3)}, "image cannot be read"),
    ],
)
def test_mistakes_are_diagnostics(maps, options, message):
    with pytest.raises(TowerError, match=message):
        explorer.explorer(maps, **options)


def test_a_page_that_would_be_too_large_is_refused_with_what_would_fit():
    maps = Maps([sequence(f"layer.{k}.attention", 256, seed=k) for k in range(4)])
    limit = 2**20
    with pytest.raises(TowerError) as found:
        explorer.explorer(maps, limit=limit)
    message = str(found.value)
    assert "more than the limit of 1 MB" in message and 'maps["layer.3.attention"]' in message
    assert re.search(r"probe \d+ of 256 rows", message)
    top = re.search(r"top=(\d+)", message)
    assert top
    assert len(explorer.explorer(maps, limit=limit, top=int(top[1]))) <= limit
    assert len(explorer.explorer(maps["layer.3.attention"], limit=limit)) <= limit


def test_a_file_is_written_or_a_diagnostic(tmp_path):
    assert explorer.write(tmp_path / "a.html", Maps([sequence()])).read_text().startswith("<!doctype html>")
    with pytest.raises(TowerError, match="cannot be written: there is no folder"):
        explorer.write(tmp_path / "nowhere" / "a.html", Maps([sequence()]))
