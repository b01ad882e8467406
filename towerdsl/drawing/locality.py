"""Who sees whom in one attention, as a small picture: drawn from the typed condition itself, at small lengths.

What a condition takes from data is not known. Each of its parts that reads data is tried as true and as false, so a
pair is seen ("#"), not seen ("."), or seen where the data says so ("?").
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from towerdsl.explain.spell import Speller
from towerdsl.ir import nodes as n
from towerdsl.ir.size import Size
from towerdsl.ir.types import Axis

if TYPE_CHECKING:
    from torch import Tensor

#: A free length in a picture, where the condition has no larger numbers, and for each axis of a grid.
LENGTH, SIDE = 16, 8
#: A free length is so many times the largest number of the condition, up to a limit.
TIMES, LONGEST = 3, 768
#: So many positions are drawn along an axis; of more, some that are evenly apart.
CELLS = 64
#: Keys that are looked at for one query.
MOST_KEYS = 65_536
#: Parts of a condition that are tried both ways, in all combinations; of more, all true and all false.
TRIED = 4


@dataclass(frozen=True)
class Picture:
    """`kind` is "matrix" (a row for each query, a column for each key), "grid" (the keys of one query, which is at
    `query`), or "graph": three cells say whether a query sees a key listed with it, one that is not, and itself.

    `cells` are rows of "#", "?" and "."; `where` says in words on what "?" depends.
    """

    kind: str
    cells: tuple[str, ...] = ()
    query: tuple[int, int] | None = None
    caption: tuple[str, ...] = ()
    where: tuple[str, ...] = ()


def picture(average: n.Average, lengths: Mapping[str, Size], given: Mapping[str, int]) -> Picture | None:
    """The picture of an attention, or None where it has too many keys to be drawn. `lengths` are the free lengths of
    its block in the model's, some of which are `given`."""
    values = {name: Size.of(length) for name, length in given.items()}
    known = {name: size.substitute(values).integer for name, size in lengths.items()}
    return _Drawer(average, {name: length for name, length in known.items() if length is not None}).picture()


