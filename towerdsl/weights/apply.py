"""Checkpoint maps at work: public tensors -> a model's state, and back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from towerdsl.diagnostics import Diagnostic, TowerError
from towerdsl.weights.equations import (
    Equation,
    Joined,
    Leaf,
    Shape,
    Stacked,
    Transposed,
    Tree,
    expand,
    leaves,
    some_names,
)
from towerdsl.weights.report import Report, printable
from towerdsl.weights.rules import CheckpointMap
from towerdsl.weights.wrapped import spellings


def to_model(
    map: CheckpointMap,
    public: Mapping[str, Tensor],
    model_shapes: Mapping[str, Shape],
    *,
    dtypes: Mapping[str, torch.dtype] | None = None,
    same: Mapping[str, str] | None = None,
    optional: Collection[str] = (),
    prefixes: Collection[str] = (),
) -> tuple[dict[str, Tensor], Report]:
    """The model's state from public tensors (views where possible), and what was and was not found.

    `same` maps a parameter's further names to its first; those in `optional` may be absent; `prefixes` are those that
    names may have beside the map's;
    with `dtypes`, an integer tensor for a float parameter, or the reverse, is reported and left out.
    Raises TowerError if the map is wrong for these shapes.
    """
    expansion = expand(map, model_shapes)
    if expansion.errors:
        raise TowerError(expansion.errors)
    same = same or {}
    spelled, rival = _spelled(map, expansion.public, public, prefixes)
    if rival is not None:
        raise TowerError(
            [
                Diagnostic(
                    "checkpoint-which",
                    f"the checkpoint has this model twice: {rival}",
                    help="give the tensors of one of them, by name",
                )
            ]
        )
    here = {name: public[original] for name, original in spelled.items()}
    good, mismatched, mistyped = _fitting(expansion.equations, here, dtypes or {})
    state, sources, conflicts = _solve(good, here, same)
    overflowed = {
        leaf.name: str(dtypes[name]).removeprefix("torch.")
        for name, tensor in state.items()
        if dtypes is not None and overflows(tensor, dtypes[name])
        for leaf in leaves(sources[name].public)
        if overflows(here[leaf.name], dtypes[name])
    }

    covering: dict[str, list[Equation]] = {same.get(name, name): [] for name in model_shapes}
    for equation in expansion.equations:
        for leaf in leaves(equation.ours):
            covering[same.get(leaf.name, leaf.name)].append(equation)
    unfilled = [name for name in covering if name not in state and name not in optional]
    needed = {leaf.name: None for name in unfilled for e in covering[name][:1] for leaf in leaves(e.public)}
    used = {leaf.name for e in good for leaf in leaves(e.public)} | set(needed) | set(mismatched) | set(mistyped)
    ignored, surplus, unexpected = _left_over(map, expansion.public, spelled, public, used)
    report = Report(
        format=map.name or None,
        parameters=len(covering),
        loaded=tuple(
            (spelled[p.name], same.get(o.name, o.name)) for e in good for o in leaves(e.ours) for p in leaves(e.public)
        ),
        missing=tuple(name for name in needed if name not in spelled),
        uncovered=tuple(name for name in unfilled if not covering[name]),
        unfilled=tuple(unfilled),
        unexpected=unexpected,
        surplus=surplus,
        mismatched=tuple((spelled[n], *shapes) for n, shapes in mismatched.items()),
        mistyped=tuple((spelled[n], *kinds) for n, kinds in mistyped.items()),
        conflicts=tuple(tuple(spelled[n] for n in names) for names in conflicts),
        overflowed=tuple((spelled[n], dtype) for n, dtype in overflowed.items()),
        ignored=ignored,
    )
    return state, report


def _fitting(
    equations: Iterable[Equation], here: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
) -> tuple[list[Equation], dict[str, tuple[Shape, Shape]], dict[str, tuple[str, str]]]:
    """The equations whose public tensors are all here and fit, and the names that have another shape or kind."""
    good: list[Equation] = []
    mismatched: dict[str, tuple[Shape, Shape]] = {}
    mistyped: dict[str, tuple[str, str]] = {}
    for equation in equations:
        kinds = {_kind(dtypes[leaf.name]) for leaf in leaves(equation.ours) if leaf.name in dtypes}
        fits = True
        for leaf in leaves(equation.public):
            tensor = here.get(leaf.name)
            fits = fits and tensor is not None
            if tensor is None:
                continue
            if tuple(tensor.shape) != leaf.shape:
                mismatched[leaf.name] = leaf.shape, tuple(tensor.shape)
                fits = False
            elif kinds and kinds != {_kind(tensor.dtype)}:
                mistyped[leaf.name] = " and ".join(sorted(kinds)), str(tensor.dtype).removeprefix("torch.")
                fits = False
        good += [equation] if fits else []
    return good, mismatched, mistyped


def _solve(
    equations: Iterable[Equation], here: Mapping[str, Tensor], same: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, Equation], list[tuple[str, ...]]]:
    """The parameters that the equations give, which gave each, and the public names that give one different values."""
    state: dict[str, Tensor] = {}
    source: dict[str, Equation] = {}
    conflicts: dict[tuple[str, ...], None] = {}
    for equation in equations:
        for alias, tensor in _split(equation.ours, _join(equation.public, here)):
            name = same.get(alias, alias)
            if name not in state:
                state[name], source[name] = tensor, equation
            elif not equal(state[name], tensor):
                names = [leaf.name for e in (source[name], equation) for leaf in leaves(e.public)]
                conflicts.setdefault(tuple(dict.fromkeys(names)))
    return state, source, list(conflicts)


def _left_over(
    map: CheckpointMap, expected: Iterable[str], spelled: Mapping[str, str], public: Iterable[str], used: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The public names that are not used: (to be ignored, of layers that the model lacks, others)."""
    known = {spelled[name] for name in used if name in spelled}
    plain = {original: name for name, original in spelled.items()}
    # encoder.layer.7.x is surplus if encoder.layer.0.x is expected
    forms = {_without_numbers(name) for name in expected}
    kinds: tuple[list[str], list[str], list[str]] = [], [], []
    for original in public:
        if original not in known:
            name = plain.get(original, original)
            kinds[0 if _ignored(map, name) else 1 if _without_numbers(name) in forms else 2].append(original)
    return tuple(kinds[0]), tuple(kinds[1]), tuple(kinds[2])


