"""The inference form: the values and names of the training form, by packed and fused layers; it refuses to train."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import towerdsl
from towerdsl import cli
from towerdsl.compiler import compile_spec
from towerdsl.ir.verify import verify
from towerdsl.ops import ELEMENTWISE
from towerdsl.runtime import linear
from towerdsl.runtime.linear import PackedLinear, together

from .agreement.test_specs import SPECS, draw_inputs, small

ENCODER = """
tower: encoder
sizes: {d: 16, depth: 2, vocab: 30}
inputs: {ids: "int[b, n]", memory: "float[b, m, d]", keep: "bool[b, n] = true"}
modules: {words: "embed(vocab, d)"}
blocks:
  attend(query, key, value, keep):
    query: linear(query, d)
    key: linear(key, d)
    value: linear(value, d)
    heads: 4
    mask: keep[j]
    dropout: 0.1
    output: linear(y, d)
  read(x, memory):
    query: linear(x, d)
    key: linear(memory, d)
    value: linear(memory, d)
    heads: 4
  layer(x, memory, keep):
    - x = x + dropout(attend(x, x, x, keep), 0.1)
    - x = x + drop_path(read(layernorm(x), memory), 0.1)
    - return x + dropout(linear(gelu(linear(x, 4 * d, name=up)), d, name=down), 0.1)
flow:
  - x = words(ids)
  - for l in depth:
      - x = layer(x, memory, keep)
outputs: dot(x, words.weight)
"""


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Layers of any size are packed."""
    monkeypatch.setattr(linear, "MANY", 0)


def pair(spec=ENCODER, seed=0, **sizes):
    """(training form, inference form) with the same weights."""
    torch.manual_seed(seed)
    training = towerdsl.compile(spec, **sizes)().eval()
    inference = towerdsl.compile(spec, inference=True, **sizes)()
    inference.load_state_dict(training.state_dict())
    return training, inference


def inputs(batch=3, length=7):
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 30, (batch, length), generator=draw)
    keep = torch.arange(length) < torch.randint(1, length + 1, (batch, 1), generator=draw)
    return ids, torch.randn(batch, 5, 16, generator=draw), keep


def assert_close(mine, other, tolerance=1e-5):
    assert (mine - other).abs().max() <= tolerance * other.abs().max()


# --- what it computes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_every_spec_of_the_library(path):
    """The same values within float32's, and the same names."""
    sizes = small(path)
    draw = torch.Generator().manual_seed(1)
    training, inference = pair(path, **sizes)
    with torch.no_grad():
        for parameter in training.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    inference.load_state_dict(training.state_dict())
    compiled = compile_spec(path, sizes, inference=True)
    verify(compiled.model)
    given = {n: x.float() if x.is_floating_point() else x for n, x in draw_inputs(compiled, (7, 5, 2, 3), draw).items()}
    torch.manual_seed(0)  # hard attention draws, also when it is used
    expected = training(*given.values())
    torch.manual_seed(0)
    found = inference(*given.values())
    for mine, other in zip(flat(found), flat(expected), strict=True):
        assert mine.shape == other.shape and not mine.requires_grad
        if other.is_floating_point():
            assert_close(mine, other)
    assert list(inference.state_dict()) == list(training.state_dict())


def flat(results):
    return results if isinstance(results, tuple) else (results,)


def test_layers_are_packed_and_fused():
    source = towerdsl.source(ENCODER, inference=True)
    assert "nn.Linear" not in source and "nn.Dropout" not in source and "dropout_p" not in source
    assert "q, k, v = together(query, self.query, self.key, self.value)" in source
    assert "k, v = together(memory, self.key, self.value)" in source
    assert 'return self.down(self.up(x, activation="gelu"), plus=x)' in source
    assert "return unpacked_linear(x, self.words.weight)" in source


def test_parameters_that_differ_in_one_call_are_not_one_source():
    spec = ENCODER.replace("attend(x, x, x, keep)", "attend(x, x, x, keep) + attend(x, 2 * x, x, keep, name=other)")
    training, inference = pair(spec)
    assert_close(inference(*inputs()), training(*inputs()))


def test_what_draws_is_not_one_source():
    """Two calls of a module are two values."""
    spec = ENCODER.replace("attend(x, x, x, keep)", "attend(linear(x, d, name=a), linear(x, d, name=b), x, keep)")
    training, inference = pair(spec)
    assert "together(query" not in towerdsl.source(spec, inference=True)
    assert_close(inference(*inputs()), training(*inputs()))


@pytest.mark.parametrize("activation", PackedLinear.activations)
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5), (1, 5)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer(activation, shape, bias):
    torch.manual_seed(0)
    layer = PackedLinear(5, 7, bias=bias).requires_grad_(False)
    x, plus = 3 * torch.randn(shape), torch.randn(*shape[:-1], 7)
    wide = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    plain = PackedLinear.activations[activation][0]
    torch.testing.assert_close(layer(x, activation).double(), plain(wide), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer(x, plus=plus).double(), wide + plus, rtol=1e-5, atol=1e-6)
    assert layer.packing.made is not None


