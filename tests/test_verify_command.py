"""`towerdsl verify`: the library holds, and what is broken on purpose is found, with its place and by how much.

`TOWERDSL_UPDATE_GOLDENS=1 pytest tests/test_verify_command.py` writes the golden tables anew: read them.
"""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import towerdsl
from towerdsl import cli
from towerdsl.claims import Verified, text, verify_spec
from towerdsl.emit.average import AverageWriter
from towerdsl.kernels import choose
from towerdsl.kernels.reference import Reference
from towerdsl.kernels.sdpa import Sdpa
from towerdsl.lang import library
from towerdsl.ops.normalizers import NORMALIZERS

HERE = Path(__file__).parent
ORACLE = sorted(p for p in (HERE / "oracle" / "specs").glob("*.yaml") if p.stem != "library")


def failures(verified: Verified) -> dict[str, str]:
    """What failed of each claim, the first of each."""
    return {f.claim: f.text for a in verified.attentions for f in reversed(a.failures)}


@pytest.mark.parametrize("spec", ORACLE, ids=lambda p: p.stem)
def test_every_attention_is_its_average(spec):
    verified = verify_spec(spec)
    assert verified.ok, str(verified)
    assert verified.attentions or spec.stem in ("feedback", "outer", "rotary")  # loops, products, positions alone
    assert not verified.never_called


def library_holds(capsys):
    assert cli.main(["verify"]) == 0
    out = capsys.readouterr().out
    assert "bert" in out and "fails" not in out and "mistake" not in out


@pytest.mark.slow
def test_the_library_holds(capsys):
    library_holds(capsys)


def test_a_model_with_too_many_parameters_is_verified_at_smaller_sizes(monkeypatch):
    monkeypatch.setattr("towerdsl.claims.model.MOST_PARAMETERS", 2_000_000)
    verified = verify_spec("gpt", {"depth": 1, "context": 64})
    assert verified.ok
    assert verified.sizes["vocab"] == 40478 // 8 and verified.sizes["d"] < 768


def test_a_part_of_the_library_holds(capsys, monkeypatch):
    some = {name: path for name, path in library.library().items() if name in ("bert", "memn2n", "gat")}
    part = SimpleNamespace(library=lambda: some, library_folder=library.library_folder, read=library.read)
    monkeypatch.setattr("towerdsl.claims.model.library", part)
    library_holds(capsys)


def test_an_input_may_have_a_name_of_python():
    """`global` is the argument `global_` of forward."""
    spec = """
tower: named
inputs: {x: "float[b, n, d = 4]", global: "bool[b, n]"}
blocks:
  look(x, global):
    query: x
    key: x
    value: x
    mask: global[j]
outputs: look(x, global)
"""
    assert verify_spec(spec).ok


# --- kernels that are wrong ------------------------------------------------------------------------------------


class Broken(Sdpa):
    """sdpa; `broken` changes the code that is written for it."""

    name = "broken"


@pytest.fixture
def broken(monkeypatch):
    def of(pattern: str, code: str) -> None:
        fused = AverageWriter._fused

        def changed(writer, node):
            result = fused(writer, node)
            if writer.lowered.kernel == Broken.name:
                lines = [re.sub(pattern, code, line) for line in writer.frame.lines]
                assert lines != writer.frame.lines
                writer.frame.lines[:] = lines
            return result

        monkeypatch.setattr(AverageWriter, "_fused", changed)
        monkeypatch.setattr(choose, "CATALOG", (Broken(), Reference()))

    return of


