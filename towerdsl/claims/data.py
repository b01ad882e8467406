"""What was verified of a model, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from towerdsl.claims.claimed import GRADIENTS, VALUES
from towerdsl.claims.show import text


@dataclass(frozen=True)
class Failure:
    """A claim that does not hold: which one, and what was measured where."""

    claim: str  # "values", "gradients", "hidden", "visible", "empty" or "weights"
    text: str


@dataclass(frozen=True)
class Checked:
    """One attention: what it averages, and what was measured.

    `values` and `gradients` are the largest differences of the kernel from W times values, as parts of the largest
    value; None where there is nothing to compare. `float32` is that of values in float32. `weights` says what W is
    claimed to be, `why` from what; `low`, `high`, `row_low` and `row_high` are the least and the largest weight and sum
    of a row, over pairs that are visible and rows that are not empty; None where there are none.
    """

    paths: tuple[str, ...]
    modules: int
    block: str
    at: str
    averages: str
    kernel: str
    values: float | None
    gradients: float | None
    float32: float | None
    weights: str
    why: str
    low: float | None
    high: float | None
    row_low: float | None
    row_high: float | None
    pairs: int
    hidden: int
    rows: int
    empty: int
    notes: tuple[str, ...]
    failures: tuple[Failure, ...]

    @property
    def ok(self) -> bool:
        return not self.failures


@dataclass(frozen=True)
class Verified:
    """A model: its attentions, and the lengths and sizes that they were verified with."""

    name: str
    source: str
    lengths: Mapping[str, int]
    sizes: Mapping[str, Any]
    inputs: str
    attentions: tuple[Checked, ...]
    never_called: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return all(a.ok for a in self.attentions)

    def __str__(self) -> str:
        return text(self)


def to_data(verified: Verified) -> dict[str, Any]:
    """A verified model as plain data, with the names of the fields above, `ok`, and the tolerances."""
    found = asdict(verified)
    del found["seconds"]
    for entry, attention in zip(found["attentions"], verified.attentions, strict=True):
        entry["ok"] = attention.ok
    return {**found, "ok": verified.ok, "tolerance": {"values": VALUES, "gradients": GRADIENTS}}
