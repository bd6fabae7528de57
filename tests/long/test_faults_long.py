"""Faults that need minutes or root: kills in a running sweep, full and read-only disks, no network at all."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path

import faults_run
import pytest
import yaml

from conftest import PROJECT
from diffsweep.sweep.files import read_json

TWO_VARIANTS = {name: faults_run.SWEEP["variants"][name] for name in ("fp32", "bf16")}
UP = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 0x1 | 0x40))"


def test_a_sweep_gets_over_every_kill(tmp_path):
    """One of each kind; the fifty are `python tests/long/faults_run.py`."""
    faults = list(faults_run.run(tmp_path / "project", range(len(faults_run.KINDS)), seed=1))
    assert {fault.kind for fault in faults} == set(faults_run.KINDS)


@contextmanager
def small_disk(folder: Path, mebibytes: int):
    """A disk of that size at `folder`, in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(project: Path) -> Path:
    filler = project / "results" / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as handle:  # a running sweep takes of what is free
        while True:
            handle.write(bytes(1 << 20))
    return filler


def fill_once_measuring(project: Path, ended: Callable[[], bool]) -> None:
    growing = faults_run.CELLS + "/replicate-1/latency.jsonl.partial"
    while not ended() and not any(path.stat().st_size for path in project.glob(growing)):
        time.sleep(0.02)
    fill(project)


def resize(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("disk") / "project"
    faults_run.prepare(folder)
    return folder


def sweep(folder: Path, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    command = [*before, *faults_run.command(*arguments)]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("DIFFSWEEP_")}
    return subprocess.run(
        command, cwd=folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=500
    )


def sweep_while(folder: Path, meddle: Callable) -> subprocess.CompletedProcess:
    """A sweep, and what is done to it meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(sweep, folder)
        meddle(folder, running.done)
        return running.result()


def test_disks_that_are_full_or_read_only(project):
    """Full during conversion, then during the measurement, then read-only: each time one clear line, and the same
    command completes afterwards."""
    manifest = "results/artifacts/reference/torch-fp32/manifest.json"
    with small_disk(project / "results", 8):  # the model has 20 MB
        done = sweep(project, manifest)
        assert done.returncode != 0
        assert re.search(r"^convert: .*No space left on device.*same command again$", done.stdout, re.MULTILINE)
        assert not (project / manifest).exists()
        resize(project / "results", "size=200m")
        done = sweep(project, manifest)
        assert done.returncode == 0, done.stdout[-3000:]

        filler = fill(project)  # nothing can begin
        done = sweep(project)
        assert re.search(r"^diffsweep: results/faults/: No space left.*same command again$", done.stdout, re.MULTILINE)
        assert "Error in file" not in done.stdout

        filler.unlink()
        done = sweep_while(project, fill_once_measuring)
        assert done.returncode != 0
        assert re.search(r"^benchmark: .*No space left.*same command again$", done.stdout, re.MULTILINE), done.stdout
        assert "Traceback" not in done.stdout
        filler.unlink()
        done = sweep(project)
        assert done.returncode == 0, done.stdout[-3000:]
        faults_run.check_results(project)
        faults_run.check_left_over(project)

        (project / faults_run.SUMMARY).unlink()
        resize(project / "results", "ro")
        done = sweep(project)
        assert done.returncode != 0
        assert "read-only" in done.stdout.lower() or "write-protected" in done.stdout.lower(), done.stdout[-3000:]
        resize(project / "results", "rw")
        assert sweep(project).returncode == 0


def test_a_sweep_whose_environments_are_built_needs_no_network(tmp_path):
    """In a name space of its own, where loopback is all the network there is."""
    for name in ("export", "onnxruntime", "scoring", "torch"):
        subprocess.run([sys.executable, "scripts/in_env", name, "true"], cwd=PROJECT, check=True)
    folder = tmp_path / "project"
    faults_run.prepare(folder)
    offline = ("unshare", "--net", "sh", "-c", f'{sys.executable} -c "{UP}" && exec "$@"', "sh")
    done = sweep(folder, before=offline)
    assert done.returncode == 0, done.stdout[-3000:]
    faults_run.check_results(folder)

    torch = next(path for path in (folder / ".envs").glob("torch-*") if path.is_dir())
    torch.unlink()
    (folder / "results/artifacts/reference/torch-bf16/manifest.json").unlink()
    empty = ("env", f"UV_CACHE_DIR={tmp_path / 'cache'}")  # nothing there that an earlier build has fetched
    done = sweep(folder, "results/artifacts/reference/torch-bf16/manifest.json", before=(*empty, *offline))
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert "environment 'torch' could not be built from envs/torch.lock" in done.stdout, done.stdout[-3000:]
    locked = re.findall(r"^([a-z0-9-]+)==", (folder / "envs/torch.lock").read_text(), re.MULTILINE)
    assert any(re.search(rf"Failed to fetch: \S+/{name}/", done.stdout) for name in locked), done.stdout[-3000:]


def test_sweeps_in_two_folders_never_measure_at_once(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        faults_run.prepare(folder)
        (folder / "config/faults.yaml").write_text(yaml.safe_dump({**faults_run.SWEEP, "variants": TWO_VARIANTS}))
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(sweep, (one, other)):
            assert done.returncode == 0, done.stdout[-3000:]
    (ours, theirs) = (
        [
            (notes["started_unix_s"], notes["ended_unix_s"])
            for notes in map(read_json, folder.glob(faults_run.REPLICATES))
        ]
        for folder in (one, other)
    )
    assert len(ours) == len(theirs) == len(TWO_VARIANTS)
    assert all(a_end <= b_start or b_end <= a_start for (a_start, a_end), (b_start, b_end) in product(ours, theirs))
    run, its = (read_json(folder / "results/faults/run.json") for folder in (one, other))
    assert run["started_unix_s"] < its["ended_unix_s"] and its["started_unix_s"] < run["ended_unix_s"]  # side by side


def test_thousands_of_broken_configs():
    command = [sys.executable, "-m", "pytest", "-k", "traceback", str(PROJECT / "tests" / "test_safety.py")]
    done = subprocess.run(
        command, cwd=PROJECT, env={**os.environ, "DIFFSWEEP_FUZZ": "10000"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
