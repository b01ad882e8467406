"""`t[...]`: picks along an axis, tables read at positions, relations.

An index that is just a position of an axis of the same length is no lookup at all: the table's axis becomes that
position (`keep[j]`, `distance[i, j]`, `table[head, ...]`).
"""

from __future__ import annotations

from collections.abc import Sequence

from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size, SizeLimitError
from towerdsl.ir.types import Axis, TensorType, shown
from towerdsl.lang import tree as t
from towerdsl.ops.checks import NO_AXES
from towerdsl.passes import static as st
from towerdsl.passes.infer import axes as combining
from towerdsl.passes.infer.axis_names import axis_of
from towerdsl.passes.infer.mistakes import wrong_axis
from towerdsl.passes.infer.positions import side
from towerdsl.passes.infer.scope import Fault, Result, Scope
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.infer.values import pointwise, to_value

CONDITION = "a condition picks nothing: `where(keep, x, 0)` chooses entries, and `mask:` hides them from an attention"


MAX_INDICES = 4  # of loops, in one position that is known to stay inside


def index(typer: Typer, e: t.Index, scope: Scope, outer: bool = False) -> Result:
    """The value of `t[...]`. Raises Fault, Unknown."""
    if isinstance(e.base, t.List):
        return _item(typer, e.base, e, scope)
    base = typer.any(e.base, scope)
    if isinstance(base, n.Relation):
        return _member(typer, base, e, scope)
    if isinstance(base, bool):  # a condition that is decided is the same at every position
        typer.all([x for x in e.items if not isinstance(x, t.Pick)], scope)
        return base
    if not isinstance(base, n.Value) or base.type.scalar:
        raise Fault("type", "a number has no axes to index", e.base.span, (), NO_AXES)
    if any(isinstance(x, t.Pick) for x in e.items):
        return _picks(typer, base, e, scope)
    return _gather(typer, base, e, scope, outer)


def _item(typer: Typer, items: t.List, e: t.Index, scope: Scope) -> Result:
    """One item of a list."""
    if len(e.items) != 1 or isinstance(e.items[0], t.Pick):
        raise Fault("index", "a list has one index", e.span, (), "write `depths[l]`")
    found = typer.any(e.items[0], scope)
    if isinstance(found, n.Value) and not found.type.scalar:
        notes = (f"it is {found.type}",)
        help = "`where(c, a, b)` takes one of two items for each entry"
        raise Fault("not-static", "the index of a list must be known when compiling", e.items[0].span, notes, help)
    at = typer.integer(e.items[0], scope, "the index of a list")
    if not 0 <= at < len(items.items):
        message = f"`{e.base.span.text}` has no item {at}: it has {len(items.items)}, the first is item 0"
        raise Fault("index", message, e.items[0].span, (), "check the list's length, `len(...)`")
    return typer.any(items.items[at], scope)


def _member(typer: Typer, relation: n.Relation, e: t.Index, scope: Scope) -> n.Value:
    kind = relation.type
    help = f"write `{relation.name}[j, i]`: sources first, then targets"
    if scope.attention is None or len(e.items) != 2:
        raise Fault("relation", "a relation is read with two positions", e.span, (), help)
    found: list[Axis] = []
    for item, wanted in zip(e.items, (kind.source, kind.target), strict=True):
        value = typer.tensor(item, scope)
        if not isinstance(value, n.Position):
            raise Fault("relation", "a relation is read with two positions", item.span, (), help)
        axis = value.axes[0]
        if axis.size != wanted.size:
            note = f"`{relation.name}`: {kind}"
            message = f"`{relation.name}` has axis {wanted} here, not {axis.name}"
            ends = {a.side: a.name for a in (*scope.attention.positions, *scope.attention.over)}
            declare = f"declare it as `relation[{ends.get('j')}, {ends.get('i')}]`, or read it in the other direction"
            raise Fault("axis-mismatch", message, item.span, (note,), declare)
        found.append(axis)
    if found[0] == found[1]:
        raise Fault("relation", "a relation joins `i` and `j`, not one of them with itself", e.span, (), help)
    return n.Member(TensorType("bool", tuple(found)), e.span, relation.name, kind)


