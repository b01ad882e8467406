"""The worked diffs of CONTRIBUTING.md apply to the code as it stands, and do what they say."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIFFS = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.S)

PROGRAM = '''
import torch, towerdsl
from towerdsl.explain import explain, to_data

SPEC = """
tower: contributed
sizes: {d: 8}
inputs:
  x: float[b, n, d]
blocks:
  pool(x):
    value: x
  look(x):
    query: square(x)
    key: x
    value: x
    score: laplace(2)
    normalize: relu
outputs: {pooled: pool(x), looked: look(x)}
"""
x = torch.randn(2, 5, 8)
pooled, looked = towerdsl.compile(SPEC)()(x)
torch.testing.assert_close(pooled, x.mean(1))
weights = torch.relu(-(x[:, :, None] ** 2 - x[:, None]).abs().sum(-1) / 2)
torch.testing.assert_close(looked, weights @ x)
print(towerdsl.source(SPEC))
'''


def test_each_place_has_its_diff():
    touched = re.findall(r"^\+\+\+ b/(\S+)", "".join(DIFFS), re.M)
    assert touched == [
        "towerdsl/std.yaml",
        "towerdsl/ops/normalizers.py",
        "towerdsl/ops/elementwise.py",
        "towerdsl/kernels/catalog.py",
        "towerdsl/kernels/pooled.py",
    ]


def test_the_diffs_apply_and_work(tmp_path):
    shutil.copytree(ROOT / "towerdsl", tmp_path / "towerdsl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "specs", tmp_path / "specs")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for number, diff in enumerate(DIFFS):
        (tmp_path / f"{number}.diff").write_text(diff, encoding="utf-8")
        applied = subprocess.run(
            ["git", "apply", "--recount", f"{number}.diff"], cwd=tmp_path, capture_output=True, text=True
        )
        assert applied.returncode == 0, f"{diff}\n{applied.stderr}"
    ran = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "kernel: pooled" in ran.stdout
