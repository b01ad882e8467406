"""What a probe gives: the weights of the reference, whatever kernel computes the average, and an unchanged model."""

import importlib
import os
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from agreement import compare
from agreement.test_specs import OF_SPEC, SPECS, draw_inputs, small
from torch.utils.flop_counter import FlopCounterMode

import towerdsl
from towerdsl.claims import probe as probes
from towerdsl.claims.capture import places, watch
from towerdsl.compiler import COMPILED, compile_spec
from towerdsl.diagnostics import TowerError
from towerdsl.kernels.choose import attentions
from towerdsl.maps import without_heads

WITH_ATTENTION = [p for p in SPECS if any(b.average for b in attentions(compile_spec(p).model.root))]


def references(model, inputs):
    """Of each attention the weights [B, H, Q, K] of the reference at its last call, from what it is given."""
    compiled = COMPILED[type(model)]
    found = {}
    for call in watch(model, list(places(compiled.model.root, model)), lambda: model(**inputs)):
        average = call.block.average
        variant = probes.weights(compiled, call.block)
        made = variant.module().double().train(model.training)
        made.load_state_dict(call.module.state_dict())
        with torch.no_grad():
            weights = made(*call.arguments.values())[0]
        behind = len(average.positions) + len(average.over)
        heads = average.heads.size.integer if average.heads is not None else 1
        keys = weights.shape[weights.ndim - len(average.over) :].numel()
        found[call.path] = weights.reshape(*_batch(weights, behind, average), heads, -1, keys)
    return found


def _batch(weights, behind, average):
    lead = weights.shape[: weights.ndim - behind]
    return [lead[: -1 if average.heads is not None else None].numel()]


def results(y):
    return [x for x in (y if isinstance(y, tuple) else (y,)) if x is not None]


@pytest.mark.parametrize("path", WITH_ATTENTION, ids=lambda p: p.stem)
def test_weights_are_those_of_the_reference(path):
    sizes = small(path)
    draw = torch.Generator().manual_seed(1)
    params = compare.draw_params(compare.build(path, "reference", **sizes), draw)
    inputs = draw_inputs(compile_spec(path, sizes), (7, 5, 2, 3), draw)
    kernels = dict(compare.others(path, **sizes))
    for kernel, model in kernels.items():
        model.load_state_dict(params, strict=False)
        with torch.no_grad():
            before = results(model(**inputs))
            with towerdsl.probe(model) as maps:
                during = results(model(**inputs))
        for a, b in zip(before, during, strict=True):
            assert torch.equal(a, b), kernel
        expected = references(model, inputs)
        assert set(maps.paths) == set(expected)
        for name in maps.paths:
            last = maps[name][-1]
            message = f"{kernel} {name}: {{}}".format
            torch.testing.assert_close(last.dense(), expected[name], rtol=0, atol=1e-10, msg=message)
            if len(expected[name]) and last.queries.count:
                some_rows_and_heads(model, inputs, name, last, expected[name])


