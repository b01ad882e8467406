"""The typed form of a model: values, statements, blocks, and the one attention node, `Average`.

Values form expression trees, close to what the spec says, because the emitted source should read like it.
Every value has a type with named axes; equality ignores spans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from towerdsl.budget import spend
from towerdsl.diagnostics import Span
from towerdsl.ir.operation import Op, OpResult
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, RelationType, TensorType, Type
from towerdsl.lang import tree as t


@dataclass(frozen=True)
class Value:
    type: TensorType
    span: Span | None = field(compare=False, repr=False)

    def __post_init__(self) -> None:
        spend(5)

    @property
    def axes(self) -> tuple[Axis, ...]:
        return self.type.axes

    @property
    def operands(self) -> tuple[Value, ...]:
        found: list[Value] = []
        for name in self.__dataclass_fields__:
            x = getattr(self, name)
            if isinstance(x, Value):
                found.append(x)
            elif isinstance(x, tuple):
                found += [y for y in x if isinstance(y, Value)]
        return tuple(found)

    def walk(self) -> Iterator[Value]:
        """This value and all below it, parents first."""
        stack: list[Value] = [self]
        while stack:
            value = stack.pop()
            spend(3)
            yield value
            stack.extend(reversed(value.operands))


@dataclass(frozen=True)
class Const(Value):
    """A number or truth value that is known when compiling."""

    value: int | float | bool


@dataclass(frozen=True)
class SizeOf(Value):
    """A length that is known at run time, as a Python integer."""

    size: Size


@dataclass(frozen=True)
class Local(Value):
    """A variable: an input, a parameter of the block, an assigned name, or `q`, `k`, `v`, `y` in an attention."""

    name: str


@dataclass(frozen=True)
class Weight(Value):
    """A learned tensor: `table`, or `words.weight` of a module."""

    path: tuple[str, ...]


@dataclass(frozen=True)
class Position(Value):
    """The index along `axis` of the query's or key's position; a head's number has axis `head`."""


@dataclass(frozen=True)
class Range(Value):
    """0, 1, 2, ... along its one axis."""


@dataclass(frozen=True)
class Fill(Value):
    """A tensor full of one number."""

    value: float


@dataclass(frozen=True)
class Shared(Value):
    """A value that is computed once, in a variable called after `name`, for several uses; or, where it is `kept`, by a
    method called so, for all calls with the same lengths."""

    arg: Value
    name: str
    key: int = field(compare=False)
    kept: bool = False


@dataclass(frozen=True)
class Cast(Value):
    """The same numbers in the dtype of the type: "wide" (at least float32), "float" (the model's), or "int" (what truth
    values count as)."""

    arg: Value


@dataclass(frozen=True)
class Pointwise(Value):
    """An elementwise function (`op` is its name, or a symbol such as `+`), operands combined by axis name."""

    op: str
    args: tuple[Value, ...]


@dataclass(frozen=True)
class Dot(Value):
    """The last axes of both contracted, the others combined by name."""

    left: Value
    right: Value


@dataclass(frozen=True)
class Reduce(Value):
    """`sum`, `mean`, `amax` or `amin` over axes."""

    op: str
    arg: Value
    over: tuple[Axis, ...]


@dataclass(frozen=True)
class Gather(Value):
    """`table[index, ...]`: leading `lead` axes are aligned by name, each index reads one of the next axes.

    `indices` combine by axis name; an index outside reads the nearest entry.
    """

    table: Value
    lead: int
    indices: tuple[Value, ...]


@dataclass(frozen=True)
class Member(Value):
    """Whether (source, target) is in a relation: bool over both positions."""

    relation: str
    relation_type: RelationType


@dataclass(frozen=True)
class Pick(Value):
    """One position (the axis goes) or a part of an axis. One position may be a number that is known at run time."""

    arg: Value
    axis: Axis
    start: Size | Value | None
    stop: Size | None
    is_range: bool


@dataclass(frozen=True)
class Rename(Value):
    """The same tensor with other axis names."""

    arg: Value


@dataclass(frozen=True)
class ModuleRef:
    """The attribute that holds a module, and the loop indices that choose one of a list."""

    name: str
    indices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Apply(Value):
    """An operation of the vocabulary; `module` names the attribute that holds its weights."""

    op: Op = field(compare=False)
    result: OpResult
    args: tuple[Value, ...]
    module: ModuleRef | None


@dataclass(frozen=True)
class CallBlock(Value):
    """A call of a block. Its type is that of its first result; `results` are all."""

    block: BlockInstance
    args: tuple[Value | Relation, ...]
    module: ModuleRef
    results: tuple[Type, ...]

    @property
    def operands(self) -> tuple[Value, ...]:
        return tuple(a for a in self.args if isinstance(a, Value))


@dataclass(frozen=True)
class Relation:
    """A relation that is passed along."""

    name: str
    type: RelationType


@dataclass(frozen=True)
class Wording:
    """A condition as the spec writes it, definitions put in, and what each part of it is, by the part's id: a value, or
    a number, size or truth value that is known when compiling."""

    expression: t.Expr
    parts: Mapping[int, Any]


