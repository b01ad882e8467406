"""The kernel for GPUs, on a CPU: its block masks, what it refuses, what it promises. Its values are with the other
kernels' in tests/agreement."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import create_block_mask

import towerdsl
from towerdsl.compiler import compile_spec
from towerdsl.runtime import flex

HEAD = """
tower: flex
sizes: {{d: 32, heads: 2}}
inputs:
  x: float[b, n, d]
  doc: int[b, n]
  time: float[b, n]
  keep: bool[b, n] = true
blocks:
  look(x, doc, time, keep):
    params: {{table: "float[heads, 9]"}}
    query: linear(x, d)
    {fields}
outputs: look(x, doc, time, keep)
"""


USUAL = {"key": "linear(x, d)", "value": "linear(x, d)", "heads": "heads"}


def spec(*fields: str) -> str:
    return HEAD.format(
        fields="\n    ".join(f"{k}: {x}" for k, x in (USUAL | dict(f.split(": ", 1) for f in fields)).items())
    )


def inputs(n: int, b: int = 2) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(n)
    keep = torch.rand(b, n, generator=draw) < 0.9
    doc = (torch.rand(b, n, generator=draw) < 0.02).cumsum(-1)
    return torch.randn(b, n, 32, generator=draw), doc, torch.rand(b, n, generator=draw).cumsum(-1), keep


# --- which blocks are left out ---------------------------------------------------------------------------------

SIZE, QUERIES, KEYS = 4, 21, 18
TABLES = {
    "keep": torch.rand(2, KEYS, generator=torch.Generator().manual_seed(0)) < 0.7,
    "doc": torch.tensor([[0] * 5 + [1] * 9 + [2] * 7, [3] * 16 + [1] * 5]),
    "kind": torch.randint(4, (QUERIES,), generator=torch.Generator().manual_seed(1)),
    "time": torch.linspace(0, 1, QUERIES).expand(2, -1).clone(),
    "row": torch.tensor([3, 1, 4, 1, 5, 9, 2]),
}
TABLES["time"][1, 7] = float("nan")


def blocks(visible, size: int = SIZE):
    """What the condition says of blocks; and of pairs, [batch, head, query block, query, key block, key]."""
    found = flex.visible_blocks(visible, (2, 3), QUERIES, KEYS, torch.device("cpu"), size)
    mask = create_block_mask(visible, 2, 3, QUERIES, KEYS, device="cpu", BLOCK_SIZE=size)
    full = flex_dense(mask.full_kv_num_blocks, mask.full_kv_indices)
    return found, full | flex_dense(mask.kv_num_blocks, mask.kv_indices), full


def flex_dense(numbers, indices) -> torch.Tensor:
    """How many, and which, as a table of truth values."""
    shown = torch.arange(indices.shape[-1]) < numbers[..., None]
    return torch.zeros(indices.shape, dtype=torch.bool).scatter(-1, indices.long(), shown)


EXACT = {
    "everything before": "j <= i",
    "a window": "abs(i - j) < 7",
    "a window behind": "(0 <= i - j) & (i - j < 5)",
    "windows side by side": "(i + 2) // 6 == (j + 2) // 6",
    "dilated": "(i - j) % 12 == 0",
    "the first few": "(i < 3) | (j < 3)",
    "a window or the first few": "(abs(i - j) < 3) | (j < 2)",
    "not near": "~(abs(i - j) < 9)",
    "by head": "abs(i - j) < 3 * (h + 1)",
    "keys": "keep[b, j]",
    "documents": "doc[b, i] == doc[b, j]",
    "by entry": "(b == 0) | (j <= i)",
    "scaled": "2 * i - 7 < -(1 - j) * 3",
}


def condition(text: str):
    names = {**TABLES, "torch": torch, "abs": torch.abs}
    return eval(f"lambda b, h, i, j: {text}", names)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("size", [4, 5, 64])
def test_blocks_are_those_of_create_block_mask(name, size):
    (some, every), expected, full = blocks(condition(EXACT[name]), size)
    assert torch.equal(some.expand_as(expected), expected)
    assert torch.equal(every.expand_as(full), full)


def test_the_block_mask_is_that_of_create_block_mask():
    visible = condition(EXACT["a window behind"])
    q = torch.empty(1, 1, 90, 1)
    ours = flex.block_mask(visible, q, q, SIZE)
    theirs = create_block_mask(visible, 1, 1, 90, 90, device="cpu", BLOCK_SIZE=SIZE)
    assert ours.shape == theirs.shape
    assert ours.BLOCK_SIZE == theirs.BLOCK_SIZE
    assert ours.mask_mod is visible
    for name in ("kv", "full_kv", "q", "full_q"):
        for part in ("num_blocks", "indices"):
            a, b = (getattr(x, f"{name}_{part}") for x in (ours, theirs))
            assert torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride(), (name, part)


@st.composite
def conditions(draw, depth: int = 3) -> str:
    """A random condition of a pair."""

    def number(depth: int) -> str:
        leaf = ["i", "j", "h", "b", "2", "5", "0", "row[j % 7]", "row[torch.clamp(i - j + 3, 0, 6)]", "doc[b, i]"]
        leaf += ["doc[b, j]", "kind[i]", "kind[j]", "time[b, i]", "time[b, j]"]
        if not depth:
            return draw(st.sampled_from(leaf))
        x, y = number(depth - 1), number(draw(st.integers(0, depth - 1)))
        forms = ["{x} + {y}", "{x} - {y}", "{x} * {y}", "torch.abs({x} - j)", "-({x} - i)", "({x} + i) // 3"]
        forms += ["({x} - j) % 5", "torch.clamp({x} + j, 1, 9)", "torch.where(i < j, {x} + i, {y} + j)"]
        forms += [
            "torch.minimum({x} + i, {y} + j)",
            "torch.cos({x} + i)",
            "({x} + i) ** 2",
            "({x} + j).to(torch.float32)",
        ]
        return "(" + draw(st.sampled_from(forms)).format(x=x, y=y) + ")"

    def truth(depth: int) -> str:
        if not depth:
            op = draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
            x, y = number(draw(st.integers(0, 2))), number(draw(st.integers(0, 1)))
            return draw(st.sampled_from([f"({x} + i * 0 {op} {y} + j * 0)", f"({x} + i {op} {y} + j)", "keep[b, j]"]))
        x, y = truth(depth - 1), truth(draw(st.integers(0, depth - 1)))
        return "(" + draw(st.sampled_from(["{x} & {y}", "{x} | {y}", "~{x}"])).format(x=x, y=y) + ")"

    return truth(draw(st.integers(0, depth)))


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(conditions())
def test_no_visible_pair_is_left_out(text):
    """Blocks that are left out see nothing, blocks that are full see everything, whatever the condition."""
    (some, every), expected, full = blocks(condition(text))
    assert not (expected & ~some).any()
    assert not (every & ~full).any()


def test_blocks_are_found_without_pairs():
    """The work grows with the pairs of blocks."""
    queries, largest = 1 << 14, 0

    class Watching(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            found = function(*args, **(kwargs or {}))
            largest = max(largest, found.numel() if isinstance(found, torch.Tensor) else 0)
            return found

    doc = torch.arange(queries)[None] // 1000
    with Watching():
        flex.visible_blocks(
            lambda b, h, i, j: (doc[b, i] == doc[b, j]) & (i - j < 256), (1, 1), queries, queries, doc.device, 128
        )
    assert largest == queries == (queries // 128) ** 2


# --- attentions ------------------------------------------------------------------------------------------------

SERVED = {
    "a window": ["mask: abs(i - j) < 40"],
    "documents": ["mask: doc[i] == doc[j] and j <= i"],
    "padding": ["mask: keep[j]"],
    "padding and a window": ["mask: keep[j] and abs(i - j) < 40"],
    "by data": ["mask: time[j] - time[i] < 10.5 and not keep[i]"],
    "nobody but some": ["mask: doc[i] == doc[j] + 2"],
    "a table": ["score: dot(q, k) + table[head, clip(i - j, -4, 4) + 4] - 0.5 * time[j]", "mask: i - j < 200"],
    "fewer key heads": [
        "heads: {query: 2, key: 1}",
        "key: linear(x, 16)",
        "value: linear(x, 16)",
        "locality: blocks(50)",
    ],
}


@pytest.mark.parametrize("name", SERVED)
def test_values(name):
    text = spec(*SERVED[name])
    torch.manual_seed(0)
    reference = towerdsl.compile(text, kernel="reference")().double().eval()
    model = towerdsl.compile(text, kernel="flex", device="cuda")().double().eval()
    model.load_state_dict(reference.state_dict())
    x, *rest = inputs(300)
    with torch.no_grad():
        y = model(x.double(), *rest)
        torch.testing.assert_close(y, reference(x.double(), *rest), rtol=1e-10, atol=1e-10)
    assert y.isfinite().all()


def test_several_batch_axes():
    """They are one to flex_attention: an entry of a tensor with some of them is found from its number."""
    text = spec("mask: abs(i - j) < 40 and keep[j] and doc[i] == doc[j]").replace(
        "x: float[b, n, d]", "x: float[a, b, n, d]"
    )
    torch.manual_seed(0)
    reference = towerdsl.compile(text, kernel="reference")().double().eval()
    model = towerdsl.compile(text, kernel="flex", device="cuda")().double().eval()
    model.load_state_dict(reference.state_dict())
    x, *rest = inputs(130)
    x = torch.randn(3, *x.shape, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x, *rest), reference(x, *rest), rtol=1e-10, atol=1e-10)


def test_a_query_that_sees_nothing_gets_zeros():
    model = towerdsl.compile(spec("mask: keep[j]"), kernel="flex", device="cuda")().eval()
    x, doc, time, keep = inputs(150)
    keep[1] = False
    with torch.no_grad():
        y = model(x, doc, time, keep)
    assert not y[1].any()
    assert y[0].all(-1).all()


@pytest.mark.slow
def test_blocks_that_are_left_out_are_not_computed():
    """torch's compiled kernel for a CPU goes by the block mask; it wants operands that are tensors of their own."""
    q, k, v = torch.randn(3, 2, 3, 700, 16).unbind()
    keep, doc = torch.rand(2, 700) < 0.9, torch.arange(700) // 300

    def attend(q, k, v, keep, doc):
        def visible(b, h, i, j):
            return keep[b, j] & (torch.abs(i - j) < 300) & (doc[i] == doc[j])

        mask = flex.block_mask(visible, q, k)
        return flex.flex_attention(q, k, v, block_mask=mask)

    expected = attend(q, k, v, keep, doc)
    compiled = torch.compile(attend, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(q, k, v, keep, doc), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["documents", "padding and a window", "a table"])
