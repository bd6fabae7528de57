"""The summary from synthetic results of known truth: right numbers, nothing silent."""

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import synthetic
from diffsweep.analysis import latency, load, summary
from diffsweep.analysis.cells import read_cells
from diffsweep.analysis.stats import Estimate
from diffsweep.measure.records import read_capacity, read_latency
from synthetic import Failure
from test_records import LATENCY

PROJECT = Path(__file__).resolve().parents[1]

CONTRACT = """
    model target variant parent change engine precision scheduler steps status reason requests latency_e2e_mean_s
    latency_e2e_p50_s latency_e2e_p95_s latency_e2e_p99_s latency_sampling_p50_s latency_step_p50_s speedup speedup_low
    speedup_high verdict images_per_s usd_per_1000_images_on_demand usd_per_1000_images_spot usd_per_hour_on_demand
    usd_per_hour_spot peak_memory_bytes artifact_bytes build_s images fid fid_low fid_high clip_score clip_score_low
    clip_score_high defects
"""
WITH_INTERVAL = [name for name in CONTRACT.split() if name.startswith("latency_")]
FEW = {name: synthetic.DEFAULT_VARIANTS[name] for name in ("fp32", "onnxruntime", "ddim-10", "int8")}


def small_plan(**options) -> dict:
    return synthetic.make_plan(synthetic.make_variants(FEW), **{"images": 30, **options})


def rows_of(folder: Path, plan: dict, **options) -> dict[str, dict]:
    """variant -> row, from freshly written results."""
    sweep = synthetic.make_results(folder, plan, pictures=False, **options)
    return rows_in(sweep, plan)


def rows_in(sweep: Path, plan: dict, machines: dict | None = None) -> dict[str, dict]:
    cells = list(read_cells(plan, sweep, sweep.parent / "artifacts", machines))
    return {row["variant"]: row for row in summary.summarise(plan, cells)}


def aggregate(sweep: Path, plan: Path | None = None, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, PROJECT / "scripts" / "aggregate.py", "--plan", plan or sweep / "plan.json", *options]
    command += ["--results", sweep, "--artifacts", sweep.parent / "artifacts", "--out", sweep]
    return subprocess.run(command, text=True, capture_output=True)


# --- the numbers ---


def test_the_contract_is_kept(tmp_path):
    row = rows_of(tmp_path, small_plan())["onnxruntime"]
    missing = set(CONTRACT.split()) | {f"{name}_{end}" for name in WITH_INTERVAL for end in ("low", "high")}
    assert not missing - set(row)
    assert row["requests"] == 72
    assert row["status"] == "ok"
    assert row["reason"] is None


def test_speedups_hold_the_truth(tmp_path):
    """Over 5 sweeps of 3 compared variants at most 2 of the 15 intervals may miss (95 % each: 1 in 27 does so more)."""
    plan, missed = small_plan(), 0
    for seed in range(5):
        rows = rows_of(tmp_path / str(seed), plan, seed=seed)
        for name in ("onnxruntime", "ddim-10", "int8"):
            truth, row = synthetic.true_speedup(plan, name), rows[name]
            assert row["speedup"] == pytest.approx(truth, rel=0.08)
            missed += not row["speedup_low"] <= truth <= row["speedup_high"]
    assert missed <= 2


def test_the_baseline_beside_a_variant_is_not_that_of_other_minutes(tmp_path):
    """Where the host is slower while a variant is measured, both sides are; the baseline's own row does not know."""
    plan = small_plan()
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    cells = list(read_cells(plan, sweep, sweep.parent / "artifacts"))
    slow = next(cell for cell in cells if cell.name == "onnxruntime")
    slower = [replace(r, latency=[replace(x, e2e_s=2 * x.e2e_s) for x in r.latency]) for r in slow.replicates]
    cells[cells.index(slow)] = replace(slow, replicates=slower)
    rows = {row["variant"]: row for row in summary.summarise(plan, cells)}
    row, own_s = rows["onnxruntime"], rows["fp32"]["latency_e2e_p50_s"]
    assert row["speedup_baseline_p50_s"] == pytest.approx(2 * own_s, rel=0.1)
    ratio = row["speedup_baseline_p50_s"] / row["latency_e2e_p50_s"]
    assert ratio == pytest.approx(row["speedup"], rel=0.1)


