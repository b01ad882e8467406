"""Rotary positions equal those of transformers: each scaling of frequencies, near and far, in float32 and bfloat16."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.glm.modeling_glm import GlmRotaryEmbedding
from transformers.models.glm.modeling_glm import apply_rotary_pos_emb as turn_pairs
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as turn_halves

import towerdsl

D, PART, BASE, LENGTH = 64, 48, 500000.0, 4096
POSITIONS = torch.tensor([0, 1, 999, 1000, 7999, 8000, 60000])
LONG = {"short_factor": [1 + k / 31 for k in range(D // 2)], "long_factor": [1 + k * k / 9 for k in range(D // 2)]}
#: How the language says a scaling, and how a configuration of transformers does.
KINDS = {
    "default": ("rope_frequencies(d, base)", "1", {}),
    "linear": ("rope_linear(d, 4, base)", "1", {"rope_type": "linear", "factor": 4.0}),
    "dynamic": ("rope_dynamic(d, 4, 4096, 60001, base)", "1", {"rope_type": "dynamic", "factor": 4.0}),
    "dynamic, short": ("rope_dynamic(d, 4, 80000, 60001, base)", "1", {"rope_type": "dynamic", "factor": 4.0}),
    "llama3": (
        "rope_llama3(d, 8, 1, 4, 4096, base)",
        "1",
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
    "yarn": ("rope_yarn(d, 4, 4096, base)", "yarn_scale(4)", {"rope_type": "yarn", "factor": 4.0}),
    "yarn, options": (
        "rope_yarn(d, 16, 4096, base, fast=16, slow=2, truncate=false)",
        "yarn_scale(16, 0.7) / yarn_scale(16, 0.5)",
        {"factor": 16.0, "beta_fast": 16, "beta_slow": 2, "truncate": False, "mscale": 0.7, "mscale_all_dim": 0.5}
        | {"rope_type": "yarn"},
    ),
    "longrope": (
        f"rope_longrope(d, {LONG['long_factor']}, base)",
        "longrope_scale(32, 4096)",
        LONG | {"rope_type": "longrope", "factor": 32.0},
    ),
    "longrope, short": (
        f"rope_longrope(d, {LONG['short_factor']}, base)",
        "longrope_scale(32, 80000)",
        LONG | {"rope_type": "longrope", "factor": 32.0},
    ),
}


def turned(formula: str, x: torch.Tensor) -> torch.Tensor:
    """What the language makes of x."""
    sizes = f"{{d: {D}, base: {BASE}}}"
    text = f'tower: turned\nsizes: {sizes}\ninputs: {{x: "float[b, n, d]", p: "int[n]"}}\noutputs: "{formula}"'
    return towerdsl.compile(text)().to(x.dtype)(x, POSITIONS)


def drawn(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, len(POSITIONS), D, generator=torch.Generator().manual_seed(0)).to(dtype)


def frequencies(config: LlamaConfig) -> tuple[torch.Tensor, float]:
    kind = config.rope_parameters["rope_type"]
    make = ROPE_INIT_FUNCTIONS.get(kind) or GlmRotaryEmbedding.compute_default_rope_parameters
    return make(config, device="cpu", seq_len=60001)


def angles(config: LlamaConfig, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The cosines and sines of transformers' models, as their rotary embeddings have them."""
    rates, scale = frequencies(config)
    angle = POSITIONS[None, :, None].float() * rates
    angle = torch.cat((angle, angle), -1)
    return (angle.cos() * scale).to(dtype), (angle.sin() * scale).to(dtype)


def config(kind: str, **changes) -> LlamaConfig:
    length = 80000 if kind.endswith("short") else LENGTH
    rope = {"rope_theta": BASE, "rope_type": "default"} | KINDS[kind][2] | changes
    return LlamaConfig(
        hidden_size=D, num_attention_heads=1, head_dim=D, max_position_embeddings=length, rope_parameters=rope
    )


def rotated(turn, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """What transformers makes of x, as the only head."""
    return turn(x[:, None], x[:, None], cos, sin)[0][:, 0]


def assert_near(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    assert mine.dtype == theirs.dtype
    steps = 4 if mine.dtype == torch.float32 else 2  # of rounding; angles of 60000 have to be the same numbers
    assert (mine - theirs).abs().max() <= steps * torch.finfo(mine.dtype).eps * theirs.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_scaled(kind: str, dtype: torch.dtype) -> None:
    rates, scale, _ = KINDS[kind]
    x = drawn(dtype)
    theirs = rotated(turn_halves, x, *angles(config(kind), dtype))
    assert_near(turned(f"rope_with(x, p, {rates}, d, {scale})", x), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_without_scaling(dtype: torch.dtype) -> None:
    """The short form is the same."""
    x = drawn(dtype)
    cos, sin = angles(config("default"), dtype)
    assert_near(turned("rope(x, p, d, base)", x), rotated(turn_halves, x, cos, sin))
    assert_near(turned("rope_pairs(x, p, d, base)", x), rotated(turn_pairs, x, cos, sin))


@pytest.mark.parametrize("kind", ["llama3", "yarn"])
def test_pairs(kind: str) -> None:
    """Neighbours are turned together."""
    rates, scale, _ = KINDS[kind]
    x = drawn()
    theirs = rotated(turn_pairs, x, *angles(config(kind), x.dtype))
    assert_near(turned(f"rope_pairs_with(x, p, {rates}, d, {scale})", x), theirs)


def test_aware_of_the_largest_wave() -> None:
    """NTK: the slowest frequency is that of linear scaling, the fastest stays."""
    x = drawn()
    found = turned("rope_with(x, p, rope_ntk(d, 4, base), d)", x)
    rates = 1 / (BASE * 4 ** (D / (D - 2))) ** (torch.arange(0, D, 2) / D)
    torch.testing.assert_close(rates[-1], frequencies(config("linear"))[0][-1])
    angle = torch.cat([POSITIONS[:, None] * rates] * 2, -1)
    assert_near(found, rotated(turn_halves, x, angle.cos()[None], angle.sin()[None]))


@pytest.mark.parametrize("name", ["rope_part", "rope_pairs_part"])
@pytest.mark.parametrize("kind", ["default", "yarn"])
def test_part(name: str, kind: str) -> None:
    """The first features of a head are turned, the others stay."""
    rates, scale, _ = KINDS[kind]
    text = f"""
tower: part
sizes: {{d: {PART}, whole: {D}, base: {BASE}}}
inputs: {{x: "float[b, n, whole]", asked: "float[b, m, whole]", p: "int[n]"}}
blocks:
  look(x, asked, p):
    query: asked
    key: x
    value: x
    score: dot(q, {name}(k, p[j], {rates}, d, whole, {scale}))
    normalize: none
outputs: look(x, asked, p)
"""
    x, whole = drawn(), torch.eye(D)[None].expand(2, -1, -1)  # each query asks for one feature
    cos, sin = (a[..., :PART] for a in angles(config(kind, partial_rotary_factor=PART / D), x.dtype))
    turn = turn_halves if name == "rope_part" else turn_pairs
    k = rotated(turn, x[..., :PART], cos, sin)
    theirs = torch.cat((k, x[..., PART:]), -1).transpose(1, 2) @ x
    torch.testing.assert_close(towerdsl.compile(text)()(x, whole, POSITIONS), theirs, rtol=1e-5, atol=1e-4)


def test_wrong_number_of_factors() -> None:
    with pytest.raises(towerdsl.TowerError, match="`rope_longrope` needs `len\\(factors\\) == size // 2`"):
        turned("rope_with(x, p, rope_longrope(d, [1, 2], base), d)", drawn())
