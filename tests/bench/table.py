"""The table of benchmarks: ours beside each peer, in one process and in turns, and whether its target is reached.

    python tests/bench/table.py [--rows TEXT] [--seconds 4] [--threads 2] [--tiny] [--write FILE]

A ratio is our median over the peer's: below 1 is faster. What has no peer is in seconds. With --write the table and the
machine that it was measured on are put into a document, between `<!-- table -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from document import put
from rows import Call, Row

from towerdsl.bench.timing import in_turns, machine, peak_memory, share_of_products
from towerdsl.explain.show import human, table

#: The files that have rows, in the order of the table.
MODULES = ("windows", "models", "graphs", "algebra", "compiling")


@dataclass(frozen=True)
class Figure:
    """What was measured of one row in one way: ours, and in parts of the peer's; and what is to be reached."""

    ours: str
    ratio: float
    target: float
    products: float | None = None  # the part of our time that is products of matrices

    @property
    def missed(self) -> bool:
        return self.ratio > self.target

    def __str__(self) -> str:
        products = f", {self.products:.0%}" if self.missed and self.products is not None else ""
        return f"{f'**{self.ratio:.2f}**' if self.missed else f'{self.ratio:.2f}'} ({self.ours}{products})"


def timed(pair: tuple[Call, Call | None], row: Row, target: float, seconds: float) -> Figure:
    """Medians in turns, of at least three rounds and so many seconds."""
    calls = [call for call in pair if call is not None]
    ours, *peer = in_turns(calls, rounds=3 if seconds else 1, warm=1 if seconds else 0, seconds=seconds)
    text = f"{ours * 1e3:.3g} ms" if ours < 1 else f"{ours:.3g} s"
    return Figure(text, ours / row.times / peer[0] if peer else ours, target, share_of_products(pair[0]))


def held(pair: tuple[Call, Call | None], row: Row, target: float) -> Figure:
    """The peak of memory of a call of each, that is not its first."""
    found = []
    for call in pair:
        assert call is not None
        call()
        found.append(peak_memory(call))
    ours, peer = found
    return Figure(human(ours, "B"), ours / row.times / peer, target)


def measured(row: Row, tiny: bool, seconds: float) -> list[Figure | None]:
    """The figures of one row: forward, forward and backward, memory; None where it has no target."""
    torch.manual_seed(0)
    pair = row.build(tiny)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(row.busy)]
    try:
        return [
            None if row.forward is None else timed(pair.forward(), row, row.forward, seconds),
            None if row.backward is None else timed(pair.backward(), row, row.backward, seconds),
            None if row.memory is None else held(pair.forward(), row, row.memory),
        ]
    finally:
        for process in others:
            process.kill()
            process.wait()


def limit(n: int) -> str:
    """How fast the product of two matrices of n x n is in float32."""
    x = torch.randn(n, n)
    reached = 2e-9 * n**3 / in_turns([lambda: x @ x], 10)[0]
    return f"The product of two {n} x {n} matrices in float32 reaches {reached:.3g} GFLOP/s."


def chosen(pattern: str) -> list[Row]:
    """The rows in whose texts, or in whose file's name, a pattern is found."""
    found = []
    for name in MODULES:
        rows: tuple[Row, ...] = importlib.import_module(name).ROWS
        found += [row for row in rows if re.search(pattern, f"{name} {row.work} {row.peer}")]
    return found


def line(row: Row, figures: list[Figure | None]) -> list[str]:
    """A row of the table."""
    missed = any(f.missed for f in figures if f is not None)
    texts = [x for f in figures for x in (("", "") if f is None else (str(f), f"{f.target:g}"))]
    return [row.work, row.peer, *texts, "missed" if missed else ""]


HEAD = ["work", "peer", "forward", "target", "forward + backward", "target", "memory", "target", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the table of benchmarks.")
    parser.add_argument(
        "--rows", metavar="TEXT", default="", help="only rows in which this regular expression is found"
    )
    parser.add_argument("--seconds", type=float, default=4, help="to spend on each figure at least (default: 4)")
    parser.add_argument("--threads", type=int, help="how many threads torch uses (default: as it likes)")
    parser.add_argument("--tiny", action="store_true", help="at tiny sizes, once: that everything works")
    parser.add_argument("--write", metavar="FILE", type=Path, help="the document that the table is put into")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.write and (options.tiny or options.rows):
        parser.error("a document gets the whole table")
    lines = [HEAD]
    for row in chosen(options.rows):
        try:
            lines.append(line(row, measured(row, options.tiny, 0.0 if options.tiny else options.seconds)))
        except RuntimeError as error:  # most likely of memory: the other rows are still worth something
            if options.tiny:
                raise
            lines.append([row.work, row.peer, *[""] * 6, f"failed: {str(error).strip().splitlines()[0]}"])
        gc.collect()
        print(" | ".join(x for x in lines[-1] if x), file=sys.stderr, flush=True)
    text = f"{machine()}. {limit(64 if options.tiny else 2048)}\n\n{table(lines)}"
    if options.write is None:
        print(text)
        return
    put(options.write, "table", text)


if __name__ == "__main__":
    main()
