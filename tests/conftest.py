"""What several tests share: copies of the project to run the workflow in, without touching the user's results."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]

# The tests run side by side, and what they start has threads on all cores; servers, too, then leave them to each other.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def copy_project(destination: Path) -> Path:
    """A copy of the working tree (tracked and new files, as git sees them) that shares the environments."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        source = PROJECT / name
        if source.is_file() and not name.startswith("results/published/"):
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, destination / name)
    (PROJECT / ".envs").mkdir(exist_ok=True)
    (destination / ".envs").symlink_to(PROJECT / ".envs")
    return destination


def snakemake(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run Snakemake in `folder` with all cores; stdout and stderr come back together, as text."""
    command = [sys.executable, "-m", "snakemake", "--cores", "all", *arguments]
    environ = {key: value for key, value in os.environ.items() if key != "DIFFSWEEP_RUN"}
    return subprocess.run(
        command, cwd=folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )


def wait_for(condition, timeout_s=10):
    """Return as soon as `condition()` is true; fail when that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "this did not come true in time"
        time.sleep(0.02)


def processes_in(folder: Path) -> list[tuple[int, str]]:
    """Number and command line of every process that works in `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").resolve().is_relative_to(folder.resolve()):
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append((int(path.name), command))
        except OSError:  # it has ended meanwhile
            continue
    return found


def servers_in(folder: Path) -> list[int]:
    """The servers of the project in `folder` that are running now."""
    return [pid for pid, command in processes_in(folder) if "serve.py" in command]


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """A copy of the project for tests that only read it or dry-run it."""
    return copy_project(tmp_path_factory.mktemp("project"))
