"""Which groups are open at first."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from fnmatch import fnmatchcase

from towerdsl.diagnostics import Diagnostic, TowerError, did_you_mean
from towerdsl.drawing.alike import signature
from towerdsl.drawing.graph import Group


def open_groups(group: Group, levels: int | None = None, fold: Collection[str] = ()) -> None:
    """Open the first `levels` of groups; without a number what leads to an attention that is like none before it,
    or everything in a model without attention. Groups whose path or name matches a pattern of `fold` are closed.

    Raises TowerError if there is none for a pattern.
    """
    attentive = {id(g) for g in group.walk() if any(x.kind == "attention" for x in g.walk())}
    seen: set[Hashable] = set()

    def visit(one: Group, level: int) -> None:
        if levels is not None:
            one.open = level < levels
        elif one is not group and attentive:
            one.open = id(one) in attentive and (known := signature(one, loose=True)) not in seen
            if one.open:
                seen.add(known)
        matched = {pattern for pattern in fold if any(fnmatchcase(name, pattern) for name in _names(one))}
        unmatched.difference_update(matched)
        one.open = one.open and not matched
        for inner in one.groups:
            visit(inner, level + 1)

    unmatched = set(fold)
    visit(group, 0)
    if unmatched:
        wrong = sorted(unmatched)[0]
        known = {name for one in group.walk() for name in _names(one)}
        help = did_you_mean(wrong, known, f"there are {', '.join(sorted(known)[:8])}")
        raise TowerError([Diagnostic("fold", f"no block is called `{wrong}`", help=help)])


def _names(group: Group) -> set[str]:
    """What a group may be called by: its module, its block, its path."""
    module, _, block = group.title.partition(": ")
    return {name for name in (group.path, module, block) if name}
