"""GGUF files: unpacked as the package gguf does, mapped where they can be, refused by name; never without bounds."""

import random
import struct
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize, quantize

import towerdsl
from towerdsl.configs import sizes_for
from towerdsl.diagnostics import TowerError
from towerdsl.weights.files import format_of, read
from towerdsl.weights.gguf import PACKED, read_header

from .gguf_files import SIZES, write


def test_the_table_of_types():
    for number, (name, elements, size) in PACKED.items():
        kind = GGMLQuantizationType(number)
        assert (kind.name, GGML_QUANT_SIZES[kind]) == (name, (elements, size))


@pytest.mark.parametrize("packed", [name for name, *_ in PACKED.values()])
def test_unpacked(tmp_path, packed):
    """As the package does: what it can pack, and any bytes where it cannot."""
    kind = GGMLQuantizationType[packed]
    values = np.random.default_rng(0).normal(size=(6, 512)).astype(np.float32)
    try:
        given = quantize(values, kind)
    except NotImplementedError:
        given = np.random.default_rng(1).integers(0, 60, (6, 512 // 256 * GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    found = read(write(tmp_path / "a.gguf", {"x": given if given.dtype == np.uint8 else values}, packed=packed))["x"]
    assert found.shape == (6, 512)
    assert np.array_equal(found.float().numpy(), dequantize(given, kind))
    assert found.dtype == {"F16": torch.float16, "BF16": torch.bfloat16}.get(packed, torch.float32)


def test_floats_are_the_bytes_of_the_file(tmp_path):
    """They are mapped: what is written into a tensor stays out of the file."""
    file = write(tmp_path / "a.gguf", {"x": np.ones((3, 4)), "y": np.full(5, 2.0)})
    before = file.read_bytes()
    found = read(file)
    assert found["x"].untyped_storage().data_ptr() == found["y"].untyped_storage().data_ptr()
    found["x"].zero_()
    assert file.read_bytes() == before and format_of(file) == "gguf.llama"


def test_metadata(tmp_path):
    more = {"/tokenizer.ggml.tokens": ["a", "b"], "/x.many": list(range(5000)), "/x.few": [1, 2], "/x.yes": True}
    header = read_header(write(tmp_path / "a.gguf", {}, "llama", {"block_count": 2, "eps": 0.5, **more}))
    assert header.architecture == "llama" and header.metadata["llama.block_count"] == 2
    assert header.metadata["llama.eps"] == 0.5 and header.metadata["tokenizer.ggml.tokens"] == ["a", "b"]
    assert header.metadata["x.few"] == [1, 2] and header.metadata["x.yes"] is True
    assert header.metadata["x.many"].length == 5000


def test_types_that_are_not_read(tmp_path):
    blocks = np.zeros((2, 136), dtype=np.uint8)
    write(tmp_path / "a.gguf", {"x": blocks}, packed="IQ4_XS")
    with pytest.raises(TowerError, match="has tensors packed as IQ4_XS, which is not read"):
        read(tmp_path / "a.gguf")


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert read(write(tmp_path / "a.gguf", {"x": np.ones((2, 32))}, packed="F16"))["x"].shape == (2, 32)
    write(tmp_path / "b.gguf", {"x": np.ones((2, 32))}, packed="Q8_0")
    with pytest.raises(TowerError, match=r"packed as Q8_0, which needs the package gguf(.|\n)*pip install gguf"):
        read(tmp_path / "b.gguf")


def test_a_model_has_no_names_for_it(tmp_path):
    write(tmp_path / "a.gguf", {"x": np.ones((2, 32))})
    with pytest.raises(TowerError, match="is a GGUF file, and the model has no names for one"):
        towerdsl.load_checkpoint(towerdsl.compile("gpt2", d=8, heads=2, depth=1, vocab=5)(), tmp_path / "a.gguf")


# --- configurations --------------------------------------------------------------------------------------------


def refusal(file) -> str:
    with pytest.raises(TowerError) as error:
        towerdsl.compile(file)
    return str(error.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"expert_count": 8}, "`llama.expert_count` is 8, `llama` computes 0 only"),
        ({"attention.scale": 0.5}, "`llama.attention.scale` is 0.5, and `llama` has no rule for it"),
        ({"attention.value_length": 4}, "`llama.attention.value_length` is 4, `llama` computes 8 only"),
        ({"rope.dimension_count": 4}, "`llama.rope.dimension_count` is 4, `llama` computes 8 only"),
        ({"rope.scaling.type": "longrope"}, '`llama.rope.scaling.type` is "longrope", `llama` takes "none", "linear"'),
        ({"rope.scaling.type": "linear"}, "the configuration has no `rope.scaling.factor`"),
        ({"attention.head_count_kv": [2, 1]}, "`llama.attention.head_count_kv` is [2, 1]"),
        ({"block_count": "two"}, '`llama.block_count` is "two", `llama` takes a whole number'),
        ({"/qwen2.block_count": 3}, "`qwen2.block_count` is 3"),
        ({"/general.type": "adapter"}, "is of the type `adapter`, not a model"),
        ({"/split.count": 3}, "is one of 3 parts"),
        ({"/rope_freqs": 3}, "`rope_freqs` is 3, and"),
    ],
)
def test_no_key_is_passed_over(tmp_path, more, says):
    assert says in refusal(write(tmp_path / "a.gguf", {}, "llama", SIZES | more))


