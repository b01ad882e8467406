"""Of specs that are much alike one stands for all in what runs over the whole library: the others take their turn with
the slow tests. What is about one of them only, in tests/parity, and what takes no time, runs always."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALIKE = {path.stem for path in (ROOT / "specs").glob("level1[0-9]/*.yaml")} - {"llama"}
ALIKE |= {"luong_global", "luong_local_m", "gpt", "gatv2", "dinov2", "anarcii", "feed_forward_only"}
ALWAYS = {"test_structure.py", "test_words.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        case = getattr(item, "callspec", None)
        alike = case is not None and not ALIKE.isdisjoint(case.id.split("-"))
        if alike and item.path.name not in ALWAYS and item.path.parent.name != "parity":
            item.add_marker(pytest.mark.slow)
