"""Specs that grow: each makes the text of a spec whose part stands, or is nested, so many times.

They look for work that grows faster than the text: what is nested, doubled, multiplied or repeated in every part of
the language. All are short to write; what a pass makes of them may be long.
"""

from __future__ import annotations

from collections.abc import Callable

Grown = Callable[[int], str]
GROWING: dict[str, Grown] = {}


def growing(make: Grown) -> Grown:
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


def conditions(make: Callable[[int], str]) -> Grown:
    """A spec whose attention has this `mask`."""
    GROWING[make.__name__] = lambda n: attention(
        mask=f"'{make(n)}'" if "'" not in make(n) else make(n),
    )
    return make


def scores(make: Callable[[int], str]) -> Grown:
    GROWING[make.__name__] = lambda n: attention(score=make(n))
    return make


def flows(make: Callable[[int], str]) -> Grown:
    """A spec without attention, whose flow begins with these statements, indented by two."""
    GROWING[make.__name__] = lambda n: (
        "tower: t\nsizes: {d: 8}\ninputs:\n  x: float[b, n, d]\nflow:\n" + make(n) + "outputs: x\n"
    )
    return make


def values(make: Callable[[int], str]) -> Grown:
    """A spec whose output is this expression."""
    GROWING[make.__name__] = lambda n: f"tower: t\nsizes: {{d: 8}}\ninputs:\n  x: float[b, n, d]\noutputs: {make(n)}\n"
    return make


def nested(text: str, n: int, start: str) -> str:
    """`text` with `{}` for what is inside it, n times."""
    for k in range(n):
        start = text.replace("{}", start).replace("#", str(k + 1))
    return start


def row(text: str, n: int, between: str) -> str:
    return between.join(text.replace("#", str(k + 1)) for k in range(n))


# --- conditions ------------------------------------------------------------------------------------------------


@conditions
def nested_abs(n: int) -> str:
    return nested("abs({} - # * j)", n, "i") + " < 9"


@conditions
def nested_max(n: int) -> str:
    return nested("max({}, # * j)", n, "i") + " < 9"


@conditions
def nested_min_and_max(n: int) -> str:
    return nested("max(min({}, # * j), i - # * j)", n, "i") + " == 9"


@conditions
def nested_where(n: int) -> str:
    return nested("where(i > # * j, {}, j)", n, "i") + " < 9"


@conditions
def nested_where_conditions(n: int) -> str:
    return nested("where({} < # * j, i, j - #)", n, "i") + " < 9"


@conditions
def nested_clip(n: int) -> str:
    return nested("clip({}, # - j, # * i + 2 * j)", n, "i") + " < 9"


@conditions
def nested_quotients(n: int) -> str:
    return nested("({} + j) // #2", n, "i") + " < 9"


@conditions
def nested_remainders(n: int) -> str:
    return nested("({} + # * j) % 1#7", n, "i") + " < 9"


@conditions
def nested_remainders_of_n(n: int) -> str:
    return nested("({} + # * j) % (n + #)", n, "i") + " < 9"


@conditions
def nested_quotients_of_n(n: int) -> str:
    return nested("({} + # * j) // (n + #)", n, "i") + " < 9"


@conditions
def nested_not_equal(n: int) -> str:
    return nested("abs({} - # * j)", n, "i") + " != 9"


@conditions
def products(n: int) -> str:
    return nested("({}) * (i - # * j)", n, "i") + " < 9"


@conditions
def sums_of_quotients(n: int) -> str:
    return row("(i + # * j) // #3", n, " + ") + " < 9"


@conditions
def sums_of_abs(n: int) -> str:
    return row("abs(i - # * j)", n, " + ") + " < 9"


@conditions
def sums_of_remainders(n: int) -> str:
    return row("(i + # * j) % 1#", n, " + ") + " == 0"


@conditions
def all_of_bands(n: int) -> str:
    return row("i - j < n - #", n, " and ")


@conditions
def all_of_forms(n: int) -> str:
    return row("i - # * j < #7", n, " and ")


