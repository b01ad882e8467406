"""Maps of a model's attentions while it runs: weights are computed beside the model, which computes as ever.

Hooks keep what an attention is given and what its layers give. When it is done, a class that the emitter writes from
the same typed block computes the weights of the queries that were asked for, with these layers' results for the
layers: no projection is computed twice, and no kernel is exchanged.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from towerdsl.claims import probe as probes
from towerdsl.claims.capture import as_written
from towerdsl.claims.condition import bind
from towerdsl.compiler import Compiled, compile_spec, compiled_in, deep
from towerdsl.diagnostics import expect
from towerdsl.explain.gather import written_score
from towerdsl.ir import nodes as n
from towerdsl.ir.parameters import parameter_shapes
from towerdsl.ir.placed import Cut
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis
from towerdsl.lowered.nodes import InBlocks
from towerdsl.lowered.tiling import inside_blocks
from towerdsl.maps.data import AttentionMap, Grid, Maps
from towerdsl.maps.guests import Guest, no_hook
from towerdsl.maps.places import Place, every_place, matching, mistake
from towerdsl.maps.replay import Restore, Results, rewind, shadow
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.runtime.blocks import joined
from towerdsl.weights.wrapped import inside, plain

#: A map has no more numbers than this: a gibibyte in float32.
MOST = 2**28
#: So many weights are computed at once, of all heads: of them those that were asked for are kept.
AT_ONCE = 2**24

Query = int | Sequence[int]


@contextmanager
def probe(
    model: nn.Module,
    at: str = "*",
    heads: int | Sequence[int] | None = None,
    rows: int | Sequence[Query] | None = None,
    gradients: bool = False,
    spec: str | Path | None = None,
    sizes: Mapping[str, Any] | None = None,
) -> Iterator[Maps]:
    """The weights of a compiled model's attentions, for every call of the model inside.

        with towerdsl.probe(model, at="layer.*.attention", heads=[0, 3], rows=[0, 17]) as maps:
            model(ids)
        maps["layer.2.attention"][0].weights  # [B, H, R, K]

    `at` is a pattern of module names. `rows` are the queries wanted, numbers or coordinates; negative ones count from
    the end; left out, all. With `gradients`, each map has the gradient of what is differentiated by the weights, once
    `backward()` has passed its attention, inside or after the `with`. What the model gives is the same to the last bit,
    and outside it runs as if nothing had been there; so does a copy that is made inside. Weights are those before
    dropout. What `torch.compile` made of the model runs as it is written inside, not compiled.

    A model of a class that was imported from compiled source needs its `spec`, and the `sizes` that were overridden.
    Raises TowerError where nothing is called so, where there is no such head or query, where a map would have more
    than 2**28 numbers, and where the model is not of the spec.
    """
    expect("model", model, nn.Module, "a module")
    expect("at", at, str, "a pattern of names of modules")
    expect("gradients", gradients, bool, "true or false")
    expect("sizes", sizes, (Mapping, NoneType), "a mapping from names to sizes")
    heads = _numbers("heads", heads)
    rows = _numbers("rows", rows, coordinates=True)
    model, compiled = _compiled(model, spec, sizes or {})
    found = matching(every_place(compiled, model), at)
    for place in found:
        _check_heads(place, heads)
    maps, known = Maps(), {id(x.block): _Attention.of(compiled, x.block, gradients) for x in found}
    with ExitStack() as stack:
        stack.enter_context(as_written())
        for place in found:
            for handle in _Watch(known[id(place.block)], place, heads, rows, maps).hooks():
                stack.callback(handle.remove)
        yield maps


def _numbers(name: str, given: object, coordinates: bool = False) -> list[Any] | None:
    """Whole numbers, or one, of numpy too, as a list; None stays. Raises TowerError."""

    def number(x: object) -> Any:
        if coordinates and isinstance(x, Sequence) and not isinstance(x, str | bytes):
            return tuple(map(operator.index, x))
        return operator.index(x)  # type: ignore[arg-type]

    if given is None:
        return None
    try:
        if not hasattr(given, "__iter__") or getattr(given, "shape", None) == ():
            return [operator.index(given)]  # type: ignore[arg-type]
        if not isinstance(given, str | bytes | Mapping):
            return [number(x) for x in given]
    except TypeError:
        pass
    what = "whole numbers, or coordinates of them" if coordinates else "whole numbers"
    raise mistake(f"`{name}` are {what}, not {given!r:.60}", f"write {name}=[0, 3], or leave it out for all")


def _compiled(model: nn.Module, spec: str | Path | None, sizes: Mapping[str, Any]) -> tuple[nn.Module, Compiled]:
    """A model without what it is wrapped in, and what it was compiled from. Raises TowerError."""
    if spec is None:
        return compiled_in(model, 'name what it was compiled from: probe(model, spec="bert", sizes={"depth": 6})')
    model = inside(model)
    name = type(model).__name__
    compiled = compile_spec(spec, sizes)
    expected = {key: shape for key, shape, learned in parameter_shapes(compiled.model.root) if learned}
    found = {plain(model, key): tuple(x.shape) for key, x in model.named_parameters(remove_duplicate=False)}
    for key in (*expected, *found):
        if expected.get(key) != found.get(key):
            has, wanted = (f"is {list(x[key])}" if key in x else "is not there" for x in (found, expected))
            message = f"{name} is not a model of {compiled.model.source_name}: `{key}` {has}, in the spec it {wanted}"
            raise mistake(message, "give the sizes that it was compiled with")
    return model, compiled


def _check_heads(place: Place, heads: Sequence[int] | None) -> None:
    wrong = [h for h in heads or () if not 0 <= h < max(place.heads, 1)]
    if wrong or heads == []:
        has = f"heads 0 to {place.heads - 1}" if place.heads else "no heads: leave `heads` out, or ask for 0"
        message = f"`{place.path}` has no head {wrong[0]}" if wrong else f"no head of `{place.path}` is asked for"
        raise mistake(message, f"it has {has}")


@dataclass(frozen=True)
class _Attention:
    """What all modules of one block have in common: the classes that compute its weights."""

    block: n.BlockInstance
    average: n.Average
    kernel: str
    listed: bool  # whether weights are those of listed pairs
    variant: type[nn.Module]
    seen: type[nn.Module] | None  # for gradients
    restore: Mapping[str, Restore]

    @staticmethod
    def of(compiled: Compiled, block: n.BlockInstance, gradients: bool) -> _Attention:
        """The classes for a block, with one for gradients if they are wanted."""
        assert block.average is not None
        listed = probes.pairs(compiled, block)
        return _Attention(
            block,
            block.average,
            compiled.plans[id(block)].kernel.name,
            listed is not None,
            (listed or probes.rows(compiled, block)).module,
            probes.seen(compiled, block).module if gradients else None,
            _in_blocks(compiled, block),
        )


class _Watch:
    """One module of an attention: keeps what it is given, and adds a map after each of its calls."""

    def __init__(
        self,
        attention: _Attention,
        place: Place,
        heads: Sequence[int] | None,
        rows: Sequence[Query] | None,
        maps: Maps,
    ) -> None:
        self.attention, self.average = attention, attention.average
        self.path, self.module, self.head_count = place.path, place.module, place.heads
        self.rows, self.maps, self.calls = rows, maps, 0
        self.shown: Tensor | None = None  # which of the listed pairs are in the last map
        wanted = range(place.heads) if heads is None else heads
        self.heads = () if self.average.heads is None else tuple(wanted)
        module = place.module
        self.results = Results(module)
        self.variant = shadow(attention.variant, module, self.results, attention.restore)
        self.seen = None if attention.seen is None else shadow(attention.seen, module, Results(module), {})
        self.signature = inspect.signature(type(module).forward.__get__(module))  # that of an instance may be exchanged

    def hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """Hooks on the module and on its layers."""
        start = Guest(self.module, lambda module, given: self.results.start(), no_hook)
        yield self.module.register_forward_pre_hook(start)
        yield from self.results.hooks()
        yield self.module.register_forward_hook(Guest(self.module, self._done, no_hook), with_kwargs=True)

    def _done(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        self.results.kept = False
        self._check_state()
        bound = self.signature.bind(*given, **named)
        bound.apply_defaults()
        arguments = list(bound.arguments.values())
        with torch.no_grad():
            found = self._map(arguments)
        self.maps.append(found)
        self.results.of = {}
        self.calls += 1
        if self.seen is not None:
            self._differentiate(found, arguments, result)

    def _check_state(self) -> None:
        """Refuse what computing it again would not give again. Raises TowerError."""
        message, help = None, "call the model after `model.eval()`"
        if self.module.training and NORMALIZERS[self.average.normalize].draws:
            message = f"`{self.path}` draws its weights while it is trained, and another draw is another map"
        elif self.module.training and self.seen is not None:
            message = f"gradients by the weights of `{self.path}` are those of a model that is not being trained"
        elif self.seen is not None and "forward" in self.module.__dict__:
            message = f"gradients by the weights of `{self.path}` are those of the model as it is: its heads are scaled"
            help = "leave out the gates of its heads, or the gradients"
        if message is not None:
            raise mistake(message, help)

    def _differentiate(self, found: AttentionMap, arguments: list[Any], result: Any) -> None:
        """Once the gradient of a result of the module is known, add what it is by the weights."""
        given, shown = [x.detach() if isinstance(x, Tensor) else x for x in arguments], self.shown
        device = found.weights.device.type
        cast = torch.autocast(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        for k, y in enumerate(result if isinstance(result, tuple) else (result,)):
            if isinstance(y, Tensor) and y.requires_grad:
                y.register_hook(partial(self._passed, found, given, shown, cast, k))  # type: ignore[no-untyped-call]

    def _passed(
        self,
        found: AttentionMap,
        arguments: list[Any],
        shown: Tensor | None,
        cast: torch.autocast,
        k: int,
        gradient: Tensor,
    ) -> None:
        leaves: list[Tensor] = []

        def seen(weights: Tensor) -> Tensor:
            leaves.append(weights.detach().requires_grad_())
            return leaves[-1]

        assert self.seen is not None
        self.seen.seen = seen  # type: ignore[assignment]
        rewind(self.seen, False)
        with torch.enable_grad(), cast:
            again = self.seen(*arguments)
            y = again[k] if isinstance(again, tuple) else again
        whole = torch.autograd.grad(y, leaves, gradient, allow_unused=True)[0] if y.requires_grad else None
        if whole is None:  # a result that is not made of the average
            return
        if shown is not None:
            of_weights = self._of_heads(whole, 1)[..., shown]
        else:
            of_heads = self._of_heads(whole, len(found.queries.sizes) + len(found.keys.sizes))
            of_weights = of_heads.reshape(*of_heads.shape[:2], found.queries.count, found.keys.count)[:, :, found.rows]
        found.gradient = of_weights if found.gradient is None else found.gradient + of_weights

    def _map(self, arguments: list[Any]) -> AttentionMap:
        average = self.average
        parameters = self.attention.block.parameters
        lengths = bind(parameters, dict(zip((name for name, _ in parameters), arguments, strict=True)))
        queries, keys = _grid(average.positions, lengths), _grid(average.over, lengths)
        rows = self._rows(queries)
        found: dict[str, Any]
        if self.attention.listed:
            found = self._of_pairs(arguments, rows)
        else:
            batch = math.prod(_length(a, lengths) for a in average.batch)
            found = {"weights": self._of_rows(arguments, queries, keys, rows, batch)}
        return AttentionMap(
            path=self.path,
            call=self.calls,
            queries=queries,
            keys=keys,
            rows=torch.tensor(rows, dtype=torch.long, device=found["weights"].device),
            heads=self.heads,
            score=written_score(self.attention.block),
            normalize=average.normalize,
            kernel=self.attention.kernel,
            **found,
        )

    def _rows(self, queries: Grid) -> list[int]:
        """The numbers of the queries wanted. Raises TowerError."""
        if self.rows is None:
            return list(range(queries.count))
        found = []
        for row in self.rows:
            if isinstance(row, Sequence):
                place = tuple(row)
                within = len(place) == len(queries.sizes)
                within = within and all(-size <= x < size for x, size in zip(place, queries.sizes, strict=True))
            else:
                number = operator.index(row)  # of numpy too
                within = -queries.count <= number < queries.count
                place = queries.place(number % queries.count) if within else ()
            if not within:
                has = " x ".join(map(str, queries.sizes)) or "1"
                message = f"`{self.path}` has no query {row} in its call {self.calls}"
                raise mistake(message, f"it has {has} queries")
            found.append(queries.position([x % size for x, size in zip(place, queries.sizes, strict=True)]))
        return found

    def _of_pairs(self, arguments: list[Any], rows: list[int]) -> dict[str, Tensor]:
        """The weights [B, H, E] of the listed pairs of some queries, and these pairs."""
        weights, query, key, shown = self._called(arguments)
        if self.rows is not None:
            shown = shown & torch.isin(query, torch.tensor(rows, device=query.device))
        self.shown = shown
        return {"weights": self._of_heads(weights, 1)[..., shown], "query": query[shown], "key": key[shown]}

    def _of_rows(self, arguments: list[Any], queries: Grid, keys: Grid, rows: list[int], batch: int) -> Tensor:
        """The weights [B, H, R, K], of so many queries at a time as fit. Raises TowerError where all do not."""
        heads = max(len(self.heads), 1)
        if batch * heads * len(rows) * keys.count > MOST:
            size = " x ".join(map(str, (batch, heads, len(rows), keys.count)))
            most = MOST // (batch * heads * keys.count)
            help = f"ask for at most {most} rows" if most else "ask for fewer heads, and for one row at a time"
            message = f"the weights of `{self.path}` are {size} numbers, more than {MOST}"
            raise mistake(message, help)
        every = batch * max(self.head_count, 1)
        found = []
        for turn in self._turns(queries, rows, max(AT_ONCE // max(every * keys.count, 1), 1)):
            (weights,) = self._called(arguments, *turn)
            weights = self._of_heads(weights, len(queries.sizes) + len(keys.sizes))
            found.append(weights.reshape(*weights.shape[:2], math.prod(map(len, turn)), keys.count))
        return torch.cat(found, 2) if found else torch.zeros(batch, heads, 0, keys.count)

    def _turns(self, queries: Grid, rows: list[int], most: int) -> Iterator[list[list[int]]]:
        """Positions along each axis of the queries, so that all turns together give the rows in their order."""
        if not queries.sizes:
            yield from ([] for _ in rows)
        elif len(queries.sizes) == 1:
            for start in range(0, max(len(rows), 1), most):
                yield [rows[start : start + most]]
        elif self.rows is None:
            first, *rest = queries.sizes
            step = max(most // math.prod(rest), 1)
            for start in range(0, first, step):
                yield [list(range(start, min(start + step, first))), *(list(range(size)) for size in rest)]
        else:
            yield from ([[x] for x in queries.place(row)] for row in rows)
            if not rows:
                yield [[] for _ in queries.sizes]

    def _called(self, arguments: list[Any], *rows: list[int]) -> tuple[Tensor, ...]:
        """What the variant gives for the arguments of the call."""
        device = next((x.device for x in arguments if isinstance(x, Tensor)), None)
        rewind(self.variant, self.module.training)
        found = self.variant(*arguments, *(torch.tensor(x, dtype=torch.long, device=device) for x in rows))
        return found if isinstance(found, tuple) else (found,)

    def _of_heads(self, weights: Tensor, behind: int) -> Tensor:
        """[batch..., head, ...] --> [B, H, ...] of the heads wanted; `behind` dims stand behind heads."""
        lead = weights.shape[: weights.ndim - behind]
        count = lead[-1] if self.average.heads is not None else 1
        entries = lead[:-1] if self.average.heads is not None else lead
        weights = weights.reshape(entries.numel(), count, *weights.shape[len(lead) :])
        return weights if self.heads in ((), tuple(range(count))) else weights[:, list(self.heads)]


def _grid(axes: Sequence[Axis], lengths: dict[str, int]) -> Grid:
    return Grid(tuple(a.name or "position" for a in axes), tuple(_length(a, lengths) for a in axes))


def _length(axis: Axis, lengths: dict[str, int]) -> int:
    found = axis.size.substitute({name: Size.of(length) for name, length in lengths.items()}).integer
    assert found is not None, f"{axis} has no length"
    return found


@deep()
def _in_blocks(compiled: Compiled, block: n.BlockInstance) -> dict[str, Restore]:
    """The layers that a kernel computes inside blocks of positions, and how their results are put together again."""
    average, plan = block.average, compiled.plans[id(block)]
    assert average is not None
    body = plan.lowered(average).body
    found: dict[str, Restore] = {}
    if not (isinstance(body, InBlocks) and body.at_sources):
        return found
    for side, value in (("i", average.query), ("j", average.key), ("j", average.value)):
        while isinstance(value, n.Apply) and inside_blocks(value):
            if value.module is not None:
                found[value.module.name] = partial(_restored, body.cuts, side, value.args[0].axes)
            value = value.args[0]
    return found


def _restored(cuts: Sequence[Cut], side: str, axes: Sequence[Axis], result: Tensor, given: Tensor) -> Tensor:
    """[before..., block, place, after...] --> the axes of the argument."""
    shown = [(c, a.on("")) for c in cuts if (a := c.query if side == "i" else c.key) is not None]
    cut = [a for _, a in shown]
    dim = min(axes.index(a) for a in cut)
    order = [*axes[:dim], *cut, *(a for a in axes[dim:] if a not in cut)]
    sizes = tuple(None if c.whole else c.size.integer for c, _ in shown)
    lengths = tuple(given.shape[axes.index(a)] for a in cut)
    shift, wrap = tuple(c.shift for c, _ in shown), tuple(c.wraps for c, _ in shown)
    found = joined(result, dim, sizes, lengths, shift, wrap)
    return found.permute([order.index(a) for a in axes])
