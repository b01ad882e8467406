"""What a load did, or would have done: each tensor by name. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from towerdsl.diagnostics import Diagnostic, TowerError, closest, visible

SHOWN = 20


@dataclass(frozen=True)
class Report:
    """The outcome of bringing a checkpoint's tensors to a model's parameters.

    Names of the checkpoint are as it spells them, with its prefix; shapes are tuples.
    """

    format: str | None = None  # the map that was used; None for the model's own names
    parameters: int = 0  # how many the model has
    loaded: tuple[tuple[str, str], ...] = ()  # (public name, parameter), each pair that has a part in common
    missing: tuple[str, ...] = ()  # public names that a parameter needs and the checkpoint lacks
    uncovered: tuple[str, ...] = ()  # parameters that the map has no public name for
    unfilled: tuple[str, ...] = ()  # all parameters that got no value
    unexpected: tuple[str, ...] = ()  # public names that no parameter needs
    surplus: tuple[str, ...] = ()  # those of layers that the model lacks: it needs the same name with another number
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()  # (public name, expected, got)
    mistyped: tuple[tuple[str, str, str], ...] = ()  # (public name, expected, got): an integer for a float
    conflicts: tuple[tuple[str, ...], ...] = ()  # public names of one tied parameter whose values differ
    untied: tuple[tuple[str, str], ...] = ()  # (public name, parameter): a table of its own for one of the model's uses
    overflowed: tuple[tuple[str, str], ...] = ()  # (public name, dtype): finite values that the model's dtype has not
    ignored: tuple[str, ...] = ()  # public names that the map says to ignore

    @property
    def ok(self) -> bool:
        """Whether every parameter gets its value and every layer is used. Unexpected names do not count against it."""
        return not (self.missing or self.uncovered or self.surplus or self.untied or self.wrong)

    @property
    def wrong(self) -> bool:
        """Whether a value cannot be loaded as it is, which is never passed over."""
        return bool(self.mismatched or self.mistyped or self.conflicts or self.overflowed)

    @property
    def headline(self) -> str:
        """How many parameters were found, from how many tensors, in one line."""
        ours, public = len({o for _, o in self.loaded}), len({p for p, _ in self.loaded})
        names = f"named as in format `{printable(self.format)}`" if self.format else "by the model's own names"
        return f"{ours} of {self.parameters} parameters from {_count(public, 'tensor')}, {names}"

    @property
    def details(self) -> list[str]:
        """The lines after the headline: each kind with its count and names."""
        lines: list[str] = []
        _section(lines, "not in the checkpoint", self.missing)
        _section(lines, "parameters that the format has no names for", self.uncovered)
        _section(
            lines, "of another shape", [f"{n}: expected {_shape(e)}, got {_shape(g)}" for n, e, g in self.mismatched]
        )
        _section(lines, "of another kind", [f"{n}: expected {e}, got {g}" for n, e, g in self.mistyped])
        _section(lines, "tied, with different values", [" and ".join(names) for names in self.conflicts])
        _section(
            lines,
            "with values of its own, where the model reads one table in several places",
            [f"{n}: {o}" for n, o in self.untied],
        )
        _section(lines, "too large for the model's dtype", [f"{n}: {dtype}" for n, dtype in self.overflowed])
        _section(lines, "of layers that the model does not have", self.surplus)
        _section(lines, "not needed", self.unexpected)
        _section(lines, "ignored", self.ignored)
        return lines

    @property
    def help(self) -> str | None:
        """One next step, or None if all is well."""
        if self.ok:
            return None
        if not self.loaded and not self.mismatched and not self.mistyped:
            return "no name agrees: is this the right checkpoint and format?"
        if self.mismatched:
            return "give the model the sizes of the checkpoint"
        if self.mistyped:
            return "quantized tensors have to be turned into floats first"
        if self.conflicts:
            return "the model has one parameter for these names: keep one of them in the checkpoint"
        if self.overflowed:
            return "give the model a wider dtype first, such as model.double()"
        if self.untied and not (self.missing or self.uncovered or self.surplus):
            return "give the model two tables, or load with strict=False to leave this one out"
        if self.surplus and not (self.missing or self.uncovered):
            return "give the model the checkpoint's depth, or load with strict=False to leave these layers out"
        for name in self.missing[:SHOWN]:
            like = closest(name, self.unexpected)
            if like is not None:
                return f"is `{printable(name)}` what the checkpoint calls `{printable(like)}`? then change the map"
        if not self.missing:
            return "add rules for these parameters to the map, or load with strict=False to keep their values"
        return "compare the model's depth with the checkpoint's, or load with strict=False to keep what it lacks"

    def __str__(self) -> str:
        lines = ["loaded " * self.ok + self.headline]
        lines += self.details
        return "\n".join(lines + ([f"help: {self.help}"] if self.help else []))


class CheckpointError(TowerError):
    """A checkpoint does not fit a model, and nothing was loaded; `report` says what would have been."""

    def __init__(self, message: str, report: Report) -> None:
        self.report = report
        notes = (report.headline, *report.details)
        super().__init__([Diagnostic("checkpoint-mismatch", message, None, notes, report.help)])


def printable(name: str) -> str:
    """An untrusted name, short and without control characters."""
    return visible(name[:200], "") + "..." * (len(name) > 200)


def _section(lines: list[str], title: str, names: Sequence[str]) -> None:
    if not names:
        return
    lines.append(f"{title} ({len(names)}):")
    lines += [f"  {printable(name)}" for name in names[:SHOWN]]
    if len(names) > SHOWN:
        lines.append(f"  ... and {len(names) - SHOWN} more")


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
