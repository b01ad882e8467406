"""The command line as a user meets it: what it writes where, and how it ends."""

from __future__ import annotations

import ast
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import towerdsl
from towerdsl.cli import main
from towerdsl.lang.library import library

ROOT = Path(__file__).parent.parent
SMALL = ["--set", "depth=1"]


def apart(*arguments: str, shell: str = "") -> subprocess.CompletedProcess[str]:
    """`towerdsl ARGUMENTS` in a process of its own, if wanted in a shell line."""
    command = [sys.executable, "-m", "towerdsl.cli", *arguments]
    if shell:
        line = " ".join(command) + shell
        return subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def misused(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


# --- compile -----------------------------------------------------------------------------------------------------


def test_compile_prints_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "bert", *SMALL]) == 0
    out, err = capsys.readouterr()
    assert out == towerdsl.source("bert", depth=1)
    assert not err


def test_what_is_written_is_imported_by_name(tmp_path: Path) -> None:
    assert main(["compile", "bert", "-o", str(tmp_path / "out.py"), *SMALL]) == 0
    program = "from out import Bert; print(len(Bert().state_dict()))"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert ended.stdout.strip() == "21"


def test_standalone_imports_torch_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "bert", "--standalone", "--kernel", "reference", *SMALL]) == 0
    tree = ast.parse(capsys.readouterr().out)
    names = {a.name for x in ast.walk(tree) if isinstance(x, ast.Import) for a in x.names}
    names |= {x.module or "" for x in ast.walk(tree) if isinstance(x, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"torch"}


def test_the_device_that_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "restricted_self_attention", "--device", "cuda"]) == 0
    assert "flex" in capsys.readouterr().out
    assert main(["compile", "bert", "--device", "cud", *SMALL]) == 1
    assert "there is no device `cud`" in capsys.readouterr().err


def test_the_kernel_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "bert", "--kernel", "reference", *SMALL]) == 0
    assert "scaled_dot_product_attention" not in capsys.readouterr().out
    assert main(["compile", "bert", "--kernel", "refrence", *SMALL]) == 1
    assert "did you mean `reference`?" in capsys.readouterr().err


def test_settings_are_numbers_or_truth_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "bert", "--set", "depth=2", "--set", "dropout=0.25", "--set", "d = 96"]) == 0
    out = capsys.readouterr().out
    assert "range(2)" in out
    assert "nn.Dropout(0.25)" in out
    assert "nn.Embedding(30522, 96)" in out


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.py"
    out.write_text("before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, "replace", fail)
        assert main(["compile", "bert", "-o", str(out), *SMALL]) == 1
    assert out.read_text() == "before"
    assert main(["compile", "bert", "-o", str(out), "--set", "d=7"]) == 1  # 12 heads do not divide 7
    assert out.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["out.py"]


def test_a_file_keeps_its_mode_and_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link, new = tmp_path / "real.py", tmp_path / "link.py", tmp_path / "new.py"
    real.write_text("")
    real.chmod(0o640)
    link.symlink_to(real)
    assert main(["compile", "bert", "-o", str(link), *SMALL]) == 0
    assert link.is_symlink()
    assert "class Bert" in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    mask = os.umask(0o027)
    try:
        assert main(["compile", "bert", "-o", str(new), *SMALL]) == 0
    finally:
        os.umask(mask)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640


def test_a_device_is_written_to() -> None:
    ended = apart("compile", "bert", *SMALL, "-o", "/dev/stdout", shell=" | tail -n 1")
    assert ended.stdout.strip() == "return x"
    assert Path("/dev/null").is_char_device()
    assert main(["compile", "bert", *SMALL, "-o", "/dev/null"]) == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("path", "reason"),
    [("none/out.py", "there is no folder"), (".", "is a directory"), ("a/" * 3000, "too long")],
)
def test_a_path_that_cannot_be_written(
    path: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", "bert", *SMALL, "-o", str(tmp_path / path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error[file]: ")
    assert reason in err
    assert err.count("\n") == 1
    assert len(err) < 300


