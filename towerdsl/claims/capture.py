"""What the attentions of a model are given while it runs: their arguments, as the layers before them make them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from towerdsl.ir import nodes as n
from towerdsl.weights.wrapped import inside


@dataclass(frozen=True)
class Call:
    """One module of an attention, and the arguments of its last call that was watched."""

    path: str
    block: n.BlockInstance
    module: nn.Module
    arguments: Mapping[str, Any]


class _Enough(Exception):
    pass


@contextmanager
def as_written() -> Iterator[None]:
    """What `torch.compile` made of modules runs as they are written meanwhile, with hooks and exchanged parts."""
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def places(root: n.BlockInstance, model: nn.Module) -> Iterator[tuple[str, n.BlockInstance, nn.Module]]:
    """Every module of an attention: its name in `state_dict()` but for wrappers, its block, itself."""

    def visit_slot(slot: n.ModuleSlot, path: str, module: nn.Module) -> Iterator[Any]:
        if slot.items:
            for k, item in enumerate(slot.items):
                yield from visit_slot(item, f"{path}.{k}", inside(module.get_submodule(str(k))))
        elif slot.block is not None:
            yield from visit(slot.block, path, module)

    def visit(block: n.BlockInstance, path: str, module: nn.Module) -> Iterator[Any]:
        if block.average is not None:
            yield path, block, module
        for name, slot in block.modules:
            if _has_block(slot):
                yield from visit_slot(slot, f"{path}.{name}" if path else name, inside(module.get_submodule(name)))

    yield from visit(root, "", inside(model))


def _has_block(slot: n.ModuleSlot) -> bool:
    return slot.block is not None or any(_has_block(item) for item in slot.items)


def watch(
    model: nn.Module,
    found: Sequence[tuple[str, n.BlockInstance, nn.Module]],
    run: Callable[[], object],
    calls: Mapping[int, int] | None = None,
) -> list[Call]:
    """Run a model and keep what each attention module is given.

    With `calls` only the first module of each block is watched, for so many calls (by the block's id), and the run
    ends as soon as all of them have been seen.
    """
    seen: dict[int, Call] = {}
    left: dict[int, int] = {}
    hooks = []

    def hook(path: str, block: n.BlockInstance, key: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def keep(module: nn.Module, given: tuple[Any, ...]) -> None:
            names = [name for name, _ in block.parameters]
            if calls is None or left.get(key, 0) > 0:
                arguments = {name: _kept(value) for name, value in zip(names, given, strict=True)}
                seen[key] = Call(path, block, module, arguments)
                left[key] = left.get(key, 0) - 1
            if calls is not None and all(count <= 0 for count in left.values()):
                raise _Enough

        return keep

    for path, block, module in found:
        key = id(module) if calls is None else id(block)
        if calls is not None:
            left.setdefault(key, calls.get(key, 1))
        hooks.append(module.register_forward_pre_hook(hook(path, block, key)))
    try:
        with suppress(_Enough), torch.no_grad(), as_written():
            run()
    finally:
        for handle in hooks:
            handle.remove()
    return list(seen.values())


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
