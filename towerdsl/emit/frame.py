"""The `forward` of one class while it is written: its statements, the names in use, and the lengths it has to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from towerdsl.budget import spend
from towerdsl.emit.code import mark
from towerdsl.emit.helpers import helpers
from towerdsl.emit.layout import tidy
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import variables
from towerdsl.ir.names import ATTENTION, BUILTINS, IMPORTED, MODULE, Variables, free, unused
from towerdsl.ir.parameters import parameter_shapes
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType

#: An empty buffer of a class that has nothing else to read the model's dtype from: `model.half()` converts it too.
LIKE = "self.like"


@dataclass
class Frame:
    """Collects the statements of one `forward`, and what they need first: lengths, the dtype of positions."""

    block: n.BlockInstance
    optional: frozenset[str] = frozenset()  # parameters that may be None
    filled: frozenset[str] = frozenset()  # inputs that are None until they are filled with their defaults
    lines: list[str] = field(default_factory=list)
    depth: int = 0
    lengths: dict[str, str] = field(default_factory=dict)  # free name -> code that reads it
    needs: dict[str, str] = field(default_factory=dict)  # variable -> code, to stand first
    helpers: set[str] = field(default_factory=set)  # functions of towerdsl.runtime and the normalizers
    reserved: frozenset[str] = frozenset()  # what no variable may be called
    looped: set[str] = field(default_factory=set)  # variables that loops go over modules with
    called: set[str] = field(default_factory=set)  # those of the helpers that the method itself calls
    aliases: dict[str, str] = field(default_factory=dict)  # functions that are called otherwise here
    shared: dict[int, str] = field(default_factory=dict)  # values computed once -> their variable
    symbols: dict[str, str] = field(default_factory=dict)  # what a lowered attention names -> its code
    positions: dict[tuple[str, str | None], str] = field(default_factory=dict)
    nested: bool = False  # whether a function inside the method is written: it assigns no variable of the method
    seen: str | None = None  # a function that sees the weights of an attention, and gives those that are used
    averaging: bool = False  # whether an attention's score, condition and message are written
    merged: dict[str, str] = field(default_factory=dict)  # modules without weights -> the one that serves for all
    device_from: str = ""
    dtype_from: str = ""
    wide_name: str = ""  # the variable that holds the dtype for what is computed from positions, once there is one
    products: dict[str, tuple[str, str]] = field(default_factory=dict)  # line of a batched product -> its operands
    methods: dict[str, list[str]] = field(default_factory=dict)  # what is made once: from its arguments on
    given: set[str] = field(default_factory=set)  # the variables of these methods

    def __post_init__(self) -> None:
        own = ATTENTION if self.block.average is not None else ()
        self.names = Variables(variables(self.block), own, self.reserved)
        rank = -1
        for name, kind in self.block.parameters:
            variable = self.variable(name)
            if not isinstance(kind, TensorType):
                self.device_from = self.device_from or variable
                continue
            if kind.scalar:
                self.lengths.setdefault(name, variable)
                continue
            if name in self.optional | self.filled:
                continue
            self.device_from = self.device_from or variable
            if kind.dtype == "float" and len(kind.axes) > rank:  # features have more axes than positions, say
                self.dtype_from, rank = variable, len(kind.axes)
            for dim, axis in enumerate(kind.axes):
                name_of = next(iter(axis.size.free_names), "")
                if axis.size == Size.free(name_of):
                    self.lengths.setdefault(name_of, f"{variable}.shape[{dim}]")
        if not self.dtype_from:
            anything = "next(self.parameters())" if parameter_shapes(self.block) else LIKE
            self.dtype_from = self._any_weight() or anything
        if not self.device_from:
            self.device_from = self.dtype_from

    def _any_weight(self) -> str | None:
        if self.block.weights:
            return f"self.{self.block.weights[0].name}"
        for name, slot in self.block.modules:
            if slot.result is not None and slot.result.parameters:
                return f"self.{name}.{slot.result.parameters[0][0]}"
        return None

    # --- statements -------------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        spend(5 + len(text) // 10)
        self.lines.append("    " * self.depth + text)

    def assign(self, name: str, code: str) -> str:
        if name != code:
            self.line(f"{name} = {code}")
        return name

    @contextmanager
    def function(self, header: str) -> Iterator[int]:
        """What is written inside is the body of a function; gives the number of its first line.

        What it computes once is not known outside."""
        before = dict(self.positions), dict(self.shared), self.wide_name, self.nested
        self.line(header)
        self.depth += 1
        self.nested = True
        yield len(self.lines)
        self.depth -= 1
        self.positions, self.shared, wide_name, self.nested = before
        if self.wide_name not in self.needs:
            self.wide_name = wide_name

    def call(self, function: str, arguments: Iterable[str]) -> str:
        """The code of a call of a function of `towerdsl.runtime` or a normalizer."""
        return f"{self.helper(function)}({', '.join(arguments)})"

    def helper(self, name: str) -> str:
        """What a function of `towerdsl.runtime` or a normalizer is called here."""
        self.helpers.add(name)
        return self.aliases.get(name, name)

    def prelude(self) -> list[str]:
        """Statements that stand before all others: lengths that are used, and the dtype for positions."""
        rows: dict[str, list[str]] = {}
        found: list[str] = []
        for variable, source in self.needs.items():
            base, _, rest = source.partition(".shape[")
            if rest:
                rows.setdefault(base, []).append(variable)
            else:
                found.append(f"{variable} = {source}")
        for base, read in rows.items():
            kind = {self.variable(name): kind for name, kind in self.block.parameters}[base]
            assert isinstance(kind, TensorType)
            dims = {v: int(self.needs[v].partition(".shape[")[2][:-1]) for v in read}
            ordered = sorted(read, key=dims.__getitem__)
            if len(ordered) == 1:
                found.append(f"{ordered[0]} = {self.needs[ordered[0]]}")
            else:
                names = {d: v for v, d in dims.items()}
                no_name = "_" if "_" not in self.names.taken else self.fresh("rest")
                every = ", ".join(names.get(d, no_name) for d in range(len(kind.axes)))
                found.append(f"{every} = {base}.shape")
        return found

    # --- names ------------------------------------------------------------------------------------------------

    def variable(self, name: str) -> str:
        """The Python name of a variable of the spec; or of what a tree names, and of a part of that: `%pairs.once`."""
        found, dot, part = name.partition(".")
        return f"{self.symbols[found]}{dot}{part}" if found in self.symbols else self.names.of(name)

    def fresh(self, name: str) -> str:
        """A variable name that is not in use."""
        return self.names.fresh(name)

    def module(self, reference: n.ModuleRef) -> str:
        """The code of a submodule."""
        if reference.name in self.merged:
            return f"self.{self.merged[reference.name]}"
        return f"self.{reference.name}" + "".join(f"[{self.variable(index)}]" for index in reference.indices)

    def position_variable(self, axis: Axis) -> str:
        """The variable that holds 0, 1, 2, ... along an axis of an attention."""
        base = axis.side or axis.name or "position"
        name = f"{axis.side}_{axis.name}" if axis.side and self.several(axis) else base
        key = (axis.side, axis.name)
        if key not in self.positions:
            variable = self.fresh(name)
            self.positions[key] = variable
            hint = "heads" if name == "head" else axis.name or "size"
            self.line(f"{variable} = torch.arange({self.size(axis.size, hint)}, device={self.device})")
        return self.positions[key]

    @property
    def many_positions(self) -> bool:
        """Whether the query or the key of this attention has more than one position axis."""
        average = self.block.average
        return average is not None and max(len(average.positions), len(average.over)) > 1

    def several(self, axis: Axis) -> bool:
        """Whether the side of a position axis has others beside it."""
        average = self.block.average
        if average is None:
            return False
        return len(average.positions if axis.side == "i" else average.over) > 1

    # --- lengths and dtypes -----------------------------------------------------------------------------------

    def size(self, size: Size, hint: str = "size") -> str:
        """A length as Python: free ones become variables that are read first."""
        number = size.integer
        if number is not None:
            return mark(number, hint)

        return size.render(self.length)

    def length(self, name: str) -> str:
        """A free length: a variable that is read first."""
        if name.startswith("%"):
            return self.variable(name)
        source = self.lengths.get(name, name)
        if source.isidentifier() or name not in self.lengths:
            return source
        known = next((variable for variable, code in self.needs.items() if code == source), None)
        if known is None:  # a variable of the spec may have the name of the axis
            known = self.fresh(name)
            self.needs[known] = source
        return known

    def sizes(self, axes: Sequence[Axis]) -> str:
        return ", ".join(self.size(a.size, a.name or "size") for a in axes)

    @property
    def device(self) -> str:
        return f"{self.device_from}.device"

    @property
    def dtype(self) -> str:
        return f"{self.dtype_from}.dtype"

    @property
    def wide(self) -> str:
        """A variable that holds the dtype for what is computed from positions."""
        if not self.wide_name:
            self.wide_name = self.fresh("wide")
            source = f"torch.promote_types({self.dtype}, torch.float32)"
            if self.dtype_from in ("q", "v"):  # inside an attention: written where it is first needed
                self.line(f"{self.wide_name} = {source}")
            else:
                self.needs[self.wide_name] = source
        return self.wide_name

    # --- methods ----------------------------------------------------------------------------------------------

    def method(self, name: str, made: MethodFrame) -> str:
        """The code of a call of a method; one that does the same is there already, or it becomes one of the class."""
        arguments = sorted(made.arguments, key=lambda x: x if x.startswith("%") else "")  # lengths first
        header = ", ".join(["self", *(": ".join(made.arguments[x]) for x in arguments)])
        text = [f"({header}) -> Tensor:", *(f"    {line}" for line in [*made.prelude(), *tidy(made.lines)])]
        called = next((known for known, lines in self.methods.items() if lines == text), None)
        if called is None:
            attributes = {x for x, _ in (*self.block.modules, *((w.name, w) for w in self.block.weights))}
            called = unused(free(name), {*MODULE, *BUILTINS, *IMPORTED, *helpers(), *attributes, *self.methods})
            self.methods[called] = text
            self.given |= made.names.taken
        codes = {"%device": self.device, "%dtype": self.dtype}
        found = [codes[x] if x in codes else self.length(x) for x in arguments]
        return f"self.{called}({', '.join(found)})"


@dataclass
class MethodFrame(Frame):
    """A method that makes what no data goes into: it is given the lengths that it reads, a device and a dtype."""

    arguments: dict[str, tuple[str, str]] = field(default_factory=dict)  # a length, or another -> variable, annotation

    def __post_init__(self) -> None:
        self.names = Variables((), (), self.reserved)

    def argument(self, name: str, kind: str) -> str:
        """The variable of an argument."""
        if name not in self.arguments:
            self.arguments[name] = self.fresh(name.removeprefix("%")), kind
        return self.arguments[name][0]

    def length(self, name: str) -> str:
        return self.argument(name, "int")

    @property
    def device(self) -> str:
        return self.argument("%device", "torch.device")

    @property
    def dtype(self) -> str:
        return self.argument("%dtype", "torch.dtype")
