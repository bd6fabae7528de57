"""One replicate of variants that have one baseline: fresh servers, warm-up, blocks A B B A, load on each variant.

The baseline's server is started once. Variants take turns beside it, each on its own server; those that need the same
one take turns on it: warm-up, blocks that share the baseline's, load by load.

Records and notes are written as it goes on: whatever ends it, what was measured until then remains.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import groupby

from diffsweep.measure import gpu, host, sampler
from diffsweep.measure.blocks import Paired, ask, run_blocks
from diffsweep.measure.clients import Client
from diffsweep.measure.counters import PackageEnergy
from diffsweep.measure.journal import Files, Replicate, identity
from diffsweep.measure.keeper import Keeper
from diffsweep.measure.load import connect, run_load
from diffsweep.measure.pairing import ROLES, Planned, first_role, sets_of
from diffsweep.measure.pool import Pool
from diffsweep.measure.records import RecordWriter
from diffsweep.measure.sampler import Sampler
from diffsweep.measure.servers import Launch, Server
from diffsweep.sweep.outcomes import Failed, Unsupported


@dataclass(frozen=True)
class Turn:
    """One variant's replicate: what it is told, what it asks, how its server is started, where it leaves what it has so
    far, and what is called as soon as it has ended well. launch: one object for all that take turns on one server; the
    baseline's own, where that is it."""

    spec: Mapping
    requests: Sequence[Planned]
    launch: Launch
    files: Files
    ended: Callable[[], None]


@dataclass(frozen=True)
class Bench:
    """What all turns are measured with."""

    pool: Pool
    baseline: Launch
    keeper: Keeper
    device: gpu.Device
    energy: PackageEnergy
    run: str


def measure(turns: Sequence[Turn], baseline: Launch, run: str, keeper: Keeper) -> None:
    """Measure one replicate of each of the turns' variants, in order. Those on one server stand side by side.

    Where one server's turns fail, the others are measured all the same, beside a new server of the baseline; then that
    is raised: Failed or Unsupported.

    Two keys that a spec may have: `sampling_hz` is how often a second the sampler looks, `repeated_share` how many of
    the pairs of blocks may be measured again when they were disturbed; 0 switches either off, and the one repeat of a
    disturbed load level with it.
    """
    groups = [list(group) for _, group in groupby(turns, key=lambda turn: id(turn.launch))]
    problems: list[Exception] = []
    with closing(Pool([baseline, *(turn.launch for turn in turns)], keeper, turns[0].spec["timeout_s"])) as pool:
        bench = Bench(pool, baseline, keeper, gpu.open_device(), PackageEnergy(), run)
        for group in groups:
            try:
                _measure_on_one_server(group, bench, last=group is groups[-1])
            except (Failed, Unsupported) as problem:
                problems.append(problem)
                pool.renew(baseline)
            if group[0].launch is baseline:
                pool.settle(baseline, group[0].spec["request_timeout_s"])
            else:
                pool.stop(group[0].launch)
    if problems:
        raise problems[0]


def _measure_on_one_server(turns: Sequence[Turn], bench: Bench, *, last: bool) -> None:
    """All turns on one variants' server, set by set. last: no other server's turns come after them."""
    sides: dict[str, Server] = {}
    clients: dict[str, Client] = {}
    all_together = sets_of(turns)
    names = [turn.spec["variant"]["name"] for together in all_together for turn in together]
    try:
        for together in all_together:
            replicates = [
                Replicate(
                    t.spec,
                    identity(t.spec, bench.run),
                    t.files,
                    bench.keeper,
                    bench.device,
                    sides,
                    clients,
                    len(together),
                )
                for t in together
            ]
            for replicate in replicates:
                replicate.note(turns=names)
            _measure_together(together, replicates, bench, last=last and together is all_together[-1])
    finally:
        _disconnect(clients)


def _measure_together(turns: Sequence[Turn], replicates: Sequence[Replicate], bench: Bench, *, last: bool) -> None:
    """The servers, unless earlier turns have started them; then warm-up, the blocks of all, and load, one variant after
    the other."""
    first = replicates[0]
    with ExitStack() as stack:
        ends = [stack.enter_context(ExitStack()) for _ in turns]
        variants = [
            end.enter_context(_opened(turn, replicate, shared=turn.launch is bench.baseline))
            for end, turn, replicate in zip(ends, turns, replicates, strict=True)
        ]
        first.enter("start")
        for role, launch in (("baseline", bench.baseline), ("variant", turns[0].launch)):
            first.sides[role] = bench.pool.server(launch)
        _warm_up(variants)
        watched = first.watch()
        with _sampled(replicates, watched, bench.energy) as samples:
            run_blocks(variants, samples, watched)
        for replicate in replicates:
            replicate.enter("turn")
        _disconnect(first.clients)
        if last and not first.notes["shared_server"]:
            del first.sides["baseline"]
            bench.pool.stop(bench.baseline)
        for turn, replicate, end in zip(turns, replicates, ends, strict=True):
            watched = replicate.watch()
            with (
                RecordWriter(replicate.files.capacity) as capacity,
                _sampled([replicate], watched, bench.energy) as samples,
            ):
                run_load(replicate, turn.requests, capacity, samples)
            if last and replicate is replicates[-1]:
                replicate.enter("stop")
                bench.pool.close()
            end.close()
            turn.ended()


@contextmanager
def _opened(turn: Turn, replicate: Replicate, *, shared: bool) -> Iterator[Paired]:
    """Note when, where and how a replicate is measured. shared: one server has both roles."""
    replicate.note(
        started_unix_s=time.time(),
        first_role=first_role(turn.spec["replicate"]),
        shared_server=shared,
        baseline_shared_by=replicate.sharers,
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


# --- warm-up ---


def _warm_up(variants: Sequence[Paired]) -> None:
    """Every warm-up request: all of them on a server that has had none, one of each role on a server that has; on such
    servers, only what a variant's own settings need is new to them."""
    first, *others = variants
    replicate = first.replicate
    new = {name: server for name, server in replicate.servers.items() if server.first_image_s is None}
    if new:
        replicate.say("ready after " + ", ".join(f"{server.start_s:.1f} s ({name})" for name, server in new.items()))
    replicate.enter("warmup")
    for name, server in replicate.servers.items():
        client = Client(server.ready["port"], replicate.spec["request_timeout_s"])
        connect(client, server)
        for role in (r for r in ROLES if replicate.name_of(r) == name):
            replicate.clients[role] = client
            took_s = ask([first], _warmups(first, role)[0]).e2e_s
            if server.first_image_s is None:
                server.first_image_s, server.first_image_of = server.start_s + took_s, replicate.spec[role]["name"]
    starts = {name: server.describe_start() for name, server in replicate.servers.items()}
    for variant in variants:
        count = len(_warmups(variant, "variant")) if variant is first and "variant" in new else 1
        variant.replicate.note(warmup=count, servers=starts)
    for request in (r for role in ROLES if replicate.name_of(role) in new for r in _warmups(first, role)[1:]):
        ask([first], request)
    replicate.enter("turn")
    for variant in others:
        variant.replicate.enter("warmup")
        ask([variant], _warmups(variant, "variant")[0])
        variant.replicate.enter("turn")


def _warmups(variant: Paired, role: str) -> list[Planned]:
    return [r for r in variant.requests if r.warmup and r.role == role]


def _disconnect(clients: dict[str, Client]) -> None:
    for client in clients.values():
        client.close()
    clients.clear()
