"""Which parts of a graph are alike, so that they are drawn once with a count."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

from towerdsl.drawing.graph import Group, Node

#: So many repetitions may differ before all of them are repeated.
LONGEST = 8
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")


def signature(group: Group, loose: bool = False) -> Hashable:
    """What is drawn of a group, but for its paths and the numbers in operations; equal where two groups are alike.

    `loose` leaves out all numbers, and what is seen in pictures."""
    order = {id(node): k for k, node in enumerate(group.all)}

    def without(text: str) -> str:
        return NUMBER.sub("#", text)

    def drawn(node: Node) -> Hashable:
        inside = None if node.group is None else signature(node.group, loose)
        wires = tuple((order[id(x.node)], x.output) for x in node.inputs)
        rows = tuple((name, without(text) if loose else text) for name, text in node.rows)
        outputs = tuple(map(without, node.outputs)) if loose else tuple(node.outputs)
        seen = None if loose else node.picture
        return (node.kind, tuple(map(without, node.lines)), wires, outputs, node.ports, rows, seen, inside)

    title = without(group.title) if loose else group.title
    return (group.kind, title, 0 if loose else group.count, tuple(map(drawn, group.all)))


def pattern(signatures: Sequence[Hashable]) -> tuple[int, int]:
    """The shortest beginning that is repeated, as (its length, how often it stands behind itself); (1, 1) without."""
    for period in range(1, min(LONGEST, len(signatures) // 2) + 1):
        times = 1
        while list(signatures[:period]) == list(signatures[period * times : period * (times + 1)]):
            times += 1
        if times > 1:
            return period, times
    return 1, 1


def adopt_numbers(group: Group, other: Group) -> None:
    """Write the numbers of a later repetition into a group that is alike: `C[0]` and `C[1]` make `C[0..1]`."""
    for mine, theirs in zip(group.all, other.all, strict=True):
        mine.lines = [_joined(a, b) for a, b in zip(mine.lines, theirs.lines, strict=True)]
        if mine.group is not None and theirs.group is not None:
            adopt_numbers(mine.group, theirs.group)


_RANGE = re.compile(rf"{NUMBER.pattern}(?:\.\.{NUMBER.pattern})?")


def _joined(first: str, later: str) -> str:
    if first == later:
        return first
    numbers = iter(NUMBER.findall(later))

    def both(m: re.Match[str]) -> str:
        start, last = m.group().partition("..")[0], next(numbers)
        return start if m.group() == last else f"{start}..{last}"

    return _RANGE.sub(both, first)
