"""BERT with MiniLM's weights gives what transformers' BertModel gives, however the compiled model is had."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining, BertModel

import towerdsl

SIZES = {"d": 384, "heads": 12, "depth": 6}

# Imports a standalone file where only torch is to be had, runs it on the batches and saves the states.
STANDALONE = """
import sys

class OnlyTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"towerdsl", "lark", "rich", "safetensors", "einops", "transformers"}:
            raise ImportError(f"a standalone module imports {name}")

sys.meta_path.insert(0, OnlyTorch())
import torch
from alone import Bert

given = torch.load("given.pt")
model = Bert().eval()
model.load_state_dict(given["weights"])
with torch.inference_mode():
    torch.save([model(ids, keep=keep) for ids, keep in given["batches"]], "states.pt")
"""


@pytest.fixture(scope="module")
def ours(minilm):
    return towerdsl.load(minilm)


@pytest.fixture(scope="module")
def theirs(minilm, batches):
    """The states that transformers computes, one tensor for each batch."""
    model = BertModel.from_pretrained(minilm).eval()
    with torch.inference_mode():
        return [model(ids, attention_mask=keep.long()).last_hidden_state for ids, keep in batches]


def sentence_embedding(states, keep):
    kept = keep[..., None]
    return F.normalize((states * kept).sum(1) / kept.sum(1), dim=-1)


def assert_same(states, theirs, batches):
    for mine, other, (_, keep) in zip(states, theirs, batches, strict=True):
        assert mine.shape == other.shape
        assert (mine - other)[keep].abs().max() <= 2e-5
        assert (sentence_embedding(mine, keep) - sentence_embedding(other, keep)).abs().max() <= 1e-6


@torch.inference_mode()
def run(model, batches):
    return [model(ids, keep=keep) for ids, keep in batches]


def test_the_sentences_differ_in_length(batches):
    lengths = torch.cat([keep.sum(1) for _, keep in batches])
    assert len(lengths) >= 64
    assert lengths.unique().numel() > 30
    assert lengths.min() < 10 and lengths.max() > 150


def test_in_memory(ours, theirs, batches):
    assert_same(run(ours, batches), theirs, batches)


def test_imported_file(ours, theirs, batches, emit, import_file):
    model = import_file(emit("bert", **SIZES)).Bert().eval()
    model.load_state_dict(ours.state_dict())
    assert_same(run(model, batches), theirs, batches)


def test_standalone_file_where_only_torch_is_importable(ours, theirs, batches, emit):
    file = emit("bert", "--standalone", **SIZES)
    folder = file.parent
    file.rename(folder / "alone.py")
    torch.save({"weights": ours.state_dict(), "batches": batches}, folder / "given.pt")
    done = subprocess.run([sys.executable, "-c", STANDALONE], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(torch.load(folder / "states.pt"), theirs, batches)


def test_both_sentences_of_a_pair(ours, minilm, batches):
    """Segments: the second half of every text counts as the second sentence."""
    ids, keep = batches[0]
    segment = (torch.arange(ids.shape[1]) >= ids.shape[1] // 2).long().expand_as(ids)
    with torch.inference_mode():
        theirs = BertModel.from_pretrained(minilm).eval()(ids, keep.long(), segment).last_hidden_state
        assert (ours(ids, segment, keep) - theirs)[keep].abs().max() <= 2e-5


def test_gradients(minilm, batches, ours):
    ids, keep = batches[0][0][:4], batches[0][1][:4]
    theirs = BertModel.from_pretrained(minilm).eval()
    theirs(ids, attention_mask=keep.long()).last_hidden_state[keep].square().sum().backward()
    ours.zero_grad()
    ours(ids, keep=keep)[keep].square().sum().backward()
    pairs = [
        (ours.words.weight, theirs.embeddings.word_embeddings.weight),
        (ours.layer[0].attention.query.weight, theirs.encoder.layer[0].attention.self.query.weight),
        (ours.layer[0].feed_forward.up.bias, theirs.encoder.layer[0].intermediate.dense.bias),
        (ours.layer[5].feed_forward_norm.weight, theirs.encoder.layer[5].output.LayerNorm.weight),
    ]
    for mine, other in pairs:
        assert (mine.grad - other.grad).abs().max() <= 1e-4 * other.grad.abs().max()


@pytest.fixture(scope="module")
def pretraining():
    """A small BERT with its heads for pretraining, and its sizes."""
    sizes = {"d": 32, "heads": 4, "depth": 2, "vocab": 99, "context": 40}
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=sizes["d"],
        intermediate_size=4 * sizes["d"],
        num_attention_heads=sizes["heads"],
        num_hidden_layers=sizes["depth"],
        vocab_size=sizes["vocab"],
        max_position_embeddings=sizes["context"],
    )
    return BertForPreTraining(config).eval(), sizes


@pytest.mark.parametrize("gamma", [False, True], ids=["weight", "gamma"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_pretraining_checkpoint(pretraining, suffix, gamma, tmp_path: Path):
    """As the first public BERTs are: `bert.` before the names, heads, and gamma and beta for weight and bias."""
    theirs, sizes = pretraining
    weights = {name: value.clone() for name, value in theirs.state_dict().items()}
    if gamma:
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        weights = {re.sub("|".join(old), lambda new: old[new[0]], name): value for name, value in weights.items()}
    file = tmp_path / f"model.{suffix}"
    if suffix == "safetensors":
        save_file(weights, file)
    else:
        torch.save(weights, file)
    ours = towerdsl.load("bert", checkpoint=file, format="huggingface", **sizes)
    ids = torch.randint(0, sizes["vocab"], (3, 11))
    with torch.inference_mode():
        assert (ours(ids) - theirs.bert(ids).last_hidden_state).abs().max() <= 2e-5
    saved = load_file(towerdsl.save_checkpoint(ours, tmp_path / "saved.safetensors", "huggingface"))
    assert saved.keys() <= {name.removeprefix("bert.") for name in theirs.state_dict()}  # none of the old spellings


def test_parameters_read_like_hand_written_ones(ours):
    names = set(ours.state_dict())
    assert {
        "words.weight",
        "positions.weight",
        "segments.weight",
        "norm.bias",
        "layer.0.attention.query.weight",
        "layer.0.attention.output.bias",
        "layer.0.attention_norm.weight",
        "layer.5.feed_forward.up.weight",
        "layer.5.feed_forward.down.bias",
        "layer.5.feed_forward_norm.weight",
    } <= names
    assert len(names) == 3 + 2 + 6 * 16


def test_every_weight_of_the_file_is_used(ours, minilm):
    """What is left out is the pooler and a table of positions, and nothing else."""
    public = load_file(minilm / "model.safetensors")
    left_out = [name for name in public if name.startswith("pooler.") or name.endswith("position_ids")]
    assert len(left_out) == 3
    used = sum(value.numel() for name, value in public.items() if name not in left_out)
    assert used == sum(parameter.numel() for parameter in ours.parameters())


def test_default_sizes_are_those_of_bert_base():
    with torch.device("meta"):
        model = towerdsl.compile("bert")()
        theirs = BertModel(BertConfig(), add_pooling_layer=False)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())
