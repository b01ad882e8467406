"""Measures the numbers of the planner's cost model (towerdsl/kernels/cost.py) on this machine.

    python tests/bench/calibrate.py [KERNEL...] [--rounds 5] [--threads 2] [--samples]

Every kernel computes attentions of several forms and sizes. Its `Speed` is what fits the measured times best, as the
least squares of the logarithms of their ratios; what is printed goes to its file. ELEMENT is fitted with the
reference's.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import towerdsl
from towerdsl.bench.timing import in_turns, machine
from towerdsl.compiler import compile_spec
from towerdsl.kernels import cost
from towerdsl.kernels.base import Kernel, Speed
from towerdsl.kernels.catalog import CATALOG
from towerdsl.kernels.choose import attentions
from towerdsl.kernels.reference import Reference

SPEC = """
tower: calibrated
sizes: {{n: {n}, d: {d}, heads: {heads}}}
inputs:
  x: float[n, d]
  edges: relation[n, n]
blocks:
  look(x, edges):
    params: {{table: "float[heads, 2 * n - 1]", near: "float[heads, d // heads]", far: "float[heads, d // heads]"}}
    query: x
    key: x
    value: x
    heads: heads
{fields}
outputs: look(x, edges)
"""
DOT = "dot(q, k) / sqrt(dk)"
TABLE = "table[head, i - j + n - 1]"
ADDITIVE = "leaky_relu(dot(near, q) + dot(far, k), 0.2)"
SCORES = (
    {"score": DOT},
    {"score": f"{DOT} + {TABLE}"},
    {"score": ADDITIVE},
    {"score": DOT, "normalize": "sigmoid"},
    {"score": DOT, "normalize": "count"},
    {"score": TABLE},
)
SEEN = (
    "true",
    "j <= i",
    "abs(i - j) < n // 16",
    "0 <= i - j < n // 16",
    "i // (n // 16) == j // (n // 16)",
    "i % 16 == j % 16",
    "abs(i - j) < n // 16 or j < 16",
    "edges[j, i]",
    "i == j",
)
SIZES = ((64, 8, 32), (512, 8, 64), (2048, 2, 64), (1024, 1, 256))
RELATED = 16

Sample = tuple[str, cost.Counts, float]


def specs() -> Iterator[tuple[str, str, int]]:
    """Attentions of all forms: their name, their spec, and how many positions they have."""
    for score, seen, (n, heads, width) in itertools.product(SCORES, SEEN, SIZES):
        fields = {**score, "locality": seen}
        lines = "\n".join(f"    {name}: {value}" for name, value in fields.items())
        name = f"{', '.join(fields.values())}; {n} x {heads} x {width}"
        yield name, SPEC.format(n=n, d=heads * width, heads=heads, fields=lines), n


def samples(kernels: Sequence[Kernel], rounds: int) -> dict[str, list[Sample]]:
    """For each kernel: an attention, what the kernel computes of it, and the nanoseconds that it takes."""
    found: dict[str, list[Sample]] = {k.name: [] for k in kernels}
    for name, spec, n in track(list(specs())):
        compiled = compile_spec(spec)
        (block,) = attentions(compiled.model.root)
        average, plan = block.average, compiled.plans[id(block)]
        able = [k for k in kernels if k.name not in dict(plan.refused)]
        inputs = (torch.randn(n, dict(compiled.model.sizes)["d"]), torch.randint(n, (2, RELATED * n)))
        modules = [towerdsl.compile(spec, kernel=k.name)().eval() for k in able]
        with torch.no_grad():
            seconds = in_turns([partial(m, *inputs) for m in modules], rounds)
        for kernel, s in zip(able, seconds, strict=True):
            found[kernel.name].append((name, cost.counts(kernel, average, plan.facts, {"edges": RELATED * n}), s * 1e9))
    return found


def fitted(rows: list[list[float]], times: list[float], least: list[float]) -> list[float]:
    """The factors, at least `least`, of the columns of `rows` whose sum is closest to `times` in log ratios."""
    a, t, floor = (torch.tensor(x, dtype=torch.float64) for x in (rows, times, least))
    # a column that explains its samples alone would have the least of these factors
    logs = ((t[:, None] / a.clamp(min=1e-9)).amin(0) / a.shape[1]).log().requires_grad_()
    search = torch.optim.Adam([logs], lr=0.05)
    for _ in range(3000):
        search.zero_grad()
        ((a @ (floor + logs.exp())).log() - t.log()).square().mean().backward()
        search.step()
    return ((floor + logs.detach().exp()) * (a.amax(0) > 0)).tolist()


def matmul_limit() -> float:
    """Nanoseconds of a multiply-add of a large matrix product: no kernel is faster."""
    x = torch.randn(2048, 2048)
    return in_turns([lambda: x @ x], 5)[0] * 1e9 / 2048**3


def rounded(x: float) -> float:
    """Two digits: more are not known."""
    return float(f"{x:.2g}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the planner's cost model to this machine.")
    parser.add_argument("kernels", metavar="KERNEL", nargs="*", help="kernels to measure (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="timed calls of each attention (default: 3)")
    parser.add_argument("--threads", type=int, help="how many threads torch uses (default: as it likes)")
    parser.add_argument("--samples", action="store_true", help="show every sample with its estimate")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    console = Console()
    console.print(machine())
    kernels = [k for k in CATALOG if not options.kernels or k.name in options.kernels]
    found = samples(kernels, options.rounds)
    element, limit = cost.ELEMENT, matmul_limit()
    if reference := found.get(Reference.name):
        counts = [[1.0, *astuple(c)] for _, c, _ in reference]
        element = rounded(fitted(counts, [t for *_, t in reference], [0.0, limit, 0.0, 0.0])[3])
    console.print(f"ELEMENT = {element}")
    for kernel in kernels:
        rows = [s for s in found[kernel.name] if s[2] > 2 * s[1].elements * element]  # the rest says little of it
        if not rows:
            continue
        left = [t - c.elements * element for _, c, t in rows]
        speed = Speed(
            *map(rounded, fitted([[1.0, c.multiply_adds, c.pairs] for _, c, _ in rows], left, [0.0, limit, 0.0]))
        )
        console.print(f"{kernel.name}: speed = {speed}")
        table = Table("measured, ms", "estimate, ms", "ratio", kernel.name, width=120)
        ratios = []
        for name, c, t in found[kernel.name]:
            estimate = cost.total(c, speed, element)
            ratios.append(estimate / t)
            table.add_row(f"{t / 1e6:.3f}", f"{estimate / 1e6:.3f}", f"{estimate / t:.2f}", name)
        if options.samples:
            console.print(table)
        low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
        console.print(f"  estimate / measured: {low:.2f}, {middle:.2f}, {high:.2f} (tenth, half, nine tenths)")


if __name__ == "__main__":
    main()
