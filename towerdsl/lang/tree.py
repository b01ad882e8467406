"""The parsed form: expressions, statements and the parts of a spec file, each with its span.

Nothing here is resolved: a `Name` is only a name. Equality ignores spans, so that two texts that say the same
thing compare equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

from towerdsl.diagnostics import Source, Span


@dataclass(frozen=True)
class Expr:
    span: Span = field(compare=False, repr=False)

    def children(self) -> Iterator[Expr]:
        for name in self.__dataclass_fields__:
            yield from _expressions(getattr(self, name))


def _expressions(value: object) -> Iterator[Expr]:
    if isinstance(value, Expr):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _expressions(item)


@dataclass(frozen=True)
class Number(Expr):
    value: int | float


@dataclass(frozen=True)
class Bool(Expr):
    value: bool


@dataclass(frozen=True)
class String(Expr):
    value: str


@dataclass(frozen=True)
class Name(Expr):
    id: str


@dataclass(frozen=True)
class Attribute(Expr):
    base: Expr
    name: str


@dataclass(frozen=True)
class Call(Expr):
    func: Expr
    args: tuple[Expr, ...]
    kwargs: tuple[tuple[str, Expr], ...]


@dataclass(frozen=True)
class Pick(Expr):
    """`axis=start` (one position, the axis goes) or `axis=start:stop` (a part of it)."""

    axis: str
    start: Expr | None
    stop: Expr | None
    is_range: bool


@dataclass(frozen=True)
class Index(Expr):
    base: Expr
    items: tuple[Expr, ...]


@dataclass(frozen=True)
class Unary(Expr):
    op: str
    operand: Expr


@dataclass(frozen=True)
class Binary(Expr):
    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Compare(Expr):
    """`a op b op c`: every neighbouring pair must hold."""

    ops: tuple[str, ...]
    operands: tuple[Expr, ...]


@dataclass(frozen=True)
class Logic(Expr):
    """`and` or `or` of two or more."""

    op: str
    operands: tuple[Expr, ...]


@dataclass(frozen=True)
class Not(Expr):
    operand: Expr


@dataclass(frozen=True)
class Cond(Expr):
    test: Expr
    then: Expr
    otherwise: Expr


def alternatives(e: Expr) -> Iterator[Expr]:
    """What `a if condition else b` can be."""
    if isinstance(e, Cond):
        yield from alternatives(e.then)
        yield from alternatives(e.otherwise)
    else:
        yield e


@dataclass(frozen=True)
class Once(Expr):
    """An argument that a definition uses more than once: it is computed once. `key` tells one use from another."""

    arg: Expr
    name: str
    key: int


@dataclass(frozen=True)
class Needs(Expr):
    """The formula of a definition that needs something, with the arguments that its conditions are about."""

    formula: Expr
    definition: Definition
    args: tuple[tuple[str, Expr], ...]


@dataclass(frozen=True)
class List(Expr):
    items: tuple[Expr, ...]


# --- the parts of a file ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A piece of text that is not an expression: a name, a title, a checkpoint rule."""

    text: str
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class AxisDecl:
    """`n`, `3`, `4 * d` or `h = image`."""

    name: str | None
    size: Expr | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class TypeDecl:
    """`int[b, n] = 0`: what an input or a parameter is."""

    dtype: str
    axes: tuple[AxisDecl, ...]
    default: Expr | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class TypeChoice:
    """`float[b, h, w] if space == 2 else float[b, n]`: a type that sizes choose."""

    test: Expr
    then: AnyType
    otherwise: AnyType
    span: Span = field(compare=False, repr=False)


AnyType = TypeDecl | TypeChoice


def branches(decl: AnyType) -> Iterator[TypeDecl]:
    """Every type that a declaration can be."""
    if isinstance(decl, TypeDecl):
        yield decl
    else:
        yield from branches(decl.then)
        yield from branches(decl.otherwise)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a block or definition; `axes` where the signature names them."""

    name: str
    axes: tuple[AxisDecl, ...] | None
    default: Expr | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Signature:
    name: str
    parameters: tuple[Parameter, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Target:
    name: str
    axes: tuple[AxisDecl, ...] | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Statement:
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Assign(Statement):
    targets: tuple[Target, ...]
    value: Expr


@dataclass(frozen=True)
class Bare(Statement):
    value: Expr


@dataclass(frozen=True)
class Return(Statement):
    values: tuple[Expr, ...]


@dataclass(frozen=True)
class For(Statement):
    """`for index in count`, or `for index along count`, where `count` names an axis."""

    index: str
    count: Expr
    body: tuple[Statement, ...]
    along: bool = False


@dataclass(frozen=True)
class If(Statement):
    test: Expr
    body: tuple[Statement, ...]
    orelse: tuple[Statement, ...]


@dataclass(frozen=True)
class Definition:
    signature: Signature
    body: Expr
    source: Source = field(compare=False, repr=False)
    needs: tuple[Expr, ...] = ()  # conditions that its arguments have to meet


@dataclass(frozen=True)
class Attention:
    """An attention block's fields, as expressions; absent fields are None."""

    let: tuple[Statement, ...]
    params: tuple[tuple[Text, AnyType], ...]
    modules: tuple[tuple[Text, Expr], ...]
    query: Expr | None
    key: Expr | None
    value: Expr
    over: Expr | None
    features: Expr | None
    heads: tuple[Expr, Expr] | None  # query heads, key heads
    score: Expr | None
    mask: Expr | None
    locality: Expr | None
    normalize: Expr | None
    dropout: Expr | None
    message: Expr | None
    merge: Expr | None
    output: Expr | None


