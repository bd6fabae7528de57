"""Variants that differ only in what a request carries take turns on the same servers."""

import json

from conftest import wait_for
from diffsweep.measure.pairing import sets_of
from diffsweep.measure.records import read_resources
from diffsweep.sweep import sharing
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


def test_only_jobs_that_need_the_same_servers_share_them():
    spec = spec_of()
    same = sharing.servers_of(
        {**spec, "variant": {**spec["variant"], "name": "other", "steps": 9, "scheduler": "unipc"}}
    )
    assert sharing.servers_of(spec) == same == sharing.servers_of({**spec, "attempt": 3, "timeout_s": 1})
    for changed in (
        {"replicate": 2},
        {"variant_artifact": {**spec["variant_artifact"], "precision": "bf16"}},
        {"variant": {**spec["variant"], "batching": {"max_batch": 4, "max_wait_ms": 5}}},
        {"variant": spec["baseline"]},
        {"protocol": {**spec["protocol"], "requests": 5}},
        {"prompts": {**spec["prompts"], "digest": "other"}},
    ):
        assert sharing.servers_of({**spec, **changed}) != same, changed
