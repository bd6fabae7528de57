"""The calibration: what its verdicts say of simulated machines with a known truth, and how it plants a slow-down."""

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import simulation
import synthetic
from diffsweep.analysis import calibration, stats, verdicts
from diffsweep.analysis.calibration import Comparison, Preset, Replicate, Scenario
from diffsweep.analysis.stats import Estimate
from diffsweep.measure.records import CorruptRecords, RecordWriter
from diffsweep.show import calibration as show
from diffsweep.show.calibration import Calibration
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
    return of_ratios(name, slowdown, ratios - np.log1p(slowdown))


def of_ratios(name: str, slowdown: float, log_ratios) -> Scenario:
    return Scenario(name, slowdown, False, [Replicate(float(ratio)) for ratio in log_ratios])


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(calibration, "DRAWS", 1000)
    monkeypatch.setattr(calibration, "RESAMPLED", 100)


AA = scenario("aa", 0.0, 200)
DEFAULT, PUBLISH = (Preset(p["replicates"], p["aa_replicates"]) for p in (PRESETS["default"], PRESETS["publish"]))


def test_a_quiet_machine_claims_no_difference_between_equals():
    judged = calibration.comparisons(AA, AA, Preset(5, 12))
    assert len(judged) == 40
    assert calibration.is_fit(judged)
    assert set(calibration.count_verdicts(judged)) <= {verdicts.WITHIN_NOISE, verdicts.CANNOT_TELL, verdicts.REGRESSED}


def test_a_planted_slowdown_is_found_and_has_its_size():
    slower = scenario("slower", 0.10, 40, seed=1)
    judged = calibration.comparisons(slower, AA, Preset(5, 12))
    assert len(judged) == 8
    assert {c.verdict for c in judged} == {verdicts.REGRESSED}
    assert calibration.slowdown_of(stats.speedup(slower.log_ratios)).value == pytest.approx(0.10, abs=0.01)


def test_the_floor_of_an_aa_comparison_is_never_its_own():
    quiet, wild = [0.0, 0.001, -0.001], [0.5, -0.5, 0.1]
    aa = of_ratios("aa", 0.0, [*quiet, *wild])
    first, second = calibration.comparisons(aa, aa, Preset(3, 3))
    assert first.threshold > 1  # judged by the wild one's noise
    assert second.threshold == verdicts.LEAST_THRESHOLD


def test_a_comparison_of_pairs_that_stayed_disturbed_gets_no_verdict_as_in_a_sweep():
    def judged(still: int) -> str:
        ours = [Replicate(ratio, {"pairs": 15, "still_disturbed": still}) for ratio in (-0.1, -0.101, -0.099)]
        return calibration.judge(ours, AA.replicates[:15]).verdict

    assert (judged(3), judged(4)) == (verdicts.REGRESSED, verdicts.CANNOT_TELL)


def test_a_comparison_on_a_host_whose_aa_test_differs_gets_no_verdict_as_in_a_sweep():
    ours = of_ratios("slower", 0.1, [-0.1, -0.101, -0.099]).replicates
    apart = of_ratios("aa", 0.0, [-0.03, -0.031, -0.029]).replicates
    assert calibration.judge(ours, apart).verdict == verdicts.CANNOT_TELL


@pytest.mark.parametrize(
    ("verdict", "slowdown", "wrong"),
    [
        (verdicts.IMPROVED, 0.0, True),
        (verdicts.REGRESSED, 0.0, True),
        (verdicts.WITHIN_NOISE, 0.0, False),
        (verdicts.IMPROVED, 0.1, True),
        (verdicts.REGRESSED, 0.1, False),
        (verdicts.WITHIN_NOISE, 0.1, True),
        (verdicts.WITHIN_NOISE, 0.02, False),  # not beyond the threshold of 3 %
        (verdicts.CANNOT_TELL, 0.1, False),
    ],
)
def test_a_verdict_is_wrong_when_it_claims_what_is_not_so(verdict, slowdown, wrong):
    assert calibration.is_wrong(Comparison(Estimate(1.0, 0.9, 1.1), 0.03, verdict), slowdown) is wrong


@pytest.mark.parametrize(("wrong", "of", "fit"), [(0, 40, True), (2, 40, True), (3, 40, False), (0, 39, False)])
def test_at_most_five_per_cent_of_enough_equals_may_be_called_different(wrong, of, fit):
    one = Estimate(1.0, 0.9, 1.1)
    judged = [Comparison(one, 0.01, verdicts.IMPROVED if i < wrong else verdicts.CANNOT_TELL) for i in range(of)]
    assert calibration.is_fit(judged) is fit