class _Drawer:
    def __init__(self, average: n.Average, known: Mapping[str, int]) -> None:
        self.average, self.visible = average, average.visible
        several = max(len(average.over), len(average.positions)) > 1
        constants = [x for v in _walk(self.visible) for x in _numbers(v)]
        default = max(SIDE if several else LENGTH, min(LONGEST, TIMES * max(constants, default=0)))
        names = {name for a in (*average.positions, *average.over) for name in a.size.free_names}
        names |= {name for v in _walk(self.visible) for a in v.axes for name in a.size.free_names}
        self.lengths = {name: known.get(name, default) for name in sorted(names)}
        self.over = [self._length(a) for a in average.over]
        self.positions = [self._length(a) for a in average.positions]
        self.spell = Speller(average, {})
        self.atoms = _atoms(self.visible)
        self.places = [v for v in _walk(self.visible) if isinstance(v, n.Position)]

    def _length(self, axis: Axis) -> int:
        values = {name: Size.of(length) for name, length in self.lengths.items()}
        return max(1, axis.size.substitute(values).integer or LENGTH)

    def picture(self) -> Picture | None:
        members = [x for atom in self.atoms for x in atom.walk() if isinstance(x, n.Member)]
        keys = 1
        for length in self.over:
            keys *= length
        if members:
            return self._graph(members[0])
        if keys > MOST_KEYS:
            return None
        if len(self.over) == 1 and len(self.positions) == 1:
            return self._matrix()
        return self._grid()

    def _matrix(self) -> Picture:
        queries, keys = self.positions[0], self.over[0]
        rows, columns = (self._sampled(a) for a in (self.average.positions[0], self.average.over[0]))
        cells = []
        for i in rows:
            seen = self._keys((i,))
            cells.append("".join(seen[j] for j in columns))
        return Picture(
            "matrix", tuple(cells), None, (f"rows: {queries} queries", f"columns: {keys} keys"), self._where()
        )

    def _grid(self) -> Picture:
        """The keys of one query: along the last two axes, at its own place along others."""
        own = tuple(2 * length // 5 for length in self.positions)  # not where windows are likely to meet
        places = {axis.name: place for axis, place in zip(self.average.positions, own, strict=True)}
        axes = [Axis(None, Size.of(1)), *self.average.over]
        at = [min(places.get(a.name, 0), self._length(a) - 1) for a in axes]
        (rows, columns), width = map(self._sampled, axes[-2:]), self._length(axes[-1])
        first = 0
        for axis, place in zip(axes[:-2], at[:-2], strict=True):
            first = first * self._length(axis) + place
        seen = self._keys(own)
        height = self._length(axes[-2])
        cells = tuple("".join(seen[(first * height + r) * width + c] for c in columns) for r in rows)
        marked = None
        if len(self.over) > 1 and all(a.name in places for a in axes[-2:]):
            marked = (_nearest(rows, at[-2]), _nearest(columns, at[-1]))
        whose = "the marked query" if marked else "each query" if self.positions else "one query"
        size = f"{height} x {width}" if len(self.over) > 1 else str(width)
        own_place = [f"at its own {a.name}" for a in axes[1:-2] if a.name in places]
        return Picture("grid", cells, marked, (f"{size} keys of {whose}", *own_place), self._where())

    def _graph(self, member: n.Member) -> Picture:
        """A pair that is listed, one that is not, and a node with itself where it is a pair of the same axis."""
        query = (0,) * len(self.positions)
        listed, other = (self._keys(query, truth)[-1] for truth in (True, False))
        both = [a.name for a in self.average.positions] == [a.name for a in self.average.over]
        itself = self._keys(query, False)[0] if both else "."
        words = ("arrows: what the red node sees", f"blue: in {member.relation} with it")
        return Picture("graph", (listed, other, itself), None, words)

    def _sampled(self, axis: Axis) -> list[int]:
        """Positions that are drawn, fewer where the condition does not look at positions."""
        looks = any(v.axes[0] == axis for v in self.places)
        return _sampled(self._length(axis), CELLS if looks else LENGTH)

    def _where(self) -> tuple[str, ...]:
        """What the data decides, in words."""
        return tuple(f"where {self.spell.text(atom)}" for atom in self.atoms)

    # --- evaluating ---------------------------------------------------------------------------------------------

    def _keys(self, query: Sequence[int], listed: bool | None = None) -> str:
        """A character for each key, all axes flattened: whether a query sees it. All pairs are `listed`, or none."""
        total = 1
        for length in self.over:
            total *= length
        if self.visible is None:
            return "#" * total
        at = dict(zip(self.average.positions, query, strict=True))
        always: Tensor | None = None
        ever: Tensor | None = None
        for choice in self._choices(listed):
            found = self._evaluated(self.visible, at, choice)
            always = found if always is None else always & found
            ever = found if ever is None else ever | found
        assert always is not None and ever is not None
        return "".join("#" if a else "?" if e else "." for a, e in zip(always.tolist(), ever.tolist(), strict=True))

    def _choices(self, listed: bool | None) -> Iterator[tuple[bool, ...]]:
        """Which parts that read data are true, in each of the cases that are tried."""
        relations = [any(isinstance(x, n.Member) for x in atom.walk()) for atom in self.atoms]
        few = len(self.atoms) <= TRIED
        together = [(truth,) * len(self.atoms) for truth in (True, False)]
        for case in itertools.product((True, False), repeat=len(self.atoms)) if few else together:
            if listed is None or all(t == listed for t, related in zip(case, relations, strict=True) if related):
                yield case

    def _evaluated(self, visible: n.Value, at: Mapping[Axis, int], choice: Sequence[bool]) -> Tensor:
        """The condition of one query, flat over all keys, with parts that read data true or false."""
        import torch

        from towerdsl.claims.condition import Pairs, lookups, spread

        known = {id(place): torch.tensor([at[place.axes[0]]]) for place in self.places if place.axes[0] in at}
        for atom, truth in zip(self.atoms, choice, strict=True):
            places = [x for x in atom.walk() if isinstance(x, n.Position)]
            numbers = [x for x in lookups([atom]) if x.type.dtype != "bool"]
            if truth and places and numbers:  # positions near a number that data says: near one in the middle
                middle = self._length(places[0].axes[0]) // 2
                known |= {id(x): torch.full([1] * len(x.axes), middle) for x in numbers}
            else:
                known[id(atom)] = torch.full([1] * len(atom.axes), truth)
        found = Pairs(self.lengths, {}, known).evaluate(visible).bool()
        # of one query; the first one of a batch and of the heads
        found = found[tuple(slice(None) if a in self.average.over else 0 for a in visible.axes)]
        kept = [a for a in visible.axes if a in self.average.over]
        return spread(found, kept, self.average.over).expand(self.over).flatten()


def _sampled(length: int, most: int) -> list[int]:
    """All positions, or some that are evenly apart."""
    return list(range(length)) if length <= most else [k * length // most for k in range(most)]


def _nearest(positions: Sequence[int], place: int) -> int:
    return min(range(len(positions)), key=lambda k: abs(positions[k] - place))


def _walk(value: n.Value | None) -> Iterator[n.Value]:
    return iter(()) if value is None else value.walk()


def _numbers(value: n.Value) -> Iterator[int]:
    """The whole numbers that a value is written with."""
    if isinstance(value, n.Const) and not isinstance(value.value, bool):
        yield abs(round(value.value)) if abs(value.value) < LONGEST else 0
    elif isinstance(value, n.SizeOf) and value.size.integer is not None:
        yield min(abs(value.size.integer), LONGEST)


_LOGIC = ("and", "or", "not")


def _atoms(value: n.Value | None) -> list[n.Value]:
    """The parts of a condition that read data, none of them made of others."""
    if value is None:
        return []
    if isinstance(value, n.Shared | n.Cast | n.Rename) or (isinstance(value, n.Pointwise) and value.op in _LOGIC):
        found = [x for arg in value.operands for x in _atoms(arg)]
        if not isinstance(value, n.Rename):
            return list({id(x): x for x in found}.values())
        return [value] if found else []
    reads = any(isinstance(x, n.Local | n.Weight | n.Member | n.Apply | n.CallBlock) for x in value.walk())
    return [value] if reads else []
