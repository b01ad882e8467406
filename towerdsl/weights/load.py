"""Checkpoints into models, and models into checkpoints."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from towerdsl.diagnostics import Diagnostic, TowerError, did_you_mean, expect
from towerdsl.emit.module import COMPILED_AS
from towerdsl.files import replacing
from towerdsl.weights.apply import covered, equal, to_model, to_public
from towerdsl.weights.files import FILES_OWN, format_of, read
from towerdsl.weights.report import CheckpointError, Report, printable
from towerdsl.weights.rules import CheckpointMap
from towerdsl.weights.wrapped import held, inside, plain

#: Methods of tensors that draw numbers.
_FILLS = {"normal_", "uniform_"}

Checkpoint: TypeAlias = str | os.PathLike[str] | Mapping[str, Tensor]


def load_checkpoint(
    model: nn.Module, source: Checkpoint, format: str | None = None, strict: bool | Literal["all"] = True
) -> Report:
    """Fill a model's parameters from a checkpoint (a path, or tensors by name), all of them or none.

    `format` names a map in `model.checkpoints`. Without it the model's own names are used if the checkpoint has
    them all, otherwise the map that finds most parameters.
    With `strict=True` every parameter must be found, and no layer may be left over (a name that the model needs with
    another number); other names that it does not need, such as a head's, are only reported. `strict="all"` refuses
    those too; `strict=False` lets parameters that the checkpoint lacks keep their values, and leaves layers out.
    A GGUF file is used whole or not at all: every tensor must have a place, unless `strict=False`.
    A table that the checkpoint has twice, with different values, and the model once is refused unless `strict=False`.
    Tensors are converted to the model's dtypes and copied, values too large for these are refused; parameters on the
    meta device are put on the CPU. Until all are in, the old values are kept, in as much memory as the model has: what
    stops it half way, such as Ctrl-C, leaves the model as it was.
    Raises CheckpointError (a TowerError with `.report`) if the checkpoint does not fit, TowerError if it is unreadable.
    """
    public, where, own = _tensors(source)
    return _load(model, public, where, format, strict, own, keep=True)


def load_new(
    make: Callable[[], nn.Module],
    source: Checkpoint,
    format: str | None = None,
    strict: bool | Literal["all"] = True,
    dtype: torch.dtype | str | None = None,
) -> tuple[nn.Module, Report]:
    """A new model with a checkpoint in it, and the report of it: as `load_checkpoint`, without a copy where there is a
    file.

    What `make` gives is made on the meta device, and gets the tensors of the file themselves, mapped into memory. The
    model has the dtype that most of the checkpoint's numbers have, or `dtype`. Raises as `load_checkpoint` does.
    """
    public, where, written = _tensors(source)
    with torch.device("meta"), _Unfilled():
        model = make()
    wanted = _dtype(dtype) or _usual(public.values())
    if wanted is not None:
        model.to(wanted)
    report = _load(model, public, where, format, strict, written, keep=False, own=not isinstance(source, Mapping))
    slots = [(m, of, key) for m in model.modules() for of in (m._parameters, m._buffers) for key in of]
    if any((held := of[key]) is not None and held.is_meta for _, of, key in slots):  # what no checkpoint has
        whole = make().to(wanted)
        for path, module in model.named_modules():
            there = whole.get_submodule(path)
            for own, made in ((module._parameters, there._parameters), (module._buffers, there._buffers)):
                own.update({k: made[k] for k, x in own.items() if x is not None and x.is_meta})
    return model, report


class _Unfilled(TorchFunctionMode):
    """Parameters are made and not filled: on the meta device they have no numbers, and torch is slow about those."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or getattr(func, "__name__", "") in _FILLS:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _tensors(source: Checkpoint) -> tuple[Mapping[str, Tensor], str, str | None]:
    """The tensors of a checkpoint, what it is called, and the format that it is of, where the file says so."""
    expect("source", source, (str, os.PathLike, Mapping), "a path, or a mapping from names to tensors")
    if isinstance(source, Mapping):
        return _check_mapping(source), "the checkpoint", None
    return read(source), f"`{os.fspath(source)}`", format_of(source)


