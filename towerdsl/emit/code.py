"""Pieces of Python as text: how strongly they bind, numbers in marks, templates, the axes of the tensors they give.

Numbers that come from sizes are written between marks, so that classes which differ in nothing else can be merged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from towerdsl.ir.types import Axis

#: Strength of binding of Python's operators; higher binds tighter.
CHOICE, OR, AND, NOT, COMPARE, BITOR, BITAND, SUM, PRODUCT, UNARY, POWER, ATOM = range(12)
STRENGTH = {
    "or": BITOR,
    "and": BITAND,
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), COMPARE),
    **dict.fromkeys("+-", SUM),
    **dict.fromkeys(("*", "/", "//", "%"), PRODUCT),
    "**": POWER,
}
MARK = re.compile("\x01([^\x02]*)\x02([^\x03]*)\x03")


def mark(value: object, hint: str) -> str:
    """A number that may become an argument of the class, with the name it would have."""
    return f"\x01{value}\x02{hint}\x03"


def unmark(text: str) -> str:
    """The text with the marks around its numbers removed."""
    return MARK.sub(lambda m: m[1], text)


def full(sizes: str, rank: int, number: str, device: str, dtype: str) -> str:
    """The code of a tensor full of one number."""
    plain = {"0": "zeros", "False": "zeros", "1": "ones", "True": "ones"}.get(unmark(number))
    if plain is not None and rank:
        return f"torch.{plain}({sizes}, device={device}, dtype={dtype})"
    return f"torch.full(({sizes}{',' if rank == 1 else ''}), {number}, device={device}, dtype={dtype})"


@dataclass
class Code:
    """A piece of Python and how strongly its outermost operator binds."""

    text: str
    strength: int = ATOM

    def at(self, strength: int) -> str:
        """The text, in parentheses if it binds less than `strength`."""
        return self.text if self.strength >= strength else f"({self.text})"

    @property
    def atom(self) -> str:
        return self.at(ATOM)


def filled(template: str, codes: Mapping[str, Code], fields: Mapping[str, str]) -> str:
    """A template with its fields replaced; an operand before `.` or `[` is put in parentheses if it needs them."""

    def replace(match: re.Match[str]) -> str:
        name, after = match[1], match[2]
        if name in codes:
            return (codes[name].atom if after else codes[name].text) + after
        return fields[name] + after

    return re.sub(r"\{(\w+)\}([.\[]?)", replace, template)


# --- axes ------------------------------------------------------------------------------------------------------


def spread(code: Code, own: Sequence[Axis], axes: Sequence[Axis]) -> Code:
    """Reorder a tensor's axes like `axes`, with dims of length 1 for those that it lacks after its first."""
    order = [a for a in axes if a in own]
    code = permuted(code, own, order)
    if not order:
        return code
    first = next(k for k, a in enumerate(axes) if a in order)
    picks = [":" if a in order else "None" for a in axes[first:]]
    if "None" not in picks:
        return code
    return Code(f"{code.atom}[{', '.join(picks)}]")


def permuted(code: Code, own: Sequence[Axis], order: Sequence[Axis]) -> Code:
    """The tensor with its axes in another order."""
    own, order = list(own), list(order)
    if own == order:
        return code
    dims: list[int] = []
    for axis in order:
        dims.append(next(k for k, a in enumerate(own) if a == axis and k not in dims))
    if dims == sorted(dims):
        return code
    moved = [k for k, d in enumerate(dims) if k != d]
    if len(moved) == 2:
        a, b = moved
        last = len(dims) - 1
        a_, b_ = (a - last - 1, b - last - 1) if b == last and a == last - 1 else (a, b)
        return Code(f"{code.atom}.transpose({a_}, {b_})")
    return Code(f"{code.atom}.permute({', '.join(map(str, dims))})")


class Letters:
    """Einsum letters for axes: `i` and `j` for one position axis each, `h`, `w` and `H`, `W` for several."""

    def __init__(self, several: bool) -> None:
        self.several = several
        self.known: dict[Axis, str] = {}
        self.used: set[str] = set()

    def new(self, axis: Axis, wish: str | None = None) -> str:
        """A letter for an axis, the one that is wished for if it is free."""
        name = (axis.name or "d").lower()
        if wish is None:
            if axis.side and self.several:
                wish = name[0].upper() if axis.side == "j" else name[0]
            else:
                wish = axis.side or ("g" if self.several and name == "head" else name[0])
        for letter in (wish, *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"):
            if letter not in self.used and letter.isalpha() and letter.isascii():
                self.used.add(letter)
                return letter
        raise AssertionError("more axes than letters")

    def of(self, axes: Sequence[Axis]) -> str:
        for axis in axes:
            if axis not in self.known:
                self.known[axis] = self.new(axis)
        return "".join(self.known[a] for a in axes)
