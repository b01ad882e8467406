"""`towerdsl bench`: every kernel that can compute an attention is timed, on what the model gives it."""

import json
from dataclasses import replace

import pytest
import torch

import towerdsl
from towerdsl import cli
from towerdsl.bench import Benched, Measured, Timed, bench, text
from towerdsl.bench import run as bench_run
from towerdsl.bench.timing import in_turns, peak_memory
from towerdsl.claims import draw, probe
from towerdsl.claims.capture import places, watch
from towerdsl.compiler import compile_spec
from towerdsl.kernels.catalog import CATALOG
from towerdsl.kernels.choose import attentions
from towerdsl.kernels.reference import Reference

SPEC = """
tower: sample
sizes: {d: 16, depth: 2}
inputs:
  x: float[b, n, d]
  edges: relation[n, n]
  keep: bool[b, n] = true
blocks:
  look(x, keep):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    heads: 2
    mask: keep[j]
  gate(x, edges):
    let:
      - x = relu(linear(x, d))
      - far = linear(x, 1)
    query: x
    value: x
    score: sum(q) + sum(far[j])
    locality: edges[j, i] or i == j
    normalize: sigmoid
flow:
  - for l in depth:
      - x = x + look(x, keep)
outputs: gate(x[b=0], edges)
"""


def test_all_kernels_are_timed(tmp_path):
    said: list[str] = []
    benched = bench(SPEC, {"n": 24, "b": 2}, repeats=2, tell=said.append)
    assert benched.lengths == {"n": 24, "b": 2}
    assert [a.paths for a in benched.attentions] == [("look.*",), ("gate",)]
    plans = {}
    compiled = compile_spec(SPEC)
    for block in attentions(compiled.model.root):
        plans[block.name] = compiled.plans[id(block)]
    for a in benched.attentions:
        refused = dict(plans[a.block].refused)
        assert [t.kernel for t in a.kernels] == [k.name for k in CATALOG if k.name not in refused]
        assert a.chosen == plans[a.block].kernel.name
        for t in a.kernels:
            assert t.forward and t.both and t.forward_bytes and t.both_bytes and not t.failed
            assert t.both_bytes >= t.forward_bytes
        assert min(t.estimate for t in a.kernels) == 1.0
    assert any("look" in what for what in said)


def test_the_average_alone_is_what_the_block_computes():
    """The variables that a block sets before its average are given to it, one under the name of a parameter too."""
    compiled = compile_spec(SPEC)
    model = draw.build(towerdsl.compile(SPEC), 0)
    inputs = draw.inputs(compiled.model, {"b": 2, "n": 9}, 0)
    found = list(places(compiled.model.root, model))
    calls = watch(model, found, lambda: model(inputs["x"], inputs["edges"]))
    assert len(calls) == 3
    for call in calls:
        arguments = bench_run._arguments(compiled, call)
        alone = bench_run._module(probe.alone(compiled, call.block, Reference()), call)
        torch.testing.assert_close(alone(*arguments), call.module(*call.arguments.values()))


