"""The words of scripts/explain.py, on notes such as Snakemake's dry run leaves them."""

import json
from types import SimpleNamespace

import pytest

from diffsweep.sweep.explain import Lookup, causes, collect, lines, spec_changes
from explain import packages_of

NOTHING = Lookup({}, {}, {}, {})
OLD_CODE, NEW_CODE = "a" * 16, "b" * 16


def job(rule: str = "benchmark", **changes) -> dict:
    """Notes about a job that would run with the same spec, code and environment as last time."""
    names = {"model": "m", "target": "local", "variant": "v", "replicate": "1"}
    spec = json.dumps({"attempt": 0, "variant": {"name": "v", "steps": 8}})
    inputs = ["results/envs/torch-aaa111.txt"]
    last = {"params": [spec, OLD_CODE], "inputs": inputs, "took_s": 30.0}
    known = {"rule": rule, "wildcards": names, "reasons": ["params have changed"], "missing": False, "updated": []}
    return {**known, "after": [], "params": [spec, OLD_CODE], "inputs": inputs, "last": last, **changes}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({"variant": {"steps": 8}}, {"variant": {"steps": 4}}, ["steps: 8 -> 4"]),
        ({"variant": {"compile": False}}, {"variant": {"compile": True}}, ["compile: off -> on"]),
        ({"images": 64}, {"images": 128}, ["images: 64 -> 128"]),
        ({"protocol": {"warmup": 1}}, {"protocol": {"warmup": 5}}, ["warmup: 1 -> 5"]),
        ({"attempt": 0}, {"attempt": 1}, ["asked for again"]),
        ({"source": "sha256:1"}, {"source": "sha256:2"}, ["the model's files changed"]),
        (
            {"suite": {"path": "p.yaml", "digest": "1"}},
            {"suite": {"path": "p.yaml", "digest": "2"}},
            ["the prompts that are used of p.yaml changed"],
        ),
        (
            {"baseline": {"name": "a", "steps": 8}, "baseline_artifact": {"name": "x"}},
            {"baseline": {"name": "b", "steps": 4}, "baseline_artifact": {"name": "y"}},
            ["baseline: a -> b"],
        ),
        (
            {"variant": {"precision": "fp32"}, "variant_artifact": {"name": "torch-fp32"}},
            {"variant": {"precision": "bf16"}, "variant_artifact": {"name": "torch-bf16"}},
            ["precision: fp32 -> bf16"],
        ),
    ],
)
def test_a_spec_s_changes_in_words(old, new, words):
    assert list(spec_changes(old, new)) == words


def test_code_names_the_files_where_they_were_noted():
    changed = job(params=[job()["params"][0], NEW_CODE])
    assert causes(changed, NOTHING) == ["its code changed"]
    sources = {OLD_CODE: {"a.py": "1", "b.py": "1"}, NEW_CODE: {"a.py": "1", "b.py": "2", "c.py": "1"}}
    assert causes(changed, Lookup(sources, {}, {}, {})) == ["code: b.py, c.py"]


def test_a_lock_names_the_packages_that_moved():
    changed = job(inputs=["results/envs/torch-bbb222.txt"])
    assert causes(changed, NOTHING) == ["envs/torch.lock changed"]
    receipts, locks = {"aaa111": {"idna": "3.11", "numpy": "2.3"}}, {"bbb222": {"idna": "3.12", "numpy": "2.3"}}
    assert causes(changed, Lookup({}, receipts, locks, {})) == ["envs/torch.lock: idna 3.11 -> 3.12"]


def test_a_package_has_one_name_in_locks_and_receipts():
    """A receipt names a package as its metadata does, with underscores; only what moved may be told."""
    lock = "huggingface-hub==2.4.0 \\\n    --hash=sha256:0\nruamel-yaml==1.0\ntorch==2.13.0\n"
    assert packages_of("huggingface_hub==2.4.0\nruamel.yaml==1.0\ntorch==2.13.0+cpu\n") == packages_of(lock)


