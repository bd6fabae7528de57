"""A whole sweep on a real Slurm, through every fault that a cluster has: it ends complete.

The machine is one node in two partitions that stand for two targets. First the submitting Snakemake is killed while a
job of it runs; the same command is given again. Then one job is cancelled, one hangs until it exceeds its time limit,
and the controller is restarted; no third command is needed.
"""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path

import pytest
import yaml
from slurm_cluster import PARTITIONS, Slurm, ask, wait_for

from conftest import copy_project, snakemake

CONFIG = "config/on-slurm.yaml"
SWEEP = "results/on-slurm"
COMMAND = (
    *(sys.executable, "-m", "snakemake", "--workflow-profile", "workflow/profiles/slurm", "--configfile", CONFIG),
    *("--slurm-init-seconds-before-status-checks", "2"),
)
SUBMITTED = re.compile(r"submitted with SLURM jobid (\d+) \(log: .*/slurm_logs/rule_(\w+)/([^/]*)/")


@dataclass
class Job:
    """A job of the sweep as Snakemake submitted it and as Slurm saw it end. wildcards: the rule's, joined by _."""

    rule: str
    wildcards: str
    partition: str
    state: str
    started: datetime
    ended: datetime


@dataclass
class Run:
    folder: Path
    text: str  # what the second command printed
    returncode: int
    jobs: dict[str, Job]
    faults: dict[str, str]  # what was done -> the id of the job it was done to


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A copy of the project with the smoke sweep's variants on two targets, each a partition, made short."""
    folder = copy_project(tmp_path_factory.mktemp("sweep"))
    local = yaml.safe_load((folder / "config/targets.yaml").read_text())["targets"]["local"]
    smoke = yaml.safe_load((folder / "config/smoke.yaml").read_text())
    # One thread of several: what keeps other jobs off a measuring job's node is that it asks for all of it.
    targets = {name: {**local, "threads": 1, "slurm": {"partition": name}} for name in PARTITIONS}
    (folder / "config/partitions.yaml").write_text(yaml.safe_dump({"targets": targets}))
    config = {
        "sweep": "on-slurm",
        "models": smoke["models"],
        "targets": list(targets),
        "targets_file": "config/partitions.yaml",
        "baseline": smoke["baseline"],
        "variants": smoke["variants"],
        "protocol": {
            **{"distinct_prompts": 2, "warmup": 1, "replicates": 1, "requests": 2, "block": 1},
            **{"levels": [1], "requests_per_level": 3},
        },
        "quality": {"images": 8, "bootstrap": 100},
    }
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def test_a_partition_is_not_measured_on_this_machine(folder):
    done = snakemake(folder, "--configfile", CONFIG)
    assert done.returncode != 0
    assert "diffsweep: targets.cpu-a: is the Slurm partition 'cpu-a', and this machine is not; add" in done.stdout
    assert not (folder / SWEEP / "reference").exists()


