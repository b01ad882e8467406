"""Which fields of the averages differ between two specs."""

from __future__ import annotations

from towerdsl.compare.model import Diff, Difference, Pair, diff, to_data
from towerdsl.compare.show import render, text

__all__ = ["Diff", "Difference", "Pair", "diff", "render", "text", "to_data"]
