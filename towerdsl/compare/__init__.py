"""Which fields of the averages differ between two specs, and the fields of all specs side by side."""

from __future__ import annotations

from towerdsl.compare.differences import Diff, Difference, Pair, render, text, to_data
from towerdsl.compare.model import diff
from towerdsl.compare.table import Row, markdown, rows

__all__ = ["Diff", "Difference", "Pair", "Row", "diff", "markdown", "render", "rows", "text", "to_data"]