@conditions
def either_of_forms(n: int) -> str:
    return row("i - # * j < #7", n, " or ")


@conditions
def either_of_equal(n: int) -> str:
    return row("i == # * j", n, " or ")


@conditions
def all_of_unequal(n: int) -> str:
    return row("i - j != 2 * #", n, " and ")


@conditions
def all_of_eithers(n: int) -> str:
    return row("(i < # * j or j > # * i + n)", n, " and ")


@conditions
def either_of_alls(n: int) -> str:
    return row("(i < # * j and j > # * i - n)", n, " or ")


@conditions
def alternating(n: int) -> str:
    return nested("((i < # * j or {}) and j < # * i)", n, "i == j")


@conditions
def implied(n: int) -> str:
    return nested("(not ({}) or i == #)", n, "i == j")


@conditions
def equal_truths(n: int) -> str:
    return nested("(({}) == (i < # * j))", n, "i == j")


@conditions
def chained(n: int) -> str:
    return "0 <= " + row("i - # * j", n, " <= ") + " <= 9"


@conditions
def remainders_apart(n: int) -> str:
    return row("(i - j) % #3 == #", n, " or ")


@conditions
def blocks_apart(n: int) -> str:
    return row("(i + #) // #3 == (j + #) // #3", n, " or ")


@conditions
def many_windows_of_n(n: int) -> str:
    return row("abs(i - j) < n // #", n, " or ")


@conditions
def constants(n: int) -> str:
    return row("1 + # < 3", n, " or ")


@conditions
def nested_not(n: int) -> str:
    return nested("not ({})", n, "i < j")


@conditions
def plus_and_minus(n: int) -> str:
    return nested("({} + j - i)", n, "i") + " < 9"


@growing
def keeps(n: int) -> str:
    return attention(
        flow="look(x" + row(", k#", n, "") + ")",
        inputs=row("  k#: bool[b, n] = true\n", n, ""),
        mask=row("k#[j]", n, " or ") + " or i < j",
    ).replace("look(x):", "look(x" + row(", k#", n, "") + "):")


# --- scores ----------------------------------------------------------------------------------------------------


@scores
def sum_of_dots(n: int) -> str:
    return row("dot(q + #, k)", n, " + ")


@scores
def product_of_sums(n: int) -> str:
    return row("(dot(q, k) + #)", n, " * ")


@scores
def products_of_features(n: int) -> str:
    return "sum(" + row("(q + # * k)", n, " * ") + ")"


@scores
def nested_score(n: int) -> str:
    return nested("max({} * #, i - # * j)", n, "dot(q, k)")


@scores
def nested_unit(n: int) -> str:
    return f"dot({nested('unit({})', n, 'q')}, k)"


@scores
def nested_rope(n: int) -> str:
    return f"dot({nested('rope({}, i, dk)', n, 'q')}, k)"


@scores
def nested_cosine(n: int) -> str:
    return nested("exp({} + dot(q, k))", n, "i * j")


@scores
def score_of_wheres(n: int) -> str:
    return "dot(q, k) + " + row("where(i - j < #, #, i * j)", n, " + ")


@growing
def messages(n: int) -> str:
    return attention(message=row("v * (i - # * j)", n, " + "))


@growing
def messages_nested(n: int) -> str:
    return attention(message=nested("max({}, v * (i - # * j))", n, "v"))


@growing
def tables(n: int) -> str:
    return attention(
        score="dot(q, k) + " + row("t[head, clip(i - j, -#, #) + #]", n, " + "),
        params='{t: "float[h, 9]"}',
        heads="h",
    )


@growing
def indices(n: int) -> str:
    return attention(score="dot(q, k) + " + nested("t[{}]", n, "clip(i - j, 0, 8)"), params='{t: "float[9]"}')


@growing
def index_of_sum(n: int) -> str:
    return attention(
        score="dot(q, k) + t[" + row("(i * # + j) // #1", n, " + ") + "]", params='{t: "float[9]"}', heads="h"
    )


# --- sizes -----------------------------------------------------------------------------------------------------