def _picks(typer: Typer, base: n.Value, e: t.Index, scope: Scope) -> n.Value:
    value = base
    for item in e.items:
        if not isinstance(item, t.Pick):
            raise Fault("syntax", "picks along axes and indices cannot be mixed", item.span, (), "write two brackets")
        axis = axis_of(typer, t.Name(item.span, item.axis), value, scope, "a pick")
        if not item.is_range:
            assert item.start is not None
            at = _position(typer, item.start, value, axis, scope)
            if isinstance(at, n.Value) and not at.type.scalar:
                value = _taken(value, axis, at, e)
                continue
            kind = TensorType(value.type.dtype, value.type.without([axis]))
            if isinstance(at, n.Value):
                value = _before_loop(value, at, scope)
            else:
                _check_inside(at, axis, item)
            value = n.Pick(kind, e.span, value, axis, at, None, False)
            continue
        start = _bound(typer, item.start, scope)
        stop = _bound(typer, item.stop, scope)
        length = _length(axis.size, start, stop)
        if (number := length.integer) is not None and number < 1:
            raise Fault("size", f"this part of {axis.shown} is empty", item.span)
        new = Axis(axis.name, length, axis.side, f"{item.span.text}, {typer.line(item.span)}")
        kind = TensorType(value.type.dtype, tuple(new if a == axis else a for a in value.axes))
        value = n.Pick(kind, e.span, value, axis, start, stop, True)
    return value


def _bound(typer: Typer, e: t.Expr | None, scope: Scope) -> Size | None:
    if e is None:
        return None
    help = "a part has a fixed length; in an attention a mask such as `j < t` takes a part that changes"
    return _whole(typer.static(e, scope, "an end of a part", help), e)


def _whole(value: st.Static, e: t.Expr) -> Size:
    size = st.as_size(value)
    if size is None:
        raise Fault("size", "a position is a whole number", e.span)
    return size


def _position(typer: Typer, e: t.Expr, base: n.Value, axis: Axis, scope: Scope) -> Size | n.Value:
    """One position of an axis. Where it is only known at run time, it is kept inside the axis."""
    found = typer.any(e, scope)
    if not isinstance(found, n.Value | n.Relation):
        return _whole(found, e)
    if isinstance(found, n.Relation):
        raise Fault("type", f"`{found.name}` is a relation, not a position", e.span)
    if found.type.dtype != "int":
        help = "round it: `//` rounds down"
        if found.type.dtype == "bool":
            help = CONDITION
        raise Fault("size", "a position is a whole number", e.span, (), help)
    if not found.type.scalar:
        return found
    if isinstance(found, n.Local) and found.name in scope.along:
        loop = scope.along[found.name].axis
        if loop.size != axis.size:
            notes = (f"`{found.name}` goes along {loop.detailed}", combining.describe("tensor", base))
            fitting = [a for a in base.axes if a.size == loop.size]
            near = f"did you mean `{fitting[0].name}={found.name}`?" if fitting and fitting[0].name else None
            near = near or f"a loop `for t along {axis}` reads every position of {axis}"
            message = f"`{found.name}` is a position of another axis than {axis.shown}"
            raise Fault("axis-mismatch", message, e.span, notes, near)
    first, last = to_value(0, e.span), to_value(st.normal(axis.size - 1), e.span)
    corners = _corners(found, scope)
    if not _never_negative(corners):
        found = pointwise("max", [found, first], e.span, scope)
    if not _never_negative(corners and [axis.size - 1 - c for c in corners]):
        found = pointwise("min", [found, last], e.span, scope)
    return found


def _taken(value: n.Value, axis: Axis, at: n.Value, e: t.Index) -> n.Value:
    """`x[n=end]` with a tensor of positions: of each of its entries, what stands there. Shared axes go together."""
    if any(a.same(axis) for a in at.axes):
        help = "name its axes in a statement of its own: `end[b, m] = ...`"
        message = f"the positions have axis {axis.shown} themselves, which is the one they are taken from"
        raise Fault("axis-mismatch", message, e.span, (combining.describe("positions", at),), help)
    notes = (combining.describe("tensor", value), combining.describe("positions", at))
    for a in value.axes:
        other = next((b for b in at.axes if b.same(a) and b.size != a.size), None)
        if other is not None and a != axis:
            raise Fault("axis-mismatch", f"axis {a} has two lengths, {a.size} and {other.size}", e.span, notes)
    lead = [a for a in value.axes if a in at.axes]
    rest = [a for a in value.axes if a != axis and a not in lead]
    table = n.Rename(TensorType(value.type.dtype, (*lead, axis, *rest)), e.span, value)
    return n.Gather(TensorType(value.type.dtype, (*at.axes, *rest)), e.span, table, len(lead), (at,))


def _never_negative(sizes: list[Size] | None) -> bool:
    least = [st.least(size) for size in sizes or ()]
    return sizes is not None and all(x is not None and x >= 0 for x in least)


def _corners(value: n.Value, scope: Scope) -> list[Size] | None:
    """What a number is with each loop's index first or last: where it is linear in each, it is never outside these."""
    try:
        found = _polynomial(value, scope)
    except SizeLimitError:
        return None
    if found is None:
        return None
    corners = [found]
    used = [name for name in scope.along if f"@{name}" in found.free_names]
    squares = any(power > 1 and atom.name.startswith("@") for m, _ in found.terms for atom, power in m)
    if squares or len(used) > MAX_INDICES:
        return None
    for name in used:
        ends = Size.of(0), scope.along[name].axis.size - 1
        corners = [c.substitute({f"@{name}": end}) for c in corners for end in ends]
    return corners


