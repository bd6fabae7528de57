"""What may be said of a speed-up: a sweep's rules, by which its calibration judges too. Pure."""

import math
from collections.abc import Mapping, Sequence

from diffsweep.analysis.stats import Estimate

IMPROVED, REGRESSED, WITHIN_NOISE, CANNOT_TELL = "improved", "regressed", "within noise", "cannot tell"

# A/A noise below 1 % is not believed: METHOD.md's least threshold.
LEAST_THRESHOLD = 0.01
THRESHOLD_IN_NOISE_FLOORS = 2.0
# Of the pairs of blocks that a speed-up rests on: as many again as measure/blocks.py repeats.
DISTURBED_SHARE_LIMIT = 0.25
TOO_DISTURBED = "no verdict: more than a quarter of the pairs stayed disturbed after as many repeats as are allowed"


def noise_floor(aa: Estimate | None) -> float | None:
    """Half the width of the A/A speed-up's interval, relative: 0.02 says that 2 % is within this machine's noise.

    Measured on the log scale, so that a speed-up and its inverse are treated alike. None without an interval.
    """
    if aa is None or aa.low is None or aa.high is None:
        return None
    return math.expm1((math.log(aa.high) - math.log(aa.low)) / 2)


def threshold(floor: float | None) -> float | None:
    """The least change worth a verdict: max(1 %, twice the noise floor). None when the noise is unknown."""
    return None if floor is None else max(LEAST_THRESHOLD, THRESHOLD_IN_NOISE_FLOORS * floor)


def verdict(ratio: Estimate | None, limit: float | None) -> str:
    """What may be claimed of a speed-up, given the threshold `limit` (criterion.rs has the four words).

    improved: the whole interval lies above 1 + limit; regressed: it lies below 1 / (1 + limit); within noise: it lies
    between the two; cannot tell: anything else, an interval or a noise floor that is missing included.
    """
    if ratio is None or ratio.low is None or ratio.high is None or limit is None:
        return CANNOT_TELL
    if ratio.low > 1 + limit:
        return IMPROVED
    if ratio.high < 1 / (1 + limit):
        return REGRESSED
    inside = ratio.low >= 1 / (1 + limit) and ratio.high <= 1 + limit
    return WITHIN_NOISE if inside else CANNOT_TELL


def is_different(aa: Estimate | None) -> bool:
    """Does an A/A test see a difference where there is none? Then the host is unfit for comparisons.

    Judged against the least threshold, not the one that follows from the test itself, which no A/A test can exceed.
    """
    return verdict(aa, LEAST_THRESHOLD) in (IMPROVED, REGRESSED)


def of_speedup(ratio: Estimate, threshold: float | None, host_unfit: str, repeats: Sequence[Mapping]) -> str:
    """The verdict, withheld on an unfit host and where too much was disturbed. `repeats`: is_too_disturbed."""
    withheld = host_unfit or is_too_disturbed(repeats)
    return CANNOT_TELL if withheld else verdict(ratio, threshold)


def is_too_disturbed(repeats: Sequence[Mapping]) -> bool:
    """Did so many pairs of blocks stay disturbed, after as many repeats as are allowed, that nothing can be claimed?

    repeats: what each replicate noted of its pairs (measure/blocks.py).
    """
    disturbed = sum(noted["still_disturbed"] for noted in repeats)
    return disturbed > DISTURBED_SHARE_LIMIT * sum(noted["pairs"] for noted in repeats)


def unfit_sentence(aa: Estimate | None) -> str:
    """Why this host cannot compare variants; empty when it can, or when nobody knows."""
    if not is_different(aa):
        return ""
    return (
        f"A/A says different: two servers of the baseline differ by a factor of {aa.value:.3f} "
        f"({aa.low:.3f} to {aa.high:.3f}) on this host, so no difference between variants can be trusted"
    )