BROKEN = {
    "ignores the mask": (r", attn_mask=mask", "", {"empty", "values", "gradients"}),
    "forgets 1 / sqrt(dk)": (r"attn_mask=mask", "attn_mask=mask, scale=1.0", {"values", "gradients"}),
    "right values, wrong gradients": (r"attention\(q, ", "attention(q.detach(), ", {"gradients"}),
    "not a number in empty rows": (
        r"^(y = F\..*)$",
        r"\1 / (1.0 if keep is None else keep.any(-1).to(q.dtype)[:, None, None, None])",
        {"empty", "gradients"},
    ),
    "does not normalize": (r"^(y = F\..*)$", r"\1 * 2", {"values", "gradients"}),
    "does not run": (r"attention\(q, ", "attention(q[..., 1:], ", {"values"}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_kernel_is_found(case, broken, monkeypatch, capsys):
    pattern, code, claims = BROKEN[case]
    broken(pattern, code)
    verified = towerdsl.verify("multi_head_attention", d=8, heads=2)
    assert set(failures(verified)) == claims
    assert cli.main(["verify", "multi_head_attention", "--set", "d=8", "--set", "heads=2"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    for claim, message in failures(verified).items():
        assert f"multi_head_attention, attention: {claim}: {message}" in out
    monkeypatch.undo()
    assert towerdsl.verify("multi_head_attention", d=8, heads=2).ok


# --- passes and normalizers that are wrong ---------------------------------------------------------------------

LOOK = """
tower: sample
sizes: {d: 6}
inputs:
  x: float[b, n, d]
  keep: bool[b, n]
  doc: int[b, n]
  edges: relation[n, n]
blocks:
  look(x, keep, doc, edges):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    FIELDS
outputs: look(x, keep, doc, edges)
"""


def look(**fields: str) -> Verified:
    lines = "\n    ".join(f"{name}: {value}" for name, value in fields.items())
    return towerdsl.verify(LOOK.replace("FIELDS", lines), n=7, b=2)


def test_a_mask_that_a_pass_forgets_is_found(monkeypatch):
    monkeypatch.setattr("towerdsl.passes.locality.simplify", lambda visible: None)
    found = failures(look(mask="keep[j] and j <= i"))
    assert {"hidden", "empty"} <= set(found)
    assert re.search(r"W\[b=\d, i=\d, j=\d\] is 0\.\d+, but this key is hidden \(\d+ of \d+ hidden", found["hidden"])


@pytest.mark.parametrize(
    ("normalizer", "claim", "message"),
    [
        ("sigmoid", "convex", r"rows of W sum to 1 \(sigmoid of any f\), but that of W\[b=\d, i=\d\] sums to"),
        ("none", "bounded", r"W is bounded \(none of any f\), but its (least|largest) entry"),
        ("count", "convex", r"W is convex \(count of any f\), but its"),
    ],
)
def test_a_normalizer_that_claims_too_much_is_found(normalizer, claim, message, monkeypatch):
    entry = NORMALIZERS[normalizer]
    monkeypatch.setitem(NORMALIZERS, normalizer, replace(entry, weights=claim))
    found = failures(look(normalize=normalizer, score="3 * dot(q, k)"))
    assert set(found) == {"weights"} and re.search(message, found["weights"])


@pytest.mark.parametrize(
    ("fields", "claim", "low", "high"),
    [
        ({}, "convex", 0, 1),
        ({"normalize": "sparsemax"}, "convex", 0, 1),
        ({"normalize": "hard"}, "convex", 0, 1),
        ({"normalize": "sigmoid"}, "bounded", 0, 1),
        ({"normalize": "sum", "score": "exp(dot(q, k))"}, "convex", 0, 1),
        ({"normalize": "sum", "score": "dot(relu(q), elu(k) + 1)"}, "convex", 0, 1),
        ({"normalize": "sum", "score": "dot(q, k) ** 2"}, "convex", 0, 1),
        ({"normalize": "sum", "score": "dot(q, k)"}, "signed", None, None),
        ({"normalize": "count", "score": "1"}, "convex", 0, 1),
        ({"normalize": "count", "score": "dot(q, k)"}, "signed", None, None),
        ({"normalize": "count", "score": "sigmoid(dot(q, k))"}, "bounded", 0, 1),
        ({"normalize": "none", "score": "softplus(dot(q, k)) / 2"}, "positive", 0, None),
        ({"normalize": "none", "score": "0.5 * tanh(dot(q, k)) + 0.5"}, "bounded", 0, 1),
        ({"normalize": "none", "score": "tanh(dot(q, k))"}, "signed", None, None),
    ],
)
def test_what_weights_are(fields, claim, low, high):
    verified = look(**fields)
    assert verified.ok
    found = verified.attentions[0]
    assert found.weights == claim
    assert low is None or found.low >= low - 1e-12
    assert high is None or found.high <= high + 1e-12
    if claim == "convex":
        assert found.row_low == pytest.approx(1) and found.row_high == pytest.approx(1)
    if claim == "signed":
        assert found.low < 0


CONDITIONS = {
    "j <= i": lambda i, j: j <= i,
    "not (j > i or abs(i - j) >= 3)": lambda i, j: j <= i and abs(i - j) < 3,
    "causal_window(2)": lambda i, j: 0 <= i - j < 2,
    "dilated(2, 2)": lambda i, j: abs(i - j) < 4 and (i - j) % 2 == 0,
    "i // 3 == j // 3 or j == 0": lambda i, j: i // 3 == j // 3 or j == 0,
    "max(i, j) - min(i, j) != 2": lambda i, j: abs(i - j) != 2,
    "2 ** (i - j) < 0.2": lambda i, j: 2.0 ** (i - j) < 0.2,
}


@pytest.mark.parametrize("locality", CONDITIONS)
def test_conditions_are_counted_pair_by_pair(locality):
    hidden = 2 * sum(not CONDITIONS[locality](i, j) for i in range(7) for j in range(7))
    empty = 2 * sum(not any(CONDITIONS[locality](i, j) for j in range(7)) for i in range(7))
    found = look(locality=f'"{locality}"').attentions[0]
    assert (found.hidden, found.empty, found.pairs, found.rows) == (hidden, empty, 98, 14)
    assert found.ok


def test_data_in_conditions():
    for mask in ("keep[j] and doc[i] == doc[j]", "edges[j, i]", "sum(q) < 0 or edges[i, j]", "sum(q * k) > 0"):
        found = look(mask=mask).attentions[0]
        assert found.ok, found.failures
        assert 0 < found.hidden < found.pairs


# --- models, options, output -----------------------------------------------------------------------------------


def test_a_model_is_verified_with_its_own_weights_on_given_inputs():
    model = towerdsl.compile("bert", d=8, heads=2, depth=3, vocab=20, context=16)()
    inputs = {"ids": torch.randint(20, (2, 5)), "keep": torch.ones(2, 5).bool()}
    verified = towerdsl.verify(model, inputs)
    assert verified.ok and model.training
    (attention,) = verified.attentions
    assert attention.modules == 3 and attention.rows == 3 * 2 * 2 * 5 and attention.hidden == 0
    inputs["keep"][0, 3:] = False
    assert towerdsl.verify(model, inputs).attentions[0].hidden == 3 * 2 * 5 * 2
    with torch.no_grad():
        model.layer[1].attention.value.weight.fill_(torch.nan)
    assert not towerdsl.verify(model, inputs).ok


def test_what_python_refuses():
    model = towerdsl.compile("multi_head_attention", d=8, heads=2)()
    for arguments, settings, words in (
        ((model,), {}, "on inputs"),
        ((model, {}), {"d": 8}, "as it is"),
        ((torch.nn.Linear(2, 2), {}), {}, "Linear was not compiled here"),
        (("bert", {}), {}, "inputs are for a model"),
        (("bert",), {"n": 0}, "a whole number of at least 1"),
    ):
        with pytest.raises(towerdsl.TowerError, match=words):
            towerdsl.verify(*arguments, **settings)


def test_every_kernel_can_be_asked_for():
    verified = towerdsl.verify("multi_head_attention", kernel="reference", d=8, heads=2)
    assert [a.kernel for a in verified.attentions] == ["reference"]
    with pytest.raises(towerdsl.TowerError, match="no kernel `nothing`"):
        towerdsl.verify("multi_head_attention", kernel="nothing")


def test_lengths_are_found():
    spec = """
tower: patches
sizes: {d: 8}
inputs: {image: "float[b, 3, h, w]"}
blocks:
  look(x): {query: x, key: x, value: x}
flow:
  - x = rearrange(image, "b c (h p) (w q) -> b (h w) (c p q)", p=8, q=8)
outputs: look(linear(x, d))
"""
    verified = towerdsl.verify(spec)
    assert verified.ok and verified.lengths == {"b": 2, "h": 24, "w": 24}
    assert towerdsl.verify(spec, h=24, w=8).lengths == {"b": 2, "h": 24, "w": 8}
    with pytest.raises(towerdsl.TowerError, match=r"(?s)no lengths were found .*--set b=.. --set h=.. --set w=.."):
        towerdsl.verify(spec, h=9)


def test_the_table():
    file = HERE / "goldens" / "verify.txt"
    shown = text(towerdsl.verify(HERE / "goldens" / "verify.yaml"))
    shown = re.sub(r"\de-1[4-9]", "3e-16", shown)  # roundings differ between machines
    if os.environ.get("TOWERDSL_UPDATE_GOLDENS"):
        file.write_text(shown, encoding="utf-8")
    assert shown == file.read_text(encoding="utf-8")


def test_the_command_line(capsys):
    assert cli.main(["verify", "scaled_dot_product", "--json", "--set", "n=4", "--seed", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] and found["lengths"]["n"] == 4
    assert found["tolerance"] == {"values": 1e-10, "gradients": 1e-8}
    assert found["attentions"][0]["weights"] == "convex" and found["attentions"][0]["ok"]
    assert cli.main(["verify", "--set", "n=4"]) == 2
    assert "name it" in capsys.readouterr().err
    assert cli.main(["verify", "nothing_like_this"]) == 1
    assert "no spec `nothing_like_this`" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        cli.main(["verify", "bert", "--seed", "many"])
    assert stopped.value.code == 2


def test_a_spec_without_attention(capsys):
    spec = "tower: plain\ninputs: {x: 'float[b, 4]'}\noutputs: linear(x, 4)\n"
    assert "no attention" in str(towerdsl.verify(spec))


@pytest.mark.parametrize("normalize", ["softmax", "sparsemax"])
@pytest.mark.parametrize("message", ["v", "v * weights[j]"])
def test_variables_may_have_the_names_of_emitted_ones(normalize, message):
    """A block's own `score`, `mask` or `weights` is not overwritten by what its attention computes."""
    names = ("score", "weights", "mask", "bias", "message", "query_source", "visible")
    spec = f"""
tower: sample
sizes: {{d: 6}}
inputs:
  x: float[b, n, d]
  score: float[b, n, n]
  weights: float[b, n]
  mask: bool[b, n]
  bias: float[b, n, n]
  message: float[b, n]
  query_source: float[b, n]
  visible: bool[b, n]
blocks:
  look({", ".join(("x", *names))}):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    score: dot(q, k) + bias[i, j] + message[j]
    mask: score[i, j] > 0 and mask[j] and visible[j]
    normalize: {normalize}
    message: {message}
    output: y * weights + where(mask, y, query_source) + weights
outputs: look({", ".join(("x", *names))})
"""
    other = re.sub(rf"\b({'|'.join(names)})\b(?!:)", r"\1_of_mine", spec)
    other = re.sub(rf"^  ({'|'.join(names)}): ", r"  \1_of_mine: ", other, flags=re.MULTILINE)
    assert towerdsl.verify(spec).ok
    inputs = [torch.randn(2, 5, 6), torch.randn(2, 5, 5), torch.randn(2, 5), torch.rand(2, 5) < 0.8]
    inputs += [torch.randn(2, 5, 5), torch.randn(2, 5), torch.randn(2, 5), torch.rand(2, 5) < 0.8]
    models = [towerdsl.compile(s)() for s in (spec, other)]
    models[1].load_state_dict(models[0].state_dict())
    torch.testing.assert_close(models[0](*inputs), models[1](*inputs))
