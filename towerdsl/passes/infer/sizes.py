"""The sizes of a spec: what they are set to, or their formulas, in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Mapping

from towerdsl.diagnostics import Span, TowerError, did_you_mean
from towerdsl.lang import tree as t
from towerdsl.passes import static as st
from towerdsl.passes.expand import expand
from towerdsl.passes.infer.branches import taken
from towerdsl.passes.infer.scope import POISON, Builder, Fault, Poison, Scope, Unknown
from towerdsl.passes.infer.typer import Typer
from towerdsl.passes.resolve import walk
from towerdsl.passes.static import Static


def set_sizes(typer: Typer, overrides: Mapping[str, Static]) -> None:
    """Fill in `typer.sizes`, and lengths of axes that are free in the spec; `overrides` are set from outside."""
    spec = typer.resolved.spec
    types = [x for _, d in spec.inputs for x in t.branches(d)]
    free = {a.name for d in types for a in d.axes if a.name and a.size is None}
    for name, value in overrides.items():
        if name in typer.resolved.choices:
            typer.sizes[name] = _choice(typer, name, value, None)
        elif name in typer.resolved.sizes and not isinstance(value, str):
            typer.sizes[name] = value
        elif name in free and name not in typer.resolved.sizes:
            typer.pinned[name] = value
        elif name not in typer.resolved.sizes:
            known = {*typer.resolved.sizes, *free}
            help = did_you_mean(name, known, f"sizes are {', '.join(sorted(known))}" if known else None)
            typer.errors.add("unknown-name", f"there is no size `{name}` to set", None, help=help)
    pending = [name for name in typer.resolved.sizes if name not in typer.sizes]
    scope = Scope({}, {}, Builder())

    def evaluate(name: str) -> None:
        if name in typer.sizes:
            return
        _, expr = typer.resolved.sizes[name]
        for e in walk(expr):
            if isinstance(e, t.Name) and e.id in typer.resolved.sizes and e.id != name:
                evaluate(e.id)
        try:
            called = typer.resolved.definitions.get(expr.id) if isinstance(expr, t.Name) else None
            if called is not None and any(p.default is None for p in called.signature.parameters):
                raise Fault("unknown-name", f"there is no number `{called.signature.name}` here", expr.span)
            expanded = expand(expr, typer.resolved.definitions, frozenset(typer.resolved.sizes))
            value = typer.static(taken(typer, expanded, scope), scope, f"the size `{name}`")
            typer.sizes[name] = _choice(typer, name, value, expr.span)
        except TowerError as error:
            typer.absorb(error)
            typer.sizes[name] = POISON
        except Fault as fault:
            if fault.code == "unknown-name" and fault.help is None and isinstance(expr, t.Name):
                word = f"a word is one of several: `{name}: one_of('{expr.id}', 'other')`"
                fault.help = f"a size is a number or a formula; {word}"
            typer.report(fault)
            typer.sizes[name] = POISON
        except Unknown:
            typer.sizes[name] = POISON

    for name, value in overrides.items():
        if isinstance(value, str) and name in pending:  # only a size that is a word already can be another
            evaluate(name)
            default = typer.sizes[name]
            if not isinstance(default, str | Poison):
                kind = "true or false" if isinstance(default, bool) else "a number"
                typer.errors.add("setting", f"`{name}={value}`: the size `{name}` is {kind}, not a word", None)
            typer.sizes[name] = value if isinstance(default, str) else POISON
    for name in pending:
        evaluate(name)


def _choice(typer: Typer, name: str, value: Static, span: Span | None) -> Static | Poison:
    """A size's value, one of those that it may have."""
    choice = typer.resolved.choices.get(name)
    if choice is None:
        return value
    found = choice.find(value)
    if found is not None:
        return found
    message = f"`{name}` is one of {choice.shown}, not {st.show(value)}"
    note = [] if span is None or span.source == choice.span.source else [f"its choices stand at {choice.span}"]
    typer.errors.add("choice", message, span, note, choice.near(value))
    return POISON
