"""Statistics against scipy, against the figures in METHOD.md, and against simulated truth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

import simulation
from diffsweep.analysis import cost, stats
from diffsweep.analysis.stats import Estimate
from diffsweep.quality import resampling

# --- quantiles ---


@pytest.mark.parametrize(
    ("n", "q", "ranks"),
    [
        (100, 0.50, (40, 61)),
        (100, 0.95, (90, 100)),
        (200, 0.95, (184, 197)),
        (1000, 0.95, (936, 964)),
        (1000, 0.99, (983, 997)),
    ],
)
def test_ranks_are_those_of_the_method(n, q, ranks):
    assert stats.quantile_ranks(n, q) == ranks


@pytest.mark.parametrize(("q", "least"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368)])
def test_minimum_sample_is_where_ranks_begin_to_exist(q, least):
    assert stats.minimum_sample(q) == least
    assert stats.quantile_ranks(least, q) is not None
    assert stats.quantile_ranks(least - 1, q) is None
    assert stats.quantile_estimate(range(least - 1), q) is None


@pytest.mark.parametrize(("q", "requests"), [(0.90, 64), (0.95, 130), (0.99, 662)])
def test_early_stopping_needs_as_many_requests_as_mlperf_says(q, requests):
    assert stats.early_stopping_minimum(q) == requests


@pytest.mark.parametrize("n", [36, 72, 100, 368, 1000])
@pytest.mark.parametrize("q", [0.5, 0.9, 0.95, 0.99])
def test_ranks_hold_the_confidence_exactly(n, q):
    ranks = stats.quantile_ranks(n, q)
    if ranks is None:
        assert n < stats.minimum_sample(q)
        return
    low, high = ranks
    below = scipy_stats.binom(n, q).cdf
    assert below(high - 1) - below(low - 1) >= 0.95
    # One rank less on either side would leave more than 2.5 % in that tail.
    assert below(low) > 0.025
    assert below(high - 2) < 0.975


def test_quantile_and_interval_agree_with_scipy():
    values = np.random.default_rng(1).lognormal(size=200)
    for q in (0.5, 0.9, 0.95):
        estimate = stats.quantile_estimate(values, q)
        assert estimate.value == pytest.approx(float(scipy_stats.mstats.mquantiles(values, q, alphap=1, betap=1)[0]))
        reference = scipy_stats.quantile_test(values, p=q).confidence_interval(0.95)
        assert (estimate.low, estimate.high) == pytest.approx((reference.low, reference.high))


def test_quantile_interval_covers_what_it_says():
    rng = np.random.default_rng(2)
    truth = scipy_stats.lognorm(1).ppf(0.95)
    held = [simulation.covers(stats.quantile_estimate(rng.lognormal(size=72), 0.95), truth) for _ in range(5000)]
    least, most = simulation.nominal(len(held))
    assert least <= np.mean(held) <= most


@pytest.mark.parametrize("name", simulation.MACHINES)
def test_quantiles_of_replicates_are_seldom_told_wrong(name):
    """Intervals that are told hold the truth; where latencies drift, hardly one of a high quantile is told.

    Order statistics hold at least what they say, and the wider of two widenings counts: there is no upper bound. With
    the replicates of the other presets: tests/long/test_coverage.py.
    """
    machine, rng, qs = simulation.MACHINES[name], np.random.default_rng(8), (0.5, 0.9, 0.95)
    simulated = simulation.latencies(machine, rng, simulations=3000)
    found = [stats.quantiles_over_replicates(times, qs) for times in simulated]
    for q, estimates in zip(qs, zip(*found, strict=True), strict=True):
        truth = float(np.quantile(simulated, q))
        told = [simulation.covers(e, truth) for e in estimates if e.low is not None]
        assert told.count(False) <= 0.07 * len(simulated)
        if name == "drift" and q > 0.5:
            assert len(told) <= 0.1 * len(simulated)
        else:
            assert len(told) >= 0.7 * len(simulated) and np.mean(told) >= simulation.nominal(len(told))[0]


def test_where_one_replicate_has_all_slow_requests_a_high_quantile_reaches_to_the_slowest():
    """The order statistics alone would end among the requests of that one replicate."""
    usual, slow = np.linspace(0.99, 1.01, 20), np.exp(np.linspace(0.1, 1.0, 14))
    replicates = [usual] * 12 + [np.concatenate([usual[:6], slow])]
    found = stats.quantile_over_replicates([np.random.default_rng(16).permutation(own) for own in replicates], 0.95)
    assert found.high == pytest.approx(slow.max())
    assert stats.quantile_estimate(np.concatenate(replicates), 0.95).high < 0.8 * slow.max()


def test_drift_is_what_neighbours_share():
    rng = np.random.default_rng(9)
    assert abs(stats.drift_share(list(rng.standard_normal((20, 50))))) < 0.1
    assert stats.drift_share([np.arange(50.0), np.arange(50.0)[::-1]]) > 0.99
    assert stats.drift_share([np.ones(5)]) == 0.0


# --- between replicates ---


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=8))
def test_replicate_interval_is_students(means):
    reference = scipy_stats.ttest_1samp(means, 0).confidence_interval(0.95) if np.ptp(means) > 1e-6 else None
    estimate = stats.replicate_interval(means)
    assert estimate.value == pytest.approx(np.mean(means))
    if reference is not None:
        assert (estimate.low, estimate.high) == pytest.approx((reference.low, reference.high))


def test_one_replicate_has_no_interval():
    assert stats.replicate_interval([3.0]) == Estimate(3.0)
    assert stats.mean_and_deviation([3.0]) == (3.0, None)
    assert stats.speedup([0.2]).low is None


def test_ratio_of_unpaired_means_is_welchs():
    ours, theirs = [2.0, 2.2, 2.1], [1.0, 1.1, 0.9, 1.05]
    reference = scipy_stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False).confidence_interval(0.95)
    estimate = stats.ratio_interval(ours, theirs)
    assert (estimate.low, estimate.high) == pytest.approx((math.exp(reference.low), math.exp(reference.high)))
    assert stats.ratio_interval([], theirs) is None
    assert stats.ratio_interval([2.0], theirs).low is None
    assert stats.ratio_interval([2.0, 2.0], [1.0, 1.0]) == Estimate(2.0, 2.0, 2.0)


def test_speedup_is_a_geometric_mean():
    ratios = [math.log(2.0), math.log(8.0)]
    assert stats.speedup(ratios).value == pytest.approx(4.0)


def test_speedup_of_the_inverse_is_the_inverse():
    ratios = np.random.default_rng(3).normal(0.2, 0.05, 5)
    ours, theirs = stats.speedup(ratios), stats.speedup(-ratios)
    assert (ours.value, ours.low, ours.high) == pytest.approx((1 / theirs.value, 1 / theirs.high, 1 / theirs.low))


@pytest.mark.parametrize("name", simulation.MACHINES)
@pytest.mark.parametrize(("replicates", "requests"), simulation.sizes())
def test_speedup_interval_covers_the_truth(name, replicates, requests):
    """93 to 97 % for nominal 95 %, with the replicates and requests of the presets, whatever the machine does."""
    rng, size = np.random.default_rng(4), {"replicates": replicates, "requests": requests}
    ratios = simulation.log_ratios(simulation.MACHINES[name], rng, simulations=3000, **size)
    held, _ = simulation.coverage(ratios, stats.speedup, truth=1.0)
    least, most = simulation.nominal(len(ratios))
    assert least <= held <= most


@pytest.mark.parametrize(("replicates", "requests"), simulation.sizes())
def test_the_typical_speedup_and_the_mean_latency_are_covered(replicates, requests):
    """On the worst machine; on all of them: tests/long/test_coverage.py."""
    machine, size = simulation.MACHINES["all at once"], {"replicates": replicates, "requests": requests}
    rng, size = np.random.default_rng(6), {**size, "simulations": 600}
    least, most = simulation.nominal(600)
    ratios = simulation.typical_log_ratios(machine, rng, **size)
    assert least <= simulation.coverage(ratios, stats.speedup, truth=1.0)[0] <= most
    means = simulation.latencies(machine, rng, **size).mean(axis=2)
    assert least <= simulation.coverage(means, stats.replicate_interval, truth=float(means.mean()))[0] <= most


def test_the_trimmed_mean_is_that_of_scipy_and_a_lost_replicate_hardly_widens_its_interval():
    values = np.random.default_rng(9).normal(0.1, 0.02, 16)
    found, reference = stats.trimmed_interval(values), scipy_stats.trim_mean(values, 0.2)
    theirs = scipy_stats.ttest_ind(values, [0.0, 0.0], trim=0.2, equal_var=False)  # Yuen's test: the same error
    assert found.value == pytest.approx(reference)
    error = found.half_width / stats.student_quantile(0.95, 9)
    assert found.value / error == pytest.approx(theirs.statistic)
    lost = stats.trimmed_interval([*values[:-1], 0.9])
    assert lost.half_width < 1.5 * found.half_width < stats.replicate_interval([*values[:-1], 0.9]).half_width / 2


# --- throughput and what follows from it ---

FULL = {1: 1.0, 2: 1.0, 4: 1.0}  # one client fills the server, and the ramp ends two levels later
CLIMBING = {1: 0.6, 2: 0.95, 4: 1.0, 8: 1.0}


@pytest.mark.parametrize("name", simulation.MACHINES)
@pytest.mark.parametrize("capacities", [FULL, CLIMBING], ids=["full", "climbing"])
def test_sustained_throughput_is_covered_and_not_the_luckiest(name, capacities):
    """With the replicates and requests of a sweep. The least width of the interval is that of slow requests which
    nobody happened to see: where there are none it holds a little more than 97 %, so there is no upper bound."""
    machine, rng = simulation.MACHINES[name], np.random.default_rng(13)
    held, bias, estimates = simulation.covered(simulation.loads(machine, rng, simulations=700, capacities=capacities))
    assert held >= simulation.nominal(len(estimates))[0]
    assert abs(bias) < 0.015
    assert len(estimates) > 690


def test_the_highest_of_equal_throughputs_would_be_too_high_and_missed():
    """Why the sustained level is not the one with the highest throughput."""
    levels = simulation.loads(
        simulation.MACHINES["outliers"], np.random.default_rng(13), simulations=500, capacities=FULL
    )
    truth = np.mean([level.images_per_s.value for sweep in levels for level in sweep])
    best = [max(sweep, key=lambda level: level.images_per_s.value).images_per_s for sweep in levels]
    assert np.mean([e.value for e in best]) > 1.02 * truth


@pytest.mark.parametrize("name", simulation.MACHINES)
def test_what_is_told_of_two_throughputs_is_covered(name):
    """The speed-up of the capacity, the seconds that an image saves, and after how many images that has paid back.

    Welch's interval is conservative where each side has three values: there is no upper bound."""
    machine, rng, tries = simulation.MACHINES[name], np.random.default_rng(14), 700
    replicates, requests = (simulation.default_of("protocol", n) for n in ("load_replicates", "requests_per_level"))
    ours, theirs = (
        rate / simulation.latencies(machine, rng, simulations=tries, replicates=replicates, requests=requests).mean(2)
        for rate in (2.0, 1.0)
    )
    truth = float(np.mean(1 / theirs) - np.mean(1 / ours))
    ratios = [stats.ratio_interval(a, b) for a, b in zip(ours, theirs, strict=True)]
    saved = [stats.difference_interval(1 / b, 1 / a) for a, b in zip(ours, theirs, strict=True)]
    paid = [cost.payback(60.0, each)[1] for each in saved]
    least = simulation.nominal(tries)[0]
    assert np.mean([simulation.covers(each, ours.mean() / theirs.mean()) for each in ratios]) >= least
    assert np.mean([simulation.covers(each, truth) for each in saved]) >= least
    told = [each for each in paid if each is not None and each.low is not None]
    assert np.mean([simulation.covers(each, 60 / truth) for each in told]) >= simulation.nominal(len(told))[0]


