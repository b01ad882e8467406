"""SpecFile --> Resolved: files used, blocks, definitions and sizes in one table, cycles and unknown functions found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx as nx

from towerdsl.budget import spend
from towerdsl.diagnostics import Diagnostics, Span, TowerError, did_you_mean
from towerdsl.lang import library
from towerdsl.lang import tree as t
from towerdsl.lang.foreign import FUNCTIONS
from towerdsl.ops import ELEMENTWISE, OPS
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes.choices import Choice, Choices

MAX_DEPTH = 100

#: Functions that the compiler itself knows, beside the operations.
BUILTINS = tuple("dot outer sum mean amax amin range zeros ones where min max int float len one_of".split())
#: Initializers of `params:`, and how many numbers each takes.
INITIALIZERS = {
    "zeros": 0,
    "ones": 0,
    "eye": 0,
    "constant": 1,
    "normal": 1,
    "truncated_normal": 1,
    "uniform": 1,
    "xavier_uniform": 0,
    "xavier_normal": 0,
    "kaiming_uniform": 0,
}
#: Names with a meaning inside attentions and expressions.
RESERVED = {"i", "j", "q", "k", "v", "y", "head", "dk", "dv", "log_prob"}


@dataclass(frozen=True)
class Resolved:
    """One table of everything that a spec can name."""

    spec: t.SpecFile
    sizes: Mapping[str, tuple[t.Text, t.Expr]]
    choices: Mapping[str, Choice]  # what some of the sizes may be
    definitions: Mapping[str, t.Definition]
    blocks: Mapping[str, t.Block]
    broken: frozenset[str]  # names whose text could not be read: nothing more is said of them
    lists: Mapping[str, tuple[t.Expr, ...]] = field(default_factory=dict)  # sizes that are lists, once they are put in
    files: tuple[Path, ...] = ()  # what was read: the spec, and all files that it uses
    config: t.ConfigRules = field(default_factory=t.ConfigRules)  # of the spec, and of all files that it uses
    gguf: t.ConfigRules = field(default_factory=t.ConfigRules)
    checkpoints: tuple[t.CheckpointSection, ...] = ()  # of the spec, and of the libraries that it uses
    #: sizes that come from a public configuration, and what that says; the family that it is of
    said: Mapping[str, str] = field(default_factory=dict)
    family: str | None = None
    idle: Mapping[str, Any] = field(default_factory=dict)  # what else it says, which changes nothing
    settings: Mapping[str, Any] = field(default_factory=dict)  # all sizes that were set

    @property
    def callable(self) -> set[str]:
        """Every name that can be called, but for modules."""
        return {*OPS, *ELEMENTWISE, *BUILTINS, *self.definitions, *self.blocks, *self.broken}


def resolve(spec: t.SpecFile, errors: Diagnostics) -> Resolved | None:
    """Find every mistake that names alone show. None where going on makes no sense: something needs itself."""
    files = _files(spec, errors)
    sizes: dict[str, tuple[t.Text, t.Expr]] = {}
    choices = Choices(errors)
    blocks: dict[str, t.Block] = {}
    seen: dict[str, Span] = {}
    reused: set[str] = set()
    standard = {d.signature.name: d for d in library.standard_library().define}
    written: dict[str, list[tuple[t.Definition, _File]]] = {}
    for file in files:  # a later file's sizes take the place of an earlier one's
        for key, value in file.spec.sizes:
            _check_free(key.text, key.span, errors)
            sizes[key.text] = (key, choices.size(key.text, value))
        for d in file.spec.define:
            others = written.setdefault(d.signature.name, [])
            if not others or others[-1][1] is file:
                _check_new(d.signature.name, d.signature.span, seen, errors, standard, reused)
            others.append((d, file))
        for b in file.spec.blocks:
            _check_new(b.signature.name, b.signature.span, seen, errors, standard, reused)
            blocks[b.signature.name] = b
    definitions = standard | {name: _outermost(found, errors, reused) for name, found in written.items()}
    for name, (key, _) in sizes.items():
        if name in blocks or (name in definitions and name in seen):
            message = f"`{name}` is a size and a {'block' if name in blocks else 'definition'}"
            errors.add("name-reused", message, key.span, help="rename one of them")
    for key, _ in spec.inputs:
        if key.text in sizes:
            note = f"the size stands on line {sizes[key.text][0].span.line}"
            errors.add("name-reused", f"`{key.text}` is a size and an input", key.span, [note], "rename one of them")
        _check_free(key.text, key.span, errors)
    broken = frozenset(name for file in files for name in file.spec.broken) | reused
    config, gguf = t.ConfigRules(), t.ConfigRules()
    for file in files:
        config, gguf = config.joined(file.spec.config), gguf.joined(file.spec.gguf)
    paths = tuple(f.spec.path for f in files if f.spec.path)
    maps = _maps(spec, files)
    resolved = Resolved(spec, sizes, choices.of, definitions, blocks, broken, {}, paths, config, gguf, maps)
    _check_functions(resolved, errors)
    for roots, hidden in _expressions(resolved):
        choices.check(roots, hidden)
    return resolved if _check_cycles(resolved, errors) else None


def _maps(spec: t.SpecFile, files: Sequence[_File]) -> tuple[t.CheckpointSection, ...]:
    """The checkpoint maps of a spec and of all libraries that it uses, those of one name joined; its own come first."""
    maps: dict[str, t.CheckpointSection] = {}
    for source in (file.spec for file in reversed(files)):
        for section in source.checkpoints if source is spec or source.is_library else ():
            known = maps.get(section.name.text)
            maps[section.name.text] = section if known is None else section.joined(known)
    return tuple(maps.values())


def _check_free(name: str, span: Span, errors: Diagnostics) -> None:
    if name in RESERVED:
        message = f"`{name}` has a meaning of its own inside attentions"
        errors.add("name-reserved", message, span, help="choose another name")


def _check_new(
    name: str,
    span: Span,
    seen: dict[str, Span],
    errors: Diagnostics,
    standard: Mapping[str, t.Definition],
    reused: set[str],
) -> None:
    if name in seen:
        reused.add(name)
        errors.add("name-reused", f"`{name}` is defined twice", span, [f"first at {seen[name]}"], "rename one of them")
        return
    if name in OPS or name in ELEMENTWISE or name in BUILTINS:
        reused.add(name)
        errors.add("name-reused", f"`{name}` is an operation of the language", span, help="choose another name")
    elif name in standard:
        errors.add("name-reused", f"`{name}` is in the standard library", span, help="choose another name")
    _check_free(name, span, errors)
    seen[name] = span


def _outermost(found: list[tuple[t.Definition, _File]], errors: Diagnostics, reused: set[str]) -> t.Definition:
    """Of the definitions of one name, that of the file that uses the others' files, as a size would be."""
    inner = {key for _, file in found for key in file.uses}
    outer = [d for d, file in found if file.key not in inner]
    first, last = outer[0], outer[-1]
    name = last.signature.name
    if other := next((d for d in outer if d != first), None):
        reused.add(name)
        help = f"define `{name}` in the spec that uses both, or rename one of them"
        note = f"first at {first.signature.span}"
        errors.add("name-reused", f"`{name}` is defined twice", other.signature.span, [note], help)
    for d, _ in found:
        if len(d.signature.parameters) != len(last.signature.parameters) and d not in outer:
            reused.add(name)
            message = f"`{last.signature.span.text}` takes the place of a definition with other parameters"
            note = f"that is `{d.signature.span.text}` at {d.signature.span}"
            help = "give it as many parameters, or rename it"
            errors.add("arguments", message, last.signature.span, [note], help)
    return last


