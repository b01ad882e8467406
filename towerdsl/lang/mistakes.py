"""What is said of a text that is no expression, statement or header: the place, the cause, what to write."""

from __future__ import annotations

import re

from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from towerdsl.diagnostics import Diagnostic, Span, TowerError

TOKEN = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|[A-Za-z_]\w*|[0-9][0-9.]*(?:[eE][+-]?[0-9]+)?|\*\*|//|[=!<>]=|\S")
CLOSING = {"(": ")", "[": "]"}

#: What to write for characters that have no meaning.
CHARACTERS = {
    "&": "write `and`",
    "~": "write `not`",
    "$": "names are written without `$`",
    "|": "write `or`",
    "!": "write `not`, or `!=`",
    "^": "powers are written `**`",
    "@": "write `dot(a, b)`",
    "?": "a choice is written `a if condition else b`",
    ";": "write one statement a line",
    "{": "a list is written `[a, b]`",
    "}": "a list is written `[a, b]`",
    "#": "a comment has a space before its `#`, and ends the text",
    "\\": "write the text in the other kind of quotes, or without",
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    "−": "write `-`",
    "–": "write `-`",
    "×": "write `*`",
    "·": "write `*`",
    "÷": "write `/`",
    "²": "write `** 2`",
    "³": "write `** 3`",
    "√": "write `sqrt(x)`",
    "∞": "write a large number",
    "π": "write `3.141592653589793`",
    "→": "write `->`, and the pattern in quotes",
}
KEYWORDS = ("and", "or", "not", "if", "else", "return")
#: Words that other languages have.
WORDS = {
    "for": "a loop is written `for l in depth:`, its statements in a list below it",
    "is": "compare with `==`",
    "lambda": "name the formula in `define:`",
    "import": "a spec runs no code; `use:` names other specs",
    "from": "a spec runs no code; `use:` names other specs",
    "assert": "what must hold of numbers stands in `needs:`",
    "in": "`==` compares; `a or b` joins comparisons",
    "xor": "compare with `!=`",
}


def error(code: str, message: str, span: Span, help: str | None, *notes: str) -> TowerError:
    """One mistake, as the error that carries it."""
    return TowerError([Diagnostic(code, message, span, notes, help)])


def dunder(name: str) -> tuple[str, str] | None:
    """What is said of a name that begins with two underscores, and what to write: classes in Python change it."""
    if not name.startswith("__"):
        return None
    plain = name.strip("_")
    help = f"call it `{plain}`" if re.match("[A-Za-z]", plain) else "choose another name"
    return f"`{name}` begins with two underscores, as names do that Python keeps for itself", help


def explain(problem: UnexpectedInput, text: str, span: Span, kind: str) -> TowerError:
    """The mistake in `text`, which was to be an `expression`, a `statement`, a `header`, a `signature` or a `type`."""
    return _Mistake(text, span, kind).explain(problem)


def comment_after(span: Span) -> int | None:
    """The offset of the comment that follows the text on its line, if one does."""
    found = re.compile(r"[ \t]+#").match(span.source.text, span.end)
    return found.end() - 1 if found else None