def test_requests_as_one_sample_would_cover_far_too_little():
    """Why the interval rests on replicates: requests of one process are not independent."""

    def pooled(times):
        return stats.replicate_interval(times.ravel())

    rng = np.random.default_rng(5)
    times = simulation.latencies(simulation.MACHINES["process spread"], rng, simulations=1000)
    assert simulation.coverage(times, pooled, truth=float(times.mean()))[0] < 0.7


def test_undisturbed_times_are_the_mean_of_the_fastest_quarter():
    times = np.array([[4.0, 10], [3, 40], [2, 30], [1, 20], [9, 90]])
    assert stats.undisturbed(times).tolist() == [1.5, 15.0]
    assert stats.undisturbed([2.0]) == 2.0


def test_undisturbed_times_do_not_see_a_neighbour_that_comes_and_goes():
    """Twice as precise as the mean where somebody else uses the processor half of the time."""
    machine, rng = simulation.Machine(process=0.0, request=0.01, contention=0.5), np.random.default_rng(8)
    times = simulation.latencies(machine, rng, simulations=2000, replicates=1)[:, 0]
    assert np.log(stats.undisturbed(times.T)).std() < 0.5 * np.log(times.mean(axis=1)).std()


@pytest.mark.parametrize(("variation", "width", "expected"), [(0.025, 0.01, 25), (0.01, 0.05, 2), (0.05, 0.049, 4)])
def test_replicates_needed(variation, width, expected):
    assert stats.replicates_needed(variation, width) == expected


