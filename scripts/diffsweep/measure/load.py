"""The capacity part of a replicate: every load level against the variant's server, and what the server used for it."""

import time
from collections.abc import Mapping, Sequence

from diffsweep.measure import monitor
from diffsweep.measure.capacity import Completion, run_level, summarise_level
from diffsweep.measure.clients import Client
from diffsweep.measure.journal import Replicate
from diffsweep.measure.pairing import Planned
from diffsweep.measure.records import CapacityRecord, RecordWriter
from diffsweep.sweep.outcomes import Failed

# Errors under load that say the server is broken; 429 only says that it is full.
BROKEN = ("connection", "timeout", "garbage", "http 5")


def run_load(replicate: Replicate, requests: Sequence[Planned], capacity: RecordWriter) -> None:
    """Every load level of the protocol against the variant's server, by its measured requests. Raises Failed."""
    replicate.enter("capacity")
    bodies = [replicate.body_of(r) for r in requests if r.role == "variant" and not r.warmup]
    replicate.clients.pop("variant").close()
    server = replicate.sides["variant"]
    watched = {server.name: server.processes}
    noted: list[dict] = []
    for level in replicate.spec["protocol"]["levels"]:
        noted.append(_run_level(replicate, level, bodies, capacity, watched))
        replicate.note_usage(watched)
        replicate.note(levels=noted)
        _say_level(replicate, noted[-1])
        broken = [kind for kind in noted[-1]["errors"] if kind.startswith(BROKEN)]
        if broken:
            server.check_soon()
            raise Failed(f"the variant's server failed under load of {level} clients: {noted[-1]['first_error']}")


def _run_level(
    replicate: Replicate, level: int, bodies: Sequence[bytes], capacity: RecordWriter, watched: Mapping
) -> dict:
    server = replicate.sides["variant"]
    clients = [Client(server.ready["port"], replicate.spec["request_timeout_s"]) for _ in range(level)]
    for client in clients:
        client.connect()
    started_unix_s, before = time.time(), monitor.usage(watched)
    completions = run_level(clients, bodies, replicate.spec["protocol"]["requests_per_level"])
    used = monitor.between(before, monitor.usage(watched))
    for client in clients:
        client.close()
    for completion in completions:
        capacity.append(capacity_record(replicate.identity, level, completion))
    details = [f"{c.error}: {c.detail}" for c in completions if c.error is not None]
    memory = monitor.memory_bytes(watched[server.name])
    first_error = details[0] if details else None
    known = {"started_unix_s": started_unix_s, **used, **memory, "first_error": first_error}
    cores = used["servers_cpu_s"][server.name] / used["elapsed_s"]
    return {**summarise_level(level, completions), "server_cpu_cores": round(cores, 3), **known}


def capacity_record(known: Mapping, level: int, completion: Completion) -> CapacityRecord:
    return CapacityRecord(
        **known,
        scenario="steps",
        level=level,
        scheduled_s=None,
        sent_s=completion.sent_s,
        done_s=completion.done_s,
        status="ok" if completion.error is None else "error",
        error=completion.error,
        images=completion.images,
        client=completion.client,
        steady=completion.steady,
    )


def _say_level(replicate: Replicate, level: Mapping) -> None:
    rate = level["images_per_s"]
    text = "no image" if not rate else f"{rate:.2f} images/s, {level['latency_mean_s']:.3f} s each"
    remark = "" if level["valid"] else f" (not valid: {level['reason']})"
    clients = "1 client" if level["level"] == 1 else f"{level['level']} clients"
    replicate.say(f"load by {clients}: {text}{remark}")
