"""A page in Chromium: what a test does with it, and sees of it."""

import os
import time
from pathlib import Path

import torch

from towerdsl.maps import Maps, explorer

FLAGS = """
--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1400,900
""".split()


class Page:
    """A page in Chromium."""

    def __init__(self, driver, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def open(self, maps: Maps, hash: str = "", **options) -> None:
        file = explorer.write(self.folder / "page.html", maps, **options)
        self.go(f"file://{file}{hash}")

    def go(self, address: str) -> None:
        self.driver.get("about:blank")
        self.driver.get(address)
        self.until("document.body.dataset.ready === 'yes' && explorer.times.length > 0")
        self.settle()

    def run(self, script: str):
        return self.driver.execute_script(script)

    def until(self, condition: str) -> None:
        end = time.monotonic() + 10
        while not self.run(f"return typeof explorer !== 'undefined' && ({condition})"):
            assert time.monotonic() < end, f"never: {condition}; {self.driver.get_log('browser')}"
            time.sleep(0.02)

    def settle(self) -> None:
        """Wait until what is chosen is drawn."""
        self.driver.execute_async_script(
            "const done = arguments[0]; setTimeout(() => requestAnimationFrame(() => done()), 40)"
        )
        self.until("explorer.frame === null")

    def state(self, name: str):
        return self.run(f"return explorer.state.{name}")

    @property
    def path(self) -> str:
        return self.state("map.path")

    def pixels(self) -> str:
        return self.run("return [...document.querySelectorAll('#stage canvas')].map((c) => c.toDataURL()).join()")

    def color(self, position: int, panel: int = 0) -> list[int]:
        """The color [red, green, blue] behind a token, or of a patch."""
        return self.run(
            f"""
            const panel = explorer.panels[{panel}], k = {position};
            const [x, y] = panel.rectangle ? panel.rectangle(k) : [panel.left[k], panel.top(k)];
            const at = [x + 4, y + 4 - panel.element.scrollTop].map((c) => c * panel.ratio);
            const copy = make("canvas").getContext("2d", {{ willReadFrequently: true }});
            copy.drawImage(panel.canvas, -at[0], -at[1]);
            return Array.from(copy.getImageData(0, 0, 1, 1).data.subarray(0, 3));
            """
        )

    def mouse(self, kind: str, place: tuple[float, float], **more) -> None:
        x, y = place
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **more})

    def hover(self, place: tuple[float, float]) -> None:
        self.mouse("mouseMoved", place)
        self.settle()

    def click(self, place: tuple[float, float]) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, place, button="left", clickCount=1)
        self.settle()

    def place(self, position: int, panel: int = 0) -> tuple[float, float]:
        """Where a position of a panel is on the screen: the middle of what is drawn for it."""
        return tuple(
            self.run(
                f"""
                const panel = explorer.panels[{panel}], box = panel.canvas.getBoundingClientRect(), k = {position};
                const node = panel.nodes?.get(k);
                const at = node ? [panel.width / 2 + node.x, panel.height / 2 + node.y]
                  : panel.rectangle ? (([x, y, w, h]) => [x + w / 2, y + h / 2])(panel.rectangle(k))
                  : [panel.left[k] + panel.widths[k] / 2, panel.top(k) + 12];
                return [box.x + at[0], box.y + at[1] - panel.element.scrollTop];
                """
            )
        )

    def keys(self, *keys: str, held: str = "") -> None:
        from selenium.webdriver import ActionChains

        actions = ActionChains(self.driver, duration=0)
        if held:
            actions.key_down(held)
        actions.send_keys(*keys)
        if held:
            actions.key_up(held)
        actions.perform()
        self.settle()

    def row(self, batch: int, head: int, query: int, number: int = 0) -> torch.Tensor:
        """The weights of a row as the page's own code reads them."""
        found = self.run(
            f"""
            const map = maps[{number}], row = map.row({batch}, {head}, {query});
            const dense = new Array(map.keys.count).fill(0);
            row.keys.forEach((key, e) => (dense[key] += row.weights[e]));
            return dense;
            """
        )
        return torch.tensor(found, dtype=torch.float32)

    def no_errors(self) -> None:
        found = [entry["message"] for entry in self.driver.get_log("browser")]
        assert not found, found

    def keep(self, name: str) -> None:
        """Leave a screenshot for people to look at."""
        folder = Path(os.environ.get("TOWERDSL_ARTIFACTS", self.folder))
        folder.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(folder / f"explorer_{name}.png"))
