"""The statistics of a benchmark: pure functions on numbers, each with its source.

Two kinds of interval, never mixed up:
- `replicate_interval`, `speedup` and `ratio_interval` rest on the variation between replicates (fresh processes): they
  cover what other starts of the servers on this machine would show on average.
- `quantile_estimate` takes all requests as one sample: it covers the quantile of the requests to these processes.
  `quantile_over_replicates` adds what other processes would change.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import special  # scipy.stats has the same functions, and takes a second longer to import

CONFIDENCE = 0.95

# Half the requests lie within 10 % of each other, or something disturbs them (torch.utils.benchmark's two limits).
SPREAD_WARNING = 0.10
SPREAD_LOUD_WARNING = 0.25
# hyperfine's OUTLIER_THRESHOLD, a modified z-score: 10 standard deviations, as 1.4826 x the median absolute deviation.
OUTLIER_SCORE = 14.826
FASTEST_SHARE = 0.25
# Of latencies that neighbours share more of than this, no interval of a high quantile is told: one that is told is
# then wrong in at most 6 % of all simulations of every machine (8 % with 3 replicates: tests/long/test_coverage.py).
DRIFT_LIMIT = 0.4
# The slowest hundredth is of fewer replicates: at 0.4, P99 of a machine whose pace walks would hold 92 %.
DRIFT_LIMIT_P99 = 0.3
# Speed-ups of so many replicates are trimmed; of fewer, trimming would cost more degrees of freedom than it gains.
TRIMMED_FROM = 10
TRIMMED_SHARE = 0.2
# So many standard errors of the requests' own noise are the least half-width of the interval of a throughput, and of
# the energy per image: the fewest with which both hold where some requests take far longer than the others, and three
# replicates of eight may have missed all of those (tests/benchmarks/interval_coverage.py, tests/long/test_coverage.py).
REQUEST_ERRORS = 2.25


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; `low` and `high` are None where the data does not give one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def half_width(self) -> float | None:
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def scaled(self, factor: float) -> "Estimate":
        """The same in another unit; `factor` is positive."""
        return Estimate(*(None if x is None else x * factor for x in (self.value, self.low, self.high)))


# --- quantiles ------------------------------------------------------------------------------------------------------


def quantile(values: Sequence[float], q: float) -> float:
    """The `q` quantile, interpolated linearly (Hyndman and Fan 1996, type 7: the default of NumPy and R)."""
    ordered = np.sort(np.asarray(values, float))
    return at_rank(ordered, 1 + (len(ordered) - 1) * q)


def at_rank(ordered: np.ndarray, rank: float) -> float:
    """What stands at `rank` (from 1) of a sorted sample, interpolated linearly between two whole ranks. (np.quantile
    takes ten times as long, and a large sweep asks for hundreds of thousands.)"""
    below = min(int(rank), len(ordered) - 1) if len(ordered) > 1 else 1
    low, high = float(ordered[below - 1]), float(ordered[min(below, len(ordered) - 1)])
    return low + (high - low) * (rank - below)


def binomial_quantile(share: float, n: int, q: float) -> int:
    """The least k with P(at most k of n) >= share, when each has probability q (scipy.stats.binom.ppf)."""
    k = math.ceil(special.bdtrik(share, n, q))
    return k - 1 if k > 0 and special.bdtr(k - 1, n, q) >= share else k


@cache
def student_quantile(confidence: float, freedom: float) -> float:
    """How many standard errors a two-sided interval spans to each side (Student's t)."""
    return float(special.stdtrit(freedom, (1 + confidence) / 2))


@cache
def quantile_ranks(n: int, q: float, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """Ranks (from 1) of the two order statistics that enclose the `q` quantile; None when `n` is too small.

    Exact and free of assumptions about the distribution (David and Nagaraja 2003, Order Statistics, 7.1): the number of
    observations below the quantile is binomial. Equal tails of at most (1 - confidence) / 2 on each side.
    """
    tail = (1 - confidence) / 2
    low, high = binomial_quantile(tail, n, q), binomial_quantile(1 - tail, n, q) + 1
    return (low, high) if low >= 1 and high <= n else None


def minimum_sample(q: float, confidence: float = CONFIDENCE) -> int:
    """The least sample with a two-sided 95 % interval of the `q` quantile: 6, 36, 72, 368 for P50, P90, P95, P99."""
    return math.ceil(math.log((1 - confidence) / 2) / math.log(max(q, 1 - q)) - 1e-9)


def quantile_estimate(values: Sequence[float], q: float, confidence: float = CONFIDENCE) -> Estimate | None:
    """The `q` quantile with its interval; None below the minimum sample: a lucky P99 is not reported."""
    return _of_sorted(np.sort(np.asarray(values, float)), q, confidence)


def _of_sorted(ordered: np.ndarray, q: float, confidence: float) -> Estimate | None:
    ranks = quantile_ranks(len(ordered), q, confidence)
    if ranks is None:
        return None
    value = at_rank(ordered, 1 + (len(ordered) - 1) * q)
    return Estimate(value, float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1]))


