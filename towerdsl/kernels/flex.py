"""torch's flex_attention, for GPUs: blocks of pairs of which none is visible are left out.

The condition and the biases are written as functions of one pair. The same function of the condition, read with what is
known of whole blocks in the place of positions, says which blocks are left out: see `towerdsl.runtime.flex`.
"""

from __future__ import annotations

from towerdsl.ir import nodes as n
from towerdsl.ir.nodes import Average
from towerdsl.kernels.base import Facts, Kernel, Speed, not_one_axis
from towerdsl.lowered import build
from towerdsl.lowered.paired import Unpaired, paired


class Flex(Kernel):
    name = "flex"
    how = "torch's flex_attention, without the blocks of pairs that see nothing"
    #: Beside the other numbers, which are a CPU's: on a GPU no mask or bias of pairs is read from memory.
    speed = Speed(call=400_000, multiply_add=0.015, pair=0.4)

    def refuse(self, average: Average, facts: Facts) -> str | None:
        if facts.device != "cuda":
            return f"it is for GPUs, the device is {facts.device}"
        if not average.is_softmax_of_values:
            return "it computes the softmax average of values as they are"
        if isinstance(facts.score, str):
            return facts.score
        if facts.locality.never:
            return "no key is visible"
        if (several := not_one_axis(average)) is not None:
            return several
        if average.dropout:
            return "flex_attention drops no weights"
        biases = [t.value for t in facts.score.biases]
        if not biases and (facts.locality.everything or facts.locality.causal(average)):
            return "there is nothing to leave out that scaled_dot_product_attention does not"
        conditions = [average.visible] if average.visible is not None else []
        if any(x.type.scalar for x in conditions):
            return "the condition is one for all pairs"
        read: list[n.Value] = []

        def learned(x: n.Value) -> n.Value:
            read.append(x.arg if isinstance(x, n.Rename) else x)
            return x

        try:
            for value in biases:
                paired(value, average, learned, {})
            for value in conditions:
                paired(value, average, lambda x: x, {})
        except Unpaired as reason:
            return str(reason)
        learns = [any(v.type.dtype == "float" and not v.type.scalar for v in x.walk()) for x in read]
        if any(learns[k] and x in read[:k] for k, x in enumerate(read)):
            return "flex_attention has no gradient of a tensor that biases read twice"
        return None

    def lower(self, average: Average, facts: Facts) -> n.Value:
        assert not isinstance(facts.score, str)
        return build.paired(average, facts.score)
