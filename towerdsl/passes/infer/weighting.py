"""How scores become weights, and heads one result: the fields `normalize`, `dropout` and `merge`."""

from __future__ import annotations

from typing import Any

from towerdsl.diagnostics import did_you_mean
from towerdsl.ir.size import Size
from towerdsl.lang import tree as t
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes import static as st
from towerdsl.passes.infer.branches import alternative
from towerdsl.passes.infer.mistakes import keyword_span
from towerdsl.passes.infer.scope import Fault, Scope
from towerdsl.passes.infer.tables import Tables
from towerdsl.passes.infer.typer import Typer

MERGES = ("concat", "mean", "sum")


def normalizer(typer: Typer, body: t.Attention, scope: Scope) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """What makes weights of scores, and its options. Raises Fault, Unknown."""
    if body.normalize is None:
        return "softmax", ()
    for e in t.alternatives(body.normalize):
        name = _word(typer, e, scope) or _normalizer_name(e)
        if name not in NORMALIZERS or (isinstance(e, t.Call) and len(e.args) > 1):
            help = did_you_mean(name or e.span.text, NORMALIZERS, f"normalizers are {', '.join(NORMALIZERS)}")
            written = _word(typer, e, scope) or e.span.text
            raise Fault("unknown-name", f"there is no normalizer `{written}`", e.span, (), help)
    e = alternative(typer, body.normalize, scope, "the normalizer")
    name = _word(typer, e, scope) or _normalizer_name(e)
    found = dict(NORMALIZERS[name].options)
    for key, value in e.kwargs if isinstance(e, t.Call) else ():
        if key not in found:
            help = did_you_mean(key, found, f"it has {', '.join(found) or 'no options'}")
            message = f"`{name}` has no option `{key}`"
            raise Fault("arguments", message, keyword_span(key, value), (), help)
        number = typer.static(typer.expand(value, scope), scope, f"`{key}`")
        if isinstance(number, (str, bool, Size)) or number <= 0:
            raise Fault("size", f"`{key}` is a number above 0", value.span)
        if isinstance(found[key], int) and number != int(number):
            raise Fault("size", f"`{key}` is a whole number", value.span)
        found[key] = type(found[key])(number)
    return name, tuple(found.items())


def dropout(typer: Typer, body: t.Attention, scope: Scope) -> float:
    """The probability that a weight is dropped. Raises Fault, Unknown."""
    e = body.dropout
    if e is None:
        return 0.0
    value = typer.static(typer.expand(e, scope), scope, "`dropout`")
    if isinstance(value, (bool, str, Size)) or not 0 <= value < 1:
        raise Fault("size", f"`dropout` is a probability from 0 up to 1, not {st.show(value)}", e.span)
    return float(value)


def merge(typer: Typer, body: t.Attention, scope: Scope) -> str:
    """How heads become one result: `concat`, `mean` or `sum`. Raises Fault, Unknown."""
    if body.merge is None:
        return "concat"
    for e in t.alternatives(body.merge):
        name = _word(typer, e, scope) or (e.id if isinstance(e, t.Name) else "")
        if name not in MERGES:
            help = did_you_mean(name, MERGES, "merge is concat, mean or sum")
            written = _word(typer, e, scope) or e.span.text
            raise Fault("merge", f"heads cannot be merged by `{written}`", e.span, (), help)
    e = alternative(typer, body.merge, scope, "how heads are merged")
    return _word(typer, e, scope) or e.span.text


def _word(tables: Tables, e: t.Expr, scope: Scope) -> str | None:
    """The word that a size is, where a field names the size in place of the word."""
    word = scope.names.get(e.id, tables.sizes.get(e.id)) if isinstance(e, t.Name) else None
    return word if isinstance(word, str) else None


def _normalizer_name(e: t.Expr) -> str:
    """`softmax` or `hard(gumbel)`, as the table of normalizers has it."""
    if isinstance(e, t.Call) and isinstance(e.func, t.Name):
        inner = [a.id if isinstance(a, t.Name) else a.span.text for a in e.args[:1]]
        return f"{e.func.id}({inner[0]})" if inner else e.func.id
    return e.id if isinstance(e, t.Name) else ""
