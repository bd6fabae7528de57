"""What failed, was not measured, is stale or damaged stands in the summary with its reason."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

import synthetic
from diffsweep.measure import machines
from signed import sign_records
from synthetic import Failure
from test_summary import aggregate, rows_in, rows_of, small_plan

# --- failures and holes ---


@pytest.mark.parametrize(
    ("failure", "status", "reason", "measured", "holes"),
    [
        (
            Failure("convert", "failed", "parity"),
            "failed",
            "convert: parity",
            (),
            ("latency_e2e_p50_s", "fid", "build_s"),
        ),
        (
            Failure("convert", "unsupported", "no GPU"),
            "unsupported",
            "convert: no GPU",
            (),
            ("speedup", "images_per_s"),
        ),
        (Failure("benchmark"), "failed", "benchmark, replicate 1: ran out of memory", ("fid", "build_s"), ("speedup",)),
        (Failure("images"), "failed", "images: ran out of memory", ("speedup", "images_per_s"), ("fid", "clip_score")),
        (Failure("score", reason="3 black"), "failed", "score: 3 black", ("speedup",), ("fid", "quality_verdict")),
    ],
)
def test_a_failed_stage_is_a_row_with_its_reason(tmp_path, failure, status, reason, measured, holes):
    rows = rows_of(tmp_path, small_plan(), failures={"onnxruntime": failure})
    row = rows["onnxruntime"]
    assert (row["status"], row["reason"]) == (status, reason)
    assert all(row[name] is not None for name in measured)
    assert all(row[name] is None for name in holes)
    assert {name: r["status"] for name, r in rows.items() if name != "onnxruntime"} == dict.fromkeys(
        ("fp32", "ddim-10", "int8"), "ok"
    )


def test_a_failed_replicate_fails_the_row_and_leaves_what_the_others_measured(tmp_path):
    row = rows_of(tmp_path, small_plan(), failures={"int8": Failure("benchmark", replicate=2)})["int8"]
    assert (row["status"], row["reason"]) == ("failed", "benchmark, replicate 2: ran out of memory")
    assert (row["replicates"], row["requests"]) == (2, 48)


def test_without_a_baseline_nobody_can_tell(tmp_path):
    rows = rows_of(tmp_path, small_plan(), failures={"fp32": Failure("benchmark")})
    assert rows["fp32"]["verdict"] is None
    assert rows["onnxruntime"]["speedup"] is not None  # its own job has a baseline server
    assert rows["onnxruntime"]["verdict"] == "cannot tell"  # but nobody knows the noise
    assert rows["onnxruntime"]["capacity_speedup"] is None


def test_missing_results_are_named(tmp_path):
    plan = small_plan()
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    (sweep / "reference/local/int8/replicate-3/replicate.json").unlink()
    (sweep / "reference/local/ddim-10/quality.json").unlink()
    rows = rows_in(sweep, plan)
    assert rows["int8"]["reason"] == "benchmark, replicate 3: no result (replicate.json is missing)"
    assert rows["ddim-10"]["reason"] == "score: no result (quality.json is missing)"


def test_a_corrupt_record_is_named_with_its_line_and_not_used(tmp_path):
    plan = small_plan()
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    path = sweep / "reference/local/int8/replicate-1/latency.jsonl"
    path.write_text(path.read_text()[:-40])
    row = rows_in(sweep, plan)["int8"]
    assert row["status"] == "failed"
    assert f"{path}:58: " in row["reason"]
    assert row["replicates"] == 2


def lines_of(change):
    """A damage to a file: other lines than it had."""
    return lambda path: path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def in_line_9(**changes):
    def change(lines: list[str]) -> list[str]:
        return [*lines[:8], json.dumps(json.loads(lines[8]) | changes) + "\n", *lines[9:]]

    return lines_of(change)


NOT_THE_FILE = ": is not the file that was made: its digest differs"
DAMAGE = {
    "cut off after a line": ("latency", lines_of(lambda lines: lines[:57]), NOT_THE_FILE),
    "emptied": ("latency", lines_of(lambda lines: []), NOT_THE_FILE),
    "lines twice": ("latency", lines_of(lambda lines: lines + lines[-6:]), NOT_THE_FILE),
    "another number": ("latency", in_line_9(sent_unix_s=1.0), NOT_THE_FILE),
    "half of the load": ("capacity", lines_of(lambda lines: lines[: len(lines) // 2]), NOT_THE_FILE),
    "another variant's record": (
        "latency",
        in_line_9(variant="fp32"),
        ":9: mixed from two runs: its variant is 'fp32'",
    ),
    "no time": ("latency", in_line_9(e2e_s=0), ":9: e2e_s is 0"),
    "time unknown": ("latency", in_line_9(e2e_s=None), ":9: e2e_s is None"),
    "a negative time": ("latency", in_line_9(e2e_s=-1.0), ":9: e2e_s: Expected `float` >= 0.0"),
    "a step too few": ("latency", in_line_9(step_s=[0.1]), ":9: step_s holds 1 times"),
    "an unknown status": ("latency", in_line_9(status="OK"), ":9: status: Invalid enum value 'OK'"),
    "an unknown role": ("latency", in_line_9(role="varinat"), ":9: role: Invalid enum value 'varinat'"),
    "samples gone": ("resources", Path.unlink, "No such file"),
}


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory):
    """(plan, sweep) with records as they were made."""
    plan = small_plan(replicates=2)
    sweep = synthetic.make_results(tmp_path_factory.mktemp("sweep"), plan, pictures=False)
    replicate = sweep / "reference/local/int8/replicate-1"
    (replicate / "resources.jsonl").touch()
    sign_records(replicate)
    assert rows_in(sweep, plan)["int8"]["status"] == "ok"
    return plan, sweep


@pytest.mark.parametrize(("name", "damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_nothing_is_computed_from_records_that_were_changed(undamaged, name, damage, words):
    plan, sweep = undamaged
    path = sweep / f"reference/local/int8/replicate-1/{name}.jsonl"
    whole = path.read_bytes()
    damage(path)
    row = rows_in(sweep, plan)["int8"]
    path.write_bytes(whole)
    assert row["status"] == "failed" and row["replicates"] == 1
    assert row["reason"].startswith("benchmark, replicate 1: ") and f"{path}" in row["reason"]
    assert words in row["reason"]


def test_results_of_earlier_versions_without_digests_are_read(tmp_path):
    plan = small_plan()
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    for path in sweep.glob("reference/local/*/replicate-*/replicate.json"):
        document = json.loads(path.read_text())
        del document["files"]
        path.write_text(json.dumps(document))
    assert {row["status"] for row in rows_in(sweep, plan).values()} == {"ok"}


@pytest.mark.parametrize("document", ["[]", "{}", '{"outcome": "ok"}'])
def test_a_document_that_is_another_is_named(tmp_path, document):
    plan = small_plan()
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    path = sweep / "reference/local/int8/replicate-2/replicate.json"
    path.write_text(document)
    row = rows_in(sweep, plan)["int8"]
    assert row["reason"] == f"benchmark, replicate 2: {path}: it does not say how the stage ended"


def test_a_corrupt_document_is_named(tmp_path):
    plan = small_plan()
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    (sweep / "reference/local/int8/quality.json").write_text('{"outcome":')
    row = rows_in(sweep, plan)["int8"]
    assert row["status"] == "failed"
    assert "quality.json: not valid JSON" in row["reason"]


def test_records_against_another_baseline_are_stale(tmp_path):
    plan = small_plan()
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    for path in (sweep / "reference/local/int8").glob("replicate-*/replicate.json"):
        path.write_text(path.read_text().replace('"baseline": "fp32"', '"baseline": "old"'))
    row = rows_in(sweep, plan)["int8"]
    assert row["status"] == "stale"
    assert "'old'" in row["reason"]
    assert row["speedup"] is None


def test_replicates_from_a_node_that_was_swapped_since_are_stale(tmp_path):
    """Which machine a partition is, is known from the last replicate there: what came from others does not compete."""
    plan = small_plan()
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    for path in sweep.glob("reference/local/*/replicate-*/replicate.json"):
        old = "int8" in path.parts or path.parts[-3:-1] == ("ddim-10", "replicate-1")
        notes = json.loads(path.read_text())
        when = {"ended_unix_s": notes["ended_unix_s"] + (0 if old else 86400)}
        path.write_text(json.dumps({**notes, **when, "host": {**notes["host"], "cpu": "old" if old else "new"}}))
    for here, stale in (({"local": None}, {"int8", "ddim-10"}), ({}, set())):
        assert aggregate(sweep, None, "--machines", json.dumps(here)).returncode == 0
        with open(sweep / "summary.csv", newline="") as handle:
            rows = {row["variant"]: row for row in csv.DictReader(handle)}
        assert {name for name, row in rows.items() if row["status"] == "stale"} == stale
        assert {name for name, row in rows.items() if row["competes"] == "true"} == rows.keys() - stale
        for name in stale:
            assert rows[name]["reason"] == "benchmark: measured on another machine: CPU was old, is new"
            assert float(rows[name]["speedup"]) > 0  # within a replicate, both were measured on one machine


def test_another_gpu_or_driver_makes_cells_of_that_target_stale(tmp_path):
    plan = small_plan(replicates=2)
    plan["targets"]["local"] = synthetic.LOCAL | {"device": "cuda"}
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    gpus = {"ddim-10": ("A100", "550.1"), "int8": ("H100", "560.2")}
    for path in sweep.glob("reference/local/*/replicate-*/replicate.json"):
        name, driver = gpus.get(path.parts[-3], ("H100", "550.1"))
        notes = json.loads(path.read_text())
        host = {**notes["host"], "cpu": "Xeon", "gpus": [{"name": name, "driver": driver}]}
        path.write_text(json.dumps({**notes, "host": host}))
    here = machines.identity({"cpu": "Xeon", "gpus": [{"name": "H100", "driver": "560.2"}]}, plan["targets"]["local"])
    rows = rows_in(sweep, plan, {"local": here})
    told = {name: (row["status"], row["reason"], row["competes"]) for name, row in rows.items()}
    driver = "GPU driver was 550.1, is 560.2"
    words = {"fp32": driver, "onnxruntime": driver, "ddim-10": f"GPU was A100, is H100; {driver}"}
    stale = {name: ("stale", f"benchmark: measured on another machine: {said}", False) for name, said in words.items()}
    assert told == {**stale, "int8": ("ok", None, True)}


def test_a_host_whose_a_a_test_differs_is_unfit(tmp_path):
    plan = small_plan()
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    for path in (sweep / "reference/local/fp32").glob("replicate-*/latency.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        slower = [r | {"e2e_s": r["e2e_s"] * (1.3 if r["role"] == "variant" else 1)} for r in records]
        path.write_text("".join(json.dumps(r) + "\n" for r in slower))
        sign_records(path.parent)
    rows = rows_in(sweep, plan)
    assert "A/A says different" in rows["onnxruntime"]["host_unfit"]
    assert {row["verdict"] for row in rows.values()} == {"cannot tell"}


def test_a_price_without_a_source_gives_no_cost(tmp_path):
    plan = small_plan()
    plan["targets"]["local"] = synthetic.LOCAL | {"price": synthetic.LOCAL["price"] | {"source": ""}}
    row = rows_of(tmp_path, plan)["fp32"]
    assert row["usd_per_1000_images_spot"] is None
    assert "no cost: the price has no source" in row["warnings"]


def test_noise_and_slow_starts_are_told(tmp_path):
    noisy = replace(synthetic.Truth(), within_spread=0.3)
    row = rows_of(tmp_path, small_plan(), truths={"int8": noisy})["int8"]
    assert "noisy: the interquartile range is" in row["warnings"]
