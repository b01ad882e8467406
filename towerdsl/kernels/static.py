"""The score does not depend on the input: weights are computed once for a whole batch, and applied in one product."""

from __future__ import annotations

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.kernels.base import Facts, Kernel, Speed
from towerdsl.lowered import build
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes.score import sides


class Static(Kernel):
    name = "static"
    how = "weights that no input changes, in one product for a whole batch"
    speed = Speed(call=30_000, multiply_add=0.015, pair=0.05)

    def refuse(self, average: Average, facts: Facts) -> str | None:
        sources = {"q": average.query, "k": average.key, "v": average.value}
        for what, root in (("score", average.score), ("condition", average.visible)):
            for value in root.walk() if root is not None else ():
                name = value.relation if isinstance(value, n.Member) else getattr(value, "name", "")
                source = sources.get(name) if isinstance(value, n.Local) else None
                given = isinstance(value, (n.Local, n.Member)) if source is None else _given(source)
                if given:
                    return f"the {what} depends on {name}"
        if NORMALIZERS[average.normalize].draws:
            return f"{average.normalize} draws for each entry of a batch"
        if average.dropout:
            return "dropout drops other weights for each entry of a batch"
        if "i" in sides(average.message):
            return "the message depends on i"
        return None

    def lower(self, average: Average, facts: Facts) -> n.Value:
        return build.summed(average)


def _given(source: n.Value) -> bool:
    """Whether a source is made of inputs."""
    return any(isinstance(v, n.Local) for v in source.walk())
