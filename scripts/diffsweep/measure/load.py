"""The capacity part of a replicate: load levels against the variant's server, and what the server used for each.

The levels are those of the protocol where it lists some; otherwise clients double until the knee is passed. A level
during which the machine was not ours alone is run once more, and what the second run says is used, quiet or not; so is
one that the ramp doubts. The records of the earlier run stay in the file (records.valid leaves them out), and its notes
are under "replaced".
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from diffsweep.measure import monitor, ramp
from diffsweep.measure.blocks import repeats_allowed
from diffsweep.measure.capacity import Completion, run_level, summarise_level
from diffsweep.measure.clients import Client
from diffsweep.measure.journal import Replicate
from diffsweep.measure.pairing import Planned
from diffsweep.measure.records import CapacityRecord, RecordWriter
from diffsweep.measure.sampler import Sampler
from diffsweep.measure.servers import Server
from diffsweep.sweep.outcomes import Failed

# Errors under load that say the server is broken; 429 only says that it is full.
BROKEN = ("connection", "timeout", "garbage", "http 5")

Run = TypeVar("Run")


def run_load(replicate: Replicate, requests: Sequence[Planned], capacity: RecordWriter, samples: Sampler) -> None:
    """All load levels against the variant's server, by its measured requests. Raises Failed."""
    replicate.enter("capacity")
    bodies = [replicate.body_of(r) for r in requests if r.role == "variant" and not r.warmup]
    watched = replicate.watch()
    while True:
        level, ended = next_level(replicate.spec["protocol"], replicate.notes.get("levels", ()))
        if level is None:
            break
        run = partial(_run_level, replicate, level, bodies, capacity, samples, watched, set_aside(replicate, level))
        once_more_if_disturbed(replicate, "levels", f"load by {clients_of(level)}", run)
    replicate.note(ramp_ended=ended)
    replicate.say(f"no more load: {ended}")


def next_level(protocol: Mapping, noted: Sequence[Mapping]) -> tuple[int | None, str]:
    """(clients of the next level, ""), or (None, why there is none)."""
    levels = protocol.get("levels")
    if levels is None:
        steps = [ramp.step_of(level) for level in noted]
        return ramp.next_clients(steps, protocol["max_clients"], protocol.get("objective_s"))
    return (levels[len(noted)], "") if len(noted) < len(levels) else (None, "the protocol lists no more levels")


def set_aside(replicate: Replicate, level: int) -> int:
    """Move the note of a level that was run before to "replaced". Returns how many runs of it there have been."""
    noted, replaced = replicate.notes.get("levels", []), replicate.notes.get("replaced", [])
    if any(note["level"] == level for note in noted):
        replicate.say(f"load by {clients_of(level)} again: more clients gained on it, but not at once")
        replaced = [*replaced, *(note for note in noted if note["level"] == level)]
        replicate.note(levels=[note for note in noted if note["level"] != level], replaced=replaced)
    return sum(note["level"] == level for note in replaced)


def once_more_if_disturbed(replicate: Replicate, key: str, what: str, run: Callable[[int], Run]) -> Run:
    """`run(attempt)`, which adds its note to `replicate.notes[key]`; where that says disturbed, the second attempt.

    Only one more, since a sweep must end on a machine that is never quiet; the note of the first is then moved to
    "replaced". `what` was disturbed, in words.
    """
    found = run(1)
    *others, note = replicate.notes[key]
    if not note["disturbed"] or not repeats_allowed(1, replicate.spec):
        return found
    replicate.say(f"{what} will be repeated: {note['disturbed'][0]}")
    replicate.note(**{key: others, "replaced": [*replicate.notes.get("replaced", ()), note]})
    return run(2)


def raise_if_broken(server: Server, errors: Mapping, first_error: str | None, when: str) -> None:
    """Raise Failed when the errors say that the server is no longer one; `when`: what it was under."""
    if any(kind.startswith(BROKEN) for kind in errors):
        server.check_soon()
        raise Failed(f"the {server.name}'s server failed under {when}: {first_error}")


@contextmanager
def connected(server: Server, count: int, timeout_s: float) -> Iterator[list[Client]]:
    """So many clients with open connections. Raises Failed when the server takes none."""
    clients = [Client(server.ready["port"], timeout_s) for _ in range(count)]
    try:
        for client in clients:
            connect(client, server)
        yield clients
    finally:
        for client in clients:
            client.close()


def connect(client: Client, server: Server) -> None:
    """Open the connection now. Raises Failed when the server takes none."""
    try:
        client.connect()
    except OSError as error:
        server.check_soon()
        raise Failed(f"the {server.name}'s server accepts no connections: {error}") from error


def _run_level(
    replicate: Replicate,
    level: int,
    bodies: Sequence[bytes],
    capacity: RecordWriter,
    samples: Sampler,
    watched: Mapping,
    runs: int,
    attempt: int,
) -> None:
    """One level: its records, and its note. `attempt` counts on from the `runs` of it that were set aside. Raises
    Failed when it broke the server."""
    attempt += runs
    server = replicate.sides["variant"]
    # One request a client at least: a server that batches answers them in rounds.
    measured = max(replicate.spec["protocol"]["requests_per_level"], level)
    with connected(server, level, replicate.spec["request_timeout_s"]) as clients:
        started_unix_s, before = time.time(), monitor.usage(watched)
        completions = run_level(clients, bodies, measured)
        used = samples.used(watched, before, started_unix_s)
    for completion in completions:
        capacity.append(capacity_record(replicate.identity, level, completion, attempt))
    details = [f"{c.error}: {c.detail}" for c in completions if c.error is not None]
    memory = monitor.memory_bytes(watched["variant"])
    first_error = details[0] if details else None
    known = {"attempt": attempt, "started_unix_s": started_unix_s, **used, **memory, "first_error": first_error}
    cores = used["servers_cpu_s"]["variant"] / used["elapsed_s"]
    note = {**summarise_level(level, completions), "server_cpu_cores": round(cores, 3), **known}
    replicate.note_usage(watched)
    replicate.note(levels=[*replicate.notes.get("levels", ()), note])
    _say_level(replicate, note)
    raise_if_broken(server, note["errors"], first_error, f"load of {level} clients")


def capacity_record(known: Mapping, level: int, completion: Completion, attempt: int = 1) -> CapacityRecord:
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
        batch_size=completion.batch_size,
        attempt=attempt,
    )


def _say_level(replicate: Replicate, level: Mapping) -> None:
    rate = level["images_per_s"]
    text = "no image" if not rate else f"{rate:.2f} images/s, {level['latency_mean_s']:.3f} s each"
    remark = "" if level["valid"] else f" (not valid: {level['reason']})"
    replicate.say(f"load by {clients_of(level['level'])}: {text}{remark}")


def clients_of(level: int) -> str:
    return "1 client" if level == 1 else f"{level} clients"
