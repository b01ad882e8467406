"""An attention as functions of one pair --> statements around `flex_attention`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from towerdsl.emit.code import BITAND, PRODUCT, Code
from towerdsl.emit.dot import DotWriter
from towerdsl.ir import nodes as n
from towerdsl.ir.placed import Entry
from towerdsl.ir.types import TensorType
from towerdsl.lowered.paired import paired
from towerdsl.passes.score import Term, sides


class FlexWriter(DotWriter):
    """Writes the mask and the biases of an attention as functions of a pair."""

    def flex(self) -> str:
        """`flex_attention` on [batch, head, query, feature]."""
        frame, apart = self.frame, self.left_out
        operands = self.operands()
        if len(self.lead) > 2:  # the batch axes are one
            operands = [(name, Code(f"{code.atom}.flatten(0, {len(self.lead) - 2})")) for name, code in operands]
        own = frame.positions.values()  # inside the functions nothing reads them
        names = {x: x if x in own else frame.fresh(x) for x in "bhij"}
        parameters = ", ".join(names.values())
        known: dict[str, str] = {}

        def held(value: n.Value, learns: bool) -> n.Value:
            """A value for all pairs, computed once."""
            kind, code = value.type, self.values.code(value)
            floats = kind.dtype in ("float", "wide")
            alone = floats and learns and not kind.axes  # torch's vmap has no gradient of a number, but of one in a row
            text = f"{code.atom}[None]" if alone else f"{code.atom}.detach()" if floats and not learns else code.text
            if text not in known:
                name = text.removeprefix("self.")
                if not name.isidentifier():
                    name = f"of_{''.join(sorted(sides(value))) or 'head'}"
                known[text] = text if text.isidentifier() else frame.assign(frame.fresh(name), text)
            entry = n.Local(kind, None, known[text])
            return Entry(kind, None, entry, (n.Const(TensorType("int", (), True), None, 0),)) if alone else entry

        def pair(value: n.Value, learns: bool = False) -> n.Value:
            return paired(value, self.average, partial(held, learns=learns), names)

        visible = apart.rest if apart is not None else self.average.visible
        shown = None if visible is None else pair(visible)
        optional = None if apart is None else (frame.variable(apart.name), pair(apart.value))
        terms = [(term, pair(_uncast(term.value), learns=True)) for term in self.score.biases]
        arguments = self.assigned(operands)
        q, k, _ = arguments
        if terms:
            name, score = frame.fresh("biased"), frame.fresh("score")
            with frame.function(f"def {name}({score}, {parameters}):"):
                frame.line(f"return {score}{''.join(self._added(term, self.values.code(x)) for term, x in terms)}")
            arguments.append(f"score_mod={name}")
        if shown is not None or optional is not None:
            name = frame.fresh("visible")
            with frame.function(f"def {name}({parameters}):"):
                self._condition(shown, optional)
            mask = frame.call("block_mask", [name, q, k])
            if shown is None and optional is not None:
                mask = f"None if {optional[0]} is None else {mask}"
            arguments.append(f"block_mask={frame.assign(frame.fresh('mask'), mask)}")
        arguments += [*self.scale(abs(self.score.factor)), *self.shared_heads()]
        result = frame.call("flex_attention", arguments)
        if len(self.lead) > 2:
            result = f"{result}.unflatten(0, ({frame.sizes(self.lead[:-1])}))"
        return self.unlined(result)

    def _added(self, term: Term, code: Code) -> str:
        """A term behind the score."""
        text = self.times(replace(term, factor=abs(term.factor)), code).at(PRODUCT)
        return f" {'-' if term.factor < 0 else '+'} {text}"

    def _condition(self, shown: n.Value | None, optional: tuple[str, n.Value] | None) -> None:
        """The body of the condition; a part of it that is optional may be None."""
        frame = self.frame
        code = Code("None") if shown is None else self.values.code(shown)
        if shown is not None and optional is not None:
            name, value = optional
            variable = frame.assign(frame.fresh("shown"), code.text)
            code = Code(f"{variable} if {name} is None else {variable} & {self.values.code(value).at(BITAND + 1)}")
        elif optional is not None:
            code = self.values.code(optional[1])
        frame.line(f"return {code.text}")


def _uncast(value: n.Value) -> n.Value:
    """A bias in the dtype it is computed in: scores are float32 at least."""
    return value.arg if isinstance(value, n.Cast) and value.type.dtype == "float" else value
