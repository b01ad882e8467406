"""A statement that is broken into lines says what it said in one."""

import ast
import textwrap

import pytest

from towerdsl.emit.layout import WIDTH, wrapped

NAMES = [f"variable_{k}" for k in range(12)]
STATEMENTS = [
    f"y = resize({', '.join(NAMES)}, (2 * length_of_the_text + 32,), mode='linear')",
    f"y = resize(x, (2 * {' * '.join(NAMES)},))",
    f"y = f(({'[0], '.join(NAMES)}[0],),)",
    f"y = {' + '.join(NAMES)} + f({', '.join(NAMES)})",
    f"return x[{', '.join(':' for _ in range(40))}, None, {' * '.join(NAMES)}]",
    f'y = where({" & ".join(f"({n} <= i - j)" for n in NAMES)}, "ij,bjd->bid", x)',
]


@pytest.mark.parametrize("depth", [1, 4, 16, 25])
@pytest.mark.parametrize("statement", STATEMENTS)
def test_broken_lines_mean_the_same(statement, depth):
    lines = wrapped("    " * depth + statement)
    assert len(lines) > 1
    assert max(map(len, lines)) <= max(WIDTH, 4 * depth + 60)
    whole = ast.parse(f"def f():\n    {statement}")
    broken = ast.parse("def f():\n" + textwrap.indent(textwrap.dedent("\n".join(lines)), "    "))
    assert ast.dump(whole) == ast.dump(broken)
