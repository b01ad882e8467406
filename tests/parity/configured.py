"""Families of public configurations: the model of `config.json` and weights alone is that of transformers.

Of each key, deleted, altered or added, one at a time: the model is still that of transformers, or the key is refused
by name.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import towerdsl
from towerdsl.configs.find import rules_of
from towerdsl.configs.idle import IDLE
from towerdsl.configs.rules import Config, Rules
from towerdsl.weights.load import load_new

from .equal import draw

Values = dict[str, Any]
Named = dict[str, Tensor]
#: Keys that are added to every configuration: what changes other models of today.
ADDED: Values = {
    "final_logit_softcapping": 30.0,
    "logit_scale": 0.5,
    "embedding_multiplier": 2.0,
    "position_embedding_type": "relative_key",
    "quantization_config": {"quant_method": "gptq", "bits": 4},
    "window_of_nobody": 4,
}
NAMES = {"model_type", "architectures", "dtype", "transformers_version"}


@dataclass(frozen=True)
class Family:
    """One `model_type`: `sizes` make it small, `published` has the further keys of public configurations.

    `given(values)` are inputs of the spec, `call(model, given)` what the peer makes of them. Results count where the
    input `kept` is true, or all. `idle` are keys that change nothing, `std` is the deviation of random weights,
    `change(model, values)` gives the peer what only checkpoints have, `saved` are peers whose files have other names
    than their modules, and `more(values)` changes several keys at once: each time with a word that a refusal has.
    `spare` are tensors that nothing needs.
    """

    spec: str
    sizes: Values
    published: tuple[Values, ...]
    given: Callable[[Values], Named]
    call: Callable[[nn.Module, Named], Any]
    idle: frozenset[str] = frozenset()
    added: Values = field(default_factory=dict)
    std: float = 0.3
    kept: str = "keep"
    change: Callable[[nn.Module, Values], None] = lambda model, values: None
    saved: bool = False
    more: Callable[[Values], Iterable[tuple[str, Values]]] = lambda values: ()
    spare: frozenset[str] = frozenset()

    def configuration(self, k: int = 0) -> Values:
        return merged(self.sizes, self.published[k])


def merged(a: Values, b: Values) -> Values:
    """Two configurations in one, also where they are nested; of two values that of the second counts."""
    both = {k: merged(a[k], b[k]) for k in a.keys() & b.keys() if isinstance(a[k], dict) and isinstance(b[k], dict)}
    return a | b | both


def theirs(family: Family, values: Values) -> nn.Module:
    """The model of transformers, with every parameter drawn; norms around 1."""
    config = AutoConfig.for_model(**{key: value for key, value in values.items() if key != "architectures"})
    torch.manual_seed(0)
    model = draw(getattr(transformers, values["architectures"][0])(config).float().eval(), std=family.std)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)
        family.change(model, values)
    return model


def assert_equal(family: Family, values: Values, ours: nn.Module, model: nn.Module) -> None:
    given = family.given(values)
    with torch.no_grad():
        for masked in (True, False) if any(name.endswith("keep") for name in given) else (False,):
            inputs = {name: x for name, x in given.items() if masked or not name.endswith("keep")}
            expected, found = family.call(model, inputs), ours(**inputs)
            assert expected.shape == found.shape, (expected.shape, found.shape)
            away = (found - expected).abs()
            seen = away[given[family.kept]] if masked and family.kept else away
            assert seen.max() <= 1e-5 * max(1, expected.abs().max()), f"{seen.max():.1e} of {expected.abs().max():.1e}"
            assert expected.std() > 1e-3, "the result is nearly constant"


def check_folder(family: Family, k: int, folder: Path) -> None:
    """As transformers writes it, in shards, and with the configuration as it was published."""
    values = family.configuration(k)
    model = theirs(family, values)
    model.save_pretrained(folder, max_shard_size="20KB")
    ours = towerdsl.load(folder)
    assert_equal(family, values, ours, model)
    assert ours.checkpoint_report.ok and {*ours.checkpoint_report.unexpected} <= family.spare, ours.checkpoint_report
    (folder / "config.json").write_text(json.dumps(values))
    assert_equal(family, values, towerdsl.load(folder), model)


# --- every key, deleted and altered ----------------------------------------------------------------------------


def altered(value: object) -> list[object]:
    """Other values of a key."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int | float):
        return [2 * value, value + 1, 0, None]
    if isinstance(value, str):
        return ["relu", "gelu_new", "nothing", None]
    if isinstance(value, list | tuple):
        return [list(value[::-1]), list(value[:1]), [], None]
    return [1, 0.5, True, "gelu", None]


def changed(family: Family) -> Iterator[tuple[str, Values]]:
    """Configurations with one key deleted, altered or added: each with the key's name."""
    base = family.configuration()
    for key, inside in (("", base), *((k, v) for k, v in base.items() if isinstance(v, dict) and "model_type" in v)):
        for name, values in _changed(inside):
            yield name, (values if not key else base | {key: values})
    for key, value in (ADDED | family.added).items():
        yield key, base | {key: value}
    yield from family.more(base)