def test_a_small_product_is_torchs_own(monkeypatch):
    monkeypatch.undo()
    layer = PackedLinear(64, 64).requires_grad_(False)
    few, many = torch.randn(255, 64), torch.randn(256, 64)
    assert torch.equal(layer(few), nn.functional.linear(few, layer.weight, layer.bias))
    assert layer.packing.made is None
    torch.testing.assert_close(layer(many), nn.functional.linear(many, layer.weight, layer.bias))
    assert layer.packing.made is not None


def test_activations_are_those_of_the_language():
    assert {name for name, entry in ELEMENTWISE.items() if entry.fused} == set(PackedLinear.activations) - {"none"}


CONVOLVED = """
tower: convolved
inputs: {x: "float[b, 4, AXES]"}
outputs: relu(batchnorm(conv(x, 6, 3, stride=2, groups=2, bias=BIAS, name=c), frozen=true, eps=0.01, name=n))
"""


@pytest.mark.parametrize("axes", ["h", "h, w", "h, w, t"])
@pytest.mark.parametrize("bias", ["true", "false"])
@pytest.mark.parametrize("inference", [False, True])
def test_a_frozen_norm_goes_into_the_convolution_before_it(axes, bias, inference):
    spec = CONVOLVED.replace("AXES", axes).replace("BIAS", bias)
    model = towerdsl.compile(spec, inference=inference)().eval()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, *[7] * (axes.count(",") + 1), generator=draw)
    for _ in range(2):  # with other weights the second time
        with torch.no_grad():
            for name, w in model.state_dict().items():
                if w.is_floating_point():
                    w.copy_(torch.rand(w.shape, generator=draw) + 0.5 * name.endswith("var"))
        given = x.clone().requires_grad_(not inference)
        found, expected = model(given), torch.relu(model.n(model.c(given)))
        assert_close(found, expected)
        wide = copy.deepcopy(model).double()
        assert_close(wide(x.double()), torch.relu(wide.n(wide.c(x.double()))), 1e-12)
    if not inference:
        wanted = [given, *(p for p in model.parameters() if p.requires_grad)]
        for mine, other in zip(
            *(torch.autograd.grad(y.square().sum(), wanted) for y in (found, expected)), strict=True
        ):
            assert_close(mine, other)


def test_a_norm_that_is_not_frozen_stays():
    spec = CONVOLVED.replace("AXES", "h").replace("BIAS", "true").replace("frozen=true, ", "")
    assert "self.n(self.c(x))" in towerdsl.source(spec)


# --- weights that change ---------------------------------------------------------------------------------------


def changes():
    """Ways in which a model gets other weights."""

    def load(model, weights):
        model.load_state_dict(weights)

    def assign(model, weights):
        model.load_state_dict({n: x.clone() for n, x in weights.items()}, assign=True)

    def copy_(model, weights):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])

    def data(model, weights):
        for name, parameter in model.named_parameters():
            parameter.data = weights[name].clone()

    def modules(model, weights):
        for name in weights:
            module, _, own = name.rpartition(".")
            setattr(model.get_submodule(module), own, nn.Parameter(weights[name].clone(), requires_grad=False))

    return [load, assign, copy_, data, modules]


@pytest.mark.parametrize("change", changes(), ids=lambda f: f.__name__)
def test_changed_weights_are_packed_again(change):
    _, model = pair()
    other, _ = pair(seed=5)
    before = model(*inputs())
    for _ in range(3):  # memory that becomes free may be used again
        change(model, {n: torch.zeros_like(x) for n, x in other.state_dict().items()})
        assert not model(*inputs()).any()
        change(model, other.state_dict())
        assert_close(model(*inputs()), other(*inputs()))
    assert (model(*inputs()) - before).abs().max() > 0.1


def test_a_layer_that_is_replaced_is_used():
    training, inference = pair()
    for model in (training, inference):
        torch.manual_seed(3)
        inference(*inputs())
        model.layer[0].attend.key = nn.Linear(16, 16)
    assert_close(inference(*inputs()).detach(), training(*inputs()).detach())


def test_hooks_of_a_layer_run():
    _, model = pair()
    seen = []
    model.layer[0].attend.key.register_forward_hook(lambda *_: seen.append(1))
    model(*inputs())
    assert seen


def test_functional_call():
    training, inference = pair()
    other, _ = pair(seed=5)
    inference(*inputs())
    found = torch.func.functional_call(inference, dict(other.state_dict()), inputs())
    assert_close(found, other(*inputs()))
    assert_close(inference(*inputs()), training(*inputs()))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_their_own(copied):
    _, model = pair()
    expected = model(*inputs())
    other = copied(model)
    assert torch.equal(other(*inputs()), expected)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not other(*inputs()).any()
    assert torch.equal(model(*inputs()), expected)