@dataclass(frozen=True)
class _File:
    """A file, and the keys of all files that it uses, directly or not."""

    spec: t.SpecFile
    key: str
    uses: frozenset[str]


def _files(spec: t.SpecFile, errors: Diagnostics) -> list[_File]:
    """The files used, those that others need first, the spec itself last."""
    done: dict[str, _File] = {}

    def visit(file: t.SpecFile, key: str, path: tuple[str, ...]) -> None:
        uses: set[str] = set()
        for use in file.use:
            try:
                used = library.read_used(use.text, use.span, file.path, errors)
            except TowerError as error:
                for d in error.diagnostics:
                    errors.add(d.code, d.message, d.span, d.notes, d.help)
                continue
            used_key = str(used.path)
            if used_key in path:
                message = f"`{use.text}` uses itself, through the files that it uses"
                errors.add("cycle", message, use.span, help="move what both need to a third file")
            elif len(path) > MAX_DEPTH:
                message = f"files use files more than {MAX_DEPTH} levels deep"
                errors.add("too-deep", message, use.span, help="use fewer files")
            else:
                if used_key not in done:
                    visit(used, used_key, (*path, used_key))
                uses |= {used_key, *done[used_key].uses}
        done[key] = _File(file, key, frozenset(uses))

    root = str(spec.path.resolve()) if spec.path else spec.source.name
    visit(spec, root, (root,))
    return list(done.values())