def test_nothing_and_next_to_nothing_do_not_make_a_machine_fit():
    one = Estimate(1.0, 0.9, 1.1)
    assert not calibration.is_fit([])
    assert not calibration.is_fit(
        [Comparison(one, 0.01, verdict) for verdict in (verdicts.IMPROVED, verdicts.CANNOT_TELL)]
    )


def test_an_interval_that_misses_the_planted_slowdown_is_told():
    low, high = np.log1p(0.10), np.log1p(0.13)
    assert calibration.misses(of_ratios("slower", 0.0974, -np.linspace(low, high, 30)))
    assert not calibration.misses(of_ratios("slower", 0.115, -np.linspace(low, high, 30)))


# --- power ----------------------------------------------------------------------------------------------------------


def test_power_grows_with_the_slowdown_and_with_the_replicates():
    scenarios = [AA, *(scenario("s", s, 30, seed=2) for s in (0.02, 0.1))]
    default, publish = (calibration.least_found(scenarios, preset) for preset in (DEFAULT, PUBLISH))
    small, middle, large = (calibration.power(default, s).value for s in (0.005, 0.02, 0.10))
    assert small < middle <= large and large >= 0.95
    assert calibration.power(publish, 0.02).value > middle
    assert calibration.found_from(publish).value < calibration.found_from(default).value


def test_too_few_replicates_give_no_power():
    too_few = DEFAULT.replicates + DEFAULT.aa_replicates - 1
    assert calibration.least_found([scenario("aa", 0.0, too_few)], DEFAULT) is None
    assert calibration.least_found([scenario("aa", 0.0, too_few + 1)], DEFAULT) is not None
    assert calibration.power(None, 0.1) is None and calibration.found_from(None) is None


@pytest.mark.parametrize("preset", [DEFAULT, PUBLISH])
def test_simulated_sweeps_are_judged_as_recorded_ones(preset):
    """Slower by more than the least slow-down is called regressed, by less is not, and where it is infinite nothing."""
    rng = np.random.default_rng(3)

    def sweeps(replicates: int) -> np.ndarray:
        ratios = 0.02 * rng.standard_normal((200, replicates))
        return np.stack([ratios, np.full_like(ratios, 15), rng.integers(0, 7, ratios.shape)], axis=-1)

    def verdict(ours: np.ndarray, aa: np.ndarray, slower: float) -> str:
        sides = [[Replicate(r, {"pairs": p, "still_disturbed": d}) for r, p, d in side] for side in (ours, aa)]
        return calibration.judge([Replicate(o.log_ratio - slower, o.repeats) for o in sides[0]], sides[1]).verdict

    ours, aa = sweeps(preset.replicates), sweeps(preset.aa_replicates)
    aa[::7, :, 0] += 0.05  # hosts that are unfit
    least = calibration.least_called_regressed(ours, aa)
    assert 20 < np.isinf(least).sum() < 180
    for mine, other, slowdown in zip(ours, aa, least, strict=True):
        if np.isinf(slowdown):
            assert verdict(mine, other, 1.0) == verdicts.CANNOT_TELL
        else:
            assert verdict(mine, other, slowdown + 1e-9) == verdicts.REGRESSED
            assert verdict(mine, other, slowdown - 1e-9) != verdicts.REGRESSED


def test_the_interval_of_a_power_holds_the_true_one():
    """Simulated recordings of a machine whose power is known from many sweeps."""
    rng = np.random.default_rng(4)

    def noise(*shape: int) -> np.ndarray:
        return 0.02 * rng.standard_t(5, shape)

    sweeps = zip(noise(4000, 5) - np.log1p(0.08), noise(4000, 15), strict=True)
    judged = [calibration.judge(*(of_ratios("", 0.0, side).replicates for side in sweep)).verdict for sweep in sweeps]
    truth = judged.count(verdicts.REGRESSED) / len(judged)
    held = 0
    for seed in range(40):
        recorded = [of_ratios("aa", 0.0, noise(150)), *(of_ratios("s", s, noise(30)) for s in (0.02, 0.03, 0.05, 0.1))]
        power = calibration.power(calibration.least_found(recorded, DEFAULT, seed), 0.08)
        held += power.low <= truth <= power.high
    assert held >= 35


def test_power_does_not_count_one_lucky_scenario_for_more_than_it_is():
    """Six comparisons of replicates that happen to lie close together and far out are not a power of 100 %."""
    rng = np.random.default_rng(5)
    lucky = of_ratios("slower", 0.05, -0.09 + 0.001 * rng.standard_normal(30))
    wide = of_ratios("aa", 0.0, 0.03 * rng.standard_normal(200))
    assert calibration.power(calibration.least_found([wide, lucky], DEFAULT), 0.05).high < 0.8


