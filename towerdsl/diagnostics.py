"""Sources, spans and diagnostics: what a user sees when a spec is wrong.

A diagnostic names the place (file, line, column, caret), says what was expected and what was got,
where each came from (notes), and one next step (help). Passes collect them in a `Diagnostics` and go on,
so that one run shows all mistakes; `TowerError` carries them to the caller.
"""

from __future__ import annotations

import difflib
import heapq
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

#: After so many, no more mistakes are collected.
MAX_MISTAKES = 100
#: An excerpt shows so many columns of a line.
MAX_COLUMNS = 160


@dataclass(frozen=True)
class Source:
    """A text and the name it is shown under."""

    name: str
    text: str = field(repr=False)

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(m.end() for m in re.finditer("\n", self.text))]

    def position(self, offset: int) -> tuple[int, int]:
        """The line and column, both from 1, of a character offset."""
        offset = min(offset, len(self.text))
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def start_of(self, number: int) -> int:
        """The offset at which line `number` (from 1) begins."""
        return self._line_starts[number - 1]

    def line(self, number: int) -> str:
        """The text of line `number` (from 1), without its end."""
        starts = self._line_starts
        if number > len(starts):
            return ""
        end = starts[number] - 1 if number < len(starts) else len(self.text)
        return self.text[starts[number - 1] : end].rstrip("\r")


@dataclass(frozen=True)
class Span:
    """A piece of a source: characters start (included) to end (excluded).

    Where a definition is used, `within` has its name, and the piece of its formula that the use stands for.
    """

    source: Source = field(repr=False)
    start: int
    end: int
    within: Within | None = field(default=None, compare=False, repr=False)

    @property
    def line(self) -> int:
        return self.source.position(self.start)[0]

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    def __str__(self) -> str:
        line, column = self.source.position(self.start)
        return f"{self.source.name}:{line}:{column}"

    def inside(self, name: str, piece: Span) -> Span:
        """This place, standing for a piece of the definition `name` that is used there."""
        return Span(self.source, self.start, self.end, (name, piece, self.within))

    @property
    def definitions(self) -> list[tuple[str, Span]]:
        """The definitions that are used here and what each stands for, from the one that is named to the innermost."""
        found: list[tuple[str, Span]] = []
        within = self.within
        while within is not None:
            name, piece, within = within
            found.append((name, piece))
        return found[::-1]

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of the other."""
        return Span(self.source, self.start, max(self.end, other.end), self.within)


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
        lines = [f"error[{self.code}]: {visible(shortened(self.message), '')}"]
        if self.span is not None:
            line, column = self.span.source.position(self.span.start)
            lines[0] = f"{visible(self.span.source.name, '')}:{line}:{column}: {lines[0]}"
            lines += _excerpt(self.span.source.line(line), line, column, self.span.end - self.span.start)
        for name, piece in self.span.definitions if self.span is not None else ():
            text = " ".join(piece.text.split())
            lines.append(visible(shortened(f"  in `{name}`, {piece}: `{text}`")))
        lines += [f"  {visible(note)}" for note in self.notes]
        if self.help:
            lines.append(f"help: {visible(shortened(self.help))}")
        return "\n".join(lines)


def _excerpt(text: str, line: int, column: int, width: int) -> list[str]:
    """A line of a source, and carets under `width` characters of it; of a long line, the part around them."""
    first = max(0, column - MAX_COLUMNS // 2 - 1) if len(text) > MAX_COLUMNS else 0
    before, rest = text[first : column - 1], text[column - 1 : first + MAX_COLUMNS]
    gutter = f"{line:>4} | "
    # a tab stays a tab above and below, so that the caret stands where the eye expects it
    pad = re.sub(r"[^\t]", " ", _columns(before))
    carets = "^" * max(1, len(_columns(rest[:width])))
    return [gutter + visible(before + rest, "\t"), " " * (len(gutter) - 2) + "| " + pad + carets]


def _columns(text: str) -> str:
    """The text, with as many characters as it takes columns on a terminal."""
    return re.sub(r"[^ -~\t]", lambda m: "." * _columns_of(m.group()), text)


def _columns_of(character: str) -> int:
    shown = visible(character, "\t")
    if len(shown) > 1:
        return len(shown)
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


#: Letters and marks that have nothing to see.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
#: What may not be shown as it is; printable ASCII always is.
_DOUBTFUL = re.compile("[^ -~]")
#: Spaces, which are seen by the gap that they leave.
_SPACE = "Zs"


def visible(text: str, keep: str = "\n\t") -> str:
    """The text with characters that would not be shown, or change how others are, spelled out: `\\x1b`, `\\u202e`.

    These are control characters, those that turn the direction, that separate lines or that are blank. `keep` stay.
    """

    def spelled(m: re.Match[str]) -> str:
        c = m.group()
        if c in keep or not _unshown(c):
            return c
        code = ord(c)
        long = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(c, long)

    return _DOUBTFUL.sub(spelled, text)


def _unshown(c: str) -> bool:
    return not (c.isprintable() or unicodedata.category(c) == _SPACE) or _BLANK.match(c) is not None


def shortened(text: str) -> str:
    """The text with what it quotes in backquotes cut to a readable length."""
    return re.sub(r"`([^`]{120})[^`]{80,}`", r"`\1...`", text)


#: The name of a definition, a piece of its formula, and the same of the definition that uses it.
Within = tuple[str, Span, Any]


class TowerError(Exception):
    """One or more mistakes of the user. `str()` is the text to show; `diagnostics` are its parts."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n\n".join(d.render() for d in self.diagnostics))


