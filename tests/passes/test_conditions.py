"""What the compiler makes of a condition, against plain evaluation of its text, for every pair."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from tests.agreement.compare import SMALL_BLOCKS
from towerdsl.compiler import Compiled, compile_spec
from towerdsl.diagnostics import TowerError
from towerdsl.explain.spell import Speller
from towerdsl.ir import nodes as n
from towerdsl.kernels.choose import attentions
from towerdsl.passes.locality import Locality
from towerdsl.runtime.flex import visible_blocks

from .conditions import Case, Condition, cases, drawn

#: how many conditions are always drawn, and how many the slow test draws
FEW, PARTS, MANY = 60, 20, int(os.environ.get("TOWERDSL_CONDITIONS", "20000"))


def test_what_is_seen_is_what_is_written() -> None:
    check(range(FEW))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_seen_is_what_is_written_in_many(part: int) -> None:
    check(range(1000 + part, 1000 + MANY, PARTS))


#: conditions, their kind and lengths, and how many pairs see each other
COUNTED = {
    ("j - i <= n // 2", "one", 5): 22,
    ("j - i <= n // 2 % 2 * 2", "one", 7): 39,
    ("j - i < -(-n // 2)", "one", 5): 22,
    ("abs(i - j - 0.5) < 1", "one", 6): 11,
    ("abs(i - j - 0.5) <= 0.5", "one", 6): 11,
    ("not abs(i - j - 0.5) >= 1", "one", 6): 11,
    ("2 * max(max(i, j) - min(i, j), (i - j) * -2) <= max(i, j) - min(i, j)", "one", 5): 5,
    ("max(i, j) <= 2 * (max(i, j) // 3) + 1", "one", 5): 11,
    ("min(i, j - 0.5) > 0", "one", 5): 16,
    ("max(i - 0.5, j - 2.5) < 1", "one", 5): 8,
    ("relu(i - 1.5) > 0", "one", 5): 15,
    ("abs(1.5 - j) > 2.0", "one", 5): 5,
    ("clip(j, 0.5, 2.5) < 1", "one", 5): 5,
    ("where(j < 2, i - 0.5, n / 2) > 2", "one", 5): 19,
    ("round(i - 0.5) == 2", "one", 5): 10,
    ("int(i - 2.5) == 0", "one", 5): 10,
    ("(i - 3) // -2 == 1 and (j - 2) % -3 == -1", "one", 5): 4,
    ("2 * dj[j] == 3", "one", 5): 0,
    ("n / 3 % 1 <= 0 and j <= i", "one", 5): 0,
    ("sign(sign(n - 3) + 1) == 1 and i < 3", "one", 5): 15,
    ("n % (i + 1) == 0", "one", 6): 24,
    ("(4 * i == 2 * j + 1 and i <= 1) or j == 2", "one", 5): 5,
    ("i > i.w", "grid", (2, 3)): 18,
    ("j - i <= w // 2", "grid", (2, 3)): 26,
    ("i.h * w // 2 // (w // 2) <= j.h", "grid", (2, 3)): 27,
}


@pytest.mark.parametrize(("text", "kind", "lengths"), COUNTED)
def test_how_many_pairs_see_each_other(text: str, kind: str, lengths: int | tuple[int, int]) -> None:
    condition = Condition(text, kind)
    case = Case(condition, dict(zip(condition.names, (lengths,) if isinstance(lengths, int) else lengths, strict=True)))
    compiled = compile_spec(condition.spec)
    (block,) = attentions(compiled.model.root)
    for kernel, model in built(compiled, block):
        pairs = sum(sum(row) for head in case.weights(run(model, case)) for row in head)
        assert pairs == COUNTED[text, kind, lengths], kernel
    assert not list(disagreements(condition))


@pytest.mark.parametrize(
    "text", ["i < abs(n - 3)", "i < round(n / 3)", "i < relu(n - 2)", "i < clip(n, 1, 3)", "i < sign(n - 1)"]
)
def test_functions_of_lengths(text: str) -> None:
    assert not list(disagreements(Condition(text)))


def test_listed_pairs_where_queries_and_keys_are_of_two_lengths() -> None:
    for text in ("i == j or edges[j, i]", "edges[j, i] or i == j and j > 0"):
        assert not list(disagreements(Condition(text, "fewer keys")))


@pytest.mark.parametrize("text", ["edges[i, j]", "edges[j, i] and not edges[i, j]", "not edges[i, j] or i < 1"])
def test_both_directions_of_a_relation(text: str) -> None:
    assert not list(disagreements(Condition(text)))


#: conditions in which a set of numbers is empty, or all of them
EMPTY = [
    "(i < j and kj[j]) or 1 < i - j < n // 2",
    "((i < j and kj[j]) or 1 < i - j < n // 2) and i - j < 2",
    "((i < j and kj[j]) or 0 < j - i < n - 2) and (not i // 2 == j // 2 and i - j < 1)",
    "(kj[j] or 2 <= j < n - 3) and (i < j or 1 < j < n // 2)",
    "(2 * dj[j] == 3 and i <= 1) or kj[j]",
    "(2 * dj[j] == 3 and kj[j]) or i <= 1",
    "kj[j] and not (2 * dj[j] == 3 and i <= 1)",
    "(4 * i == 2 * j + 1 and kj[j]) or dj[j] > 1",
    "(dj[j] < 1 and dj[j] > 0 and i > 1) or kj[j]",
    "(2 < dj[j] < 3 or i <= 1) and kj[j]",
    "(3 * dj[j] == 7 or 3 * dj[j] == 8 or kj[j]) and i <= j",
    "2 * dj[j] != 3 and kj[j]",
    "(dj[j] != dj[j] or i < 2) and kj[j]",
    "(dj[j] % 2 == 3 and i <= 1) or (dj[j] // 2 == 0.5 and j < 2) or kj[j]",
    "where(2 * (i - j) == 1, kj[j], i <= 1 or ki[i])",
]


@pytest.mark.parametrize("text", EMPTY)
@pytest.mark.parametrize("score", [("1", "none"), ("dot(q, k)", "softmax")], ids=lambda x: x[1])
def test_empty_sets_of_numbers(text: str, score: tuple[str, str]) -> None:
    assert not list(disagreements(Condition(text, score=score)))


def check(seeds: Iterable[int]) -> None:
    wrong = (f"{c!r}\n    {text}" for c in map(drawn, seeds) for text in disagreements(c))
    assert not (found := list(islice(wrong, 20))), "\n".join(found)


def disagreements(condition: Condition) -> Iterator[str]:
    """Where the form of a condition, or what a kernel lets a query see, is not what its text says."""
    try:
        compiled = compile_spec(condition.spec)
    except TowerError as error:
        if not {d.code for d in error.diagnostics} <= REFUSED:
            yield f"refused: {error}"
        return
    (block,) = attentions(compiled.model.root)
    average, locality = block.average, compiled.plans[id(block)].facts.locality
    assert average is not None
    shown = spelled(average) if condition.own == condition.key else ""  # of a length with two meanings it says one
    models = dict(built(compiled, block))
    for case in cases(condition):
        try:
            expected = case.seen()
        except ZeroDivisionError:
            continue
        if expected is None or case.divides_by_nothing:
            continue
        if shown and case.seen(shown) not in (expected, None):
            yield f"at {case.lengths} it is read as {shown}"
        if case.queries and case.keys:
            yield from (
                f"at {case.lengths} it is not so that {text}" for text in untrue(locality, average, case, expected)
            )
        for kernel, model in models.items():
            try:
                y = run(model, case)
            except Exception as error:
                yield f"at {case.lengths} {kernel} raises {error!r}"
                continue
            if (case.weights(y) != expected if case.keys else bool(y.any())) or not y.isfinite().all():
                yield f"at {case.lengths} {kernel} lets a query see something else"


@pytest.mark.parametrize(("kind", "lengths"), [("grid", {"h": 2, "w": 0}), ("a row", {"h": 0, "w": 0})])
@pytest.mark.parametrize("text", ["-w * i.w > min(w, h // 2)", "w * i.w - 2 * w * j.w <= h", "w * i.w > 3"])
def test_what_is_divided_by_a_length_that_may_be_0(text: str, kind: str, lengths: dict[str, int]) -> None:
    """No text divides here, but its bounds are divided by `w`."""
    condition = Condition(text, kind)
    compiled = compile_spec(condition.spec)
    (block,) = attentions(compiled.model.root)
    for _, model in built(compiled, block):
        assert not run(model, Case(condition, lengths)).numel()


def test_a_factor_that_is_a_sum_does_not_bound_the_distance() -> None:
    assert not list(disagreements(Condition("2 * ((i.h - j.h) - (j - i)) >= 3", "space")))


#: what is wrong in a condition that is drawn without regard to it
REFUSED: set[str] = {"size"}


def spelled(average: n.Average) -> str:
    """The condition as the compiler says it, or nothing where that is too long to be said."""
    found = "true" if average.visible is None else Speller(average, {}).text(average.visible)
    return "" if "..." in found else found


def untrue(locality: Locality, average: n.Average, case: Case, seen: list[list[list[bool]]]) -> Iterator[str]:
    """What the analysis says of all pairs and is not so."""
    rows = [row for head in seen for row in head]
    if (empty := locality.has_empty_rows()) is not None and empty == all(map(any, rows)):
        yield f"{'a' if empty else 'no'} query sees nothing"
    pairs = [(i, j) for head in seen for i, row in enumerate(head) for j, visible in enumerate(row) if visible]
    if locality.looks_back(average) and any(j > i for i, j in pairs):
        yield "it looks back"
    for band in locality.hull() if case.condition.own == case.condition.key else ():
        i_axis, j_axis = case.condition.query.index(band.query.name), case.condition.key.index(band.key.name)
        for i, j in pairs:
            distance = case.queries[i][i_axis] - case.keys[j][j_axis]
            low, high = (None if x is None else eval(str(x), dict(case.lengths)) for x in (band.low, band.high))
            if not ((low is None or low <= distance) and (high is None or distance <= high)):
                yield str(band)
                break


def built(compiled: Compiled, block: n.BlockInstance) -> Iterator[tuple[str, nn.Module]]:
    """The model as planned, and on every kernel that does not refuse, in blocks so small that there are several."""
    plan = compiled.plans[id(block)]
    yield "planned", made(compiled.source())
    for kernel in plan.able:
        with SMALL_BLOCKS:
            yield kernel.name, made(replace(compiled, plans={id(block): replace(plan, kernel=kernel)}).source())


def made(source: str, **instead: object) -> nn.Module:
    """The model of a source, with other functions of some names."""
    space: dict[str, object] = {"__name__": "one"}
    exec(compile(source, "one", "exec"), space)
    space |= instead
    found: nn.Module = space["One"]().double().eval()  # type: ignore[operator]
    return found


def run(model: nn.Module, case: Case) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(*case.inputs.values())
    return found


# --- blocks of pairs -------------------------------------------------------------------------------------------------

#: queries and keys of a block
BLOCK = 2


def test_which_blocks_see_nothing_and_which_see_all() -> None:
    check_blocks(range(FEW))


@pytest.mark.slow
def test_which_blocks_see_nothing_and_which_see_all_in_many() -> None:
    check_blocks(range(1000, 1000 + MANY // 5))


def check_blocks(seeds: Iterable[int]) -> None:
    wrong = (f"{c!r}\n    {text}" for c in map(drawn, seeds) for text in wrong_blocks(c))
    assert not (found := list(islice(wrong, 20))), "\n".join(found)


Visible = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def of_pairs(q: Tensor, k: Tensor, v: Tensor, block_mask: Visible, **_: object) -> Tensor:
    """torch's flex_attention by its definition: the function of a pair is asked of every pair."""
    b, h, i, j = torch.meshgrid(*map(torch.arange, (*q.shape[:-1], k.shape[-2])), indexing="ij")
    visible = block_mask(b, h, i, j)
    score = (q @ k.transpose(-1, -2)).masked_fill(~visible, -math.inf)
    return score.softmax(-1).nan_to_num(0.0) @ v


