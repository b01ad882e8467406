"""The whole story: text --> spec --> names resolved --> types --> one form of each condition --> kernels --> source."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any
from weakref import WeakKeyDictionary

from towerdsl import configs
from towerdsl.budget import bounded
from towerdsl.diagnostics import Diagnostic, Diagnostics, TowerError, did_you_mean, expect
from towerdsl.emit.source import write_source
from towerdsl.ir import nodes as n
from towerdsl.ir.parameters import parameter_shapes, part_names
from towerdsl.kernels.base import Plan
from towerdsl.kernels.choose import DEVICES, attentions, choose
from towerdsl.lang import library
from towerdsl.lang import tree as t
from towerdsl.lowered.nodes import Lowered
from towerdsl.passes.infer import infer
from towerdsl.passes.inference import inference as inference_form
from towerdsl.passes.lists import spread
from towerdsl.passes.optional import optional_names
from towerdsl.passes.resolve import Resolved, resolve
from towerdsl.passes.simplify import simplify
from towerdsl.passes.static import Setting
from towerdsl.weights import CheckpointMap, check, parse_map
from towerdsl.weights.wrapped import held

#: Passes over the typed model, in order: each a pure function Model --> Model.
PASSES: tuple[Callable[[n.Model], n.Model], ...] = (simplify,)


class _Depth:
    """The limit of recursion, which all threads share: raised while any of them needs it, then as it was."""

    RAISED = 10_007  # a number of its own: another one was set by somebody else, and stays

    def __init__(self) -> None:
        self.lock, self.users, self.before = threading.Lock(), 0, 0

    def enter(self) -> None:
        with self.lock:
            now = sys.getrecursionlimit()
            if not self.users or now != self.RAISED:
                self.before = now
                sys.setrecursionlimit(max(now, self.RAISED))
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users and sys.getrecursionlimit() == self.RAISED:
                sys.setrecursionlimit(self.before)


_DEPTH = _Depth()


@contextmanager
def deep() -> Iterator[None]:
    """Room for formulas that are nested as deep as the language allows."""
    _DEPTH.enter()
    try:
        yield
    finally:
        _DEPTH.leave()


@dataclass(frozen=True)
class Compiled:
    """A model with a plan for each attention (by the id of its block). `typed` is the model before the passes."""

    model: n.Model
    typed: n.Model
    resolved: Resolved
    plans: Mapping[int, Plan]
    checkpoints: tuple[CheckpointMap, ...]

    @bounded()
    @deep()
    def source(self, standalone: bool = False) -> str:
        """The Python source of the model."""
        expect("standalone", standalone, bool, "true or false")
        maps = {m.name: m.to_data() for m in self.checkpoints}
        return write_source(self.model, self.lowered, self.resolved, maps, standalone)

    @cached_property
    def lowered(self) -> dict[int, Lowered]:
        """How each attention is computed, by the id of its block."""
        blocks = attentions(self.model.root)
        return {id(b): self.plans[id(b)].lowered(b.average) for b in blocks if b.average is not None}


#: What each class was compiled from, for those who look inside a model; a class is known by its name and its source.
COMPILED: WeakKeyDictionary[type, Compiled] = WeakKeyDictionary()


def compiled_from(model: object, otherwise: str = "make the model with `towerdsl.compile` or `load`") -> Compiled:
    """What a model that `towerdsl.compile` or `load` made was compiled from. Raises TowerError."""
    return compiled_in(model, otherwise)[1]


def compiled_in(
    model: Any, otherwise: str = "make the model with `towerdsl.compile` or `load`"
) -> tuple[Any, Compiled]:
    """The model that `towerdsl.compile` or `load` made, of what it is wrapped in, and what it was compiled from.

    Raises TowerError.
    """
    found = held(model, lambda module: type(module) in COMPILED) if hasattr(model, "_modules") else {}
    if len(found) > 1:
        message = f"{type(model).__name__} holds {len(found)} compiled models: {', '.join(f'`{x}`' for x in found)}"
        raise TowerError([Diagnostic("arguments", message, help="give one of them")])
    for one in found.values():
        return one, COMPILED[type(one)]
    message = f"{type(model).__name__} was not compiled here: nothing says what its attentions claim to be"
    raise TowerError([Diagnostic("arguments", message, help=otherwise)])


@bounded()
@deep()
def compile_spec(
    spec: str | Path,
    sizes: Mapping[str, Setting] | None = None,
    kernel: str | None = None,
    inference: bool = False,
    device: str = "cpu",
) -> Compiled:
    """Compile a spec: a path, a library name, or its text. Allocates no tensor. Raises TowerError."""
    resolved, model = understand(spec, sizes or {})
    if model is None:
        message = f"{resolved.spec.source.name} has no `flow`: it is a library of blocks, there is no model to compile"
        raise TowerError([Diagnostic("library", message, help="name a spec that uses it")])
    return plan(resolved, model, bool(sizes), kernel, inference, device)


@bounded()
@deep()
def plan(
    resolved: Resolved,
    model: n.Model,
    overridden: bool = False,
    kernel: str | None = None,
    inference: bool = False,
    device: str = "cpu",
) -> Compiled:
    """Run the passes and choose the kernels of a typed model. Raises TowerError."""
    expect("kernel", kernel, (str, NoneType), "the name of a kernel")
    expect("device", device, str, "the name of a device")
    expect("inference", inference, bool, "true or false")
    if device not in DEVICES:
        help = did_you_mean(device, DEVICES, f"devices are {', '.join(DEVICES)}")
        raise TowerError([Diagnostic("device", f"there is no device `{device}`", help=help)])
    typed = model
    with _said(resolved):
        for one_pass in (*PASSES, inference_form) if inference else PASSES:
            model = one_pass(model)
        plans = {id(block): choose(block.average, kernel, device) for block in attentions(model.root) if block.average}
        overridden = overridden or bool(resolved.said)
        return Compiled(model, typed, resolved, plans, _checkpoints(resolved, model, overridden))


@contextmanager
def _said(resolved: Resolved | None) -> Iterator[None]:
    """Mistakes with what a public configuration says of the sizes that they are about."""
    try:
        yield
    except TowerError as error:
        if resolved is None or not resolved.said:
            raise
        said = configs.origin(resolved.said)
        raise TowerError([replace(d, notes=(*d.notes, said)) for d in error.diagnostics]) from None


def free_lengths(spec: str | Path, settings: Mapping[str, Setting]) -> set[str]:
    """The names of the lengths that a spec leaves to run time with these settings. Raises TowerError.

    How many pairs a relation has is a length too, with the relation's name.
    """
    resolved, given = _resolved(spec)
    resolved, _ = spread(resolved, {**given, **settings}, Diagnostics())
    types = [x for _, d in resolved.spec.inputs for x in t.branches(d)]
    names = {a.name for d in types for a in d.axes if a.name is not None and a.size is None}
    names |= {name.text for name, d in resolved.spec.inputs if any(x.dtype == "relation" for x in t.branches(d))}
    return names - set(resolved.sizes)


def divided(spec: str | Path, settings: Mapping[str, Setting]) -> tuple[dict[str, Setting], dict[str, int]]:
    """Settings --> (sizes that they override, free lengths that they give). Raises TowerError."""
    free = free_lengths(spec, settings)
    lengths: dict[str, int] = {}
    for name, value in settings.items():
        if name not in free:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            message = f"`{name}` is the length of an axis, a whole number of at least 1, not {value}"
            raise TowerError([Diagnostic("size", message)])
        lengths[name] = value
    return {name: value for name, value in settings.items() if name not in free}, lengths


def size_names(spec: str | Path) -> set[str]:
    """The names of the sizes of a spec, those of the files that it uses too. Raises TowerError."""
    return set(_resolved(spec)[0].sizes)


def files_read(spec: str | Path) -> tuple[Path, ...]:
    """The files of a spec: itself, all that it uses, the configuration that stands for it, and the standard library.

    Raises TowerError.
    """
    file = configs.public_file(spec)
    return (*_resolved(spec)[0].files, *(() if file is None else (file,)), library.STANDARD)


@bounded()
@deep()
def _resolved(spec: str | Path) -> tuple[Resolved, Mapping[str, Setting]]:
    errors = Diagnostics()
    resolved, given = _read(spec, errors)
    errors.raise_if_any()
    assert resolved is not None  # otherwise something was reported
    return resolved, given


def _read(spec: str | Path, errors: Diagnostics) -> tuple[Resolved | None, Mapping[str, Setting]]:
    """A spec with its names resolved, and the sizes that it gets where a public configuration stands for it."""
    file = configs.public_file(spec)
    if file is None:
        return resolve(library.read(spec, errors), errors), {}
    return configs.found(file)


@bounded()
@deep()
def understand(spec: str | Path, sizes: Mapping[str, Setting]) -> tuple[Resolved, n.Model | None]:
    """Read, resolve and type a spec; a library of blocks has no model. Raises TowerError with every mistake."""
    errors = Diagnostics()
    resolved, given = _read(spec, errors)
    model = None
    if resolved is not None:
        if not resolved.spec.is_library:  # rules may be about sizes of the specs that use them
            configs.check(resolved, errors)
        resolved = replace(resolved, settings={**given, **sizes})
        resolved, settings = spread(resolved, resolved.settings, errors)
        model = infer(resolved, settings, errors)
    with _said(resolved):
        errors.raise_if_any()
    assert resolved is not None  # otherwise something was reported
    if model is None and not resolved.spec.is_library:
        raise AssertionError(f"{resolved.spec.source.name}: a mistake was found, but not reported")
    return resolved, model


def _checkpoints(resolved: Resolved, model: n.Model, overridden: bool) -> tuple[CheckpointMap, ...]:
    """The maps of the spec, checked against the model's parameters. Raises TowerError."""
    errors = Diagnostics()
    numbers: dict[str, Any] = {k: v for k, v in model.sizes if isinstance(v, int) and not isinstance(v, bool)}
    shapes = {name: shape for name, shape, _ in parameter_shapes(model.root)}
    built = part_names(model.root) | {part for name in shapes for part in name.split(".")}
    found = []
    for section in resolved.checkpoints:
        parsed = parse_map(section, errors, numbers)
        found.append(parsed)
        if len(errors):
            continue
        for d in check(parsed, shapes):
            # a part that a rule is about may be gone with these sizes, or be there only with others; or in another spec
            shared = d.span is not None and d.span.source != resolved.spec.source
            other = d.code == "checkpoint-unmatched" and (overridden or shared or _is_choice(d, resolved, built))
            if not other:
                errors.add(d.code, d.message, d.span, d.notes, d.help)
    errors.raise_if_any()
    return tuple(found)


def _is_choice(d: Diagnostic, resolved: Resolved, built: Collection[str]) -> bool:
    """Whether a rule names a part that is written in the spec, but not built with these sizes."""
    assert d.span is not None
    missing = {p for p in d.span.text.split(".") if "{" not in p} - {"weight", "bias", *built}
    if not missing or any(f"{part}_" in built for part in missing):  # a name of Python's is another one in the model
        return False
    return {re.sub(r"_\d+$", "", part) for part in missing} <= optional_names(resolved)
