from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from towerdsl.ir.size import Size
from towerdsl.ir.types import TensorType
from towerdsl.ops import OPS, OpCall, OpError

from .running import LENGTHS, axis, error, result, run_once, runs, size, value
from .running import call as made_call

# --- every operation runs, and is what it says -----------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("x", ["b n d=6", "d=6", "b d=6", "b h w m _=6"])
def test_linear(x: str, bias: bool) -> None:
    for run in runs("linear", x, size=size(10, "ff"), bias=bias):
        assert run.result.type.axes[-1].name == "ff"
        assert isinstance(run.module, nn.Linear)
        assert torch.equal(run.output, run.module(run.inputs[0]))
    code = result("linear", x, size=size(10), bias=bias).module
    assert code == ("nn.Linear({in}, {out})" if bias else "nn.Linear({in}, {out}, bias=False)")


def test_linear_names() -> None:
    assert str(result("linear", "b n d=6", size=size(12, "ff")).type) == "float[b, n, ff=12]"
    assert str(result("linear", "b n d=6", size=size(24)).type) == "float[b, n, 24]"


@pytest.mark.parametrize("ids", ["int b n", "int", "int n", "int b n m"])
def test_embed(ids: str) -> None:
    for run in runs("embed", ids, count=size(5, "vocab"), size=size(8, "d")):
        assert run.result.type.axes[-1].name == "d"
        assert run.result.macs == Size(())


@pytest.mark.parametrize("x", ["b n d=6", "d=6", "b h w m _=6"])
@pytest.mark.parametrize(
    ("op", "options", "code"),
    [
        ("layernorm", {}, "nn.LayerNorm({in})"),
        ("layernorm", {"eps": 1e-12, "bias": False}, "nn.LayerNorm({in}, eps={eps}, bias=False)"),
        ("rmsnorm", {}, "nn.RMSNorm({in}, eps={eps})"),
        (
            "rmsnorm",
            {"offset": 1.0},
            "nn.RMSNorm({in}, eps={eps}).apply(lambda norm: nn.init.constant_(norm.weight, {start}))",
        ),
    ],
)
def test_norms(op: str, options: dict, code: str, x: str) -> None:
    for run in runs(op, x, **options):
        assert run.result.module == code
        assert run.result.type == made_call(op, x).x
        assert getattr(run.module, "eps", None) == options.get("eps", 1e-5 if op == "layernorm" else 1e-6)


@pytest.mark.parametrize(
    ("x", "kind"),
    [("b c=6", "1d"), ("b c=6 n", "1d"), ("b c=6 h w", "2d"), ("b c=6 t h w", "3d")],
)
def test_batchnorm(x: str, kind: str) -> None:
    for run in runs("batchnorm", x):
        assert run.result.module == f"nn.BatchNorm{kind}({{in}})"
    for run in runs("batchnorm", x, eps=1e-3, momentum=0.01):
        assert (run.module.eps, run.module.momentum) == (1e-3, 0.01)
    for run in runs("batchnorm", x, scale=0.0):
        assert not run.module.weight.any() and run.module.weight.requires_grad
    for run in runs("batchnorm", x, eps=1e-3, frozen=True):
        assert not any(p.requires_grad for p in run.module.parameters())
        module, given = run.module.train(), run.inputs[0]
        for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
            tensor.data += torch.rand_like(tensor)
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        output = eval(run.code, {"F": F, "module": module, "x": given})
        assert torch.allclose(output, module.eval()(given))  # also while training
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("x", ["b c=6", "b c=6 n", "b c=6 h w", "b c=6 t h w m"])
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_groupnorm(x: str, groups: int) -> None:
    for run in runs("groupnorm", x, groups=groups, eps=1e-6):
        assert (run.module.num_groups, run.module.eps) == (groups, 1e-6)


