"""Which spec of the library a public configuration is of."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from towerdsl.budget import uncounted
from towerdsl.configs.idle import IDLE
from towerdsl.configs.metadata import metadata
from towerdsl.configs.rules import OUTPUTS, Config, Read, Rules, families
from towerdsl.diagnostics import Diagnostic, Diagnostics, Source, TowerError, visible
from towerdsl.lang import library
from towerdsl.passes.resolve import Resolved, resolve
from towerdsl.weights.gguf import SUFFIX

NAME, ADAPTER = "config.json", "adapter_config.json"
#: A name on the Hugging Face hub, and the files of a checkpoint there.
HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/(?!.*\.ya?ml$)[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
SAFE = ("*.safetensors", "*.safetensors.index.json")
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
MOST = 2**20
SHOWN = 6


def _fail(code: str, message: str, help: str | None = None, notes: tuple[str, ...] = ()) -> TowerError:
    return TowerError([Diagnostic(f"config-{code}", message, None, notes, help)])


def public_file(source: object) -> Path | None:
    """The file that says what a source is: a `config.json` or a GGUF file, itself or in a folder, or on the hub.

    None for other sources. Raises TowerError where the hub does not give it, or a folder has several.
    """
    if not isinstance(source, str | os.PathLike) or (isinstance(source, str) and "\n" in source):
        return None
    try:
        path = Path(source)
        if path.name == NAME or path.suffix == SUFFIX:
            return path if path.is_file() else None
        if (path / NAME).is_file():
            return path / NAME
        files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else []
        named = HUB.fullmatch(path.as_posix()) and not path.exists() and not path.parent.exists()
    except (OSError, ValueError):
        return None
    if len(files) > 1:
        few = ", ".join(file.name for file in files[:SHOWN])
        raise _fail("which", f"`{path}` has {len(files)} GGUF files", f"give one: {few}")
    if files:
        return files[0]
    return _downloaded(path.as_posix(), weights=False) / NAME if named else None


def fetched(source: str | os.PathLike[str]) -> Path:
    """The GGUF file, or the folder with a public configuration and weights, that a source is. Raises TowerError."""
    file = public_file(source)
    if file is None:
        if (Path(source) / ADAPTER).is_file():
            help = "merge it into its model first: merge_and_unload() of peft"
            raise _fail("adapter", f"`{source}` is an adapter to a model, not a model: it has an `{ADAPTER}`", help)
        message = f"`{visible(os.fspath(source), '')}` is no folder with a `{NAME}`, and no GGUF file"
        raise _fail("source", message, "give one of these; or a spec, and its checkpoint as second argument")
    if file.suffix == SUFFIX:
        return file
    return file.parent if Path(source).exists() else _downloaded(Path(source).as_posix(), weights=True)


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


def read_config(path: Path) -> Config:
    """The configuration in a file. Raises TowerError."""
    if path.suffix == SUFFIX:
        return metadata(path)
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


def rules_of(spec: str | Path, file: Path = Path(NAME)) -> Rules | None:
    """The rules of a spec for a kind of file, None where it has none. Raises TowerError."""
    errors = Diagnostics()
    resolved = resolve(library.read(spec, errors), errors)
    errors.raise_if_any()
    if resolved is None:
        return None
    rules = Rules(resolved, resolved.gguf if file.suffix == SUFFIX else resolved.config)
    return rules if rules.rules.rules else None


def sizes_for(spec: str | Path, file: Path) -> dict[str, Any]:
    """The sizes that a configuration gives a spec; none where the spec has no rules for one.

    Raises TowerError with every key that does not fit.
    """
    rules = rules_of(spec, file)
    return {} if rules is None else _taken(rules.read(read_config(file)))


def found(file: Path) -> tuple[Resolved, dict[str, Any]]:
    """The spec of the library that a configuration is of, its names resolved, and its sizes: `said` has their keys.

    Raises TowerError with every key that does not fit, or with the closest spec and what differs.
    """
    config = read_config(file)
    family, outputs = config.values.get(config.family), config.values.get(OUTPUTS)
    texts = [(path, path.read_text(encoding="utf-8")) for path in library.library().values()]
    models = [(path, text) for path, text in texts if re.search("^tower:", text, re.MULTILINE)]
    candidates: list[Rules] = []
    for path, _ in sorted(models, key=lambda x: str(family) not in x[1]):  # those that speak of it first
        with uncounted():  # the library is no work that the configuration asks for
            rules = rules_of(path, file)
        if rules is None:
            continue
        if family in families(rules.rules, config.family) or (family is None and rules.has(outputs)):
            read = rules.read(config)
            idle = {key: value for key, value in config.values.items() if key in IDLE}
            return replace(rules.resolved, said=read.said, family=family, idle=idle), _taken(read)
        candidates.append(rules)
    raise _closest(config, candidates)


def configuration(resolved: Resolved) -> dict[str, Any]:
    """The public configuration of a spec with the sizes that it has. Raises TowerError where there is none."""
    rules = rules_of(resolved.spec.path or resolved.spec.source.text)
    if rules is None:
        help = "write `config:` rules for it, or save its weights alone: towerdsl.save_checkpoint(model, path)"
        raise _fail("none", f"`{_name(resolved)}` has no rules for a public configuration", help)
    found = rules.write(rules.all_sizes(resolved.settings), resolved.family)
    if found is None:
        message = f"no public configuration has the sizes of this `{_name(resolved)}`"
        raise _fail("none", message, "save its weights alone: towerdsl.save_checkpoint(model, path)")
    return {**resolved.idle, **found}


def _name(resolved: Resolved) -> str:
    return resolved.spec.tower.text if resolved.spec.tower else resolved.spec.source.name


def _taken(read: Read) -> dict[str, Any]:
    if read.mistakes:
        raise TowerError(read.mistakes)
    return dict(read.sizes)


def _closest(config: Config, candidates: list[Rules]) -> TowerError:
    """The mistake that no spec is for a configuration, with the one that comes closest."""
    key = config.family
    family = config.values.get(key)
    said = config.says(key) if key in config.values else f"it has no `{key}`"
    tried = [
        (len(read.mistakes), len(read.sizes), -read.used, rules.name, name, read)  # of two as close, the smaller
        for rules in candidates
        for name in families(rules.rules, key)
        for read in [rules.read(replace(config, values={**config.values, key: name, OUTPUTS: None}))]
    ]
    message = f"no spec of the library is for this configuration: {said}"
    if not tried or family is None:
        known = ", ".join(f"`{name}`" for rules in candidates for name in families(rules.rules, key))
        return _fail("family", message, f"the library knows {known}" if known else None)
    *_, spec, name, read = min(tried, key=lambda x: x[:5])
    notes = [d.message for d in read.mistakes[:SHOWN]]
    notes += [f"and {len(read.mistakes) - SHOWN} more"] if len(read.mistakes) > SHOWN else []
    help = f"if it is that, write `{name}` for `{key}`; otherwise write a spec with `config:` rules for it"
    closest = f"the closest is `{name}` of `{spec}`" + (", from which it differs:" if notes else "")
    return _fail("family", message, help, (closest, *notes))
