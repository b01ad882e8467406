"""How far a layer carries information along an axis, and how many layers it takes from any position to any other.

A `Reach` is the set of differences i - j for which position i of a layer's result reads position j of its source. A
`Stack` is layers one after another. Its path is the number of times that a signal has to move: staying in place is
free, a layer moves it once, a recurrence once for each position that it passes.

    everything           i - j is any number               path 1
    a band               low <= i - j <= high              path (n - 1) / high for a signal that moves on
    bands in ratio g     0, s, .. m; 0, gs, .. gm; ...     path log_g(n)
    a recurrence         every position up to i, in turn   path n - 1

Positions outside the axis do not exist, so a signal cannot go around through them: a claim that positions are
connected rests on moves in one direction alone, none of which leaves the axis. What cannot be shown is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from towerdsl.ir.size import Size

ZERO = Size.of(0)
MAX_RUNS = 1_000


def _positive(size: Size, least: int = 0) -> bool | None:
    """Whether a size is at least `least` for all lengths from 1 on; None where that depends on them."""
    constant = size.constant
    if constant is not None:
        return constant >= least
    lengths = [(m, c) for m, c in size.terms if m]
    if any(c < 0 or any(atom.op != "free" for atom, _ in m) for m, c in lengths):
        return None
    return sum(c for _, c in size.terms) >= least or None


@dataclass(frozen=True)
class Comb:
    """Differences i - j: low, low + step, ... high. None is without end, all None the multiples of `step`."""

    low: Size | None
    high: Size | None
    step: int = 1

    @property
    def still(self) -> bool:
        """Whether i surely reads i."""
        below = self.low is None or _positive(-self.low) or (self.high is not None and self.low + self.high == ZERO)
        above = self.high is None or _positive(self.high) or (self.low is not None and self.low + self.high == ZERO)
        end = self.low if self.low is not None else self.high
        on_it = self.step == 1 or end is None or (end.integer is not None and end.integer % self.step == 0)
        return bool(below and above and on_it)

    @property
    def endless(self) -> bool:
        return self.low is None and self.high is None and self.step == 1

    def moved(self, by: Size) -> Comb | None:
        """All differences larger by `by`; None where that is no comb."""
        low, high = (None if x is None else x + by for x in (self.low, self.high))
        if self.step > 1 and low is None and (by.integer is None or by.integer % self.step):
            return None
        return Comb(low, high, self.step)

    def mirrored(self) -> Comb:
        low, high = (None if x is None else -x for x in (self.high, self.low))
        return Comb(low, high, self.step)

    def onward(self) -> tuple[int, int | None] | None:
        """(step, farthest) of its moves towards larger i, if they are step, 2 step, ... up to the farthest."""
        end = self.low if self.low is not None else self.high
        if self.step > 1 and end is not None and (end.integer is None or end.integer % self.step):
            return None
        if self.low is not None and (self.low.constant is None or self.low.constant > self.step):
            return None
        if self.high is None:
            return self.step, None
        if self.high.constant is None:
            return None
        far = math.floor(self.high.constant)
        return (self.step, far) if far > 0 else None


EVERYTHING = Comb(None, None)
STILL = Comb(ZERO, ZERO)


@dataclass(frozen=True)
class Reach:
    """What one layer reads: the union of combs; or not known, for a reason."""

    combs: tuple[Comb, ...] = ()
    hubs: bool = False  # some positions read all others, and are read by all others
    serial: bool = False  # a signal passes each position on its way, one after another
    features: bool = (
        False  # read as features are: an axis that is read in no other way has none of a signal's positions
    )
    more: bool = False  # it may read more than the combs say
    unknown: str = ""  # why the combs are not all that is read, or not surely read
    moves: int = 1  # how many times a signal moves in it

    @property
    def still(self) -> bool:
        return any(c.still for c in self.combs)

    @property
    def everything(self) -> bool:
        return any(c.endless for c in self.combs) and not self.serial

    def staying(self) -> Reach:
        """The same, with a way around it for what stays in place."""
        return self if self.still else replace(self, combs=(*self.combs, STILL))

    def moved(self, by: Size) -> Reach:
        """The same, of a result in which every position has moved on by `by`."""
        if by == ZERO:
            return self
        combs = [c.moved(by) for c in self.combs]
        if None in combs or self.hubs:
            return unknown("positions are moved", features=self.features)
        return replace(self, combs=tuple(c for c in combs if c is not None))

    def union(self, other: Reach) -> Reach:
        if self == other:
            return self
        if self.serial != other.serial or self.moves != other.moves:
            still = (STILL,) if self.still or other.still else ()
            return unknown("branches of different kinds meet", still, self.features and other.features)
        found = list(dict.fromkeys((*self.combs, *other.combs)))
        if EVERYTHING in found:
            found = [EVERYTHING]
        elif STILL in found and any(c.still for c in found if c != STILL):
            found.remove(STILL)
        return Reach(
            tuple(found),
            self.hubs or other.hubs,
            self.serial,
            self.features and other.features,
            self.more or other.more,
            self.unknown or other.unknown,
            self.moves,
        )

    def mirrored(self) -> Reach:
        return replace(self, combs=tuple(c.mirrored() for c in self.combs))

    def substitute(self, lengths: Mapping[str, Size]) -> Reach:
        def size(x: Size | None) -> Size | None:
            return None if x is None else x.substitute(lengths)

        return replace(self, combs=tuple(Comb(size(c.low), size(c.high), c.step) for c in self.combs))

    def __str__(self) -> str:
        if self.unknown:
            return f"unknown: {self.unknown}"
        if self.serial:
            back, on = self._sides()
            return "all positions, one by one" if back and on else "all before it, one by one" if on else "all after it"
        if self.everything:
            return "everything" if self.moves == 1 else f"everything, in {self.moves} moves"
        texts = [_comb_text(c) for c in self.combs if c != STILL or len(self.combs) == 1]
        return " and ".join(texts + ["all, through some positions"] * self.hubs) or "nothing"

    def _sides(self) -> tuple[bool, bool]:
        return any(c.mirrored().onward() for c in self.combs), any(c.onward() for c in self.combs)


def _comb_text(c: Comb) -> str:
    every = f", every {_ordinal(c.step)}" if c.step > 1 else ""
    if c == STILL:
        return "itself"
    if c.low is None and c.high is None:
        return f"every {_ordinal(c.step)}" if c.step > 1 else "everything"
    if c.low is not None and c.high is not None and c.low + c.high == ZERO:
        return f"{c.high} to each side{every}"
    sides = []
    if c.high is None:
        sides.append("all before it")
    elif c.high.constant is None or c.high.constant > 0:
        sides.append(f"{c.high} before it")
    if c.low is None:
        sides.append("all after it")
    elif c.low.constant is None or c.low.constant < 0:
        sides.append(f"{-c.low} after it")
    return " and ".join(sides) + every


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def band(low: Size | int | None, high: Size | int | None, step: int = 1) -> Reach:
    """low, low + step, ... up to high; without `low` down from high."""
    first, last = (None if x is None else Size.of(x) for x in (low, high))
    if first is not None and last is not None and step > 1:
        room = (last - first).integer
        if room is None:
            return unknown("a distance is known only at run time")
        last = first + room // step * step
    return Reach((Comb(first, last, step),))


def unknown(reason: str, combs: tuple[Comb, ...] = (), features: bool = True) -> Reach:
    """What is read cannot be told, but for what `combs` say."""
    return Reach(combs, features=features, unknown=reason)


ALL = Reach((EVERYTHING,))
ITSELF = Reach((STILL,))
DENSE = Reach((EVERYTHING,), features=True)
IN_TURN = Reach((Comb(ZERO, None),), serial=True)


# --- layers one after another ----------------------------------------------------------------------------------

Runs = tuple[tuple[Reach, int], ...]  # a layer, and how often it stands there in a row


@dataclass(frozen=True)
class Stack:
    """Layers from the first to the last; `offset` is how far positions have moved since, `flipped` that they are
    counted from the other end: what moves information to later positions there moves it to earlier ones here."""

    runs: Runs = ()
    offset: Size = ZERO
    flipped: bool = False

    def then(self, reach: Reach, count: int = 1) -> Stack:
        """With a layer on top."""
        reach = reach.mirrored() if self.flipped else reach
        if self.offset != ZERO:
            first = replace(self, runs=(*self.runs, (reach.moved(self.offset), 1)), offset=ZERO)
            return first._then(reach, count - 1) if count > 1 else first
        return self._then(reach, count)

    def _then(self, reach: Reach, count: int) -> Stack:
        if reach == ITSELF:
            return self
        if self.runs and self.runs[-1][0] == reach:
            return replace(self, runs=(*self.runs[:-1], (reach, self.runs[-1][1] + count)))
        if len(self.runs) >= MAX_RUNS:
            return Stack(((_lost("too many layers", self.runs, False), 1),))
        return replace(self, runs=(*self.runs, (reach, count)))

    def over(self, upper: Stack) -> Stack:
        """With all layers of another stack on top."""
        found = self
        for reach, count in upper.runs:
            found = found.then(reach, count)
        found = found.moved(upper.offset)
        return found.turned() if upper.flipped else found

    def turned(self) -> Stack:
        """Counted from the other end from here on."""
        return replace(self, flipped=not self.flipped)

    def moved(self, by: Size) -> Stack:
        """Every position moved on by `by`: that is part of the last layer, if there is one."""
        if by == ZERO:
            return self
        by = -by if self.flipped else by
        if not self.runs:
            return replace(self, offset=self.offset + by)
        reach, count = self.runs[-1]
        below = replace(self, runs=(*self.runs[:-1], *([(reach, count - 1)] if count > 1 else [])))
        return below._then(reach.moved(by), 1)

    def join(self, other: Stack) -> Stack:
        """Where two values meet: what either of them reads."""
        if self == other:
            return self
        for one, whole in ((self, other), (other, self)):
            everything = whole.runs and all(reach.everything for reach, _ in whole.runs)
            if not one.runs and everything and one.flipped == whole.flipped:
                return whole
        if self.offset != other.offset or self.flipped != other.flipped:
            return Stack(((_lost("positions of different offsets meet", (*self.runs, *other.runs), False), 1),))
        shared, a, b = self._split(other)
        if a and b and len(a) == len(b) == 1 and a[0][1] == b[0][1] == 1:
            return shared._then(a[0][0].union(b[0][0]), 1)
        if a and b:
            still = all(r.still for r, _ in (*a, *b))
            return shared._then(_lost("branches of different depths meet", (*a, *b), still), 1)
        rest = a or b
        if all(r.still for r, _ in rest):
            for reach, count in rest:
                shared = shared._then(reach, count)
            return shared
        if len(rest) == 1 and rest[0][1] == 1:
            return shared._then(rest[0][0].staying(), 1)
        return shared._then(_lost("some layers are passed by together", rest, True), 1)

    def _split(self, other: Stack) -> tuple[Stack, Runs, Runs]:
        a, b = list(self.runs), list(other.runs)
        shared: list[tuple[Reach, int]] = []
        while a and b and a[0][0] == b[0][0]:
            reach, common = a[0][0], min(a[0][1], b[0][1])
            shared.append((reach, common))
            for runs in (a, b):
                left = runs[0][1] - common
                runs[0:1] = [(reach, left)] if left else []
        return Stack(tuple(shared), flipped=self.flipped), tuple(a), tuple(b)

    def substitute(self, lengths: Mapping[str, Size]) -> Stack:
        found = Stack()
        for reach, count in self.runs:
            found = found._then(reach.substitute(lengths), count)
        return replace(found, offset=self.offset.substitute(lengths), flipped=self.flipped)


def _lost(reason: str, runs: Runs, still: bool) -> Reach:
    return unknown(reason, (STILL,) if still else (), all(r.features for r, _ in runs))


# --- paths -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Path:
    """The largest number of moves from any position j of n to any position i that it can get to.

    `kind`: "none" (no signal moves), "constant", "ratio" ((n - 1) / number), "log" (number is the base, `first` what
    the first layer reaches), "unknown". A recurrence has the ratio 1, with `serial`. It is exact, or a bound from
    above. `covers` is how far the layers that there are reach; None: to any position.
    """

    kind: str
    number: int = 0
    first: int = 1
    exact: bool = True
    serial: bool = False
    covers: int | None = None
    towards: str = "both"  # "later": only from j to a later i; "earlier"
    reason: str = ""

    def moves(self, n: int) -> int | None:
        """The number of moves for an axis of length n; None where it is not known, or takes more layers."""
        if self.kind in ("none", "unknown") or n < 2:
            return 0 if n < 2 else None
        if self.covers is not None and n - 1 > self.covers:
            return None
        if self.kind == "constant":
            return min(self.number, n - 1)
        if self.kind == "ratio":
            return -(-(n - 1) // self.number)
        reached = layers = 0
        while reached < n - 1:
            reached += self.first * self.number**layers
            layers += 1
        return layers

    @property
    def _rank(self) -> tuple[int, int]:
        order = ["none", "constant", "log", "ratio", "unknown"]
        return order.index(self.kind), self.number if self.kind == "constant" else -self.number


def path(stack: Stack, n: Size) -> Path:
    """The path of a stack along an axis of length n.

    Towards later and towards earlier positions are two questions; the longer answer counts.
    """
    layers = [(reach, count) for reach, count in stack.runs if replace(reach, features=False) != ITSELF]
    if stack.offset != ZERO or stack.flipped:
        return Path("unknown", reason="positions are moved")
    if not layers:
        return Path("none")
    lost = next((r.unknown for r, _ in layers if r.unknown), "")
    if not all(r.still for r, _ in layers) and len(layers) + layers[0][1] > 2:
        return Path("unknown", reason=lost or "a layer does not read its own position")
    later, earlier = _onward(layers, n), _onward([(r.mirrored(), count) for r, count in layers], n)
    if lost and max(later, earlier, key=lambda p: p._rank) != Path("constant", 1):
        return Path("unknown", reason=lost)
    if later.kind == "none" or earlier.kind == "none":
        if lost or any(r.more for r, _ in layers):
            return Path("unknown", reason=lost or "a layer may read more than is known")
        one, towards = (later, "later") if earlier.kind == "none" else (earlier, "earlier")
        return replace(one, towards=towards)
    longer = max(later, earlier, key=lambda p: p._rank)
    covers = [p.covers for p in (later, earlier) if p.covers is not None]
    return replace(longer, covers=min(covers) if covers else None)


def _onward(layers: list[tuple[Reach, int]], n: Size) -> Path:
    """The path towards larger i."""
    more = any(r.more for r, _ in layers)
    moving = [(r, count) for r, count in layers if any(_may(c) for c in r.combs) or r.hubs]
    if not moving:
        return Path("none")
    whole = [r.moves for r, _ in moving if any(_covers(c, n) for c in r.combs) and not r.serial]
    if whole:
        return Path("constant", min(whole), exact=min(whole) == 1)
    if any(r.moves > 1 for r, _ in moving):
        return Path("unknown", reason="layers of several moves")
    if sum(count for r, count in moving if r.hubs) > 1:
        return Path("constant", 2, exact=False)
    if any(r.serial for r, _ in moving):
        if any(_covers(c, n) for r, _ in moving if r.serial for c in r.combs):
            return Path("ratio", 1, exact=len(moving) == 1 and not more, serial=True)
        return Path("unknown", reason="a recurrence of another kind")
    steps = [([x for c in r.combs if (x := c.onward()) is not None], count) for r, count in moving]
    if any(far is None for found, _ in steps for _, far in found):
        return _strided(steps)
    if any(len(found) != 1 for found, _ in steps):
        return Path("unknown", reason="a layer has several distances, or one that is not a number")
    exact = not more and not any(r.hubs for r, _ in moving)
    return _finite([(step, far or 0, count) for found, count in steps for step, far in found], exact)


def _strided(layers: list[tuple[list[tuple[int, int | None]], int]]) -> Path:
    """The path where some layers read every s-th position however far: two, where others reach what is between."""
    for k, (found, count) in enumerate(layers):
        stride = min((step for step, far in found if far is None), default=None)
        others = [x for m, (other, _) in enumerate(layers) if m != k or count > 1 for x in other]
        near = max((far for step, far in others if far is not None and step == 1), default=0)
        if stride is not None and near + 1 >= stride:
            return Path("constant", 2, exact=False)
    return Path("unknown", reason="some positions are connected only with those some steps apart")


def _may(c: Comb) -> bool:
    """Whether some i reads an earlier j, as far as can be told."""
    return c.high is None or c.high.constant is None or c.high.constant > 0


def _covers(c: Comb, n: Size) -> bool:
    """Whether every i reads all earlier j."""
    if c.step != 1 or not (c.low is None or c.low == Size.of(1) or _positive(-c.low)):
        return False
    room = None if c.high is None else (c.high - n + 1).constant
    return c.high is None or (room is not None and room >= 0)


def _finite(steps: list[tuple[int, int, int]], exact: bool) -> Path:
    """The path of layers with moves 0, step, 2 step, .. far: they add up to everything in between if no step leaves a
    gap, that is if it is at most one more than what those of smaller steps reach together."""
    steps = sorted(steps)
    reached = 0
    increments: list[tuple[int, int]] = []  # what a layer adds, and how many in a row do
    for step, far, count in steps:
        if step > reached + 1:
            gap = f"positions {_ordinal(step)} apart are connected, those between are not" if not reached else ""
            return Path("unknown", reason=gap or f"between {reached} and {step} there is a gap")
        reached += far * count
        increments += [(far, count)]
    sizes = {far for far, _ in increments}
    if not sizes:
        return Path("unknown", reason="the distance is not known")
    if len(sizes) == 1:
        one = steps[0][0] == steps[-1][0] == 1
        return Path("ratio", sizes.pop(), exact=exact and one, covers=reached)
    counts = [count for _, count in increments]
    ratios = {b / a for (a, _), (b, _) in pairwise(increments)}
    if len(ratios) == 1 and len(increments) > 2 and set(counts) == {1} and (ratio := ratios.pop()) == int(ratio) > 1:
        return Path("log", int(ratio), first=increments[0][0], exact=False, covers=reached)
    return Path("unknown", reason="the layers reach differently far, without a rule", covers=reached)
