"""Sources, spans and diagnostics: what a user sees when a spec is wrong.

A diagnostic names the place (file, line, column, caret), says what was expected and what was got,
where each came from (notes), and one next step (help). Passes collect them in a `Diagnostics` and go on,
so that one run shows all mistakes; `TowerError` carries them to the caller.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Source:
    """A text and the name it is shown under."""

    name: str
    text: str = field(repr=False)

    def position(self, offset: int) -> tuple[int, int]:
        """The line and column, both from 1, of a character offset."""
        offset = min(offset, len(self.text))
        line_start = self.text.rfind("\n", 0, offset) + 1
        return self.text.count("\n", 0, offset) + 1, offset - line_start + 1

    def line(self, number: int) -> str:
        """The text of line `number` (from 1), without its end."""
        lines = self.text.split("\n")
        return lines[number - 1].rstrip("\r") if number <= len(lines) else ""


@dataclass(frozen=True)
class Span:
    """A piece of a source: characters start (included) to end (excluded)."""

    source: Source = field(repr=False)
    start: int
    end: int

    @property
    def line(self) -> int:
        return self.source.position(self.start)[0]

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    def __str__(self) -> str:
        line, column = self.source.position(self.start)
        return f"{self.source.name}:{line}:{column}"

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of the other."""
        return Span(self.source, self.start, max(self.end, other.end))


@dataclass(frozen=True)
class Diagnostic:
    """One mistake: `code` is stable and short (`axis-mismatch`), `message` says what is wrong in one line."""

    code: str
    message: str
    span: Span | None = None
    notes: tuple[str, ...] = ()
    help: str | None = None

    def render(self) -> str:
        """The text shown to the user, see the language's reference for the form."""
        head = f"error[{self.code}]: {self.message}"
        lines = [head]
        if self.span is not None:
            line, column = self.span.source.position(self.span.start)
            lines[0] = f"{self.span.source.name}:{line}:{column}: {head}"
            text = self.span.source.line(line)
            width = max(1, min(self.span.end - self.span.start, len(text) - column + 1))
            first = max(0, column - 81) if len(text) > 160 else 0
            shown, room = text[first : first + 160], max(1, min(width, first + 160 - column + 1))
            gutter = f"{line:>4} | "
            # a tab stays a tab under the caret line, so that the caret stands where the eye expects it
            pad = "".join("\t" if c == "\t" else " " for c in shown[: column - 1 - first])
            lines += [gutter + shown, " " * (len(gutter) - 2) + "| " + pad + "^" * room]
        lines += [f"  {note}" for note in self.notes]
        if self.help:
            lines.append(f"help: {self.help}")
        return "\n".join(lines)


class TowerError(Exception):
    """One or more mistakes of the user. `str()` is the text to show; `diagnostics` are its parts."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n\n".join(d.render() for d in self.diagnostics))


class Diagnostics:
    """Collects mistakes, each place and message once, in the order of their place."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], Diagnostic] = {}

    def add(
        self,
        code: str,
        message: str,
        span: Span | None = None,
        notes: Iterable[str] = (),
        help: str | None = None,
    ) -> None:
        key = (code, message, span and (span.source.name, span.start))
        self._found.setdefault(key, Diagnostic(code, message, span, tuple(notes), help))

    def __len__(self) -> int:
        return len(self._found)

    @property
    def sorted(self) -> list[Diagnostic]:
        """The mistakes, file by file in the order met, each file from top to bottom."""
        files: dict[str, int] = {}
        for d in self._found.values():
            files.setdefault(d.span.source.name if d.span else "", len(files))
        return sorted(
            self._found.values(),
            key=lambda d: (files[d.span.source.name], d.span.start) if d.span else (-1, 0),
        )

    def raise_if_any(self) -> None:
        """Raise a `TowerError` with everything found so far, if anything was."""
        if self._found:
            raise TowerError(self.sorted)


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `name`, or None if none is close."""
    found = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None) -> str | None:
    """A help line for an unknown name."""
    near = closest(name, known)
    return f"did you mean `{near}`?" if near else otherwise
