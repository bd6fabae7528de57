"""One replicate: fresh servers, warm-up, blocks A B B A, then load on the variant's server.

Variants that need the same servers take turns on them: warm-up, blocks that share the baseline's, load by load.

Records and notes are written as it goes on: whatever ends it, what was measured until then remains.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from diffsweep.measure import gpu, host, sampler, servers
from diffsweep.measure.blocks import Paired, ask, run_blocks
from diffsweep.measure.clients import Client
from diffsweep.measure.counters import PackageEnergy
from diffsweep.measure.journal import Files, Replicate, identity
from diffsweep.measure.keeper import Keeper
from diffsweep.measure.load import run_load
from diffsweep.measure.pairing import ROLES, Planned, first_role, sets_of
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
    device, energy = gpu.open_device(), PackageEnergy()
    sides: dict[str, Server] = {}
    clients: dict[str, Client] = {}
    starts: Mapping[str, Mapping] = {}
    all_together = sets_of(turns)
    names = [turn.spec["variant"]["name"] for together in all_together for turn in together]
    try:
        for together in all_together:
            replicates = [
                Replicate(t.spec, identity(t.spec, run), t.files, keeper, device, sides, clients, len(together))
                for t in together
            ]
            for replicate in replicates:
                replicate.note(turns=names)
            last = together is all_together[-1]
            starts = _measure_together(together, replicates, launches, starts, energy, last=last)
    finally:
        _stop(replicates[0], *sides)


def _measure_together(
    turns: Sequence[Turn],
    replicates: Sequence[Replicate],
    launches: Mapping,
    starts: Mapping[str, Mapping],
    energy: PackageEnergy,
    *,
    last: bool,
) -> Mapping[str, Mapping]:
    """Start the servers, unless earlier turns have; then warm-up, the blocks of all, and load, one variant after the
    other. Returns what is known of each start, by the server's name, which is `starts` for the next turns."""
    first = replicates[0]
    with ExitStack() as stack:
        ends = [stack.enter_context(ExitStack()) for _ in turns]
        variants = [
            end.enter_context(_opened(turn, replicate, launches, warm=bool(starts) or replicate is not first))
            for end, turn, replicate in zip(ends, turns, replicates, strict=True)
        ]
        starts = _warm_up(variants, launches, starts)
        watched = {server.name: server.processes for server in first.servers}
        with _sampled(replicates, watched, energy) as samples:
            run_blocks(variants, samples, watched)
        for replicate in replicates:
            replicate.enter("turn")
        _disconnect(first, *ROLES)
        if last and not first.notes["shared_server"]:
            _stop(first, "baseline")
        for turn, replicate, end in zip(turns, replicates, ends, strict=True):
            watched = {server.name: server.processes for server in replicate.servers}
            with RecordWriter(replicate.files.capacity) as capacity, _sampled([replicate], watched, energy) as samples:
                run_load(replicate, turn.requests, capacity, samples)
            if last and replicate is replicates[-1]:
                replicate.enter("stop")
                _stop(replicate, *replicate.sides)
            end.close()
            turn.ended()
    return starts


@contextmanager
def _opened(turn: Turn, replicate: Replicate, launches: Mapping, *, warm: bool) -> Iterator[Paired]:
    """Note when, where and how a replicate is measured; on `warm` servers, only what a variant's own settings need is
    new to them."""
    replicate.note(
        started_unix_s=time.time(),
        first_role=first_role(turn.spec["replicate"]),
        shared_server=launches["variant"] is launches["baseline"],
        baseline_shared_by=replicate.sharers,
        warmup=1 if warm else turn.spec["protocol"]["warmup"],
        host={**host.describe(replicate.device), "before": host.state(replicate.device)},
    )
    try:
        with RecordWriter(turn.files.latency) as latency:
            yield Paired(replicate, turn.requests, latency)
    finally:
        replicate.enter("done")
        after = {**replicate.notes["host"], "after": host.state(replicate.device)}
        replicate.note(host=after, ended_unix_s=time.time())


