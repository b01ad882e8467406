"""Random small specs that are no attentions alone: expressions, statements, blocks, defaults, lists and loops."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

HEAD = """
tower: drawn
sizes: {d: 4, few: 3, rates: [0.5, 2.0, 1.5], deep: true, kind: "one_of('a', 'z')"}
define:
  warm(f, r=2): f * r + n
  mixed(f, c): where(c, f, -f)
"""
INPUTS = {
    "x": "float[b, n, d]",
    "e": "float[b, n, n, d]",
    "u": "float[b, 3, 3]",
    "z": "float[b, m, d]",
    "f": "float[b, n, d] = 0.5",
    "s": "float[d] = 1 if deep else 0",
    "g": "float[n] = -rates[0]",
    "keep": "bool[b, n] = true",
    "hide": "bool[n, b] = false",
    "ids": "int[b, n] = few - 1",
}
FUNCTIONS = ["relu", "tanh", "gelu", "abs", "sigmoid", "sin", "-", "unit", "silu", "round", "floor", "sign"]
SIZES = [
    "n",
    "few",
    "b",
    "n // 2 + 1",
    "n % 2",
    "min(n, few)",
    "max(b, 2)",
    "2 * n - 1",
    "len(rates)",
    "rates[1]",
    "d - 1",
]


@dataclass
class Drawing:
    """What is drawn of: `names` are those of float tensors [b, n, d], in scope where an expression is drawn."""

    draw: random.Random
    names: list[str] = field(default_factory=lambda: ["x", "f"])
    blocks: dict[str, str] = field(default_factory=dict)
    inside: bool = False  # a block: the inputs of the model are not known
    sizes: list[str] = field(default_factory=lambda: list(SIZES))

    def one(self, *choices: str) -> str:
        return self.draw.choice(choices)

    def size(self) -> str:
        return self.draw.choice(self.sizes)

    def condition(self, depth: int) -> str:
        """A truth value of sizes, or of [b, n] or less."""
        if depth > 0 and self.draw.random() < 0.5:
            a, c = self.condition(depth - 1), self.condition(depth - 1)
            return self.one(f"not ({a})", f"({a}) and ({c})", f"({a}) or ({c})", f"({a}) == ({c})", f"({a}) != ({c})")
        leaves = [f"n > {self.draw.randint(0, 4)}", f"{self.size()} == {self.size()}", f"range(n) < {self.size()}"]
        leaves += ["deep", "kind == 'a'", "n % 2 == 0"] + ([] if self.inside else ["keep", "ids > 1"])
        leaves += [f"sum({self.value(depth - 1)}) > 0"] if depth > 0 else []
        return self.draw.choice(leaves)

    def row(self, depth: int) -> str:
        """A float [b, n], or less."""
        a, c = self.value(depth - 1), self.value(depth - 1)
        few = [f"sum({a})", f"dot({a}, {c})", "range(n) / 2", f"mean({a}, [n, d])", f"{a}[d=0]", f"amax({a})"]
        few += [
            f"dot({a}, ones([d]))",
            f"argmax({a}) / 1",
            f"mean(int({self.condition(depth - 1)}) + zeros([b, n]), b)",
        ]
        return self.draw.choice(few + ([] if self.inside else ["g", "ids / 2", "float(keep)", "sum(u)[n=0]"]))

    def value(self, depth: int) -> str:
        """A float [b, n, d]."""
        if depth <= 0:
            return self.draw.choice(self.names)
        a, c = self.value(depth - 1), self.value(depth - 2)
        size, number = self.size(), self.draw.randint(0, 2)
        ways = [
            lambda: f"({a} {self.one('+', '-', '*')} {c})",
            lambda: f"{self.draw.choice(FUNCTIONS)}({a})",
            lambda: f"linear({a}, d)",
            lambda: f"layernorm({a})",
            lambda: f"{self.one('softmax', 'cumsum', 'flip')}({a}, n)",
            lambda: f"roll({a}, {number}, n)",
            lambda: f"where({self.condition(depth - 1)}, {a}, {self.one(c, '0', '1')})",
            lambda: f"({a} if {self.condition(depth - 1)} else {c})",
            lambda: f"({a} * {self.row(depth - 1)})",
            lambda: f"({a} + {size})",
            lambda: f"({a} * ({self.condition(0)}))",
            lambda: f"({a} / ({size} + 1))",
            lambda: f"warm({a}{self.one('', f', {size}', f', r={number}')})",
            lambda: f"mixed({a}, {self.condition(depth - 1)})",
            lambda: f'rearrange(rearrange({a}, "b n d -> n d b"), "n d b -> b n d")',
            lambda: f"concat({a}, zeros([b, {number + 1}, d]), axis=n)[n={number + 1}:]",
            lambda: f"concat({a}, {c}, axis=d)[d=:{4 - number}][d=0] * {c}",
            lambda: f"({a} + {c}[n=0])",
            lambda: f"({a} * rates[{number}])",
            lambda: f"({a} + mean({c}, n))",
            lambda: f'rearrange(resize(rearrange({a}, "b n d -> b d n"), [n], "nearest"), "b d n -> b n d")',
            lambda: f"sum(linear({a} * {size}, 2 * d)) * {c}",
            lambda: f"({a} + sum(linear({c}, {number + 2})))",
            lambda: f"dropout({a}, 0.1)",
            lambda: f"dot({a}, zeros([d, d]) + {number})",
            lambda: f"dot(rope({a}, range(n), d), rope({c}, range(n), d)) * {a}",
            lambda: f"({a} + sinusoidal(range(n), d))",
        ]
        if self.blocks:
            ways += [lambda: self.call(depth)] * 6
        if not self.inside:
            ways += [
                lambda: f"({a} + words(ids))",
                lambda: f"again({a})",
                lambda: f"({a} * weight)",
                lambda: f"sum(dot({a}, words.weight)) * {a}" if number else f"({a} + sum(dot(words.weight, s)))",
                lambda: f"({a} * s)",
                lambda: f"({a} + sum(pairs, n2))",
                lambda: f"({a} * mean(z, m))",
                lambda: f"look({a}, {c})",
            ]
        return self.draw.choice(ways)()

    def call(self, depth: int) -> str:
        name = self.draw.choice(list(self.blocks))
        a = self.value(depth - 1)
        if name == "feed":
            return f"feed({a})"
        numbers = f"{self.size()}, {self.draw.randint(1, 3)}"
        return f"{name}({a}{self.one('', f', {numbers}', f', size={self.size()}')})"

    def statements(self, indent: str, depth: int, loops: int = 2) -> list[str]:
        """Statements that assign names, all of them of tensors [b, n, d]."""
        lines = []
        for _ in range(self.draw.randint(1, 3)):
            kind = self.draw.random()
            if kind < 0.5 or not loops:
                name = self.draw.choice([*self.names, "a", "c"])
                lines.append(f"{indent}- {name} = {self.value(depth)}")
                self.names += [] if name in self.names else [name]
            elif kind < 0.6:
                lines.append(f"{indent}- a[b, n, d] = {self.value(depth)}")
                self.names += [] if "a" in self.names else ["a"]
            elif kind < 0.7:
                lines.append(f"{indent}- if {self.one('deep', 'not deep', 'few > 2', 'd == 3')}:")
                lines.append(f"{indent}    - {self.names[0]} = {self.value(depth)}")
                lines += [f"{indent}  else:", f"{indent}    - {self.names[0]} = {self.value(1)}"]
            elif kind < 0.85:
                index = f"l{loops}"
                lines.append(f"{indent}- for {index} in {self.one('2', 'few', 'len(rates)')}:")
                known = [*self.names], [*self.sizes]
                self.sizes += [index, f"{index} + 1", f"rates[{index}]"]
                lines += self.statements(f"{indent}    ", depth - 1, loops - 1)
                self.names, self.sizes = known
            else:
                lines.append(f"{indent}- h = zeros([b, d])")
                lines.append(f"{indent}- for t along n:")
                lines.append(
                    f"{indent}    - h = tanh(linear({self.draw.choice(self.names)}[n=t], d) + h * {self.size()})"
                )
                lines.append(f"{indent}    - steps{len(self.names)} = h + t")
                self.names += [f"steps{len(self.names)}"]
        return lines


def drawn(seed: int) -> str:
    """A spec; some of them have mistakes."""
    draw = random.Random(seed)
    text = HEAD + "inputs:\n" + "\n".join(f'  {name}: "{kind}"' for name, kind in INPUTS.items())
    text += '\nparams: {weight: "float[d]"}\nmodules: {words: "embed(9, d)", again: feed}\nblocks:\n'
    known = {"feed": "  feed(x):\n    - x + linear(gelu(linear(x, 5)), d)"}
    for number in range(draw.randint(0, 3)):
        inner = Drawing(draw, ["x"], dict(known), True, [*SIZES, "size", "to"])
        lines = inner.statements("      ", 2)
        last = f"      - {draw.choice(inner.names)} + concat(x, zeros([b, size, d]), zeros([b, to, d]), axis=n)[n=0]"
        header = f"  block{number}(x, size=2, to=1):"
        params = '    params: {scale: "float[d]"}\n' if draw.random() < 0.5 else ""
        known[f"block{number}"] = "\n".join(
            [header, f"{params}    flow:", *lines, last + (" * scale" if params else "")]
        )
    text += "\n".join(known.values())
    condition = draw.choice(["n > 1", "j <= i", "(n > 2) == (j <= i)", "i == j or n > 2", "abs(i - j) < 2"])
    score = draw.choice(["dot(q, k)", "dot(q, k) + sum(feed(q + k))", "-abs(i - j)", "1 if n == 2 else 0"])
    text += f"\n  look(x, z):\n    query: x\n    key: z\n    value: feed(x)\n    score: {score}\n    mask: {condition}"
    flow = Drawing(draw, ["x", "f"], {name: "" for name in known if name != "feed"})
    body = ["  - pairs[b, n, n2, d] = e * 2", *flow.statements("  ", 3)]
    results = [flow.value(2) for _ in range(draw.randint(1, 3))] + draw.sample(flow.names, 1)
    if draw.random() < 0.3:
        results.append(
            draw.choice(["e + e", "u * u", "sum(u)", "n * 2", "linear(e, 5)", "z", "hide", "ids + 1", "keep"])
        )
    outputs = [f"  out{k}: {value}" for k, value in enumerate(results)]
    return text + "\nflow:\n" + "\n".join(body) + "\noutputs:\n" + "\n".join(outputs) + "\n"
