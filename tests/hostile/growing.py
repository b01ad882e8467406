"""Specs that grow: each makes the text of a spec whose part stands, or is nested, so many times.

They look for work that grows faster than the text: what is nested, doubled, multiplied or repeated in every part of
the language. All are short to write; what a pass makes of them may be long.
"""

from __future__ import annotations

from collections.abc import Callable

Grown = Callable[[int], str]
GROWING: dict[str, Grown] = {}


def growing(**makers: Grown) -> None:
    """Specs, by their names."""
    GROWING.update(makers)


def grown(make: Grown) -> Grown:
    GROWING[make.__name__] = make
    return make


def attention(flow: str = "look(x)", before: str = "", inputs: str = "", **fields: str) -> str:
    """A spec with one attention over `x[b, n, d]`."""
    rows = {"query": "x", "key": "x", "value": "x"} | fields
    written = "".join(f"    {name}: {text}\n" for name, text in rows.items())
    return f"""tower: t
sizes: {{d: 8, h: 2}}
{before}inputs:
  x: float[b, n, d]
{inputs}blocks:
  look(x):
{written}outputs: {flow}
"""


def conditions(**makers: Grown) -> None:
    """Specs whose attention has these for its `mask`."""
    for name, make in makers.items():
        GROWING[name] = lambda n, make=make: attention(mask=text if "'" in (text := make(n)) else f"'{text}'")


def scores(**makers: Grown) -> None:
    """Specs whose attention has these for its `score`."""
    for name, make in makers.items():
        GROWING[name] = lambda n, make=make: attention(score=make(n))


def flows(**makers: Grown) -> None:
    """Specs without attention, whose flow begins with these statements, indented by two."""
    for name, make in makers.items():
        GROWING[name] = lambda n, make=make: (
            "tower: t\nsizes: {d: 8}\ninputs:\n  x: float[b, n, d]\nflow:\n" + make(n) + "outputs: x\n"
        )


def values(**makers: Grown) -> None:
    """Specs whose output is one of these expressions."""
    for name, make in makers.items():
        GROWING[name] = lambda n, make=make: (
            f"tower: t\nsizes: {{d: 8}}\ninputs:\n  x: float[b, n, d]\noutputs: {make(n)}\n"
        )


def nested(text: str, n: int, start: str) -> str:
    """`text` with `{}` for what is inside it, n times."""
    for k in range(n):
        start = text.replace("{}", start).replace("#", str(k + 1))
    return start


def row(text: str, n: int, between: str) -> str:
    return between.join(text.replace("#", str(k + 1)) for k in range(n))


# --- conditions ------------------------------------------------------------------------------------------------

