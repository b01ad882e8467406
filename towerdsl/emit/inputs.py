"""What an emitted model declares of its inputs: their types, and what its tables and layers ask of them besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import values
from towerdsl.ir.placed import Entry
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, RelationType
from towerdsl.ops import python

#: Functions of elements that give numbers of their operands' dtype, whatever that is used for.
LINEAR = {"+", "-", "*", "/", "neg"}


def declared(model: n.Model) -> dict[str, str]:
    """Each input that is read --> its type, default and limits: `int[b, n], below 30522, n at most 512`."""
    uses = _Uses()
    uses.of(model.root, {i.name: _Flow(i.name, frozenset({i.name})) for i in model.inputs})
    found = {}
    for i in model.inputs:
        if i.name not in uses.read:
            continue
        axes = (i.type.source, i.type.target) if isinstance(i.type, RelationType) else i.type.axes
        parts = [f"{i.type.dtype}[{', '.join(map(_axis, axes))}]"]
        if i.default is not None:
            parts[0] += f" = {python(i.default).lower()}"
        if i.name in uses.below:
            parts.append(f"below {uses.below[i.name]}")
        if i.name in uses.fed and i.type.dtype == "float":
            parts.append("in the model's dtype")
        for axis in axes:
            if axis.size.is_free and str(axis.size) in uses.longest:
                parts.append(f"{axis.size} at most {uses.longest.pop(str(axis.size))}")
        found[i.name] = ", ".join(parts)
    return found


def _axis(axis: Axis) -> str:
    """`n`, `d=384`, `3` or `h=2 * n`; a length that is no plain formula is not known: `?`."""
    size = str(axis.size) if "(" not in str(axis.size) else "?"
    return size if axis.name is None or axis.name == size else f"{axis.name}={size}"


@dataclass(frozen=True)
class _Flow:
    """What a value has of the inputs: it is one itself, or numbers of some are its summands or factors."""

    same: str | None = None
    parts: frozenset[str] = frozenset()


@dataclass
class _Uses:
    """Follows the inputs through statements, to the tables and layers that read them."""

    below: dict[str, int] = field(default_factory=dict)  # an input of ids -> the least length of their tables
    longest: dict[str, int] = field(default_factory=dict)  # a free length -> the most that a table has positions for
    read: set[str] = field(default_factory=set)  # inputs that are not only handed on
    fed: set[str] = field(default_factory=set)  # inputs that meet weights, and so have to have their dtype
    known: dict[int, _Flow] = field(default_factory=dict)  # values computed once
    seen: dict[tuple[int, tuple[_Flow, ...]], list[_Flow]] = field(default_factory=dict)  # blocks, with what they get

    def of(self, block: n.BlockInstance, given: Mapping[str, _Flow]) -> list[_Flow]:
        """Follow what a block is given; returns what its results have of it."""
        key = id(block), tuple(given.values())
        if key not in self.seen:
            env = dict(given)
            known, self.known = self.known, {}
            self._steps(block.body, env)
            self.seen[key] = [self._value(r, env) for r in block.results]
            self.known = known
        return self.seen[key]

    def _steps(self, body: Sequence[n.Step], env: dict[str, _Flow]) -> None:
        for step in body:
            if isinstance(step, n.Loop):
                for inner in {id(b): b for b in step.bodies}.values():
                    self._steps(inner, env)
            elif isinstance(step, n.Scan):
                self._steps(step.body, env)
            elif isinstance(step, n.Evaluate):
                for value in values(step):
                    self._value(value, env)
                for source in (step.average.query, step.average.key, step.average.value):
                    if source is not None:
                        self.fed |= self._value(source, env).parts
                env.update((name, _Flow()) for name in step.names)
            else:
                found = self._value(step.value, env)
                env.update((name, found if len(step.names) == 1 else _Flow()) for name in step.names)

    def _value(self, value: n.Value | n.Relation, env: Mapping[str, _Flow]) -> _Flow:
        match value:
            case n.Local() | n.Relation():
                flow = env.get(value.name, _Flow())
                self.read |= flow.parts
                return flow
            case n.Member():
                self.read |= env.get(value.relation, _Flow()).parts
            case n.Shared():
                if value.key not in self.known:
                    self.known[value.key] = self._value(value.arg, env)
                return self.known[value.key]
            case n.Rename():
                return self._value(value.arg, env)
            case n.CallBlock():
                handed = (n.Local, n.Relation)
                flows = [env.get(x.name, _Flow()) if isinstance(x, handed) else self._value(x, env) for x in value.args]
                names = (name for name, _ in value.block.parameters)
                return self.of(value.block, dict(zip(names, flows, strict=True)))[0]
        flows = [self._value(x, env) for x in value.operands]
        parts = frozenset[str]().union(*(f.parts for f in flows))
        match value:
            case n.Apply() if value.op.name == "embed":
                self._looked_up(value.args[0], flows[0], value.result.parameters[0][1][0])
            case n.Apply() if value.op.weights:
                self.fed |= parts
            case n.Gather():
                # what data decides reads the nearest entry
                for index, axis in zip(value.indices, value.table.axes[value.lead :], strict=False):
                    self._looked_up(index, _Flow(), axis.size)
                return _Flow(None, flows[0].parts)
            case n.Apply() | n.Pick() | Entry():
                return _Flow(None, parts)
            case n.Pointwise() if value.op in LINEAR:
                return _Flow(None, parts)
        return _Flow()

    def _looked_up(self, index: n.Value, flow: _Flow, length: Size) -> None:
        """A table of this length is read at these ids, or at the positions of an axis."""
        count = length.integer
        if count is None:
            return
        index = n.plain(index)
        if flow.same is not None:
            self.below[flow.same] = min(count, self.below.get(flow.same, count))
        elif isinstance(index, n.Range) and index.axes[0].size.is_free:
            name = str(index.axes[0].size)
            self.longest[name] = min(count, self.longest.get(name, count))