def sized(size: str, inputs: str = "", before: str = "") -> str:
    return (
        f"tower: t\nsizes:\n  d: 8\n{before}inputs:\n  x: float[b, n, d]\n{inputs}outputs: x * sum(zeros([{size}]))\n"
    )


def lengths(make: Callable[[int], str]) -> Grown:
    """A spec that makes a tensor of this length."""
    GROWING[make.__name__] = lambda n: sized(make(n))
    return make


@lengths
def size_quotients(n: int) -> str:
    return nested("({} + #) // 2", n, "n")


@lengths
def size_quotients_of_n(n: int) -> str:
    return nested("({} * 2 + n) // #3", n, "n")


@lengths
def size_remainders(n: int) -> str:
    return nested("({} + n) % #7", n, "n") + " + 1"


@lengths
def size_max(n: int) -> str:
    return nested("max({}, n * # + b)", n, "n")


@lengths
def size_products(n: int) -> str:
    return row("(n + b * # + 1)", n, " * ")


@lengths
def size_powers(n: int) -> str:
    return f"(n + b + 1) ** {n}"


@lengths
def size_powers_nested(n: int) -> str:
    return nested("({}) ** 2", n, "n + b")


@lengths
def number_powers(n: int) -> str:
    return row("9", n, " ** ")


@lengths
def size_sums(n: int) -> str:
    return row("n ** #", n, " + ")


@lengths
def size_sums_of_quotients(n: int) -> str:
    return row("(n + #) // #3", n, " + ")


@lengths
def size_quotients_nested_twice(n: int) -> str:
    return nested("({} // 2 + {} // 3)", min(n, 40), "n") if n <= 10 else nested("({} // 2)", n, "n")


@growing
def free_axes(n: int) -> str:
    axes = row("a#", n, ", ")
    return f"tower: t\nsizes: {{d: 8}}\ninputs:\n  x: float[{axes}, d]\noutputs: mean(x, [{axes}])\n"


@growing
def free_axes_merged(n: int) -> str:
    axes = row("a#", n, " ")
    return (
        f"tower: t\nsizes: {{d: 8}}\ninputs:\n  x: float[{row('a#', n, ', ')}, d]\n"
        f'outputs: rearrange(x, "{axes} d -> ({axes}) d")\n'
    )


@growing
def free_axes_over(n: int) -> str:
    axes = row("a#", n, ", ")
    return attention(over=f"[{axes}]", mask="i < j").replace("x: float[b, n, d]", f"x: float[b, {axes}, d]")


@growing
def free_axes_positions(n: int) -> str:
    axes = row("a#", n, ", ")
    mask = row("abs(i.a# - j.a#) < #", n, " and ")
    return attention(over=f"[{axes}]", mask=mask).replace("x: float[b, n, d]", f"x: float[b, {axes}, d]")


@growing
def heads_of_n(n: int) -> str:
    return attention(heads="h", output=nested("linear({}, d)", n, "y"))


@growing
def chain_of_sizes(n: int) -> str:
    return sized(f"s{n}", before="  s0: 1\n" + "".join(f"  s{k + 1}: s{k} + s{k}\n" for k in range(n)))


@growing
def squares_of_sizes(n: int) -> str:
    return sized(f"s{n}", before="  s0: 3\n" + "".join(f"  s{k + 1}: s{k} * s{k}\n" for k in range(n)))


@growing
def doubled_lists(n: int) -> str:
    before = "  l0: [1, 2]\n" + "".join(f"  l{k + 1}: [l{k}, l{k}]\n" for k in range(n))
    return sized(f"len(l{n})", before=before)


@growing
def long_list(n: int) -> str:
    return sized("l[1] + len(l)", before=f"  l: [{row('#', n, ', ')}]\n")


@growing
def sizes_of_words(n: int) -> str:
    before = f"  w: one_of({row('#', n, ', ')})\n"
    return sized("w", before=before)


@growing
def many_sizes(n: int) -> str:
    return sized("s1", before=row("  s#: #\n", n, ""))


@growing
def large_numbers(n: int) -> str:
    return sized("9" * n)