# --- check -------------------------------------------------------------------------------------------------------


def test_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "bert"]) == 0
    assert capsys.readouterr().out == "specs/level4/bert.yaml: ok (12 attentions, 108,891,648 parameters)\n"
    assert main(["check", "bert", *SMALL]) == 0
    assert "(1 attention," in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(library()))
def test_the_whole_library_is_fine(name: str) -> None:
    assert main(["check", name]) == 0


def test_check_reports_every_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "wrong.yaml"
    spec.write_text(
        "tower: wrong\ninputs:\n  x: float[b, n, 8]\nflow:\n  - y = linaer(x, 8)\n  - z = gelu(x, x)\noutputs: x\n"
    )
    assert main(["check", str(spec)]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert "wrong.yaml:5:" in err
    assert "did you mean `linear`?" in err


# --- explain and specs -------------------------------------------------------------------------------------------


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "bert", "--set", "n=512", "--set", "b=1"]) == 0
    out = capsys.readouterr().out
    assert "layer.*.attention × 12" in out
    assert "sdpa" in out
    assert "\x1b" not in out


def test_explain_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "bert", "--json", "--set", "n=16", "--set", "depth=3"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["given"] == {"n": 16}
    assert data["sizes"]["depth"] == 3
    assert data["attentions"][0]["modules"] == 3


def test_specs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["specs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "level4" in lines
    assert any(line.startswith("  bert ") and "Devlin" in line for line in lines)
    assert "transformer_layers" in " ".join(lines).partition("shared blocks")[2]
    assert max(map(len, lines)) <= 100


def test_specs_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["specs", "--json"]) == 0
    entries = {e["name"]: e for e in json.loads(capsys.readouterr().out)}
    assert set(entries) == set(library())
    assert entries["bert"]["group"] == "level4"
    assert not entries["bert"]["shared"]
    assert entries["transformer_layers"]["shared"]


# --- how it ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("check",),
        ("check", "bert", "--set", "depth"),
        ("check", "bert", "--se", "d=3"),
        ("check", "a", "b"),
    ],
)
def test_misuse_ends_with_2(arguments: tuple[str, ...]) -> None:
    assert misused(*arguments) == 2


@pytest.mark.parametrize("value", ["two", "1.2.3", "1,5", "None", "True"])
def test_a_value_that_is_no_number(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "bert", "--set", f"depth={value}"]) == 1
    assert f"depth={value}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nothing.yaml", "nothing", "specs", "a" * 5000, "/dev/null/x.yaml"])
@pytest.mark.parametrize("command", ["compile", "check", "explain"])
def test_a_spec_that_is_not_there(command: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, name]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error[file]: ")
    assert len(err) < 400


@pytest.mark.parametrize("command", ["compile bert", "explain bert", "explain bert --json", "specs", "specs --json"])
def test_a_reader_that_stops_reading(command: str) -> None:
    ended = apart(*command.split(), shell=" | head -n 1; exit ${PIPESTATUS[0]}")
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert ended.stdout.count("\n") == 1


def test_a_reader_that_is_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "towerdsl.cli", "specs"]
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    try:
        ended = subprocess.run(
            command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=buffered
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_terminal_without_unicode() -> None:
    command = [sys.executable, "-m", "towerdsl.cli", "explain", "bert"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_nothing_loads_torch(tmp_path: Path) -> None:
    program = f"""
import sys
from towerdsl.cli import main
for line in ("check bert", "compile bert -o {tmp_path / "out.py"}", "explain bert", "specs"):
    assert main(line.split()) == 0
sys.exit(3 if "torch" in sys.modules else 0)
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False)
    assert ended.returncode == 0


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert misused("--version") == 0
    assert towerdsl.__version__ in capsys.readouterr().out
