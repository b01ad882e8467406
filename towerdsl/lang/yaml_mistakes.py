"""What is said of a text that is not YAML, or that YAML takes apart: the place, the cause, what to write."""

from __future__ import annotations

import re

import yaml

from towerdsl.diagnostics import Diagnostic, Source, Span, TowerError

BRACKETS = {"(": ")", "[": "]", "{": "}"}
#: Where free text stands, which may begin with any sign in quotes.
FREE_TEXT = re.compile(r"\s*(about|paper)\s*:")
#: Signs that YAML reads as its own at the start of a value.
SIGNS = {
    "*": "for YAML it begins the name of an alias",
    "&": "for YAML it begins the name of an anchor",
    "!": "for YAML it begins a tag",
    "|": "for YAML it begins a text of several lines",
    ">": "for YAML it begins a text of several lines",
    "%": "for YAML it begins a directive",
}


def fail(source: Source, code: str, message: str, start: int, help: str | None = None, width: int = 1) -> TowerError:
    """One mistake at a character of the file, as the error that carries it."""
    return TowerError([Diagnostic(code, message, Span(source, start, start + width), (), help)])


def tagged(source: Source, start: int) -> TowerError:
    """A value that begins with `!`."""
    if re.match(r"![\w(]", source.text[start : start + 2]):
        return _sign(source, start)
    return fail(source, "yaml-tag", "YAML tags are not part of the language", start, "remove the tag")


def explained(source: Source, error: yaml.MarkedYAMLError) -> TowerError:
    """What is wrong with a text that is not YAML, and where."""
    mark = error.problem_mark or error.context_mark
    at = mark.index if mark else 0
    context = error.context or ""
    began = error.context_mark.index if error.context_mark else at
    problem = (error.problem or context or "this is not YAML").removeprefix("found ")
    number, _ = source.position(at)
    if tab := _tab(source, number):
        return TowerError([Diagnostic("yaml", "this line is indented with a tab", tab, (), "indent with spaces")])
    if "flow" in context and (found := _in_brackets(source, began, at)):
        return found
    if source.text[began : began + 1] in SIGNS and re.search(r"alias|anchor|tag|block scalar", context):
        return _sign(source, began)
    if "cannot start any token" in problem:
        return _sign(source, at)
    if "did not find expected node content" in problem and (c := source.text[at : at + 1]):
        return fail(source, "yaml", f"a value is missing before `{c}`", at, f"write one, or remove the `{c}`")
    if "unexpected end of stream" in problem and source.text[began : began + 1] in "\"'":
        return _open_quote(source, began)
    if "did not find expected" in problem and (found := _after_quotes(source, at)):
        return found
    if at >= len(source.text.rstrip()) and error.context_mark:
        at = began  # where it began says more than where the file ends
    colon = "expected ':'" in problem or "mapping values are not allowed" in problem
    if colon and (found := _colon(source, at, error.context_mark.line + 1 if error.context_mark else number)):
        return found
    if "expected a single document" in (context or problem) or "document start" in problem:
        return fail(source, "yaml", "a file is one YAML document", at, "one file holds one spec: remove the `---`", 3)
    return fail(source, "yaml", f"not valid YAML: {problem}", at, _help(problem))


def _tab(source: Source, number: int) -> Span | None:
    """The tab that a line, or the one before it, is indented with."""
    for near in (number, max(1, number - 1)):
        indent = re.match(r" *\t\s*", source.line(near))
        if indent and indent.end() < len(source.line(near)):
            start = source.start_of(near)
            return Span(source, start + indent.group().index("\t"), start + indent.end())
    return None


def _sign(source: Source, at: int) -> TowerError:
    """A value begins with a sign that YAML keeps for itself."""
    sign = source.text[at]
    if sign == "\t":
        return fail(source, "yaml", "a tab stands where spaces are meant", at, "write a space")
    line = source.line(source.position(at)[0])
    help = f"put the text in {_quotes(line)}" if FREE_TEXT.match(line) else f"remove the `{sign}`"
    if m := re.match(r"\|([^|\n]+)\|", source.text[at : at + 200]):
        help = f"write `abs({m[1].strip()})`"
    if sign == "!" and not FREE_TEXT.match(line):
        help = "write `not ...`"
    notes = (SIGNS[sign],) if sign in SIGNS else ()
    return TowerError(
        [Diagnostic("yaml", f"a value cannot begin with `{sign}`", Span(source, at, at + 1), notes, help)]
    )


