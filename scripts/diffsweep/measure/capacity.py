"""Closed-loop load: N clients, each sending its next request when the last one is answered.

Throughput is taken from a window in which the system is full: it opens when the first N completions have passed (all
requests were sent at once, so those waited for less than a full queue) and closes with the last measured completion,
while every client still has a request under way. What is then under way is abandoned, since a level that empties
slowly measures a smaller one.
"""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from diffsweep.measure.clients import Client, Reply

LITTLES_LAW_TOLERANCE = 0.03  # perf_analyzer's idea, METHOD.md's figure
ERROR_SHARE_LIMIT = 0.01  # METHOD.md, "Load"
WINDOWS = 3
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
    return Completion(number, *times, reply.images, reply.error, reply.detail, steady=place >= clients)


def summarise_level(clients: int, completions: Sequence[Completion]) -> dict:
    """Throughput of a level's window, and whether it may be used. Rates per second, times in seconds.

    `littles_law` is throughput x mean latency / clients, 1 when the clients kept the server full and no time is
    unaccounted for. Three windows that agree, METHOD.md's other condition, need more requests than one replicate has:
    `window_images_per_s` gives this replicate's thirds, and the replicates are further windows.
    """
    steady = [c for c in completions if c.steady]
    good = [c for c in steady if c.error is None]
    errors = Counter(c.error for c in completions if c.error is not None)
    opened_s = max((c.done_s for c in completions if not c.steady), default=0.0)
    window_s = steady[-1].done_s - opened_s if steady else 0.0
    images_per_s = sum(c.images for c in good) / window_s if window_s else None
    latency_mean_s = sum(c.done_s - c.sent_s for c in good) / len(good) if good else None
    littles_law = len(good) / window_s * latency_mean_s / clients if good and window_s else None
    reason = _why_invalid(len(completions), sum(errors.values()), littles_law)
    return {
        "scenario": "steps",
        "level": clients,
        "requests": len(completions),
        "steady_requests": len(steady),
        "errors": dict(errors),
        "window_start_s": opened_s,
        "window_s": round(window_s, 7),
        "requests_per_s": len(good) / window_s if window_s else None,
        "images_per_s": images_per_s,
        "latency_mean_s": latency_mean_s,
        "window_images_per_s": window_rates(good, opened_s),
        "littles_law": littles_law,
        "valid": reason is None,
        "reason": reason,
    }


def _why_invalid(requests: int, errors: int, littles_law: float | None) -> str | None:
    if littles_law is None:
        return "no request succeeded inside the window"
    if errors > ERROR_SHARE_LIMIT * requests:
        return f"{errors} of {requests} requests failed"
    if abs(littles_law - 1) > LITTLES_LAW_TOLERANCE:
        return f"Little's law is off by {littles_law - 1:+.1%}"
    return None


def window_rates(completions: Sequence[Completion], opened_s: float) -> list[float]:
    """Images per second in WINDOWS consecutive parts of the window, with equally many completions each."""
    size = len(completions) // WINDOWS
    rates = []
    for i in range(WINDOWS if size else 0):
        part = completions[i * size : (i + 1) * size]
        rates.append(sum(c.images for c in part) / (part[-1].done_s - opened_s))
        opened_s = part[-1].done_s
    return rates
