"""Files: good ones, and what is said about the others."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from towerdsl.diagnostics import TowerError
from towerdsl.weights import read

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.bfloat16)}


def refused(path):
    """The one diagnostic for a file, checked to be short and without internals."""
    with pytest.raises(TowerError) as error:
        read(path)
    (found,) = error.value.diagnostics
    assert error.value.__cause__ is None and error.value.__suppress_context__
    text = found.render()
    assert "\n" not in found.message and len(text) < 900
    assert not any(word in text for word in ("Traceback", "Error(", "object at 0x", "add_safe_globals"))
    return found


def check(found):
    assert sorted(found) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("name", ["model.safetensors", "model", "model.bin"])
def test_safetensors_by_content(tmp_path, name):
    save_file(TENSORS, tmp_path / name)
    check(read(tmp_path / name))
    check(read(str(tmp_path / name)))


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"state_dict": t, "epoch": 3}, lambda t: {"model": t},
                                  lambda t: {"model": {"state_dict": t}, "optimizer": {}}])  # fmt: skip
@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch(tmp_path, wrap, zipped):
    torch.save(wrap(dict(TENSORS)), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    check(read(tmp_path / "x.pt"))


def test_parameters_come_without_gradient(tmp_path):
    torch.save({"w": torch.nn.Parameter(torch.ones(2))}, tmp_path / "x.pt")
    assert not read(tmp_path / "x.pt")["w"].requires_grad


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_code_does_not(tmp_path, zipped, protocol):
    made = tmp_path / "made"
    torch.save(
        {"w": torch.ones(2), "x": Evil(made)},
        tmp_path / "x.pt",
        _use_new_zipfile_serialization=zipped,
        pickle_protocol=protocol,
    )
    found = refused(tmp_path / "x.pt")
    assert not made.exists()
    # torch refuses protocols above 2 for what they are
    if protocol == 2:
        assert found.code == "checkpoint-unsafe" and found.notes == ("it asks for posix.mkdir",)


def test_a_bare_pickle_that_runs_code_does_not(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "x.bin").write_bytes(pickle.dumps({"w": Evil(tmp_path / "made")}, protocol=protocol))
        refused(tmp_path / "x.bin")
    assert not (tmp_path / "made").exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    found = refused(tmp_path / "x.pt")
    assert found.code == "checkpoint-unsafe" and "state_dict()" in found.help


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "x.pt")
    assert "TorchScript" in refused(tmp_path / "x.pt").message


@pytest.mark.parametrize("content", [{}, [1, 2], {"state_dict": {}}, {"a": 3}, torch.ones(2), {1: torch.ones(2)}])
def test_no_tensors_by_name(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    assert refused(tmp_path / "x.pt").message.endswith("has no tensors by name")


def test_a_sparse_tensor_is_refused(tmp_path):
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt")


def make(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    if kind == "safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=kind == "pt")
    return path


@pytest.mark.parametrize("kind", ["safetensors", "pt", "bin"])
def test_cut_short(tmp_path, kind):
    path = make(tmp_path, kind)
    content = path.read_bytes()
    for length in sorted({0, 1, 4, 8, 9, 20, 64, len(content) // 2, len(content) - 30, len(content) - 1}):
        path.write_bytes(content[:length])
        refused(path)


@pytest.mark.parametrize("kind", ["safetensors", "pt", "bin"])
def test_damaged_anywhere_is_read_or_refused(tmp_path, kind):
    path = make(tmp_path, kind)
    content = path.read_bytes()
    for at in range(0, len(content), max(1, len(content) // 150)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        with contextlib.suppress(TowerError):  # anything else is a failure
            read(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"hello", "neither a safetensors nor a PyTorch file"),
        (b"GGUF\x03\x00", "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\xff" * 8 + b"{}", "neither"),
        ((2**39).to_bytes(8, "little") + b"{}", "damaged"),
        ((4).to_bytes(8, "little") + b'{"a"', "damaged"),
        (
            (100).to_bytes(8, "little")
            + b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}'.ljust(100),
            "dam",
        ),
        (b"PK\x03\x04" + b"\x00" * 50, "damaged"),
        (b"\x80\x02" + b"\x00" * 50, "damaged"),
    ],
)
def test_other_files(tmp_path, content, says):
    (tmp_path / "x").write_bytes(content)
    assert says in refused(tmp_path / "x").message


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + b"0" * 10_000_000)
        archive.writestr("x/version", b"3")
    assert "more than its own size" in refused(tmp_path / "x.pt").message


def test_nothing_there(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    found = refused(tmp_path / "model.safetensor")
    assert found.message.startswith("there is no file") and found.help == "did you mean `model.safetensors`?"
    refused(tmp_path / "no" / "folder" / "x.pt")
    refused("x" * 5000)
    refused("a\x00b")
    os.mkfifo(tmp_path / "pipe.pt")
    assert "is not a file" in refused(tmp_path / "pipe.pt").message


def test_folders(tmp_path):
    assert "has no checkpoint" in refused(tmp_path).message
    torch.save(TENSORS, tmp_path / "weights.pt")
    check(read(tmp_path))
    torch.save({}, tmp_path / "more.pt")
    assert "2 checkpoint files" in refused(tmp_path).message
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    check(read(tmp_path))
    (tmp_path / "pytorch_model.bin").unlink()
    save_file(TENSORS, tmp_path / "model.safetensors")
    check(read(tmp_path))


def shard(tmp_path, where):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(where if isinstance(where, str) else json.dumps({"metadata": {}, "weight_map": where}))
    return path


def test_shards(tmp_path):
    save_file({"a.weight": TENSORS["a.weight"], "stray": torch.ones(1)}, tmp_path / "one.safetensors")
    torch.save({"a.bias": TENSORS["a.bias"]}, tmp_path / "two.bin")
    shard(tmp_path, {"a.weight": "one.safetensors", "a.bias": "two.bin"})
    check(read(tmp_path))


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"a": "../secret.safetensors"}, "not a file beside it"),
        ({"a": "/etc/passwd"}, "not a file beside it"),
        ({"a": "sub/x.safetensors"}, "not a file beside it"),
        ({"a": "C:x"}, "not a file beside it"),
        ({"a": "..\\x"}, "not a file beside it"),
        ({"a": ""}, "not a file beside it"),
        ({"a": ".."}, "not a file beside it"),
        ({"a": "gone.safetensors"}, "is not there"),
        ({"zzz": "one.safetensors"}, "lacks `zzz`"),
        ({"a": "model.safetensors.index.json"}, "neither"),
        ([1], "not an index"),
        ("{", "not an index"),
        ("[" * 100_000, "not an index"),
        ("{}", "not an index"),
        ('{"weight_map": 3}', "not an index"),
    ],
)
def test_shards_that_are_wrong(tmp_path, where, says):
    inner = tmp_path / "model"
    inner.mkdir()
    (inner / "sub").mkdir()
    for path in (tmp_path / "secret.safetensors", inner / "one.safetensors", inner / "sub" / "x.safetensors"):
        save_file({"a": torch.ones(1)}, path)
    assert says in refused(shard(inner, where)).message


def test_a_name_without_end(tmp_path):
    save_file({"a" * 5000: torch.ones(1)}, tmp_path / "x.safetensors")
    assert "5000 characters" in refused(tmp_path / "x.safetensors").message
