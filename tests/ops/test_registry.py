import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import towerdsl.ops
from towerdsl.ir.size import Size
from towerdsl.ops import BUILT_IN, ELEMENTWISE, OPS, OpCall, OpResult, python, register_op

from .running import runs

DOCUMENTED = """linear embed layernorm rmsnorm batchnorm groupnorm conv lstm gru softmax cumsum flip argmax largest
    rearrange concat dropout drop_path max_pool avg_pool roll resize lookup"""
FOLDER = Path(towerdsl.ops.__file__).parent


@pytest.fixture
def clean() -> Iterator[None]:
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)


def test_all_documented() -> None:
    assert set(OPS) == set(DOCUMENTED.split())
    assert not set(OPS) & set(ELEMENTWISE)
    assert not BUILT_IN & (set(OPS) | set(ELEMENTWISE))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda p: p.stem)
def test_without_torch(path: Path) -> None:
    """The vocabulary is data: reading it needs no torch."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] == "torch" for name in names)


@pytest.mark.usefixtures("clean")
def test_register() -> None:
    @register_op("scale", statics="by:float=2.0")
    def scale(call: OpCall) -> OpResult:
        """Times a number."""
        return OpResult(call.x, "torch.mul({x}, {by})", attrs=(("by", call.statics["by"]),))

    assert OPS["scale"].signature == "scale(x, by=2.0)"
    assert OPS["scale"].doc == "Times a number."
    for run in runs("scale", "b n", by=0.5):
        assert (run.output == run.inputs[0] * 0.5).all()
    with pytest.raises(ValueError, match="`scale` exists already"):
        register_op("scale")


@pytest.mark.parametrize("name", ["linear", "exp", "dot", "where", "range"])
def test_no_override(name: str) -> None:
    with pytest.raises(ValueError, match="exists already"):
        register_op(name)


@pytest.mark.parametrize("name", ["", "a b", "2d", "for", "a.b"])
def test_bad_name(name: str) -> None:
    with pytest.raises(ValueError, match="identifier"):
        register_op(name)


@pytest.mark.usefixtures("clean")
def test_bad_kind() -> None:
    with pytest.raises(ValueError, match="kind of `p:probability`"):
        register_op("drop", statics="p:probability")(lambda call: OpResult(call.x, "{x}"))


def test_signatures() -> None:
    assert OPS["layernorm"].signature == "layernorm(x, eps=1e-5, bias=true)"
    assert OPS["max_pool"].signature == "max_pool(x, kernel, stride=none, padding=0)"
    assert OPS["concat"].signature == "concat(parts..., axis)"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (3, "3"),
        (True, "True"),
        (None, "None"),
        (0.1, "0.1"),
        (1e-5, "1e-5"),
        (1e-12, "1e-12"),
        (2.5e20, "2.5e20"),
        ((1, 2), "(1, 2)"),
        ((3,), "(3,)"),
        (Size.free("n") * 2 + 1, "2 * n + 1"),
        ((-1, Size.of(4)), "(-1, 4)"),
        ("x", "x"),
    ],
)
def test_python(value: object, code: str) -> None:
    assert python(value) == code
    if not isinstance(value, Size | tuple | str):
        assert ast.literal_eval(code) == value
