"""A variant of a module that has the module's own parameters, and for its layers what they gave in the last call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from towerdsl.maps.guests import Guest, no_hook
from towerdsl.weights.wrapped import inside

#: What becomes of the result of a layer, given the argument that the variant has for it.
Restore = Callable[[Tensor, Tensor], Tensor]


class Results:
    """What each layer of a module gave, in the order of its calls; kept from one call of the module to the next."""

    def __init__(self, module: nn.Module) -> None:
        self.of: dict[int, list[Any]] = {}
        self.layers = list(_layers(module))
        self.kept = False

    def hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """Keep results; they are tensors that exist anyway."""
        for layer in self.layers:
            yield layer.register_forward_hook(Guest(layer, self._keep, no_hook))

    def start(self) -> None:
        """Forget what was kept: the module is called again."""
        self.of, self.kept = {}, True

    def _keep(self, layer: nn.Module, given: Any, result: Any) -> None:
        if self.kept:
            self.of.setdefault(id(layer), []).append(_detached(result))


def _detached(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.detach()
    return tuple(map(_detached, result)) if isinstance(result, tuple) else result


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that a module calls: its children, those in lists too."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from _layers(child)
        else:
            yield inside(child)


class Replayed(nn.Module):
    """A layer that gives what another one gave, call by call; what was not kept, that one computes."""

    def __init__(self, layer: nn.Module, results: Results, restore: Restore | None) -> None:
        super().__init__()
        self.results, self.restore, self.calls = results, restore, 0
        object.__setattr__(self, "layer", layer)  # it is the model's: its mode and its weights are not the variant's

    def forward(self, *given: Any, **options: Any) -> Any:
        kept = self.results.of.get(id(self.layer), [])
        if self.calls >= len(kept):
            return self.layer.forward(*given, **options)  # whoever has hooks on it has seen it
        result = kept[self.calls]
        self.calls += 1
        return result if self.restore is None else self.restore(result, given[0])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # a weight that is read: `self.words.weight`
            return getattr(self.__dict__["layer"], name)


def shadow(variant: type[nn.Module], module: nn.Module, results: Results, restore: Mapping[str, Restore]) -> nn.Module:
    """An instance of `variant` that shares the parameters and buffers of `module`, and replays its layers.

    `restore` says by the names of layers what becomes of their results.
    """
    with torch.device("meta"):
        made = variant()
    buffers: dict[str, Tensor | None] = {
        name: module.get_buffer(name) if name in module._buffers else _anything(module, x)
        for name, x in made._buffers.items()
        if x is not None
    }
    made._parameters = module._parameters
    made._buffers = buffers
    made._modules = {
        name: _replayed(child, results, restore.get(name))
        for name, child in module._modules.items()
        if child is not None
    }
    return made


def _anything(module: nn.Module, like: Tensor) -> Tensor:
    """An empty buffer that the variant alone has, for the device and the dtype of the model."""
    weight = next(module.parameters(), None)
    return torch.empty_like(like, device="cpu") if weight is None else weight.new_empty(like.shape)


def _replayed(layer: nn.Module, results: Results, restore: Restore | None) -> nn.Module:
    if isinstance(layer, nn.ModuleList):
        return nn.ModuleList([_replayed(x, results, restore) for x in layer])
    return Replayed(inside(layer), results, restore)


def rewind(made: nn.Module, training: bool) -> None:
    """The next call of the variant begins with the first results again, in this mode."""
    made.training = training
    for layer in made.modules():
        if isinstance(layer, Replayed):
            layer.calls = 0
