"""Is this machine fit to tell variants apart? What the verdicts say where the truth is known. Pure.

A scenario is a variant whose true slow-down is known: none (A/A), a planted one, either with or without a disturbed
host. Its replicates are those of a sweep, judged by a sweep's own rules (`verdicts`), cut into independent comparisons
of as many replicates as a sweep has. The noise floor of each comparison comes from other A/A replicates, as many as in
a sweep the baseline's own job has.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffsweep.analysis import stats, verdicts
from diffsweep.analysis.stats import Estimate

RIGHT_SHARE = 0.95  # a preset "finds" a slow-down that it calls regressed this often
# Below so many comparisons nothing is claimed: one wrong verdict of fewer than 20 is already more than 5 %.
LEAST_AA = 40
LEAST_DISTURBED = 20
DRAWS = 5000
RESAMPLED = 400


@dataclass(frozen=True)
class Replicate:
    """log(baseline / variant), and what was noted of its pairs of blocks (verdicts.is_too_disturbed); None if nothing
    was."""

    log_ratio: float
    repeats: Mapping | None = None


@dataclass(frozen=True)
class Blocks:
    """How many blocks were measured, repeats included, and flagged as disturbed; how many count, and stayed so."""

    measured: int = 0
    flagged: int = 0
    valid: int = 0
    still_disturbed: int = 0


@dataclass(frozen=True)
class Scenario:
    """Replicates of a variant with a known truth. slowdown: the planted share of the end-to-end time, 0 for A/A."""

    name: str
    slowdown: float
    disturbed: bool
    replicates: Sequence[Replicate]
    blocks: Blocks = Blocks()

    @property
    def log_ratios(self) -> list[float]:
        return [replicate.log_ratio for replicate in self.replicates]


@dataclass(frozen=True)
class Preset:
    """How many replicates a sweep takes of each variant, and of the baseline against itself."""

    replicates: int
    aa_replicates: int


@dataclass(frozen=True)
class Comparison:
    """One comparison as a sweep makes it: the speed-up, the threshold it was judged by, the verdict."""

    speedup: Estimate
    threshold: float | None
    verdict: str


# --- verdicts where the truth is known ------------------------------------------------------------------------------


def comparisons(scenario: Scenario, aa: Scenario, preset: Preset) -> list[Comparison]:
    """The independent comparisons of a scenario; what is left over of its replicates is not used.

    The floor of the n-th is that of the A/A replicates that follow the n-th comparison's own (round and round), so that
    A/A is never judged by its own. Empty where there are too few A/A replicates.
    """
    size = preset.replicates
    if len(aa.replicates) < size + preset.aa_replicates:
        return []
    found = []
    for start in range(0, len(scenario.replicates) - size + 1, size):
        others = [aa.replicates[(start + size + i) % len(aa.replicates)] for i in range(preset.aa_replicates)]
        found.append(judge(scenario.replicates[start : start + size], others))
    return found


def judge(ours: Sequence[Replicate], aa: Sequence[Replicate]) -> Comparison:
    ratio, test = (stats.speedup([replicate.log_ratio for replicate in side]) for side in (ours, aa))
    limit = verdicts.threshold(verdicts.noise_floor(test))
    repeats = [replicate.repeats for replicate in ours if replicate.repeats]
    verdict = verdicts.of_speedup(ratio, limit, verdicts.unfit_sentence(test), repeats)
    return Comparison(ratio, limit, verdict)


def is_wrong(comparison: Comparison, slowdown: float) -> bool:
    """Does a verdict claim what is not so: a change of nothing or in the wrong direction, or "within noise" of a
    slow-down beyond the threshold? "cannot tell" never does."""
    if comparison.verdict == verdicts.WITHIN_NOISE:
        return slowdown > comparison.threshold
    return comparison.verdict == verdicts.IMPROVED or (comparison.verdict == verdicts.REGRESSED and slowdown == 0)


def count_wrong(found: Sequence[Comparison], slowdown: float) -> int:
    return sum(is_wrong(comparison, slowdown) for comparison in found)


def count_verdicts(found: Sequence[Comparison]) -> dict[str, int]:
    return dict(Counter(comparison.verdict for comparison in found))


def is_fit(aa: Sequence[Comparison]) -> bool:
    """May this machine be trusted? At most 5 % of enough A/A comparisons may claim a difference."""
    return len(aa) >= LEAST_AA and count_wrong(aa, 0.0) <= (1 - stats.CONFIDENCE) * len(aa) + 1e-9


def misses(scenario: Scenario) -> bool:
    """Does the interval of all its replicates together miss the true slow-down?"""
    if len(scenario.replicates) < 2:
        return False
    found = slowdown_of(stats.speedup(scenario.log_ratios))
    return not found.low <= scenario.slowdown <= found.high


def slowdown_of(speedup: Estimate) -> Estimate:
    """A speed-up as the share by which the variant takes longer: 0.952 is 0.05."""
    low, high = speedup.low, speedup.high
    return Estimate(1 / speedup.value - 1, None if high is None else 1 / high - 1, None if low is None else 1 / low - 1)


# --- power ----------------------------------------------------------------------------------------------------------


def least_found(scenarios: Sequence[Scenario], preset: Preset, seed: int = 0) -> np.ndarray | None:
    """(1 + RESAMPLED, DRAWS): from which true slow-down on, as a log, each simulated sweep says "regressed".

    A simulated sweep draws its replicates, and those of its A/A test, with replacement from the recorded noise: how far
    each replicate of an undisturbed scenario lies from its scenario's mean. All scenarios are one pool, since the noise
    is the server's and the machine's whatever was planted, and a few replicates of one size would only repeat
    themselves. The first row is of the noise as recorded; each other one is of as many replicates drawn anew from every
    scenario (Efron and Tibshirani 1993, An Introduction to the Bootstrap, 8.3): what another recording might have
    shown. None when there are fewer replicates than one sweep has.
    """
    groups = [_numbers(s) for s in scenarios if not s.disturbed and len(s.replicates) > 1]
    needed = preset.replicates + preset.aa_replicates
    if min(preset.replicates, preset.aa_replicates) < 2 or sum(map(len, groups)) < needed:
        return None
    rng = np.random.default_rng(seed)
    rows = [_simulated(groups, preset, rng)]
    for _ in range(RESAMPLED):
        rows.append(_simulated([rng.choice(group, len(group)) for group in groups], preset, rng))
    return np.array(rows)


def _numbers(scenario: Scenario) -> np.ndarray:
    """(replicates, 3): the log ratio, how many pairs of blocks there were, and how many stayed disturbed."""
    noted = [(r.log_ratio, r.repeats or {"pairs": 0, "still_disturbed": 0}) for r in scenario.replicates]
    return np.array([(ratio, pairs["pairs"], pairs["still_disturbed"]) for ratio, pairs in noted], float)


def _simulated(groups: Sequence[np.ndarray], preset: Preset, rng: np.random.Generator) -> np.ndarray:
    """(DRAWS,): the least slow-downs of sweeps whose replicates are drawn from the groups' noise."""
    pool = np.concatenate(groups)
    pool[:, 0] = np.concatenate([_deviations(group[:, 0]) for group in groups])
    sizes = (preset.replicates, preset.aa_replicates)
    return least_called_regressed(*(pool[rng.integers(len(pool), size=(DRAWS, size))] for size in sizes))


