"""The Python interface: `compile`, `load`, `source`, `register_op`; the model in memory is the emitted source."""

import inspect
import pickle
import traceback

import pytest
import torch
from torch import nn

import towerdsl
from towerdsl.ops import OpResult
from towerdsl.ops.base import OPS

SPEC = """
tower: two_layers
sizes: {d: 8, hidden: 4 * d, depth: 2}
inputs:
  x: float[b, n, d]
blocks:
  step(x):
    - x + linear(gelu(linear(x, hidden, name=up)), d, name=down)
flow:
  - for l in depth:
      - x = step(x)
outputs: x
"""


def test_compile_takes_text_path_and_library_name(tmp_path):
    path = tmp_path / "two_layers.yaml"
    path.write_text(SPEC)
    for spec in (SPEC, path, str(path)):
        model = towerdsl.compile(spec)()
        assert isinstance(model, nn.Module)
        assert model(torch.randn(2, 3, 8)).shape == (2, 3, 8)
    assert towerdsl.compile("scaled_dot_product").__name__ == "ScaledDotProduct"


def test_sizes_are_overridden_and_what_follows_from_them():
    model = towerdsl.compile(SPEC, d=4, depth=3)()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["step.2.up.weight"] == (16, 4)
    assert len(shapes) == 3 * 4


def test_a_free_length_can_be_fixed():
    model = towerdsl.compile(SPEC, n=3)()
    assert model(torch.randn(2, 3, 8)).shape == (2, 3, 8)


def test_an_unknown_size_names_the_closest():
    with pytest.raises(towerdsl.TowerError, match="did you mean `depth`"):
        towerdsl.compile(SPEC, dept=3)


def test_the_model_is_its_source():
    model = towerdsl.compile(SPEC)
    source = towerdsl.source(SPEC)
    assert inspect.getsource(model) in source
    assert inspect.getsource(model.forward).strip() in source
    namespace: dict = {"__name__": "written"}
    exec(compile(source, "written.py", "exec"), namespace)
    torch.manual_seed(0)
    a = model()
    torch.manual_seed(0)
    b = namespace["TwoLayers"]()
    x = torch.randn(2, 3, 8)
    assert torch.equal(a(x), b(x))


def test_a_traceback_shows_the_emitted_line():
    model = towerdsl.compile(SPEC)()
    try:
        model.step[1](torch.randn(2, 3, 5))
    except RuntimeError:
        shown = traceback.format_exc()
    assert "return x + self.down(F.gelu(self.up(x)))" in shown


def test_instances_are_pickled_in_the_process_that_made_them():
    model = towerdsl.compile(SPEC)()
    again = pickle.loads(pickle.dumps(model))
    x = torch.randn(2, 3, 8)
    assert torch.equal(model(x), again(x))


def test_a_kernel_can_be_asked_for_and_says_why_not():
    reference = towerdsl.source("scaled_dot_product", kernel="reference")
    assert "einsum" in reference and "scaled_dot_product_attention" not in reference
    with pytest.raises(towerdsl.TowerError, match="there is no kernel `refrence`"):
        towerdsl.compile("scaled_dot_product", kernel="refrence")
    sigmoid = SPEC.replace("    - x + linear", "    value: x\n    normalize: sigmoid\n    output: x + linear")
    with pytest.raises(towerdsl.TowerError, match="it computes softmax, the normalizer is sigmoid"):
        towerdsl.compile(sigmoid, kernel="sdpa")


def test_a_library_of_blocks_is_no_model():
    with pytest.raises(towerdsl.TowerError, match="it is a library of blocks"):
        towerdsl.compile("transformer_layers")


def test_load_builds_nothing_from_a_checkpoint_that_does_not_fit(tmp_path):
    model = towerdsl.compile(SPEC)()
    path = towerdsl.save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = towerdsl.load(SPEC, path)
    assert not loaded.training and loaded.checkpoint_report.ok
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    with pytest.raises(towerdsl.TowerError):
        towerdsl.load(SPEC, path, d=4)


def test_an_operation_of_your_own():
    @towerdsl.register_op("triple", tensors="x", statics="by:float=3.0")
    def triple(call):
        return OpResult(call.x, "torch.mul({x}, {by})", attrs=(("by", call.statics["by"]),))

    try:
        model = towerdsl.compile(SPEC.replace("outputs: x", "outputs: triple(x)"))()
        plain = towerdsl.compile(SPEC)()
        plain.load_state_dict(model.state_dict())
        x = torch.randn(2, 3, 8)
        torch.testing.assert_close(model(x), 3 * plain(x))
        with pytest.raises(ValueError, match="exists already"):
            towerdsl.register_op("linear")(triple)
    finally:
        del OPS["triple"]


def test_several_results_are_a_named_tuple():
    model = towerdsl.compile(SPEC.replace("outputs: x", "outputs: {states: x, pooled: 'mean(x, n)'}"))()
    result = model(torch.randn(2, 3, 8))
    assert result._fields == ("states", "pooled")
    assert result.pooled.shape == (2, 8)


CHOICE = """
tower: choice
sizes: {d: 4, classes: 3, classify: false}
inputs:
  x: float[b, d]
flow:
  - x = linear(x, d, name=body)
  - if classify:
      - score = linear(x, classes, name=head)
outputs: x if not classify else [x, score]
checkpoints:
  public:
    base.{p}: body.{p}
    classifier.{p}: head.{p}
"""


def test_a_size_chooses_the_outputs():
    x = torch.randn(2, 4)
    assert isinstance(towerdsl.compile(CHOICE)()(x), torch.Tensor)
    both = towerdsl.compile(CHOICE, classify=True)()(x)
    assert both.x.shape == (2, 4) and both.score.shape == (2, 3)


def test_a_map_may_name_what_only_other_sizes_build(tmp_path):
    theirs = towerdsl.compile(CHOICE, classify=True)()
    towerdsl.save_checkpoint(theirs, tmp_path / "all.safetensors", "public")
    ours = towerdsl.load(CHOICE, checkpoint=tmp_path / "all.safetensors", format="public")
    assert torch.equal(ours.body.weight, theirs.body.weight)
    with pytest.raises(towerdsl.TowerError, match="no parameter of the model is called `haed"):
        towerdsl.compile(CHOICE.replace(": head.{p}", ": haed.{p}"))
    with pytest.raises(towerdsl.TowerError, match="no parameter of the model is called `score"):
        towerdsl.compile(CHOICE.replace(": head.{p}", ": score.{p}"))
