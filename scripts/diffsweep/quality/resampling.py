"""Intervals of quality scores over prompts, and the verdict of equivalence. Pure; NumPy and SciPy only.

The prompt is the unit: images of the same prompt (other seeds) resemble each other, so they are drawn together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

EQUIVALENT, BETTER, NOT_WORSE, WORSE, CANNOT_TELL = "equivalent", "better", "not worse", "worse", "cannot tell"
KEPT = (EQUIVALENT, BETTER, NOT_WORSE)  # the verdicts by which images lose nothing that matters


@dataclass(frozen=True)
class Mean:
    """A mean with its interval; the ends are None where a single prompt gives none."""

    mean: float
    low: float | None
    high: float | None


def prompt_groups(prompt_ids: Sequence[str]) -> list[np.ndarray]:
    """The positions of each prompt's images, prompts in the order of their first image."""
    positions: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompt_ids):
        positions.setdefault(prompt, []).append(index)
    return [np.asarray(where) for where in positions.values()]


def bootstrap_mean(
    values: Sequence[float], prompt_ids: Sequence[str], resamples: int, seed: int, confidence: float = 0.95
) -> Mean:
    """The mean over images with a percentile interval from resampling prompts with replacement.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, 13.3; clusters: Davison and Hinkley 1997, 3.8. The
    resampled means are widened by sqrt(m / (m - 1)) about the mean for m prompts, since the bootstrap's variance is too
    small by that much.
    """
    values = np.asarray(values, float)
    groups = prompt_groups(prompt_ids)
    mean, m = float(values.mean()), len(groups)
    if m < 2:
        return Mean(mean, None, None)
    sums = np.asarray([values[where].sum() for where in groups])
    sizes = np.asarray([len(where) for where in groups])
    draws = np.random.default_rng(seed).integers(0, m, size=(resamples, m))
    means = sums[draws].sum(axis=1) / sizes[draws].sum(axis=1)
    widened = mean + (means - mean) * np.sqrt(m / (m - 1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(widened, [tail, 1 - tail])
    return Mean(mean, float(low), float(high))


def share_mean(shares: Sequence[float], prompt_ids: Sequence[str], confidence: float = 0.95) -> Mean:
    """The mean over images of shares from 0 to 1 (of yes or no: 1 or 0), with an interval that stays within 0 and 1.

    Clopper and Pearson's for the effective sample size, the number of independent yes or no answers whose variance
    would be that between prompts (Korn and Graubard 1998, Survey Methodology 24). Where all images agree, nothing tells
    that variance, and each prompt counts as one answer. Conservative near 0 and 1: 95 to 99 % for 200 prompts of one
    image. (A bootstrap of few failures covers little: of none, its interval is a point.)
    """
    shares = np.clip(np.asarray(shares, float), 0.0, 1.0)
    groups = prompt_groups(prompt_ids)
    mean, m = float(shares.mean()), len(groups)
    if m < 2:
        return Mean(mean, None, None)
    excess = np.asarray([(shares[where] - mean).sum() for where in groups])
    variance = m / (m - 1) * float((excess**2).sum()) / len(shares) ** 2
    # Rounding leaves a speck of variance where all shares are alike.
    effective = mean * (1 - mean) / variance if 0 < mean < 1 and variance > 1e-18 else float(m)
    right, wrong = mean * effective, (1 - mean) * effective
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(right, wrong + 1, tail)) if right > 0 else 0.0
    high = float(special.betaincinv(right + 1, wrong, 1 - tail)) if wrong > 0 else 1.0
    return Mean(mean, low, high)


def equivalence(difference: Mean, margin: float) -> str:
    """What may be said of a difference (variant - baseline, more is better) against the declared margin.

    equivalent: the whole interval lies within +- margin (two one-sided tests: Schuirmann 1987); worse or better: it
    lies wholly beyond the margin; not worse: it ends above -margin and may lie beyond +margin (non-inferiority);
    otherwise cannot tell. 'No significant difference' is not equivalence.
    """
    if not margin > 0:
        raise ValueError(f"a margin is greater than 0, got {margin}")
    low, high = difference.low, difference.high
    if low is None or high is None:
        return CANNOT_TELL
    if -margin < low and high < margin:
        return EQUIVALENT
    if high < -margin:
        return WORSE
    if low > margin:
        return BETTER
    return NOT_WORSE if low > -margin else CANNOT_TELL
