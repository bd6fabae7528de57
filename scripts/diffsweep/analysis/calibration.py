"""Is this machine fit to tell variants apart? What the verdicts say where the truth is known. Pure.

A scenario is a variant whose true slow-down is known: none (A/A), a planted one, either with or without a disturbed
host. Its replicates are those of a sweep (stats.speedup, stats.noise_floor, stats.verdict, nothing else), cut into
independent comparisons of as many replicates as a sweep has. The noise floor of each comparison comes from other A/A
replicates, as many as in a sweep the baseline's own job has.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffsweep.analysis import stats
from diffsweep.analysis.stats import Estimate

RIGHT_SHARE = 0.95  # a preset "finds" a slow-down that it calls regressed this often
DRAWS = 2000


@dataclass(frozen=True)
class Scenario:
    """Replicates of a variant with a known truth. slowdown: the planted share of the end-to-end time, 0 for A/A."""

    name: str
    slowdown: float
    disturbed: bool
    log_ratios: Sequence[float]  # log(baseline / variant), one a replicate
    flagged_blocks: int = 0
    blocks: int = 0


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


def comparisons(scenario: Scenario, aa: Scenario, preset: Preset) -> list[Comparison]:
    """The independent comparisons of a scenario; what is left over of its replicates is not used.

    The floor of the n-th is that of the A/A replicates that follow the n-th comparison's own (round and round), so that
    A/A is never judged by its own. Empty where there are too few A/A replicates.
    """
    size = preset.replicates
    if len(aa.log_ratios) < size + preset.aa_replicates:
        return []
    found = []
    for start in range(0, len(scenario.log_ratios) - size + 1, size):
        others = np.roll(aa.log_ratios, -(start + size))[: preset.aa_replicates]
        found.append(judge(scenario.log_ratios[start : start + size], others))
    return found


def judge(log_ratios: Sequence[float], aa: Sequence[float]) -> Comparison:
    ratio, limit = stats.speedup(log_ratios), stats.threshold(stats.noise_floor(stats.speedup(aa)))
    return Comparison(ratio, limit, stats.verdict(ratio, limit))


def is_wrong(verdict: str, slowdown: float) -> bool:
    """Does a verdict claim what is not so? "within noise" is wrong of a slow-down that lies beyond the threshold, but
    that depends on the threshold; here only a claimed change in the wrong direction, or of nothing, is wrong."""
    return verdict == stats.IMPROVED or (verdict == stats.REGRESSED and slowdown == 0)


def count_verdicts(found: Sequence[Comparison]) -> dict[str, int]:
    return dict(Counter(comparison.verdict for comparison in found))


def power(scenario: Scenario, aa: Scenario, preset: Preset, seed: int = 0) -> float | None:
    """How often a sweep with this preset says "regressed", estimated from all recorded replicates.

    Each of DRAWS draws takes the preset's replicates of the scenario, and of A/A for the noise floor, without
    replacement; all presets are so judged from the same records. None when there are too few.
    """
    if len(scenario.log_ratios) < preset.replicates or len(aa.log_ratios) < preset.aa_replicates:
        return None
    rng = np.random.default_rng(seed)

    def draw(of: Scenario, size: int) -> np.ndarray:
        return rng.choice(of.log_ratios, size, replace=False)

    judged = (judge(draw(scenario, preset.replicates), draw(aa, preset.aa_replicates)) for _ in range(DRAWS))
    return sum(comparison.verdict == stats.REGRESSED for comparison in judged) / DRAWS


def smallest_found(powers: Mapping[float, float | None]) -> float | None:
    """The smallest planted slow-down that is found at least RIGHT_SHARE of the time, as all larger ones are."""
    smallest = None
    for slowdown in sorted(powers, reverse=True):
        if powers[slowdown] is None or powers[slowdown] < RIGHT_SHARE:
            break
        smallest = slowdown
    return smallest


def is_fit(aa: Sequence[Comparison]) -> bool:
    """May this machine be trusted? At most 5 % of A/A comparisons, but never only one, may claim a difference."""
    wrong = sum(is_wrong(comparison.verdict, 0.0) for comparison in aa)
    return wrong <= max(1, (1 - stats.CONFIDENCE) * len(aa) + 1e-9)


def slowdown_of(speedup: Estimate) -> Estimate:
    """A speed-up as the share by which the variant takes longer: 0.952 is 0.05."""
    low, high = speedup.low, speedup.high
    return Estimate(1 / speedup.value - 1, None if high is None else 1 / high - 1, None if low is None else 1 / low - 1)