def test_an_environment_that_cannot_be_built_ends_the_sweep_before_any_job_is_submitted(slurm, folder, tmp_path):
    """Environments are built on the submitting side. Here one is missing, and there is no network and no cache."""
    shared = (folder / ".envs").resolve()
    (folder / ".envs").unlink()
    (folder / ".envs").mkdir()
    for path in shared.iterdir():
        if not path.name.startswith("scoring-"):
            (folder / ".envs" / path.name).symlink_to(path)
    try:
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
        environ |= {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(COMMAND, cwd=folder, env=environ, capture_output=True, text=True)
    finally:
        shutil.rmtree(folder / ".envs")  # the links, not what they lead to
        (folder / ".envs").symlink_to(shared)
    assert done.returncode != 0
    assert "diffsweep: environment 'scoring' could not be built from envs/scoring.lock" in done.stderr
    assert "submitted" not in done.stderr
    assert ask("squeue", "--noheader", "--states=all") == ""


@pytest.fixture(scope="module")
def run(slurm, folder) -> Run:
    first = start(folder, "first.out")
    wait_for(lambda: running(), "no job has started", timeout_s=240)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    faults = {"orphan": running()[0][0]}
    second = start(folder, "second.out")
    try:
        disturb(slurm, second, faults)
    finally:
        if second.poll() is None:
            os.killpg(second.pid, signal.SIGKILL)
    text = (folder / "first.out").read_text() + (folder / "second.out").read_text()
    return Run(folder, (folder / "second.out").read_text(), second.returncode, jobs_of(slurm, text), faults)


def start(folder: Path, name: str) -> subprocess.Popen:
    environ = {key: value for key, value in os.environ.items() if key != "DIFFSWEEP_RUN"}
    with open(folder / name, "w") as out:
        return subprocess.Popen(
            COMMAND, cwd=folder, env=environ, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


def running() -> list[tuple[str, str]]:
    """Id and partition of the jobs that run now."""
    lines = ask("squeue", "--noheader", "--states=RUNNING", "--format=%i|%P").splitlines()
    return [tuple(line.strip().split("|", 1)) for line in lines]


def disturb(slurm: Slurm, sweep: subprocess.Popen, faults: dict[str, str], timeout_s: float = 1800) -> None:
    """Do each fault once, at its moment, while the sweep runs to its end."""
    deadline = time.monotonic() + timeout_s
    while sweep.poll() is None:
        assert time.monotonic() < deadline, "the sweep does not end"
        for job, partition in running():
            measuring = programs("benchmark.py", job)
            if measuring and partition == "cpu-a" and "cancelled" not in faults:
                subprocess.run(["scancel", job], check=True)
                faults["cancelled"] = job
            elif measuring and partition == "cpu-b" and "expired" not in faults:
                for pid in measuring:
                    os.kill(pid, signal.SIGSTOP)  # it hangs
                subprocess.run(["scontrol", "update", f"JobId={job}", "EndTime=now"], check=True)
                faults["expired"] = job
            elif "restarted" not in faults and programs("generate_images.py", job):
                slurm.stop_controller()
                time.sleep(3)
                slurm.start_controller()
                faults["restarted"] = job
        time.sleep(0.5)


def programs(program: str, job: str) -> list[int]:
    """The processes of a job that run `program`."""
    return [pid for pid, command in processes(f"SLURM_JOB_ID={job}") if program in command]


def processes(variable: str) -> list[tuple[int, str]]:
    """Process id and command line of what runs with `variable` (NAME=value) in its environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (path / "environ").read_bytes().split(b"\0"):
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append((int(path.name), command))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def jobs_of(slurm: Slurm, text: str) -> dict[str, Job]:
    """The jobs that both Snakemake and Slurm know, by id."""
    ended = {line["JobId"]: line for line in slurm.ended()}
    return {
        job: Job(
            rule,
            wildcards,
            ended[job]["Partition"],
            ended[job]["JobState"],
            datetime.fromisoformat(ended[job]["StartTime"]),
            datetime.fromisoformat(ended[job]["EndTime"]),
        )
        for job, rule, wildcards in SUBMITTED.findall(text)
    }


def test_the_sweep_ends_complete(run):
    assert run.returncode == 0, run.text[-6000:]
    with open(run.folder / SWEEP / "summary.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    variants = yaml.safe_load((run.folder / CONFIG).read_text())["variants"]
    assert {(row["target"], row["variant"]) for row in rows} == set(product(PARTITIONS, variants))
    assert all(row["status"] == "ok" for row in rows), [row["reason"] for row in rows]
    assert (run.folder / SWEEP / "report.html").exists()


def test_every_fault_happened_and_only_those_jobs_were_lost(run):
    states = {fault: run.jobs[job].state for fault, job in run.faults.items() if job in run.jobs}
    assert states["cancelled"] == "CANCELLED"
    assert states["expired"] == "TIMEOUT"
    assert states["restarted"] == "COMPLETED"  # it ran on while there was no controller
    cancelled = re.search(r"cancelling jobs of an earlier run of this sweep: (.*)", run.text)[1]
    orphans = set(re.findall(r"\d+", cancelled))  # what the first command had submitted
    assert run.faults["orphan"] in orphans
    lost = {job for job in run.jobs if run.jobs[job].state != "COMPLETED"}
    assert lost <= {run.faults["cancelled"], run.faults["expired"], *orphans}


def test_every_job_ran_in_the_partition_of_its_target(run):
    assert {job.rule for job in run.jobs.values()} == {"export_onnx", "convert", "benchmark", "images", "score"}
    for job in run.jobs.values():
        target = next((name for name in PARTITIONS if name in job.wildcards), "cpu-a")
        assert job.partition == target, job


def test_a_measuring_job_had_the_node_to_itself(run):
    for job in run.jobs.values():
        if job.rule == "benchmark":
            beside = [o for o in run.jobs.values() if o is not job and o.started < job.ended and job.started < o.ended]
            assert beside == []


def test_no_job_built_an_environment(run):
    logs = [*(run.folder / "results").rglob("*.log"), *(run.folder / ".snakemake/slurm_logs").rglob("*.log")]
    assert all("building environment" not in path.read_text(errors="replace") for path in logs)


def test_without_the_profile_there_is_nothing_left_to_do(run):
    """The same command on one machine: the same files are wanted, and each is taken as it is."""
    done = snakemake(run.folder, "--configfile", CONFIG, "--dry-run")
    assert "Nothing to be done" in done.stdout, done.stdout[-3000:]
    summary = snakemake(run.folder, "--configfile", CONFIG, "--summary")
    wanted = {line.split("\t")[0] for line in summary.stdout.splitlines() if line.startswith("results/")}
    assert len(wanted) > 20
    assert [path for path in wanted if not (run.folder / path).exists()] == []


def test_one_machine_makes_the_same_files_and_rows(run, tmp_path):
    """The same sweep in another folder, by targets that are this machine."""
    here = copy_project(tmp_path / "here")
    targets = yaml.safe_load((run.folder / "config/partitions.yaml").read_text())["targets"]
    local = {name: {key: value for key, value in target.items() if key != "slurm"} for name, target in targets.items()}
    (here / "config/partitions.yaml").write_text(yaml.safe_dump({"targets": local}))
    shutil.copy(run.folder / CONFIG, here / CONFIG)
    done = snakemake(here, "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout[-3000:]
    assert results_in(here) == results_in(run.folder)
    rows_here, rows_there = (keys_and_columns(folder / SWEEP / "summary.csv") for folder in (here, run.folder))
    assert rows_here == rows_there


def results_in(folder: Path) -> set[str]:
    """What the sweep has left, without the logs and the states, which are named by time."""
    paths = (path for place in (SWEEP, "results/artifacts") for path in (folder / place).rglob("*"))
    names = {path.relative_to(folder).as_posix() for path in paths if path.is_file() and path.suffix != ".log"}
    return {name for name in names if not name.startswith(f"{SWEEP}/states/")}


def keys_and_columns(table: Path) -> tuple[list[str], list[tuple[str, ...]]]:
    with open(table, newline="") as handle:
        rows = list(csv.DictReader(handle))
    return list(rows[0]), [tuple(row[key] for key in ("model", "target", "variant", "status")) for row in rows]


def test_nothing_is_left_running(run):
    assert running() == []
    assert processes(f"SLURM_SUBMIT_DIR={run.folder}") == []
