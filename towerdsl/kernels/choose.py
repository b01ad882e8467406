"""Average --> Plan: of the kernels that do not refuse, the one that is estimated to be fastest; refusals are kept."""

from __future__ import annotations

from towerdsl.budget import working_at
from towerdsl.diagnostics import Diagnostic, TowerError, did_you_mean
from towerdsl.ir import nodes as n
from towerdsl.kernels import cost
from towerdsl.kernels.base import Facts, Plan
from towerdsl.kernels.catalog import CATALOG

#: What code may be for.
DEVICES = ("cpu", "cuda")


def choose(average: n.Average, forced: str | None = None, device: str = "cpu") -> Plan:
    """The plan of one attention for a device. Raises TowerError if the kernel asked for refuses, or is none."""
    working_at(average.span)
    facts = Facts.of(average, device)
    refusals = {k.name: k.refuse(average, facts) for k in CATALOG}
    refused = tuple((name, reason) for name, reason in refusals.items() if reason is not None)
    able = tuple(k for k in CATALOG if refusals[k.name] is None)
    if forced is not None:
        if forced not in refusals:
            help = did_you_mean(forced, refusals, f"kernels are {', '.join(refusals)}")
            raise TowerError([Diagnostic("kernel", f"there is no kernel `{forced}`", help=help)])
        if (reason := refusals[forced]) is not None:
            message = f"the kernel `{forced}` cannot compute this attention: {reason}"
            raise TowerError([Diagnostic("kernel", message, average.span)])
        return Plan(next(k for k in able if k.name == forced), refused, facts, able)
    return Plan(min(able, key=lambda k: cost.time(k, average, facts)), refused, facts, able)


def attentions(root: n.BlockInstance) -> list[n.BlockInstance]:
    """Every attention block of a model, each instance once, in the order of calls."""
    found: dict[int, n.BlockInstance] = {}
    seen: set[int] = set()

    def visit_slot(slot: n.ModuleSlot) -> None:
        for item in slot.items:
            visit_slot(item)
        if slot.block is not None:
            visit(slot.block)

    def visit(block: n.BlockInstance) -> None:
        if id(block) in seen:
            return
        seen.add(id(block))
        if block.average is not None:
            found[id(block)] = block
        for _, slot in block.modules:
            visit_slot(slot)

    visit(root)
    return list(found.values())
