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
    return [block for block in root.walk() if block.average is not None]
