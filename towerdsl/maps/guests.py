"""What a context puts into a module for its time, and a copy of the module that is made meanwhile goes without."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn


class Guest:
    """A hook on a module, or its `forward`, for some time. What is copied or pickled is the module as it is without."""

    def __init__(self, module: nn.Module, does: Callable[..., Any], instead: Callable[[nn.Module], Any]) -> None:
        self.module, self.does, self.instead = module, does, instead

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.does(*given, **named)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self.module), self.module)
        if copied is not self.module:
            after = _After(copied)
            memo[id(after)] = after
        return self.instead(copied)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.instead, (self.module,)


def no_hook(module: nn.Module) -> Callable[..., None]:
    """What a copy has for a hook, until it is taken out."""
    return _nothing


def own_forward(module: nn.Module) -> MethodType:
    """What a copy has for another `forward`, until it is taken out."""
    return MethodType(type(module).forward, module)


def _nothing(*given: Any, **named: Any) -> None:
    pass


class _After:
    """Lives as long as a copy is made, and then takes out of it what stands for guests."""

    def __init__(self, copied: nn.Module) -> None:
        self.copied = copied

    def __del__(self) -> None:
        module = self.copied
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [k for k, hook in hooks.items() if hook is _nothing]:
                del hooks[key]
                module._forward_hooks_with_kwargs.pop(key, None)
        if module.__dict__.get("forward") == own_forward(module):
            del module.forward
