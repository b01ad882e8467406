"""What a model may be wrapped in, and the names without it. Nothing here needs torch.

`torch.compile`, DataParallel, FSDP, activation checkpoints and averages put a part of their own into the names of what
they wrap, before all of them or in the middle. A module that only holds a model, as Lightning's does, puts its own
before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

#: The parts of names that wrappers of torch are: of torch.compile, of activation checkpoints, of FSDP; of the others.
_PRIVATE = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_PARTS = (*_PRIVATE, "module")
#: What a module that holds a model calls it by custom, in names of a checkpoint.
_CUSTOM = ("module", "model")


def inside(module: nn.Module) -> nn.Module:
    """The module in a wrapper of torch, or in several; one that is not wrapped, itself."""
    while (part := _part(module)) is not None:
        module = module._modules[part]  # type: ignore[assignment]
    return module


def _part(module: nn.Module) -> str | None:
    """The part of names that a wrapper is; None for a module that is none."""
    classes = (c.__module__ for c in type(module).__mro__)
    if not any(c.startswith("torch.") and not c.startswith("torch.nn.modules.") for c in classes):
        return None
    names = list(module._modules)
    return names[0] if len(names) == 1 and names[0] in _PARTS else None


def plain(model: nn.Module, name: str) -> str:
    """A name in `state_dict()` of a model, without the parts that wrappers are."""
    kept: list[str] = []
    parts, module = name.split("."), model
    while parts:
        part = _part(module)
        if part is not None:
            parts = parts[parts[0] == part :]  # some wrappers leave it out themselves
            module = module._modules[part]  # type: ignore[assignment]
            continue
        kept.append(parts.pop(0))
        child = module._modules.get(kept[-1])
        if child is None:  # a parameter
            break
        module = child
    return ".".join([*kept, *parts])


def held(model: nn.Module, ours: Callable[[nn.Module], bool]) -> dict[str, nn.Module]:
    """The outermost modules in a model that are of ours, by their plain names: itself has the empty one."""

    def walk(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
        module = inside(module)
        if ours(module):
            yield path, module
            return
        for name, child in module._modules.items():
            if child is not None:
                yield from walk(child, f"{path}.{name}" if path else name)

    found: dict[str, nn.Module] = {}
    for path, module in walk(model, ""):
        if all(module is not other for other in found.values()):
            found[path] = module
    return found


def spellings(public: Iterable[str], prefixes: Iterable[str]) -> Iterator[dict[str, str]]:
    """The ways to take wrappers, and one of these prefixes, off a checkpoint's names: plain name -> as it is there.

    Those that take off less come first. Names without a prefix may stand beside those with it.
    """
    names, seen = list(public), set()
    for dropped in ((), _PRIVATE, _PARTS):
        bare: dict[str, str] = {}
        for name in sorted(names, key=lambda n: sum(p in dropped for p in n.split("."))):
            bare.setdefault(".".join(p for p in name.split(".") if p not in dropped), name)
        if (key := frozenset(bare.items())) in seen:
            continue
        seen.add(key)
        for prefix in dict.fromkeys(front + own for front in _fronts(bare) for own in ("", *prefixes)):
            yield _without(bare, prefix)


def _fronts(names: Iterable[str]) -> list[str]:
    """What names begin with that holders are called by custom: `model.`, `module.model.`."""
    found = {""}
    for name in names:
        front = ""
        for part in name.split(".")[:-1]:
            if part not in _CUSTOM:
                break
            front += f"{part}."
            found.add(front)
    return sorted(found, key=lambda front: (front.count("."), front))


def _without(names: Mapping[str, str], prefix: str) -> dict[str, str]:
    found = {name[len(prefix) :]: original for name, original in names.items() if name.startswith(prefix)}
    for name, original in names.items():
        if not name.startswith(prefix):
            found.setdefault(name, original)
    return found
