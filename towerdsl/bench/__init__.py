"""How fast the attentions of a spec are on each kernel that can compute them, beside what the planner estimated.

Each distinct attention is timed by itself on what it is given while the model runs: kernels in turns, medians, peak
memory, forward and with backward. Estimates and measured times are shown in parts of the least of them.
"""

from __future__ import annotations

from towerdsl.bench.data import Benched, Measured, Timed, to_data
from towerdsl.bench.run import bench
from towerdsl.bench.show import render, text

__all__ = ["Benched", "Measured", "Timed", "bench", "render", "text", "to_data"]
