"""The attentions of a model, by the names of their modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from towerdsl.claims.capture import places
from towerdsl.compiler import Compiled
from towerdsl.diagnostics import Diagnostic, TowerError, did_you_mean
from towerdsl.ir import nodes as n

#: Of more names than this, the first and the last are listed.
MOST_NAMES = 5


@dataclass(frozen=True)
class Place:
    """One module of an attention in a model; a module that stands at two places has the first."""

    path: str
    block: n.BlockInstance
    module: nn.Module

    @property
    def average(self) -> n.Average:
        """What it averages."""
        assert self.block.average is not None
        return self.block.average

    @property
    def heads(self) -> int:
        """How many heads its average has; 0 where it has no axis of heads."""
        return self.average.heads.size.integer or 0 if self.average.heads is not None else 0


def every_place(compiled: Compiled, model: nn.Module) -> list[Place]:
    """All attentions of a model, in the order of its modules."""
    found: dict[nn.Module, Place] = {}
    for path, block, module in places(compiled.model.root, model):
        found.setdefault(module, Place(path, block, module))
    return list(found.values())


def matching(known: Sequence[Place], pattern: str) -> list[Place]:
    """Those that a pattern of names fits, at least one. Raises TowerError."""
    if not known:
        raise mistake("this model has no attention")
    found = [place for place in known if fnmatchcase(place.path, pattern)]
    if not found:
        paths = [place.path for place in known]
        shown = [*paths[: MOST_NAMES - 2], "...", paths[-1]] if len(paths) > MOST_NAMES else paths
        help = did_you_mean(pattern, paths, f"there are {', '.join(shown)}")
        raise mistake(f"no attention is called `{pattern}`", help)
    return found


def mistake(message: str, help: str | None = None) -> TowerError:
    """The error for what cannot be had of a model or its maps, with what can."""
    return TowerError([Diagnostic("maps", message, help=help)])
