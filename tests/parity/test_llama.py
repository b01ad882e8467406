"""Llama, Mistral, Qwen2, Qwen3 and Phi-3 equal transformers, from `config.json` and weights alone; of each key of their
configurations, whatever is made of it: the model is that of transformers, or the key is refused by name.

`TOWERDSL_CONFIGS=50 pytest -m slow tests/parity/test_llama.py` tries 50 changes of each family, without it all.
"""

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import towerdsl
from towerdsl.configs.find import rules_of
from towerdsl.configs.idle import IDLE
from towerdsl.configs.rules import Config, Rules
from towerdsl.weights.load import load_new

from .equal import draw

SIZES = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "vocab_size": 23, "max_position_embeddings": 40, "pad_token_id": 0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 3.0, 4.0]}
PART = {"rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [2.0, 4.0]}
#: Published configurations, made smaller: the first of each family stands for it in every run of the tests.
FAMILIES = {
    "llama": [
        {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 16}, "rope_theta": 500.0},  # Llama 3.1, 3.2
        {"num_key_value_heads": 4, "rms_norm_eps": 1e-5, "pretraining_tp": 1},  # Llama 2
        {"tie_word_embeddings": True, "rope_interleaved": False, "is_llama_config": True},  # SmolLM2
        {"attention_bias": True, "mlp_bias": True, "head_dim": 10, "hidden_act": "gelu"},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": 8},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.5}},
    ],
    "mistral": [
        {"sliding_window": 5, "rope_theta": 300.0},  # 0.1
        {"sliding_window": None, "head_dim": 8},  # 0.3, Nemo
        {"num_key_value_heads": 4, "hidden_act": "relu"},
        {"sliding_window": 1, "tie_word_embeddings": True},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}},
    ],
    "qwen2": [
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        {"use_sliding_window": False, "sliding_window": 4, "rope_theta": 1000000.0, "tie_word_embeddings": True},  # 2.5
        {"use_mrope": False, "max_window_layers": 21, "rms_norm_eps": 1e-5},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}},
        {"layer_types": ["full_attention", "full_attention"], "sliding_window": None},
    ],
    "qwen3": [
        {"head_dim": 8, "rope_theta": 1000000.0, "tie_word_embeddings": True},  # 0.6B
        {"head_dim": 10, "attention_bias": True},
        {"head_dim": 6, "rope_scaling": None, "use_sliding_window": False, "sliding_window": None},
        {"head_dim": 8, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0},
        {"head_dim": 8, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}},
    ],
    "phi3": [
        {"rope_scaling": PART, "original_max_position_embeddings": 9, "partial_rotary_factor": 0.67},  # Phi-4 mini
        {"sliding_window": 5, "original_max_position_embeddings": 40, "rope_scaling": None},  # mini-4k
        {"attention_bias": False, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "num_key_value_heads": 4},
        {"rope_scaling": LONG, "original_max_position_embeddings": 20},  # mini-128k: short, in 13 positions
        {"lm_head_bias": False, "mlp_bias": False, "full_attn_mod": 1, "interpolate_factor": 1},
    ],
}


def configuration(family: str, k: int = 0) -> dict:
    return {"model_type": family, **SIZES, **FAMILIES[family][k]}