def test_verdicts_follow_from_the_a_a_test(tmp_path):
    rows = rows_of(tmp_path, small_plan(replicates=12))
    assert rows["fp32"]["verdict"] == "within noise"
    assert rows["onnxruntime"]["verdict"] == "improved"
    assert rows["int8"]["verdict"] == "regressed"
    floor = rows["fp32"]["noise_floor"]
    assert floor == pytest.approx(math.sqrt(rows["fp32"]["speedup_high"] / rows["fp32"]["speedup_low"]) - 1)
    assert {row["threshold"] for row in rows.values()} == {max(0.01, 2 * floor)}


def test_costs_come_from_the_sustained_throughput(tmp_path):
    row = rows_of(tmp_path, small_plan())["onnxruntime"]
    hourly = synthetic.LOCAL["price"]["spot_per_hour"]
    assert row["usd_per_hour_spot"] == hourly
    assert row["usd_per_1000_images_spot"] == pytest.approx(hourly / 3600 / row["images_per_s"] * 1000)
    assert row["usd_per_1000_images_spot_low"] < row["usd_per_1000_images_spot"] < row["usd_per_1000_images_spot_high"]
    # The server does better under load than one client sees: 1 / latency would overstate the cost.
    assert row["images_per_s"] > 1 / row["latency_e2e_mean_s"]


def test_throughput_holds_the_truth(tmp_path):
    plan = small_plan()
    row = rows_of(tmp_path, plan)["onnxruntime"]
    truth = synthetic.truth_of(plan["variants"][1])
    expected = truth.parallel_gain / truth.latency_s(25)
    assert row["sustained_clients"] in (2, 4)
    assert row["images_per_s"] == pytest.approx(expected, rel=0.05)


def test_the_clocks_add_up(tmp_path):
    row = rows_of(tmp_path, small_plan())["fp32"]
    parts = [row[f"clock_{part.removesuffix('_s')}_mean_s"] for part in latency.PARTS]
    assert sum(parts) == pytest.approx(row["latency_e2e_mean_s"])
    assert row["residual_share"] < 0.02


@pytest.mark.parametrize(("share", "told"), [(0.03, True), (-0.03, True), (0.019, False)])
def test_a_residual_of_over_2_per_cent_is_told(share, told):
    records = [replace(LATENCY, order=i, residual_s=share * LATENCY.e2e_s) for i in range(8)]
    sentence = f"the clocks do not add up: {share:.1%} of the end-to-end time is unaccounted for"
    assert latency.warnings([records]) == ([sentence] if told else [])


@pytest.mark.parametrize(
    ("correlation", "told"), [(0.0, None), (0.36, "P99 has no interval"), (0.7, "P90, P95 and P99 have no interval")]
)
def test_quantiles_that_latencies_which_drift_leave_without_an_interval_are_named(correlation, told):
    rng, logs = np.random.default_rng(1), [0.0]
    for _ in range(999):
        logs.append(correlation * logs[-1] + 0.03 * rng.standard_normal())
    records = [replace(LATENCY, order=i, e2e_s=math.exp(log), residual_s=0.0) for i, log in enumerate(logs)]
    assert latency.warnings([records]) == ([f"latency drifts while a replicate runs: {told}"] if told else [])
    found = latency.figures([records], "e2e")
    assert (found["p99"].low is None) == (told is not None)
    assert (found["p95"].low is None) == (told is not None and "P95" in told)


