"""Whole replicates against a fake server: what comes back, what fails, and which servers are started."""

import fcntl
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import wait_for
from diffsweep.measure import pairing, records

PROJECT = Path(__file__).resolve().parents[1]
BENCHMARK = PROJECT / "scripts" / "benchmark.py"
FAKE_SERVER = PROJECT / "tests" / "fakes" / "server.py"


def spec_of(variant=None, baseline=None, **changes):
    """A small replicate; `variant` and `baseline` say how their fake servers behave.

    Disturbed pairs are not repeated, so that the number of requests does not depend on what else runs here.
    """

    def side(name, behaviour):
        axes = {"engine": "torch", "precision": "fp32", "compile": False}
        artifact = {"name": f"{name}-artifact", **axes, "device": "cpu", "threads": 1, **behaviour}
        return {"name": name, **axes, "scheduler": "ddim", "steps": 4, "guidance": 3.0}, artifact

    (ours, our_artifact), (theirs, their_artifact) = side("fast", variant or {}), side("base", baseline or {})
    return {
        "model": {"name": "fake", "path": "nowhere", "width": 64, "height": 64},
        "target": {"name": "local", "device": "cpu", "threads": 1},
        **{"variant": ours, "variant_artifact": our_artifact, "baseline": theirs, "baseline_artifact": their_artifact},
        "environments": {"variant": "torch", "baseline": "torch"},
        "replicate": 1,
        "protocol": {"warmup": 2, "requests": 4, "block": 1, "distinct_prompts": 3, "levels": [1, 2]}
        | {"requests_per_level": 4},
        "prompts": {"path": "config/prompts/default.yaml", "digest": ""},
        **{"request_timeout_s": 30, "timeout_s": 60, "attempt": 0, "repeated_share": 0},
        **changes,
    }


# What a server does, the kind of error that it is counted as, words of the reason.
FAULTS_UNDER_LOAD = (
    ("segv", "connection", "crashed with signal 11 (SIGSEGV)"),
    ("hang", "timeout", "no answer within 1 s"),
    ("garbage", "garbage", "the reply is not one of the endpoint"),
    ("close", "connection", "RemoteDisconnected"),
)
OK = {"status": "ok", "reason": None, "stage": "convert", "attempt": 0}


