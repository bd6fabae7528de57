"""Open-loop load: requests are sent when a Poisson process says so, whether or not earlier ones have been answered.

Latency counts from the scheduled time (MLPerf loadgen, wrk2): a server that stops for a second makes everything late
that falls due meanwhile, and a client that waited for its replies would hide that (coordinated omission). Times are
absolute, from the start of the run; nothing waits for a reply between two sends.
"""

import math
import queue
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from diffsweep.measure.capacity import ERROR_SHARE_LIMIT, UNUSABLE, p95_of
from diffsweep.measure.clients import Client, Reply

LEAD_S = 0.05  # from the start of the threads to the start of the schedule
RAMP_SHARE = 0.1  # of the requests: they find a system that is emptier than it will be
# A queue that grows by 5 % of the rate shows as one objective of latency at the end of a run of 20 objectives.
OBJECTIVES_PER_RUN = 20
MOST_REQUESTS = 20_000


@dataclass(frozen=True)
class Arrival:
    """One answered request of a run; times in seconds from its start. steady: not of the ramp-up."""

    client: int
    scheduled_s: float
    sent_s: float
    done_s: float
    images: int
    error: str | None
    detail: str | None
    steady: bool


def poisson_schedule(rate_per_s: float, requests: int, seed: int) -> list[float]:
    """When `requests` requests are due, in seconds, ascending.

    Given their number, the arrivals of a Poisson process are independent and uniform in time (Ross, Stochastic
    Processes, 2.3). Drawn so, the offered rate is `rate_per_s` exactly; with exponential gaps it would be off by 10 %
    (one standard deviation) for 100 requests.
    """
    chance = random.Random(seed)
    return sorted(chance.uniform(0, requests / rate_per_s) for _ in range(requests))


def requests_for(rate_per_s: float, least: int, objective_s: float) -> int:
    """How many requests a run needs: `least`, and enough that a queue which grows is seen to grow."""
    return min(max(least, math.ceil(OBJECTIVES_PER_RUN * objective_s * rate_per_s)), max(least, MOST_REQUESTS))


# --- sending --------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """What the sender and the clients of a run share. broken: the server is gone or hangs; over: that, or all done."""

    schedule_s: Sequence[float]
    start_s: float
    due: "queue.SimpleQueue[int | None]" = field(default_factory=queue.SimpleQueue)
    broken: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    replies: list[tuple[int, int, Reply]] = field(default_factory=list)


def run_arrivals(clients: Sequence[Client], bodies: Sequence[bytes], schedule_s: Sequence[float]) -> list[Arrival]:
    """Send one request at each time of the schedule by a free one of `clients`, and wait for all replies; by schedule.

    When all clients have a request under way, the next one is sent late, which shows in sent_s. After a lost connection
    or a time-out the run ends; what is then under way is abandoned.
    """
    run = _Run(schedule_s, time.perf_counter() + LEAD_S)
    threads = [
        threading.Thread(target=_serve, args=(run, number, client, bodies), daemon=True)
        for number, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for place, scheduled_s in enumerate(schedule_s):
        if run.broken.wait(max(run.start_s + scheduled_s - time.perf_counter(), 0)):
            break
        run.due.put(place)
    run.over.wait()
    for client in clients:
        run.due.put(None)
        client.abort()
    for thread in threads:
        thread.join()
    return [_arrival(run, *reply) for reply in sorted(run.replies, key=lambda reply: reply[0])]


def _serve(run: _Run, number: int, client: Client, bodies: Sequence[bytes]) -> None:
    while (place := run.due.get()) is not None and not run.broken.is_set():
        reply = client.generate(bodies[place % len(bodies)])
        with run.lock:
            if run.broken.is_set():
                break  # abandoned
            run.replies.append((place, number, reply))
            if reply.error in UNUSABLE:
                run.broken.set()
            if run.broken.is_set() or len(run.replies) == len(run.schedule_s):
                run.over.set()


def _arrival(run: _Run, place: int, number: int, reply: Reply) -> Arrival:
    sent_s, done_s = (round(moment - run.start_s, 7) for moment in (reply.sent_s, reply.done_s))
    scheduled_s = round(run.schedule_s[place], 7)
    steady = place >= RAMP_SHARE * len(run.schedule_s)
    return Arrival(number, scheduled_s, sent_s, done_s, reply.images, reply.error, reply.detail, steady)


# --- what a run says ------------------------------------------------------------------------------------------------


class Arrived(Protocol):
    """What an Arrival and a CapacityRecord of the scenario "arrivals" have in common."""

    scheduled_s: float
    sent_s: float
    done_s: float
    images: int
    error: str | None
    steady: bool


@dataclass(frozen=True)
class Limits:
    """What a run is judged by. service_s: latency of the unloaded server; lateness: share of it."""

    objective_s: float
    service_s: float
    lateness: float


@dataclass(frozen=True)
class Trial:
    """One run at one rate (requests per second). Latencies from the scheduled time, of successes after the ramp-up.

    good_images_per_s: images answered within the objective. within: P95 within the objective and errors under 1 %;
    reason: why the run says nothing of the server, empty when it does.
    """

    number: int
    rate_per_s: float
    requests: int
    errors: dict[str, int]
    latency_mean_s: float | None
    latency_p95_s: float | None
    latency_p99_s: float | None
    latency_max_s: float | None
    lateness_p99_s: float | None
    good_images_per_s: float
    within: bool
    reason: str

    @property
    def valid(self) -> bool:
        return not self.reason


def service_of(latencies_s: Sequence[float]) -> float | None:
    """The median, lower of the two in the middle; None without a success."""
    return sorted(latencies_s)[(len(latencies_s) - 1) // 2] if latencies_s else None


def summarise_trial(number: int, rate_per_s: float, arrivals: Sequence[Arrived], limits: Limits) -> Trial:
    steady = [a for a in arrivals if a.steady]
    latencies_s = [a.done_s - a.scheduled_s for a in steady if a.error is None]
    errors = Counter(a.error for a in arrivals if a.error is not None)
    p95_s, lateness_s = p95_of(latencies_s), p99_of([a.sent_s - a.scheduled_s for a in arrivals])
    few_errors = sum(errors.values()) <= ERROR_SHARE_LIMIT * len(arrivals)
    good = sum(a.images for a in steady if a.error is None and a.done_s - a.scheduled_s <= limits.objective_s)
    return Trial(
        number=number,
        rate_per_s=rate_per_s,
        requests=len(arrivals),
        errors=dict(errors),
        latency_mean_s=statistics.fmean(latencies_s) if latencies_s else None,
        latency_p95_s=p95_s,
        latency_p99_s=p99_of(latencies_s),
        latency_max_s=max(latencies_s, default=None),
        lateness_p99_s=lateness_s,
        good_images_per_s=rate_per_s * good / len(steady) if steady else 0.0,
        within=p95_s is not None and p95_s <= limits.objective_s and few_errors,
        reason=_why_invalid(lateness_s, limits),
    )


def _why_invalid(lateness_s: float | None, limits: Limits) -> str:
    if lateness_s is None:
        return "no request was answered"
    if lateness_s > limits.lateness * limits.service_s:
        return (
            f"the client is the bottleneck: it sent 1 % of the requests more than {lateness_s * 1e3:.2f} ms late, "
            f"where {limits.lateness:.1%} of the service time are {limits.lateness * limits.service_s * 1e3:.2f} ms"
        )
    return ""


def p99_of(values: Sequence[float]) -> float | None:
    """The 99th percentile, interpolated as in p95_of."""
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=100, method="inclusive")[-1]
