"""The last touches on emitted statements: a variable that only feeds the next step is inlined, long lines broken."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from towerdsl.budget import spend
from towerdsl.emit.code import MARK

WIDTH = 110
_ASSIGN = re.compile(r"^(\s*)([A-Za-z_]\w*) = (.*)$")
_WORD = re.compile(r"\w+")
_RETURN = re.compile(r"^(\s*)return ([A-Za-z_]\w*)$")


def tidy(lines: Sequence[str]) -> list[str]:
    """`q = a` ... `q = q.flatten(1)` --> `q = a.flatten(1)`; `y = a`, `return y` --> `return a`."""
    found = list(lines)
    at = 0
    while at < len(found):
        if not _joined(found, at):
            at += 1
    if len(found) > 1:
        last, before = _RETURN.match(found[-1]), _ASSIGN.match(found[-2])
        if last and before and last[2] == before[2] and last[1] == before[1]:
            found[-2:] = [f"{last[1]}return {before[3]}"]
    return _counted_once(found)


def _counted_once(lines: Sequence[str]) -> list[str]:
    """`i = torch.arange(n)`, `j = torch.arange(n)` --> `i = j = torch.arange(n)`, also where they stand apart."""
    found: list[str] = []
    ranges: dict[tuple[str, str], tuple[int, list[str]]] = {}  # indent and code -> place and names
    for line in lines:
        this = _ASSIGN.match(line)
        indent = line[: len(line) - len(line.lstrip())]
        ranges = {key: place for key, place in ranges.items() if len(key[0]) <= len(indent)}  # of this block
        if this is None or not this[3].startswith("torch.arange(") or not _is_chain(this[3]):
            found.append(line)
            continue
        place, names = ranges.setdefault((indent, this[3]), (len(found), []))
        if not names:
            found.append(line)
        names.append(this[2])
        found[place] = f"{indent}{' = '.join(sorted(names))} = {this[3]}"
    return found


def _joined(lines: list[str], at: int) -> bool:
    """Join the assignment on line `at` with the next one of the same variable, if nothing between reads it."""
    first = _ASSIGN.match(lines[at])
    if not first or not _is_chain(first[3]):
        return False
    spend(50)
    word = re.compile(rf"\b{first[2]}\b")
    made_of = set(_WORD.findall(first[3]))
    between: set[str] = set()
    for k in range(at + 1, len(lines)):
        spend(5 + len(lines[k]) // 50)
        second = _ASSIGN.match(lines[k])
        same = second is not None and second[2] == first[2] and second[1] == first[1]
        if same and second is not None and _reads_once(second[3], word):
            together = f"{first[1]}{first[2]} = {word.sub(lambda _: first[3], second[3])}"
            late = not between.isdisjoint(_WORD.findall(second[3]))
            if late or length(together) + 8 > WIDTH:  # inside a class, two levels deep
                return False
            lines[at] = together
            del lines[k]
            return True
        between |= {second[2]} if second is not None else set()
        # between the two, nothing may read the variable or change what its value is made of
        if word.search(lines[k]) or second is None or second[2] in made_of:
            return False
    return False


def _reads_once(code: str, word: re.Pattern[str]) -> bool:
    """Whether a variable stands in the code once, and is read there: it is no attribute, argument name or letter."""
    found = list(word.finditer(code))
    if len(found) != 1:
        return False
    before, after = code[: found[0].start()], code[found[0].end() :]
    return before.count('"') % 2 == 0 and not before.endswith(".") and re.match("=(?!=)", after) is None


def _is_chain(code: str) -> bool:
    """A name or call followed by calls and picks: it can stand before `.` without parentheses."""
    depth = 0
    for character in code:
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in " +-*/%&|~<>=":
            return False
    return True


def length(line: str) -> int:
    """The length of a line as it will be read, without the marks around numbers."""
    return len(MARK.sub(lambda m: m[1], line))


def wrapped(line: str, bracketed: bool = False) -> list[str]:
    """A statement, or what stands inside a bracket, in lines of at most `WIDTH`: broken inside its longest bracket, or
    before operators."""
    spend(2 + len(line) // 50)
    if length(line) <= WIDTH or '"""' in line:
        return [line]
    spend(len(line))
    indent = " " * (len(line) - len(line.lstrip()))
    group = _longest_group(line)
    operators = _operators(line)
    head = re.match(r"\s*((?:[\w, .\[\]]+ = )+|return )", line)
    if operators and bracketed:
        return [x for piece in _split_at(line, operators) for x in wrapped(f"{indent}{piece.strip()}", True)]
    if operators and head is not None:
        start = head.end()
        pieces = _split_at(line[start:], [o - start for o in operators])
        inner = [x for piece in pieces for x in wrapped(f"{indent}    {piece.strip()}", True)]
        return [f"{line[:start].rstrip()} (", *inner, f"{indent})"]
    if group is None:
        return [line]
    opening, closing = group
    inside = line[opening + 1 : closing]
    body = f"{indent}    {inside}"
    if length(body) <= WIDTH:
        inner = [body]
    else:
        commas = [k for k, c in enumerate(_top_level(inside)) if c == ","]
        # a tuple of one ends with its comma, and so does each line of several
        pieces = [x for p in _split_at(inside, commas) if (x := p.lstrip(", "))] if commas else [inside]
        inner = []
        for piece in pieces:
            inner += wrapped(f"{indent}    {piece}{',' if commas else ''}", True)
        if not commas and inner == [body]:
            return [line]
    tail = wrapped(f"{indent}{line[closing:]}", bracketed)
    return [line[: opening + 1], *inner, *tail]


def _top_level(code: str) -> str:
    """The code with what stands in brackets or quotes blanked out."""
    depth, quote, out = 0, "", []
    for character in code:
        if quote:
            quote = "" if character == quote else quote
            out.append("_")
            continue
        if character in "\"'":
            quote = character
        if character in ")]}":
            depth -= 1
        out.append(character if depth == 0 and not quote else "_")
        if character in "([{":
            depth += 1
    return "".join(out)


def _operators(line: str) -> list[int]:
    """Where a too long sum, conjunction or the like can be broken: before its loosest operators."""
    flat = _top_level(line)
    for pattern in (r" \| ", r" & ", r" [+-] ", r" [*/] "):
        found = [m.start() for m in re.finditer(pattern, flat) if flat[: m.start()].strip()]
        if found:
            return found
    return []


def _split_at(text: str, places: Sequence[int]) -> list[str]:
    return [text[a:b] for a, b in pairwise([0, *places, len(text)]) if text[a:b].strip()]


def _longest_group(line: str) -> tuple[int, int] | None:
    """The bracket pair at the outermost level with the most inside."""
    depth, start, best = 0, 0, None
    for k, character in enumerate(line):
        if character in "([{":
            if depth == 0:
                start = k
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth == 0 and k - start > 1 and (best is None or k - start > best[1] - best[0]):
                best = (start, k)
    return best
