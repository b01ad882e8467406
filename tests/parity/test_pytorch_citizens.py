"""An emitted model does what any torch.nn.Module does."""

import copy
import functools
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import towerdsl

SIZES = {"d": 32, "ff": 64, "heads": 4, "depth": 2, "vocab": 99, "context": 48}


@pytest.fixture
def module(emit, import_file):
    """A module that `towerdsl compile` wrote, imported."""
    return import_file(emit("bert", **SIZES))


@pytest.fixture
def model(module):
    torch.manual_seed(0)
    return module.Bert().eval()


def inputs(batch=3, length=11):
    """ids, segment and keep; the rows have different lengths."""
    draw = functools.partial(torch.randint, generator=torch.Generator().manual_seed(1))
    ids = draw(0, SIZES["vocab"], (batch, length))
    segment = draw(0, 2, (batch, length))
    keep = torch.arange(length) < draw(1, length + 1, (batch, 1))
    return ids, segment, keep


def assert_close(mine, other, tolerance=1e-5):
    torch.testing.assert_close(mine, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile_full_graph(model, backend):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    ids, segment, keep = inputs()
    with torch.no_grad():
        assert_close(compiled(ids), model(ids))
        assert_close(compiled(ids, segment, keep)[keep], model(ids, segment, keep)[keep])


def test_compile_full_graph_trains(model):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ids, segment, keep = inputs()
    model(ids, segment, keep)[keep].square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    compiled(ids, segment, keep)[keep].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, expected[name], 1e-4)


def test_export_with_dynamic_batch_and_length(model):
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=SIZES["context"])
    shape = {0: batch, 1: length}
    exported = torch.export.export(model, inputs(), dynamic_shapes=(shape, shape, shape))
    for some in (inputs(), inputs(5, 30), inputs(2, SIZES["context"])):
        keep = some[2]
        assert_close(exported.module()(*some)[keep], model(*some)[keep])


def test_export_of_the_first_input_alone(model):
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=SIZES["context"])
    exported = torch.export.export(model, inputs()[:1], dynamic_shapes=({0: batch, 1: length},))
    ids, _, _ = inputs(5, 30)
    assert_close(exported.module()(ids), model(ids))


def test_autocast_to_bfloat16(model):
    ids, segment, keep = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = model(ids, segment, keep)
    assert_close(states.float()[keep], model(ids, segment, keep)[keep], 0.1)
    states.float()[keep].square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_to_dtype(model, dtype):
    ids, segment, keep = inputs()
    expected = model(ids, segment, keep)
    states = model.to(dtype)(ids, segment, keep)
    assert states.dtype == dtype
    assert_close(states.float()[keep], expected[keep], 1e-5 if dtype == torch.float64 else 0.1)


def test_to_device(model):
    """On a GPU where there is one; the meta device, which has shapes and no numbers, shows the same mistakes."""
    device = "cuda" if torch.cuda.is_available() else "meta"
    states = model.to(device)(*(tensor.to(device) for tensor in inputs()))
    assert states.device.type == device
    assert states.shape == (3, 11, SIZES["d"])
    assert model.to(device)(inputs()[0].to(device)).device.type == device


def test_construction_on_the_meta_device(module, model):
    """No memory until weights come; nothing that the model needs is lost on the way."""
    with torch.device("meta"):
        empty = module.Bert()
    assert all(tensor.is_meta for tensor in [*empty.parameters(), *empty.buffers()])
    filled = empty.to_empty(device="cpu").eval()
    filled.load_state_dict(model.state_dict())
    assert torch.equal(filled(*inputs()), model(*inputs()))


def test_state_dict_round_trip(module, model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = module.Bert().eval()
    assert not torch.equal(other(*inputs()), model(*inputs()))
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(*inputs()), model(*inputs()))


def test_assigned_state_dict(module, model):
    """`assign=True` puts new tensors where the parameters were; a model must not hold on to the old ones."""
    other = module.Bert().eval()
    other(*inputs())
    other.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    assert torch.equal(other(*inputs()), model(*inputs()))


def test_weights_changed_in_place_are_used(model):
    before = model(*inputs())
    with torch.no_grad():
        model.layer[0].attention.query.weight.mul_(2)
    assert not torch.equal(model(*inputs()), before)


def test_deepcopy(model):
    other = copy.deepcopy(model)
    assert torch.equal(other(*inputs()), model(*inputs()))
    with torch.no_grad():
        other.words.weight.zero_()
    assert not torch.equal(other(*inputs()), model(*inputs()))


def test_pickle(model):
    assert torch.equal(pickle.loads(pickle.dumps(model))(*inputs()), model(*inputs()))


def test_gradient_checkpointing_by_block(model):
    ids, segment, keep = inputs()
    model(ids, segment, keep)[keep].square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for block in model.layer:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    model(ids, segment, keep)[keep].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, expected[name])


def test_dropout_acts_in_training_only(model):
    assert torch.equal(model(*inputs()), model(*inputs()))
    model.train()
    assert not torch.equal(model(*inputs()), model(*inputs()))


def test_training_reduces_a_loss(module):
    """To give each word back is learned in a few steps."""
    torch.manual_seed(0)
    model = module.Bert().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    ids, segment, keep = inputs()
    losses = []
    for _ in range(20):
        guess = model(ids, segment, keep) @ model.words.weight.T
        loss = F.cross_entropy(guess[keep], ids[keep])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("name", ["gpt", "gpt2", "bert", "transformer"])
def test_before_training_all_words_are_about_as_likely(name):
    """Where one table reads and writes: with numbers as large as torch's, the loss is 27 to 54 instead of log(1000)."""
    torch.manual_seed(0)
    more = {"pretraining": True} if name == "bert" else {}
    model = towerdsl.compile(name, d=64, heads=4, depth=2, vocab=1000, **more)().eval()
    ids = torch.randint(1000, (4, 32))
    scores = model(ids, ids) if name == "transformer" else model(ids)
    scores = scores[0] if name == "bert" else scores
    assert abs(F.cross_entropy(scores.flatten(0, 1), ids.roll(1, 1).flatten()) - math.log(1000)) < 0.8
