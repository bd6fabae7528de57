"""Is this machine fit to tell variants apart? What the verdicts say where the truth is known. Pure.

A scenario is a variant whose true slow-down is known: none (A/A), a planted one, either with or without a disturbed
host. Its replicates are those of a sweep (stats.speedup, stats.noise_floor, stats.verdict, nothing else), cut into
independent comparisons of as many replicates as a sweep has. The noise floor of each comparison comes from another A/A
comparison, as in a sweep it comes from the baseline's own job.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffsweep.analysis import stats
from diffsweep.analysis.stats import Estimate

Ratios = Sequence[Sequence[float]]  # log(baseline / variant) of the pairs of each replicate

RIGHT_SHARE = 0.95  # a preset "finds" a slow-down that it calls regressed this often
DRAWS = 2000


@dataclass(frozen=True)
class Scenario:
    """Replicates of a variant with a known truth. slowdown: the planted share of the end-to-end time, 0 for A/A."""

    name: str
    slowdown: float
    disturbed: bool
    ratios: Ratios
    flagged_blocks: int = 0
    blocks: int = 0


@dataclass(frozen=True)
class Comparison:
    """One comparison as a sweep makes it: the speed-up, the threshold it was judged by, the verdict."""

    speedup: Estimate
    threshold: float | None
    verdict: str


def comparisons(scenario: Scenario, aa: Scenario, replicates: int) -> list[Comparison]:
    """The independent comparisons of a scenario; what is left over of its replicates is not used.

    Judging A/A itself, the floor is that of the next comparison, never its own.
    """
    floors = [stats.noise_floor(stats.speedup(group)) for group in groups(aa.ratios, replicates)]
    shift = 1 if scenario is aa else 0
    if len(floors) <= shift:
        return []
    found = []
    for number, group in enumerate(groups(scenario.ratios, replicates)):
        limit = stats.threshold(floors[(number + shift) % len(floors)])
        ratio = stats.speedup(group)
        found.append(Comparison(ratio, limit, stats.verdict(ratio, limit)))
    return found


def groups(ratios: Ratios, size: int) -> list[Ratios]:
    """Consecutive replicates, `size` at a time."""
    return [ratios[i : i + size] for i in range(0, len(ratios) - size + 1, size)]


def is_wrong(verdict: str, slowdown: float) -> bool:
    """Does a verdict claim what is not so? "within noise" is wrong of a slow-down that lies beyond the threshold, but
    that depends on the threshold; here only a claimed change in the wrong direction, or of nothing, is wrong."""
    return verdict == stats.IMPROVED or (verdict == stats.REGRESSED and slowdown == 0)


def count_verdicts(found: Sequence[Comparison]) -> dict[str, int]:
    return dict(Counter(comparison.verdict for comparison in found))


def power(scenario: Scenario, aa: Scenario, replicates: int, seed: int = 0) -> float | None:
    """How often a sweep with so many replicates says "regressed", estimated from all recorded replicates.

    Each of DRAWS draws takes that many replicates of the scenario, and as many of A/A for the noise floor, without
    replacement; both presets are so judged from the same records. None when there are too few.
    """
    if min(len(scenario.ratios), len(aa.ratios)) < replicates:
        return None
    rng = np.random.default_rng(seed)
    ours, theirs = (np.array([stats.replicate_value(r) for r in s.ratios]) for s in (scenario, aa))
    regressed = 0
    for _ in range(DRAWS):
        ratio = stats.speedup_of_values(rng.choice(ours, replicates, replace=False))
        floor = stats.noise_floor(stats.speedup_of_values(rng.choice(theirs, replicates, replace=False)))
        regressed += stats.verdict(ratio, stats.threshold(floor)) == stats.REGRESSED
    return regressed / DRAWS


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
