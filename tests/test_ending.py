"""Jobs, builds and programs end with their workflow, however that ends, and leave nothing."""

import fcntl
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from conftest import PROJECT, wait_for
from diffsweep.sweep import workflow
from diffsweep.sweep.files import remove_partials
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


TABLES = """
    import time
    from pathlib import Path
    from diffsweep.sweep.outcomes import run_program
    def main():
        Path("begun").touch()
        time.sleep(2)
        Path("replaced").touch()
    run_program(main)
"""


def test_a_program_that_supervises_nothing_ends_with_its_workflow(tmp_path, snakemake_stand_in):
    """Else it would put its tables in the place of newer ones."""
    process = program(TABLES, tmp_path, told(snakemake_stand_in))
    wait_for((tmp_path / "begun").exists)
    kill(snakemake_stand_in)
    assert workflow.GONE in process.communicate(timeout=20)[1] and process.returncode == 1
    assert not (tmp_path / "replaced").exists()
    process = program(TABLES, tmp_path, told(snakemake_stand_in))
    assert workflow.GONE in process.communicate(timeout=20)[1] and process.returncode == 1


def test_a_program_that_is_run_by_hand_waits_for_nobody(tmp_path):
    process = program(TABLES, tmp_path, {workflow.VARIABLE: ""})
    wait_for((tmp_path / "begun").exists)
    assert len(list(Path(f"/proc/{process.pid}/task").iterdir())) == 1
    assert process.communicate(timeout=20) == ("", "") and process.returncode == 0
    assert (tmp_path / "replaced").exists()


@pytest.mark.parametrize("name", ["aggregate", "plot", "report", "plan", "receipt", "update"])
def test_no_program_begins_when_its_workflow_is_gone(tmp_path, snakemake_stand_in, name):
    environ = {**os.environ, **told(snakemake_stand_in), "PYTHONPATH": str(PROJECT / "scripts")}
    kill(snakemake_stand_in)
    command = [sys.executable, str(PROJECT / "scripts" / f"{name}.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, text=True, capture_output=True)
    assert done.returncode == 1 and done.stderr.strip() == workflow.GONE and done.stdout == ""


def test_the_workers_of_the_tables_end_with_their_program(tmp_path):
    text = """
        import os, time
        from aggregate import workers
        if __name__ == "__main__":
            with workers({"variants": list(range(1000))}) as run:
                print(*set(run(pid_of_worker, range(64))), flush=True)
                time.sleep(600)
    """
    (tmp_path / "tables.py").write_text("import os\ndef pid_of_worker(_):\n    return os.getpid()\n")
    text = "from tables import pid_of_worker\n" + textwrap.dedent(text)
    process = program(text, tmp_path, {"PYTHONPATH": f"{PROJECT / 'scripts'}:{tmp_path}"})
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert pids and process.pid not in pids and all(map(is_alive, pids))
    kill(process)
    wait_for(lambda: not any(map(is_alive, pids)))
    process.communicate()


def test_a_child_whose_parent_died_before_it_could_ask_ends_at_once(tmp_path):
    text = """
        import os
        from diffsweep.sweep.workflow import die_with_parent
        die_with_parent(os.getppid())
        print("goes on", flush=True)
        die_with_parent(os.getpid())  # which its parent is not
        print("outlives it")
    """
    assert program(text, tmp_path, {}).communicate(timeout=20) == ("goes on\n", "")


@pytest.mark.parametrize("told_by", ["", "1 0 another-boot pid:[1]", "x"])
def test_a_job_without_a_workflow_on_this_machine_is_its_own(monkeypatch, told_by):
    monkeypatch.setenv(workflow.VARIABLE, told_by)
    workflow.descriptor.cache_clear()
    assert workflow.descriptor() is None
    workflow.leave_if_gone()
    workflow.descriptor.cache_clear()