def some_rows_and_heads(model, inputs, name, whole, expected):
    rows = [-1, 0, whole.queries.count // 2]
    heads = whole.heads[-1:] or None
    with towerdsl.probe(model, at=name, rows=rows, heads=heads) as maps, torch.no_grad():
        model(**inputs)
    found = maps[-1]
    assert found.rows.tolist() == [r % whole.queries.count for r in rows]
    assert found.heads == (heads or ())
    wanted = expected if heads is None else expected[:, list(heads)]
    torch.testing.assert_close(found.dense(), wanted[:, :, rows], rtol=0, atol=1e-10)
    place = whole.queries.place(0)
    torch.testing.assert_close(found.row(place, batch=0).flatten(), wanted[0, :, 0].mean(0), rtol=0, atol=1e-10)


def small_gpt(**options):
    torch.manual_seed(0)
    return towerdsl.compile("gpt", depth=2, d=16, heads=2, vocab=11, context=16, **options)().eval()


GRADIENTS = {
    "gpt": ({"depth": 2, "d": 16, "heads": 2, "vocab": 11, "context": 16}, "*", [-1, 2]),
    "swin": (OF_SPEC["swin"], "stage.0.*", [(1, 2), 5]),
    "gat": ({"features": 6, "hidden": 4, "heads": 2}, "*", None),
}


@pytest.mark.parametrize("spec", GRADIENTS)
def test_gradients_by_the_weights(spec):
    """They are what a result changes by when one weight is changed."""
    sizes, at, rows = GRADIENTS[spec]
    model = compare.build(spec, **sizes)
    draw = torch.Generator().manual_seed(0)
    model.load_state_dict(compare.draw_params(model, draw), strict=False)
    inputs = draw_inputs(compile_spec(spec, sizes), (7, 5, 2, 3), draw)
    inputs = {k: x.unique(dim=1) if k == "edges" else x for k, x in inputs.items()}

    def loss():
        return sum(x.square().sum() for x in results(model(**inputs)))

    with towerdsl.probe(model, at=at, rows=rows, gradients=True) as maps:
        loss().backward()
    blocks = {path: (block, module) for path, block, module in places(COMPILED[type(model)].model.root, model)}
    for found in (maps[0], maps[-1]):
        assert found.gradient.shape == found.weights.shape
        block, module = blocks[found.path]
        variant = probes.seen(COMPILED[type(model)], block).module().double().eval()
        variant.load_state_dict(module.state_dict())
        for place in (0,) * found.weights.ndim, (0, *[-1] * (found.weights.ndim - 1)):
            changes = []
            for step in (1e-6, -1e-6):
                variant.seen = partial(changed, at=among_all(found, place), step=step)
                with patch.object(module, "forward", variant.forward), torch.no_grad():
                    changes.append(loss())
            expected = (changes[0] - changes[1]) / 2e-6
            assert expected.abs() > 1e-6
            torch.testing.assert_close(found.gradient[place], expected, rtol=1e-5, atol=1e-7)


def among_all(found, place):
    """Where a weight of a map is in the weights of its attention."""
    if found.listed:
        return place[1:]
    b, h, row, key = place
    key = range(found.keys.count)[key]
    return b, h, *found.queries.place(int(found.rows[row])), *found.keys.place(key)


def changed(weights, at, step):
    weights = weights.clone()
    weights[at] += step
    return weights


@pytest.mark.parametrize("form", [{}, {"inference": True}], ids=["training", "inference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_not_changed(form, dtype):
    """Not in the form that computes several layers at once either."""
    model, ids = small_gpt(**form).to(dtype), torch.randint(11, (2, 9))
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    with torch.no_grad():
        before = model(ids)
        with towerdsl.probe(model) as maps:
            during = model(ids)
        after = model(ids)
    for x in (during, after):
        assert all(map(torch.equal, results(before), results(x)))
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert [m.call for m in maps] == [0, 0] and maps[0].weights.dtype == dtype


@pytest.mark.parametrize("form", [{}, {"inference": True}], ids=["training", "inference"])
def test_no_layer_is_computed_again(form):
    """What the layers of an attention gave is kept: 2 rows cost no product with a matrix of weights."""
    model, ids = small_gpt(**form), torch.randint(11, (1, 16))
    with torch.no_grad():
        model(ids)  # packs the weights
        counts = []
        for watch_it in (False, True):
            with FlopCounterMode(display=False) as counter:
                if watch_it:
                    with towerdsl.probe(model, rows=[0, 1]):
                        model(ids)
                else:
                    model(ids)
            counts.append(counter.get_total_flops())
    scores = 2 * (2 * 2 * 2 * 16 * 8)  # layers, and multiply and add, heads, rows, keys, features
    assert counts[1] - counts[0] == scores


def test_calls_follow_each_other():
    model = small_gpt()
    with towerdsl.probe(model, at="layer.1.*") as maps:
        for length in (3, 5):
            model(torch.randint(11, (1, length)))
    assert [(m.call, m.queries.count) for m in maps] == [(0, 3), (1, 5)]
    assert maps.paths == ["layer.1.attention"] and len(maps["layer.*"]) == 2


def test_hops_are_calls_of_their_own():
    model = towerdsl.compile("memn2n", vocab=11, d=8, memory=6)().eval()
    inputs = draw_inputs(COMPILED[type(model)], (4, 3, 5, 2), torch.Generator().manual_seed(0))
    with towerdsl.probe(model, at="look*") as maps:
        model(**inputs)
    assert [m.call for m in maps[maps.paths[0]]] == [*range(3 // len(maps.paths))]
    assert len(maps) == 3 and maps[0].queries.count == 1


def test_a_model_that_was_imported(tmp_path, monkeypatch):
    sizes = {"depth": 2, "d": 16, "heads": 2, "vocab": 11, "context": 16}
    (tmp_path / "imported_gpt.py").write_text(towerdsl.source("gpt", standalone=True, **sizes), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    model = importlib.import_module("imported_gpt").Gpt().eval()
    own = small_gpt()
    own.load_state_dict(model.state_dict())
    ids = torch.randint(11, (2, 9))
    with towerdsl.probe(model, spec="gpt", sizes=sizes) as maps, towerdsl.probe(own) as expected:
        model(ids), own(ids)
    for a, b in zip(maps, expected, strict=True):
        assert torch.equal(a.weights, b.weights)


def test_weights_are_those_before_dropout():
    model = small_gpt().train()
    with towerdsl.probe(model) as maps:
        model(torch.randint(11, (2, 9)))
    torch.testing.assert_close(maps[0].weights.sum(-1), torch.ones(2, 2, 9))


def mistakes():
    sizes = {"d": 16, "heads": 2, "vocab": 11, "context": 16}
    gpt, factored, ids = small_gpt(), towerdsl.compile(LINEAR)().eval(), torch.randint(11, (1, 9))
    yield "at", gpt, {"at": "layer.*.atention"}, (ids,)
    yield "heads", gpt, {"heads": [1, 2]}, (ids,)
    yield "no head", gpt, {"heads": []}, (ids,)
    yield "rows", gpt, {"rows": [0, 9]}, (ids,)
    yield "coordinates", gpt, {"rows": [(0, 1)]}, (ids,)
    yield "no heads", factored, {"heads": [1]}, (torch.randn(1, 9, 4),)
    yield "too large", factored, {}, (torch.randn(1, 2**20, 4),)
    yield "no attention", towerdsl.compile("recurrent")(), {}, ()
    yield "not compiled", torch.nn.Linear(2, 3), {}, ()
    yield "another spec", gpt, {"spec": "gat"}, (ids,)
    yield "other sizes", gpt, {"spec": "gpt", "sizes": {**sizes, "depth": 3}}, (ids,)
    yield "training", small_gpt().train(), {"gradients": True}, (ids,)
    yield "nothing there", gpt, {"rows": [0]}, (ids[:, :0],)
    yield "a draw", towerdsl.compile(DRAWN)().train(), {}, (torch.randn(1, 9, 4),)


LINEAR = """
tower: linear
inputs: {x: "float[b, n, 4]"}
blocks:
  look(x):
    query: x
    key: x
    value: x
    score: dot(q, k)
    normalize: count
outputs: look(x)
"""
DRAWN = LINEAR.replace("normalize: count", "normalize: hard")


@pytest.mark.parametrize("name", [name for name, *_ in mistakes()])
def test_mistakes(name):
    model, options, inputs = next(rest for other, *rest in mistakes() if other == name)
    with pytest.raises(TowerError) as caught, towerdsl.probe(model, **options):
        model(*inputs)
    file = Path(__file__).parent / "mistakes" / f"{name.replace(' ', '_')}.txt"
    text = f"{caught.value}\n"
    if os.environ.get("TOWERDSL_UPDATE_GOLDENS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def test_some_rows_of_what_has_too_many_weights():
    model = towerdsl.compile(LINEAR)().eval()
    x = torch.randn(1, 2**20, 4)
    with towerdsl.probe(model, rows=[-1, 5]) as maps:
        model(x)
    assert maps[0].kernel == "factored" and maps[0].weights.shape == (1, 1, 2, 2**20)
    torch.testing.assert_close(maps[0].weights[0, 0], x[0, [-1, 5]] @ x[0].T / 2 / 2**20)


def test_no_rows_and_no_positions():
    model = small_gpt()
    with towerdsl.probe(model, rows=[]) as maps:
        model(torch.randint(11, (2, 9)))
    assert maps[0].weights.shape == (2, 2, 0, 9)


def test_a_model_that_is_compiled():
    """Its compiled code has no place for hooks: it runs as it is written while it is looked at."""
    model, ids = small_gpt(), torch.randint(11, (2, 9))
    compiled = torch.compile(model, backend="eager")
    compiled(ids)
    with towerdsl.probe(compiled, at="layer.0.*", heads=1, rows=-1) as maps:
        compiled(ids)
    assert len(maps) == 1 and maps[0].weights.shape == (2, 1, 1, 9)


def test_nothing_was_computed():
    with towerdsl.probe(small_gpt()) as maps:
        pass
    with pytest.raises(IndexError, match="call the model inside"):
        maps[0]


CROSS = """
tower: cross
sizes: {d: 8}
inputs: {x: "float[b, n, d]", s: "float[b, m, d]"}
blocks:
  look(x, s):
    query: linear(x, d)
    key: linear(s, d)
    value: linear(s, d)
    heads: 2
    output: OUTPUT
outputs: look(x, s)
"""


@pytest.mark.parametrize("lengths", [(0, 5, 4), (2, 0, 4), (2, 5, 0)], ids=["batch", "queries", "keys"])
@pytest.mark.parametrize("rows", [None, []])
@pytest.mark.parametrize("gradients", [False, True])
def test_lengths_of_zero(lengths, rows, gradients):
    model = towerdsl.compile(CROSS.replace("OUTPUT", "linear(y, d)"))().eval()
    b, n, m = lengths
    with towerdsl.probe(model, rows=rows, gradients=gradients) as maps:
        model(torch.zeros(b, n, 8), torch.zeros(b, m, 8)).sum().backward()
    assert maps[0].weights.shape == (b, 2, n if rows is None else 0, m)


def test_results_that_are_not_made_of_the_average():
    two = "flow: ['a, c = look(x, s)']\noutputs: {a: a, c: c}"
    spec = CROSS.replace("outputs: look(x, s)", two).replace("OUTPUT", "'[y, linear(x, d, name=other)]'")
    model = towerdsl.compile(spec)().eval()
    with towerdsl.probe(model, gradients=True) as maps:
        sum(y.sum() for y in model(torch.randn(2, 5, 8), torch.randn(2, 4, 8))).backward()
    assert maps[0].gradient.shape == maps[0].weights.shape


def test_gradients_under_autocast():
    model = towerdsl.compile(CROSS.replace("OUTPUT", "linear(y, d)"))().eval()
    with towerdsl.probe(model, gradients=True) as maps:
        with torch.autocast("cpu", torch.bfloat16):
            y = model(torch.randn(2, 5, 8).bfloat16(), torch.randn(2, 4, 8).bfloat16())
        y.float().sum().backward()
    assert maps[0].gradient.isfinite().all()


def test_what_others_hook_is_called_once():
    model, ids, called = small_gpt(), torch.randint(11, (2, 9)), []
    for m in model.modules():
        if isinstance(m, torch.nn.Linear):
            m.register_forward_hook(lambda *_: called.append(1))
    with towerdsl.probe(model, gradients=True):
        sum(y.sum() for y in results(model(ids))).backward()
    count = len(called)
    model(ids)
    assert len(called) == 2 * count


def test_with_heads_left_out():
    model, ids = small_gpt(), torch.randint(11, (2, 9))
    with torch.no_grad(), without_heads(model, {"layer.0.*": [0]}), towerdsl.probe(model) as inside:
        model(ids)
    with torch.no_grad(), towerdsl.probe(model) as outside, without_heads(model, {"layer.0.*": [0]}):
        model(ids)
    for a, b in zip(inside, outside, strict=True):
        assert torch.equal(a.weights, b.weights)
    with (
        towerdsl.probe(model, gradients=True),
        without_heads(model, {"layer.0.*": [0]}),
        pytest.raises(TowerError, match="its heads are scaled"),
    ):
        model(ids)


def test_layers_keep_their_mode():
    """A layer that is held in evaluation mode while the others are trained stays in it, and the other way around."""
    model = small_gpt().train()
    held = model.layer[0].attention.query
    held.eval()
    with towerdsl.probe(model):
        model(torch.randint(11, (1, 4)))
    assert not held.training and model.layer[0].attention.key.training and model.layer[0].attention.training


def test_a_module_at_two_places_is_one():
    model = small_gpt()
    model.layer[1] = model.layer[0]
    with towerdsl.probe(model) as maps:
        model(torch.randint(11, (1, 4)))
    assert [(m.path, m.call) for m in maps] == [("layer.0.attention", 0), ("layer.0.attention", 1)]
