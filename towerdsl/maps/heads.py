"""Heads that are left out: a model while the averages of some heads count less, or nothing.

Every attention is written once more, from the block that it was compiled from, with a number for each head that its
average is multiplied by before heads are merged (by concat, mean or sum). While a context lasts, modules compute that
instead, with their own weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from towerdsl.claims import probe
from towerdsl.claims.capture import as_written
from towerdsl.compiler import compiled_in
from towerdsl.maps.guests import Guest, own_forward
from towerdsl.maps.places import Place, every_place, matching, mistake


@contextmanager
def scaled_heads(model: nn.Module, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """While the context lasts, the average of each head is multiplied by its gate before heads are merged.

        y[i] = merge over heads h of gate[h] * y[h, i]

    `gates` are by the name of an attention's module, as in `named_modules()`, or a pattern of names; each is [heads].
    They are read at every call, may change in between, and get gradients: with gates of ones that require them, the
    mean size of d loss / d gate over inputs is the importance that Michel et al. 2019 (arXiv:1905.10650), section 4.1,
    prune heads by.
    Where one context is inside another, the inner one counts for the modules that it names. Raises TowerError for a
    model that was not compiled here, a name that it does not have, and an attention without heads.
    """
    model, compiled = compiled_in(model)
    known = every_place(compiled, model)
    chosen: dict[str, tuple[Place, Tensor]] = {}
    for pattern, gate in gates.items():
        for place in _with_heads(known, pattern):
            if gate.shape != (place.heads,):
                raise mistake(
                    f"`{place.path}` has {place.heads} heads, its gates are a tensor of shape {tuple(gate.shape)}",
                    f"give one number for each head, for instance torch.ones({place.heads})",
                )
            chosen[place.path] = place, gate
    written: dict[int, Callable[..., Any]] = {}
    with ExitStack() as stack:
        stack.enter_context(as_written())
        for place, gate in chosen.values():
            key = id(place.block)
            if key not in written:
                written[key] = probe.gated(compiled, place.block).module.forward
            stack.callback(_exchanged(place.module, written[key], gate))
        yield


@contextmanager
def without_heads(model: nn.Module, heads: Mapping[str, Iterable[int]]) -> Iterator[None]:
    """While the context lasts, the averages of these heads are zeros: xi[h] = 0 for them, 1 for all others in

        MHAtt(x, q) = sum over heads h of xi[h] * Att[h](x, q)

    (Michel et al. 2019, arXiv:1905.10650, section 2.3). `heads` are numbers from 0 on, by the name of an attention's
    module or a pattern of names: `{"layer.*.attention": [0, 3]}`. Only averages are zero: an output projection keeps
    its bias. Raises TowerError as `scaled_heads` does, and for a head that is not there.
    """
    known = _places(model)
    gates: dict[str, Tensor] = {}
    for pattern, numbers in heads.items():
        numbers = list(numbers)
        for place in _with_heads(known, pattern):
            gate = gates.setdefault(place.path, torch.ones(place.heads))
            for head in numbers:
                if not 0 <= head < place.heads:
                    last = place.heads - 1
                    raise mistake(f"`{place.path}` has no head {head}", f"its heads are 0 to {last}" if last else None)
                gate[head] = 0.0
    with scaled_heads(model, gates):
        yield


@torch.no_grad()
def head_importance(
    model: nn.Module, loss: Callable[[nn.Module], Tensor | float], pattern: str = "*"
) -> dict[str, Tensor]:
    """How much a loss grows when one head is left out, for each head of each attention:

        importance[h] = loss(model without h) - loss(model)

    (Michel et al. 2019, arXiv:1905.10650, section 3.2, who measure BLEU and accuracy instead of a loss). `loss` is
    called with the model, once for each head and once with all of them, without gradients. Result: by the name of each
    attention that `pattern` names and that has heads, float64 [heads], in the unit of the loss. A head that serves has
    a positive number. Raises TowerError as `scaled_heads` does, and for a model in training, whose dropout is another
    one in every call.
    """
    if model.training:
        raise mistake("dropout would be another one in every call of the loss", "call model.eval() first")
    known = _places(model)
    with_heads = [place for place in known if place.heads]
    if not with_heads:
        raise mistake("no attention of this model has heads")
    chosen = _with_heads(with_heads if pattern == "*" else known, pattern)
    gates = {place.path: torch.ones(place.heads) for place in chosen}
    before = float(loss(model))
    found = {}
    with scaled_heads(model, gates):
        for path, gate in gates.items():
            changes = []
            for head in range(len(gate)):
                gate[head] = 0.0
                changes.append(float(loss(model)) - before)
                gate[head] = 1.0
            found[path] = torch.tensor(changes, dtype=torch.float64)
    return found


def _places(model: nn.Module) -> list[Place]:
    model, compiled = compiled_in(model)
    return every_place(compiled, model)


def _with_heads(known: Sequence[Place], pattern: str) -> list[Place]:
    """The attentions that a pattern names, at least one, each with heads."""
    found = matching(known, pattern)
    for place in found:
        if not place.heads:
            raise mistake(
                f"`{place.path}` has no heads: its average is one vector for each query",
                "name attentions that have heads; to see what this one does, change what it is given",
            )
    return found


def _exchanged(module: nn.Module, forward: Callable[..., Any], gate: Tensor) -> Callable[[], None]:
    """Let a module compute `forward` with a gate behind its arguments; returns what undoes it."""
    before = module.__dict__.get("forward")

    def gated(*arguments: Any) -> Any:
        return forward(module, *arguments, gate)

    def undo() -> None:
        if before is None:
            del module.forward
        else:
            module.forward = before

    module.forward = Guest(module, gated, own_forward)
    return undo