@growing
def small_numbers(n: int) -> str:
    return sized("1", before=f"  e: 1e-{'9' * n}\n  f: 0.{'1' * n}\n")


# --- values ----------------------------------------------------------------------------------------------------


@values
def sum_of_terms(n: int) -> str:
    return row("x * #", n, " + ")


@values
def nested_functions(n: int) -> str:
    return nested("tanh({})", n, "x")


@values
def nested_brackets(n: int) -> str:
    return nested("({})", n, "x")


@values
def nested_minus(n: int) -> str:
    return "-" * n + "x"


@values
def powers_of_powers(n: int) -> str:
    return row("x", n, " ** ")


@values
def many_parts(n: int) -> str:
    return f"concat({row('x * #', n, ', ')}, axis=n)"


@values
def many_equal_parts(n: int) -> str:
    return f"mean(concat({row('x', n, ', ')}, axis=n), n)"


@values
def nested_parts(n: int) -> str:
    return nested("concat({}, {}, axis=n)", min(n, 9), "x") if n <= 16 else nested("concat({}, x, axis=n)", n, "x")


@values
def nested_picks(n: int) -> str:
    return nested("{}[n=1:]", n, "concat(" + row("x", n + 1, ", ") + ", axis=n)")


@values
def nested_linear(n: int) -> str:
    return nested("linear({}, d)", n, "x")


@values
def nested_linear_widths(n: int) -> str:
    return nested("linear({}, 8 + #)", n, "x")


@values
def nested_outer(n: int) -> str:
    return nested("outer({} * zeros([m#]))".replace("m#", "#"), n, "x")


@values
def nested_conv(n: int) -> str:
    return nested("conv({}, #, 3, stride=2)", n, "x")


@values
def nested_pool(n: int) -> str:
    return nested("max_pool({}, 2, padding=1)", n, "x")


@values
def nested_choice(n: int) -> str:
    return nested("({} if d > # else x)", n, "x")


@values
def nested_choice_in_tests(n: int) -> str:
    return nested("x if ({}) == x else x", n, "x")


@values
def many_comparisons(n: int) -> str:
    return "where(" + row("x", n, " < ") + ", x, x)"


@values
def nested_rearranges(n: int) -> str:
    return nested('rearrange({}, "b n d -> b d n")', n, "x")


@values
def long_pattern(n: int) -> str:
    return f'rearrange(x, "b n d -> b n d{" 1" * n}")'


@values
def many_axes_made(n: int) -> str:
    return f"sum(zeros([{row('#', n, ', ')}])) * x"


@values
def long_string(n: int) -> str:
    return f"rearrange(x, 'b n d -> {'b ' * n}')"


@values
def wrong_many(n: int) -> str:
    return row("y# * x", n, " + ")


@values
def resize_nested(n: int) -> str:
    return nested('resize({}, [2 * n + #], "linear")', n, "x")


@values
def lstm_nested(n: int) -> str:
    return nested("lstm({}, d)", n, "x")


@values
def outputs_of_sums(n: int) -> str:
    return "[" + row("x + #", n, ", ") + "]"


# --- definitions -----------------------------------------------------------------------------------------------


def defined(lines: list[str], use: str, **fields: str) -> str:
    before = "define:\n" + "".join(f"  {x}\n" for x in lines)
    return attention(before=before, score=use, **fields)


@growing
def doubled_definitions(n: int) -> str:
    lines = ["a0: dot(q, k)", *(f"a{k + 1}: a{k} + a{k}" for k in range(n))]
    return defined(lines, f"a{n}")


@growing
def doubled_arguments(n: int) -> str:
    lines = ["a0(x): x * x", *(f"a{k + 1}(x): a{k}(x + 1) * x" for k in range(n))]
    return defined(lines, f"a{n}(dot(q, k))")


@growing
def doubled_conditions(n: int) -> str:
    lines = ["a0(x): x < i", *(f"a{k + 1}(x): a{k}(x - j) and a{k}(x + {k})" for k in range(n))]
    return defined(lines, "dot(q, k)", mask=f"a{n}(j)")


