"""Faults: a workflow that is killed, a disk that is full, a clock that jumps, measurements that would overlap."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from conftest import PROJECT, wait_for
from diffsweep.sweep import outcomes, workflow
from diffsweep.sweep.files import remove_partials
from diffsweep.sweep.outcomes import run_supervised
from test_benchmark import Job, is_alive, spec_of
from test_environments import tiny  # noqa: F401  a fixture

# --- a job ends with its workflow -----------------------------------------------------------------------------------


@pytest.fixture
def snakemake_stand_in():
    """A process in Snakemake's place, and the environment of the jobs that it starts."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def told(process: subprocess.Popen) -> dict[str, str]:
    return {workflow.VARIABLE: workflow._identity(process.pid)}


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def start_job(tmp_path: Path, spec: dict, environ: dict[str, str], monkeypatch) -> Job:
    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    return Job(tmp_path, spec).start()


def test_a_measurement_ends_with_its_workflow(tmp_path, monkeypatch, snakemake_stand_in):
    processes = tmp_path / "processes"
    spec = spec_of({"fault": "hang", "at": 4, "processes": str(processes)})
    job = start_job(tmp_path, spec, told(snakemake_stand_in), monkeypatch)
    partial = job.out / "latency.jsonl.partial"
    wait_for(lambda: partial.exists() and len(partial.read_bytes().splitlines()) >= 5)
    alive = [int(pid) for pid in processes.read_text().split()]
    kill(snakemake_stand_in)
    assert job.process.wait(timeout=5) != 0
    wait_for(lambda: not any(map(is_alive, alive)), timeout_s=3)
    wait_for(lambda: not list(job.temporary.iterdir()), timeout_s=3)
    assert workflow.GONE in job.process.stderr.read()
    assert not (job.out / "replicate.json").exists()
    assert remove_partials(job.out) and not list(job.out.iterdir())


def test_a_measurement_that_waits_for_its_turn_ends_with_its_workflow(tmp_path, monkeypatch, snakemake_stand_in):
    with open(tmp_path / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        job = start_job(tmp_path, spec_of(), told(snakemake_stand_in), monkeypatch)
        assert job.process.stdout.readline().startswith("waiting for another measurement")
        kill(snakemake_stand_in)
        assert job.process.wait(timeout=5) != 0
    job.process.communicate()


def program(text: str, cwd: Path, environ: dict[str, str]) -> subprocess.Popen:
    environ = {**os.environ, "PYTHONPATH": str(PROJECT / "scripts"), **environ}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(text)], cwd=cwd, env=environ, **pipes)


CONVERSION = """
    import time
    from diffsweep.sweep.files import atomic_folder
    from diffsweep.sweep.outcomes import run_supervised
    def work():
        (folder / "child").touch()
        time.sleep(600)
    with atomic_folder("artifact") as folder:
        run_supervised(work, stage="convert", timeout_s=600)
"""


def test_a_conversion_ends_with_its_workflow_and_leaves_nothing(tmp_path, snakemake_stand_in):
    process = program(CONVERSION, tmp_path, told(snakemake_stand_in))
    wait_for(lambda: list(tmp_path.glob(".artifact.*.partial/child")))
    kill(snakemake_stand_in)
    assert process.wait(timeout=5) != 0
    assert list(tmp_path.iterdir()) == []
    process.communicate()