def least_called_regressed(ours: np.ndarray, aa: np.ndarray) -> np.ndarray:
    """`judge` turned round, for many sweeps at once: by how much, as a log, a variant without a slow-down would have to
    be slower to be called regressed; infinite where the verdict is withheld.

    ours, aa: (sweeps, replicates, 3), the numbers of `_numbers`.
    """
    value, half = stats.log_speedups(ours[..., 0])
    aa_value, aa_half = stats.log_speedups(aa[..., 0])
    threshold = np.maximum(verdicts.LEAST_THRESHOLD, verdicts.THRESHOLD_IN_NOISE_FLOORS * np.expm1(aa_half))
    unfit = np.abs(aa_value) - aa_half > np.log1p(verdicts.LEAST_THRESHOLD)
    pairs, disturbed = ours[..., 1].sum(axis=-1), ours[..., 2].sum(axis=-1)
    withheld = unfit | (disturbed > verdicts.DISTURBED_SHARE_LIMIT * pairs)
    return np.where(withheld, np.inf, value + half + np.log1p(threshold))


def _deviations(values: np.ndarray) -> np.ndarray:
    """From the mean, and as large as they would be from the unknown true one."""
    return (values - values.mean()) * np.sqrt(len(values) / (len(values) - 1))


def power(least: np.ndarray | None, slowdown: float) -> Estimate | None:
    """How often a sweep says "regressed" of a true slow-down, with the interval over resampled noise (percentiles)."""
    return None if least is None else _first_of((least < np.log1p(slowdown)).mean(axis=-1))


def found_from(least: np.ndarray | None, share: float = RIGHT_SHARE) -> Estimate | None:
    """The slow-down from which on a sweep says "regressed" in a `share` of cases; None where none is."""
    if least is None:
        return None
    sizes = np.expm1(np.quantile(least, share, axis=-1, method="higher"))
    return _first_of(sizes) if np.isfinite(sizes).all() else None


def _first_of(values: np.ndarray) -> Estimate:
    tail = (1 - stats.CONFIDENCE) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    return Estimate(float(values[0]), float(low), float(high))