def _polynomial(value: n.Value, scope: Scope) -> Size | None:
    """A number as a polynomial in lengths and the indices of loops (`@t`), or None."""
    if isinstance(value, n.Const) and isinstance(value.value, int):
        return Size.of(int(value.value))
    if isinstance(value, n.SizeOf):
        return value.size
    if isinstance(value, n.Local) and value.name in scope.along:
        return Size.free(f"@{value.name}")
    if not isinstance(value, n.Pointwise) or value.op not in ("+", "-", "*", "neg"):
        return None
    parts = [_polynomial(a, scope) for a in value.args]
    if any(p is None for p in parts):
        return None
    a, b = parts[0] or Size.of(0), (parts[-1] or Size.of(0))
    return {"+": a + b, "-": a - b, "*": a * b, "neg": -a}[value.op]


def _before_loop(value: n.Value, at: n.Value, scope: Scope) -> n.Value:
    """`linear(x, d)[n=t]`: a value that does not depend on the loop whose index picks from it is computed before it."""
    if not scope.along or isinstance(combining.unnamed(value), n.Local | n.Weight):
        return value
    index, loop = list(scope.along.items())[-1]
    own = {v.name for v in value.walk() if isinstance(v, n.Local)}
    position = {v.name for v in at.walk() if isinstance(v, n.Local)}
    if index not in position or own & {index, *loop.assigned} or len(scope.builder.loops) > loop.depth:
        return value
    made = next((v.module.name for v in value.walk() if isinstance(v, n.Apply | n.CallBlock) and v.module), "all")
    source = next((v.name for v in value.walk() if isinstance(v, n.Local)), index)
    name = f"{source}_{made}"
    while name in {*scope.names, *scope.axes, *loop.assigned, *(x.names[0] for x in loop.hoisted)}:
        name += "_"
    loop.hoisted.append(n.Set((name,), value))
    return n.Local(value.type, value.span, name)


def _check_inside(position: Size, axis: Axis, item: t.Pick) -> None:
    if st.compare(">=", position, axis.size) or st.compare("<", position, -axis.size):
        help = f"positions go from 0 to {axis.size - 1}, or from the end back from -1"
        raise Fault("size", f"position {position} is outside axis {axis.shown}", item.span, (), help)


def _length(size: Size, start: Size | None, stop: Size | None) -> Size:
    def from_front(x: Size) -> Size:
        return size + x if st.compare("<", x, 0) else x

    first = from_front(start) if start is not None else Size.of(0)
    last = from_front(stop) if stop is not None else size
    if st.compare("<", first, 0):
        first = Size.of(0)
    if st.compare(">", last, size):
        last = size
    return last - first


def _gather(typer: Typer, base: n.Value, e: t.Index, scope: Scope, outer: bool) -> n.Value:
    items = _spread(typer, e, scope)
    batch = scope.attention.batch if scope.attention is not None else ()
    lead = [a for a in base.axes if a in batch and sum(a.alike(x) for x in base.axes) == 1]
    indexed = [a for a in base.axes if a not in lead]
    if len(items) > len(indexed):
        names = ", ".join(str(a) for a in indexed) or "none"
        note = combining.describe("tensor", base)
        if not base.axes:
            raise Fault("rank", f"`{e.base.span.text}` has no axes to index", e.span, (), NO_AXES)
        count = "1 index" if len(items) == 1 else f"{len(items)} indices"
        axes = "1 axis" if len(indexed) == 1 else f"{len(indexed)} axes"
        message = f"{count}, but there {'is' if len(indexed) == 1 else 'are'} {axes} to index ({names})"
        help = "batch axes of the attention are left out: `keep[j]` for `keep[b, n]`" if lead else None
        raise Fault("rank", message, e.span, (note,), help)
    rest = indexed[len(items) :]
    aligned: list[Axis] = []  # in the order of the table: batch axes, then those that are just a position
    kept: list[Axis] = []
    indices: list[n.Value] = []
    renames: dict[int, Axis] = {}
    for axis, (item, value) in zip(indexed, items, strict=False):
        if value.type.dtype not in ("int", "bool"):
            raise Fault("type", "an index is a whole number", item.span, (), "round it with `int(...)`")
        _check_head(axis, item, value, base, indexed, e, scope)
        _check_order(axis, item, value, base, indexed, scope)
        if isinstance(value, n.Position) and value.axes[0].size == axis.size and value.axes[0] not in aligned:
            aligned.append(value.axes[0])
            renames[len(kept)] = value.axes[0]
        else:
            if isinstance(value, n.Position) and axis.size.integer is None:
                assert scope.attention is not None
                raise wrong_axis(axis, value, base, indexed, item, scope.attention)
            indices.append(value)
        kept.append(axis)
    at_positions = [renames.get(k, axis) for k, axis in enumerate(kept)]
    order = {id(a): a for a in base.axes}
    renamed_axes: list[Axis] = []
    position = 0
    for axis in order.values() if len(order) == len(base.axes) else base.axes:
        if axis in lead:
            renamed_axes.append(axis)
        elif position < len(kept):
            renamed_axes.append(at_positions[position])
            position += 1
        else:
            renamed_axes.append(axis)
    table = combining.renamed(base, tuple(renamed_axes))
    if not indices:
        return table
    what = f"`{e.base.span.text}[...]`"
    index_axes = combining.union(combining.together(indices, e.span, what, scope.attention, outer), scope.attention)
    _check_apart(base, indices, index_axes, rest, e)
    before = [a for a in (*lead, *aligned) if a not in index_axes]
    kind = TensorType(base.type.dtype, (*before, *index_axes, *rest))
    front = (*lead, *aligned)
    looked_up = [a for k, a in enumerate(kept) if k not in renames]
    ordered = n.Rename(TensorType(base.type.dtype, (*front, *looked_up, *rest)), e.span, table)
    return n.Gather(kind, e.span, ordered, len(front), tuple(indices))


