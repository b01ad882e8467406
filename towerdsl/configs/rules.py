"""Rules between the keys of a public configuration and the sizes of a spec, read both ways.

Every key is read by a rule, or ignored by name, or a mistake: no key that changes what is computed is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from towerdsl.configs.idle import IDLE
from towerdsl.configs.values import INDEX, Value, evaluate, same
from towerdsl.diagnostics import Diagnostic, Diagnostics, Source, Span, did_you_mean, visible
from towerdsl.lang import tree as t
from towerdsl.passes.infer import all_sizes
from towerdsl.passes.lists import spread, words, written
from towerdsl.passes.resolve import Resolved, walk
from towerdsl.passes.static import StaticError

#: The key that says which family of models a configuration is of, and the one that says with which outputs.
FAMILY, OUTPUTS = "model_type", "architectures"
#: The names of classes, and their number.
LABELS, CLASSES = "id2label", "num_labels"
#: The first of a GGUF file.
ARCHITECTURE = "general.architecture"
SHOWN = 80


def origin(said: Mapping[str, str]) -> str:
    """A note on where sizes come from."""
    return f"in the configuration {', '.join(said.values())}"


def families(rules: t.ConfigRules, family: str = FAMILY) -> list[str]:
    """The values of the key for the family that rules are for."""
    return [x for key, rule in rules.rules if key.text == family for x in _cases(rule)]


def _cases(rule: t.ConfigRule) -> dict[str, t.ConfigRules]:
    """The rules that further count for each value of a key; those of `a, b` for both."""
    found: dict[str, t.ConfigRules] = {}
    for values, inner in rule if isinstance(rule, tuple) else ():
        for value in values.text.split(","):
            found[value.strip()] = found.get(value.strip(), t.ConfigRules()).joined(inner)
    return found


@dataclass(frozen=True)
class Read:
    """What a configuration says: sizes, the keys that some of them are said by, and the mistakes that stand in the way.

    `used` counts the keys with a rule.
    """

    sizes: Mapping[str, Value]
    said: Mapping[str, str]
    mistakes: tuple[Diagnostic, ...]
    used: int


@dataclass(frozen=True)
class Config:
    """A public configuration, as JSON has it. `spelled` has the keys that are renamed, as the file spells them.

    `family` is the key for the family. What `more` has counts only where rules speak of it.
    """

    values: Mapping[str, Value]
    source: Source | None = None
    spelled: Mapping[str, str] = field(default_factory=dict)
    family: str = FAMILY
    more: Mapping[str, Value] = field(default_factory=dict)

    def place(self, key: str) -> Span | None:
        """Where the file has a key."""
        if self.source is None:
            return None
        name = json.dumps(self.spelled.get(key, key).rpartition(".")[2])
        at = self.source.text.find(name)
        return Span(self.source, at, at + len(name)) if at >= 0 else None

    def says(self, key: str) -> str:
        """A key with its value, for messages."""
        return f"`{visible(self.spelled.get(key, key), '')}` is {_shown(self.values[key])}"

    def flat(self, rules: t.ConfigRules) -> Config:
        """With dotted keys where rules speak of what is inside a mapping; one that is null or empty has no keys."""
        names, renames = _names(rules)
        inside = {key[:at] for key in names for at, c in enumerate(key) if c == "."}
        for _ in renames:
            inside |= {old for old, new in renames if new in inside}

        def walk(values: Mapping[str, Value], front: str) -> Iterator[tuple[str, Value]]:
            for name, value in values.items():
                key = f"{front}{name}"
                if key not in inside or not (value is None or isinstance(value, Mapping)):
                    yield key, value
                elif value:
                    yield from walk(value, f"{key}.")

        values = dict(walk(self.values, ""))
        if isinstance(named := values.get(LABELS), Mapping):  # they say how many classes there are
            values.setdefault(CLASSES, len(named))
        return replace(self, values=values)

    def renamed(self, rename: Iterable[tuple[t.Text, t.Text]]) -> tuple[Config, list[tuple[str, str]]]:
        """With keys in the spelling of the rules, and the pairs of keys that are one and have different values."""
        spellings = sorted(((old.text, new.text) for old, new in rename), key=lambda x: -len(x[0]))
        values: dict[str, Value] = {}
        spelled: dict[str, str] = {}
        twice = []
        for original, value in self.values.items():
            key = original
            for _ in range(len(spellings)):  # a new name may have a new one, too
                old, new = next((x for x in spellings if f"{key}.".startswith(f"{x[0]}.")), (key, key))
                key = f"{new}{key[len(old) :]}"
            if values.get(key) is None:
                values[key], spelled[key] = value, self.spelled.get(original, original)
            elif value is not None and not same(value, values[key]):
                twice.append((spelled[key], original))
        return replace(self, values=values, spelled=spelled), twice


def _fronts(rename: Iterable[tuple[t.Text, t.Text]], key: str) -> Iterator[tuple[t.Text, str]]:
    """The other names of the mapping that a key is in, and what stands behind them."""
    for old, new in rename:
        if key.startswith(f"{new.text}."):
            yield old, key[len(new.text) :]


def _shown(value: Value) -> str:
    text = visible(json.dumps(value, ensure_ascii=False, default=str), "")
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _names(rules: t.ConfigRules) -> tuple[set[str], set[tuple[str, str]]]:
    """Every key that rules speak of, in any case, and every new spelling of one."""
    renames = {(old.text, new.text) for old, new in rules.rename}
    names = {key.text for key in rules.ignore} | {key.text for key, _ in rules.rules} | {x for y in renames for x in y}
    names |= {f"{new.text}." for _, new in rules.within}
    for inner in (x for _, rule in rules.rules for x in _cases(rule).values()):
        more = _names(inner)
        names, renames = names | more[0], renames | more[1]
    return names, renames


class Rules:
    """The rules of a spec: those of its `config:`, or others."""

    def __init__(self, resolved: Resolved, rules: t.ConfigRules | None = None) -> None:
        self.resolved, self.rules = resolved, resolved.config if rules is None else rules
        self.name = resolved.spec.tower.text if resolved.spec.tower else resolved.spec.source.name
        self.defaults = self.all_sizes({})

    def all_sizes(self, settings: Mapping[str, Value]) -> dict[str, Value]:
        """All sizes of the spec, where some are set."""
        found, left = spread(self.resolved, settings, Diagnostics())
        sizes = all_sizes(found, left)
        numbers = {name: x for name, x in sizes.items() if isinstance(x, int | float | str)}
        return numbers | {name: list(written(items)) for name, items in found.lists.items()}

    # --- a configuration --> sizes ----------------------------------------------------------------------------

    def read(self, config: Config) -> Read:
        """The sizes that a configuration gives."""
        mistakes: list[Diagnostic] = []

        def wrong(code: str, message: str, key: str | None = None, help: str | None = None) -> None:
            place = config.place(key) if key is not None else None
            mistakes.append(Diagnostic(f"config-{code}", message, place, (), help))

        rules, config = self._chosen(config.flat(self.rules), wrong)
        known = {key.text: rule for key, rule in rules.rules}
        ignored = IDLE | {key.text for key in rules.ignore}
        for key in config.values:
            idle = key in ignored or config.spelled.get(key, key) in ignored or key.rpartition(".")[2] in IDLE
            if key not in known and not idle:
                message = f"{config.says(key)}, and `{self.name}` has no rule for it: it may change what is computed"
                wrong("key", message, key, did_you_mean(key, known, "if it changes nothing, remove it from the file"))
        given: dict[str, Value] = {}
        said: dict[str, str] = {}
        formulas = {name.text: e for name, e in rules.sizes}
        for key, rule in known.items():
            value = config.values.get(key)
            only = rule.value if isinstance(rule, t.ConfigOnly) else None
            if isinstance(only, t.Number | t.Bool | t.String) and value is not None and not same(value, only.value):
                wrong("value", f"{config.says(key)}, `{self.name}` computes {_shown(only.value)} only", key)
            if not isinstance(rule, t.ConfigRead):
                continue
            size = rule.size.text
            if value is not None:
                if (expected := self._unfit(size, value)) is not None:
                    wrong("value", f"{config.says(key)}, `{self.name}` takes {expected}", key)
                elif isinstance(rule.null, t.Number | t.Bool) and same(value, rule.null.value):
                    wrong("value", f"{config.says(key)}, which `{self.name}` has for null", key)
                given[size], said[size] = value, config.says(key)
            elif (formula := rule.null if key in config.values else rule.absent) is not None:
                formulas[size] = formula
                said[size] = config.says(key) if key in config.values else f"`{key}` is not given"
            elif key in config.values:
                wrong("value", f"{config.says(key)}, `{self.name}` takes {self._kind(size)}", key)
            else:
                spellings = [f"`{key}`", *(f"`{old.text}{rest}`" for old, rest in _fronts(rules.rename, key))]
                wrong("missing", f"the configuration has no {' or '.join(spellings)}, which `{self.name}` needs")
        used = sum(key in known for key in config.values)
        if mistakes:
            return Read(given, said, tuple(mistakes), used)
        try:
            sizes, expected_of = self._evaluated(given, formulas)
            for key, rule in known.items():
                value, text = config.values.get(key), config.says(key) if key in config.values else f"`{key}` is absent"
                if isinstance(rule, t.ConfigRead) and isinstance(rule.absent, t.Call) and isinstance(value, list):
                    wanted = expected_of(rule.absent)
                    if isinstance(wanted, list) and len(value) != len(wanted):
                        wrong("value", f"{text}, `{self.name}` takes {len(wanted)} of these", key)
                if not isinstance(rule, t.ConfigOnly):
                    continue
                if value is None and rule.absent is not None:
                    value = expected_of(rule.absent)
                    text += f", which means {_shown(value)}"
                if value is not None and not same(value, only := expected_of(rule.value)):
                    made = {x.id: said[x.id] for x in walk(rule.value) if isinstance(x, t.Name) and x.id in said}
                    origins = f", as {', '.join(made.values())}" if made else ""
                    wrong("value", f"{text}, `{self.name}` computes {_shown(only)} only{origins}", key)
            for needed in rules.needs:
                met = False
                with suppress(StaticError):
                    met = bool(expected_of(needed))
                if not met:
                    about = {x.id: said[x.id] for x in walk(needed) if isinstance(x, t.Name) and x.id in said}
                    wrong("needs", f"{', '.join(about.values())}, and `{self.name}` needs `{needed.span.text}`")
        except StaticError as error:
            message = f"sizes that `{self.name}` makes of this configuration cannot be computed: {error}"
            return Read(given, said, (Diagnostic("config-value", message, None, (origin(said),)),), used)
        return Read(sizes, said, tuple(mistakes), used)

    def _chosen(self, config: Config, wrong: Callable[..., None]) -> tuple[t.ConfigRules, Config]:
        """The rules of the cases that a configuration is, and its values as those name them."""
        rules, done = self.rules, set[str]()
        while True:
            now, twice = config.renamed(rules.rename)
            more = {key.text: config.more[key.text] for key, _ in rules.rules if key.text in config.more}
            now = replace(now, values={**now.values, **more})
            left = [(key.text, _cases(rule)) for key, rule in rules.rules if _cases(rule) and key.text not in done]
            if not left:
                break
            key, by = next((x for x in left if x[0] == config.family), left[0])
            done.add(key)
            value = now.values.get(key)
            if isinstance(value, list) and all(isinstance(x, str) for x in value):
                value = "|".join(value)
            if value is None:
                value = self._family(by, now) if key == config.family else next(iter(by))
            if isinstance(value, str) and value in by:
                rules = rules.joined(by[value])
                continue
            among = ", ".join(map(_shown, by))
            if key in now.values:
                wrong("value", f"{now.says(key)}, `{self.name}` takes {among}", key, did_you_mean(str(value), by))
            else:
                wrong("missing", f"the configuration has no `{key}`, which says what it is: {among}")
        for first, second in twice:
            message = f"`{visible(first, '')}` and `{visible(second, '')}` are one, and have different values"
            wrong("twice", message, second, "remove one of them")
        return rules, now

    def has(self, outputs: Value) -> bool:
        """Whether a family is for these architectures."""
        config = Config({OUTPUTS: outputs})
        return any(self._family(_cases(rule), config) for key, rule in self.rules.rules if key.text == FAMILY)

    def _family(self, by: Mapping[str, t.ConfigRules], config: Config) -> str | None:
        """The family that has the architecture of a configuration which does not name it."""
        asked = config.values.get(OUTPUTS)
        for family, rules in by.items():
            for key, rule in rules.rules:
                outputs = list(_cases(rule))
                if isinstance(rule, t.ConfigOnly) and isinstance(rule.value, t.List):
                    outputs = [e.value for e in rule.value.items if isinstance(e, t.String)]
                if key.text == OUTPUTS and isinstance(asked, list) and set(asked) & set(outputs):
                    return family
        return None

    def _evaluated(
        self, given: Mapping[str, Value], formulas: Mapping[str, t.Expr]
    ) -> tuple[dict[str, Value], Callable[[t.Expr], Value]]:
        """Sizes with those that formulas give where there is no value, and what any other formula gives then."""
        found = dict(given)
        entered: list[str] = []

        def size(name: str) -> Value:
            if name in found:
                return found[name]
            if name not in formulas:
                if name in self.defaults:
                    return self.defaults[name]
                return name  # a word: `check` lets no other name through
            if name in entered:
                raise StaticError(f"`{name}` needs itself")
            entered.append(name)
            found[name] = value(formulas[name])
            entered.pop()
            return found[name]

        def value(e: t.Expr) -> Value:
            try:
                return evaluate(e, size)
            except TypeError:
                raise StaticError("these values cannot be combined") from None

        for name, formula in formulas.items():
            if name not in found:
                word = self._word(name, formula)
                found[name] = size(name) if word is None else word
        return found, value

    def _word(self, size: str, e: t.Expr) -> str | None:
        """A bare word for a size that is one of several."""
        choice = self.resolved.choices.get(size)
        return e.id if choice is not None and isinstance(e, t.Name) and choice.find(e.id) is not None else None

    def _words(self, size: str) -> list[str]:
        """The words that the items of a list may be; none where they are numbers."""
        e = self.resolved.sizes[size][1]
        return words(e.items) if isinstance(e, t.List) else []

    def _kind(self, size: str) -> str:
        """What a size may be, in words."""
        choice, default = self.resolved.choices.get(size), self.defaults.get(size)
        if choice is not None:
            return choice.shown
        if isinstance(default, list):
            known = self._words(size)
            return f"a list of {', '.join(map(_shown, known))}" if known else "a list of numbers"
        if isinstance(default, bool):
            return "true or false"
        return "a whole number" if isinstance(default, int) else "a number"

    def _unfit(self, size: str, value: Value) -> str | None:
        """What a size may be, where a value is not that."""
        choice, default = self.resolved.choices.get(size), self.defaults.get(size)
        if choice is not None:
            fits = isinstance(value, str | int | float) and choice.find(value) is not None
        elif isinstance(default, list):
            known = self._words(size)
            fits = isinstance(value, list) and bool(value) and all(x in known if known else _number(x) for x in value)
        elif isinstance(default, bool):
            fits = isinstance(value, bool)
        else:
            fits = _number(value) and (isinstance(value, int) or not isinstance(default, int))
        return None if fits else self._kind(size)

    # --- sizes --> a configuration ----------------------------------------------------------------------------

    def write(self, sizes: Mapping[str, Value], first: str | None = None) -> dict[str, Value] | None:
        """The configuration that gives these sizes; None where no family has them. One is tried first."""
        for family in sorted(families(self.rules), key=lambda x: x != first) or [""]:
            values = self._written(sizes, family)
            back = self.read(Config(values))
            if not back.mistakes:
                found = self.all_sizes(back.sizes)
                if all(same(found[name], sizes[name]) for name in found if name in sizes):
                    return values
        return None

    def _written(self, sizes: Mapping[str, Value], family: str) -> dict[str, Value]:
        rules, flat = self.rules, dict[str, Value]()
        while left := [(k.text, _cases(rule)) for k, rule in rules.rules if _cases(rule) and k.text not in flat]:
            key, by = next((x for x in left if x[0] == FAMILY), left[0])
            held = [x for x, inner in by.items() if self._holds(inner, sizes)] or list(by)
            chosen = family if key == FAMILY else max(held, key=lambda x: len(by[x].sizes))
            flat[key] = [chosen] if key == OUTPUTS else chosen
            rules = rules.joined(by[chosen])
        _, value = self._evaluated(sizes, {})
        for name, rule in rules.rules:
            if isinstance(rule, t.ConfigRead):
                now = sizes[rule.size.text]
                none = isinstance(rule.null, t.Number | t.Bool) and same(rule.null.value, now)
                flat[name.text] = None if none else now
            elif isinstance(rule, t.ConfigOnly):
                with suppress(StaticError):
                    only = value(rule.value)
                    if rule.absent is not None or not _number(only):  # 0 may have to be 0.0: it is left out
                        flat[name.text] = only
        nested: dict[str, Value] = {}
        for dotted, x in flat.items():
            *outer, last = dotted.split(".")
            inner = nested
            for part in outer:
                inner = inner.setdefault(part, {})
            inner[last] = x
        return nested

    def _holds(self, rules: t.ConfigRules, sizes: Mapping[str, Value]) -> bool:
        """Whether sizes are those that stand fixed in a case."""
        fixed = {name.text: e for name, e in rules.sizes}
        found, _ = self._evaluated({}, fixed)
        return all(same(found[name], sizes.get(name)) for name in fixed)


def _number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- mistakes of a spec ----------------------------------------------------------------------------------------


def check(resolved: Resolved, errors: Diagnostics) -> None:
    """Report rules that speak of what the spec has not."""
    for rules in (resolved.config, resolved.gguf):
        _check(resolved, rules, errors)


def _check(resolved: Resolved, rules: t.ConfigRules, errors: Diagnostics) -> None:
    def known(name: t.Text, e: t.Expr | None) -> None:
        if name.text not in resolved.sizes:
            help = did_you_mean(name.text, resolved.sizes, "a rule gives one of the `sizes`")
            errors.add("unknown-name", f"there is no size `{name.text}`", name.span, help=help)
        elif e is not None:
            choice = resolved.choices.get(name.text)
            expression(e, () if choice is None else choice.values)

    def expression(e: t.Expr, words: Iterable[object] = ()) -> None:
        calls = {x.func for x in walk(e) if isinstance(x, t.Call)}
        for x in walk(e):
            if isinstance(x, t.Name) and x not in calls and x.id not in {*resolved.sizes, *words, INDEX}:
                help = did_you_mean(x.id, resolved.sizes, "a rule is made of numbers, words in quotes and sizes")
                errors.add("unknown-name", f"there is no size `{x.id}`", x.span, help=help)

    for name, e in rules.sizes:
        known(name, e)
    for e in rules.needs:
        expression(e)
    for _, rule in rules.rules:
        if isinstance(rule, t.ConfigRead):
            known(rule.size, rule.absent)
            known(rule.size, rule.null)
        elif isinstance(rule, tuple):
            for _, inner in rule:
                _check(resolved, inner, errors)
        else:
            expression(rule.value)
            if rule.absent is not None:
                expression(rule.absent)
