"""`config:` rules: every key is read, ignored by name, or a mistake; sizes give back the configuration."""

import json
import sys
from pathlib import Path

import pytest

import towerdsl
from towerdsl import cli
from towerdsl.configs import Config, sizes_for
from towerdsl.configs.find import rules_of
from towerdsl.diagnostics import TowerError

SPEC = """
tower: small
sizes:
  {d: 8, ff: 4 * d, act: "one_of('silu', 'relu')", window: 3, eps: 1e-5, tied: false, parts: [1.0], factor: 1.0,
  kind: "one_of('a', 'b')", words: "['near', 'far']"}
inputs: {x: "float[b, d]"}
outputs: linear(linear(x, ff), d)
config:
  hidden_size: d
  inner_size: ff = 3 * d * (d // d)
  sliding: window = 4, null = 0
  eps: eps = 1e-6
  act: act = silu
  parts: parts = [1]
  bias: == false
  act_too: == act = 'silu'
  kinds: == each(d, 'near' if l < window else 'far')
  rope.kind:
    plain, scaled: {}
    scaled: {sizes: {kind: b}, rope.factor: factor}
  model_type:
    one: {architectures: "== ['OneModel']"}
    two: {sizes: {tied: true}, tie: == true, ignore: [noise]}
    three: {layer_types: "words = each(d, 'near' if l < window else 'far')", within: {rope: rope.full},
      rope.near.base: "factor = 5"}
  rename: {rope_scaling: rope, rope.type: rope.kind}
"""


@pytest.fixture
def rules(tmp_path):
    (tmp_path / "small.yaml").write_text(SPEC)
    return rules_of(tmp_path / "small.yaml")


def said(read) -> str:
    return "\n".join(line for d in read.mistakes for line in (d.message, *d.notes))


def sizes(rules, **values):
    read = rules.read(Config({"model_type": "one", "hidden_size": 4} | values))
    assert not read.mistakes, said(read)
    return read.sizes


def mistakes(rules, **values):
    read = rules.read(Config({"model_type": "one", "hidden_size": 4} | values))
    assert read.mistakes
    return said(read)


def test_values_and_defaults(rules):
    assert sizes(rules) == {"d": 4, "ff": 12, "window": 4, "eps": 1e-6, "act": "silu", "parts": [1]}
    found = sizes(
        rules,
        inner_size=5,
        sliding=None,
        act="relu",
        act_too="relu",
        eps=1,
        parts=[2, 0.5],
        kinds=["far"] * 4,
        bias=False,
    )
    assert found == {"d": 4, "ff": 5, "window": 0, "eps": 1, "act": "relu", "parts": [2, 0.5]}


def test_cases(rules):
    assert sizes(rules, model_type="two", tie=True, noise=3)["tied"] is True
    assert sizes(rules, rope_scaling={"type": "scaled", "factor": 2.0})["factor"] == 2
    assert sizes(rules, rope={"kind": "scaled", "factor": 2.0})["kind"] == "b"
    assert "kind" not in sizes(rules, rope_scaling=None)
    assert "kind" not in sizes(rules, rope={})


def test_lists_of_words(rules):
    assert sizes(rules, model_type="three", sliding=3)["words"] == ["near"] * 3 + ["far"]
    assert sizes(rules, model_type="three", layer_types=["far"] * 4)["words"] == ["far"] * 4


def test_keys_within_another(rules):
    assert sizes(rules, model_type="three", rope={"full": {"kind": "scaled", "factor": 2.0}})["kind"] == "b"
    assert sizes(rules, model_type="three", rope_scaling={"type": "scaled", "factor": 2.0})["kind"] == "b"
    assert sizes(rules, model_type="three", rope={"near": {"base": 7.0}})["factor"] == 7


def test_the_family_of_an_architecture(rules):
    read = rules.read(Config({"architectures": ["OneModel"], "hidden_size": 4}))
    assert not read.mistakes
    assert "no `model_type`" in said(rules.read(Config({"architectures": ["Other"], "hidden_size": 4})))


