"""Examples as a newcomer runs them, in a process of their own and on one core."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def start(name: str, *options: object, **how) -> subprocess.Popen:
    program = [sys.executable, "-W", "error::UserWarning", str(EXAMPLES / f"{name}.py"), *map(str, options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **how)


def run(name: str, *options: object, **how) -> str:
    """What an example prints."""
    running = start(name, *options, **how)
    out, error = running.communicate()
    assert not running.returncode, error
    return out


def refused(name: str, *options: object, **how) -> str:
    """The one sentence, or two, with which an example ends."""
    running = start(name, *options, **how)
    _, error = running.communicate()
    assert running.returncode == 1 and "Traceback" not in error and error.count("\n") == 1, error
    return error.strip()
