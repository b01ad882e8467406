"""A checkpoint map and a model's parameter shapes -> equations between named tensors. Nothing here needs torch.

The model's names decide: each right side is matched against them, and what the placeholders stand for there
gives the public names. So which public names there are, and their shapes, is known without a checkpoint.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from towerdsl.budget import spend, working_at
from towerdsl.diagnostics import Diagnostic, Diagnostics, closest
from towerdsl.weights.expressions import Concat, Expr, Reshape, Stack, Transpose, names_in
from towerdsl.weights.names import Name, Part
from towerdsl.weights.rules import CheckpointMap, Rule

MAX_NAMES = 1_000_000
UNMATCHED = "checkpoint-unmatched"

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Leaf:
    """A named tensor."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Transposed:
    """`item` with two dims swapped."""

    item: Tree
    dims: tuple[int, int]
    shape: Shape


@dataclass(frozen=True)
class Joined:
    """`items` one after the other along `dim`."""

    items: tuple[Tree, ...]
    dim: int
    shape: Shape


@dataclass(frozen=True)
class Stacked:
    """`items` of one shape, along the new dim `dim`."""

    items: tuple[Tree, ...]
    dim: int
    shape: Shape


@dataclass(frozen=True)
class Reshaped:
    """The elements of `item` in the same order, in another shape."""

    item: Tree
    shape: Shape


Tree: TypeAlias = Leaf | Transposed | Joined | Stacked | Reshaped


def leaves(tree: Tree) -> Iterator[Leaf]:
    """The named tensors of a tree, left to right."""
    if isinstance(tree, Leaf):
        yield tree
    elif isinstance(tree, (Joined, Stacked)):
        for item in tree.items:
            yield from leaves(item)
    else:
        yield from leaves(tree.item)


@dataclass(frozen=True)
class Equation:
    """One tensor, made of public tensors and of the model's; both trees have its shape."""

    public: Tree
    ours: Tree
    rule: Rule


