"""The cost model: it ranks the kernels that can compute an attention, and finds what is in a faster one's way."""

import pytest

import towerdsl
from towerdsl.explain import explain, text, to_data
from towerdsl.kernels import choose, cost, near
from towerdsl.kernels.base import PASSES, Kernel, Speed
from towerdsl.kernels.reference import Reference
from towerdsl.kernels.sdpa import Sdpa

SPEC = """
tower: sample
sizes: {{d: 8}}
inputs:
  x: float[b, n, d]
  keep: bool[b, n]
  edges: relation[n, n]
blocks:
  look(x, keep, edges):
    query: x
    key: x
    value: x
{fields}
outputs: look(x, keep, edges)
"""


def sample(**fields: str) -> str:
    return SPEC.format(fields="\n".join(f"    {name}: {value}" for name, value in fields.items()))


class Quick(Reference):
    """The reference under another name; it takes `blocker` for a reason to refuse."""

    name = "quick"
    speed = Speed(call=1e6, multiply_add=1e-4, pair=0.1)

    def __init__(self, blocker=lambda average: None):
        self.blocker = blocker

    def refuse(self, average, facts):
        return self.blocker(average)


@pytest.fixture
def catalog(monkeypatch):
    def of(*kernels: Kernel) -> None:
        for module in (choose, near):
            monkeypatch.setattr(module, "CATALOG", kernels)

    return of


def planned(spec: str) -> str:
    (found,) = explain(spec).attentions
    return found.facts.kernel


def test_the_fastest_is_chosen_wherever_it_stands(catalog):
    for kernels in ((Sdpa(), Reference(), Quick()), (Quick(), Reference(), Sdpa())):
        catalog(*kernels)
        assert planned(sample()) == "quick"
        assert "kernel: quick" in towerdsl.source(sample())


def test_of_equal_ones_the_first_is_chosen(catalog):
    same = Quick()
    same.speed = PASSES
    for kernels in ((same, Reference()), (Reference(), same)):
        catalog(*kernels)
        assert planned(sample()) == kernels[0].name


def test_what_a_kernel_calls_itself_says_nothing_of_its_speed():
    class Plain(Kernel):
        name = how = "plain"
        refuse = lower = lambda *_: None

    assert Plain().speed == Reference().speed == PASSES


def test_a_kernel_can_be_asked_for(catalog):
    catalog(Sdpa(), Reference(), Quick())
    (found,) = explain(sample(), kernel="reference").attentions
    assert found.facts.kernel == "reference"
    assert found.facts.able == ("sdpa", "quick")
    with pytest.raises(towerdsl.TowerError, match="there is no kernel `fast`"):
        explain(sample(), kernel="fast")


def test_estimates_are_at_the_lengths_given_and_the_choice_is_not(catalog):
    catalog(Sdpa(), Reference(), Quick())
    (long,) = explain(sample()).attentions
    (short,) = explain(sample(), {"n": 16, "b": 2}).attentions
    assert long.facts.kernel == short.facts.kernel == "quick"
    assert dict(long.facts.estimates)["sdpa"] > 2
    assert dict(short.facts.estimates)["sdpa"] < 0.1
    shown = " ".join(text(explain(sample(), {"n": 16, "b": 2})).replace("│", " ").split())
    assert "others sdpa 0.071 times as long, by estimate: faster at n=16, b=2" in shown


def test_a_time_is_what_the_head_of_the_file_says():
    compiled = towerdsl.compiler.compile_spec(sample(score="sum(relu(q - k))"))
    (block,) = choose.attentions(compiled.model.root)
    plan = compiled.plans[id(block)]
    known = {"b": 3, "n": 5}
    counts = cost.counts(Reference(), block.average, plan.facts, known)
    # q - k and its relu have 8 features for each pair, their sum has one; the weighted sum has 8 multiply-adds
    assert counts == cost.Counts(multiply_adds=75 * 8, pairs=75, elements=75 * 17)
    assert cost.counts(Reference(), block.average, plan.facts, {"n": 0}) == cost.Counts(0, 0, 0)
    time = cost.time(Reference(), block.average, plan.facts, known)
    assert time == PASSES.call + 600 * PASSES.multiply_add + 75 * PASSES.pair + 75 * 17 * cost.ELEMENT


