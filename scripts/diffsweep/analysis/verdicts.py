"""What may be said of a speed-up: a sweep's rules, by which its calibration judges too. Pure."""

from collections.abc import Mapping, Sequence

from diffsweep.analysis import stats
from diffsweep.analysis.stats import Estimate

# Of the pairs of blocks that a speed-up rests on: as many again as measure/blocks.py repeats.
DISTURBED_SHARE_LIMIT = 0.25
TOO_DISTURBED = "no verdict: more than a quarter of the pairs stayed disturbed after as many repeats as are allowed"


def of_speedup(ratio: Estimate, threshold: float | None, host_unfit: str, repeats: Sequence[Mapping]) -> str:
    """The verdict, withheld on an unfit host and where too much was disturbed. `repeats`: is_too_disturbed."""
    withheld = host_unfit or is_too_disturbed(repeats)
    return stats.CANNOT_TELL if withheld else stats.verdict(ratio, threshold)


def is_too_disturbed(repeats: Sequence[Mapping]) -> bool:
    """Did so many pairs of blocks stay disturbed, after as many repeats as are allowed, that nothing can be claimed?

    repeats: what each replicate noted of its pairs (measure/blocks.py).
    """
    disturbed = sum(noted["still_disturbed"] for noted in repeats)
    return disturbed > DISTURBED_SHARE_LIMIT * sum(noted["pairs"] for noted in repeats)


def unfit_sentence(aa: Estimate | None) -> str:
    """Why this host cannot compare variants; empty when it can, or when nobody knows."""
    if not stats.is_different(aa):
        return ""
    return (
        f"A/A says different: two servers of the baseline differ by a factor of {aa.value:.3f} "
        f"({aa.low:.3f} to {aa.high:.3f}) on this host, so no difference between variants can be trusted"
    )