@growing
def squared_definitions(n: int) -> str:
    lines = ["a0(x): x * x + x", *(f"a{k + 1}(x): a{k}(a{k}(x))" for k in range(n))]
    return defined(lines, f"a{n}(dot(q, k))")


@growing
def needs_of_definitions(n: int) -> str:
    lines = ["a0(r): {formula: dot(q, k) * r, needs: r > 0}"]
    lines += [f"a{k + 1}(r): {{formula: a{k}(r + 1) + a{k}(r), needs: r + {k} > 0}}" for k in range(n)]
    return defined(lines, f"a{n}(2)")


@growing
def needs_of_sums(n: int) -> str:
    return defined(["a(r): {formula: dot(q, k) * r, needs: r > 0}"], row("a(#)", n, " + "))


@growing
def defaults_of_definitions(n: int) -> str:
    lines = ["a0(x=1): x + 1", *(f"a{k + 1}(x=a{k}(a{k})): x + a{k}(x)" for k in range(n))]
    return defined(lines, f"dot(q, k) * a{n}")


@growing
def many_definitions(n: int) -> str:
    return defined([f"a{k}(r): r + {k}" for k in range(n)], "dot(q, k) * a0(1)")


@growing
def definitions_with_many_parameters(n: int) -> str:
    return defined([f"a({row('p#', n, ', ')}): {row('p#', n, ' + ')}"], f"dot(q, k) * a({row('#', n, ', ')})")


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


@growing
def blocks_that_call_two(n: int) -> str:
    lines = ["f0(x):", "  - linear(x, d)"]
    for k in range(n):
        lines += [f"f{k + 1}(x):", f"  - f{k}(f{k}(x))"]
    return blocks(lines, [f"- x = f{n}(x)"])


@growing
def blocks_that_call_two_others(n: int) -> str:
    lines = ["f0(x, a):", "  - linear(x, d) * a"]
    for k in range(n):
        lines += [f"f{k + 1}(x, a):", f"  - f{k}(f{k}(x, 2 * a), 2 * a + 1)"]
    return blocks(lines, [f"- x = f{n}(x, 1)"])


@growing
def blocks_with_names(n: int) -> str:
    long = "a" * n
    lines = ["f0(x):", f"  - linear(x, d, name={long})"]
    for k in range(10):
        lines += [f"f{k + 1}(x):", f"  - f{k}(x, name={long}) + x"]
    return blocks(lines, ["- x = f10(x)"])


@growing
def loop_of_numbers(n: int) -> str:
    return blocks(LOOK, [f"- for a in {n}:", "    - for c in 6:", "        - x = look(x, a * 7 + c + 1)"])


@growing
def loop_of_blocks(n: int) -> str:
    return blocks(LOOK, [f"- for a in {n}:", "    - x = look(x, 3)"])


@growing
def loop_of_statements(n: int) -> str:
    return blocks(LOOK, [f"- for a in {n}:", *(f"    - x = x * {k} + linear(x, d) + a" for k in range(20))])


@growing
def loops_of_loops(n: int) -> str:
    flow = [f"- for a in {n}:", f"    - for c in {n}:", f"        - for e in {n}:"]
    return blocks([], [*flow, "            - if a == c:", "                - x = x + e"]).replace("blocks:\n", "")


@growing
def loops_of_loops_of_modules(n: int) -> str:
    flow = [f"- for a in {n}:", f"    - for c in {n}:", f"        - for e in {n}:"]
    return blocks([], [*flow, "            - x = linear(x, d)"]).replace("blocks:\n", "")


@growing
def loops_of_choices(n: int) -> str:
    flow = [f"- for a in {n}:", f"    - for c in {n}:", f"        - for e in {n}:"]
    lines = ["f(x, a):", "  - if a == 5:", "      - x = x + 1", "  - return x"]
    return blocks(lines, [*flow, "            - x = f(x, a)"])


@growing
def loops_nested(n: int) -> str:
    flow = ["  " * 2 * k + f"- for a{k} in 2:" for k in range(n)]
    return blocks([], [*flow, "  " * 2 * n + "- x = x + a0"]).replace("blocks:\n", "")


