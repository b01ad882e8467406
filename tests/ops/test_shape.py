from dataclasses import replace
from itertools import pairwise

import einops
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from towerdsl.ir.size import Size
from towerdsl.ops import OPS, OpCall, OpError

from .running import LENGTHS, axis, error, result, run_once, runs, size, tensor, value
from .running import call as made_call

# --- rearrange -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "pattern", "lengths", "code", "type_"),
    [
        ("b n d=6", "b n d -> b n d", {}, "x", "float[b, n, d=6]"),
        ("b n d=6", "b n d -> b d n", {}, "x.transpose(1, 2)", "float[b, d=6, n]"),
        ("b n d=6", "a m e -> m a e", {}, "x.transpose(0, 1)", "float[m, a, e=6]"),
        ("b c=3 h w", "b c h w -> b h w c", {}, "x.permute(0, 2, 3, 1)", "float[b, h, w, c=3]"),
        ("b c=3 h w", "b c h w -> b c (h w)", {}, "x.flatten(2)", "float[b, c=3, h * w]"),
        ("b h w d=6", "b h w d -> b (h w) d", {}, "x.flatten(1, 2)", "float[b, h * w, d=6]"),
        ("b h w", "b h w -> (b h w)", {}, "x.flatten()", "float[b * h * w]"),
        ("b c=3 h w", "b c h w -> b (h w) c", {}, "x.permute(0, 2, 3, 1).flatten(1, 2)", "float[b, h * w, c=3]"),
        ("b n d=12", "b n (h k) -> b n h k", {"h": 4}, "x.unflatten(2, (4, 3))", "float[b, n, h=4, k=3]"),
        ("b h w", "b (h p) w -> b h p w", {"p": 2}, "x.unflatten(1, (-1, 2))", "float[b, h, p=2, w]"),
        ("b n", "b (n) -> b n", {}, "x", "float[b, n]"),
        ("b n", "b n -> b 1 n", {}, "x.unsqueeze(1)", "float[b, 1, n]"),
        ("b n", "b n -> b n 1", {}, "x.unsqueeze(-1)", "float[b, n, 1]"),
        ("b n", "b n -> b n ()", {}, "x.unsqueeze(-1)", "float[b, n, 1]"),
        ("b _=1 n", "b 1 n -> b n", {}, "x.squeeze(1)", "float[b, n]"),
        ("b s=1 n", "b 1 n -> b n 1", {}, "x.transpose(1, 2)", "float[b, n, 1]"),
        ("b n d=12", "b n (a c e) -> b n (a c) e", {"e": 3}, "x.unflatten(2, (4, 3))", "float[b, n, 4, e=3]"),
        ("b n d=12", "b n (a c) -> b (a c) n", {}, "x.transpose(1, 2)", "float[b, 12, n]"),
        ("b n d=6", "b (n p) d -> b n (p d)", {"p": 1}, "x.unflatten(1, (-1, 1)).flatten(2)", "float[b, n, 6]"),
        ("int b n", "b n -> n b", {}, "x.transpose(0, 1)", "int[n, b]"),
    ],
)
def test_code(x: str, pattern: str, lengths: dict, code: str, type_: str) -> None:
    """The shortest code, and einops' result."""
    for real in LENGTHS:
        made = OpCall(OPS["rearrange"], {"x": tensor(x)}, {"pattern": pattern, **lengths})
        run = run_once(made, {**real, "h": 8, "w": 6})
        assert run.code == code
        assert torch.equal(
            run.output, einops.rearrange(run.inputs[0], pattern, **_einops(pattern, run.inputs[0], lengths))
        )
    assert str(result("rearrange", x, pattern=pattern, **lengths).type) == type_


