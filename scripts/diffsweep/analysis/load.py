"""Load records -> throughput per level, the knee, and the level that can be sustained. Pure; times in seconds."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffsweep.analysis import stats
from diffsweep.analysis.stats import Estimate
from diffsweep.measure.capacity import (
    Window,
    disagreement,
    littles_law,
    littles_law_slack,
    noise_of,
    why_invalid,
    window_of,
)
from diffsweep.measure.records import CapacityRecord

REPLICATES_AGREE_WITHIN = 0.10
AT_CAPACITY = 0.97  # METHOD.md, "Load": a level whose throughput's interval reaches this share of the maximum

Records = Sequence[CapacityRecord]


@dataclass(frozen=True)
class Level:
    """One closed-loop load level of one variant, over all replicates.

    images_per_s, requests_per_s: successful ones, from the steady windows, with the interval between replicates, not
    narrower than the requests' noise at all levels lets it be (`stats.with_request_noise`). request_error: what this
    noise makes of these rates, a relative standard error; None where too few requests tell. With 3 replicates of 8
    requests, three levels of which tell the noise, the interval holds the truth in 95 to 99 % of simulations; a level
    that was measured alone, on a machine where one request in twenty takes twice as long, in 85 %.
    rates: images per second of each replicate.
    goodput_images_per_s: those of them that were answered within the objective; None without one. latency_*: of
    successful requests inside the windows. p95: None when there are too few; without an interval where neighbours wait
    for one another, as clients of a queue do (`stats.quantiles_over_replicates`). disagreement: between replicates.
    reason: why not valid.
    """

    clients: float
    replicates: int
    requests: int
    errors: int
    images_per_s: Estimate | None
    rates: Sequence[float]
    requests_per_s: Estimate | None
    request_error: float | None
    goodput_images_per_s: Estimate | None
    latency_mean_s: float | None
    latency_p95_s: Estimate | None
    latency_max_s: float | None
    littles_law: float | None
    disagreement: float | None
    valid: bool
    reason: str


def elapsed_s(records: Records) -> float:
    """How long a level took, ramp-up included."""
    return max(r.done_s for r in records) - min(r.sent_s for r in records) if records else 0.0


def summarise(
    clients: float,
    replicates: Sequence[Records],
    windows: Sequence[Window],
    noise: float | None,
    objective_s: float | None,
) -> Level:
    """One level from its records, a list per replicate; an empty one for a replicate that did not climb so far.

    windows: those of its replicates that have one. noise: the coefficient of variation of the time per image within
    the windows of all levels.
    """
    everything = [r for records in replicates for r in records]
    errors = Counter(r.error for r in everything if r.status != "ok")
    by_replicate = [w.latencies_s for w in windows]
    latencies = [t for own in by_replicate for t in own]
    rates = [w.images_per_s for w in windows]
    laws = [law for w in windows if (law := littles_law(w, clients)) is not None]
    law = float(np.mean(laws)) if laws else None
    slack = max((littles_law_slack(w, clients) for w in windows), default=0.0)
    differ = disagreement(windows) if windows else None
    reason = _too_few(replicates) or why_invalid(len(everything), sum(errors.values()), law, differ, slack)
    error = noise / math.sqrt(sum(len(w.bursts) for w in windows)) if noise is not None and windows else None
    return Level(
        clients=clients,
        replicates=len(windows),
        requests=len(everything),
        errors=sum(errors.values()),
        images_per_s=_per_second(rates, error),
        rates=rates,
        requests_per_s=_per_second([w.requests / w.seconds for w in windows], error),
        request_error=error,
        goodput_images_per_s=goodput(windows, error, objective_s),
        latency_mean_s=float(np.mean(latencies)) if latencies else None,
        latency_p95_s=stats.quantile_over_replicates(by_replicate, 0.95),
        latency_max_s=max(latencies, default=None),
        littles_law=law,
        disagreement=float(max(abs(np.asarray(rates) / np.mean(rates) - 1))) if len(rates) > 1 else None,
        valid=not reason,
        reason=reason,
    )


def _windows(replicates: Sequence[Records]) -> list[Window]:
    return [w for records in replicates if (w := window_of(records)) is not None and w.images]


def _per_second(rates: Sequence[float], error: float | None) -> Estimate | None:
    """The mean of a rate per replicate with its interval; None without any."""
    return stats.with_request_noise(stats.replicate_interval(rates), error or 0.0) if rates else None


def _too_few(replicates: Sequence[Records]) -> str:
    """Each replicate climbs until it has passed the knee as it sees it. A level that only a minority of them has was
    reached by chance, and is not compared with the levels that all have."""
    climbed = sum(bool(records) for records in replicates)
    return "" if 2 * climbed > len(replicates) else f"only {climbed} of {len(replicates)} replicates climbed so far"


def goodput(windows: Sequence[Window], error: float | None, objective_s: float | None) -> Estimate | None:
    """Images per second that were answered within the objective; None without one."""
    if objective_s is None:
        return None
    known = [w for w in windows if w.latencies_s]
    in_time = [w.images_per_s * float(np.mean(np.asarray(w.latencies_s) <= objective_s)) for w in known]
    return _per_second(in_time, error)


def levels_of(replicates: Sequence[Records], objective_s: float | None = None) -> list[Level]:
    """All closed-loop levels, by number of clients. `replicates`: all records of each replicate."""
    clients = sorted({r.level for records in replicates for r in records if r.scenario == "steps"})
    climbed = [_at(n, replicates) for n in clients]
    windows = [_windows(records) for records in climbed]
    noise = noise_of([w.bursts for found in windows for w in found])
    each = zip(clients, climbed, windows, strict=True)
    return [summarise(n, records, found, noise, objective_s) for n, records, found in each]


def _at(clients: float, replicates: Sequence[Records]) -> list[list[CapacityRecord]]:
    return [[r for r in records if r.scenario == "steps" and r.level == clients] for records in replicates]


def at_capacity(levels: Sequence[Level]) -> list[Level]:
    """The valid levels whose throughput's interval reaches 0.97 of the maximum, by number of clients.

    The first is the knee: more clients only wait longer. The last is the saturation level.
    """
    usable = [level for level in levels if level.valid and level.images_per_s is not None]
    peak = max((level.images_per_s.value for level in usable), default=0.0)

    def reach(level: Level) -> float:
        rate = level.images_per_s
        return rate.value if rate.high is None else rate.high

    return [level for level in usable if reach(level) >= AT_CAPACITY * peak]


def sustained(levels: Sequence[Level]) -> Level | None:
    """The saturation level: what a deployment that is kept busy achieves.

    Not the level with the highest throughput: of levels that are equal, and on a full server they are, that is the
    luckiest one, told 1 to 5 % too high and with an interval that misses the truth up to a third of the time. The last
    one at capacity is not chosen by its luck. Where more clients than the server bears slow it down by less than the
    intervals show, it is the lower one.
    """
    return next(reversed(at_capacity(levels)), None)


def knee(levels: Sequence[Level]) -> Level | None:
    """The first level at capacity; None where no level beyond it was run, since then nothing shows that it is one."""
    first = next(iter(at_capacity(levels)), None)
    return first if first is not None and first is not levels[-1] else None


def warnings(levels: Sequence[Level]) -> list[str]:
    """What a reader should know of the levels, and of the sustained one (METHOD.md, "Load")."""
    told = [f"load by {_clients(level)} is not valid: {level.reason}" for level in levels if not level.valid]
    best = sustained(levels)
    if best is None:
        return told
    if knee(levels) is None:
        told.append(f"throughput still rose at {_clients(best)}: the knee was not reached")
    if best.disagreement is not None and best.disagreement > REPLICATES_AGREE_WITHIN:
        told.append(f"throughput at {_clients(best)} differs between replicates by up to {best.disagreement:.0%}")
    return told


def _clients(level: Level) -> str:
    return "1 client" if level.clients == 1 else f"{level.clients:g} clients"
