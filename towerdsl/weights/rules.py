"""Checkpoint maps: how public checkpoints name a model's parameters. Nothing here needs torch.

A rule is an equation between two expressions over names: the left one over public names, the right one over
parameters of the model. Every operation can be undone, so one rule serves loading and saving.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from towerdsl.diagnostics import Diagnostics, Source, Span, did_you_mean
from towerdsl.weights.expressions import Concat, Expr, Reshape, Stack, names_in, variables, walk
from towerdsl.weights.names import Name, Text, parse_name
from towerdsl.weights.parse import parse_expr

MAX_RULES = 500


@dataclass(frozen=True)
class Rule:
    """`public` = `ours`, for every value of the placeholders `shared` by both sides."""

    public: Expr
    ours: Expr
    shared: tuple[str, ...]

    @cached_property
    def vagueness(self) -> tuple[int, int]:
        """How little the right side says; of two rules that reach a parameter the one that says more has it."""
        return max(name.vagueness for name in names_in(self.ours))


class Section(Protocol):
    """One map as the spec reader gives it."""

    @property
    def name(self) -> Text: ...
    @property
    def rules(self) -> Sequence[tuple[Text, Text]]: ...
    @property
    def ignore(self) -> Sequence[Text]: ...
    @property
    def prefix(self) -> Sequence[Text]: ...
    @property
    def rename(self) -> Sequence[tuple[Text, Text]]: ...


@dataclass(frozen=True)
class CheckpointMap:
    """A parsed map. Equal maps have equal rules, wherever they were written.

    `rename` has other spellings of parts of public names, with those of the rules: they are read, and never written.
    """

    name: str
    rules: tuple[Rule, ...]
    ignore: tuple[Name, ...] = ()
    prefix: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()

    def renamed(self, name: str) -> str:
        """A public name in the spelling of the rules; of parts that have several, the longest counts."""
        spellings = sorted(((tuple(old.split(".")), new) for old, new in self.rename), key=lambda x: -len(x[0]))
        parts, found = tuple(name.split(".")), []
        while parts:
            old, new = next((x for x in spellings if parts[: len(x[0])] == x[0]), (parts[:1], parts[0]))
            found.append(new)
            parts = parts[len(old) :]
        return ".".join(found)

    def joined(self, later: CheckpointMap) -> CheckpointMap:
        """These rules and later ones, under their name, which take the place of those about the same names."""
        public = {str(rule.public) for rule in later.rules}
        ours = {str(name) for rule in later.rules for name in names_in(rule.ours)}
        kept = (r for r in self.rules if str(r.public) not in public and not {*map(str, names_in(r.ours))} <= ours)
        rules = (*kept, *later.rules)
        more = (self.ignore + later.ignore, self.prefix + later.prefix, self.rename + later.rename)
        return CheckpointMap(later.name, rules, *more)

    @classmethod
    def identity(cls) -> CheckpointMap:
        """The map whose public names are the model's own; it has no name."""
        return cls.from_strings("", {"{name*}": "{name*}"})

    @classmethod
    def from_strings(
        cls,
        name: str,
        rules: Mapping[str, str],
        ignore: Iterable[str] = (),
        prefix: Iterable[str] = (),
        rename: Mapping[str, str] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> CheckpointMap:
        """The map written as plain strings; TowerError with every mistake in them."""
        found = Diagnostics()
        where = f"checkpoints.{name}"
        section = _Strings(
            _quote(where, name),
            tuple((_quote(where, left), _quote(where, right)) for left, right in rules.items()),
            tuple(_quote(where, text) for text in ignore),
            tuple(_quote(where, text) for text in prefix),
            tuple((_quote(where, old), _quote(where, new)) for old, new in (rename or {}).items()),
        )
        result = parse_map(section, found, sizes)
        found.raise_if_any()
        return result

    @classmethod
    def from_data(cls, name: str, data: object) -> CheckpointMap:
        """The map from `to_data()`'s form, as a model's `checkpoints` holds it; TowerError if it has another form."""
        lists: dict[str, list[str]] = {"ignore": [], "prefix": []}
        texts: dict[str, dict[str, str]] = {"rules": {}, "rename": {}}
        bad = not isinstance(data, Mapping) or not set(data) <= {*lists, *texts}
        if isinstance(data, Mapping):
            for key in texts:
                given = data.get(key, {})
                if isinstance(given, Mapping) and all(isinstance(x, str) for pair in given.items() for x in pair):
                    texts[key] = {str(left): str(right) for left, right in given.items()}
                else:
                    bad = True
            for key in lists:
                entry = data.get(key, ())
                if isinstance(entry, (list, tuple)) and all(isinstance(x, str) for x in entry):
                    lists[key] = list(entry)
                else:
                    bad = True
        if bad:
            found = Diagnostics()
            found.add(
                "checkpoint-map",
                f"the checkpoint map `{name}` of this model is not in a map's form",
                help='a map is {"rules": {public: ours}, "ignore": [...], "prefix": [...], "rename": {old: new}}',
            )
            found.raise_if_any()
        return cls.from_strings(name, texts["rules"], lists["ignore"], lists["prefix"], texts["rename"])

    def to_data(self) -> dict[str, dict[str, str] | list[str]]:
        """The map as plain strings, sizes replaced by numbers: `from_data(name, to_data())` is the same map."""
        data: dict[str, dict[str, str] | list[str]] = {"rules": {str(r.public): str(r.ours) for r in self.rules}}
        if self.ignore:
            data["ignore"] = [str(name) for name in self.ignore]
        if self.prefix:
            data["prefix"] = list(self.prefix)
        if self.rename:
            data["rename"] = dict(self.rename)
        return data


@dataclass(frozen=True)
class _Quoted:
    text: str
    span: Span


@dataclass(frozen=True)
class _Strings:
    name: Text
    rules: tuple[tuple[Text, Text], ...]
    ignore: tuple[Text, ...]
    prefix: tuple[Text, ...]
    rename: tuple[tuple[Text, Text], ...]


def _quote(where: str, text: str) -> _Quoted:
    return _Quoted(text, Span(Source(where, text), 0, len(text)))


def parse_map(section: Section, found: Diagnostics, sizes: Mapping[str, int] | None = None) -> CheckpointMap:
    """The map of one section; its mistakes go to `found`, and the rules that have some are left out.

    `sizes` are the spec's integer sizes, for `dim=`, `parts=` and the shape of `reshape`.
    """
    rules: list[Rule] = []
    written: set[str] = set()
    if len(section.rules) > MAX_RULES:
        found.add("checkpoint-limit", f"a checkpoint map may have {MAX_RULES} rules, this one has "
                  f"{len(section.rules)}", section.name.span)  # fmt: skip
    for left, right in section.rules[:MAX_RULES]:
        public, ours = parse_expr(left, found, sizes or {}), parse_expr(right, found, sizes or {})
        if left.text in written:
            found.add("checkpoint-twice", f"the rule for `{left.text}` is written twice", left.span)
        elif public is not None and ours is not None:
            rule = _resolve(public, ours, left, right, found)
            rules += [rule] if rule is not None else []
        written.add(left.text)
    ignore = []
    for text in section.ignore:
        name = parse_name(text, 0, len(text.text), found)
        ignore += [name] if name is not None else []
    for text in section.prefix:
        if not text.text or any(c in "{}" or c.isspace() for c in text.text):
            found.add(
                "checkpoint-prefix",
                f"a prefix is plain text at the start of a name, `{text.text}` is not",
                text.span,
                help="write it with its dot: `prefix: [bert.]`",
            )
    for text in (text for pair in section.rename for text in pair):
        if "" in text.text.split(".") or any(c in "{}" or c.isspace() for c in text.text):
            found.add(
                "checkpoint-rename",
                f"`rename` is about whole parts of names, `{text.text}` is not some",
                text.span,
                help="write the parts alone, as in `rename: {gamma: weight, attention.q_proj: attention.self.query}`",
            )
    prefix = tuple(t.text for t in section.prefix)
    rename = tuple((old.text, new.text) for old, new in section.rename)
    return CheckpointMap(section.name.text, tuple(rules), tuple(ignore), prefix, rename)


def _resolve(public: Expr, ours: Expr, left: Text, right: Text, found: Diagnostics) -> Rule | None:
    """The rule, each stack with its placeholder; None if the sides cannot be matched or undone."""
    before = len(found)
    sides = (variables(public), variables(ours))
    shared = {x: several for x, several in sides[1].items() if x in sides[0]}
    for x, several in shared.items():
        if sides[0][x] != several:
            found.add(
                "checkpoint-pattern",
                f"`{x}` stands for one part on one side and for several on the other",
                right.span,
                help=f"write `{{{x}}}` on both sides, or `{{{x}*}}`",
            )
    for expr in walk(public):
        if isinstance(expr, Reshape):
            found.add(
                "checkpoint-reshape",
                f"a reshape on the left cannot be undone when saving: no parameter says the shape of `{expr.item}`",
                expr.span,
                help=f"put it on the right, with the public shape: `{expr.item}: reshape({right.text}, [...])`",
            )
    for name in names_in(ours):
        if any(part.add for part in name.parts):
            found.add(
                "checkpoint-pattern",
                f"`{name}` counts on: the model's own numbers stand as they are",
                name.span,
                help="write `{l}` here, and `{l+1}` in the public name",
            )
    for expr in walk(ours):
        if isinstance(expr, Concat) and expr.parts is not None:
            found.add(
                "checkpoint-parts",
                "`parts` is for the left side only: here the model's parameters say where to split",
                expr.span,
                help="leave `parts` out",
            )
    if len(found) > before:
        return None
    ours = _bind(ours, set(sides[1]) - set(shared), frozenset(shared), "right", found)
    public = _bind(public, set(sides[0]) - set(shared), frozenset(shared), "left", found)
    return Rule(public, ours, tuple(shared)) if len(found) == before else None


def _bind(expr: Expr, free: set[str], bound: frozenset[str], side: str, found: Diagnostics) -> Expr:
    """`expr` with the placeholder of each stack filled in. `free`: those that only this side has and no stack took."""
    if isinstance(expr, Name):
        for x in expr.variables:
            if x not in bound:
                found.add(
                    "checkpoint-placeholder",
                    f"`{{{x}}}` is only on the {side} side",
                    expr.span,
                    help=f"use it on both sides, or join what it stands for: `stack({expr})`",
                )
        for x in sorted(bound - set(expr.variables)):
            found.add(
                "checkpoint-placeholder",
                f"`{expr}` is the same for every `{{{x}}}`",
                expr.span,
                help=f"every name on the {side} side needs `{{{x}}}`",
            )
        return expr
    if isinstance(expr, Concat):
        return replace(expr, items=tuple(_bind(item, free, bound, side, found) for item in expr.items))
    if not isinstance(expr, Stack):
        return replace(expr, item=_bind(expr.item, free, bound, side, found))
    inner = {x for e in walk(expr.item) if isinstance(e, Stack) for x in [e.over] if x}
    several = {x for x, many in variables(expr.item).items() if many}
    choices = sorted((set(variables(expr.item)) & free) - inner - several - bound)
    over = expr.over or (choices[0] if len(choices) == 1 else "")
    if not over and choices:
        found.add(
            "checkpoint-stack",
            f"this stack may be over {' or '.join(f'`{{{x}}}`' for x in choices)}",
            expr.span,
            help=f"say which: `stack(..., over={choices[0]})`",
        )
    elif over not in choices:
        found.add(
            "checkpoint-stack",
            f"a stack goes over a placeholder `{{l}}` that only the {side} side has"
            + (f", `{over}` is not one" if over else ""),
            expr.span,
            help=did_you_mean(over, choices, "concat joins tensors that are named one by one"),
        )
    else:
        return replace(expr, item=_bind(expr.item, free, bound | {over}, side, found), over=over)
    return expr
