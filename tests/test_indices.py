"""What an index may read: one that is certain to leave its axis is a mistake, one that may stay inside is none."""

import pytest
import torch

import towerdsl
from towerdsl.diagnostics import TowerError

ATTENTION = """
tower: indices
sizes: {{d: 8, heads: 2, buckets: 32, r: 4, m: 6, nn: 10}}
inputs:
  x: float[b, n, d]
  z: float[b, m, d]
  keep: bool[b, n]
params:
  rows: float[heads, buckets]
  columns: float[buckets, heads]
  short: float[heads, 2 * r]
  whole: float[heads, 2 * r + 1]
  eleven: float[heads, 11]
  each: float[heads]
  other: float[4, 8]
  grid: float[m, nn]
  place: float[nn, d]
blocks:
  look(x, keep, rows, columns, short, whole, eleven, each, other, grid, place):
    query: x
    key: x
    value: x
    heads: heads
    score: dot(q, k) + {score}
    {more}
outputs: look({x}, keep, rows, columns, short, whole, eleven, each, other, grid, place)
"""
#: Scores with an index that leaves its axis, along a free axis or one of 6, what is said, and what the help writes.
OUTSIDE = {
    "bucketed(columns)": ("x", "`head` reads axis buckets=32, but there are 2 heads"),
    "columns[head, bucket(j - i)]": ("x", "`head` reads axis buckets=32, but there are 2 heads"),
    "other[head, j % 8]": ("x", "`head` reads axis 4, but there are 2 heads"),
    "relative(short, r)": ("x", "the index `relative(short, r)` leaves axis 8"),
    "other[0, bucket(j - i, 32, 100)]": ("x", "the index `bucket(j - i, 32, 100)` leaves axis 8"),
    "other[head // 2, j % 9]": ("x", "the index `j % 9` leaves axis 8"),
    "each[head + 1]": ("x", "the index `head + 1` leaves axis heads=2"),
    "each[2]": ("x", "the index `2` leaves axis heads=2"),
    "each[-1]": ("x", "the index `-1` leaves axis heads=2"),
    "where(keep[j + 1], 0, 1)": ("x", "the index `j + 1` leaves axis n"),
    "where(keep[i - 1], 0, 1)": ("x", "the index `i - 1` leaves axis n"),
    "sum(place[i + 10])": ("x", "the index `i + 10` leaves axis nn=10"),
    "eleven[head, i - j + m]": ("z", "the index `i - j + m` leaves axis 11"),
    "eleven[head, i - j]": ("z", "the index `i - j` leaves axis 11"),
    "eleven[head, abs(i - j) * 3]": ("z", "the index `abs(i - j) * 3` leaves axis 11"),
    "eleven[head, i * j]": ("z", "the index `i * j` leaves axis 11"),
    "eleven[head, int(12 * sin(i))]": ("z", "the index `int(12 * sin(i))` leaves axis 11"),
    "where(j < i, eleven[head, j - i], 0)": ("z", "the index `j - i` leaves axis 11"),
    "grid[i + j, i]": ("z", "the index `i + j` leaves axis m=6"),
}
INSIDE = {
    "bucketed(rows)": "x",
    "rows[head, bucket(j - i, 32, 100)]": "x",
    "relative(whole, r)": "x",
    "whole[head, i - j + r]": "x",  # the length may be 5
    "each[heads - 1 - head]": "x",
    "other[head // 2, j % 8]": "x",
    "rows[head, 31 - int(log(1 + abs(i - j)))]": "x",
    "where(keep[clip(j + 1, 0, n - 1)], 0, 1)": "x",
    "where(j + 1 < n, where(keep[j + 1], 0, 1), 0)": "x",
    "where(j + 1 < n and keep[j + 1], 0, 1)": "x",
    "where(j == n - 1 or keep[j + 1], 0, 1)": "x",
    "where(keep[j], place[i + 10, 0], 0)": "x",  # data chooses
    "sum(place[i])": "x",
    "sum(place[i + 5])": "x",
    "eleven[head, int(sum(q))]": "x",  # what data decides
    "eleven[head, min(int(sum(q)), 99)]": "x",
    "eleven[head, i - j + m - 1]": "z",
    "eleven[head, max(i - j, 0)]": "z",
    "where(j > i, eleven[head, j - i], eleven[head, i - j])": "z",
    "grid[i, j]": "z",
}
#: Scores that the condition decides: what it hides is not read.
HIDDEN = {
    "eleven[head, i - j]": ("mask: j <= i", "mask: j <= i + 1"),
    "eleven[head, abs(i - j) * 3]": ("locality: abs(i - j) < 4", "locality: abs(i - j) < 5"),
    "other[0, i + j]": ("mask: i + j < 8 and keep[0]", "mask: i + j < 9 and keep[0]"),
    "other[1, 3 * (i % 3 - j % 3) + 6]": ("locality: blocks(3) and i == j", "locality: blocks(3)"),
}