def test_quantiles_are_withheld_below_their_minimum_sample(tmp_path):
    few = rows_of(tmp_path / "few", small_plan(requests=22))["fp32"]
    assert few["requests"] == 66
    assert few["latency_e2e_p95_s"] is None
    assert few["latency_e2e_p90_s"] is not None
    assert few["quantiles_withheld"] == "P95: n < 72; P99: n < 368"
    assert few["latency_e2e_max_s"] is not None
    many = rows_of(tmp_path / "many", small_plan(requests=124))["fp32"]
    assert many["quantiles_withheld"] is None
    assert many["latency_e2e_p99_s_low"] <= many["latency_e2e_p99_s"] <= many["latency_e2e_p99_s_high"]


def test_fronts_are_those_of_the_ok_rows(tmp_path):
    rows = rows_of(tmp_path, small_plan(), failures={"onnxruntime": Failure("score")})
    assert rows["onnxruntime"]["pareto_latency_fid"] is None
    competing = {name: row["pareto_latency_fid"] for name, row in rows.items() if row["status"] == "ok"}
    assert competing["ddim-10"] is True
    assert True in competing.values()


def test_useful_time_counts_both_sides_levels_and_images(tmp_path):
    plan = small_plan()
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    row = rows_in(sweep, plan)["int8"]
    cell = sweep / "reference" / "local" / "int8"
    records = [r for path in sorted(cell.glob("replicate-*/latency.jsonl")) for r in read_latency(path)]
    assert row["useful_requests_s"] == pytest.approx(sum(r.e2e_s for r in records if not r.warmup))
    assert row["useful_images_s"] == json.loads((cell / "images.json").read_text())["seconds"]
    assert row["useful_s"] == pytest.approx(row["useful_requests_s"] + row["useful_levels_s"] + row["useful_images_s"])


