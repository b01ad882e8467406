"""`towerdsl inspect` and `towerdsl specs NAME`."""

import json

import pytest
import torch
from safetensors.torch import save_file
from weights.gguf_files import SIZES, write

from towerdsl import cli


def shown(capsys, *arguments: str) -> str:
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out


def test_a_gguf_file(tmp_path, capsys):
    layers = {f"blk.{k}.attn_q.weight": torch.ones(2, 32).numpy() for k in range(3)}
    file = write(tmp_path / "a.gguf", layers, "llama", SIZES | {"/general.name": "small"}, "Q8_0")
    text = shown(capsys, "inspect", str(file))
    assert "3 tensors with 192 numbers (3 in Q8_0)" in text
    assert "a.gguf is of `llama` of the library, family `llama`" in text
    assert "  general.name: small" in text and "  llama.block_count: 2" in text
    assert "  blk.*.attn_q.weight  Q8_0  [2, 32]  3 times" in text
    assert json.loads(shown(capsys, "inspect", str(file), "--json"))["tensors"]["blk.0.attn_q.weight"]["type"] == "Q8_0"


@pytest.mark.slow
def test_names_alone(tmp_path, capsys):
    names = [f"h.{k}.{part}.weight" for k in range(2) for part in ("attn.c_attn", "ln_1", "mlp.c_fc")]
    save_file({name: torch.ones(2) for name in [*names, "wte.weight", "head"]}, tmp_path / "x.safetensors")
    text = shown(capsys, "inspect", str(tmp_path / "x.safetensors"))
    assert "4 of 5 kinds of names are those of `gpt2` of the library, format `huggingface`" in text
    save_file({"a.b.c": torch.ones(2), "\x1b[31m.d.e": torch.ones(1)}, tmp_path / "y.safetensors")
    text = shown(capsys, "inspect", str(tmp_path / "y.safetensors"))
    assert "no spec of the library has most of these names" in text and "\x1b" not in text


def test_a_configuration_that_does_not_fit(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert "no spec of the library is for this configuration" in shown(capsys, "inspect", str(tmp_path))


def test_no_checkpoint(tmp_path, capsys):
    assert cli.main(["inspect", str(tmp_path / "nothing")]) == 1
    assert "there is no file" in capsys.readouterr().err


def test_a_spec(capsys):
    text = shown(capsys, "specs", "llama")
    assert "sizes\n" in text and "head_size" in text and "d // heads = 64" in text
    assert "checkpoint formats: huggingface" in text and "gguf.llama" in text
    assert "config.json, by model_type: llama, mistral" in text
    assert "GGUF, by general.architecture: llama, qwen2, qwen3, phi3" in text
    assert "checkpoint formats: torch_geometric" in shown(capsys, "specs", "gat")
    assert cli.main(["specs", "lama"]) == 1
