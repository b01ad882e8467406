"""What a model's blocks cost, and where its attentions stand: each block is walked once, however often it is called.

A block knows lengths by names of its own; the arguments of a call say what they are outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import RelationType, TensorType, Type
from towerdsl.kernels.work import ZERO, Work, dot_work, pairs_work, walk

ONCE = Size.of(1)


def volume(shape: Iterable[int]) -> int:
    """How many numbers a shape holds."""
    return reduce(lambda a, b: a * b, shape, 1)


Repetitions = tuple[frozenset[int], int]  # those meant, of how many
Loops = Mapping[str, Repetitions]
Parts = tuple[str | Repetitions, ...]


Layer = n.BlockInstance | n.Apply | n.Scan


@dataclass
class Occurrence:
    """A layer that moves information between positions, under a path of modules: an attention block, an operation
    with weights, or a loop along an axis.

    `lengths` are the free lengths of its block in those of the block above; `work` is that of one call in the former.
    """

    parts: Parts
    layer: Layer
    lengths: tuple[tuple[str, Size], ...]
    calls: Size
    work: Work

    @property
    def block(self) -> n.BlockInstance:
        """The attention block that it is an occurrence of."""
        assert isinstance(self.layer, n.BlockInstance)
        return self.layer

    @property
    def path(self) -> str:
        return ".".join(p if isinstance(p, str) else repetitions(*p) for p in self.parts)

    @property
    def modules(self) -> int:
        return volume(len(p[0]) for p in self.parts if not isinstance(p, str))


Occurrences = dict[Any, list[Occurrence]]


@dataclass(frozen=True)
class Place:
    """A block that is walked, its own lengths, and what has been found in it."""

    block: n.BlockInstance
    lengths: tuple[tuple[str, Size], ...]
    found: Occurrences


def repetitions(numbers: frozenset[int], total: int) -> str:
    """`*` for all, `3` for one, `{0,2,4}` or `{0-5}` for some."""
    if len(numbers) == 1:
        return str(min(numbers))
    if len(numbers) == total:
        return "*"
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [str(r[0]) if len(r) == 1 else f"{r[0]},{r[1]}" if len(r) == 2 else f"{r[0]}-{r[-1]}" for r in runs]
    if len(texts) > 8:
        texts = [*texts[:3], "...", texts[-1]]
    return "{" + ",".join(texts) + "}"


class Calls:
    """Walks the blocks of a model, each once, however often it is called."""

    def __init__(self, pairs: Mapping[int, Size] | None = None) -> None:
        #: how many pairs are computed for an attention, by the id of its `Average`; all, if it is not there
        self._pairs = pairs or {}
        self._occurrences: dict[int, list[Occurrence]] = {}
        self._work: dict[tuple[int, bool], Work] = {}

    @staticmethod
    def lengths(call: n.CallBlock) -> dict[str, Size]:
        """The block's own free lengths --> what they are for the caller."""
        found: dict[str, Size] = {}
        for (name, kind), argument in zip(call.block.parameters, call.args, strict=True):
            if isinstance(argument, n.SizeOf):
                found[name] = argument.size
            outer = argument.type
            if isinstance(kind, RelationType) and isinstance(argument, n.Relation):
                pairs = [(kind.source, argument.type.source), (kind.target, argument.type.target)]
                found[name] = Size.free(argument.name)  # how many pairs it has
            elif isinstance(kind, TensorType) and isinstance(outer, TensorType):
                pairs = list(zip(kind.axes, outer.axes, strict=True))
            else:
                pairs = []
            for inside, outside in pairs:
                for own in inside.size.free_names:
                    if inside.size == Size.free(own):
                        found[own] = outside.size
        return found

    # --- attentions ---------------------------------------------------------------------------------------------

    def occurrences(self, block: n.BlockInstance) -> list[Occurrence]:
        """Every attention in a block, in the order of calls: once for each place and set of lengths."""
        return [o for o in self.layers(block) if isinstance(o.layer, n.BlockInstance)]

    def layers(self, block: n.BlockInstance) -> list[Occurrence]:
        """Every layer in a block, in the order of calls: once for each place and set of lengths."""
        if id(block) not in self._occurrences:
            found: Occurrences = {}
            names = sorted({name for _, kind in block.parameters for name in _own_lengths(kind)})
            names += [name for name, kind in block.parameters if isinstance(kind, RelationType) or kind.scalar]
            own = Place(block, tuple((name, Size.free(name)) for name in dict.fromkeys(names)), found)
            if block.average is not None:
                _add(found, Occurrence((), block, own.lengths, ONCE, self.work(block, nested=False)))
            self._visit(own, block.body, {}, ONCE)
            for layer in _layers(v for v in block.results if isinstance(v, n.Value)):
                self._layer(own, layer, {}, ONCE)
            self._occurrences[id(block)] = [o for group in found.values() for o in group]
        return self._occurrences[id(block)]

    def _visit(self, place: Place, steps: Sequence[n.Step], loops: Loops, times: Size) -> None:
        for step in steps:
            if isinstance(step, n.Loop):
                for body, numbers in _bodies(step):
                    inner = {**loops, step.index: (numbers, len(step.bodies))}
                    self._visit(place, body, inner, times * len(numbers))
            elif isinstance(step, n.Scan):
                work = self._steps_work(place.block, step.body, loops, True).times(step.steps)
                _add(place.found, Occurrence((), step, place.lengths, times, work))
                self._visit(place, step.body, loops, times * step.steps)
            else:
                for layer in _layers(_values(step)):
                    self._layer(place, layer, loops, times)

    def _layer(self, place: Place, layer: n.CallBlock | n.Apply, loops: Loops, times: Size) -> None:
        module = layer.module
        path: Parts = (module.name, *(loops[index] for index in module.indices)) if module is not None else ()
        if isinstance(layer, n.Apply):
            _add(place.found, Occurrence(path, layer, place.lengths, times, Work(linear=layer.result.macs)))
            return
        lengths = self.lengths(layer)
        for o in self.layers(called(place.block, layer, loops)):
            outside = tuple((name, size.substitute(lengths)) for name, size in o.lengths)
            calls = o.calls.substitute(lengths) * times
            _add(place.found, Occurrence((*path, *o.parts), o.layer, outside, calls, o.work))

    # --- multiply-adds ------------------------------------------------------------------------------------------

    def work(self, block: n.BlockInstance, nested: bool = True) -> Work:
        """What one call of a block costs, in its own lengths; without `nested`, attentions in it are left out."""
        if (id(block), nested) not in self._work:
            values = [v for v in block.results if isinstance(v, n.Value)]
            total = self._steps_work(block, block.body, {}, nested) + self._values_work(block, values, {}, nested)
            self._work[id(block), nested] = total
        return self._work[id(block), nested]

    def _steps_work(self, block: n.BlockInstance, steps: Sequence[n.Step], loops: Loops, nested: bool) -> Work:
        total = Work()
        for step in steps:
            if isinstance(step, n.Loop):
                for body, numbers in _bodies(step):
                    inner = {**loops, step.index: (numbers, len(step.bodies))}
                    total += self._steps_work(block, body, inner, nested).times(len(numbers))
            elif isinstance(step, n.Scan):
                total += self._steps_work(block, step.body, loops, nested).times(step.steps)
            else:
                total += self._values_work(block, _values(step), loops, nested)
                if isinstance(step, n.Evaluate):
                    total += pairs_work(step.average, self._pairs.get(id(step.average)))
        return total

    def _values_work(self, block: n.BlockInstance, values: Iterable[n.Value], loops: Loops, nested: bool) -> Work:
        total = Work()
        for value in walk(values):
            if isinstance(value, n.Apply):
                total += Work(linear=value.result.macs)
            elif isinstance(value, n.Dot):
                total += Work(linear=dot_work(value))
            elif isinstance(value, n.CallBlock) and (nested or value.block.average is None):
                total += self.work(called(block, value, loops), nested).outside(self.lengths(value))
        return total