conditions(
    nested_abs=lambda n: nested("abs({} - # * j)", n, "i") + " < 9",
    nested_max=lambda n: nested("max({}, # * j)", n, "i") + " < 9",
    nested_min_and_max=lambda n: nested("max(min({}, # * j), i - # * j)", n, "i") + " == 9",
    nested_where=lambda n: nested("where(i > # * j, {}, j)", n, "i") + " < 9",
    nested_where_conditions=lambda n: nested("where({} < # * j, i, j - #)", n, "i") + " < 9",
    nested_clip=lambda n: nested("clip({}, # - j, # * i + 2 * j)", n, "i") + " < 9",
    nested_quotients=lambda n: nested("({} + j) // #2", n, "i") + " < 9",
    nested_remainders=lambda n: nested("({} + # * j) % 1#7", n, "i") + " < 9",
    nested_remainders_of_n=lambda n: nested("({} + # * j) % (n + #)", n, "i") + " < 9",
    nested_quotients_of_n=lambda n: nested("({} + # * j) // (n + #)", n, "i") + " < 9",
    nested_not_equal=lambda n: nested("abs({} - # * j)", n, "i") + " != 9",
    products=lambda n: nested("({}) * (i - # * j)", n, "i") + " < 9",
    sums_of_quotients=lambda n: row("(i + # * j) // #3", n, " + ") + " < 9",
    sums_of_abs=lambda n: row("abs(i - # * j)", n, " + ") + " < 9",
    sums_of_remainders=lambda n: row("(i + # * j) % 1#", n, " + ") + " == 0",
    all_of_bands=lambda n: row("i - j < n - #", n, " and "),
    all_of_forms=lambda n: row("i - # * j < #7", n, " and "),
    either_of_forms=lambda n: row("i - # * j < #7", n, " or "),
    either_of_equal=lambda n: row("i == # * j", n, " or "),
    all_of_unequal=lambda n: row("i - j != 2 * #", n, " and "),
    all_of_eithers=lambda n: row("(i < # * j or j > # * i + n)", n, " and "),
    either_of_alls=lambda n: row("(i < # * j and j > # * i - n)", n, " or "),
    alternating=lambda n: nested("((i < # * j or {}) and j < # * i)", n, "i == j"),
    implied=lambda n: nested("(not ({}) or i == #)", n, "i == j"),
    equal_truths=lambda n: nested("(({}) == (i < # * j))", n, "i == j"),
    chained=lambda n: "0 <= " + row("i - # * j", n, " <= ") + " <= 9",
    remainders_apart=lambda n: row("(i - j) % #3 == #", n, " or "),
    blocks_apart=lambda n: row("(i + #) // #3 == (j + #) // #3", n, " or "),
    many_windows_of_n=lambda n: row("abs(i - j) < n // #", n, " or "),
    constants=lambda n: row("1 + # < 3", n, " or "),
    nested_not=lambda n: nested("not ({})", n, "i < j"),
    plus_and_minus=lambda n: nested("({} + j - i)", n, "i") + " < 9",
)

growing(
    keeps=lambda n: attention(
        flow="look(x" + row(", k#", n, "") + ")",
        inputs=row("  k#: bool[b, n] = true\n", n, ""),
        mask=row("k#[j]", n, " or ") + " or i < j",
    ).replace("look(x):", "look(x" + row(", k#", n, "") + "):"),
)


# --- scores ----------------------------------------------------------------------------------------------------

scores(
    sum_of_dots=lambda n: row("dot(q + #, k)", n, " + "),
    product_of_sums=lambda n: row("(dot(q, k) + #)", n, " * "),
    products_of_features=lambda n: "sum(" + row("(q + # * k)", n, " * ") + ")",
    nested_score=lambda n: nested("max({} * #, i - # * j)", n, "dot(q, k)"),
    nested_unit=lambda n: f"dot({nested('unit({})', n, 'q')}, k)",
    nested_rope=lambda n: f"dot({nested('rope({}, i, dk)', n, 'q')}, k)",
    nested_cosine=lambda n: nested("exp({} + dot(q, k))", n, "i * j"),
    score_of_wheres=lambda n: "dot(q, k) + " + row("where(i - j < #, #, i * j)", n, " + "),
)

growing(
    messages=lambda n: attention(message=row("v * (i - # * j)", n, " + ")),
    messages_nested=lambda n: attention(message=nested("max({}, v * (i - # * j))", n, "v")),
    tables=lambda n: attention(
        score="dot(q, k) + " + row("t[head, clip(i - j, -#, #) + #]", n, " + "),
        params='{t: "float[h, 9]"}',
        heads="h",
    ),
    indices=lambda n: attention(
        score="dot(q, k) + " + nested("t[{}]", n, "clip(i - j, 0, 8)"), params='{t: "float[9]"}'
    ),
    index_of_sum=lambda n: attention(
        score="dot(q, k) + t[" + row("(i * # + j) // #1", n, " + ") + "]", params='{t: "float[9]"}', heads="h"
    ),
)


# --- sizes -----------------------------------------------------------------------------------------------------


