"""A lowered attention as text, for debugging: a node a line, with the axes of what it gives, and what it is made of."""

from __future__ import annotations

from collections.abc import Iterator

from towerdsl.ir.nodes import Average, Value
from towerdsl.ir.printer import show_cut, show_value
from towerdsl.ir.types import shown
from towerdsl.lowered import nodes as low
from towerdsl.passes.score import DotScore, Term


def show(lowered: low.Lowered) -> str:
    """An attention: its kernel, and the tree."""
    full = "; each query sees a key" if lowered.full else ""
    return "\n".join([f"{lowered.kernel} over {shown(lowered.average.over)}{full}", *_lines(lowered.body, "  ")]) + "\n"


def _lines(node: Value, pad: str) -> Iterator[str]:
    """A node, and below it those that it is made of."""
    yield f"{pad}{_head(node)}: {node.type}"
    pad += "  "
    match node:
        case low.Weights():
            yield from (pad + line for line in _pairs(node.average))
        case low.Summed() | low.Scaled() | low.Gathered() | low.RowSums():
            yield from _lines(node.weights, pad)
            yield f"{pad}message {show_value(node.message)}: {node.message.type}"
        case low.Listed():
            yield from _lines(node.body, pad)
        case low.Factored():
            yield from (f"{pad}{_product(p.factor, p.number, p.left, p.right, p.dot)}" for p in node.products)
            yield from (pad + line for line in _pairs(node.average)[1:])
            yield f"{pad}message {show_value(node.average.message)}"
        case low.Attended():
            yield f"{pad}{_dot(node.score)}"
            yield from (f"{pad}plus {_term(t)}" for t in node.biases)
            yield from (f"{pad}where {show_value(c)}" for c in node.conditions)
        case low.Fused():
            yield f"{pad}{_dot(node.score)}"
            yield from (f"{pad}plus {_term(t)}" for t in node.score.biases)
            yield from (pad + line for line in _pairs(node.average)[1:])
        case low.Merged():
            for part in node.parts:
                yield from _lines(part, pad)
        case low.InBlocks() | low.InTurn():
            if isinstance(node, low.InTurn):
                yield from (f"{pad}{name} = {show_value(value)}: {value.type}" for name, value in node.held)
            yield f"{pad}each on {node.body.kernel}"
            yield from _lines(node.body.body, pad)


def _head(node: Value) -> str:
    match node:
        case low.Picks():
            return f"picks of {node.average.normalize} over {shown(node.average.over)}"
        case low.Weights():
            rows = f" by {node.rows}" if node.rows else ""
            return f"weights by {node.average.normalize} over {shown(node.average.over)}{rows}"
        case low.Summed():
            return "sum of weights times messages"
        case low.Scaled():
            return "weight times message"
        case low.Gathered():
            return "sum of weights times messages that are picked"
        case low.RowSums():
            return "sum of each row"
        case low.Listed():
            names = [name if forward else f"{name} turned around" for name, forward in node.relations]
            names += [f"{node.itself} pairs {node.query} == {node.key}"] if node.itself is not None else []
            return f"{node.pairs} = pairs of {', '.join(names)}"
        case low.Factored():
            return f"sums over the keys first{f', in blocks of {node.block} up to each query' if node.causal else ''}"
        case low.Paired():
            return "flex_attention"
        case low.Fused():
            return f"scaled_dot_product_attention{', key heads shared' if node.grouped else ''}"
        case low.Attended():
            return f"attend, {show_cut(node.cut)}"
        case low.Merged():
            return "merged by their log-sum-exp"
        case low.InBlocks():
            cut = "sources" if node.at_sources else "values"
            return f"in blocks of {cut}, {'; '.join(map(show_cut, node.cuts))}"
        case low.InTurn():
            return f"{node.size} of {node.axis} in turn"
    return show_value(node)


def _pairs(average: Average) -> list[str]:
    """The score of pairs, their condition, and dropout."""
    lines = [f"score {show_value(average.score)}: {average.score.type}"]
    if average.visible is not None:
        lines.append(f"where {show_value(average.visible)}: {average.visible.type}")
    return lines + ([f"dropout {average.dropout}"] if average.dropout else [])


def _dot(score: DotScore) -> str:
    scalar = f"{show_value(score.scalar)} * " if score.scalar is not None else ""
    return f"{score.factor:.6g} * {scalar}dot({show_value(score.left)}, {show_value(score.right)})"


def _term(term: Term) -> str:
    scalar = f"{show_value(term.scalar)} * " if term.scalar is not None else ""
    return f"{term.factor:.6g} * {scalar}{show_value(term.value)}"


def _product(factor: float, number: Value | None, left: Value | None, right: Value | None, dot: bool) -> str:
    parts = [show_value(x) for x in (left, right) if x is not None]
    between = " . " if dot else " * "
    numbers = [f"{factor:.6g}", *([show_value(number)] if number is not None else [])]
    return " * ".join([*numbers, *([between.join(parts)] if parts else [])])