def called(block: n.BlockInstance, call: n.CallBlock, loops: Loops) -> n.BlockInstance:
    """The block that a call in `block` runs. Passes rewrite the module tree, so that is where it is read."""
    slot = dict(block.modules)[call.module.name]
    for index in call.module.indices:
        slot = slot.items[min(loops[index][0])]
    assert slot.block is not None
    return slot.block


def _own_lengths(kind: Type) -> set[str]:
    axes = kind.axes if isinstance(kind, TensorType) else (kind.source, kind.target)
    return {name for a in axes for name in a.size.free_names}


def merged(alike: Iterable[Occurrence]) -> list[Occurrence]:
    """Occurrences of layers that are alike, as few as name all of them."""
    found: Occurrences = {}
    for o in alike:
        _add(found, o, alike=True)
    return [o for group in found.values() for o in group]


def _add(found: Occurrences, new: Occurrence, alike: bool = False) -> None:
    """Add an occurrence, together with those that differ from it in the number of one repetition only."""
    skeleton = tuple(p if isinstance(p, str) else p[1] for p in new.parts)
    group = found.setdefault((0 if alike else id(new.layer), skeleton, new.lengths), [])
    for old in group:
        different = [k for k, (a, b) in enumerate(zip(old.parts, new.parts, strict=True)) if a != b]
        if not different:
            old.calls = old.calls + new.calls
            return
        if len(different) == 1 and old.calls * new.modules == new.calls * old.modules:
            k = different[0]
            a, b = old.parts[k], new.parts[k]
            assert not isinstance(a, str) and not isinstance(b, str)
            if not a[0] & b[0]:
                old.parts = (*old.parts[:k], (a[0] | b[0], a[1]), *old.parts[k + 1 :])
                old.calls = old.calls + new.calls
                return
    group.append(replace(new))


def _bodies(loop: n.Loop) -> list[tuple[tuple[n.Step, ...], frozenset[int]]]:
    """Each body that is another, with the numbers of its repetitions."""
    numbers: dict[int, set[int]] = {}
    for number, body in enumerate(loop.bodies):
        numbers.setdefault(id(body), set()).add(number)
    return [(loop.bodies[min(found)], frozenset(found)) for found in numbers.values()]


def _values(step: n.Set | n.Evaluate) -> list[n.Value]:
    """The values of a statement; of an attention its sources, the rest is `pairs_work`."""
    if isinstance(step, n.Set):
        return [step.value]
    return [v for v in (step.average.query, step.average.key, step.average.value) if v is not None]


def mixes(value: n.Apply) -> bool:
    """Whether an operation with weights moves information between positions."""
    moves = value.result.moves or ()
    return value.result.macs != ZERO and any(m.reach is not None and not m.reach.features for m in moves)


def _layers(values: Iterable[n.Value]) -> list[n.CallBlock | n.Apply]:
    """The calls of blocks, and the operations that mix positions, in the order in which they are computed."""
    order: list[n.CallBlock | n.Apply] = []
    seen: set[int] = set()
    stack = [(value, False) for value in reversed(list(values))]
    while stack:
        value, ready = stack.pop()
        if ready:
            assert isinstance(value, (n.CallBlock, n.Apply))
            order.append(value)
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, n.CallBlock) or (isinstance(value, n.Apply) and mixes(value)):
                stack.append((value, True))
            stack.extend((x, False) for x in reversed(value.operands))
    return order
