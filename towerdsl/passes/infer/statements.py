"""Statements: assignments, loops and choices, in the order in which they run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from towerdsl.budget import spend, working_at
from towerdsl.diagnostics import Span
from towerdsl.ir import nodes as n
from towerdsl.ir.types import Axis, RelationType, TensorType, Type, shown
from towerdsl.lang import tree as t
from towerdsl.passes import static as st
from towerdsl.passes.dtypes import as_before
from towerdsl.passes.infer.assigned import assigned, assignments
from towerdsl.passes.infer.declared import declared_axis
from towerdsl.passes.infer.names import check_statements
from towerdsl.passes.infer.scope import POISON, Along, Fault, Poison, Scope, SharedModule, Unknown
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.infer.values import to_value
from towerdsl.passes.resolve import statement_expressions, walk
from towerdsl.passes.static import Static

MAX_REPETITIONS = 1_000


def type_statements(
    typer: Typer, statements: Sequence[t.Statement], scope: Scope
) -> tuple[list[n.Step], list[n.Value | n.Relation | Static | Poison] | None]:
    """Type statements in order; returns the steps and the values of a `return` or of the last statement."""
    steps: list[n.Step] = []
    last: list[n.Value | n.Relation | Static | Poison] | None = None
    for position, s in enumerate(statements):
        final = position == len(statements) - 1
        working_at(s.span)
        spend(20)
        try:
            last = _statement(typer, s, scope, steps, final)
        except Fault as fault:
            typer.report(fault)
            last = _poison(s, scope)
        except Unknown:
            last = _poison(s, scope)
    return steps, last


def _poison(s: t.Statement, scope: Scope) -> list[Any]:
    names = assigned([s])
    for name in names:
        scope.names[name] = POISON
    return [POISON]


def _statement(typer: Typer, s: t.Statement, scope: Scope, steps: list[n.Step], final: bool) -> list[Any] | None:
    if isinstance(s, t.Assign):
        return _assign(typer, s, scope, steps)
    if isinstance(s, t.Bare):
        if not final:
            help = "give it a name, `x = ...`, or remove it"
            raise Fault("unused", "the result of this statement is not used", s.span, (), help)
        return typer.results(typer.expand(s.value, scope), scope)
    if isinstance(s, t.Return):
        if scope.is_flow:
            message = "`return` belongs to a block; the model's results are its `outputs`"
            raise Fault("syntax", message, s.span, (), "name the results in `outputs:`")
        if not final:
            raise Fault("unused", "nothing after `return` is run", s.span, (), "move it to the end")
        found: list[Any] = []
        for e in s.values:
            found += (
                typer.results(typer.expand(e, scope), scope)
                if len(s.values) == 1
                else [typer.any(typer.expand(e, scope), scope)]
            )
        return found
    if isinstance(s, t.If):
        return _if(typer, s, scope, steps)
    assert isinstance(s, t.For)
    _check_loop(typer, s, scope)
    if s.along:
        _along(typer, s, scope, steps)
    else:
        _for(typer, s, scope, steps)
    scope.names.pop(s.index, None)
    scope.ended[s.index] = s.span
    return None


def _assign(typer: Typer, s: t.Assign, scope: Scope, steps: list[n.Step]) -> list[Any]:
    for target in s.targets:
        if scope.variable(target.name) in {*scope.along, *(index for index, _ in scope.builder.loops)}:
            message = f"`{target.name}` is the index of a loop, it cannot be assigned"
            raise Fault("name-reused", message, target.span, (), "choose another name")
        if target.name in typer.sizes and target.name not in scope.names:
            message = f"`{target.name}` is a size, it cannot be assigned"
            raise Fault("name-reused", message, target.span, (), "choose another name")
        if isinstance(scope.names.get(target.name), (SharedModule, n.Weight)):
            raise Fault(
                "name-reused", f"`{target.name}` is a module or parameter", target.span, (), "choose another name"
            )
    values = typer.results(typer.expand(s.value, scope), scope)
    if len(values) != len(s.targets):
        got = "1 value" if len(values) == 1 else f"{len(values)} values"
        message = f"this gives {got} for {len(s.targets)} name{'s' if len(s.targets) > 1 else ''}"
        raise Fault("arguments", message, s.span, (), "write as many names as there are values")
    if len(values) == 1:
        result = values[0]
        target = s.targets[0]
        if isinstance(result, (n.Value, n.Relation)):
            if target.axes is not None:
                result = _named_axes(typer, to_value(result, s.value.span), target, scope)
            if isinstance(result, n.Relation):
                scope.names[target.name] = result
                return [result]
            if scope.along or scope.builder.loops:
                result = as_before(result, getattr(scope.names.get(target.name), "type", None))
            steps.append(n.Set((scope.variable(target.name),), result))
            _bind(target.name, result.type, target.span, scope, target.axes is not None)
            return [scope.names[target.name]]
        scope.names[target.name] = result
        return [result]
    call = values[0]
    assert isinstance(call, n.CallBlock)
    steps.append(n.Set(tuple(scope.variable(x.name) for x in s.targets), call))
    for target, kind in zip(s.targets, call.results, strict=True):
        if target.axes is not None:
            help = "name the axes in a statement of its own"
            raise Fault("syntax", "axes cannot be named here", target.span, (), help)
        _bind(target.name, kind, target.span, scope)
    return [scope.names[x.name] for x in s.targets]


def _bind(name: str, kind: Type, span: Span, scope: Scope, named: bool = False) -> None:
    """Bind a variable. Names of its axes that are new here, or are `named` by the statement, become known."""
    scope.names[name] = local(scope.variable(name), kind, span)
    if isinstance(kind, TensorType):
        for axis in kind.axes:
            if axis.name is not None and not axis.side and (named or axis.name not in scope.axes):
                scope.axes[axis.name] = axis


def _named_axes(typer: Typer, value: n.Value, target: t.Target, scope: Scope) -> n.Value:
    """`x[b, n, d] = value`: check the number of axes and the sizes, and name the axes. Raises Fault."""
    assert target.axes is not None
    if len(target.axes) != len(value.axes):
        message = f"`{target.name}` is given {len(target.axes)} axes, but it has {len(value.axes)}"
        help = "name each of its axes"
        pairs = itertools.combinations([a for a in value.axes if a.name and (a.size.integer or 0) > 1], 2)
        if alike := next((f"{a.name} and {b.name}" for a, b in pairs if a.size == b.size and a.name != b.name), None):
            help = f"name each of its axes; if {alike} are to be one axis, call them alike"
        raise Fault("rank", message, target.span, (f"got {shown(value.axes)}",), help)
    axes = []
    for decl, axis in zip(target.axes, value.axes, strict=True):
        declared = None
        if decl.size is not None:
            declared = typer.size(typer.expand(decl.size, scope), scope, "the length of an axis")
        else:
            declared = typer.number(decl, scope)
        if declared is not None and declared != axis.size:
            known = declared.integer is not None and axis.size.integer is not None
            if known or decl.size is None:
                note = f"got {shown(value.axes)}"
                message = f"axis `{decl.span.text}` has length {declared} here, but the value has {axis.size}"
                raise Fault("axis-mismatch", message, decl.span, (note,))
        if decl.name != axis.name and any(decl.name == a.name for a in value.axes if a.name is not None):
            raise _other_order(target, decl, axis, value)
        name = decl.name or (axis.name if declared is None else None)
        axes.append(Axis(name, axis.size, axis.side, axis.origin))
    if value.axes == tuple(axes):
        return value
    return n.Rename(TensorType(value.type.dtype, tuple(axes)), value.span, value)


def _if(typer: Typer, s: t.If, scope: Scope, steps: list[n.Step]) -> list[Any] | None:
    help = "`if` chooses when compiling: use `where` for a choice made elementwise"
    test = typer.static(typer.expand(s.test, scope), scope, "the condition of `if`", help)
    if not isinstance(test, bool):
        help = "compare it, as in `l % 2 == 0`"
        raise Fault(
            "not-boolean", f"the condition of `if` is a truth value, not {st.show(test)}", s.test.span, (), help
        )
    scope.builder.readings.decided(s, test)
    check_statements(typer, s.orelse if test else s.body, scope)
    inner, last = type_statements(typer, s.body if test else s.orelse, scope)
    steps += inner
    return last


def _for(typer: Typer, s: t.For, scope: Scope, steps: list[n.Step]) -> None:
    if isinstance(s.count, t.Call) and s.count.func == t.Name(s.count.span, "range"):
        inside = ", ".join(a.span.text for a in s.count.args)
        raise Fault("not-static", "a loop takes a number", s.count.span, (), f"write `for {s.index} in {inside}`")
    if isinstance(s.count, t.Name) and s.count.id not in {*typer.sizes, *scope.names}:
        axis = scope.axes.get(s.count.id)
        if axis is not None and axis.size.integer is None:
            message = f"`{s.count.id}` is an axis, whose length is only known at run time"
            help = f"did you mean `for {s.index} along {s.count.id}`?"
            raise Fault("free-size", message, s.count.span, (), help)
    count = typer.integer(typer.expand(s.count, scope), scope, "the number of repetitions")
    if not 0 <= count <= MAX_REPETITIONS:
        message = f"a loop has 0 to {MAX_REPETITIONS:,} repetitions, not {count:,}"
        raise Fault("loop-count", message, s.count.span, (), "check the size it is made from")
    uses_index = any(isinstance(x, t.Name) and x.id == s.index for e in statement_expressions(s.body) for x in walk(e))
    before = {name: b for name, b in scope.names.items() if name in assigned(s.body)}
    counts = dict(scope.builder.counts)
    highest = dict(counts)
    bodies: list[tuple[n.Step, ...]] = []
    start = len(scope.builder.placed)
    for repetition in range(count):
        scope.names[s.index] = repetition
        scope.builder.loops.append((scope.variable(s.index), repetition))
        scope.builder.counts = dict(counts)
        try:
            if repetition and not uses_index:
                scope.builder.repeat(set(scope.builder.placed[start:]), repetition)
                bodies.append(bodies[0])
                continue
            note = f"in the repetition with {s.index} = {repetition}" if repetition else None
            with typer.errors.inside(note):
                body, _ = type_statements(typer, s.body, scope)
            bodies.append(tuple(body))
        finally:
            scope.builder.loops.pop()
            for name, number in scope.builder.counts.items():
                highest[name] = max(highest.get(name, 0), number)
        poisoned = any(isinstance(scope.names.get(name), Poison) for name in assigned(s.body))
        for name, old in before.items() if not uses_index else ():
            _check_carried(typer, name, old, scope.names.get(name), s, scope)
        if poisoned or typer.errors:
            break
    scope.builder.counts = highest
    steps.append(n.Loop(scope.variable(s.index), tuple(bodies)))


def _along(typer: Typer, s: t.For, scope: Scope, steps: list[n.Step]) -> None:
    axis = _loop_axis(typer, s, scope)
    written = assigned(s.body)
    new = scope.new_in.setdefault(id(s), frozenset(written - scope.names.keys()))
    for name in new:
        scope.names.pop(name, None)
    before = {name: scope.names[name] for name in sorted(written) if name in scope.names}
    for name, old in before.items():
        if not isinstance(old, n.Value | n.Relation | Poison):
            place = next(x.span for x in assignments(s.body) if name in {g.name for g in x.targets})
            message = f"`{name}` is a number before the loop, which carries tensors"
            help = "start with a tensor, as in `zeros([b])`; the number of the step is the loop's index"
            raise Fault("loop-changes-shape", message, place, (), help)
    loop = Along(axis, frozenset(map(scope.variable, written)), new, len(scope.builder.loops))
    index = scope.variable(s.index)
    scope.names[s.index] = n.Local(TensorType("int", (), True), s.span, index)
    scope.along[index] = loop
    try:
        body, _ = type_statements(typer, s.body, scope)
    finally:
        del scope.along[index]
    for name, old in before.items():
        _check_carried(typer, name, old, scope.names.get(name), s, scope)
        scope.names[name] = old
    collected = []
    for name in dict.fromkeys(g.name for x in assignments(s.body) for g in x.targets if g.name in new):
        each = scope.names.get(name)
        if isinstance(each, n.Value):
            collected.append((scope.variable(name), each.type.stacked(axis)))
            _bind(name, each.type.stacked(axis), each.span or s.span, scope)
    steps += loop.hoisted
    steps.append(n.Scan(index, axis, tuple(body), tuple(collected)))


def _check_loop(typer: Typer, s: t.For, scope: Scope) -> None:
    """A loop has an index of its own, and statements that do something."""
    if s.index in typer.sizes or s.index in scope.names:
        raise Fault("name-reused", f"`{s.index}` is already a name here", s.span, (), "choose another index")
    if s.along and s.index in scope.axes:
        raise Fault("name-reused", f"`{s.index}` is an axis here", s.span, (), "choose another index")
    if not s.body:
        raise Fault("form", "the loop has no statements", s.span, (), "add statements below it, each after `- `")
    for inner in _choices(s.body):
        if isinstance(inner, t.Return) and not scope.is_flow:
            help = "assign its value to a name, and return that after the loop"
            raise Fault("syntax", "a loop cannot return", inner.span, (), help)
        if isinstance(inner, t.Bare):
            help = "give it a name, `x = ...`, or remove it"
            raise Fault("unused", "the result of this statement is not used", inner.span, (), help)


def _loop_axis(typer: Typer, s: t.For, scope: Scope) -> Axis:
    """The axis that a loop goes along. Raises Fault, Unknown."""
    if not isinstance(s.count, t.Name):
        message = "a loop goes along an axis, which is named"
        raise Fault("axis", message, s.count.span, (), f"write `for {s.index} along n`")
    found = scope.names.get(s.count.id)
    if isinstance(found, n.Value) and found.axes and s.count.id not in scope.axes:
        notes = (f"`{s.count.id}` is {found.type}",)
        names = [a.name for a in found.axes if a.name]
        help = f"write `for {s.index} along {names[min(1, len(names) - 1)]}`" if names else None
        raise Fault("axis", "a loop goes along an axis, not along a tensor", s.count.span, notes, help)
    return declared_axis(typer, t.AxisDecl(s.count.id, None, s.count.span), scope, False)


def _check_carried(typer: Typer, name: str, old: Any, new: Any, s: t.For, scope: Scope) -> None:
    if isinstance(old, Poison) or isinstance(new, Poison) or not isinstance(old, n.Value):
        return
    if isinstance(new, n.Value) and old.type == new.type:
        return
    place = next((x.span for x in assignments(s.body) if name in {g.name for g in x.targets}), s.span)
    after = str(new.type) if isinstance(new, (n.Value, n.Relation)) else "a number"
    first = f", {typer.line(old.span)}" if old.span is not None else ""
    help = "where the body does not read the index, what it carries keeps its axes: assign a new name, or project back"
    if any(name in new for new in scope.new_in.values()):
        help = "what is new in a loop has the loop's axis after it: choose another name in this one"
    typer.errors.add(
        "loop-changes-shape",
        f"`{name}` changes from one repetition to the next",
        place,
        [f"before: {old.type}{first}", f"after:  {after}, {typer.line(place)}"],
        help,
    )


def _other_order(target: t.Target, decl: t.AxisDecl, axis: Axis, value: n.Value) -> Fault:
    """The mistake that a statement gives an axis the name of another one of the value."""
    message = f"`{target.name}` calls axis {axis} `{decl.name}`, and the value has another axis of that name"
    help = "call it something else, or bring the axes in this order first, with `rearrange`"
    old, new = [str(a) for a in value.axes], [d.name or d.span.text for d in target.axes or ()]
    if sorted(old) == sorted(new):
        help = f'bring them in this order first: `rearrange(..., "{" ".join(old)} -> {" ".join(new)}")`'
    return Fault("axis-mismatch", message, decl.span, (f"got {shown(value.axes)}",), help)


def local(name: str, kind: Type, span: Span | None) -> n.Value | n.Relation:
    """A variable of a type, as a value or a relation."""
    return n.Relation(name, kind) if isinstance(kind, RelationType) else n.Local(kind, span, name)


def _choices(statements: Iterable[t.Statement]) -> Iterable[t.Statement]:
    """Statements, and those of the choices among them."""
    for s in statements:
        yield s
        if isinstance(s, t.If):
            yield from _choices((*s.body, *s.orelse))
