"""The table of benchmarks works: at tiny sizes, where its figures say nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(*options: str, file: str = "table.py") -> str:
    program = [sys.executable, "-W", "ignore", str(HERE / file), "--tiny", *options]
    done = subprocess.run(program, cwd=HERE.parent.parent, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.mark.slow  # `make bench` measures them all
def test_every_row_can_be_measured():
    out = run()
    rows = [x for x in out.splitlines() if x.startswith("| ")][2:]
    assert len(rows) >= 10
    assert "GFLOP/s" in out
    for line in rows:
        _, work, _, *figures, _, _ = (cell.strip() for cell in line.split("|"))
        measured = [(a, b) for a, b in zip(figures[::2], figures[1::2], strict=True) if a or b]
        assert work and measured and all(a and b for a, b in measured), line


def test_rows_are_chosen():
    out = run("--rows", "BERT-base compile")
    (row,) = [line for line in out.splitlines() if line.startswith("| ") and "work" not in line and "---" not in line]
    assert row.startswith("| BERT-base compile")


@pytest.mark.slow
def test_both_forms_of_a_model_are_measured():
    out = run("--specs", "squeeze_excitation", file="forms.py")
    (row,) = [line for line in out.splitlines() if line.startswith("| squeeze_excitation ")]
    assert float(row.split("|")[-2]) > 0
