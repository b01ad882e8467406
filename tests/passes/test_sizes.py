"""Sizes: their text is Python that says the same, and so is what is put together from parts."""

import random
from fractions import Fraction

import pytest

from towerdsl.ir.size import Size, SizeLimitError

NAMES = ("n", "w", "m")
n, w, m = map(Size.free, NAMES)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (-n.opaque("//", 2), "-(n // 2)"),
        (w - n.opaque("//", 2), "-(n // 2) + w"),
        (-n.opaque("%", 3), "-(n % 3)"),
        ((-n).opaque("//", 2), "-n // 2"),
        (-Size.of(-1).opaque("//", w), "-(-1 // w)"),
        (n.opaque("//", w.opaque("//", 2)), "n // (w // 2)"),
        (n.opaque("//", 2).opaque("//", w), "n // 2 // w"),
        (n.opaque("%", w) * 3, "3 * (n % w)"),
        (n.opaque("//", w * m), "n // (m * w)"),
        (n.opaque("//", w * 2), "n // (2 * w)"),
        (n.opaque("//", 2) * n.opaque("//", 2), "(n // 2) ** 2"),
        (n.opaque("//", 2) / 2, "(n // 2) / 2"),
        ((n / 2).opaque("%", 1), "n / 2 % 1"),
        (n.opaque("//", w + 1), "n // (w + 1)"),
        (-n.opaque("min", w), "-min(n, w)"),
    ],
)
def test_text(size: Size, text: str) -> None:
    assert str(size) == text


def drawn(draw: random.Random, depth: int) -> str:
    """A formula of `whole`, which computes what is no polynomial."""
    if not depth or draw.random() < 0.2:
        return draw.choice([str(draw.randint(-4, 5)), *NAMES * 2])
    a, b = drawn(draw, depth - 1), drawn(draw, depth - 1)
    op = draw.choice(["+", "-", "*", "//", "%", "//", "%", "min", "max", "neg", "half"])
    if op in ("neg", "half"):
        return f"(-{a})" if op == "neg" else f"({a} / 2)"
    return f"({a} {op} {b})" if op in "+-*" else f"whole('{op}', {a}, {b})"


NUMBERS = {"//": lambda a, b: a // b, "%": lambda a, b: a % b, "min": min, "max": max}


@pytest.mark.parametrize("seed", range(20))
def test_text_and_value_of_many(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(150):
        formula = drawn(draw, draw.randint(1, 4))
        free = {name: Size.free(name) for name in NAMES}
        try:
            size = eval(formula, {"whole": lambda op, a, b: Size.of(a).opaque(op, b), **free})
        except (ZeroDivisionError, SizeLimitError, TypeError):  # -3 / 2 // n: no sizes
            continue
        size = Size.of(Fraction(size) if isinstance(size, float) else size)
        for _ in range(3):
            values = {name: Fraction(draw.randint(1, 7)) for name in NAMES}
            try:
                expected = eval(formula, {"whole": lambda op, a, b: NUMBERS[op](a, b), **values})
                found = eval(str(size), values.copy())
            except ZeroDivisionError:
                continue
            assert expected == found, (formula, str(size), values)
            assert expected == size.substitute({k: Size.of(v) for k, v in values.items()}).constant, formula