# --- walking ---------------------------------------------------------------------------------------------------


def walk(expr: t.Expr) -> Iterator[t.Expr]:
    """An expression and all below it; what is computed once is met once."""
    stack = [expr]
    met: set[int] = set()
    while stack:
        e = stack.pop()
        spend(2)
        if isinstance(e, t.Once):
            if e.key in met:
                continue
            met.add(e.key)
        yield e
        stack.extend(reversed(list(e.children())))
        if isinstance(e, t.Call):
            stack.extend(value for _, value in e.kwargs)


def statement_expressions(statements: Iterable[t.Statement]) -> Iterator[t.Expr]:
    """Every expression in statements, outermost ones."""
    for s in statements:
        if isinstance(s, (t.Assign, t.Bare)):
            yield s.value
        elif isinstance(s, t.Return):
            yield from s.values
        elif isinstance(s, t.For):
            yield s.count
            yield from statement_expressions(s.body)
        elif isinstance(s, t.If):
            yield s.test
            yield from statement_expressions(s.body)
            yield from statement_expressions(s.orelse)


def block_expressions(block: t.Block) -> Iterator[t.Expr]:
    """Every expression in a block that may call something, outermost ones."""
    body = block.body
    yield from block.needs
    yield from (p.default for p in block.signature.parameters if p.default is not None)
    yield from type_expressions(body.params)
    for _, module in body.modules:
        yield module
    if isinstance(body, t.Composition):
        yield from statement_expressions(body.body)
        return
    yield from statement_expressions(body.let)
    fields = (body.query, body.key, body.value, body.score, body.mask, body.locality, body.message, body.output)
    yield from (e for e in (*fields, *(body.heads or ()), body.normalize, body.dropout) if e is not None)
    for e in (body.over, body.features, body.merge):  # what they name is no value; what chooses between them is
        yield from (x.test for x in walk(e) if isinstance(x, t.Cond)) if e is not None else ()


def type_expressions(declared: Iterable[tuple[t.Text, t.AnyType]]) -> Iterator[t.Expr]:
    """What chooses between types, and their lengths and defaults."""
    for _, decl in declared:
        stack = [decl]
        while stack:
            d = stack.pop()
            if isinstance(d, t.TypeChoice):
                yield d.test
                stack += [d.otherwise, d.then]
                continue
            yield from (a.size for a in d.axes if a.size is not None)
            if d.default is not None:
                yield d.default


def _expressions(resolved: Resolved) -> Iterator[tuple[Iterable[t.Expr], frozenset[str]]]:
    """Every expression of the spec and of what it uses, with the names that hide sizes there."""
    spec = resolved.spec
    yield [e for _, e in resolved.sizes.values()], frozenset()
    for block in resolved.blocks.values():
        yield block_expressions(block), frozenset(p.name for p in block.signature.parameters)
    for d in resolved.definitions.values():
        yield _formulas(d), frozenset(p.name for p in d.signature.parameters)
    yield statement_expressions(spec.flow), frozenset()
    yield type_expressions((*spec.inputs, *spec.params)), frozenset()
    yield (e for _, e in (*spec.outputs, *spec.modules)), frozenset()


def call_sites(resolved: Resolved) -> Counter[str]:
    """How often each function is called in the text; a call of a module is one of its block too."""
    roots = (root for expressions, _ in _expressions(resolved) for root in expressions)
    calls = (e.func for root in roots for e in walk(root) if isinstance(e, t.Call))
    found = Counter(f.id for f in calls if isinstance(f, t.Name))
    for part in (resolved.spec, *(block.body for block in resolved.blocks.values())):
        for name, module in part.modules:
            called = module.func if isinstance(module, t.Call) else module
            if isinstance(called, t.Name):
                found[called.id] += found[name.text]
    return found


