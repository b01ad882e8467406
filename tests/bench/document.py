"""A table in a document, between a comment with its name and the next `<!-- end -->`."""

from __future__ import annotations

import re
from pathlib import Path

from towerdsl import files


def put(path: Path, name: str, text: str) -> None:
    """Write a text in the place of a table's old one."""
    old = path.read_text(encoding="utf-8")
    new, places = re.subn(
        rf"(<!-- {name} -->\n).*?(?=<!-- end -->)", lambda m: m[1] + text, old, count=1, flags=re.DOTALL
    )
    if not places:
        raise SystemExit(f"{path} has no place for it: <!-- {name} --> and behind it <!-- end -->")
    files.write(path, new)
