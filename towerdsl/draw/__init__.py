"""`draw`: a spec as a picture of its graph.

`build` makes the graph of a compiled spec, `tidy` makes it easy to read, `layout` says where everything stands, `svg`
and `mermaid` write it. `locality` draws who sees whom.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from towerdsl.compiler import compile_spec, deep, divided
from towerdsl.draw.build import build
from towerdsl.draw.drawing import Drawing
from towerdsl.draw.opened import open_groups
from towerdsl.passes.static import Setting

__all__ = ["Drawing", "draw"]


@deep()
def draw(
    spec: str | Path,
    settings: Mapping[str, Setting] | None = None,
    kernel: str | None = None,
    device: str = "cpu",
    depth: int | None = None,
    fold: Collection[str] = (),
) -> Drawing:
    """Draw a spec. `settings` override its sizes, or give free lengths (`n`) for the pictures of who sees whom.

    The first `depth` levels of blocks are open; without a depth, what leads to an attention that is like none before
    it. Blocks whose path or name matches a pattern of `fold` are closed. Raises TowerError.
    """
    sizes, given = divided(spec, settings or {})
    group = build(compile_spec(spec, sizes, kernel, device=device), given)
    open_groups(group, depth, fold)
    return Drawing(group)
