"""The cases use every construct of the language, and their oracles none of the compiler's code."""

import re
from pathlib import Path

import pytest
import yaml

import towerdsl

HERE = Path(__file__).parent
SPECS = "\n".join(path.read_text() for path in sorted((HERE / "specs").glob("*.yaml")))
STANDARD = yaml.safe_load((Path(towerdsl.__file__).parent / "std.yaml").read_text())["define"]

KEYS = """
tower paper about sizes use define inputs params modules blocks flow outputs
let query key value over features heads score mask locality normalize dropout message merge output
"""
CALLS = """
exp log sqrt rsqrt abs sign floor sin cos tanh sigmoid relu gelu gelu_tanh silu softplus erf leaky_relu elu clip
min max where int float sum mean amax amin softmax cumsum argmax flip dot linear embed layernorm rmsnorm batchnorm
groupnorm conv lstm gru rearrange concat range zeros ones dropout max_pool avg_pool
"""
NORMALIZERS = """
softmax sum count sigmoid none sparsemax topk hard hard(straight_through) hard(gumbel hard(score_function)
"""
INITIALIZERS = """
zeros ones constant( normal( truncated_normal( uniform( xavier_uniform xavier_normal kaiming_uniform eye
"""
PATTERNS = {
    "learned table": r"\w+\[head, ",
    "data of the query": r"\[i\]",
    "data of the key": r"\[j\]",
    "pairwise data": r"\[i, j\]",
    "relation": r"edges\[j, i\]",
    "position along an axis": r"\bi\.h\b",
    "pick": r"\[\w+=0\]",
    "part": r"\[\w+=1:\]",
    "part before": r"\[\w+=:-1\]",
    "weight of a module": r"\w+\.weight",
    "chain": r"\d <= .* < ",
    "and": r"\band\b",
    "or": r"\bor\b",
    "not": r"\bnot\b",
    "choice": r" if .* else ",
    "for": r"- for \w+ in",
    "for along an axis": r"- for \w+ along",
    "a position of a loop": r"\[\w+=t\]",
    "if": r"- if .*:",
    "else": r"  else:",
    "return": r"- return \w+, ",
    "several results": r"- \w+, \w+ = ",
    "named axes": r"- \w+\[.*\] = ",
    "named module": r"name=\w+",
    "default argument": r"\(x\[.*\], shift = 0\)",
    "default input": r"int\[b, n\] = 0",
    "fewer key heads": r"heads: \{query: 6, key: 2\}",
    "merge by mean": "merge: mean",
    "merge by sum": "merge: sum",
    "merge by concat": "merge: concat",
    "log of the probability": r"log_prob",
    "pairwise input": r"float\[b, n, n\]",
    "floor division": r" // ",
    "remainder": r" % ",
    "power": r" \*\* ",
}


@pytest.mark.parametrize("key", KEYS.split())
def test_every_key(key):
    assert re.search(rf"^ *{key}:", SPECS, re.MULTILINE)


@pytest.mark.parametrize("function", CALLS.split())
def test_every_operation(function):
    assert re.search(rf"\b{function}\(", SPECS)


@pytest.mark.parametrize("name", [n for n in map(str, STANDARD) if not n.startswith("_")])
def test_every_definition_of_the_standard_library(name):
    assert re.search(rf"\b{name.partition('(')[0]}\b", SPECS + helpers())


def helpers():
    """Definitions that others of the standard library use are covered where those are."""
    return "\n".join(map(str, STANDARD.values()))


@pytest.mark.parametrize("normalize", NORMALIZERS.split())
def test_every_normalizer(normalize):
    assert f"normalize: {normalize}" in SPECS


@pytest.mark.parametrize("initializer", INITIALIZERS.split())
def test_every_initializer(initializer):
    """Those that no attention needs are in the contracts."""
    assert f"= {initializer}" in SPECS + (HERE / "test_contracts.py").read_text()


@pytest.mark.parametrize("construct", PATTERNS)
def test_every_form(construct):
    assert re.search(PATTERNS[construct], SPECS)


@pytest.mark.parametrize("path", ["loops.py", "case.py", *(f"cases/{p.name}" for p in (HERE / "cases").glob("*.py"))])
def test_oracle_shares_no_code(path):
    assert not re.search(r"^\s*(import|from) towerdsl", (HERE / path).read_text(), re.MULTILINE)
