"""Sizes that are lists, of axes, numbers or words: `space: [h, w]` is put in wherever `space` stands."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from towerdsl.diagnostics import Diagnostics, Source, Span
from towerdsl.lang import tree as t
from towerdsl.lang.yaml_nodes import NAME
from towerdsl.passes.resolve import Resolved
from towerdsl.passes.static import LIMIT, Setting, Static, show

Lists = Mapping[str, tuple[t.Expr, ...]]


def spread(
    resolved: Resolved, settings: Mapping[str, Setting], errors: Diagnostics
) -> tuple[Resolved, dict[str, Static]]:
    """The spec with its lists put in, those of `settings` where it has them, and the settings that are left."""
    lists = {name: e.items for name, (_, e) in resolved.sizes.items() if isinstance(e, t.List)}
    left: dict[str, Static] = {}
    for name, given in settings.items():
        value = _setting(name, given, errors)
        if value is None:
            continue
        if name in lists:
            found = _given(name, value, resolved.sizes[name][1].span, lists[name], errors)
            lists[name] = lists[name] if found is None else found
        elif isinstance(value, list | tuple):
            known = "is no list" if name in resolved.sizes else "is no size"
            errors.add("setting", f"`{name}={_shown(value)}`: `{name}` {known}", None)
        else:
            left[name] = value
    for name, items in lists.items():
        for item in items:
            of_words = isinstance(items[0], t.String)
            if isinstance(item, t.List | t.Cond) or isinstance(item, t.String) != of_words:
                message = (
                    f"`{name}` lists words, this is none"
                    if of_words
                    else f"`{name}` lists axes or numbers, this is neither"
                )
                help = (
                    f"write `{name}: \"['a', 'b']\"`" if of_words else f"write `{name}: [h, w]` or `{name}: [2, 2, 6]`"
                )
                errors.add("form", message, item.span, help=help)
    if not lists:
        return resolved, left
    writer = _Spread(lists, errors)
    sizes = {name: (key, writer.put(e)) for name, (key, e) in resolved.sizes.items() if name not in lists}
    return replace(
        resolved,
        spec=writer.put(resolved.spec),
        sizes=sizes,
        definitions={name: writer.put(d) for name, d in resolved.definitions.items()},
        blocks={name: writer.put(b) for name, b in resolved.blocks.items()},
        lists=lists,
    ), left


def _setting(name: str, value: object, errors: Diagnostics) -> Setting | None:
    """What a size is set to, as one of the language's own kinds; None where it is none of them."""
    if isinstance(value, list | tuple):
        items = [_number(x) for x in value]
        found: Setting | None = None if None in items else [x for x in items if x is not None]
    else:
        found = _number(value)
    if found is None:
        message = f"`{name}={_shown(value)}`: a size is a finite number, a truth value, a word, or a list of these"
        errors.add("setting", message, None, help=f"write `{name}=6`, or leave it out")
    return found


def _number(value: object) -> int | float | bool | str | None:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value) if abs(int(value)) < LIMIT else None
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return None


def _shown(value: object) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def words(items: tuple[t.Expr, ...]) -> list[str]:
    """The words that the items of a list may be, in their first order; none of a list of axes or numbers."""
    return list(dict.fromkeys(e.value for e in items if isinstance(e, t.String)))


def _given(
    name: str, value: Setting, span: Span, own: tuple[t.Expr, ...], errors: Diagnostics
) -> tuple[t.Expr, ...] | None:
    """A list from outside as expressions, which stand where the spec has its own."""
    items: list[t.Expr] = []
    known = words(own)
    for item in value if isinstance(value, list | tuple) else ():
        if known:
            items += [t.String(span, item)] if isinstance(item, str) and item in known else []
        elif isinstance(item, str) and NAME.fullmatch(item):
            items.append(t.Name(span, item))
        elif isinstance(item, bool):
            items.append(t.Bool(span, item))
        elif isinstance(item, int | float):
            items.append(t.Number(span, item))
    if not isinstance(value, list | tuple) or len(items) < len(value):
        of = f"of {', '.join(map(show, known))}" if known else "of axes or numbers"
        message = f"`{name}={_shown(value)}`: the size `{name}` is a list {of}"
        errors.add("setting", message, None, help=f'write `--set "{name}=[...]"`, with commas between')
        return None
    return tuple(items)


def put_in(conditions: tuple[t.Expr, ...], lists: Lists, errors: Diagnostics) -> tuple[t.Expr, ...]:
    """Expressions with lists in the places of their names."""
    found: tuple[t.Expr, ...] = _Spread(lists, errors).put(conditions)
    return found


class _Spread:
    def __init__(self, lists: Lists, errors: Diagnostics) -> None:
        self.lists, self.errors = lists, errors

    def put(self, value: Any) -> Any:
        """A part of a spec with the lists in the places of their names."""
        if isinstance(value, t.Name):
            return t.List(value.span, self.items(value.id, value.span)) if value.id in self.lists else value
        if isinstance(value, tuple):
            return tuple(new for old in value for new in self.several(old))
        if isinstance(value, Span | Source) or not is_dataclass(value) or isinstance(value, type):
            return value
        if isinstance(value, t.Block | t.Definition):
            hidden = {p.name for p in value.signature.parameters} & self.lists.keys()
            if hidden:
                inner = {name: items for name, items in self.lists.items() if name not in hidden}
                return _Spread(inner, self.errors).put(value)
        if isinstance(value, t.Target) and value.name in self.lists:
            message = f"`{value.name}` is a size, it cannot be assigned"
            self.errors.add("name-reused", message, value.span, help="choose another name")
        if isinstance(value, t.List):  # `[b, space]`
            inside = (new for e in value.items for new in self.inside(e))
            return replace(value, items=tuple(inside))
        changes = {f.name: self.put(getattr(value, f.name)) for f in fields(value)}
        return replace(value, **changes)

    def several(self, value: Any) -> tuple[Any, ...]:
        """What stands for one item of a tuple: an axis may be several."""
        if isinstance(value, t.AxisDecl) and value.size is None and value.name is not None and value.name in self.lists:
            items = self.items(value.name, value.span)
            return tuple(t.AxisDecl(e.id if isinstance(e, t.Name) else None, _size(e), value.span) for e in items)
        return (self.put(value),)

    def inside(self, e: t.Expr) -> tuple[t.Expr, ...]:
        return self.items(e.id, e.span) if isinstance(e, t.Name) and e.id in self.lists else (self.put(e),)

    def items(self, name: str, span: Span) -> tuple[t.Expr, ...]:
        """The items of a list, at the place where it is used."""
        return tuple(replace(e, span=span) for e in self.lists[name])


def _size(e: t.Expr) -> t.Expr | None:
    return None if isinstance(e, t.Name) else e


def written(items: tuple[t.Expr, ...]) -> tuple[Static, ...]:
    """The items of a list, as a program reads them."""
    return tuple(_value(e) for e in items)


def _value(e: t.Expr) -> Static:
    if isinstance(e, t.Number | t.Bool | t.String):
        return e.value
    return e.id if isinstance(e, t.Name) else " ".join(e.span.text.split())
