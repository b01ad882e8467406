"""Names of parameters, with placeholders: `encoder.layer.{l}.attention.self.{part}.{p*}`.

A name is dotted. A part is plain text, or text around one `{x}` (which stands for one part or a piece of it,
never for a dot), or `{x*}` (one or more whole parts, once in a name). So a name matches a pattern in one way only.
`{x+1}` in a public name is the number after `x`, where a checkpoint counts from 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from towerdsl.budget import spend
from towerdsl.diagnostics import Diagnostics, Span

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(\*|\+\d{1,9})?\}", re.ASCII)


class Text(Protocol):
    """A piece of a spec: its text after YAML's quoting, and where it stands."""

    @property
    def text(self) -> str: ...
    @property
    def span(self) -> Span: ...


def inside(text: Text, start: int, end: int) -> Span:
    """The span of characters start to end of `text`; all of its span where YAML folded or escaped it."""
    at = text.span.text.find(text.text)
    if at < 0 or not text.text:
        return text.span
    first = text.span.start + at
    end = max(end, start + 1)
    if start >= len(text.text):  # the end of the text: the caret stands on its last character
        start, end = len(text.text) - 1, len(text.text)
    return Span(text.span.source, first + start, first + end)


@dataclass(frozen=True)
class Part:
    """One dotted part: `before`, then the placeholder `variable` if there is one, then `after`."""

    before: str
    variable: str | None = None
    after: str = ""
    several: bool = False
    add: int = 0

    def __str__(self) -> str:
        if self.variable is None:
            return self.before
        more = "*" if self.several else f"+{self.add}" if self.add else ""
        return f"{self.before}{{{self.variable}{more}}}{self.after}"

    def fill(self, values: Mapping[str, str]) -> str:
        """The part with its placeholder replaced. What is to be counted on and is no number gives no name."""
        if self.variable is None:
            return self.before
        value = values[self.variable]
        if self.add:
            value = str(int(value) + self.add) if value.isdecimal() else f"{{{value}+{self.add}}}"
        return self.before + value + self.after


@dataclass(frozen=True)
class Name:
    """A name pattern."""

    parts: tuple[Part, ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return ".".join(str(part) for part in self.parts)

    @property
    def variables(self) -> dict[str, bool]:
        """Each placeholder, and whether it stands for several parts."""
        return {p.variable: p.several for p in self.parts if p.variable is not None}

    @property
    def vagueness(self) -> tuple[int, int]:
        """How little the pattern says: (placeholders for several parts, placeholders). A plain name has (0, 0)."""
        return sum(p.several for p in self.parts), sum(p.variable is not None for p in self.parts)

    @property
    def literal_start(self) -> str:
        """The text that all matching names begin with."""
        return str(self).split("{", 1)[0]

    def match(self, name: str) -> dict[str, str] | None:
        """What each placeholder stands for in `name`, or None if it does not match."""
        spend(2 + len(name) // 50)
        found = _regex(self.parts).fullmatch(name)
        return None if found is None else found.groupdict()

    def fill(self, values: Mapping[str, str]) -> str:
        """The name with each placeholder replaced; every one must be in `values`."""
        name = ".".join(part.fill(values) for part in self.parts)
        spend(2 + len(name) // 50)
        return name


@lru_cache(maxsize=4096)
def _regex(parts: tuple[Part, ...]) -> re.Pattern[str]:
    seen: set[str] = set()
    pieces = []
    for part in parts:
        piece = re.escape(part.before)
        if part.variable is not None:
            if part.variable in seen:
                piece += f"(?P={part.variable})"
            else:
                piece += f"(?P<{part.variable}>[^.]+{'(?:[.][^.]+)*' if part.several else ''})"
            piece += re.escape(part.after)
            seen.add(part.variable)
        pieces.append(piece)
    return re.compile("[.]".join(pieces))


def parse_name(text: Text, start: int, end: int, found: Diagnostics) -> Name | None:
    """The pattern written in characters start to end of `text`; None after adding to `found` what is wrong with it."""
    parts: list[Part] = []
    before, offset = len(found), start
    for piece in text.text[start:end].split("."):
        part = _parse_part(text, piece, offset, found)
        if part is not None:
            parts.append(part)
        offset += len(piece) + 1
    whole = inside(text, start, end)
    kinds: dict[str, bool] = {}
    for part in parts:
        if part.variable is not None and kinds.setdefault(part.variable, part.several) != part.several:
            x = part.variable
            found.add("checkpoint-pattern", f"`{{{x}}}` and `{{{x}*}}` are two kinds of placeholder", whole)
    if sum(part.several for part in parts) > 1:
        found.add(
            "checkpoint-pattern",
            "a name may have one placeholder for several parts, this one has more",
            whole,
            help="without a second `*` it is clear what each of them stands for",
        )
    return Name(tuple(parts), whole) if len(found) == before else None


def _parse_part(text: Text, piece: str, offset: int, found: Diagnostics) -> Part | None:
    span = inside(text, offset, offset + len(piece))
    held = list(_PLACEHOLDER.finditer(piece))
    rest = _PLACEHOLDER.sub("", piece)
    if not piece:
        found.add("checkpoint-pattern", "a name has a dot with nothing beside it", span)
    elif "{" in rest or "}" in rest:
        blanked = _PLACEHOLDER.sub(lambda match: "-" * len(match[0]), piece)
        at = offset + next(i for i, c in enumerate(blanked) if c in "{}")
        found.add(
            "checkpoint-pattern",
            f"`{piece}` has a brace without its partner, or without a plain name inside",
            inside(text, at, at + 1),
            help="a placeholder is `{l}` for one part of a name, `{p*}` for several",
        )
    elif len(held) > 1:
        found.add(
            "checkpoint-pattern",
            f"`{piece}` has {len(held)} placeholders in one part",
            span,
            help="with a dot between them it is clear what each of them stands for",
        )
    elif not held:
        return Part(piece)
    elif held[0][2] == "*" and rest:
        x = held[0][1]
        found.add(
            "checkpoint-pattern",
            f"`{{{x}*}}` stands for whole parts, but `{rest}` is in the same part",
            span,
            help=f"use `{{{x}}}` for a piece of a part",
        )
    else:
        more = held[0][2] or ""
        return Part(
            piece[: held[0].start()], held[0][1], piece[held[0].end() :], more == "*", int(more.removeprefix("*") or 0)
        )
    return None