class _Mistake:
    def __init__(self, text: str, span: Span, kind: str) -> None:
        self.text, self.span, self.kind = text, span, kind

    def said(self, start: int, end: int, message: str, help: str | None, *notes: str) -> TowerError:
        place = Span(self.span.source, self.span.start + start, self.span.start + max(end, start + 1))
        return error("syntax", message, place, help, *notes)

    def opened(self, end: int) -> list[tuple[str, int]]:
        """The brackets that are open before offset `end`, and where."""
        found: list[tuple[str, int]] = []
        for m in TOKEN.finditer(self.text, 0, end):
            if m.group() in CLOSING:
                found.append((m.group(), m.start()))
            elif m.group() in CLOSING.values() and found and CLOSING[found[-1][0]] == m.group():
                found.pop()
        return found

    def where(self, offset: int) -> str:
        """`column 4`, or with its line where the text has several."""
        line, column = self.span.source.position(self.span.start + offset)
        return f"column {column}" if "\n" not in self.text.strip() else f"line {line}, column {column}"

    def explain(self, problem: UnexpectedInput) -> TowerError:
        if not self.text.strip():
            return self.said(0, 1, f"{_A[self.kind]} was expected here", None)
        if isinstance(problem, UnexpectedCharacters):
            start = problem.pos_in_stream or 0
            return self.form(start) or self.character(start)
        assert isinstance(problem, UnexpectedToken)
        expected = set(problem.accepts or problem.expected)
        if problem.token.type == "$END":
            return self.form(len(self.text)) or self.end(expected)
        start = problem.token.start_pos or 0
        return self.form(start) or self.token(start, str(problem.token), expected)

    def form(self, at: int) -> TowerError | None:
        """What the whole text shows, where it is neither of the forms of its kind."""
        text = self.text.strip()
        first = re.match(r"\s*([A-Za-z_]+)", self.text)
        word = first[1] if first else ""
        if self.kind == "header":
            if m := re.fullmatch(r"for\s+(?:([A-Za-z_]\w*)\s*(?:=|:=|of\b|:)\s*)?(\w+)", text):
                at = min(at, len(self.text.rstrip()) - 1)
                wanted = f"for {m[1] or 'l'} in {m[2]}:"
                return self.said(at, at + 1, "a loop names its index and its number", f"write `{wanted}`")
            if m := re.fullmatch(r"for\s+([A-Za-z_]\w*)\s+(over|through|on|at|of)\s+([A-Za-z_]\w*)", text):
                at = self.text.index(m[2], m.start(2))
                wanted = f"for {m[1]} along {m[3]}:"
                return self.said(
                    at, at + len(m[2]), "a loop goes `along` an axis, or counts `in` a number", f"write `{wanted}`"
                )
            if word == "for" and not re.match(r"for\s+[A-Za-z_]\w*\s+(in|along)\b", text):
                at = min(at, len(self.text.rstrip()) - 1)
                return self.said(at, at + 1, "a loop names its index and its number", "write `for l in depth:`")
            if word == "else" and re.match(r"else\s+if\b", text):
                return self.said(at, at + 2, "there is no `else if`", "put an `if` in the list under `else:`")
        elif self.kind == "statement" and word in ("for", "if", "while", "elif", "else") and "=" not in text[:at]:
            what = {"for": "a loop", "if": "an `if`", "else": "an `else`"}.get(word)
            if what is None:
                return None
            header = text.split(":")[0].rstrip()
            help = f"write `{header}:`, and the statements in a list below it"
            return self.said(at, at + 1, f"{what} needs a colon, and a list of statements", help)
        elif self.kind == "signature" and (m := re.fullmatch(r"([A-Za-z_]\w*)\s+([\w\s,]+)", text)):
            inside = ", ".join(re.findall(r"\w+", m[2]))
            return self.said(at, at + 1, "parameters stand in parentheses", f"write `{m[1]}({inside}):`")
        return None

    def character(self, start: int) -> TowerError:
        character = self.text[start : start + 1]
        if character in "“”„‟«»‘’‚‹›`´":
            return self.said(start, start + 1, f"{character} is not a quote of the language", 'write `"`')
        if character in "\"'":
            end = len(self.text[start:].split("\n")[0].rstrip()) + start
            return self.said(start, end, "this text is not closed", f"end it with another `{character}`")
        help = CHARACTERS.get(character)
        end = start + 1
        if character in "&|" and self.text[start + 1 : start + 2] == character:
            end += 1
        elif help is None and character.isdigit():
            help = "digits are `0` to `9`"
        elif help is None and character.isalpha():
            help = "names are made of the letters `a` to `z` and `A` to `Z`, digits and `_`"
        elif help is None and character.isspace():
            return self.said(start, end, "this space is not an ordinary one", "type a space")
        return self.said(start, end, f"`{self.text[start:end]}` has no meaning here", help)

    def end(self, expected: set[str]) -> TowerError:
        """The text stops too early."""
        end = len(self.text.rstrip())
        if (comment := comment_after(self.span)) is not None:
            at = comment - self.span.start
            help = "what follows ` #` is a comment: remove the `#`, or end the text before it"
            return self.said(at, at + 1, f"a comment cuts the {self.kind}", help)
        last = TOKEN.findall(self.text)[-1]
        if "NUMBER" in expected:
            message = f"the {self.kind} ends too early"
            return self.said(end - 1, end, message, f"expected a value after `{last}`")
        if last == ".":
            return self.said(end - 1, end, f"the {self.kind} ends too early", "expected a name after `.`")
        if "ELSE" in expected and not self.opened(end):
            return self.said(end - 1, end, "this choice has no `else`", "write `a if condition else b`")
        if "IN" in expected:
            return self.said(end - 1, end, "a loop names its index and its number", "write `for l in depth:`")
        if opened := self.opened(end):
            bracket, at = opened[-1]
            note = f"the `{bracket}` is in {self.where(at)}"
            message = f"the {self.kind} ends too early"
            return self.said(end - 1, end, message, f"close the bracket: `{CLOSING[bracket]}`", note)
        return self.said(end - 1, end, f"the {self.kind} ends too early", None)

    def token(self, start: int, token: str, expected: set[str]) -> TowerError:
        """A word or sign stands where it cannot."""
        before = self.text[:start]
        last = (TOKEN.findall(before) or [""])[-1]
        opened = self.opened(start)
        complete = bool(re.match(r"[\w\"')\]]", last)) and last not in (*KEYWORDS, "in")
        rest = self.text[start:]
        if last in KEYWORDS and "NUMBER" not in expected:  # it was read as a name, for it cannot begin a value
            at = before.rindex(last)
            help = (
                "`return` belongs in a list of statements"
                if last == "return"
                else f"a value is missing before `{last}`"
            )
            if last in ("if", "else"):
                help = "a choice is written `a if condition else b`"
            return self.said(at, at + len(last), f"`{last}` was not expected here", help)
        if token == "=" and last:
            return self.equals(start, opened)
        said = self.closing(start, token, opened) if token in (")", "]") else self.beside(start, last, complete)
        if said:
            return said
        end = start + len(token)
        if token == ">" and self.text[start - 1 : start] in ("-", "<"):
            help = "write `!=`" if last == "<" else "a pattern is written in quotes"
            if self.kind == "signature":
                help = "a block returns what its last statement gives: write its parameters only"
            return self.said(start - 1, end, f"`{last}>` has no meaning here", help)
        if opened and opened[-1][0] == "[" and (token == ":" or rest.startswith("...")):
            return self.slice(start, opened[-1][1])
        if token == ":":
            help = "in a list of statements, write `x = ...`; quote a text that holds a colon"
            return self.said(start, end, "`:` has no meaning here", help)
        if token == "," and complete and not opened:
            return self.said(start, end, "one expression was expected here", "several are written as a list: `[a, b]`")
        wanted: str | None
        if complete:
            wanted = f"expected an operator, `,` or `{CLOSING[opened[-1][0]]}`" if opened else "expected an operator"
        elif "NUMBER" in expected:
            wanted = "expected a value" + (f" after `{last}`" if last else "")
        else:
            wanted = "expected a name" if "NAME" in expected else None
        return self.said(start, end, f"`{token}` was not expected here", wanted)

    def equals(self, start: int, opened: list[tuple[str, int]]) -> TowerError:
        """An `=` that assigns nothing, names no option, and compares nothing."""
        following = self.text[start + 1 : start + 2]
        if following in ("<", ">") and following:
            text = f"={following}"
            return self.said(start, start + 2, f"`{text}` has no meaning", f"write `{following}=`")
        operator = re.search(r"(\*\*|//|[-+*/%@])\s*$", self.text[:start])
        if operator:
            target = self.text[: operator.start()].strip()
            target = target if re.fullmatch(r"[A-Za-z_]\w*", target) else "x"
            help = f"write `{target} = {target} {operator[1]} ...`"
            return self.said(start, start + 1, f"there is no `{operator[1]}=`", help)
        if self.text[:start].rstrip().endswith(":"):
            return self.said(start, start + 1, "there is no `:=`", "write `x = ...`")
        if self.kind == "statement" and not opened and re.search(r"(?<![=<>!])=(?!=)", self.text[:start]):
            return self.said(start, start + 1, "a statement assigns once", "write two statements, or compare with `==`")
        return self.said(start, start + 1, "`=` was not expected here", "compare with `==`")

    def closing(self, start: int, token: str, opened: list[tuple[str, int]]) -> TowerError | None:
        if not opened:
            return self.said(start, start + 1, f"this `{token}` closes nothing", "remove it")
        bracket, at = opened[-1]
        if CLOSING[bracket] != token:
            note = f"the `{bracket}` is in {self.where(at)}"
            return self.said(
                start, start + 1, f"`{token}` cannot close a `{bracket}`", f"write `{CLOSING[bracket]}`", note
            )
        return None

    def beside(self, start: int, last: str, complete: bool) -> TowerError | None:
        """A value right after a value: an operator is missing between them, or the quotes around both."""
        m = TOKEN.match(self.text, start)
        if not complete or m is None or not re.match(r"[\w\"']", m.group()):
            return None
        value, end = m.group(), m.end()
        for word, at in ((value, start), (last, self.text.rindex(last, 0, start))):
            if word in WORDS:
                return self.said(at, at + len(word), f"`{word}` has no meaning here", WORDS[word])
        if value == "else":
            return self.said(start, end, "`else` has no `if`", "a choice is written `a if condition else b`")
        if self.kind == "statement" and "\n" in self.text[:start].rstrip(" ")[-1:]:
            help = "begin each statement with `- `"
            return self.said(start, end, f"`{value}` was not expected here", help)
        if pattern := self.pattern(start):
            return self.said(start, end, "a pattern is written in quotes", f'write `"{pattern}"`')
        if value[0] in "\"'" and self.text[start - 1 : start] in ("f", "r", "b", "u"):
            help = f"remove the `{last}`"
            return self.said(start - len(last), end, "a text stands in quotes, without a letter before it", help)
        if self.kind == "signature" and last[0] in "0123456789":
            return self.said(start, end, "a name begins with a letter", None)
        if start and self.text[start - 1] in "0123456789." and re.fullmatch(r"[0-9.]+", last):
            if value.startswith("_"):
                return self.said(
                    start, end, "numbers are written without `_`", f"write `{last}{value.replace('_', '')}`"
                )
            if last == "0" and re.fullmatch(r"[xXoObB][0-9a-fA-F]+", value):
                return self.said(
                    start, end, "numbers are written with decimal digits", f"write `{int(last + value, 0)}`"
                )
            if "." in last and value[0] in "0123456789" or re.fullmatch(r"[eE]", value):
                return self.said(start, end, f"`{last}{value}` is not a number", "write it as `0.5` or `1e-5`")
            return self.said(start, end, f"`{value}` was not expected here", f"write the product: `{last} * {value}`")
        return self.said(start, end, f"`{value}` was not expected here", "an operator or a comma is missing before it")

    def pattern(self, start: int) -> str | None:
        """The unquoted einops pattern around an offset."""
        if "->" not in self.text[start:]:
            return None
        first = max(
            self.text.rfind(",", 0, start), self.text.rfind("(", 0, start) if "," not in self.text[:start] else -1
        )
        level, end = 0, len(self.text)
        for k in range(first + 1, len(self.text)):
            level += {"(": 1, ")": -1}.get(self.text[k], 0)
            if level < 0 or (level == 0 and self.text[k] == ","):
                end = k
                break
        found = " ".join(self.text[first + 1 : end].split())
        return found if "->" in found and len(found) <= 80 and '"' not in found else None

    def slice(self, start: int, bracket: int) -> TowerError:
        """`x[1:]` and `x[..., 0]`: positions are picked along named axes."""
        if re.search(r"=[^,\]]*:[^,\]]*$", self.text[bracket:start]):
            return self.said(start, start + 1, "a part has a start and an end, no step", "leave out the step")
        base = re.search(r"[A-Za-z_]\w*$", self.text[:bracket].rstrip())
        name = base.group() if base else "x"
        help = f"name the axis: `{name}[n=0]` takes one position of `n`, `{name}[n=1:]` a part"
        return self.said(start, start + 1, "a pick names its axis", help)


_A = {
    "expression": "an expression",
    "statement": "a statement",
    "header": "`for` or `if`",
    "signature": "a name",
    "type": "a type",
}