def _ignored(map: CheckpointMap, name: str) -> bool:
    return any(pattern.match(name) is not None for pattern in map.ignore)


def to_public(
    map: CheckpointMap, state: Mapping[str, Tensor], *, same: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """The public tensors (views where possible) of a model's state: the inverse of `to_model`.

    `same` maps a parameter's further names to its first; a public name for one of them is enough.
    Raises TowerError if the map is wrong for this state, or leaves out a part of it.
    """
    expansion = expand(map, {name: tuple(tensor.shape) for name, tensor in state.items()})
    if expansion.errors:
        raise TowerError(expansion.errors)
    same = same or {}
    named = {same.get(leaf.name, leaf.name) for equation in expansion.equations for leaf in leaves(equation.ours)}
    nameless = [name for name in expansion.uncovered if same.get(name, name) not in named]
    if nameless:
        raise TowerError(
            [
                Diagnostic(
                    "checkpoint-uncovered",
                    f"the format `{map.name}` has no names for {some_names(nameless)}",
                    help="add rules for them, or save with the model's own names (format=None)",
                )
            ]
        )
    public: dict[str, Tensor] = {}
    for equation in expansion.equations:
        public.update(_split(equation.public, _join(equation.ours, state)))
    return {name: tensor for name, tensor in public.items() if not _ignored(map, name)}


def covered(
    map: CheckpointMap, public: Collection[str], model_shapes: Mapping[str, Shape], prefixes: Collection[str] = ()
) -> int:
    """How many parameters a map finds under a checkpoint's names."""
    expansion = expand(map, model_shapes)
    spelled, _ = _spelled(map, expansion.public, public, prefixes)
    hit: set[str] = set()
    for equation in expansion.equations:
        if all(leaf.name in spelled for leaf in leaves(equation.public)):
            hit.update(leaf.name for leaf in leaves(equation.ours))
    return len(hit)


def _spelled(
    map: CheckpointMap, expected: Collection[str], public: Collection[str], prefixes: Collection[str]
) -> tuple[dict[str, str], str | None]:
    """The map's names -> names as the checkpoint spells them, in the way that finds most of those expected.

    And two names of one tensor, where another way finds as many elsewhere: then nothing says which is meant.
    """
    best: dict[str, str] = {}
    rival, own = None, True
    forms = {_without_numbers(name) for name in expected} if map.rename else set()
    most = -1
    for k, spelled in enumerate(spellings(public, (*map.prefix, *prefixes))):
        for name in list(spelled) if map.rename else ():
            new = map.renamed(name)
            if new not in spelled and name not in expected and _without_numbers(new) in forms:
                spelled[new] = spelled.pop(name)
        hits = sum(name in spelled for name in expected)
        if hits > most:
            best, most, rival, own = spelled, hits, None, k == 0
        elif hits == most and not own:  # names as they are come first
            both = (n for n in expected if n in best and best[n] != spelled.get(n, best[n]))
            rival = rival or next((f"`{printable(best[n])}` and `{printable(spelled[n])}`" for n in both), None)
    return best, rival


def _join(tree: Tree, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor that a tree makes of the named ones."""
    if isinstance(tree, Leaf):
        return tensors[tree.name]
    if isinstance(tree, Joined):
        return torch.cat([_join(item, tensors) for item in tree.items], tree.dim)
    if isinstance(tree, Stacked):
        return torch.stack([_join(item, tensors) for item in tree.items], tree.dim)
    item = _join(tree.item, tensors)
    return item.transpose(*tree.dims) if isinstance(tree, Transposed) else item.reshape(tree.shape)


def _split(tree: Tree, whole: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The named tensors of which a tree makes `whole`."""
    if isinstance(tree, Leaf):
        yield tree.name, whole
    elif isinstance(tree, Joined):
        pieces = whole.split([item.shape[tree.dim] for item in tree.items], tree.dim)
        for item, piece in zip(tree.items, pieces, strict=True):
            yield from _split(item, piece)
    elif isinstance(tree, Stacked):
        for item, piece in zip(tree.items, whole.unbind(tree.dim), strict=True):
            yield from _split(item, piece)
    else:
        inner = whole.transpose(*tree.dims) if isinstance(tree, Transposed) else whole.reshape(tree.item.shape)
        yield from _split(tree.item, inner)


def _without_numbers(name: str) -> str:
    return ".".join("#" if part.isdecimal() else part for part in name.split("."))


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return "complex"
    return "float" if dtype.is_floating_point else "bool" if dtype == torch.bool else "int"


def overflows(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a number that is finite is not in another dtype; an int has to stay itself."""
    if dtype == tensor.dtype or _kind(dtype) != _kind(tensor.dtype):
        return False
    if dtype.is_floating_point or dtype.is_complex:
        wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # 8-bit floats have few operations
        if torch.finfo(dtype).max >= torch.finfo(wide.dtype).max:
            return False
        return bool((wide.isfinite() & ~wide.to(dtype).float().isfinite()).any())
    return not torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same values, NaN being the same as NaN."""
    if a.dtype.itemsize == 1 and a.dtype.is_floating_point:  # 8-bit floats cannot be compared
        a, b = a.float(), b.float()
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride() and a.dtype == b.dtype:
        return True
    b = b.to(a.device)
    return bool(((a == b) | ((a != a) & (b != b))).all())
