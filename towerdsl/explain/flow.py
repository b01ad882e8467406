"""A compiled spec --> for each axis whose positions exchange information, the layers in which they do.

Every value is followed from the inputs to the outputs. Along each of its axes it has read some origins (the axes of
inputs, or of what a part of the model makes), through a `Stack` of layers. What has been pooled has read an origin
without an axis of its own. Each block is followed once, with its parameters as origins, and put in place where it is
called. What an operation does not say about itself, and what is rearranged, is not known; that stays with the value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from towerdsl.explain.work import Calls
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import statements
from towerdsl.ir.reach import ALL, DENSE, IN_TURN, Comb, Reach, Stack, unknown
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis, TensorType
from towerdsl.passes.locality import analyze
from towerdsl.passes.reach import seen

Origin = tuple[object, ...]
Key = int | str  # a dim; or a loop's index, and "*" for the value as a whole
Tracks = dict[Origin, Stack]
WHOLE = "*"


@dataclass
class Flow:
    """What a value has read: along each axis, and pooled (the layers before, and how it was pooled)."""

    axes: dict[Key, Tracks] = field(default_factory=dict)
    pooled: dict[Origin, tuple[Stack, Reach]] = field(default_factory=dict)

    def add(self, key: Key, tracks: Tracks) -> None:
        own = self.axes.setdefault(key, {})
        for origin, stack in tracks.items():
            own[origin] = own[origin].join(stack) if origin in own else stack

    def pool(self, tracks: Tracks, reach: Reach) -> None:
        for origin, stack in tracks.items():
            self._pooled(origin, stack, reach)

    def _pooled(self, origin: Origin, stack: Stack, reach: Reach) -> None:
        if origin in self.pooled:
            other, how = self.pooled[origin]
            same = how == reach and (stack == other or reach.everything)
            reach = reach if same else unknown("what is pooled at several depths meets")
            stack = stack.join(other)
        self.pooled[origin] = (stack, reach)

    def beside(self, other: Flow) -> None:
        """Take over what another value has read as a whole."""
        for key, tracks in other.axes.items():
            if isinstance(key, str):
                self.add(key, tracks)
        for origin, (stack, reach) in other.pooled.items():
            self._pooled(origin, stack, reach)

    def met(self) -> Flow:
        """Where what is pooled comes back to the positions that it was pooled from, every position reads it."""
        for key, tracks in self.axes.items():
            if isinstance(key, int):
                for origin in list(tracks):
                    if origin in self.pooled:
                        stack, reach = self.pooled.pop(origin)
                        tracks[origin] = tracks[origin].join(stack.then(reach))
        return self

    def copy(self) -> Flow:
        return Flow({key: dict(tracks) for key, tracks in self.axes.items()}, dict(self.pooled))


Names = dict[str, Flow]


def _origin(axis: Axis) -> Origin:
    return ("axis", axis.name, axis.size)


class Follower:
    """Follows the values of a model."""

    def __init__(self) -> None:
        self._summaries: dict[int, tuple[n.BlockInstance, list[Flow]]] = {}
        #: ids of the loops along an axis in which a step needs the one before
        self.serial: set[int] = set()

    def stacks(self, model: n.Model) -> list[tuple[Axis, Stack]]:
        """Each axis along which information moves, with the layers that it moves in, in the order of the inputs."""
        names: Names = {}
        for i in model.inputs:
            flow = names[i.name] = Flow()
            if isinstance(i.type, TensorType) and i.type.dtype != "bool":
                once = [a for a in i.type.axes if sum(a.alike(x) for x in i.type.axes) == 1]
                flow.axes |= {dim: {_origin(a): Stack()} for dim, a in enumerate(i.type.axes) if a in once}
        self._steps(model.root.body, names)
        found: dict[Origin, Stack] = {}
        pooled: dict[Origin, Stack] = {}
        for value in model.root.results:
            if isinstance(value, n.Value):
                flow = self.value(value, names)
                for tracks in flow.axes.values():
                    for origin, stack in tracks.items():
                        found[origin] = max(found.get(origin, stack), stack, key=_depth)
                for origin, (stack, _) in flow.pooled.items():
                    pooled[origin] = max(pooled.get(origin, stack), stack, key=_depth)
        axes = {origin: Axis(origin[1], origin[2]) for origin in (*found, *pooled)}  # type: ignore[arg-type]
        # features have a length that is known: what is read whole along any other axis is read by positions
        return [
            (axes[origin], stack)
            for origin, stack in {**pooled, **found}.items()
            if stack.runs and not (axes[origin].size.constant and all(reach.features for reach, _ in stack.runs))
        ]

    # --- statements -----------------------------------------------------------------------------------------------

    def _steps(self, steps: Sequence[n.Step], names: Names) -> None:
        for step in steps:
            if isinstance(step, n.Loop):
                settled: object = None  # a body that changes nothing any more need not be followed again
                for body in step.bodies:
                    if body is settled:
                        continue
                    before = {name: flow.copy() for name, flow in names.items()}
                    self._steps(body, names)
                    settled = body if names == before else None
            elif isinstance(step, n.Scan):
                self._scan(step, names)
            elif isinstance(step, n.Evaluate):
                names[step.names[0]] = self._average(step.average, names)
                names |= {name: Flow() for name in step.names[1:]}
            elif isinstance(step.value, n.CallBlock) and len(step.names) > 1:
                names |= dict(zip(step.names, self._call(step.value, names), strict=True))
            else:
                names[step.names[0]] = self.value(step.value, names)

    def _scan(self, scan: n.Scan, names: Names) -> None:
        """A loop along an axis. What its body reads at `index` it reads at one position; what is carried has read the
        positions before, one step after another, if it is made of what was carried into the step."""
        key = scan.index
        carried = sorted({name for s in statements(scan.body) for name in s.names if name in names})
        inside = {name: flow.copy() for name, flow in names.items()}
        for name in carried:
            inside[name].axes[key] = {("carried", name): Stack()}
        self._steps(scan.body, inside)

        def at_index(name: str) -> Tracks:
            return inside[name].axes.get(key, {})

        made_of = {name: {str(o[1]) for o in at_index(name) if o[0] == "carried"} for name in carried}
        before = {name: _closure({name}, made_of) for name in carried}
        serial = {name for name in carried if name in _closure(made_of[name], made_of)}
        if serial:
            self.serial.add(id(scan))

        def read(name: str) -> Tracks:
            """What a variable of the body has read along the loop's axis, in this step and in those before."""
            own = at_index(name)
            found = {o: s for o, s in own.items() if o[0] != "carried"}
            sources = set().union(*(before[str(o[1])] for o in own if o[0] == "carried"))
            for source in sorted(sources):
                for origin, stack in at_index(source).items():
                    if origin[0] == "carried":
                        continue
                    still = found.get(origin) == stack
                    turn = IN_TURN if still else replace(IN_TURN, combs=(Comb(Size.of(1), None),))
                    layer = turn if sources & serial else unknown("a loop that does not feed itself", features=False)
                    above = stack.then(layer)
                    found[origin] = found[origin].join(above) if origin in found and not still else above
            return found

        for name, kind in scan.collected:
            rank = len(kind.axes) - 1
            flow, dim, tracks = inside[name].copy(), max(rank - 1, min(rank, 1)), read(name)
            flow.axes.pop(key, None)
            shifted = {k + 1 if isinstance(k, int) and k >= dim else k: t for k, t in flow.axes.items()}
            names[name] = Flow(shifted, flow.pooled)
            names[name].add(dim, tracks)
            names[name].met()
        for name in carried:
            tracks = read(name)
            names[name] = inside[name].copy()
            names[name].axes.pop(key, None)
            names[name].pool(tracks, replace(ALL, serial=bool(serial)))

    # --- values ---------------------------------------------------------------------------------------------------

    def value(self, value: n.Value, names: Names) -> Flow:
        """What a value has read."""
        match value:
            case n.Local():
                return names.get(value.name, Flow())
            case n.Shared() | n.Cast():
                return self.value(value.arg, names)
            case n.Rename():
                return self._renamed(value, names)
            case n.Pointwise():
                return self._combined(value.args, value.axes, names)
            case n.Dot():
                return self._combined((value.left, value.right), value.axes, names, contracted=True)
            case n.Gather():
                return self._combined((value.table, *value.indices), value.axes, names)
            case n.Reduce():
                return self._kept(value.arg, value.axes, names, DENSE)
            case n.Pick():
                return self._pick(value, names)
            case n.Apply():
                return self._apply(value, names)
            case n.CallBlock():
                return self._call(value, names)[0]
        return Flow()

    def _combined(self, args: Iterable[n.Value], axes: Sequence[Axis], names: Names, contracted: bool = False) -> Flow:
        """Values combined by the names of their axes; `contracted`: their last axes are summed over."""
        result = Flow()
        for arg in args:
            flow = self.value(arg, names)
            result.beside(flow)
            for dim, axis in enumerate(arg.axes):
                tracks = flow.axes.get(dim, {})
                if contracted and dim == len(arg.axes) - 1:
                    result.pool(tracks, DENSE)
                elif axis in axes:
                    result.add(axes.index(axis), tracks)
                else:
                    result.pool(tracks, unknown("it is looked up by an index"))
        return result.met()

    def _kept(self, arg: n.Value, axes: Sequence[Axis], names: Names, reach: Reach | None = None) -> Flow:
        """The axes that stay; the others are pooled, if there is a `reach` to do it."""
        flow, result = self.value(arg, names), Flow()
        result.beside(flow)
        for dim, axis in enumerate(arg.axes):
            if axis in axes:
                result.add(list(axes).index(axis), flow.axes.get(dim, {}))
            elif reach is not None:
                result.pool(flow.axes.get(dim, {}), reach)
        return result.met()

    def _renamed(self, value: n.Rename, names: Names) -> Flow:
        """The same; an axis that starts here without a name is called by the one that it is given."""
        flow = self.value(value.arg, names)
        for dim, (old, new) in enumerate(zip(value.arg.axes, value.axes, strict=True)):
            if old.name is None and new.name is not None and flow.axes.get(dim) == {_origin(old): Stack()}:
                flow = flow.copy()
                flow.axes[dim] = {_origin(new.on("")): Stack()}
        return flow

    def _pick(self, pick: n.Pick, names: Names) -> Flow:
        at = pick.arg.axes.index(pick.axis)
        flow = self.value(pick.arg, names)
        if isinstance(pick.start, n.Local):  # the position of a loop
            result = self._kept(pick.arg, pick.axes, names)
            result.add(pick.start.name, flow.axes.get(at, {}))
            return result
        if not pick.is_range or isinstance(pick.start, n.Value):
            return self._kept(pick.arg, pick.axes, names, unknown("one position is taken"))
        start = pick.start if pick.start is not None else Size.of(0)
        number = start.integer
        if number is not None and number < 0:
            start = pick.axis.size + start
        result = flow.copy()
        tracks = flow.axes.get(at, {})
        result.axes[at] = {origin: stack.moved(-start) for origin, stack in tracks.items()}
        return result

    def _apply(self, value: n.Apply, names: Names) -> Flow:
        result = Flow()
        flows = [self.value(arg, names) for arg in value.args]
        for flow in flows:
            result.beside(flow)
        moves = value.result.moves
        if moves is None:
            for flow in flows:
                for key, tracks in flow.axes.items():
                    if isinstance(key, int):
                        result.pool(tracks, unknown(f"`{value.op.name}` does not say what it reads"))
            return result
        for move in moves:
            tracks = flows[move.argument].axes.get(move.dim, {})
            if move.to is None:
                result.pool(tracks, move.reach or unknown("an axis is taken out"))
            elif move.reach is None:
                for origin, stack in tracks.items():
                    stack = stack.moved(move.offset)
                    result.add(move.to, {origin: stack.turned() if move.flipped else stack})
            else:
                axis = value.args[move.argument].axes[move.dim]
                result.add(move.to, _through(tracks, move.reach, axis))
        if all(m.reach is None or m.reach.unknown for m in moves):  # axes made of others start here
            for dim in set(range(len(value.axes))) - {m.to for m in moves}:
                result.add(dim, {_origin(value.axes[dim]): Stack()})
        return result.met()

    # --- attention --------------------------------------------------------------------------------------------------

    def _average(self, average: n.Average, names: Names) -> Flow:
        """Score and message have read what queries have along i, and what keys and values have along j."""
        sources = {"q": average.query, "k": average.key, "v": average.value}
        inside = dict(names)
        for name, source in sources.items():
            if source is not None:
                inside[name] = self._source(average, name, source, names)
        locality = analyze(average.visible)
        reaches = {s.key: (s.query, s.reach) for s in seen(average, locality)}
        result, queries, keys = Flow(), Flow(), Flow()
        for part in (average.score, average.message):
            flow = self.value(part, inside)
            result.beside(flow)
            for dim, axis in enumerate(part.axes):
                tracks = flow.axes.get(dim, {})
                if axis in reaches:
                    keys.add(average.over.index(axis), tracks)
                elif axis.side == "i":
                    queries.add(average.positions.index(axis), tracks)
                elif axis.side == "j":
                    result.pool(tracks, ALL)
                elif axis in average.layout:
                    result.add(average.layout.index(axis), tracks)
                else:
                    result.pool(tracks, DENSE)
        for k, position in enumerate(average.positions):
            own, layout = queries.axes.get(k, {}), average.layout.index(position.on(""))
            read: Tracks = {}
            for key, (query, reach) in reaches.items():
                if query == position:
                    tracks = keys.axes.get(average.over.index(key), {}) or {_origin(key.on("")): Stack()}
                    for origin, stack in tracks.items():
                        read[origin] = stack.then(reach)
            result.add(layout, read)
            # a query that has read what the keys have adds nothing: it does not matter where one key alone is visible
            result.add(layout, {o: x for o, x in own.items() if all(t.get(o) != x for t in keys.axes.values())})
        if isinstance(n.plain(average.message), n.Local) and len(average.features) == len(average.value_features):
            value_flow = self.value(average.value, names)
            for ours, theirs in zip(average.features, average.value_features, strict=True):
                if ours in average.layout and theirs in average.value.axes:
                    tracks = value_flow.axes.get(average.value.axes.index(theirs), {})
                    result.add(average.layout.index(ours), tracks)
        return result.met()

    def _source(self, average: n.Average, name: str, source: n.Value, names: Names) -> Flow:
        """`q`, `k` or `v` as the score and the message see it: on axes with sides, its features one vector."""
        flow, result = self.value(source, names), Flow()
        result.beside(flow)
        roots = (average.score, average.message)
        local = next((x for r in roots for x in r.walk() if isinstance(x, n.Local) and x.name == name), None)
        if local is None:
            return Flow()
        side = "i" if name == "q" else "j"
        for dim, axis in enumerate(source.axes):
            tracks = flow.axes.get(dim, {})
            place = next((k for k, a in enumerate(local.axes) if a in (axis, axis.on(side))), None)
            if place is not None:
                result.add(place, tracks)
            elif name != "v" or not isinstance(n.plain(average.message), n.Local):
                result.pool(tracks, DENSE)
        return result.met()

    # --- calls ------------------------------------------------------------------------------------------------------

    def _call(self, call: n.CallBlock, names: Names) -> list[Flow]:
        lengths = Calls.lengths(call)
        args = [self.value(a, names) if isinstance(a, n.Value) else Flow() for a in call.args]

        def put(origin: Origin, stack: Stack) -> Tracks:
            """What a block has read of a parameter, or of an axis of its own, is in the caller's terms ..."""
            stack = stack.substitute(lengths)
            if origin[0] == "axis":
                _, name, size = origin
                assert isinstance(size, Size)
                return {("axis", name, size.substitute(lengths)): stack}
            _, k, dim = origin
            assert isinstance(k, int) and isinstance(dim, int)
            argument = call.args[k]
            tracks = args[k].axes.get(dim, {})
            if not tracks and isinstance(argument, n.Value) and any(not r.features for r, _ in stack.runs):
                tracks = {_origin(argument.axes[dim]): Stack()}
            return {o: s.over(stack) for o, s in tracks.items()}

        results = []
        for flow in self.summary(call.block):
            result = Flow()
            for key, tracks in flow.axes.items():
                for origin, stack in tracks.items():
                    if key == WHOLE:
                        assert isinstance(origin[1], int)
                        result.beside(args[origin[1]])
                    else:
                        result.add(key, put(origin, stack))
            for origin, (stack, reach) in flow.pooled.items():
                result.pool(put(origin, stack), reach.substitute(lengths))
            results.append(result.met())
        return results

    def summary(self, block: n.BlockInstance) -> list[Flow]:
        """What each result of a block has read of its parameters."""
        if id(block) not in self._summaries:
            names: Names = {}
            for k, (name, kind) in enumerate(block.parameters):
                flow = names[name] = Flow({WHOLE: {("whole", k): Stack()}})
                if isinstance(kind, TensorType) and kind.dtype != "bool":
                    flow.axes |= {dim: {("parameter", k, dim): Stack()} for dim in range(len(kind.axes))}
            self._steps(block.body, names)
            results = [self.value(v, names) if isinstance(v, n.Value) else Flow() for v in block.results]
            self._summaries[id(block)] = (block, results)
        return self._summaries[id(block)][1]


def _through(tracks: Tracks, reach: Reach, axis: Axis) -> Tracks:
    """One more layer; an axis that nothing is known of starts here, if positions meet in it."""
    if not tracks and not reach.features:
        tracks = {_origin(axis): Stack()}
    return {origin: stack.then(reach) for origin, stack in tracks.items()}


def _closure(names: Iterable[str], made_of: Mapping[str, set[str]]) -> set[str]:
    """The names, and all that they are made of."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += made_of[name]
    return found


def _depth(stack: Stack) -> int:
    return sum(count for _, count in stack.runs)
