"""Six kinds of positions equal loops from their papers' formulas; T5's, Llama's and Bloom's also their attentions."""

import math

import pytest
import torch
from torch.nn.functional import gelu, layer_norm
from transformers import BloomConfig, LlamaConfig, T5Config
from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
from transformers.models.t5.modeling_t5 import T5Attention

import towerdsl

from . import equal

D, HEADS, REACH, BUCKETS, FAR = 8, 2, 2, 8, 6
DK = D // HEADS
SIZES = {"d": D, "ff": 12, "heads": HEADS, "depth": 2, "vocab": 11, "context": 10}
SIZES |= {"reach": REACH, "buckets": BUCKETS, "far": FAR}
KINDS = ("learned", "sinusoidal", "relative", "bucketed", "rotary", "alibi")


def sinusoidal(position):
    """Vaswani et al. 2017, section 3.5."""
    angles = [position / 10000 ** (2 * (f // 2) / D) for f in range(D)]
    return torch.tensor([math.cos(a) if f % 2 else math.sin(a) for f, a in enumerate(angles)], dtype=torch.float64)


def clipped(i, j):
    """The row of a table of relative positions. Shaw et al. 2018, section 3.2."""
    return max(-REACH, min(REACH, j - i)) + REACH


def bucket(i, j):
    """Raffel et al. 2020, section 2.1, as in the code that it comes with."""
    far, half = abs(j - i), BUCKETS // 2
    if far >= half // 2:
        far = min(
            half - 1, half // 2 + int(math.log(far / (half // 2)) / math.log(FAR / (half // 2)) * (half - half // 2))
        )
    return far + half if j > i else far


def rotated(x, position):
    """Su et al. 2021, equation 34: features f and f + dk / 2 are a point in a plane, turned by position * rate."""
    turned = list(x)
    for f in range(DK // 2):
        angle = position * 10000 ** (-2 * f / DK)
        a, b = x[f], x[f + DK // 2]
        turned[f] = a * math.cos(angle) - b * math.sin(angle)
        turned[f + DK // 2] = a * math.sin(angle) + b * math.cos(angle)
    return torch.stack(turned)


def score(kind, p, q, k, i, j, head):
    if kind == "relative":
        return q @ (k + p["near_keys"][clipped(i, j)]) / math.sqrt(DK)
    if kind == "bucketed":
        return q @ k + p["table"][head, bucket(i, j)]
    if kind == "rotary":
        return rotated(q, i) @ rotated(k, j) / math.sqrt(DK)
    found = q @ k / math.sqrt(DK)
    return found - abs(i - j) * 2 ** (-8 * (head + 1) / HEADS) if kind == "alibi" else found


def look(kind, p, x, keep, causal):
    """One text, position by position; a position that sees nothing averages nothing."""
    q, k, v = (x @ p[f"{part}.weight"].T + p[f"{part}.bias"] for part in ("query", "key", "value"))
    rows = []
    for i in range(len(x)):
        heads = []
        for head in range(HEADS):
            own = slice(head * DK, (head + 1) * DK)
            seen = [j for j in range(len(x)) if keep[j] and (j <= i or not causal)]
            values = [v[j, own] + (p["near_values"][clipped(i, j)] if kind == "relative" else 0) for j in seen]
            if seen:
                scores = torch.stack([score(kind, p, q[i, own], k[j, own], i, j, head) for j in seen])
                heads.append(sum(w * value for w, value in zip(scores.softmax(0), values, strict=True)))
            else:
                heads.append(torch.zeros(DK, dtype=x.dtype))
        rows.append(p["output.weight"] @ torch.cat(heads) + p["output.bias"])
    return torch.stack(rows)


def oracle(kind, causal, p, ids, keep):
    def inside(name):
        return {n.removeprefix(f"{name}."): value for n, value in p.items() if n.startswith(f"{name}.")}

    def norm(x, name):
        return layer_norm(x, [D], p[f"{name}.weight"], p[f"{name}.bias"])

    texts = []
    for text, kept in zip(ids, keep, strict=True):
        x = p["words.weight"][text]
        if kind == "learned":
            x = x + p["positions.weight"][: len(text)]
        if kind == "sinusoidal":
            x = x + torch.stack([sinusoidal(i) for i in range(len(text))])
        for layer in range(2):
            x = norm(x + look(kind, inside(f"look.{layer}"), x, kept, causal), f"look_norm.{layer}")
            up, down = inside(f"feed_forward.{layer}.up"), inside(f"feed_forward.{layer}.down")
            h = gelu(x @ up["weight"].T + up["bias"]) @ down["weight"].T + down["bias"]
            x = norm(x + h, f"feed_forward_norm.{layer}")
        texts.append(x)
    return torch.stack(texts)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("kind", KINDS)
def test_loops(kind, causal):
    ours = equal.draw(towerdsl.compile("positions", **SIZES, position=kind, causal=causal)().double())
    ids = torch.randint(0, 11, (2, 9), generator=torch.Generator().manual_seed(2))
    keep = torch.tensor([[True] * 9, [False, True, True, False, True, True, True, False, False]])
    equal.assert_equals_oracle(ours, lambda p, **x: oracle(kind, causal, p, **x), {"ids": ids, "keep": keep})


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_only_the_parameters_that_it_uses(kind):
    names = {name.rpartition(".")[2] for name, _ in towerdsl.compile("positions", position=kind)().named_parameters()}
    own = {"relative": {"near_keys", "near_values"}, "bucketed": {"table"}}
    assert names == {"weight", "bias"} | own.get(kind, set())
    assert hasattr(towerdsl.compile("positions", position=kind)(), "positions") == (kind == "learned")


# --- one attention beside transformers' ---------------------------------------------------------------------------


def attention(kind, **sizes):
    """The attention of a model of 64 features and 4 heads, and a text of 150 positions, so that no distance is near."""
    model = equal.draw(towerdsl.compile("positions", d=64, heads=4, depth=1, position=kind, **sizes)(), 0.2).eval()
    return model.look[0], torch.randn(2, 150, 64, generator=torch.Generator().manual_seed(3))


def assert_close(mine, other):
    difference = ((mine - other).abs().max() / other.abs().max()).item()
    print(f"largest difference: {difference:.1e} of the scale")
    assert difference <= 1e-5


@torch.no_grad()
def test_bucketed_is_t5s():
    ours, x = attention("bucketed")
    theirs = T5Attention(T5Config(d_model=64, d_kv=16, num_heads=4), has_relative_attention_bias=True).eval()
    for mine, other in ((ours.query, theirs.q), (ours.key, theirs.k), (ours.value, theirs.v), (ours.output, theirs.o)):
        other.weight.copy_(mine.weight)
        mine.bias.zero_()
    theirs.relative_attention_bias.weight.copy_(ours.table.T)
    assert_close(ours(x, torch.ones(2, 150, dtype=torch.bool)), theirs(x)[0])


@torch.no_grad()
def test_rotary_is_llamas():
    ours, x = attention("rotary", causal=True)
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=4, attention_bias=True)
    theirs = LlamaAttention(config, 0).eval()
    for part in ("query", "key", "value", "output"):
        getattr(theirs, f"{part[0]}_proj").load_state_dict(getattr(ours, part).state_dict())
    angles = LlamaRotaryEmbedding(config)(x, torch.arange(150)[None])
    later = torch.full((150, 150), -math.inf).triu(1)[None, None]
    assert_close(ours(x, torch.ones(2, 150, dtype=torch.bool)), theirs(x, angles, later)[0])


@torch.no_grad()
def test_alibi_is_blooms():
    """Bloom adds slope * j, which is slope * (j - i) up to a constant in each row."""
    ours, x = attention("alibi", causal=True)
    theirs = BloomAttention(BloomConfig(hidden_size=64, n_head=4), 0).eval()
    for part in ("weight", "bias"):
        each = torch.stack(
            [getattr(source, part).unflatten(0, (4, 16)) for source in (ours.query, ours.key, ours.value)]
        )
        getattr(theirs.query_key_value, part).copy_(each.transpose(0, 1).flatten(0, 2))  # heads, then query, key, value
    theirs.dense.load_state_dict(ours.output.state_dict())
    keep = torch.arange(150) < torch.tensor([[150], [40]])
    later = torch.full((150, 150), -math.inf).triu(1) + torch.zeros(2, 1, 1, 150).masked_fill(
        ~keep[:, None, None], -math.inf
    )
    other, _ = theirs(x, torch.zeros_like(x), build_alibi_tensor(keep.long(), 4, x.dtype), later)
    assert_close(ours(x, keep)[keep], other[keep])