def obey_ctrl_c() -> None:
    """As in a terminal: what a shell starts in the background inherits that it ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Job:
    """One call of scripts/benchmark.py."""

    def __init__(self, folder, spec, outcome=None, name="replicate-1", artifact="artifact"):
        self.out, self.process = folder / name, None
        self.artifact, baseline = folder / artifact, folder / "artifact"
        for path in (baseline, self.artifact):
            path.mkdir(exist_ok=True)
            (path / "manifest.json").write_text(json.dumps({"outcome": outcome or OK, "of": artifact}))
        self.lock, self.temporary = folder / "lock", folder / "temporary"
        self.temporary.mkdir(exist_ok=True)
        self.shared = folder / "shared"
        artifacts = ["--artifact", str(self.artifact), "--baseline-artifact", str(baseline)]
        places = ["--out", str(self.out), "--lock", str(self.lock), "--server", str(FAKE_SERVER)]
        places += ["--shared", str(self.shared)]
        self.command = [sys.executable, str(BENCHMARK), "--spec", json.dumps(spec), *artifacts, *places]

    def start(self):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environ = {**os.environ, "TMPDIR": str(self.temporary)}
        self.process = subprocess.Popen(
            self.command, cwd=PROJECT, env=environ, start_new_session=True, preexec_fn=obey_ctrl_c, **pipes
        )
        return self

    def finish(self):
        stdout, stderr = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, stderr
        return stdout

    def run(self):
        return self.start().finish()

    @property
    def replicate(self):
        return json.loads((self.out / "replicate.json").read_text())

    @property
    def outcome(self):
        return self.replicate["outcome"]

    @property
    def latency(self):
        return records.read_latency(self.out / "latency.jsonl")

    @property
    def capacity(self):
        return records.read_capacity(self.out / "capacity.jsonl")


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_latencies_and_throughput_come_back_right(tmp_path):
    variant_s, baseline_s = [0.03, 0.05, 0.04], [0.08]
    job = Job(tmp_path, spec_of({"service_s": variant_s}, {"service_s": baseline_s}))
    stdout = job.run()
    assert job.outcome == {"status": "ok", "reason": None, "stage": "benchmark", "attempt": 0}
    assert "block 8 of 8" in stdout and "load by 2 clients" in stdout

    measured = {role: [r for r in job.latency if r.role == role and not r.warmup] for role in pairing.ROLES}
    assert [len(side) for side in measured.values()] == [4, 4]
    assert sum(r.warmup for r in job.latency) == 4
    assert [r.order for r in job.latency] == list(range(1, 13))
    for role, service_s in (("variant", variant_s), ("baseline", baseline_s)):
        for number, record in enumerate(measured[role], start=2):  # after two warm-up requests
            server_s = sum((record.prompt_encode_s, *record.step_s, record.decode_s))
            assert service_s[number % len(service_s)] <= server_s < record.e2e_s
            parts = (record.queue_s, record.image_encode_s, record.transfer_s, record.residual_s)
            assert record.e2e_s == pytest.approx(server_s + sum(parts), abs=1e-6)
            assert len(record.step_s) == 4 and min(parts) >= 0 and record.first_byte_s <= record.e2e_s
        # What is not the server's own time is small; sleeps and wake-ups are late when the machine is busy.
        assert statistics.median(r.e2e_s - r.prompt_encode_s / 0.1 for r in measured[role]) < 0.05

    for level in job.replicate["levels"]:
        steady = [r for r in job.capacity if r.level == level["level"] and r.steady]
        ramp = [r for r in job.capacity if r.level == level["level"] and not r.steady]
        assert len(steady) == 4 and all(r.images == 1 and r.status == "ok" for r in steady)
        assert len(ramp) == level["level"]
        window_s = steady[-1].done_s - ramp[-1].done_s
        assert level["images_per_s"] == pytest.approx(4 / window_s)
        assert sum(variant_s) + min(variant_s) <= window_s < sum(variant_s) + max(variant_s) + 0.5
        assert level["errors"] == {} and level["littles_law"] == pytest.approx(1, abs=0.25)

    servers = job.replicate["servers"]
    assert servers["variant"]["peak_memory_bytes"] > 1e6 and servers["baseline"]["start_s"] > 0
    assert servers["variant"]["first_image_s"] > servers["variant"]["start_s"]
    assert [block["block"] for block in job.replicate["blocks"]] == list(range(1, 9))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("exit", "exited with code 3"),
        ("segv", "crashed with signal 11 (SIGSEGV)"),
        ("garbage", "garbage"),
        ("close", "(connection)"),
        ("500", "a planted fault"),
    ],
)
def test_a_server_that_fails_in_the_middle_is_an_outcome_and_records_are_kept(tmp_path, fault, words):
    job = Job(tmp_path, spec_of({"fault": fault, "at": 5}))
    stdout = job.run()
    assert job.outcome["status"] == "failed" and words in job.outcome["reason"] and words in stdout
    assert "variant" in job.outcome["reason"]
    kept = [r for r in job.latency if r.role == "variant"]
    assert [r.status for r in kept] == ["ok"] * 4 + ["error"] and kept[-1].e2e_s is None
    assert job.capacity == [] and job.replicate["servers"]["variant"]["start_s"] > 0


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [*FAULTS_UNDER_LOAD, ("500", "http 500", "a planted fault")],
)
def test_a_server_that_fails_under_load_is_counted_by_kind_and_what_was_measured_is_kept(tmp_path, fault, kind, words):
    behaviour = {"fault": fault, "at": 14}  # 6 requests for latency, 5 at level 1, then level 2
    job = Job(tmp_path, spec_of(behaviour, request_timeout_s=1))
    job.run()
    assert job.outcome["status"] == "failed" and words in job.outcome["reason"]
    assert len(job.latency) == 12 and all(r.status == "ok" for r in job.latency)
    assert [level["valid"] for level in job.replicate["levels"]] == [True, False]
    assert kind in job.replicate["levels"][1]["errors"] and kind in {r.error for r in job.capacity}


def test_a_full_queue_makes_a_level_invalid_and_nothing_else(tmp_path):
    job = Job(tmp_path, spec_of({"fault": "429", "at": 14}))
    job.run()
    assert job.outcome["status"] == "ok"
    level = job.replicate["levels"][1]
    assert level["errors"]["http 429"] > 0 and not level["valid"] and "requests failed" in level["reason"]
    assert {r.error for r in job.capacity} == {None, "http 429"}


def test_a_request_that_hangs_ends_after_its_time_limit(tmp_path):
    job = Job(tmp_path, spec_of(None, {"fault": "hang", "at": 4}, request_timeout_s=1))
    job.run()
    assert job.outcome["status"] == "failed"
    assert "baseline" in job.outcome["reason"] and "no answer within 1 s" in job.outcome["reason"]


def test_the_time_limit_of_the_job_ends_everything_and_keeps_records(tmp_path):
    processes = tmp_path / "processes"
    job = Job(tmp_path, spec_of({"fault": "hang", "at": 4, "processes": str(processes)}, timeout_s=4))
    job.run()
    assert job.outcome["status"] == "failed"
    assert job.replicate["ended_unix_s"] - job.replicate["started_unix_s"] < 2 * 4
    assert "time limit of 4 s" in job.outcome["reason"] and "measuring latency" in job.outcome["reason"]
    assert len([r for r in job.latency if r.role == "variant"]) == 3
    wait_for(lambda: not any(map(is_alive, map(int, processes.read_text().split()))))


def test_what_a_server_says_about_its_artifact_becomes_the_outcome(tmp_path):
    job = Job(tmp_path, spec_of({"problem": "there is no such kernel", "status": "unsupported"}))
    job.run()
    assert job.outcome["status"] == "unsupported" and "there is no such kernel" in job.outcome["reason"]
    assert [r for r in job.latency if r.role == "variant"] == job.capacity == []


@pytest.mark.parametrize("status", ["failed", "unsupported"])
def test_an_artifact_that_failed_is_not_measured(tmp_path, status):
    refused = {"status": status, "reason": "parity: 3 dB", "stage": "convert", "attempt": 0}
    job = Job(tmp_path, spec_of(), outcome=refused)
    job.run()
    assert job.outcome == {**refused, "stage": "benchmark", "reason": "convert: parity: 3 dB"}
    assert job.latency == [] and job.capacity == []


def _servers(processes):
    return int(len(processes.read_text().split()) / 2)  # each notes itself and its helper


def test_variants_of_one_artifact_share_a_server(tmp_path):
    processes = tmp_path / "processes"
    spec = spec_of({"processes": str(processes)})
    job = Job(tmp_path, {**spec, "baseline_artifact": spec["variant_artifact"]})
    job.run()
    assert job.outcome["status"] == "ok" and job.replicate["shared_server"] and _servers(processes) == 1
    assert [len([r for r in job.latency if r.role == role]) for role in pairing.ROLES] == [6, 6]


def test_the_baseline_against_itself_takes_two_servers(tmp_path):
    processes = tmp_path / "processes"
    spec = spec_of({"processes": str(processes)})
    both = {"baseline_artifact": spec["variant_artifact"], "baseline": spec["variant"]}
    job = Job(tmp_path, {**spec, **both})
    job.run()
    assert job.outcome["status"] == "ok" and not job.replicate["shared_server"] and _servers(processes) == 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_server_outlives_the_benchmark(tmp_path, how):
    processes = tmp_path / "processes"
    behaviour = {"fault": "hang", "at": 4, "processes": str(processes)}
    job = Job(tmp_path, spec_of(behaviour)).start()
    partial = job.out / "latency.jsonl.partial"
    wait_for(lambda: partial.exists() and len(partial.read_bytes().splitlines()) >= 5)
    alive = [int(pid) for pid in processes.read_text().split()]
    assert len(alive) == 2 and all(map(is_alive, alive))
    if how == signal.SIGINT:
        os.killpg(job.process.pid, how)  # as the terminal does it
    else:
        job.process.send_signal(how)
    assert job.process.wait(timeout=5) != 0
    wait_for(lambda: not any(map(is_alive, alive)), timeout_s=3)
    wait_for(lambda: not list(job.temporary.iterdir()), timeout_s=3)
    job.process.communicate()
    assert not (job.out / "replicate.json").exists()


def test_measurements_on_one_machine_wait_for_each_other(tmp_path):
    job = Job(tmp_path, spec_of(timeout_s=30))
    with open(job.lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        job.start()
        assert job.process.stdout.readline().startswith("waiting for another measurement")
        time.sleep(0.5)
        assert job.process.poll() is None and not (job.out / "replicate.json").exists()
    job.finish()
    assert job.outcome["status"] == "ok" and job.replicate["lock_wait_s"] >= 0.5


def test_a_spec_that_is_not_json_is_one_line(tmp_path):
    job = Job(tmp_path, spec_of())
    job.command[job.command.index("--spec") + 1] = "{"
    done = subprocess.run(job.command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("benchmark: ") and done.stderr.count("\n") == 1
