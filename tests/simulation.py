"""Simulated benchmarks with known truth, for the coverage of intervals: what machines do to requests, and worse."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffsweep.analysis import stats
from diffsweep.analysis.stats import Estimate


@dataclass(frozen=True)
class Machine:
    """How a machine disturbs latencies. All spreads are standard deviations of logs.

    process: between server processes; request: between requests; walk: of a random walk from request to request, and
    correlated, of a noise with autocorrelation 0.9; drift: linear, from first to last request of a replicate (its sign
    and size vary between replicates); outliers: share of requests that take 1.5 to 3 times as long; contention: share
    of the time in which somebody else uses the processor, in episodes of four requests on average that make each of
    them 5 to 50 % slower; heavy: process and request noise from Student's t with 3 degrees of freedom instead of a
    normal distribution.
    """

    process: float = 0.015
    request: float = 0.05
    walk: float = 0.0
    correlated: float = 0.0
    drift: float = 0.0
    outliers: float = 0.0
    contention: float = 0.0
    heavy: bool = False


MACHINES = {
    "quiet": Machine(process=0.002, request=0.01),
    "process spread": Machine(process=0.03),
    "request noise": Machine(process=0.0, request=0.08),
    "drift": Machine(drift=0.3),
    "random walk": Machine(walk=0.02),
    "autocorrelation": Machine(correlated=0.06),
    "outliers": Machine(outliers=0.05),
    "contention": Machine(process=0.01, request=0.02, contention=0.5),
    "heavy tails": Machine(heavy=True, process=0.02),
    "all at once": Machine(
        process=0.02, request=0.06, walk=0.01, correlated=0.04, drift=0.2, outliers=0.03, contention=0.2, heavy=True
    ),
}


def log_ratios(
    machine: Machine,
    rng: np.random.Generator,
    *,
    simulations: int,
    replicates: int = 3,
    requests: int = 24,
    block: int = 1,
) -> np.ndarray:
    """(simulations, replicates): log(baseline / variant) of each replicate, asked in blocks A B B A; the truth is 0."""
    shape = (simulations, replicates, 2 * requests)
    is_variant = np.repeat([i % 4 in (1, 2) for i in range(2 * requests // block)], block)
    process = _noise(machine, rng, (simulations, replicates, 2)) * machine.process
    logs = _noise(machine, rng, shape) * machine.request
    logs += np.where(is_variant, process[..., 1:], process[..., :1])
    logs += _shared_with_time(machine, rng, shape)
    slow = rng.random(shape) < machine.outliers
    times = np.moveaxis(np.exp(logs) * np.where(slow, rng.uniform(1.5, 3.0, shape), 1.0), 2, 0)
    return np.log(stats.undisturbed(times[~is_variant]) / stats.undisturbed(times[is_variant]))


def latencies(
    machine: Machine, rng: np.random.Generator, *, simulations: int, replicates: int = 5, requests: int = 15
) -> np.ndarray:
    """(simulations, replicates, requests): times of one side, around 1. Their pooled quantiles are the truth."""
    shape = (simulations, replicates, requests)
    logs = _noise(machine, rng, shape) * machine.request + _shared_with_time(machine, rng, shape)
    logs += _noise(machine, rng, (simulations, replicates, 1)) * machine.process
    return np.exp(logs) * np.where(rng.random(shape) < machine.outliers, rng.uniform(1.5, 3.0, shape), 1.0)


def _noise(machine: Machine, rng: np.random.Generator, shape: tuple) -> np.ndarray:
    return rng.standard_t(3, shape) / np.sqrt(3) if machine.heavy else rng.standard_normal(shape)


def _shared_with_time(machine: Machine, rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """What the machine does to both sides alike, request after request."""
    length = shape[2]
    linear = rng.standard_normal((*shape[:2], 1)) * machine.drift * np.linspace(0, 1, length)
    walk = np.cumsum(rng.standard_normal(shape) * machine.walk, axis=2)
    correlated = np.zeros(shape)
    shocks = rng.standard_normal(shape) * np.sqrt(1 - 0.9**2)
    for i in range(1, length):
        correlated[..., i] = 0.9 * correlated[..., i - 1] + shocks[..., i]
    return linear + walk + machine.correlated * correlated + _contention(machine, rng, shape)


def _contention(machine: Machine, rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Logs of the slow-down by somebody else who comes and goes."""
    if not machine.contention:
        return np.zeros(shape)
    leaves = 1 / 4
    comes = leaves * machine.contention / (1 - machine.contention)
    there = rng.random(shape[:2]) < machine.contention
    slower = np.zeros(shape)
    for i in range(shape[2]):
        there = np.where(there, rng.random(shape[:2]) >= leaves, rng.random(shape[:2]) < comes)
        slower[..., i] = np.where(there, np.log(rng.uniform(1.05, 1.5, shape[:2])), 0.0)
    return slower


def covers(estimate: Estimate | None, truth: float) -> bool:
    return estimate is not None and estimate.low is not None and estimate.low <= truth <= estimate.high


def coverage(ratios: np.ndarray, method: Callable[[np.ndarray], Estimate], truth: float) -> tuple[float, float]:
    """(share of intervals that hold `truth`, median half-width) of `method` over simulations."""
    estimates = [method(one) for one in ratios]
    held = np.mean([covers(estimate, truth) for estimate in estimates])
    return float(held), float(np.median([estimate.half_width for estimate in estimates]))


def each(count: int) -> list[np.ndarray]:
    """Every image a prompt of its own."""
    return list(np.arange(count)[:, None])
