"""Hard attention and the like: few keys of each query have a weight, and only their messages are read."""

from __future__ import annotations

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.kernels.base import Facts, Kernel
from towerdsl.lowered import build
from towerdsl.lowered import nodes as low
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes.score import sides


class Gather(Kernel):
    name = "gather"
    how = "only the messages of the keys that are picked"

    def refuse(self, average: Average, facts: Facts) -> str | None:
        if NORMALIZERS[average.normalize].picks is None:
            if average.normalize.startswith("hard"):
                return f"the gradient of {average.normalize} is that of softmax, which reads every message"
            return f"{average.normalize} picks no keys"
        if average.dropout:
            return "dropout drops weights before they are known to be picked"
        if "i" in sides(average.message):
            return "the message depends on i"
        if not set(average.over) <= set(average.message.axes):
            return "the message is not one of each key"
        return None

    def lower(self, average: Average, facts: Facts) -> n.Value:
        picks = build.picks(average)
        kind = low.result_type(average, picks, average.message)
        return low.Gathered(kind, average.span, picks, average.message)
