"""Closed-loop load: N clients, each sending its next request when the last one is answered.

Throughput is taken from a window in which the system is full: it opens when the first N completions have passed (all
requests were sent at once, so those waited for less than a full queue) and closes with the last measured completion,
while every client still has a request under way. What is then under way is abandoned, since a level that empties
slowly measures a smaller one.
"""

import math
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from diffsweep.measure.clients import Client, Reply

LITTLES_LAW_TOLERANCE = 0.03  # perf_analyzer's idea, METHOD.md's figure
ERROR_SHARE_LIMIT = 0.01  # METHOD.md, "Load"
WINDOWS = 3
WINDOWS_AGREE_WITHIN = 0.10  # METHOD.md, "Load"
WINDOW_ERRORS = 1  # a window's own standard error is allowed for so many times: a few requests always differ
LEAST_BURSTS = 3 * WINDOWS  # fewer do not tell their own noise
SAME_BURST = 0.25  # completions closer than this share of the mean gap were answered together, by a batch
UNUSABLE = ("connection", "timeout")  # after these a client's next request would only wait again


@dataclass(frozen=True)
class Completion:
    """One answered request of a level; times in seconds from the level's start."""

    client: int
    sent_s: float
    done_s: float
    images: int
    error: str | None
    detail: str | None
    steady: bool
    batch_size: int | None = None


@dataclass
class _Level:
    """What the clients of a level share."""

    total: int
    issued: int = 0
    replies: list[tuple[int, Reply]] = field(default_factory=list)
    clients_left: int = 0
    finished: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


