"""Which spec of the library a public configuration is of."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from towerdsl.configs.rules import FAMILY, OUTPUTS, Config, Read, Rules, families
from towerdsl.diagnostics import Diagnostic, Diagnostics, Source, TowerError, visible
from towerdsl.lang import library
from towerdsl.passes.resolve import Resolved, resolve

NAME = "config.json"
#: A name on the Hugging Face hub, and the files of a checkpoint there.
HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/(?!.*\.ya?ml$)[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
SAFE = ("*.safetensors", "*.safetensors.index.json")
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
MOST = 2**20
SHOWN = 6


def _fail(code: str, message: str, help: str | None = None, notes: tuple[str, ...] = ()) -> TowerError:
    return TowerError([Diagnostic(f"config-{code}", message, None, notes, help)])


def source_folder(source: object) -> Path | None:
    """The folder with a public configuration that a source is, one on the hub without its weights; None for others.

    Raises TowerError where the hub does not give it.
    """
    if not isinstance(source, str | os.PathLike) or (isinstance(source, str) and "\n" in source):
        return None
    try:
        path = Path(source)
        path = path.parent if path.name == NAME else path
        if (path / NAME).is_file():
            return path
        named = HUB.fullmatch(path.as_posix()) and not path.exists() and not path.parent.exists()
    except (OSError, ValueError):
        return None
    return _downloaded(path.as_posix(), weights=False) if named else None


def fetched(source: str | os.PathLike[str]) -> Path:
    """The folder with a public configuration and weights that a source is. Raises TowerError."""
    folder = source_folder(source)
    if folder is None:
        message = f"`{visible(os.fspath(source), '')}` is no folder with a `{NAME}`"
        raise _fail("source", message, "give such a folder; or a spec, and its checkpoint as second argument")
    return folder if Path(source).exists() else _downloaded(Path(source).as_posix(), weights=True)


def _downloaded(name: str, weights: bool) -> Path:
    """What the Hugging Face hub has under a name, in its cache. Raises TowerError."""
    help = "download it where there is a network, and give the folder"
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        message = f"there is no folder `{name}`, and a name on the Hugging Face hub needs the package huggingface_hub"
        raise _fail("hub", message, "pip install huggingface_hub, or give a folder") from None
    for patterns in ([NAME, *SAFE], [NAME, *PICKLED]) if weights else ([NAME],):
        try:
            folder = Path(snapshot_download(name, allow_patterns=patterns))
        except Exception as error:  # a network, a hub and a cache fail in many ways
            reason = visible((str(error).strip().splitlines() or [type(error).__name__])[0], "")
            message = f"there is no folder `{name}`, and the Hugging Face hub does not give it: {reason}"
            raise _fail("hub", message, help) from None
        if any(next(folder.glob(pattern), None) for pattern in patterns[1:]) or not weights:
            break
    if not (folder / NAME).is_file():
        raise _fail("hub", f"`{name}` on the Hugging Face hub has no `{NAME}`", help)
    return folder


def read_config(folder: Path) -> Config:
    """The configuration in a folder. Raises TowerError."""
    path = folder / NAME
    try:
        if path.stat().st_size > MOST:
            raise _fail("file", f"`{path}` has more than {MOST:,} bytes, which no configuration has")
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        reason = visible((str(error).splitlines() or [type(error).__name__])[0], "")
        raise _fail("file", f"`{path}` cannot be read as JSON: {reason}") from None
    if not isinstance(values, Mapping):
        raise _fail("file", f"`{path}` is no configuration", 'it should hold {"model_type": ..., ...}')
    return Config(values, Source(NAME, text))


def rules_of(spec: str | Path) -> Rules | None:
    """The rules of a spec, None where it has none. Raises TowerError."""
    errors = Diagnostics()
    resolved = resolve(library.read(spec, errors), errors)
    errors.raise_if_any()
    return Rules(resolved) if resolved is not None and resolved.config.rules else None


def sizes_for(spec: str | Path, folder: Path) -> dict[str, Any]:
    """The sizes that the configuration in a folder gives a spec; none where the spec has no rules for one.

    Raises TowerError with every key that does not fit.
    """
    rules = rules_of(spec)
    return {} if rules is None else _taken(rules.read(read_config(folder)))


def found(folder: Path) -> tuple[Resolved, dict[str, Any]]:
    """The spec of the library that a configuration is of, its names resolved, and its sizes: `said` has their keys.

    Raises TowerError with every key that does not fit, or with the closest spec and what differs.
    """
    config = read_config(folder)
    family, outputs = config.values.get(FAMILY), config.values.get(OUTPUTS)
    candidates: list[Rules] = []
    for path in library.library().values():
        text = path.read_text(encoding="utf-8")
        if not re.search(r"^config:", text, re.MULTILINE) or not re.search(r"^tower:", text, re.MULTILINE):
            continue
        rules = rules_of(path)
        if rules is None:
            continue
        if family in families(rules.rules) or (family is None and rules.has(outputs)):
            read = rules.read(config)
            return replace(rules.resolved, said=read.said), _taken(read)
        candidates.append(rules)
    raise _closest(config, candidates)


def _taken(read: Read) -> dict[str, Any]:
    if read.mistakes:
        raise TowerError(read.mistakes)
    return dict(read.sizes)


def _closest(config: Config, candidates: list[Rules]) -> TowerError:
    """The mistake that no spec is for a configuration, with the one that comes closest."""
    family = config.values.get(FAMILY)
    said = config.says(FAMILY) if FAMILY in config.values else f"it has no `{FAMILY}`"
    tried = [
        (len(read.mistakes), -read.used, rules.name, name, read)
        for rules in candidates
        for name in families(rules.rules)
        for read in [rules.read(Config({**config.values, FAMILY: name, OUTPUTS: None}, config.source))]
    ]
    message = f"no spec of the library is for this configuration: {said}"
    if not tried or family is None:
        known = ", ".join(f"`{name}`" for rules in candidates for name in families(rules.rules))
        return _fail("family", message, f"the library knows {known}" if known else None)
    _, _, spec, name, read = min(tried, key=lambda x: x[:4])
    notes = [d.message for d in read.mistakes[:SHOWN]]
    notes += [f"and {len(read.mistakes) - SHOWN} more"] if len(read.mistakes) > SHOWN else []
    help = f"if it is that, write `{name}` for `{FAMILY}`; otherwise write a spec with `config:` rules for it"
    closest = f"the closest is `{name}` of `{spec}`" + (", from which it differs:" if notes else "")
    return _fail("family", message, help, (closest, *notes))
