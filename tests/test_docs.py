"""What the documents say is so: every spec in them compiles and runs, every program runs, every table is complete."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import towerdsl
from towerdsl import cli
from towerdsl.compiler import compile_spec
from towerdsl.ir.names import class_name
from towerdsl.ir.types import RelationType
from towerdsl.ops import BUILT_IN, ELEMENTWISE, OPS
from towerdsl.ops.normalizers import NORMALIZERS
from towerdsl.passes.resolve import INITIALIZERS

ROOT = Path(__file__).parent.parent
#: tower.md quotes parts of the library's specs: tests/test_tower.py looks for them there.
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(p for p in sorted((ROOT / "docs").glob("*.md")) if p.name != "tower.md"),
]
LANGUAGE = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
STANDARD = {
    name: body["formula"] if isinstance(body, dict) else body
    for name, body in yaml.safe_load((Path(towerdsl.__file__).parent / "std.yaml").read_text(encoding="utf-8"))[
        "define"
    ].items()
}

#: What a fragment is put into, by its first key.
CONTEXT = {
    "config": """
tower: configured
sizes:
  {d: 8, heads: 2, key_heads: heads, head_size: d // heads, depth: 1, window: 0, window_from: 0, factor: 1.0,
  act: "one_of('silu', 'gelu')", rope: "one_of('default', 'linear')", qk_norm: false}
inputs: {x: "float[b, d]"}
outputs: x
""",
    "checkpoints": """
tower: context
sizes: {d: 8, depth: 2}
inputs:
  ids: int[b, n]
blocks:
  look(x):
    query: linear(x, d)
    key: linear(x, d)
    value: linear(x, d)
    output: linear(y, d)
  layer(x):
    - x + look(x)
flow:
  - x = embed(ids, 11, d, name=words)
  - for l in depth:
      - x = layer(x)
outputs: x
""",
}
#: Larger than needed here; a document shows published sizes.
SMALL = {"d": 24, "heads": 2, "depth": 2, "vocab": 11, "context": 16, "w": 3}


def blocks(*languages: str) -> list:
    """Every fenced block of a language in the documents, with a name that says where it stands."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for m in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            if m[1] in languages:
                found.append(pytest.param(m[2], id=f"{path.name}:{text.count(chr(10), 0, m.start()) + 1}"))
    return found


def example(spec: str, sizes: dict[str, int]) -> dict[str, torch.Tensor]:
    """Random inputs at small free lengths."""
    found = {}
    lengths: dict[str, int] = {}
    for i in compile_spec(spec, sizes).model.inputs:
        kind = i.type
        axes = (kind.source, kind.target) if isinstance(kind, RelationType) else kind.axes
        shape = [a.size.integer or lengths.setdefault(a.name, 3 + len(lengths)) for a in axes]
        draws = {
            "int": lambda shape: torch.randint(2, shape),
            "bool": lambda shape: torch.rand(shape) < 0.5,
            "relation": lambda shape: torch.stack([torch.randint(n, (5,)) for n in shape]),
            "float": lambda shape: torch.randn(shape),
        }
        found[i.name] = draws[kind.dtype](shape)
    return found


# --- code ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", blocks("yaml"))
def test_spec_compiles_and_runs(text):
    first = next(iter(yaml.safe_load(text)))
    spec = text if first == "tower" else CONTEXT[first] + text
    sizes = {name: n for name, n in SMALL.items() if name in (yaml.safe_load(spec).get("sizes") or {})}
    model = towerdsl.compile(spec, **sizes)()
    result = model(**example(spec, sizes))
    for y in result if isinstance(result, tuple) else (result,):
        assert y.isfinite().all()
    if first == "tower" and not sizes.keys() - {"w"}:
        towerdsl.compile(spec)


#: A document whose programs go on from each other.
TOLD = ROOT / "docs" / "looking-inside.md"


def test_programs_that_go_on_from_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TOLD.read_text(encoding="utf-8")
    names: dict = {}
    for m in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(m[1], "block", "exec"), names)
    assert {p.name for p in tmp_path.iterdir()} == {"tokens.png", "heads.svg"}


@pytest.mark.parametrize("text", [p for p in blocks("python") if TOLD.name not in p.id])
def test_program_runs(text, monkeypatch):
    """Programs run as they are; `load` is given the file that it names, and an emitted class is in test_readme.py."""
    if text.startswith("class "):
        compile(text, "block", "exec")
        return
    before = dict(OPS)
    calls = []
    monkeypatch.setattr(towerdsl, "load", lambda spec, checkpoint, format=None, **sizes: calls.append((spec, sizes)))
    try:
        exec(compile(text, "block", "exec"), {"towerdsl": towerdsl})
        for spec, sizes in calls:
            assert compile_spec(spec, sizes).model.name == spec
        if "register_op" in text:
            name = re.search(r'register_op\("(\w+)"', text)[1]
            spec = f"tower: own\ninputs:\n  x: float[b, n]\noutputs: {name}(x)\n"
            assert towerdsl.compile(spec)()(torch.ones(2, 3)).shape == (2, 3)
    finally:
        OPS.clear()
        OPS.update(before)


