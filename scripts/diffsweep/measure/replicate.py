"""One replicate: fresh servers, warm-up, blocks A B B A, then load on the variant's server.

Variants that need the same servers take turns on them: each has all of that but the start.

Records and notes are written as it goes on: whatever ends it, what was measured until then remains.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from diffsweep.measure import gpu, host, sampler, servers
from diffsweep.measure.blocks import ask, run_blocks
from diffsweep.measure.clients import Client
from diffsweep.measure.journal import Files, Replicate, identity
from diffsweep.measure.keeper import Keeper
from diffsweep.measure.load import run_load
from diffsweep.measure.pairing import ROLES, Planned, first_role
from diffsweep.measure.records import RecordWriter
from diffsweep.measure.sampler import Sampler
from diffsweep.measure.servers import Launch, Server


@dataclass(frozen=True)
class Turn:
    """One variant's replicate: what it is told, what it asks, where it leaves what it has so far, and what is called as
    soon as it has ended well."""

    spec: Mapping
    requests: Sequence[Planned]
    files: Files
    ended: Callable[[], None]


def measure(turns: Sequence[Turn], launches: Mapping[str, Launch], run: str, keeper: Keeper) -> None:
    """Measure one replicate of each of the turns' variants, on the same servers. Raises Failed.

    launches: by role; one object for both roles where they share a server. Two keys that a spec may have: `sampling_hz`
    is how often a second the sampler looks, `repeated_share` how many of the pairs of blocks may be measured again when
    they were disturbed; 0 switches either off, and the one repeat of a disturbed load level with it.
    """
    device = gpu.open_device()
    sides: dict[str, Server] = {}
    starts: Mapping[str, Mapping] = {}
    try:
        for turn in turns:
            replicate = Replicate(turn.spec, identity(turn.spec, run), turn.files, keeper, device, sides)
            with _noted(replicate, turns, launches):
                starts = _measure_one(replicate, turn.requests, launches, starts, last=turn is turns[-1])
            turn.ended()
    finally:
        _stop(replicate, *sides)


@contextmanager
def _noted(replicate: Replicate, turns: Sequence[Turn], launches: Mapping) -> Iterator[None]:
    """Note when and where a replicate is measured, and which variants take turns on the same servers, in order."""
    replicate.note(
        started_unix_s=time.time(),
        first_role=first_role(replicate.spec["replicate"]),
        shared_server=launches["variant"] is launches["baseline"],
        turns=[turn.spec["variant"]["name"] for turn in turns],
        warmup=replicate.spec["protocol"]["warmup"],
        host={**host.describe(replicate.device), "before": host.state(replicate.device)},
    )
    try:
        yield
    finally:
        replicate.enter("done")
        after = {**replicate.notes["host"], "after": host.state(replicate.device)}
        replicate.note(host=after, ended_unix_s=time.time())


def _measure_one(
    replicate: Replicate,
    requests: Sequence[Planned],
    launches: Mapping,
    starts: Mapping[str, Mapping],
    *,
    last: bool,
) -> Mapping[str, Mapping]:
    """Start the servers, unless an earlier turn has; then warm-up, blocks, load. Returns what is known of each start,
    by the server's name, which is `starts` for the next turn."""
    with RecordWriter(replicate.files.latency) as latency, RecordWriter(replicate.files.capacity) as capacity:
        warm = bool(starts)
        if warm:  # only what a variant's own settings need is new to the servers
            replicate.enter("warmup")
            _ask_first(replicate, replicate.servers, requests, latency)
            replicate.note(warmup=1)
        else:
            starts = _start(replicate, launches, requests, latency)
        replicate.note(servers=starts)
        if not warm:
            _ask_other_warmups(replicate, requests, latency)
        watched = {server.name: server.processes for server in replicate.servers}
        with _sampled(replicate, watched) as samples:
            run_blocks(replicate, requests, latency, samples, watched)
            if last and not replicate.notes["shared_server"]:
                _stop(replicate, "baseline")
            run_load(replicate, requests, capacity, samples)
    if last:
        replicate.enter("stop")
        _stop(replicate, *replicate.sides)
    return starts


@contextmanager
def _sampled(replicate: Replicate, watched: Mapping[str, Sequence[int]]) -> Iterator[Sampler]:
    """Samples of `watched` go into resources.jsonl meanwhile, and what the sampler says of itself into the notes."""
    hz = replicate.spec.get("sampling_hz", sampler.HZ)
    with RecordWriter(replicate.files.resources) as writer:
        samples = Sampler(watched, replicate.device, writer, hz)
        try:
            with samples:
                yield samples
        finally:
            replicate.note(sampling=samples.note())


# --- start and warm-up ---


def _start(
    replicate: Replicate, launches: Mapping, requests: Sequence[Planned], latency: RecordWriter
) -> dict[str, dict]:
    """Start the servers together; send each its first request as soon as it is ready. Returns what is known of each
    start, by the server's name."""
    replicate.enter("start")
    started: dict[int, Server] = {}
    for role in ROLES:
        launch = launches[role]
        if id(launch) not in started:
            started[id(launch)] = servers.start(launch, replicate.keeper)
        replicate.sides[role] = started[id(launch)]
    replicate.say(f"starting {len(started)} server{'s' * (len(started) > 1)}")
    first_s = _ask_first(replicate, servers.wait_until_ready(replicate.servers), requests, latency)
    replicate.say("ready after " + ", ".join(f"{s.start_s:.1f} s ({s.name})" for s in replicate.servers))
    replicate.enter("warmup")
    return {server.name: _describe_start(server, first_s[server.name]) for server in replicate.servers}


def _ask_first(
    replicate: Replicate, ready: Iterable[Server], requests: Sequence[Planned], latency: RecordWriter
) -> dict[str, float]:
    """Connect to each server as it comes, and make the first request of each role on it. Returns the seconds of each
    server's first request, by its name."""
    first_s: dict[str, float] = {}
    for server in ready:
        client = Client(server.ready["port"], replicate.spec["request_timeout_s"])
        client.connect()
        for role in (r for r in ROLES if replicate.sides[r] is server):
            replicate.clients[role] = client
            for request in _warmups(requests, role)[:1]:
                record = ask(replicate, request, latency)
                first_s.setdefault(server.name, record.e2e_s)
    return first_s


def _ask_other_warmups(replicate: Replicate, requests: Sequence[Planned], latency: RecordWriter) -> None:
    for request in (r for role in ROLES for r in _warmups(requests, role)[1:]):
        ask(replicate, request, latency)


def _warmups(requests: Sequence[Planned], role: str) -> list[Planned]:
    return [r for r in requests if r.warmup and r.role == role]


def _describe_start(server: Server, first_s: float) -> dict:
    """start_s: from the start of the process until it accepted requests; first_image_s: and the first request."""
    ready = {key: value for key, value in server.ready.items() if key not in ("port", "pid")}
    times = {"start_s": round(server.start_s, 3), "first_image_s": round(server.start_s + first_s, 3)}
    return {**times, **ready}


def _stop(replicate: Replicate, *roles: str) -> None:
    """Stop the servers of these roles, and forget them."""
    stopping = {id(server): server for role in roles if (server := replicate.sides.pop(role, None))}
    servers.stop(list(stopping.values()), replicate.keeper)
    for role in roles:
        if role in replicate.clients:
            replicate.clients.pop(role).close()
