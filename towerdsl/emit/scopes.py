"""The last look at emitted source: each name in it means what its writer meant, or the source is not given away.

Names are decided in `towerdsl.ir.names`; what fails here is a mistake of the compiler, never of a spec.
"""

from __future__ import annotations

import builtins
import re
import symtable
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from towerdsl.ir.names import BUILTINS, IMPORTED, METHOD, MODULE

_ATTRIBUTE = re.compile(r"\bself\.(\w+)")
_MADE = re.compile(r'self\.(\w+) = |self\.register_buffer\("(\w+)"')
#: What emitted methods use of `nn.Module`, and the attributes that only the compiler makes.
_INHERITED = {"training", "register_buffer", "parameters", "requires_grad_", "eval", "seen"}
_OWN = {"like"}


class ScopeError(AssertionError):
    """Emitted source has a name that does not mean what it was written for."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"internal error in towerdsl: in the emitted {where}, {what}; please report it with the spec")


def check_attributes(
    name: str, init: Sequence[str], forward: Iterable[str], methods: Mapping[str, Sequence[str]]
) -> None:
    """Each attribute of a class is made once, hides nothing of `nn.Module`, and is there where it is read.

    `methods` are those beside `forward`.
    """
    made = Counter([*(m[1] or m[2] for line in init if (m := _MADE.match(line))), *methods])
    for attribute, count in made.items():
        if count > 1:
            raise ScopeError(f"class {name}", f"`self.{attribute}` is made twice")
        if attribute in MODULE - _OWN:
            raise ScopeError(f"class {name}", f"`self.{attribute}` hides what `nn.Module` has")
    lines = [*init, *forward, *(line for method in methods.values() for line in method)]
    for attribute in {x for line in lines for x in _ATTRIBUTE.findall(line)} - made.keys() - _INHERITED:
        raise ScopeError(f"class {name}", f"`self.{attribute}` is read, and never made")


@dataclass(frozen=True)
class Given:
    """What was given out for the methods of a class: the names of variables, and of what they call."""

    variables: frozenset[str]
    called: frozenset[str]


def check_scopes(source: str, defined: Sequence[str], methods: Mapping[str, Given]) -> None:
    """Each variable of a method is one that was given out, and hides nothing that the method calls.

    `defined` are the classes and functions of the module, `methods` what the methods of each emitted class were given.
    """
    for name, count in Counter(defined).items():
        if count > 1:
            raise ScopeError("module", f"`{name}` is defined twice")
    module = symtable.symtable(source, "<emitted>", "exec")
    known = {s.get_name() for s in module.get_symbols() if s.is_assigned() or s.is_imported()}
    for table in module.get_children():
        own = methods.get(table.get_name()) if table.get_type() == "class" else None
        if own is None:
            _resolved(table, known, table.get_name())
            continue
        for method in table.get_children():
            _check(method, known, own, f"{table.get_name()}.{method.get_name()}")


def _check(table: symtable.SymbolTable, known: set[str], own: Given, where: str) -> None:
    for symbol in table.get_symbols():
        name = symbol.get_name()
        if symbol.is_global():
            if name not in known and name not in BUILTINS:
                raise ScopeError(where, f"`{name}` is read, and never assigned")
        elif symbol.is_local() and not name.startswith("."):
            if name in own.called or name in IMPORTED or name in BUILTINS:
                raise ScopeError(where, f"the variable `{name}` hides what is called")
            if name not in own.variables and name not in {*METHOD, "_"} and table.get_name() != "lambda":
                raise ScopeError(where, f"the variable `{name}` was given to nothing")
    for inner in table.get_children():
        _check(inner, known, own, where)


def _resolved(table: symtable.SymbolTable, known: set[str], where: str) -> None:
    """A function that was copied: each name that it does not assign is one of the module or of Python."""
    for symbol in table.get_symbols():
        name = symbol.get_name()
        if symbol.is_global() and name not in known and not hasattr(builtins, name):
            raise ScopeError(where, f"`{name}` is read, and never assigned")
    for inner in table.get_children():
        _resolved(inner, known, where)
