"""Queues whose truth is known: one server, first come first served, simulated by Lindley's recursion."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import simulation
from diffsweep.analysis.arrivals import Arrivals
from diffsweep.measure.arrivals import Arrival, Limits, Trial, poisson_schedule, requests_for, summarise_trial
from diffsweep.measure.records import CapacityRecord, RecordWriter
from diffsweep.measure.search import bracket_of, search


def answers(schedule_s: Sequence[float], service_s: Sequence[float]) -> np.ndarray:
    """When each request is answered: the later of its arrival and the one before's answer, plus its service (Lindley
    1952); as a running maximum over the arrivals that may have begun the busy period."""
    worked = np.cumsum(service_s)
    return worked + np.maximum.accumulate(np.asarray(schedule_s) - (worked - service_s))


def simulated_run(rate: float, requests: int, seed: int, services: Callable, late_s: float = 0.0) -> list[Arrival]:
    """What a client that is `late_s` late would see. services: (generator, number) -> seconds of each request."""
    schedule = poisson_schedule(rate, requests, seed)
    done = answers(schedule, services(np.random.default_rng(seed), requests))
    return [
        Arrival(0, at, at + late_s, float(end), 1, None, None, steady=place >= requests / 10)
        for place, (at, end) in enumerate(zip(schedule, done, strict=True))
    ]


def simulated_search(
    services: Callable,
    limits: Limits,
    seed: int,
    *,
    requests: int = 100,
    tolerance: float = 0.05,
    most: int = 30,
    kept: list | None = None,
) -> Arrivals:
    """A whole search against a simulated server, as the analysis would read it; its runs are added to `kept`."""

    def run(number: int, rate: float) -> Trial:
        count = requests_for(rate, requests, limits.objective_s)
        arrived = simulated_run(rate, count, seed * 1000 + number, services)
        if kept is not None:
            kept.append((number, rate, arrived))
        return summarise_trial(number, rate, arrived, limits)

    trials, settled = search(run, 0.6 / limits.service_s, tolerance, most)
    return Arrivals(limits.objective_s, limits.service_s, trials, bracket_of(trials), settled)


def write_search(folder: Path, services: Callable, limits: Limits, seed: int = 0) -> Arrivals:
    """A simulated search, left in its folder as scripts/arrivals.py would."""
    folder.mkdir(parents=True, exist_ok=True)
    kept: list = []
    found = simulated_search(services, limits, seed, kept=kept)
    with RecordWriter(folder / "arrivals.jsonl") as writer:
        for place in range(5):
            writer.append(_record("steps", 1, None, float(place), place + limits.service_s, True, None))
        for number, rate, arrived in kept:
            for a in arrived:
                writer.append(_record("arrivals", rate, a.scheduled_s, a.sent_s, a.done_s, a.steady, number))
    notes = {"objective_s": limits.objective_s, "arrivals": {"lateness": limits.lateness}, "settled": found.settled}
    outcome = {"status": "ok", "reason": None, "stage": "arrivals", "attempt": 0}
    (folder / "arrivals.json").write_text(json.dumps({"outcome": outcome, **notes}))
    return found


def _record(scenario: str, level: float, scheduled_s: float | None, sent_s, done_s, steady, trial) -> CapacityRecord:
    known = {"schema": 1, "run": "r", "model": "m", "target": "t", "variant": "v", "replicate": 1, "client": 0}
    times = {"scheduled_s": scheduled_s, "sent_s": sent_s, "done_s": done_s}
    how = {"status": "ok", "error": None, "images": 1, "steady": steady, "trial": trial}
    return CapacityRecord(**known, scenario=scenario, level=level, **times, **how)


def true_rate(services: Callable, limits: Limits, requests: int = 200_000) -> float:
    """The rate at which the P95 of a very long run reaches the objective, by bisection."""
    rng = np.random.default_rng(1)
    places, takes_s = np.sort(rng.uniform(0, requests, requests)), services(rng, requests)
    low, high = 0.01 / limits.service_s, 2.0 / limits.service_s
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        latencies = answers(places / middle, takes_s) - places / middle
        within = float(np.quantile(latencies, 0.95)) <= limits.objective_s
        low, high = (middle, high) if within else (low, middle)
    return low


def constant(service_s: float) -> Callable:
    return lambda _rng, requests: np.full(requests, service_s)


def spread(service_s: float, log_deviation: float) -> Callable:
    """Log-normal service times with this median."""
    return lambda rng, requests: service_s * np.exp(log_deviation * rng.standard_normal(requests))


def served_by(machine: simulation.Machine, service_s: float, rng: np.random.Generator | None = None) -> Callable:
    """A server of this machine, a new process drawn with `rng` (without it, one like the median of all); each run meets
    what the machine does anew."""
    own = 0.0 if rng is None else machine.process * float(simulation.noise(machine, rng, (1,))[0])
    running = dataclasses.replace(machine, process=0.0)

    def services(rng: np.random.Generator, requests: int) -> np.ndarray:
        times = simulation.latencies(running, rng, simulations=1, replicates=1, requests=requests)[0, 0]
        return service_s * math.exp(own) * times

    return services


def searches_on(machine: simulation.Machine, limits: Limits, count: int, seed: int = 0) -> list[Arrivals]:
    """`count` searches as a sweep makes them by default, each of a fresh server."""
    size = {name: simulation.default_of("arrivals", name) for name in ("requests", "tolerance")}
    most, rng = simulation.default_of("arrivals", "runs"), np.random.default_rng(seed)
    servers = [served_by(machine, limits.service_s, rng) for _ in range(count)]
    return [simulated_search(server, limits, seed + n, most=most, **size) for n, server in enumerate(servers)]