def _quotes(line: str) -> str:
    return "'...'" if '"' in line else '"..."'


def _open_quote(source: Source, at: int) -> TowerError:
    quote = source.text[at]
    line = source.line(source.position(at)[0])
    end = at + len(line[source.position(at)[1] - 1 :].rstrip())
    span = Span(source, at, max(end, at + 1))
    return TowerError([Diagnostic("yaml", "this text is not closed", span, (), f"end it with another `{quote}`")])


def _after_quotes(source: Source, at: int) -> TowerError | None:
    """Something stands right behind a text in quotes."""
    number, column = source.position(at)
    before = source.line(number)[: column - 1]
    quote = before.rstrip()[-1:]
    if quote not in ("'", '"'):
        return None
    if before.count(quote) % 2:  # it closes one that was opened further up
        lines = range(number - 1, max(0, number - 50), -1)
        line = next((i for i in lines if source.line(i).count(quote) % 2), None)
        return _open_quote(source, source.start_of(line) + source.line(line).rindex(quote)) if line else None
    start = source.start_of(number) + before.index(quote)
    whole = source.text[start : source.start_of(number) + len(source.line(number))].split(" #")[0].rstrip()
    other = "'" if quote == '"' else '"'
    help = f"quote the whole: `{other}{whole}{other}`" if other not in whole and len(whole) < 80 else "quote the whole"
    span = Span(source, at, start + len(whole))
    return TowerError([Diagnostic("yaml", "for YAML, a value that begins with a quote ends with it", span, (), help)])


def _colon(source: Source, at: int, number: int) -> TowerError | None:
    """A `:` where YAML expects none, or none where it expects one."""
    line = _without_colon(source, number)
    if line is not None:
        key = source.line(line).strip()
        start = source.start_of(line) + source.line(line).index(key)
        message, help = f"not valid YAML: `{key}` lacks its colon", f"write `{key}:`"
        if "=" in key:
            message, help = "not valid YAML: this line is no item of the list", "begin it with `- `, or indent it"
        return TowerError([Diagnostic("yaml", message, Span(source, start, start + len(key)), (), help)])
    line, column = source.position(at)
    text = source.line(line)
    if text[column - 1 : column] != ":":
        return None
    name = re.match(r"\s*(?:- +)*[^:#\"']*?:\s+", text)
    if name is None or name.end() >= column:
        if found := _without_space(source, line - 1):
            return found
        message = "this line stands further in than the one before it, which has a value"
        start = source.start_of(line) + len(text) - len(text.lstrip())
        span = Span(source, start, at + 1)
        return TowerError([Diagnostic("yaml", message, span, (), "indent the fields of one thing alike")])
    value = text[name.end() :].split(" #")[0].rstrip()
    help = f"quote the value: `{quoted(value)}`" if quoted(value) else "put the value in quotes"
    if re.search(r"\belse *:", value):
        help = "a choice has no colon: `a if condition else b`"
    return fail(source, "yaml", "not valid YAML: a value holds `: `, which YAML reads as the end of a name", at, help)


def _without_space(source: Source, number: int) -> TowerError | None:
    """A line such as `tower:t`, which is no name and value."""
    text = source.line(number) if number > 0 else ""
    m = re.match(r"\s*([A-Za-z_]\w*):([^\s:].*)", text)
    if m is None or ": " in text:
        return None
    span = Span(source, source.start_of(number) + m.start(1), source.start_of(number) + m.end())
    return TowerError([lacks_space(m[1], m[2], span)])


def lacks_space(name: str, value: str, span: Span) -> Diagnostic:
    """`d:8`, which YAML reads as one word."""
    shown = f"write `{name}: {value.rstrip()}`" if len(value) < 80 else f"write `{name}: ...`"
    return Diagnostic("yaml", f"a space is missing behind the colon of `{name}`", span, (), shown)


def _without_colon(source: Source, number: int) -> int | None:
    """The line, this one or one it may be a part of, that looks like a key but has no colon."""
    indent = len(source.line(number)) - len(source.line(number).lstrip())
    for line in range(number, max(0, number - 20), -1):
        text = source.line(line)
        if not text.strip() or len(text) - len(text.lstrip()) > indent or text.lstrip().startswith("- "):
            continue
        if not re.search(r"[:#]", text):
            return line
        if line < number:
            return None
    return None


