"""What is in a checkpoint: names, shapes, types and metadata of its tensors, and which spec of the library it fits."""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from towerdsl import configs
from towerdsl.budget import bounded, uncounted
from towerdsl.configs.find import rules_of
from towerdsl.configs.rules import ARCHITECTURE, FAMILY, families
from towerdsl.diagnostics import Diagnostics, TowerError
from towerdsl.lang import library
from towerdsl.passes.resolve import resolve
from towerdsl.passes.static import show
from towerdsl.weights import parse_map
from towerdsl.weights.expressions import names_in
from towerdsl.weights.gguf import SUFFIX, Counted, read_header
from towerdsl.weights.report import printable

SHOWN = 100
WIDTH = 98


@dataclass(frozen=True)
class Contents:
    """`tensors` have a type and a shape by name; `fits` says which spec it is for, and why."""

    name: str
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    metadata: Mapping[str, Any]
    fits: str

    def to_data(self) -> dict[str, Any]:
        tensors = {name: {"type": kind, "shape": list(shape)} for name, (kind, shape) in self.tensors.items()}
        return {"name": self.name, "fits": self.fits, "metadata": dict(self.metadata), "tensors": tensors}

    def __str__(self) -> str:
        kinds = Counter(kind for kind, _ in self.tensors.values())
        numbers = sum(math.prod(shape) for _, shape in self.tensors.values())
        counted = ", ".join(f"{count} in {kind}" for kind, count in kinds.most_common())
        lines = [f"{self.name}: {len(self.tensors):,} tensors with {numbers:,} numbers ({counted})", self.fits]
        if self.metadata:
            lines += ["", "metadata"]
            lines += [f"  {printable(key)}: {_short(value)}" for key, value in self.metadata.items()]
        lines += ["", "tensors"]
        rows = list(_rows(self.tensors))
        width = max((len(name) for name, _, _ in rows[:SHOWN]), default=0)
        lines += [f"  {name:<{width}}  {kind}  {shape}" for name, kind, shape in rows[:SHOWN]]
        lines += [f"  and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
        return "\n".join(lines)


def contents(source: Path) -> Contents:
    """What is in a checkpoint: a file, or a folder with one. Raises TowerError."""
    file = configs.public_file(source)
    metadata: dict[str, Any] = {}
    if file is not None and file.suffix == SUFFIX:
        header = read_header(file)
        metadata = {k: f"{v.length} items" if isinstance(v, Counted) else v for k, v in header.metadata.items()}
        tensors = {name: (tensor.packed, tensor.shape) for name, tensor in header.tensors.items()}
    else:
        from towerdsl.weights.files import read

        found = read(source)
        tensors = {name: (str(x.dtype).removeprefix("torch."), tuple(x.shape)) for name, x in found.items()}
    with bounded():
        return Contents(str(source), tensors, metadata, _by_names(tensors) if file is None else _by_configuration(file))


def _by_configuration(file: Path) -> str:
    """Which spec a configuration is of."""
    try:
        resolved, _ = configs.found(file)
    except TowerError as error:
        return f"{file.name}: {error.diagnostics[0].message}"
    name = resolved.spec.tower.text if resolved.spec.tower else resolved.spec.source.name
    return f"{file.name} is of `{name}` of the library, family `{printable(str(resolved.family))}`"


def _by_names(tensors: Mapping[str, object]) -> str:
    """Which spec has most of these names in one of its maps."""
    layers = {re.sub(r"(?<![^.])\d+(?![^.])", "0", name): name for name in tensors}
    best = (0, "", "")
    for name, path in library.library().items():
        with uncounted():  # the library is no work that the checkpoint asks for
            errors = Diagnostics()
            resolved = resolve(library.read(path, errors), errors)
            if resolved is None or resolved.spec.is_library:
                continue
            sizes = dict.fromkeys(resolved.sizes, 1)
            maps = [(x.name.text, parse_map(x, Diagnostics(), sizes)) for x in resolved.checkpoints]
        for format, map in maps:
            patterns = [pattern for rule in map.rules for pattern in names_in(rule.public)]
            hits = 0
            for given in layers:
                spelled = {map.renamed(given.removeprefix(prefix)) for prefix in ("", *map.prefix)}
                hits += any(pattern.match(x) is not None for pattern in patterns for x in spelled)
            if hits > best[0]:
                best = (hits, name, format)
    hits, name, format = best
    if 2 * hits <= len(layers):
        return "no spec of the library has most of these names"
    return f"{hits} of {len(layers)} kinds of names are those of `{name}` of the library, format `{format}`"


def _rows(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Iterator[tuple[str, str, str]]:
    """A row for each tensor; those of layers that are alike share one."""
    alike: dict[tuple[str, str, tuple[int, ...]], int] = {}
    for name, (kind, shape) in tensors.items():
        key = (re.sub(r"(?<![^.])\d+(?![^.])", "*", name), kind, shape)
        alike[key] = alike.get(key, 0) + 1
    for (name, kind, shape), count in alike.items():
        yield printable(name), kind, f"[{', '.join(map(str, shape))}]" + (f"  {count} times" if count > 1 else "")


def _short(value: object) -> str:
    text = printable(" ".join(str(value).split()))
    return text if len(text) <= 80 else f"{text[:77]}..."


def spec_text(name: str) -> str:
    """What a spec of the library is: its sizes, checkpoint formats and public configurations. Raises TowerError."""
    errors = Diagnostics()
    resolved = resolve(library.read(Path(name), errors), errors)
    errors.raise_if_any()
    assert resolved is not None  # otherwise something was reported
    spec = resolved.spec
    lines = [spec.tower.text if spec.tower else spec.source.name]
    lines += [x for text in (spec.paper, spec.about) if text for x in textwrap.wrap(text, WIDTH)]
    rules = rules_of(Path(name))
    sizes = {} if rules is None else rules.defaults
    if resolved.sizes:
        lines += ["", "sizes"]
        width = max(map(len, resolved.sizes))
        lines += [f"  {key:<{width}}  {_said(e, sizes.get(key))}" for key, (_, e) in resolved.sizes.items()]
    formats = ", ".join(section.name.text for section in resolved.checkpoints)
    lines += ["", f"checkpoint formats: {formats or 'none'}"]
    for what, key, known in (("config.json", FAMILY, resolved.config), ("GGUF", ARCHITECTURE, resolved.gguf)):
        if found := families(known, key):
            lines.append(f"{what}, by {key}: {', '.join(found)}")
    return "\n".join(lines)


def _said(e: Any, value: object) -> str:
    """A size as it is written, with its value where that is another text."""
    text: str = e.span.text
    shown = None if value is None or isinstance(value, list) else show(value)  # type: ignore[arg-type]
    return text if shown is None or shown == text else f"{text} = {shown}"
