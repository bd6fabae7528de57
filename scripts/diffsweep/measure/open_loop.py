"""One search for the highest Poisson rate that a variant's server takes within the objective.

One server, started for it: warm-up and unloaded latency by one client, then runs at rates that measure/search.py
chooses. Records and notes are written as it goes on: whatever ends it, what was measured until then remains.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

from diffsweep.measure import arrivals, gpu, host, load, monitor, servers
from diffsweep.measure.arrivals import Arrival, Limits, Trial
from diffsweep.measure.capacity import run_level
from diffsweep.measure.clients import Client
from diffsweep.measure.journal import Files, Replicate, identity
from diffsweep.measure.keeper import Keeper
from diffsweep.measure.pairing import Planned, Prompt
from diffsweep.measure.records import CapacityRecord, RecordWriter
from diffsweep.measure.sampler import HZ, Sampler
from diffsweep.measure.search import bracket_of, search
from diffsweep.measure.servers import Launch
from diffsweep.sweep.outcomes import Failed

UNLOADED = 12  # requests by one client: their median is the service time
FIRST_SHARE = 0.6  # of the rate that one client reaches: where the search begins
SEEDS = 100  # a prompt comes back with another seed so many times before the requests repeat
# Twice the server's queue: beyond it the server answers 429 at once, so that a client is always free.
CONNECTIONS = 128
INVALID_IN_TURN = 3


def measure_arrivals(
    spec: Mapping, launch: Launch, prompts: Sequence[Prompt], objective_s: float, run: str, files: Files, keeper: Keeper
) -> None:
    """Run the search. Raises Failed and Unsupported."""
    device = gpu.open_device()
    job = Replicate(spec, identity(spec, run), files, keeper, device)
    job.note(objective_s=objective_s, host={**host.describe(device), "before": host.state(device)})
    try:
        with RecordWriter(files.capacity) as writer:
            _start(job, launch)
            bodies = bodies_of(job, prompts)
            service_s = _unloaded(job, bodies, writer)
            limits = Limits(objective_s, service_s, spec["arrivals"]["lateness"])
            _search(job, bodies, limits, writer)
    finally:
        job.enter("stop")
        servers.stop(list(job.servers.values()), keeper)
        job.enter("done")
        job.note(host={**job.notes["host"], "after": host.state(device)})


def bodies_of(job: Replicate, prompts: Sequence[Prompt]) -> list[bytes]:
    """Every prompt with one seed, then every prompt with the next."""
    planned = (Planned("variant", 1, p.prompt_id, p.text, seed) for seed in range(SEEDS) for p in prompts)
    return [job.body_of(request) for request in planned]


def _start(job: Replicate, launch: Launch) -> None:
    job.enter("start")
    server = servers.start(launch, job.keeper)
    job.sides["variant"] = server
    servers.wait_until_ready(server, job.spec["timeout_s"])
    job.note(servers={server.name: server.describe_start()})
    job.say(f"ready after {server.start_s:.1f} s")


def _unloaded(job: Replicate, bodies: Sequence[bytes], writer: RecordWriter) -> float:
    """The median latency of requests by one client, in seconds; the warm-up before them is recorded as not steady."""
    job.enter("warmup")
    warmup, server = job.spec["protocol"]["warmup"], job.sides["variant"]
    with load.connected(server, 1, job.spec["request_timeout_s"]) as clients:
        completions = run_level(clients, bodies, warmup - 1 + UNLOADED)
    for place, done in enumerate(completions):
        steady = place >= warmup
        writer.append(_record(job.identity, scenario="steps", level=1, scheduled_s=None, answered=done, steady=steady))
    errors = {c.error: 1 for c in completions if c.error is not None}
    first_error = next((f"{c.error}: {c.detail}" for c in completions if c.error is not None), None)
    load.raise_if_broken(server, errors, first_error, "requests by one client")
    service_s = arrivals.service_of([c.done_s - c.sent_s for c in completions[warmup:] if c.error is None])
    if service_s is None:
        raise Failed(f"no request by one client succeeded: {first_error}")
    job.note(service_s=service_s)
    job.say(f"{service_s:.3f} s a request unloaded, the objective is {job.notes['objective_s']:g} s")
    return service_s


def _search(job: Replicate, bodies: Sequence[bytes], limits: Limits, writer: RecordWriter) -> None:
    """Run after run, until the search has its answer or the protocol allows no more."""
    job.enter("arrivals")
    job.note(client_preferred=prefer_the_client())
    if limits.service_s > limits.objective_s:
        job.note(trials=[], settled=False, ended=f"even one client waits {limits.service_s:.3g} s")
        return

    def run(number: int, rate: float) -> Trial:
        attempt = partial(_run_trial, job, number, rate, bodies, limits, writer, samples)
        trial = load.once_more_if_disturbed(job, "trials", f"the run of {rate:g} requests/s", attempt)
        noted = job.notes["trials"]
        if len(noted) >= INVALID_IN_TURN and all(each["reason"] for each in noted[-INVALID_IN_TURN:]):
            mend = "leave it a core (the target's threads), or run as root, which gives it precedence"
            raise Failed(f"{INVALID_IN_TURN} runs in turn are not valid: {trial.reason}; {mend}")
        return trial

    settings, server = job.spec["arrivals"], job.sides["variant"]
    hz = 0.0 if job.device.missing else HZ  # only what a GPU does between two looks has no counter that tells it later
    with (
        RecordWriter(job.files.resources) as unused,
        Sampler({server.name: server.processes}, job.device, [unused], hz) as samples,
    ):
        trials, settled = search(run, FIRST_SHARE / limits.service_s, settings["tolerance"], settings["runs"])
    bracket = bracket_of(trials)
    ended = "" if settled else f"the search did not settle within {settings['runs']} runs"
    if settled and bracket.within is None:
        ended = f"not even {bracket.over:g} requests/s are within it"
    job.note(settled=settled, rate_within=bracket.within, rate_over=bracket.over, ended=ended or None)
    job.say(ended or f"the highest rate within the objective is {bracket.within:g} requests/s")


def prefer_the_client() -> bool:
    """Let this thread, and those that it starts, have a core at once, also from a server that uses all of them: else a
    request is sent when the scheduler gets to it, milliseconds late. A real-time thread that mostly sleeps takes no
    more CPU time than another. Only root may; where it is refused, late runs are found by the clock.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except PermissionError:
        return False
    return True


