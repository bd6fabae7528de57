"""Load records -> throughput per level, and the level that a deployment can sustain. Pure; times in seconds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffsweep.analysis import stats
from diffsweep.analysis.stats import Estimate
from diffsweep.measure.capacity import ERROR_SHARE_LIMIT, LITTLES_LAW_TOLERANCE
from diffsweep.measure.records import CapacityRecord

WINDOWS_AGREE_WITHIN = 0.10

Records = Sequence[CapacityRecord]


@dataclass(frozen=True)
class Level:
    """One closed-loop load level of one variant, over all replicates.

    images_per_s, requests_per_s: successful ones, from the steady windows, with the interval between replicates.
    latency_*: of successful requests inside the windows. p95: None when there are too few. reason: why not valid.
    """

    clients: float
    replicates: int
    requests: int
    errors: int
    images_per_s: Estimate | None
    requests_per_s: Estimate | None
    latency_mean_s: float | None
    latency_p95_s: Estimate | None
    latency_max_s: float | None
    littles_law: float | None
    disagreement: float | None
    valid: bool
    reason: str


@dataclass(frozen=True)
class Window:
    """The steady part of one level in one replicate: from the end of the ramp-up to the last steady completion."""

    seconds: float
    requests: int
    images: int
    latencies_s: tuple[float, ...]


def window_of(records: Records) -> Window | None:
    """The steady window of one level in one replicate; None when nothing was completed inside one.

    The recorder flags what was completed while every client had a request under way and after each had had one
    answered; the window opens with the last completion before those (Jain 1991, The Art of Computer Systems Performance
    Analysis, 25.3: initial data deletion).
    """
    steady = [r for r in records if r.steady]
    opened_s = max((r.done_s for r in records if not r.steady), default=min((r.sent_s for r in records), default=0.0))
    if not steady or max(r.done_s for r in steady) <= opened_s:
        return None
    good = [r for r in steady if r.status == "ok"]
    return Window(
        seconds=max(r.done_s for r in steady) - opened_s,
        requests=len(good),
        images=sum(r.images for r in good),
        latencies_s=tuple(r.done_s - r.sent_s for r in good),
    )


def elapsed_s(records: Records) -> float:
    """How long a level took, ramp-up included."""
    return max(r.done_s for r in records) - min(r.sent_s for r in records) if records else 0.0


def summarise(clients: float, replicates: Sequence[Records]) -> Level:
    """One level from its records, a list per replicate."""
    windows = [w for records in replicates if (w := window_of(records)) is not None and w.images]
    everything = [r for records in replicates for r in records]
    errors = Counter(r.error for r in everything if r.status != "ok")
    latencies = [t for w in windows for t in w.latencies_s]
    rates = [w.images / w.seconds for w in windows]
    # Little's law, requests in the system = throughput x latency (Little 1961), over all replicates.
    in_system = [w.requests / w.seconds * float(np.mean(w.latencies_s)) for w in windows]
    littles_law = float(np.mean(in_system)) / clients if windows else None
    disagreement = float(max(abs(np.asarray(rates) / np.mean(rates) - 1))) if len(rates) > 1 else None
    reason = _why_invalid(len(everything), sum(errors.values()), littles_law)
    return Level(
        clients=clients,
        replicates=len(windows),
        requests=len(everything),
        errors=sum(errors.values()),
        images_per_s=stats.replicate_interval(rates) if rates else None,
        requests_per_s=stats.replicate_interval([w.requests / w.seconds for w in windows]) if windows else None,
        latency_mean_s=float(np.mean(latencies)) if latencies else None,
        latency_p95_s=stats.quantile_estimate(latencies, 0.95) if latencies else None,
        latency_max_s=max(latencies, default=None),
        littles_law=littles_law,
        disagreement=disagreement,
        valid=not reason,
        reason=reason,
    )


def _why_invalid(requests: int, errors: int, littles_law: float | None) -> str:
    if errors > ERROR_SHARE_LIMIT * requests:
        return f"{errors} of {requests} requests failed"
    if littles_law is None:
        return "no request was completed inside a steady window"
    if abs(littles_law - 1) > LITTLES_LAW_TOLERANCE:
        return f"Little's law is off by {littles_law - 1:+.1%}: the clients did not keep the server full"
    return ""


def levels_of(replicates: Sequence[Records]) -> list[Level]:
    """All closed-loop levels, by number of clients. `replicates`: all records of each replicate."""
    clients = sorted({r.level for records in replicates for r in records if r.scenario == "steps"})
    return [
        summarise(n, [[r for r in records if r.scenario == "steps" and r.level == n] for records in replicates])
        for n in clients
    ]


def sustained(levels: Sequence[Level]) -> Level | None:
    """The valid level with the highest throughput: what a deployment that is kept busy achieves."""
    usable = [level for level in levels if level.valid and level.images_per_s is not None]
    return max(usable, key=lambda level: level.images_per_s.value, default=None)


def replicate_rates(level: Level, replicates: Sequence[Records]) -> list[float]:
    """Images per second of each replicate at `level`, for comparisons between variants."""
    chosen = [[r for r in records if r.scenario == "steps" and r.level == level.clients] for records in replicates]
    return [w.images / w.seconds for records in chosen if (w := window_of(records)) is not None and w.images]


def warnings(level: Level | None) -> list[str]:
    """What a reader should know about the sustained level (METHOD.md: windows agree within 10 %)."""
    if level is None or level.disagreement is None or level.disagreement <= WINDOWS_AGREE_WITHIN:
        return []
    return [f"throughput at {level.clients:g} clients differs between replicates by up to {level.disagreement:.0%}"]