def test_the_command(tmp_path, capsys):
    path = tmp_path / "sample.yaml"
    path.write_text(SPEC, encoding="utf-8")
    options = ["--set", "n=12", "--set", "d=8", "--repeats", "1"]
    assert cli.main(["bench", str(path), *options]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert out.startswith("sample  ") and "n=12" in out and "d=8" in out and "medians of 1 round" in out
    for word in ("look.* × 2", "gate", "reference", "estimate", "forward: ", "with backward: "):
        assert word in out, word
    assert cli.main(["bench", str(path), *options, "--json", "--kernel", "reference"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["lengths"]["n"] == 12 and data["sizes"] == {"d": 8}
    assert [a["chosen"] for a in data["attentions"]] == ["reference", "reference"]
    assert set(data["attentions"][0]["fastest"]) == {"forward", "both"}


def test_lengths_that_are_left_out_are_the_longest_that_run():
    spec = """
tower: sample
sizes: {d: 4, context: 100}
inputs: {ids: "int[b, n]"}
blocks:
  look(x):
    value: x
outputs: look(embed(ids, 5, d) + embed(range(n), context, d))
"""
    assert bench(spec, repeats=1).lengths == {"b": 1, "n": 64}
    with pytest.raises(towerdsl.TowerError, match="no lengths were found"):
        bench(spec, {"n": 101})


def test_mistakes(capsys):
    assert cli.main(["bench", "bert", "--kernel", "fast"]) == 1
    assert "there is no kernel `fast`" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["bench", "bert", "--repeats", "0"])
    assert "a whole number of at least 1" in capsys.readouterr().err
    assert cli.main(["bench", "bert", "--set", "n=0"]) == 1
    assert "`n` is the length of an axis" in capsys.readouterr().err


def test_what_would_not_fit_is_not_run(monkeypatch):
    monkeypatch.setattr(bench_run, "_memory", lambda: 10_000)
    benched = bench(SPEC, {"n": 24, "b": 2}, repeats=1)
    failed = {t.kernel: t.failed for a in benched.attentions for t in a.kernels if t.failed}
    assert failed["reference"].startswith("it would hold")
    assert "reference was not run: it would hold" in text(benched)


# --- what is said of the choice --------------------------------------------------------------------------------

MEASURED = Measured(
    paths=("layer.*.look",),
    modules=3,
    block="look",
    at="a.yaml:3",
    averages="x over n",
    chosen="quick",
    kernels=(
        Timed("quick", 1.0, 0.004, 0.02, 1_000_000, 2_000_000),
        Timed("dense", 8.5, 0.04, 0.01, 8_000_000, 9_500_000),
        Timed("other", 9.0, failed="it would hold 9 GB for the weights"),
    ),
)


def test_a_choice_is_right_or_wrong():
    assert MEASURED.ratios("forward") == {"quick": 1.0, "dense": 10.0}
    assert (MEASURED.fastest("forward"), MEASURED.fastest("both")) == ("quick", "dense")
    nearly = replace(MEASURED, kernels=(Timed("quick", 1.0, 1.04), Timed("dense", 1.2, 1.0)))
    assert nearly.fastest("forward") == "quick"
    assert nearly.fastest("both") is None
    benched = Benched("sample", "a.yaml", "a machine", {"n": 64}, {"depth": 3}, 10, (MEASURED,), ("never",))
    assert text(benched) == (
        """\
sample  a.yaml
n=64, depth=3, float32, medians of 10 rounds
a machine

layer.*.look × 3  x over n
kernel   estimate  forward         memory  with backward        memory
──────────────────────────────────────────────────────────────────────
quick *      1.00     4 ms   1.00    1 MB          20 ms  2.00    2 MB
dense        8.50    40 ms  10.00    8 MB          10 ms  1.00  9.5 MB
other        9.00
forward: the choice, quick, is the fastest
with backward: dense is the fastest; the choice, quick, takes 2.00 times as long
other was not run: it would hold 9 GB for the weights

never called, so not timed: never
"""
    )


# --- measuring -------------------------------------------------------------------------------------------------


def test_calls_take_turns():
    order: list[str] = []
    seconds = in_turns([lambda: order.append("a"), lambda: order.append("b")], rounds=3, warm=1)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert len(seconds) == 2 and all(s >= 0 for s in seconds)


def test_peak_memory_counts_what_is_held_at_once(capfd):
    x = torch.ones(1000, 1000)
    few = 100  # bytes: a number that is added is a tensor too
    assert peak_memory(lambda: x + 1) == pytest.approx(4_000_000, abs=few)
    assert peak_memory(lambda: (x + 1).sum()) == pytest.approx(4_000_000, abs=few)
    assert peak_memory(lambda: (x + 1) + (x + 2)) == pytest.approx(12_000_000, abs=few)
    assert peak_memory(lambda: x.mul_(2)) < few
    # inside torch's own functions too: sdpa with gradients keeps a number for each query
    q = torch.ones(1, 4, 512, 16, requires_grad=True)
    assert peak_memory(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)) > q.numel() * 4
    assert not capfd.readouterr().err
