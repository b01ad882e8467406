"""Names and shapes of everything in a model's `state_dict()`, and how many modules it has."""

from __future__ import annotations

from collections import Counter

from towerdsl.budget import spend
from towerdsl.ir import nodes as n
from towerdsl.ir.liveness import statements, values
from towerdsl.ir.size import Size


def count_modules(root: n.BlockInstance) -> int:
    """How many submodules a block has, all levels counted."""
    known: dict[int, int] = {}

    def slot_count(slot: n.ModuleSlot) -> int:
        spend(1)
        if id(slot) not in known:
            inside = sum(slot_count(s) for s in slot.items)
            known[id(slot)] = inside if slot.items else 1 + (block_count(slot.block) if slot.block is not None else 0)
        return known[id(slot)]

    def block_count(block: n.BlockInstance) -> int:
        if id(block) not in known:
            known[id(block)] = sum(slot_count(s) for _, s in block.modules)
        return known[id(block)]

    return block_count(root)


def parameter_shapes(root: n.BlockInstance) -> list[tuple[str, tuple[int, ...], bool]]:
    """Every parameter and buffer of a block by its name in `state_dict()`: (name, shape, is a parameter)."""
    found: list[tuple[str, tuple[int, ...], bool]] = []

    def numbers(shape: tuple[Size, ...]) -> tuple[int, ...]:
        return tuple(s.integer or 0 for s in shape)

    def visit_slot(slot: n.ModuleSlot, prefix: str) -> None:
        spend(1)
        if slot.items:
            for k, item in enumerate(slot.items):
                visit_slot(item, f"{prefix}{k}.")
        elif slot.block is not None:
            visit_block(slot.block, prefix)
        elif slot.result is not None:
            spend(2 * len(slot.result.parameters) + len(prefix) // 20)
            found.extend((prefix + name, numbers(shape), True) for name, shape in slot.result.parameters)
            found.extend((prefix + name, numbers(shape), False) for name, shape in slot.result.buffers)

    def visit_block(block: n.BlockInstance, prefix: str) -> None:
        found.extend((prefix + w.name, numbers(w.type.shape), True) for w in block.weights)
        for name, slot in block.modules:
            visit_slot(slot, f"{prefix}{name}.")

    visit_block(root, "")
    return found


def part_names(root: n.BlockInstance) -> set[str]:
    """The names that modules have in a block and in all blocks inside it, also those without parameters."""
    found: set[str] = set()
    blocks, met = [root], {id(root)}
    while blocks:
        slots = []
        for name, slot in blocks.pop().modules:
            found.add(name)
            slots.append(slot)
        while slots:
            slot = slots.pop()
            slots += slot.items
            if slot.block is not None and id(slot.block) not in met:
                met.add(id(slot.block))
                blocks.append(slot.block)
    return found


def tied_tables(root: n.BlockInstance) -> list[str]:
    """The tables of embeddings that a block reads in more than one place, such as to read words and to write them."""
    roots = [v for step in statements(root.body) for v in values(step)]
    everything = [v for x in (*roots, *root.results) if isinstance(x, n.Value) for v in x.walk()]
    looked_up: Counter[str] = Counter()
    read: Counter[str] = Counter()
    for v in everything:
        if isinstance(v, n.Apply) and v.op.name == "embed" and v.module is not None and not v.module.indices:
            looked_up[f"{v.module.name}.weight"] += 1
        elif isinstance(v, n.Gather):
            for table in v.table.walk():
                if isinstance(table, n.Weight):
                    looked_up[".".join(table.path)] += 1
                    read[".".join(table.path)] -= 1  # it is met below the gather too
        elif isinstance(v, n.Weight):
            read[".".join(v.path)] += 1
    return [name for name, count in looked_up.items() if read[name] > 0 or (count > 1 and name not in read)]
