"""What was measured of a model's attentions, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: A kernel that takes at most so much longer than the fastest is as fast.
EQUAL = 1.05


@dataclass(frozen=True)
class Timed:
    """One attention on one kernel. `estimate` is the time of the cost model, in parts of the least; seconds and bytes
    are None where the kernel did not run, for the reason in `failed`, or where there is nothing to learn."""

    kernel: str
    estimate: float
    forward: float | None = None
    both: float | None = None
    forward_bytes: int | None = None
    both_bytes: int | None = None
    failed: str = ""


@dataclass(frozen=True)
class Measured:
    """One distinct attention: where it stands in the model, the kernel chosen, and each that can compute it."""

    paths: tuple[str, ...]
    modules: int
    block: str
    at: str
    averages: str
    chosen: str
    kernels: tuple[Timed, ...]

    def ratios(self, what: str) -> dict[str, float]:
        """Each kernel's time (`forward` or `both`) in parts of the least."""
        found = {t.kernel: x for t in self.kernels if (x := getattr(t, what)) is not None}
        return {kernel: x / min(found.values()) for kernel, x in found.items()}

    def fastest(self, what: str) -> str | None:
        """The kernel that is fastest; the one chosen, where it is as fast as any."""
        ratios = self.ratios(what)
        if ratios.get(self.chosen, EQUAL + 1) <= EQUAL:
            return self.chosen
        return min(ratios, key=lambda kernel: ratios[kernel], default=None)


@dataclass(frozen=True)
class Benched:
    """A model: its attentions, and the lengths and sizes that they were timed with."""

    name: str
    source: str
    machine: str
    lengths: Mapping[str, int]
    sizes: Mapping[str, Any]
    repeats: int
    attentions: tuple[Measured, ...]
    never_called: tuple[str, ...]


def to_data(benched: Benched) -> dict[str, Any]:
    """A model as plain data, with the names of the fields above and, for each attention, `fastest`."""
    found = asdict(benched)
    for entry, a in zip(found["attentions"], benched.attentions, strict=True):
        entry["fastest"] = {what: a.fastest(what) for what in ("forward", "both")}
    return found