# --- steady state ---


def test_a_slow_first_request_is_found():
    steady = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0]
    assert stats.first_is_outlier([1.6, *steady])
    assert not stats.first_is_outlier([1.03, *steady])
    assert not stats.first_is_outlier([*steady, 1.6])
    assert not stats.first_is_outlier([1.6, 1.0])  # too few to say


def test_outlier_scores_agree_with_scipys_absolute_deviation():
    values = np.random.default_rng(7).normal(10, 1, 50)
    expected = (values - np.median(values)) / scipy_stats.median_abs_deviation(values)
    assert stats.outlier_scores(values) == pytest.approx(expected)
    assert stats.outlier_scores([1.0, 1.0, 1.0, 2.0]).tolist() == [0.0, 0.0, 0.0, math.inf]


def test_relative_spread_agrees_with_scipy():
    values = np.random.default_rng(8).normal(10, 1, 50)
    assert stats.relative_spread(values) == pytest.approx(scipy_stats.iqr(values) / np.median(values))


# --- resampling prompts ---


def test_bootstrap_agrees_with_scipys():
    values = np.random.default_rng(9).normal(80, 5, 200)
    ours = resampling.bootstrap_mean(values, [str(i) for i in range(200)], 5000, seed=1)
    theirs = scipy_stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=1)
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.05)


