"""How long calls take, in turns, and how much memory one allocates at most."""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

Call = Callable[[], object]


def in_turns(calls: Sequence[Call], rounds: int, warm: int = 2, seconds: float = 0.0) -> list[float]:
    """The median seconds of each call, after `warm` rounds that do not count.

    Each round makes every call once, and each round another one is first, so that what the machine does meanwhile falls
    on all alike. Rounds go on until there were `rounds` of them and `seconds` have passed.
    """
    taken: list[list[float]] = [[] for _ in calls]
    begin = time.perf_counter()
    number = 0
    while number < rounds + warm or time.perf_counter() - begin < seconds:
        for turn in range(len(calls)):
            place = (turn + number) % len(calls)
            start = time.perf_counter()
            calls[place]()
            if number >= warm:
                taken[place].append(time.perf_counter() - start)
        number += 1
    return [statistics.median(x) for x in taken]


def peak_memory(call: Call) -> int:
    """The bytes that torch allocates at most at once while a call runs, its result included; what was there before,
    such as its arguments, is not counted. Temporary tensors inside torch's own functions are."""
    from torch.profiler import ProfilerActivity, profile

    with _silent_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    del result
    return most


#: What torch's operations are called that are products of matrices, or attention, whose time is that of its products.
PRODUCTS = re.compile(
    r"aten::(mm|bmm|addmm|baddbmm|_scaled_dot_product\w+_for_cpu\w*|mkldnn_convolution|convolution_backward|"
    r"_slow_conv2d_\w+)|mkldnn::_linear_pointwise"
)


def share_of_products(call: Call) -> float:
    """Which part of the time that torch's operations take in a call is that of products of matrices, from 0 to 1."""
    from torch.profiler import ProfilerActivity, profile

    call()
    with _silent_stderr(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    times = {e.key: e.self_cpu_time_total for e in profiler.key_averages()}
    return sum(t for name, t in times.items() if PRODUCTS.fullmatch(name)) / max(sum(times.values()), 1e-9)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """torch's profiler writes a line there as it starts and stops."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def machine() -> str:
    """The processor, its cores, the threads that torch uses, and torch's version."""
    from pathlib import Path
    from platform import machine, processor

    name = processor() or machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        name = next((line.split(": ")[1] for line in lines if "model name" in line), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