# --- the attention node ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Average:
    """y[i] = (1 / C[i]) * sum over visible j of f(q[i], k[j], i, j) * g(v[j]).

    `query`, `key` and `value` are the sources with their heads not yet split. In `score`, `visible` and `message`
    the locals `q`, `k`, `v` stand for one head's vectors, with axes [batch, head, i or j, feature].
    """

    query: Value | None
    key: Value | None
    value: Value
    batch: tuple[Axis, ...]
    positions: tuple[Axis, ...]  # of the query, side "i"
    over: tuple[Axis, ...]  # averaged, side "j"
    heads: Axis | None
    key_heads: Size | None  # fewer than heads where key heads are shared
    score: Value
    visible: Value | None  # None: everything
    normalize: str
    options: tuple[tuple[str, Any], ...]  # of the normalizer
    dropout: float
    message: Value
    merge: str
    features: tuple[Axis, ...]  # of the result, heads merged
    query_features: tuple[Axis, ...]
    key_features: tuple[Axis, ...]
    value_features: tuple[Axis, ...]
    layout: tuple[Axis, ...]  # axes of the result
    log_prob: bool
    span: Span | None = field(compare=False, repr=False)
    wording: tuple[Wording, ...] = field(default=(), compare=False, repr=False)  # of `visible`: all hold

    def _find(self, name: str) -> Iterator[Local]:
        for root in (self.score, self.message, *([self.visible] if self.visible is not None else [])):
            for v in root.walk():
                if isinstance(v, Local) and v.name == name:
                    yield v

    @property
    def lead(self) -> tuple[Axis, ...]:
        """The axes in front of positions: [batch..., head]."""
        return (*self.batch, self.heads) if self.heads is not None else self.batch

    @property
    def is_softmax_of_values(self) -> bool:
        """Whether it averages the value as it is, by a softmax."""
        return self.normalize == "softmax" and isinstance(self.message, Local) and self.message.name == "v"

    @property
    def uses(self) -> set[str]:
        """Which of q, k, v the score, the condition and the message use."""
        return {name for name in ("q", "k", "v") if next(self._find(name), None) is not None}


# --- statements and blocks -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Set:
    """names = value; with several names, the results of a call."""

    names: tuple[str, ...]
    value: Value


@dataclass(frozen=True)
class Evaluate:
    """`names` = the results of an attention: the statement that an attention block is built around.

    `part` is what is wanted of it: "result"; "heads", the average of each head, [batch, head, i, feature], before they
    are merged; or "weights", two tensors: the weights, [batch, head, i, j], and the messages, [batch, head, i, j,
    feature], whose sum by those weights it is; or "pairs", of the pairs that relations list: the weights, [batch, head,
    pair], query and key, and whether a pair is listed for the first time; or "seen", the result, made of the weights
    that the module's `seen` gives for those computed. Specs ask for the result; what looks inside for the others.

    `gate` is a factor of each head's average, [head], before heads are merged; no spec has one.
    """

    names: tuple[str, ...]
    average: Average
    part: str = "result"
    gate: Value | None = None


@dataclass(frozen=True)
class Loop:
    """A body for each repetition; where the index is not used all bodies are the same object."""

    index: str
    bodies: tuple[tuple[Step, ...], ...]


@dataclass(frozen=True)
class Scan:
    """The body for each position of an axis in turn, with the same weights.

    In the body `index` is the position, a number that is known at run time. Variables that exist before are carried
    from one position to the next; those that are new are `collected`: afterwards they have the type given here.
    """

    index: str
    axis: Axis
    body: tuple[Step, ...]
    collected: tuple[tuple[str, TensorType], ...]

    @property
    def steps(self) -> Size:
        """How many times the body runs, each after the other."""
        return self.axis.size


Step = Set | Evaluate | Loop | Scan


@dataclass(frozen=True)
class ModuleSlot:
    """A submodule: an operation's, a block's, or a list of slots, one for each repetition of a loop."""

    op: Op | None = field(default=None, compare=False)
    result: OpResult | None = None
    block: BlockInstance | None = None
    items: tuple[ModuleSlot, ...] = ()

    @property
    def blocks(self) -> Iterator[BlockInstance]:
        """Its block, or those of its items."""
        if self.block is not None:
            yield self.block
        for item in self.items:
            yield from item.blocks


@dataclass(frozen=True)
class WeightDecl:
    name: str
    type: TensorType
    init: str
    options: tuple[float, ...]


@dataclass(frozen=True)
class BlockInstance:
    """A block with the types of its arguments known: one class of the emitted source.

    `written` is the block in the words of the spec, as far as they are about this instance: without the branches that
    sizes left out, with the spec's own definitions put in.
    """

    name: str
    parameters: tuple[tuple[str, Type], ...]
    weights: tuple[WeightDecl, ...]
    modules: tuple[tuple[str, ModuleSlot], ...]
    body: tuple[Step, ...]
    results: tuple[Value | Relation, ...]
    result_names: tuple[str | None, ...]
    about: str | None
    constants: tuple[tuple[str, Any], ...]  # static arguments, for naming and docs
    span: Span | None = field(compare=False, repr=False)
    written: t.Attention | t.Composition | None = field(default=None, compare=False, repr=False)

    @property
    def average(self) -> Average | None:
        return next((s.average for s in self.body if isinstance(s, Evaluate)), None)

    def walk(self) -> Iterator[BlockInstance]:
        """This block and all inside it, each instance once, callers first."""
        seen: set[int] = set()
        stack = [self]
        while stack:
            block = stack.pop()
            if id(block) not in seen:
                seen.add(id(block))
                yield block
                stack += reversed([inner for _, slot in block.modules for inner in slot.blocks])


@dataclass(frozen=True)
class InputDecl:
    name: str
    type: Type
    default: float | bool | None


@dataclass(frozen=True)
class Model:
    """A whole typed model: its root block and what is said about it."""

    name: str
    root: BlockInstance
    inputs: tuple[InputDecl, ...]
    paper: str | None
    about: str | None
    sizes: tuple[tuple[str, Any], ...]
    source_name: str
    inference: bool = False  # whether it is in the form that is not trained


def plain(value: Value) -> Value:
    """The value itself, whether or not it is computed once for several uses."""
    while isinstance(value, Shared):
        value = value.arg
    return value
