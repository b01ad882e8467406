"""An operation says that it has weights exactly if it has: in attentions, names depend on it."""

from pathlib import Path

import pytest

from towerdsl.compiler import compile_spec
from towerdsl.ir import nodes as n

SPECS = sorted((Path(__file__).parents[1] / "oracle" / "specs").glob("*.yaml"))


def operations(block: n.BlockInstance):
    slots = [slot for _, slot in block.modules]
    while slots:
        slot = slots.pop()
        slots += slot.items
        if slot.block is not None:
            yield from operations(slot.block)
        elif slot.op is not None and slot.result is not None:
            yield slot.op, slot.result


@pytest.mark.parametrize("path", [p for p in SPECS if "flow:" in p.read_text() or "outputs:" in p.read_text()])
def test_weights_are_declared(path):
    for op, result in operations(compile_spec(path).model.root):
        assert op.weights == bool(result.parameters), op.name