def sized(size: str, inputs: str = "", before: str = "") -> str:
    return (
        f"tower: t\nsizes:\n  d: 8\n{before}inputs:\n  x: float[b, n, d]\n{inputs}outputs: x * sum(zeros([{size}]))\n"
    )


def lengths(**makers: Grown) -> None:
    """Specs that make a tensor of one of these lengths."""
    for name, make in makers.items():
        GROWING[name] = lambda n, make=make: sized(make(n))


lengths(
    size_quotients=lambda n: nested("({} + #) // 2", n, "n"),
    size_quotients_of_n=lambda n: nested("({} * 2 + n) // #3", n, "n"),
    size_remainders=lambda n: nested("({} + n) % #7", n, "n") + " + 1",
    size_max=lambda n: nested("max({}, n * # + b)", n, "n"),
    size_products=lambda n: row("(n + b * # + 1)", n, " * "),
    size_powers=lambda n: f"(n + b + 1) ** {n}",
    size_powers_nested=lambda n: nested("({}) ** 2", n, "n + b"),
    number_powers=lambda n: row("9", n, " ** "),
    size_sums=lambda n: row("n ** #", n, " + "),
    size_sums_of_quotients=lambda n: row("(n + #) // #3", n, " + "),
    size_quotients_nested_twice=lambda n: (
        nested("({} // 2 + {} // 3)", min(n, 40), "n") if n <= 10 else nested("({} // 2)", n, "n")
    ),
)


@grown
def free_axes(n: int) -> str:
    axes = row("a#", n, ", ")
    return f"tower: t\nsizes: {{d: 8}}\ninputs:\n  x: float[{axes}, d]\noutputs: mean(x, [{axes}])\n"


@grown
def free_axes_merged(n: int) -> str:
    axes = row("a#", n, " ")
    return (
        f"tower: t\nsizes: {{d: 8}}\ninputs:\n  x: float[{row('a#', n, ', ')}, d]\n"
        f'outputs: rearrange(x, "{axes} d -> ({axes}) d")\n'
    )


@grown
def free_axes_over(n: int) -> str:
    axes = row("a#", n, ", ")
    return attention(over=f"[{axes}]", mask="i < j").replace("x: float[b, n, d]", f"x: float[b, {axes}, d]")


@grown
def free_axes_positions(n: int) -> str:
    axes = row("a#", n, ", ")
    mask = row("abs(i.a# - j.a#) < #", n, " and ")
    return attention(over=f"[{axes}]", mask=mask).replace("x: float[b, n, d]", f"x: float[b, {axes}, d]")


growing(
    heads_of_n=lambda n: attention(heads="h", output=nested("linear({}, d)", n, "y")),
    chain_of_sizes=lambda n: sized(
        f"s{n}", before="  s0: 1\n" + "".join(f"  s{k + 1}: s{k} + s{k}\n" for k in range(n))
    ),
    squares_of_sizes=lambda n: sized(
        f"s{n}", before="  s0: 3\n" + "".join(f"  s{k + 1}: s{k} * s{k}\n" for k in range(n))
    ),
)


@grown
def doubled_lists(n: int) -> str:
    before = "  l0: [1, 2]\n" + "".join(f"  l{k + 1}: [l{k}, l{k}]\n" for k in range(n))
    return sized(f"len(l{n})", before=before)


growing(
    long_list=lambda n: sized("l[1] + len(l)", before=f"  l: [{row('#', n, ', ')}]\n"),
)


@grown
def sizes_of_words(n: int) -> str:
    before = f"  w: one_of({row('#', n, ', ')})\n"
    return sized("w", before=before)


growing(
    many_sizes=lambda n: sized("s1", before=row("  s#: #\n", n, "")),
    large_numbers=lambda n: sized("9" * n),
    small_numbers=lambda n: sized("1", before=f"  e: 1e-{'9' * n}\n  f: 0.{'1' * n}\n"),
)


