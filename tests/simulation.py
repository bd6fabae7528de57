"""Simulated benchmarks with known truth, for the coverage of intervals: what machines do to requests, and worse."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from diffsweep.analysis import load, stats
from diffsweep.analysis.stats import Estimate
from diffsweep.measure.records import CapacityRecord
from diffsweep.sweep.plan import PRESETS

SCHEMA = yaml.safe_load((Path(__file__).resolve().parents[1] / "workflow/schemas/config.schema.yaml").read_text())
NOMINAL = (0.93, 0.97)  # what METHOD.md and the issue ask of an interval that says 95 %


def default_of(section: str, name: str) -> int:
    """What a sweep takes where its config says nothing."""
    return SCHEMA["$defs"][section]["properties"][name]["default"]


def sizes() -> list[tuple[int, int]]:
    """(replicates, requests) of every speed-up that a preset measures, A/A tests included."""
    return [(preset[key], preset["requests"]) for preset in PRESETS.values() for key in ("replicates", "aa_replicates")]


def nominal(tries: int) -> tuple[float, float]:
    """Between what shares of `tries` an interval of nominal coverage holds, three binomial standard errors allowed."""
    low, high = NOMINAL
    return low - 3 * math.sqrt(low * (1 - low) / tries), min(high + 3 * math.sqrt(high * (1 - high) / tries), 1.0)


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


def both_sides(
    machine: Machine,
    rng: np.random.Generator,
    *,
    simulations: int,
    replicates: int,
    requests: int,
    block: int = 1,
    sharers: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """(requests, simulations, replicates) of the baseline and of the variant, equal and asked in blocks A B B A.

    sharers: so many variants share the baseline's requests, A B C D D C B A; it is the one farthest from them.
    """
    there = range(sharers + 1)
    turns = np.repeat([turn for i in range(requests // block) for turn in (there, there[::-1])[i % 2]], block)
    shape = (simulations, replicates, len(turns))
    is_variant = turns == sharers
    process = noise(machine, rng, (simulations, replicates, 2)) * machine.process
    logs = noise(machine, rng, shape) * machine.request
    logs += np.where(is_variant, process[..., 1:], process[..., :1])
    logs += _shared_with_time(machine, rng, shape)
    slow = rng.random(shape) < machine.outliers
    times = np.moveaxis(np.exp(logs) * np.where(slow, rng.uniform(1.5, 3.0, shape), 1.0), 2, 0)
    return times[turns == 0], times[is_variant]


def log_ratios(machine: Machine, rng: np.random.Generator, **size: int) -> np.ndarray:
    """(simulations, replicates): log(baseline / variant) of each replicate's undisturbed times; the truth is 0."""
    baseline, variant = both_sides(machine, rng, **size)
    return np.log(stats.undisturbed(baseline) / stats.undisturbed(variant))


def typical_log_ratios(machine: Machine, rng: np.random.Generator, **size: int) -> np.ndarray:
    """The same of typical times, as latency.typical_log_ratio has it: the median over pairs of neighbours."""
    baseline, variant = both_sides(machine, rng, **size)
    return np.median(np.log(baseline / variant), axis=0)


def latencies(
    machine: Machine,
    rng: np.random.Generator,
    *,
    simulations: int,
    replicates: int = PRESETS["default"]["replicates"],
    requests: int = PRESETS["default"]["requests"],
) -> np.ndarray:
    """(simulations, replicates, requests): times of one side, around 1. Their pooled quantiles are the truth."""
    shape = (simulations, replicates, requests)
    logs = noise(machine, rng, shape) * machine.request + _shared_with_time(machine, rng, shape)
    logs += noise(machine, rng, (simulations, replicates, 1)) * machine.process
    return np.exp(logs) * np.where(rng.random(shape) < machine.outliers, rng.uniform(1.5, 3.0, shape), 1.0)


def loads(
    machine: Machine, rng: np.random.Generator, *, simulations: int, capacities: Mapping[int, float]
) -> list[list[load.Level]]:
    """The levels of each simulated sweep, of as many replicates and requests as a sweep has by default.

    capacities: clients -> images per second that the server makes of one request after the other.
    """
    replicates, measured = default_of("protocol", "load_replicates"), default_of("protocol", "requests_per_level")
    counts = {clients: clients + max(measured, clients) for clients in capacities}
    times = latencies(machine, rng, simulations=simulations, replicates=replicates, requests=sum(counts.values()))
    starts = np.cumsum([0, *counts.values()])
    parts = [(n, slice(a, b)) for n, a, b in zip(counts, starts, starts[1:], strict=False)]
    return [
        load.levels_of([[r for n, part in parts for r in _answers(n, own[part] / capacities[n])] for own in sweep])
        for sweep in times
    ]


KNOWN = {"schema": 1, "run": "r", "model": "m", "target": "t", "variant": "v", "replicate": 1, "status": "ok"}
KNOWN |= {"scenario": "steps", "scheduled_s": None, "images": 1, "error": None}


def _answers(clients: int, times_s: Sequence[float]) -> list[CapacityRecord]:
    """What `clients` get that ask again at once, from a server that takes these times, one request after the other."""
    done_s = np.cumsum(times_s).tolist()
    sent_s = [0.0] * clients + done_s
    return [
        CapacityRecord(**KNOWN, level=clients, client=i % clients, sent_s=sent_s[i], done_s=end, steady=i >= clients)
        for i, end in enumerate(done_s)
    ]


def noise(machine: Machine, rng: np.random.Generator, shape: tuple) -> np.ndarray:
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


def covered(
    levels: Sequence[Sequence[load.Level]], choose: Callable = load.sustained
) -> tuple[float, float, list[Estimate]]:
    """Of the throughputs that are told of simulated sweeps, the sustained ones: (share of intervals that hold what
    their level makes on average, relative bias, the estimates)."""
    rates: dict[float, list[float]] = {}
    for level in (level for sweep in levels for level in sweep):
        rates.setdefault(level.clients, []).append(level.images_per_s.value)
    truths = {clients: float(np.mean(values)) for clients, values in rates.items()}
    chosen = [level for sweep in levels if (level := choose(sweep)) is not None]
    held = [covers(level.images_per_s, truths[level.clients]) for level in chosen]
    bias = np.mean([level.images_per_s.value / truths[level.clients] - 1 for level in chosen])
    return float(np.mean(held)), float(bias), [level.images_per_s for level in chosen]


def each(count: int) -> list[np.ndarray]:
    """Every image a prompt of its own."""
    return list(np.arange(count)[:, None])
