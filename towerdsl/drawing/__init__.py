"""`draw`: a spec as a picture of its graph.

`build` makes the graph of a compiled spec, `tidy` makes it easy to read, `layout` says where everything stands, `svg`
and `mermaid` write it. `locality` draws who sees whom.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import NoneType

from towerdsl.budget import bounded
from towerdsl.compiler import compile_spec, deep, divided
from towerdsl.diagnostics import expect
from towerdsl.drawing.build import build
from towerdsl.drawing.graph import Group
from towerdsl.drawing.mermaid import to_mermaid
from towerdsl.drawing.opened import open_groups
from towerdsl.drawing.svg import to_svg
from towerdsl.passes.static import Setting

__all__ = ["Drawing", "draw"]


@dataclass
class Drawing:
    """A model as a picture; a notebook shows it."""

    group: Group = field(repr=False)

    @property
    def name(self) -> str:
        return self.group.title

    @cached_property
    def svg(self) -> str:
        """The text of an SVG file. In a browser, blocks fold at a click on their title."""
        with bounded(), deep():
            return to_svg(self.group)

    @cached_property
    def mermaid(self) -> str:
        """The text of a Mermaid flowchart."""
        with bounded(), deep():
            return to_mermaid(self.group)

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        return f'<div style="overflow: auto">{self.svg}</div>'


@bounded()
@deep()
def draw(
    spec: str | Path,
    settings: Mapping[str, Setting] | None = None,
    kernel: str | None = None,
    device: str = "cpu",
    levels: int | None = None,
    fold: Collection[str] = (),
) -> Drawing:
    """Draw a spec. `settings` override its sizes, or give free lengths (`n`) for the pictures of who sees whom.

    The first `levels` of blocks are open; without a number, what leads to an attention that is like none before it.
    Blocks whose path or name matches a pattern of `fold` are closed. Raises TowerError.
    """
    expect("levels", levels, (int, NoneType), "a number of levels")
    expect("fold", fold, (list, tuple, set, frozenset), "a pattern of names, or several")
    for pattern in fold:
        expect("fold", pattern, str, "a pattern of names, or several")
    sizes, given = divided(spec, settings or {})
    group = build(compile_spec(spec, sizes, kernel, device=device), given)
    open_groups(group, levels, fold)
    return Drawing(group)
