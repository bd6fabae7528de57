"""The measured blocks of a replicate, A B B A, and once more those pairs in which the machine was not ours alone.

Variants that need the same servers share the baseline's blocks: A B C D, D C B A. Each keeps a record of them, so that
its files are whole: a pair of blocks is the baseline's and its own.

A pair (A B, or B A) is invalid when either block was disturbed: both sides are measured again, after all other
pairs, when what disturbed may have passed. The records of the invalid attempt stay in the file; `attempt` tells them
apart (records.valid). The number of repeats is limited, so that a sweep ends on a machine that is never quiet; pairs
that stay disturbed beyond it are used, since leaving them out would leave nothing there, and are counted: the analysis
withholds its verdict when they are many.
"""

import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from diffsweep.measure import monitor
from diffsweep.measure.clients import Reply, split_clocks
from diffsweep.measure.journal import Replicate
from diffsweep.measure.pairing import Planned, blocks
from diffsweep.measure.records import LatencyRecord, RecordWriter
from diffsweep.measure.sampler import Sampler
from diffsweep.sweep.outcomes import Failed

ATTEMPTS = 3  # at one pair, the first included
REPEATED_SHARE = 0.25  # of a replicate's pairs, at least one: it takes at most so much longer

CLOCKS = {f.name for f in fields(LatencyRecord) if f.name.endswith("_s")} - {"sent_unix_s"}

Block = tuple[int, str, list[Planned]]  # number, role, requests
Pair = tuple[Block, Block]  # neighbouring blocks, one of each role


@dataclass(frozen=True)
class Paired:
    """One variant, paired with the baseline: its replicate under way, what is asked, where the records of that go."""

    replicate: Replicate
    requests: Sequence[Planned]
    latency: RecordWriter


def ask(variants: Sequence[Paired], request: Planned, attempt: int = 1) -> LatencyRecord:
    """Make one request, and write its record for each of the `variants`. Raises Failed when there is no image."""
    asking = variants[0].replicate
    reply = asking.clients[request.role].generate(asking.body_of(request), request.warmup)
    for each in variants:
        each.replicate.orders += 1
        record = latency_record(each.replicate.identity, request, each.replicate.orders, reply, attempt)
        each.latency.append(record)
    if reply.error is not None:
        asking.sides[request.role].check_soon()
        name = "warm-up request" if request.warmup else "request"
        raise Failed(f"the {request.role}'s server failed {name} {asking.orders} ({reply.error}): {reply.detail}")
    return record


def latency_record(known: Mapping, request: Planned, order: int, reply: Reply, attempt: int) -> LatencyRecord:
    clocks = split_clocks(reply) if reply.error is None else dict.fromkeys(CLOCKS)
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


@dataclass
class Progress:
    """How far one variant is: `times_s` and notes of its blocks (its own and the baseline's), pairs measured again."""

    of: Paired
    pairs: Sequence[Pair]
    limit: int
    repeats: int = 0
    noted: list[dict] = field(default_factory=list)
    times_s: dict[str, list[float]] = field(default_factory=dict)

    def add(self, block: Block, times_s: Sequence[float], note: Mapping) -> None:
        number, role, _ = block
        self.times_s.setdefault(role, []).extend(times_s)
        self.noted.append({**note})
        if number % 8 == 0 or number == 2 * len(self.pairs):
            medians = ", ".join(f"{role} {statistics.median(times):.3f} s" for role, times in self.times_s.items())
            self.of.replicate.say(f"block {number} of {2 * len(self.pairs)}: {medians}")

    def repeats_last_pair(self, attempt: int) -> bool:
        """Whether the pair that was measured last was disturbed, and is measured again: then it is invalid."""
        pair = self.noted[-2:]
        reasons = [reason for note in pair for reason in note["disturbed"]]
        if not reasons or self.repeats >= self.limit or attempt >= ATTEMPTS:
            return False
        self.repeats += 1
        for note in pair:
            note["valid"] = False
        first, second = (note["block"] for note in pair)
        self.of.replicate.say(f"blocks {first} and {second} will be repeated: {reasons[0]}")
        return True


@dataclass(frozen=True)
class Round:
    """A pair of blocks of each of some variants, by its place; they share the baseline's."""

    place: int
    variants: Sequence[Progress]
    attempt: int = 1

    def blocks(self) -> list[tuple[Sequence[Progress], Block]]:
        """Whose each block is, in the order in which they are measured: the baseline's first, or last."""
        pairs = [(progress, progress.pairs[self.place]) for progress in self.variants]
        own = [([progress], block) for progress, pair in pairs for block in pair if block[1] == "variant"]
        place, shared = next((place, block) for place, block in enumerate(pairs[0][1]) if block[1] == "baseline")
        return [*own[::-1], (self.variants, shared)] if place else [(self.variants, shared), *own]


def pairs_of(requests: Sequence[Planned]) -> list[Pair]:
    found = list(blocks(requests))
    return list(zip(found[::2], found[1::2], strict=True))


def run_blocks(variants: Sequence[Paired], sampler: Sampler, watched: Mapping) -> None:
    """All pairs of blocks of variants that share the baseline's, and repeats of the disturbed ones.

    All plan as many pairs, and ask the baseline the same. `watched`: processes by server name. Raises Failed.
    """
    all_ = [begin(each) for each in variants]
    todo = deque(Round(place, all_) for place in range(len(all_[0].pairs)))
    try:
        while todo:
            now = todo.popleft()
            for owners, block in now.blocks():
                times_s, note = _run_block([each.of for each in owners], block, now.attempt, sampler, watched)
                for each in owners:
                    each.add(block, times_s, note)
            again = [each for each in now.variants if each.repeats_last_pair(now.attempt)]
            if again:
                todo.append(Round(now.place, again, now.attempt + 1))
    finally:
        for each in all_:
            each.of.replicate.note(blocks=each.noted, **summarise_blocks(each.noted, each.repeats, each.limit))
    for each in all_:
        each.of.replicate.note_usage(watched)


def begin(variant: Paired) -> Progress:
    variant.replicate.enter("latency")
    pairs = pairs_of(variant.requests)
    return Progress(variant, pairs, repeats_allowed(len(pairs), variant.replicate.spec))


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


def _run_block(
    variants: Sequence[Paired], block: Block, attempt: int, sampler: Sampler, watched: Mapping
) -> tuple[list[float], dict]:
    """One block's end-to-end times, and what replicate.json says of it."""
    number, role, requests = block
    own = variants[0].replicate.name_of(role)
    others = [pid for name, pids in watched.items() if name != own for pid in pids]
    settled_s = monitor.wait_until_idle(others) if others else 0.0
    began_unix_s, before = time.time(), monitor.usage(watched)
    times_s = [ask(variants, request, attempt).e2e_s for request in requests]
    used = sampler.used(watched, before, began_unix_s)
    note = {"block": number, "role": role, "attempt": attempt, "valid": True, "settled_s": round(settled_s, 3), **used}
    return times_s, note
