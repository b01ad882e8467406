"""Which fields of the averages differ between two specs, and the fields of all specs side by side."""

from __future__ import annotations

from towerdsl.compare.model import Diff, Difference, Pair, diff, to_data
from towerdsl.compare.show import render, text
from towerdsl.compare.table import Row, markdown, rows

__all__ = ["Diff", "Difference", "Pair", "Row", "diff", "markdown", "render", "rows", "text", "to_data"]