def test_bootstrap_keeps_the_images_of_a_prompt_together():
    rng = np.random.default_rng(10)
    ids = [str(i // 4) for i in range(200)]

    def held(groups: list[str], tries: int) -> float:
        inside = 0
        for seed in range(tries):
            values = np.repeat(rng.standard_normal(50), 4) + 0.3 * rng.standard_normal(200)
            mean = resampling.bootstrap_mean(values, groups, 1000, seed)
            inside += mean.low <= 0 <= mean.high
        return inside / tries

    least, most = simulation.nominal(2000)
    assert least <= held(ids, 2000) <= most
    assert held([str(i) for i in range(200)], 300) < 0.75  # as if the images were independent


@pytest.mark.parametrize("heavy", [False, True])
def test_a_mean_score_of_as_many_prompts_as_a_sweep_has_is_covered(heavy):
    images, resamples = (simulation.default_of("quality", name) for name in ("images", "bootstrap"))
    rng, ids, tries = np.random.default_rng(11), [str(i) for i in range(images)], 1200
    draw = (lambda: rng.standard_t(3, images)) if heavy else (lambda: rng.standard_normal(images))
    means = [resampling.bootstrap_mean(draw(), ids, resamples, seed) for seed in range(tries)]
    least, most = simulation.nominal(tries)
    assert least <= np.mean([mean.low <= 0 <= mean.high for mean in means]) <= most


# --- shares ---


@pytest.mark.parametrize("share", [0.5, 0.95, 0.985, 0.995, 0.9975, 0.999])
@pytest.mark.parametrize(("per_prompt", "answers"), [(1, 1), (1, 5), (4, 1)])
def test_shares_near_1_are_covered(share, per_prompt, answers):
    """Images of yes or no, or of five answers each; four images of a prompt resemble each other.

    Exact intervals hold at least what they say: there is no upper bound.
    """
    rng, images, tries = np.random.default_rng(12), simulation.default_of("quality", "images"), 1500
    ids, held = [str(i // per_prompt) for i in range(images)], 0
    for _ in range(tries):
        of_prompt = rng.beta(share, 1 - share, images // per_prompt) if per_prompt > 1 else np.full(images, share)
        values = rng.binomial(answers, np.repeat(of_prompt, per_prompt)) / answers
        mean = resampling.share_mean(values, ids)
        assert 0 <= mean.low <= mean.mean <= mean.high <= 1
        held += mean.low <= share <= mean.high
    assert held / tries >= simulation.nominal(tries)[0]


def test_a_share_of_yes_and_no_has_clopper_and_pearsons_interval():
    ids = [str(i) for i in range(40)]
    for right in (0, 40):
        found = resampling.share_mean([float(i < right) for i in range(40)], ids)
        reference = scipy_stats.binomtest(right, 40).proportion_ci(0.95, "exact")
        assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    found = resampling.share_mean([float(i < 37) for i in range(40)], ids)
    reference = scipy_stats.binomtest(37, 40).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.01)  # 39 answers for 40
    alike = resampling.share_mean([float(i < 37 * 4) for i in range(160)], [str(i // 4) for i in range(160)])
    assert (alike.low, alike.high) == pytest.approx((found.low, found.high))  # four alike say no more than one
    assert resampling.share_mean([1.0, 1.0], ["a", "a"]) == resampling.Mean(1.0, None, None)


def test_bootstrap_is_repeatable_and_needs_two_prompts():
    values, ids = [1.0, 2.0, 4.0], ["a", "b", "c"]
    assert resampling.bootstrap_mean(values, ids, 500, 3) == resampling.bootstrap_mean(values, ids, 500, 3)
    assert resampling.bootstrap_mean(values, ["a"] * 3, 500, 3) == resampling.Mean(7 / 3, None, None)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.5, 0.4, "equivalent"),
        (-0.5, -0.1, "equivalent"),  # a difference, and one that does not matter
        (-1.4, -0.6, "cannot tell"),
        (-2.0, -1.2, "worse"),
        (1.1, 1.9, "better"),
        (-0.9, 3.0, "not worse"),
        (-3.0, 3.0, "cannot tell"),
    ],
)
def test_equivalence_against_a_margin_of_one(low, high, expected):
    assert resampling.equivalence(resampling.Mean((low + high) / 2, low, high), 1.0) == expected


def test_equivalence_needs_an_interval_and_a_margin():
    assert resampling.equivalence(resampling.Mean(0.0, None, None), 1.0) == "cannot tell"
    with pytest.raises(ValueError, match="margin"):
        resampling.equivalence(resampling.Mean(0.0, -0.1, 0.1), 0.0)