# --- values ----------------------------------------------------------------------------------------------------


values(
    sum_of_terms=lambda n: row("x * #", n, " + "),
    nested_functions=lambda n: nested("tanh({})", n, "x"),
    nested_brackets=lambda n: nested("({})", n, "x"),
    nested_minus=lambda n: "-" * n + "x",
    powers_of_powers=lambda n: row("x", n, " ** "),
    many_parts=lambda n: f"concat({row('x * #', n, ', ')}, axis=n)",
    many_equal_parts=lambda n: f"mean(concat({row('x', n, ', ')}, axis=n), n)",
    nested_parts=lambda n: (
        nested("concat({}, {}, axis=n)", min(n, 9), "x") if n <= 16 else nested("concat({}, x, axis=n)", n, "x")
    ),
    nested_picks=lambda n: nested("{}[n=1:]", n, "concat(" + row("x", n + 1, ", ") + ", axis=n)"),
    nested_linear=lambda n: nested("linear({}, d)", n, "x"),
    nested_linear_widths=lambda n: nested("linear({}, 8 + #)", n, "x"),
    nested_outer=lambda n: nested("outer({} * zeros([m#]))".replace("m#", "#"), n, "x"),
    nested_conv=lambda n: nested("conv({}, #, 3, stride=2)", n, "x"),
    nested_pool=lambda n: nested("max_pool({}, 2, padding=1)", n, "x"),
    nested_choice=lambda n: nested("({} if d > # else x)", n, "x"),
    nested_choice_in_tests=lambda n: nested("x if ({}) == x else x", n, "x"),
    many_comparisons=lambda n: "where(" + row("x", n, " < ") + ", x, x)",
    nested_rearranges=lambda n: nested('rearrange({}, "b n d -> b d n")', n, "x"),
    long_pattern=lambda n: f'rearrange(x, "b n d -> b n d{" 1" * n}")',
    many_axes_made=lambda n: f"sum(zeros([{row('#', n, ', ')}])) * x",
    long_string=lambda n: f"rearrange(x, 'b n d -> {'b ' * n}')",
    wrong_many=lambda n: row("y# * x", n, " + "),
    resize_nested=lambda n: nested('resize({}, [2 * n + #], "linear")', n, "x"),
    lstm_nested=lambda n: nested("lstm({}, d)", n, "x"),
    outputs_of_sums=lambda n: "[" + row("x + #", n, ", ") + "]",
)


# --- definitions -----------------------------------------------------------------------------------------------


def defined(lines: list[str], use: str, **fields: str) -> str:
    before = "define:\n" + "".join(f"  {x}\n" for x in lines)
    return attention(before=before, score=use, **fields)


@grown
def doubled_definitions(n: int) -> str:
    lines = ["a0: dot(q, k)", *(f"a{k + 1}: a{k} + a{k}" for k in range(n))]
    return defined(lines, f"a{n}")


@grown
def doubled_arguments(n: int) -> str:
    lines = ["a0(x): x * x", *(f"a{k + 1}(x): a{k}(x + 1) * x" for k in range(n))]
    return defined(lines, f"a{n}(dot(q, k))")


@grown
def doubled_conditions(n: int) -> str:
    lines = ["a0(x): x < i", *(f"a{k + 1}(x): a{k}(x - j) and a{k}(x + {k})" for k in range(n))]
    return defined(lines, "dot(q, k)", mask=f"a{n}(j)")


@grown
def squared_definitions(n: int) -> str:
    lines = ["a0(x): x * x + x", *(f"a{k + 1}(x): a{k}(a{k}(x))" for k in range(n))]
    return defined(lines, f"a{n}(dot(q, k))")


@grown
def needs_of_definitions(n: int) -> str:
    lines = ["a0(r): {formula: dot(q, k) * r, needs: r > 0}"]
    lines += [f"a{k + 1}(r): {{formula: a{k}(r + 1) + a{k}(r), needs: r + {k} > 0}}" for k in range(n)]
    return defined(lines, f"a{n}(2)")


