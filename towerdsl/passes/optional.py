"""The names of modules and parameters that other sizes would build: a checkpoint map may speak of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from towerdsl.lang import tree as t
from towerdsl.ops import OPS
from towerdsl.passes.resolve import Resolved, block_expressions, statement_expressions, walk


def optional_names(resolved: Resolved) -> set[str]:
    """The entries of `params` and `modules`, which may be left out, and what the alternatives of choices call, and the
    blocks and definitions that they call, and so on."""
    parts = (resolved.spec, *(block.body for block in resolved.blocks.values()))
    found = {name.text for part in parts for name, _ in (*part.modules, *part.params)}
    pending, called = list(_chosen(resolved)), set[str]()
    while pending:
        field, root = pending.pop()
        for e in walk(root):
            if not (isinstance(e, t.Call) and isinstance(e.func, t.Name)):
                continue
            name, given = e.func.id, dict(e.kwargs).get("name")
            if name in OPS or name in resolved.blocks:
                found |= {given.id if isinstance(given, t.Name) else name, field, f"{field}_{name}"}
            if name in called:
                continue
            called.add(name)
            if name in resolved.definitions:
                pending.append((field, resolved.definitions[name].body))
            if name in resolved.blocks:
                pending += _fields(resolved.blocks[name])
    return found - {""}


def _fields(block: t.Block) -> Iterator[tuple[str, t.Expr]]:
    """Every expression of a block, with the field that names the modules in it."""
    body = block.body
    named = ("query", "key", "value", "score", "mask", "locality", "message", "output")
    fields = {id(e): name for name in named if (e := getattr(body, name, None)) is not None}
    for e in block_expressions(block):
        yield fields.get(id(e), ""), e


def _chosen(resolved: Resolved) -> Iterator[tuple[str, t.Expr]]:
    """The alternatives of every choice in the spec and in what it uses, with the fields that they stand in."""
    spec = resolved.spec
    yield from (("", e) for e in _branches(spec.flow))
    roots = [("", e) for e in (*statement_expressions(spec.flow), *(e for _, e in (*spec.outputs, *spec.modules)))]
    roots += [("", d.body) for d in resolved.definitions.values()]
    for block in resolved.blocks.values():
        body = block.body
        yield from (("", e) for e in _branches(body.body if isinstance(body, t.Composition) else body.let))
        roots += _fields(block)
    for field, root in roots:
        for e in walk(root):
            if isinstance(e, t.Cond):
                yield from ((field, x) for x in (e.then, e.otherwise))


def _branches(statements: Iterable[t.Statement]) -> Iterator[t.Expr]:
    """The expressions in the bodies of every `if`."""
    for s in statements:
        if isinstance(s, t.If):
            yield from statement_expressions((*s.body, *s.orelse))
        elif isinstance(s, t.For):
            yield from _branches(s.body)