def _einops(pattern: str, x: torch.Tensor, lengths: dict) -> dict:
    """einops also wants to know lengths that do not matter."""
    if "(a c" not in pattern.split("->")[0]:
        return lengths
    rest = x.shape[-1] // lengths.get("e", 1)
    return {**lengths, "a": 2, "c": rest // 2}


def test_patches() -> None:
    pattern = "b c (h p) (w q) -> b (h w) (p q c)"
    for run, lengths in zip(runs_of("b c=3 h w", pattern, {"p": 2, "q": 3}), LENGTHS, strict=True):
        assert torch.equal(run.output, einops.rearrange(run.inputs[0], pattern, p=2, q=3))
        assert value(run.result.type.axes[2].size, lengths) == 18


def runs_of(x: str, pattern: str, lengths: dict) -> list:
    made = OpCall(OPS["rearrange"], {"x": tensor(x)}, {"pattern": pattern, **lengths})
    return [run_once(made, real) for real in LENGTHS]


def test_lengths_of_any_form() -> None:
    """A length is an integer, a size, or a size with a name; it may be free."""
    for p in (2, Size.of(2), size(2, "patch")):
        split = result("rearrange", "b h", pattern="b (h p) -> b h p", p=p).type
        assert [str(a.size) for a in split.axes] == ["b", "h // 2", "2"]
    x = made_call("rearrange", "b n d=4", pattern="").x
    merged = result("rearrange", "b n d=4", pattern="b n d -> b (n d)").type
    call = OpCall(OPS["rearrange"], {"x": merged}, {"pattern": "b (n d) -> b n d", "n": size(Size.free("n"), "n")})
    assert [a.size for a in call.op.rule(call).type.axes] == [a.size for a in x.axes]
    run_once(call, LENGTHS[0])


def test_same_axes() -> None:
    """An axis that is only moved stays what it was."""
    x = made_call("rearrange", "b n d=4", pattern="").x
    moved = result("rearrange", "b n d=4", pattern="b n d -> d b n").type
    assert moved.axes == (x.axes[2], x.axes[0], x.axes[1])


def test_known_product() -> None:
    """With all lengths given, the axis may be free: torch checks it."""
    made = OpCall(OPS["rearrange"], {"x": tensor("b n")}, {"pattern": "b (h w) -> b h w", "h": 2, "w": 3})
    run = run_once(made, {"b": 2, "n": 6})
    assert run.code == "x.unflatten(1, (2, 3))"
    with pytest.raises(RuntimeError):
        run_once(made, {"b": 2, "n": 7})


@st.composite
def patterns(draw: st.DrawFn) -> tuple[str, dict[str, int], list[int], list[str]]:
    """A random pattern, lengths that it needs, the tensor's shape, and the names of its free axes."""
    names = [f"a{n}" for n in range(draw(st.integers(1, 6)))]
    lengths = {name: draw(st.integers(1, 4)) for name in names}

    def grouped(order: list[str]) -> list[list[str]]:
        cuts = [
            0,
            *sorted(draw(st.sets(st.integers(1, len(order) - 1)) if len(order) > 1 else st.just(set()))),
            len(order),
        ]
        groups = [order[a:b] for a, b in pairwise(cuts)]
        for _ in range(draw(st.integers(0, 2))):
            groups.insert(draw(st.integers(0, len(groups))), [])
        return groups

    left, right = grouped(names), grouped(draw(st.permutations(names)))
    inferred = {group[draw(st.integers(0, len(group) - 1))] for group in left if len(group) > 1 and draw(st.booleans())}
    needed = {n: lengths[n] for group in left if len(group) > 1 for n in group if n not in inferred}
    text = " -> ".join(
        " ".join("1" if not g else g[0] if len(g) == 1 else f"({' '.join(g)})" for g in side) for side in (left, right)
    )
    shape = [torch.tensor([lengths[n] for n in group]).prod().item() if group else 1 for group in left]
    free = [f"x{n}" for n, group in enumerate(left) if group and draw(st.booleans())]
    return text, needed, [int(s) for s in shape], free


@settings(max_examples=300, deadline=None)
@given(patterns())
def test_as_einops(drawn: tuple[str, dict[str, int], list[int], list[str]]) -> None:
    pattern, lengths, shape, free = drawn
    assume(len(shape) <= 8)
    axes = [f"x{n}" if f"x{n}" in free else f"x{n}={s}" for n, s in enumerate(shape)]
    made = OpCall(OPS["rearrange"], {"x": tensor(" ".join(axes))}, {"pattern": pattern, **lengths})
    run = run_once(made, {f"x{n}": s for n, s in enumerate(shape)})
    assert torch.equal(run.output, einops.rearrange(run.inputs[0], pattern, **lengths))
    assert run.code.count(".") <= 2 * len(shape) + 6


@pytest.mark.parametrize(
    ("x", "pattern", "lengths", "code", "message"),
    [
        ("b n d=64", "b c h w -> b (h w) c", {}, "axis-count", "the pattern has four axes, x has three [b, n, d=64]"),
        ("b n d=64", "b n d -> b n d e", {}, "rearrange-pattern", "`e` is on the right only and has no length"),
        (
            "b n d=64",
            "b n d -> b n d e",
            {"e": 2},
            "rearrange-pattern",
            "`e` is on the right only: rearrange does not repeat",
        ),
        ("b n d=64", "b n d -> b n", {}, "rearrange-pattern", "`d` is on the left only"),
        ("b n d=64", "b n (h p) -> b n h p", {"p": 7}, "size-divide", "`(h p)` with p=7 does not divide d, 64"),
        ("b n d=64", "b n (h p) -> b n h p", {"p": 4, "h": 8}, "axis-mismatch", "is 32, but d has length 64"),
        ("b n d=64", "b n (h p) -> b n h p", {}, "rearrange-pattern", "the lengths of `h` and `p` are not known"),
        ("b n d=64", "b n d -> b n d", {"d": 32}, "axis-mismatch", "is 32, but d has length 64"),
        ("b n d=64", "b n d -> b d n", {"q": 3}, "rearrange-pattern", "the pattern has no `q`"),
        ("b n d=64", "b n (d p) -> b n d p", {"p": 0}, "size-positive", "at least 1, got p=0"),
        ("b n d=64", "b n d", {}, "rearrange-pattern", "`axes -> axes`"),
        ("b n d=64", "b n d -> d -> b n", {}, "rearrange-pattern", "`axes -> axes`"),
        ("b n d=64", "... d -> d ...", {}, "rearrange-pattern", "`...` is not supported"),
        ("b n d=64", "b n 64 -> b n", {}, "rearrange-pattern", "of the numbers only 1 is allowed"),
        ("b n d=64", "b n 1 -> b n", {}, "axis-mismatch", "the pattern's 1 is the axis d=64, of length 64"),
        ("b n d=64", "b 1 d -> b d", {}, "axis-mismatch", "which has a free length"),
        ("b n d=64", "b n n -> b n", {}, "rearrange-pattern", "`n` stands twice"),
        ("b n d=64", "b n d -> b n (n d)", {}, "rearrange-pattern", "`n` stands twice"),
        ("b n d=64", "b (n d -> b n d", {}, "rearrange-pattern", "`(` without `)`"),
        ("b n d=64", "b n) d -> b n d", {}, "rearrange-pattern", "`)` without `(`"),
        ("b n d=64", "b ((n) d) -> b n d", {}, "rearrange-pattern", "inside"),
        ("b n d=64", "b n, d -> b n d", {}, "rearrange-pattern", "`,` is not part of a pattern"),
        ("b n d=64", "", {}, "rearrange-pattern", "`axes -> axes`"),
    ],
)
def test_pattern_mistakes(x: str, pattern: str, lengths: dict, code: str, message: str) -> None:
    e = error("rearrange", x, pattern=pattern, **lengths)
    assert e.code == code
    assert message in e.message
    assert e.argument in {"pattern", *lengths}


# --- concat ----------------------------------------------------------------------------------------------------


def expected(run, dim: int, rank: int, dims: list[list[int]]) -> torch.Tensor:
    """Each part with its dims put where they belong, broadcast and joined: in simple steps."""
    parts = []
    for part, places in zip(run.inputs, dims, strict=True):
        order = sorted(range(len(places)), key=lambda n: places[n])
        moved = part.permute(order)
        index = tuple(slice(None) if place in places else None for place in range(rank))
        parts.append(moved[index])
    whole = torch.broadcast_shapes(*[[1 if n == dim else s for n, s in enumerate(p.shape)] for p in parts])
    return torch.cat([p.expand([-1 if n == dim else s for n, s in enumerate(whole)]) for p in parts], dim)


@pytest.mark.parametrize(
    ("parts", "along", "code", "type_", "dims"),
    [
        (["b n d=4", "b n d=4"], "n", "torch.cat([parts0, parts1], dim=1)", "float[b, n, d=4]", [[0, 1, 2]] * 2),
        (["b n d=4", "b n d=4"], "d", "torch.cat([parts0, parts1], dim=-1)", "float[b, n, d=8]", [[0, 1, 2]] * 2),
        (["b n", "b n", "b n"], "b", "torch.cat([parts0, parts1, parts2], dim=0)", "float[b, n]", [[0, 1]] * 3),
        (["b d=4", "b n d=4"], "n", "torch.cat([parts0.unsqueeze(1), parts1], dim=1)",
         "float[b, n, d=4]", [[0, 2], [0, 1, 2]]),
        (["b n", "b"], "n", "torch.cat([parts0, parts1.unsqueeze(-1)], dim=-1)", "float[b, n]", [[0, 1], [0]]),
        (["n d=4", "d=4"], "n", "torch.cat([parts0, parts1.unsqueeze(0)], dim=0)", "float[n, d=4]", [[0, 1], [1]]),
        (["d=4", "b n d=4"], "n", "torch.cat([parts0.expand(len_b, 1, -1), parts1], dim=1)",
         "float[b, n, d=4]", [[2], [0, 1, 2]]),
        (["n d=4", "b n d=4"], "n", "torch.cat([parts0.expand(len_b, -1, -1), parts1], dim=1)",
         "float[b, n, d=4]", [[1, 2], [0, 1, 2]]),
        (["b n d=4", "n b d=4"], "n", "torch.cat([parts0, parts1.transpose(0, 1)], dim=1)",
         "float[b, n, d=4]", [[0, 1, 2], [1, 0, 2]]),
        (["b n:n-1 d=4", "d=4", "b n d=4"], "n", "torch.cat([parts0, parts1.expand(len_b, 1, -1), parts2], dim=1)",
         "float[b, n, d=4]", [[0, 1, 2], [2], [0, 1, 2]]),
        (["", "b n"], "n", "torch.cat([parts0.expand(len_b, 1), parts1], dim=-1)", "float[b, n]", [[], [0, 1]]),
        (["n d=4", "b d=4"], "n", "torch.cat([parts0, parts1], dim=0)", "float[n, d=4]", [[0, 1]] * 2),
        (["b m n d=4", "m d=4"], "n", "torch.cat([parts0, parts1.unsqueeze(1).expand(len_b, -1, 1, -1)], dim=2)",
         "float[b, m, n, d=4]", [[0, 1, 2, 3], [1, 3]]),
        # other names in the same place
        (["b n d=4", "b n e=6"], "d", "torch.cat([parts0, parts1], dim=-1)", "float[b, n, d=10]", [[0, 1, 2]] * 2),
        (["b n d=4", "n e=6"], "d", "torch.cat([parts0, parts1.expand(len_b, -1, -1)], dim=-1)",
         "float[b, n, d=10]", [[0, 1, 2], [1, 2]]),
        (["b c=3 h w", "b _=5 h w"], "c", "torch.cat([parts0, parts1], dim=1)",
         "float[b, c=8, h, w]", [[0, 1, 2, 3]] * 2),
        (["b n d=4", "b n _=4"], "n", "torch.cat([parts0, parts1], dim=1)", "float[b, n, d=4]", [[0, 1, 2]] * 2),
        (["b n _=4", "b n d=4"], "n", "torch.cat([parts0, parts1], dim=1)", "float[b, n, d=4]", [[0, 1, 2]] * 2),
        (["b n d=4", "b n e=4"], "n", "torch.cat([parts0, parts1], dim=1)", "float[b, n, d=4]", [[0, 1, 2]] * 2),
        (["b n _=3 d=4", "b n _=3 d=4"], "n", "torch.cat([parts0, parts1], dim=1)",
         "float[b, n, 3, d=4]", [[0, 1, 2, 3]] * 2),
        (["b n d=4"], "n", "parts0", "float[b, n, d=4]", [[0, 1, 2]]),
    ],
)  # fmt: skip
def test_concat(parts: list[str], along: str, code: str, type_: str, dims: list[list[int]]) -> None:
    for run in runs("concat", *parts, axis=axis(along)):
        assert run.code == code
        types = run.result.type
        assert str(types) == type_
        dim = next(n for n, a in enumerate(types.axes) if a.name == along)
        assert torch.equal(run.output, expected(run, dim, len(types.axes), dims))


def test_concat_new_axis() -> None:
    """An axis that only another part has goes before what follows it there, where parts may have axes of their own."""
    call = replace(made_call("concat", "b n d=4", "h d=4", axis=axis("n")), outer=True)
    for lengths in LENGTHS:
        run = run_once(call, lengths)
        assert str(run.result.type) == "float[b, n, h, d=4]"
        assert torch.equal(run.output, expected(run, 1, 4, [[0, 1, 3], [2, 3]]))


def test_concat_length() -> None:
    found = result("concat", "b d=4", "d=4", "b n d=4", axis=axis("n")).type
    assert found.axes[1].size == Size.free("n") + 2
    assert result("concat", "b n:n-1 d=4", "d=4", axis=axis("n")).type.axes[1].size == Size.free("n")


@pytest.mark.parametrize(
    ("parts", "dtype"),
    [(["int b n", "b n"], "float"), (["bool b n", "int b n"], "int"), (["bool b n", "bool b n"], "bool")],
)
def test_concat_dtype(parts: list[str], dtype: str) -> None:
    for run in runs("concat", *parts, axis=axis("n")):
        assert run.result.type.dtype == dtype


@pytest.mark.parametrize(
    ("parts", "along", "code", "message"),
    [
        (["b n d=64", "b n ff=256"], "n", "axis-mismatch",
         "concatenated along n the others have to agree: d 64, ff 256"),
        (["b n d=64", "b n d=32"], "n", "axis-mismatch", "concatenated along n the others have to agree: d 64, d 32"),
        (["b n d=64", "h"], "n", "axis-mismatch", "concatenated along n the others have to agree: d 64, h"),
        (["b n d=64", "b m d=64", "b m d=64"], "t", "unknown-axis", "`t` is not an axis of any part"),
        (["b n n", "b n n"], "n", "axis-mismatch", "`parts0` [b, n, n] has the axis n twice"),
        (["m n d=4", "m:m-1 n d=4"], "n", "axis-mismatch", "the others have to agree: m, m m - 1"),
        (["b n d=4", "h d=4"], "n", "axis-mismatch", "each part has an axis that the other lacks, b, n and h"),
        (["h d=4", "b n d=4"], "d", "axis-mismatch", "each part has an axis that the other lacks, h and b, n"),
    ],
)  # fmt: skip
def test_concat_mistakes(parts: list[str], along: str, code: str, message: str) -> None:
    e = error("concat", *parts, axis=axis(along))
    assert e.code == code
    assert message in e.message
    assert "twice" in message or len(e.notes) == len(parts)


def test_concat_of_a_number() -> None:
    call = made_call("concat", "b n", "", axis=axis("n"))
    a, b = call.tensors["parts"]
    call = replace(call, tensors={"parts": (a, replace(b, scalar=True))}, texts={"parts1": "3"})
    with pytest.raises(OpError, match="`concat` needs tensors; `3` is a number") as caught:
        call.op.rule(call)
    assert caught.value.argument == "parts1"


# --- resize ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "sizes", "mode", "code", "type_"),
    [
        ("b c h w", "h w", "bilinear", 'F.interpolate(x, (len_h, len_w), mode="bilinear")', "float[b, c, h, w]"),
        ("d=6 s t", "h w", "bicubic", 'F.interpolate(x[None], (len_h, len_w), mode="bicubic")[0]', "float[d=6, h, w]"),
        ("h w", "h m", "nearest", "F.interpolate(x[None, None], (len_h, len_m))[0, 0]", "float[h, m]"),
        ("bool b h w", "n m", "nearest", "F.interpolate(x[None].float(), (len_n, len_m))[0].bool()", "bool[b, n, m]"),
        ("b d=4 n", "m", "linear", 'F.interpolate(x, (len_m,), mode="linear")', "float[b, d=4, m]"),
        (
            "b t h w",
            "n h w",
            "trilinear",
            'F.interpolate(x[None], (len_n, len_h, len_w), mode="trilinear")[0]',
            "float[b, n, h, w]",
        ),
    ],
)
def test_resize(x: str, sizes: str, mode: str, code: str, type_: str) -> None:
    call = made_call("resize", x, sizes=tuple(size(Size.free(n), n) for n in sizes.split()), mode=mode)
    for lengths in LENGTHS:
        run = run_once(call, {**lengths, "s": 3, "c": 2})
        assert str(run.result.type) == type_
        assert run.code == code
        if mode == "nearest":
            old, new = run.inputs[0].shape[-2:], run.output.shape[-2:]
            rows, columns = (torch.arange(new[k]) * old[k] // new[k] for k in (0, 1))
            assert torch.equal(run.output, run.inputs[0][..., rows[:, None], columns])


@pytest.mark.parametrize(
    ("sizes", "type_"),
    [
        ([size(8, "s"), size(6, "t")], "float[b, h=8, w=6]"),
        ([size(8, "s"), size(7, "t")], "float[b, h=8, t=7]"),
        ([size(9, "s"), size(9, "s")], "float[b, h=9, w=9]"),
        ([size(8), size(9)], "float[b, h=8, w=9]"),
    ],
)
def test_resize_keeps_names(sizes: list, type_: str) -> None:
    """An axis whose length stays keeps its name, and so do two that would be called alike."""
    assert str(result("resize", "b h=8 w=6", sizes=tuple(sizes), mode="bilinear").type) == type_


@pytest.mark.parametrize(
    ("x", "count", "mode", "code", "argument"),
    [
        ("b c h w", 2, "cubic", "value-range", "mode"),
        ("b c h w", 1, "bilinear", "value-range", "mode"),
        ("b c h w", 4, "nearest", "value-range", "mode"),
        ("int b c h w", 2, "nearest", "dtype-mismatch", "x"),
        ("bool b c h w", 2, "bilinear", "dtype-mismatch", "x"),
        ("b m c h w", 2, "nearest", "axis-count", "x"),
        ("h", 2, "nearest", "axis-count", "x"),
    ],
)
def test_resize_mistakes(x: str, count: int, mode: str, code: str, argument: str) -> None:
    mistake = error("resize", x, sizes=(size(3),) * count, mode=mode)
    assert (mistake.code, mistake.argument) == (code, argument)


def test_resize_with_corners() -> None:
    call = made_call("resize", "b c h w", sizes=(size(5), size(7)), mode="bilinear", corners=True)
    run = run_once(call, {"b": 2, "c": 2, "h": 3, "w": 4})
    assert run.code.endswith('mode="bilinear", align_corners=True)')
    assert torch.equal(run.output[..., ::4, ::6], run.inputs[0][..., ::2, ::3])
    mistake = error("resize", "b c h w", sizes=(size(3), size(3)), mode="nearest", corners=True)
    assert (mistake.code, mistake.argument) == ("value-range", "corners")
