"""Intervals of quality scores by resampling prompts, and the verdict of equivalence. Pure; NumPy only.

The prompt is the unit: images of the same prompt (other seeds) resemble each other, so they are drawn together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
