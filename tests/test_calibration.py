"""The calibration: what its verdicts say of simulated machines with a known truth, and how it plants a slow-down."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import simulation
from diffsweep.analysis import calibration, stats, verdicts
from diffsweep.analysis.calibration import Comparison, Preset, Replicate, Scenario
from diffsweep.analysis.stats import Estimate
from diffsweep.sweep.plan import PRESETS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import calibrate  # noqa: E402
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

    sweeps = zip(noise(4000, DEFAULT.replicates) - np.log1p(0.08), noise(4000, DEFAULT.aa_replicates), strict=True)
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
