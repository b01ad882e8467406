"""The tree is the pipeline: who may import whom, what runs without torch, and what is the same every time."""

import ast
import graphlib
import hashlib
import os
import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import yaml

import towerdsl
from towerdsl.compiler import compile_spec

ROOT = Path(towerdsl.__file__).parent
FILES = {p.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", "."): p for p in ROOT.rglob("*.py")}
FILES = {name.removesuffix(".__init__"): path for name, path in sorted(FILES.items())}
ORACLE_SPECS = sorted((Path(__file__).parent / "oracle" / "specs").glob("*.yaml"))

#: A file imports only what stands above it here, and its own package.
PIPELINE = """
diagnostics budget files lang ir ops passes runtime lowered kernels emit weights configs compiler contents explain
claims maps drawing bench compare api cli
""".split()
#: The same inside a package; packages without an entry have no cycles, which is checked for all.
INSIDE = {
    "towerdsl.ir": "names size reach types operation nodes placed rewrite liveness parameters printer verify".split(),
    "towerdsl.passes.infer": """
        assigned reading scope axes mistakes reads tables names axis_names values positions typer branches shown needs
        index functions operations modules expression declared statements weighting sources attention binding blocks
        sizes model
    """.split(),
}
#: What is outside of these packages imports nothing of what is inside.
DOORS = ("towerdsl.passes.infer",)

WITHOUT_TORCH = """
diagnostics budget files lang ir ops passes lowered kernels emit weights configs compiler contents explain drawing
compare
""".split()


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of towerdsl that a file imports: at its top, inside a function, or for annotations only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names if a.name in FILES)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports are absolute"
            names = (f"{node.module}.{a.name}" for a in node.names)
            found.update(name if name in FILES else str(node.module) for name in names if str(node.module) in FILES)
    return frozenset(found - {module})


def part(module: str) -> str:
    """`towerdsl.ir.nodes` --> `ir`; the package itself is the empty name."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", FILES)
def test_a_file_imports_only_what_stands_above_it(module):
    here = part(module)
    assert not here or here in PIPELINE, f"where in the pipeline is {here}?"
    for target in imports(module):
        there = part(target)
        if not here or not there:  # the package has the version and the errors, and loads the rest when it is asked for
            assert target in ("towerdsl", "towerdsl.diagnostics"), f"{module} imports {target}"
        elif here == there:
            package, _, name = module.rpartition(".")
            other, _, below = target.rpartition(".")
            if package == other and package in INSIDE:
                order = INSIDE[package]
                assert order.index(below) < order.index(name), f"{module} imports {target}"
        else:
            assert PIPELINE.index(there) < PIPELINE.index(here), f"{module} imports {target}"


def test_no_import_cycles():
    graph = {module: imports(module) - {"towerdsl"} for module in FILES}
    for module in FILES:  # `from towerdsl.ops import x` runs towerdsl/ops/__init__.py
        package = module.rpartition(".")[0]
        if package != "towerdsl":
            graph[module] -= {package}
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("door", DOORS)
def test_a_package_with_a_door_is_entered_there(door):
    outside = [m for m in FILES if m != door and not m.startswith(f"{door}.")]
    assert not [(m, x) for m in outside for x in imports(m) if x.startswith(f"{door}.")]


# --- without torch ---------------------------------------------------------------------------------------------

NO_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "numpy", "safetensors"):
            raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, Refuse())
"""


def python(code: str, seed: str = "0") -> str:
    """The output of a program in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent), "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


def test_compiling_needs_no_torch():
    lazy = {"towerdsl.weights.apply", "towerdsl.weights.files", "towerdsl.weights.load"}
    modules = [m for m in FILES if part(m) in WITHOUT_TORCH and m not in lazy]
    lines = [f"import {m}" for m in modules]
    lines += ["from towerdsl.compiler import compile_spec", "source = compile_spec('bert').source(standalone=True)"]
    lines += ["assert 'torch' not in sys.modules and 'class Bert(nn.Module)' in source"]
    python(NO_TORCH + "\n".join(lines))


# --- the same every time ---------------------------------------------------------------------------------------

DIGESTS = """
import hashlib, sys
from towerdsl.compiler import compile_spec
for spec in sys.argv[1:] or {specs!r}:
    print(spec, hashlib.sha256(compile_spec(spec).source().encode()).hexdigest())
"""


def test_the_same_bytes_in_every_process():
    specs = ["bert", *(str(p) for p in ORACLE_SPECS if "flow:" in (t := p.read_text()) or "outputs:" in t)]
    first, second = (python(DIGESTS.format(specs=specs), seed) for seed in ("1", "4321"))
    assert first == second
    assert len(first.splitlines()) == len(specs)
    here = hashlib.sha256(compile_spec("bert").source().encode()).hexdigest()
    assert first.startswith(f"bert {here}")


def test_bert_compiles_within_a_second():
    def seconds() -> float:
        start = time.perf_counter()
        compile_spec("bert").source()
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1.0


# --- what the planner must not know ----------------------------------------------------------------------------

PAPERS = """
albert bart bert bigbird cbam cswin danet deberta deit detr distilbert electra gat gatv2 gpt gpt2 gpt3 graphormer
linformer llama longformer lxmert minilm mistral mixer mpt perceiver pvt reformer retnet roberta segformer senet swin t5
transformer vilbert vit xlnet xlm bahdanau devlin liu luong martins raffel shaw vaswani velickovic
""".split()


def planner_files() -> list[Path]:
    return [path for module, path in FILES.items() if part(module) in ("passes", "lowered", "kernels", "emit", "ir")]


@pytest.mark.parametrize("path", planner_files(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_planner_knows_no_papers(path):
    words = set(re.findall(r"[a-z]+\d*", path.read_text(encoding="utf-8").lower()))
    known = sorted(words & set(PAPERS))
    assert not known


@pytest.mark.parametrize(
    "path",
    [p for p in planner_files() if p.parent.name != "infer"],  # it expands definitions, and knows the vocabulary
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_the_planner_knows_no_definitions(path):
    """A definition of the standard library is never looked for by its name."""
    standard = yaml.safe_load((ROOT / "std.yaml").read_text(encoding="utf-8"))["define"]
    names = {str(d).partition("(")[0] for d in standard}
    texts = {x.value for x in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(x, ast.Constant)}
    known = sorted(names & {t for t in texts if isinstance(t, str)})
    assert not known


# --- the library -----------------------------------------------------------------------------------------------

SPECS = sorted((ROOT.parent / "specs").rglob("*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_a_spec_fits_a_page(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 70


def test_the_planner_knows_no_spec():
    """Nothing that plans or writes a model mentions a spec of the library; some are called by a common word."""
    common = "activations clip convolutional gates mixing positions recurrent scaled_dot_product vision".split()
    names = {p.stem for p in SPECS} - set(common)
    for path in planner_files():
        text = path.read_text(encoding="utf-8")
        assert not [name for name in names if re.search(rf"\b{name}\b", text)], path


# --- words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", FILES)
def test_public_functions_have_docstrings(module):
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    missing = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not missing, f"{module}: {', '.join(missing)}"
    assert not tree.body or ast.get_docstring(tree), f"{module} says nothing of itself"