@pytest.mark.parametrize(
    ("inputs", "over", "expected"),
    [
        ("float[b, n, 4]", "n", {"b": 1, "n": 4096}),
        ("float[b, h, w, 4]", "[h, w]", {"b": 1, "h": 64, "w": 64}),
        ("float[t, h, w, 4]", "[t, h, w]", {"t": 16, "h": 16, "w": 16}),
        ("float[b, 7, 4]", "1", {"b": 1}),
    ],
)
def test_lengths_that_are_assumed(inputs, over, expected):
    over = "[b]" if over == "1" else over
    spec = f"""
tower: sample
inputs: {{x: "{inputs.replace("7", "m=7")}"}}
blocks:
  look(x):
    {"over: m" if over == "[b]" else f"over: {over}"}
    query: x
    key: x
    value: x
outputs: look(x)
"""
    (block,) = choose.attentions(towerdsl.compiler.compile_spec(spec).model.root)
    assert cost.nominal(block.average) == expected


def test_the_pairs_of_a_relation_are_assumed_too():
    (block,) = choose.attentions(towerdsl.compiler.compile_spec(sample(locality="edges[j, i]")).model.root)
    size = towerdsl.ir.size.Size.free("edges")
    assert cost.At(block.average, {})(size) == 16 * 4096
    assert cost.At(block.average, {"n": 10})(size) == 160
    assert cost.At(block.average, {"n": 10, "edges": 7})(size) == 7


# --- a faster kernel within reach -------------------------------------------------------------------------------


def seen(average) -> bool:
    return average.visible is not None and "keep" in str(average.visible)


@pytest.mark.parametrize(
    ("fields", "blocker", "change"),
    [
        ({"dropout": "0.1"}, lambda a: a.dropout, "without dropout"),
        ({"message": "v * 2"}, lambda a: type(a.message).__name__ != "Local", "with the value itself as message"),
        (
            {"score": "dot(q, k) + i - j"},
            lambda a: type(a.score).__name__ != "Dot",
            "without what is added to the dot product",
        ),
        ({"mask": "keep[j] and j <= i"}, seen, "without keep[j]"),
        ({"normalize": "sigmoid"}, lambda a: a.normalize != "none", "with normalize: none"),
    ],
)
def test_what_is_in_the_way(catalog, fields, blocker, change):
    catalog(Quick(lambda a: "no" if blocker(a) else None), Reference())
    (found,) = explain(sample(**fields)).attentions
    assert found.facts.kernel == "reference"
    assert found.facts.near is not None
    assert (found.facts.near.kernel, found.facts.near.change) == ("quick", change)
    assert found.facts.near.gain > 2
    shown = " ".join(text(explain(sample(**fields))).replace("│", " ").split())
    assert f"in reach quick {found.facts.near.gain:g} times as fast, by estimate, {change}" in shown
    (data,) = to_data(explain(sample(**fields)))["attentions"]
    assert data["near"]["change"] == change


def test_two_things_are_too_far(catalog):
    catalog(Quick(lambda a: "no" if a.dropout or a.normalize == "sigmoid" else None), Reference())
    (found,) = explain(sample(dropout="0.1", normalize="sigmoid")).attentions
    assert found.facts.near is None


def test_little_is_not_worth_a_word(catalog):
    slow = Quick(lambda a: "no" if a.dropout else None)
    slow.speed = PASSES
    catalog(slow, Reference())
    (found,) = explain(sample(dropout="0.1")).attentions
    assert found.facts.near is None