growing(
    needs_of_sums=lambda n: defined(["a(r): {formula: dot(q, k) * r, needs: r > 0}"], row("a(#)", n, " + ")),
)


@grown
def defaults_of_definitions(n: int) -> str:
    lines = ["a0(x=1): x + 1", *(f"a{k + 1}(x=a{k}(a{k})): x + a{k}(x)" for k in range(n))]
    return defined(lines, f"dot(q, k) * a{n}")


growing(
    many_definitions=lambda n: defined([f"a{k}(r): r + {k}" for k in range(n)], "dot(q, k) * a0(1)"),
    definitions_with_many_parameters=lambda n: defined(
        [f"a({row('p#', n, ', ')}): {row('p#', n, ' + ')}"], f"dot(q, k) * a({row('#', n, ', ')})"
    ),
)


# --- blocks ----------------------------------------------------------------------------------------------------


def blocks(lines: list[str], flow: list[str], inputs: str = "") -> str:
    return (
        f"tower: t\nsizes: {{d: 8}}\ninputs:\n  x: float[b, n, d]\n{inputs}blocks:\n"
        + "".join(f"  {x}\n" for x in lines)
        + "flow:\n"
        + "".join(f"  {x}\n" for x in flow)
        + "outputs: x\n"
    )


LOOK = ["look(x, w):", "  query: linear(x, d)", "  key: linear(x, d)", "  value: x", "  mask: abs(i - j) < w"]


@grown
def blocks_that_call_two(n: int) -> str:
    lines = ["f0(x):", "  - linear(x, d)"]
    for k in range(n):
        lines += [f"f{k + 1}(x):", f"  - f{k}(f{k}(x))"]
    return blocks(lines, [f"- x = f{n}(x)"])


@grown
def blocks_that_call_two_others(n: int) -> str:
    lines = ["f0(x, a):", "  - linear(x, d) * a"]
    for k in range(n):
        lines += [f"f{k + 1}(x, a):", f"  - f{k}(f{k}(x, 2 * a), 2 * a + 1)"]
    return blocks(lines, [f"- x = f{n}(x, 1)"])


@grown
def blocks_with_names(n: int) -> str:
    long = "a" * n
    lines = ["f0(x):", f"  - linear(x, d, name={long})"]
    for k in range(10):
        lines += [f"f{k + 1}(x):", f"  - f{k}(x, name={long}) + x"]
    return blocks(lines, ["- x = f10(x)"])


growing(
    loop_of_numbers=lambda n: blocks(
        LOOK, [f"- for a in {n}:", "    - for c in 6:", "        - x = look(x, a * 7 + c + 1)"]
    ),
    loop_of_blocks=lambda n: blocks(LOOK, [f"- for a in {n}:", "    - x = look(x, 3)"]),
    loop_of_statements=lambda n: blocks(
        LOOK, [f"- for a in {n}:", *(f"    - x = x * {k} + linear(x, d) + a" for k in range(20))]
    ),
)


@grown
def loops_of_loops(n: int) -> str:
    flow = [f"- for a in {n}:", f"    - for c in {n}:", f"        - for e in {n}:"]
    return blocks([], [*flow, "            - if a == c:", "                - x = x + e"]).replace("blocks:\n", "")


@grown
def loops_of_loops_of_modules(n: int) -> str:
    flow = [f"- for a in {n}:", f"    - for c in {n}:", f"        - for e in {n}:"]
    return blocks([], [*flow, "            - x = linear(x, d)"]).replace("blocks:\n", "")


@grown
def loops_of_choices(n: int) -> str:
    flow = [f"- for a in {n}:", f"    - for c in {n}:", f"        - for e in {n}:"]
    lines = ["f(x, a):", "  - if a == 5:", "      - x = x + 1", "  - return x"]
    return blocks(lines, [*flow, "            - x = f(x, a)"])


