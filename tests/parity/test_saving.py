"""What `towerdsl.save` writes is the model of transformers, and of `towerdsl.load`.

`pytest -m slow tests/parity/test_saving.py` saves every family that has a configuration.
"""

import json
from pathlib import Path

import pytest
import torch
import transformers

import towerdsl
from towerdsl.diagnostics import TowerError

from . import test_decoders, test_published_floors, test_word_encoders
from .configured import assert_equal, theirs

FAMILIES = test_decoders.FAMILIES | test_published_floors.FAMILIES | test_word_encoders.FAMILIES


def saved(name: str, folder: Path, shard: int = 20_000) -> dict:
    """Their model, loaded and saved, is theirs again; the configuration that is written."""
    family = FAMILIES[name]
    values = family.configuration()
    model = theirs(family, values)
    model.save_pretrained(folder / "theirs")
    ours = towerdsl.load(folder / "theirs")
    assert towerdsl.save(ours, folder / "ours", shard=shard) == folder / "ours"
    again = getattr(transformers, values["architectures"][0]).from_pretrained(folder / "ours").eval()
    if not family.spare:
        assert all(torch.equal(x, again.state_dict()[n]) for n, x in model.state_dict().items())
    assert_equal(family, values, ours, again)
    assert_equal(family, values, towerdsl.load(folder / "ours"), again)
    return json.loads((folder / "ours" / "config.json").read_text())


def test_in_shards(tmp_path: Path) -> None:
    """With its family and dtype, in the names of its family: queries, keys and values of Phi-3 are one."""
    values = saved("phi3", tmp_path)
    assert values["model_type"] == "phi3" and values["dtype"] == "float32"
    index = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())
    assert "layers.0.self_attn.qkv_proj.weight" in index["weight_map"]
    assert len(set(index["weight_map"].values())) > 1


def test_in_one_file(tmp_path: Path) -> None:
    assert saved("bert", tmp_path, 10**9)["architectures"] == ["BertModel"]
    files = sorted((tmp_path / "ours").iterdir())
    assert [x.name for x in files] == ["config.json", "model.safetensors"]
    (tmp_path / "other").touch()
    assert {x.stat().st_mode for x in files} == {(tmp_path / "other").stat().st_mode}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str, tmp_path: Path) -> None:
    assert saved(name, tmp_path)["model_type"] == FAMILIES[name].configuration()["model_type"]


def small() -> torch.nn.Module:
    return towerdsl.compile("gpt2", d=8, heads=2, depth=1, vocab=5, context=7)()


def test_over_another(tmp_path: Path) -> None:
    """Files of the old weights are gone, others stay; what is stopped leaves all as it was."""
    for name in ("model-00001-of-00002.safetensors", "pytorch_model.bin", "tokenizer.json", "config.json"):
        (tmp_path / name).write_text(name)
    model = small()
    model.words.weight = torch.nn.Parameter(torch.empty(5, 8, device="meta"))
    before = {x.name: x.read_text() for x in tmp_path.iterdir()}
    with pytest.raises(TowerError, match="on the meta device"):
        towerdsl.save(model, tmp_path)
    assert {x.name: x.read_text() for x in tmp_path.iterdir()} == before
    towerdsl.save(small(), tmp_path)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: towerdsl.compile("gat")(), "`gat` has no rules for a public configuration"),
        (lambda: towerdsl.compile("gpt2", dropout=0.1, norm_first=False)(), "no public configuration has the sizes"),
        (lambda: torch.nn.Linear(2, 2), "was not compiled here"),
    ],
)
def test_what_cannot_be_saved(make, says, tmp_path: Path) -> None:
    with pytest.raises(TowerError, match=says):
        towerdsl.save(make(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for where in (tmp_path / "file", tmp_path / "not" / "there"):
        with pytest.raises(TowerError, match="cannot be written"):
            towerdsl.save(small(), where)
