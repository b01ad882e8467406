"""The expressions of configuration rules: numbers, words and truth values, made of sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from towerdsl.budget import spend
from towerdsl.lang import tree as t
from towerdsl.ops import ELEMENTWISE
from towerdsl.passes import static as st
from towerdsl.passes.static import StaticError

#: A value of a configuration: a number, a word, a truth value, a list of these, or null.
Value = Any
Sizes = Callable[[str], Value]
#: `each(depth, f)` is the list of f for l from 0 to depth - 1.
EACH, INDEX = "each", "l"
MOST = 1000


def evaluate(e: t.Expr, size: Sizes) -> Value:
    """The value of an expression, `size` giving those of names. Raises StaticError, KeyError for an unknown name."""
    spend(3)
    match e:
        case t.Number() | t.Bool() | t.String():
            return e.value
        case t.Name():
            return size(e.id)
        case t.List():
            return [evaluate(x, size) for x in e.items]
        case t.Unary():
            return st.negate(evaluate(e.operand, size))
        case t.Binary():
            return st.binary(e.op, evaluate(e.left, size), evaluate(e.right, size))
        case t.Compare():
            values = [evaluate(x, size) for x in e.operands]
            return all(st.compare(op, a, b) for op, a, b in zip(e.ops, values, values[1:], strict=False))
        case t.Logic():
            found = (bool(evaluate(x, size)) for x in e.operands)
            return all(found) if e.op == "and" else any(found)
        case t.Not():
            return not evaluate(e.operand, size)
        case t.Cond():
            return evaluate(e.then if evaluate(e.test, size) else e.otherwise, size)
        case t.Call(func=t.Name(id=name)) if not e.kwargs:
            return _call(name, e, size)
    raise StaticError("a rule is made of numbers, words, sizes and what is computed from them")


def _call(name: str, e: t.Call, size: Sizes) -> Value:
    if name == EACH and len(e.args) == 2:
        many, formula = evaluate(e.args[0], size), e.args[1]
        if isinstance(many, bool) or not isinstance(many, int) or not 0 <= many <= MOST:
            raise StaticError(f"`each` repeats 0 to {MOST} times")
        return [evaluate(formula, partial(_at, at, size)) for at in range(many)]
    known = ELEMENTWISE.get(name)
    if known is None or known.static is None or len(e.args) != known.arity:
        raise StaticError(f"`{name}` has no place in a rule")
    try:
        return known.static(*(evaluate(x, size) for x in e.args))
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        raise StaticError(f"`{name}` is not defined for these values") from None


def _at(index: int, size: Sizes, name: str) -> Value:
    return index if name == INDEX else size(name)


def same(a: Value, b: Value) -> bool:
    """Whether two values are one: `true` is not 1, 1 is 1.0."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)