def test_an_exact_interval_of_a_share():
    """Clopper and Pearson; 3 / n is the rule of three."""
    assert stats.share_interval(0, 40) == Estimate(0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 40)))
    assert stats.share_interval(6, 6) == Estimate(1.0, pytest.approx(0.025 ** (1 / 6)), 1.0)
    some = stats.share_interval(4, 6)
    assert (some.low, some.high) == pytest.approx((0.2228, 0.9567), abs=1e-4)


def test_a_slowdown_is_the_inverse_of_a_speedup():
    slower = calibration.slowdown_of(Estimate(0.8, 0.5, 1.0))
    assert (slower.value, slower.low, slower.high) == pytest.approx((0.25, 0.0, 1.0))


# --- the report -----------------------------------------------------------------------------------------------------


def record_scenario(folder: Path, slowdown: float, replicates: int, rng: np.random.Generator, **host) -> None:
    """Replicates as scripts/calibrate.py leaves them: four steps of 20 ms, with 1 % of noise, one block repeated."""
    blocks = [{"valid": True, "disturbed": []}] * 15 + [{"valid": True, "disturbed": ["steal"]}]
    blocks += [{"valid": False, "disturbed": ["steal"]}]
    for number in range(1, replicates + 1):
        sides = [(0.02 * (1 + share) * (1 + 0.01 * rng.random((8, 4)))).tolist() for share in (slowdown, 0.0)]
        notes = {"outcome": {"status": "ok", "reason": None, "stage": "benchmark"}, "replicate": number}
        notes |= {"seconds": {"latency": 2.0}, "sampling": {"hz": 4.0, "cost_cpu_s": 0.003}, "blocks": blocks}
        notes |= {"started_unix_s": 1.8e9, "ended_unix_s": 1.8e9 + 60}
        notes |= {"repeats": {"pairs": 8, "repeated": 1, "limit": 2, "still_disturbed": 1}}
        notes["host"] = {"cpu": "a processor", "cores": 2, "git_revision": "cb4a2f83", "git_dirty": True, **host}
        notes["servers"] = {"variant": {"environment": "torch-1", "versions": {"torch": "2.13.0"}}}
        where = folder / f"replicate-{number}"
        where.mkdir(parents=True, exist_ok=True)
        (where / "replicate.json").write_text(json.dumps(notes))
        (where / "latency.jsonl").unlink(missing_ok=True)
        with RecordWriter(where / "latency.jsonl") as writer:
            for record in synthetic.records_of_steps(*sides, replicate=number):
                writer.append(record)


SCENARIOS = (("aa", 0.0, False, 80), ("slower-0.1", 0.1, False, 6), ("disturbed-aa", 0.0, True, 4))


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """A calibration's folder, beside its plan."""
    folder, rng = tmp_path_factory.mktemp("recorded") / "calibration", np.random.default_rng(0)
    for name, slowdown, _, replicates in SCENARIOS:
        record_scenario(folder / name, slowdown, replicates, rng)
    keys = ("name", "slowdown", "disturbed", "replicates")
    spec = {"replicate": {"model": {"name": "reference"}, "target": {"name": "local"}}}
    spec["scenarios"] = [dict(zip(keys, scenario, strict=True)) for scenario in SCENARIOS]
    document = {"outcome": {"status": "ok"}, "spec": spec, "failures": ["slower-0.1, replicate 7: ran out of memory"]}
    (folder / "calibration.json").write_text(json.dumps(document))
    (folder.parent / "plan.json").write_text(json.dumps({"protocol": {"replicates": 2, "aa_replicates": 4}}))
    return folder


