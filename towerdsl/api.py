"""The Python interface: `compile`, `load`, `source`."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from towerdsl.compiler import compile_spec
from towerdsl.emit.classes import camel
from towerdsl.emit.module import load_module

if TYPE_CHECKING:
    from torch import nn


def source(spec: str | Path, *, standalone: bool = False, kernel: str | None = None, **sizes: Any) -> str:
    """The Python source that a spec compiles to; `standalone` needs only torch. Raises TowerError."""
    return compile_spec(spec, sizes, kernel).source(standalone)


def compile(spec: str | Path, *, kernel: str | None = None, **sizes: Any) -> type[nn.Module]:
    """Compile a spec to a `torch.nn.Module` class.

    `spec` is a path, a name of the library (`"bert"`), or the text of a spec. Keywords override its sizes
    (`depth=6`). `kernel` makes every attention use one kernel (`"reference"`). The class is what `source` gives,
    executed. Raises TowerError.
    """
    compiled = compile_spec(spec, sizes, kernel)
    module = load_module(compiled.source(), compiled.model.name)
    found: type[nn.Module] = getattr(module, camel(compiled.model.name))
    return found


def load(
    spec: str | Path,
    checkpoint: str | PathLike[str],
    format: str | None = None,
    *,
    strict: bool | Literal["all"] = True,
    **sizes: Any,
) -> nn.Module:
    """Compile a spec, build the model and load a checkpoint into it; the model is in evaluation mode.

    `format` names a map of the spec's `checkpoints:`; left out, the one that fits is taken. The report of what was
    loaded is kept as `model.checkpoint_report`. Raises TowerError, and then no model is made.
    """
    from towerdsl.weights import load_checkpoint

    model = compile(spec, **sizes)()
    report = load_checkpoint(model, checkpoint, format, strict)
    model.checkpoint_report = report  # type: ignore[assignment]
    return model.eval()
