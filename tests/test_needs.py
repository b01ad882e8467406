"""What a definition or a block needs of its arguments, read where it is called."""

import pytest
import torch

import towerdsl
from towerdsl.diagnostics import TowerError

SPEC = """
tower: needs
sizes:
  dh: 5
  d: 8
  heads: 2
  kind: one_of('plain', 'rotary')
define:
  thirds(x, m):
    formula: x * m
    needs: [m % 3 == 0, m > 3]
  nextof(x, m): thirds(x, m + 1)
inputs:
  x: float[b, n, dh]
  z: float[b, n, d]
params:
  table: float[heads, 32]
blocks:
  halved(x, m = 4):
    needs: m % 2 == 0
    flow:
      - x * m
  look(z, table):
    query: z
    key: z
    value: z
    heads: heads
    FIELD
outputs: OUTPUT
"""


def result(output: str, field: str = "score: dot(q, k)", **sizes) -> torch.Size:
    text = SPEC.replace("OUTPUT", output).replace("FIELD", field)
    return towerdsl.compile(text, **sizes)()(torch.randn(2, 3, sizes.get("dh", 5)), torch.randn(2, 3, 8)).shape


UNMET = {
    "rope(x, range(n), dh)": "`rope` needs `size % 2 == 0`, `size` is 5",
    "rope_pairs(x, range(n), dh)": "`rope_pairs` needs `size % 2 == 0`, `size` is 5",
    "sinusoidal_halves(range(n), dh)": "`sinusoidal_halves` needs `size % 2 == 0`, `size` is 5",
    "rope(z, range(n), d, base=0)": "`rope` needs `base > 0`, `base` is 0",
    "thirds(x, 4)": "`thirds` needs `m % 3 == 0`, `m` is 4",
    "thirds(x, 3)": "`thirds` needs `m > 3`, `m` is 3",
    "nextof(x, 3)": "`thirds` needs `m % 3 == 0`, `m` is 4",
    "thirds(x, 3 * n + 1)": "`thirds` needs `m % 3 == 0`",
    "halved(x, dh)": "`halved` needs `m % 2 == 0`, `m` is 5",
}
MET = [
    "rope(z, range(n), d)",
    "thirds(x, 6)",
    "thirds(x, n)",  # known at run time only
    "thirds(x, x)",
    "thirds(x, 3 * n)",
    "halved(x)",
    "halved(x, n)",
    "rope(x, range(n), dh) if kind == 'rotary' else x",
    "x if kind == 'plain' else halved(x, dh)",
]
FIELDS = {
    "score: dot(q, k) + bucketed(table, 32, 8)": "`bucket` needs `far > buckets // 4`",
    "score: dot(q, k) + bucketed(table, 3)": "`bucket` needs `buckets >= 4`",
    "score: dot(q, k) + bucketed_causal(table, 32, 16)": "`bucketed_causal` needs `far > buckets // 2`",
    "score: dot(q, k) + relative(table, -1)": "`relative` needs `reach >= 0`",
    "score: dot(q, k) + alibi(0)": "`alibi` needs `heads > 0`",
    "score: gaussian(0)": "`gaussian` needs `sigma > 0`",
    "locality: window(0)": "`window` needs `w > 0`",
    "locality: window(2) or causal_window(heads - 2)": "`causal_window` needs `w > 0`",
    "locality: dilated(2, 0)": "`dilated` needs `r > 0`",
    "locality: strided(0)": "`strided` needs `s > 0`",
    "locality: blocks(-1)": "`blocks` needs `w > 0`",
    "locality: shifted_blocks(i, j, 0, 1)": "`shifted_blocks` needs `w > 0`",
    "locality: neighbours(i, j, -1)": "`neighbours` needs `r >= 0`",
    "score: dot(rope(q, i, dk - 1), k)": "`rope` needs `size % 2 == 0`, `size` is 3",
}


@pytest.mark.parametrize("output", UNMET)
def test_what_is_not_met_is_a_mistake_at_the_call(output):
    with pytest.raises(TowerError) as caught:
        result(output)
    (mistake,) = caught.value.diagnostics
    assert (mistake.code, mistake.message) == ("needs", UNMET[output])
    assert mistake.span.text == output
    assert mistake.notes[0].split("` is defined")[0].startswith(f"`{UNMET[output].split('`')[1]}(")


@pytest.mark.parametrize("field", FIELDS)
def test_what_the_standard_library_needs(field):
    with pytest.raises(TowerError) as caught:
        result("look(z, table)", field)
    assert caught.value.diagnostics[0].message.startswith(FIELDS[field])


@pytest.mark.parametrize("output", MET)
def test_what_is_met_or_not_known_is_none(output):
    assert result(output)[:2] == (2, 3)


def test_the_sizes_decide():
    assert result("rope(x, range(n), dh)", dh=6) == (2, 3, 6)
    with pytest.raises(TowerError, match="`rope` needs"):
        result("rope(x, range(n), dh) if kind == 'rotary' else x", kind="rotary")


def test_in_a_file_that_is_used(tmp_path):
    shared = "define:\n  even(x, m):\n    formula: x * m\n    needs: m % 2 == 0 and m < limit\nsizes: {limit: 7}\n"
    (tmp_path / "shared.yaml").write_text(shared)
    spec = tmp_path / "spec.yaml"
    text = "tower: t\nuse: [shared]\nsizes: {m: 6}\ninputs: {x: 'float[n]'}\noutputs: even(x, m)\n"
    spec.write_text(text)
    assert towerdsl.compile(spec)()(torch.ones(3)).tolist() == [6, 6, 6]
    with pytest.raises(TowerError, match=r"spec\.yaml:5:10.*\n.*\n.*\n.*shared\.yaml:2:3\nhelp: with 4 or 6 for `m`"):
        towerdsl.compile(spec, m=5)
    with pytest.raises(TowerError, match=r"`m` is 6 and `limit` is 6"):
        towerdsl.compile(spec, limit=6)
