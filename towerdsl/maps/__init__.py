"""Looking inside a compiled model: the weights of its attentions, measures over them, pictures of them."""

from towerdsl.maps.data import AttentionMap, Grid, Maps

__all__ = ["AttentionMap", "Grid", "Maps"]
