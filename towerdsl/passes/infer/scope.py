"""What names mean at a place in a spec, and the names that modules get."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from towerdsl.budget import spend
from towerdsl.diagnostics import Span
from towerdsl.ir.nodes import BlockInstance, ModuleSlot, Relation, Set, Value
from towerdsl.ir.types import Axis
from towerdsl.lang import tree as t
from towerdsl.ops import Op, OpResult
from towerdsl.passes.infer.reading import Readings
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


Binding = Static | Value | Relation | SharedModule | Poison


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

    def child(self, **names: Binding) -> Scope:
        spend(5 + len(self.names) // 10)
        return replace(self, names={**self.names, **names}, axes=dict(self.axes))


#: Attributes of nn.Module that a submodule or parameter must not hide.
MODULE_ATTRIBUTES = frozenset(
    """add_module apply bfloat16 buffers call_super_init checkpoints children compile cpu cuda double
    dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half inputs ipu
    like load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ reset_parameters set_extra_state set_submodule share_memory
    state_dict tied to to_empty train training type xpu zero_grad self""".split()
)


def safe(name: str, taken: Iterable[str] = ()) -> str:
    """The name, with `_` behind it where Python or nn.Module has another use for it."""
    while keyword.iskeyword(name) or name in MODULE_ATTRIBUTES or name in taken:
        name += "_"
    return name


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

    loops: list[tuple[str, int]] = field(default_factory=list)  # index variable and its current value
    counts: dict[str, int] = field(default_factory=dict)
    explicit: dict[str, tuple[Span, tuple[int, ...]]] = field(default_factory=dict)
    slots: dict[str, _Slot] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)
    placed: list[str] = field(default_factory=list)  # names of modules in the order they were placed
    field_name: str | None = None  # the attention field that is being typed
    field_modules: int = 0  # how many modules that field has
    readings: Readings = field(default_factory=Readings)

    def name(self, function: str, explicit: t.Expr | None) -> str:
        """The attribute name for a new module. Raises Fault if an explicit name is taken."""
        if explicit is not None:
            if not isinstance(explicit, t.Name):
                raise Fault("name", "`name=` takes a plain name", explicit.span, (), "write `name=up`")
            at = tuple(n for _, n in self.loops)
            first = self.explicit.get(explicit.id)
            if explicit.id in self.shared or (first is not None and first[1] == at):
                notes = [f"first on line {first[0].line}"] if first else []
                help = "to use one module twice, declare it under `modules:`"
                raise Fault("name-reused", f"the module name `{explicit.id}` is used twice", explicit.span, notes, help)
            self.explicit[explicit.id] = (explicit.span, at)
            return safe(explicit.id)
        if self.field_name is not None:
            base = self.field_name if self.field_modules == 1 else f"{self.field_name}_{function}"
        else:
            base = function
        while True:
            self.counts[base] = self.counts.get(base, 0) + 1
            name = base if self.counts[base] == 1 else f"{base}_{self.counts[base]}"
            if name not in self.explicit and name not in self.shared:
                return safe(name)

    def place(self, name: str, slot: ModuleSlot) -> tuple[str, tuple[str, ...]]:
        """Put a module under its name, inside the current loops. Returns the name and the loops' index names."""
        self.placed.append(name)
        spend(5)
        here = self.slots.setdefault(name, _Slot())
        for _, n in self.loops:
            here = here.items.setdefault(n, _Slot())
        here.leaf = slot
        return name, tuple(index for index, _ in self.loops)

    def place_shared(self, name: str, slot: ModuleSlot) -> None:
        self.slots.setdefault(name, _Slot()).leaf = slot

    @property
    def modules(self) -> tuple[tuple[str, ModuleSlot], ...]:
        return tuple((name, slot.freeze()) for name, slot in self.slots.items())
