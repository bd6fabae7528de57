"""The Frechet distance between two sets of features, with honest intervals. Pure; NumPy and SciPy only.

The distance between samples is biased upwards: two samples of n images from one source are apart, by an amount that
falls like 1 / n (Chong and Forsyth 2020, 'Effectively unbiased FID'). A bootstrap adds a second sample's bias to the
first one's. The jackknife does not: its deleted samples give the variance without resampling, and the bias besides.
So there are two numbers with an interval each:
- `value`, the plain distance: what everybody calls FID. Its interval covers the mean over other samples of this size;
  it is comparable at equal n only, and has a floor above 0.
- `corrected`: less the jackknife's bias. Its interval covers the distance of infinitely many images.
Simulated coverage: tests/test_quality.py, tests/benchmarks/interval_coverage.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

MOST_GROUPS = 50  # deletions per jackknife: more cost time and cover no better (interval_coverage.py)


@dataclass(frozen=True)
class Moments:
    """Mean (d,) and covariance (d, d) of features, in double precision."""

    mean: np.ndarray
    covariance: np.ndarray

    @cached_property
    def root(self) -> np.ndarray:
        """The symmetric square root of the covariance."""
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


@dataclass(frozen=True)
class Distance:
    """A Frechet distance (or a difference of two), with 95 % intervals; see the module's docstring."""

    value: float
    low: float
    high: float
    corrected: float
    corrected_low: float
    corrected_high: float


@dataclass(frozen=True)
class Jackknife:
    """What deleting groups says of a statistic: its bias, its variance, and how many groups that rests on."""

    bias: float
    variance: float
    groups: int


def moments(features: np.ndarray) -> Moments:
    """Moments of features (n, d); the covariance with n - 1, as torchmetrics has it."""
    features = np.asarray(features, np.float64)
    return Moments(features.mean(axis=0), np.cov(features, rowvar=False))


def squared_distance(a: Moments, b: Moments) -> float:
    """The squared Frechet distance of two Gaussians (Dowson and Landau 1982); FID is this number.

    tr sqrt(A B) is taken as the sum of the roots of the eigenvalues of sqrt(B) A sqrt(B), which is symmetric.
    """
    between = np.linalg.eigvalsh(b.root @ a.covariance @ b.root)
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.clip(between, 0, None)).sum()
    return float(((a.mean - b.mean) ** 2).sum() + spread)


def deletion_groups(groups: Sequence[np.ndarray], most: int = MOST_GROUPS) -> list[np.ndarray]:
    """At most `most` groups, merged in turn; what is in one group (the images of one prompt) stays together."""
    if len(groups) <= most:
        return list(groups)
    return [np.concatenate(groups[start::most]) for start in range(most)]


def jackknife(statistic: Callable[[np.ndarray], float], value: float, groups: Sequence[np.ndarray]) -> Jackknife:
    """Delete one group at a time; groups may differ in size (Busing, Meijer and van der Leeden 1999, delete-m_j).

    `statistic` takes the positions that are kept; `value` is the statistic of all of them.
    """
    everything = np.sort(np.concatenate(groups))
    n, g = len(everything), len(groups)
    deleted = np.asarray([statistic(np.setdiff1d(everything, group)) for group in groups])
    share = np.asarray([len(group) for group in groups]) / n
    estimate = g * value - float(((1 - share) * deleted).sum())
    pseudo = value / share - (1 / share - 1) * deleted
    variance = float(((pseudo - estimate) ** 2 / (1 / share - 1)).mean())
    return Jackknife(bias=value - estimate, variance=variance, groups=g)


def with_intervals(value: float, part: Jackknife, confidence: float = 0.95) -> Distance:
    """The distance with both intervals."""
    half = float(special.stdtrit(part.groups - 1, (1 + confidence) / 2)) * float(np.sqrt(part.variance))
    corrected = value - part.bias
    return Distance(value, value - half, value + half, corrected, corrected - half, corrected + half)


def distance(features: np.ndarray, others: np.ndarray, prompts: Sequence[np.ndarray]) -> Distance:
    """FID between two sets of features (n, d) of equal size. `prompts`: the positions of each prompt's images.

    Deletes what stands at a prompt's positions from both sides at once. Where both sides show the same prompts in the
    same order (the variant and the baseline; the reference images, drawn for the suite) they go together, and the
    interval must know; where they are independent, pairs of independent images are deleted, which is as right.
    """
    value = squared_distance(moments(features), moments(others))
    part = jackknife(
        lambda kept: squared_distance(moments(features[kept]), moments(others[kept])), value, deletion_groups(prompts)
    )
    return with_intervals(value, part)


def difference(
    features: np.ndarray, baseline: np.ndarray, reference: np.ndarray, prompts: Sequence[np.ndarray]
) -> Distance:
    """FID(variant) - FID(baseline), both to the same reference images, paired by prompt and seed.

    What the two have in common cancels, so this interval is far narrower than those of the two distances.
    """

    def of(kept: np.ndarray) -> float:
        real = moments(reference[kept])
        return squared_distance(moments(features[kept]), real) - squared_distance(moments(baseline[kept]), real)

    value = of(np.arange(len(features)))
    return with_intervals(value, jackknife(of, value, deletion_groups(prompts)))


def floor(reference: np.ndarray, n: int, most: int = 8) -> tuple[float, int]:
    """FID of real images against other real images, as mean over up to `most` comparisons; and n on each side.

    The first n reference images against the next n, and so on. Reference images drawn for a suite come cycle after
    cycle, so at n = the suite's length (or a multiple) both sides show the same prompts, as variants' images do. With
    fewer than 2 n reference images the two halves are compared, and the returned n is smaller.
    """
    size = min(n, len(reference) // 2)
    first = moments(reference[:size])
    starts = range(size, len(reference) - size + 1, size)[:most]
    values = [squared_distance(first, moments(reference[start : start + size])) for start in starts]
    return float(np.mean(values)), size
