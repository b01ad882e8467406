"""Two specs --> their attentions in pairs, and in which fields each pair differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from towerdsl.budget import bounded
from towerdsl.compare.differences import Diff, Difference, Pair
from towerdsl.compare.fields import Field, equal, fields
from towerdsl.compiler import Compiled, compile_spec, size_names
from towerdsl.diagnostics import Diagnostic, TowerError, did_you_mean
from towerdsl.explain.spell import Speller, static_text
from towerdsl.explain.work import Calls, volume
from towerdsl.ir import nodes as n
from towerdsl.ir.parameters import parameter_shapes
from towerdsl.kernels.work import walk
from towerdsl.passes.static import Setting


@dataclass(frozen=True)
class Kind:
    """The attentions of one spec that are the same in every field."""

    paths: tuple[str, ...]
    modules: int
    fields: tuple[Field, ...]

    @property
    def text(self) -> str:
        first = self.paths[0] or "the model"
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return first + more + (f" × {self.modules}" if self.modules > len(self.paths) else "")


@bounded()
def diff(first: str | Path, second: str | Path, settings: Mapping[str, Setting] | None = None) -> Diff:
    """Compare the attentions of two specs, field by field. `settings` override sizes of those that have them.

    Definitions are expanded and conditions are in one form, so only what they mean counts; names do not. Raises
    TowerError.
    """
    settings = settings or {}
    known = [size_names(spec) for spec in (first, second)]
    missing = next((name for name in settings if not any(name in k for k in known)), None)
    if missing is not None:
        help = did_you_mean(missing, known[0] | known[1], "neither spec has it")
        raise TowerError([Diagnostic("size", f"there is no size `{missing}` in either spec", help=help)])
    one, two = (
        compile_spec(spec, {name: v for name, v in settings.items() if name in names})
        for spec, names in zip((first, second), known, strict=True)
    )
    pairs, alone = _paired(kinds(one), kinds(two))
    names = (one.model.name, two.model.name)
    sizes = [dict(x.model.sizes) for x in (one, two)]
    return Diff(
        names=names,
        pairs=tuple(_pair(a, b) for a, b in pairs),
        alone=tuple((names[which], kind.text, _short(kind.fields)) for which, kind in alone),
        parameters=(_parameters(one), _parameters(two)),
        sizes=tuple(
            (name, static_text(v), static_text(sizes[1][name]))
            for name, v in sizes[0].items()
            if name in sizes[1] and static_text(v) != static_text(sizes[1][name])
        ),
    )


def _parameters(compiled: Compiled) -> int:
    return sum(volume(shape) for _, shape, learned in parameter_shapes(compiled.model.root) if learned)


# --- attentions ------------------------------------------------------------------------------------------------


def kinds(compiled: Compiled) -> list[Kind]:
    """The attentions of a model in the order of calls, those that are the same together."""
    arguments = {id(block): texts for block, texts in _given(compiled.model.root)}
    found: dict[tuple[Any, ...], Kind] = {}
    for o in Calls().occurrences(compiled.model.root):
        own = fields(o.block, compiled.plans[id(o.block)], arguments.get(id(o.block), {}))
        key = tuple((f.name, frozenset(f.compared)) for f in own)
        known = found.get(key, Kind((), 0, own))
        found[key] = Kind((*known.paths, o.path), known.modules + o.modules, known.fields)
    return list(found.values())


def _given(root: n.BlockInstance) -> Iterator[tuple[n.BlockInstance, dict[str, str]]]:
    """Every block that is called, with the texts of its arguments where it is called first."""
    seen: set[int] = set()

    def visit(block: n.BlockInstance) -> Iterator[tuple[n.BlockInstance, dict[str, str]]]:
        spell = Speller(None, {})
        for inner, call in _calls(block):
            if id(inner) in seen:
                continue
            seen.add(id(inner))
            named = zip(inner.parameters, call.args, strict=True)
            yield inner, {name: spell.text(a) for (name, _), a in named if isinstance(a, n.Value)}
            yield from visit(inner)

    yield from visit(root)


def _calls(block: n.BlockInstance) -> Iterator[tuple[n.BlockInstance, n.CallBlock]]:
    """The calls in a block, each with every block that it may run."""
    modules = dict(block.modules)

    def leaves(slot: n.ModuleSlot) -> Iterator[n.BlockInstance]:
        for item in slot.items:
            yield from leaves(item)
        if slot.block is not None:
            yield slot.block

    def values(steps: Sequence[n.Step]) -> Iterator[n.Value]:
        for step in steps:
            if isinstance(step, n.Set):
                yield step.value
            elif isinstance(step, n.Evaluate):
                yield from (v for v in (step.average.query, step.average.key, step.average.value) if v is not None)
            elif isinstance(step, n.Loop):
                for body in {id(b): b for b in step.bodies}.values():
                    yield from values(body)
            else:
                yield from values(step.body)

    results = (r for r in block.results if isinstance(r, n.Value))
    for value in walk([*values(block.body), *results]):
        if isinstance(value, n.CallBlock):
            for inner in leaves(modules[value.module.name]):
                yield inner, value


# --- pairs -----------------------------------------------------------------------------------------------------


def _paired(one: Sequence[Kind], two: Sequence[Kind]) -> tuple[list[tuple[Kind, Kind]], list[tuple[int, Kind]]]:
    """The most similar attentions together: by how many fields are the same, then by their last name, then in order."""
    ranked = sorted(
        ((a, b) for a in range(len(one)) for b in range(len(two))),
        key=lambda x: (-_similar(one[x[0]], two[x[1]]), abs(x[0] - x[1]), x),
    )
    partner: dict[int, int] = {}
    for a, b in ranked:
        if a not in partner and b not in partner.values():
            partner[a] = b
    pairs = [(one[a], two[partner[a]]) for a in sorted(partner)]
    alone = [(0, kind) for a, kind in enumerate(one) if a not in partner]
    return pairs, alone + [(1, kind) for b, kind in enumerate(two) if b not in partner.values()]


def _similar(a: Kind, b: Kind) -> float:
    last = [{p.split(".")[-1] for p in kind.paths} for kind in (a, b)]
    return equal(a.fields, b.fields) + 0.5 * bool(last[0] & last[1])


def _pair(a: Kind, b: Kind) -> Pair:
    differences, same = [], []
    for x, y in zip(a.fields, b.fields, strict=True):
        if x.same(y):
            same.append(x.name)
        else:
            differences.append(Difference(x.name, x.less(y), y.less(x)))
    return Pair(a.text, b.text, tuple(differences), tuple(same))


def _short(found: Sequence[Field]) -> str:
    """An attention in one line."""
    texts = {f.name: " and ".join(f.shown) for f in found}
    return f"{texts['normalize']} of {texts['score']}, {texts['value']} over {texts['over']}"
