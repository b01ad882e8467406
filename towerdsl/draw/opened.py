"""Which groups are open at first."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from fnmatch import fnmatchcase

from towerdsl.draw.alike import signature
from towerdsl.draw.graph import Group


def open_groups(group: Group, depth: int | None = None, fold: Collection[str] = ()) -> None:
    """Open the first `depth` levels of groups; without a depth what leads to an attention that is like none before it,
    or everything in a model without attention. Groups whose path or title matches a pattern of `fold` are closed."""
    attentive = {id(g) for g in group.walk() if any(x.kind == "attention" for x in g.walk())}
    seen: set[Hashable] = set()

    def visit(one: Group, level: int) -> None:
        if depth is not None:
            one.open = level < depth
        elif one is not group and attentive:
            one.open = id(one) in attentive and (known := signature(one, loose=True)) not in seen
            if one.open:
                seen.add(known)
        names = (one.path, one.title, one.title.partition(":")[0])
        one.open = one.open and not any(fnmatchcase(name, pattern) for name in names if name for pattern in fold)
        for inner in one.groups:
            visit(inner, level + 1)

    visit(group, 0)