@pytest.fixture
def recorded(recording, tmp_path) -> Path:
    """The same, to change."""
    shutil.copytree(recording.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "calibration"


def judge(folder: Path) -> Calibration:
    return report_calibration.judge(folder, json.loads((folder.parent / "plan.json").read_text())["protocol"])


def report(folder: Path) -> subprocess.CompletedProcess:
    program = [sys.executable, report_calibration.__file__]
    options = ["--plan", folder.parent / "plan.json", "--calibration", folder]
    return subprocess.run([*program, *options], capture_output=True, text=True)


def test_the_report_says_what_the_machine_can_tell_and_what_it_rests_on(recorded):
    done = report(recorded)
    assert done.returncode == 0, done.stderr
    page = (recorded / "report.html").read_text()
    assert "This machine tells differences from" in page and "0.15 % of one core" in page
    assert "compared 40 times by the preset default: 0 got" in page and "compared 5 times by the preset publish" in page
    assert "1 replicate failed and is left out: slower-0.1, replicate 7" in page
    assert "0 of 2 verdicts were wrong" in page and "(a claim takes 20)" in page
    assert "8 of 68 blocks were flagged as disturbed; 4 of the 64 that count stayed so" in page
    assert "3 of 3 (29 to 100 %)" in page  # the independent comparisons behind the power
    assert "2027-01-15 08:00 UTC to 2027-01-15 08:01 UTC" in page and "torch-1: torch 2.13.0" in page
    assert "cb4a2f83, with changes that were not committed (90 replicates)" in page
    assert "Sampling took more than" not in page and "revisions of the code" not in page
    with open(recorded / "calibration.csv", newline="") as handle:
        table = {(row["scenario"], row["preset"]): row for row in csv.DictReader(handle)}
    assert table["slower-0.1", "default"]["regressed"] == "3" and int(table["aa", "default"]["within noise"]) >= 30
    assert table["aa", "publish"]["comparisons"] == "5" and table["aa", "publish"]["wrong"] == "0"
    disturbed = table["disturbed-aa", "default"]
    assert (disturbed["blocks flagged"], disturbed["blocks still disturbed"]) == ("8 of 68", "4 of 64")
    assert (recorded / "power.svg").exists() and (recorded / "aa.png").exists()


def test_what_the_spec_does_not_list_is_not_judged(recorded):
    listed = judge(recorded)
    for number in range(81, 89):
        shutil.copytree(recorded / "aa" / "replicate-1", recorded / "aa" / f"replicate-{number}")
    again = judge(recorded)
    assert len(again.aa.replicates) == 80 and again.aa == listed.aa


def test_replicates_of_more_than_one_revision_raise_an_alarm(recorded):
    record_scenario(recorded / "slower-0.1", 0.1, 6, np.random.default_rng(1), git_revision="e446d999")
    found = judge(recorded)
    assert found.origin.revisions == {("cb4a2f83", True): 84, ("e446d999", True): 6}
    assert any("2 revisions of the code" in sentence for sentence in show.alarms(found))


def test_sampling_above_its_limit_raises_an_alarm(recording):
    found = judge(recording)
    costly, cheap = (dataclasses.replace(found, sampling_share=share) for share in (0.0051, 0.0049))
    assert any("Sampling took more than 0.5 %" in sentence for sentence in show.alarms(costly))
    assert not any("Sampling" in sentence for sentence in show.alarms(cheap))


def test_a_wrong_verdict_on_a_disturbed_host_is_counted_and_raises_an_alarm(recording):
    found = judge(recording)
    wrong = Comparison(Estimate(0.8, 0.7, 0.9), 0.01, verdicts.REGRESSED)
    found.judged["default"]["disturbed-aa"][0] = wrong
    assert "1 of 2 verdicts were wrong" in show.disturbed_sentences(found)[0]
    assert "On a disturbed host, 1 verdict claimed what is not so." in show.alarms(found)


def test_nothing_is_claimed_from_too_few_comparisons(recorded):
    (recorded / "aa" / "replicate-80" / "replicate.json").unlink()
    found = judge(recorded)
    assert len(found.judged["default"]["aa"]) == 39
    assert show.title(found) == "What this machine can tell is not known after 39 A/A comparisons"


def test_each_presets_curve_begins_with_its_own_share_of_false_claims(recording):
    found = judge(recording)
    for name, least in found.least.items():
        curve = show.curve_of(name, least, found)
        zero = calibration.power(least, 0.0)
        assert (curve.slowdowns[0], curve.found[0]) == (0.0, zero.value)
        assert (curve.low[0], curve.high[0]) == (zero.low, zero.high)
        assert all(low <= high for low, high in zip(curve.low, curve.high, strict=True))


def test_a_recording_without_a_usable_aa_replicate_is_one_clear_line(recorded):
    shutil.rmtree(recorded / "aa")
    done = report(recorded)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "none of 80 A/A replicates can be used" in done.stderr


def test_a_tiny_recording_has_a_report_that_claims_nothing(recorded):
    document = json.loads((recorded / "calibration.json").read_text())
    for settings in document["spec"]["scenarios"]:
        settings["replicates"] = 2
    (recorded / "calibration.json").write_text(json.dumps(document))
    done = report(recorded)
    assert done.returncode == 0, done.stderr
    page = (recorded / "report.html").read_text()
    assert "not known after 0 A/A comparisons" in page and "This machine tells" not in page


def test_a_corrupt_record_is_named_with_its_line(recorded):
    path = recorded / "aa" / "replicate-3" / "latency.jsonl"
    path.write_text(path.read_text()[:-20])
    done = report(recorded)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and f"{path}:16: " in done.stderr


def test_a_calibration_is_not_judged_from_records_that_were_changed(tmp_path):
    record_scenario(tmp_path, 0.1, 1, np.random.default_rng(0))
    sign_records(tmp_path / "replicate-1")
    assert len(report_calibration.read_scenario(tmp_path, 1)) == 1
    path = tmp_path / "replicate-1/latency.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    with pytest.raises(CorruptRecords, match="latency.jsonl: is not the file that was made"):
        report_calibration.read_scenario(tmp_path, 1)


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