def _check_functions(resolved: Resolved, errors: Diagnostics) -> None:
    """Every called name is an operation, a definition, a block or a module."""
    with_options = {name.partition("(")[0] for name, entry in NORMALIZERS.items() if "(" in name or entry.options}
    known = {*resolved.callable, *INITIALIZERS, *with_options}  # the last two have their own places, and messages

    def check(expressions: Iterable[t.Expr], extra: set[str]) -> None:
        for root in expressions:
            for e in walk(root):
                if isinstance(e, t.Call) and isinstance(e.func, t.Name) and e.func.id not in known | extra:
                    name = e.func.id
                    if name in resolved.sizes:
                        errors.add("not-a-function", f"`{name}` is a size, it cannot be called", e.func.span)
                        continue
                    own = did_you_mean(name, {*resolved.blocks, *extra})
                    help = (
                        own
                        or FUNCTIONS.get(name)
                        or did_you_mean(name, known | extra, "operations, definitions and blocks can be called")
                    )
                    errors.add("unknown-name", f"there is no function or block `{name}`", e.func.span, help=help)

    spec = resolved.spec
    for block in resolved.blocks.values():
        modules = {name.text for name, _ in block.body.modules}
        parameters = {p.name for p in block.signature.parameters}
        check(block_expressions(block), modules | parameters)
    for d in resolved.definitions.values():
        check([d.body, *d.needs], {p.name for p in d.signature.parameters})
    modules = {name.text for name, _ in spec.modules}
    check(statement_expressions(spec.flow), modules)
    check(type_expressions((*spec.inputs, *spec.params)), set())
    check((e for _, e in spec.outputs), modules)
    check((e for _, e in spec.modules), set())


def _check_cycles(resolved: Resolved, errors: Diagnostics) -> bool:
    """Whether nothing needs itself, and nothing is nested too deep."""
    before = len(errors)
    for what, names in (
        ("definition", {n: _formulas(d) for n, d in resolved.definitions.items()}),
        ("block", {n: list(block_expressions(b)) for n, b in resolved.blocks.items()}),
        ("size", {n: [e] for n, (_, e) in resolved.sizes.items()}),
    ):
        graph: nx.DiGraph[str] = nx.DiGraph()
        places: dict[tuple[str, str], Span] = {}
        for name, roots in names.items():
            hidden: set[str] = set()
            if what == "definition":
                hidden = {p.name for p in resolved.definitions[name].signature.parameters}
            for root in roots:
                for e in walk(root):
                    if isinstance(e, t.Name) and e.id in names and e.id not in hidden:
                        graph.add_edge(name, e.id)
                        places.setdefault((name, e.id), e.span)
        for component in sorted((sorted(c) for c in nx.strongly_connected_components(graph)), key=str):
            inner = [(a, b) for a, b in places if a in component and b in component]
            if not inner:
                continue
            first = min(inner, key=lambda ab: (places[ab].source.name, places[ab].start))
            path = nx.shortest_path(graph, first[1], first[0])
            chain = " -> ".join(f"`{n}`" for n in [first[0], *path])
            if len(path) == 1 and first[0] == first[1]:
                chain = f"`{first[0]}` -> `{first[0]}`"
            message = f"the {what} `{first[0]}` needs itself: {chain}"
            help = "repeat with `for l in depth:`" if what == "block" else None
            errors.add("cycle", message, places[first], help=help)
        if len(errors) == before and graph and (length := nx.dag_longest_path_length(graph)) > MAX_DEPTH:
            deepest = nx.dag_longest_path(graph)
            message = f"{what}s need each other {length} levels deep; at most {MAX_DEPTH} are followed"
            errors.add("too-deep", message, places[deepest[0], deepest[1]], help="use fewer levels")
    return len(errors) == before


def _formulas(d: t.Definition) -> list[t.Expr]:
    return [d.body, *d.needs, *(p.default for p in d.signature.parameters if p.default is not None)]