def _run_trial(
    job: Replicate,
    number: int,
    rate: float,
    bodies: Sequence[bytes],
    limits: Limits,
    writer: RecordWriter,
    samples: Sampler,
    attempt: int,
) -> Trial:
    """One run: its records, its note, and its summary. A second attempt is at the same schedule. Raises Failed."""
    settings, server = job.spec["arrivals"], job.sides["variant"]
    count = arrivals.requests_for(rate, settings["requests"], limits.objective_s)
    seed = (settings["seed"] * 1_000_003 + job.spec["replicate"]) * 1_000_003 + number  # of this run of this search
    schedule_s = arrivals.poisson_schedule(rate, count, seed)
    watched = {server.name: server.processes}
    with load.connected(server, min(CONNECTIONS, count), job.spec["request_timeout_s"]) as clients:
        began_unix_s, before = time.time(), monitor.usage(watched)
        answered = _in_turn(clients, bodies, schedule_s, number)
        used = samples.used(watched, before, began_unix_s)
    for arrival in answered:
        record = _record(
            job.identity,
            scenario="arrivals",
            level=rate,
            scheduled_s=arrival.scheduled_s,
            answered=arrival,
            steady=arrival.steady,
            trial=number,
            attempt=attempt,
        )
        writer.append(record)
    job.note_usage(watched)
    trial = arrivals.summarise_trial(number, rate, answered, limits)
    first_error = next((f"{a.error}: {a.detail}" for a in answered if a.error is not None), None)
    load.raise_if_broken(server, trial.errors, first_error, f"{rate:g} requests/s")
    note = {**asdict(trial), "attempt": attempt, "scheduled": count, "first_error": first_error, **used}
    job.note(trials=[*job.notes.get("trials", ()), note])
    _say_trial(job, trial)
    return trial


def _in_turn(
    clients: Sequence[Client], bodies: Sequence[bytes], schedule_s: Sequence[float], number: int
) -> list[Arrival]:
    """A run that begins with other requests than the one before."""
    begin = number * len(schedule_s) % len(bodies)
    return arrivals.run_arrivals(clients, [*bodies[begin:], *bodies[:begin]], schedule_s)


def _record(known: Mapping, *, answered, **own) -> CapacityRecord:
    """A record of a Completion or an Arrival; `own`: what these do not know."""
    return CapacityRecord(
        **known,
        **own,
        sent_s=answered.sent_s,
        done_s=answered.done_s,
        status="ok" if answered.error is None else "error",
        error=answered.error,
        images=answered.images,
        client=answered.client,
    )


def _say_trial(job: Replicate, trial: Trial) -> None:
    p95 = "no success" if trial.latency_p95_s is None else f"P95 {trial.latency_p95_s:.3f} s"
    verdict = "within the objective" if trial.within else "over"
    remark = "" if trial.valid else f" (not valid: {trial.reason})"
    job.say(f"{trial.rate_per_s:g} requests/s, {trial.requests} requests: {p95}, {verdict}{remark}")
