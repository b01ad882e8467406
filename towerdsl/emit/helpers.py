"""The functions and classes that emitted source calls, and their numbers: the modules that have them, and their text.

They are read, not imported: what handles tensors needs torch, which compiling does not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
_FILES = (_PACKAGE / "ops" / "normalizers.py", *sorted((_PACKAGE / "runtime").glob("*.py")))

#: What a function imports before its statements, because its module can be imported without torch.
IMPORTED = re.compile(r"(    (import torch|from towerdsl\S* import .*)\n)+\n")


@dataclass(frozen=True)
class Helper:
    """A function, class or number: where it is, its text for a file that stands alone, and the helpers it needs."""

    name: str
    module: str
    text: str
    needs: tuple[str, ...]


@cache
def helpers() -> dict[str, Helper]:
    """All of them, by name."""
    found: dict[str, tuple[str, str, ast.AST]] = {}
    for path in _FILES:
        parts = (_PACKAGE.name, *path.relative_to(_PACKAGE).with_suffix("").parts)
        module = ".".join(parts).removesuffix(".__init__")
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.parse(source).body:
            name = _name(node)
            if name is not None:
                assert name not in found, f"{module}: {name} is in {found[name][0]} too"
                # decorators register; what is copied has no register, and its imports stand in the emitted module
                first = node.lineno - 1
                while lines[first - 1].startswith("#:"):
                    first -= 1
                text = IMPORTED.sub("", "\n".join(lines[first : node.end_lineno]))
                found[name] = (module, text, node)
    return {name: Helper(name, module, text, _names(node, found, name)) for name, (module, text, node) in found.items()}


def _name(node: ast.stmt) -> str | None:
    """The name of a function, class or number that a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    return target.id if isinstance(target, ast.Name) and target.id.isupper() else None


def _names(node: ast.AST, known: Iterable[str], own: str) -> tuple[str, ...]:
    """The helpers that a definition names, in its body or as a base, in the order of the text."""
    body = node.body if isinstance(node, ast.FunctionDef) else [node]
    inside = (x for part in body for x in ast.walk(part))
    found = dict.fromkeys(x.id for x in inside if isinstance(x, ast.Name) and x.id in known and x.id != own)
    return tuple(found)


def imports(names: Iterable[str]) -> list[str]:
    """The import statements for some helpers."""
    by_module: dict[str, list[str]] = {}
    for name in sorted(names):
        by_module.setdefault(helpers()[name].module, []).append(name)
    return [f"from {module} import {', '.join(found)}" for module, found in sorted(by_module.items())]


def copied(names: Iterable[str]) -> dict[str, str]:
    """The texts of some helpers and of those that they call, callees first, by their names."""
    found: dict[str, str] = {}
    visiting: set[str] = set()

    def visit(name: str) -> None:
        if name in visiting:
            return
        visiting.add(name)
        helper = helpers()[name]
        for other in helper.needs:
            visit(other)
        found[name] = helper.text

    for name in sorted(names):
        visit(name)
    return found