OPTIONS = [
    {"kernel": 1},
    {"kernel": 3},
    {"kernel": 3, "padding": 1},
    {"kernel": 2, "stride": 2},
    {"kernel": 3, "stride": 2, "padding": 1, "dilation": 2},
    {"kernel": 4, "stride": 3, "padding": 2, "groups": 2, "bias": False},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("x", ["b c=4 n", "b c=4 h w", "b c=4 h=9 w=8", "b c=4 t h w", "b c=4 n:n-1", "b c=4 _=9"])
def test_conv(x: str, options: dict) -> None:
    for run, lengths in zip(runs("conv", x, channels=size(6, "e"), **options), LENGTHS, strict=True):
        assert [a.name for a in run.result.type.axes] == ["b", "e", *[a.name for a in made_call("conv", x).x.axes[2:]]]
        with FlopCounterMode(display=False) as counter:
            run.module(run.inputs[0])
        assert counter.get_total_flops() == 2 * value(run.result.macs, lengths)


def test_conv_keeps_the_name_of_as_many_channels() -> None:
    kept = result("conv", "b c=4 h w", channels=size(4, "d"), kernel=1).type.axes[1]
    assert kept.name == "c"
    assert kept.called("d")
    assert result("conv", "b _=4 h w", channels=size(4, "d"), kernel=1).type.axes[1].name == "d"


def test_conv_lists() -> None:
    options = {"kernel": (3, 1), "stride": (2, 1), "padding": (1, 0)}
    for run in runs("conv", "b c=4 h w", channels=size(6), **options):
        assert run.module.kernel_size == (3, 1)
        assert run.module.stride == (2, 1)
    for run in runs("conv", "b c=4 h w", channels=size(6), kernel=(3, 3), stride=(2, 2)):
        assert run.result.module == "nn.Conv2d({in}, {out}, {kernel}, stride={stride})"
        assert dict(run.result.attrs)["kernel"] == 3


def test_conv_sizes_are_simple() -> None:
    """What keeps its length keeps its axis, and lengths are in their shortest form."""
    x = made_call("conv", "b c=4 h w").x
    assert result("conv", "b c=4 h w", channels=size(4), kernel=3, padding=1).type.axes[2:] == x.axes[2:]
    halved = result("conv", "b c=4 h w", channels=size(4), kernel=2, stride=2).type
    assert str(halved.axes[2].size) == "h // 2"
    assert (
        str(result("conv", "b c=4 n:n-1", channels=size(4), kernel=3, padding=1, stride=2).type.axes[2].size)
        == "n // 2"
    )
    assert result("conv", "b c=4 h=32", channels=size(4), kernel=16, stride=16).type.axes[2].size == Size.of(2)


@pytest.mark.parametrize(
    "options", [{"kernel": 2}, {"kernel": 3, "stride": 2, "padding": 1}, {"kernel": 1, "stride": 2}]
)
@pytest.mark.parametrize("x", ["b c n", "b c=4 h w", "b c=4 t h w"])
@pytest.mark.parametrize("op", ["max_pool", "avg_pool"])
def test_pools(op: str, x: str, options: dict) -> None:
    made = made_call(op, x, **options)
    for lengths in LENGTHS:
        run_once(made, {**lengths, "c": 3})


def test_pool_lists() -> None:
    for run in runs("max_pool", "b c=4 h w", kernel=(2, 3)):
        assert run.code == "F.max_pool2d(x, (2, 3))"
    for run in runs("avg_pool", "b c=4 h w", kernel=(2, 3), stride=1, padding=(1, 0)):
        assert run.code == "F.avg_pool2d(x, (2, 3), stride=1, padding=(1, 0))"
    for run in runs("max_pool", "b c=4 h w", kernel=(1, 1)):
        assert run.code == "x"
    assert result("max_pool", "b c h w", kernel=2).call == "F.max_pool2d({x}, {kernel})"


@pytest.mark.parametrize("x", ["b n d=6", "n d=6"])
@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_recurrent(op: str, x: str) -> None:
    for run in runs(op, x, size=size(5, "f")):
        assert run.result.type.axes[-1].name == "f"
        # the state after n steps does not know the steps after
        changed = run.inputs[0].clone()
        changed[..., -1, :] += 1
        after = run.module(changed)[0]
        assert torch.equal(after[..., :-1, :], run.output[..., :-1, :])
        assert not torch.equal(after[..., -1, :], run.output[..., -1, :])


def test_dropout() -> None:
    for run in runs("dropout", "b n d=6", p=0.25):
        kept = run.output != 0
        assert torch.allclose(run.output[kept], run.inputs[0][kept] / 0.75)
        assert torch.equal(run.module.eval()(run.inputs[0]), run.inputs[0])
    assert result("dropout", "b n d=6", p=0.0).module is None


@pytest.mark.parametrize("x", ["b=400 d=6", "b=400 n d=6", "b=400 h w d=6"])
def test_drop_path(x: str) -> None:
    for run in runs("drop_path", x, p=0.25):
        kept = (run.output != 0).flatten(1)
        assert torch.equal(kept.any(1), kept.sum(1) > 1)  # a sample as a whole
        assert 60 < (~kept.any(1)).sum() < 140
        kept = run.output != 0
        assert torch.allclose(run.output[kept], run.inputs[0][kept] / 0.75)
        assert torch.equal(run.module.eval()(run.inputs[0][None])[0], run.inputs[0])
    assert result("drop_path", x, p=0.0).module is None


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("softmax", torch.softmax),
        ("cumsum", torch.cumsum),
        ("flip", lambda x, dim: torch.flip(x, (dim,))),
        ("roll", lambda x, dim: torch.roll(x, 2, dim)),
        ("argmax", torch.argmax),
    ],
)
@pytest.mark.parametrize(("along", "dim"), [("b", 0), ("n", 1), ("d=6", 2), (None, 2)])
def test_along_an_axis(op: str, expected, along: str | None, dim: int) -> None:
    statics = {"shift": 2} if op == "roll" else {}
    for run in runs(op, "b n d=6", axis=along and axis(along), **statics):
        assert torch.equal(run.output, expected(run.inputs[0], dim))


