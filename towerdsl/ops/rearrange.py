"""`rearrange`: axes are split, reordered and merged by a pattern."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from typing import NoReturn

from towerdsl.ir.operation import Move, OpCall, OpResult, SizeArg
from towerdsl.ir.reach import unknown
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import Axis, TensorType, shown
from towerdsl.ops.base import op, reordered
from towerdsl.ops.checks import in_words, tensor_argument

Groups = list[list[str]]


def _side(call: OpCall, text: str) -> Groups:
    """The axes on one side of a pattern: each a list of names, one of them, or several in parentheses; `1` is none."""

    def fail(message: str, help: str) -> NoReturn:
        call.fail("rearrange-pattern", message, f'got "{call.statics["pattern"]}"', help=help, argument="pattern")

    groups: Groups = []
    inside = False
    for token in re.findall(r"\.\.\.|…|->|\w+|\S", text):
        if token in ("...", "…"):
            fail("`...` is not supported in a pattern: every axis has a name", "write all axes of the tensor")
        elif token == "(":
            if inside:
                fail("parentheses inside parentheses", "a group is one axis: `(a b c)`")
            inside = True
            groups.append([])
        elif token == ")":
            if not inside:
                fail("`)` without `(`", "a group is written `(a b)`")
            inside = False
        elif token == "1":
            if not inside:
                groups.append([])
        elif re.fullmatch("(?!__)[A-Za-z_][A-Za-z0-9_]*", token):
            if inside:
                groups[-1].append(token)
            else:
                groups.append([token])
        elif token.isdecimal():
            fail(f"`{token}` in a pattern: of the numbers only 1 is allowed", f"name the axis, and give p={token}")
        else:
            fail(f"`{token}` is not part of a pattern", "a pattern has names, `1`, and `( )` around merged axes")
    if inside:
        fail("`(` without `)`", "a group is written `(a b)`")
    names = [name for group in groups for name in group]
    for name in names:
        if names.count(name) > 1:
            fail(f"`{name}` stands twice on one side", "every axis has a name of its own")
    return groups


def _written(group: list[str]) -> str:
    return group[0] if len(group) == 1 else f"({' '.join(group)})" if group else "1"


@dataclass(frozen=True)
class _Atom:
    """Neighbours that stay neighbours in one group on both sides: they are moved as one."""

    names: tuple[str, ...]
    size: Size
    inferred: bool  # the size is what the rest of its group leaves


def _given(call: OpCall, known: set[str]) -> dict[str, Size]:
    """The lengths given as `p=2`."""
    lengths: dict[str, Size] = {}
    for name, value in call.statics.items():
        if name == "pattern":
            continue
        if name not in known:
            call.fail(
                "rearrange-pattern",
                f"the pattern has no `{name}`",
                f'got "{call.statics["pattern"]}"',
                help="a length is given for a name of the pattern",
                argument=name,
            )
        size = value.size if isinstance(value, SizeArg) else Size.of(value)
        if size.constant is not None and (size.integer is None or size.integer < 1):
            call.fail(
                "size-positive",
                f"a length is a whole number and at least 1, got {name}={size}",
                help="check how it is computed",
                argument=name,
            )
        lengths[name] = size
    return lengths


def _divided(call: OpCall, group: list[str], axis: Axis, given: dict[str, Size], runs: list[list[str]]) -> list[_Atom]:
    """The atoms of one axis of the left side, with their lengths."""
    unknown = [run for run in runs if any(name not in given for name in run)]
    if len(unknown) > 1:
        missing = [name for name in group if name not in given]
        call.fail(
            "rearrange-pattern",
            f"the lengths of {' and '.join(f'`{name}`' for name in missing)} are not known; only one can be worked out",
            f"`{_written(group)}` is the axis {axis.shown}",
            help=f"give the others: {missing[0]}=2",
            argument="pattern",
        )
    with_lengths = [f"{name}={given[name]}" for name in group if name in given]
    rest = product([given[name] for run in runs if run not in unknown for name in run])
    inner = product([given[name] for run in unknown for name in run if name in given])
    whole = axis.size
    number, part = whole.integer, (rest * inner).integer
    if number is not None and part is not None and (number % part if unknown else number != part):
        name = axis.name if axis.name is not None else "the axis"
        lengths = f" with {', '.join(with_lengths)}"
        message = f"`{_written(group)}`{lengths} does not divide {name}, {number}"
        if not unknown:
            message = f"`{_written(group)}`{lengths} is {part}, but {name} has length {number}"
        call.fail(
            "size-divide" if unknown else "axis-mismatch",
            message,
            f"expected a length divisible by {part}" if unknown else f"expected lengths with product {number}",
            f"got {call.x}",
            help="change the length, or pad the axis first (`concat` with `zeros`)",
            argument="pattern",
        )
    atoms = []
    for run in runs:
        if run in unknown:
            atoms.append(_Atom(tuple(run), whole if len(runs) == 1 else _quotient(whole, rest), True))
        else:
            # an axis that is not split keeps its own length, which may be written otherwise
            size = whole if len(runs) == 1 else product([given[name] for name in run])
            atoms.append(_Atom(tuple(run), size, False))
    return atoms


def _quotient(whole: Size, part: Size) -> Size:
    try:
        exact = whole / part
    except ValueError:
        return whole.opaque("//", part)
    return exact if all(c.denominator == 1 for _, c in exact.terms) else whole.opaque("//", part)


def _checked(call: OpCall) -> tuple[Groups, Groups]:
    """Both sides of the pattern, which fit each other and the tensor."""
    x, pattern = call.x, call.statics["pattern"]
    got = f'got "{pattern}"'
    sides = pattern.split("->")
    if len(sides) != 2:
        call.fail(
            "rearrange-pattern",
            "a pattern is written `axes -> axes`",
            got,
            help='for example "b c h w -> b (h w) c"',
            argument="pattern",
        )
    left, right = (_side(call, side) for side in sides)
    if len(left) != len(x.axes):
        call.fail(
            "axis-count",
            f"the pattern has {in_words(len(left))} {'axis' if len(left) == 1 else 'axes'}, "
            f"{call.text('x')} has {in_words(len(x.axes))} {shown(x.axes)}",
            got,
            help="the left side names all axes of the tensor, in order",
            argument="pattern",
        )
    names_left = {name for group in left for name in group}
    names_right = {name for group in right for name in group}
    for name in sorted(names_right - names_left):
        has_length = name in call.statics
        call.fail(
            "rearrange-pattern",
            f"`{name}` is on the right only{': rearrange does not repeat' if has_length else ' and has no length'}",
            got,
            help=f"combine with a tensor that has the axis, as in `+ zeros([{name}])`" if has_length
            else f"split it from an axis of the left side, `(x {name})` with its length `{name}=2`, or write 1",
            argument="pattern",
        )  # fmt: skip
    for name in sorted(names_left - names_right):
        call.fail(
            "rearrange-pattern",
            f"`{name}` is on the left only: rearrange keeps all entries",
            got,
            help="`sum`, `mean`, `amax` and `amin` reduce an axis; `x[n=0]` picks one position",
            argument="pattern",
        )
    for group, axis in zip(left, x.axes, strict=True):
        if not group and axis.size.integer != 1:
            call.fail(
                "axis-mismatch",
                f"the pattern's 1 is the axis {axis.shown}, "
                + ("which has a free length" if axis.size.integer is None else f"of length {axis.size}"),
                got,
                help="name the axis",
                argument="pattern",
            )
    _check_names(call, left, right)
    return left, right


def _check_names(call: OpCall, left: Groups, right: Groups) -> None:
    """A name of the pattern that is known already stands for what it is known for: another axis never gets it."""
    own = [{a.name, a.side or None} for a in call.x.axes]  # in a score `i` is the position of the query
    kept = {group[0] for group in right if len(group) == 1}
    for dim, (group, axis) in enumerate(zip(left, call.x.axes, strict=True)):
        for name in group:
            if name in own[dim]:
                continue
            other = next((a for a, names in zip(call.x.axes, own, strict=True) if name in names), None)
            if other is not None:
                _bound_otherwise(call, left, right, name, axis, f"which is the name of axis {other.shown}")
            # a name for what has none is new, and may take the place of an axis; a length is the same for all
            known = call.sizes.get(name, call.axes.get(name) if axis.name is not None else None)
            if known is not None and len(group) == 1 and name in kept and known != axis.size:
                number = known.integer
                meaning = "another axis here" if number is None else str(number)
                _bound_otherwise(call, left, right, name, axis, f"but `{name}` is {meaning}")


def _bound_otherwise(call: OpCall, left: Groups, right: Groups, name: str, axis: Axis, known: str) -> NoReturn:
    """The failure of a name that is bound to an axis and is known for something else."""
    names = {*(n for group in left for n in group), *(a.name for a in call.x.axes), *call.sizes, *call.axes}
    given: dict[str, str] = {}
    for group, a in zip(left, call.x.axes, strict=True):
        label = (a.side if sum(x.side == a.side for x in call.x.axes) == 1 else None) or a.name
        if len(group) == 1 and label is not None:
            given[group[0]] = label
        elif name in group and a is axis:
            free = a.name if a.name and all(a.name not in g for g in left if len(g) > 1) else None
            given[name] = free or next(f"{name}{k}" for k in itertools.count(2) if f"{name}{k}" not in names)
    sides = (" ".join(_written([given.get(n, n) for n in group]) for group in side) for side in (left, right))
    call.fail(
        "axis-mismatch",
        f"the pattern calls axis {axis.detailed} `{name}`, {known}",
        f'got "{call.statics["pattern"]}"',
        f"{call.text('x')}: {shown(call.x.axes)}",
        help=f'axes are matched in order: write "{" -> ".join(sides)}"',
        argument="pattern",
    )


def _runs(group: list[str], right: Groups) -> list[list[str]]:
    """A group of the left side, cut where neighbours do not stay neighbours in one group."""
    follows = {pair for group in right for pair in itertools.pairwise(group)}
    runs: list[list[str]] = []
    for name in group:
        if runs and (runs[-1][-1], name) in follows:
            runs[-1].append(name)
        else:
            runs.append([name])
    return runs


@op("rearrange", statics="pattern:text", extra_statics=True)
def rearrange(call: OpCall) -> OpResult:
    """Split, reorder and merge axes by a pattern of einops: `"b (h p) c -> b h p c"` with `p=2`."""
    x = tensor_argument(call)
    left, right = _checked(call)
    given = _given(call, {name for group in left for name in group})
    _pair_ones(left, right)
    split = [
        _divided(call, group, axis, given, _runs(group, right)) if group else []
        for group, axis in zip(left, x.axes, strict=True)
    ]
    atom_of = {name: atom for atoms in split for atom in atoms for name in atom.names}
    merged = [list(dict.fromkeys(atom_of[name] for name in group)) for group in right]
    attrs: list[tuple[str, Size]] = []

    def size_code(atom: _Atom) -> str:
        if atom.inferred and atom.size.integer is None:
            return "-1"
        attrs.append((f"size{len(attrs)}", atom.size))
        return f"{{{attrs[-1][0]}}}"

    code, dim = "{x}", 0
    for atoms in split:  # split an axis, or drop one of length 1
        if not atoms:
            code += f".squeeze({dim})"
        elif len(atoms) > 1:
            code += f".unflatten({dim}, ({', '.join(map(size_code, atoms))}))"
        dim += len(atoms)

    now, then = ([atom for atoms in side for atom in atoms] for side in (split, merged))
    code += reordered([now.index(atom) for atom in then])

    rank = len(then)
    for dim, atoms in enumerate(merged):  # merge, or add an axis of length 1
        if len(atoms) > 1:
            last = dim + len(atoms) == rank
            code += f".flatten({dim or ''})" if last else f".flatten({dim}, {dim + len(atoms) - 1})"
        elif not atoms:
            code += f".unsqueeze({-1 if dim == rank else dim})"
        rank += 1 - len(atoms)

    whole = {atoms[0].names: axis for atoms, axis in zip(split, x.axes, strict=True) if len(atoms) == 1}
    axes = []
    for group, atoms in zip(right, merged, strict=True):
        name = group[0] if len(group) == 1 and group[0].isidentifier() else None
        kept = whole.get(atoms[0].names) if len(atoms) == 1 and name is not None else None
        if kept is not None and kept.side:  # in a score: a position of the query or key stays one, however it is called
            name = kept.name
        axes.append(replace(kept, name=name) if kept else Axis(name, product([atom.size for atom in atoms])))
    place = {atoms[0].names: dim for dim, atoms in enumerate(merged) if len(atoms) == 1}
    moves = []
    for dim, atoms in enumerate(split):
        to = place.get(atoms[0].names) if len(atoms) == 1 else None
        moves.append(Move(dim, to, None if to is not None else unknown("the axis is split or merged")))
    return OpResult(TensorType(x.dtype, tuple(axes)), code, attrs=tuple(attrs), moves=tuple(moves))


def _pair_ones(left: Groups, right: Groups) -> None:
    """Give axes of length 1 that are on both sides a name, so that they are moved, not dropped and made."""
    ones = zip([g for g in left if not g], [g for g in right if not g], strict=False)
    for number, both in enumerate(ones):
        for group in both:
            group.append(f"1 {number}")