@dataclass(frozen=True)
class Composition:
    params: tuple[tuple[Text, AnyType], ...]
    modules: tuple[tuple[Text, Expr], ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Block:
    signature: Signature
    body: Attention | Composition
    about: str | None
    span: Span = field(compare=False, repr=False)  # the whole block
    source: Source = field(compare=False, repr=False)
    needs: tuple[Expr, ...] = ()  # conditions that its arguments have to meet


@dataclass(frozen=True)
class CheckpointSection:
    name: Text
    rules: tuple[tuple[Text, Text], ...]
    ignore: tuple[Text, ...]
    prefix: tuple[Text, ...]
    rename: tuple[tuple[Text, Text], ...]

    def joined(self, later: CheckpointSection) -> CheckpointSection:
        """This map and a later one of its name: of two rules about one public name, the later one counts."""
        replaced = {left.text for left, _ in later.rules}
        return CheckpointSection(
            later.name,
            (*(rule for rule in self.rules if rule[0].text not in replaced), *later.rules),
            (*self.ignore, *later.ignore),
            (*self.prefix, *later.prefix),
            tuple(({k.text: (k, x) for k, x in (*self.rename, *later.rename)}).values()),
        )


@dataclass(frozen=True)
class ConfigRead:
    """`size = absent, null = null`: the size that a value becomes, and what it is without one."""

    size: Text
    absent: Expr | None
    null: Expr | None


@dataclass(frozen=True)
class ConfigOnly:
    """`== value = absent`: the only value that the spec computes, and what the key is where it is absent or null."""

    value: Expr
    absent: Expr | None


@dataclass(frozen=True)
class ConfigRules:
    """What the keys of a public configuration, or of a file's metadata, mean, and the sizes that stand fixed beside.

    A rule is a `ConfigRead`, a `ConfigOnly`, or a mapping from values to further rules.
    """

    rules: tuple[tuple[Text, ConfigRule], ...] = ()
    sizes: tuple[tuple[Text, Expr], ...] = ()
    ignore: tuple[Text, ...] = ()
    rename: tuple[tuple[Text, Text], ...] = ()
    within: tuple[tuple[Text, Text], ...] = ()
    needs: tuple[Expr, ...] = ()

    def joined(self, later: ConfigRules) -> ConfigRules:
        """These rules and later ones: of two about one key, or one size, the later one counts."""
        first = reduce(ConfigRules._moved, later.within, self)
        return ConfigRules(
            tuple(({k.text: (k, x) for k, x in (*first.rules, *later.rules)}).values()),
            tuple(({k.text: (k, x) for k, x in (*self.sizes, *later.sizes)}).values()),
            (*first.ignore, *later.ignore),
            tuple(({k.text: (k, x) for k, x in (*first.rename, *later.rename)}).values()),
            (*self.within, *later.within),
            (*self.needs, *later.needs),
        )

    def _moved(self, within: tuple[Text, Text]) -> ConfigRules:
        """These rules, with what they say of keys inside one key said of keys inside another one."""
        old, new = within

        def key(text: Text) -> Text:
            inside = f"{text.text}.".startswith(f"{old.text}.")
            return replace(text, text=f"{new.text}{text.text[len(old.text) :]}") if inside else text

        def rule(x: ConfigRule) -> ConfigRule:
            return tuple((value, inner._moved(within)) for value, inner in x) if isinstance(x, tuple) else x

        return ConfigRules(
            tuple((key(k), rule(x)) for k, x in self.rules),
            self.sizes,
            tuple(map(key, self.ignore)),
            tuple((key(k), key(x)) for k, x in self.rename),
            needs=self.needs,
        )


ConfigRule = ConfigRead | ConfigOnly | tuple[tuple[Text, ConfigRules], ...]


@dataclass(frozen=True)
class SpecFile:
    source: Source = field(repr=False)
    path: Path | None
    tower: Text | None
    paper: str | None
    about: str | None
    sizes: tuple[tuple[Text, Expr], ...]
    use: tuple[Text, ...]
    define: tuple[Definition, ...]
    inputs: tuple[tuple[Text, AnyType], ...]
    params: tuple[tuple[Text, AnyType], ...]
    modules: tuple[tuple[Text, Expr], ...]
    blocks: tuple[Block, ...]
    flow: tuple[Statement, ...]
    outputs: tuple[tuple[Text | None, Expr], ...]
    checkpoints: tuple[CheckpointSection, ...]
    config: ConfigRules
    gguf: ConfigRules
    broken: frozenset[str]  # names of what could not be read, so that nobody reports them as unknown

    @property
    def is_library(self) -> bool:
        """A file without a flow, to be used by others."""
        return not self.flow and not self.outputs