def test_what_never_ran_is_new_and_what_another_job_makes_anew_is_named():
    assert causes(job(last=None), NOTHING) == ["new"]
    assert causes(job(last=None), Lookup({}, {}, {}, {"v": "old"})) == [
        "new (the settings of 'old', whose results stay under that name)"
    ]
    after = ["results/artifacts/m/torch-fp32/manifest.json", "results/s/m/local/fp32/images.json"]
    assert causes(job(after=after), NOTHING) == ["torch-fp32 is converted again", "fp32 gets new images"]
    assert causes(job(), NOTHING) == ["params have changed"]  # Snakemake's own words where there are no better ones


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ({"status": "failed", "reason": "ran out of memory"}, "asked for again: ran out of memory"),
        ({"status": "ok", "reason": None}, "asked for again: it was measured on another machine"),
        (None, "asked for again"),
    ],
)
def test_what_is_asked_for_again_says_how_it_had_ended(outcome, words):
    spec = json.dumps({"attempt": 1, "variant": {"name": "v", "steps": 8}})
    again = job(params=[spec, OLD_CODE], last={**job()["last"], "outcome": outcome})
    assert causes(again, NOTHING) == [words]


def test_the_replicates_of_a_cell_are_one_line_and_times_add_up():
    replicates = [job(wildcards={**job()["wildcards"], "replicate": str(n)}) for n in (1, 2, 3)]
    new = job("images", last=None)
    drawn = [{**job("plots"), "wildcards": {}}, {**job("report"), "wildcards": {}}, {**job("all"), "wildcards": {}}]
    found = lines([*drawn, new, *replicates], NOTHING)
    assert [(line.stage, line.cell, line.jobs, line.took_s) for line in found] == [
        ("measure", "m/local/v", 3, 90.0),
        ("images", "m/local/v", 1, None),
        ("tables, plots, report", "", 2, 60.0),
    ]


def test_the_tables_name_the_lock_that_renews_them():
    inputs = {"inputs": ["results/envs/workflow-bbb222.txt"]}
    drawn = [{**job(name, **inputs), "wildcards": {}} for name in ("aggregate", "plots")]
    for one in drawn:
        one["last"] = {**one["last"], "inputs": ["results/envs/workflow-aaa111.txt"]}
    [line] = lines(drawn, NOTHING)
    assert (line.stage, line.jobs, line.causes) == ("tables, plots, report", 2, ("envs/workflow.lock changed",))


@pytest.mark.parametrize(
    ("rule", "document", "took_s"),
    [
        ("benchmark", {"seconds": {"warmup": 0.5, "latency": 20.0, "capacity": 9.5}}, 30.0),
        ("images", {"seconds": 12.5}, 12.5),
        ("images", {"seconds": None}, 1.0),  # none were made
        ("benchmark", None, 1.0),  # the document was taken away
        ("score", {"seconds": 3.0}, 3.0),
        ("convert", {"seconds": 3.0}, 1.0),  # shares with nobody: Snakemake's own, which the program's start is part of
    ],
)
def test_what_shared_servers_or_a_pipeline_took_is_told_by_each_document(tmp_path, rule, document, took_s):
    """Snakemake has 1 s for a job that took its results from another one's."""
    path = tmp_path / "document.json"
    if document is not None:
        path.write_text(json.dumps(document))
    last = SimpleNamespace(params=[], input=[], starttime=100.0, endtime=101.0)
    reason = SimpleNamespace(get_names=list, missing_output=[], updated_input=[], updated_input_run=[])
    one = SimpleNamespace(
        rule=SimpleNamespace(name=rule), output=[str(path)], wildcards_dict={}, non_derived_params=[], input=[]
    )
    dag = SimpleNamespace(needrun_jobs=lambda exclude_finished: [one], reason=lambda job: reason)
    persistence = SimpleNamespace(metadata=lambda output: last)
    [notes] = collect(SimpleNamespace(dag=dag, persistence=persistence))
    assert notes["last"]["took_s"] == took_s
