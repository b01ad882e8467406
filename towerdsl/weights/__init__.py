"""Checkpoints: maps between public names and a model's parameters, readers, and the report of a load.

Importing this needs no torch; the functions that handle tensors import it when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from towerdsl.weights.equations import Expansion, check, expand
from towerdsl.weights.report import CheckpointError, Report
from towerdsl.weights.rules import CheckpointMap, parse_map

if TYPE_CHECKING:
    from towerdsl.weights.apply import to_model, to_public
    from towerdsl.weights.files import read
    from towerdsl.weights.load import load_checkpoint, save_checkpoint

_WITH_TORCH = {
    "load_checkpoint": "load",
    "save_checkpoint": "load",
    "read": "files",
    "to_model": "apply",
    "to_public": "apply",
}

__all__ = [
    "CheckpointError",
    "CheckpointMap",
    "Expansion",
    "Report",
    "check",
    "expand",
    "load_checkpoint",
    "parse_map",
    "read",
    "save_checkpoint",
    "to_model",
    "to_public",
]


def __getattr__(name: str) -> object:
    if name in _WITH_TORCH:
        return getattr(import_module(f"towerdsl.weights.{_WITH_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
