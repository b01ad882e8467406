"""Exit codes: 0 for fine, 1 for a mistake in the spec, 2 for a mistake on the command line; each says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PLAIN = "fine/plain.yaml"


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", PLAIN),
        ("explain", PLAIN),
        ("specs",),
        ("--help",),
        ("check", "--help"),
        ("check", PLAIN, "--set", "d=32"),
    ],
)
def test_fine(arguments: tuple[str, ...], run: Callable) -> None:
    outcome = run(*arguments)
    assert outcome.code == 0, outcome.text
    assert not outcome.err


def test_compile_writes_the_file(run: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out.py"
    assert run("compile", PLAIN, "-o", str(out)).code == 0
    assert "class Local" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "COMMAND"),
        (("chekc", PLAIN), "check"),
        (("check",), "SPEC"),
        (("check", PLAIN, "--verbos"), "--verbos"),
        (("check", PLAIN, "--set"), "--set"),
        (("check", PLAIN, "--set", "d"), "NAME=VALUE"),
        (("check", PLAIN, "--set", "=3"), "NAME=VALUE"),
        (("check", PLAIN, "--set", "d="), "NAME=VALUE"),
        (("compile", PLAIN, "-o"), "-o"),
        (("compile",), "SPEC"),
    ],
    ids=lambda a: " ".join(a)[:40] if isinstance(a, tuple) else None,
)
def test_misuse(arguments: tuple[str, ...], said: str, run: Callable) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2, f"exit {outcome.code}: {outcome.text}"
    assert said in outcome.text
    assert "Traceback" not in outcome.text


@pytest.mark.parametrize("command", ["check", "compile", "explain"])
def test_a_mistake_in_the_spec(command: str, run: Callable) -> None:
    outcome = run(command, "name_dk.yaml")
    outcome.assert_refused()
    assert "did you mean `dk`?" in outcome.text


def test_compile_writes_nothing_for_a_spec_with_a_mistake(run: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out.py"
    assert run("compile", "name_dk.yaml", "-o", str(out)).code == 1
    assert not out.exists()


def test_compile_into_a_folder_that_is_not_there(run: Callable, tmp_path: Path) -> None:
    run("compile", PLAIN, "-o", str(tmp_path / "none" / "out.py")).assert_refused()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("head=2", "`heads`"),
        ("heads=7", "64"),
        ("heads=0", "heads"),
        ("heads=two", "two"),
        ("heads=(", "("),
        ("heads=2.5", "2.5"),
        ("heads=10 ** 10 ** 10", "heads"),
        ("heads=" + "9" * 5000, "heads"),
        ("heads=__import__('os')", "heads"),
        ("heads=é", "é"),
        ("d=heads", ""),
    ],
    ids=lambda s: s[:20],
)
def test_a_setting_that_does_not_fit(setting: str, said: str, run_apart: Callable, run: Callable) -> None:
    if setting == "d=heads":  # an expression of other sizes may be meant: fine or refused
        assert run("check", PLAIN, "--set", setting).code in (0, 1)
        return
    outcome = run("check", PLAIN, "--set", setting)
    outcome.assert_refused()
    assert said in outcome.text
    assert len(outcome.text) < 3_000


def test_settings_in_a_circle(run: Callable) -> None:
    outcome = run("check", PLAIN, "--set", "d=heads", "--set", "heads=d")
    outcome.assert_refused(2)  # words, both


def test_a_setting_given_twice(run: Callable) -> None:
    """The last one counts, as on most command lines."""
    assert run("check", PLAIN, "--set", "heads=7", "--set", "heads=8").code == 0


def test_the_message_is_on_stderr(run: Callable) -> None:
    """So that `towerdsl compile SPEC > out.py` shows it."""
    outcome = run("compile", "name_dk.yaml")
    assert outcome.err and not outcome.out


def test_a_library_has_nothing_to_compile(run: Callable, tmp_path: Path) -> None:
    """A file without `flow` can be checked (fine, or one message that says why not), and not compiled."""
    checked = run("check", "_parts.yaml")
    assert checked.code in (0, 1), checked.text
    checked.assert_readable()
    outcome = run("compile", "_parts.yaml", "-o", str(tmp_path / "out.py"))
    outcome.assert_refused()
    assert "flow" in outcome.text
