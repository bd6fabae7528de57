"""One replicate: fresh servers, warm-up, blocks A B B A, then load on the variant's server.

Records and notes are written as it goes on: whatever ends it, what was measured until then remains.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

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


def measure(
    spec: Mapping, launches: Mapping[str, Launch], requests: Sequence[Planned], run: str, files: Files, keeper: Keeper
) -> None:
    """Run one replicate. `launches`: by role; one object for both where they share a server. Raises Failed.

    Two keys that a spec may have: `sampling_hz` is how often a second the sampler looks, `repeated_share` how many of
    the pairs of blocks may be measured again when they were disturbed; 0 switches either off.
    """
    nvml = gpu.open_nvml()
    replicate = Replicate(spec, identity(spec, run), files, keeper, nvml)
    replicate.note(
        first_role=first_role(spec["replicate"]),
        shared_server=launches["variant"] is launches["baseline"],
        warmup=spec["protocol"]["warmup"],
        host={**host.describe(nvml), "before": host.state(nvml)},
    )
    try:
        with RecordWriter(files.latency) as latency, RecordWriter(files.capacity) as capacity:
            _start(replicate, launches, requests, latency)
            watched = {server.name: server.processes for server in replicate.servers}
            with _sampled(replicate, watched) as samples:
                run_blocks(replicate, requests, latency, samples, watched)
                _leave_variant_alone(replicate)
                run_load(replicate, requests, capacity)
    finally:
        replicate.enter("stop")
        servers.stop(replicate.servers, keeper)
        replicate.enter("done")
        replicate.note(host={**replicate.notes["host"], "after": host.state(nvml)})


@contextmanager
def _sampled(replicate: Replicate, watched: Mapping[str, Sequence[int]]) -> Iterator[Sampler]:
    """Samples of `watched` go into resources.jsonl meanwhile, and what the sampler says of itself into the notes."""
    hz = replicate.spec.get("sampling_hz", sampler.HZ)
    with RecordWriter(replicate.files.resources) as writer:
        samples = Sampler(watched, replicate.nvml, writer, hz)
        try:
            with samples:
                yield samples
        finally:
            replicate.note(sampling=samples.note())


# --- start and warm-up ---


def _start(replicate: Replicate, launches: Mapping, requests: Sequence[Planned], latency: RecordWriter) -> None:
    """Start the servers together; send each its first request as soon as it is ready, then the other warm-ups."""
    replicate.enter("start")
    started: dict[int, Server] = {}
    for role in ROLES:
        launch = launches[role]
        if id(launch) not in started:
            started[id(launch)] = servers.start(launch, replicate.keeper)
        replicate.sides[role] = started[id(launch)]
    replicate.say(f"starting {len(started)} server{'s' * (len(started) > 1)}")
    warmups = {role: [r for r in requests if r.warmup and r.role == role] for role in ROLES}
    first_image_s = {}
    for server in servers.wait_until_ready(replicate.servers):
        client = Client(server.ready["port"], replicate.spec["request_timeout_s"])
        client.connect()
        for role in (r for r in ROLES if replicate.sides[r] is server):
            replicate.clients[role] = client
            for request in warmups[role][:1]:
                first = ask(replicate, request, latency)
                first_image_s.setdefault(server.name, server.start_s + first.e2e_s)
    replicate.note(servers={s.name: _describe_start(s, first_image_s[s.name]) for s in replicate.servers})
    replicate.say("ready after " + ", ".join(f"{s.start_s:.1f} s ({s.name})" for s in replicate.servers))
    replicate.enter("warmup")
    for request in (r for role in ROLES for r in warmups[role][1:]):
        ask(replicate, request, latency)


def _describe_start(server: Server, first_image_s: float) -> dict:
    """start_s: from the start of the process until it accepted requests; first_image_s: and the first request."""
    ready = {key: value for key, value in server.ready.items() if key not in ("port", "pid")}
    times = {"start_s": round(server.start_s, 3), "first_image_s": round(first_image_s, 3)}
    return {**times, **ready}


def _leave_variant_alone(replicate: Replicate) -> None:
    """Stop the baseline's server, unless the variant runs on it too."""
    variant, baseline = (replicate.sides[role] for role in ROLES)
    if baseline is not variant:
        servers.stop([baseline], replicate.keeper)
        replicate.sides.pop("baseline")
        replicate.clients.pop("baseline").close()