def wrong_blocks(condition: Condition) -> Iterator[str]:
    """Blocks of pairs of which a condition, read with intervals in the place of positions, says too much."""
    condition = replace(condition, score=("dot(q, k)", "softmax"))
    found: list[tuple[Tensor, Tensor]] = []

    def blocks(visible: Visible, q: Tensor, k: Tensor) -> Visible:
        if q.shape[-2] and k.shape[-2]:
            found.append(visible_blocks(visible, q.shape[:2], q.shape[-2], k.shape[-2], q.device, BLOCK))
        return visible

    try:
        source = compile_spec(condition.spec, kernel="flex", device="cuda").source()
    except TowerError:
        return
    model = made(source, block_mask=blocks, flex_attention=of_pairs)
    for case in cases(condition):
        found.clear()
        try:
            expected = case.seen()
            y = run(model, case)
        except ZeroDivisionError:
            continue
        if expected is None or not (case.queries and case.keys):
            continue
        if case.weights(y) != expected:
            yield f"at {case.lengths} flex lets a query see something else"
        for some, every in found:
            heads, seen = some[0].expand(len(expected), -1, -1), torch.tensor(expected)
            for h, t, s in itertools.product(*map(range, heads.shape)):
                block = seen[h, t * BLOCK : (t + 1) * BLOCK, s * BLOCK : (s + 1) * BLOCK]
                if block.any() and not some[0].expand_as(heads)[h, t, s]:
                    yield f"at {case.lengths} block {t}, {s} of head {h} is left out"
                if every[0].expand_as(heads)[h, t, s] and not block.all():
                    yield f"at {case.lengths} block {t}, {s} of head {h} is taken for a whole one"
