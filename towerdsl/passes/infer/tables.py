"""What all of inference reads: what a spec can name, its sizes as they are set, and the mistakes found so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TypeGuard, TypeVar

from towerdsl.diagnostics import Diagnostics, Span, TowerError
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis
from towerdsl.lang import tree as t
from towerdsl.lang.library import standard_library
from towerdsl.passes import static as st
from towerdsl.passes.expand import expand
from towerdsl.passes.infer.assigned import targets
from towerdsl.passes.infer.scope import Fault, Poison, Scope, Unknown
from towerdsl.passes.resolve import RESERVED, Resolved, block_expressions, statement_expressions, walk
from towerdsl.passes.static import Static

T = TypeVar("T")


class Tables:
    """What is known of a whole spec. Mistakes go to `errors`; `sizes` and `pinned` are set by `sizes.py`."""

    def __init__(self, resolved: Resolved, errors: Diagnostics) -> None:
        self.resolved = resolved
        self.errors = errors
        self.sizes: dict[str, Static | Poison] = {}
        #: lengths that were set of axes that have none in the spec
        self.pinned: dict[str, Static] = {}
        #: what a reader is shown in place of a name: the spec's own formulas, and those of the standard library that
        #: read what they are not given, as `window(w)` reads i and j; `rope(q, i, dk)` says what it needs
        standard = {d.signature.name for d in standard_library().define}
        self.open_definitions = {
            name: d
            for name, d in resolved.definitions.items()
            if name not in standard or any(isinstance(x, t.Name) and x.id in RESERVED for x in walk(d.body))
        }

    def report(self, fault: Fault) -> None:
        """Say a mistake that was found while typing."""
        self.errors.add(fault.code, fault.message, fault.span, fault.notes, fault.help)

    def report_all(self, faults: Iterable[Fault]) -> None:
        """Say several mistakes."""
        for fault in faults:
            self.report(fault)

    def line(self, span: Span) -> str:
        """A place in a note: its line, with the file where there are several."""
        return f"{span.source.name}:{span.line}" if self.resolved.spec.use else f"line {span.line}"

    def every(self, steps: Iterable[Callable[[], T]]) -> list[T]:
        """The results of all steps: every mistake in them is reported, not only the first. Raises Unknown."""
        found: list[T] = []
        failed = False
        for step in steps:
            try:
                found.append(step())
            except Fault as fault:
                self.report(fault)
                failed = True
            except Unknown:
                failed = True
        if failed:
            raise Unknown
        return found

    def size_value(self, name: str) -> Static:
        """What a size is. Raises Unknown."""
        value = self.sizes[name]
        if isinstance(value, Poison):
            raise Unknown
        return value

    def absorb(self, error: TowerError) -> None:
        """Say the mistakes of another part of the compiler."""
        for d in error.diagnostics:
            self.errors.add(d.code, d.message, d.span, d.notes, d.help)

    def number(self, decl: t.AxisDecl, scope: Scope) -> Size | None:
        """The length that the name of an axis has here as a number: a parameter or a size. Raises Unknown."""
        if decl.name in scope.names:
            known = scope.names[decl.name]
            return st.as_size(known) if isinstance(known, int | float | Size) else None
        return st.as_size(self.size_value(decl.name)) if decl.name in self.sizes else None

    def lengths(self, scope: Scope) -> tuple[dict[str, Size], dict[str, Size]]:
        """The lengths that names have here: of numbers, that is of sizes and of parameters, and of axes."""
        numbers = {name: st.as_size(v) for name, v in {**self.sizes, **scope.names}.items() if _is_length(v)}
        known = {name: size for name, size in numbers.items() if size is not None}
        return known, {name: axis.size for name, axis in scope.axes.items() if name not in known}

    def known_axis(self, name: str | None, scope: Scope) -> Axis | None:
        """The axis that a name stands for where a length is expected: not where that name is another number."""
        axis = scope.axes.get(name or "")
        if axis is None or name is None:
            return None
        known = scope.names.get(name, self.sizes.get(name))
        if isinstance(known, n.Value):
            return None if known.type.scalar else axis
        differs = isinstance(known, int | float | str | Size) and st.as_size(known) != axis.size
        return None if differs else axis

    def expanded(self, e: t.Expr, scope: Scope, definitions: Mapping[str, t.Definition] | None = None) -> t.Expr:
        """Replace definitions (all of them); names that are variables here are not definitions. Raises Fault."""
        hidden = frozenset({*scope.names, *self.sizes, *self.resolved.broken})
        try:
            return expand(e, self.resolved.definitions if definitions is None else definitions, hidden)
        except TowerError as error:
            d = error.diagnostics[0]
            assert d.span is not None
            raise Fault(d.code, d.message, d.span, d.notes, d.help) from None

    @cached_property
    def written_axes(self) -> set[str]:
        """Every name that is written as an axis somewhere: with other sizes a tensor may have it."""
        spec = self.resolved.spec
        declared: list[t.AxisDecl] = []
        words: list[str] = []
        roots = [*statement_expressions(spec.flow)]
        statements = [spec.flow]
        for block in self.resolved.blocks.values():
            roots += block_expressions(block)
            statements.append(block.body.body if isinstance(block.body, t.Composition) else block.body.let)
            declared += [a for p in block.signature.parameters for a in p.axes or ()]
        declared += [a for _, kind in spec.inputs for leaf in t.branches(kind) for a in leaf.axes]
        declared += [a for body in statements for target in targets(body) for a in target.axes or ()]
        for x in (x for root in roots for x in walk(root)):
            if isinstance(x, t.String):
                words += x.value.replace("(", " ").replace(")", " ").split()  # of `rearrange`
            elif isinstance(x, t.Pick):
                words.append(x.axis)
        return {*words, *(a.name for a in declared if a.name is not None)}


def _is_length(value: object) -> TypeGuard[int | float | Size]:
    return isinstance(value, int | float | Size) and not isinstance(value, bool)
