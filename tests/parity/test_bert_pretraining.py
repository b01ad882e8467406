"""BERT with its heads for masked words and the next sentence equals transformers' BertForPreTraining."""

import pytest
import torch
from transformers import BertConfig, BertForPreTraining, BertModel

import towerdsl

from . import equal

SIZES = {"d": 32, "heads": 4, "depth": 2, "vocab": 60, "context": 20}
TIED = "cls.predictions.decoder.weight"  # the words again; files leave it out


def peer(dtype=torch.float32):
    config = BertConfig(
        hidden_size=32,
        intermediate_size=128,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=60,
        max_position_embeddings=20,
    )
    return equal.draw(BertForPreTraining(config), 0.2).to(dtype).eval()


@pytest.fixture
def inputs():
    """Pairs of sentences of different lengths. The peer gives its word 0, padding, no gradient."""
    draw = torch.Generator().manual_seed(1)
    return {
        "ids": torch.randint(1, 60, (3, 13), generator=draw),
        "segment": (torch.arange(13) > torch.tensor([[5], [2], [0]])).long(),
        "keep": torch.arange(13) < torch.tensor([[13], [6], [2]]),
    }


def call(theirs, ids, segment=None, keep=None):
    found = theirs(ids, None if keep is None else keep.long(), segment)
    return found.prediction_logits, found.seq_relationship_logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_values_and_gradients(dtype, inputs):
    ours = towerdsl.compile("bert", **SIZES, pretraining=True)().to(dtype).eval()
    theirs = peer(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    equal.assert_equals_peer(ours, theirs, "huggingface", inputs, tolerance, lambda **x: call(theirs, **x))


def test_files_go_both_ways(inputs, tmp_path):
    """What transformers saves loads here, and what is saved here loads there."""
    theirs = peer()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    ours = towerdsl.load("bert", checkpoint=file, format="huggingface", strict="all", **SIZES, pretraining=True).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(1.25)
    towerdsl.save_checkpoint(ours, file, "huggingface")
    # prefixes are taken off when loading, not put back on when saving
    again, report = BertForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.inference_mode():
        for mine, other in zip(ours(**inputs), call(again.eval(), **inputs), strict=True):
            assert (mine - other).abs().max() <= 1e-5 * other.abs().max()


def test_the_same_file_without_the_heads(inputs, tmp_path):
    theirs = peer()
    theirs.save_pretrained(tmp_path)
    ours = towerdsl.load("bert", checkpoint=tmp_path / "model.safetensors", format="huggingface", **SIZES).eval()
    with torch.inference_mode():
        other = theirs.bert(inputs["ids"], inputs["keep"].long(), inputs["segment"]).last_hidden_state
        assert (ours(**inputs) - other).abs().max() <= 1e-5 * other.abs().max()
    # nothing of the heads is written
    towerdsl.save_checkpoint(ours, tmp_path / "states.safetensors", "huggingface")
    _, report = BertModel.from_pretrained(tmp_path, add_pooling_layer=False, output_loading_info=True)
    assert not report["missing_keys"]


def test_a_checkpoint_without_heads_does_not_do_for_them(minilm):
    sizes = {"d": 384, "heads": 12, "depth": 6}
    with pytest.raises(towerdsl.TowerError, match="cls"):
        towerdsl.load("bert", checkpoint=minilm, format="huggingface", **sizes, pretraining=True)


def test_the_default_is_bert_base():
    """With the heads every name and shape of the published model is there; the heads are all that is left out else."""
    with torch.device("meta"):
        theirs = {n.removeprefix("bert."): x.shape for n, x in BertForPreTraining(BertConfig()).state_dict().items()}
    del theirs[TIED]
    assert equal.published("bert", "huggingface", pretraining=True) == theirs
    heads = ("cls.", "pooler.")
    assert equal.published("bert", "huggingface") == {n: x for n, x in theirs.items() if not n.startswith(heads)}
