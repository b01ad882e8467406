"""Models inside of something: their names are their own, in files and in memory, whatever it puts before them."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

import towerdsl
from towerdsl.compiler import COMPILED
from towerdsl.diagnostics import TowerError
from towerdsl.maps import head_importance, scaled_heads
from towerdsl.weights import load_checkpoint, read, save_checkpoint, to_public
from towerdsl.weights.load import checkpoint_maps

SPEC = """
tower: sample
sizes: {d: 4, heads: 2}
inputs:
  x: float[b, n, d]
blocks:
  look(x):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    heads: heads
    output: linear(y, d)
flow:
  - for l in 2:
      - x = x + look(x)
outputs: linear(x, d, name=model)
checkpoints:
  public:
    "at.{l}.{part}.{p}": "look.{l}.{part}.{p}"
    "module.out.{p}": "model.{p}"
"""
X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


class Holder(nn.Module):
    """As a LightningModule holds a model."""

    def __init__(self, model: nn.Module, name: str = "model") -> None:
        super().__init__()
        self.add_module(name, model)
        self.called = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.called)(x)


def eager(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def compiled_inside(model: nn.Module) -> nn.Module:
    model.look[0] = eager(model.look[0])
    model.look[1].query = eager(model.look[1].query)
    return model


def checkpointed(model: nn.Module) -> nn.Module:
    model.look[1] = checkpoint_wrapper(model.look[1])
    return checkpoint_wrapper(model)


WRAPPERS = {
    "nothing": lambda model: model,
    "compiled": eager,
    "compiled twice": lambda model: eager(nn.DataParallel(eager(model))),
    "compiled inside": compiled_inside,
    "compiled in and out": lambda model: eager(compiled_inside(model)),
    "parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "checkpointed": checkpointed,
    "held": Holder,
    "held otherwise": lambda model: Holder(model, "net"),
    "held, compiled": lambda model: Holder(eager(model)),
    "held twice, parallel": lambda model: nn.DataParallel(Holder(Holder(compiled_inside(model)))),
}


@pytest.fixture(scope="module")
def sample() -> type[nn.Module]:
    return towerdsl.compile(SPEC)


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = ([x for n, x in m.state_dict().items() if not n.endswith("n_averaged")] for m in (a, b))
    return len(mine) >= 18 and all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("format", [None, "public"])
def test_what_is_wrapped_loads_and_saves_under_its_own_names(sample, wrapper, format, tmp_path):
    plain_model, wrapped = sample(), WRAPPERS[wrapper](sample())
    public = read(save_checkpoint(plain_model, tmp_path / "plain.safetensors", format))
    report = load_checkpoint(wrapped, tmp_path / "plain.safetensors")
    assert report.ok and not report.unexpected and report.format == format
    assert same(plain_model, wrapped)
    written = read(save_checkpoint(wrapped, tmp_path / "wrapped.safetensors", format))
    assert written.keys() == public.keys()
    assert all(torch.equal(x, public[n]) for n, x in written.items())


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("other", ["nothing", "compiled", "held"])
def test_what_torch_saves_of_a_wrapped_model_loads_into_any(sample, wrapper, other, tmp_path):
    wrapped, model = WRAPPERS[wrapper](sample()), WRAPPERS[other](sample())
    state = {n: x.clone() for n, x in wrapped.state_dict().items() if n != "n_averaged"}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "saved.ckpt")
    save_file(state, tmp_path / "saved.safetensors")
    if wrapper == "held otherwise":  # no name that is usual: only what is held so too knows it
        with pytest.raises(TowerError, match="does not fit"):
            load_checkpoint(model, tmp_path / "saved.ckpt")
        model = WRAPPERS[wrapper](sample())
    for file in ("saved.ckpt", "saved.safetensors"):
        report = load_checkpoint(model, tmp_path / file)
        assert report.ok and not report.unexpected and report.format is None
        assert same(wrapped, model)


def test_names_of_a_format_inside_of_something(sample):
    model, other = sample(), sample()
    for front in ("_orig_mod.", "module.", "model.", "module._orig_mod.model."):
        public = {f"{front}{n}": x for n, x in to_public(checkpoint_maps(model)["public"], model.state_dict()).items()}
        assert load_checkpoint(other, public, "public").ok
        assert same(model, other)


def test_a_part_of_the_model_that_is_called_like_a_wrapper_keeps_its_name(sample):
    """`model.weight` is a name of the sample itself, and `model.model.weight` what holds it makes of that."""
    model, other = sample(), sample()
    state = model.state_dict()
    assert "model.weight" in state
    load_checkpoint(other, {f"model.{n}": x for n, x in state.items()})
    assert same(model, other)
    mixed = {f"_orig_mod.{n}" if k % 2 else n: x for k, (n, x) in enumerate(state.items())}
    other = sample()
    load_checkpoint(other, mixed)
    assert same(model, other)


def test_names_as_they_are_come_first_and_of_two_others_none(sample):
    one, two, model = sample().state_dict(), sample().state_dict(), sample()
    load_checkpoint(model, one | {f"module.{n}": x for n, x in two.items()})
    assert all(torch.equal(x, one[n]) for n, x in model.state_dict().items())
    both = {f"module.{n}": x for n, x in one.items()} | {f"_orig_mod.{n}": x for n, x in two.items()}
    with pytest.raises(TowerError, match="the checkpoint has this model twice: "):
        load_checkpoint(model, both)
    assert all(torch.equal(x, one[n]) for n, x in model.state_dict().items())


def test_a_holder_with_weights_of_its_own_is_loaded_as_a_whole(sample):
    def holder() -> Holder:
        made = Holder(sample())
        made.head = nn.Linear(4, 2)
        return made

    first, second = holder(), holder()
    assert load_checkpoint(second, first.state_dict()).parameters == 20
    assert torch.equal(first.head.weight, second.head.weight) and same(first, second)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_is_wrapped_is_looked_into(sample, wrapper):
    model = sample().eval()
    wrapped = WRAPPERS[wrapper](copy.deepcopy(model))
    wrapped.eval()
    with torch.no_grad():
        wrapped(X)  # compiled before anyone looks
        with towerdsl.probe(model) as wanted:
            model(X)
        with towerdsl.probe(wrapped, at="look.*") as maps:
            wrapped(X)
        assert [m.path for m in maps] == ["look.0", "look.1"]
        assert all(torch.allclose(a.weights, b.weights, atol=1e-6) for a, b in zip(maps, wanted, strict=True))
        gates = {"look.*": torch.zeros(2)}
        with scaled_heads(model, gates):
            y = model(X)
        with scaled_heads(wrapped, gates):
            torch.testing.assert_close(wrapped(X), y)
        assert not torch.allclose(wrapped(X), y)
    important = head_importance(wrapped, lambda m: m(X).square().mean())
    assert important.keys() == {"look.0", "look.1"}
    assert towerdsl.verify(wrapped, {"x": X}).ok


def test_of_two_models_one_is_to_be_named(sample):
    with (
        pytest.raises(TowerError, match="holds 2 compiled models: `0`, `1`"),
        towerdsl.probe(nn.Sequential(sample(), sample())),
    ):
        pass
    assert type(sample()) in COMPILED