def _dtype(given: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype that a model can have. Raises TowerError."""
    expect("dtype", given, (torch.dtype, str, NoneType), "a dtype such as torch.bfloat16")
    found = getattr(torch, given, None) if isinstance(given, str) else given
    if given is not None and not (isinstance(found, torch.dtype) and found.is_floating_point and found.itemsize > 1):
        raise _error(
            "dtype", f"`{given}` is no dtype of a model", "write torch.float32, torch.float16 or torch.bfloat16"
        )
    return found


def _usual(tensors: Iterable[Tensor]) -> torch.dtype | None:
    """The dtype that most numbers have, of those that a model can have."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.dtype.itemsize > 1:
            counts[tensor.dtype] += tensor.numel()
    return counts.most_common(1)[0][0] if counts else None


def _load(
    model: nn.Module,
    public: Mapping[str, Tensor],
    where: str,
    format: str | None,
    strict: bool | Literal["all"],
    written: str | None,
    keep: bool,
    own: bool = False,
) -> Report:
    """Fill a model; with `keep`, what stops that is undone; tensors that are `own` need no copy.

    `written` is the format of which the file says that it is.
    """
    expect("strict", strict, (bool, str), 'true, false or "all"')
    if isinstance(strict, str) and strict != "all":
        raise _error("strict", f'`strict` is true, false or "all", not `{strict}`')
    model, prefixes = _unwrapped(model)
    maps = _maps(model, format)
    holders = _holders(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in holders.items()}
    if written is not None and format in (None, FILES_OWN):
        map = _said(maps, where, written)
    else:
        map = maps[format] if format is not None else _choose(maps, public, shapes, prefixes)
    strict = "all" if written is not None and strict is True else strict
    state, report = to_model(
        map,
        public,
        shapes,
        dtypes={name: tensor.dtype for name, tensor in holders.items()},
        same=_ties(holders),
        optional={name for name in shapes if name.split(".")[-1] == "num_batches_tracked"},
        prefixes=prefixes,
    )
    report = replace(report, untied=_untied(getattr(type(model), "tied", ()), public, state, report))
    filled = {name: holders[name] for name in state}
    _judge(model, where, report, filled, strict, keep)
    _fill(model, filled, state, keep, own)
    return report


def save_checkpoint(model: nn.Module, path: str | os.PathLike[str], format: str | None = None) -> Path:
    """Write a model's parameters as safetensors, under a format's public names or (None) the model's own.

    The file appears whole or not at all. A folder gets a `model.safetensors`. Returns the file's path.
    Raises TowerError for an unknown format, parameters that it has no names for, or a path that cannot be written.
    """
    expect("path", path, (str, os.PathLike), "a path")
    public = _public(model, format)
    target = Path(path) / "model.safetensors" if os.path.isdir(path) else Path(path)
    with replacing(target) as file:
        _write(public, file)
    return target


def save_shards(model: nn.Module, folder: Path, family: str | None, most: int) -> None:
    """Write a model's parameters into a folder as public checkpoints are, in files of at most so many bytes.

    The names are those of the spec's first map, of its variant for the family where there is one. Raises TowerError.
    """
    known = checkpoint_maps(_unwrapped(model)[0])
    base = next((name for name in known if "." not in name and name != FILES_OWN), None)
    if base is None:
        raise _error("format", "the model has no checkpoint format", "write `checkpoints:` in its spec")
    variant = f"{base}.{family}"
    public = _public(model, variant if variant in known else base)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in public.items():
        if shards[-1] and size + tensor.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        _write(public, folder / "model.safetensors")
        return
    where: dict[str, str] = {}
    for k, shard in enumerate(shards, 1):
        file = f"model-{k:05}-of-{len(shards):05}.safetensors"
        _write(shard, folder / file)
        where |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(x.nbytes for x in public.values())}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _public(model: nn.Module, format: str | None) -> dict[str, Tensor]:
    """A model's tensors under a format's public names or (None) its own. Raises TowerError."""
    model, _ = _unwrapped(model)
    maps = _maps(model, format)
    holders = _holders(model)
    state = {name: tensor.detach() for name, tensor in holders.items()}
    empty = next((name for name, tensor in state.items() if tensor.is_meta), None)
    if empty is not None:
        raise _error("meta", f"`{empty}` is on the meta device and has no values to save")
    return to_public(maps[format], state, same=_ties(holders)) if format is not None else state


