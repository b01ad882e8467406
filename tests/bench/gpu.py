"""Attention on a GPU, in bfloat16, beside torch's own functions and torch_geometric: values, time, block masks.

    python tests/bench/gpu.py [--n 8192] [--rounds 10] [--seconds 240] [--works TEXT] [--write FILE]
    python tests/bench/gpu.py --device cpu --n 256 --rounds 1

Each work is computed by ours as it is and under `torch.compile`, and by its peers, forward and with backward, in turns;
medians are compared, so below 1 is faster. flex_attention is compiled on a GPU; scaled_dot_product_attention gets
`is_causal`, a dense mask that is ready, or the windows as its batch.
Before that the values and gradients of ours are compared with those of the reference kernel in float32. Works that
would begin after so many seconds are left out, and said to be. With --write the table goes into a document, between
`<!-- gpu -->` and `<!-- end -->`. On a CPU the same code runs, and its times say nothing.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from document import put
from rows import Call
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import towerdsl
from towerdsl.bench.timing import in_turns
from towerdsl.explain.show import table
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
    {fields}
outputs: look(queries, keys, values, doc)
"""
WINDOWS = """
tower: windows
sizes: {heads: 4, d: 128, win: 7}
inputs: {queries: "float[b, h, w, d]", keys: "float[b, h, w, d]", values: "float[b, h, w, d]"}
blocks:
  look(queries[b, h, w, d], keys[b, h, w, d], values[b, h, w, d]):
    over: [h, w]
    params: {table: "float[heads, 2 * win - 1, 2 * win - 1] = truncated_normal(0.02)"}
    query: queries
    key: keys
    value: values
    heads: heads
    score: dot(q, k) / sqrt(dk) + table[head, i.h - j.h + win - 1, i.w - j.w + win - 1]
    locality: i.h // win == j.h // win and i.w // win == j.w // win
outputs: look(queries, keys, values)
"""
#: How far values and gradients may be from those in float32, in parts of the largest.
FAR = 0.03


