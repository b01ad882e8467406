"""What the parts of inference call of each other.

An expression calls blocks, a block is statements or an attention, and both are made of expressions: what types them is
one recursive thing. Each part is a file of its own that is given a `Typer`, and imports none of the parts that it calls
through it; `model.py` puts them together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial

from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import read
from towerdsl.ir.size import Size
from towerdsl.lang import tree as t
from towerdsl.passes import static as st
from towerdsl.passes.infer.scope import Fault, Result, Scope, SharedModule
from towerdsl.passes.infer.tables import Tables
from towerdsl.passes.infer.values import to_value
from towerdsl.passes.static import Static

_STATIC = "use numbers, sizes and loop indices"


class Typer(Tables, ABC):
    """The tables, and the functions through which the recursion goes."""

    @abstractmethod
    def any(self, e: t.Expr, scope: Scope) -> Result:
        """A static value, a tensor or a relation. Raises Fault, Unknown."""

    @abstractmethod
    def worded(self, e: t.Expr, scope: Scope) -> tuple[Result, n.Wording]:
        """What an expression is, and each part of it. Raises Fault, Unknown."""

    @abstractmethod
    def expand(self, e: t.Expr, scope: Scope) -> t.Expr:
        """Replace definitions, and take the branches that sizes decide. Raises Fault, Unknown."""

    @abstractmethod
    def block(self, block: t.Block, e: t.Call, scope: Scope, module: SharedModule | None = None) -> Result:
        """The call of a block, which may be a shared module. Raises Fault, Unknown."""

    # --- what an expression has to be -------------------------------------------------------------------------

    def tensor(self, e: t.Expr, scope: Scope) -> n.Value:
        """The value of `e` as a node; static values become constants."""
        return to_value(self.any(e, scope), e.span)

    def all(self, es: Sequence[t.Expr], scope: Scope) -> list[n.Value]:
        """Several operands: every mistake in them is reported, not only the first."""
        return self.every(partial(self.tensor, e, scope) for e in es)

    def static(self, e: t.Expr, scope: Scope, what: str, help: str = _STATIC) -> Static:
        """A value that is known when compiling. Raises Fault if it is not."""
        result = self.any(e, scope)
        if isinstance(result, (n.Value, n.Relation)):
            message = f"{what} must be known when compiling"
            kind = result.type if isinstance(result, n.Relation) or not result.type.scalar else "known at run time"
            notes = (f"`{e.span.text}` is {kind}",)
            if help == _STATIC and isinstance(result, n.Value) and read([result]) & scope.along.keys():
                help = "a position along an axis is known at run time; the index of `for l in depth` when compiling"
            raise Fault("not-static", message, e.span, notes, help)
        return result

    def size(self, e: t.Expr, scope: Scope, what: str) -> Size:
        """A whole, positive length. Raises Fault."""
        value = self.static(e, scope, what)
        size = st.as_size(value)
        if size is None:
            raise Fault("size", f"{what} is a whole number, not {st.show(value)}", e.span)
        if (number := size.integer) is not None and number < 1:
            raise Fault("size", f"{what} is at least 1, not {number}", e.span)
        if number is None and size.constant is not None:
            raise Fault("size", f"{what} is a whole number, not {size}", e.span)
        return size

    def integer(self, e: t.Expr, scope: Scope, what: str) -> int:
        """A whole number without free lengths. Raises Fault."""
        value = self.static(e, scope, what)
        size = st.as_size(value)
        if size is None:
            raise Fault("size", f"{what} is a whole number, not {st.show(value)}", e.span)
        if size.integer is None:
            names = ", ".join(f"`{x}`" for x in sorted(size.free_names))
            message = f"{what} depends on {names}, which is only known at run time"
            raise Fault("free-size", message, e.span, (), f"give {names} in `sizes:` or with `--set`")
        return size.integer

    def results(self, e: t.Expr, scope: Scope) -> list[Result]:
        """The values of an expression: one, or one `CallBlock` repeated for a block with several results."""
        value = self.any(e, scope)
        if isinstance(value, n.CallBlock) and len(value.results) > 1:
            return [value] * len(value.results)
        return [value]
