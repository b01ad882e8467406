"""What names mean at a place in a spec, and the names that modules get."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from towerdsl.budget import spend
from towerdsl.diagnostics import Span
from towerdsl.ir import names
from towerdsl.ir.nodes import BlockInstance, ModuleSlot, Relation, Set, Step, Value, WeightDecl
from towerdsl.ir.operation import Op, OpResult
from towerdsl.ir.types import Axis
from towerdsl.lang import tree as t
from towerdsl.passes.infer.reading import Readings
from towerdsl.passes.resolve import walk
from towerdsl.passes.static import Static


class Fault(Exception):
    """A mistake found while typing one statement; the statement's results become unknown."""

    def __init__(self, code: str, message: str, span: Span, notes: Iterable[str] = (), help: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.span, self.notes, self.help = code, message, span, tuple(notes), help


class Unknown(Exception):
    """A value that a reported mistake left unknown was used: nothing more is said."""


class Poison:
    """Stands for a name whose value is unknown because of a reported mistake."""


POISON = Poison()


@dataclass
class SharedModule:
    """An entry of `modules:`: its static arguments are evaluated at once, its class is known at its first use."""

    name: str
    call: t.Call
    scope: Scope
    op: Op | None = None
    result: OpResult | None = None
    block: BlockInstance | None = None


#: What an expression is: known when compiling, or a value or a relation of the model.
Result = Static | Value | Relation
Binding = Result | SharedModule | Poison
#: What a block is made of: its learned tensors, its statements and its results.
Typed = tuple[list[WeightDecl], list[Step], list[Value | Relation]]


@dataclass
class AttentionScope:
    """What an attention adds to its scope: axes of its score, and the sources."""

    batch: tuple[Axis, ...]
    positions: tuple[Axis, ...]
    over: tuple[Axis, ...]
    head: Axis | None
    aliases: Mapping[str, Axis]

    def rank(self, axis: Axis) -> int:
        """The place of an axis in the order batch, head, i, j, features."""
        if axis.side == "i":
            return 2
        if axis.side == "j":
            return 3
        if self.head is not None and axis == self.head:
            return 1
        return 0 if axis in self.batch else 4


@dataclass
class Along:
    """A loop along an axis, while its body is typed."""

    axis: Axis
    assigned: frozenset[str]  # all variables that its body assigns
    new: frozenset[str]  # those that do not exist before
    depth: int  # how many loops with a count stand around it
    hoisted: list[Set] = field(default_factory=list)  # what does not depend on it, to stand before it


@dataclass
class Scope:
    """Names at one place. `axes` maps the names that axes have here to the axes."""

    names: dict[str, Binding]
    axes: dict[str, Axis]
    builder: Builder
    attention: AttentionScope | None = None
    #: an axis of a parameter written like this expression is the head axis
    heads: tuple[t.Expr, Axis] | None = None
    is_flow: bool = False
    signature: t.Signature | None = None  # of the block
    skipped: set[str] = field(default_factory=set)  # names that only branches assign that are not taken
    along: dict[str, Along] = field(default_factory=dict)  # loops around this place, outer first
    ended: dict[str, Span] = field(default_factory=dict)  # indices of loops before this place
    #: by the identity of a loop along an axis: what is new in it, also where it is typed again in a loop with a count
    new_in: dict[int, frozenset[str]] = field(default_factory=dict)
    #: what variables are called that have the name of something that an attention assigns, such as `q`
    other: Mapping[str, str] = field(default_factory=dict)

    def variable(self, name: str) -> str:
        """What a variable of the spec is called in the typed form."""
        return self.other.get(name, name)

    def child(self, **names: Binding) -> Scope:
        spend(5 + len(self.names) // 10)
        return replace(self, names={**self.names, **names}, axes=dict(self.axes))


def given_names(part: t.SpecFile | t.Composition | t.Attention, roots: Iterable[t.Expr]) -> dict[str, str]:
    """The names that a block gives to parameters and modules, also by `name=` in its expressions --> attributes."""
    given = [name.text for name, _ in (*part.params, *part.modules)]
    calls = (e for root in roots for e in walk(root) if isinstance(e, t.Call))
    given += [value.id for e in calls for key, value in e.kwargs if key == "name" and isinstance(value, t.Name)]
    return names.attributes(given)


@dataclass
class _Slot:
    """A module slot while it is built: a leaf, or one entry for each repetition of a loop."""

    leaf: ModuleSlot | None = None
    items: dict[int, _Slot] = field(default_factory=dict)

    def freeze(self) -> ModuleSlot:
        """The slot as it stands in the typed form; repetitions that share a slot share its frozen form."""
        spend(2)
        if self.leaf is None:
            count = 1 + max(self.items, default=-1)
            items = tuple(self.items[n].freeze() if n in self.items else ModuleSlot() for n in range(count))
            self.leaf = ModuleSlot(items=items)
        return self.leaf


@dataclass
class Builder:
    """Collects the submodules of one block instance and gives them names."""

    own: Mapping[str, str] = field(default_factory=dict)  # names that the block gives --> attributes
    loops: list[tuple[str, int]] = field(default_factory=list)  # index variable and its current value
    counts: dict[str, int] = field(default_factory=dict)
    #: names that `name=` gave: in which repetitions of loops, and where
    explicit: dict[str, dict[tuple[int, ...], Span]] = field(default_factory=dict)
    slots: dict[str, _Slot] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)
    numbered: dict[str, tuple[str, int]] = field(default_factory=dict)  # attributes --> what they were made of
    placed: list[str] = field(default_factory=list)  # names of modules in the order they were placed
    field_name: str | None = None  # the attention field that is being typed
    field_modules: int = 0  # how many modules that field has
    readings: Readings = field(default_factory=Readings)

    def attribute(self, name: str) -> str:
        """The attribute for a name that the spec gives."""
        return self.own.get(name) or names.free(name, names.MODULE | set(self.own.values()))

    def name(self, function: str, explicit: t.Expr | None) -> str:
        """The attribute name for a new module. Raises Fault if an explicit name is taken."""
        if explicit is not None:
            if not isinstance(explicit, t.Name):
                raise Fault("name", "`name=` takes a plain name", explicit.span, (), "write `name=up`")
            return self._explicit(explicit)
        if self.field_name is not None:
            base = self.field_name if self.field_modules == 1 else f"{self.field_name}_{function}"
        else:
            base = function
        while True:
            number = self.counts[base] = self.counts.get(base, 0) + 1
            name = names.free(base if number == 1 else f"{base}_{number}", names.MODULE)
            given = name in self.explicit or name in self.own.values()
            if not given and self.numbered.setdefault(name, (base, number)) == (base, number):
                return name

    def _explicit(self, given: t.Name) -> str:
        """The attribute for a name that `name=` gives: one for each repetition of the loops around it."""
        at = tuple(n for _, n in self.loops)
        attribute = self.attribute(given.id)
        others = self.explicit.setdefault(attribute, {})
        clash = next(((place, x) for place, x in others.items() if place == at or len(place) != len(at)), None)
        if clash is not None or attribute in self.shared or attribute in self.numbered:
            notes = [f"first on line {clash[1].line}"] if clash is not None else []
            help = "to use one module twice, declare it under `modules:`"
            if clash is not None and len(clash[0]) != len(at):
                help = "modules of a loop are a list of that name: choose another one for what is not in it"
            elif clash is None and attribute in self.numbered:
                help = "the module of another call is called so by itself: choose another name"
            raise Fault("name-reused", f"the module name `{given.id}` is used twice", given.span, notes, help)
        others[at] = given.span
        return attribute

    def place(self, name: str, slot: ModuleSlot) -> tuple[str, tuple[str, ...]]:
        """Put a module under its name, inside the current loops. Returns the name and the loops' index names."""
        self.placed.append(name)
        spend(5)
        here = self.slots.setdefault(name, _Slot())
        for _, n in self.loops:
            here = here.items.setdefault(n, _Slot())
        here.leaf = slot
        return name, tuple(index for index, _ in self.loops)

    def repeat(self, names: set[str], repetition: int) -> None:
        """Give a repetition whose body is that of the first modules of its own, of the same kind."""

        def visit(slot: _Slot, path: list[int]) -> None:
            if not path:
                if repetition > 0 and 0 in slot.items:
                    slot.items.setdefault(repetition, slot.items[0])
                return
            if path[0] in slot.items:
                visit(slot.items[path[0]], path[1:])

        spend(3 + 2 * len(names) * len(self.loops))
        path = [number for _, number in self.loops[:-1]]
        for name in names:
            visit(self.slots[name], path)

    def place_shared(self, name: str, slot: ModuleSlot) -> None:
        self.slots.setdefault(name, _Slot()).leaf = slot

    @property
    def modules(self) -> tuple[tuple[str, ModuleSlot], ...]:
        return tuple((name, slot.freeze()) for name, slot in self.slots.items())