@contextmanager
def _sampled(
    replicates: Sequence[Replicate], watched: Mapping[str, Sequence[int]], energy: PackageEnergy
) -> Iterator[Sampler]:
    """Samples of `watched` go into resources.jsonl of all `replicates` meanwhile, and what the sampler says of itself
    into their notes."""
    hz = replicates[0].spec.get("sampling_hz", sampler.HZ)
    with ExitStack() as stack:
        writers = [stack.enter_context(RecordWriter(each.files.resources)) for each in replicates]
        samples = Sampler(watched, replicates[0].device, writers, hz, energy)
        try:
            with samples:
                yield samples
        finally:
            for each in replicates:
                each.note(sampling=sampler.added(each.notes.get("sampling"), samples.note()))


# --- start and warm-up ---


def _warm_up(variants: Sequence[Paired], launches: Mapping, starts: Mapping[str, Mapping]) -> Mapping[str, Mapping]:
    """Start the servers, unless `starts` says that they are running, and make every warm-up request. Returns `starts`
    as they are now."""
    first, *others = variants
    cold = not starts
    if cold:
        starts = _start(first, launches)
    else:
        first.replicate.enter("warmup")
        _ask_first(first, first.replicate.servers)
    for variant in variants:
        variant.replicate.note(servers=starts)
    for request in (r for role in ROLES for r in _warmups(first, role)[1:] if cold):
        ask([first], request)
    first.replicate.enter("turn")
    for variant in others:
        variant.replicate.enter("warmup")
        ask([variant], _warmups(variant, "variant")[0])
        variant.replicate.enter("turn")
    return starts


def _start(first: Paired, launches: Mapping) -> dict[str, dict]:
    """Start the servers together; send each its first request as soon as it is ready. Returns what is known of each
    start, by the server's name."""
    replicate = first.replicate
    replicate.enter("start")
    started: dict[int, Server] = {}
    for role in ROLES:
        launch = launches[role]
        if id(launch) not in started:
            started[id(launch)] = servers.start(launch, replicate.keeper)
        replicate.sides[role] = started[id(launch)]
    replicate.say(f"starting {len(started)} server{'s' * (len(started) > 1)}")
    first_s = _ask_first(first, servers.wait_until_ready(replicate.servers))
    replicate.say("ready after " + ", ".join(f"{s.start_s:.1f} s ({s.name})" for s in replicate.servers))
    replicate.enter("warmup")
    return {server.name: _describe_start(server, first_s[server.name]) for server in replicate.servers}


def _ask_first(first: Paired, ready: Iterable[Server]) -> dict[str, float]:
    """Connect to each server as it comes, and make the first request of each role on it. Returns the seconds of each
    server's first request, by its name."""
    replicate = first.replicate
    first_s: dict[str, float] = {}
    for server in ready:
        client = Client(server.ready["port"], replicate.spec["request_timeout_s"])
        client.connect()
        for role in (r for r in ROLES if replicate.sides[r] is server):
            replicate.clients[role] = client
            for request in _warmups(first, role)[:1]:
                record = ask([first], request)
                first_s.setdefault(server.name, record.e2e_s)
    return first_s


def _warmups(variant: Paired, role: str) -> list[Planned]:
    return [r for r in variant.requests if r.warmup and r.role == role]


def _describe_start(server: Server, first_s: float) -> dict:
    """start_s: from the start of the process until it accepted requests; first_image_s: and the first request."""
    ready = {key: value for key, value in server.ready.items() if key not in ("port", "pid")}
    times = {"start_s": round(server.start_s, 3), "first_image_s": round(server.start_s + first_s, 3)}
    return {**times, **ready}


def _stop(replicate: Replicate, *roles: str) -> None:
    """Stop the servers of these roles, and forget them."""
    stopping = {id(server): server for role in roles if (server := replicate.sides.pop(role, None))}
    servers.stop(list(stopping.values()), replicate.keeper)
    _disconnect(replicate, *roles)


def _disconnect(replicate: Replicate, *roles: str) -> None:
    for role in roles:
        if role in replicate.clients:
            replicate.clients.pop(role).close()