def theirs(values: dict) -> nn.Module:
    """The model of transformers, with every parameter drawn; norms around 1."""
    config = AutoConfig.for_model(**{key: value for key, value in values.items() if key != "architectures"})
    model = draw(AutoModelForCausalLM.from_config(config).float().eval(), std=0.3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(1.0 if "norm" in name else 0.0)
    return model


def assert_equal(ours: nn.Module, model: nn.Module) -> None:
    """Odd lengths, padding to the left and to the right, where positions are those of the texts without it."""
    ids = torch.randint(1, 20, (3, 13), generator=torch.Generator().manual_seed(1))
    keep = torch.ones(3, 13, dtype=torch.bool)
    keep[1, :4] = False
    keep[2, 9:] = False
    positions = (keep.long().cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        for mask in (keep, None):
            given = {} if mask is None else {"attention_mask": mask.long(), "position_ids": positions}
            expected, found = model(input_ids=ids, return_dict=True, **given).logits, ours(ids, mask)
            seen = torch.ones_like(keep) if mask is None else mask
            assert (found - expected)[seen].abs().max() <= 1e-5 * max(1, expected.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_from_a_folder(family: str, tmp_path) -> None:
    model = theirs(configuration(family))
    model.save_pretrained(tmp_path)
    ours = towerdsl.load(tmp_path)
    assert_equal(ours, model)
    assert ours.checkpoint_report.ok and not ours.checkpoint_report.unexpected


@pytest.mark.slow
@pytest.mark.parametrize(("family", "k"), [(f, k) for f, all_ in FAMILIES.items() for k in range(len(all_))])
def test_published(family: str, k: int, tmp_path) -> None:
    """As it was written before version 5, and as it is written now; in shards."""
    values = configuration(family, k)
    model = theirs(values)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert_equal(towerdsl.load(tmp_path), model)
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert_equal(towerdsl.load(tmp_path), model)


# --- every key, deleted and altered ----------------------------------------------------------------------------

ADDED = {
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
    "query_pre_attn_scalar": 64,
    "logit_scale": 0.5,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "no_rope_layers": [1, 0],
    "num_local_experts": 4,
    "quantization_config": {"quant_method": "gptq", "bits": 4},
    "per_layer_config": {"1": {"num_attention_heads": 2}},
}
ROPES = [
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "linear"},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0, "beta_fast": 8.0, "attention_factor": 0.7},
    {"rope_type": "yarn", "factor": 2.0, "truncate": False, "original_max_position_embeddings": 8},
    {"type": "su", **{key: LONG[key] for key in ("short_factor", "long_factor")}},
    LLAMA3,
    LONG | {"original_max_position_embeddings": 8},
    {"rope_type": "proportional", "partial_rotary_factor": 0.5},
    {"rope_type": "default", "rope_theta": 77.0},
    {"rope_type": "default", "partial_rotary_factor": 0.5},
    {"rope_type": "llama4", "factor": 2.0},
    {},
]


def altered(key: str, value: object) -> list[object]:
    """Other values of a key."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int | float):
        return [2 * value, value + 1, 0, None]
    if isinstance(value, str):
        return ["gelu", "nothing", None]
    if isinstance(value, list):
        return [value[::-1], value[:1], [], ["sliding_attention"] * len(value)]
    return [1, 3, 0.5, True, None]


def changed(family: str) -> Iterator[tuple[str, dict]]:
    """Configurations with one key deleted, altered or added: each with the key's name."""
    base = {"model_type": family, **SIZES, "head_dim": 6}
    fields = set(CONFIG_MAPPING[family].__dataclass_fields__) | set(CONFIG_MAPPING[family]().to_dict())
    defaults = CONFIG_MAPPING[family]().to_dict()
    for key in sorted({*fields, *base, "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}):
        if key in ("model_type", "dtype", "transformers_version", "architectures"):
            continue
        if key in base:
            yield key, {name: value for name, value in base.items() if name != key}
        for value in altered(key, base.get(key, defaults.get(key))):
            yield key, base | {key: value}
    for key, value in ADDED.items():
        yield key, base | {key: value}
    for rope in ROPES:
        yield "rope", base | {"rope_parameters": rope}
        yield "rope", base | {"rope_scaling": rope, "rope_theta": 50.0}


@cache
def rules() -> Rules:
    found = rules_of("llama")
    assert found is not None
    return found


def walk(family: str, picked: slice, folder: Path) -> dict[str, int]:
    """How many changed configurations are equal, refused, and refused by transformers itself."""
    known: dict[str, type[nn.Module]] = {}
    counts = {"equal": 0, "refused": 0, "theirs": 0}
    wrong = []
    for key, values in list(changed(family))[picked]:
        read = rules().read(Config(values))
        sizes = json.dumps(read.sizes, sort_keys=True)
        (folder / "config.json").write_text(json.dumps(values))
        try:
            made = (None if read.mistakes else known.get(sizes)) or towerdsl.compile(folder)
        except towerdsl.TowerError as error:
            counts["refused"] += 1
            wrong += [] if key in str(error) else [f"{key} is not named in {error}"]
            continue
        known[sizes] = made
        try:
            model = theirs(values)
            model(input_ids=torch.tensor([[1, 2, 3]]))
        except Exception:  # whatever stops transformers: there is nothing to be equal to
            counts["theirs"] += 1
            continue
        counts["equal"] += 1
        try:
            assert_equal(load_new(made, model.state_dict())[0].eval(), model)
        except Exception as error:
            wrong.append(f"{key}: {values}: {error}")
    assert not wrong, "\n".join(wrong)
    return counts


@pytest.mark.parametrize("family", FAMILIES)
def test_no_key_is_passed_over(family: str) -> None:
    """Another value of a key is refused by its name, or gives another model, or is of those that change nothing."""
    config = {"model_type": family, **SIZES, "head_dim": 6}
    base = rules().read(Config(config)).sizes
    idle = IDLE | {"resid_pdrop", "embd_pdrop"}
    defaults = CONFIG_MAPPING[family]().to_dict() | {"partial_rotary_factor": 1.0}
    for key, values in changed(family):
        read = rules().read(Config(values))
        if read.mistakes:
            assert any(key in d.message for d in read.mistakes), (key, values, read.mistakes)
        elif key in values and key not in idle and values[key] not in (None, config.get(key), defaults.get(key)):
            assert read.sizes != base or key == "layer_types", (key, values)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_key(family: str, tmp_path) -> None:
    number = int(os.environ.get("TOWERDSL_CONFIGS", "0"))
    total = len(list(changed(family)))
    counts = walk(family, slice(None, None, max(1, total // number) if number else 1), tmp_path)
    print(family, counts)
    assert counts["equal"] > counts["theirs"]
