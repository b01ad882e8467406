"""GPT and GPT-2 equal transformers' OpenAIGPTLMHeadModel and GPT2LMHeadModel, values and gradients."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel

import towerdsl
from towerdsl.compiler import compile_spec

from . import equal

SIZES = {"d": 32, "heads": 4, "depth": 2, "vocab": 60, "context": 20}
CONFIG = {"n_embd": 32, "n_head": 4, "n_layer": 2, "vocab_size": 60, "n_positions": 20}
PEERS = {"gpt": (OpenAIGPTLMHeadModel, OpenAIGPTConfig), "gpt2": (GPT2LMHeadModel, GPT2Config)}

both = pytest.mark.parametrize("name", PEERS)


def pair(name, dtype=torch.float32):
    model, config = PEERS[name]
    return towerdsl.compile(name, **SIZES)().to(dtype).eval(), equal.draw(model(config(**CONFIG)), 0.2).to(dtype).eval()


@pytest.fixture
def inputs():
    """Texts of different lengths."""
    ids = torch.randint(0, 60, (3, 13), generator=torch.Generator().manual_seed(1))
    return {"ids": ids, "keep": torch.arange(13) < torch.tensor([[13], [6], [1]])}


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_values_and_gradients(name, dtype, inputs):
    ours, theirs = pair(name, dtype)

    def call(ids, keep):
        return theirs(ids, attention_mask=keep.long()).logits

    equal.assert_equals_peer(ours, theirs, "huggingface", inputs, 1e-5 if dtype == torch.float32 else 1e-10, call)


@both
def test_files_go_both_ways(name, inputs, tmp_path):
    """What transformers saves loads here, and what is saved here loads there."""
    _, theirs = pair(name)
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    ours = towerdsl.load(name, checkpoint=file, format="huggingface", strict="all", **SIZES).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(1.25)
    towerdsl.save_checkpoint(ours, file, "huggingface")
    again, report = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.inference_mode():
        mine, other = ours(inputs["ids"]), again.eval()(inputs["ids"]).logits
    assert (mine - other).abs().max() <= 1e-5 * other.abs().max()


@both
def test_nothing_later_is_seen(name, inputs):
    ours, _ = pair(name)
    whole = ours(inputs["ids"])
    torch.testing.assert_close(ours(inputs["ids"][:, :5]), whole[:, :5])


@both
def test_the_default_is_the_published_model(name):
    model, config = PEERS[name]
    equal.assert_published_size(name, "huggingface", lambda: model(config()))


@both
def test_what_differs_from_bert_is_one_definition(name):
    """With BERT's `sees` the attention is planned as BERT's is."""
    text = compile_spec(name).resolved.spec.source.text
    line = "  sees(keep): keep[j] and j <= i "
    assert line in text
    sees_all = compile_spec(text.replace(line, "  sees(keep): keep[j] "))
    gpt, changed, bert = (
        next(iter(c.plans.values())).facts for c in (compile_spec(name), sees_all, compile_spec("bert"))
    )
    assert changed == bert
    assert gpt.score == bert.score and gpt.locality != bert.locality