@grown
def loops_nested(n: int) -> str:
    flow = ["  " * 2 * k + f"- for a{k} in 2:" for k in range(n)]
    return blocks([], [*flow, "  " * 2 * n + "- x = x + a0"]).replace("blocks:\n", "")


@grown
def loops_along(n: int) -> str:
    flow = ["  " * 2 * k + f"- for a{k} along n:" for k in range(n)]
    return blocks([], [*flow, "  " * 2 * n + "- x = x + a0"]).replace("blocks:\n", "")


@grown
def loops_that_collect(n: int) -> str:
    flow = ["- for t along n:", "    - z0 = x[n=t]", *(f"    - z{k + 1} = z{k} * 2" for k in range(n))]
    return blocks([], [*flow, *(f"- x = x + z{k}" for k in range(n))]).replace("blocks:\n", "")


@grown
def loops_that_carry(n: int) -> str:
    flow = [
        *(f"- z{k} = zeros([b])" for k in range(n)),
        "- for t along n:",
        *(f"    - z{k} = z{k} + t" for k in range(n)),
    ]
    return blocks([], flow).replace("blocks:\n", "")


@grown
def blocks_with_parameters(n: int) -> str:
    lines = [f"f({row('p#', n, ', ')}):", f"  - {row('p#', n, ' + ')}"]
    return blocks(lines, [f"- x = f({row('x', n, ', ')})"])


@grown
def blocks_with_defaults(n: int) -> str:
    lines = [f"f(x, {row('p# = #', n, ', ')}):", f"  - x * ({row('p#', n, ' + ')})"]
    return blocks(lines, ["- x = f(x)"])


@grown
def many_blocks(n: int) -> str:
    lines = []
    for k in range(n):
        lines += [f"f{k}(x):", f"  - linear(x, d) + {k}"]
    return blocks(lines, [f"- x = f{k}(x)" for k in range(n)])


growing(
    many_attentions=lambda n: blocks(LOOK, [f"- x = look(x, {k + 1})" for k in range(n)]),
)


@grown
def many_attentions_of_lengths(n: int) -> str:
    lines = [
        "look(x, w):",
        "  query: x",
        "  key: x",
        "  value: x",
        "  mask: abs(i - j) < w and (i - j) % w != 0 or j < w",
    ]
    return blocks(lines, [f"- x = look(x, {k + 1})" for k in range(n)])


growing(
    many_calls=lambda n: blocks(["f(x):", "  - linear(x, d)"], ["- x = f(x)"] * n),
)


@grown
def many_results(n: int) -> str:
    lines = ["f(x):", f"  - return {row('x + #', n, ', ')}"]
    return blocks(lines, [f"- {row('z#', n, ', ')} = f(x)"])


@grown
def shared_modules(n: int) -> str:
    text = blocks(["f(x):", "  - linear(x, d)"], [f"- x = m{k}(x)" for k in range(n)])
    return text.replace("blocks:\n", "modules:\n" + "".join(f"  m{k}: f\n" for k in range(n)) + "blocks:\n")


growing(
    many_params=lambda n: blocks([], [f"- x = x + p{k}" for k in range(n)]).replace(
        "blocks:\n", "params:\n" + "".join(f"  p{k}: float[d]\n" for k in range(n))
    ),
    lets=lambda n: attention(
        let="\n" + "".join(f"      - z{k} = {f'z{k - 1}' if k else 'x'} * {k}\n" for k in range(n)),
        value=f"z{n - 1}",
    ),
)


@grown
def blocks_of_pairs(n: int) -> str:
    lines = ["    look(x):"]
    text = attention(score=nested("near({}, k)", n, "q") if n < 3 else row("near(q * #, k)", n, " + "))
    del lines
    return text.replace("blocks:\n", "blocks:\n  near(a, b):\n    - sum(a * b)\n")