def test_what_changes_nothing(rules):
    sizes(rules, transformers_version="4", torch_dtype="float16", use_cache=False, bos_token_id=1, temperature=0.6)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"softcap": 30.0}, "`softcap` is 30.0, and `small` has no rule for it"),
        ({"noise": 3}, "`noise` is 3"),  # ignored for the other family only
        ({"hidden_size": 0, "kinds": []}, "`hidden_size` is 0"),
        ({"softcap": None}, "`softcap` is null"),
        ({"hidden_size": None}, "`hidden_size` is null"),
        ({"hidden_size": 4.0}, "`hidden_size` is 4.0, `small` takes a whole number"),
        ({"hidden_size": True}, "a whole number"),
        ({"hidden_size": "4"}, "a whole number"),
        ({"eps": "small"}, "`small` takes a number"),
        ({"act": "gelu"}, "`act` is \"gelu\", `small` takes 'silu', 'relu'"),
        ({"parts": 3}, "a list of numbers"),
        ({"parts": []}, "a list of numbers"),
        ({"parts": ["x"]}, "a list of numbers"),
        ({"sliding": 0}, "`sliding` is 0, which `small` has for null"),
        ({"bias": True}, "`bias` is true, `small` computes false only"),
        ({"bias": 0}, "`bias` is 0, `small` computes false only"),
        ({"act": "relu"}, '`act_too` is absent, which means "silu", `small` computes "relu" only'),
        ({"act": "relu", "act_too": None}, '`act_too` is null, which means "silu", `small` computes "relu" only'),
        ({"act_too": "relu"}, '`act_too` is "relu", `small` computes "silu" only'),
        ({"kinds": ["far"] * 4}, 'computes ["near", "near", "near", "near"] only'),
        ({"rope": 3}, "`rope` is 3"),
        ({"rope": {"kind": "scaled"}}, "the configuration has no `rope.factor`"),
        ({"rope": {"factor": 2.0}}, "`rope.factor` is 2.0"),
        ({"rope_scaling": {"type": "other"}}, '`rope_scaling.type` is "other", `small` takes "plain", "scaled"'),
        ({"rope_scaling": {"type": "plain", "kind": "scaled"}}, "are one, and have different values"),
        ({"model_type": "four"}, '`model_type` is "four", `small` takes "one", "two", "three"'),
        ({"model_type": "three", "rope": {"kind": "scaled"}}, '`rope.kind` is "scaled"'),
        ({"rope": {"full": {"kind": "scaled"}}}, '`rope.full.kind` is "scaled"'),
        ({"model_type": "three", "layer_types": ["near"]}, "`small` takes 4 of these"),
        ({"model_type": "three", "layer_types": ["close"] * 4}, '`small` takes a list of "near", "far"'),
        ({"model_type": "three", "layer_types": [["near"]] * 4}, '`small` takes a list of "near", "far"'),
        ({"model_type": "two", "tie": False}, "`tie` is false, `small` computes true only"),
        ({"architectures": ["OneClassifier"]}, '`architectures` is ["OneClassifier"]'),
        ({"\x1b[31m": 1}, "`\\x1b[31m` is 1"),
    ],
)
def test_never_passed_over(rules, values, says):
    assert says in mistakes(rules, **values)


def test_what_is_missing(rules):
    assert "has no `hidden_size`, which `small` needs" in said(rules.read(Config({"model_type": "one"})))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"sliding": None, "act": "relu", "act_too": "relu", "inner_size": 6},
        {"model_type": "two"},
        {
            "model_type": "three",
            "layer_types": ["far", "near", "near", "far"],
            "rope": {"full": {"kind": "scaled", "factor": 3.0}},
        },
        {"rope": {"kind": "scaled", "factor": 2.0}, "parts": [0.5, 2]},
    ],
)
def test_back(rules, values):
    found = rules.all_sizes(sizes(rules, **values))
    written = rules.write(found)
    assert written is not None
    again = rules.read(Config(json.loads(json.dumps(written))))
    assert not again.mistakes
    assert rules.all_sizes(again.sizes) == found
    assert written["hidden_size"] == 4 and written["bias"] is False


