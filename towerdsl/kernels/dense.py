"""The average of all pairs inside a block, or of some queries and all keys: on torch's kernel where that can."""

from __future__ import annotations

from dataclasses import replace

from towerdsl.ir.nodes import Average
from towerdsl.kernels.base import Facts
from towerdsl.kernels.reference import Reference
from towerdsl.kernels.sdpa import Sdpa
from towerdsl.lowered.nodes import Lowered


def dense(average: Average, whole: bool = False) -> Lowered:
    """The average, dense; its sources are those of one head each, where they are not `whole`."""
    average = average if whole else replace(average, key_heads=None)
    facts = Facts.of(average)
    return facts.lowered(Sdpa() if Sdpa().refuse(average, facts) is None else Reference(), average)
