"""What no data goes into is made at the first call: masks, angles of positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from towerdsl.runtime.captured import captured, plain

#: How many bytes one method keeps at most.
KEPT_BYTES = 2**25
#: How many results one method keeps at most.
KEPT_RESULTS = 64


def kept(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A method that makes a tensor of its arguments and the numbers of its module, once for each of these.

    The modules of a class share what was made. It is made anew while torch records the operations, or looks at each.
    """
    from functools import wraps

    known: dict[tuple[Any, ...], Tensor] = {}

    @wraps(make)
    def found(self: torch.nn.Module, *arguments: Any) -> Tensor:
        if captured() or plain() or torch._C._len_torch_dispatch_stack():
            return make(self, *arguments)
        numbers = [x for x in vars(self).values() if type(x) is int or type(x) is float]
        key = (*numbers, *arguments)
        made = known.get(key)
        if made is None:
            with torch.inference_mode(False):  # what is made there could not be used where gradients are wanted
                made = make(self, *arguments)
            size = made.untyped_storage().nbytes()
            held = sum(x.untyped_storage().nbytes() for x in [*known.values()])
            if len(known) == KEPT_RESULTS or held + size > KEPT_BYTES:
                known.clear()
            if size <= KEPT_BYTES:
                known[key] = made
        return made

    return found
