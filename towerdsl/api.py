"""The Python interface: `compile`, `load`, `save`, `source`, `draw`, `verify`, `diff`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal

from towerdsl import configs, files
from towerdsl.budget import bounded
from towerdsl.compiler import COMPILED, compile_spec, compiled_in
from towerdsl.diagnostics import Diagnostic, TowerError, expect
from towerdsl.emit.module import load_module
from towerdsl.ir.names import class_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from towerdsl.claims import Verified
    from towerdsl.compare import Diff
    from towerdsl.drawing import Drawing


def source(
    spec: str | Path,
    *,
    standalone: bool = False,
    kernel: str | None = None,
    inference: bool = False,
    device: str = "cpu",
    **sizes: Any,
) -> str:
    """The Python source that a spec compiles to; `standalone` needs only torch. Raises TowerError."""
    with bounded():
        return compile_spec(spec, sizes, kernel, inference, device).source(standalone)


def compile(
    spec: str | Path,
    *,
    kernel: str | None = None,
    inference: bool = False,
    device: str = "cpu",
    **sizes: Any,
) -> type[nn.Module]:
    """Compile a spec to a `torch.nn.Module` class.

    `spec` is a path, a name of the library (`"bert"`), or the text of a spec. Keywords override its sizes
    (`depth=6`). `kernel` makes every attention use one kernel (`"reference"`). `inference` leaves out what only
    training needs and packs the weights of linear layers where that is faster: the same values, the same names.
    `device` is what kernels are chosen for, "cpu" or "cuda". The class is what `source` gives, executed. Raises
    TowerError.
    """
    with bounded():
        compiled = compile_spec(spec, sizes, kernel, inference, device)
        source = compiled.source()
    module = load_module(source, compiled.model.name)
    found: type[nn.Module] = getattr(module, class_name(compiled.model.name))
    COMPILED[found] = compiled
    return found


def load(
    source: str | Path,
    checkpoint: str | PathLike[str] | Mapping[str, Tensor] | None = None,
    format: str | None = None,
    *,
    strict: bool | Literal["all"] = True,
    inference: bool = False,
    dtype: torch.dtype | str | None = None,
    **sizes: Any,
) -> nn.Module:
    """Build a model with a checkpoint in it; it is in evaluation mode.

    `source` is a folder with a public `config.json` and its weights, the name of one on the Hugging Face hub, or a GGUF
    file: the configuration says which spec of the library it is, and its sizes. Or it is a spec, and `checkpoint` a
    file or folder for it, whose configuration gives the sizes where the spec has rules for one. Keywords override
    sizes. `format` names a map of the spec's `checkpoints:`; left out, the one that fits is taken. `strict` is that of
    `load_checkpoint`. The model has the checkpoint's dtype, or `dtype`; its weights are the file's, mapped into memory.
    The report of what was loaded is kept as `model.checkpoint_report`. Raises TowerError, and then no model is made.
    """
    from towerdsl.weights.load import load_new

    given: Mapping[str, Any] = {}
    if checkpoint is None:
        checkpoint = source = configs.fetched(source)
    elif isinstance(checkpoint, str | PathLike) and (file := configs.public_file(checkpoint)) is not None:
        with bounded():
            given = configs.sizes_for(source, file)
    made = compile(source, inference=inference, **{**given, **sizes})
    model, report = load_new(made, checkpoint, format, strict, dtype)
    model.checkpoint_report = report  # type: ignore[assignment]
    return model.eval()


def save(model: nn.Module, folder: str | PathLike[str], *, shard: int = 5 * 10**9) -> Path:
    """Write a model as public libraries read it: `config.json` and weights as safetensors, in files of at most `shard`
    bytes.

    The configuration and the names are those that the spec's `config:` and `checkpoints:` give its sizes, of the family
    that the model was loaded as where it has them. All files are put in place together, or none. Returns the folder.
    Raises TowerError.
    """
    from towerdsl.weights.load import save_shards

    expect("folder", folder, (str, PathLike), "a path")
    expect("shard", shard, int, "a number of bytes")
    inner, compiled = compiled_in(model)
    with bounded():
        values = configs.configuration(compiled.resolved)
    with files.filling(folder, ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*")) as work:
        save_shards(inner, work, values.get(configs.FAMILY), shard)
        dtypes = {str(x.dtype).removeprefix("torch.") for x in inner.parameters()}
        values |= {"dtype": dtypes.pop()} if len(dtypes) == 1 else {}
        (work / configs.NAME).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return Path(folder)


def verify(
    spec: str | Path | nn.Module,
    inputs: Mapping[str, Any] | None = None,
    *,
    kernel: str | None = None,
    seed: int = 0,
    **settings: Any,
) -> Verified:
    """Check that each attention is the weighted average that it claims to be; `print` shows the table.

    `spec` is what `compile` takes: it is verified with random weights and inputs, `settings` override its sizes or
    give free lengths (`n=32`). Or it is a model that `compile` or `load` made: then it is verified with its own
    weights on `inputs`, by name. What was found has `ok`, and `attentions` with every number and failure. Raises
    TowerError.
    """
    from torch import nn

    from towerdsl.claims import verify_model, verify_spec

    expect("seed", seed, int, "a whole number")
    if abs(seed) >= 2**63:
        raise TowerError([Diagnostic("arguments", "`seed` is a whole number of at most 63 bits", help="write seed=0")])
    expect("inputs", inputs, (Mapping, NoneType), "a mapping from names to tensors")
    if not isinstance(spec, nn.Module):
        if inputs is not None:
            raise TowerError(
                [Diagnostic("arguments", "inputs are for a model", help="compile the spec, and give that")]
            )
        return verify_spec(spec, settings, kernel, seed)
    model, compiled = compiled_in(spec)
    if inputs is None or settings or kernel is not None:
        message = "a model is verified as it is, on inputs"
        raise TowerError([Diagnostic("arguments", message, help="give inputs by name, and no sizes or kernel")])
    return verify_model(model, compiled, inputs, seed)


def diff(first: str | Path, second: str | Path, **settings: Any) -> Diff:
    """In which fields the averages of two specs differ; `print` shows it on one screen.

    `settings` override sizes of those that have them. `same` is true where no field differs, `pairs` has the
    differences of each attention. Names do not count, and neither does how a condition is written. Raises TowerError.
    """
    from towerdsl.compare import diff

    return diff(first, second, settings)


def draw(
    spec: str | Path,
    *,
    levels: int | None = None,
    fold: str | Collection[str] = (),
    kernel: str | None = None,
    device: str = "cpu",
    **settings: Any,
) -> Drawing:
    """The model of a spec as a picture: its `svg`, in which blocks fold, and its `mermaid`; a notebook shows it.

    `settings` override sizes, or give free lengths (`n=32`) for the pictures of who sees whom. The first `levels` of
    blocks are open; without a number, what leads to an attention that is like none before it. Blocks whose name or path
    matches a pattern of `fold` are closed. Raises TowerError.
    """
    from towerdsl.drawing import draw

    return draw(spec, settings, kernel, device, levels, [fold] if isinstance(fold, str) else fold)
