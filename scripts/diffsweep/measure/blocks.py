"""The measured blocks of a replicate, A B B A, and once more those pairs in which the machine was not ours alone.

A pair of blocks (A B, or B A) is invalid when either was disturbed: both sides are measured again, after all other
pairs, when what disturbed may have passed. The records of the invalid attempt stay in the file; `attempt` tells them
apart (records.valid). The number of repeats is limited, so that a sweep ends on a machine that is never quiet; pairs
that stay disturbed beyond it are used, since leaving them out would leave nothing there, and are counted: the analysis
withholds its verdict when they are many.
"""

import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from diffsweep.measure import monitor
from diffsweep.measure.clients import Reply, split_clocks
from diffsweep.measure.journal import Replicate
from diffsweep.measure.pairing import ROLES, Planned, blocks
from diffsweep.measure.records import LatencyRecord, RecordWriter
from diffsweep.measure.sampler import Sampler
from diffsweep.sweep.outcomes import Failed

ATTEMPTS = 3  # at one pair, the first included
REPEATED_SHARE = 0.25  # of a replicate's pairs, at least one: it takes at most so much longer

NO_CLOCKS = dict.fromkeys(field.name for field in fields(LatencyRecord) if field.type == float | None)
NO_CLOCKS["step_s"] = None

Block = tuple[int, str, list[Planned]]  # number, role, requests


def ask(replicate: Replicate, request: Planned, latency: RecordWriter, attempt: int = 1) -> LatencyRecord:
    """Make one request and write its record. Raises Failed when there is no image."""
    reply = replicate.clients[request.role].generate(replicate.body_of(request), request.warmup)
    replicate.orders += 1
    record = latency_record(replicate.identity, request, replicate.orders, reply, attempt)
    latency.append(record)
    if reply.error is not None:
        replicate.sides[request.role].check_soon()
        name = "warm-up request" if request.warmup else "request"
        raise Failed(f"the {request.role}'s server failed {name} {replicate.orders} ({reply.error}): {reply.detail}")
    return record


def latency_record(known: Mapping, request: Planned, order: int, reply: Reply, attempt: int) -> LatencyRecord:
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
        attempt=attempt,
    )


@dataclass(frozen=True)
class Pair:
    """Two neighbouring blocks, one of each role, and which attempt at them this is."""

    blocks: tuple[Block, Block]
    attempt: int = 1


def pairs_of(requests: Sequence[Planned]) -> list[Pair]:
    found = list(blocks(requests))
    return [Pair(pair) for pair in zip(found[::2], found[1::2], strict=True)]


def run_blocks(
    replicate: Replicate, requests: Sequence[Planned], latency: RecordWriter, sampler: Sampler, watched: Mapping
) -> None:
    """All pairs of blocks, and repeats of the disturbed ones. `watched`: processes by server name. Raises Failed."""
    replicate.enter("latency")
    todo = deque(pairs_of(requests))
    number_of_blocks, limit = 2 * len(todo), repeats_allowed(len(todo), replicate.spec)
    measured: dict[str, list[float]] = {role: [] for role in ROLES}
    noted: list[dict] = []
    repeats = 0
    try:
        while todo:
            pair = todo.popleft()
            notes = []
            for block in pair.blocks:
                times, note = _run_block(replicate, block, pair.attempt, latency, sampler, watched)
                measured[block[1]] += times
                notes.append(note)
                noted.append(note)
                if block[0] % 8 == 0 or block[0] == number_of_blocks:
                    replicate.say(f"block {block[0]} of {number_of_blocks}: {_medians(measured)}")
            if repeats < limit and pair.attempt < ATTEMPTS and any(note["disturbed"] for note in notes):
                for note in notes:
                    note["valid"] = False
                todo.append(replace(pair, attempt=pair.attempt + 1))
                repeats += 1
                replicate.say(f"blocks {pair.blocks[0][0]} and {pair.blocks[1][0]} will be repeated: {_reason(notes)}")
    finally:
        replicate.note(blocks=noted, **summarise_blocks(noted, repeats, limit))
    replicate.note_usage(watched)


def repeats_allowed(pairs: int, spec: Mapping) -> int:
    """How many pairs may be measured again. `repeated_share` in the spec, where there is one, is used; 0 is none."""
    share = spec.get("repeated_share", REPEATED_SHARE)
    return max(1, round(share * pairs)) if share else 0


def summarise_blocks(noted: Sequence[Mapping], repeats: int, limit: int) -> dict:
    """disturbed_blocks: those among the valid ones; repeats: how many pairs were measured again, and how many could."""
    disturbed = [
        {key: note[key] for key in ("block", "role", "attempt", "disturbed")}
        for note in noted
        if note["valid"] and note["disturbed"]
    ]
    pairs = {(note["block"] + 1) // 2 for note in noted}
    still = {(note["block"] + 1) // 2 for note in disturbed}
    counts = {"pairs": len(pairs), "repeated": repeats, "limit": limit, "still_disturbed": len(still)}
    return {"disturbed_blocks": disturbed, "repeats": counts}


def _reason(notes: Sequence[Mapping]) -> str:
    return next(reason for note in notes for reason in note["disturbed"])


def _run_block(
    replicate: Replicate, block: Block, attempt: int, latency: RecordWriter, sampler: Sampler, watched: Mapping
) -> tuple[list[float], dict]:
    """One block's end-to-end times, and what replicate.json says of it."""
    number, role, requests = block
    others = [pid for name, pids in watched.items() if name != replicate.sides[role].name for pid in pids]
    settled_s = monitor.wait_until_idle(others) if others else 0.0
    began_unix_s, before = time.time(), monitor.usage(watched)
    times = [ask(replicate, request, latency, attempt).e2e_s for request in requests]
    used = sampler.used(watched, before, began_unix_s)
    note = {"block": number, "role": role, "attempt": attempt, "valid": True, "settled_s": round(settled_s, 3), **used}
    return times, note


def _medians(measured: Mapping[str, Sequence[float]]) -> str:
    known = {role: statistics.median(times) for role, times in measured.items() if times}
    return ", ".join(f"{role} {median:.3f} s" for role, median in known.items())
