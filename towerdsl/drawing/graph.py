"""The graph that is drawn: nodes with ordered inputs and outputs, in groups that hold each other. No geometry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from towerdsl.drawing.locality import Picture


class Link(NamedTuple):
    """One output of a node."""

    node: Node
    output: int = 0


@dataclass(eq=False)
class Node:
    """A box. `kind` is "in" or "out" (a port of its group), "op", "sign" (a sum or product of streams), "leaf" (what
    is learned or constant), "average" or "group".

    `outputs` says the axes of each result. `ports` names the inputs of an average. `text` is the whole text where
    `lines` may be shortened.
    """

    kind: str
    lines: list[str]
    inputs: list[Link]
    outputs: list[str]
    ports: tuple[str, ...] = ()
    weighted: bool = False
    group: Group | None = None
    rows: tuple[tuple[str, str], ...] = ()  # of an average: what its fields are
    picture: Picture | None = None

    @property
    def link(self) -> Link:
        return Link(self)


@dataclass(eq=False)
class Group:
    """A box of boxes: "model", "block", "attention" (a block around an average), "repeat" or "turns" (a loop).

    `path` is the name of its module, with `*` where a repetition stands; empty without one. `count` is how often it
    stands behind itself. A port whose name is in `carried` goes from one repetition to the next.
    """

    kind: str
    title: str
    path: str
    count: int = 1
    nodes: list[Node] = field(default_factory=list)  # in the order in which they are computed
    ins: list[Node] = field(default_factory=list)
    outs: list[Node] = field(default_factory=list)
    carried: frozenset[str] = frozenset()
    note: str = ""
    open: bool = True

    @property
    def heading(self) -> str:
        return self.title + (f" x {self.count}" if self.count > 1 else "")

    @property
    def all(self) -> list[Node]:
        """Its nodes, inputs first and outputs last."""
        return [*self.ins, *self.nodes, *self.outs]

    @property
    def groups(self) -> Iterator[Group]:
        """The groups directly in it."""
        return (x.group for x in self.nodes if x.group is not None)

    def walk(self) -> Iterator[Group]:
        """This group and all in it, outer ones first."""
        yield self
        for inner in self.groups:
            yield from inner.walk()
