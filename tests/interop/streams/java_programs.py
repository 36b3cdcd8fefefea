"""Programs for the JVM: their libraries from Maven's registry, fetched once, and how to run them."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import subprocess
import tempfile

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1]
PROGRAMS, CACHE = FOLDER / "programs", FOLDER / ".cache"
# Tests are short: code that is made fast first is not worth its time.
JAVA = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def get(command: list[str], folder: pathlib.Path) -> None:
    """Fetches what a client needs; without the network there is no test of it."""
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200)
    if done.returncode != 0:
        pytest.skip(f"{' '.join(command[:2])} fetches nothing: {(done.stderr or done.stdout)[-300:]}")


def libraries(name: str) -> pathlib.Path:
    """What the program of this name is said to need by its pom.xml."""
    need("java", "javac", "mvn")
    found = CACHE / name
    if not found.exists():
        plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
        CACHE.mkdir(exist_ok=True)
        part = pathlib.Path(tempfile.mkdtemp(dir=CACHE))
        get(["mvn", "-q", "-B", plugin, f"-DoutputDirectory={part}"], PROGRAMS / name)
        # Another worker may have been faster.
        with contextlib.suppress(OSError):
            part.rename(found)
    return found