def quantile_over_replicates(
    replicates: Sequence[Sequence[float]], q: float, confidence: float = CONFIDENCE
) -> Estimate | None:
    """`quantiles_over_replicates` of one q."""
    return quantiles_over_replicates(replicates, [q], confidence)[0]


def quantiles_over_replicates(
    replicates: Sequence[Sequence[float]], qs: Sequence[float], confidence: float = CONFIDENCE
) -> list[Estimate | None]:
    """The quantiles of all requests, with intervals that hold for other starts of the servers too.

    The error of the order statistics (`quantile_estimate`), widened by what replicates differ, in two ways of which
    the wider counts: by their level (`_widened_by_level`), and by the share of their requests below the quantile
    (`_widened_by_share`), which alone sees that a median between a fast and a slow state of the machine jumps. Where
    replicates do not differ it is the exact interval of the one sample. `replicates`: positive times in their order,
    one list each; None below the minimum sample.

    There is no interval of a high quantile where latencies drift while a replicate runs (`drift_share`): the slowest
    twentieth is then what one or two replicates did, and five cannot show what others would. (Order statistics would
    hold P95 in 78 % of such simulations: tests/benchmarks/interval_coverage.py.)
    """
    groups = [np.log(np.asarray(times, float)) for times in replicates if len(times)]
    if not groups:
        return [None] * len(qs)
    ordered = np.sort(np.concatenate(groups))
    shared = drift_share(groups)
    error = level_error(groups, confidence) if len(groups) > 1 else 0.0
    found: list[Estimate | None] = []
    for q in qs:
        estimate = _of_sorted(ordered, q, confidence)
        if estimate is not None and q > 0.5 and shared > (DRIFT_LIMIT if q < 0.99 else DRIFT_LIMIT_P99):
            estimate = Estimate(estimate.value)
        elif estimate is not None and len(groups) > 1:
            by_share = _widened_by_share(ordered, groups, q, confidence)
            estimate = _wider(_widened_by_level(estimate, error), by_share)
        found.append(None if estimate is None else exponential(estimate))
    return found


def _wider(one: Estimate, other: Estimate) -> Estimate:
    return Estimate(one.value, min(one.low, other.low), max(one.high, other.high))


def level_error(groups: Sequence[np.ndarray], confidence: float) -> float:
    """Half the width of an interval of the groups' common level: by how much their means differ more than the noise
    within explains, with Student's t on R - 1 degrees of freedom."""
    return student_quantile(confidence, len(groups) - 1) * math.sqrt(excess_variance(groups) / len(groups))


def _widened_by_level(one_sample: Estimate, error: float) -> Estimate:
    """The order statistics' error and that of the replicates' level, put together by MOVER (Zou and Donner 2008,
    Statistics in Medicine 27)."""
    low = one_sample.value - math.hypot(one_sample.value - one_sample.low, error)
    high = one_sample.value + math.hypot(one_sample.high - one_sample.value, error)
    return Estimate(one_sample.value, low, high)


def _widened_by_share(ordered: np.ndarray, groups: Sequence[np.ndarray], q: float, confidence: float) -> Estimate:
    """The same on the scale of shares: how much the replicates' shares below the quantile differ, turned into times by
    the sample's own quantiles (Woodruff 1952, JASA 47). Where that reaches beyond the sample, to its end."""
    n = len(ordered)
    value = at_rank(ordered, 1 + (n - 1) * q)
    error = level_error([np.where(group < value, 1.0, 0.5 * (group == value)) for group in groups], confidence)
    low_rank, high_rank = quantile_ranks(n, q, confidence)
    low = n * q - math.hypot(n * q - low_rank + 0.5, n * error) + 0.5
    high = n * q + math.hypot(high_rank - 0.5 - n * q, n * error) + 0.5
    return Estimate(value, at_rank(ordered, max(low, 1)), at_rank(ordered, min(high, n)))


