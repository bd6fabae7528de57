"""Where P95 crosses the objective: the rate at which a twentieth of the requests is late, by all runs of a search.

Pure. The highest rate that held is not that rate: late requests come in bursts, so that most runs hold at a rate at
which all of them together do not, and it is 2 to 3 % too high in simulations. The fit varies by a third less between
searches, too (tests/benchmarks/interval_coverage.py --only searches).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from diffsweep.measure.arrivals import Trial
from diffsweep.measure.capacity import ERROR_SHARE_LIMIT
from diffsweep.measure.search import STEP

LATE_SHARE = 0.05  # of the requests, where P95 reaches the objective
# By how much shares of late requests vary more than independent requests would, in multiples of a burst's length:
# usually, and where runs contradict each other. Of simulated servers that keep their pace the limit withholds the
# interval in 1 case of 100, of those that drift in the course of a run in 19 of 20 (tests/long/test_coverage.py).
USUAL_DISPERSION, DISPERSION_LIMIT = 3.0, 6.0


@dataclass(frozen=True)
class Crossing:
    """rate: at which a twentieth is late, requests per second. squares: how far the shares of runs near it lie from the
    fit (Pearson's chi-square, in multiples of a burst's length), with so many degrees of freedom."""

    rate: float
    squares: float
    freedom: int


def crossing_of(trials: Sequence[Trial], rate: float, objective_s: float) -> Crossing:
    """By a logistic fit to the valid runs of a search whose answer is `rate`.

    Where the fit leads further from the answer than a step of the search, runs contradict each other: it ends there.
    """
    trials = [trial for trial in trials if trial.valid]
    rates = np.log([trial.rate_per_s / rate for trial in trials])
    shares = np.array([_bad_share(trial) for trial in trials])
    requests = np.array([float(trial.requests) for trial in trials])
    # A queue that is long stays so for about the objective: late requests come in bursts of as many as come meanwhile.
    burst = max(rate * objective_s, 1.0)
    level, slope = _logistic_fit(rates, shares, requests, USUAL_DISPERSION * burst)
    found = (float(special.logit(LATE_SHARE)) - level) / slope if slope > 0 else 0.0

    near = np.abs(rates) <= math.log(STEP) + 0.01
    expected = special.expit(level + slope * rates)
    variance = np.maximum(expected * (1 - expected), 1e-3) / requests
    squares = float(((shares - expected) ** 2 / variance)[near].sum()) / burst
    most = math.log(STEP)
    return Crossing(rate * math.exp(min(max(found, -most), most)), squares, max(int(near.sum()) - 2, 0))


def contradict(crossings: Sequence[Crossing]) -> bool:
    """Do shares of late requests vary by far more from run to run than bursts explain? As of a server that drifts. Too
    few runs cannot tell."""
    freedom = sum(crossing.freedom for crossing in crossings)
    return freedom > 0 and sum(crossing.squares for crossing in crossings) > DISPERSION_LIMIT * freedom


def _bad_share(trial: Trial) -> float:
    """What share of a run's requests was late or failed; up to a twentieth, P95 is within the objective. Of failures
    only 1 % may be, so each counts for five."""
    late = 1 - trial.good_images_per_s / trial.rate_per_s
    failed = sum(trial.errors.values()) / trial.requests
    return min(max(late, failed * LATE_SHARE / ERROR_SHARE_LIMIT), 1.0)


def _logistic_fit(x: np.ndarray, shares: np.ndarray, counts: np.ndarray, dispersion: float) -> tuple[float, float]:
    """(a, b) of the logistic curve 1 / (1 + exp(-a - b x)) through shares of so many trials each.

    Maximum likelihood less its bias (Firth 1993, Biometrika 80: finite also where shares are nothing but 0 and 1), by
    Newton's method. dispersion: by how much shares vary more than those of independent trials, which the bias follows.
    """
    design = np.stack([np.ones_like(x), x], axis=1)
    fitted = np.array([-3.0, 5.0])
    for _ in range(100):
        expected = special.expit(design @ fitted)
        weights = counts * expected * (1 - expected)
        information = design.T @ (design * weights[:, None]) + 1e-6 * np.eye(2)
        leverage = weights * (design @ np.linalg.inv(information) * design).sum(axis=1)
        excess = counts * (shares - expected) + dispersion * leverage * (0.5 - expected)
        most = np.maximum(np.abs(fitted), 1.0)  # a whole step may overshoot
        step = np.clip(np.linalg.solve(information, design.T @ excess), -most, most)
        fitted = fitted + step
        if (np.abs(step) < 1e-9 * most).all():
            break
    return float(fitted[0]), float(fitted[1])
