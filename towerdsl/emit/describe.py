"""The docstrings of emitted classes: what a block computes, with the branches that were taken."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from towerdsl.diagnostics import visible
from towerdsl.emit.layout import WIDTH
from towerdsl.ir import nodes as n
from towerdsl.lang import tree as t
from towerdsl.lang.words import ATOM, LEVELS, statement_lines, words
from towerdsl.ops import python
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes.resolve import Resolved, walk

NO_BREAK = "\xa0"
#: How many instances of a class have their shapes in its docstring.
MOST_SHAPES = 4
#: A score that is no longer than this is put into the normalizer's formula, also where that names it twice.
SHORT = 12


def described(
    blocks: Sequence[n.BlockInstance], kernel: str | None, resolved: Resolved, sizes: Mapping[str, Any]
) -> list[str]:
    """The docstring of the class that some instances of a block share."""
    block = blocks[0]
    spec = resolved.blocks.get(block.name)
    if spec is None or block.span is None:
        return []
    lines = [f"{spec.signature.span.text}, {block.span.source.name}:{block.span.line}."]
    if block.about:
        lines += ["", *textwrap.wrap(block.about, WIDTH - 8)]
    body = _common(spec.body, [b.written for b in blocks if b.written is not None])
    if isinstance(body, t.Attention) and kernel is not None:
        lines += ["", *_attention(body, blocks, kernel, sizes)]
    elif isinstance(body, t.Composition):
        lines += ["", *(f"    {line}" for line in statement_lines(body.body))]
    shapes = list(dict.fromkeys(map(_shapes, blocks)))
    lines += ["", *shapes[:MOST_SHAPES], *(["..."] if len(shapes) > MOST_SHAPES else [])]
    return [x.replace(NO_BREAK, " ") for line in lines for x in _folded(line)]


def docstring(text: Sequence[str], level: int) -> list[str]:
    """Lines of text as a docstring, indented by `level`."""
    if not text:
        return []
    pad = "    " * level
    safe = [visible(line, "").replace("\\", "\\\\").replace('"""', "'''") for line in text]
    if len(safe) == 1:
        return [f'{pad}"""{safe[0]}"""', ""]
    return [f'{pad}"""{safe[0]}', *(f"{pad}{line}".rstrip() for line in safe[1:]), f'{pad}"""', ""]


def _common(
    source: t.Attention | t.Composition, written: Sequence[t.Attention | t.Composition]
) -> t.Attention | t.Composition:
    """What all instances read alike; where they differ, what the spec says."""
    if isinstance(source, t.Composition):
        return written[0] if written and all(w == written[0] for w in written) else source
    changes: dict[str, Any] = {}
    for f in fields(source):
        values = [getattr(w, f.name) for w in written]
        if values and all(v == values[0] for v in values):
            changes[f.name] = values[0]
    return replace(source, **changes)


# --- attentions ------------------------------------------------------------------------------------------------


def _attention(
    body: t.Attention, blocks: Sequence[n.BlockInstance], kernel: str, sizes: Mapping[str, Any]
) -> list[str]:
    averages = [b.average for b in blocks if b.average is not None]
    average = averages[0]
    i, pair = ("[i]", "[i, j]") if average.positions else ("", "[j]")
    names = {"q": f"q{i}", "k": "k[j]", "v": "v[j]"}
    message = words(body.message, names, LEVELS["*"] + 1) if body.message is not None else "v[j]"
    lines = [f"    y{i} = sum over j of w{pair} * {message}"]
    score = f"dot(q{i}, k[j]) / sqrt(dk)" if average.query and average.key else "0"
    whole = score == "0"
    if body.score is not None:
        score = words(body.score, names)
        whole = words(body.score, names, ATOM) == score
    lines += _weights(average.normalize, score, whole, pair, blocks[0])
    conditions = [e for e in (body.locality, body.mask) if e is not None]
    joined = " and ".join(words(e, names, LEVELS["and"] if len(conditions) > 1 else 0) for e in conditions)
    if average.visible is not None and joined:
        lines.append(f"    {'j is visible to i' if i else 'j is visible'} where {joined}")
    numbers = _numbers(body, blocks, sizes)
    if numbers:
        lines.append(f"    with {', '.join(f'{name} = {value}' for name, value in numbers)}")
    over = " or ".join(dict.fromkeys(", ".join(str(a.on("")) for a in x.over) for x in averages))
    facts = [f"over {over}"]
    if average.heads is not None:
        shared = f" on {average.key_heads} key heads" if average.key_heads is not None else ""
        facts.append(f"heads{shared} merged by {average.merge}")
    if average.dropout:
        facts.append(f"dropout of weights {python(average.dropout)}")
    facts += [f"{name} {python(value)}" for name, value in average.options]
    return [*lines, "", f"Averaged {', '.join(facts)}; kernel: {kernel}."]


def _weights(normalize: str, score: str, whole: bool, pair: str, block: n.BlockInstance) -> list[str]:
    """The lines that say how the score becomes weights; a `whole` score needs no parentheses."""
    if normalize == "softmax":
        return [f"    w{pair} = softmax over j of {score}"]
    formula = NORMALIZERS[normalize].formula
    named = re.compile(r"\bf\b")
    if formula == "f" or (whole and (len(score) <= SHORT or len(named.findall(formula)) == 1)):
        return [f"    w{pair} = {named.sub(lambda _: score, formula)}"]
    taken = {name for name, _ in (*block.parameters, *block.modules)} | {w.name for w in block.weights}
    f = next(x for x in ("f", "score", "affinity", "f_") if x not in taken)
    return [f"    {f}{pair} = {score}", f"    w{pair} = {named.sub(f, formula)}"]


def _numbers(body: t.Attention, blocks: Sequence[n.BlockInstance], sizes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The sizes and static arguments that the formula names, where they are the same numbers in all instances."""
    roots = [e for e in (body.message, body.score, body.locality, body.mask) if e is not None]
    names = dict.fromkeys(x.id for e in roots for x in walk(e) if isinstance(x, t.Name))
    own = {target.name for s in body.let if isinstance(s, t.Assign) for target in s.targets}
    own |= {name.text for name, _ in (*body.params, *body.modules)}
    found = []
    for name in names:
        values = [_known(name, b, sizes) for b in blocks]
        number = isinstance(values[0], int | float) and not isinstance(values[0], bool)
        if name not in own and number and all(v == values[0] for v in values):
            found.append((name, python(values[0])))
    return found


def _known(name: str, block: n.BlockInstance, sizes: Mapping[str, Any]) -> Any:
    constants = dict(block.constants)
    if name in constants:
        return constants[name]
    return None if name in dict(block.parameters) else sizes.get(name)


# --- text ------------------------------------------------------------------------------------------------------


def _shapes(block: n.BlockInstance) -> str:
    """The types of the arguments and of the results."""
    given = ", ".join(f"{name} {kind}".replace(" ", NO_BREAK) for name, kind in block.parameters)
    return f"{given} -> " + ", ".join(str(r.type) for r in block.results).replace(" ", NO_BREAK)


def _folded(line: str) -> list[str]:
    """A line of a docstring, in as many lines as it takes."""
    indent = line[: len(line) - len(line.lstrip())]
    more = f"{indent}    " if indent else ""
    found = textwrap.wrap(line, WIDTH - 4, subsequent_indent=more, break_long_words=False, break_on_hyphens=False)
    return found or [line]
