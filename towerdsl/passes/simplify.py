"""Model --> Model with one form for conditions that say the same: `abs(i - j) < 4 and j <= i` --> its band."""

from __future__ import annotations

from dataclasses import replace

from towerdsl.ir import nodes as n
from towerdsl.ir.rewrite import change_averages
from towerdsl.passes import locality


def simplify(model: n.Model) -> n.Model:
    """Rewrite the condition of every attention."""
    return change_averages(model, lambda a: replace(a, visible=locality.simplify(a.visible)))