def drift_share(groups: Sequence[np.ndarray]) -> float:
    """The share of the variance within groups that neighbours have in common: 0 for independent values, 1 for a trend.

    1 - half of von Neumann's ratio, the mean square successive difference over the variance (von Neumann 1941, Annals
    of Mathematical Statistics 12), pooled over the groups. May be negative.
    """
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    differences = sum(float((np.diff(group) ** 2).sum()) for group in groups)
    return 1 - differences / (2 * squares) if squares else 0.0


def excess_variance(groups: Sequence[np.ndarray]) -> float:
    """By how much the groups' means vary beyond what the values' own spread explains; 0 when it is nothing.

    The estimate of the random effect's variance from a one-way analysis of variance, cut at 0 (Searle, Casella and
    McCulloch 1992, Variance Components, 3.5).
    """
    means = [group.mean() for group in groups]
    within = [group.var(ddof=1) / len(group) for group in groups if len(group) > 1]
    explained = float(np.mean(within)) if within else 0.0
    return max(float(np.var(means, ddof=1)) - explained, 0.0)


def early_stopping_minimum(q: float, confidence: float = 0.99) -> int:
    """How many requests MLPerf's early stopping needs before it reports a `q` quantile: 64, 130, 662 for P90, 95, 99.

    MLPerf loadgen, early_stopping.cc: the least n of which one request may exceed the bound, so that the second-largest
    latency is an upper bound of the quantile with the given confidence.
    """
    n = 2
    while special.bdtr(1, n, 1 - q) > 1 - confidence:
        n += 1
    return n


# --- between replicates ---------------------------------------------------------------------------------------------


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation with n - 1 (None for a single value)."""
    array = np.asarray(values, float)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def replicate_interval(means: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The mean of one value per replicate, with Student's interval on R - 1 degrees of freedom.

    A replicate's mean carries both the process's own deviation and what is left of the requests' noise, so the spread
    of the means is the whole error, whatever drift or autocorrelation there is within a replicate. (For balanced data
    this is the exact random-effects interval: Searle, Casella and McCulloch 1992, Variance Components, 3.4.) With one
    replicate there is no interval. Narrower alternatives at R = 3 (1.96 standard errors, bootstrap of the replicates, a
    variance shared between variants) were simulated and cover too little: tests/benchmarks/interval_coverage.py.
    """
    mean, deviation = mean_and_deviation(means)
    if deviation is None:
        return Estimate(mean)
    half = student_quantile(confidence, len(means) - 1) * deviation / math.sqrt(len(means))
    return Estimate(mean, mean - half, mean + half)


def with_request_noise(estimate: Estimate, error: float) -> Estimate:
    """An interval between replicates, made no narrower than the requests' noise lets it be.

    error: the relative standard error that this noise gives the value, known from many more requests than are in it.
    Three replicates of eight requests may all have missed the slow ones; then they agree, on too high a rate.
    """
    half = REQUEST_ERRORS * error * abs(estimate.value)
    if estimate.half_width is None or estimate.half_width >= half:
        return estimate
    return Estimate(estimate.value, estimate.value - half, estimate.value + half)