def _changed(base: Values) -> Iterator[tuple[str, Values]]:
    defaults = CONFIG_MAPPING[base["model_type"]]().to_dict()
    for key in sorted({*defaults, *base} - NAMES):
        if isinstance(base.get(key), dict) and "model_type" in base[key]:
            continue
        if key in base:
            yield key, {name: value for name, value in base.items() if name != key}
        for value in altered(base.get(key, defaults.get(key))):
            yield key, base | {key: value}


@cache
def rules(spec: str) -> Rules:
    found = rules_of(spec)
    assert found is not None
    return found


def check_no_key_is_passed_over(family: Family) -> None:
    """Another value of a key is refused by its name, or gives another model, or is of those that change nothing."""
    config = family.configuration()
    read = rules(family.spec).read(Config(config))
    assert not read.mistakes, read.mistakes
    base = read.sizes
    defaults = CONFIG_MAPPING[config["model_type"]]().to_dict()
    nested = [v for v in config.values() if isinstance(v, dict) and "model_type" in v]
    for inside in nested:
        defaults |= CONFIG_MAPPING[inside["model_type"]]().to_dict()
    for key, values in changed(family):
        read = rules(family.spec).read(Config(values))
        if read.mistakes:
            assert any(key in line for d in read.mistakes for line in (d.message, *d.notes)), (key, read.mistakes)
            continue
        given = next((v[key] for v in (values, *values.values()) if isinstance(v, dict) and key in v), None)
        before = [v.get(key, defaults.get(key)) for v in (config, *nested)]
        if key not in IDLE | family.idle and given is not None and given not in before:
            assert read.sizes != base, (key, values)


def walk(family: Family, folder: Path) -> dict[str, int]:
    """How many changed configurations are equal, refused, and refused by transformers itself."""
    known: dict[str, type[nn.Module]] = {}
    counts = {"equal": 0, "refused": 0, "theirs": 0}
    wrong = []
    number = int(os.environ.get("TOWERDSL_CONFIGS", "0"))
    total = len(list(changed(family)))
    for key, values in list(changed(family))[:: max(1, total // number) if number else 1]:
        read = rules(family.spec).read(Config(values))
        sizes = json.dumps(read.sizes, sort_keys=True)
        (folder / "config.json").write_text(json.dumps(values))
        try:
            made = (None if read.mistakes else known.get(sizes)) or towerdsl.compile(folder)
        except towerdsl.TowerError as error:
            counts["refused"] += 1
            wrong += [] if key in str(error) else [f"{key} is not named in {error}"]
            continue
        known[sizes] = made
        try:
            model = theirs(family, values)
            family.call(model, family.given(values))
            if family.saved:
                model.save_pretrained(folder)
        except Exception:  # whatever stops transformers: there is nothing to be equal to
            counts["theirs"] += 1
            continue
        counts["equal"] += 1
        try:
            weights = folder / "model.safetensors" if family.saved else model.state_dict()
            assert_equal(family, values, load_new(made, weights)[0].eval(), model)
        except Exception as error:
            wrong.append(f"{key}: {values}: {type(error).__name__} {error}")
    assert not wrong, "\n".join(wrong)
    return counts


def checks_of(families: dict[str, Family]) -> tuple[Callable, Callable, Callable, Callable]:
    """The tests of families: two that always run, and two slow ones."""

    @pytest.mark.parametrize("name", families)
    def test_from_a_folder(name: str, tmp_path: Path) -> None:
        check_folder(families[name], 0, tmp_path)

    @pytest.mark.parametrize("name", families)
    def test_no_key_is_passed_over(name: str) -> None:
        check_no_key_is_passed_over(families[name])

    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "k"), [(n, k) for n, f in families.items() for k in range(1, len(f.published))])
    def test_published(name: str, k: int, tmp_path: Path) -> None:
        check_folder(families[name], k, tmp_path)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", families)
    def test_every_key(name: str, tmp_path: Path) -> None:
        counts = walk(families[name], tmp_path)
        print(name, counts)
        assert counts["equal"] > counts["theirs"]

    return test_from_a_folder, test_no_key_is_passed_over, test_published, test_every_key


def text(values: Values, length: int = 13, most: int | None = None) -> Named:
    """Token ids of odd length, the second text with padding to the left, the third with padding to the right."""
    ids = torch.randint(3, most or values["vocab_size"], (3, length), generator=torch.Generator().manual_seed(1))
    keep = torch.ones(3, length, dtype=torch.bool)
    keep[1, :4] = False
    keep[2, length - 4 :] = False
    return {"ids": ids, "keep": keep}


def pairs(values: Values) -> Named:
    """Texts, and shorter ones that answer them, each with padding."""
    asked, answered = text(values), text(values, 9)
    return asked | {"answer": answered["ids"].flip(0), "answer_keep": answered["keep"].flip(0)}
