"""The explorer works in a browser: pointing, keys, the address, all kinds of positions, without an error.

Needs Chromium and its driver (see CONTRIBUTING.md); leaves screenshots in the folder that TOWERDSL_ARTIFACTS names.
"""

import statistics

import numpy as np
import pytest
import torch

from towerdsl.maps import AttentionMap, Grid, Maps
from towerdsl.maps.packing import pack

from .attentions import CASES, HOSTILE, graph, sequence, unpack, windowed

WORDS = "[CLS] a query takes from keys [SEP]".split()


def layers(count=3, **options) -> Maps:
    return Maps([sequence(f"layer.{k}.attention", seed=k, **options) for k in range(count)])


def test_pointing_at_a_token_lights_up_what_it_takes(page):
    page.open(layers(), labels=WORDS)
    page.hover(page.place(0))
    before = page.pixels()
    page.hover(page.place(4))
    assert page.state("query") == 4 and page.pixels() != before
    w = layers()[0].weights[0, 0, 4]
    first = page.run("return document.querySelector('#largest tr').innerText").split()
    assert first[0] == f"“{WORDS[int(w.argmax())]}”" and float(first[-1]) == pytest.approx(float(w.max()), abs=1e-4)
    page.click(page.place(4))
    page.hover(page.place(5))
    assert page.state("held") and (page.state("query"), page.state("key")) == (4, 5)
    tooltip = page.run("return document.getElementById('tooltip').innerText")
    assert "“keys” (5)" in tooltip and float(tooltip.split()[4]) == pytest.approx(float(w[5]), abs=1e-4)
    assert page.color(int(w.argmax())) == [8, 48, 107]  # the last color of the scale
    assert min(page.color(int(w.argmin()))) > 240
    page.keep("text")
    page.no_errors()


def test_keys_choose_layer_head_and_query(page):
    from selenium.webdriver import Keys

    page.open(layers(), "#query=3&head=0", labels=WORDS)
    page.keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert page.state("query") == 4
    page.keys("]", "]", "]", "]")
    assert page.state("head") == 2  # the last
    page.keys("[")
    assert page.state("head") == 1
    page.keys(Keys.PAGE_DOWN)
    assert page.path == "layer.1.attention"
    page.keys(Keys.ARROW_DOWN, held=Keys.SHIFT)
    assert page.path == "layer.2.attention"
    page.keys(Keys.PAGE_UP)
    assert page.path == "layer.1.attention"
    page.keys(Keys.ENTER)
    assert page.state("held")
    page.hover(page.place(0))
    assert page.state("query") == 4
    page.keys(Keys.ESCAPE)
    page.hover(page.place(6))
    page.hover(page.place(0))
    assert page.state("query") == 0 and not page.state("held")
    page.keys("[", "[")
    assert page.state("head") == -1  # the mean
    torch.testing.assert_close(page.row(0, -1, 0, 1), layers()[1].weights[0, :, 0].mean(0), atol=1e-4, rtol=0)
    page.keys("?")
    assert page.run("return document.getElementById('help').open")
    page.keys(Keys.ESCAPE)
    page.no_errors()


def test_the_address_holds_the_view(page):
    from selenium.webdriver import Keys

    page.open(layers(batch=2), labels=WORDS)
    page.keys(Keys.PAGE_DOWN, "]", Keys.ARROW_LEFT, "v")
    page.run("explorer.change({ batch: 1, scaleKind: 'log' })")
    page.until("location.hash.includes('scale=log')")
    names = ("map.path", "head", "query", "matrix", "batch", "scaleKind")
    chosen, pixels = [page.state(name) for name in names], page.pixels()
    assert chosen == ["layer.1.attention", 1, 2, True, 1, "log"]
    page.go(page.driver.current_url)
    assert [page.state(name) for name in names] == chosen
    assert page.pixels() == pixels
    page.run("location.hash = 'at=nowhere&query=-1&head=99&batch=9&scale=x'")
    page.settle()
    assert page.state("map.path") == "layer.1.attention" and page.state("batch") == 1
    page.no_errors()


def test_the_page_reads_what_was_packed(page):
    for bits in (8, 16):
        maps = Maps(list(CASES.values()))
        page.open(maps, bits=bits)
        for number, one in enumerate(maps):
            kept = unpack(one, pack(one, bits))
            for at, query in enumerate(one.rows[:3].tolist()):
                head = one.weights.shape[1] - 1
                found = page.row(0, head, query, number)
                torch.testing.assert_close(found, kept[0, head, at].float(), atol=1e-6, rtol=1e-5)
    page.no_errors()


def test_pointing_at_a_patch(page):
    photo = np.linspace(0, 1, 80 * 100 * 3).reshape(80, 100, 3)
    maps = Maps([sequence(f"layer.{k}.attention", 1 + 8 * 10, seed=k) for k in range(2)])
    page.open(maps, image=photo, skip=1, labels=["[CLS]"])
    page.until("explorer.photos[0].naturalWidth > 0")
    assert page.state("query") == 0
    page.hover(page.place(0))
    before = page.pixels()
    page.hover(page.place(1 + 3 * 10 + 4))
    assert page.state("query") == 35 and page.pixels() != before
    assert "row 3, column 4" in page.run("return document.getElementById('status').innerText")
    page.keep("picture")
    page.no_errors()


