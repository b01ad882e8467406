"""Averages whose score is a sum of products of i and j --> einsums: over the keys first, then with each query.

    sum over j of (left[i] . right[j]) v[j]  -->  left[i] . (sum over j of right[j] v[j])

A half may hold no sum over all keys, though it holds the average: everything is computed in float32 at least.

Legend: B batch axes, H heads, I queries, J keys, D features of a factor, V features of a message.
"""

from __future__ import annotations

from collections.abc import Sequence

from towerdsl.emit.attention import AttentionWriter
from towerdsl.emit.code import ATOM, PRODUCT, SUM, UNARY, Code, Letters, permuted, spread
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import read
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import Axis
from towerdsl.lowered import nodes as low
from towerdsl.ops import python
from towerdsl.passes.locality import conjuncts, joined
from towerdsl.passes.score import Product, sides

Axes = tuple[Axis, ...]
SHORT = 40  # characters of code that need no name


class ProductWriter:
    """Writes one average by its products; `order` gives the axes of what `write` returns."""

    def __init__(self, writer: AttentionWriter, node: low.Factored) -> None:
        self.writer, self.frame, self.values, self.node = writer, writer.frame, writer.values, node
        self.average = average = node.average
        self.causal, self.block = node.causal, node.block
        self.letters = Letters(writer.frame.many_positions)
        self.feature = average.message.axes[-1]
        self.apart = writer.left_out
        pairs = {"i", "j"}
        parts = [c for c in conjuncts(average.visible) if sides(c) != pairs] if average.visible is not None else []
        self.of_keys = [c for c in parts if "j" in sides(c)]
        self.of_queries = [c for c in parts if "j" not in sides(c) and not isinstance(c, n.Const)]
        self.order: Axes = ()

    def write(self) -> str:
        average = self.average
        message, axes = self._message()
        parts = [self._product(p, message, axes) for p in self.node.products]
        every = (*self.writer.lead, *average.positions, self.feature)
        found = {a for _, own in parts for a in own}
        self.order = tuple(a for a in self._result_order(every) if a in found)
        codes = [spread(code, own, self.order) for code, own in parts]
        text = " + ".join(c.at(SUM) for c in codes)
        if average.normalize == "sum":
            text = self._divided_by_total(text)
        elif average.normalize == "count" and (self.of_keys or self.causal):
            text = self._divided_by_count(Code(text, SUM if len(codes) > 1 else codes[0].strength))
        self.frame.assign("y", self._hidden("y", text, self.of_queries))
        return f"y.to({self.frame.dtype})"

    def _result_order(self, every: Axes) -> Axes:
        """The axes as the result has them, where that takes no more than a permutation; features last otherwise."""
        average = self.average
        if average.heads is not None or len(average.features) > 1 or average.normalize == "sum" or self.causal:
            return every
        moved = {a.on(""): a for a in average.positions} | {average.features[0]: self.feature}
        return tuple(moved.get(a, a) for a in average.layout)

    # --- the message ------------------------------------------------------------------------------------------

    def _message(self) -> tuple[Code, Axes]:
        """The messages of the keys that are visible, zeros for others; for `sum` a last feature counts weights."""
        frame, average = self.frame, self.average
        axes = tuple(a for a in (*self.writer.lead, *average.over, self.feature) if a in average.message.axes)
        code = self._wide(permuted(self.values.code(average.message), average.message.axes, axes), average.message)
        if average.normalize == "sum":
            code = Code(f"F.pad({code.text}, (0, 1), value=1.0)")
        later = read([average.score, *self.of_keys, *self.of_queries])
        name = "v" if "v" not in later and frame.dtype_from != "v" else frame.fresh("message")
        if average.normalize != "sum" and not self.of_keys:
            return (code, axes) if code.text.isidentifier() else (Code(frame.assign(name, code.text)), axes)
        self.order = axes
        text = self._hidden(name, code.text, self.of_keys)
        return Code(frame.assign(name, text)), self.order

    def _hidden(self, name: str, text: str, conditions: Sequence[n.Value]) -> str:
        """Zeros where one of the conditions does not hold. `self.order` are the axes, before and after."""
        frame = self.frame
        if not conditions:
            return text
        own, features = self.order, self.feature
        every = (*self.writer.lead, *self.average.positions, *self.average.over)
        wider = {a for c in conditions for a in c.axes} - set(own)
        if wider:
            order = tuple(a for a in (*every, features) if a in own or a in wider)
            code = spread(Code(frame.assign(name, text)), own, order)
            text = self.writer.expanded(code, own, order, wider).text
            self.order = order
        for condition in conditions:
            optional = self.apart is not None and condition == self.apart.value
            holds = self.writer.condition(condition, self.order).at(UNARY)
            frame.assign(name, text)
            if optional:
                assert self.apart is not None
                frame.line(f"if {frame.variable(self.apart.name)} is not None:")
            frame.line(f"{'    ' if optional else ''}{name} = {name}.masked_fill(~{holds}, 0.0)")
            text = name
        return text

    # --- one product ------------------------------------------------------------------------------------------

    def _product(self, one: Product, message: Code, axes: Axes) -> tuple[Code, Axes]:
        """Code and axes of `factor * number * sum over j of left[i] * right[j] * message[j]`."""
        if self.causal:
            return self._running(one, message, axes)
        frame, average, letters = self.frame, self.average, self.letters
        over = average.over
        if one.right is None:
            own = tuple(a for a in axes if a not in over)
            dims = [axes.index(a) for a in over]
            sums = Code(f"{message.atom}.sum({dims[0] if len(dims) == 1 else tuple(dims)})")
            return self._with_left(one, self._scaled(one, sums, own), own)
        right = one.right.axes[:-1] if one.dot else one.right.axes
        right_code = self._side(one.right, "right").text
        lead = tuple(a for a in self.writer.lead if a in right or a in axes)
        of_right, of_message = letters.of(right), letters.of(axes)
        kept, of_feature = letters.of(lead), letters.of((self.feature,))
        if not one.dot:
            sums = Code(f'torch.einsum("{of_right},{of_message}->{kept}{of_feature}", {right_code}, {message.text})')
            own = (*lead, self.feature)
            return self._with_left(one, self._scaled(one, sums, own), own)
        assert one.left is not None
        d = letters.new(one.right.axes[-1], "d")
        inner = f"{kept}{d}{of_feature}"
        sums = Code(f'torch.einsum("{of_right}{d},{of_message}->{inner}", {right_code}, {message.text})')
        sums = self._scaled(one, sums, (*lead, Axis(None, Size.of(0)), self.feature))
        name = frame.assign(frame.fresh("kv"), sums.text)
        left = one.left.axes[:-1]
        own = self._result_order((*self.writer.lead, *average.positions, self.feature))
        own = tuple(a for a in own if a in lead or a in left or a == self.feature)
        operands = [(f"{letters.of(left)}{d}", self._side(one.left, "left").text), (inner, name)]
        if own[-1] != self.feature:  # the product is made in the order of its operands
            operands.reverse()
        (a, x), (b, y) = operands
        return Code(f'torch.einsum("{a},{b}->{letters.of(own)}", {x}, {y})'), own

    def _side(self, value: n.Value, name: str) -> Code:
        """A factor of the score, named if it is not short."""
        if isinstance(value, n.Cast) and value.arg.type.dtype == "wide":
            value = value.arg
        code = self._wide(self.values.code(value), value)
        return code if len(code.text) <= SHORT else Code(self.frame.assign(self.frame.fresh(name), code.text))

    def _wide(self, code: Code, value: n.Value) -> Code:
        return code if value.type.dtype == "wide" else Code(f"{code.atom}.to({self.frame.wide})")

    def _scaled(self, one: Product, code: Code, own: Axes) -> Code:
        """The sums over the keys times what depends on neither position, and over their number if that is known."""
        if one.factor != 1:
            code = Code(
                f"{code.at(PRODUCT)} * {Code(python(one.factor), UNARY if one.factor < 0 else ATOM).at(ATOM)}", PRODUCT
            )
        if one.number is not None:
            number = self.values.aligned(one.number, own)
            if not one.number.type.scalar:
                number = self._wide(number, one.number)
            code = Code(f"{code.at(PRODUCT)} * {number.at(PRODUCT + 1)}", PRODUCT)
        if self.average.normalize == "count" and not (self.of_keys or self.causal):
            code = Code(f"{code.at(PRODUCT)} / {self._length.at(PRODUCT + 1)}", PRODUCT)
        return code

    @property
    def _length(self) -> Code:
        size = product([a.size for a in self.average.over])
        text = self.frame.size(size, "keys")
        return Code(text if size.integer is not None else f"max({text}, 1)")  # the average of no keys is 0

    def _with_left(self, one: Product, sums: Code, own: Axes) -> tuple[Code, Axes]:
        """The sums of all keys, times a number of each query."""
        if one.left is None:
            return sums, own
        found = {*own, *one.left.axes}
        order = (*self.writer.lead, *self.average.positions, self.feature)
        order = tuple(a for a in self._result_order(order) if a in found)
        left = spread(self._side(one.left, "left"), one.left.axes, order)
        name = Code(sums.text if sums.text.isidentifier() else self.frame.assign(self.frame.fresh("total"), sums.text))
        return Code(f"{left.at(PRODUCT)} * {spread(name, own, order).at(PRODUCT + 1)}", PRODUCT), order

    # --- where only earlier keys are visible --------------------------------------------------------------------

    def _running(self, one: Product, message: Code, axes: Axes) -> tuple[Code, Axes]:
        """The same with the keys up to each query's own position; then the axis of keys is that of queries."""
        frame, (i,), (j,) = self.frame, self.average.positions, self.average.over
        if one.dot:
            assert one.left is not None and one.right is not None
            left, right = one.left.axes, one.right.axes
            lead = tuple(a for a in self.writer.lead if a in left or a in right or a in axes)
            operands = [
                spread(self._side(one.left, "left"), left, (*lead, i, left[-1])),
                spread(self._side(one.right, "right"), right, (*lead, j, right[-1])),
                spread(message, axes, (*lead, j, self.feature)),
            ]
            code = Code(frame.call("causal_product", [*(c.text for c in operands), str(self.block)]))
            own = (*lead, i, self.feature)
            return self._scaled(one, code, own), own
        own = tuple(a for a in (*self.writer.lead, j, self.feature) if a in axes or (one.right and a in one.right.axes))
        code = spread(message, axes, own)
        if one.right is not None:
            right_code = spread(self._side(one.right, "right"), one.right.axes, own)
            code = Code(f"{right_code.at(PRODUCT)} * {code.at(PRODUCT + 1)}", PRODUCT)
        sums = Code(f"{code.atom}.cumsum(-2)")
        own = tuple(i if a == j else a for a in own)
        return self._with_left(one, self._scaled(one, sums, own), own)

    # --- normalizers --------------------------------------------------------------------------------------------

    def _divided_by_total(self, text: str) -> str:
        frame = self.frame
        frame.assign("y", text)
        total = frame.assign(frame.fresh("total"), "y[..., -1:]")
        empty = frame.assign(frame.fresh("empty"), f"{total} == 0")
        return f"(y[..., :-1] / {total}.masked_fill({empty}, 1.0)).masked_fill({empty}, 0.0)"

    def _divided_by_count(self, y: Code) -> str:
        """Over the number of visible keys, which data or the query's position say."""
        frame, apart = self.frame, self.apart
        optional = apart is not None and apart.value in self.of_keys
        always = [c for c in self.of_keys if not (optional and apart is not None and c == apart.value)]
        count = self._count(always)
        if optional:
            assert apart is not None
            name = frame.assign(frame.fresh("count"), count.text)
            frame.line(f"if {frame.variable(apart.name)} is not None:")
            frame.depth += 1
            frame.assign(name, self._count(self.of_keys).text)
            frame.depth -= 1
            count = Code(name)
        return f"{y.at(PRODUCT)} / {count.at(PRODUCT + 1)}"

    def _count(self, conditions: Sequence[n.Value]) -> Code:
        """How many keys meet the conditions, at least 1, to divide the result by."""
        frame, average, writer = self.frame, self.average, self.writer
        over = average.over
        if not conditions and not self.causal:
            return self._length
        if not conditions:
            (i,) = average.positions
            return spread(Code(f"({frame.position_variable(i)} + 1)"), (i,), self.order)
        visible = joined(conditions, (average.visible or conditions[0]).axes)
        assert visible is not None
        axes = tuple(a for a in (*writer.lead, *over) if a in visible.axes or a in over)
        code = self.values.aligned(visible, axes)
        missing = set(over) - set(visible.axes)
        if missing:
            code = writer.expanded(code, visible.axes, axes, missing)
        own = tuple(a for a in axes if a not in over)
        if self.causal:
            code, own = Code(f"{code.atom}.cumsum(-1)"), (*own, *average.positions)
        else:
            code = Code(f"{code.atom}.sum({-1 if len(over) == 1 else tuple(range(-len(over), 0))})")
        return spread(Code(f"{code.atom}.clamp(min=1)"), own, self.order)