Peer = tuple[Callable[..., Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Work:
    """A model of ours and the reference, with their inputs; and peers, each with its own."""

    ours: nn.Module
    reference: nn.Module
    inputs: Sequence[Tensor]
    peers: dict[str, Peer]
    masks: tuple[Call, Call] | None = None  # the building of the block mask: ours and create_block_mask


@dataclass(frozen=True)
class Condition:
    """What is visible, as a spec says it and as torch's functions want it for documents [b, n]."""

    mask: str
    visible: Callable[[Tensor], Callable[..., Tensor]]
    causal: bool = False


CAUSAL = Condition("j <= i", lambda doc: lambda b, h, i, j: j <= i, causal=True)
WINDOW = Condition("0 <= i - j < 1024", lambda doc: lambda b, h, i, j: (j <= i) & (i - j < 1024))
DOCUMENTS = Condition(
    "doc[i] == doc[j] and j <= i",
    lambda doc: lambda b, h, i, j: (doc[b, i] == doc[b, j]) & (j <= i),
)
GLOBALS = Condition(
    "abs(i - j) < 512 or i < 64 or j < 64",
    lambda doc: lambda b, h, i, j: (i - j < 512) & (j - i < 512) | (i < 64) | (j < 64),
)


def documents(n: int, device: str) -> Tensor:
    """The document of each position, [1, n]; documents are about 1000 long."""
    draw = torch.Generator().manual_seed(0)
    return (torch.rand(1, n, generator=draw) < 1e-3).cumsum(-1).to(device)


def halves(*shape: int, device: str) -> Tensor:
    """Random numbers in bfloat16 that have a gradient."""
    return torch.randn(*shape, device=device, dtype=torch.bfloat16).requires_grad_()


def split(x: Tensor) -> Tensor:
    """[b, n, h * d] --> [b, h, n, d], in that order in memory."""
    return x.detach().unflatten(-1, (HEADS, -1)).transpose(1, 2).contiguous().requires_grad_()


def models(spec: str, device: str) -> tuple[nn.Module, nn.Module]:
    """Ours in bfloat16, and the reference in float32 with the same weights."""
    ours = towerdsl.compile(spec, device=device)().to(device, torch.bfloat16)
    reference = towerdsl.compile(spec, kernel="reference")().to(device)
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def flex(device: str) -> Callable[..., Tensor]:
    """flex_attention as it is to be used: compiled, on a GPU."""
    return flex_attention if device == "cpu" else torch.compile(flex_attention)


def masked(condition: Condition, n: int, device: str) -> Work:
    """Softmax attention of 16 heads under a condition."""
    doc = documents(n, device)
    flat = [halves(1, n, HEADS * WIDTH, device=device) for _ in range(3)]
    visible, at, one = condition.visible(doc), torch.arange(n, device=device), torch.empty(1, 1, n, 1, device=device)
    build = partial(create_block_mask, visible, 1, 1, n, n, device)
    dense = {"is_causal": True} if condition.causal else {"attn_mask": visible(0, 0, at[:, None], at)}
    heads = [split(x) for x in flat]
    peers = {
        "flex_attention": (partial(flex(device), block_mask=build()), heads),
        "SDPA": (partial(F.scaled_dot_product_attention, **dense), heads),
    }
    spec = SPEC.format(d=HEADS * WIDTH, heads=HEADS, fields=f"mask: {condition.mask}")
    return Work(*models(spec, device), [*flat, doc], peers, (partial(block_mask, visible, one, one), build))


def linear(n: int, device: str) -> Work:
    """Causal linear attention; SDPA computes softmax attention, which is other work for the same purpose."""
    flat = [halves(1, n, HEADS * WIDTH, device=device) for _ in range(3)]
    fields = "score: dot(elu(q) + 1, elu(k) + 1)\n    normalize: sum\n    mask: j <= i"
    spec = SPEC.format(d=HEADS * WIDTH, heads=HEADS, fields=fields)
    peers = {"SDPA": (partial(F.scaled_dot_product_attention, is_causal=True), [split(x) for x in flat])}
    return Work(*models(spec, device), [*flat, documents(n, device)], peers)


def windows(n: int, device: str) -> Work:
    """Windows of 7 x 7 in maps of 56 x 56 with learned biases, as many maps as have 8 n positions; in SDPA they are the
    batch."""
    side = 56 if n >= 56 * 56 else 14
    maps = [halves(max(1, 8 * n // side**2), side, side, 128, device=device) for _ in range(3)]
    ours, reference = models(WINDOWS, device)
    place = torch.arange(49, device=device)
    apart = [p[:, None] - p + 6 for p in (place // 7, place % 7)]

    def peer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (
            x.view(x.shape[0], side // 7, 7, side // 7, 7, 4, 32).permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4, 49, 32)
            for x in (q, k, v)
        )
        y = F.scaled_dot_product_attention(q, k, v, ours.look.table[:, apart[0], apart[1]])
        y = y.view(-1, side // 7, side // 7, 4, 7, 7, 32).permute(0, 1, 4, 2, 5, 3, 6)
        return y.reshape(-1, side, side, 128)

    return Work(ours, reference, maps, {"SDPA": (peer, maps)})


def graph(n: int, device: str) -> Work:
    """A layer of GAT with 8 heads of 32, 16 edges for each of n nodes."""
    from torch_geometric.nn import GATConv

    x = halves(n, 256, device=device)
    draw = torch.Generator().manual_seed(0)
    pairs = torch.randint(n * n, (16 * n,), generator=draw).unique()
    pairs = pairs[pairs // n != pairs % n]
    edges = torch.stack([pairs // n, pairs % n]).to(device)
    sizes = {"features": 256, "heads": 8, "hidden": 32, "dropout": 0.0}
    ours = towerdsl.compile("gat", device=device, **sizes)().first
    reference = towerdsl.compile("gat", kernel="reference", **sizes)().first
    peer = GATConv(256, 32, 8)
    given = {"linear.weight": peer.lin.weight, "source": peer.att_src[0], "target": peer.att_dst[0], "bias": peer.bias}
    ours.load_state_dict(given)
    ours, peer = (m.to(device, torch.bfloat16) for m in (ours, peer))
    reference.to(device).load_state_dict(ours.state_dict())
    return Work(ours, reference, [x, edges], {"torch_geometric": (peer, [x, edges])})


WORKS: dict[str, Callable[[int, str], Work]] = {
    "causal": partial(masked, CAUSAL),
    "window of 1024, causal": partial(masked, WINDOW),
    "documents, causal": partial(masked, DOCUMENTS),
    "window of 512 or 64 global tokens": partial(masked, GLOBALS),
    "Swin windows, 7 x 7": windows,
    "GAT, 16 edges a node": graph,
    "linear attention, causal": linear,
}


def trained(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The result of a function and the gradients of its inputs."""
    y = function(*inputs)
    weights = torch.linspace(-1, 1, y.numel(), device=y.device).view(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [x for x in inputs if x.requires_grad], weights)]


@torch.no_grad()
def only(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """The result of a function."""
    return function(*(x.detach() for x in inputs))


def distance(ours: Callable[..., Tensor], work: Work) -> float:
    """How far values and gradients are from the reference's, the largest, in parts of the largest of each."""
    wide = [x.detach().float().requires_grad_() if x.is_floating_point() else x for x in work.inputs]
    pairs = zip(trained(ours, work.inputs), trained(work.reference, wide), strict=True)
    return max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in pairs)


def synchronized(call: Call, device: str) -> Call:
    """A call that is over when the GPU is done."""

    def run() -> None:
        call()
        if device != "cpu":
            torch.cuda.synchronize()

    return run


def timed(run: Callable[..., object], calls: Sequence[Peer], rounds: int, device: str) -> list[float | None]:
    """The median seconds of each call; None of what torch has not: flex_attention has no gradients on a CPU."""
    each = [synchronized(partial(run, function, inputs), device) for function, inputs in calls]
    able = []
    for call in each:
        try:
            call()
            able.append(True)
        except NotImplementedError:
            able.append(False)
    found = iter(in_turns([call for call, can in zip(each, able, strict=True) if can], rounds))
    return [next(found) if can else None for can in able]


def beside(ours: float | None, peer: float | None) -> str:
    """The ratio of two times, and ours."""
    return "" if ours is None or peer is None else f"{ours / peer:.2f} ({1e3 * ours:.3g} ms)"


def lines(name: str, work: Work, rounds: int, device: str) -> list[list[str]]:
    """The rows of one work: ours as it is and compiled, each beside every peer, and the building of its block mask."""
    found = []
    for form in ("eager", "compiled"):
        ours = torch.compile(work.ours) if form == "compiled" else work.ours
        try:
            far = distance(ours, work)
            calls = [(ours, work.inputs), *work.peers.values()]
            times = [timed(run, calls, rounds, device) for run in (only, trained)]
        except RuntimeError as error:  # most likely of memory: the other works are still worth something
            found.append([name, form, "", "", "", "", f"failed: {str(error).strip().splitlines()[0]}"])
            continue
        for k, peer in enumerate(work.peers, 1):
            cells = [beside(t[0], t[k]) for t in times]
            found.append([name, form, peer, *cells, f"{far:.1g}", "" if far <= FAR else "differs"])
    if work.masks is not None:
        ours_, theirs = in_turns([synchronized(m, device) for m in work.masks], rounds)
        found.append([name, "block mask", "create_block_mask", beside(ours_, theirs), "", "", ""])
    return found


HEAD = ["work", "form", "peer", "forward", "forward + backward", "off the reference", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description="Attention on a GPU beside torch's own and torch_geometric.")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: that everything works")
    parser.add_argument("--n", type=int, default=8192, help="positions, or nodes (default: 8192)")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds (default: 10)")
    parser.add_argument("--seconds", type=float, default=240, help="no work begins later (default: 240)")
    parser.add_argument("--works", metavar="TEXT", default="", help="only works in which this is found")
    parser.add_argument("--write", metavar="FILE", type=Path, help="the document that the table is put into")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU; --device cpu shows that everything works")
    if options.write and (options.device == "cpu" or options.works):
        parser.error("a document gets the whole table, of a GPU")
    begin = time.perf_counter()
    torch.manual_seed(0)
    rows = [HEAD]
    for name, make in WORKS.items():
        if not re.search(options.works, name):
            continue
        if time.perf_counter() - begin > options.seconds:
            rows.append([name, *[""] * 5, "left out: no time"])
        else:
            rows += lines(name, make(options.n, options.device), options.rounds, options.device)
            torch._dynamo.reset()
            gc.collect()
        print(" | ".join(rows[-1]), f"{time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    where = torch.cuda.get_device_name() if options.device == "cuda" else "a CPU, whose times say nothing"
    text = f"On {where}, torch {torch.__version__}: n = {options.n}, bfloat16.\n\n{table(rows)}"
    if options.write is None:
        print(text)
    else:
        put(options.write, "gpu", text)
    if any("differs" in row[-1] for row in rows):
        raise SystemExit("values differ from the reference's")


if __name__ == "__main__":
    main()