def test_a_grid_without_a_photo(page):
    places = Grid(("h", "w"), (6, 9))
    w = torch.rand(1, 2, 54, 54, generator=torch.Generator().manual_seed(0))
    page.open(Maps([AttentionMap("stage.0.attention", 0, places, places, torch.arange(54), (0, 1), w)]))
    page.keys("]")
    page.hover(page.place(places.position((2, 7))))
    assert page.state("query") == 25
    assert page.color(int(w[0, 1, 25].argmax())) == [8, 48, 107]
    page.keys("\ue015")  # down
    assert page.state("query") == 34
    assert page.color(int(w[0, 1, 34].argmax())) == [8, 48, 107]
    page.no_errors()


def test_a_graph_is_walked_along_its_edges(page):
    one = graph()
    page.open(Maps([one]))
    page.run("document.getElementById('search').focus()")
    page.keys("7", "\ue007")
    assert page.state("query") == 7
    before = page.pixels()
    page.hover(page.place(8))
    pair = (one.query == 7) & (one.key == 8)
    tooltip = page.run("return document.getElementById('tooltip').innerText").split()
    assert tooltip[1] == "8" and float(tooltip[3]) == pytest.approx(float(one.weights[0, 0, pair]), abs=1e-3)
    page.click(page.place(8))
    assert page.state("query") == 8 and page.pixels() != before
    page.keep("graph")
    page.no_errors()


def test_texts_of_the_user_do_nothing(page):
    inner = "<script>window.hacked = 1</script><foreignObject/>"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" onload="window.hacked = 1">{inner}</svg>'
    page.open(Maps([sequence(HOSTILE)]), title=HOSTILE, labels=[HOSTILE] * 7, graph_svg=svg)
    page.hover(page.place(2))
    page.click(page.place(2))
    assert page.run("return [window.hacked, document.title, document.querySelector('h2').textContent]") == [
        None,
        HOSTILE,
        HOSTILE,
    ]
    assert page.run("return document.querySelectorAll('#drawing > svg').length") == 1
    assert page.run("return document.querySelectorAll('#drawing script, #drawing foreignObject').length") == 0
    # the policy of the page says that it let nothing of this run
    assert all("Content Security Policy" in entry["message"] for entry in page.driver.get_log("browser"))


def test_a_drawing_a_tree_calls_and_batches_choose(page):
    svg = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 60">
      <g class="attention" data-path="encoder.*.attention"><rect width="100" height="20"/></g>
      <g class="attention" data-path="hop"><rect y="30" width="100" height="20"/></g></svg>"""
    hops = [sequence("hop", 7, 5, heads=1, batch=2, call=k, axes=("t", "s"), seed=k) for k in range(3)]
    page.open(Maps([sequence(f"encoder.{k}.attention") for k in range(2)] + hops), graph_svg=svg)
    click = "document.querySelectorAll('{}')[{}].dispatchEvent(new MouseEvent('click', {{ bubbles: true }}))"
    page.run(click.format("#drawing .attention", 1))
    page.settle()
    assert page.path == "hop" and len(page.run("return explorer.panels")) == 2
    page.run("const s = document.getElementById('call'); s.value = '4'; s.dispatchEvent(new Event('change'))")
    page.run("const s = document.getElementById('batch'); s.value = '1'; s.dispatchEvent(new Event('change'))")
    page.settle()
    assert (page.state("map.call"), page.state("batch")) == (2, 1)
    page.hover(page.place(6))
    assert page.state("query") == 6
    page.hover(page.place(1, panel=1))
    assert (page.state("query"), page.state("key")) == (6, 1)
    page.run(click.format("#tree button", 1))
    page.settle()
    assert (
        page.path == "encoder.1.attention"
        and page.run("return document.querySelector('.chosen').dataset.path") == "encoder.*.attention"
    )
    page.no_errors()


def test_the_dark_theme_is_another_picture(page):
    page.open(layers(), labels=WORDS)
    before = page.pixels()
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    try:
        page.settle()
        assert page.pixels() != before
        page.keep("dark")
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    page.no_errors()


@pytest.mark.parametrize("kind", ["tokens", "patches"])
def test_thousands_of_positions_are_redrawn_within_a_frame(page, kind):
    if kind == "tokens":
        page.open(Maps([windowed(4096, 16, 1)]), labels=[f"word{k % 97}" for k in range(4096)])
    else:
        page.open(Maps([sequence(n=1370, heads=1)]), skip=1, grid=(37, 37))
    page.run("explorer.times.length = 0")
    for k in range(30):
        page.mouse("mouseMoved", (300 + (k * 37) % 500, 250 + k * 15))
    page.settle()
    times = page.run("return explorer.times")
    assert len(times) > 10 and statistics.median(times) < 16
    assert page.run("return document.querySelectorAll('*').length") < 400  # positions are no elements
    page.no_errors()
