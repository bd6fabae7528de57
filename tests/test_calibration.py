"""The calibration: what its verdicts say of simulated machines with a known truth, and how it plants a slow-down."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import simulation
import synthetic
from diffsweep.analysis import calibration, stats
from diffsweep.analysis.calibration import Comparison, Preset, Scenario
from diffsweep.analysis.stats import Estimate
from diffsweep.measure.records import CorruptRecords, RecordWriter
from diffsweep.sweep.plan import PRESETS
from signed import sign_records

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import calibrate  # noqa: E402
import report_calibration  # noqa: E402
import serve_slowed  # noqa: E402

QUIET = simulation.Machine(process=0.005, request=0.03)


def scenario(name: str, slowdown: float, replicates: int, machine=QUIET, seed: int = 0) -> Scenario:
    rng = np.random.default_rng(seed)
    ratios = simulation.log_ratios(machine, rng, simulations=1, replicates=replicates, requests=16)[0]
    return Scenario(name, slowdown, False, list(ratios - np.log1p(slowdown)))


AA = scenario("aa", 0.0, 200)
DEFAULT, PUBLISH = (Preset(p["replicates"], p["aa_replicates"]) for p in (PRESETS["default"], PRESETS["publish"]))


def test_a_quiet_machine_claims_no_difference_between_equals():
    judged = calibration.comparisons(AA, AA, Preset(5, 12))
    assert len(judged) == 40
    assert calibration.is_fit(judged)
    assert set(calibration.count_verdicts(judged)) <= {stats.WITHIN_NOISE, stats.CANNOT_TELL, stats.REGRESSED}


def test_a_planted_slowdown_is_found_and_has_its_size():
    slower = scenario("slower", 0.10, 40, seed=1)
    judged = calibration.comparisons(slower, AA, Preset(5, 12))
    assert len(judged) == 8
    assert {c.verdict for c in judged} == {stats.REGRESSED}
    assert calibration.slowdown_of(stats.speedup(slower.log_ratios)).value == pytest.approx(0.10, abs=0.01)


def test_power_grows_with_the_slowdown_and_with_the_replicates():
    powers = {s: calibration.power(scenario("s", s, 30, seed=2), AA, DEFAULT) for s in (0.005, 0.02, 0.10)}
    assert powers[0.005] < powers[0.02] <= powers[0.10]
    assert powers[0.10] >= 0.95
    more = calibration.power(scenario("s", 0.02, 30, seed=2), AA, PUBLISH)
    assert more > powers[0.02]
    assert calibration.power(scenario("s", 0.1, 4), AA, DEFAULT) is None


def test_the_floor_of_an_aa_comparison_is_never_its_own():
    quiet, wild = [0.0, 0.001, -0.001], [0.5, -0.5, 0.1]
    aa = Scenario("aa", 0.0, False, [*quiet, *wild])
    first, second = calibration.comparisons(aa, aa, Preset(3, 3))
    assert first.threshold > 1  # judged by the wild one's noise
    assert second.threshold == stats.LEAST_THRESHOLD


def test_the_smallest_slowdown_found_is_one_that_all_larger_ones_follow():
    assert calibration.smallest_found({0.02: 0.2, 0.05: 0.96, 0.1: 1.0}) == 0.05
    assert calibration.smallest_found({0.02: 0.97, 0.05: 0.5, 0.1: 1.0}) == 0.1
    assert calibration.smallest_found({0.05: 0.5, 0.1: 0.9}) is None
    assert calibration.smallest_found({0.05: 1.0, 0.1: None}) is None


@pytest.mark.parametrize(("wrong", "fit"), [(0, True), (2, True), (3, False)])
def test_at_most_five_per_cent_of_equals_may_be_called_different(wrong, fit):
    one = Estimate(1.0, 0.9, 1.1)
    judged = [Comparison(one, 0.01, stats.IMPROVED if i < wrong else stats.CANNOT_TELL) for i in range(40)]
    assert calibration.is_fit(judged) is fit


def test_a_slowdown_is_the_inverse_of_a_speedup():
    slower = calibration.slowdown_of(Estimate(0.8, 0.5, 1.0))
    assert (slower.value, slower.low, slower.high) == pytest.approx((0.25, 0.0, 1.0))


# --- the report -----------------------------------------------------------------------------------------------------


def record_scenario(folder: Path, slowdown: float, replicates: int, rng: np.random.Generator) -> None:
    """Replicates as scripts/calibrate.py leaves them: four steps of 20 ms, with 1 % of noise."""
    for number in range(1, replicates + 1):
        sides = [(0.02 * (1 + share) * (1 + 0.01 * rng.random((8, 4)))).tolist() for share in (slowdown, 0.0)]
        notes = {"outcome": {"status": "ok", "reason": None, "stage": "benchmark"}, "replicate": number}
        notes |= {"seconds": {"latency": 2.0}, "sampling": {"hz": 4.0, "cost_cpu_s": 0.003}, "blocks": [{}] * 16}
        notes |= {"host": {"cpu": {"model": "a processor", "cores": 2}}, "disturbed_blocks": []}
        where = folder / f"replicate-{number}"
        where.mkdir(parents=True)
        (where / "replicate.json").write_text(json.dumps(notes))
        with RecordWriter(where / "latency.jsonl") as writer:
            for record in synthetic.records_of_steps(*sides, replicate=number):
                writer.append(record)


def test_the_report_says_what_the_machine_can_tell(tmp_path):
    folder, rng = tmp_path / "calibration", np.random.default_rng(0)
    scenarios = [("aa", 0.0, False, 12), ("slower-0.1", 0.1, False, 6), ("disturbed-aa", 0.0, True, 2)]
    for name, slowdown, _, replicates in scenarios:
        record_scenario(folder / name, slowdown, replicates, rng)
    keys = ("name", "slowdown", "disturbed", "replicates")
    spec = {"replicate": {"model": {"name": "reference"}, "target": {"name": "local"}}}
    spec["scenarios"] = [dict(zip(keys, scenario, strict=True)) for scenario in scenarios]
    document = {"outcome": {"status": "ok"}, "spec": spec, "failures": ["slower-0.1, replicate 7: ran out of memory"]}
    (folder / "calibration.json").write_text(json.dumps(document))
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"protocol": {"replicates": 2, "aa_replicates": 4}}))
    program = Path(calibrate.__file__).with_name("report_calibration.py")
    subprocess.run([sys.executable, program, "--plan", plan, "--calibration", folder], check=True)
    page = (folder / "report.html").read_text()
    assert "This machine tells differences of" in page and "0.15 % of one core" in page
    assert "Two servers of the same artifact were compared 6 times: 0 " in page
    assert "1 replicate failed and is left out: slower-0.1, replicate 7" in page
    with open(folder / "calibration.csv", newline="") as handle:
        table = {row["scenario"]: row for row in csv.DictReader(handle)}
    assert table["slower-0.1"]["regressed"] == "3" and table["aa"]["within noise"] == "6"
    assert (folder / "power.svg").exists() and (folder / "aa.png").exists()


def test_a_calibration_is_not_judged_from_records_that_were_changed(tmp_path):
    record_scenario(tmp_path, 0.1, 1, np.random.default_rng(0))
    sign_records(tmp_path / "replicate-1")
    assert len(report_calibration.read_scenario(tmp_path)) == 1
    path = tmp_path / "replicate-1/latency.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(CorruptRecords, match="latency.jsonl: is not the file that was made"):
        report_calibration.read_scenario(tmp_path)


# --- recording ------------------------------------------------------------------------------------------------------


def test_replicates_of_all_scenarios_are_evenly_mixed():
    scenarios = [{"name": "many", "replicates": 6}, {"name": "few", "replicates": 2}]
    names = [s["name"] for s, _ in calibrate.in_turn(scenarios)]
    assert names.count("few") == 2 and names.index("few") < 4 and "few" in names[4:]
    assert [n for s, n in calibrate.in_turn(scenarios) if s["name"] == "many"] == [1, 2, 3, 4, 5, 6]


def test_records_by_another_protocol_are_removed_and_by_the_same_kept(tmp_path):
    calibrate.keep_only_this({"replicate": {"requests": 15}, "scenarios": []}, tmp_path)
    (tmp_path / "aa").mkdir()
    calibrate.keep_only_this({"replicate": {"requests": 15}, "scenarios": [{"name": "aa"}]}, tmp_path)
    assert (tmp_path / "aa").exists()
    calibrate.keep_only_this({"replicate": {"requests": 20}, "scenarios": [{"name": "aa"}]}, tmp_path)
    assert not (tmp_path / "aa").exists()


class Clock:
    """A clock that only work moves; each look at it takes a microsecond, so that waiting ends."""

    def __init__(self):
        self.now_s = 100.0

    def perf_counter(self) -> float:
        self.now_s += 1e-6
        return self.now_s


def test_the_planted_slowdown_is_in_proportion(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(serve_slowed, "time", clock)

    def work(duration_s: float) -> None:
        clock.now_s += duration_s

    modules = {name: SimpleNamespace(forward=work, decode=work) for name in ("text_encoder", "unet", "vae")}
    pipeline = SimpleNamespace(**modules)
    slowdown = serve_slowed.slowed_pipeline(pipeline, 0.05)
    slowdown.begin()
    started_s = clock.now_s
    pipeline.text_encoder.forward(0.1)
    for _ in range(10):
        clock.now_s += 0.02  # the scheduler's part of a step
        pipeline.unet.forward(0.1)
    pipeline.vae.decode(0.2)
    assert clock.now_s - started_s == pytest.approx(1.5 * 1.05, rel=1e-3)