@growing
def loops_along(n: int) -> str:
    flow = ["  " * 2 * k + f"- for a{k} along n:" for k in range(n)]
    return blocks([], [*flow, "  " * 2 * n + "- x = x + a0"]).replace("blocks:\n", "")


@growing
def loops_that_collect(n: int) -> str:
    flow = ["- for t along n:", "    - z0 = x[n=t]", *(f"    - z{k + 1} = z{k} * 2" for k in range(n))]
    return blocks([], [*flow, *(f"- x = x + z{k}" for k in range(n))]).replace("blocks:\n", "")


@growing
def loops_that_carry(n: int) -> str:
    flow = [
        *(f"- z{k} = zeros([b])" for k in range(n)),
        "- for t along n:",
        *(f"    - z{k} = z{k} + t" for k in range(n)),
    ]
    return blocks([], flow).replace("blocks:\n", "")


@growing
def blocks_with_parameters(n: int) -> str:
    lines = [f"f({row('p#', n, ', ')}):", f"  - {row('p#', n, ' + ')}"]
    return blocks(lines, [f"- x = f({row('x', n, ', ')})"])


@growing
def blocks_with_defaults(n: int) -> str:
    lines = [f"f(x, {row('p# = #', n, ', ')}):", f"  - x * ({row('p#', n, ' + ')})"]
    return blocks(lines, ["- x = f(x)"])


@growing
def many_blocks(n: int) -> str:
    lines = []
    for k in range(n):
        lines += [f"f{k}(x):", f"  - linear(x, d) + {k}"]
    return blocks(lines, [f"- x = f{k}(x)" for k in range(n)])


@growing
def many_attentions(n: int) -> str:
    return blocks(LOOK, [f"- x = look(x, {k + 1})" for k in range(n)])


@growing
def many_attentions_of_lengths(n: int) -> str:
    lines = [
        "look(x, w):",
        "  query: x",
        "  key: x",
        "  value: x",
        "  mask: abs(i - j) < w and (i - j) % w != 0 or j < w",
    ]
    return blocks(lines, [f"- x = look(x, {k + 1})" for k in range(n)])


@growing
def many_calls(n: int) -> str:
    return blocks(["f(x):", "  - linear(x, d)"], ["- x = f(x)"] * n)


@growing
def many_results(n: int) -> str:
    lines = ["f(x):", f"  - return {row('x + #', n, ', ')}"]
    return blocks(lines, [f"- {row('z#', n, ', ')} = f(x)"])


@growing
def shared_modules(n: int) -> str:
    text = blocks(["f(x):", "  - linear(x, d)"], [f"- x = m{k}(x)" for k in range(n)])
    return text.replace("blocks:\n", "modules:\n" + "".join(f"  m{k}: f\n" for k in range(n)) + "blocks:\n")


@growing
def many_params(n: int) -> str:
    return blocks([], [f"- x = x + p{k}" for k in range(n)]).replace(
        "blocks:\n", "params:\n" + "".join(f"  p{k}: float[d]\n" for k in range(n))
    )


@growing
def lets(n: int) -> str:
    return attention(
        let="\n" + "".join(f"      - z{k} = {f'z{k - 1}' if k else 'x'} * {k}\n" for k in range(n)),
        value=f"z{n - 1}",
    )


@growing
def blocks_of_pairs(n: int) -> str:
    lines = ["    look(x):"]
    text = attention(score=nested("near({}, k)", n, "q") if n < 3 else row("near(q * #, k)", n, " + "))
    del lines
    return text.replace("blocks:\n", "blocks:\n  near(a, b):\n    - sum(a * b)\n")


# --- statements ------------------------------------------------------------------------------------------------


@flows
def many_statements(n: int) -> str:
    return "".join(f"  - x = x + {k}\n" for k in range(n))


@flows
def doubled_statements(n: int) -> str:
    return "  - x = x + x\n" * n


@flows
def many_names(n: int) -> str:
    return "".join(f"  - y{k} = x + {k}\n" for k in range(n)) + f"  - x = {row('y#', n - 1, ' + ') or 'x'}\n"


