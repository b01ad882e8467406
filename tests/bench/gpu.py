"""Attention on a GPU beside torch's own: time, and what building the block mask takes.

    python tests/bench/gpu.py [--n 16384] [--rounds 20]

Each row is one condition, in bfloat16, 16 heads of 64, forward and with backward: ours compiled from its spec for a
GPU, flex_attention with create_block_mask, and scaled_dot_product_attention (causal where that is all, a dense mask
otherwise). Masks are built on each call of ours, and once before for the others. Without a GPU only the building of
the masks is measured, on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import towerdsl
from towerdsl.runtime.flex import block_mask

HEADS, WIDTH = 16, 64
SPEC = """
tower: attention
sizes: {{d: {d}, heads: {heads}}}
inputs:
  queries: float[b, n, d]
  keys: float[b, n, d]
  values: float[b, n, d]
  doc: int[b, n]
blocks:
  look(queries, keys, values, doc):
    query: queries
    key: keys
    value: values
    heads: heads
    mask: {mask}
outputs: look(queries, keys, values, doc)
"""
Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A condition as a spec says it, and as torch's functions want it for documents [b, n]."""

    name: str
    mask: str
    visible: Callable[[Tensor], Callable[..., Tensor]]
    causal: bool = False


CASES = (
    Case("causal", "j <= i", lambda doc: lambda b, h, i, j: j <= i, causal=True),
    Case(
        "sliding window 1024",
        "0 <= i - j < 1024",
        lambda doc: lambda b, h, i, j: (j <= i) & (i - j < 1024),
    ),
    Case(
        "documents, causal",
        "doc[i] == doc[j] and j <= i",
        lambda doc: lambda b, h, i, j: (doc[b, i] == doc[b, j]) & (j <= i),
    ),
)


def documents(n: int, device: str) -> Tensor:
    """The document of each position, [1, n]; documents are about 1000 long."""
    draw = torch.Generator().manual_seed(0)
    return (torch.rand(1, n, generator=draw) < 1e-3).cumsum(-1).to(device)


def masks(case: Case, n: int, device: str) -> tuple[Call, Call]:
    """The building of the block mask: ours and create_block_mask."""
    visible, q = case.visible(documents(n, device)), torch.empty(1, 1, n, 1, device=device)
    return partial(block_mask, visible, q, q), partial(create_block_mask, visible, 1, 1, n, n, device)


def attentions(case: Case, n: int, device: str = "cuda", backward: bool = False) -> dict[str, Call]:
    """The attention by ours, by flex_attention and by scaled_dot_product_attention."""
    doc = documents(n, device)
    spec = SPEC.format(d=HEADS * WIDTH, heads=HEADS, mask=case.mask)
    model = torch.compile(towerdsl.compile(spec, device="cuda")().to(device, torch.bfloat16))
    flat = [torch.randn(1, n, HEADS * WIDTH, device=device, dtype=torch.bfloat16) for _ in range(3)]
    split = [x.unflatten(-1, (HEADS, -1)).transpose(1, 2).contiguous() for x in flat]
    visible = case.visible(doc)
    mask = create_block_mask(visible, 1, 1, n, n, device)
    at = torch.arange(n, device=device)
    dense = {"is_causal": True} if case.causal else {"attn_mask": visible(0, 0, at[:, None], at)}
    calls = {
        "towerdsl": (lambda *x: model(*x, doc), flat),
        "flex_attention": (partial(torch.compile(flex_attention), block_mask=mask), split),
        "sdpa": (partial(F.scaled_dot_product_attention, **dense), split),
    }
    return {name: trained(f, x) if backward else torch.no_grad()(partial(f, *x)) for name, (f, x) in calls.items()}


def trained(function: Callable[..., Tensor], inputs: list[Tensor]) -> Call:
    """A call of a function with the gradients of its arguments."""
    inputs = [x.detach().requires_grad_() for x in inputs]

    def call() -> object:
        y = function(*inputs)
        return torch.autograd.grad(y, inputs, torch.ones_like(y))

    return call


def in_turns(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call, one after the other in every round, after three that do not count."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 3):
        for name, call in calls.items():
            wait()
            start = time.perf_counter()
            call()
            wait()
            if number >= 3:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(found) for name, found in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Attention on a GPU beside torch's own.")
    parser.add_argument("--n", type=int, default=16384, help="positions (default: 16384)")
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds (default: 20)")
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    print(f"{torch.cuda.get_device_name() if gpu else 'no GPU: masks are built on the CPU'}, torch {torch.__version__}")
    print(f"n = {options.n}, {HEADS} heads of {WIDTH}, bfloat16; median milliseconds")
    for case in CASES:
        ours, theirs = masks(case, options.n, device)
        found = in_turns({"ours": ours, "create_block_mask": theirs}, options.rounds)
        ratio = found["ours"] / found["create_block_mask"]
        print(f"{case.name:24} block mask   ", *(f"{k} {v:.3f}" for k, v in found.items()), f"ratio {ratio:.4f}")
        for backward in (False, True) if gpu else ():
            found = in_turns(attentions(case, options.n, backward=backward), options.rounds)
            ratios = [f"ours / {k} {found['towerdsl'] / v:.2f}" for k, v in found.items() if k != "towerdsl"]
            print(
                f"{'':24} {'with backward' if backward else 'forward      '}",
                *(f"{k} {v:.3f}" for k, v in found.items()),
                *ratios,
            )


if __name__ == "__main__":
    main()