def run_level(clients: Sequence[Client], bodies: Sequence[bytes], measured: int) -> list[Completion]:
    """Load by `clients` until `measured` requests are done after the first len(clients), in order of completion.

    Bodies are cycled. A client whose server is gone or hangs stops; when all have stopped, so does the level.
    The calling thread sleeps in the kernel meanwhile.
    """
    level = _Level(total=len(clients) + measured, clients_left=len(clients))
    start_s = time.perf_counter()
    threads = [
        threading.Thread(target=_drive, args=(level, number, client, bodies), daemon=True)
        for number, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    level.finished.wait()
    for client in clients:
        client.abort()
    for thread in threads:
        thread.join()
    return [_completion(i, *reply, start_s, len(clients)) for i, reply in enumerate(level.replies)]


def _drive(level: _Level, number: int, client: Client, bodies: Sequence[bytes]) -> None:
    while not level.finished.is_set():
        with level.lock:
            body = bodies[level.issued % len(bodies)]
            level.issued += 1
        reply = client.generate(body)
        with level.lock:
            if level.finished.is_set():
                break  # after the window: abandoned
            level.replies.append((number, reply))
            if len(level.replies) == level.total:
                level.finished.set()
        if reply.error in UNUSABLE:
            break
    with level.lock:
        level.clients_left -= 1
        if level.clients_left == 0:
            level.finished.set()


def _completion(place: int, number: int, reply: Reply, start_s: float, clients: int) -> Completion:
    times = (round(reply.sent_s - start_s, 7), round(reply.done_s - start_s, 7))
    known = (reply.images, reply.error, reply.detail)
    return Completion(number, *times, *known, steady=place >= clients, batch_size=reply.batch_size)


# --- what a level's completions say ---------------------------------------------------------------------------------


class Answered(Protocol):
    """What a Completion and a CapacityRecord have in common."""

    sent_s: float
    done_s: float
    images: int
    error: str | None
    steady: bool


@dataclass(frozen=True)
class Burst:
    """Requests that were answered together (one, unless the server batches), and the seconds until the next burst."""

    seconds: float
    requests: int
    images: int


@dataclass(frozen=True)
class Window:
    """The steady part of one level in one replicate. Successful requests only; latencies of those that ended in it."""

    start_s: float
    bursts: tuple[Burst, ...]
    latencies_s: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return math.fsum(burst.seconds for burst in self.bursts)

    @property
    def requests(self) -> int:
        return sum(burst.requests for burst in self.bursts)

    @property
    def images(self) -> int:
        return sum(burst.images for burst in self.bursts)

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds


def window_of(answers: Sequence[Answered]) -> Window | None:
    """The window of one level in one replicate; None when nothing was completed inside one.

    The recorder flags what was completed after each client had had one answered (Jain 1991, The Art of Computer Systems
    Performance Analysis, 25.3: initial data deletion). The window goes from the beginning of the burst in which the
    ramp-up ended to the beginning of the last burst, and counts what was completed from the one to before the other: a
    server that batches answers many requests at one moment, and an end in the middle of them would be off by a batch.
    """
    ordered = sorted(answers, key=lambda a: a.done_s)
    last_of_ramp = max(sum(not a.steady for a in ordered) - 1, 0)
    if last_of_ramp >= len(ordered) - 1:
        return None
    mean_gap_s = (ordered[-1].done_s - ordered[last_of_ramp].done_s) / (len(ordered) - 1 - last_of_ramp)
    starts = [i for i, a in enumerate(ordered) if i == 0 or a.done_s - ordered[i - 1].done_s > SAME_BURST * mean_gap_s]
    opening = max(i for i, start in enumerate(starts) if start <= last_of_ramp)
    bursts = []
    for start, end in zip(starts[opening:], starts[opening + 1 :], strict=False):
        good = [a for a in ordered[start:end] if a.error is None]
        seconds = ordered[end].done_s - ordered[start].done_s
        bursts.append(Burst(seconds, len(good), sum(a.images for a in good)))
    latencies_s = tuple(a.done_s - a.sent_s for a in ordered if a.steady and a.error is None)
    return Window(ordered[starts[opening]].done_s, tuple(bursts), latencies_s) if bursts else None


def littles_law(window: Window, clients: float) -> float | None:
    """Throughput x mean latency / clients (Little 1961): 1 when the clients kept the server full and no time is
    unaccounted for. None without a success."""
    if not window.requests or not window.latencies_s:
        return None
    return window.requests / window.seconds * statistics.fmean(window.latencies_s) / clients


def littles_law_slack(window: Window, clients: float) -> float:
    """By how much littles_law may be off because the window's ends cut a batch's cycle: 0 without batches.

    Latencies of a batch server differ by up to one batch's time, batch / clients of their mean; what is not a whole
    cycle is at most batch - 1 of the latencies.
    """
    largest = max(burst.requests for burst in window.bursts)
    return max(largest - 1, 0) / (clients * max(len(window.latencies_s), 1))


def thirds(bursts: Sequence[Burst]) -> list[Sequence[Burst]]:
    """Consecutive parts of a window with about equally many bursts; none when there are too few."""
    ends = [round(i * len(bursts) / WINDOWS) for i in range(WINDOWS + 1)]
    return [bursts[a:b] for a, b in zip(ends, ends[1:], strict=False)] if len(bursts) >= WINDOWS else []


def rate_of(bursts: Sequence[Burst]) -> float:
    """Images per second."""
    return sum(burst.images for burst in bursts) / math.fsum(burst.seconds for burst in bursts)


def noise_of(groups: Sequence[Sequence[Burst]]) -> float | None:
    """The coefficient of variation of the time per image within groups of bursts, the groups' means apart.

    None when no group has two bursts.
    """
    freedom, squares = 0, 0.0
    for group in groups:
        times = [burst.seconds / burst.images for burst in group if burst.images]
        if len(times) > 1:
            mean = statistics.fmean(times)
            freedom += len(times) - 1
            squares += sum((t / mean - 1) ** 2 for t in times)
    return math.sqrt(squares / freedom) if freedom else None


def disagreement(windows: Sequence[Window]) -> float | None:
    """By how much three consecutive windows differ from their mean beyond their own noise, as a share of it.

    Replicates are pooled third by third, since one has too few requests to tell. None: too few to tell even so.

    What it finds with 3 replicates of 8 requests (tests/benchmarks/interval_coverage.py): a last third that is a
    quarter slower in 96 % of simulations where requests differ by 5 %, in 75 % where they do by 8 %; 15 % slower hardly
    ever. Levels that are steady it calls so in 96 % and more, also where some requests take far longer than others.
    """
    split = [parts for window in windows if (parts := thirds(window.bursts))]
    pooled = [[burst for parts in split for burst in parts[i]] for i in range(WINDOWS)]
    if sum(len(part) for part in pooled) < LEAST_BURSTS or not all(sum(burst.images for burst in p) for p in pooled):
        return None
    noise = noise_of(pooled) or 0.0
    rates = [rate_of(part) for part in pooled]
    mean = statistics.fmean(rates)
    return max(
        abs(rate / mean - 1) - WINDOW_ERRORS * noise / math.sqrt(len(part))
        for rate, part in zip(rates, pooled, strict=True)
    )


def why_invalid(requests: int, errors: int, law: float | None, differ: float | None, slack: float = 0.0) -> str:
    """Why a level must not be used (METHOD.md, "Load"); empty when it may. slack: littles_law_slack."""
    if errors > ERROR_SHARE_LIMIT * requests:
        return f"{errors} of {requests} requests failed"
    if law is None:
        return "no request succeeded inside a steady window"
    if abs(law - 1) > LITTLES_LAW_TOLERANCE + slack:
        return f"Little's law is off by {law - 1:+.1%}: the clients did not keep the server full"
    if differ is not None and differ > WINDOWS_AGREE_WITHIN:
        return f"throughput is not steady: three windows differ by {differ:.0%} more than their noise"
    return ""


def summarise_level(clients: int, completions: Sequence[Completion]) -> dict:
    """What one replicate can say of a level, for the ramp and for the log. Rates per second, times in seconds.

    noise: the relative standard error of images_per_s, None where too few bursts tell. The analysis judges again, over
    all replicates.
    """
    window = window_of(completions)
    errors = Counter(c.error for c in completions if c.error is not None)
    rates = [rate_of(part) for part in thirds(window.bursts)] if window else []
    noise = noise_of([window.bursts]) if window else None
    law = littles_law(window, clients) if window else None
    differ, slack = (disagreement([window]), littles_law_slack(window, clients)) if window else (None, 0.0)
    reason = why_invalid(len(completions), sum(errors.values()), law, differ, slack)
    good = window is not None and window.requests > 0 and len(window.latencies_s) > 0
    return {
        "scenario": "steps",
        "level": clients,
        "requests": len(completions),
        "steady_requests": sum(c.steady for c in completions),
        "errors": dict(errors),
        "window_start_s": window.start_s if window else None,
        "window_s": round(window.seconds, 7) if window else 0.0,
        "requests_per_s": window.requests / window.seconds if good else None,
        "images_per_s": window.images_per_s if good else None,
        "noise": noise / math.sqrt(len(window.bursts)) if good and noise is not None else None,
        "latency_mean_s": statistics.fmean(window.latencies_s) if good else None,
        "latency_p95_s": p95_of(window.latencies_s) if good else None,
        "window_images_per_s": rates,
        "littles_law": law,
        "valid": not reason,
        "reason": reason or None,
    }


def p95_of(latencies_s: Sequence[float]) -> float | None:
    """The 95th percentile, interpolated (Hyndman and Fan 1996, type 7); the value itself of one, None of none."""
    if len(latencies_s) < 2:
        return latencies_s[0] if latencies_s else None
    return statistics.quantiles(latencies_s, n=20, method="inclusive")[-1]
