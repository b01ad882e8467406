"""A new model gets the tensors of a file themselves, in the file's dtype or another."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import towerdsl
from towerdsl.diagnostics import TowerError
from towerdsl.weights import files, load
from towerdsl.weights.load import load_new

SPEC = """
tower: small
sizes: {d: 6, tied: false}
inputs: {x: "float[b, d]"}
modules:
  up: linear(d, bias=false)
blocks:
  normed(x):
    - batchnorm(linear(x, d, name=down), name=norm)
outputs: dot(up(normed(x)), up.weight) if tied else up(normed(x))
"""


def tensors(dtype=torch.float32):
    """Everything that the model has, but the counter of its norm."""
    found = towerdsl.compile(SPEC)().to(dtype).state_dict()
    return {name: torch.rand_like(x) for name, x in found.items() if x.is_floating_point()}


def test_the_tensors_of_the_file(tmp_path, monkeypatch):
    """No number is copied; what no checkpoint has, the counter of a norm, is as in a model that is made."""
    values = tensors()
    save_file(values, tmp_path / "model.safetensors")
    opened = files.read(tmp_path / "model.safetensors")
    monkeypatch.setattr(load, "read", lambda path: opened)
    model = towerdsl.load(SPEC, tmp_path / "model.safetensors")
    for name, value in values.items():
        assert torch.equal(model.state_dict()[name], value)
        assert model.state_dict()[name].data_ptr() == opened[name].data_ptr()
    assert isinstance(model.up.weight, nn.Parameter) and model.up.weight.requires_grad and model.up.weight.is_leaf
    assert model.normed.norm.num_batches_tracked.device.type == "cpu"
    assert not any(x.is_meta for x in model.state_dict().values())


def test_it_trains_and_the_file_stays(tmp_path):
    values = tensors()
    save_file(values, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    model = towerdsl.load(SPEC, tmp_path / "model.safetensors").train()
    model(torch.rand(3, 6)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(model.up.weight, values["up.weight"])
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_checkpoint_or_another(tmp_path, dtype):
    values = tensors(dtype)
    values["normed.norm.weight"] = values["normed.norm.weight"].float()  # one of another dtype: most count
    save_file(values, tmp_path / "model.safetensors")
    assert {x.dtype for x in towerdsl.load(SPEC, tmp_path).parameters()} == {dtype}
    assert {x.dtype for x in towerdsl.load(SPEC, tmp_path, dtype=torch.float32).parameters()} == {torch.float32}
    assert {x.dtype for x in towerdsl.load(SPEC, tmp_path, dtype="bfloat16").parameters()} == {torch.bfloat16}
    for wrong in ("int8", "float8_e4m3fn", "nothing", torch.int64, torch.float8_e5m2):
        with pytest.raises(TowerError, match="is no dtype of a model"):
            towerdsl.load(SPEC, tmp_path, dtype=wrong)


def test_tensors_of_the_caller_are_copied():
    values = tensors()
    model, report = load_new(towerdsl.compile(SPEC), values)
    assert report.ok
    with torch.no_grad():
        model.up.weight.zero_()
    assert values["up.weight"].any()


def test_two_parameters_from_one_tensor_are_two(tmp_path):
    """torch.save keeps one memory for tensors that share it; the model's parameters are apart."""
    values = tensors()
    values["normed.down.weight"] = values["up.weight"]
    torch.save(values, tmp_path / "model.pt")
    model = towerdsl.load(SPEC, tmp_path / "model.pt")
    with torch.no_grad():
        model.up.weight.zero_()
    assert torch.equal(model.normed.down.weight, values["up.weight"])


def test_what_a_checkpoint_lacks_starts_as_in_a_new_model(tmp_path):
    values = {name: x for name, x in tensors().items() if name != "normed.norm.weight"}
    save_file(values, tmp_path / "model.safetensors")
    with pytest.raises(TowerError, match=r"normed\.norm\.weight"):
        towerdsl.load(SPEC, tmp_path)
    model = towerdsl.load(SPEC, tmp_path, strict=False)
    assert torch.equal(model.normed.norm.weight, torch.ones(6))
    assert torch.equal(model.up.weight, values["up.weight"])


def test_a_tied_table_stays_one(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    model = towerdsl.load(SPEC, tmp_path, tied=True)
    assert len({id(x) for x in model.parameters()}) == len(list(model.parameters()))
    with torch.no_grad():
        assert model(torch.rand(2, 6)).shape == (2, 6)


def test_nothing_is_drawn_for_what_the_checkpoint_has():
    """What would fill a parameter is not asked: here it could not."""

    class Drawn(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(3))
            assert nn.init.normal_(self.weight, generator="none") is self.weight

    model, _ = load_new(Drawn, {"weight": torch.ones(3)})
    assert torch.equal(model.weight, torch.ones(3))