def test_requests_to_the_baseline_that_variants_share_count_once(tmp_path):
    plan = small_plan()
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    alone_s = rows_in(sweep, plan)["ddim-10"]["useful_requests_s"]
    baseline_s = 0.0
    for path in (sweep / "reference/local/ddim-10").glob("replicate-*/replicate.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "baseline_shared_by": 4}))
        records = read_latency(path.with_name("latency.jsonl"))
        baseline_s += sum(r.e2e_s for r in latency.measured(records, "baseline"))
    assert rows_in(sweep, plan)["ddim-10"]["useful_requests_s"] == pytest.approx(alone_s - 0.75 * baseline_s)


# --- speed-up ---


def test_an_undisturbed_request_is_put_together_from_undisturbed_parts():
    """Each request lost one of its steps to somebody else; none was undisturbed from end to end."""
    disturbed = [[0.5 if step == number else 0.02 for step in range(4)] for number in range(4)] * 2
    records = synthetic.records_of_steps(variant_steps_s=disturbed, baseline_steps_s=[[0.04] * 4] * 8)
    assert latency.undisturbed_s(latency.measured(records, "variant")) == pytest.approx(0.09)
    assert math.exp(latency.log_ratio(records)) == pytest.approx(0.17 / 0.09)
    assert math.exp(latency.typical_log_ratio(records)) < 0.4


def test_requests_without_clocks_are_compared_as_a_whole():
    records = [replace(r, step_s=None, decode_s=None) for r in synthetic.records_of_steps([[0.09]] * 4, [[0.19]] * 4)]
    assert math.exp(latency.log_ratio(records)) == pytest.approx(2.0)
    assert latency.log_ratio([r for r in records if r.role == "variant"]) is None


def test_a_variant_whose_times_vary_more_is_told():
    ours = Estimate(2.0, 1.9, 2.1)
    assert summary.speedup_warnings(ours, Estimate(1.95, 1.85, 2.05)) == []
    assert summary.speedup_warnings(ours, None) == summary.speedup_warnings(Estimate(2.0), ours) == []
    (told,) = summary.speedup_warnings(ours, Estimate(1.5, 1.4, 1.6))
    assert "vary more than the baseline's: typical requests tell a speed-up of 1.50 (1.40 to 1.60)" in told


def test_both_speedups_are_columns(tmp_path):
    row = rows_of(tmp_path, small_plan())["onnxruntime"]
    assert row["speedup_typical_low"] < row["speedup"] < row["speedup_typical_high"]


# --- load ---


def test_a_level_with_errors_or_a_starved_server_is_not_valid(tmp_path):
    plan = small_plan()
    sweep = synthetic.make_results(tmp_path, plan, pictures=False)
    path = sweep / "reference/local/fp32/replicate-1/capacity.jsonl"
    records = read_capacity(path)
    (level,) = (each for each in load.levels_of([records]) if each.clients == 4)
    assert level.valid
    failed = [replace(r, status="error", error="timeout") if r.client == 0 else r for r in records]
    (broken,) = (each for each in load.levels_of([failed]) if each.clients == 4)
    assert "requests failed" in broken.reason
    idle = [replace(r, sent_s=r.done_s - (r.done_s - r.sent_s) / 2) for r in records]  # clients that wait in between
    (starved,) = (each for each in load.levels_of([idle]) if each.clients == 4)
    assert "Little's law" in starved.reason
    assert load.sustained([broken, starved]) is None


def test_throughput_leaves_the_ramp_out():
    base = dict(schema=1, run="r", model="m", target="t", variant="v", scenario="steps", level=2.0, scheduled_s=None)
    base |= dict(status="ok", error=None, images=1, replicate=1, client=0)
    times = [(0.0, 3.0, False), (0.0, 4.0, False), (3.0, 5.0, True), (4.0, 6.0, True), (5.0, 7.0, True)]
    records = [load.CapacityRecord(**base, sent_s=s, done_s=d, steady=steady) for s, d, steady in times]
    window = load.window_of(records)
    assert (window.seconds, window.images) == (3.0, 3)
    assert window.latencies_s == (2.0, 2.0, 2.0)
    assert load.elapsed_s(records) == 7.0
    assert load.window_of(records[:2]) is None


# --- the program ---


def test_the_program_writes_the_tables(tmp_path):
    plan = small_plan()
    sweep = synthetic.make_results(tmp_path, plan, pictures=False, failures={"int8": Failure("convert")})
    done = aggregate(sweep)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "aggregated 3 ok, 1 failed\n"
    with open(sweep / "summary.csv", newline="") as handle:
        from_csv = list(csv.DictReader(handle))
    table = pq.read_table(sweep / "summary.parquet")
    assert table.column_names == list(from_csv[0])
    assert [row["variant"] for row in from_csv] == table.column("variant").to_pylist() == list(FEW)
    assert from_csv[3]["speedup"] == ""
    assert float(from_csv[1]["speedup"]) == pytest.approx(table.column("speedup").to_pylist()[1])
    requests = pq.read_table(sweep / "tables/latency.parquet")
    assert requests.num_rows == 3 * 3 * (2 * 24 + 2 * 5)
    with open(sweep / "tables/capacity.csv", newline="") as handle:
        levels = list(csv.DictReader(handle))
    assert [row["clients"] for row in levels if row["variant"] == "fp32"] == ["1", "2", "4"]
    (target,) = json.loads((sweep / "tables/targets.json").read_text())
    assert target["noise_floor"] > 0
    assert target["host_unfit"] is None


def test_the_program_works_when_everything_failed(tmp_path):
    plan = small_plan()
    failures = {name: Failure("convert", "unsupported", "no such device") for name in FEW}
    sweep = synthetic.make_results(tmp_path, plan, pictures=False, failures=failures)
    done = aggregate(sweep)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "aggregated 4 unsupported\n"
    assert pq.read_table(sweep / "tables/latency.parquet").num_rows == 0


def test_a_missing_plan_is_one_line(tmp_path):
    sweep = synthetic.make_results(tmp_path, small_plan(), pictures=False)
    done = aggregate(sweep, plan=tmp_path / "nowhere.json")
    assert done.returncode == 1
    assert done.stderr.startswith("aggregate: ")
    assert done.stderr.count("\n") == 1
