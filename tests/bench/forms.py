"""Every model of the library in evaluation: its training form beside its inference form, with the same weights.

    python tests/bench/forms.py [--specs TEXT] [--seconds 2] [--threads 2] [--tiny] [--write FILE]

Sizes are those of the spec, as published, with random weights. Of free lengths a batch is 1, images are 64 x 64 or
224 x 224, and others are 128, or the longest below that with which the model runs. With --write the table goes into a
document, between `<!-- forms -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from document import put

import towerdsl
from towerdsl.bench.timing import in_turns, machine
from towerdsl.claims import draw
from towerdsl.compiler import Compiled, compile_spec
from towerdsl.explain.show import human, table
from towerdsl.explain.work import Calls
from towerdsl.kernels.cost import RELATED

LIBRARY = Path(towerdsl.__file__).parent.parent / "specs"
#: Lengths that are tried, until the model runs with them: of what is no image, and of its sides.
LENGTHS = ((128, 64), (128, 224), (64, 64), (16, 16), (4, 4))
HEAD = ["model", "parameters", "lengths", "training form", "inference form", "training / inference"]


def models(pattern: str) -> list[Path]:
    """The specs of the library that are models, in whose path a pattern is found."""
    found = [p for p in sorted(LIBRARY.rglob("*.yaml")) if re.search(pattern, p.relative_to(LIBRARY).as_posix())]
    return [p for p in found if re.search(r"^(flow|outputs):", p.read_text(encoding="utf-8"), re.MULTILINE)]


def lengths(compiled: Compiled, tiny: bool) -> Iterator[dict[str, int]]:
    """Free lengths to try."""
    batch = draw.batches(compiled.model, list(Calls().occurrences(compiled.model.root)))
    names = draw.free_names(compiled.model.inputs)
    for length, side in reversed(LENGTHS) if tiny else LENGTHS:
        yield {name: 1 if name in batch else side if name in ("h", "w") else length for name in names}


def line(path: Path, tiny: bool, seconds: float) -> list[str]:
    """The row of one model."""
    compiled = compile_spec(path)
    training = draw.build(towerdsl.compile(path), seed=0).eval()
    inference = towerdsl.compile(path, inference=True)()
    inference.load_state_dict(training.state_dict())

    @torch.inference_mode()
    def run(given: dict[str, int]) -> list[float]:
        inputs = draw.required(training, draw.inputs(compiled.model, given, seed=0, empty=False, related=RELATED))
        calls = [lambda m=m: m(**inputs) for m in (training, inference)]
        return in_turns(calls, rounds=3 if seconds else 1, warm=1 if seconds else 0, seconds=seconds)

    given, (ours, packed) = draw.running(compiled.model, lengths(compiled, tiny), run)
    many = human(sum(p.numel() for p in training.parameters()), "")
    sizes = ", ".join(f"{name} = {n}" for name, n in given.items())
    return [path.stem, many, sizes, *(f"{x * 1e3:.3g} ms" for x in (ours, packed)), f"{ours / packed:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the training form beside the inference form.")
    parser.add_argument("--specs", metavar="TEXT", default="", help="only specs in whose path this is found")
    parser.add_argument("--seconds", type=float, default=2, help="to spend on each model at least (default: 2)")
    parser.add_argument("--threads", type=int, help="how many threads torch uses (default: as it likes)")
    parser.add_argument("--tiny", action="store_true", help="at short lengths, once: that everything works")
    parser.add_argument("--write", metavar="FILE", type=Path, help="the document that the table is put into")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.write and (options.tiny or options.specs):
        parser.error("a document gets the whole table")
    lines = [HEAD]
    for path in models(options.specs):
        lines.append(line(path, options.tiny, 0.0 if options.tiny else options.seconds))
        gc.collect()
        print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
    text = f"{machine()}.\n\n{table(lines)}"
    if options.write is None:
        print(text)
    else:
        put(options.write, "forms", text)


if __name__ == "__main__":
    main()