@flows
def doubled_lengths(n: int) -> str:
    return "  - x = concat(x, x, axis=n)\n" * n


@flows
def growing_lengths(n: int) -> str:
    return "".join(f"  - x = concat(x, x[n=1:], axis=n)[n={k}:]\n" for k in range(n))


@flows
def quotients_of_lengths(n: int) -> str:
    return "  - x = max_pool(x, 2)\n" * n


@flows
def windows_of_lengths(n: int) -> str:
    return '  - x = resize(x, [(3 * n + 1) // 2], "linear")\n' * n


@flows
def outer_axes(n: int) -> str:
    return "".join(f"  - x = outer(zeros([{k + 1}]) * x)\n" for k in range(n))


@flows
def named_axes(n: int) -> str:
    return "".join(f'  - y[b, n, d{k}] = rearrange(x, "b n d -> b n d")\n  - x = x + sum(y)\n' for k in range(n))


@flows
def choices_nested(n: int) -> str:
    return "".join("  " * (2 * k + 1) + f"- if d > {k}:\n" for k in range(n)) + "  " * (2 * n + 1) + "- x = x + 1\n"


@flows
def long_names(n: int) -> str:
    return f"  - {'y' * n} = x\n" + f"  - x = x + {'y' * n}\n" * 10


@flows
def long_names_of_modules(n: int) -> str:
    return f"  - x = linear(x, d, name={'y' * n})\n"


@flows
def long_names_in_loops(n: int) -> str:
    long = "y" * n
    return f"  - for a in 100:\n      - for c in 10:\n          - x = linear(x, d, name={long})\n"


@flows
def long_axes(n: int) -> str:
    return f"  - {'y' * n}[b, {'n' * n}, d] = x\n" + f"  - x = x + sum({'y' * n}[{'n' * n}=0]) + {'n' * n}\n" * 10


# --- text ------------------------------------------------------------------------------------------------------


@growing
def long_about(n: int) -> str:
    return f"about: {'about ' * n}\n" + attention()


@growing
def many_keys(n: int) -> str:
    return attention() + row("key#: 1\n", n, "")


@growing
def nested_yaml(n: int) -> str:
    return attention() + "more: " + "[" * n + "]" * n + "\n"


@growing
def nested_mappings(n: int) -> str:
    return attention() + "more: " + "{a: " * n + "1" + "}" * n + "\n"


@growing
def anchors(n: int) -> str:
    lines = ["a0: &a0 [x, x]", *(f"a{k + 1}: &a{k + 1} [*a{k}, *a{k}]" for k in range(n))]
    return "\n".join(lines) + "\n" + attention()


@growing
def merge_keys(n: int) -> str:
    return attention() + "sizes:\n" + "  <<: {a: 1}\n" * n


@growing
def many_comments(n: int) -> str:
    return "# a comment\n" * n + attention()


@growing
def many_lines(n: int) -> str:
    return "\n" * n + attention(score="wrong(")


@growing
def many_mistakes(n: int) -> str:
    return blocks([], [f"- x = unknown{k}(x)" for k in range(n)]).replace("blocks:\n", "")


@growing
def mistakes_in_loops(n: int) -> str:
    return blocks([], [f"- for a in {n}:", "    - x = unknown(x, a) + linear(x, 0)"]).replace("blocks:\n", "")


@growing
def many_close_names(n: int) -> str:
    return blocks([], [*(f"- name{k} = x" for k in range(n)), *(f"- x = nam{k}" for k in range(n))]).replace(
        "blocks:\n", ""
    )


@growing
def flow_lists(n: int) -> str:
    return attention() + "more: [" + "(a, " * n + "]\n"


@growing
def flow_mappings(n: int) -> str:
    return attention() + "more: {" + "a: (b, " * n + "}\n"


@growing
def quoted(n: int) -> str:
    return attention(score='"' + "\\\\" * n + '"')


@growing
def quoted_pieces(n: int) -> str:
    return attention(score="'" + "''" * n + "'")