def _help(problem: str) -> str | None:
    for sign, help in {
        "did not find expected key": "check the indentation, and quote texts that hold `[`, `{` or `: `",
        "did not find expected '-' indicator": "check the indentation: the items of a list stand below each other",
        "unknown escape": "write `\\\\` for a backslash, or use '...' quotes",
    }.items():
        if sign in problem:
            return help
    return None


# --- inside `[...]` and `{...}` --------------------------------------------------------------------------------------


def quoted(text: str) -> str | None:
    """The text in the quotes that it does not hold; None if it is long, has several lines, or holds both."""
    if "\n" in text or len(text) >= 80 or "\\" in text or ('"' in text and "'" in text):
        return None
    return f"'{text}'" if '"' in text else f'"{text}"'


def cut(source: Source, start: int, key: bool = False) -> Diagnostic:
    """The value that begins at `start` inside `[...]` or `{...}`, and that YAML ends before its end."""
    _, end, _ = _item(source.text, start, key)
    span = Span(source, start, end)
    brackets, ends = _around(source.text, start), "a comma"
    if m := re.search(r"^[\"']|[,\[{]", span.text):
        ends = {"[": "a bracket", "{": "a bracket", '"': "a quote", "'": "a quote"}.get(m.group(), ends)
    what = "name" if key else "value"
    help = f"quote it: `{quoted(span.text)}`" if quoted(span.text) else f"quote the {what}"
    return Diagnostic("syntax", f"inside `{brackets}` {ends} ends the {what}", span, (), help)


def _in_brackets(source: Source, began: int, at: int) -> TowerError | None:
    """YAML stops at `at`, inside of what a bracket at `began` opens."""
    text, bracket = source.text, source.text[began : began + 1]
    if bracket not in BRACKETS:
        return None
    start, is_value = began + 1, bracket == "["
    while True:
        start, end, after = _item(text, start, bracket == "{")
        named = after == ":" and "\n" not in text[start:end]
        if after not in (",", ":", "]", "}") or (after == ":" and not named):
            return fail(
                source, "yaml", f"this `{bracket}` is not closed", began, f"close it with `{BRACKETS[bracket]}`"
            )
        if start <= at <= end:
            if named and is_value and (m := re.search(r"[ \t]+([A-Za-z_]\w*)$", text[start:end])):
                help = f"write `{text[start : start + m.start()]}, {m[1]}: ...`"
                return fail(source, "yaml", f"a comma is missing before `{m[1]}`", start + m.start(1), help, len(m[1]))
            if re.search(r"^[\"']|[,\[{]", text[start:end]):
                return TowerError([cut(source, start, named)])
            if after in ("]", "}") and after != BRACKETS[bracket]:
                line, column = source.position(began)
                note = f"the `{bracket}` is in line {line}, column {column}"
                d = Diagnostic(
                    "yaml",
                    f"`{after}` cannot close a `{bracket}`",
                    Span(source, end, end + 1),
                    (note,),
                    f"write `{BRACKETS[bracket]}`",
                )
                return TowerError([d])
            return None
        if after in ("]", "}"):
            return None
        start, is_value = end + 1, bracket == "[" or after == ":"


def _item(text: str, start: int, key: bool = False) -> tuple[int, int, str]:
    """(start, end, what stands behind it) of the value that begins behind `start` inside brackets: it ends at a comma,
    at a bracket that closes what it does not open, or, a `key`, at a `: `, that no bracket or quote encloses."""
    start = re.compile(r"(?:\s|#.*)*").match(text, start).end()  # type: ignore[union-attr]
    opened: list[str] = []
    for m in re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|\s#.*|: |:$|[\[({})\],]", re.MULTILINE).finditer(text, start):
        sign = m.group()[0]
        if sign in BRACKETS:
            opened.append(BRACKETS[sign])
        elif sign in BRACKETS.values():
            if not opened:
                return start, _stripped(text, start, m.start()), sign
            if opened.pop() != sign:
                break
        elif not opened and (sign == "," or (key and sign == ":")):
            return start, _stripped(text, start, m.start()), sign
    return start, len(text.rstrip()), ""


def _stripped(text: str, start: int, end: int) -> int:
    return start + len(text[start:end].rstrip())


def _around(text: str, at: int) -> str:
    """The kind of brackets around an offset, as it is named in messages."""
    level = 0
    for c in reversed(text[:at]):
        if c in ")]}":
            level += 1
        elif c in "([{":
            if not level:
                return "{...}" if c == "{" else "[...]"
            level -= 1
    return "{...}"
