"""Expressions as text: what a tree says in words is read as the same tree."""

from dataclasses import fields
from pathlib import Path

import pytest

import towerdsl
from towerdsl.diagnostics import Diagnostics, Source, Span
from towerdsl.lang import library
from towerdsl.lang import tree as t
from towerdsl.lang.parser import parse_expression
from towerdsl.lang.words import words

SPECS = sorted(Path(towerdsl.__file__).parents[1].joinpath("specs").rglob("*.yaml"))


def parsed(text):
    source = Source("text", text)
    return parse_expression(text, Span(source, 0, len(text)))


def expressions(node):
    """The expressions of a spec file, outermost ones."""
    if isinstance(node, t.Expr):
        yield node
    elif isinstance(node, tuple):
        for x in node:
            yield from expressions(x)
    elif hasattr(node, "__dataclass_fields__"):
        for f in fields(node):
            yield from expressions(getattr(node, f.name))


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_what_a_spec_says_is_read_back(path):
    errors = Diagnostics()
    for e in expressions(library.read(path, errors)):
        assert parsed(words(e)) == e, words(e)
    errors.raise_if_any()


def test_the_standard_library_is_read_back():
    for d in library.standard_library().define:
        assert parsed(words(d.body)) == d.body


@pytest.mark.parametrize(
    "text",
    [
        "a - (b - c)",
        "(a + b) * c ** -2",
        "(-a) ** 2",
        "-a ** 2",
        "(a ** b) ** c",
        "a ** b ** c",
        "not (a and b) or c",
        "(a or b) and c",
        "(a if b else c) if d else e",
        "(a < b) == c",
        "0 <= i - j < w",
        "x[n=1:, m=t - 1]",
        "(x + y)[j]",
        "a // (b % c)",
        "f(x, 'word', \"b c -> c b\", eps=1e-12, at=[h, w])",
        "i.h * 2",
    ],
)
def test_brackets_stand_where_they_are_needed(text):
    assert words(parsed(text)) == text


def test_adding_what_is_negative_is_subtracting():
    assert words(parsed("a + -b * c")) == "a - b * c"
    assert words(parsed("a + -b // c")) == "a + -b // c"


def test_names_can_be_written_as_others():
    assert words(parsed("dot(q, k) / sqrt(dk)"), {"q": "q[i]", "k": "k[j]"}) == "dot(q[i], k[j]) / sqrt(dk)"