def expect(name: str, value: object, kinds: type | tuple[type, ...], what: str) -> None:
    """Raises TowerError where an argument of the interface is of other kinds than those it may be of."""
    known = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, known) or (isinstance(value, bool) and bool not in known):
        message = f"`{name}` is {what}, not {'None' if value is None else f'of type {type(value).__name__}'}"
        raise TowerError([Diagnostic("arguments", message)])


class Diagnostics:
    """Collects mistakes, each place and message once, in the order of their place."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], Diagnostic] = {}
        self._inside: list[str] = []

    @contextmanager
    def inside(self, note: str | None) -> Iterator[None]:
        """What is found meanwhile is found there: a note says so, the innermost first."""
        self._inside += [note] if note else []
        try:
            yield
        finally:
            del self._inside[len(self._inside) - bool(note) :]

    def add(
        self,
        code: str,
        message: str,
        span: Span | None = None,
        notes: Iterable[str] = (),
        help: str | None = None,
    ) -> None:
        """Note a mistake. Raises TowerError with those found so far when they are too many to go on."""
        key = (code, message, span and (span.source.name, span.start))
        if key not in self._found and len(self._found) >= MAX_MISTAKES:
            message = f"more mistakes follow; these are the first {MAX_MISTAKES}"
            raise TowerError([*self.sorted, Diagnostic("too-many", message)])
        notes = (*notes, *reversed(self._inside))
        self._found.setdefault(key, Diagnostic(code, message, span, notes, help))

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


@lru_cache(maxsize=10_000)
def _letters(name: str) -> int:
    """The letters of a name, as a set of bits."""
    return sum({1 << ord(c) % 97 for c in name.casefold()})


def _edits(a: str, b: str) -> float:
    """How many letters must be inserted, removed, changed or swapped; another case counts little."""
    if a.casefold() == b.casefold():
        return 0.5 if a != b else 0
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            best = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        before = above
    return row[-1]


def closest(name: str, known: Iterable[str], own: Iterable[str] = ()) -> str | None:
    """The known name that looks most like `name`, or None if none is close; of two equally close, one of `own`."""
    if len(name) > 60:
        return None
    letters, mine, length = _letters(name), set(own), len(name)
    near = [
        ((letters ^ _letters(k)).bit_count() + abs(len(k) - length), k)
        for k in {*known, *mine}
        if k != name and 3 * max(len(k), length) <= 7 * min(len(k), length)
    ]
    likely = sorted((_edits(name, k), k not in mine, k) for _, k in heapq.nsmallest(12, near))
    for edits, _, k in likely:
        if edits < 1 or difflib.SequenceMatcher(None, name, k).ratio() >= 0.6:
            return k
    return None


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None, own: Iterable[str] = ()) -> str | None:
    """A help line for an unknown name."""
    near = closest(name, known, own)
    return f"did you mean `{near}`?" if near else otherwise
