"""Faults: a process that is killed, two sweeps in a folder, a disk that is full, a clock that jumps."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import PROJECT, copy_project, snakemake, wait_for
from diffsweep.sweep import outcomes, sharing
from diffsweep.sweep.files import read_json, remove_partials, write_json
from diffsweep.sweep.outcomes import run_supervised
from test_benchmark import Job, is_alive, spec_of
from test_ending import program
from test_environments import tiny  # noqa: F401  a fixture
from test_sharing import note, samplers

# --- a process that is killed ----------------------------------------------------------------------------------------


def one_line(stdout: str) -> str:
    (line,) = [line for line in stdout.splitlines() if "was killed" in line]
    return line


@pytest.mark.parametrize("at", [5, 14], ids=["blocks", "load"])
def test_a_server_that_somebody_kills_is_no_outcome(tmp_path, at):
    job = Job(tmp_path, spec_of({"fault": "kill", "at": at})).start()
    stdout, stderr = job.process.communicate(timeout=60)
    assert job.process.returncode == 1 and "Traceback" not in stderr
    assert one_line(stdout).startswith("benchmark: the variant's server was killed (signal 9), and not for want of")
    assert one_line(stdout).endswith("give the same command again")
    assert not (job.out / "replicate.json").exists() and not list(job.temporary.iterdir())
    assert Job(tmp_path, spec_of()).run() and job.outcome["status"] == "ok"


def test_a_killed_server_costs_nothing_that_was_put_aside(tmp_path):
    jobs, processes = samplers(tmp_path, names=("a", "b", "c", "d"), service_s=[0.03])
    note(tmp_path, {name: jobs[name] for name in "abc"})
    jobs["a"].run()
    earlier = processes.read_text().split()
    note(tmp_path, {name: jobs[name] for name in "bcd"})
    jobs["d"].start()
    records = jobs["d"].out / "latency.jsonl.partial"
    wait_for(lambda: records.exists() and len(records.read_bytes().splitlines()) >= 5)
    for pid in set(processes.read_text().split()) - set(earlier):
        os.kill(int(pid), signal.SIGKILL)
    assert "was killed" in one_line(jobs["d"].process.communicate(timeout=60)[0])
    assert jobs["d"].process.returncode == 1 and not (jobs["d"].out / "replicate.json").exists()
    assert "measured before" in jobs["b"].run() and "measured before" in jobs["c"].run()


def test_a_keeper_that_somebody_kills_is_no_outcome(tmp_path):
    job = Job(tmp_path, spec_of({"service_s": [0.05]})).start()
    records = job.out / "latency.jsonl.partial"
    wait_for(lambda: records.exists() and records.read_bytes())
    (keeper,) = [pid for pid in children_of(job.process.pid) if os.getsid(pid) == pid]
    os.kill(keeper, signal.SIGKILL)
    stdout, _ = job.process.communicate(timeout=60)
    assert job.process.returncode == 1
    assert one_line(stdout).startswith("benchmark: the keeper of the servers was killed")
    assert not (job.out / "replicate.json").exists() and not list(job.temporary.iterdir())


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("counted", "status"),
    [([3, 4], "failed"), ([None], "failed"), ([3, 3], None)],
    ids=["memory", "kernel does not say", "somebody"],
)
def test_only_a_kill_for_want_of_memory_is_an_outcome(monkeypatch, capsys, counted, status):
    left = iter(counted)
    monkeypatch.setattr(outcomes, "oom_kills", lambda: next(left))

    def work() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if status is None:
        with pytest.raises(SystemExit) as ended:
            run_supervised(work, stage="images", timeout_s=60)
        assert ended.value.code == 1
        assert one_line(capsys.readouterr().out).startswith("images: was killed (signal 9), and not for want of memory")
    else:
        outcome = run_supervised(work, stage="images", timeout_s=60)
        assert outcome.status == status and "ran out of memory" in outcome.reason


def test_the_kernel_is_asked_how_often_memory_ran_out():
    assert outcomes.oom_kills() >= 0


def test_half_of_what_was_put_aside_is_not_taken_as_whole(tmp_path, monkeypatch):
    """The job is killed while it forgets what it has taken."""
    spec = {"variant": {"name": "b"}}
    noted = sharing.job_of("images", spec, str(tmp_path / "b"), ["code"])
    aside = tmp_path / "shared" / "images" / "done" / noted.key
    write_json(aside / "images.json", {"inputs": {}})
    for name in ("0.png", "1.png"):
        (aside / "images").mkdir(exist_ok=True)
        (aside / "images" / name).write_text(name)
    sharing.note_jobs("images", [noted], tmp_path / "shared")

    def killed(folder, *_, **__) -> None:
        if folder == aside:
            (aside / "images" / "0.png").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(sharing.shutil, "rmtree", killed)
        sharing.Shared("images", spec, tmp_path / "b", tmp_path / "shared").take({})
    assert (aside / "images" / "1.png").exists()
    assert len(list((tmp_path / "b" / "images").iterdir())) == 2
    sharing.note_jobs("images", [noted], tmp_path / "shared")
    assert not sharing.Shared("images", spec, tmp_path / "b", tmp_path / "shared").take({})
    assert not aside.exists()


# --- one sweep in a folder ------------------------------------------------------------------------------------------

SMOKE, PLAN = ("--configfile", "config/smoke.yaml"), "results/smoke/plan.json"
HOLD = """
import os, time
from pathlib import Path
def hold(variable):
    if variable in os.environ:
        Path(os.environ[variable] + ".held").touch()
        for _ in range(1200):  # 60 s: it does not stay when the test has failed
            if os.path.exists(os.environ[variable]):
                break
            time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A project in which a job, and the reading of the Snakefile, can be held until a file is there."""
    folder = copy_project(tmp_path_factory.mktemp("claims"))
    (folder / "scripts" / "diffsweep" / "hold.py").write_text(HOLD)
    for name, variable in (("scripts/plan.py", "HOLD_JOB"), ("Snakefile", "HOLD_PARSING")):
        text, held = (folder / name).read_text(), f"from diffsweep.hold import hold\n\nhold({variable!r})\n"
        before, main, after = text.partition("\nif __name__")
        (folder / name).write_text(f"{before}\n{held}{main}{after}")
    config = (folder / "config" / "smoke.yaml").read_text()
    (folder / "config" / "limits.yaml").write_text(f"{config}\nlimits: {{replicate_s: 77}}\n")
    return folder


def start_sweep(folder: Path, *arguments: str, **environ: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "snakemake", "--cores", "all", PLAN, *arguments]
    known = {key: value for key, value in os.environ.items() if not key.startswith("DIFFSWEEP_")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env={**known, **environ}, **pipes)


def start_held(folder: Path, variable: str, name: str, *arguments: str) -> tuple[subprocess.Popen, Path]:
    """A sweep that waits, and the file that it waits for."""
    go = folder / f"go-{name}"
    process = start_sweep(folder, *arguments, **{variable: str(go)})
    wait_for(go.with_name(f"{go.name}.held").exists, timeout_s=60)
    return process, go


def end_well(process: subprocess.Popen) -> None:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out


def test_a_second_sweep_in_the_folder_says_so_and_changes_nothing(folder):
    """Nor does a dry run change what the jobs of the first are told."""
    first, go = start_held(folder, "HOLD_JOB", "first", *SMOKE)
    limits, others = folder / ".snakemake/diffsweep/limits/benchmark.json", ("--configfile", "config/limits.yaml")
    told = read_json(limits)
    second = snakemake(folder, PLAN, *others)
    assert second.returncode == 1
    *_, message = second.stdout.strip().splitlines()
    assert message == "diffsweep: another sweep is running in this folder; wait until it has ended"
    assert "Traceback" not in second.stdout and not (folder / PLAN).exists()
    assert snakemake(folder, PLAN, *others, "--dry-run").returncode == 0
    assert read_json(limits) == told
    go.touch()
    end_well(first)
    assert snakemake(folder, PLAN, *others, "--force").returncode == 0
    assert read_json(limits)["timeout_s"] == 77 != told["timeout_s"]


@pytest.mark.parametrize("runs", ["already", "next"])
def test_a_sweep_that_was_prepared_while_another_ran_does_nothing_again(folder, runs):
    """It has looked up what there is to do while the other ran, or before that began."""
    force = ("--force", *SMOKE)
    if runs == "already":
        first, ending = start_held(folder, "HOLD_JOB", "already", *force)
        late, go = start_held(folder, "HOLD_PARSING", "late", *force)
        ending.touch()
    else:
        late, go = start_held(folder, "HOLD_PARSING", "early", *force)
        first = start_sweep(folder, *force)
    end_well(first)
    go.touch()
    out, _ = late.communicate(timeout=60)
    assert late.returncode == 1
    message = "diffsweep: another sweep ran in this folder while this one began; give the same command again"
    assert out.strip().splitlines()[-1] == message
    end_well(start_sweep(folder, *force))


def test_a_disk_that_is_full_at_the_start_is_one_line(folder):
    """A folder in the file's place stands for it: what cannot be written there is an OSError, too."""
    note = folder / "results" / "smoke" / "run.json"
    note.mkdir(parents=True)
    done = snakemake(folder, *SMOKE)
    note.rmdir()
    assert done.returncode == 1
    *_, message = done.stdout.strip().splitlines()
    assert message == "diffsweep: results/smoke/: Is a directory; mend that, and give the same command again"
    assert "Error in file" not in done.stdout and "Traceback" not in done.stdout


def test_what_a_killed_job_has_left_is_gone_when_the_sweep_has_ended(folder):
    """As on Slurm, when a job was cancelled and its next attempt ended well."""
    process, go = start_held(folder, "HOLD_JOB", "left", "--force", *SMOKE)
    left = folder / "results" / "smoke" / "reference" / "local" / "fp32" / ".images.7.partial"
    left.mkdir(parents=True)
    go.touch()
    end_well(process)
    assert not left.exists()


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


def test_nor_is_it_where_the_log_lies_on_that_disk_too(capsys, monkeypatch):
    with open("/dev/full", "w", buffering=1) as log, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", log)
        with pytest.raises(SystemExit):
            run_supervised(fail_with(FULL[0]), stage="convert", timeout_s=60)
    assert capsys.readouterr().out.endswith("give the same command again\n")


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