@pytest.mark.parametrize("op", ["cumsum", "flip", "roll"])
@pytest.mark.parametrize("dtype", ["int", "bool"])
def test_along_an_axis_of_other_dtypes(op: str, dtype: str) -> None:
    runs(op, f"{dtype} b n", **({"shift": -1} if op == "roll" else {}))


@pytest.mark.parametrize(("along", "dim"), [("b", 0), ("n", 1), ("d=6", 2), (None, 2)])
def test_largest(along: str | None, dim: int) -> None:
    for run in runs("largest", "b n d=6", axis=along and axis(along), k=2):
        x = run.inputs[0]
        larger = (x.unsqueeze(dim) > x.unsqueeze(dim + 1)).sum(dim + 1)  # than an entry, so many others are
        assert torch.equal(run.output, larger < 2)
    assert error("largest", "b d=6", k=7).code == "value-range"
    assert error("largest", "bool b n", k=1).code == "dtype-mismatch"


def test_argmax_of_whole_numbers() -> None:
    for run in runs("argmax", "int b n d=6", axis=axis("n")):
        assert torch.equal(run.output, run.inputs[0].argmax(1))
    assert error("argmax", "bool b n").code == "dtype-mismatch"


def test_embed_of_a_number() -> None:
    """A number reads one row; whole numbers in a tensor one row each."""
    number = TensorType("int", (), True)
    call = OpCall(OPS["embed"], {"ids": number}, {"count": size(7), "size": size(5, "d"), "std": 1.0})
    found = OPS["embed"].rule(call)
    assert (found.call, str(found.type)) == ("{self}.weight[{ids}]", "float[d=5]")