def test_the_left_overs_of_a_killed_conversion_go_with_the_next_run(tmp_path):
    process = program(CONVERSION, tmp_path, {})
    wait_for(lambda: list(tmp_path.glob(".artifact.*.partial/child")))
    kill(process)
    process.communicate()
    assert len(remove_partials(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_build_of_an_environment_ends_with_its_workflow(tmp_path, snakemake_stand_in):
    text = """
        import os
        from diffsweep.sweep.environments import _run
        _run(["sh", "-c", "touch begun; exec sleep 601"], dict(os.environ), "x")
    """
    process = program(text, tmp_path, told(snakemake_stand_in))
    wait_for((tmp_path / "begun").exists)
    kill(snakemake_stand_in)
    assert process.wait(timeout=5) != 0
    assert workflow.GONE in process.communicate()[1]


def test_a_job_whose_workflow_is_gone_already_does_not_begin(tmp_path, snakemake_stand_in):
    environ = told(snakemake_stand_in)
    kill(snakemake_stand_in)
    process = program(CONVERSION, tmp_path, environ)
    assert workflow.GONE in process.communicate(timeout=20)[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("told_by", ["", "1 0 another-boot pid:[1]", "x"])
def test_a_job_without_a_workflow_on_this_machine_is_its_own(monkeypatch, told_by):
    monkeypatch.setenv(workflow.VARIABLE, told_by)
    workflow.descriptor.cache_clear()
    assert workflow.descriptor() is None
    workflow.leave_if_gone()
    workflow.descriptor.cache_clear()


# --- disks ----------------------------------------------------------------------------------------------------------


def fail_with(error: Exception):
    def work() -> None:
        raise error

    return work


FULL = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "results/x"),
    OSError(errno.EROFS, os.strerror(errno.EROFS), "results/x"),
    RuntimeError("I/O error: No space left on device (os error 28)"),  # as safetensors says it
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_disk_that_cannot_be_written_is_no_outcome_of_a_variant(capsys, error):
    with pytest.raises(SystemExit) as ended:
        run_supervised(fail_with(error), stage="convert", timeout_s=60)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("convert: ") and line.endswith("give the same command again")


def test_a_reason_names_no_home(monkeypatch):
    error = FileNotFoundError(errno.ENOENT, "No such file", f"{PROJECT}/results/x")
    outcome = run_supervised(fail_with(error), stage="convert", timeout_s=60)
    assert outcome.status == "failed" and "results/x" in outcome.reason and str(PROJECT) not in outcome.reason


def test_a_program_ends_in_one_line_when_the_disk_is_full(capsys):
    with pytest.raises(SystemExit):
        outcomes.run_program(fail_with(FULL[0]))
    assert len(capsys.readouterr().out.splitlines()) == 1
    with pytest.raises(FileNotFoundError):
        outcomes.run_program(fail_with(FileNotFoundError(errno.ENOENT, "x")))


# --- clocks and overlaps --------------------------------------------------------------------------------------------

JUMPING = f"""
import random, runpy, sys, time
real, jumps = time.time, random.Random(0)
time.time = lambda: real() + jumps.uniform(-7200.0, 7200.0)
sys.argv = sys.argv[1:]
sys.path.insert(0, {str(PROJECT / "scripts")!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def seconds_in(value, name: str = ""):
    """Every duration in a document: what ends in _s, but for points in time."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from seconds_in(inner, key if not name.startswith("seconds") else "seconds_s")
    elif isinstance(value, list):
        for inner in value:
            yield from seconds_in(inner, name)
    elif name.endswith("_s") and "unix" not in name and isinstance(value, int | float):
        yield name, value


def test_a_clock_that_jumps_changes_no_duration(tmp_path):
    """Each reading of the wall clock is up to two hours off."""
    job = Job(tmp_path, spec_of({"service_s": [0.05]}, {"service_s": [0.05]}))
    job.command = [sys.executable, "-c", JUMPING, *job.command[1:]]
    job.run()
    assert job.outcome["status"] == "ok"
    found = list(seconds_in(job.replicate))
    assert {"start_s", "first_image_s", "lock_wait_s"} <= {name for name, _ in found}
    machine = ("busy_s", "steal_s", "throttled_s", "timeout_s", "request_timeout_s")  # since the machine started
    assert [(name, s) for name, s in found if name not in machine and not 0 <= s < 60] == []
    for record in job.latency:
        assert 0.04 < record.e2e_s < 5
    assert all(0 <= record.sent_s <= record.done_s < 60 for record in job.capacity)
    sent = [record.sent_unix_s for record in job.latency]
    assert sent != sorted(sent)  # it did jump


def test_measurements_of_two_folders_never_overlap(tmp_path):
    lock, jobs = tmp_path / "lock", []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        job = Job(tmp_path / name, spec_of({"service_s": [0.03]}, {"service_s": [0.03]}))
        job.command[job.command.index("--lock") + 1] = str(lock)
        jobs.append(job.start())
    spans = []
    for job in jobs:
        job.finish()
        spans.append((job.replicate["started_unix_s"], job.replicate["ended_unix_s"]))
    (_, first_ended), (second_began, _) = sorted(spans)
    assert first_ended <= second_began


# --- environments ---------------------------------------------------------------------------------------------------


def test_without_network_the_package_is_named(tiny, tmp_path):  # noqa: F811
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("UV_", "PIP_"))}
    environ |= {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, str(tiny / "scripts" / "in_env"), "tiny", "true"]
    done = subprocess.run(command, env=environ, text=True, capture_output=True, timeout=120)
    assert done.returncode == 1
    assert "iniconfig" in done.stderr and "network" in done.stderr and "Traceback" not in done.stderr


def test_a_builder_that_is_killed_takes_uv_along(tiny):  # noqa: F811
    """Else uv would write on into the folder that the next builder makes anew."""
    text = f"""
        import sys
        sys.path.insert(0, {str(tiny / "scripts")!r})
        from diffsweep.sweep.environments import _run
        import os
        _run(["sh", "-c", "echo $$ > pid; exec sleep 602"], dict(os.environ), "x")
    """
    process = program(text, tiny, {})
    wait_for(lambda: (tiny / "pid").exists() and (tiny / "pid").read_text().strip())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    pid = int((tiny / "pid").read_text())
    wait_for(lambda: not is_alive(pid), timeout_s=3)


def test_a_finished_document_is_never_seen_half_written(tmp_path):
    """A writer killed at any moment leaves the old document or the new one."""
    text = """
        from diffsweep.sweep.files import write_json
        number = 0
        while True:
            number += 1
            write_json("x.json", {"number": number, "filling": ["x" * 100] * 2000})
    """
    for delay_s in (0.0, 0.003, 0.01):
        process = program(text, tmp_path, {})
        wait_for((tmp_path / "x.json").exists)
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert len(json.loads((tmp_path / "x.json").read_text())["filling"]) == 2000
        remove_partials(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
