"""Maps at work, in both directions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from towerdsl.diagnostics import TowerError
from towerdsl.weights import CheckpointMap, to_model, to_public


def make(rules, **options):
    return CheckpointMap.from_strings("hf", rules, **options)


def shapes_of(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def assert_same(a, b):
    assert sorted(a) == sorted(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


def random_state(shapes):
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_gpt2_fused_and_transposed():
    d = 6
    map = make(
        {
            "h.{l}.attn.c_attn.weight": "transpose(concat(layer.{l}.look.query.weight, layer.{l}.look.key.weight, "
            "layer.{l}.look.value.weight))",
            "h.{l}.attn.c_attn.bias": "concat(layer.{l}.look.query.bias, layer.{l}.look.key.bias, "
            "layer.{l}.look.value.bias)",
            "h.{l}.mlp.c_fc.weight": "transpose(layer.{l}.up.weight)",
        }
    )
    state = {}
    for n in range(3):
        for part in ("query", "key", "value"):
            state |= random_state({f"layer.{n}.look.{part}.weight": (d, d), f"layer.{n}.look.{part}.bias": (d,)})
        state |= random_state({f"layer.{n}.up.weight": (4 * d, d)})
    public = to_public(map, state)
    assert public["h.1.attn.c_attn.weight"].shape == (d, 3 * d)
    x = torch.randn(5, d)
    fused = x @ public["h.1.attn.c_attn.weight"] + public["h.1.attn.c_attn.bias"]  # as GPT-2's Conv1D computes it
    for part, y in zip(("query", "key", "value"), fused.split(d, -1), strict=True):
        plain = torch.nn.functional.linear(x, state[f"layer.1.look.{part}.weight"], state[f"layer.1.look.{part}.bias"])
        torch.testing.assert_close(y, plain)
    back, report = to_model(map, public, shapes_of(state))
    assert report.ok
    assert_same(back, state)


def test_torch_multihead_attention_in_proj():
    theirs = torch.nn.MultiheadAttention(8, 2)
    map = make({"in_proj_{p}": "concat(query.{p}, key.{p}, value.{p})", "out_proj.{p}": "output.{p}"})
    shapes = {f"{part}.weight": (8, 8) for part in ("query", "key", "value", "output")}
    shapes |= {f"{part}.bias": (8,) for part in ("query", "key", "value", "output")}
    state, report = to_model(map, theirs.state_dict(), shapes)
    assert report.ok
    torch.testing.assert_close(state["key.weight"], theirs.in_proj_weight[8:16])
    assert_same(to_public(map, state), theirs.state_dict())


def test_ours_joined_and_theirs_apart_with_fewer_key_heads():
    map = make({"concat(q_proj.weight, k_proj.weight, v_proj.weight, parts=[3, 1, 1])": "qkv.weight"})
    public = {
        "q_proj.weight": torch.randn(6, 4),
        "k_proj.weight": torch.randn(2, 4),
        "v_proj.weight": torch.randn(2, 4),
    }
    state, report = to_model(map, public, {"qkv.weight": (10, 4)})
    assert report.ok
    assert_same(to_public(map, state), public)
    public["k_proj.weight"], public["q_proj.weight"] = torch.randn(6, 4), torch.randn(2, 4)
    _, report = to_model(map, public, {"qkv.weight": (10, 4)})
    assert report.mismatched == (("q_proj.weight", (6, 4), (2, 4)), ("k_proj.weight", (2, 4), (6, 4)))


def test_experts_stacked_on_either_side():
    apart = {f"layer.{n}.expert.{e}.w": torch.randn(2, 3) for n in range(2) for e in range(11)}
    map = make({"h.{l}.experts": "stack(layer.{l}.expert.{e}.w)"})
    stacked = to_public(map, apart)
    assert stacked["h.1.experts"].shape == (11, 2, 3)
    torch.testing.assert_close(stacked["h.1.experts"][10], apart["layer.1.expert.10.w"])
    other_way = make({"stack(layer.{l}.expert.{e}.w)": "h.{l}.experts"})
    state, report = to_model(other_way, apart, shapes_of(stacked))
    assert report.ok
    assert_same(state, stacked)
    assert_same(to_public(other_way, state), apart)
    both = make({"all": "transpose(stack(stack(layer.{l}.expert.{e}.w, over=e, dim=-1), over=l))"})
    public = to_public(both, apart)
    assert public["all"].shape == (2, 2, 11, 3)
    assert_same(to_model(both, public, shapes_of(apart))[0], apart)


def test_reshape():
    map = make({"patch.weight": "reshape(linear.weight, [4, 3, 2, -1])"})
    state = random_state({"linear.weight": (4, 12)})
    public = to_public(map, state)
    assert public["patch.weight"].shape == (4, 3, 2, 2)
    assert_same(to_model(map, public, shapes_of(state))[0], state)


# ways to name the same parameters; True: for square tensors only
WAYS = [
    ({"{part}_proj.{l}": "{l}.{part}"}, False),
    ({"h.{l}.fused": "transpose(concat({l}.q, {l}.k, {l}.v))"}, False),
    ({"h.{l}.fused": "concat(transpose({l}.q), {l}.k, transpose({l}.v), dim=1)"}, True),
    ({"q": "stack({l}.q, dim=-1)", "k": "transpose(stack({l}.k))", "h.{l}.v": "reshape({l}.v, [1, -1])"}, False),
    ({"all": "concat(stack({l}.q), stack({l}.k), transpose(stack({l}.v)), dim=-1)"}, True),
    ({"concat(a.{l}, b.{l})": "concat({l}.q, {l}.k)", "transpose(v.{l})": "{l}.v"}, False),
]


@settings(max_examples=60, deadline=None)
@given(
    layers=st.integers(1, 12),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    way=st.sampled_from(WAYS),
    prefix=st.sampled_from(["", "bert.", "module.", "module.bert."]),
    seed=st.integers(0, 99),
)
def test_round_trip_is_identity(layers, rows, columns, way, prefix, seed):
    rules, square = way
    columns = rows if square else columns
    torch.manual_seed(seed)
    state = random_state({f"{n}.{part}": (rows, columns) for n in range(layers) for part in "qkv"})
    map = make(rules, prefix=["bert."])
    public = to_public(map, state)
    assert sum(t.numel() for t in public.values()) == sum(t.numel() for t in state.values())
    prefixed = {prefix + name: tensor for name, tensor in public.items()}
    back, report = to_model(map, prefixed, shapes_of(state))
    assert report.ok and not report.unexpected and {p for p, _ in report.loaded} == set(prefixed)
    assert_same(back, state)
    assert_same(to_public(map, back), public)


TIED = {"embeddings.weight": "words.weight", "decoder.weight": "words.weight"}


def test_tied_names():
    map, w = make(TIED), torch.randn(3, 2)
    for names in (["embeddings.weight"], ["decoder.weight"], ["embeddings.weight", "decoder.weight"]):
        state, report = to_model(map, {name: w.clone() for name in names}, {"words.weight": (3, 2)})
        assert report.ok and {p for p, _ in report.loaded} == set(names)
        torch.testing.assert_close(state["words.weight"], w)
    assert set(to_public(map, {"words.weight": w})) == set(TIED)
    _, report = to_model(map, {}, {"words.weight": (3, 2)})
    assert report.missing == ("embeddings.weight",) and report.unfilled == ("words.weight",)
    _, report = to_model(map, {"embeddings.weight": w, "decoder.weight": w + 1}, {"words.weight": (3, 2)})
    assert not report.ok and report.conflicts == (("embeddings.weight", "decoder.weight"),)
    nan = torch.full((3, 2), float("nan"))
    assert to_model(map, {"embeddings.weight": nan, "decoder.weight": nan.clone()}, {"words.weight": (3, 2)})[1].ok


def test_ties_of_the_model():
    map = make({"{x}.w": "{x}.w"})
    state, report = to_model(map, {"b.w": torch.ones(2)}, {"a.w": (2,), "b.w": (2,)}, same={"b.w": "a.w"})
    assert report.ok and list(state) == ["a.w"] and report.parameters == 1


def test_a_half_there_fused_tensor_is_missing_its_other_half():
    map = make({"concat(q, k)": "qk"})
    state, report = to_model(map, {"q": torch.ones(2)}, {"qk": (4,)})
    assert not state and report.missing == ("k",) and report.unexpected == () and report.unfilled == ("qk",)


def test_every_kind_in_the_report():
    map = make({"{x}": "ours.{x}", "moved": "ours.moved"}, ignore=["position_ids", "cls.{p*}"], prefix=["bert."])
    public = {
        "bert.good": torch.ones(2),
        "bert.wide": torch.ones(3),
        "bert.whole": torch.ones(2, dtype=torch.int64),
        "bert.position_ids": torch.ones(1),
        "cls.a.b": torch.ones(1),
        "bert.extra.\x1b[31mred": torch.ones(1),
    }
    shapes = {"ours.good": (2,), "ours.wide": (2,), "ours.whole": (2,), "ours.gone": (2,), "loose": (1,)}
    state, report = to_model(map, public, shapes, dtypes=dict.fromkeys(shapes, torch.float32))
    assert list(state) == ["ours.good"]
    assert report.loaded == (("bert.good", "ours.good"),)
    assert report.missing == ("gone",) and report.uncovered == ("loose",)
    assert report.mismatched == (("bert.wide", (2,), (3,)),)
    assert report.mistyped == (("bert.whole", "float", "int64"),)
    assert report.ignored == ("bert.position_ids", "cls.a.b")
    assert report.unexpected == ("bert.extra.\x1b[31mred",)
    assert not report.ok
    text = str(report)
    assert text.startswith("1 of 5 parameters from 1 tensor, named as in format `hf`\n")
    assert "bert.wide: expected [2], got [3]" in text and "\x1b" not in text
    assert text.splitlines()[-1].startswith("help: ")


def test_long_lists_are_cut():
    shapes = {f"x.{n}": (1,) for n in range(32)}
    _, report = to_model(make({"y.{n}": "x.{n}"}), {}, shapes)
    assert "not in the checkpoint (32):" in str(report) and str(report).count("\n  y.") == 20
    assert "  ... and 12 more" in str(report)


def test_a_huge_tensor_of_no_memory_is_only_looked_at():
    _, report = to_model(make({"x": "reshape(x, [2, 2])"}), {"x": torch.zeros(1).expand(10**6, 10**6)}, {"x": (4,)})
    assert report.mismatched == (("x", (2, 2), (10**6, 10**6)),)


def test_saving_needs_a_name_for_everything():
    with pytest.raises(TowerError, match="no names for `b`"):
        to_public(make({"a": "a"}), {"a": torch.ones(1), "b": torch.ones(1)})


def test_a_checkpoint_that_counts_from_one():
    map = make({"block{l+1}.{p}": "layer.{l}.{p}"})
    assert CheckpointMap.from_data("hf", map.to_data()) == make({"block{l+1}.{p}": "layer.{l}.{p}"})
    state = {f"layer.{n}.w": torch.full((2,), float(n)) for n in range(12)}
    public = to_public(map, state)
    assert {name: x[0].item() for name, x in public.items()} == {f"block{n + 1}.w": n for n in range(12)}
    back, report = to_model(map, public, dict.fromkeys(state, (2,)))
    assert report.ok and all(torch.equal(back[name], x) for name, x in state.items())
    state, report = to_model(map, {"block0.w": torch.ones(2)}, {"layer.x.w": (2,)})
    assert not state and report.unexpected == ("block0.w",)


def test_what_is_not_needed_is_not_saved():
    map = make({"norm.{p}": "n.{p}"}, ignore=["{name*}.steps"])
    state = {"n.weight": torch.ones(2), "n.steps": torch.ones(())}
    assert set(to_public(map, state)) == {"norm.weight"}


def test_a_wrong_map_is_said_before_anything():
    for go in (lambda m: to_public(m, {"a": torch.ones(2)}), lambda m: to_model(m, {}, {"a": (2,)})):
        with pytest.raises(TowerError, match="two dims or more"):
            go(make({"a": "transpose(a)"}))


# --- old spellings -----------------------------------------------------------------------------------------------

RENAMED = {"rules": {"layer.{l}.norm.{p}": "norm.{l}.{p}"}, "rename": {"gamma": "weight", "beta": "bias"}}
NORMS = {f"norm.{n}.{p}": (3,) for n in range(2) for p in ("weight", "bias")}


def renamed(**options):
    return make(RENAMED["rules"], rename=RENAMED["rename"], **options)


def old(public):
    return {name.replace("weight", "gamma").replace("bias", "beta"): tensor for name, tensor in public.items()}


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_old_spellings_are_read_and_never_written(prefix):
    state = random_state(NORMS)
    public = to_public(renamed(), state)
    assert sorted(public) == [f"layer.{n}.norm.{p}" for n in range(2) for p in ("bias", "weight")]
    found = {prefix + name: tensor for name, tensor in old(public).items()}
    back, report = to_model(renamed(prefix=["bert."]), found, NORMS)
    assert report.ok and not report.unexpected
    assert_same(back, state)
    assert {name for name, _ in report.loaded} == set(found)


def test_old_and_new_spellings_may_be_mixed():
    state = random_state(NORMS)
    public = to_public(renamed(), state)
    mixed = {name: public[name] for name in list(public)[:2]} | old({n: public[n] for n in list(public)[2:]})
    back, report = to_model(renamed(), mixed, NORMS)
    assert report.ok
    assert_same(back, state)


def test_the_new_spelling_counts_where_both_are_there():
    state = random_state(NORMS)
    public = to_public(renamed(), state)
    both = public | {name: tensor + 1 for name, tensor in old(public).items()}
    back, report = to_model(renamed(), both, NORMS)
    assert_same(back, state)
    assert set(report.unexpected) == set(old(public))


def test_layers_that_the_model_lacks_are_seen_under_old_spellings():
    public = old(to_public(renamed(), random_state(NORMS)))
    _, report = to_model(renamed(), public, {name: shape for name, shape in NORMS.items() if ".0." in name})
    assert set(report.surplus) == {"layer.1.norm.gamma", "layer.1.norm.beta"}


def test_a_part_that_the_map_expects_keeps_its_name():
    map = make({"scale.gamma": "gamma", "norm.weight": "norm.weight"}, rename={"gamma": "weight"})
    state = random_state({"gamma": (2,), "norm.weight": (2,)})
    public = to_public(map, state)
    assert sorted(public) == ["norm.weight", "scale.gamma"]
    back, _ = to_model(
        map, {"norm.gamma": public["norm.weight"], "scale.gamma": public["scale.gamma"]}, NORMS | shapes_of(state)
    )
    assert torch.equal(back["gamma"], state["gamma"]) and torch.equal(back["norm.weight"], state["norm.weight"])


def test_a_map_with_old_spellings_is_the_same_from_its_data():
    assert CheckpointMap.from_data("hf", renamed().to_data()) == renamed()


@pytest.mark.parametrize("rename", [{"a..b": "c"}, {"a": "{p}"}, {"": "c"}, {"a": "b c"}, {"a": ".b"}])
def test_a_spelling_is_of_whole_parts(rename):
    with pytest.raises(TowerError, match="`rename` is about whole parts of names"):
        make({"a": "b"}, rename=rename)


def test_a_spelling_may_be_of_several_parts_and_the_longest_counts():
    map = make(
        {"encoder.{l}.attention.self.{q}.{p}": "{l}.{q}.{p}"},
        rename={"layers": "encoder", "a.q_proj": "attention.self.query", "a": "attention", "k_proj": "self.key"},
    )
    state = random_state({f"{n}.{q}.weight": (2,) for n in range(11) for q in ("query", "key")})
    public = to_public(map, state)
    memory = {
        name.replace("encoder.", "layers.")
        .replace("attention.self.query", "a.q_proj")
        .replace("attention.self.key", "a.k_proj"): x
        for name, x in public.items()
    }
    assert "layers.10.a.q_proj.weight" in memory and not memory.keys() & public.keys()
    for names in (
        memory,
        {f"model.{n}": x for n, x in memory.items()},
        {f"_orig_mod.{n}": x for n, x in memory.items()},
    ):
        back, report = to_model(map, names, shapes_of(state))
        assert report.ok and not report.unexpected
        assert_same(back, state)
