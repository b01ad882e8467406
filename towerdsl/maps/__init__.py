"""Looking inside a compiled model: the weights of its attentions, measures over them, pictures of them."""

from towerdsl.maps.data import AttentionMap, Grid, Maps
from towerdsl.maps.flow import attention_flow, relevance, rollout
from towerdsl.maps.heads import head_importance, scaled_heads, without_heads
from towerdsl.maps.measures import (
    Head,
    class_maps,
    entropy,
    head_divergence,
    head_mean,
    head_table,
    mass_at,
    mass_on,
    mass_threshold,
    mean_distance,
    on_grid,
)
from towerdsl.maps.probing import probe

__all__ = [
    "AttentionMap",
    "Grid",
    "Head",
    "Maps",
    "attention_flow",
    "class_maps",
    "entropy",
    "head_divergence",
    "head_importance",
    "head_mean",
    "head_table",
    "mass_at",
    "mass_on",
    "mass_threshold",
    "mean_distance",
    "on_grid",
    "probe",
    "relevance",
    "rollout",
    "scaled_heads",
    "without_heads",
]
