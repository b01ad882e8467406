"""Which names a place in a spec has, and what is said of one that it has not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from towerdsl.budget import spend
from towerdsl.diagnostics import did_you_mean
from towerdsl.ir.size import Size
from towerdsl.lang import tree as t
from towerdsl.lang.foreign import VALUES
from towerdsl.ops import ELEMENTWISE, OPS
from towerdsl.passes.infer.assigned import assigned, loops
from towerdsl.passes.infer.scope import Fault, Poison, Scope
from towerdsl.passes.infer.tables import Tables
from towerdsl.passes.resolve import RESERVED, statement_expressions


def is_static(tables: Tables, e: t.Expr, scope: Scope) -> bool:
    """Whether it is made of numbers, words, sizes and what is computed from them."""
    spend(3)
    if isinstance(e, t.Name):
        if e.id in scope.names:
            return isinstance(scope.names[e.id], int | float | str | Size | Poison)
        return e.id in tables.sizes or (e.id in scope.axes and e.id not in RESERVED)
    if isinstance(e, t.Index) and isinstance(e.base, t.List):
        return all(is_static(tables, x, scope) for x in (*e.base.items, *e.items))
    if isinstance(e, t.Call):
        if e.func == t.Name(e.func.span, "len"):
            return True
        known = isinstance(e.func, t.Name) and e.func.id in ELEMENTWISE and e.func.id not in scope.names
        return known and all(is_static(tables, a, scope) for a in (*e.args, *(v for _, v in e.kwargs)))
    if isinstance(e, t.Index | t.List | t.Attribute | t.Pick):
        return False
    return all(is_static(tables, c, scope) for c in e.children())


def check_names(tables: Tables, e: t.Expr, scope: Scope) -> None:
    """Report the names of an expression that nothing has."""
    for name in unknown(tables, e, scope):
        tables.report(unknown_name(tables, name, scope))


def unknown(tables: Tables, e: t.Expr, scope: Scope) -> list[t.Name]:
    """The names of an expression that nothing has."""
    return [name for name in _names(e) if not _known(tables, name.id, scope)]


def check_statements(tables: Tables, statements: Sequence[t.Statement], scope: Scope) -> None:
    """Report the names in statements that nothing has; what they assign is known from here on."""
    scope.skipped |= assigned(statements) | {loop.index for loop in loops(statements)}
    for root in statement_expressions(statements):
        try:
            check_names(tables, tables.expanded(root, scope), scope)
        except Fault as fault:
            tables.report(fault)


def _known(tables: Tables, name: str, scope: Scope) -> bool:
    resolved = tables.resolved
    return (
        name in scope.names
        or name in scope.skipped
        or name in scope.axes
        or name in tables.sizes
        or name in RESERVED
        or name in resolved.callable
        or name in tables.written_axes
    )


def _names(e: t.Expr) -> Iterator[t.Name]:
    """The names in an expression that stand for values: not those of functions, nor of new modules."""
    if isinstance(e, t.Name):
        yield e
    elif isinstance(e, t.Call):
        for argument in (*e.args, *(v for k, v in e.kwargs if k != "name")):
            yield from _names(argument)
    else:
        for c in e.children():
            yield from _names(c)


def unknown_name(tables: Tables, e: t.Name, scope: Scope) -> Fault:
    """The mistake that nothing has a name."""
    resolved, name = tables.resolved, e.id
    notes: tuple[str, ...] = ()
    inside: set[str] = set()
    if e.span.within is not None and (outer := resolved.definitions.get(e.span.within[0])) is not None:
        inside = {p.name for p in outer.signature.parameters}
    known = {*scope.names, *scope.axes, *(("i", "j", "head") if scope.attention else ())}
    help = (
        VALUES.get(name)
        or _implicit(name, scope)
        or _word(tables, name)
        or did_you_mean(name, {*known, *inside})
        or did_you_mean(name, tables.sizes)
    )
    if name in scope.ended:
        help = f"it is the index of the loop on line {scope.ended[name].line}, known in that loop only"
    if any(name in loop.new for loop in scope.along.values()):
        help = f"what a loop carries has a first value before it, as in `{name} = zeros([b, d])`"
    if help is None and not scope.is_flow and name in {key.text for key, _ in resolved.spec.inputs}:
        message = f"`{name}` is an input of the model; a block sees only its parameters"
        parameters = [p.span.text for p in scope.signature.parameters] if scope.signature else []
        block = scope.signature.name if scope.signature else "block"
        help = f"make it a parameter, `{block}({', '.join([*parameters, name])})`, and pass it"
        return Fault("unknown-name", message, e.span, notes, help)
    learned = {key.text for key, _ in (*resolved.spec.params, *resolved.spec.modules)}
    if help is None and not scope.is_flow and name in learned:
        message = f"`{name}` belongs to the model; a block sees only its parameters"
        help = "declare it in the `params:` or `modules:` of the block"
        return Fault("unknown-name", message, e.span, notes, help)
    if help is None and name in OPS:
        help = f"a weight is read of a module that `modules:` names: `words: {name}(...)`, then `words.weight`"
    if help is None and name in {*ELEMENTWISE, *resolved.definitions, *resolved.blocks}:
        return Fault("unknown-name", f"`{name}` is a function here: call it", e.span, notes, f"write `{name}(...)`")
    if help is None and known:
        help = f"names here: {', '.join(sorted(known))}" if len(known) <= 12 else None
        if scope.attention is not None:
            help = f"{help}; a learned tensor is declared in `params:`" if help else "declare it in `params:`"
    return Fault("unknown-name", f"there is no `{name}` here", e.span, notes, help)


def _word(tables: Tables, name: str) -> str | None:
    """Help for a word of `one_of` without its quotes."""
    if any(name in choice.values for choice in tables.resolved.choices.values()):
        return f"a word stands in quotes: `'{name}'`"
    return None


def _implicit(name: str, scope: Scope) -> str | None:
    """Help for a name that has a meaning elsewhere in an attention."""
    if scope.attention is not None:
        return {
            "query": "`q` is the query of one head",
            "key": "`k` is the key of one head",
            "value": "`v` is the value of one head",
            "q": "`q` is the query of one head: add `query:` to the attention",
            "k": "`k` is the key of one head: add `key:` to the attention",
            "dk": "`dk` is the key's size: add `key:` to the attention",
            "y": "`y` is the result, known in `output` only",
            "log_prob": "`log_prob` is known in `output` only, with `normalize: hard(score_function)`",
        }.get(name)
    if name in ("i", "j", "head"):
        return f"`{name}` is known in the `score`, `mask`, `locality` and `message` of an attention only"
    if name in ("q", "k", "v"):
        return f"`{name}` is one head's vector, known in `score` and `message` only"
    if name == "y":
        return "`y` is the result of an attention, known in its `output` only"
    if name == "log_prob":
        return "`log_prob` is known in `output`, with `normalize: hard(score_function)`"
    return None
