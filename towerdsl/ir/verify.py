"""The rules of the typed form, checked: what every pass may rely on and has to keep.

`verify` raises AssertionError with the block, the rule and the value that breaks it, printed. It is for tests: a broken
rule is a mistake of the compiler, never of a spec.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NoReturn

from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import needed
from towerdsl.ir.printer import show_value
from towerdsl.ir.size import Size, product
from towerdsl.ir.types import Axis, RelationType, TensorType, Type, shown

DTYPES = ("bool", "int", "wide", "float")
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
LOGIC = ("and", "or", "not")
#: How many operands the symbols have; named functions know that themselves.
ARITY = {**dict.fromkeys((*COMPARISONS, "and", "or", "+", "-", "*", "/", "//", "%", "**"), 2), "neg": 1, "not": 1}


def verify(model: n.Model) -> None:
    """Check every block of a model once. Raises AssertionError with a readable text."""
    root = model.root
    if tuple((i.name, i.type) for i in model.inputs) != root.parameters:
        raise AssertionError(f"{model.name}: the inputs are not the parameters of the root block")
    for block in root.walk():
        _Block(block).check()


class _Block:
    """The names of one block instance, while its statements are checked in order."""

    def __init__(self, block: n.BlockInstance) -> None:
        self.block = block
        self.names: dict[str, Type] = dict(block.parameters)
        self.weights = {w.name: w.type for w in block.weights}
        self.modules = dict(block.modules)
        self.loops: dict[str, int] = {}
        self.inside: n.Average | None = None
        self.checked: set[int] = set()  # values that stood before, in the same places
        self.lengths: set[str] = set()
        for name, kind in block.parameters:
            if isinstance(kind, RelationType):
                continue
            if kind.scalar:
                self.lengths.add(name)
            for axis in kind.axes:
                self.lengths |= {x for x in axis.size.free_names if axis.size == Size.free(x)}

    def fail(self, rule: str, value: object = None) -> NoReturn:
        text = f"block `{self.block.name}`: {rule}"
        if isinstance(value, n.Value):
            text += f"\n    {show_value(value)}: {value.type}"
        raise AssertionError(text)

    # --- statements -------------------------------------------------------------------------------------------

    def check(self) -> None:
        block = self.block
        for what, names in (
            ("parameter", [name for name, _ in block.parameters]),
            ("attribute", [*(name for name, _ in block.modules), *(w.name for w in block.weights)]),
        ):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                self.fail(f"the {what} `{twice[0]}` is there twice")
        for w in block.weights:
            if w.type.dtype != "float" or any(a.size.integer is None for a in w.type.axes):
                self.fail(f"the weight `{w.name}` is a float tensor of known lengths, not {w.type}")
        for name, slot in block.modules:
            self.slot(name, slot)
        if sum(isinstance(s, n.Evaluate) for s in block.body) > 1:
            self.fail("a block has at most one attention")
        self.steps(block.body)
        if len(block.results) != len(block.result_names):
            self.fail(f"{len(block.results)} results have {len(block.result_names)} names")
        for result in block.results:
            if isinstance(result, n.Value):
                self.value(result)
            else:
                self.relation(result.name, result.type)

    def slot(self, name: str, slot: n.ModuleSlot) -> None:
        kinds = [bool(slot.items), slot.block is not None, slot.result is not None]
        if sum(kinds) > 1:
            self.fail(f"the module `{name}` is more than one of: a list, a block, an operation")
        if slot.result is not None and slot.result.module is None:
            self.fail(f"the module `{name}` belongs to an operation without weights")
        for item in slot.items:
            self.slot(name, item)

    def steps(self, body: Sequence[n.Step]) -> None:
        for step in body:
            if isinstance(step, n.Set):
                self.set(step)
            elif isinstance(step, n.Evaluate):
                self.average(step)
            elif isinstance(step, n.Loop):
                self.loop(step)
            elif isinstance(step, n.Scan):
                self.scan(step)
            else:
                self.fail(f"{type(step).__name__} is no statement")

    def set(self, step: n.Set) -> None:
        self.value(step.value)
        types: tuple[Type, ...] = (step.value.type,)
        if len(step.names) > 1:
            if not isinstance(step.value, n.CallBlock):
                self.fail(f"only a call gives {len(step.names)} values", step.value)
            types = step.value.results
        if len(types) != len(step.names):
            self.fail(f"{len(step.names)} names for {len(types)} values", step.value)
        self.names.update(zip(step.names, types, strict=True))

    def loop(self, loop: n.Loop) -> None:
        if loop.index in self.loops or loop.index in self.names:
            self.fail(f"the loop's index `{loop.index}` is a name already")
        for repetition, body in enumerate(loop.bodies):  # what changes its type is read by another body, or by none
            self.loops[loop.index] = repetition
            self.checked = set()
            self.steps(body)
        self.loops.pop(loop.index, None)

    def scan(self, scan: n.Scan) -> None:
        if scan.index in self.names:
            self.fail(f"the loop's index `{scan.index}` is a name already")
        unknown = sorted(scan.axis.size.free_names - self.lengths)
        if unknown:
            self.fail(f"the length `{unknown[0]}` of the loop can be read from no parameter")
        # in a loop with a count, an earlier repetition has collected the same
        again = {name for name, _ in scan.collected} if self.loops else set()
        before = {name: kind for name, kind in self.names.items() if name not in again}
        self.names = dict(before)
        self.names[scan.index] = TensorType("int", (), True)
        self.checked = set()
        self.steps(scan.body)
        inside, self.names = self.names, before
        # an earlier repetition of a loop with a count may leave what this one does not read
        carried = needed(scan.body) if self.loops else before.keys()
        for name, kind in before.items():
            if inside[name] != kind and name in carried:
                self.fail(f"`{name}` changes in a loop, from {kind} to {inside[name]}")
        for name, kind in scan.collected:
            each = inside.get(name)
            if name in before or not isinstance(each, TensorType) or each.stacked(scan.axis) != kind:
                self.fail(f"the loop over {scan.axis} collects `{name}` as {kind}, it is {each} in its body")
            self.names[name] = kind
        self.checked = set()

    # --- values -----------------------------------------------------------------------------------------------

    def value(self, value: n.Value) -> None:
        """Check a value and all below it."""
        for v in value.walk():
            if id(v) not in self.checked:
                self.checked.add(id(v))
                self.type(v)
                method = getattr(self, f"_{type(v).__name__.lower()}", None)
                if method is None:
                    self.fail(f"{type(v).__name__} is no node of the typed form", v)
                method(v)

    def type(self, v: n.Value) -> None:
        if v.type.dtype not in DTYPES:
            self.fail(f"there is no dtype {v.type.dtype}", v)
        if v.type.scalar and v.axes:
            self.fail("a number has no axes", v)
        for axis in v.axes:
            if axis.side and self.inside is None:
                self.fail(f"axis {axis} is a position, but this is outside an attention", v)
            unknown = sorted(axis.size.free_names - self.lengths)
            if unknown:
                self.fail(f"the length `{unknown[0]}` can be read from no parameter", v)

    def same_type(self, v: n.Value, kind: Type, what: str) -> None:
        if v.type != kind:
            self.fail(f"{what} is {kind}", v)

    def scalar(self, v: n.Value) -> None:
        if not v.type.scalar:
            self.fail("this is a number", v)

    def one_axis(self, v: n.Value) -> None:
        if len(v.axes) != 1 or v.type.dtype != "int":
            self.fail("an index has one axis and is an int", v)

    def fits(self, v: n.Value, wanted: Iterable[Axis], what: str) -> None:
        """The axes of a result are these, in any order."""
        wanted = tuple(wanted)
        if Counter(v.axes) != Counter(wanted):
            self.fail(f"{what} has the axes {shown(wanted)}", v)

    def _const(self, v: n.Const) -> None:
        self.scalar(v)

    def _sizeof(self, v: n.SizeOf) -> None:
        self.scalar(v)
        unknown = sorted(v.size.free_names - self.lengths)
        if unknown:
            self.fail(f"the length `{unknown[0]}` can be read from no parameter", v)

    def _local(self, v: n.Local) -> None:
        if v.name not in self.names:
            self.fail(f"`{v.name}` is not bound here", v)
        self.same_type(v, self.names[v.name], f"`{v.name}`")

    def _weight(self, v: n.Weight) -> None:
        if len(v.path) == 1:
            if v.path[0] not in self.weights:
                self.fail(f"there is no parameter `{v.path[0]}`", v)
            self.same_type(v, self.weights[v.path[0]], f"the parameter `{v.path[0]}`")
            return
        slot = self.modules.get(v.path[0])
        if slot is None:
            self.fail(f"there is no module `{v.path[0]}`", v)
        if slot.result is not None:
            shape = dict(slot.result.parameters).get(v.path[-1])
            if shape != v.type.shape:
                self.fail(f"the weight has the shape {shape and tuple(map(str, shape))}", v)

    def _position(self, v: n.Position) -> None:
        self.one_axis(v)
        average = self.inside
        heads = (average.heads,) if average is not None and average.heads is not None else ()
        known = (*average.positions, *average.over, *average.batch, *heads) if average is not None else ()
        if v.axes[0] not in known:
            self.fail("a position belongs to an axis of the attention around it", v)

    def _range(self, v: n.Range) -> None:
        self.one_axis(v)

    def _fill(self, v: n.Fill) -> None:
        if v.type.dtype != "float":
            self.fail("a filled tensor is float", v)

    def _shared(self, v: n.Shared) -> None:
        self.same_type(v, v.arg.type, "a value that is computed once")

    def _cast(self, v: n.Cast) -> None:
        if v.type.dtype not in ("int", "wide", "float"):
            self.fail("numbers are cast to int, wide or float", v)
        if v.axes != v.arg.axes:
            self.fail("a cast keeps the axes", v)

    def _pointwise(self, v: n.Pointwise) -> None:
        wanted = ARITY.get(v.op)
        if wanted is not None and len(v.args) != wanted:
            self.fail(f"`{v.op}` has {wanted} operands, not {len(v.args)}", v)
        if wanted is None and not v.op.isidentifier():
            self.fail(f"there is no operator `{v.op}`", v)
        self.fits(v, dict.fromkeys(a for x in v.args for a in x.axes), f"`{v.op}`")
        if v.type.scalar != all(x.type.scalar for x in v.args):
            self.fail("the result is a number exactly where all operands are", v)
        if (v.op in COMPARISONS or v.op in LOGIC) and v.type.dtype != "bool":
            self.fail(f"`{v.op}` gives a truth value", v)
        if v.op in LOGIC and any(x.type.dtype != "bool" for x in v.args):
            self.fail(f"`{v.op}` joins truth values", v)

    def _dot(self, v: n.Dot) -> None:
        for x in (v.left, v.right):
            if not x.axes:
                self.fail("`dot` takes tensors with a feature axis", v)
        if v.left.axes[-1].size != v.right.axes[-1].size:
            self.fail(f"`dot` contracts {v.left.axes[-1].size} with {v.right.axes[-1].size} features", v)
        self.fits(v, dict.fromkeys((*v.left.axes[:-1], *v.right.axes[:-1])), "`dot`")

    def _reduce(self, v: n.Reduce) -> None:
        if v.op not in ("sum", "mean", "amax", "amin"):
            self.fail(f"there is no reduction `{v.op}`", v)
        if not v.over or any(a not in v.arg.axes for a in v.over):
            self.fail(f"`{v.op}` over {shown(v.over)} of a tensor without them", v)
        if v.axes != v.arg.type.without(v.over):
            self.fail(f"`{v.op}` leaves {shown(v.arg.type.without(v.over))}", v)

    def _gather(self, v: n.Gather) -> None:
        axes = v.table.axes
        if not v.indices or v.lead + len(v.indices) > len(axes):
            self.fail(f"{v.lead} axes and {len(v.indices)} indices for a table of {len(axes)} axes", v)
        if any(x.type.dtype not in ("int", "bool") for x in v.indices):
            self.fail("an index is a whole number", v)
        lead, rest = axes[: v.lead], axes[v.lead + len(v.indices) :]
        self.fits(v, dict.fromkeys((*lead, *(a for x in v.indices for a in x.axes), *rest)), "a table read at indices")

    def _member(self, v: n.Member) -> None:
        self.relation(v.relation, v.relation_type)
        if v.type.dtype != "bool" or len(v.axes) != 2:
            self.fail("a pair is in a relation or not", v)
        if v.type.shape != (v.relation_type.source.size, v.relation_type.target.size):
            self.fail(f"`{v.relation}` is {v.relation_type}", v)

    def relation(self, name: str, kind: Type) -> None:
        if self.names.get(name) != kind:
            self.fail(f"there is no relation `{name}` of type {kind} here")

    def _pick(self, v: n.Pick) -> None:
        if v.axis not in v.arg.axes:
            self.fail(f"a pick along {v.axis} of a tensor without it", v)
        if not v.is_range and (v.start is None or v.axes != v.arg.type.without([v.axis])):
            self.fail("a pick of one position drops the axis", v)
        if isinstance(v.start, n.Value) and (v.is_range or not v.start.type.scalar or v.start.type.dtype != "int"):
            self.fail("a position that is known at run time is one whole number", v)
        if v.is_range and len(v.axes) != len(v.arg.axes):
            self.fail("a part of an axis keeps the axis", v)

    def _rename(self, v: n.Rename) -> None:
        if Counter(v.type.shape) != Counter(v.arg.type.shape) or v.type.dtype != v.arg.type.dtype:
            self.fail(f"other names for the axes {shown(v.arg.axes)}", v)

    # --- calls ------------------------------------------------------------------------------------------------

    def leaf(self, reference: n.ModuleRef, v: n.Value) -> n.ModuleSlot:
        slot = self.modules.get(reference.name)
        if slot is None:
            self.fail(f"there is no module `{reference.name}`", v)
        for index in reference.indices:
            if index not in self.loops:
                self.fail(f"`{reference.name}` is chosen by `{index}`, which is no loop around it", v)
            if self.loops[index] >= len(slot.items):
                self.fail(f"`{reference.name}` has {len(slot.items)} entries, the loop more", v)
            slot = slot.items[self.loops[index]]
        if slot.items:
            self.fail(f"`{reference.name}` is a list of modules, none of them is chosen", v)
        return slot

    def _apply(self, v: n.Apply) -> None:
        names = v.op.tensors
        several = bool(names) and names[-1].endswith("...")
        if len(v.args) < len(names) or (len(v.args) > len(names) and not several):
            self.fail(f"`{v.op.name}` takes {len(names)} tensors, not {len(v.args)}", v)
        self.same_type(v, v.result.type, f"the result of `{v.op.name}`")
        if (v.module is None) != (v.result.module is None):
            self.fail(f"`{v.op.name}` has a module exactly where it has weights", v)
        if v.module is not None:
            slot = self.leaf(v.module, v)
            if slot.result is None or slot.result.module != v.result.module:
                self.fail(f"the module `{v.module.name}` is of another kind", v)

    def _callblock(self, v: n.CallBlock) -> None:
        slot = self.leaf(v.module, v)
        if slot.block is None:
            self.fail(f"the module `{v.module.name}` is no block", v)
        inner = slot.block
        if (inner.name, inner.parameters) != (v.block.name, v.block.parameters):
            self.fail(f"the module `{v.module.name}` is another block, `{inner.name}`", v)
        if len(v.args) != len(inner.parameters):
            self.fail(f"`{inner.name}` takes {len(inner.parameters)} arguments, not {len(v.args)}", v)
        for (name, kind), arg in zip(inner.parameters, v.args, strict=True):
            if isinstance(arg, n.Relation):
                self.relation(arg.name, arg.type)
                if not isinstance(kind, RelationType):
                    self.fail(f"`{name}` of `{inner.name}` is {kind}, not a relation", v)
            elif not isinstance(kind, TensorType) or not _passes(arg.type, kind):
                self.fail(f"`{name}` of `{inner.name}` is {kind}, not {arg.type}", v)
        if not v.results or v.type != v.results[0] or len(v.results) != len(inner.results):
            self.fail(f"`{inner.name}` has {len(inner.results)} results", v)

    # --- attention --------------------------------------------------------------------------------------------

    def average(self, step: n.Evaluate) -> None:
        a = step.average
        for source in (a.query, a.key, a.value):
            if source is not None:
                self.value(source)
        self.roles(a)
        outer, self.inside = dict(self.names), a
        self.sources(a)
        lead = (*a.batch, *((a.heads,) if a.heads is not None else ()))
        pairs = {*lead, *a.positions, *a.over}
        self.value(a.score)
        self.value(a.message)
        if a.score.type.dtype == "bool" or not set(a.score.axes) <= pairs:
            self.fail("the score is a number for each head, i and j", a.score)
        features = [x for x in a.message.axes if x not in pairs]
        if len(features) != 1 or a.message.axes[-1] != features[0] or a.message.type.dtype != "float":
            self.fail("the message is a float vector for each head, i and j, its features last", a.message)
        if a.visible is not None:
            self.value(a.visible)
            if a.visible.type.dtype != "bool" or not set(a.visible.axes) <= pairs:
                self.fail("what is visible is a truth value for each head, i and j", a.visible)
        self.names, self.inside = outer, None
        self.result(step, features[0].size)

    def roles(self, a: n.Average) -> None:
        """Every axis of the sources has one role."""
        for side, axes in (("", a.batch), ("i", a.positions), ("j", a.over)):
            for axis in axes:
                if axis.side != side:
                    self.fail(f"{axis} is a {'batch axis' if not side else f'position of {side}'}, its side is wrong")
            if len(set(axes)) < len(axes):
                self.fail(f"an axis has the same role twice: {shown(axes)}")
        if not a.over:
            self.fail("nothing is averaged over")
        if a.query is None and a.positions:
            self.fail("there are positions of the query, but there is no query")
        for name, source, moved, features in (
            ("query", a.query, a.positions, a.query_features),
            ("key", a.key, a.over, a.key_features),
            ("value", a.value, a.over, a.value_features),
        ):
            if source is None:
                continue
            own = Counter(source.axes)
            wanted = Counter((*(x.on("") for x in moved), *features))
            batch = [x for x in (own - wanted) if x not in a.batch]
            if batch or wanted - own or not features:
                roles = f"batch {shown(a.batch)}, positions {shown(moved)}, features {shown(features)}"
                self.fail(f"the axes of the {name} are not {roles}", source)
        if a.heads is not None and a.heads.name != "head":
            self.fail(f"the head axis is called head, not {a.heads}")
        if a.key_heads is not None:
            heads, fewer = (a.heads.size.integer if a.heads else None), a.key_heads.integer
            if not heads or not fewer or heads % fewer:
                self.fail(f"{a.key_heads} key heads do not divide {heads} query heads")
        if a.merge not in ("concat", "mean", "sum"):
            self.fail(f"there is no merge `{a.merge}`")
        if not 0 <= a.dropout < 1:
            self.fail(f"dropout is a probability, not {a.dropout}")

    def sources(self, a: n.Average) -> None:
        """Bind `q`, `k`, `v` of one head, as the formulas use them."""
        heads = (a.heads,) if a.heads is not None else ()
        roots = [x for x in (a.score, a.visible, a.message) if x is not None]
        for name, source, moved, features in (
            ("q", a.query, a.positions, a.query_features),
            ("k", a.key, a.over, a.key_features),
            ("v", a.value, a.over, a.value_features),
        ):
            self.names.pop(name, None)
            if source is None:
                continue
            found = next((x for r in roots for x in r.walk() if isinstance(x, n.Local) and x.name == name), None)
            if found is None:
                continue
            batch = tuple(x for x in a.batch if x in source.axes)
            fewer = a.key_heads if name != "q" and a.key_heads is not None else a.heads.size if a.heads else Size.of(1)
            if found.axes[:-1] != (*batch, *heads, *moved):
                self.fail(f"`{name}` has the axes {shown((*batch, *heads, *moved))} and its features", found)
            if a.heads is not None and found.axes[-1].size * fewer != product([x.size for x in features]):
                self.fail(f"{fewer} heads of {found.axes[-1].size} features are not those of the source", found)
            self.names[name] = found.type

    def result(self, step: n.Evaluate, each: Size) -> None:
        """The result's axes, and the names that it is bound to."""
        a = step.average
        if step.part not in ("result", "heads", "weights", "pairs", "seen"):
            self.fail(f"an attention has no part {step.part}")
        if step.gate is not None:
            self.value(step.gate)
            if a.heads is None or step.part != "result" or step.gate.type != TensorType("float", (a.heads,)):
                self.fail("a gate is a number for each head of a result", step.gate)
        names = ("y", "log_prob") if a.log_prob and step.part in ("result", "seen") else ("y",)
        parts = {"weights": 2, "pairs": 4}
        fits = len(set(step.names)) == parts[step.part] if step.part in parts else step.names == names
        if not fits:
            self.fail(f"an attention gives y, not {', '.join(step.names)}")
        positions = tuple(x.on("") for x in a.positions)
        if Counter(a.layout) != Counter((*a.batch, *positions, *a.features)):
            wanted = shown((*a.batch, *positions, *a.features))
            self.fail(f"the layout of the result {shown(a.layout)} is not made of {wanted}")
        size = each * a.heads.size if a.heads is not None and a.merge == "concat" else each
        if product([x.size for x in a.features]) != size:
            self.fail(f"the result has {shown(a.features)} features, the heads merged have {size}")
        self.names["y"] = TensorType("float", a.layout)
        if a.log_prob:
            heads = (a.heads,) if a.heads is not None else ()
            self.names["log_prob"] = TensorType("float", (*a.batch, *heads, *positions))


def _passes(given: TensorType, wanted: TensorType) -> bool:
    """Whether an argument fits a parameter: the same dtype, and a length for each length."""
    if (given.dtype, given.scalar, len(given.axes)) != (wanted.dtype, wanted.scalar, len(wanted.axes)):
        return False
    return all(_length(w, g) for w, g in zip(wanted.shape, given.shape, strict=True))


def _length(inner: Size, outer: Size) -> bool:
    return inner == outer if inner.constant is not None else outer.constant is None
