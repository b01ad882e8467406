"""Every system of the library beside the others, field by field: a row for each kind of attention that it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from towerdsl.compare.fields import Field
from towerdsl.compare.model import kinds
from towerdsl.compiler import compile_spec
from towerdsl.lang import library

#: The fields that are columns, and what heads them: the letters of y[i] = 1/C sum over j in N of f(q, k) g(v).
COLUMNS = {
    "query": "query",
    "key": "key",
    "value": "value",
    "over": "over",
    "score": "f: score",
    "locality, mask": "N: visible",
    "normalize": "C: normalizer",
    "message": "g: message",
    "merge": "heads",
}


@dataclass(frozen=True)
class Row:
    """One kind of attention: its spec's group and name, its paths in the model, its fields in the order of COLUMNS."""

    group: str
    spec: str
    path: str
    fields: tuple[str, ...]


def rows(specs: Sequence[str | Path] | None = None) -> Iterator[Row]:
    """The attentions of specs, or of the whole library, at their default sizes. Raises TowerError."""
    root = library.library_folder()
    for name, path in library.library().items():
        if (specs is not None and name not in specs) or library.read(path).is_library:
            continue
        for kind in kinds(compile_spec(path)):
            texts = {f.name: _joined(f) for f in kind.fields}
            group = path.relative_to(root).parent.as_posix()
            yield Row(group, name, kind.text, tuple(texts[c] for c in COLUMNS))


def _joined(field: Field) -> str:
    """The parts of a field in one line: the terms of a score, or conditions that must all hold."""
    if field.name != "locality, mask":
        return " ".join(field.shown)
    several = len(field.shown) > 1
    return " and ".join(f"({x})" if several and " or " in x else x for x in field.shown)


def markdown(found: Sequence[Row]) -> str:
    """Rows as a table in Markdown, the name of a spec where its first attention stands."""
    lines = ["| spec | attention | " + " | ".join(COLUMNS.values()) + " |", "|" + " --- |" * (len(COLUMNS) + 2)]
    last = None
    for row in found:
        cells = [f"`{x}`".replace("|", "\\|") if x not in ("none", "everything") else x for x in row.fields]
        lines.append(f"| {row.spec if row.spec != last else ''} | `{row.path}` | {' | '.join(cells)} |")
        last = row.spec
    return "\n".join(lines)