# --- statements ------------------------------------------------------------------------------------------------


flows(
    many_statements=lambda n: "".join(f"  - x = x + {k}\n" for k in range(n)),
    doubled_statements=lambda n: "  - x = x + x\n" * n,
    many_names=lambda n: (
        "".join(f"  - y{k} = x + {k}\n" for k in range(n)) + f"  - x = {row('y#', n - 1, ' + ') or 'x'}\n"
    ),
    doubled_lengths=lambda n: "  - x = concat(x, x, axis=n)\n" * n,
    growing_lengths=lambda n: "".join(f"  - x = concat(x, x[n=1:], axis=n)[n={k}:]\n" for k in range(n)),
    quotients_of_lengths=lambda n: "  - x = max_pool(x, 2)\n" * n,
    windows_of_lengths=lambda n: '  - x = resize(x, [(3 * n + 1) // 2], "linear")\n' * n,
    outer_axes=lambda n: "".join(f"  - x = outer(zeros([{k + 1}]) * x)\n" for k in range(n)),
    named_axes=lambda n: "".join(
        f'  - y[b, n, d{k}] = rearrange(x, "b n d -> b n d")\n  - x = x + sum(y)\n' for k in range(n)
    ),
    choices_nested=lambda n: (
        "".join("  " * (2 * k + 1) + f"- if d > {k}:\n" for k in range(n)) + "  " * (2 * n + 1) + "- x = x + 1\n"
    ),
    long_names=lambda n: f"  - {'y' * n} = x\n" + f"  - x = x + {'y' * n}\n" * 10,
    long_names_of_modules=lambda n: f"  - x = linear(x, d, name={'y' * n})\n",
)


flows(
    long_names_in_loops=lambda n: (
        f"  - for a in 100:\n      - for c in 10:\n          - x = linear(x, d, name={'y' * n})\n"
    ),
    long_axes=lambda n: (
        f"  - {'y' * n}[b, {'n' * n}, d] = x\n" + f"  - x = x + sum({'y' * n}[{'n' * n}=0]) + {'n' * n}\n" * 10
    ),
)


# --- text ------------------------------------------------------------------------------------------------------


growing(
    long_about=lambda n: f"about: {'about ' * n}\n" + attention(),
    many_keys=lambda n: attention() + row("key#: 1\n", n, ""),
    nested_yaml=lambda n: attention() + "more: " + "[" * n + "]" * n + "\n",
    nested_mappings=lambda n: attention() + "more: " + "{a: " * n + "1" + "}" * n + "\n",
)


@grown
def anchors(n: int) -> str:
    lines = ["a0: &a0 [x, x]", *(f"a{k + 1}: &a{k + 1} [*a{k}, *a{k}]" for k in range(n))]
    return "\n".join(lines) + "\n" + attention()


growing(
    merge_keys=lambda n: attention() + "sizes:\n" + "  <<: {a: 1}\n" * n,
    many_comments=lambda n: "# a comment\n" * n + attention(),
    many_lines=lambda n: "\n" * n + attention(score="wrong("),
    many_mistakes=lambda n: blocks([], [f"- x = unknown{k}(x)" for k in range(n)]).replace("blocks:\n", ""),
    mistakes_in_loops=lambda n: blocks([], [f"- for a in {n}:", "    - x = unknown(x, a) + linear(x, 0)"]).replace(
        "blocks:\n", ""
    ),
    many_close_names=lambda n: blocks(
        [], [*(f"- name{k} = x" for k in range(n)), *(f"- x = nam{k}" for k in range(n))]
    ).replace("blocks:\n", ""),
    flow_lists=lambda n: attention() + "more: [" + "(a, " * n + "]\n",
    flow_mappings=lambda n: attention() + "more: {" + "a: (b, " * n + "}\n",
    quoted=lambda n: attention(score='"' + "\\\\" * n + '"'),
    quoted_pieces=lambda n: attention(score="'" + "''" * n + "'"),
    unclosed=lambda n: attention(score="(" * n),
    operators=lambda n: attention(score="dot(q, k) " + "+ -" * n),
    dotted=lambda n: attention(score="q" + ".a" * n),
    spaces=lambda n: attention(score="dot(q," + " " * n + "k)"),
)


