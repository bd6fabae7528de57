"""Noise floor, threshold and verdict; identical variants get no claim."""

import numpy as np
import pytest

import simulation
from diffsweep.analysis import stats, verdicts
from diffsweep.analysis.stats import Estimate
from diffsweep.sweep.plan import PRESETS

# --- verdicts ---


def test_noise_floor_and_threshold():
    assert verdicts.noise_floor(Estimate(1.0, 1 / 1.02, 1.02)) == pytest.approx(0.02)
    assert verdicts.noise_floor(Estimate(1.0)) is None
    assert verdicts.noise_floor(None) is None
    assert verdicts.threshold(0.02) == pytest.approx(0.04)
    assert verdicts.threshold(0.001) == 0.01
    assert verdicts.threshold(None) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.05, 1.20, "improved"),
        (1.03, 1.20, "cannot tell"),  # reaches into the threshold
        (0.80, 0.95, "regressed"),
        (0.80, 0.97, "cannot tell"),
        (0.97, 1.03, "within noise"),
        (0.99, 1.05, "cannot tell"),
        (0.90, 1.10, "cannot tell"),
    ],
)
def test_verdicts_at_a_threshold_of_four_percent(low, high, expected):
    assert verdicts.verdict(Estimate((low + high) / 2, low, high), 0.04) == expected


def test_without_an_interval_or_a_noise_floor_nobody_can_tell():
    assert verdicts.verdict(Estimate(3.0), 0.04) == "cannot tell"
    assert verdicts.verdict(None, 0.04) == "cannot tell"
    assert verdicts.verdict(Estimate(3.0, 2.9, 3.1), None) == "cannot tell"


def test_a_and_a_are_different_only_beyond_one_percent():
    assert not verdicts.is_different(Estimate(1.005, 1.002, 1.008))
    assert not verdicts.is_different(Estimate(1.03, 0.99, 1.07))
    assert not verdicts.is_different(None)
    assert verdicts.is_different(Estimate(1.03, 1.02, 1.04))
    assert verdicts.is_different(Estimate(0.95, 0.94, 0.96))


def test_identical_variants_get_no_claim():
    """At most 5 % of A/A comparisons end with a claim, when the noise floor is another A/A test's."""
    rng = np.random.default_rng(6)
    machine = simulation.MACHINES["all at once"]
    replicates, aa_replicates = (PRESETS["default"][key] for key in ("replicates", "aa_replicates"))
    ratios, floors = (
        simulation.log_ratios(machine, rng, simulations=1000, replicates=n, requests=PRESETS["default"]["requests"])
        for n in (replicates, aa_replicates)
    )
    said = [
        verdicts.verdict(stats.speedup(ours), verdicts.threshold(verdicts.noise_floor(stats.speedup(aa))))
        for ours, aa in zip(ratios, floors, strict=True)
    ]
    assert np.mean([v in (verdicts.IMPROVED, verdicts.REGRESSED) for v in said]) <= 0.05