@growing
def unclosed(n: int) -> str:
    return attention(score="(" * n)


@growing
def operators(n: int) -> str:
    return attention(score="dot(q, k) " + "+ -" * n)


@growing
def dotted(n: int) -> str:
    return attention(score="q" + ".a" * n)


@growing
def spaces(n: int) -> str:
    return attention(score="dot(q," + " " * n + "k)")


@growing
def many_inputs(n: int) -> str:
    rows = row("  x#: float[b, n, d]\n", n, "")
    return f"tower: t\nsizes: {{d: 8}}\ninputs:\n{rows}outputs: {row('x#', n, ' + ')}\n"


@growing
def many_inputs_of_axes(n: int) -> str:
    rows = row("  x#: float[b#, n#, 2 * n# + b#]\n", n, "")
    return f"tower: t\nsizes: {{d: 8}}\ninputs:\n{rows}outputs: {row('sum(x#)', n, ' + ')}\n"


@growing
def many_outputs(n: int) -> str:
    return f"tower: t\nsizes: {{d: 8}}\ninputs:\n  x: float[b, n, d]\noutputs: {{{row('o#: x + #', n, ', ')}}}\n"


# --- checkpoints -----------------------------------------------------------------------------------------------


def mapped(rules: str, flow: str = "  - x = linear(x, d)\n", indent: str = "    ") -> str:
    return (
        f"tower: t\nsizes: {{d: 8}}\ninputs:\n  x: float[b, n, d]\nflow:\n{flow}outputs: x\n"
        f"checkpoints:\n  hf:\n{''.join(indent + r + chr(10) for r in rules.splitlines())}"
    )


@growing
def many_rules(n: int) -> str:
    return mapped(row("p#.w: linear.weight\n", n, ""))


@growing
def many_placeholders(n: int) -> str:
    return mapped(
        f"'p.{row('{a#}', n, '.')}': '{row('{a#}', n, '.')}'\n", "  - for a in 100:\n      - x = linear(x, d)\n"
    )


@growing
def many_starred(n: int) -> str:
    return mapped(
        f"'{row('{a#*}', n, '.')}': '{row('{a#*}', n, '.')}'\n", "  - for a in 100:\n      - x = linear(x, d)\n"
    )


@growing
def nested_rule(n: int) -> str:
    return mapped(f"w: {nested('transpose({})', n, 'linear.weight')}\n")


@growing
def concat_rule(n: int) -> str:
    return mapped(f"w: 'concat({row('linear.{a#}', n, ', ')})'\n'{row('{a#}', n, '.')}': linear.bias\n")


@growing
def doubled_rule(n: int) -> str:
    return mapped(f"w: {nested('concat({}, {})', min(n, 8), 'linear.weight')}\n")


@growing
def rules_over_loops(n: int) -> str:
    flow = f"  - for a in {min(n, 1000)}:\n      - for c in 10:\n          - x = linear(x, d)\n"
    return mapped("'{a}.{c}.{p}': 'linear.{a}.{c}.{p}'\n" + row("q#.{a}.{p}: 'linear.{a}.#.{p}'\n", 9, ""), flow)


@growing
def stacked_rule(n: int) -> str:
    flow = f"  - for a in {min(n, 1000)}:\n      - x = linear(x, d)\n"
    return mapped("w: 'stack(linear.{l}.weight)'\nb: 'stack(linear.{l}.bias)'\n", flow)


@growing
def long_rule(n: int) -> str:
    return mapped(f"{'w' * n}: linear.weight\n{'w.' * n}b: linear.bias\n")


@growing
def renamed(n: int) -> str:
    return mapped("w: linear.weight\nb: linear.bias\n" + f"rename: {{{row('a#: b#', n, ', ')}}}\n")


@growing
def reshaped(n: int) -> str:
    return mapped(f"w: reshape(linear.weight, [{row('1', n, ', ')}, 8, 8])\nb: linear.bias\n")


@growing
def huge_dimensions(n: int) -> str:
    return mapped(f"w: reshape(linear.weight, [{row('10', n, ' ** ')}, 8])\nb: linear.bias\n")