@dataclass(frozen=True)
class Expansion:
    """All equations of a map for one model, its mistakes, and the parameters that no rule reaches."""

    equations: tuple[Equation, ...]
    diagnostics: tuple[Diagnostic, ...]
    uncovered: tuple[str, ...]

    @property
    def public(self) -> dict[str, Shape]:
        """The public names and their shapes."""
        return {leaf.name: leaf.shape for equation in self.equations for leaf in leaves(equation.public)}

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The mistakes that stand in the way of loading: all but rules for parameters that the model lacks."""
        return tuple(d for d in self.diagnostics if d.code != UNMATCHED)


def check(map: CheckpointMap, parameter_shapes: Mapping[str, Shape]) -> list[Diagnostic]:
    """What is wrong with the map for a model with these parameters."""
    return list(expand(map, parameter_shapes).diagnostics)


def expand(map: CheckpointMap, parameter_shapes: Mapping[str, Shape]) -> Expansion:
    """The equations of the map for a model with these parameters, in the order of its rules.

    Of several rules that reach a parameter, those with the fewest placeholders have it; if there are several of
    those, their public names are tied.
    """
    return _Expander(map, parameter_shapes).run()


class _Reach(NamedTuple):
    """One rule at one value of its placeholders, and the parameters that it would fill."""

    rule: Rule
    values: dict[str, str]
    parameters: tuple[str, ...]


class _StopError(Exception):
    """This equation has a mistake, which has been added."""


@dataclass
class _Expander:
    map: CheckpointMap
    shapes: Mapping[str, Shape]
    found: Diagnostics = field(default_factory=Diagnostics)
    made: int = 0

    def __post_init__(self) -> None:
        self.sorted = sorted(self.shapes)
        self.order = {name: at for at, name in enumerate(self.shapes)}
        self.matched: dict[Name, list[dict[str, str]]] = {}
        self.told: set[Name] = set()
        self.stacked: dict[tuple[Name, str], dict[tuple[str, ...], list[str]]] = {}

    def run(self) -> Expansion:
        reached = self.unshadowed([r for rule in self.map.rules for r in self.reach(rule)])
        equations = []
        for rule, values, _ in reached:
            working_at(rule.ours.span)
            spend(10)
            try:
                ours = self.ours(rule.ours, values)
                equations.append(Equation(self.public(rule.public, ours.shape, values), ours, rule))
            except _StopError:
                continue
        self.unique(equations)
        covered = {name for r in reached for name in r.parameters}
        uncovered = tuple(name for name in self.shapes if name not in covered)
        return Expansion(tuple(equations), tuple(self.found.sorted), uncovered)

    def matches(self, name: Name) -> list[dict[str, str]]:
        """What the placeholders of a pattern stand for, for each parameter that it matches, in the model's order."""
        if name not in self.matched:
            if not name.variables:
                self.matched[name] = [{}] if str(name) in self.shapes else []
            else:
                start = name.literal_start
                hits = []
                for at in range(bisect_left(self.sorted, start), len(self.sorted)):
                    if not self.sorted[at].startswith(start):
                        break
                    values = name.match(self.sorted[at])
                    if values is not None:
                        hits.append((self.order[self.sorted[at]], values))
                self.matched[name] = [values for _, values in sorted(hits, key=lambda hit: hit[0])]
        return self.matched[name]

    def reach(self, rule: Rule) -> Iterator[_Reach]:
        working_at(rule.ours.span)
        seen: dict[tuple[str, ...], None] = {}
        for name in names_in(rule.ours):
            for values in self.matches(name):
                spend(2)
                seen.setdefault(tuple(values[x] for x in rule.shared))
        if not seen:
            self.unmatched(rule)
        for key in seen:
            values = dict(zip(rule.shared, key, strict=True))
            parameters = tuple(n for n in self.filled(rule.ours, values) if n in self.shapes)
            if self.made > MAX_NAMES:
                self.too_many(rule.ours)
                return
            yield _Reach(rule, values, parameters)

    def unmatched(self, rule: Rule) -> None:
        name = next(names_in(rule.ours))
        meant, there = self.wrong_part(name)
        if meant is not None:
            help = f"did you mean `{meant}`?"
        elif any(self.matches(public) for public in names_in(rule.public)):
            help = "the model's name stands on the right, the public one, that of the checkpoint, on the left"
        else:
            help = there or self.near(name)
        notes = []
        parts = {part for parameter in self.shapes for part in parameter.split(".")}
        for part in (str(p) for p in name.parts):
            if f"{part}_" in parts and part not in parts:
                notes.append(f"`{part}` is a name that Python or torch uses: in the model it is `{part}_`")
        self.found.add(UNMATCHED, f"no parameter of the model is called `{name}`", name.span, notes, help)

    def wrong_part(self, name: Name) -> tuple[Name | None, str | None]:
        """The name with its first wrong part as it was likely meant, and what there is in the place of that part."""
        known = [parameter.split(".") for parameter in self.shapes]
        for at, part in enumerate(name.parts):
            if part.several:
                break
            begin = Name(name.parts[: at + 1])
            there = list(dict.fromkeys(parts[at] for parts in known if len(parts) > at))
            known = [parts for parts in known if begin.match(".".join(parts[: at + 1])) is not None]
            if not known:
                like = closest(str(part), there)
                meant = Name((*name.parts[:at], Part(like or ""), *name.parts[at + 1 :]))
                listing = f"`{Name(name.parts[:at])}` has {listed(there)}" if at and there else None
                return meant if like and self.matches(meant) else None, listing
        return None, None

    def near(self, name: Name) -> str:
        """The parameter that a name is like, or the first few."""
        # compare with the parameters as a pattern of this form would write them
        near: dict[str, None] = {}
        for parameter in self.shapes:
            parts = parameter.split(".")
            if len(parts) == len(name.parts):
                parts = [q if p.variable is None else str(p) for p, q in zip(name.parts, parts, strict=True)]
            near.setdefault(".".join(parts))
            if len(near) >= 2000:
                break
        like = closest(str(name), near)
        return f"did you mean `{like}`?" if like else f"it has {some_names(self.shapes)}"

    def filled(self, expr: Expr, values: Mapping[str, str]) -> Iterator[str]:
        spend(5)
        if isinstance(expr, Name):
            self.made += 1
            if self.made <= MAX_NAMES:
                yield expr.fill(values)
        elif isinstance(expr, Concat):
            for item in expr.items:
                yield from self.filled(item, values)
        elif isinstance(expr, Stack):
            for value in self.stack_values(expr, values):
                if self.made > MAX_NAMES:
                    return
                yield from self.filled(expr.item, {**values, expr.over: value})
        else:
            yield from self.filled(expr.item, values)

    def stack_values(self, stack: Stack, values: Mapping[str, str]) -> list[str]:
        """What the placeholder of a stack stands for in the model's names, in order: 2 before 10."""
        found: set[str] = set()
        for name in names_in(stack):
            keys = sorted(set(name.variables) & set(values))
            index = self.stacked.get((name, stack.over))
            if index is None:
                index = self.stacked[name, stack.over] = {}
                for match in self.matches(name):
                    index.setdefault(tuple(match[x] for x in keys), []).append(match[stack.over])
            found.update(index.get(tuple(values[x] for x in keys), ()))
        spend(1 + len(found))
        return sorted(found, key=natural)

    def unshadowed(self, reached: list[_Reach]) -> list[_Reach]:
        """Without those whose parameters are all filled by rules that say more."""
        least: dict[str, tuple[int, int]] = {}
        for r in reached:
            for name in r.parameters:
                least[name] = min(least.get(name, r.rule.vagueness), r.rule.vagueness)
        return [r for r in reached if not r.parameters or any(least[n] == r.rule.vagueness for n in r.parameters)]

    def wrong(self, code: str, message: str, expr: Expr, *notes: str, help: str | None = None) -> _StopError:
        self.found.add(code, message, expr.span, notes, help)
        return _StopError()

    def too_many(self, expr: Expr) -> _StopError:
        return self.wrong("checkpoint-limit", f"the map makes more than {MAX_NAMES} names", expr)

    def ours(self, expr: Expr, values: Mapping[str, str]) -> Tree:
        """The right side at these values, its shape built from the parameters up."""
        if isinstance(expr, Name):
            name = expr.fill(values)
            if name not in self.shapes:
                if expr in self.told:  # once for all layers
                    raise _StopError
                self.told.add(expr)
                like = closest(name, (n for n in self.sorted if n.count(".") == name.count(".")))
                help = f"did you mean `{like}`?" if like else f"it has {some_names(self.shapes)}"
                text = f"no parameter of the model is called `{name}`, which this rule needs beside others"
                raise self.wrong("checkpoint-name", text, expr, help=help)
            return Leaf(name, tuple(self.shapes[name]))
        if isinstance(expr, Transpose):
            item = self.ours(expr.item, values)
            return Transposed(item, expr.dims, self.swapped(item.shape, expr))
        if isinstance(expr, Reshape):
            item = self.ours(expr.item, values)
            count, shape = math.prod(item.shape), expr.shape
            known = math.prod(n for n in shape if n != -1)
            if -1 in shape and known and count % known == 0:
                shape = tuple(count // known if n == -1 else n for n in shape)
            if -1 in shape or math.prod(shape) != count:
                text = f"{show(item.shape)} has {count} elements and cannot become {show(expr.shape)}"
                raise self.wrong("checkpoint-shape", text, expr, *made_of(item))
            return Reshaped(item, shape)
        if isinstance(expr, Stack):
            piled = [self.ours(expr.item, {**values, expr.over: x}) for x in self.stack_values(expr, values)]
            if not piled:
                raise self.wrong("checkpoint-name", "this stack has nothing to join", expr)
            for item in piled:
                if item.shape != piled[0].shape:
                    text = "stack needs tensors of one shape"
                    raise self.wrong("checkpoint-shape", text, expr, *made_of(piled[0]), *made_of(item))
            dim = self.dim(expr, len(piled[0].shape) + 1, expr.dim)
            shape = (*piled[0].shape[:dim], len(piled), *piled[0].shape[dim:])
            return Stacked(tuple(piled), dim, shape)
        items = tuple(self.ours(item, values) for item in expr.items)
        dim = self.dim(expr, len(items[0].shape), expr.dim)
        for item in items:
            if without(item.shape, dim) != without(items[0].shape, dim) or len(item.shape) != len(items[0].shape):
                text = f"concat needs tensors that differ in dim {dim} only"
                raise self.wrong("checkpoint-shape", text, expr, *made_of(items[0]), *made_of(item))
        total = sum(item.shape[dim] for item in items)
        return Joined(items, dim, (*items[0].shape[:dim], total, *items[0].shape[dim + 1 :]))

    def public(self, expr: Expr, shape: Shape, values: Mapping[str, str]) -> Tree:
        """The left side at these values, the shapes of its names worked out from the shape of the whole."""
        self.made += 1
        if self.made > MAX_NAMES:
            raise self.too_many(expr)
        if isinstance(expr, Name):
            return Leaf(expr.fill(values), shape)
        if isinstance(expr, Transpose):
            return Transposed(self.public(expr.item, self.swapped(shape, expr), values), expr.dims, shape)
        assert not isinstance(expr, Reshape), "rules have no reshape on the left"
        dim = self.dim(expr, len(shape), expr.dim)
        if isinstance(expr, Stack):
            rest = without(shape, dim)
            each = [{**values, expr.over: str(x)} for x in range(min(shape[dim], MAX_NAMES))]
            return Stacked(tuple(self.public(expr.item, rest, v) for v in each), dim, shape)
        parts = expr.parts or (1,) * len(expr.items)
        if shape[dim] % sum(parts):
            text = f"dim {dim} of {show(shape)} cannot be split in {len(parts)} {'' if expr.parts else 'equal '}parts"
            if expr.parts:
                text += f" like {':'.join(map(str, parts))}"
            help = f"say how long the public tensors are: `concat(..., parts=[{', '.join(['...'] * len(parts))}])`"
            raise self.wrong("checkpoint-shape", text, expr, help=help)
        items, unit = [], shape[dim] // sum(parts)
        for item, part in zip(expr.items, parts, strict=True):
            items.append(self.public(item, (*shape[:dim], unit * part, *shape[dim + 1 :]), values))
        return Joined(tuple(items), dim, shape)

    def swapped(self, shape: Shape, expr: Transpose) -> Shape:
        if len(shape) < 2:
            text = f"transpose needs a tensor of two dims or more, this one is {show(shape)}"
            raise self.wrong("checkpoint-shape", text, expr)
        found = list(shape)
        first, second = (self.dim(expr, len(shape), dim) for dim in expr.dims)
        found[first], found[second] = shape[second], shape[first]
        return tuple(found)

    def dim(self, expr: Expr, rank: int, dim: int) -> int:
        if not -rank <= dim < rank:
            text = f"there is no dim {dim} in a tensor of {rank} dim{'s' * (rank != 1)}"
            raise self.wrong("checkpoint-shape", text, expr)
        return dim % rank

    def unique(self, equations: list[Equation]) -> None:
        """No public tensor is made twice: nothing would say which is saved."""
        first: dict[str, Equation] = {}
        for equation in equations:
            for leaf in leaves(equation.public):
                other = first.get(leaf.name)
                first[leaf.name] = other or equation
                if other is not None:
                    note = f"first by `{other.rule.public}: {other.rule.ours}`"
                    if other.rule.public.span is not None:
                        note += f", line {other.rule.public.span.line}"
                    span = equation.rule.public.span
                    self.found.add("checkpoint-twice", f"the public name `{leaf.name}` is made twice", span, [note])


def natural(text: str) -> tuple[tuple[bool, int, str], ...]:
    """A key that sorts numbers in names by their value: layer.2 before layer.10."""
    pieces = re.findall(r"[0-9]{1,18}|[^0-9]+", text)
    return tuple((not p.isdigit(), int(p) if p.isascii() and p.isdigit() else 0, p) for p in pieces)


def without(shape: Shape, dim: int) -> Shape:
    """The shape less one dim."""
    return shape[:dim] + shape[dim + 1 :]


def show(shape: Iterable[int]) -> str:
    """A shape as text: `[384, 1536]`."""
    return f"[{', '.join(map(str, shape))}]"


def made_of(tree: Tree) -> tuple[str, ...]:
    """A note that says what a tensor is made of and its shape."""
    names = [leaf.name for leaf in leaves(tree)]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (f"{names[0]}{more}: {show(tree.shape)}",)


def some_names(names: Iterable[str]) -> str:
    """The first few names, for a help line."""
    known = list(names)
    return listed(known) if known else "no parameters"


def listed(known: Sequence[str], most: int = 5) -> str:
    """The first few of some names, and how many more there are."""
    shown = ", ".join(f"`{name}`" for name in known[:most])
    return shown + (f" and {len(known) - most} more" if len(known) > most else "")
