"""One replicate: fresh servers, warm-up, blocks A B B A, then load on the variant's server.

Records and notes are written as it goes on: whatever ends it, what was measured until then remains.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import fields

from diffsweep.measure import gpu, host, monitor, servers
from diffsweep.measure.clients import Client, Reply, split_clocks
from diffsweep.measure.journal import Files, Replicate, identity
from diffsweep.measure.keeper import Keeper
from diffsweep.measure.load import run_load
from diffsweep.measure.pairing import ROLES, Planned, blocks, first_role
from diffsweep.measure.records import LatencyRecord, RecordWriter
from diffsweep.measure.servers import Launch, Server
from diffsweep.sweep.outcomes import Failed

NO_CLOCKS = dict.fromkeys(field.name for field in fields(LatencyRecord) if field.type == float | None)
NO_CLOCKS["step_s"] = None


def measure(
    spec: Mapping, launches: Mapping[str, Launch], requests: Sequence[Planned], run: str, files: Files, keeper: Keeper
) -> None:
    """Run one replicate. `launches`: by role; one object for both where they share a server. Raises Failed."""
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
            _run_blocks(replicate, requests, latency)
            _leave_variant_alone(replicate)
            run_load(replicate, requests, capacity)
    finally:
        replicate.enter("stop")
        servers.stop(replicate.servers, keeper)
        replicate.enter("done")
        replicate.note(host={**replicate.notes["host"], "after": host.state(nvml)})


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
                first = _request(replicate, request, latency)
                first_image_s.setdefault(server.name, server.start_s + first.e2e_s)
    replicate.note(servers={s.name: _describe_start(s, first_image_s[s.name]) for s in replicate.servers})
    replicate.say("ready after " + ", ".join(f"{s.start_s:.1f} s ({s.name})" for s in replicate.servers))
    replicate.enter("warmup")
    for request in (r for role in ROLES for r in warmups[role][1:]):
        _request(replicate, request, latency)


def _describe_start(server: Server, first_image_s: float) -> dict:
    """start_s: from the start of the process until it accepted requests; first_image_s: and the first request."""
    ready = {key: value for key, value in server.ready.items() if key not in ("port", "pid")}
    times = {"start_s": round(server.start_s, 3), "first_image_s": round(first_image_s, 3)}
    return {**times, **ready}


# --- latency ---


def _request(replicate: Replicate, request: Planned, latency: RecordWriter) -> LatencyRecord:
    """Make one request and write its record. Raises Failed when there is no image."""
    reply = replicate.clients[request.role].generate(replicate.body_of(request))
    replicate.orders += 1
    record = latency_record(replicate.identity, request, replicate.orders, reply)
    latency.append(record)
    if reply.error is not None:
        replicate.sides[request.role].check_soon()
        name = "warm-up request" if request.warmup else "request"
        raise Failed(f"the {request.role}'s server failed {name} {replicate.orders} ({reply.error}): {reply.detail}")
    return record


def latency_record(known: Mapping, request: Planned, order: int, reply: Reply) -> LatencyRecord:
    clocks = split_clocks(reply) if reply.error is None else NO_CLOCKS
    return LatencyRecord(
        **known,
        role=request.role,
        block=request.block,
        order=order,
        prompt_id=request.prompt_id,
        seed=request.seed,
        warmup=request.warmup,
        status="ok" if reply.error is None else "error",
        error=reply.error,
        sent_unix_s=reply.sent_unix_s,
        **clocks,
    )


def _run_blocks(replicate: Replicate, requests: Sequence[Planned], latency: RecordWriter) -> None:
    replicate.enter("latency")
    watched = {server.name: server.processes for server in replicate.servers}
    ours = {pid for processes in watched.values() for pid in processes}
    measured: dict[str, list[float]] = {role: [] for role in ROLES}
    noted: list[dict] = []
    todo = list(blocks(requests))
    try:
        for number, role, group in todo:
            others = [pid for name, found in watched.items() if name != replicate.sides[role].name for pid in found]
            settled_s = monitor.wait_until_idle(others) if others else 0.0
            before = monitor.usage(watched)
            measured[role] += [_request(replicate, request, latency).e2e_s for request in group]
            used = monitor.between(before, monitor.usage(watched))
            used["disturbed"] += gpu.disturbances(gpu.state(replicate.nvml), ours)
            noted.append({"block": number, "role": role, "settled_s": round(settled_s, 3), **used})
            if number % 8 == 0 or number == len(todo):
                replicate.say(f"block {number} of {len(todo)}: {_medians(measured)}")
    finally:
        disturbed = [{k: block[k] for k in ("block", "role", "disturbed")} for block in noted if block["disturbed"]]
        replicate.note(blocks=noted, disturbed_blocks=disturbed)
    replicate.note_usage(watched)


def _medians(measured: Mapping[str, Sequence[float]]) -> str:
    known = {role: statistics.median(times) for role, times in measured.items() if times}
    return ", ".join(f"{role} {median:.3f} s" for role, median in known.items())


def _leave_variant_alone(replicate: Replicate) -> None:
    """Stop the baseline's server, unless the variant runs on it too."""
    variant, baseline = (replicate.sides[role] for role in ROLES)
    if baseline is not variant:
        servers.stop([baseline], replicate.keeper)
        replicate.sides.pop("baseline")
        replicate.clients.pop("baseline").close()
