"""What `draw` gives: one graph, as it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from towerdsl.draw.graph import Group
from towerdsl.draw.mermaid import to_mermaid
from towerdsl.draw.svg import to_svg


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
        return to_svg(self.group)

    @cached_property
    def mermaid(self) -> str:
        """The text of a Mermaid flowchart."""
        return to_mermaid(self.group)

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        return f'<div style="overflow: auto">{self.svg}</div>'