def test_axis_by_name_and_length() -> None:
    """An axis that stands twice is found by its name, the last one first; a changed length does not matter."""
    assert result("softmax", "b n n", axis=axis("n")).call == "{x}.softmax(-1)"
    assert result("softmax", "b n:n-1 m", axis=axis("n")).call == "{x}.softmax(1)"


# --- multiply-adds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "x", "statics", "macs"),
    [
        ("linear", "b n d=6", {"size": size(10)}, "60 * b * n"),
        ("linear", "d=6", {"size": size(10)}, "60"),
        ("conv", "b c=4 h w", {"channels": size(8), "kernel": 3, "padding": 1}, "288 * b * h * w"),
        ("conv", "b c=4 n", {"channels": size(8), "kernel": 3, "padding": 1, "groups": 4}, "24 * b * n"),
        ("lstm", "b n d=6", {"size": size(10)}, "640 * b * n"),
        ("gru", "b n d=6", {"size": size(10)}, "480 * b * n"),
        ("layernorm", "b n d=6", {}, "0"),
    ],
)
def test_macs(op: str, x: str, statics: dict, macs: str) -> None:
    assert str(result(op, x, **statics).macs) == macs


def test_macs_of_linear_as_torch_counts() -> None:
    for run, lengths in zip(runs("linear", "b n d=6", size=size(10)), LENGTHS, strict=True):
        with FlopCounterMode(display=False) as counter:
            run.module(run.inputs[0])
        assert counter.get_total_flops() == 2 * value(run.result.macs, lengths)


# --- mistakes --------------------------------------------------------------------------------------------------

LAYER = [("linear", {"size": size(4)}), ("layernorm", {}), ("rmsnorm", {}), ("lstm", {"size": size(4)})]


@pytest.mark.parametrize(("op", "statics"), LAYER)
def test_free_features(op: str, statics: dict) -> None:
    e = error(op, "b n", **statics)
    assert (e.code, e.argument) == ("free-size", "x")
    assert e.message == f"{op} needs a feature size that is known when compiling; axis n has a free length"
    assert e.notes == ("got float[b, n]",)


@pytest.mark.parametrize(
    ("op", "statics"), [("batchnorm", {}), ("groupnorm", {"groups": 2}), ("conv", {"channels": size(4), "kernel": 3})]
)
def test_free_channels(op: str, statics: dict) -> None:
    e = error(op, "b n d=64", **statics)
    assert e.code == "free-size"
    assert "number of channels" in e.message
    assert "rearrange" in e.help


