"""Operations that move entries: rearrange, concat and resize."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from typing import NoReturn

from towerdsl.ir.operation import Move, OpCall, OpResult, SizeArg
from towerdsl.ir.reach import unknown
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import Axis, TensorType, shown
from towerdsl.ops.base import kept, op, staying
from towerdsl.ops.layers import in_words, tensor_argument

# --- rearrange -------------------------------------------------------------------------------------------------

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
    code += _reordered([now.index(atom) for atom in then])

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


def _reordered(order: list[int]) -> str:
    """The code that puts dims in an order."""
    moved = [i for i, dim in enumerate(order) if i != dim]
    if not moved:
        return ""
    if len(moved) == 2:
        return f".transpose({moved[0]}, {moved[1]})"
    return f".permute({', '.join(map(str, order))})"


# --- concat ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Slot:
    """An axis of the result, and the dim of each part that it is made of."""

    axis: Axis
    dims: dict[int, int] = field(default_factory=dict)


_WIDTH = ("bool", "int", "float")


@op("concat", tensors="parts...", statics="axis:axis")
def concat(call: OpCall) -> OpResult:
    """Put tensors one after another along an axis; axes that a part lacks are broadcast."""
    parts: tuple[TensorType, ...] = call.tensors["parts"]
    axis: Axis = call.statics["axis"]
    for n, part in enumerate(parts):
        text = call.text(f"parts{n}")
        if part.scalar:
            call.fail(
                "not-tensor",
                f"`concat` needs tensors; `{text}` is a number",
                help="a tensor of one number is `zeros([n]) + 3`",
                argument=f"parts{n}",
            )
        if sum(a.same(axis) for a in part.axes) > 1:
            call.fail(
                "axis-mismatch",
                f"`{text}` {shown(part.axes)} has the axis {axis} twice",
                help=f"name its axes first: `y[...] = {text}`",
                argument=f"parts{n}",
            )
    slots = _slots(call, parts, axis)
    joined = next(slot for slot in slots if slot.axis.same(axis))
    for slot in slots:
        made_of = [parts[n].axes[dim] for n, dim in sorted(slot.dims.items())]
        other = next((a for a in made_of if a.size != made_of[0].size), None)
        if slot is not joined and other is not None:
            _disagree(call, parts, axis, made_of[0], other)
    if not call.outer:
        _check_alike(call, parts, slots, joined)
    lengths = [parts[n].axes[joined.dims[n]].size if n in joined.dims else Size.of(1) for n in range(len(parts))]
    starts = list(itertools.accumulate(lengths, initial=Size(())))
    joined.axis = Axis(axis.name, starts.pop(), axis.side)

    attrs: list[tuple[str, Size]] = []
    codes = [_aligned(n, slots, joined, attrs) for n in range(len(parts))]
    dim = -1 if joined is slots[-1] else slots.index(joined)
    return OpResult(
        TensorType(max((part.dtype for part in parts), key=_WIDTH.index), tuple(slot.axis for slot in slots)),
        f"torch.cat([{', '.join(codes)}], dim={dim})" if len(parts) > 1 else codes[0],
        attrs=tuple(attrs),
        moves=tuple(
            Move(at, slots.index(slot), None, n, starts[n] if slot is joined else Size(()))
            for slot in slots
            for n, at in slot.dims.items()
        ),
    )


def _check_alike(call: OpCall, parts: tuple[TensorType, ...], slots: list[_Slot], joined: _Slot) -> None:
    """One part has all axes but the one that is joined: no two have an axis each that the other lacks."""
    others = [slot for slot in slots if slot is not joined]
    if any(all(n in slot.dims for slot in others) for n in range(len(parts))):
        return
    for m, n in itertools.combinations(range(len(parts)), 2):
        own = [[slot.axis for slot in slots if a in slot.dims and b not in slot.dims] for a, b in ((m, n), (n, m))]
        if own[0] and own[1]:
            break
    lacking = [(k, own_of) for k, own_of in ((m, own[0]), (n, own[1])) if k not in joined.dims and len(own_of) == 1]
    every = "`outer(concat(...))` repeats each along what it lacks"
    help = f"give both the same axes but for {joined.axis}; {every}"
    if ones := next((x for x in own if x and all(a.name is None and a.size.integer == 1 for a in x)), None):
        count = "the axis" if len(ones) == 1 else f"the {len(ones)} axes"
        help = f"leave out {count} of length 1: what lacks an axis is broadcast along it"
    for k, (at,) in lacking:
        name = call.text(f"parts{k}")
        axes = ", ".join(str(joined.axis if a == at else a) for a in parts[k].axes)
        first = f"`first[{axes}] = {name}`"
        help = f"if {at} is joined to {joined.axis}, name it so before, {first}, and join `first`; {every}"
    call.fail(
        "axis-mismatch",
        f"`concat`: each part has an axis that the other lacks, {' and '.join(', '.join(map(str, x)) for x in own)}",
        *(f"`{call.text(f'parts{k}')}` is {parts[k]}" for k in (m, n)),
        help=help,
        argument=f"parts{n}",
    )


def _disagree(call: OpCall, parts: tuple[TensorType, ...], axis: Axis, a: Axis, b: Axis) -> NoReturn:
    first_last = parts[0].axes[-1:]
    call.fail(
        "axis-mismatch",
        f"concatenated along {axis} the others have to agree: {_with_length(a)}, {_with_length(b)}",
        *(f"`{call.text(f'parts{n}')}` is {part}" for n, part in enumerate(parts)),
        help=f"to put them one after another along the last axis, write `axis={first_last[0].name}`"
        if first_last and first_last[0].name not in (None, axis.name) and first_last[0] in (a, b)
        else "bring them to the same axes first, with `linear`, `mean` or `rearrange`",
    )


def _with_length(axis: Axis) -> str:
    return str(axis.size) if axis.name in (None, str(axis.size)) else f"{axis} {axis.size}"


def _slots(call: OpCall, parts: tuple[TensorType, ...], axis: Axis) -> list[_Slot]:
    """The axes of the result: those of the part with the most axes, and those of the others put in between."""
    having = [n for n, part in enumerate(parts) if any(a.same(axis) for a in part.axes)]
    if not having:
        call.fail(
            "unknown-axis",
            f"`{axis}` is not an axis of any part",
            *(f"`{call.text(f'parts{n}')}` is {part}" for n, part in enumerate(parts)),
            help="name an axis that one of them has; the others count as length 1",
            argument="axis",
        )
    first = max(having, key=lambda n: len(parts[n].axes))
    slots = [_Slot(a, {first: dim}) for dim, a in enumerate(parts[first].axes)]
    for n, part in enumerate(parts):
        if n != first and part.axes:
            found = _matched(call, parts, axis, n, slots)
            for dim in reversed(range(len(part.axes))):
                if dim not in found:
                    found[dim] = _Slot(part.axes[dim])
                    slots.insert(slots.index(found[dim + 1]), found[dim])
                slot = found[dim]
                slot.dims[n] = dim
                if slot.axis.name is None:
                    slot.axis = part.axes[dim]
    return slots


def _matched(call: OpCall, parts: tuple[TensorType, ...], axis: Axis, n: int, slots: list[_Slot]) -> dict[int, _Slot]:
    """Which dims of a part are axes that the result has already; the last one always is."""
    axes = parts[n].axes
    found: dict[int, _Slot] = {}

    def match(dim: int, slot: _Slot | None) -> None:
        if slot is not None and slot not in found.values():
            found[dim] = slot

    for dim, a in enumerate(axes):  # by name
        match(dim, next((s for s in slots if s.axis.same(a) and s not in found.values()), None))
    last = len(axes) - 1
    for dim, a in enumerate(axes):  # by place from the end and length, where there is no name; last axes always
        place = len(slots) - len(axes) + dim
        if dim in found or place < 0 or a.size != slots[place].axis.size:
            continue
        if a.name is None or slots[place].axis.name is None or dim == last:
            match(dim, slots[place])
    if last not in found and slots[-1].axis.same(axis) and slots[-1] not in found.values():
        found[last] = slots[-1]
    missing = [dim for dim in range(len(axes)) if dim not in found]
    open_slots = [slot for slot in slots if slot not in found.values()]
    if len(missing) == 1 and len(open_slots) == 1 and open_slots[0].axis.same(axis):
        found[missing[0]] = open_slots[0]  # an axis in the place of the one that is joined
    if last not in found:
        _disagree(call, parts, axis, slots[-1].axis, axes[last])
    return found


def _aligned(n: int, slots: list[_Slot], joined: _Slot, attrs: list[tuple[str, Size]]) -> str:
    """The code of one part with all axes of the result, in their order."""
    order = [slot.dims[n] for slot in slots if n in slot.dims]
    code = f"{{parts{n}}}{_reordered(order)}"
    broadcast = any(n not in slot.dims and slot is not joined for slot in slots)
    # expand makes axes in front by itself
    front = next((k for k, slot in enumerate(slots) if n in slot.dims), len(slots)) if broadcast else 0
    for k, slot in enumerate(slots[front:]):
        if n not in slot.dims:
            code += f".unsqueeze({-1 if front + k == len(slots) - 1 else k})"
    if not broadcast:
        return code
    sizes = []
    for slot in slots:
        if n in slot.dims:
            sizes.append("-1")
        elif slot is joined:
            sizes.append("1")
        else:
            attrs.append((f"size{len(attrs)}", slot.axis.size))
            sizes.append(f"{{{attrs[-1][0]}}}")
    return f"{code}.expand({', '.join(sizes)})"


# --- resize ----------------------------------------------------------------------------------------------------

_MODES = {"nearest": (1, 2, 3), "linear": (1,), "bilinear": (2,), "bicubic": (2,), "trilinear": (3,)}


@op("resize", statics="sizes:sizes mode:text", imports=("import torch.nn.functional as F",))
def resize(call: OpCall) -> OpResult:
    """Give the last axes other lengths, and interpolate the entries (corners are not aligned)."""
    x = tensor_argument(call)
    sizes: tuple[SizeArg, ...] = call.statics["sizes"]
    mode, many = call.statics["mode"], len(sizes)
    fitting = [name for name, counts in _MODES.items() if many in counts]
    if mode not in fitting:
        call.fail(
            "value-range",
            f'"{mode}" is not a way to resize {in_words(many)} {"axis" if many == 1 else "axes"}',
            help=f"use one of {', '.join(fitting)}" if fitting else "resize at most three axes",
            argument="mode",
        )
    if x.dtype != "float" and (x.dtype, mode) != ("bool", "nearest"):
        call.fail(
            "dtype-mismatch",
            f"`resize` interpolates float; `{call.text('x')}` is {x.dtype}",
            help='a condition is resized by "nearest"' if x.dtype == "bool" else f"write `float({call.text('x')})`",
            argument="x",
        )
    lead = len(x.axes) - many
    if not 0 <= lead <= 2:
        call.fail(
            "axis-count",
            f"`resize` needs {in_words(many)} axes to resize and at most two before them",
            f"got {call.text('x')} {shown(x.axes)}",
            help="`rearrange` merges and reorders axes",
            argument="x",
        )
    put, took = (("", ""), ("[None]", "[0]"), ("[None, None]", "[0, 0]"))[2 - lead]
    if x.dtype == "bool":
        put, took = f"{put}.float()", f"{took}.bool()"
    names = [f"size{k}" for k in range(many)]
    how = "" if mode == "nearest" else f', mode="{mode}"'
    written = [s.name for s in sizes]
    new = [
        kept(a, Axis(s.name if s.name and written.count(s.name) == 1 else a.name, s.size))
        for s, a in zip(sizes, x.axes[lead:], strict=True)
    ]
    return OpResult(
        TensorType(x.dtype, (*x.axes[:lead], *new)),
        f"F.interpolate({{x}}{put}, ({', '.join(f'{{{n}}}' for n in names)}{',' * (many == 1)}){how}){took}",
        attrs=tuple((n, s.size) for n, s in zip(names, sizes, strict=True)),
        moves=staying(x, *(Move(lead + k, None, unknown("the axis is resized")) for k in range(many))),
    )


# --- lookup ----------------------------------------------------------------------------------------------------


@op("lookup", tensors="at", statics="numbers:floats")
def lookup(call: OpCall) -> OpResult:
    """The numbers of a list at positions `at`, in float32; the nearest one where a position is outside."""
    at: TensorType = tensor_argument(call, "int", "at")
    numbers = call.statics["numbers"]
    if not numbers:
        call.fail("arguments", "there is nothing in this list to look up", argument="numbers")
    kind = replace(at, dtype="wide")
    code = "torch.tensor({numbers}, device={at}.device)[{at}.clamp(0, {last})]"
    attrs = (("numbers", numbers), ("last", len(numbers) - 1))
    return OpResult(kind, code, attrs=attrs, moves=staying(at))
