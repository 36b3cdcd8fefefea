"""A few rounds of `tests/chaos/kill_rounds.py`, and a look whether it would notice what it looks for."""

import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ours("the server is killed")

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "chaos" / "kill_rounds.py"


def rounds(count: int, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), "--rounds", str(count), *options]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30 + 20 * count)


def test_a_few_rounds():
    done = rounds(3)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_many_rounds():
    done = rounds(100)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("lie", "found"), [("lost", "confirmed and lost"), ("undone", "settled and back"), ("half", "confirmed and lost|half a transaction")]
)
def test_a_lie_is_found_out(lie, found):
    # The kill may come before the first lie is told.
    done = rounds(6, "--lie", lie)
    assert done.returncode == 1, f"nothing was noticed:\n{done.stdout}{done.stderr}"
    assert any(text in done.stderr for text in found.split("|")), done.stderr