@pytest.mark.parametrize(
    ("op", "x", "statics", "code", "argument", "message"),
    [
        ("linear", "", {"size": size(4)}, "axis-count", "x", "`x` has no axes"),
        ("softmax", "", {}, "axis-count", "x", "`x` has no axes"),
        ("linear", "int b n=4", {"size": size(4)}, "dtype-mismatch", "x", "`linear` reads float; `x` is int"),
        ("embed", "b n", {"count": size(4), "size": size(4)}, "dtype-mismatch", "ids",
         "`embed` reads int; `ids` is float"),
        ("softmax", "bool b n", {}, "dtype-mismatch", "x", "`softmax` reads float"),
        ("softmax", "b n", {"axis": axis("t")}, "unknown-axis", "axis", "`t` is not an axis of x [b, n]"),
        ("linear", "b d=4", {"size": size(Size.free("n"), "n")}, "not-static", "size",
         "the length of `n` is known only at run time; the size of a linear is part of its weights"),
        ("lstm", "b n d=4", {"size": size(Size.free("n"), "n")}, "not-static", "size", "the size of an lstm is part"),
        ("linear", "b d=4", {"size": size(0)}, "size-positive", "size", "a size is at least 1; this is 0"),
        ("linear", "b d=4", {"size": size(Size.of(64) / 3)}, "not-integer", "size",
         "the size of `linear` is a whole number; this is 21.33"),
        ("conv", "b c=64", {"channels": size(4), "kernel": 3}, "axis-count", "x",
         "conv needs x[b, c, ...] with one to three axes after the channels"),
        ("conv", "b c=64 t", {"channels": size(64), "kernel": 3, "groups": 5}, "size-divide", "groups",
         "5 groups do not divide 64 channels"),
        ("conv", "b c=64 t", {"channels": size(6), "kernel": 3, "groups": 4}, "size-divide", "groups",
         "4 groups do not divide 6 output channels"),
        ("conv", "b c=4 t", {"channels": size(6), "kernel": 0}, "value-range", "kernel", "at least 1, got 0"),
        ("conv", "b c=4 t", {"channels": size(6), "kernel": 1, "padding": -1}, "value-range", "padding",
         "at least 0, got -1"),
        ("conv", "b c=4 h w", {"channels": size(6), "kernel": (3, 3, 3)}, "axis-count", "kernel",
         "`kernel` has three numbers for two axes after the channels"),
        ("conv", "b c=4 h=4", {"channels": size(6), "kernel": 5}, "value-range", "kernel",
         "the kernel does not fit: it spans 5, axis h=4 has 4"),
        ("max_pool", "b c", {"kernel": 2}, "axis-count", "x", "one to three axes"),
        ("max_pool", "b c h w", {"kernel": 2, "padding": 2}, "value-range", "padding", "at most half the kernel"),
        ("batchnorm", "b c=2 m n h w", {}, "axis-count", "x", "at most three axes after the channels"),
        ("batchnorm", "c=2", {}, "axis-count", "x", "batchnorm needs"),
        ("groupnorm", "b c=6 n", {"groups": 4}, "size-divide", "groups", "4 groups do not divide 6 channels"),
        ("groupnorm", "b c=6 n", {"groups": 0}, "value-range", "groups", "at least 1, got 0"),
        ("layernorm", "b d=6", {"eps": 0.0}, "value-range", "eps", "above 0, got 0"),
        ("batchnorm", "b c=6", {"momentum": 2.0}, "value-range", "momentum", "between 0 and 1, got 2"),
        ("lstm", "b m n d=6", {"size": size(4)}, "axis-count", "x", "at most one batch axis"),
        ("gru", "d=6", {"size": size(4)}, "axis-count", "x", "gru needs x[b, n, d]"),
        ("drop_path", "b", {"p": 0.1}, "axis-count", "x", "drop_path needs x[b, ...] with one to three axes"),
        ("drop_path", "b n", {"p": 1}, "value-range", "p", "a probability is between 0 and 1, got 1"),
        ("dropout", "b n", {"p": 10}, "value-range", "p", "a probability is between 0 and 1, got 10"),
        ("dropout", "b n", {"p": -0.1}, "value-range", "p", "a probability is between 0 and 1, got -0.1"),
        ("dropout", "b n", {"p": 1.0}, "value-range", "p", "a probability is between 0 and 1, got 1"),
    ],
)  # fmt: skip
def test_mistakes(op: str, x: str, statics: dict, code: str, argument: str, message: str) -> None:
    e = error(op, x, **statics)
    assert (e.code, e.argument) == (code, argument)
    assert message in e.message


def test_messages_use_the_text_of_the_spec() -> None:
    call = replace(made_call("embed", "n", count=size(4), size=size(4)), texts={"ids": "words"})
    with pytest.raises(OpError, match="`embed` reads int; `words` is float"):
        call.op.rule(call)


def test_number_is_no_tensor() -> None:
    call = made_call("linear", "", size=size(4))
    call = replace(call, tensors={"x": replace(call.x, scalar=True)})
    with pytest.raises(OpError, match="`linear` needs a tensor; `x` is a number"):
        call.op.rule(call)


def test_every_operation_is_documented() -> None:
    assert all(entry.doc and entry.signature.startswith(name) for name, entry in OPS.items())
