"""Emitted source as golden files: what a change of the compiler changes in the code that it writes.

`TOWERDSL_UPDATE_GOLDENS=1 pytest tests/test_goldens.py` writes them anew: read the diff as a reviewer would.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import towerdsl
from towerdsl.emit.layout import WIDTH

HERE = Path(__file__).parent
GOLDENS = HERE / "goldens"
ORACLE = HERE / "oracle" / "specs"
SMALL_BERT = {"d": 16, "heads": 2, "depth": 2, "vocab": 50, "context": 16}
SMALL_GEMMA = {"d": 16, "heads": 2, "head_size": 8, "depth": 2, "vocab": 50, "ff": 24, "window": 4, "bound": 50.0}
SMALL_GEMMA |= {"kinds": ["sliding_attention", "full_attention"]}

#: name of the golden file: the spec, sizes that are overridden, whether it stands alone
CASES = {
    "bert": ("bert", SMALL_BERT, False),
    "swin": ("swin", {"d": 8, "heads": [2, 2, 4, 4], "depths": [2, 2, 3, 1], "image": 48, "patch": 2, "win": 3}, False),
    "deberta": ("deberta", {"d": 16, "heads": 2, "depth": 1, "vocab": 50, "context": 16, "buckets": 8}, False),
    "modernbert": ("modernbert", {"d": 16, "heads": 2, "ff": 24, "depth": 2, "vocab": 50, "masked": True}, False),
    "t5": ("t5", {"d": 16, "head_size": 4, "heads": 2, "ff": 24, "depth": 2, "decoder_depth": 1, "vocab": 50}, False),
    "gemma": ("gemma", SMALL_GEMMA, False),
    "multi_head_attention": ("multi_head_attention", {"d": 16, "heads": 2}, False),
    "bert_layer": (ORACLE / "bert.yaml", {}, False),
    "bert_layer_inference": (ORACLE / "bert.yaml", {"inference": True}, False),
    "shifted_windows": (ORACLE / "shifted_windows.yaml", {}, False),
    "graph_attention": (ORACLE / "graph_attention.yaml", {}, False),
    "channel_attention": (ORACLE / "channel_attention.yaml", {}, False),
    "decoder": (ORACLE / "decoder.yaml", {}, False),
    "score_function": (GOLDENS / "score_function.yaml", {}, False),
    "non_local": ("non_local", {"kind": "dot", "c": 16}, False),
    "linear_attention": (GOLDENS / "linear_attention.yaml", {}, False),
    "token_mixing": (GOLDENS / "token_mixing.yaml", {}, False),
    "top_keys": (GOLDENS / "top_keys.yaml", {}, False),
    "top_keys_standalone": (GOLDENS / "top_keys.yaml", {}, True),
    "linear_attention_standalone": (GOLDENS / "linear_attention.yaml", {}, True),
    "grouped_rope": (GOLDENS / "grouped_rope.yaml", {}, False),
    "graph_attention_standalone": (ORACLE / "graph_attention.yaml", {}, True),
    "window": ("restricted_self_attention", {}, False),
    "window_or_global": ("global_local", SMALL_BERT, False),
    "in_turn": (GOLDENS / "grouped_rope.yaml", {"kernel": "chunked"}, False),
    "flex": (GOLDENS / "flex.yaml", {"device": "cuda"}, False),
    "score_function_standalone": (GOLDENS / "score_function.yaml", {}, True),
}


def emitted(name: str) -> str:
    spec, sizes, standalone = CASES[name]
    return towerdsl.source(spec, standalone=standalone, **sizes)


@pytest.mark.parametrize("name", CASES)
def test_golden(name):
    file = GOLDENS / f"{name}.py"
    source = emitted(name)
    if os.environ.get("TOWERDSL_UPDATE_GOLDENS"):
        file.write_text(source, encoding="utf-8")
    assert source == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_lines_are_short(name):
    code = [x for x in emitted(name).splitlines() if not x.endswith('",')]  # texts of checkpoint maps are not broken
    assert max(map(len, code)) <= WIDTH


RUN = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "towerdsl":
            raise ModuleNotFoundError("towerdsl is not installed here")

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import torch
torch.manual_seed(0)
model = getattr(__import__(sys.argv[2]), sys.argv[3])()
result = model({inputs})
assert all(y.isfinite().all() for y in result) if isinstance(result, tuple) else result.isfinite().all()
assert "towerdsl" not in sys.modules
"""


@pytest.mark.parametrize(
    ("name", "model", "inputs"),
    [
        ("graph_attention_standalone", "GraphAttention", "torch.randn(4, 5), torch.tensor([[0, 1, 2], [1, 2, 3]])"),
        ("score_function_standalone", "Glimpses", "torch.randn(2, 3, 8)"),
    ],
)
def test_standalone_needs_only_torch(name, model, inputs, tmp_path):
    (tmp_path / "alone.py").write_text(emitted(name), encoding="utf-8")
    program = RUN.replace("{inputs}", inputs)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(tmp_path), "alone", model],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert not done.returncode, done.stderr


def test_standalone_says_what_it_copies():
    """What is copied in is the code of the package, so it computes the same."""
    import inspect

    from towerdsl.ops import normalizers

    source = inspect.getsource(normalizers.pick_scored).rstrip()
    assert source in emitted("score_function_standalone")