def commands() -> list[str]:
    """Commands of the command line that the documents show, without their comments."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    found = re.findall(r"^(?:    |\$ )(towerdsl .*?)(?:\s+#.*)?$", text, re.MULTILINE)
    return sorted(set(found) - {"towerdsl verify"})  # the whole library: tests/test_verify_command.py runs it


def test_commands_are_shown():
    assert len(commands()) >= 4


@pytest.mark.parametrize("command", commands())
def test_command_runs(command, tmp_path, monkeypatch, capsys):
    """With the spec of the README under each name that a command reads, and smaller where it writes a model."""
    monkeypatch.chdir(tmp_path)
    spec = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    arguments = shlex.split(command)[1:]
    for argument in arguments:
        if argument.endswith(".yaml") and not Path(argument).exists():
            Path(argument).write_text(spec, encoding="utf-8")
        if argument.endswith(".safetensors"):
            save_file({"weight": torch.ones(2)}, argument)
    try:
        code = cli.main(arguments)
    except SystemExit as error:
        code = error.code
    assert not code, capsys.readouterr().err


@pytest.mark.parametrize("text", blocks("console"))
def test_make_targets_exist(text):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^\$ make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


# --- tables ----------------------------------------------------------------------------------------------------


@cache
def section(title: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,2}} |\Z|^\1 )", LANGUAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/language.md has no section {title}"
    return found[2]


def first_cells(text: str) -> list[str]:
    """What the first column of the tables in a text has between backquotes."""
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    return [x for row in rows for x in re.findall(r"`([^`]+)`", row)]


def names(cell: str) -> list[str]:
    """`leaky_relu(x, slope=0.01)` --> leaky_relu; `exp log sqrt` --> each; `sum mean (x, axis)` --> each."""
    head = cell.partition("(")[0]
    return head.split()


def listed(title: str) -> set[str]:
    return {name for cell in first_cells(section(title)) for name in names(cell)}


def test_every_operation_is_listed():
    assert listed("Operations") == {*OPS, *ELEMENTWISE, *BUILT_IN}


def test_every_normalizer_is_listed():
    cells = first_cells(section("Normalizers"))[1:]  # the first is the column's title
    # `hard(gumbel, temperature=1.0)` and `topk(k=8)` name their options
    found = {re.sub(r"(, |\()\w+=[^)]*\)", lambda m: ")" if m[1] == ", " else "", c): c for c in cells}
    assert set(found) == set(NORMALIZERS)
    for name, cell in found.items():
        options = {k: str(v) for k, v in NORMALIZERS[name].options.items()}
        assert options == dict(re.findall(r"(\w+)=([\w.]+)", cell))


def test_every_definition_of_the_standard_library_is_listed():
    public = {str(d).partition("(")[0] for d in STANDARD if not str(d).startswith("_")}
    assert listed("The standard library") == public


def test_every_initializer_is_listed():
    text = re.search(r"with an initializer:\n(.*?)\.\nWithout one", section("Modules and params"), re.DOTALL)[1]
    found = re.findall(r"`(\w+)(?:\((.*?)\))?`", text)
    assert {name: len(args.split(",")) if args else 0 for name, args in found} == INITIALIZERS


def test_every_field_of_an_attention_is_listed():
    import towerdsl.lang.tree as tree

    known = set(tree.Attention.__dataclass_fields__) - {"span"}
    assert set(first_cells(section("Attention"))) & known == known


@pytest.mark.parametrize("cell", [c for c in first_cells(section("Operations")) if "(" in c and "..." not in c])
def test_signatures_are_those_of_the_code(cell):
    """Names in order, and their defaults; options that the row leaves out have one."""
    (*_, name), arguments = names(cell), cell.partition("(")[2].removesuffix(")")
    if name in BUILT_IN or '"' in arguments:
        return
    written = [a.strip() for a in arguments.split(",")]
    code = (OPS[name] if name in OPS else ELEMENTWISE[name]).signature.partition("(")[2].removesuffix(")").split(", ")
    assert len(written) <= len(code)
    for here, there in zip(written, code, strict=False):
        name_here, _, default_here = here.partition("=")
        name_there, _, default_there = there.partition("=")
        assert name_here == name_there
        if default_here and default_there != "none":
            assert yaml.safe_load(default_here) == yaml.safe_load(default_there)
    assert all("=" in rest for rest in code[len(written) :])


def formulas() -> list:
    """Rows of the standard library whose second column is a formula."""
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)`(?:[:,]? .*)?\|$", section("The standard library"), re.MULTILINE)
    bodies = {str(d).partition("(")[0]: str(body) for d, body in STANDARD.items()}
    headers = {str(d).partition("(")[0]: str(d) for d in STANDARD}
    return [pytest.param(h, f, headers[n], bodies[n], id=n) for h, f in rows if (n := h.partition("(")[0]) in bodies]


@pytest.mark.parametrize(("header", "formula", "defined", "body"), formulas())
def test_formulas_are_those_of_the_library(header, formula, defined, body):
    assert re.sub(r"=[^,)]*", "", header) == re.sub(r"=[^,)]*", "", defined)
    for name, default in re.findall(r"(\w+)=([^,)]*)", header):
        assert re.search(rf"\b{name}={re.escape(default)}[,)]", defined), f"{name} has another default"
    if header.partition("(")[0] not in ("rope", "sinusoidal", "bucketed"):  # an example of their use stands there
        assert shape(formula) == shape(body)


def shape(text: str) -> str:
    """An expression without its places and spaces."""
    return re.sub(r"\s+", "", text)


def test_the_names_of_classes_are_as_the_document_says():
    assert class_name("multi_head_attention") == "MultiHeadAttention"


def test_what_comes_back_and_what_modules_are_called_is_as_the_document_says():
    (spec,) = (text for text in re.findall(r"```yaml\n(.*?)```", LANGUAGE, re.DOTALL) if "tower: told" in text)
    model = towerdsl.compile(spec)()
    found = model(torch.randint(100, (2, 5)), torch.randint(5, (2, 3)))
    assert (found.states.shape, found.last.shape) == ((2, 5, 16), (2, 3, 16))
    modules = {name.removesuffix(".weight").removesuffix(".bias") for name in model.state_dict()}
    assert modules == {"scale", "table", "linear.0", "linear.1", "linear_2"}
    assert model.scale.shape == ()
