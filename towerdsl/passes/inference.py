"""Model --> Model in the form that is not trained: `x + dropout(linear(gelu(linear(x))))` --> two fused layers.

What only training needs is gone. Layers become those of `towerdsl.runtime` that keep their weights packed, and take up
the activation or the sum behind them. Linear layers that read one tensor for an attention are computed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeGuard

from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import statements, values
from towerdsl.ir.operation import Op, OpResult
from towerdsl.ir.rewrite import change_values, rewrite
from towerdsl.ops import ELEMENTWISE


def inference(model: n.Model) -> n.Model:
    """The model in its inference form: the same parameters, the same values."""
    for step in STEPS:
        model = step(model)
    return replace(model, inference=True)


# --- without what training needs, and with packed layers -------------------------------------------------------


def packed(model: n.Model) -> n.Model:
    """`dropout(x, p)` --> `x`; other operations that have a form for inference --> that form."""
    return rewrite(
        model,
        average=lambda a: replace(a, dropout=0.0),
        value=_packed,
        block=lambda _, b: replace(b, modules=tuple((name, s) for name, slot in b.modules for s in _slots(slot))),
    )


def _packed(value: n.Value) -> n.Value:
    if not isinstance(value, n.Apply) or value.result.inference is None:
        return value
    return replace(value, result=_form(value.result)) if value.result.inference.module else value.args[0]


def _form(result: OpResult) -> OpResult:
    form = result.inference
    assert form is not None
    return replace(result, module=form.module, helpers=form.helpers, behind=form.behind, joint=form.joint)


def _slots(slot: n.ModuleSlot) -> list[n.ModuleSlot]:
    """A module in its form for inference, if it is still there."""
    if slot.items:
        items = [s for item in slot.items for s in _slots(item)]
        return [replace(slot, items=tuple(items))] if any(s != n.ModuleSlot() for s in items) else []
    if slot.result is None or slot.result.inference is None:
        return [slot]
    return [replace(slot, result=_form(slot.result))] if slot.result.inference.module else []


# --- activations and sums --------------------------------------------------------------------------------------


def absorbed(model: n.Model) -> n.Model:
    """`gelu(linear(x))` --> `linear(x, activation="gelu")`; `x + linear(y)` --> `linear(y, plus=x)`."""
    return rewrite(model, value=_absorbed, kept=("score", "visible", "message"))


def _absorbed(value: n.Value) -> n.Value:
    if isinstance(value, n.Dot):
        return _product(value)
    if not isinstance(value, n.Pointwise):
        return value
    layer = value.args[0]
    if value.op in ELEMENTWISE and ELEMENTWISE[value.op].fused and _absorbs(layer):
        call = f'{{self}}({{x}}, activation="{value.op}")'
        return replace(layer, result=replace(layer.result, call=call, joint=None))
    if value.op == "+":
        for layer, other in (value.args[::-1], value.args):
            if _absorbs(layer) and layer.type == other.type == value.type:
                op = replace(layer.op, tensors=(*layer.op.tensors, "plus"))
                result = replace(layer.result, call="{self}({x}, plus={plus})", joint=None)
                return replace(layer, op=op, result=result, args=(*layer.args, other))
    return value


def _absorbs(value: n.Value) -> TypeGuard[n.Apply]:
    """Whether a value is a layer that has taken up nothing yet, and can."""
    if not isinstance(value, n.Apply) or value.result.inference is None or not value.result.inference.absorbs:
        return False
    return value.result.call == "{self}({x})"


def _product(dot: n.Dot) -> n.Value:
    """`dot(x, words.weight)`, a linear layer without a module of its own."""
    x, weight = dot.left, dot.right
    if not isinstance(weight, n.Weight) or len(weight.axes) != 2 or len(x.axes) < 2 or dot.type.dtype != "float":
        return dot
    if dot.axes != (*x.axes[:-1], weight.axes[0]):
        return dot
    result = OpResult(dot.type, "unpacked_linear({x}, {weight})", helpers=("unpacked_linear",))
    return n.Apply(dot.type, dot.span, _DOT, result, (x, weight), None)


# --- one tensor for several -------------------------------------------------------------------------------------


def one_source(model: n.Model) -> n.Model:
    """Parameters of a block that are the same value in every call of it are read as the first of them."""
    calls: dict[int, list[n.CallBlock]] = {}
    for call in _calls(model.root):
        calls.setdefault(id(call.block), []).append(call)

    def block(old: n.BlockInstance, new: n.BlockInstance) -> n.BlockInstance:
        same = _same(old, calls.get(id(old), []))
        if not same:
            return new

        def one(v: n.Value) -> n.Value:
            return replace(v, name=same[v.name]) if isinstance(v, n.Local) and v.name in same else v

        return replace(new, body=change_values(new.body, one))

    return rewrite(model, block=block)


def _same(block: n.BlockInstance, calls: list[n.CallBlock]) -> dict[str, str]:
    """Parameters --> those before them that have the same value in all calls; what is assigned is neither."""
    assigned = {name for step in statements(block.body) for name in step.names}
    found: dict[str, str] = {}
    for k, (name, kind) in enumerate(block.parameters):
        for first, (other, other_kind) in enumerate(block.parameters[:k]):
            alike = calls and kind == other_kind and all(_equal(c.args[first], c.args[k]) for c in calls)
            if alike and not assigned & {name, other}:
                found[name] = found.get(other, other)
                break
    return found


def _equal(a: n.Value | n.Relation, b: n.Value | n.Relation) -> bool:
    """Whether two values are the same; two calls of a module may draw, so they may differ."""
    return a == b and isinstance(a, n.Value) and not any(isinstance(v, n.CallBlock | n.Apply) for v in a.walk())


def _calls(root: n.BlockInstance) -> Iterator[n.CallBlock]:
    """Every call of a block in a model."""
    seen: set[int] = set()
    blocks = [root]
    while blocks:
        block = blocks.pop()
        if id(block) in seen:
            continue
        seen.add(id(block))
        roots = [v for step in statements(block.body) for v in values(step)]
        for value in (v for r in (*roots, *block.results) if isinstance(r, n.Value) for v in r.walk()):
            if isinstance(value, n.CallBlock):
                blocks.append(value.block)
                yield value


_DOT = Op("dot", ("x", "weight"), (), lambda call: OpResult(call.x, ""), "x times a matrix")

#: In order: a sum with a layer is found only when what stood between is gone.
STEPS: tuple[Callable[[n.Model], n.Model], ...] = (packed, one_source, absorbed)