def test_sizes_that_no_family_has(rules):
    assert rules.write(rules.all_sizes({"tied": True, "kind": "b", "factor": 2.0, "window": 3})) is not None
    assert rules.write({**rules.all_sizes({}), "d": 4, "ff": 7, "kind": "a", "parts": []}) is None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("inner_size: ff =", "inner_size: fg =", "there is no size `fg`"),
        ("ff = 3 * d", "ff = 3 * dd", "there is no size `dd`"),
        ("act = silu", "act = silly", "there is no size `silly`"),
        ("{tied: true}", "{tie: true}", "there is no size `tie`"),
        ("bias: == false", "bias: 3", "a key gives a size"),
        ("bias: == false", "bias:", "`bias` has no rule"),
        ("bias: == false", "bias: == ", "expression"),
    ],
)
def test_mistakes_of_a_spec(old, new, says):
    assert old in SPEC
    with pytest.raises(TowerError, match=says):
        towerdsl.compile(SPEC.replace(old, new, 1))


# --- files -----------------------------------------------------------------------------------------------------


def folder(tmp_path: Path, values: object) -> Path:
    (tmp_path / "config.json").write_text(values if isinstance(values, str) else json.dumps(values, indent=2))
    return tmp_path


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"', "[" * 100_000, '{"a": NaN}', "\x00"])
def test_no_configuration(tmp_path, text):
    with pytest.raises(TowerError, match=r"config\.json|no spec of the library"):
        towerdsl.compile(folder(tmp_path, text))


def test_the_place_of_a_mistake(tmp_path, capsys):
    values = {"model_type": "llama", "vocab_size": 5, "hidden_size": 8, "intermediate_size": 8, "softcap": 3}
    assert (
        cli.main(["compile", str(folder(tmp_path, values | {"num_hidden_layers": 1, "num_attention_heads": 2}))]) == 1
    )
    assert "config.json:6:3: error[config-key]: `softcap` is 3, and `llama` has no rule" in capsys.readouterr().err


def test_the_closest(tmp_path):
    values = {"model_type": "granite", "vocab_size": 5, "hidden_size": 8, "intermediate_size": 8, "logits_scaling": 3}
    values["rope_interleaved"] = False  # a key of Llama
    values |= {"hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "num_key_value_heads": 2}
    with pytest.raises(TowerError) as error:
        towerdsl.load(folder(tmp_path, values | {"num_hidden_layers": 1, "num_attention_heads": 2}))
    text = str(error.value)
    assert (
        '`model_type` is "granite"' in text
        and "the closest is `llama` of `llama`" in text
        and "`logits_scaling` is 3" in text
    )


def test_a_mistake_of_the_spec_names_the_key(tmp_path):
    values = {"model_type": "llama", "vocab_size": 5, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    with pytest.raises(TowerError, match=r"in the configuration .*`attention_dropout` is 1\.5"):
        towerdsl.compile(folder(tmp_path, values | {"num_attention_heads": 2, "attention_dropout": 1.5}))


def test_commands_and_overridden_sizes(tmp_path, capsys):
    values = {"model_type": "llama", "vocab_size": 5, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    path = folder(tmp_path, values | {"num_attention_heads": 2})
    assert cli.main(["explain", str(path), "--set", "depth=3", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["sizes"]["depth"] == 3 and data["sizes"]["d"] == 8 and data["sizes"]["tied"] is False
    assert cli.main(["check", str(path / "config.json")]) == 0
    assert cli.main(["compile", str(path), "-o", str(path / "config.json")]) == 1  # it reads that
    assert json.loads((path / "config.json").read_text())["hidden_size"] == 8


def test_a_spec_of_ones_own(tmp_path):
    (tmp_path / "small.yaml").write_text(SPEC)
    config = folder(tmp_path, {"model_type": "two", "hidden_size": 6}) / "config.json"
    assert sizes_for(tmp_path / "small.yaml", config)["tied"] is True
    assert sizes_for("gat", config) == {}  # it has no rules


def test_no_folder_and_no_hub(monkeypatch):
    with pytest.raises(TowerError, match=r"`nothing` is no folder with a `config\.json`"):
        towerdsl.load("nothing")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TowerError, match="there is no folder `someone/model`, and"):
        towerdsl.load("someone/model")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(TowerError, match="pip install huggingface_hub"):
        towerdsl.compile("someone/model")


def test_an_adapter(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(TowerError, match="is an adapter to a model, not a model"):
        towerdsl.load(tmp_path)


def test_quantized(tmp_path):
    values = {"model_type": "llama", "vocab_size": 5, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    values |= {"num_attention_heads": 2, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    with pytest.raises(TowerError, match=r'`quantization_config` is \{"quant_method": "gptq"'):
        towerdsl.load(folder(tmp_path, values))
