"""Variants take turns beside their baseline's server, those that differ only in what a request carries on one of their
own."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from itertools import groupby
from types import SimpleNamespace

import pytest

import benchmark
from conftest import wait_for
from diffsweep.measure import monitor, pool
from diffsweep.measure.pairing import sets_of
from diffsweep.measure.records import read_resources
from diffsweep.measure.servers import Launch
from diffsweep.sweep import sharing
from diffsweep.sweep.files import digest_file
from test_benchmark import OK, Job, _servers, spec_of

# --- variants that take turns on the same servers ---


def samplers(folder, names=("a", "b", "c"), of_baseline=False, **behaviour):
    """Jobs of variants that differ in their steps only, noted as the workflow does it before they run; `of_baseline`:
    from the baseline, too."""
    processes = folder / "processes"
    jobs = {}
    for steps, name in enumerate(names, start=2):
        spec = spec_of({"processes": str(processes), **behaviour}, {"processes": str(processes)})
        spec["variant"] = {**spec["variant"], "name": name, "steps": steps}
        spec["attempt"] = steps - 2
        if of_baseline:
            spec["baseline_artifact"] = spec["variant_artifact"]
        jobs[name] = Job(folder, spec, name=f"{name}/replicate-1")
        jobs[name].spec = spec
    note(folder, jobs)
    return jobs, processes


def note(folder, jobs, code="code"):
    limits = sharing.LIMITS
    told = {name: {k: v for k, v in job.spec.items() if k not in limits} for name, job in jobs.items()}
    noted = [sharing.job_of("benchmark", spec, str(jobs[name].out), [code]) for name, spec in told.items()]
    sharing.note_jobs("benchmark", noted, folder / "shared")


def test_the_first_job_measures_all_that_need_its_servers(tmp_path):
    jobs, processes = samplers(tmp_path)
    jobs["b"].run()
    assert _servers(processes) == 2  # the variants' and the baseline's
    assert not jobs["a"].out.exists() and not jobs["c"].out.exists()  # Snakemake has not started those
    for name in ("a", "c"):
        assert "measured before" in jobs[name].run()
    assert _servers(processes) == 2
    found = {name: job.replicate for name, job in jobs.items()}
    for steps, (name, job) in enumerate(jobs.items(), start=2):
        assert job.outcome["status"] == "ok" and found[name]["variant"] == name
        assert job.outcome["attempt"] == job.spec["attempt"]
        assert found[name]["turns"] == ["a", "b", "c"]
        ours = [r for r in job.latency if r.role == "variant"]
        assert {r.variant for r in job.latency + job.capacity} == {name}
        assert sum(r.warmup for r in ours) == found[name]["warmup"] == (2 if name == "a" else 1)  # on warm servers one
        assert sum(not r.warmup for r in ours) == 4 and all(len(r.step_s) == steps for r in ours)
        assert {level["level"] for level in found[name]["levels"]} == {1, 2} == {r.level for r in job.capacity}
        assert found[name]["servers"].keys() == {"variant", "baseline"}
    assert "start" in found["a"]["seconds"] and "start" not in found["b"]["seconds"]
    assert found["a"]["ended_unix_s"] < found["b"]["ended_unix_s"] < found["c"]["ended_unix_s"]
    assert not list((tmp_path / "shared" / "benchmark" / "done").iterdir())


def test_variants_share_the_baselines_requests_and_each_has_a_record_of_them(tmp_path):
    jobs, _ = samplers(tmp_path)
    for job in jobs.values():
        job.run()
    times = {name: [r.sent_unix_s for r in measured(job, "baseline")] for name, job in jobs.items()}
    assert len(times["a"]) == 4 and times["a"] == times["b"] == times["c"]
    sent = {(r.sent_unix_s, r.variant if r.role == "variant" else "A") for job in jobs.values() for r in measured(job)}
    assert "".join(name for _, name in sorted(sent)) == "AabccbaAAabccbaA"
    for job in jobs.values():
        assert [r.block for r in measured(job)] == list(range(1, 9))
        assert [(r.prompt_id, r.seed) for r in measured(job, "variant")] == [
            (r.prompt_id, r.seed) for r in measured(job, "baseline")
        ]
        assert [r.order for r in job.latency] == list(range(1, len(job.latency) + 1))
        assert len(job.replicate["blocks"]) == 8 and job.replicate["baseline_shared_by"] == 3
        assert len(read_resources(job.out / "resources.jsonl")) == job.replicate["sampling"]["samples"] > 1


def measured(job, *roles):
    return [r for r in job.latency if not r.warmup and r.role in (roles or ("variant", "baseline"))]


def test_a_few_variants_share_the_baselines_requests_and_many_do_so_in_sets_of_like_size():
    assert [len(together) for together in sets_of(range(6))] == [6]
    sets = sets_of(range(20))
    assert [len(together) for together in sets] == [5, 5, 5, 5]
    assert sorted(turn for together in sets for turn in together) == list(range(20)) and sets[0][0] == 0


def test_variants_may_share_the_baselines_own_server(tmp_path):
    jobs, processes = samplers(tmp_path, of_baseline=True)
    for job in jobs.values():
        job.run()
    assert _servers(processes) == 1
    for steps, job in enumerate(jobs.values(), start=2):
        assert job.outcome["status"] == "ok" and job.replicate["shared_server"]
        assert job.replicate["servers"].keys() == {"variant"} and job.replicate["servers"]["variant"]["cpu_s"] >= 0
        assert job.replicate["servers"]["variant"]["first_image_of"] == "a"
        assert {len(r.step_s) for r in measured(job, "variant")} == {steps}
        assert {len(r.step_s) for r in measured(job, "baseline")} == {4}
        assert {level["level"] for level in job.replicate["levels"]} == {1, 2}


def test_more_variants_than_share_the_baseline_take_turns_on_the_same_servers(tmp_path):
    jobs, processes = samplers(tmp_path, names="abcdefg")
    for job in jobs.values():
        job.run()
    assert _servers(processes) == 2 and {job.outcome["status"] for job in jobs.values()} == {"ok"}
    found = {name: job.replicate for name, job in jobs.items()}
    assert {"".join(each["turns"]) for each in found.values()} == {"acegbdf"}
    assert [found[name]["baseline_shared_by"] for name in "acegbdf"] == [4, 4, 4, 4, 3, 3, 3]
    assert [sum(r.warmup and r.role == "baseline" for r in jobs[name].latency) for name in "acegbdf"] == [
        2,
        *[0] * 3,
        1,
        0,
        0,
    ]
    assert len({r.sent_unix_s for job in jobs.values() for r in measured(job, "baseline")}) == 2 * 4


def test_a_server_that_falls_while_latencies_are_measured_has_each_variant_go_alone(tmp_path):
    jobs, processes = samplers(tmp_path, fault="exit", at=13)  # 4 of warm-up, 12 of blocks; alone, a variant asks 17
    jobs["a"].run()
    assert _servers(processes) == 4 and jobs["a"].outcome["status"] == "failed"
    assert "measured before" not in jobs["b"].run()
    assert jobs["b"].replicate["turns"] == ["b"] and len(measured(jobs["b"], "baseline")) == 4


def test_a_server_that_one_variant_brings_down_costs_the_others_nothing(tmp_path):
    jobs, processes = samplers(tmp_path, fault="exit", at=30)  # a has had its load, b is in its own
    for job in jobs.values():
        job.run()
    assert [job.outcome["reason"] for job in jobs.values()] == [None, None, None]
    assert [len(job.replicate["turns"]) for job in jobs.values()] == [3, 1, 1]
    assert _servers(processes) == 6  # two for all together, then two for each of b and c alone


def test_the_job_that_brings_it_down_takes_nothing_from_those_before(tmp_path):
    jobs, processes = samplers(tmp_path, fault="exit", at=30)
    assert "goes alone" in jobs["b"].run() and not jobs["a"].out.exists()
    assert "measured before" in jobs["a"].run()
    assert "measured before" not in jobs["c"].run()
    assert [len(job.replicate["turns"]) for job in jobs.values()] == [3, 1, 1]


def test_a_turn_that_has_ended_outlives_the_job_that_was_killed(tmp_path):
    jobs, processes = samplers(tmp_path, service_s=[0.03])
    job = jobs["b"].start()
    wait_for(lambda: list((tmp_path / "shared" / "benchmark" / "done").glob("*/replicate.json")))
    job.process.kill()
    job.process.communicate()
    note(tmp_path, jobs)
    assert "measured before" in jobs["a"].run()
    assert jobs["a"].outcome["status"] == "ok" and jobs["a"].latency and _servers(processes) == 2


def test_what_was_put_aside_for_other_code_or_from_another_artifact_is_not_taken(tmp_path):
    jobs, processes = samplers(tmp_path, names=("a", "b"))
    jobs["a"].run()
    note(tmp_path, {"b": jobs["b"]}, code="other code")
    assert not list((tmp_path / "shared" / "benchmark" / "done").iterdir())

    note(tmp_path, jobs)
    jobs["a"].run()
    manifest = jobs["b"].artifact / "manifest.json"
    manifest.write_text(json.dumps({"outcome": OK, "converted": "again"}))
    assert "measured before" not in jobs["b"].run()
    assert _servers(processes) == 6


def test_what_a_killed_run_has_put_aside_is_taken_by_the_next(tmp_path):
    jobs, processes = samplers(tmp_path, names=("a", "b"))
    jobs["a"].run()
    note(tmp_path, {"b": jobs["b"]})
    assert "measured before" in jobs["b"].run() and _servers(processes) == 2


# --- variants that have servers of their own, beside one baseline's ---


def engines(folder, behaviours, baseline=None):
    """Jobs of variants with an artifact each, that does as `behaviours` says, noted as the workflow does it."""
    processes, jobs = folder / "processes", {}
    for name, behaviour in behaviours.items():
        noted = {"processes": str(processes)}
        spec = spec_of({**noted, **behaviour}, {**noted, **(baseline or {})}, timeout_s=8)
        spec["variant"] = {**spec["variant"], "name": name}
        spec["variant_artifact"] = {**spec["variant_artifact"], "name": name}
        jobs[name] = Job(folder, spec, name=f"{name}/replicate-1", artifact=name)
        jobs[name].spec = spec
    note(folder, jobs)
    return jobs, processes


def test_variants_with_servers_of_their_own_share_the_baselines(tmp_path):
    jobs, processes = engines(tmp_path, {name: {"service_s": [0.01 + place / 100]} for place, name in enumerate("abc")})
    jobs["b"].run()
    assert _servers(processes) == 4
    for name in "ac":
        assert "measured before" in jobs[name].run()
    assert _servers(processes) == 4
    found = {name: job.replicate for name, job in jobs.items()}
    for place, (name, job) in enumerate(jobs.items()):
        assert job.outcome["status"] == "ok" and found[name]["turns"] == [name] and found[name]["warmup"] == 2
        assert found[name]["servers"].keys() == {"variant", "baseline"}
        assert found[name]["inputs"]["artifact"] == digest_file(job.artifact / "manifest.json")
        assert all(
            sum((r.prompt_encode_s, *r.step_s, r.decode_s)) >= 0.01 + place / 100 for r in measured(job, "variant")
        )
        assert len(measured(job, "baseline")) == len(measured(job, "variant")) == 4
        assert {level["level"] for level in found[name]["levels"]} == {1, 2}
    # The baseline is warm when the second comes, and its requests are each one's own.
    assert [sum(r.warmup and r.role == "baseline" for r in job.latency) for job in jobs.values()] == [2, 1, 1]
    assert len({r.sent_unix_s for job in jobs.values() for r in measured(job, "baseline")}) == 3 * 4
    assert len({found[name]["servers"]["baseline"]["start_s"] for name in "abc"}) == 1


@pytest.mark.parametrize(
    "problem",
    [
        {"fault": "exit", "at": 2},  # in warm-up
        {"fault": "exit", "at": 5},  # in the blocks
        {"load_s": 3600},
        {"fault": "exit", "at": 9},  # under load
        {"problem": "no such file", "status": "failed"},
        {"problem": "no such instruction", "status": "unsupported"},
    ],
)
def test_a_server_that_fails_costs_no_variant_on_another_anything(tmp_path, problem):
    jobs, processes = engines(tmp_path, {"a": {}, "b": problem, "c": {}, "d": {}})
    assert "goes alone" in jobs["d"].run()
    assert _servers(processes) == 6  # each once, and the baseline's anew after that; ours was measured
    for name in "ac":
        assert "measured before" in jobs[name].run()
    assert {jobs[name].outcome["status"] for name in "acd"} == {"ok"}
    jobs["b"].run()
    assert jobs["b"].outcome["status"] == problem.get("status", "failed") and _servers(processes) == 8


def test_a_baseline_that_does_not_load_is_started_once_for_all_and_fails_each(tmp_path):
    jobs, processes = engines(tmp_path, {"a": {}, "b": {}}, {"problem": "no such file", "status": "failed"})
    jobs["b"].run()
    assert "no such file" in jobs["b"].outcome["reason"] and _servers(processes) == 2 + 2
    jobs["a"].run()
    assert "no such file" in jobs["a"].outcome["reason"] and _servers(processes) == 4 + 2


def test_the_servers_of_one_baseline_take_turns_in_another_order_in_each_replicate(tmp_path):
    def order(replicate):
        jobs, _ = engines(tmp_path, {name: {} for name in "abc"})
        specs = [{**job.spec, "replicate": replicate} for job in jobs.values()]
        for name in "xy":
            own = {"variant_artifact": specs[0]["baseline_artifact"], "replicate": replicate}
            specs.append({**specs[0], **own, "variant": {**specs[0]["variant"], "name": name}})
        parts = [SimpleNamespace(spec=spec) for spec in specs]
        return "".join(part.spec["variant"]["name"] for part in benchmark.in_turn(parts))

    assert [order(replicate) for replicate in (1, 2, 3, 4)] == ["xyabc", "yxbca", "xycab", "yxabc"]


def test_a_baseline_that_falls_is_started_anew_for_the_next_variant(tmp_path):
    jobs, processes = engines(tmp_path, {"a": {}, "b": {}, "c": {}}, {"fault": "exit", "at": 9})  # b's third
    assert "goes alone" in jobs["c"].run()
    assert "measured before" in jobs["a"].run() and _servers(processes) == 5
    jobs["b"].run()
    assert {job.outcome["status"] for job in jobs.values()} == {"ok"} and _servers(processes) == 7


def test_a_variant_that_hangs_ends_the_others_turns_after_one_time_limit(tmp_path):
    jobs, processes = engines(tmp_path, {"a": {}, "b": {"fault": "hang", "at": 5}, "c": {}})
    began_s = time.monotonic()
    assert "did not end within its time limit of 8 s" in jobs["c"].run()
    assert time.monotonic() - began_s < 2 * 8 + 8  # a's end began a new limit; then c alone
    assert jobs["c"].outcome["status"] == "ok" and "measured before" in jobs["a"].run()


def test_an_artifact_that_is_not_there_or_failed_is_left_to_its_own_job(tmp_path):
    jobs, processes = engines(tmp_path, {name: {} for name in "abcde"})
    (jobs["b"].artifact / "manifest.json").unlink()
    (jobs["d"].artifact / "manifest.json").write_text("{}")
    jobs["e"].spec["environments"]["variant"] = "no-such-lock"
    note(tmp_path, jobs)
    refused = {"status": "failed", "reason": "parity: 3 dB", "stage": "convert", "attempt": 0}
    (jobs["c"].artifact / "manifest.json").write_text(json.dumps({"outcome": refused}))
    jobs["a"].run()
    assert jobs["a"].outcome["status"] == "ok" and _servers(processes) == 2
    jobs["c"].run()
    assert jobs["c"].outcome["reason"] == "convert: parity: 3 dB"


@pytest.mark.parametrize(("room", "together"), [(True, [2, 2, 1]), (False, [2, 1, 1, 1])])
def test_servers_start_two_by_two_where_there_is_memory(tmp_path, monkeypatch, room, together):
    starts, ready = [], []

    def start(launch, _):
        starts.append((launch.name, len(ready)))
        return SimpleNamespace(
            launch=launch, processes=[os.getpid()], check=lambda: None, process=SimpleNamespace(pid=0)
        )

    monkeypatch.setattr(pool.servers, "start", start)
    monkeypatch.setattr(pool.servers, "wait_until_ready", lambda server, _: ready.append(server.launch.name))
    monkeypatch.setattr(pool.servers, "stop", lambda *_: None)
    monkeypatch.setattr(pool.monitor, "available_bytes", lambda: 1e12 if room else 0)
    launches = [Launch(name, "torch", tmp_path, {}, tmp_path) for name in "Babcd"]
    with closing(pool.Pool([launches[0], launches[0], *launches[1:]], None, 60)) as servers:
        for launch in launches:
            assert servers.server(launch).launch is launch
            servers.server(launches[0])
    assert [name for name, _ in starts] == list("Babcd")
    assert [len(list(group)) for _, group in groupby(starts, key=lambda start: start[1])] == together


def test_a_server_that_goes_on_settles_before_the_next_turns(tmp_path, monkeypatch):
    program = "import time\nend_s = time.monotonic() + 1.5\nwhile time.monotonic() < end_s: pass\ntime.sleep(60)"
    busy = subprocess.Popen([sys.executable, "-c", program])
    server = SimpleNamespace(processes=[busy.pid], check=lambda: None)
    monkeypatch.setattr(pool.servers, "start", lambda *_: server)
    monkeypatch.setattr(pool.servers, "wait_until_ready", lambda *_: None)
    monkeypatch.setattr(pool.servers, "stop", lambda *_: busy.kill())
    launch = Launch("baseline", "torch", tmp_path, {}, tmp_path)
    with closing(pool.Pool([launch], None, 60)) as servers:
        servers.settle(launch, 60)  # not started: nothing to wait for
        servers.server(launch)
        wait_for(lambda: monitor.exact_cpu_s([busy.pid]) > 0.2)
        servers.settle(launch, 60)
        used_s = monitor.exact_cpu_s([busy.pid])
        time.sleep(0.2)
        assert monitor.exact_cpu_s([busy.pid]) - used_s < 0.05
    busy.wait()


def test_on_a_gpu_only_variants_on_one_server_are_measured_together():
    spec = spec_of(target={"name": "local", "device": "cuda", "threads": 1})
    other = {**spec, "variant_artifact": {**spec["variant_artifact"], "precision": "bf16"}}
    assert sharing.baseline_of(spec) != sharing.baseline_of(other)
    assert sharing.baseline_of(spec) == sharing.baseline_of({**spec, "variant": {**spec["variant"], "steps": 9}})


def test_which_jobs_share_which_servers():
    spec = spec_of()
    same = sharing.baseline_of(spec), sharing.server_of(spec)
    for alike in (
        {"variant": {**spec["variant"], "name": "other", "steps": 9, "scheduler": "unipc"}},
        {"attempt": 3, "timeout_s": 1},
    ):
        assert (sharing.baseline_of({**spec, **alike}), sharing.server_of({**spec, **alike})) == same, alike
    for own_server in (
        {"variant_artifact": {**spec["variant_artifact"], "precision": "bf16"}},
        {"variant": {**spec["variant"], "batching": {"max_batch": 4, "max_wait_ms": 5}}},
        {"variant": spec["baseline"]},
        {"environments": {**spec["environments"], "variant": "openvino"}},
    ):
        changed = {**spec, **own_server}
        assert sharing.baseline_of(changed) == same[0] and sharing.server_of(changed) != same[1], own_server
    for apart in (
        {"replicate": 2},
        {"baseline_artifact": {**spec["baseline_artifact"], "precision": "bf16"}},
        {"environments": {**spec["environments"], "baseline": "openvino"}},
        {"protocol": {**spec["protocol"], "requests": 5}},
        {"prompts": {**spec["prompts"], "digest": "other"}},
    ):
        assert sharing.baseline_of({**spec, **apart}) != same[0], apart