def look(score: str, x: str, more: str = "") -> torch.Size:
    model = towerdsl.compile(ATTENTION.format(score=score, x=x, more=more))()
    return model(torch.randn(2, 5, 8), torch.randn(2, 6, 8), torch.rand(2, 5) < 0.5).shape


@pytest.mark.parametrize("score", OUTSIDE)
def test_an_index_that_is_certain_to_leave_its_axis(score):
    x, said = OUTSIDE[score]
    with pytest.raises(TowerError) as caught:
        look(score, x)
    (mistake,) = caught.value.diagnostics
    assert mistake.message == said and mistake.span.text in score
    if "`clip(" in mistake.help:  # the next step can be taken
        assert look(score.replace(mistake.span.text, mistake.help.split("`")[1]), x)


@pytest.mark.parametrize("score", INSIDE)
def test_an_index_that_may_stay_inside(score):
    assert look(score, INSIDE[score])


@pytest.mark.parametrize("score", HIDDEN)
def test_what_a_condition_hides_is_not_read(score):
    enough, too_little = HIDDEN[score]
    assert look(score, "z", enough)
    with pytest.raises(TowerError, match="leaves axis"):
        look(score, "z", too_little)


def test_pairs_of_data_may_leave_out_what_is_outside():
    spec = """
tower: pairs
inputs: {z: "float[6, 4]", keep: "bool[6]", edges: "relation[6, 6]", doc: "int[6]"}
params: {t: "float[5]"}
blocks:
  look(z, t, keep, edges, doc):
    query: z
    key: z
    value: z
    score: t[i - j + 2]
    mask: MASK
outputs: look(z, t, keep, edges, doc)
"""
    for mask in ("edges[j, i]", "doc[i] == doc[j]", "keep[j] and abs(i - j) <= 2", "edges[j, i] or i == j"):
        towerdsl.compile(spec.replace("MASK", mask))
    for mask in ("keep[j]", "doc[j] > 1 and abs(i - j) <= 3", "edges[j, i] or abs(i - j) <= 3"):
        with pytest.raises(TowerError, match="`i - j \\+ 2` leaves axis 5"):
            towerdsl.compile(spec.replace("MASK", mask))


PLAIN = """
tower: plain
sizes: {{d: 8, m: 6, context: 4}}
inputs:
  x: float[b, n, d]
  z: float[b, m, d]
  ids: int[b, n]
params:
  t: float[context, d]
flow:
{flow}
outputs: y
"""
LEAVES = {
    "t[4]": "`4` leaves axis context=4",
    "t[-1]": "`-1` leaves axis context=4",
    "t[range(m)]": "`range(m)` leaves axis context=4",
    "t[range(m) // 2 + 2]": "`range(m) // 2 + 2` leaves axis context=4",
    "t[range(n) - 1]": "`range(n) - 1` leaves axis context=4",
    "embed(range(m), context, d)": "`range(m)` leaves a table of 4",
    "embed(7, context, d)": "`7` leaves a table of 4",
}
STAYS = ["t[3]", "t[range(n)]", "t[range(m) // 2]", "t[ids]", "t[ids + 4]", "embed(ids, context, d)", "t[m - 3]"]
LOOPS = {
    ("for l in 3:", "t[l + 2]"): "`l + 2` leaves axis context=4",
    ("for s along m:", "z[m=s] + t[s]"): "`s` leaves axis context=4",
    ("for s along n:", "x[n=s] + t[s - 1]"): "`s - 1` leaves axis context=4",
    ("for l in 3:", "t[l + 1]"): None,
    ("for s along m:", "z[m=s] + t[s // 2]"): None,
    ("for s along n:", "x[n=s - 1] + t[max(s - 1, 0)]"): None,
    ("for s along n:", "x[n=s] + where(s > 0, t[s - 1], 0)"): None,
}


def plain(*flow: str) -> None:
    towerdsl.compile(PLAIN.format(flow="\n".join(flow)))


@pytest.mark.parametrize("value", LEAVES)
def test_tables_read_outside_of_attentions(value):
    with pytest.raises(TowerError) as caught:
        plain(f"  - y = {value}")
    (mistake,) = caught.value.diagnostics
    assert mistake.message == f"the index {LEAVES[value]}"


@pytest.mark.parametrize("value", STAYS)
def test_tables_read_inside(value):
    plain(f"  - y = {value}")


@pytest.mark.parametrize("case", LOOPS)
def test_indices_in_loops(case):
    header, value = case
    flow = (f"  - {header}", f"      - y = {value}")
    if LOOPS[case] is None:
        plain(*flow)
        return
    with pytest.raises(TowerError, match=LOOPS[case].replace("+", r"\+")):
        plain(*flow)


def test_a_position_reads_the_axis_of_its_own_name():
    crossed = ATTENTION.replace("grid: float[m, nn]", "grid: float[r, heads]").replace("r: 4", "r: 2")
    with pytest.raises(TowerError, match="axis r=2 is indexed by a position of axis heads"):
        towerdsl.compile(crossed.format(score="grid[head, j % 2]", x="x", more=""))
    towerdsl.compile(crossed.format(score="grid[j % 2, head]", x="x", more=""))