def _write(public: Mapping[str, Tensor], file: Path) -> None:
    """Tensors as a file of safetensors. Raises OSError."""
    # each tensor gets its own memory: safetensors refuses shared storage (tied names, views of fused tensors)
    whole = {
        name: tensor.to("cpu", copy=True, memory_format=torch.contiguous_format) for name, tensor in public.items()
    }
    try:
        save_file(whole, file, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk is one, too, with its number in the text
        number = re.search(r"os error (\d+)", str(error))
        raise (
            OSError(str(error)) if number is None else OSError(int(number[1]), os.strerror(int(number[1])))
        ) from None


def checkpoint_maps(model: nn.Module) -> dict[str, CheckpointMap]:
    """The maps of a model by format name, from its class attribute `checkpoints`; TowerError if that is malformed."""
    data = getattr(model, "checkpoints", None) or {}
    if not isinstance(data, Mapping):
        raise _error("map", "`checkpoints` of this model is not a mapping from formats to maps")
    maps = {str(name): CheckpointMap.from_data(str(name), entry) for name, entry in data.items()}
    for name, map in maps.items():
        base, dot, _ = name.partition(".")
        if dot and base in maps:  # a variant has the rules of its format, too
            maps[name] = maps[base].joined(map)
    return maps


def _maps(model: nn.Module, format: str | None) -> dict[str, CheckpointMap]:
    """The maps of a model by format name, with that of the format if one is given. Raises TowerError."""
    expect("format", format, (str, NoneType), "the name of a format")
    maps = checkpoint_maps(model)
    if format is not None and format not in maps:
        raise _unknown_format(format, maps)
    return maps


def _error(code: str, message: str, help: str | None = None) -> TowerError:
    return TowerError([Diagnostic(f"checkpoint-{code}", message, help=help)])


def _unknown_format(format: str, maps: Mapping[str, CheckpointMap]) -> TowerError:
    known = f"it knows {', '.join(f'`{name}`' for name in maps)}" if maps else "it knows its own names only"
    return _error("format", f"the model has no checkpoint format `{format}`", did_you_mean(format, maps, known))


def _check_mapping(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, tensor in source.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise _error("format", f"a checkpoint maps names to tensors, {printable(repr(name))} does not")
        if tensor.is_meta:
            raise _error("meta", f"`{printable(name)}` is on the meta device and has no values to load")
    return {name: tensor.detach() for name, tensor in source.items()}


def _unwrapped(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The model in what only holds it, and what that puts before its names. Raises TowerError."""
    expect("model", model, nn.Module, "a module")
    found = held(model, lambda m: type(m).__module__.startswith(COMPILED_AS) or hasattr(type(m), "checkpoints"))
    for path, inner in found.items() if len(found) == 1 else ():
        if not path or all(plain(model, name).startswith(f"{path}.") for name in model.state_dict()):
            return inner, (f"{path}.",) if path else ()
    return inside(model), ()


def _holders(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and persistent buffers themselves, by plain name; one tensor may have several names."""
    state = model.state_dict(keep_vars=True)
    return {plain(model, name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _ties(holders: Mapping[str, Tensor]) -> dict[str, str]:
    """The further names of tensors that have several, each with the first."""
    first: dict[int, str] = {}
    return {name: first[id(t)] for name, t in holders.items() if first.setdefault(id(t), name) != name}


def _said(maps: Mapping[str, CheckpointMap], where: str, written: str) -> CheckpointMap:
    """The map of a format that a file says it is of: `gguf.llama`, or `gguf` where that has none of its own."""
    found = maps.get(written, maps.get(FILES_OWN))
    if found is None:
        raise _error("format", f"{where} is a GGUF file, and the model has no names for one", "give it as safetensors")
    return found


def _choose(
    maps: Mapping[str, CheckpointMap],
    public: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    prefixes: tuple[str, ...],
) -> CheckpointMap:
    """The map that finds most parameters under these names; the model's own names if none finds more."""
    own = CheckpointMap.identity()
    maps = {name: map for name, map in maps.items() if name.partition(".")[0] != FILES_OWN}
    if all(name in public for name in shapes):
        return own
    candidates = [own, *maps.values()]
    scores = [covered(map, public, shapes, prefixes) for map in candidates]
    best = candidates[scores.index(max(scores))]
    return next(iter(maps.values())) if max(scores) == 0 and len(maps) == 1 else best


def _untied(
    tied: Iterable[str], public: Mapping[str, Tensor], state: Mapping[str, Tensor], report: Report
) -> tuple[tuple[str, str], ...]:
    """The tensors without a place that look like a table of the model, with other values: (public name, parameter)."""
    spare = {name: public[name] for name in (*report.unexpected, *report.ignored)}
    return tuple(
        (name, own)
        for own in tied
        if own in state
        for name, tensor in spare.items()
        if tensor.shape == state[own].shape and tensor.is_floating_point() and not equal(tensor, state[own])
    )


def _judge(
    model: nn.Module,
    where: str,
    report: Report,
    filled: Mapping[str, Tensor],
    strict: bool | Literal["all"],
    whole: bool,
) -> None:
    """Raise CheckpointError unless the report allows loading; `whole` needs values for all that has none."""
    name = type(model).__name__
    if report.wrong or (not report.ok and (strict or not filled)):
        raise CheckpointError(f"{where} does not fit {name}, nothing was loaded", report)
    if strict == "all" and report.unexpected:
        raise CheckpointError(f"{where} has tensors that {name} does not need, nothing was loaded", report)
    held = {id(tensor) for tensor in filled.values()}
    for key, tensor in [] if not whole else [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta and id(tensor) not in held:
            raise _error(
                "meta",
                f"`{key}` is on the meta device and the checkpoint has no values for it, nothing was loaded",
                "create the model on the CPU",
            )


@torch.no_grad()
def _fill(model: nn.Module, holders: Mapping[str, Tensor], state: Mapping[str, Tensor], keep: bool, ours: bool) -> None:
    """Copy each tensor into the parameter of that name. Meta parameters are replaced wherever the model holds them,
    by tensors that are `ours` themselves where these are as the model needs them.

    All that can fail comes first. With `keep`, what stops the rest is undone.
    """
    own = {t.untyped_storage().data_ptr() for t in holders.values() if not t.is_meta}
    fresh: dict[int, Tensor] = {}
    taken: set[int] = set()
    for name, holder in holders.items():
        if holder.is_meta:
            tensor = state[name]
            if not ours or tensor.dtype != holder.dtype or not tensor.is_contiguous() or tensor.data_ptr() in taken:
                tensor = torch.empty(holder.shape, dtype=holder.dtype, device="cpu").copy_(tensor)
            taken.add(tensor.data_ptr())
            if isinstance(holder, nn.Parameter):
                tensor = nn.Parameter(tensor, requires_grad=holder.requires_grad)
            fresh[id(holder)] = tensor
    # a source that is a part of the model itself is taken out before anything changes
    ready = {n: t.clone() if t.untyped_storage().data_ptr() in own else t for n, t in state.items()}
    there = {name: holder for name, holder in holders.items() if not holder.is_meta}
    kept = _kept(there) if keep else []
    slots: list[tuple[dict[str, Any], str, Tensor]] = [
        (of, key, held)
        for module in model.modules()
        for of in (module._parameters, module._buffers)
        for key, held in of.items()
        if held is not None and id(held) in fresh
    ]
    try:
        for name, holder in there.items():
            holder.copy_(ready[name])
        for of, key, held in slots:
            of[key] = fresh[id(held)]
    except BaseException:
        if kept:
            torch._foreach_copy_(list(there.values()), kept)  # in one call, which another Ctrl-C does not stop
        for of, key, held in slots:
            of[key] = held
        raise


def _kept(holders: Mapping[str, Tensor]) -> list[Tensor]:
    """What is in tensors now. Raises TowerError for one that it cannot be written back to, such as an expanded one."""
    found = []
    for name, holder in holders.items():
        found.append(holder.clone())
        if holder.is_contiguous() and not holder.is_inference():  # others may not be written to: it is tried
            continue
        try:
            holder.copy_(found[-1])
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise _error("unwritable", f"nothing can be loaded into `{name}`: {reason}", "clone it first") from None
    return found
