"""How much a variant changes a statistic of the latency, from replicates in which both sides were measured in turns."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from diffsweep.analysis import stats, verdicts
from diffsweep.analysis.stats import Estimate

STATISTICS = {"mean": None, "p50": 0.50, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Change:
    """baseline / variant of one statistic (above 1: the variant is faster), and what may be claimed of it.

    ratio is None when there are too few requests for this statistic, or none at all; n: requests per side.
    """

    statistic: str
    ratio: Estimate | None
    verdict: str
    n: int

    @property
    def reduction(self) -> tuple[float, float | None, float | None]:
        """By which share the variant lowers the statistic, with the interval; negative where it raises it."""
        low, high = self.ratio.low, self.ratio.high
        return 1 - 1 / self.ratio.value, None if low is None else 1 - 1 / low, None if high is None else 1 - 1 / high


def change(ours: pd.DataFrame, theirs: pd.DataFrame, statistic: str, threshold: float | None) -> Change:
    """The change from `theirs` (the baseline's requests) to `ours`, both with columns replicate and e2e_s.

    The logarithm of the ratio in each replicate, then Student's interval over replicates (stats.replicate_interval). A
    quantile is refused when a side has fewer requests than its own interval would need.
    """
    n = min(len(ours), len(theirs))
    quantile = STATISTICS[statistic]
    if n == 0 or (quantile is not None and n < stats.minimum_sample(quantile)):
        return Change(statistic, None, verdicts.CANNOT_TELL, n)

    def value(times: pd.Series) -> float:
        return float(times.mean() if quantile is None else np.quantile(times, quantile))

    own = ours.groupby("replicate")["e2e_s"].apply(value)
    other = theirs.groupby("replicate")["e2e_s"].apply(value)
    both = own.index.intersection(other.index)
    ratio = stats.exponential(stats.replicate_interval(np.log(other[both] / own[both]).tolist())) if len(both) else None
    return Change(statistic, ratio, verdicts.verdict(ratio, threshold), n)