def undisturbed(times: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """The mean of the fastest quarter, along the first axis: (n, ...) to (...).

    Whatever else a machine does, another tenant of its processor above all, only makes things slower, for milliseconds
    or for seconds; the fast end of the times is what the program itself takes (Chen and Revels 2016, "Robust
    benchmarking in noisy environments", which goes as far as the minimum). A quarter, since a processor's short boosts
    make minima lucky. tests/benchmarks/estimators.py compares it with others on recorded data.
    """
    ordered = np.sort(np.asarray(times, float), axis=0)
    return ordered[: math.ceil(FASTEST_SHARE * len(ordered))].mean(axis=0)


def trimmed_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The 20 % trimmed mean with its interval (Yuen 1974, Biometrika 61; scipy.stats.ttest_ind has it for two samples).

    For where a few values may lie far out, such as replicates in which somebody else had the processor all the while:
    as the mean of normal values, and not as wide where they are not. All values count: the winsorised variance has the
    outer ones at the place of their neighbours.
    """
    mean, half = (float(part) for part in _trimmed(np.asarray(values, float), confidence))
    return Estimate(mean, mean - half, mean + half)


def _trimmed(values: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """(..., n): the trimmed means along the last axis, and half the widths of their intervals."""
    ordered = np.sort(values, axis=-1)
    n, cut = ordered.shape[-1], int(TRIMMED_SHARE * ordered.shape[-1])
    kept = n - 2 * cut
    winsorised = np.clip(ordered, ordered[..., cut, None], ordered[..., n - cut - 1, None])
    error = winsorised.std(axis=-1, ddof=1) * math.sqrt((n - 1) / (kept * (kept - 1)))
    return ordered[..., cut : n - cut].mean(axis=-1), student_quantile(confidence, kept - 1) * error


def log_speedups(log_ratios: np.ndarray, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
    """`speedup` of many comparisons at once, (..., replicates): logs, and half the widths of their intervals."""
    replicates = log_ratios.shape[-1]
    if replicates >= TRIMMED_FROM:
        return _trimmed(log_ratios, confidence)
    error = log_ratios.std(axis=-1, ddof=1) / math.sqrt(replicates)
    return log_ratios.mean(axis=-1), student_quantile(confidence, replicates - 1) * error


def speedup(log_ratios: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The speed-up from one log(baseline / variant) per replicate: their geometric mean, trimmed where there are many.

    The interval comes from the variation between replicates, on the log scale (Kalibera and Jones 2013, 'Rigorous
    benchmarking in reasonable time': the top level of repetition decides).
    """
    interval = trimmed_interval if len(log_ratios) >= TRIMMED_FROM else replicate_interval
    return exponential(interval(log_ratios, confidence))


def exponential(estimate: Estimate) -> Estimate:
    """An estimate of a logarithm as one of the quantity itself."""
    low, high = estimate.low, estimate.high
    return Estimate(
        math.exp(estimate.value), None if low is None else math.exp(low), None if high is None else math.exp(high)
    )


def ratio_interval(ours: Sequence[float], theirs: Sequence[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """The ratio of two means that were not measured in pairs, from one positive value per replicate and side.

    `difference_interval` of the logs. None when a side is empty.
    """
    difference = difference_interval(np.log(np.asarray(ours, float)), np.log(np.asarray(theirs, float)), confidence)
    return None if difference is None else exponential(difference)


def difference_interval(
    ours: Sequence[float], theirs: Sequence[float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """The difference of two means not measured in pairs (Welch 1947, Biometrika 34). None when one side is empty."""
    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    if not len(a) or not len(b):
        return None
    difference = float(a.mean() - b.mean())
    if len(a) < 2 or len(b) < 2:
        return Estimate(difference)
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if va + vb == 0:
        return Estimate(difference, difference, difference)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    half = student_quantile(confidence, freedom) * math.sqrt(va + vb)
    return Estimate(difference, difference - half, difference + half)


def replicates_needed(variation: float, width: float) -> int:
    """How many replicates give a 95 % interval of +- `width`, for a coefficient of variation between replicates.

    (1.96 CV / width)^2 of METHOD.md: the normal approximation, so a plan, not a promise; at least 2.
    """
    return max(2, math.ceil((1.96 * variation / width) ** 2 - 1e-9))


def share_interval(count: int, of: int, confidence: float = CONFIDENCE) -> Estimate:
    """A share of independent trials with its exact interval (Clopper and Pearson 1934, Biometrika 26). of: positive."""
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(count, of - count + 1, tail)) if count else 0.0
    high = float(special.betaincinv(count + 1, of - count, 1 - tail)) if count < of else 1.0
    return Estimate(count / of, low, high)


# --- steady state ---------------------------------------------------------------------------------------------------


def outlier_scores(values: Sequence[float]) -> np.ndarray:
    """Modified z-scores, deviation from the median over the median absolute deviation (Iglewicz and Hoaglin 1993)."""
    array = np.asarray(values, float)
    deviations = array - np.median(array)
    spread = np.median(np.abs(deviations))
    # More than half the values are equal: any other value is infinitely far away.
    return deviations / spread if spread > 0 else np.where(deviations == 0, 0.0, np.copysign(np.inf, deviations))


def first_is_outlier(values: Sequence[float]) -> bool:
    """Is the first measured request far slower than the others? Then the warm-up was too short (hyperfine's test)."""
    return len(values) >= 4 and bool(outlier_scores(values)[0] > OUTLIER_SCORE)


def relative_spread(values: Sequence[float]) -> float:
    """Interquartile range over median."""
    lower, middle, upper = np.quantile(np.asarray(values, float), [0.25, 0.5, 0.75])
    return float((upper - lower) / middle)