def _check_head(
    axis: Axis, item: t.Expr, value: n.Value, base: n.Value, indexed: list[Axis], e: t.Index, scope: Scope
) -> None:
    """`head` reads an axis with one entry for each head. Raises Fault."""
    head = scope.attention.head if scope.attention is not None else None
    if head is None or not isinstance(value, n.Position) or value.axes != (head,) or axis.size == head.size:
        return
    help = f"make the axis {head.size} long"
    if (other := next((a for a in indexed if a is not axis and a.size == head.size), None)) is not None:
        help = f"indices stand in the order of the axes, {shown(indexed)}"
        if item.span == e.span:  # the order is that of a definition
            names = [other if a is axis else axis if a is other else a for a in indexed]
            help = f"the order of the axes is another there: make the table {shown(names)}"
    message = f"`head` reads axis {axis.shown}, but there are {head.size} heads"
    raise Fault("axis-mismatch", message, item.span, (combining.describe("tensor", base),), help)


def _check_order(axis: Axis, item: t.Expr, value: n.Value, base: n.Value, indexed: list[Axis], scope: Scope) -> None:
    """A position reads the axis of its own name, where the tensor has it, and no other of that length. Raises Fault."""
    if not isinstance(value, n.Position) or value.axes[0].size != axis.size:
        return
    found = value.axes[0]
    names = {found.name}
    if scope.heads is not None and found == scope.heads[1] and isinstance(scope.heads[0], t.Name):
        names.add(scope.heads[0].id)
    own = next((a for a in indexed if a.name in names and a.size == axis.size), None)
    if own is not None and axis.name is not None and axis.name not in names:
        message = f"axis {axis.shown} is indexed by a position of axis {own.name}, which the tensor has too"
        help = f"indices stand in the order of the axes, {shown(indexed)}"
        raise Fault("axis-mismatch", message, item.span, (combining.describe("tensor", base),), help)


def _check_apart(base: n.Value, indices: list[n.Value], at: Sequence[Axis], rest: list[Axis], e: t.Index) -> None:
    """No axis of the indices is one that the tensor keeps. Raises Fault."""
    twice = next((a for a in rest if any(a.same(b) for b in at)), None)
    if twice is None:
        return
    notes = (combining.describe("tensor", base), *(combining.describe("index", x) for x in indices if x.axes))
    help = f"name the axis to take positions of another one for each entry of {twice}: `x[n=...]`"
    if any(x.type.dtype == "bool" for x in indices):
        help = CONDITION
    raise Fault("axis-mismatch", f"the index has axis {twice}, and the tensor has it too", e.span, notes, help)


def _spread(typer: Typer, e: t.Index, scope: Scope) -> list[tuple[t.Expr, n.Value]]:
    """The indices; a bare `i` or `j` over several axes stands for all its parts."""
    found: list[tuple[t.Expr, n.Value]] = []
    for item in e.items:
        if isinstance(item, t.Name) and item.id in ("i", "j") and item.id not in scope.names and scope.attention:
            for axis in side(item.id, item.span, scope):
                found.append((item, n.Position(TensorType("int", (axis,)), item.span)))
        else:
            found.append((item, typer.tensor(item, scope)))
    return found
