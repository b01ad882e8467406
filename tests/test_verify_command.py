"""`towerdsl verify`: the library holds, and what is broken on purpose is found, with its place and by how much.

`TOWERDSL_UPDATE_GOLDENS=1 pytest tests/test_verify_command.py` writes the golden tables anew: read them.
"""

import re
from pathlib import Path

import pytest

import towerdsl
from towerdsl import cli
from towerdsl.claims import Verified, verify_spec
from towerdsl.kernels import choose
from towerdsl.kernels.reference import Reference
from towerdsl.kernels.sdpa import Sdpa

HERE = Path(__file__).parent
ORACLE = sorted(p for p in (HERE / "oracle" / "specs").glob("*.yaml") if p.stem != "library")
SMALL = {"d": 8}


def failures(verified: Verified) -> dict[str, str]:
    return {f.claim: f.text for a in verified.attentions for f in a.failures}


@pytest.mark.parametrize("spec", ORACLE, ids=lambda p: p.stem)
def test_every_attention_is_its_average(spec):
    verified = verify_spec(spec)
    assert verified.ok, str(verified)
    assert verified.attentions
    assert not verified.never_called


def test_the_library_holds(capsys):
    assert cli.main(["verify"]) == 0
    out = capsys.readouterr().out
    assert "bert" in out and "fails" not in out and "mistake" not in out


# --- kernels that are wrong ------------------------------------------------------------------------------------


class Broken(Sdpa):
    """sdpa with its code changed."""

    name = "broken"

    def __init__(self, pattern: str, code: str) -> None:
        self.pattern, self.code = pattern, code

    def write(self, average, facts, writer):
        result = super().write(average, facts, writer)
        changed = [re.sub(self.pattern, self.code, line) for line in writer.frame.lines]
        assert changed != writer.frame.lines
        writer.frame.lines[:] = changed
        return result


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
def test_a_broken_kernel_is_found(case, monkeypatch, capsys):
    pattern, code, claims = BROKEN[case]
    monkeypatch.setattr(choose, "CATALOG", (Broken(pattern, code), Reference()))
    verified = towerdsl.verify("multi_head_attention", d=8, heads=2)
    assert set(failures(verified)) == claims
    assert cli.main(["verify", "multi_head_attention", "--set", "d=8", "--set", "heads=2"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    for claim, message in failures(verified).items():
        assert f"multi_head_attention, attention: {claim}: {message}" in out
    monkeypatch.undo()
    assert towerdsl.verify("multi_head_attention", d=8, heads=2).ok
