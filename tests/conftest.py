"""Of the floors above the ninth one stands for all in what runs over the whole library: the others take their turn with
the slow tests. What is about one of them only, in tests/parity, and what takes no time, runs always."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {path.stem for path in (ROOT / "specs").glob("level1[0-9]/*.yaml")} - {"llama"}
ALWAYS = {"test_structure.py", "test_words.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        words = (
            set(item.callspec.id.split("-"))
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else set()
        )
        if words & FLOORS and item.path.name not in ALWAYS and item.path.parent.name != "parity":
            item.add_marker(pytest.mark.slow)