def test_checkpoints_are_loaded_and_saved(tmp_path):
    sizes = {"d": 16, "heads": 2, "depth": 2, "vocab": 50, "context": 16}
    training = towerdsl.compile("bert", **sizes)().eval()
    towerdsl.save_checkpoint(training, tmp_path / "model.safetensors", "huggingface")
    model = towerdsl.load("bert", tmp_path / "model.safetensors", "huggingface", inference=True, **sizes)
    ids = torch.randint(0, 50, (2, 9))
    assert_close(model(ids), training(ids))
    towerdsl.save_checkpoint(model, tmp_path / "again.safetensors", "huggingface")
    files = [(tmp_path / name).read_bytes() for name in ("model.safetensors", "again.safetensors")]
    assert files[0] == files[1]


# --- where it is not on oneDNN ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    training, inference = pair()
    given = [x.to(dtype) if x.is_floating_point() else x for x in inputs()]
    inference(*inputs())
    found, expected = inference.to(dtype)(*given), training.to(dtype)(*given)
    assert found.dtype == dtype
    assert_close(found, expected, 1e-12 if dtype == torch.float64 else 0.05)


def test_autocast():
    training, inference = pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = inference(*inputs()), training(*inputs())
    assert found.dtype == expected.dtype
    assert_close(found.float(), expected.float(), 0.05)


def test_the_meta_device():
    with torch.device("meta"):
        model = towerdsl.compile(ENCODER, inference=True)()
    assert model(*(x.to("meta") for x in inputs())).shape == (3, 7, 30)


def test_made_in_inference_mode():
    """Such weights do not count their changes."""
    with torch.inference_mode():
        training, inference = pair()
        for _ in range(2):
            assert_close(inference(*inputs()), training(*inputs()))
            for model in (training, inference):
                for parameter in model.parameters():
                    parameter.mul_(1.5)


def test_compile_and_export():
    training, inference = pair()
    expected = training(*inputs()).detach()
    torch._dynamo.reset()
    assert_close(torch.compile(inference, fullgraph=True, backend="aot_eager")(*inputs()), expected)
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=64)
    shape = {0: batch, 1: length}
    exported = torch.export.export(inference, inputs(), dynamic_shapes=(shape, {0: batch}, shape))
    assert_close(exported.module()(*inputs(5, 9)), training(*inputs(5, 9)).detach())


# --- it is not trained -----------------------------------------------------------------------------------------


def test_it_refuses_to_train():
    model = towerdsl.compile(ENCODER, inference=True)()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="Encoder was compiled for inference; to train it, compile it without"):
        model.train()
    assert model.eval() is model


def test_gradients_that_are_asked_for_are_right():
    """Of an input, and of a weight that was thawed: by torch's own layers."""
    training, inference = pair()
    ids, memory, keep = inputs()
    weight = "layer.0.up.weight"
    inference(ids, memory, keep)
    inference.get_parameter(weight).requires_grad_()
    found = []
    for model in (training, inference):
        x = memory.clone().requires_grad_()
        model(ids, x, keep).square().sum().backward()
        found.append((x.grad, model.get_parameter(weight).grad))
    for other, mine in zip(*found, strict=True):
        assert_close(mine, other)


# --- around it -------------------------------------------------------------------------------------------------


def test_verify_of_a_model():
    _, model = pair()
    ids, memory, keep = inputs()
    assert towerdsl.verify(model, {"ids": ids, "memory": memory, "keep": keep}).ok


RUN = """
import sys, torch
sys.modules["towerdsl"] = None
sys.path.insert(0, sys.argv[1])
from alone import Encoder
torch.manual_seed(0)
model = Encoder()
ids, memory = torch.arange(30).repeat(2, 20), torch.randn(2, 5, 16)
y = model(ids, memory)
assert model.layer[0].up.packing.made is not None
assert torch.allclose(y, model.double()(ids, memory.double()).float(), atol=1e-5)
"""


def test_the_command_line_and_standalone(tmp_path):
    (tmp_path / "encoder.yaml").write_text(ENCODER)
    arguments = ["compile", str(tmp_path / "encoder.yaml"), "--inference", "--standalone"]
    assert cli.main([*arguments, "-o", str(tmp_path / "alone.py")]) == 0
    run = [sys.executable, "-W", "ignore", "-c", RUN, str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert not done.returncode, done.stderr


def test_replaced_subclasses_run_by_themselves():
    class Louder(PackedLinear):
        def forward(self, x, activation="none", plus=None):
            return 2 * super().forward(x, activation, plus)

    layers = [kind(4, 4).requires_grad_(False) for kind in (PackedLinear, Louder)]
    x = torch.randn(3, 4)
    for found, layer in zip(together(x, *layers), layers, strict=True):
        torch.testing.assert_close(found, layer(x))


def test_a_layer_is_packed_once_alone_and_once_with_others():
    first, second = (PackedLinear(4, 4).requires_grad_(False) for _ in range(2))
    x = torch.randn(3, 4)
    first(x), together(x, first, second)
    packed = first.packing.made, first.joint.made
    first(x), together(x, first, second)
    assert all(a is b for a, b in zip(packed, (first.packing.made, first.joint.made), strict=True))
