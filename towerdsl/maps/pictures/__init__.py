"""Pictures of the weights that a probe gives, each a matplotlib figure; `save` writes it as PNG or SVG.

from towerdsl.maps import pictures
pictures.save(pictures.tokens(maps["layer.0.attention"][0], words), "layer0.png")

Needs matplotlib: pip install 'towerdsl[pictures]'.
"""

from towerdsl.maps.pictures.columns import lines
from towerdsl.maps.pictures.common import save
from towerdsl.maps.pictures.matrix import head_grid, hops, tokens
from towerdsl.maps.pictures.nodes import graph
from towerdsl.maps.pictures.photo import overlay

__all__ = ["graph", "head_grid", "hops", "lines", "overlay", "save", "tokens"]