def test_compiling_again_is_not_needed_for_other_lengths(name):
    model = towerdsl.compile(spec(*SERVED[name]), kernel="flex", device="cuda")().eval()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for n in (300, 310, 420, 150):
            given = inputs(n)
            torch.testing.assert_close(compiled(*given), model(*given), rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


def test_on_the_meta_device():
    model = towerdsl.compile(spec("mask: keep[j] and abs(i - j) < 4"), kernel="flex", device="cuda")().to("meta")
    assert model(*(x.to("meta") for x in inputs(200))).shape == (2, 200, 32)


# --- the choice ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (["mask: j <= i"], "there is nothing to leave out that scaled_dot_product_attention does not"),
        (["score: dot(q, k)"], "there is nothing to leave out that scaled_dot_product_attention does not"),
        (["mask: j < i", "dropout: 0.1"], "flex_attention drops no weights"),
        (["mask: j < i", "normalize: sigmoid"], "it computes the softmax average of values as they are"),
        (["mask: j < i", "message: 2 * v"], "it computes the softmax average of values as they are"),
        (["score: -sum((q - k) ** 2)"], "the score is not written as a dot product of a vector of i and a vector of j"),
        (["score: dot(q, k) - sum(abs(q - k))"], "pairs are made of vectors"),
        (["score: dot(q, k) + time[i] * time[j]"], "flex_attention has no gradient of a tensor that biases read twice"),
    ],
)
def test_refusals(fields, reason):
    with pytest.raises(towerdsl.TowerError, match="the kernel `flex` cannot compute this attention") as error:
        towerdsl.source(spec(*fields), kernel="flex", device="cuda")
    assert str(error.value).splitlines()[0].endswith(reason)


def chosen(text: str, **options) -> str:
    (plan,) = compile_spec(text, **options).plans.values()
    return plan.kernel.name


def test_it_is_for_gpus():
    text = spec("mask: doc[i] == doc[j]")
    assert chosen(text) != "flex"
    assert chosen(text, device="cuda") == "flex"
    assert chosen(spec("mask: abs(i - j) < 100"), device="cuda") == "flex"
    assert chosen(spec("mask: j <= i"), device="cuda") == "sdpa"
    with pytest.raises(towerdsl.TowerError, match="it is for GPUs, the device is cpu"):
        towerdsl.source(text, kernel="flex")


def test_there_is_no_such_device():
    with pytest.raises(towerdsl.TowerError, match="there is no device `cuda:0`"):
        towerdsl.source(spec(), device="cuda:0")