@grown
def many_inputs(n: int) -> str:
    rows = row("  x#: float[b, n, d]\n", n, "")
    return f"tower: t\nsizes: {{d: 8}}\ninputs:\n{rows}outputs: {row('x#', n, ' + ')}\n"


@grown
def many_inputs_of_axes(n: int) -> str:
    rows = row("  x#: float[b#, n#, 2 * n# + b#]\n", n, "")
    return f"tower: t\nsizes: {{d: 8}}\ninputs:\n{rows}outputs: {row('sum(x#)', n, ' + ')}\n"


growing(
    many_outputs=lambda n: (
        f"tower: t\nsizes: {{d: 8}}\ninputs:\n  x: float[b, n, d]\noutputs: {{{row('o#: x + #', n, ', ')}}}\n"
    ),
)


# --- checkpoints -----------------------------------------------------------------------------------------------


def mapped(rules: str, flow: str = "  - x = linear(x, d)\n", indent: str = "    ") -> str:
    return (
        f"tower: t\nsizes: {{d: 8}}\ninputs:\n  x: float[b, n, d]\nflow:\n{flow}outputs: x\n"
        f"checkpoints:\n  hf:\n{''.join(indent + r + chr(10) for r in rules.splitlines())}"
    )


growing(
    many_rules=lambda n: mapped(row("p#.w: linear.weight\n", n, "")),
    many_placeholders=lambda n: mapped(
        f"'p.{row('{a#}', n, '.')}': '{row('{a#}', n, '.')}'\n", "  - for a in 100:\n      - x = linear(x, d)\n"
    ),
    many_starred=lambda n: mapped(
        f"'{row('{a#*}', n, '.')}': '{row('{a#*}', n, '.')}'\n", "  - for a in 100:\n      - x = linear(x, d)\n"
    ),
    nested_rule=lambda n: mapped(f"w: {nested('transpose({})', n, 'linear.weight')}\n"),
    concat_rule=lambda n: mapped(f"w: 'concat({row('linear.{a#}', n, ', ')})'\n'{row('{a#}', n, '.')}': linear.bias\n"),
    doubled_rule=lambda n: mapped(f"w: {nested('concat({}, {})', min(n, 8), 'linear.weight')}\n"),
)


@grown
def rules_over_loops(n: int) -> str:
    flow = f"  - for a in {min(n, 1000)}:\n      - for c in 10:\n          - x = linear(x, d)\n"
    return mapped("'{a}.{c}.{p}': 'linear.{a}.{c}.{p}'\n" + row("q#.{a}.{p}: 'linear.{a}.#.{p}'\n", 9, ""), flow)


@grown
def stacked_rule(n: int) -> str:
    flow = f"  - for a in {min(n, 1000)}:\n      - x = linear(x, d)\n"
    return mapped("w: 'stack(linear.{l}.weight)'\nb: 'stack(linear.{l}.bias)'\n", flow)


growing(
    long_rule=lambda n: mapped(f"{'w' * n}: linear.weight\n{'w.' * n}b: linear.bias\n"),
    renamed=lambda n: mapped("w: linear.weight\nb: linear.bias\n" + f"rename: {{{row('a#: b#', n, ', ')}}}\n"),
    reshaped=lambda n: mapped(f"w: reshape(linear.weight, [{row('1', n, ', ')}, 8, 8])\nb: linear.bias\n"),
    huge_dimensions=lambda n: mapped(f"w: reshape(linear.weight, [{row('10', n, ' ** ')}, 8])\nb: linear.bias\n"),
)