def test_what_changes_nothing(tmp_path):
    more = {"/general.name": "x", "/tokenizer.ggml.model": "gpt2", "/general.file_type": 3, "expert_count": 0}
    file = write(tmp_path / "a.gguf", {}, "llama", SIZES | more)
    assert sizes_for("llama", file) == sizes_for("llama", write(tmp_path / "b.gguf", {}, "llama", SIZES))


def test_words_are_counted(tmp_path):
    sizes = {key: value for key, value in SIZES.items() if key != "vocab_size"}
    write(tmp_path / "a.gguf", {}, "llama", sizes | {"/tokenizer.ggml.tokens": ["a"] * 7})
    assert towerdsl.compile(tmp_path)().words.weight.shape == (7, 32)
    assert "has no `vocab_size`" in refusal(write(tmp_path / "a.gguf", {}, "llama", sizes))


def test_an_architecture_of_no_spec(tmp_path):
    text = refusal(write(tmp_path / "a.gguf", {}, "rwkv9", SIZES | {"wkv": 3}))
    assert '`general.architecture` is "rwkv9"' in text and "the closest is" in text and "`rwkv9.wkv` is 3" in text


def test_several_files(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.gguf", {}, "llama", SIZES)
    assert "has 2 GGUF files" in refusal(tmp_path)


# --- hostile files ---------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def head(keys: int = 0, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


HUGE = 2**62
HOSTILE = {
    "nothing": b"GGUF",
    "version": head(version=9),
    "keys": head(keys=HUGE),
    "tensors": head(tensors=HUGE),
    "name": head(1) + struct.pack("<Q", HUGE),
    "list": head(1) + text("a") + struct.pack("<IIQ", 9, 4, HUGE),
    "texts": head(1) + text("a") + struct.pack("<IIQ", 9, 8, HUGE),
    "lists": head(1) + text("a") + struct.pack("<IIQ", 9, 9, 1),
    "kind": head(1) + text("a") + struct.pack("<II", 77, 0),
    "alignment": head(1) + text("general.alignment") + struct.pack("<II", 4, 0) + bytes(64),
    "twice": head(2) + 2 * (text("a") + struct.pack("<IB", 0, 1)),
    "dims": head(0, 1) + text("x") + struct.pack("<I", HUGE % 2**31),
    "shape": head(0, 1) + text("x") + struct.pack("<IQQIQ", 2, HUGE, HUGE, 0, 0),
    "outside": head(0, 1) + text("x") + struct.pack("<IQIQ", 1, 4, 0, 2**40) + bytes(64),
    "block": head(0, 1) + text("x") + struct.pack("<IQIQ", 1, 5, 2, 0) + bytes(64),
    "no text": head(1) + struct.pack("<Q", 2) + b"\xff\xff" + struct.pack("<IB", 0, 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(tmp_path, name):
    (tmp_path / "a.gguf").write_bytes(HOSTILE[name])
    start = time.process_time()
    for use in (read, towerdsl.compile):
        with pytest.raises(TowerError):
            use(tmp_path / "a.gguf")
    assert time.process_time() - start < 1


def test_damaged_anywhere(tmp_path):
    """Another byte anywhere, or an end anywhere: a model, or one sentence."""
    whole = write(tmp_path / "a.gguf", {"x": np.ones((2, 32)), "y": np.ones(3)}, "llama", SIZES, "Q8_0").read_bytes()
    picks = random.Random(0)
    for _ in range(300):
        data = bytearray(whole)
        data[picks.randrange(len(data))] = picks.randrange(256)
        (tmp_path / "a.gguf").write_bytes(data[: picks.choice([len(data), picks.randrange(len(data))])])
        with suppress(TowerError):
            read(tmp_path / "a.gguf")
